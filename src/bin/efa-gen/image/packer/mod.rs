//! Owns `--driver packer`: what Packer is given, and what it made. Packer makes the image; gate, copies, sharing and
//! all that comes after an image are efa-gen's own, as in any build.

pub mod program;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::user_data as guest;
use efa_gen::plan::Plan;
use efa_gen::render::{self, Format, PackerGrammar};
use efa_gen::text::clip;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::program::{Packer, Version, text, version};
use super::build::{Build, Built, failed};
use crate::aws::model::{ResourceKind, Tags};
use crate::cli::cloud::{BuildArgs, HostKey, OnError, ReachArgs};
use crate::io::files;
use crate::io::signals::interrupted;
use crate::io::ssh::KeyType;
use crate::preflight::problem::Problem;
use crate::run::tags;
use crate::timeouts;

/// From here on Packer takes the newest grammar, and fetches its plugins itself.
const NEWEST_GRAMMAR: Version = (1, 7, 0);

/// Files that Packer reads beside the rendered ones.
const VARIABLES: &str = "efa-gen.pkrvars.json";
const USER_DATA: &str = "builder-user-data";

fn grammar(version: Version) -> PackerGrammar {
    if version < NEWEST_GRAMMAR { PackerGrammar::Common } else { PackerGrammar::Newest }
}

/// What `--driver packer` can't do, or can't do here; and the Packer's name if it can't keep the builder from the public address
/// that a subnet gives.
pub fn refusals(args: &BuildArgs, plan: &Plan) -> (Vec<Problem>, Option<String>) {
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
    if args.reach.key_type == Some(KeyType::Ecdsa) {
        let what = "--key-type ecdsa does not go with --driver packer";
        found.push(Problem::usage(
            what,
            "EC2 makes the login key for Packer, and makes ed25519 and rsa alone; a native build makes its own",
        ));
    }
    match version() {
        Err(error) => {
            found.push(error.into());
            (found, None)
        }
        Ok(version) if grammar(version) == PackerGrammar::Common => {
            let name = format!("Packer {}", text(version));
            found.extend(refusals_of_common(args, plan, &name));
            (found, Some(name))
        }
        Ok(_) => (found, None),
    }
}

/// What a Packer before 1.7 can't do besides.
fn refusals_of_common(args: &BuildArgs, plan: &Plan, packer: &str) -> Vec<Problem> {
    let mut found: Vec<Problem> =
        render::packer::check_login(plan, PackerGrammar::Common).err().map(Problem::from).into_iter().collect();
    // It writes every address into the field that is for IPv4.
    for cidr in args.reach.ssh_cidr.iter().filter(|cidr| cidr.contains(':')) {
        let what = format!("--ssh-cidr {cidr}: {packer} takes IPv4 addresses alone");
        found.push(Problem::usage(what, "name the IPv4 address, or use Packer 1.7 or newer"));
    }
    if args.reach.key_type == Some(KeyType::Ed25519) {
        let what = format!("--key-type ed25519: {packer} makes RSA keys alone");
        found.push(Problem::usage(what, "leave it out, or use Packer 1.7 or newer"));
    }
    found
}

