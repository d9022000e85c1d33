//! Owns what EC2's refusals mean to a person: code, sentence, hint.

use std::fmt;

use efa_gen::error::{Class, Error};

use super::action::uses_of;

/// A call that did not succeed.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// `RunInstances`.
    pub call: &'static str,
    /// AWS's code; one of ours for what never reached AWS: `NoCredentials`, `NoAnswer`, `TimedOut`.
    pub code: String,
    /// AWS's words.
    pub message: String,
    /// For AWS's support.
    pub request_id: Option<String>,
}

impl ApiError {
    /// A thing that a listing does not show.
    pub fn not_found(call: &'static str, what: &str) -> Self {
        ApiError { call, code: "NotFound".into(), message: format!("{what} is not there"), request_id: None }
    }

    /// Whether the thing that was asked for is not there (or not there yet).
    pub fn is_not_found(&self) -> bool {
        self.code.contains("NotFound") || self.code.ends_with(".Unknown") || self.code == "InvalidAMIID.Unavailable"
    }

    /// Whether a thing of this name is there already.
    pub fn is_duplicate(&self) -> bool {
        self.code.ends_with(".Duplicate")
    }

    /// Whether the call would have succeeded, had it not been a dry run.
    pub fn is_dry_run(&self) -> bool {
        self.code == "DryRunOperation"
    }

    /// Whether another zone may have what this one lacks.
    pub fn is_capacity(&self) -> bool {
        matches!(
            self.code.as_str(),
            "InsufficientInstanceCapacity" | "Unsupported" | "SpotMaxPriceTooLow" | "InsufficientFreeAddressesInSubnet"
        )
    }

    /// Whether the caller may not do this, now or later.
    pub fn is_denied(&self) -> bool {
        matches!(self.code.as_str(), "UnauthorizedOperation" | "AccessDenied" | "OperationNotPermitted")
    }

    /// Whether it may succeed a little later, when what uses the thing has gone too.
    pub fn is_in_use(&self) -> bool {
        matches!(
            self.code.as_str(),
            "DependencyViolation"
                | "InvalidGroup.InUse"
                | "InvalidSnapshot.InUse"
                | "InvalidPlacementGroup.InUse"
                | "InvalidIPAddress.InUse"
                | "VolumeInUse"
                | "IncorrectState"
        )
    }

    /// The error of a call that concerned this thing.
    pub fn context(self, resource: &str) -> Error {
        let plain = Error::new(Class::Cloud, format!("{resource}: {self}"));
        match self.hint() {
            Some(hint) => plain.hint(hint),
            None => plain,
        }
    }

    fn hint(&self) -> Option<String> {
        if DENIED.contains(&self.code.as_str()) {
            return Some(self.denied());
        }
        HINTS.iter().find(|(codes, _)| codes.contains(&self.code.as_str())).map(|(_, hint)| (*hint).to_owned())
    }

    /// Where the permission is to be had that is missing.
    fn denied(&self) -> String {
        let uses: Vec<&str> = uses_of(self.call).iter().map(|needed| needed.name()).collect();
        let policy = match uses.as_slice() {
            [] => "`efa-gen permissions` prints the policies that it needs".to_owned(),
            uses => format!("`efa-gen permissions --for {}` prints the policy that has it", uses.join("|")),
        };
        format!(
            "the role lacks this permission: {policy}; `aws sts decode-authorization-message` says which rule denied it"
        )
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.call, self.message.trim_end_matches('.'), self.code)?;
        match &self.request_id {
            Some(id) => write!(f, ", request {id}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        let plain = Error::new(Class::Cloud, error.to_string());
        match error.hint() {
            Some(hint) => plain.hint(hint),
            None => plain,
        }
    }
}

/// Codes of a permission that is missing.
const DENIED: [&str; 3] = ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"];

/// Codes of EC2's list of error codes, STS's and SSM's, and what to do.
const HINTS: [(&[&str], &str); 22] = [
    (
        &["NoCredentials"],
        "log in first: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws sso login`",
    ),
    (
        &["ExpiredToken", "ExpiredTokenException", "RequestExpired"],
        "the credentials have expired: log in again; a long build outlives a session of one hour, a role that renews itself does not",
    ),
    (
        &["AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch"],
        "AWS does not know these credentials: is it the right profile, is this machine's clock right, is the region enabled for the account?",
    ),
    (&["OptInRequired"], "the account has not opted in to this region or image: subscribe to it, or choose another"),
    (&["NoRegion"], "give --region, or set AWS_REGION, or a region in the profile"),
    (
        &["NoAnswer"],
        "is the region's name right, and does this machine reach the Internet or its proxy (HTTPS_PROXY, NO_PROXY)? A proxy that replaces certificates needs AWS_CA_BUNDLE",
    ),
    (
        &["NeedsMfaCode"],
        "efa-gen asks for no code: `eval \"$(aws configure export-credentials --profile NAME --format env)\"` asks for it; then leave out --profile",
    ),
    (&["BadProfile"], "`aws configure list` says what is wrong with the files in ~/.aws"),
    (&["BadCertificates"], "name a file with the certificates of the authority, in PEM form, or unset AWS_CA_BUNDLE"),
    (
        &["ImageFailed"],
        "build again; a KMS key that the builder's root volume or the image can't use is the usual reason",
    ),
    (
        &["InsufficientInstanceCapacity"],
        "AWS has none of this type to give just now: try again later, another type, or leave out --subnet so that every zone is tried",
    ),
    (
        &["VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"],
        "the account's quota is used up: sweep what dead runs left (`efa-gen sweep`), or ask for more under Service Quotas",
    ),
    (
        &["IdempotentInstanceTerminated"],
        "the run's machine has ended, and what was installed on it is lost: build again",
    ),
    (&["Unsupported"], "this zone does not have the type: leave out --subnet, or choose another type"),
    (
        &["InvalidKeyPair.Duplicate", "InvalidGroup.Duplicate", "InvalidAMIName.Duplicate"],
        "something of this name is there already: `efa-gen sweep` lists what dead runs left",
    ),
    (
        &[
            "AddressLimitExceeded",
            "KeyPairLimitExceeded",
            "PlacementGroupLimitExceeded",
            "ResourceLimitExceeded",
            "SecurityGroupLimitExceeded",
            "TagLimitExceeded",
        ],
        "a limit of the account is reached: `efa-gen sweep` finds what dead runs left",
    ),
    (&["VPCIdNotSpecified", "DefaultVpcDoesNotExist"], "the region has no default VPC: give --subnet"),
    (&["InvalidSubnetID.NotFound"], "is the subnet in this region and account?"),
    (&["InvalidAMIID.NotFound", "InvalidAMIID.Malformed"], "AMI ids belong to one region: is it this one?"),
    (
        &["RequestLimitExceeded", "Throttling", "ThrottlingException"],
        "the account's calls are throttled: something else uses the API heavily; try again in a minute",
    ),
    (&["ServiceUnavailable", "Unavailable", "InternalError"], "AWS itself has trouble: try again later"),
    (
        &["OperationNotPermitted"],
        "it is protected: remove the protection first (`efa-gen image rm --unprotect` does so for an image)",
    ),
];
