//! Durations as DestinationRule writes them: `"30s"`, `"500ms"`, `"1m30s"`, `"1.5s"`.

use crate::clock::{MILLISECOND, SECOND};

/// No duration of a policy is longer than a day: beyond it a typing error is likelier than a wish.
pub(super) const LONGEST: u64 = 86_400 * SECOND;

/// Parses a duration into nanoseconds. Units come in falling order (`1m30s`), each at most once; decimals are
/// allowed. `None` for anything else. That includes a number with more than nine digits, and a part of a nanosecond.
pub(super) fn parse(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut smallest_so_far = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let (unit, tail) = unit(tail)?;
        if unit >= smallest_so_far {
            return None;
        }
        smallest_so_far = unit;
        total = total.saturating_add(scaled(number, unit)?);
        rest = tail;
    }
    (smallest_so_far != u64::MAX).then_some(total)
}

fn unit(text: &str) -> Option<(u64, &str)> {
    // "ms" before "m": the longer unit would never be found otherwise.
    const UNITS: [(&str, u64); 4] = [("ms", MILLISECOND), ("s", SECOND), ("m", 60 * SECOND), ("h", 3600 * SECOND)];
    UNITS.iter().find_map(|(name, nanos)| text.strip_prefix(name).map(|tail| (*nanos, tail)))
}

/// `number` (digits with at most one point) times `unit`, exactly; `u64::MAX` where that is more.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || whole.len() > 9 || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    // With trailing zeros gone, a power of ten that does not divide the unit would give parts of a nanosecond.
    let fraction = fraction.trim_end_matches('0');
    let numerator: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let denominator = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    if unit.checked_rem(denominator)? != 0 {
        return None;
    }
    let part = numerator.saturating_mul(unit.checked_div(denominator)?);
    Some(whole.saturating_mul(unit).saturating_add(part))
}

/// Prints `nanos` so that [`parse`] gives it back.
#[must_use]
pub fn print(nanos: u64) -> String {
    let mut out = String::new();
    let mut rest = nanos;
    for (name, unit) in [("h", 3600 * SECOND), ("m", 60 * SECOND), ("s", SECOND)] {
        let count = rest.checked_div(unit).unwrap_or(0);
        rest = rest.checked_rem(unit).unwrap_or(0);
        if count > 0 {
            out.push_str(&format!("{count}{name}"));
        }
    }
    let (millis, fraction) = (rest / MILLISECOND, rest % MILLISECOND);
    if fraction > 0 {
        out.push_str(format!("{millis}.{fraction:06}").trim_end_matches('0'));
        out.push_str("ms");
    } else if millis > 0 {
        out.push_str(&format!("{millis}ms"));
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_destination_rules_use_is_read() {
        for (text, nanos) in [
            ("30s", 30 * SECOND),
            ("500ms", 500 * MILLISECOND),
            ("1m30s", 90 * SECOND),
            ("1.5s", 1500 * MILLISECOND),
            ("0s", 0),
            ("24h", LONGEST),
            ("0.5ms", 500_000),
            ("0.1000000ms", 100_000),
            ("0.999999999h", 3_599_999_996_400),
        ] {
            assert_eq!(parse(text), Some(nanos), "{text}");
            assert_eq!(parse(&print(nanos)), Some(nanos), "{text} printed and read again");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "+1s",
            "1 s",
            "1d",
            "1s1m",
            "1s1s",
            "1.s",
            ".5s",
            "1..5s",
            "1us",
            "0.0000001ms",
            "1.0000000000s",
            "99999999999h",
            "1e3s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        // This is a duration, but a too long one: out of bounds.
        for text in ["25h", "1440m1ms", "999999999h999999999m"] {
            assert!(parse(text).is_some_and(|nanos| nanos > LONGEST), "{text}");
        }
    }
}
