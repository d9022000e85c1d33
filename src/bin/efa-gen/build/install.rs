//! Owns the install on a machine that is reached by SSH: the script's upload, its stages one by one through their reboots,
//! and what is fetched of a machine before it goes. Knows the plan's stages, not how the machine came about.

use std::path::Path;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{LOG_DIR, Plan, STATE_DIR, Stage, Then};
use efa_gen::render::builder::sealed_mark;
use sha2::{Digest, Sha256};

use super::builder::gone;
use crate::ec2::Aws;
use crate::ec2::model::Instance;
use crate::events::{Event, Talk};
use crate::files;
use crate::ssh::{Ended, Guest};

/// The script's own exit code for "another run is at work" (README, "Exit codes").
const LOCKED: i32 = 8;
/// And for a check that failed.
const CHECK: i32 = 7;

/// How long a machine may take until it can be logged in to: a boot, with a file system check.
pub const UP: Duration = Duration::from_secs(15 * 60);

/// How often a stage is begun again because the connection was lost.
const CONNECTIONS: usize = 6;

/// Lines of a failing stage that its error repeats.
const LAST_LINES: usize = 12;

/// How long a login is tried between looks at the machine.
pub const BETWEEN_LOOKS: Duration = Duration::from_secs(20);

/// The install on one machine.
pub struct Install<'a> {
    pub aws: &'a Aws,
    pub instance: &'a Instance,
    pub guest: &'a Guest,
    pub plan: &'a Plan,
    pub talk: &'a Talk,
}

