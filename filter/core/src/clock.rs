//! Time as several workers tell it.
//!
//! Each worker reads the clock when its request begins, and decides a little later. So a record may be a little
//! younger than the "now" of the worker that reads it. That does not mean that the clock stepped back.

/// Nanoseconds in a second; every time in this crate is in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// How far apart the "now" of two workers may be. A worker may be kept from running for that long between reading the
/// clock and using it. A clock that really stepped back by less only makes a wait longer by that much.
pub(crate) const SKEW: u64 = 5 * SECOND;

/// Whether the clock has stepped back since `earlier` was written.
pub(crate) fn stepped_back(now: u64, earlier: u64) -> bool {
    earlier.saturating_sub(now) > SKEW
}

/// Time left until `end`, where no wait can be longer than `longest`; 0 where it is over or comes from another clock.
pub(crate) fn left(now: u64, end: u64, longest: u64) -> u64 {
    let left = end.saturating_sub(now);
    if left > longest.saturating_add(SKEW) { 0 } else { left }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_worker_that_read_the_clock_a_little_earlier_waits_as_long_as_the_others() {
        let end = 100 * SECOND;
        assert_eq!(left(70 * SECOND, end, 30 * SECOND), 30 * SECOND);
        assert_eq!(left(70 * SECOND - 1, end, 30 * SECOND), 30 * SECOND + 1);
        assert_eq!(left(64 * SECOND, end, 30 * SECOND), 0, "no such wait was ever begun");
        assert!(!stepped_back(70 * SECOND, 75 * SECOND));
        assert!(stepped_back(70 * SECOND, 75 * SECOND + 1));
    }
}
