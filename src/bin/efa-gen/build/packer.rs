//! Owns `--driver packer`: which Packer there is, what it is given, how it is ended and how its end is read. Packer makes
//! the image; gate, copies, sharing and all that comes after an image are efa-gen's own, as in any build.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use efa_gen::error::{Class, Error, Result};
use efa_gen::render::{self, Format, PackerGrammar, builder as guest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::{mpsc, watch};

use super::problem::Problem;
use super::{Build, Built, failed, publish, tags};
use crate::cli::cloud::{BuildArgs, HostKey, OnError, ReachArgs};
use crate::ec2::model::{Kind, Tags};
use crate::events::{Event, Talk};
use crate::files;

/// The oldest that the rendered template was tried with.
const OLDEST: Version = (1, 6, 6);

/// From here on Packer takes the newest grammar, and fetches its plugins itself.
const NEWEST_GRAMMAR: Version = (1, 7, 0);

/// Files that Packer reads beside the rendered ones.
const VARIABLES: &str = "efa-gen.pkrvars.json";
const USER_DATA: &str = "builder-user-data";

/// Lines of Packer's output that an error shows.
const LAST_LINES: usize = 8;

type Version = (u32, u32, u32);

/// What `--driver packer` can't do, or can't do here.
pub fn refusals(args: &BuildArgs) -> Vec<Problem> {
    let mut found = Vec::new();
    match args.on_error {
        OnError::Cleanup => {}
        OnError::Keep => found.push(Problem::usage(
            "--on-error keep does not go with --driver packer",
            "Packer alone has the builder's login key, and takes it along when it ends; a native build keeps both",
        )),
        OnError::Ask => found.push(Problem::usage(
            "--on-error ask does not go with --driver packer",
            "Packer would ask for itself, and its output goes through efa-gen; a native build asks",
        )),
    }
    if args.reach.host_key == HostKey::Inject {
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

/// Which Packer is on the PATH.
fn version() -> Result<Version> {
    let asked = Command::new("packer").arg("version").env("CHECKPOINT_DISABLE", "1").stdin(Stdio::null()).output();
    let answer = asked.map_err(|error| {
        let plain = match error.kind() {
            io::ErrorKind::NotFound => Error::new(Class::Io, "there is no `packer` on the PATH"),
            _ => Error::new(Class::Io, "`packer version` could not be run").because(error),
        };
        plain.hint("install Packer 1.6.6 or newer, or leave out --driver packer: efa-gen needs none")
    })?;
    let said = String::from_utf8_lossy(&answer.stdout);
    let Some(version) = said.lines().find_map(parse_version) else {
        let first = said.lines().next().unwrap_or_default().to_owned();
        return Err(Error::new(Class::Io, format!("`packer version` did not say which one it is, but {first:?}"))
            .hint("is it HashiCorp's? cracklib has a program of the same name; put the right one first in PATH"));
    };
    if version < OLDEST {
        return Err(Error::new(Class::Plan, format!("Packer {} is too old", text(version)))
            .hint("the rendered template needs Packer 1.6.6 or newer"));
    }
    Ok(version)
}

/// `Packer v1.16.0-dev (...)` and the like.
fn parse_version(line: &str) -> Option<Version> {
    let numbers = line.trim().strip_prefix("Packer v")?.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?;
    let mut parts = numbers.split('.').map(str::parse::<u32>);
    let (major, minor, patch) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some((major, minor, patch))
}

fn text((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
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
                let message = format!("run {} ended before Packer had made its image", self.folder.run);
                let hint = format!(
                    "Packer can't go on where it was: efa-gen sweep --run {}, then build again",
                    self.folder.run
                );
                return Err(Error::new(Class::Usage, message).hint(hint));
            }
            None => {
                let id = self.packer(stop).await?;
                self.made(Kind::Image, &id)?;
                id
            }
        };
        tokio::select! {
            built = self.from_packers_image(&id) => built,
            Ok(()) = stop.changed() => Err(interrupted()),
        }
    }

    async fn from_packers_image(&mut self, id: &str) -> Result<Built> {
        let image = publish::wait_until_believed(self.aws, id, self.talk).await?;
        // Packer before 1.8 can't ask for it.
        if self.plan.base.imdsv2 && !image.imds_v2 {
            self.aws.require_imds_v2(&image.id).await?;
        }
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
        packer.image(&self.aws.region)
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
        let user_data = guest::user_data(&self.folder.run, self.record.deadline, longest)?;
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

fn interrupted() -> Error {
    Error::new(Class::Interrupted, "interrupted by a signal")
}

/// Packer in the folder of one run.
struct Packer<'a> {
    folder: PathBuf,
    profile: Option<String>,
    talk: &'a Talk,
}

impl Packer<'_> {
    /// Runs it to its end, and tells every line.
    async fn run(&self, arguments: &[&str], stop: &mut watch::Receiver<u32>) -> Result<Ended> {
        let started = self.command(arguments).spawn();
        let mut child = started.map_err(|error| Error::new(Class::Io, "could not start packer").because(error))?;
        let mut group = Group(child.id());
        let (send, mut lines) = mpsc::channel(64);
        if let Some(pipe) = child.stdout.take() {
            tokio::spawn(each_line(pipe, send.clone()));
        }
        if let Some(pipe) = child.stderr.take() {
            tokio::spawn(each_line(pipe, send.clone()));
        }
        drop(send);
        let mut ended = Ended::default();
        let mut signals = 0;
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => ended.said(line, self.talk),
                    None => break,
                },
                Ok(()) = stop.changed(), if signals < 2 => {
                    signals += 1;
                    if signals == 1 {
                        self.talk.note("interrupted: Packer removes what it has made; a second signal ends it at once");
                        group.signal("INT");
                    } else {
                        group.signal("KILL");
                    }
                }
            }
        }
        let status = child.wait().await;
        group.0 = None;
        ended.success =
            status.map_err(|error| Error::new(Class::Io, "could not wait for packer").because(error))?.success();
        if signals > 0 { Err(interrupted()) } else { Ok(ended) }
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("packer");
        command.args(arguments).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: what is typed at the terminal reaches efa-gen, which tells Packer once.
        command.process_group(0);
        command.env("CHECKPOINT_DISABLE", "1").env("PACKER_NO_COLOR", "1");
        // The variables are what efa-gen's own flags say.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PKR_VAR_") {
                command.env_remove(name);
            }
        }
        // Credentials are Packer's to find, in the same places.
        if let Some(profile) = &self.profile {
            command.env("AWS_PROFILE", profile);
        }
        command
    }

    fn say_where_the_log_is(&self) {
        let log = self.folder.join("efa-gen-install.log");
        if log.exists() {
            self.talk.note(format!("the builder's log is in {}", log.display()));
        }
    }

    /// What the manifest says that was made in this region.
    fn image(&self, region: &str) -> Result<String> {
        let path = self.folder.join("manifest.json");
        let bytes = files::read(&path, "Packer's manifest", 16 << 20)?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(Class::Cloud, format!("{} can't be read", path.display())).because(error))?;
        let artifact = manifest.builds.last().map(|build| build.artifact_id.as_str()).unwrap_or_default();
        let images: BTreeMap<&str, &str> = artifact.split(',').filter_map(|one| one.split_once(':')).collect();
        let Some(image) = images.get(region) else {
            return Err(Error::new(Class::Cloud, format!("{} names no image of {region}", path.display())));
        };
        Ok((*image).to_owned())
    }
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

