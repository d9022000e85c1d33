//! Owns reading a log: bytes in pieces of any length -> lines -> evidence, in memory that does not grow with the log.

use super::bytes::{after, digits, float, holds, version};
use super::envelope::{Prefixes, Utf16, anchor, of_json, unquoted, without_colours, without_tags};
use super::evidence::Evidence;
use super::failure::{self, is_trace};
use super::json;
use super::line::{bare, message, message_within};
use super::message::{nccl_version, take};
use super::row::{ColumnLayout, ParsedLine, Preamble, Row, rank, row};
use crate::nccl::log::report::Report;
use crate::text::clean;

/// Longest line that is looked at, bytes; what is beyond it is skipped.
const LINE: usize = 64 << 10;

/// What programs of Windows put at the beginning of UTF-8.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Largest JSON document that is read, bytes: some 4,000 ranks and rows.
const DOCUMENT: usize = 8 << 20;

/// Reads the output of an nccl-tests program, of whatever age, with NCCL's own lines between: text, or the JSON of `-J`.
///
/// ```
/// let mut reader = efa_gen::nccl::Reader::new();
/// reader.feed(b"ip-10-0-0-1:4101:4101 [0] NCCL INFO Using network ");
/// reader.feed(b"Socket\n");
/// let report = reader.finish(Some(0));
/// assert_eq!(report.networks[0].name, "Socket");
/// ```
#[derive(Debug, Default)]
pub struct Reader {
    evidence: Evidence,
    /// The line that the last piece ended in, at most [`LINE`] bytes of it.
    pending: Vec<u8>,
    shape: Shape,
    prefixes: Prefixes,
    utf16: Option<Utf16>,
    /// Whether the last line ended in CR: a LF behind it ends no other.
    after_cr: bool,
}

#[derive(Debug, Default)]
enum Shape {
    /// Nothing but blanks so far, or a `{`: what came is kept.
    #[default]
    Open,
    Text,
    Document,
}

impl Reader {
    /// A reader that has seen nothing.
    pub fn new() -> Reader {
        Reader::default()
    }

    /// The next bytes of the log. Where they are cut makes no difference.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.evidence.bytes += bytes.len() as u64;
        match &mut self.utf16 {
            Some(utf16) => {
                let text = utf16.decode(bytes);
                self.utf8(&text);
            }
            None => self.utf8(bytes),
        }
    }

    fn utf8(&mut self, bytes: &[u8]) {
        match self.shape {
            Shape::Text => self.text(bytes),
            Shape::Document => self.document(bytes),
            Shape::Open => {
                self.pending.extend_from_slice(bytes);
                if self.utf16.is_none() {
                    if let Some(mut utf16) = Utf16::by_mark(&self.pending) {
                        let text = utf16.decode(&std::mem::take(&mut self.pending)[2..]);
                        self.utf16 = Some(utf16);
                        self.utf8(&text);
                        return;
                    }
                    if self.pending.starts_with(UTF8_MARK) {
                        self.pending.drain(..UTF8_MARK.len());
                    }
                    // A part of such a mark.
                    if matches!(self.pending[..], [0xfe | 0xff])
                        || !self.pending.is_empty() && UTF8_MARK.starts_with(&self.pending)
                    {
                        return;
                    }
                }
                let mut visible = self.pending.iter().filter(|b| !b.is_ascii_whitespace());
                match (visible.next(), visible.next()) {
                    (Some(b'{'), Some(b'"')) => {
                        self.shape = Shape::Document;
                        self.document(b"");
                    }
                    // A log of blanks is no document, and must not be kept.
                    (Some(b'{') | None, None) if self.pending.len() < LINE => {}
                    _ => self.as_text(),
                }
            }
        }
    }

    /// The rows so far, of a run that is still at work.
    pub fn rows(&self) -> &[Row] {
        &self.evidence.rows
    }

    /// What the log says, and how the run ended. `exit_status` is that of the program that wrote the log, where it is
    /// known; 124 is what `timeout` gives.
    pub fn finish(mut self, exit_status: Option<i32>) -> Report {
        if matches!(self.shape, Shape::Document) {
            if json::take(&mut self.evidence, &self.pending) {
                self.pending.clear();
            } else {
                self.as_text();
            }
        }
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.line(&rest);
        }
        for line in self.prefixes.waiting() {
            self.evidence.add_unread(line);
        }
        Report::new(self.evidence, exit_status)
    }

    fn document(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() > DOCUMENT {
            self.as_text();
        }
    }

    /// What was kept for a document was none.
    fn as_text(&mut self) {
        self.shape = Shape::Text;
        let kept = std::mem::take(&mut self.pending);
        self.text(&kept);
    }

    fn text(&mut self, mut bytes: &[u8]) {
        if !self.pending.is_empty() {
            let end = memchr::memchr2(b'\n', b'\r', bytes);
            let room = LINE.saturating_sub(self.pending.len());
            let first = &bytes[..end.unwrap_or(bytes.len())];
            self.pending.extend_from_slice(&first[..first.len().min(room)]);
            let Some(end) = end else { return };
            let line = std::mem::take(&mut self.pending);
            self.line(&line);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            if end > 0 || !self.after_cr || bytes[end] != b'\n' {
                self.line(&bytes[..end.min(LINE)]);
            }
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
        self.pending.extend_from_slice(&bytes[..bytes.len().min(LINE)]);
    }

    fn line(&mut self, line: &[u8]) {
        self.evidence.lines += 1;
        let Some(text) = of_json(line) else {
            self.enveloped(line);
            return;
        };
        text.lines().for_each(|line| self.enveloped(line.as_bytes()));
        // Another field may say why a container ended.
        if failure::told(text.as_bytes()).0.is_none()
            && let (Some(at), _) = failure::told(line)
        {
            self.evidence.add_failure(at, line);
        }
    }

    /// A line with what stands before it.
    fn enveloped(&mut self, line: &[u8]) {
        let plain = without_colours(line);
        let line = plain.as_deref().unwrap_or(line);
        let untagged = without_tags(line);
        let tagged = untagged.as_deref().unwrap_or(line);
        let line = bare(tagged);
        let tag = &tagged[..line.as_ptr().addr() - tagged.as_ptr().addr()];
        if self.known(tag, line) {
            return;
        }
        if let Some(rest) = self.prefixes.strip(line) {
            // Behind a stamp there may be a launcher's tag.
            let rest = bare(rest);
            if !self.known(tag, rest) {
                other(&mut self.evidence, rest);
            }
        } else if let Some(at) = anchor(line) {
            let Some(lines) = self.prefixes.learn(line, at) else {
                self.evidence.add_unread(line);
                return;
            };
            for line in lines {
                if let Some(rest) = self.prefixes.strip(&line) {
                    self.known(tag, bare(rest));
                }
            }
        } else {
            other(&mut self.evidence, line);
        }
    }

    /// Takes a line that begins as nccl-tests' or NCCL's do, or holds one of NCCL's. Whether it is one. `tag` is what a launcher put
    /// before it.
    fn known(&mut self, tag: &[u8], line: &[u8]) -> bool {
        let evidence = &mut self.evidence;
        match line.first() {
            None => return true,
            Some(b'#') => {
                comment(evidence, &line[1..]);
                if let (Some(at), _) = failure::told(line) {
                    evidence.add_failure(at, line);
                }
                return true;
            }
            Some(b' ' | b'0'..=b'9') => match row(line, evidence.layout) {
                ParsedLine::Row(row) => {
                    evidence.add_row(row);
                    return true;
                }
                ParsedLine::Damaged => {
                    evidence.damaged_rows += 1;
                    return true;
                }
                ParsedLine::No => {}
            },
            Some(_) => {}
        }
        if let Some(message) = message(line) {
            take(evidence, message);
            evidence.add_outer_host(message.process, tag);
            return true;
        }
        if let Some((mut message, before)) = message_within(line).filter(|_| !is_trace(line)) {
            message.text = unquoted(before, message.text);
            take(evidence, message);
            evidence.add_outer_host(message.process, before);
            evidence.add_outer_host(message.process, tag);
            // Another program may have written into the line.
            if let (Some(at), _) = failure::told(before) {
                evidence.add_failure(at, line);
            }
            return true;
        }
        if let Some(version) = after(line, "NCCL version ") {
            nccl_version(evidence, version);
            return true;
        }
        false
    }
}

