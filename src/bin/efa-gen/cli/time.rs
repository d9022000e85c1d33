//! Owns time on the command line: spans such as `30m` and `3h`, instants such as `2027-11-01`.

use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// The seconds of `3h`, as this flag has it.
pub fn seconds(flag: &str, text: &str) -> Result<i64> {
    let parsed = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let size = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        // `parse` takes a sign, an age has none.
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse::<i64>().ok().filter(|_| digits)?.checked_mul(size)
    };
    parsed().ok_or_else(|| {
        Error::new(Class::Usage, format!("{flag} {text:?} is not a time"))
            .hint("write a number and s, m, h or d: 90m, 3h, 2d")
    })
}

/// How long a test may take.
pub fn parse_test_timeout(text: &str) -> std::result::Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let parsed = units.into_iter().find_map(|(unit, seconds)| {
        let digits = text.strip_suffix(unit).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u64>().ok()?.checked_mul(seconds)
    });
    // A day is more than any test takes.
    let seconds = parsed.filter(|seconds| (1..=86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "not a time of at most a day, such as 90s or 30m".to_owned())
}

/// The instant of a time with any offset, or of a date's first second in UTC.
pub fn instant(text: &str) -> std::result::Result<Timestamp, jiff::Error> {
    let date = || Ok(text.parse::<Date>()?.to_zoned(TimeZone::UTC)?.timestamp());
    text.parse().or_else(|_| date())
}
