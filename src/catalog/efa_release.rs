//! Owns what is known of the EFA installer's releases: where they lie, who signs them, and the digests that were
//! published.

/// Where AWS serves `aws-efa-installer-VERSION.tar.gz`, its `.sig` and the publisher's key.
pub const BASE_URL: &str = "https://efa-installer.amazonaws.com";

/// File name of the publisher's key under [`BASE_URL`].
pub const KEY_NAME: &str = "aws-efa-installer.key";

/// Primary fingerprint of "Amazon EC2 EFA <ec2-efa-maintainers@amazon.com>". Source: AWS EC2 User Guide,
/// "Get started with EFA and NCCL", the same from the 2020 edition (EFA 1.9.5) to the 2026 one (1.50.0).
pub const PUBLISHER_FINGERPRINT: &str = "4E9091BCBB97A96B26B15E59A05480B1DD2D3CCC";

const DOCUMENTS: &str = "AWS EC2 User Guide, \"Verify the EFA installer\"";

/// One release of the installer and the digest that was published for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// `MAJOR.MINOR.PATCH`.
    pub version: &'static str,
    /// Lower-case hex, where anybody published one.
    pub sha256: Option<&'static str>,
    /// Lower-case hex, where AWS published that one elsewhere than in its documents.
    pub sha512: Option<&'static str>,
    /// Who published the digest.
    pub source: &'static str,
}

/// Every release in `efa_checksums.tsv`, oldest first.
pub fn releases() -> impl Iterator<Item = Release> {
    include_str!("data/efa_checksums.tsv").lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut columns = line.split('\t');
        let mut next = || columns.next().expect("efa_checksums.tsv has six columns or seven");
        let (version, _md5, sha256, _seen, _released, source) = (next(), next(), next(), next(), next(), next());
        // Two crawls of one page: AWS's documents in git, and copies of the page since they left it.
        let source = match source {
            "NOT FOUND" => "nobody",
            source if source.starts_with("aws-docs") => DOCUMENTS,
            source => source,
        };
        Release { version, sha256: (sha256 != "-").then_some(sha256), sha512: columns.next(), source }
    })
}

/// The release of this version, if it is known.
pub fn release(version: &str) -> Option<Release> {
    releases().find(|release| release.version == version)
}

/// `aws-efa-installer-VERSION.tar.gz`, the name of a release's tarball under [`BASE_URL`].
pub fn tarball_name(version: &str) -> String {
    format!("aws-efa-installer-{version}.tar.gz")
}
