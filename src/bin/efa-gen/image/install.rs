//! Owns the install on a machine that is reached by SSH: the script's upload, its stages one by one through their
//! reboots, and what is fetched of a machine before it goes.

use std::path::Path;

use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::console::sealed_command;
use efa_gen::plan::{LOG_DIR, Plan, STATE_DIR, Stage, Then, When};
use efa_gen::shell::quote;
use efa_gen::text::{ending, hex, printable_log};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};

use super::builder::builder_gone;
use crate::aws::Aws;
use crate::aws::model::Instance;
use crate::io::events::{Event, EventSink};
use crate::io::ssh::{CommandExit, Guest};
use crate::io::{files, wait};
use crate::timeouts;

/// The script's own exit code for "another run is at work" (README, "Exit codes").
const LOCKED: i32 = 8;
/// And for a check that failed.
const CHECK: i32 = 7;

/// The script in the login user's home, on its way to where it belongs.
const UPLOAD: &str = "efa-gen-install.sh";

/// How often a stage is begun again because the connection was lost.
const CONNECTIONS: usize = 6;

/// Lines of a failing stage that its error repeats.
const LAST_LINES: usize = 12;

/// What is fetched of a machine's log, bytes: an answer has room for it.
const LOG: usize = 900_000;

/// The install on one machine.
pub struct Install<'a> {
    pub aws: &'a Aws,
    pub instance: &'a Instance,
    pub guest: &'a Guest,
    pub plan: &'a Plan,
    pub events: &'a EventSink,
}

