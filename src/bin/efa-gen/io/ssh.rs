//! Owns SSH to one guest: the login key, the known host keys, commands whose output streams. The system's `ssh` does
//! it. Jump hosts and proxies of the user's own configuration work; nothing else of it counts (`ssh_route`).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::ssh_trust::{KEY_EXCHANGES, KEY_EXCHANGES_OF_FIPS};
use efa_gen::shell::{self, quote};
use efa_gen::text::{ANSWER, ending};
use serde::{Deserialize, Serialize};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, EcdsaCurve, LineEnding, PrivateKey};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::output::{each_line, too_long};
use super::ssh_route::{self, Route};
use super::{files, wait};
use crate::timeouts;

/// The program's own exit status where the connection, not the command, failed.
const SSH_FAILED: i32 = 255;

/// Of every connection.
const SETTINGS: [&str; 22] = [
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "CheckHostIP=no",
    // Nobody but this run's file vouches for a host.
    "IgnoreUnknown=KnownHostsCommand",
    "KnownHostsCommand=none",
    "VerifyHostKeyDNS=no",
    "UpdateHostKeys=no",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    // The run's key alone is offered: no password, no ticket, no key of this machine.
    "PreferredAuthentications=publickey",
    "PasswordAuthentication=no",
    "BatchMode=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    // A connection that outlives a reboot's beginning must not be used for what comes after it.
    "ControlMaster=no",
    "ControlPath=none",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=6",
    "LogLevel=ERROR",
];

/// A key pair in OpenSSH's forms: the private file's text and the public line.
pub struct KeyPair {
    pub private: String,
    pub public: String,
}

/// What kind of key logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// Every distribution's sshd of ours knows it: the oldest is OpenSSH 7.2, ed25519 came with 6.5.
    Ed25519,
    /// On NIST's P-256, as FIPS 140 has it.
    Ecdsa,
    /// 4,096 bits, the most that EC2 takes.
    Rsa,
}

impl KeyType {
    /// What was asked for, or what this machine's ssh can use.
    pub fn wanted(asked: Option<KeyType>) -> KeyType {
        asked.unwrap_or(if in_fips_mode() { KeyType::Ecdsa } else { KeyType::Ed25519 })
    }

    /// Of a public line.
    pub fn of(public: &str) -> KeyType {
        match public.split(' ').next() {
            Some("ssh-rsa") => KeyType::Rsa,
            Some("ecdsa-sha2-nistp256") => KeyType::Ecdsa,
            _ => KeyType::Ed25519,
        }
    }

    /// Whether EC2 has key pairs of it (Amazon EC2 User Guide, "Create a key pair for your Amazon EC2 instance").
    pub fn is_ec2s(self) -> bool {
        self != KeyType::Ecdsa
    }

    /// As users write it, and cloud-init.
    pub fn name(self) -> &'static str {
        match self {
            KeyType::Ed25519 => "ed25519",
            KeyType::Ecdsa => "ecdsa",
            KeyType::Rsa => "rsa",
        }
    }
}

/// Makes a key pair.
pub fn new_key(comment: &str, kind: KeyType) -> Result<KeyPair> {
    let failed = |error: ssh_key::Error| Error::new(Class::Bug, "no key pair could be made").with_source(error);
    let algorithm = match kind {
        KeyType::Ed25519 => Algorithm::Ed25519,
        KeyType::Ecdsa => Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        KeyType::Rsa => Algorithm::Rsa { hash: None },
    };
    let mut key = PrivateKey::random(&mut OsRng, algorithm).map_err(failed)?;
    key.set_comment(comment);
    let private = key.to_openssh(LineEnding::LF).map_err(failed)?.to_string();
    Ok(KeyPair { private, public: key.public_key().to_openssh().map_err(failed)? })
}

/// A public line to ask with whether EC2 would import a run's login key; none where it is not asked to.
pub fn dry_run_key(name: &str, asked: Option<KeyType>) -> Option<String> {
    // Who may import one may import any, and an RSA key takes a while.
    let key = || new_key(name, KeyType::Ed25519).map(|pair| pair.public).unwrap_or_default();
    KeyType::wanted(asked).is_ec2s().then(key)
}

