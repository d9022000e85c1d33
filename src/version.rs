//! Owns versions: dotted numbers, and which of two is newer.

use std::cmp::Ordering;

/// Compares dotted versions number by number, so that 1.9.5 comes before 1.11.2. What follows a number's digits does not
/// count: `1.5.0aws` is 1.5.0.
pub fn compare(one: &str, other: &str) -> Ordering {
    let number = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    let numbers = |version: &str| -> Vec<u64> { version.split('.').map(number).collect() };
    numbers(one).cmp(&numbers(other))
}

/// Whether this is numbers with dots between them, and nothing else.
pub fn is_dotted(version: &str) -> bool {
    version.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether this is the series of a kernel: two numbers, `6.17`.
pub fn is_series(text: &str) -> bool {
    is_dotted(text) && text.split('.').count() == 2
}

/// Whether a version is this one or newer.
pub fn at_least(version: &str, minimum: &str) -> bool {
    compare(version, minimum).is_ge()
}
