//! The window of one circuit as one VM sees it: samples of counters that all workers share.
//!
//! The counters are process-wide, so `value now - value at the window's start` is the count of *all* workers at the
//! moment of the decision. Each VM samples them at its tick, one sample a bucket, and keeps as many samples as the
//! window has buckets. The buckets are exact, and not a moving average: a tight burst hides in an average that weighs
//! by time.
//!
//! **A window of calls** holds exactly the last so many, however its samples lie. Between two samples some calls may
//! have left the window. Of these it takes as many failed ones for gone as possible. So it never counts a failure too
//! many; and where all calls between the two were of one kind, it counts none too few. The worker also samples at its
//! own calls. The good calls that nobody looks at come between two samples of their own, so that they are known to be
//! all good.

use crate::clock;
use crate::policy::Length;

/// What a circuit has counted since its metrics exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were good.
    pub success: u64,
    /// Calls that failed.
    pub failure: u64,
    /// Calls that were too slow, though they did not fail.
    pub slow: u64,
    /// Calls among these that took longer than `latencyThreshold`. [`Tally::UNKNOWN`] to a worker whose policy has no
    /// threshold.
    pub over: u64,
}

impl Tally {
    /// Stands for a count that was not read. A record outlives policies, and 0 would pass for a real count: then all
    /// calls over the threshold that were ever counted would seem to be new.
    pub(crate) const UNKNOWN: u64 = u64::MAX;

    /// The counts as a record has them.
    pub(crate) fn words(self) -> [u64; 4] {
        [self.success, self.failure, self.slow, self.over]
    }

    /// All calls that say something about the upstream.
    #[must_use]
    pub fn calls(self) -> u64 {
        self.success.saturating_add(self.failure).saturating_add(self.slow)
    }

    /// The counts since `earlier`. Zero where a counter went backwards, or one of the two is unknown.
    #[must_use]
    pub fn since(self, earlier: Tally) -> Tally {
        let over = if self.over == Tally::UNKNOWN { 0 } else { self.over };
        Tally {
            success: self.success.saturating_sub(earlier.success),
            failure: self.failure.saturating_sub(earlier.failure),
            slow: self.slow.saturating_sub(earlier.slow),
            over: over.saturating_sub(earlier.over),
        }
    }

    /// The same counts, with an unknown one taken from `now`: it counts from then on.
    fn known_from(self, now: Tally) -> Tally {
        Tally { over: if self.over == Tally::UNKNOWN { now.over } else { self.over }, ..self }
    }

    /// Whether all calls were good and in time.
    pub(crate) fn is_healthy(self) -> bool {
        self.failure == 0 && self.slow == 0 && self.over == 0
    }

    /// Whether a counter went backwards, as after Envoy's `/reset_counters`.
    #[must_use]
    pub fn is_before(self, earlier: Tally) -> bool {
        self.success < earlier.success
            || self.failure < earlier.failure
            || self.slow < earlier.slow
            || (self.over < earlier.over && earlier.over != Tally::UNKNOWN)
    }
}

/// How far apart two moments are, in the unit of `length`.
pub(crate) fn between(length: Length, earlier: (u64, Tally), later: (u64, Tally)) -> u64 {
    match length {
        Length::Time(_) => later.0.saturating_sub(earlier.0),
        Length::Calls(_) => later.1.since(earlier.1).calls(),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    at: u64,
    tally: Tally,
}

/// Samples before the newest: one for each bucket of ten. The newest begins the bucket that is filling.
const BEFORE: usize = 10;

/// Samples that there is room for at first. A proxy has many circuits, and most see few calls.
const FEW: usize = 2;

/// A ring of samples. It begins without any memory of its own: nearly every circuit is CLOSED and idle.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Oldest first. No two neighbours have the same tally.
    before: Vec<Sample>,
    newest: Sample,
}

impl Window {
    /// A window that begins at `at`, when the counters stood at `tally`.
    pub(crate) fn starting(at: u64, tally: Tally) -> Window {
        Window { before: Vec::new(), newest: Sample { at, tally } }
    }

