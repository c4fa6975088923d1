//! What an upstream says about when to come back: `Retry-After` (RFC 9110, 10.2.3) in seconds or as a date, and gRPC's
//! pushback in milliseconds.

use crate::config::{MILLISECOND, SECOND};

/// Nanoseconds from `now` that a `Retry-After` value asks for; `None` for what is neither seconds nor a date.
#[must_use]
pub fn http(value: &[u8], now: u64) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    match whole(text) {
        Some(seconds) => Some(seconds.saturating_mul(SECOND)),
        None => Some(date(text)?.saturating_mul(SECOND).saturating_sub(now)),
    }
}

/// Nanoseconds that a `grpc-retry-pushback-ms` value asks for; `None` for what is no such number (a negative one says
/// "do not retry", which is no time).
#[must_use]
pub fn grpc(value: &[u8]) -> Option<u64> {
    Some(whole(std::str::from_utf8(value).ok()?.trim())?.saturating_mul(MILLISECOND))
}

/// Digits only; so many of them that they do not fit mean "for ever".
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 of an IMF-fixdate, the one form that senders may use: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day = whole(parts.next()?)?;
    let name = parts.next()?;
    let month = (1..).zip(MONTHS).find(|(_, month)| *month == name)?.0;
    let year = whole(parts.next()?)?;
    let mut clock = parts.next()?.split(':');
    let (hour, minute, second) = (whole(clock.next()?)?, whole(clock.next()?)?, whole(clock.next()?)?);
    let rest_is_gmt = parts.next() == Some("GMT") && parts.next().is_none() && clock.next().is_none();
    let fits = (1..=31).contains(&day) && (1970..=9999).contains(&year) && hour < 24 && minute < 60 && second <= 60;
    if !rest_is_gmt || !fits {
        return None;
    }
    let of_day = hour.saturating_mul(3600).saturating_add(minute.saturating_mul(60)).saturating_add(second);
    Some(days(year, month, day).saturating_mul(86_400).saturating_add(of_day))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, by counting from 1 March, so that a leap day ends its year
/// (Howard Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`).
#[allow(clippy::arithmetic_side_effects)] // Bounded by the caller: year to 9999, month to 12, day to 31.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    // Days from 0000-03-01 to 1970-01-01.
    days.saturating_sub(719_468)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn seconds_and_dates_are_read() {
        let now = 784_111_777 * SECOND;
        assert_eq!(http(b"120", 0), Some(120 * SECOND));
        assert_eq!(
            http(b"Sun, 06 Nov 1994 08:49:47 GMT", now),
            Some(10 * SECOND),
            "the date of RFC 9110, ten seconds on"
        );
        assert_eq!(http(b"Sun, 06 Nov 1994 08:49:37 GMT", now + 5 * SECOND), Some(0), "past");
        assert_eq!(http(b"Thu, 29 Feb 2024 00:00:00 GMT", 0), Some(1_709_164_800 * SECOND));
        assert_eq!(grpc(b"1500"), Some(1500 * MILLISECOND));
    }

    #[test]
    fn hostile_values_are_nothing_or_a_very_long_time() {
        for value in [
            "",
            "-1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
            "Sun, 06 Nov 99999 08:49:37 GMT",
            ", ",
        ] {
            assert_eq!(http(value.as_bytes(), 0), None, "{value}");
        }
        assert_eq!(http(b"\xff", 0), None);
        assert_eq!(http(b"99999999999999999999999999", 0), Some(u64::MAX));
        assert_eq!(http(b"Fri, 31 Dec 9999 23:59:60 GMT", 0), Some(u64::MAX));
        assert_eq!(grpc(b"-1"), None);
    }
}
