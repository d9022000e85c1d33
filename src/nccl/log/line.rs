//! Owns the shape of a log line: what launchers put before it, and who of NCCL's processes wrote it.
//!
//! Prefixes: none; `[1,0]<stdout>:` of `mpirun --tag-output`, with or without a blank after it; `0: ` of `srun -l`;
//! `[pod/NAME/CONTAINER] ` of `kubectl logs --prefix`. NCCL: `HOST:PID:TID [DEV] NCCL INFO ...`; a warning has
//! `FILE:LINE` before `NCCL WARN`, and from 2.28 on a date before it all and a function's signature, with blanks, for
//! the file.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::bytes::{behind, digits};

/// How serious NCCL says that a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Warn,
}

/// A line by one of NCCL's processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NcclMessage<'a> {
    /// `HOST:PID`.
    pub process: &'a [u8],
    pub level: Level,
    pub text: &'a [u8],
}

/// The line without its end and without what a launcher put before it. Launchers can be nested.
pub(crate) fn bare(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r'] = line {
        line = rest;
    }
    for _ in 0..3 {
        match without_prefix(line) {
            Some(rest) => line = rest,
            None => break,
        }
    }
    line
}

fn without_prefix(line: &[u8]) -> Option<&[u8]> {
    match line.first()? {
        b'[' => {
            let end = memchr::memchr(b']', &line[..line.len().min(512)])?;
            let rest = &line[end + 1..];
            if let Some(rest) = rest.strip_prefix(b"<std") {
                let rest = rest.strip_prefix(b"out>:").or_else(|| rest.strip_prefix(b"err>:"))?;
                // Before a row the blanks are the row's own, which does not mind; before NCCL's lines there is one.
                return Some(rest.strip_prefix(b" ").unwrap_or(rest));
            }
            line.starts_with(b"[pod/").then(|| rest.strip_prefix(b" ")).flatten()
        }
        b'0'..=b'9' | b' ' => {
            // `srun -l` pads the task's number with blanks.
            let (_, rest) = digits(line.trim_ascii_start())?;
            let rest = rest.strip_prefix(b":")?;
            if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b" ") }
        }
        _ => None,
    }
}

/// The line as one of NCCL's, if it is one.
pub(crate) fn message(line: &[u8]) -> Option<NcclMessage<'_>> {
    let line = undated(line);
    let host = memchr::memchr(b':', &line[..line.len().min(260)])?;
    if host == 0 || !line[..host].iter().all(|b| is_of_a_host(*b)) || is_a_stamp(&line[..host]) {
        return None;
    }
    let (_, rest) = digits(&line[host + 1..])?;
    let process = &line[..line.len() - rest.len()];
    let (_, rest) = digits(rest.strip_prefix(b":")?)?;
    let rest = rest.strip_prefix(b" ")?;
    let rest = match rest.strip_prefix(b"[") {
        Some(inner) => &inner[memchr::memchr(b']', &inner[..inner.len().min(12)])? + 1..],
        None => rest,
    };
    let rest = rest.trim_ascii_start();
    if let Some(text) = rest.strip_prefix(b"NCCL INFO ") {
        return Some(NcclMessage { process, level: Level::Info, text });
    }
    let text = behind(rest, "NCCL WARN ")?;
    Some(NcclMessage { process, level: Level::Warn, text })
}

static NCCL: LazyLock<Finder> = LazyLock::new(|| Finder::new(" NCCL "));

/// One of NCCL's messages, wherever it stands in the line, and what is before HOST:PID:TID, which is somebody else's.
pub(crate) fn message_within(line: &[u8]) -> Option<(NcclMessage<'_>, &[u8])> {
    let at = NCCL.find(line)?;
    let rest = &line[at + NCCL.needle().len()..];
    let (head, mut words) = (&line[..at], 0);
    if let Some(text) = rest.strip_prefix(b"INFO ") {
        // `HOST:PID:TID`, or that and `[DEV]`.
        let head = head.trim_ascii_end();
        let device = head.strip_suffix(b"]").and_then(|head| memchr::memrchr(b'[', head).map(|at| &head[..at]));
        let process = process_at_the_end(device.unwrap_or(head).trim_ascii_end())?;
        return Some((NcclMessage { process, level: Level::Info, text }, before(line, process)));
    }
    let text = rest.strip_prefix(b"WARN ")?;
    // Before the file, or the function, with its types and blanks.
    let mut head = head;
    while words < 40 {
        let word = head.iter().rposition(u8::is_ascii_whitespace).map_or(0, |at| at + 1);
        if let Some(process) = process_at_the_end(&head[word..]) {
            return Some((NcclMessage { process, level: Level::Warn, text }, before(line, process)));
        }
        head = head[..word].trim_ascii_end();
        if head.is_empty() {
            return None;
        }
        words += 1;
    }
    None
}

/// What stands before this part of a line.
fn before<'a>(line: &'a [u8], part: &[u8]) -> &'a [u8] {
    memchr::memmem::find(line, part).map_or(line, |at| &line[..at])
}

/// Whether this word ends in a process of NCCL.
pub(crate) fn names_a_process(word: &[u8]) -> bool {
    process_at_the_end(word).is_some()
}

/// `HOST:PID` of a text that ends in `HOST:PID:TID`.
fn process_at_the_end(text: &[u8]) -> Option<&[u8]> {
    let number = |text: &[u8]| {
        let digits = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
        (digits > 0).then(|| text.len() - digits)
    };
    let before_thread = text[..number(text)?].strip_suffix(b":")?;
    let before_process = before_thread[..number(before_thread)?].strip_suffix(b":")?;
    let host = before_process.iter().rev().take_while(|b| is_of_a_host(**b)).count();
    let host = &before_process[before_process.len() - host..];
    (!host.is_empty() && host.len() <= LONGEST_HOST && !is_a_stamp(host))
        .then(|| &before_thread[before_process.len() - host.len()..])
}

/// Whether this is what stands before the minutes of a stamp: 10:00:00 or 2026-11-30T10:00:00 is no process.
fn is_a_stamp(host: &[u8]) -> bool {
    let date = matches!(host, [_, _, _, _, b'-', _, _, b'-', ..]) && host[..4].iter().all(u8::is_ascii_digit);
    date || host.len() <= 2 && host.iter().all(u8::is_ascii_digit)
}

/// Longest name of a host (RFC 1035, section 2.3.4).
const LONGEST_HOST: usize = 255;

fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// Without `[2026-11-22 08:36:15] `.
fn undated(line: &[u8]) -> &[u8] {
    let Some(inner) = line.strip_prefix(b"[") else { return line };
    let end = memchr::memchr(b']', &inner[..inner.len().min(64)]);
    match end.map(|end| (&inner[..end], &inner[end + 1..])) {
        Some((date, rest)) if date.first().is_some_and(u8::is_ascii_digit) && !date.contains(&b',') => {
            rest.strip_prefix(b" ").unwrap_or(rest)
        }
        _ => line,
    }
}
