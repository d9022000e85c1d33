//! Owns how foreign bytes are looked at and how dates and names are put into sentences.

use std::time::SystemTime;

use jiff::Timestamp;

/// Whether these bytes begin like HTML or XML: what a web server sends instead of the file.
pub(crate) fn is_markup(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let Some(start) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) else { return false };
    // A tag's name, `<?xml`, `<!DOCTYPE` or `<!--` must follow: gzip and OpenPGP packets never look so.
    matches!(&bytes[start..], [b'<', next, ..] if next.is_ascii_alphabetic() || matches!(next, b'?' | b'!'))
}

/// A point in time as people read it, in UTC.
pub(crate) fn time(time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => "a date beyond the year 9999".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_told_from_gzip_and_packets() {
        assert!(is_markup(b"\xef\xbb\xbf \n<?xml version='1.0'?><Error/>"));
        assert!(is_markup(b"<!DOCTYPE html>"));
        assert!(is_markup(b"<Error>"));
        for other in [&b""[..], b" ", b"<", b"< 3", b"\x1f\x8b\x08", b"\x89\x01\x33", b"-----BEGIN PGP"] {
            assert!(!is_markup(other), "{other:?}");
        }
    }
}