/// The processes of one Packer. If nobody waits for it any more, it is told to clean up all the same.
struct Group(Option<u32>);

impl Group {
    /// To all of them, as a terminal does: the first process only watches over the one that builds.
    fn signal(&self, name: &str) {
        let Some(id) = self.0 else { return };
        let line = ["-c", "kill -s \"$1\" -- \"-$2\"", "sh", name, &id.to_string()];
        // It may have ended by itself.
        let _ = Command::new("sh").args(line).stdin(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal("INT");
    }
}

/// How Packer ended.
#[derive(Default)]
struct Ended {
    success: bool,
    /// Packer's own words on why.
    reason: Option<String>,
    last: VecDeque<String>,
}

impl Ended {
    fn said(&mut self, line: String, talk: &Talk) {
        talk.emit(&Event::Output { line: line.clone() });
        if line.trim().is_empty() {
            return;
        }
        // Build 'amazon-ebs.image' errored after 3 minutes 2 seconds: REASON
        if let Some((_, rest)) = line.split_once(" errored after ") {
            self.reason = rest.split_once(": ").map(|(_, reason)| reason.to_owned());
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// A script that failed is the machine's doing, everything else the cloud's or Packer's.
    fn class(&self) -> Class {
        let script =
            self.reason.as_ref().is_some_and(|reason| reason.contains("Script exited with non-zero exit status"));
        if script { Class::Install } else { Class::Cloud }
    }

    fn error(&self, class: Class, what: &str) -> Error {
        let why = self.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let lines: Vec<&str> = self.last.iter().map(String::as_str).collect();
        Error::new(class, format!("{what} failed{why}"))
            .because(format!("the last that it said:\n{}", lines.join("\n")))
    }
}

async fn each_line(pipe: impl AsyncRead + Unpin, send: mpsc::Sender<String>) {
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        if send.send(text).await.is_err() {
            return;
        }
    }
}
