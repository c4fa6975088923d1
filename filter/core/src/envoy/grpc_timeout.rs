//! A gRPC client's own deadline: the `grpc-timeout` header.

use crate::clock::{MILLISECOND, SECOND};

/// Nanoseconds of a `grpc-timeout` value (gRPC over HTTP/2, "Timeout": at most eight digits and a unit). `None` for
/// any other text.
#[must_use]
pub fn grpc_timeout(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let unit = match unit {
        b'H' => 3600 * SECOND,
        b'M' => 60 * SECOND,
        b'S' => SECOND,
        b'm' => MILLISECOND,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    Some(number.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (value, nanoseconds) in [
            ("1m", Some(MILLISECOND)),
            ("30S", Some(30 * SECOND)),
            ("2H", Some(7200 * SECOND)),
            ("99999999M", Some(99_999_999 * 60 * SECOND)),
            ("7u", Some(7000)),
            ("7n", Some(7)),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("123456789S", None),
            ("1s", None),
        ] {
            assert_eq!(grpc_timeout(value.as_bytes()), nanoseconds, "{value}");
        }
    }
}
