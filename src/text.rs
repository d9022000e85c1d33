//! Owns text for people: what comes from outside made safe to show, how much of it is kept, and sizes.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Longest line of a machine's output that is kept, bytes.
pub const LINE: usize = 64 << 10;

/// Longest answer of a machine, bytes.
pub const ANSWER: usize = 1 << 20;

/// What an error repeats of a machine's output at most, bytes.
pub const QUOTED: usize = 4 << 10;

/// Longest text of a log that is kept, characters.
const LONGEST: usize = 300;

/// Text of a log as it may be shown: [`printable`], and cut after 300 characters. Escaping for a format is the format's own
/// affair.
pub(crate) fn clean(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(4 * LONGEST)];
    let text = String::from_utf8_lossy(bytes.trim_ascii());
    printable(text.chars().take(LONGEST).collect::<String>())
}

/// Text from outside on one line: every character that drives a terminal, can't be seen or makes text read otherwise than
/// it is written is escaped, line breaks and tabs too; what is not UTF-8 is replaced; credentials in URLs are left out.
pub fn printable(bytes: impl AsRef<[u8]>) -> String {
    escaped(&String::from_utf8_lossy(bytes.as_ref()), |_| false)
}

/// The same, but tabs stay.
pub fn printable_line(text: &str) -> String {
    escaped(text, |c| c == '\t')
}

/// The same for several lines: each but the first is marked as going on, so that none of them can look like efa-gen's own.
pub fn printable_lines(text: &str) -> String {
    printable_log(text.trim_end_matches('\n')).replace('\n', "\n    | ")
}

/// The same for a log of a machine's: its lines stay lines.
pub fn printable_log(text: &str) -> String {
    escaped(text, |c| matches!(c, '\t' | '\n'))
}

/// The same for JSON: its strings stay what they are, but for credentials.
pub fn printable_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('"') {
        let end = start + 1 + closing_quote(&rest[start + 1..]);
        let literal = &rest[start..end];
        shown.push_str(&rest[..start]);
        rest = &rest[end..];
        let content: Option<String> = serde_json::from_str(literal).ok().filter(|_| literal.contains('@'));
        let redacted = content.and_then(|content| serde_json::to_string(&without_credentials(&content)).ok());
        for c in redacted.as_deref().unwrap_or(literal).chars() {
            if is_hidden(c) {
                let _ = c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(shown, "\\u{unit:04x}"));
            } else {
                shown.push(c);
            }
        }
    }
    shown + rest
}

/// Longest piece of somebody's text that a message quotes, characters.
const EXCERPT: usize = 80;

/// A piece of somebody's text as a message quotes it: control characters and quotes are escaped, and of a long text the
/// beginning stands for all.
pub fn excerpt(text: &str) -> String {
    clip_end(text).escape_debug().to_string()
}

fn clip_end(text: &str) -> String {
    let mut rest = text.chars();
    let piece: String = rest.by_ref().take(EXCERPT).collect();
    if rest.next().is_some() { piece + "..." } else { piece }
}

/// What the TOML parser says of a text, where, and a piece of that line: all of it may be long.
pub(crate) fn toml_error(error: &toml::de::Error, text: &str) -> String {
    let said = clip(error.message(), 2 * EXCERPT);
    let Some(span) = error.span() else { return said };
    let at = text.floor_char_boundary(span.start);
    let (before, behind) = text.split_at(at);
    let begin = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
    let line = before.matches('\n').count().saturating_add(1);
    let column = before[begin..].chars().count().saturating_add(1);
    // Of a long line what stands before the place is left out, but for some words.
    let shown = before[begin..].char_indices().rev().nth(EXCERPT / 2).map_or(begin, |(at, _)| begin.saturating_add(at));
    let piece = [&before[shown..], behind.lines().next().unwrap_or_default()].concat();
    let piece = clip_end(piece.trim());
    let cut = if shown > begin { "..." } else { "" };
    format!("line {line}, column {column}: {}: `{cut}{}`", printable(said.as_bytes()), printable(piece.as_bytes()))
}

