//! Owns what the hosts of a test are asked besides it: their interfaces before it, EFA's counters before and after each run, and
//! who is missing in a run that hangs.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::nccl::command::{EXCLUDE, Host, INCLUDE, Programs, script_on};
use efa_gen::nccl::counters::{self, HostCounters};
use efa_gen::nccl::interfaces::{self, InterfaceOptions};
use efa_gen::nccl::processes::{self, HostProcesses, LastWords};
use efa_gen::nccl::ras::{self, Ras};
use efa_gen::shell;
use efa_gen::text::beginning;

use super::runner::{Executor, ProcessExit};

use crate::io::concurrency::map_concurrent;
use crate::io::events::EventSink;
use crate::timeouts;

/// Hosts that are asked one by one at a time, which is a login on the first host each: OpenSSH drops logins beyond ten.
const AT_ONCE: usize = 8;

/// Largest log whose last lines are looked for, bytes.
const LOG: u64 = 1 << 30;

/// Why something could not be asked: the first line that says something.
fn reason(error: &Error) -> String {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let says = |line: &&str| line.chars().any(char::is_alphanumeric);
    beginning(text.lines().find(says).unwrap_or("no output")).into_owned()
}

/// What these hosts print when each executes the script once.
async fn ask(executor: Executor<'_>, programs: &Programs, hosts: &[Host], script: &str) -> Result<String> {
    let argv = script_on(hosts, programs, script);
    let seconds = timeouts::HOSTS_ANSWER.as_secs();
    executor.ask(&format!("timeout {seconds} {} </dev/null", shell::join(&argv)?)).await
}

/// Gives Open MPI and NCCL the interfaces by which the hosts reach each other, unless the user has named some.
pub async fn interfaces(
    executor: Executor<'_>,
    programs: &mut Programs,
    hosts: &[Host],
    own: &[(String, String)],
    events: &EventSink,
) -> Result<()> {
    let mpi = !programs.mca.iter().any(|(key, _)| [INCLUDE, EXCLUDE].contains(&key.as_str()));
    let nccl = !own.iter().any(|(name, _)| name == interfaces::VARIABLE);
    if hosts.len() < 2 || !mpi || !nccl {
        return Ok(());
    }
    match found(executor, programs, hosts).await {
        Ok(InterfaceOptions { mca, variable }) => {
            let names = variable.as_ref().map_or("", |(_, names)| names.trim_start_matches('='));
            events.note(format!("interfaces: {names} ({}), by which the hosts reach each other; --interfaces names others", mca.1));
            programs.mca.push(mca);
            if let Some(variable) = variable {
                programs.environment.retain(|(name, _)| *name != variable.0);
                programs.environment.push(variable);
            }
        }
        Err(error) if error.class() == Class::Interrupted => return Err(error),
        Err(error) => events.note(format!(
            "interfaces: bridges are left out by their usual names alone, because it is not known by which interfaces the hosts reach \
             each other ({}); --interfaces names them",
            reason(&error)
        )),
    }
    Ok(())
}

async fn found(executor: Executor<'_>, programs: &Programs, hosts: &[Host]) -> Result<InterfaceOptions> {
    let resolved = match interfaces::resolution(hosts)? {
        Some(line) => executor.ask(&line).await?,
        None => String::new(),
    };
    let answers = ask(executor, programs, hosts, interfaces::QUESTION).await?;
    interfaces::between(hosts, &resolved, &answers).map_err(|why| Error::new(Class::Check, why))
}

/// EFA's counters on every host; a note where they can't be read.
pub async fn counters(
    executor: Executor<'_>,
    programs: &Programs,
    hosts: &[Host],
    events: &EventSink,
) -> Option<Vec<HostCounters>> {
    if hosts.len() < 2 {
        return None;
    }
    match ask(executor, programs, hosts, &counters::question(counters::DEVICES)).await {
        Ok(answers) => Some(counters::read(&answers)),
        Err(error) => {
            events.note(format!("EFA's counters were not read: {}", reason(&error)));
            None
        }
    }
}

/// What was learned of a run that hangs.
#[derive(Debug, Default)]
pub struct HangAnswers {
    /// RAS's own text.
    pub text: Option<String>,
    pub ras: Option<Ras>,
    /// Of each host; empty where RAS named who is missing.
    pub processes: Vec<HostProcesses>,
}

/// Waits for the end of a run. Before its time is over, NCCL is asked who is missing, and where it can't be asked or misses
/// nobody, every host is asked for its processes: nobody can tell afterwards.
pub async fn with_question(
    watched: impl Future<Output = Result<ProcessExit>>,
    executor: Executor<'_>,
    programs: &Programs,
    (hosts, program): (&[Host], &str),
    limit: Duration,
) -> Result<(ProcessExit, HangAnswers)> {
    let answers = RefCell::new(HangAnswers::default());
    let asking = async {
        // A short run is asked at its half.
        tokio::time::sleep(limit.saturating_sub(timeouts::BEFORE_THE_END).max(limit / 2)).await;
        let text = executor.ask(ras::QUESTION).await.ok();
        let ras = text.as_deref().and_then(ras::read);
        let named = ras.as_ref().is_some_and(|ras| ras.missing_count > 0);
        {
            let mut answers = answers.borrow_mut();
            (answers.text, answers.ras) = (text, ras);
        }
        if named {
            return;
        }
        let question = processes::question(program);
        let silent = |why: String, host: &Host| HostProcesses {
            address: host.address.clone(),
            wanted: host.slots,
            no_answer: Some(why),
            ..HostProcesses::default()
        };
        answers.borrow_mut().processes =
            hosts.iter().map(|host| silent("no answer in time".to_owned(), host)).collect();
        map_concurrent(hosts.iter().enumerate(), AT_ONCE, async |(at, host): (usize, &Host)| {
            let told = match ask(executor, programs, std::slice::from_ref(host), &question).await {
                Ok(answer) => processes::read(&host.address, host.slots, &answer),
                Err(error) => silent(reason(&error), host),
            };
            answers.borrow_mut().processes[at] = told;
        })
        .await;
    };
    let ended = {
        tokio::pin!(watched, asking);
        let mut asked = false;
        loop {
            tokio::select! {
                ended = &mut watched => break ended?,
                () = &mut asking, if !asked => asked = true,
            }
        }
    };
    Ok((ended, answers.into_inner()))
}

/// The last words of each process, from the log that was kept; none of a log too large for that.
pub fn last_words(log: &Path) -> Result<Vec<LastWords>> {
    let failed = |error| Error::new(Class::Io, format!("could not read log {}", log.display())).with_source(error);
    if fs::metadata(log).map_err(failed)?.len() > LOG {
        return Ok(Vec::new());
    }
    Ok(processes::last_words(&fs::read(log).map_err(failed)?))
}