/// What nccl-tests prints besides rows.
fn comment(evidence: &mut Evidence, text: &[u8]) {
    let text = text.trim_ascii();
    if let Some(line) = rank(text) {
        evidence.add_rank(&line);
    } else if let Some(layout) = ColumnLayout::parse(text) {
        evidence.layout = Some(layout);
    } else if text.starts_with(b"nThread ") {
        evidence.preambles += 1;
        if let Some(preamble) = Preamble::parse(text) {
            evidence.preamble.get_or_insert(preamble);
        }
    } else if let Some(rest) = after(text, "Out of bounds values :") {
        if let Some((count, rest)) = digits(rest.trim_ascii_start()) {
            // The word, whatever an envelope has behind it.
            let word = rest.trim_ascii_start();
            let length = word.iter().take_while(|b| b.is_ascii_alphabetic()).count();
            evidence.add_out_of_bounds(count, &word[..length] == b"OK");
        }
    } else if let Some(rest) = after(text, "Avg bus bandwidth") {
        let value = rest.trim_ascii_start().strip_prefix(b":").unwrap_or_default().trim_ascii_start();
        // `OK` or `FAILED` follows where NCCL_TESTS_MIN_BW is set; it judges the average, which says little.
        let value = value.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        evidence.average = float(value).filter(|average| average.is_finite());
        evidence.average_garbled = evidence.average.is_none();
    } else if let Some(name) = after(text, "Collective test starting:") {
        evidence.started = true;
        evidence.collective = Some(clean(name));
    } else if after(text, "Collective test concluded").is_some() {
        evidence.concluded = true;
    } else if let Some(version) = after(text, "nccl-tests version ").and_then(version) {
        evidence.nccl_tests.add(version);
    } else if let Some(rest) = after(text, "Reducing maxBytes to ") {
        evidence.reduced = digits(rest).map(|(bytes, _)| bytes).or(evidence.reduced);
    }
}

fn other(evidence: &mut Evidence, line: &[u8]) {
    // A document, or a page of the web, loses the `#`. What else it lost is not known: such a beginning is none.
    let text = line.trim_ascii();
    let looks = |words: &&str| holds(text, words);
    if text.starts_with(b"nThread ") {
        evidence.unsigned_preamble = true;
    } else if ["NCCL INFO ", "NCCL WARN ", "nThread "].iter().any(looks) && !is_trace(text) {
        evidence.add_unread(line);
        evidence.unread_info += u64::from(looks(&"NCCL INFO ") && !looks(&"NCCL WARN ") && !looks(&"nThread "));
    } else {
        comment(evidence, text);
    }
    let (run, provider) = failure::told(line);
    if let Some(at) = run {
        evidence.add_failure(at, line);
    }
    if let Some(at) = provider {
        evidence.provider_error = Some(evidence.provider_error.map_or(at, |known| known.min(at)));
    }
}
