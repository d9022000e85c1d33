//! Owns SSH to one guest: the login key, the known host keys, commands whose output streams. The system's `ssh` does it,
//! so that jump hosts and proxies of the user's own configuration work. Knows nothing of builds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::files;

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
    "PasswordAuthentication=no",
    "BatchMode=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
    // A connection that outlives a reboot's beginning must not be used for what comes after it.
    "ControlMaster=no",
    "ControlPath=none",
    // A tenth of the default's CPU time; every ssh and sshd since 6.5 knows this name.
    "KexAlgorithms=curve25519-sha256@libssh.org",
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

/// Makes an ed25519 key pair. Every distribution's sshd of ours knows it: the oldest is OpenSSH 7.2, ed25519 came with 6.5.
pub fn new_key(comment: &str) -> Result<KeyPair> {
    let failed = |error: ssh_key::Error| Error::new(Class::Bug, "no key pair could be made").because(error);
    let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(failed)?;
    key.set_comment(comment);
    let private = key.to_openssh(LineEnding::LF).map_err(failed)?.to_string();
    Ok(KeyPair { private, public: key.public_key().to_openssh().map_err(failed)? })
}

/// The public line of a private key file.
pub fn public_of(private: &[u8]) -> Result<String> {
    let failed = |error: ssh_key::Error| {
        Error::new(Class::Usage, "the private key can't be read")
            .because(error)
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
        Error::new(Class::Usage, format!("the run's {what} {} can't be used", path.display())).because(error).hint(hint)
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
    /// Command that carries the connection.
    pub proxy: Option<String>,
}

/// How a command ended.
#[derive(Debug)]
pub enum Ended {
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
    files::write(&folder.join("known_hosts"), lines.as_bytes(), 0o600)
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

    /// The command line for a person who wants to look.
    pub fn for_people(&self) -> String {
        let proxy = self.proxy.as_ref().map_or(String::new(), |proxy| format!(" -o ProxyCommand='{proxy}'"));
        format!(
            "ssh -i {} -o UserKnownHostsFile={} -o HostKeyAlias={}{proxy} {}@{}",
            self.key().display(),
            self.known_hosts().display(),
            self.alias,
            self.user,
            self.address
        )
    }

    /// Every option of a connection: strict host keys, this run's key, nothing of the user's own that would weaken it.
    fn options(&self) -> Vec<String> {
        // Quoted, because a home may have blanks in its name; `%` begins a token of ssh's.
        let file =
            |name: &str, value: &Path| format!("-o{name}=\"{}\"", value.display().to_string().replace('%', "%%"));
        let mut options = vec![file("UserKnownHostsFile", &self.known_hosts()), file("IdentityFile", &self.key())];
        options.extend(SETTINGS.iter().map(|setting| format!("-o{setting}")));
        options.push(format!("-oHostKeyAlias={}", self.alias));
        options.extend(self.proxy.iter().map(|proxy| format!("-oProxyCommand={proxy}")));
        options
    }

    /// The program with all its settings, not yet started.
    pub fn ssh(&self, line: &str, tty: bool) -> Command {
        let mut command = Command::new("ssh");
        command.args(self.options()).arg(if tty { "-tt" } else { "-T" });
        command.arg(format!("{}@{}", self.user, self.address)).arg("--").arg(line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// The command by which a person logs in, on this terminal; `line` is what is run instead of a shell.
    pub fn for_terminal(&self, line: Option<&str>) -> std::process::Command {
        let mut command = std::process::Command::new("ssh");
        command.args(self.options()).arg(format!("{}@{}", self.user, self.address));
        command.args(line.map(|line| ["--", line]).into_iter().flatten());
        command
    }

    /// The command that carries a connection to a host that this guest reaches.
    pub fn as_jump(&self) -> String {
        // What ssh expands in its ProxyCommand, before the shell sees it.
        let words: Vec<String> = self.options().iter().map(|word| quoted(&word.replace('%', "%%"))).collect();
        format!("ssh {} -W '[%h]:%p' {}@{}", words.join(" "), self.user, self.address)
    }

    /// Runs a command line as the login user's and gives every line of its output away as it comes. `input` goes to its
    /// standard input, which is empty otherwise.
    ///
    /// Errors: no `ssh` on this machine. That the connection fails is [`Ended::Lost`].
    pub async fn run(&self, line: &str, input: Option<&[u8]>, mut said: impl FnMut(&str)) -> Result<Ended> {
        // A terminal would change what is sent.
        let mut command = self.ssh(line, self.tty && input.is_none());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let started = command.spawn();
        let mut child = started.map_err(|error| {
            Error::new(Class::Io, "could not start ssh").because(error).hint("install OpenSSH's client")
        })?;
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
            said(&line);
            if !line.trim().is_empty() {
                last = line;
            }
        }
        for output in outputs.into_iter().flatten() {
            output.await.map_err(|error| Error::new(Class::Bug, "reading from ssh failed").because(error))?;
        }
        let status = child.wait().await;
        let status = status.map_err(|error| Error::new(Class::Io, "could not wait for ssh").because(error))?;
        Ok(match status.code() {
            Some(SSH_FAILED) | None => Ended::Lost(last),
            Some(code) => Ended::Status(code),
        })
    }

    /// Runs a command line that must succeed; returns what it printed.
    pub async fn must(&self, line: &str, input: Option<&[u8]>) -> Result<String> {
        let mut text = String::new();
        let ended = self.run(line, input, |line| text.push_str(&format!("{line}\n"))).await?;
        match ended {
            Ended::Status(0) => Ok(text),
            Ended::Status(code) => {
                Err(Error::new(Class::Install, format!("exit status {code} on {}: {line}", self.alias))
                    .because(text.trim().to_owned()))
            }
            Ended::Lost(words) => {
                Err(Error::new(Class::Io, format!("the connection to {} was lost", self.alias)).because(words))
            }
        }
    }

    /// Waits until a login succeeds; the error holds ssh's last words.
    pub async fn wait_until_up(&self, patience: Duration) -> Result<()> {
        let end = tokio::time::Instant::now() + patience;
        loop {
            let words = match self.run("true", None, |_| {}).await? {
                Ended::Status(0) => return Ok(()),
                Ended::Status(code) => format!("exit status {code}"),
                Ended::Lost(words) => words,
            };
            if words.contains("Host key verification failed") || words.contains("REMOTE HOST IDENTIFICATION") {
                let message =
                    format!("whoever answers as {} at {} does not have its host key", self.alias, self.address);
                return Err(Error::new(Class::Refused, message).because(words).hint(
                    "somebody is between you and it, or the address has a new owner: do not connect by other means",
                ));
            }
            if tokio::time::Instant::now() > end {
                let message = format!(
                    "no login as {} on {} at {} within {} s",
                    self.user,
                    self.alias,
                    self.address,
                    patience.as_secs()
                );
                return Err(Error::new(Class::Io, message).because(words).hint(
                    "does a firewall or the route keep port 22 from you (--ssh-cidr, --private, --session-manager; a \
                     cluster that runs: efa-gen cluster admit)?",
                ));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Sends every line that a program prints, until it closes the pipe or nobody listens.
pub async fn each_line(pipe: impl AsyncRead + Unpin, send: mpsc::Sender<String>) {
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        if send.send(text).await.is_err() {
            return;
        }
    }
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
