//! Owns what the hosts say of a run that hangs: the question for a host, which of the test's processes it has and in which state
//! they are; and what each of them printed last.
//!
//! States are those of Linux, proc_pid_status(5): R runs, S sleeps, D waits in the kernel, T is stopped, t is traced, Z has ended.

use std::collections::HashMap;

use serde::Serialize;

use super::log::line::message_within;
use crate::text::{clean, clip};

const HOST: &str = "EFA-GEN HOST ";
const PROCESS: &str = "EFA-GEN PROCESS ";
const END: &str = " .";

/// Longest name that Linux keeps of a program (`TASK_COMM_LEN`, without its end).
const COMM: usize = 15;

/// Processes that are read of one host.
const MOST: usize = 1024;

/// Bytes of a last line.
const LINE: usize = 200;

/// Script for a POSIX shell that names the processes of a program, a line each, after the host.
pub fn question(program: &str) -> String {
    let comm = &program[..program.len().min(COMM)];
    format!(
        "h=\"$(uname -n)\"; printf '{HOST}%s{END}\\n' \"$h\"; for d in /proc/[0-9]*; do \
         {{ read -r c <\"$d/comm\" && [ \"$c\" = {comm} ]; }} || continue; s=-; w=-; \
         while read -r k v r; do [ \"$k\" != State: ] || {{ s=$v; break; }}; done <\"$d/status\"; read -r w <\"$d/wchan\"; \
         printf '{PROCESS}%s %s %s{END}\\n' \"${{d##*/}}\" \"$s\" \"${{w:--}}\"; done 2>/dev/null; :"
    )
}

/// A process of the test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostProcess {
    /// Its number.
    pub pid: String,
    /// One letter.
    pub state: String,
    /// Where in the kernel it waits, if it says so.
    pub waits_in: Option<String>,
}

/// What a host said, or why no output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostProcesses {
    /// As the test names it.
    pub address: String,
    /// As it names itself.
    pub host: Option<String>,
    /// Ranks that it got.
    pub wanted: u32,
    /// Those of its processes that are the test's.
    pub processes: Vec<HostProcess>,
    /// Why it was not asked, or did not answer.
    pub no_answer: Option<String>,
}

/// Reads a host's answer.
pub fn read(address: &str, wanted: u32, answer: &str) -> HostProcesses {
    let mut told = HostProcesses { address: address.to_owned(), wanted, ..HostProcesses::default() };
    for line in answer.lines() {
        let Some(line) = line.trim_end().strip_suffix(END) else { continue };
        if let Some(name) = line.strip_prefix(HOST) {
            told.host = Some(clean(name.as_bytes()));
        } else if let Some(process) = line.strip_prefix(PROCESS).and_then(process)
            && told.processes.len() < MOST
        {
            told.processes.push(process);
        }
    }
    if told.host.is_none() {
        told.no_answer = Some("its answer could not be read".to_owned());
    }
    told
}

fn process(text: &str) -> Option<HostProcess> {
    let mut words = text.split(' ');
    let (pid, state, waits) = (words.next()?, words.next()?, words.next()?);
    let sound = pid.bytes().all(|b| b.is_ascii_digit()) && state.len() == 1 && words.next().is_none();
    let waits_in = Some(waits).filter(|at| !["-", "0"].contains(at)).map(|at| clean(at.as_bytes()));
    sound.then(|| HostProcess { pid: pid.to_owned(), state: clean(state.as_bytes()), waits_in })
}

/// What a process of NCCL printed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastWords {
    /// `HOST:PID`.
    pub process: String,
    /// Without what stands before it.
    pub text: String,
    /// The line of the log.
    pub line: u64,
}

/// The last words of every process in a log, those that have been silent the longest first.
pub fn last_words(log: &[u8]) -> Vec<LastWords> {
    let mut last: HashMap<&[u8], (&[u8], u64)> = HashMap::new();
    for (number, line) in (1..).zip(log.split(|b| *b == b'\n')) {
        if let Some((message, _)) = message_within(line) {
            last.insert(message.process, (message.text, number));
        }
    }
    let mut words: Vec<LastWords> = last
        .into_iter()
        .map(|(process, (text, line))| LastWords { process: clean(process), text: clip(&clean(text), LINE), line })
        .collect();
    words.sort_by_key(|words| words.line);
    words
}
