//! Owns small readers of log text: split, counted, parsed.

/// What follows `start`, if the text begins so.
pub(crate) fn after<'a>(text: &'a [u8], start: &str) -> Option<&'a [u8]> {
    text.strip_prefix(start.as_bytes())
}

/// Whether `needle` stands in the text.
pub(crate) fn holds(text: &[u8], needle: &str) -> bool {
    memchr::memmem::find(text, needle.as_bytes()).is_some()
}

/// What follows the first `needle`.
pub(crate) fn behind<'a>(text: &'a [u8], needle: &str) -> Option<&'a [u8]> {
    memchr::memmem::find(text, needle.as_bytes()).map(|at| &text[at + needle.len()..])
}

/// The digits at the beginning, as a number, and the rest.
pub(crate) fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value: u64 = 0;
    for (at, byte) in text.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return if at == 0 { None } else { Some((value, &text[at..])) };
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    if text.is_empty() { None } else { Some((value, b"")) }
}

/// The text as a whole number, if it is nothing else.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    let sound = !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit);
    sound.then(|| text.iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0')))
}

/// The text as a floating-point number, infinities and NaN included.
pub(crate) fn float(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// Whether the text is a version: a digit, then digits, letters, `.`, `+`, `-`; or `git-` and a commit.
pub(crate) fn version(text: &[u8]) -> Option<&[u8]> {
    let length = text.iter().take_while(|b| b.is_ascii_alphanumeric() || b".+-_".contains(b)).count();
    let version = &text[..length];
    (version.first()?.is_ascii_digit() || version.starts_with(b"git-")).then_some(version)
}
