//! The ramp: how the admitted share grows, and which requests make it up.
//!
//! The ramp has ten steps of equal length. Inside a step the share grows with time. The next step begins only when
//! this one has run its time *and* has shown enough good calls ([`over_after`]). So at any rate of calls the share
//! follows the schedule while the upstream is healthy, and stays where it is while nobody knows. A step begins at the
//! end of the one before, even if a tick finds that later ([`next_begins`]), so late ticks do not add up.

use crate::clock;
use crate::policy::HalfOpen;
use crate::share::{ALL, part};

/// Steps of a ramp. Ten evidence gates: fine enough for a smooth growth, coarse enough that each sees calls.
pub(crate) const STEPS: u32 = 10;

/// Length of one step.
pub(crate) fn step_length(policy: &HalfOpen) -> u64 {
    policy.ramp_duration.checked_div(u64::from(STEPS)).unwrap_or(0)
}

/// Whether a step that has lasted `elapsed` waits for its first good call alone.
pub(crate) fn is_overdue(policy: &HalfOpen, elapsed: u64) -> bool {
    elapsed >= step_length(policy).saturating_mul(2)
}

/// The share admitted `elapsed` after `step` (0 to 9) began, in millionths.
pub(crate) fn share(policy: &HalfOpen, step: u32, elapsed: u64) -> u32 {
    let length = step_length(policy).max(1);
    let within = u128::from(elapsed.min(length)).saturating_mul(u128::from(ALL)).checked_div(u128::from(length));
    let within = within.and_then(|within| u64::try_from(within).ok()).unwrap_or(u64::from(ALL));
    let done = u64::from(step).saturating_mul(u64::from(ALL)).saturating_add(within);
    let done = done.checked_div(u64::from(STEPS)).unwrap_or(u64::from(ALL));
    let grown = part(u64::from(ALL.saturating_sub(policy.ramp_initial)), u32::try_from(done).unwrap_or(ALL));
    u32::try_from(grown).unwrap_or(ALL).saturating_add(policy.ramp_initial).min(ALL)
}

/// How long a step took that has lasted `elapsed` by now; `None` while it goes on. It has had `good` calls, and
/// `latest` of them end right now.
///
/// A step needs as many good calls as end the probe stage. When it has lasted twice its time, one is enough: an
/// upstream with two calls a minute must get through. Every good call checks whether it completes the step. So all
/// earlier calls, which completed none, count as in time.
pub(crate) fn over_after(policy: &HalfOpen, elapsed: u64, good: u64, latest: u64) -> Option<u64> {
    let length = step_length(policy);
    let twice = length.saturating_mul(2);
    let enough = |good: u64| good >= u64::from(policy.success_threshold);
    let earlier = good.saturating_sub(latest);
    match elapsed {
        _ if elapsed < length => None,
        _ if enough(earlier) => Some(length),
        _ if elapsed >= twice && earlier > 0 => Some(twice),
        _ if enough(good) || elapsed >= twice && good > 0 => Some(elapsed),
        _ => None,
    }
}

/// When the next step begins, after one that began at `begun` and took `took`. It begins at its place in the
/// schedule, but no longer ago than a step lasts: time in which no worker ran has shown no good call.
pub(crate) fn next_begins(policy: &HalfOpen, begun: u64, took: u64, now: u64) -> u64 {
    begun.saturating_add(took).max(now.saturating_sub(step_length(policy)))
}

/// Picks the requests that make up a share, spread evenly: no run of rejections is longer than the share demands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    /// Share not yet handed out, in millionths of a request.
    credit: u32,
    /// When this VM last let a request through because the step was overdue.
    nudged_at: u64,
}

impl Spread {
    /// `random` spreads the first admissions of the workers. If all began alike, all would admit their first request.
    pub(crate) fn starting(now: u64, random: u64) -> Spread {
        let credit = random.checked_rem(u64::from(ALL)).and_then(|credit| u32::try_from(credit).ok());
        Spread { credit: credit.unwrap_or(0), nudged_at: now }
    }

    /// Whether this request is one of the share.
    pub(crate) fn admits(&mut self, share: u32) -> bool {
        let credit = self.credit.saturating_add(share);
        self.credit = credit.checked_sub(ALL).unwrap_or(credit);
        credit >= ALL
    }

    /// Whether this request goes through although it is not one of the share. It does where a step is overdue for
    /// want of calls, and this VM has let none through in this way for a step's length. With few requests the share
    /// alone might pick none for long.
    pub(crate) fn nudges(&mut self, now: u64, length: u64) -> bool {
        let due = now.saturating_sub(self.nudged_at) >= length || clock::stepped_back(now, self.nudged_at);
        if due {
            self.nudged_at = now;
        }
        due
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn policy() -> HalfOpen {
        HalfOpen {
            max_probes: 1,
            success_threshold: 3,
            probe_timeout: 1,
            ramp_initial: 100_000,
            ramp_duration: 1000,
            active: None,
        }
    }

    #[test]
    fn the_share_grows_in_a_line_and_waits_at_the_end_of_a_step() {
        assert_eq!(share(&policy(), 0, 0), 100_000);
        assert_eq!(share(&policy(), 0, 50), 145_000);
        assert_eq!(share(&policy(), 0, 100), 190_000);
        assert_eq!(share(&policy(), 0, 5000), 190_000, "no evidence, no growth");
        assert_eq!(share(&policy(), 5, 0), 550_000);
        assert_eq!(share(&policy(), 9, 100), ALL);
    }

    #[test]
    fn a_step_needs_its_time_and_good_calls_and_fewer_when_it_is_late() {
        let over = |elapsed, good| over_after(&policy(), elapsed, good, 0);
        assert_eq!((over(99, 100), over(100, 2), over(100, 3)), (None, None, Some(100)));
        assert_eq!((over(199, 2), over(200, 0), over(200, 1)), (None, None, Some(200)));
    }

    #[test]
    fn a_step_takes_its_time_and_what_it_waits_for_a_call() {
        let over = |elapsed, good| over_after(&policy(), elapsed, good, 1);
        assert_eq!(over(100, 4), Some(100));
        assert_eq!((over(130, 4), over(130, 3), over(130, 2)), (Some(100), Some(130), None));
        assert_eq!((over(230, 4), over(230, 2), over(230, 1)), (Some(100), Some(200), Some(230)));
    }

    #[test]
    fn a_step_begins_in_its_place_but_never_a_whole_step_ago() {
        assert_eq!(next_begins(&policy(), 1000, 100, 1100), 1100);
        assert_eq!(next_begins(&policy(), 1000, 100, 1170), 1100);
        assert_eq!(next_begins(&policy(), 1000, 100, 1950), 1850);
    }

    #[test]
    fn every_hundred_requests_hold_the_share_and_no_gap_is_longer_than_it_demands() {
        for percent in [1_u32, 10, 33, 50, 90, 100] {
            let mut spread = Spread::starting(0, 12_345);
            let admitted: Vec<bool> = (0..1000).map(|_| spread.admits(percent * 10_000)).collect();
            let count = admitted.iter().filter(|admits| **admits).count();
            assert!(count.abs_diff(percent as usize * 10) <= 1, "{percent} percent gave {count} of 1000");
            let longest = admitted.split(|admits| *admits).map(<[bool]>::len).max().unwrap();
            assert!(longest <= 100_usize.div_ceil(percent as usize), "{percent} percent: a gap of {longest}");
        }
    }
}
