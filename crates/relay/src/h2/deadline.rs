//! How long a client waits for its call, as it says itself.

use std::time::Duration;

/// What the client is told when that time is over and its call has been nowhere.
pub(super) const PASSED: &str = "deadline passed before an endpoint could take the call";

/// Reads `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Timeout"). None: it is
/// something else, which is for the endpoint to judge.
pub(super) fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    //! Aim: every legal timeout is read, and nothing else.

    use std::time::Duration;

    use super::grpc_timeout;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, time) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("06n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0m", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("1.5S", None),
            ("123456789S", None),
            ("1S ", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), time, "{text:?}");
        }
    }
}