    /// When it took its last sample.
    pub(crate) fn last_sample(&self) -> u64 {
        self.newest.at
    }

    /// Whether nothing was counted since the last sample. Then the sample counts as taken now.
    pub(crate) fn has_seen(&mut self, now: u64, tally: Tally) -> bool {
        let seen = tally == self.newest.tally && !clock::stepped_back(now, self.newest.at);
        if seen {
            self.newest.at = self.newest.at.max(now);
        }
        seen
    }

    /// A window that begins at the earlier moment `then`. It begins now where `then` tells too little: the calls
    /// since then may all be older than a window of time.
    pub(crate) fn since(then: (u64, Tally), now: (u64, Tally), length: Length) -> Window {
        let reaches = match length {
            Length::Time(whole) => between(length, then, now) <= whole && !clock::stepped_back(now.0, then.0),
            Length::Calls(_) => true,
        };
        let (at, tally) = if reaches && !now.1.is_before(then.1) { then } else { now };
        Window::starting(at, tally.known_from(now.1))
    }

    /// Takes a sample where the last one is a bucket old. Starts afresh where the counters went backwards, or where
    /// the clock of a window of time stepped back. `streak` is the number of failed and slow calls in a row that
    /// ended with the last call.
    pub(crate) fn roll(&mut self, now: u64, tally: Tally, streak: u64, length: Length) {
        self.know(tally);
        let sample = Sample { at: now, tally };
        let by_time = matches!(length, Length::Time(_));
        if tally.is_before(self.newest.tally) || by_time && clock::stepped_back(now, self.newest.at) {
            *self = Window::starting(now, tally);
            return;
        }
        if !by_time {
            self.part(sample, streak, length.bucket());
        }
        if between(length, (self.newest.at, self.newest.tally), (now, tally)) >= length.bucket() {
            self.push(sample);
        }
    }

    /// A policy with a threshold has replaced one without: calls over the threshold count from now on.
    fn know(&mut self, now: Tally) {
        if self.newest.tally.over == Tally::UNKNOWN && now.over != Tally::UNKNOWN {
            let samples = self.before.iter_mut().chain([&mut self.newest]);
            samples.for_each(|sample| sample.tally = sample.tally.known_from(now));
        }
    }

    /// Adds a sample between good calls and the streak after them. Successes pass without a look at the window, so
    /// many calls may have come since the last sample. Where these were good calls and then the present streak, a
    /// sample between the two keeps them apart. It takes none for less than a bucket: then the samples that there is
    /// room for might not reach back as far as the window does.
    fn part(&mut self, now: Sample, streak: u64, bucket: u64) {
        let passed = now.tally.since(self.newest.tally);
        let in_order = passed.failure.saturating_add(passed.slow) == streak && passed.over == 0;
        if in_order && passed.success >= bucket {
            let tally = Tally { success: now.tally.success, ..self.newest.tally };
            self.push(Sample { at: now.at, tally });
        }
    }

    /// Of two samples with the same tally only the newer one stays: a window that reaches back to the older one
    /// counts the same from the newer.
    fn push(&mut self, sample: Sample) {
        if sample.tally != self.newest.tally {
            if self.before.len() == BEFORE {
                self.before.remove(0);
            }
            self.make_room();
            self.before.push(self.newest);
        }
        self.newest = sample;
    }

    /// Makes room for a few samples, and then for all. Wasm gives no memory back, and growth by doubling would leave
    /// holes.
    fn make_room(&mut self) {
        let room = if self.before.is_empty() { FEW } else { BEFORE };
        if self.before.len() == self.before.capacity() {
            self.before.reserve_exact(room.saturating_sub(self.before.len()));
        }
    }