/// The public line of a private key file.
pub fn public_of(private: &[u8]) -> Result<String> {
    let failed = |error: ssh_key::Error| {
        Error::new(Class::Usage, "the private key can't be read")
            .with_source(error)
            .hint("the file is damaged: put back what was in it, or sweep the run and begin anew")
    };
    let key = PrivateKey::from_openssh(private).map_err(failed)?;
    key.public_key().to_openssh().map_err(failed)
}

/// The public line of a key that a run has in this file, if it has it yet. `what` names its role ("login key").
///
/// Errors: the file is damaged, or can't be read.
pub fn public_in(path: &Path, what: &str) -> Result<Option<String>> {
    let unread = |error: Error| {
        let hint = "put back what was in it; without it nobody can log in: sweep the run and build again";
        Error::new(Class::Usage, format!("the run's {what} {} can't be used", path.display()))
            .with_source(error)
            .hint(hint)
    };
    let private = files::read_if_there(path, what).map_err(unread)?;
    private.map(|private| public_of(&private).map_err(unread)).transpose()
}

/// How to reach one guest.
#[derive(Debug, Clone)]
pub struct Guest {
    pub user: String,
    /// Name or address; the instance's id where Session Manager carries the connection.
    pub address: String,
    /// Under which name its host keys are known: the instance's id, because addresses are given to others later.
    pub alias: String,
    /// Folder with `key` and `known_hosts`.
    pub folder: PathBuf,
    /// Whether sudo asks for a terminal.
    pub tty: bool,
    /// What carries the connection, where it is not the user's own configuration that says so.
    pub carrier: Option<Carrier>,
}

/// A command that carries a connection.
#[derive(Debug, Clone)]
pub struct Carrier {
    /// For a shell, with ssh's own tokens.
    pub line: String,
    /// Whether a program other than ssh is in it, which needs the caller's credentials.
    pub needs_credentials: bool,
}

/// Whether the kernel of this machine is in FIPS mode.
pub fn in_fips_mode() -> bool {
    std::fs::read_to_string("/proc/sys/crypto/fips_enabled").is_ok_and(|text| text.trim() == "1")
}

/// How a command ended.
#[derive(Debug)]
pub enum CommandExit {
    /// By itself, with this status.
    Status(i32),
    /// With the connection; the last words of ssh.
    Lost(String),
}

/// Writes down which host keys are whose, by alias; what is known of others stays.
pub fn trust(folder: &Path, whose: &[(&str, &[String])]) -> Result<()> {
    let mut known = known(folder)?;
    known.retain(|(alias, _)| !whose.iter().any(|(other, _)| other == alias));
    for (alias, keys) in whose {
        known.extend(keys.iter().map(|key| ((*alias).to_owned(), key.clone())));
    }
    let lines: String = known.iter().map(|(alias, key)| format!("{alias} {key}\n")).collect();
    files::write_durably(&folder.join("known_hosts"), lines.as_bytes(), 0o600)
}

/// Aliases and their host keys.
fn known(folder: &Path) -> Result<Vec<(String, String)>> {
    let bytes = files::read_if_there(&folder.join("known_hosts"), "known host keys")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(a, k)| (a.to_owned(), k.to_owned())).collect())
}

impl Guest {
    /// Writes down which host keys are this guest's: lines of `type base64`.
    pub fn trust(&self, keys: &[String]) -> Result<()> {
        trust(&self.folder, &[(&self.alias, keys)])
    }

    /// Its host keys, `type base64`; none where they are not known.
    pub fn host_keys(&self) -> Result<Vec<String>> {
        let known = known(&self.folder)?;
        Ok(known.into_iter().filter(|(alias, _)| *alias == self.alias).map(|(_, key)| key).collect())
    }

    /// Whether its host keys are known already.
    pub fn is_trusted(&self) -> bool {
        std::fs::read_to_string(self.known_hosts()).is_ok_and(|text| text.contains(&format!("{} ", self.alias)))
    }

