//! What an upstream says about when to come back: `Retry-After` (RFC 9110, 10.2.3) in seconds or as a date, and gRPC's
//! pushback in milliseconds.

use crate::clock::{MILLISECOND, SECOND};

/// Nanoseconds from `now` that a `Retry-After` value asks for; `None` for what is neither seconds nor a date.
#[must_use]
pub fn http(value: &[u8], now: u64) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    match whole(text) {
        Some(seconds) => Some(seconds.saturating_mul(SECOND)),
        None => Some(date(text, now / SECOND)?.saturating_mul(SECOND).saturating_sub(now)),
    }
}

/// Nanoseconds of a `grpc-retry-pushback-ms` value. `None` for any other text. A negative number says "do not retry",
/// which is no time.
#[must_use]
pub fn grpc(value: &[u8]) -> Option<u64> {
    Some(whole(std::str::from_utf8(value).ok()?.trim())?.saturating_mul(MILLISECOND))
}

/// Reads digits only. A number that is too large means "for ever".
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 of a date in one of the three forms that a recipient must read (RFC 9110, 5.6.7):
/// `Sun, 06 Nov 1994 08:49:37 GMT`, and the obsolete `Sunday, 06-Nov-94 08:49:37 GMT` and `Sun Nov  6 08:49:37 1994`.
/// `now` in seconds too.
fn date(text: &str, now: u64) -> Option<u64> {
    let Some((_, rest)) = text.split_once(", ") else { return asctime(text) };
    let (day, clock) = rest.strip_suffix(" GMT")?.rsplit_once(' ')?;
    let mut parts = day.split(' ');
    if let (Some(day), Some(month), Some(year), None) = (parts.next(), parts.next(), parts.next(), parts.next()) {
        return moment(year_of(year)?, month, day, clock);
    }
    let mut parts = day.split('-');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || year.len() != 2 {
        return None;
    }
    moment(of_two_digits(whole(year)?, now), month, day, clock)
}

/// `Sun Nov  6 08:49:37 1994`.
fn asctime(text: &str) -> Option<u64> {
    let mut parts = text.split_ascii_whitespace();
    let (_, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let (clock, year) = (parts.next()?, parts.next()?);
    if parts.next().is_some() { None } else { moment(year_of(year)?, month, day, clock) }
}

fn year_of(text: &str) -> Option<u64> {
    whole(text).filter(|year| (1970..=9999).contains(year))
}

/// The year that two digits mean. If it seems to be more than 50 years ahead, it is the last earlier year with these
/// digits.
fn of_two_digits(digits: u64, now: u64) -> u64 {
    // The mean Gregorian year; a day more or less changes nothing 50 years away.
    let this = 1970_u64.saturating_add(now / 31_556_952);
    let year = this.saturating_sub(this % 100).saturating_add(digits);
    if year > this.saturating_add(50) { year.saturating_sub(100) } else { year }
}

/// Seconds since 1970; 0 for an earlier date.
fn moment(year: u64, month: &str, day: &str, clock: &str) -> Option<u64> {
    let month = (1..).zip(MONTHS).find(|(_, name)| *name == month)?.0;
    let day = whole(day).filter(|day| (1..=31).contains(day))?;
    let mut parts = clock.split(':');
    let (hour, minute, second) = (whole(parts.next()?)?, whole(parts.next()?)?, whole(parts.next()?)?);
    if parts.next().is_some() || hour >= 24 || minute >= 60 || second > 60 {
        return None;
    }
    let of_day = hour.saturating_mul(3600).saturating_add(minute.saturating_mul(60)).saturating_add(second);
    Some(if year < 1970 { 0 } else { days(year, month, day).saturating_mul(86_400).saturating_add(of_day) })
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
    fn the_obsolete_forms_of_a_date_are_read_too() {
        // RFC 9110, 5.6.7: the same moment three times.
        let now = 784_111_777 * SECOND;
        for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(http(date.as_bytes(), now - 30 * SECOND), Some(30 * SECOND), "{date}");
        }
        let in_2026 = 1_790_000_000 * SECOND;
        let far = http(b"Monday, 01-Jan-76 00:00:00 GMT", in_2026).unwrap();
        assert_eq!((in_2026 + far) / SECOND, 3_345_062_400, "2076 is 50 years ahead");
        assert_eq!(http(b"Saturday, 01-Jan-77 00:00:00 GMT", in_2026), Some(0), "and 77 is 1977");
        assert_eq!(http(b"Wednesday, 01-Jan-69 00:00:00 GMT", 0), Some(0), "before there was a clock");
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
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06-Nov-94-1 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994 GMT",
            "Sun Nov 6 08:49 1994",
            "Sun Nov 6 08:49:37:1 1994",
            "Sun  06",
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