    /// What was counted in the last `length`. Nothing where a counter has gone backwards since the newest sample: the
    /// next sample begins the window afresh.
    pub(crate) fn count(&self, now: u64, tally: Tally, length: Length) -> Tally {
        match length {
            _ if tally.is_before(self.newest.tally) => Tally::default(),
            Length::Time(time) => self.lately(now, tally, time),
            Length::Calls(calls) => self.last(calls, tally),
        }
    }

    /// What was counted since the oldest sample that is not older than `time`. Nothing where every sample is older:
    /// then nobody knows when the calls were made, and a circuit must not trip on old ones.
    fn lately(&self, now: u64, tally: Tally, time: u64) -> Tally {
        let mut samples = self.before.iter().chain([&self.newest]);
        let oldest = samples.find(|sample| now.saturating_sub(sample.at) <= time);
        oldest.map_or(Tally::default(), |sample| tally.since(sample.tally))
    }

    /// The last `calls` calls, or all that are known. Nobody knows which calls between two samples have left the
    /// window. So of each kind of bad calls it takes as many for gone as possible.
    fn last(&self, calls: u64, tally: Tally) -> Tally {
        let (earlier, later) = self.around(calls, tally);
        let (held, certain) = (tally.since(earlier), tally.since(later));
        let gone = held.calls().saturating_sub(calls);
        let least = |held: u64, certain: u64| certain.max(held.saturating_sub(gone));
        let (failure, slow) = (least(held.failure, certain.failure), least(held.slow, certain.slow));
        let success = held.calls().saturating_sub(gone).saturating_sub(failure).saturating_sub(slow);
        Tally { success, failure, slow, over: least(held.over, certain.over) }
    }

    /// The newest sample with at least `calls` calls after it, or else the oldest; and the sample after that one.
    fn around(&self, calls: u64, tally: Tally) -> (Tally, Tally) {
        let (mut earlier, mut later) = (tally, tally);
        for sample in std::iter::once(&self.newest).chain(self.before.iter().rev()) {
            (earlier, later) = (sample.tally, earlier);
            if tally.since(earlier).calls() >= calls {
                break;
            }
        }
        (earlier, later)
    }

