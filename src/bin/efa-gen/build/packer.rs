//! Owns `--driver packer`: what Packer is given, and what it made. Packer makes the image; gate, copies, sharing and all
//! that comes after an image are efa-gen's own, as in any build. Knows nothing of how a program is run.

mod program;

use std::collections::BTreeMap;
use std::path::Path;

use efa_gen::error::{Class, Error, Result};
use efa_gen::render::{self, Format, PackerGrammar, builder as guest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::program::{Packer, Version, text, version};
use super::problem::Problem;
use super::{Build, Built, failed, tags};
use crate::cli::cloud::{BuildArgs, HostKey, OnError, ReachArgs};
use crate::ec2::model::{Image, Kind, Tags};
use crate::files;
use crate::signals::interrupted;

/// From here on Packer takes the newest grammar, and fetches its plugins itself.
const NEWEST_GRAMMAR: Version = (1, 7, 0);

/// Files that Packer reads beside the rendered ones.
const VARIABLES: &str = "efa-gen.pkrvars.json";
const USER_DATA: &str = "builder-user-data";

/// What `--driver packer` can't do, or can't do here.
pub fn refusals(args: &BuildArgs) -> Vec<Problem> {
    let mut found = Vec::new();
    match args.on_error {
        None | Some(OnError::Cleanup) => {}
        Some(OnError::Keep) => found.push(Problem::usage(
            "--on-error keep does not go with --driver packer",
            "Packer alone has the builder's login key, and takes it along when it ends; a native build keeps both",
        )),
        Some(OnError::Ask) => found.push(Problem::usage(
            "--on-error ask does not go with --driver packer",
            "Packer would ask for itself, and its output goes through efa-gen; a native build asks",
        )),
    }
    if args.builder.host_key == HostKey::Inject {
        let what = "--host-key inject does not go with --driver packer";
        found.push(Problem::usage(what, "Packer checks no host key, wherever it comes from; a native build does"));
    }
    match version() {
        Err(error) => found.push(error.into()),
        // It writes every address into the field that is for IPv4.
        Ok(version) if version < NEWEST_GRAMMAR => {
            for cidr in args.reach.ssh_cidr.iter().filter(|cidr| cidr.contains(':')) {
                let what = format!("--ssh-cidr {cidr}: Packer {} takes IPv4 addresses alone", text(version));
                found.push(Problem::usage(what, "name the IPv4 address, or use Packer 1.7 or newer"));
            }
        }
        Ok(_) => {}
    }
    found
}

impl Build<'_> {
    /// Has Packer make the image, and publishes it. `stop` counts the signals that ask for an end: Packer is told of the
    /// first and removes what it has made; the second ends it at once.
    pub async fn run_with_packer(&mut self, stop: &mut watch::Receiver<u32>) -> Result<Built> {
        let before = if self.resumed { self.packers_image().await? } else { None };
        let id = match before {
            Some(image) if image.state == "failed" => return Err(failed(&image)),
            Some(image) => image.id,
            None if self.resumed => {
                let message = format!("run {} ended before Packer had made its image", self.folder.run);
                let hint = format!(
                    "Packer can't go on where it was: efa-gen sweep --run {}, then build again",
                    self.folder.run
                );
                return Err(Error::new(Class::Usage, message).hint(hint));
            }
            None => {
                let id = self.packer(stop).await?;
                self.maker().made(Kind::Image, &id)?;
                id
            }
        };
        tokio::select! {
            built = self.believe_and_publish(&id) => built,
            Ok(()) = stop.changed() => Err(interrupted()),
        }
    }

    /// The image that Packer made before a crash. With encryption it makes one without a name first, and copies that.
    async fn packers_image(&self) -> Result<Option<Image>> {
        let of_run = format!("tag:{}", tags::RUN);
        let found = self.aws.images(&["self"], &[(&of_run, &self.folder.run), ("name", &self.ready.name)]).await?;
        Ok(found.into_iter().next())
    }

    async fn believe_and_publish(&mut self, id: &str) -> Result<Built> {
        let image = self.believed(id).await?;
        let copies = self.publish(&image).await?;
        Ok(Built { image, copies })
    }

    /// Runs Packer; returns the image's id.
    async fn packer(&self, stop: &mut watch::Receiver<u32>) -> Result<String> {
        let version = tokio::task::spawn_blocking(version).await;
        let version = version.map_err(|error| Error::new(Class::Bug, "asking Packer ended badly").because(error))??;
        self.say_what_differs(version);
        let folder = self.folder.path.join("packer");
        self.write_files(&folder, version)?;
        let packer = Packer { folder, profile: self.args.account.profile.clone(), talk: self.talk };
        if version >= NEWEST_GRAMMAR {
            self.talk.step("packer init: downloads Packer's Amazon plugin, unless it is installed");
            let ended = packer.run(&["init", "."], stop).await?;
            if !ended.success {
                return Err(ended.error(Class::Io, "packer init").hint(
                    "does this machine reach github.com and releases.hashicorp.com? Once `packer plugins install \
                     github.com/hashicorp/amazon` has succeeded, nothing is downloaded any more",
                ));
            }
        }
        self.talk.step(format!("packer build, with Packer {}", text(version)));
        let ended = packer.run(&["build", "-color=false", &format!("-var-file={VARIABLES}"), "."], stop).await?;
        if !ended.success {
            packer.say_where_the_log_is();
            return Err(ended.error(ended.class(), "packer build"));
        }
        image_of(&packer.folder.join("manifest.json"), &self.aws.region)
    }

    /// Where a build by Packer is less than a native one, or other than asked for.
    fn say_what_differs(&self, version: Version) {
        let note = |text: &str| self.talk.note(text);
        note("Packer does not check the builder's host key, as a native build does");
        if version < NEWEST_GRAMMAR {
            note(
                "this Packer tags neither its key pair nor its security group (packer_...): if it dies, efa-gen sweep does not find those two",
            );
        }
        if self.args.reach.private {
            note("Packer leaves it to the subnet whether the builder has a public address, too");
        }
    }

    /// Everything that Packer reads. None of it is secret.
    fn write_files(&self, folder: &Path, version: Version) -> Result<()> {
        let grammar = if version < NEWEST_GRAMMAR { PackerGrammar::Common } else { PackerGrammar::Newest };
        files::make_folder(folder)?;
        for file in render::render(self.plan, &[Format::Script, Format::Packer(grammar)])? {
            let mode = if file.executable { 0o755 } else { 0o644 };
            files::write(&folder.join(file.name), file.text.as_bytes(), mode)?;
        }
        let longest = i64::from(self.args.builder.deadline) * 60;
        let user_data = guest::user_data(guest::Machine::Builder, &self.folder.run, self.deadline(), longest)?;
        files::write(&folder.join(USER_DATA), user_data.as_bytes(), 0o644)?;
        let variables = serde_json::to_vec_pretty(&self.variables())
            .map_err(|error| Error::new(Class::Bug, "Packer's variables can't be written").because(error))?;
        files::write(&folder.join(VARIABLES), &variables, 0o644)
    }

    /// Values of the template's variables. Those that publish the image keep their defaults, which are none.
    fn variables(&self) -> Value {
        let BuildArgs { builder, reach, .. } = self.args;
        let mut more_tags: Tags = self.ready.tags.iter().map(|(key, value)| (literal(key), literal(value))).collect();
        more_tags.insert(tags::STATE.to_owned(), tags::BUILDING.to_owned());
        json!({
            "region": self.aws.region,
            "builder_type": builder.builder_type,
            "ssh_cidrs": cidrs(reach, &self.ready.ssh_cidrs),
            "ssh_interface": match (reach.session_manager, reach.private) {
                (true, _) => "session_manager",
                (_, true) => "private_ip",
                _ => "public_ip",
            },
            "iam_instance_profile": reach.instance_profile.as_deref().unwrap_or_default(),
            // Packer would take any zone, and not try another.
            "subnet_id": self.ready.builder.subnets.first().map_or("", |subnet| subnet.id.as_str()),
            "source_ami": self.ready.base.id,
            "spot_price": if builder.spot { "auto" } else { "" },
            "root_gib": self.ready.root_gib,
            "encrypt": !builder.no_encrypt,
            "kms_key_id": builder.kms_key.as_deref().unwrap_or_default(),
            "ami_name": literal(&self.ready.name),
            "more_tags": more_tags,
            "run": self.folder.run,
            "user_data_file": USER_DATA,
        })
    }
}

