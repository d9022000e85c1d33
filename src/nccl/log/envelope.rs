//! Owns what others put around the lines of a log: colours, stamps, names of hosts, pods and ranks.
//!
//! NCCL's own lines are found wherever they stand ([`super::line::message_within`]). What stands before nccl-tests' lines is learned
//! from two of them at least: it repeats byte for byte, but for digits, and holds no process of NCCL.

use super::line::names_a_process;

/// Distinct texts before a line that are learned: after midnight a stamp is another one.
const PREFIXES: usize = 8;

/// Lines that wait for a second one with the same text before them.
const WAITING: usize = 64;

/// What was learned of the text before each line.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    /// A run of digits is one `0`.
    known: Vec<Vec<u8>>,
    waiting: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Prefixes {
    /// The line without the text before it, if that was learned.
    pub fn strip<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        self.known.iter().find_map(|pattern| {
            let rest = behind_pattern(pattern, line)?;
            Some(unquoted(pattern, rest))
        })
    }

    /// Looks at a line of nccl-tests that has a text before it. Once a second one has the same, the lines that waited for that.
    /// `None` where it is not kept.
    pub fn learn(&mut self, line: &[u8], at: usize) -> Option<Vec<Vec<u8>>> {
        let prefix = &line[..at];
        if self.known.len() == PREFIXES || prefix.split(u8::is_ascii_whitespace).any(names_a_process) {
            return None;
        }
        let pattern = pattern(prefix);
        if !self.waiting.iter().any(|(other, _)| *other == pattern) {
            if self.waiting.len() == WAITING {
                return None;
            }
            self.waiting.push((pattern, line.to_vec()));
            return Some(Vec::new());
        }
        let (mut same, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(other, _)| *other == pattern);
        self.waiting = others;
        self.known.push(pattern.clone());
        same.push((pattern, line.to_vec()));
        Some(same.into_iter().map(|(_, line)| line).collect())
    }

    /// Lines that still wait.
    pub fn waiting(&self) -> impl Iterator<Item = &[u8]> {
        self.waiting.iter().map(|(_, line)| line.as_slice())
    }
}

/// A text that begins behind a quotation mark ends before one, and before what a list or an object has behind that.
pub(crate) fn unquoted<'a>(before: &[u8], text: &'a [u8]) -> &'a [u8] {
    if !matches!(before.last(), Some(b'"' | b'\'')) {
        return text;
    }
    let end = text.iter().rposition(|b| !b"\"',}] ".contains(b)).map_or(0, |at| at + 1);
    &text[..end]
}

/// The text with each run of digits as one `0`.
fn pattern(text: &[u8]) -> Vec<u8> {
    let mut pattern: Vec<u8> = Vec::with_capacity(text.len());
    let mut in_digits = false;
    for byte in text {
        let digit = byte.is_ascii_digit();
        if !digit {
            pattern.push(*byte);
        } else if !in_digits {
            pattern.push(b'0');
        }
        in_digits = digit;
    }
    pattern
}

fn behind_pattern<'a>(pattern: &[u8], mut line: &'a [u8]) -> Option<&'a [u8]> {
    for byte in pattern {
        if *byte == b'0' {
            let digits = line.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            line = &line[digits..];
        } else {
            line = line.strip_prefix(&[*byte])?;
        }
    }
    Some(line)
}

/// How nccl-tests begins a line, behind the `#`.
const ANCHORS: [&str; 9] = [
    "nThread ",
    "Rank ",
    "Using devices",
    "size ",
    "Out of bounds values",
    "Avg bus bandwidth",
    "Collective test ",
    "nccl-tests version ",
    "Reducing maxBytes ",
];

/// Where a line of nccl-tests begins in this one, if something stands before it.
pub(crate) fn anchor(line: &[u8]) -> Option<usize> {
    let at = memchr::memchr(b'#', line).filter(|at| *at > 0)?;
    let text = line[at + 1..].trim_ascii_start();
    ANCHORS.iter().any(|anchor| text.starts_with(anchor.as_bytes())).then_some(at)
}

/// The line without the sequences that colour it, if it has any (ECMA-48: `ESC [`, parameters, a letter; `ESC ]`, a title, BEL;
/// `ESC (` and the name of a set of characters).
pub(crate) fn without_colours(line: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(0x1b, line)?;
    let mut plain = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != 0x1b {
            plain.push(byte);
        } else {
            match bytes.next() {
                Some(b'[') => {
                    while bytes.next_if(|b| !(0x40..=0x7e).contains(b)).is_some() {}
                    bytes.next();
                }
                Some(b']') => {
                    while bytes.next_if(|b| ![0x07, 0x1b].contains(b)).is_some() {}
                    if bytes.next() == Some(0x1b) {
                        bytes.next();
                    }
                }
                Some(b'(' | b')') => {
                    bytes.next();
                }
                _ => {}
            }
        }
    }
    Some(plain)
}

/// The line without the tags that `mpirun --tag-output` puts before each piece of it, if it has more than one.
pub(crate) fn without_tags(line: &[u8]) -> Option<Vec<u8>> {
    let mut found = memchr::memmem::find_iter(line, b"]<stdout>:");
    found.next()?;
    found.next()?;
    let mut plain = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(end) = memchr::memmem::find(rest, b"]<stdout>:") {
        let digits = |b: &&u8| b.is_ascii_digit() || **b == b',';
        let length = rest[..end].iter().rev().take_while(digits).count();
        let begin = end - length;
        // `[1,0]`.
        let begin = if rest[..begin].last() == Some(&b'[') { begin - 1 } else { end };
        plain.extend_from_slice(&rest[..begin]);
        rest = &rest[end + b"]<stdout>:".len()..];
    }
    plain.extend_from_slice(rest);
    Some(plain)
}

/// Under which of these a log of JSON lines has its text, or else under any other: Docker's files, CloudWatch, journald, Google Cloud, Python's loggers.
const KEYS: [&str; 5] = ["log", "message", "MESSAGE", "textPayload", "msg"];

/// The text of a line that is one JSON object, if it has one.
pub(crate) fn of_json(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii();
    if !line.starts_with(b"{\"") || !line.ends_with(b"}") {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
    let longest = |texts: &mut dyn Iterator<Item = &serde_json::Value>| {
        texts.filter_map(serde_json::Value::as_str).max_by_key(|text| text.len()).map(str::to_owned)
    };
    longest(&mut KEYS.iter().filter_map(|key| object.get(*key))).or_else(|| longest(&mut object.values()))
}

/// UTF-16, as PowerShell writes it, in pieces of any length.
#[derive(Debug)]
pub(crate) struct Utf16 {
    big_endian: bool,
    half: Option<u8>,
    high: Option<u16>,
}

impl Utf16 {
    /// From the first two bytes of a log.
    pub fn by_mark(bytes: &[u8]) -> Option<Utf16> {
        let big_endian = match bytes {
            [0xff, 0xfe, ..] => false,
            [0xfe, 0xff, ..] => true,
            _ => return None,
        };
        Some(Utf16 { big_endian, half: None, high: None })
    }

    /// The next bytes as UTF-8; what is no character becomes U+FFFD.
    pub fn decode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut text = String::with_capacity(bytes.len() / 2);
        for byte in bytes {
            let Some(first) = self.half.take() else {
                self.half = Some(*byte);
                continue;
            };
            let pair = [first, *byte];
            let unit = if self.big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
            match self.high.take() {
                None if (0xd800..0xdc00).contains(&unit) => self.high = Some(unit),
                high => {
                    let units = high.into_iter().chain([unit]);
                    text.extend(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
                }
            }
        }
        text.into_bytes()
    }
}