    /// Whether it is certain that all calls in the last `length` were good and in time.
    pub(crate) fn is_healthy(&self, now: u64, tally: Tally, length: Length) -> bool {
        match length {
            Length::Time(_) => self.count(now, tally, length).is_healthy(),
            Length::Calls(calls) => tally.since(self.around(calls, tally).0).is_healthy(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn tally(success: u64, failure: u64) -> Tally {
        Tally { success, failure, ..Tally::default() }
    }

    #[test]
    fn a_call_leaves_the_window_bucket_by_bucket() {
        let mut window = Window::starting(0, tally(100, 0));
        for second in 1..=20 {
            // One failure in every second, sampled at its end.
            window.roll(second * 10, tally(100, second), 0, Length::Time(100));
        }
        assert_eq!(window.count(200, tally(100, 20), Length::Time(100)), tally(0, 10));
        assert_eq!(
            window.count(205, tally(100, 21), Length::Time(100)),
            tally(0, 10),
            "the bucket that is filling counts, the oldest left"
        );
        assert_eq!(window.count(301, tally(100, 21), Length::Time(100)), tally(0, 0), "no sample is recent enough");
    }

    #[test]
    fn a_window_of_calls_holds_the_last_so_many_and_no_failure_too_many() {
        for calls in 10..=40 {
            let length = Length::Calls(calls);
            let mut window = Window::starting(0, tally(0, 0));
            for call in 1..=300 {
                // Every third call fails.
                let counted = tally(call - call / 3, call / 3);
                let held = window.count(call, counted, length);
                let gone = call.saturating_sub(calls);
                let failed = counted.failure - gone / 3;
                assert_eq!(held.calls(), call - gone);
                // All calls but one of the bucket that leaves may be taken for failed ones.
                let few = failed - held.failure;
                assert!(held.failure <= failed && few < length.bucket(), "{few} too few of {failed} after {call}");
                window.roll(call, counted, 0, length);
                assert!(window.before.len() <= BEFORE);
            }
        }
    }

    #[test]
    fn good_calls_that_nobody_looked_at_are_in_a_window_of_calls() {
        let length = Length::Calls(30);
        for good in [0, 1, 5, 29, 30, 31, 1000] {
            let mut window = Window::starting(0, tally(7, 7));
            window.roll(1, tally(7 + good, 7), 0, length);
            assert_eq!(window.count(1, tally(7 + good, 8), length), tally(good.min(29), 1));
        }
        let after_failures = |streak: u64| {
            let mut window = Window::starting(0, tally(7, 7));
            window.roll(1, tally(1000, 11), streak, length);
            window.count(1, tally(1000, 11), length)
        };
        assert_eq!(after_failures(4), tally(26, 4), "the last four failed");
        assert_eq!(after_failures(3), tally(30, 0), "who knows when these failed");
    }

    #[test]
    fn a_window_of_calls_is_healthy_only_where_no_failure_can_be_in_it() {
        let length = Length::Calls(30);
        let mut window = Window::starting(0, tally(0, 0));
        // A failure somewhere among ten calls of others.
        window.roll(1, tally(9, 1), 0, length);
        assert_eq!(window.count(1, tally(30, 1), length), tally(30, 0));
        assert!(!window.is_healthy(1, tally(38, 1), length));
        assert!(window.is_healthy(1, tally(39, 1), length));
    }

    #[test]
    fn samples_that_say_nothing_new_take_no_room_and_change_no_count() {
        let length = Length::Time(100);
        // Bursts and pauses of all lengths around that of the window.
        for (burst, pause) in (1..=12).flat_map(|burst| (0..=24).map(move |pause| (burst, pause))) {
            let mut window = Window::starting(0, tally(0, 0));
            let mut all = vec![(0, tally(0, 0))];
            let mut counted = tally(0, 0);
            for now in (0..600).map(|step| step * 7) {
                let busy = now / 10 % (burst + pause) < burst;
                counted.failure += u64::from(busy);
                let naive = all.iter().find(|(at, _)| now - at <= 100).map(|(_, then)| counted.since(*then));
                assert_eq!(window.count(now, counted, length), naive.unwrap_or_default(), "{burst}, {pause}, {now}");
                window.roll(now, counted, 0, length);
                if now - all[all.len() - 1].0 >= 10 {
                    all.push((now, counted));
                }
                assert!(window.before.len() <= BEFORE && window.before.capacity() <= BEFORE);
            }
        }
        let mut window = Window::starting(0, tally(1, 0));
        (1..100).for_each(|second| window.roll(second * 10, tally(1, 0), 0, length));
        assert_eq!(window.before.capacity(), 0);
    }

    #[test]
    fn counters_that_go_backwards_start_the_window_afresh() {
        let mut window = Window::starting(0, tally(50, 50));
        window.roll(10, tally(0, 3), 0, Length::Time(100));
        assert_eq!(window.count(12, tally(0, 5), Length::Time(100)), tally(0, 2));
    }

    #[test]
    fn counters_that_went_backwards_since_the_last_sample_count_nothing() {
        let window = Window::starting(0, tally(480, 0));
        assert_eq!(window.count(10, tally(0, 20), Length::Time(100)), tally(0, 0));
    }

    #[test]
    fn a_window_that_another_worker_began_a_moment_later_is_kept() {
        let mut window = Window::starting(1000, tally(1, 1));
        window.roll(990, tally(2, 2), 0, Length::Time(100));
        assert_eq!(window.count(990, tally(2, 3), Length::Time(100)), tally(1, 2));
    }

    #[test]
    fn a_clock_that_steps_back_starts_the_window_afresh() {
        let mut window = Window::starting(10 * clock::SKEW, tally(1, 1));
        window.roll(10, tally(2, 2), 0, Length::Time(100));
        assert_eq!(window.count(12, tally(2, 3), Length::Time(100)), tally(0, 1));
    }
}