impl Install<'_> {
    /// Puts the script where it belongs, from where only root can change it, and compares it with what was rendered.
    pub async fn upload(&self, script: &str) -> Result<()> {
        self.events.step("Upload the install script");
        let sha256 = hex(&Sha256::digest(script));
        // Through the user's own home: in a folder that others share, the name could be somebody else's. Not straight to its
        // place: where sudo wants a terminal, it takes no input.
        self.guest.run_checked(&format!("umask 077 && cat >{UPLOAD}"), Some(script.as_bytes())).await?;
        let line = format!(
            "sudo mkdir -p {STATE_DIR} && sudo install -o root -g root -m 0600 {UPLOAD} {STATE_DIR}/install.sh && \
             echo '{sha256}  {STATE_DIR}/install.sh' | sudo sha256sum --check --quiet && rm -f {UPLOAD}"
        );
        self.guest.run_checked(&line, None).await.map(drop)
    }

    /// One stage to its end, and through the reboot after it. A lost connection begins it again: what is done stays done.
    pub async fn stage(&self, stage: &Stage) -> Result<()> {
        self.events.step(self.title(stage));
        let line = format!("sudo /bin/bash {STATE_DIR}/install.sh --stage {}", stage.id);
        let reboots = stage.then == Then::Reboot;
        let mut connections = 0;
        loop {
            let mut last = Vec::new();
            let ended = self.guest.run(&line, None, |line| self.output(stage, line, &mut last)).await?;
            match ended {
                CommandExit::Status(0) => break,
                // A shutdown may end the shell before the connection goes.
                CommandExit::Status(143) if reboots => break,
                CommandExit::Status(LOCKED) => {
                    self.events.note("the run that the lost connection left behind is still at work");
                    sleep(timeouts::STAGE_LOCKED).await;
                }
                CommandExit::Status(code) => return Err(failed(stage, code, &last)),
                CommandExit::Lost(_) if reboots && last.iter().any(|line| line.contains("rebooting")) => break,
                CommandExit::Lost(words) => {
                    connections += 1;
                    if connections == CONNECTIONS {
                        return Err(Error::new(
                            Class::Io,
                            format!("the connection was lost {connections} times in stage {}", stage.id),
                        )
                        .with_source(words)
                        .hint("build again once the network is better; a run kept by --on-error keep goes on with this stage"));
                    }
                    self.events.note(format!("the connection was lost in stage {}: {words}", stage.id));
                    self.wait_until_up().await?;
                }
            }
        }
        if reboots { self.new_boot(stage).await } else { Ok(()) }
    }

    /// Waits until a login succeeds, and looks meanwhile whether the machine is still there.
    pub async fn wait_until_up(&self) -> Result<()> {
        let end = Instant::now() + timeouts::BUILDER_LOGIN;
        loop {
            match self.guest.wait_until_up(timeouts::LOGIN_TRY).await {
                Err(error) if error.class() == Class::Io && Instant::now() < end => self.ensure_exists().await?,
                other => return other,
            }
        }
    }

    /// Whether a login succeeds and no seal is at work: what is begun beside one loses its connection with the keys.
    pub async fn is_free(&self) -> Result<bool> {
        if self.guest.wait_until_up(timeouts::LOGIN_TRY).await.is_err() {
            return Ok(false);
        }
        let seals = self.plan.stages.iter().filter(|stage| stage.run == When::Image);
        let seals: Vec<String> = seals.map(|stage| format!("install[.]sh --stage {}", stage.id)).collect();
        let looked = format!(
            "if cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q -e {}; then echo sealing; else echo free; fi",
            quote(&seals.join("\\|"))?,
        );
        match self.guest.run_checked(&format!("sudo /bin/sh -c {}", quote(&looked)?), None).await {
            Ok(text) => Ok(text.trim() == "free"),
            // The keys went meanwhile.
            Err(error) if error.class() == Class::Io => Ok(false),
            Err(error) => {
                self.events.note(format!("whether a seal is at work is not known: {error}"));
                Ok(false)
            }
        }
    }

    /// Fails if the machine has been ended: that is a better reason than a lost connection.
    pub async fn ensure_exists(&self) -> Result<()> {
        match self.aws.instance(&self.instance.id).await? {
            Some(now) if !["pending", "running"].contains(&now.state.as_str()) => Err(builder_gone(&now)),
            _ => Ok(()),
        }
    }

    /// Waits until the machine runs on a boot that is not the one that was asked to end.
    async fn new_boot(&self, stage: &Stage) -> Result<()> {
        let mut look = Instant::now() + timeouts::LOGIN_TRY;
        let line = format!("sudo /bin/bash {STATE_DIR}/install.sh --after-reboot");
        let back = wait::until(timeouts::BUILDER_LOGIN, timeouts::REBOOT_EVERY, async || {
            let mut last = Vec::new();
            // Refused connections are what is expected here: they are not shown.
            match self.guest.run(&line, None, |line| keep(&mut last, line)).await? {
                CommandExit::Status(0) => return Ok(Some(())),
                CommandExit::Status(CHECK) => {
                    return Err(Error::new(
                        Class::Check,
                        format!("the machine did not reboot after stage {}", stage.id),
                    )
                    .with_source(ending(&last.join("\n")).into_owned())
                    .hint("its console, in the run's folder, says what kept it"));
                }
                _ => {}
            }
            if Instant::now() > look {
                self.ensure_exists().await?;
                look = Instant::now() + timeouts::LOGIN_TRY;
            }
            Ok(None)
        });
        if back.await?.is_some() {
            return Ok(());
        }
        let minutes = timeouts::BUILDER_LOGIN.as_secs() / 60;
        let message =
            format!("the machine did not come back from the reboot after stage {} within {minutes} min", stage.id);
        Err(Error::new(Class::Io, message).hint("its console says how far it came; it is kept in the run's folder"))
    }

    /// The stage that ends every login. It goes on whatever becomes of the connection, and what it came to stands on the
    /// console last: its keys removed, the machine can't be asked any more.
    pub async fn seal(&self, stage: &Stage, run: &str) -> Result<Sealed> {
        self.events.step(self.title(stage));
        let mut last = Vec::new();
        match self.guest.run(&seal_line(stage, run)?, None, |line| self.output(stage, line, &mut last)).await? {
            CommandExit::Status(0) => Ok(Sealed::Yes),
            CommandExit::Status(code) => Err(failed(stage, code, &last)),
            CommandExit::Lost(words) => {
                self.events.note(format!("the connection was lost while the image was sealed: {words}"));
                Ok(Sealed::AskTheConsole)
            }
        }
    }

    /// Keeps the machine's log in the run's folder. Called on the way to an error, so that it only says what it could not do.
    pub async fn fetch_log(&self, folder: &Path) {
        let line = format!("sudo tail -c {LOG} {LOG_DIR}/install.log");
        let mut what = "log";
        let fetched = match timeout(timeouts::LOG_FETCH, self.guest.run_checked(&line, None)).await {
            Ok(Ok(text)) => {
                if text.len() >= LOG {
                    what = "log, the end of it,";
                }
                files::write(&folder.join("install.log"), printable_log(&text).as_bytes(), 0o600)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(Class::Io, "no answer within a minute")),
        };
        match fetched {
            Ok(()) => self.events.note(format!("the machine's {what} is in {}", folder.join("install.log").display())),
            Err(error) => self.events.note(format!("the machine's log could not be fetched: {error}")),
        }
    }

    /// As the script itself announces it.
    fn title(&self, stage: &Stage) -> String {
        let number = self.plan.stages.iter().position(|other| other.id == stage.id).map_or(0, |index| index + 1);
        format!("[{number}/{}] {}", self.plan.stages.len(), stage.title)
    }

    fn output(&self, stage: &Stage, line: &str, last: &mut Vec<String>) {
        if line != self.title(stage) {
            self.events.emit(&Event::Output { line: line.to_owned() });
        }
        keep(last, line);
    }
}

fn keep(last: &mut Vec<String>, line: &str) {
    last.push(line.to_owned());
    if last.len() > LAST_LINES {
        last.remove(0);
    }
}

/// What starts the seal and waits for it. /dev/shm is memory: nothing of this is in the image. `setsid --wait` is newer than EL 7.
fn seal_line(stage: &Stage, run: &str) -> Result<String> {
    let seal = format!(
        "/bin/bash {STATE_DIR}/install.sh --stage {} >\"$said\" 2>&1 && sync && {} >/dev/console",
        stage.id,
        sealed_command(run),
    );
    let whole = format!(
        "said=$(mktemp /dev/shm/efa-gen.XXXXXXXXXX) || exit 1; export said; \
         setsid /bin/sh -c {} </dev/null >/dev/null 2>&1 & wait $!; code=$?; cat \"$said\"; exit $code",
        quote(&seal)?,
    );
    Ok(format!("sudo /bin/sh -c {}", quote(&whole)?))
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
        .with_source(ending(&last[from..].join("\n")).into_owned())
        .hint("the builder's whole log is in the run's folder")
}