impl Install<'_> {
    /// Puts the script where it belongs, from where only root can change it, and compares it with what was rendered.
    pub async fn upload(&self, script: &str) -> Result<()> {
        self.talk.step("Upload the install script");
        let sha256: String = Sha256::digest(script).iter().map(|byte| format!("{byte:02x}")).collect();
        self.guest.must("cat >/tmp/efa-gen-install.sh", Some(script.as_bytes())).await?;
        let line = format!(
            "sudo mkdir -p {STATE_DIR} && sudo install -o root -g root -m 0755 /tmp/efa-gen-install.sh {STATE_DIR}/install.sh && \
             echo '{sha256}  {STATE_DIR}/install.sh' | sha256sum --check --quiet && rm -f /tmp/efa-gen-install.sh"
        );
        self.guest.must(&line, None).await.map(drop)
    }

    /// One stage to its end, and through the reboot after it. A lost connection begins it again: what is done stays done.
    pub async fn stage(&self, stage: &Stage) -> Result<()> {
        self.talk.step(self.title(stage));
        let line = format!("sudo /bin/bash {STATE_DIR}/install.sh --stage {}", stage.id);
        let reboots = stage.then == Then::Reboot;
        let mut connections = 0;
        loop {
            let mut last = Vec::new();
            let ended = self.guest.run(&line, None, |line| self.output(stage, line, &mut last)).await?;
            match ended {
                Ended::Status(0) => break,
                // A shutdown may end the shell before the connection goes.
                Ended::Status(143) if reboots => break,
                Ended::Status(LOCKED) => {
                    self.talk.note("the run that the lost connection left behind is still at work");
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
                Ended::Status(code) => return Err(failed(stage, code, &last)),
                Ended::Lost(_) if reboots && last.iter().any(|line| line.contains("rebooting")) => break,
                Ended::Lost(words) => {
                    connections += 1;
                    if connections == CONNECTIONS {
                        return Err(Error::new(
                            Class::Io,
                            format!("the connection was lost {connections} times in stage {}", stage.id),
                        )
                        .because(words)
                        .hint("build again once the network is better; a run kept by --on-error keep goes on with this stage"));
                    }
                    self.talk.note(format!("the connection was lost in stage {}: {words}", stage.id));
                    self.wait_until_up().await?;
                }
            }
        }
        if reboots { self.new_boot(stage).await } else { Ok(()) }
    }

    /// Waits until a login succeeds, and looks meanwhile whether the machine is still there.
    pub async fn wait_until_up(&self) -> Result<()> {
        let end = tokio::time::Instant::now() + UP;
        loop {
            match self.guest.wait_until_up(BETWEEN_LOOKS).await {
                Err(error) if error.class() == Class::Io && tokio::time::Instant::now() < end => {
                    self.must_be_there().await?;
                }
                other => return other,
            }
        }
    }

    /// Fails if the machine has been ended: that is a better reason than a lost connection.
    pub async fn must_be_there(&self) -> Result<()> {
        match self.aws.instance(&self.instance.id).await? {
            Some(now) if !["pending", "running"].contains(&now.state.as_str()) => Err(gone(&now)),
            _ => Ok(()),
        }
    }

    /// Waits until the machine runs on a boot that is not the one that was asked to end.
    async fn new_boot(&self, stage: &Stage) -> Result<()> {
        let end = tokio::time::Instant::now() + UP;
        let mut look = tokio::time::Instant::now() + BETWEEN_LOOKS;
        let line = format!("sudo /bin/bash {STATE_DIR}/install.sh --after-reboot");
        loop {
            let mut last = Vec::new();
            // Refused connections are what is expected here: they are not shown.
            match self.guest.run(&line, None, |line| last.push(line.to_owned())).await? {
                Ended::Status(0) => return Ok(()),
                Ended::Status(CHECK) => {
                    return Err(Error::new(
                        Class::Check,
                        format!("the machine did not reboot after stage {}", stage.id),
                    )
                    .because(last.join("\n"))
                    .hint("its console, in the run's folder, says what kept it"));
                }
                _ => tokio::time::sleep(Duration::from_secs(1)).await,
            }
            let now = tokio::time::Instant::now();
            if now > look {
                self.must_be_there().await?;
                look = now + BETWEEN_LOOKS;
            }
            if now > end {
                let message = format!(
                    "the machine did not come back from the reboot after stage {} within {} min",
                    stage.id,
                    UP.as_secs() / 60
                );
                return Err(Error::new(Class::Io, message)
                    .hint("its console says how far it came; it is kept in the run's folder"));
            }
        }
    }

    /// The stage that ends every login. It goes on whatever becomes of the connection, and what it came to stands on the
    /// console last: its keys removed, the machine can't be asked any more.
    pub async fn seal(&self, stage: &Stage, run: &str) -> Result<Sealed> {
        self.talk.step(self.title(stage));
        // /dev/shm is memory: nothing of this is in the image. `setsid --wait` is newer than EL 7.
        let line = format!(
            "sudo /bin/sh -c 'setsid /bin/sh -c \"/bin/bash {STATE_DIR}/install.sh --stage {} >/dev/shm/efa-gen-seal 2>&1 && \
             sync && echo {} >/dev/console\" </dev/null >/dev/null 2>&1 & wait $!; code=$?; cat /dev/shm/efa-gen-seal; exit $code'",
            stage.id,
            sealed_mark(run),
        );
        let mut last = Vec::new();
        match self.guest.run(&line, None, |line| self.output(stage, line, &mut last)).await? {
            Ended::Status(0) => Ok(Sealed::Yes),
            Ended::Status(code) => Err(failed(stage, code, &last)),
            Ended::Lost(words) => {
                self.talk.note(format!("the connection was lost while the image was sealed: {words}"));
                Ok(Sealed::AskTheConsole)
            }
        }
    }

    /// Keeps the machine's log in the run's folder. Called on the way to an error, so that it only says what it could not do.
    pub async fn fetch_log(&self, folder: &Path) {
        let line = format!("sudo cat {LOG_DIR}/install.log");
        let fetched = match tokio::time::timeout(Duration::from_secs(60), self.guest.must(&line, None)).await {
            Ok(Ok(text)) => files::write(&folder.join("install.log"), text.as_bytes(), 0o600),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(Class::Io, "no answer within a minute")),
        };
        match fetched {
            Ok(()) => self.talk.note(format!("the machine's log is in {}", folder.join("install.log").display())),
            Err(error) => self.talk.note(format!("the machine's log could not be fetched: {error}")),
        }
    }

    /// As the script itself announces it.
    fn title(&self, stage: &Stage) -> String {
        let number = self.plan.stages.iter().position(|other| other.id == stage.id).map_or(0, |index| index + 1);
        format!("[{number}/{}] {}", self.plan.stages.len(), stage.title)
    }

    fn output(&self, stage: &Stage, line: &str, last: &mut Vec<String>) {
        if line != self.title(stage) {
            self.talk.emit(&Event::Output { line: line.to_owned() });
        }
        last.push(line.to_owned());
        if last.len() > LAST_LINES {
            last.remove(0);
        }
    }
}

/// What is known after the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    Yes,
    AskTheConsole,
}

/// The script says itself what failed and what to do; its words are the error's cause.
fn failed(stage: &Stage, code: i32, last: &[String]) -> Error {
    let class = if code == CHECK { Class::Check } else { Class::Install };
    let from = last.iter().position(|line| line.contains("FAILED in stage")).unwrap_or(0);
    Error::new(class, format!("stage {} failed with exit status {code}", stage.id))
        .because(last[from..].join("\n"))
        .hint("the builder's whole log is in the run's folder")
}
