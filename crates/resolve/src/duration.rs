//! Durations as annotations and kube-proxy's flags have them.

use std::time::Duration;

/// A duration that is not negative, as Go's `time.ParseDuration` reads it: a sum of decimal numbers,
/// each with a unit. None: it is something else, or too long.
pub fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanoseconds = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, nanoseconds)?)?;
        rest = after;
    }
    Some(total)
}

/// A decimal number of units of so many nanoseconds; what is less than one of those is cut off.
fn scaled(number: &str, unit: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let whole = whole.checked_mul(unit)?;
    let mut part = 0;
    let mut digit_worth = unit;
    for digit in fraction.bytes() {
        digit_worth /= 10;
        part += u64::from(digit - b'0') * digit_worth;
    }
    Some(Duration::from_nanos(whole.checked_add(part)?))
}