    fn known_hosts(&self) -> PathBuf {
        self.folder.join("known_hosts")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// The command line for a person who wants to look: what a login needs, the person's own configuration left out.
    pub async fn ssh_command_line(&self) -> Result<String> {
        let mut words = vec!["ssh".to_owned(), "-i".to_owned(), self.key().display().to_string()];
        words.extend(["-F", "/dev/null", "-oIdentitiesOnly=yes", "-oStrictHostKeyChecking=yes"].map(str::to_owned));
        words
            .extend([file_option("UserKnownHostsFile", &self.known_hosts()), format!("-oHostKeyAlias={}", self.alias)]);
        words.extend(self.route().await?.options);
        words.push(format!("{}@{}", self.user, self.address));
        shell::join(&words)
    }

    /// How the connection is carried.
    async fn route(&self) -> Result<Route> {
        match &self.carrier {
            None => ssh_route::route(&self.user, &self.address).await,
            Some(carrier) => Ok(Route {
                options: vec![format!("-oProxyCommand={}", carrier.line)],
                needs_credentials: carrier.needs_credentials,
            }),
        }
    }

    /// Every option of a connection: strict host keys, this run's key, of the user's own configuration the way alone. And
    /// whether what carries it needs the caller's credentials.
    async fn options(&self) -> Result<(Vec<String>, bool)> {
        // Neither the user's file nor this machine's: a list of what they must not say would never be whole, and some options
        // (SendEnv, IdentityFile, CertificateFile) only ever add to what was said before.
        let mut options = vec!["-F".to_owned(), "/dev/null".to_owned()];
        options
            .extend([file_option("UserKnownHostsFile", &self.known_hosts()), file_option("IdentityFile", &self.key())]);
        options.extend(SETTINGS.iter().map(|setting| format!("-o{setting}")));
        let exchanges = if in_fips_mode() { KEY_EXCHANGES_OF_FIPS } else { KEY_EXCHANGES };
        options.push(format!("-oKexAlgorithms={exchanges}"));
        options.push(format!("-oHostKeyAlias={}", self.alias));
        let route = self.route().await?;
        options.extend(route.options);
        Ok((options, route.needs_credentials))
    }

    /// The program with all its settings, not yet started.
    ///
    /// Errors: the user's own configuration can't be read.
    pub async fn ssh(&self, line: &str, tty: bool) -> Result<Command> {
        let (options, needs_credentials) = self.options().await?;
        let mut command = Command::new("ssh");
        command.args(options).arg(if tty { "-tt" } else { "-T" });
        command.arg(format!("{}@{}", self.user, self.address)).arg("--").arg(line);
        command.env_clear().envs(ssh_route::environment(needs_credentials));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }

    /// The command by which a person logs in, on this terminal; `line` is what is run instead of a shell.
    pub async fn for_terminal(&self, line: Option<&str>) -> Result<std::process::Command> {
        let (options, needs_credentials) = self.options().await?;
        let mut command = std::process::Command::new("ssh");
        command.args(options).arg(format!("{}@{}", self.user, self.address));
        command.args(line.map(|line| ["--", line]).into_iter().flatten());
        command.env_clear().envs(ssh_route::environment(needs_credentials));
        Ok(command)
    }

    /// What carries a connection to a host that this guest reaches.
    pub async fn as_jump(&self) -> Result<Carrier> {
        let (options, needs_credentials) = self.options().await?;
        // What ssh expands in its ProxyCommand, before the shell sees it.
        let words: Vec<String> = options.iter().map(|word| word.replace('%', "%%")).collect();
        let line = format!("ssh {} -W '[%h]:%p' {}@{}", shell::join(&words)?, self.user, self.address);
        Ok(Carrier { line, needs_credentials })
    }

    /// Runs a command line as the login user's and gives every line of its output away as it comes. `input` goes to its
    /// standard input, which is empty otherwise.
    ///
    /// Errors: no `ssh` on this machine, or it can't read the user's configuration. That the connection fails is
    /// [`CommandExit::Lost`].
    pub async fn run(&self, line: &str, input: Option<&[u8]>, mut output: impl FnMut(&str)) -> Result<CommandExit> {
        let all = |line: &str| {
            output(line);
            true
        };
        let ended = self.run_while(line, input, all).await?;
        ended.ok_or_else(|| Error::new(Class::Bug, "a command was ended that nobody ends"))
    }

    /// The same, as long as `output` wants more: then the connection is ended, and there is no exit.
    async fn run_while(
        &self,
        line: &str,
        input: Option<&[u8]>,
        mut output: impl FnMut(&str) -> bool,
    ) -> Result<Option<CommandExit>> {
        // A terminal would change what is sent.
        let mut command = self.ssh(line, self.tty && input.is_none()).await?;
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().map_err(ssh_route::not_started)?;
        let (send, mut lines) = mpsc::channel(64);
        let outputs = [
            child.stdout.take().map(|pipe| tokio::spawn(each_line(pipe, send.clone()))),
            child.stderr.take().map(|pipe| tokio::spawn(each_line(pipe, send))),
        ];
        if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), input) {
            // That nobody reads it to the end is seen in the exit status.
            let _ = pipe.write_all(bytes).await;
        }
        let mut last = String::new();
        while let Some(line) = lines.recv().await {
            if !output(&line) {
                return Ok(None);
            }
            if !line.trim().is_empty() {
                last = line;
            }
        }
        for output in outputs.into_iter().flatten() {
            output.await.map_err(|error| Error::new(Class::Bug, "reading from ssh failed").with_source(error))?;
        }
        let status = child.wait().await;
        let status = status.map_err(|error| Error::new(Class::Io, "could not wait for ssh").with_source(error))?;
        Ok(Some(match status.code() {
            Some(SSH_FAILED) | None => CommandExit::Lost(ending(&last).into_owned()),
            Some(code) => CommandExit::Status(code),
        }))
    }

    /// Runs a command line that must succeed; returns what it printed.
    ///
    /// Errors: it failed, or printed more than an answer may have.
    pub async fn run_checked(&self, line: &str, input: Option<&[u8]>) -> Result<String> {
        let mut text = String::new();
        let add = |line: &str| {
            text.push_str(line);
            text.push('\n');
            text.len() <= ANSWER
        };
        let ended = self.run_while(line, input, add).await?;
        let failed = |what: &str| Error::new(Class::Install, format!("{what} on {}: {line}", self.alias));
        match ended {
            Some(CommandExit::Status(0)) => Ok(text),
            Some(CommandExit::Status(code)) => {
                Err(failed(&format!("exit status {code}")).with_source(ending(&text).into_owned()))
            }
            None => Err(failed(&too_long())),
            Some(CommandExit::Lost(words)) => {
                Err(Error::new(Class::Io, format!("the connection to {} was lost", self.alias)).with_source(words))
            }
        }
    }

    /// Waits until a login succeeds; the error holds ssh's last words.
    pub async fn wait_until_up(&self, patience: Duration) -> Result<()> {
        let mut words = String::new();
        let up = wait::until(patience, timeouts::LOGIN_EVERY, async || {
            words = match self.run("true", None, |_| {}).await? {
                CommandExit::Status(0) => return Ok(Some(())),
                CommandExit::Status(code) => format!("exit status {code}"),
                CommandExit::Lost(words) => words,
            };
            if words.contains("Host key verification failed") || words.contains("REMOTE HOST IDENTIFICATION") {
                let message =
                    format!("whoever answers as {} at {} does not have its host key", self.alias, self.address);
                return Err(Error::new(Class::Refused, message).with_source(words.clone()).hint(
                    "somebody is between you and it, or the address has a new owner: do not connect by other means",
                ));
            }
            Ok(None)
        });
        if up.await?.is_some() {
            return Ok(());
        }
        let message =
            format!("no login as {} on {} at {} within {} s", self.user, self.alias, self.address, patience.as_secs());
        Err(Error::new(Class::Io, message).with_source(words).hint(
            "does a firewall or the route keep port 22 from you (--ssh-cidr, --private, --session-manager; a \
             cluster that runs: efa-gen cluster admit)?",
        ))
    }
}

/// An option of ssh's whose value is a file. Quoted, because a home may have blanks in its name; `%` begins a token of ssh's.
fn file_option(name: &str, value: &Path) -> String {
    format!("-o{name}=\"{}\"", value.display().to_string().replace('%', "%%"))
}

/// The command of the AWS CLI that carries a connection through Session Manager (AWS Systems Manager User Guide, "Allow and
/// control permissions for SSH connections").
pub fn session_manager(region: &str, profile: Option<&str>) -> Result<Carrier> {
    let profile = profile.map(|profile| Result::Ok(format!(" --profile {}", quote(profile)?))).transpose()?;
    let line = format!(
        "aws ssm start-session --region {region}{} --target %h --document-name AWS-StartSSHSession --parameters portNumber=%p",
        profile.unwrap_or_default()
    );
    Ok(Carrier { line, needs_credentials: true })
}