/// Through Session Manager no port is opened, but the template wants an address all the same.
fn cidrs(reach: &ReachArgs, found: &[String]) -> Vec<String> {
    if reach.session_manager { vec!["127.0.0.1/32".to_owned()] } else { found.to_vec() }
}

/// Packer takes names and tags for templates of Go's.
fn literal(text: &str) -> String {
    text.replace("{{", "{{\"{{\"}}")
}

/// Packer's manifest, as far as it is needed.
#[derive(Deserialize)]
struct Manifest {
    builds: Vec<Artifact>,
}

#[derive(Deserialize)]
struct Artifact {
    /// `us-east-1:ami-1,us-west-2:ami-2`.
    artifact_id: String,
}

/// What Packer's manifest says that was made in this region.
fn image_of(path: &Path, region: &str) -> Result<String> {
    let bytes = files::read(path, "Packer's manifest", 16 << 20)?;
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(Class::Cloud, format!("{} can't be read", path.display())).because(error))?;
    let artifact = manifest.builds.last().map(|build| build.artifact_id.as_str()).unwrap_or_default();
    let images: BTreeMap<&str, &str> = artifact.split(',').filter_map(|one| one.split_once(':')).collect();
    let none = || Error::new(Class::Cloud, format!("{} names no image of {region}", path.display()));
    images.get(region).map(|image| (*image).to_owned()).ok_or_else(none)
}