/// A text of at most so many characters, without its middle where it is longer: what a parser quotes stands there.
pub fn clip(text: &str, longest: usize) -> String {
    if text.chars().nth(longest).is_none() {
        return text.to_owned();
    }
    let half = longest / 2;
    let end = text.char_indices().rev().nth(half.saturating_sub(1)).map_or(0, |(at, _)| at);
    text.chars().take(half).chain(" ... ".chars()).chain(text[end..].chars()).collect()
}

/// Bytes up to and with the quote that ends a JSON string.
fn closing_quote(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !is_escaped => return at + 1,
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    text.len()
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in without_credentials(text).chars() {
        if is_hidden(c) && !stays(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Control characters, and Unicode's default ignorable code points but for variation selectors, which belong to symbols.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// The text with `//***@host` instead of `//user:secret@host` (RFC 3986, section 3.2.1), and `***@host:port` where a proxy is
/// given without a scheme. An `@` in a path, a query or a fragment stays.
fn without_credentials(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return text.into();
    }
    text.split_inclusive(char::is_whitespace).fold(String::with_capacity(text.len()), redacted).into()
}

/// Adds a word, the credentials in it replaced.
fn redacted(mut shown: String, word: &str) -> String {
    let (mut done, mut from) = (0, 0);
    while let Some(start) = word[from..].find("//").map(|at| from + at + 2) {
        from = word[start..].find(['/', '?', '#']).map_or(word.len(), |at| start + at);
        // Two slashes in a path begin no authority.
        if word[..start - 2].ends_with(|c: char| c.is_alphanumeric() || ".-_~%)]".contains(c)) {
            continue;
        }
        let authority = &word[start..from];
        let at = authority.rfind('@').or_else(|| {
            // No host ends in `:LETTERS`: a password has a slash that should have been encoded.
            let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'))?;
            if port.bytes().all(|byte| byte.is_ascii_digit()) { None } else { word[start..].rfind('@') }
        });
        if let Some(at) = at {
            shown.push_str(&word[done..start]);
            shown.push_str("***");
            done = start + at;
            from = from.max(done);
        }
    }
    if from == 0
        && let Some((start, end)) = proxy_credentials(word)
    {
        shown.push_str(&word[..start]);
        shown.push_str("***");
        done = end;
    }
    shown.push_str(&word[done..]);
    shown
}

/// Where `user:secret` stands in a word like `user:secret@host:3128`.
fn proxy_credentials(word: &str) -> Option<(usize, usize)> {
    let at = word.rfind('@')?;
    let (host, port) = word[at + 1..].rsplit_once(':')?;
    let port = port.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    let is_port = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || ".-_[]:".contains(c));
    let colon = word[..at].find(':')?;
    // `HTTPS_PROXY=user:...`, `(user:...`
    let start = word[..colon].rfind(|c: char| "=\"'(<,".contains(c)).map_or(0, |before| before + 1);
    (is_port && is_host && start < colon && !word[start..at].contains('/')).then_some((start, at))
}

/// The first of an error, whatever it repeats.
pub fn beginning(text: &str) -> Cow<'_, str> {
    let Some(mut end) = Some(QUOTED).filter(|end| *end < text.len()) else { return text.into() };
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} [...]", &text[..end]).into()
}

/// The last of a machine's output, as an error repeats it.
pub fn ending(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    let Some(mut start) = text.len().checked_sub(QUOTED).filter(|start| *start > 0) else { return text.into() };
    while !text.is_char_boundary(start) {
        start += 1;
    }
    format!("[...] {}", &text[start..]).into()
}

/// Bytes in hex, lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `1 GiB`, `8 B`: exact, so that it can be compared.
pub fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

/// `1 GiB`, `96 KiB`, `10 B`; what is no whole number of a unit is shown with a digit behind the point.
pub(crate) fn rounded_size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{} {name}", (bytes as f64 / *unit as f64 * 10.0).round() / 10.0),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_a_terminal() {
        assert_eq!(printable("Ann\u{1b}[2J \u{202e}é".as_bytes()), "Ann\\u{1b}[2J \\u{202e}é");
    }
}
