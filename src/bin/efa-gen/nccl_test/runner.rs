//! Owns where the first host's programs are started: on this machine, or on a guest over SSH; and how one is watched,
//! ended in time, and ended with efa-gen.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::nccl::command::{TERMINATION_GRACE, exit_status};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::io::output::{answer, each_line};
use crate::io::signals::interrupted;
use crate::io::ssh::Guest;
use crate::timeouts;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// The exit status of `timeout` where the time was over.
pub const TIMED_OUT: i32 = 124;
/// Exit statuses of a program that was ended by a signal.
const TERMINATED: i32 = 128 + 15;
const KILLED: i32 = 128 + 9;

/// Lines of standard error that are kept.
const LAST_LINES: usize = 20;

/// Where programs are started.
#[derive(Debug, Clone, Copy)]
pub enum Executor<'a> {
    /// On this machine.
    Here,
    /// On a guest that is reached over SSH.
    Guest(&'a Guest),
}

/// How a line ended that was watched.
#[derive(Debug)]
pub struct ProcessExit {
    /// The exit status of the program in it, 124 where its time was over; absent where the connection, or the shell, ended
    /// first.
    pub status: Option<i32>,
    /// The last lines of standard error, which are the shell's or ssh's own.
    pub output: String,
}

impl Executor<'_> {
    async fn command(self, line: &str) -> Result<Command> {
        let mut command = match self {
            Executor::Guest(guest) => guest.ssh(line, false).await?,
            Executor::Here => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", line]);
                command
            }
        };
        // A group of its own: what is typed at the terminal reaches efa-gen alone, which ends what it started.
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }

    async fn start(self, line: &str, input: Stdio) -> Result<tokio::process::Child> {
        self.command(line).await?.stdin(input).spawn().map_err(|error| {
            let program = if matches!(self, Executor::Here) { "/bin/sh" } else { "ssh" };
            Error::new(Class::Io, format!("could not start {program}")).with_source(error)
        })
    }

    /// What a short line prints; it must succeed.
    pub async fn ask(self, line: &str) -> Result<String> {
        let child = self.start(line, Stdio::null()).await?;
        let failed =
            |why: String| Error::new(Class::Io, format!("{} could not be asked", self.name())).with_source(why);
        match tokio::time::timeout(timeouts::QUESTION, answer(child)).await {
            Err(_) => Err(failed(format!("no answer within {} s", timeouts::QUESTION.as_secs()))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok(answer)) if answer.status.success() => Ok(answer.text),
            Ok(Ok(answer)) => Err(failed(answer.complaints.trim().to_owned())),
        }
    }

    /// For messages.
    pub fn name(self) -> String {
        match self {
            Executor::Here => "this machine".into(),
            Executor::Guest(guest) => guest.alias.clone(),
        }
    }

    /// Runs a line of [`efa_gen::nccl::command::line`] and gives its output away as it comes. Its standard input is held
    /// open: when it is let go of, by whatever becomes of this process, the program in the line is ended. `limit` is the
    /// line's own; some time beyond it, it is ended from here.
    ///
    /// Errors: interrupted, the program ended first; whatever `took` says.
    pub async fn watch(
        self,
        line: &str,
        limit: Duration,
        mut stop: watch::Receiver<u32>,
        mut took: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<ProcessExit> {
        let mut child = self.start(line, Stdio::piped()).await?;
        let mut lifeline = child.stdin.take();
        let piped = || Error::new(Class::Bug, "a program was started without pipes");
        let mut output = child.stdout.take().ok_or_else(piped)?;
        let (send, mut complaints) = mpsc::channel(LAST_LINES);
        tokio::spawn(each_line(child.stderr.take().ok_or_else(piped)?, send));
        let began = Instant::now();
        let mut end = began + limit + TERMINATION_GRACE + timeouts::TEST_SLACK;
        let mut piece = vec![0; PIECE];
        let (mut status, mut last_lines) = (None, VecDeque::new());
        let (mut printing, mut complaining, mut stopped) = (true, true, false);
        while printing || complaining {
            tokio::select! {
                read = output.read(&mut piece), if printing => match read {
                    Ok(0) | Err(_) => printing = false,
                    Ok(length) => took(&piece[..length])?,
                },
                line = complaints.recv(), if complaining => match line {
                    None => complaining = false,
                    Some(line) => match exit_status(&line) {
                        // What the program left behind may keep the pipes open.
                        Some(code) => (status, end) = (Some(code), end.min(Instant::now() + TERMINATION_GRACE)),
                        None => keep(&mut last_lines, line),
                    },
                },
                Ok(()) = stop.changed(), if !stopped => {
                    (stopped, lifeline) = (true, None);
                    end = Instant::now() + TERMINATION_GRACE + timeouts::TEST_SLACK;
                },
                () = sleep_until(end) => {
                    if lifeline.take().is_none() || status.is_some() {
                        break;
                    }
                    end = Instant::now() + TERMINATION_GRACE + timeouts::TEST_SLACK;
                },
            }
        }
        if stopped {
            return Err(interrupted());
        }
        // A program that had to be killed says so instead of 124.
        let late = began.elapsed() >= limit && matches!(status, None | Some(TERMINATED | KILLED));
        Ok(ProcessExit {
            status: if late { Some(TIMED_OUT) } else { status },
            output: Vec::from(last_lines).join("\n"),
        })
    }
}

fn keep(lines: &mut VecDeque<String>, line: String) {
    if lines.len() == LAST_LINES {
        lines.pop_front();
    }
    lines.push_back(line);
}