impl Build<'_> {
    /// Has Packer make the image, and publishes it. `stop` counts the signals that ask for an end: Packer is told of the
    /// first and removes what it has made; the second ends it at once.
    pub async fn run_with_packer(&mut self, stop: &mut watch::Receiver<u32>) -> Result<Built> {
        let before = if self.resumed { self.own_image().await? } else { None };
        let id = match before {
            Some(image) if image.state == "failed" => return Err(failed(&image)),
            Some(image) => image.id,
            None if self.resumed => {
                let message = format!("run {} ended before Packer had made its image", self.run.state.run);
                let hint = format!(
                    "Packer can't go on where it was: efa-gen sweep --run {}, then build again",
                    self.run.state.run
                );
                return Err(Error::new(Class::Usage, message).hint(hint));
            }
            None => {
                let id = self.packer(stop).await?;
                self.factory().record(ResourceKind::Image, &id)?;
                id
            }
        };
        tokio::select! {
            built = self.believe_and_publish(&id) => built,
            Ok(()) = stop.changed() => Err(interrupted()),
        }
    }

    async fn believe_and_publish(&mut self, id: &str) -> Result<Built> {
        let image = self.wait_until_consistent(id).await?;
        let copies = self.publish(&image).await?;
        Ok(Built { image, copies })
    }

    /// Runs Packer; returns the image's id.
    async fn packer(&self, stop: &mut watch::Receiver<u32>) -> Result<String> {
        let version = tokio::task::spawn_blocking(version).await;
        let version =
            version.map_err(|error| Error::new(Class::Bug, "asking Packer ended badly").with_source(error))??;
        self.say_what_differs(version);
        let folder = self.run.state.path.join("packer");
        self.write_files(&folder, version)?;
        let packer = Packer { folder, profile: self.args.account.profile.clone(), events: self.run.events };
        if version >= NEWEST_GRAMMAR {
            self.run.events.step("packer init: downloads Packer's Amazon plugin, unless it is installed");
            let ended = packer.run(&["init", "."], stop).await?;
            if !ended.success {
                return Err(ended.error(Class::Io, "packer init").hint(
                    "does this machine reach github.com and releases.hashicorp.com? Once `packer plugins install \
                     github.com/hashicorp/amazon` has succeeded, nothing is downloaded any more",
                ));
            }
        }
        self.run.events.step(format!("packer build, with Packer {}", text(version)));
        let ended = packer.run(&["build", "-color=false", &format!("-var-file={VARIABLES}"), "."], stop).await?;
        if !ended.success {
            return Err(ended.error(ended.class(), "packer build"));
        }
        image_of(&packer.folder.join("manifest.json"), &self.run.aws.region)
    }

    /// Where a build by Packer is less than a native one, or other than asked for.
    fn say_what_differs(&self, version: Version) {
        let note = |text: &str| self.run.events.note(text);
        note("Packer does not check the builder's host key, as a native build does");
        if grammar(version) == PackerGrammar::Common {
            note(
                "this Packer tags neither its key pair nor its security group (packer_...): if it dies, efa-gen sweep does not find those two",
            );
            note("this Packer's login key is RSA");
            if self.plan.base.imdsv2 {
                note(
                    "this Packer can't require IMDSv2: its builder answers IMDSv1, too; of the image efa-gen requires it",
                );
            }
        }
    }

    /// Everything that Packer reads. None of it is secret.
    fn write_files(&self, folder: &Path, version: Version) -> Result<()> {
        let grammar = grammar(version);
        files::make_folder(folder)?;
        for file in render::render(self.plan, &[Format::Script, Format::Packer(grammar)])? {
            let mode = if file.executable { 0o755 } else { 0o644 };
            files::write(&folder.join(file.name), file.text.as_bytes(), mode)?;
        }
        let longest = i64::from(self.args.builder.deadline) * 60;
        let user_data =
            guest::user_data(guest::UserDataTarget::Builder, &self.run.state.run, self.deadline(), longest)?;
        files::write(&folder.join(USER_DATA), user_data.as_bytes(), 0o644)?;
        let variables = serde_json::to_vec_pretty(&self.variables(grammar))
            .map_err(|error| Error::new(Class::Bug, "Packer's variables can't be written").with_source(error))?;
        files::write(&folder.join(VARIABLES), &variables, 0o644)
    }

    /// Values of the template's variables. Those that publish the image keep their defaults, which are none.
    fn variables(&self, grammar: PackerGrammar) -> Value {
        let BuildArgs { builder, reach, .. } = self.args;
        let mut more_tags: Tags =
            self.resolved.tags.iter().map(|(key, value)| (literal(key), literal(value))).collect();
        more_tags.insert(tags::STATE.to_owned(), tags::BUILDING.to_owned());
        // The builder ends itself by then; its image may take longer.
        let longest = Duration::from_secs(u64::from(builder.deadline) * 60) + timeouts::IMAGE_FINISHED;
        more_tags.insert(tags::UNTIL.to_owned(), tags::until(jiff::Timestamp::now(), longest));
        let mut variables = json!({
            "region": self.run.aws.region,
            "builder_type": builder.builder_type,
            "ssh_cidrs": cidrs(reach, &self.resolved.ssh_cidrs),
            "ssh_interface": match (reach.session_manager, reach.private) {
                (true, _) => "session_manager",
                (_, true) => "private_ip",
                _ => "public_ip",
            },
            "iam_instance_profile": reach.instance_profile.as_deref().unwrap_or_default(),
            "associate_public_ip_address": self.resolved.public_address,
            // Packer would take any zone, and not try another.
            "subnet_id": self.resolved.builder.subnets.first().map_or("", |subnet| subnet.id.as_str()),
            "source_ami": self.resolved.base.id,
            "spot_price": if builder.spot { "auto" } else { "" },
            "root_gib": self.resolved.root_gib,
            "encrypt": !builder.no_encrypt,
            "kms_key_id": builder.kms_key.as_deref().unwrap_or_default(),
            "ami_name": literal(&self.resolved.name),
            "more_tags": more_tags,
            "run": self.run.state.run,
            "user_data_file": USER_DATA,
        });
        if grammar == PackerGrammar::Newest {
            variables["key_pair_type"] = reach.key_type.unwrap_or(KeyType::Ed25519).name().into();
        }
        variables
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
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| {
        let why = clip(&error.to_string(), 300);
        Error::new(Class::Cloud, format!("{} can't be read", path.display())).with_source(why)
    })?;
    let artifact = manifest.builds.last().map(|build| build.artifact_id.as_str()).unwrap_or_default();
    let images: BTreeMap<&str, &str> = artifact.split(',').filter_map(|one| one.split_once(':')).collect();
    let none = || Error::new(Class::Cloud, format!("{} names no image of {region}", path.display()));
    images.get(region).map(|image| (*image).to_owned()).ok_or_else(none)
}
