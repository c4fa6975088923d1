//! How long a circuit stays OPEN.

use crate::policy::Open;
use crate::share::part;

/// The open time of the `trips`-th trip in a row (the first is 1), in nanoseconds: base x multiplier^(n-1), capped,
/// then lengthened by a random part of the jitter. Never shorter than without jitter, so that "30s" means at least 30 s.
/// `random` is uniform over all of `u64`.
pub(crate) fn open_time(open: &Open, trips: u32, random: u64) -> u64 {
    let exponent = i32::try_from(trips.saturating_sub(1)).unwrap_or(i32::MAX);
    // In floating point an overflow is infinity, and the cap brings it back.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let grown = (open.base as f64 * open.multiplier.powi(exponent)).min(open.max as f64) as u64;
    let time = grown.clamp(open.base, open.max);
    let jitter = u128::from(part(time, open.jitter)).saturating_mul(u128::from(random)) >> 64;
    time.saturating_add(u64::try_from(jitter).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::clock::SECOND;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const OPEN: Open =
        Open { base: 30 * SECOND, multiplier: 2.0, max: 300 * SECOND, jitter: 200_000, max_retry_after: 0 };

    #[test]
    fn each_trip_in_a_row_doubles_up_to_the_cap() {
        let times: Vec<u64> = (1..=6).map(|trips| open_time(&OPEN, trips, 0) / SECOND).collect();
        assert_eq!(times, [30, 60, 120, 240, 300, 300]);
        assert_eq!(open_time(&OPEN, u32::MAX, 0), 300 * SECOND, "an absurd count is only the cap");
        assert_eq!(open_time(&OPEN, 0, 0), 30 * SECOND);
    }

    #[test]
    fn jitter_only_lengthens() {
        assert_eq!(open_time(&OPEN, 1, u64::MAX) / SECOND, 35, "just under 36 s");
        assert!(open_time(&OPEN, 1, u64::MAX) < 36 * SECOND);
        assert_eq!(open_time(&OPEN, 1, 1 << 63), 33 * SECOND);
    }
}
