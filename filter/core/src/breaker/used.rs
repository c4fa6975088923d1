//! When a circuit was used last, as far as one worker knows.

use crate::circuit::window::Tally;

/// The last use of a circuit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    at: u64,
    /// All calls counted by then.
    calls: u64,
    /// When this worker entered it into the gauge last.
    pub(super) told: u64,
}

impl Used {
    /// A worker that meets a circuit cannot know how long it has been idle.
    pub(super) fn at(now: u64, tally: Tally) -> Used {
        Used { at: now, calls: tally.calls(), told: 0 }
    }

    /// Looks at the counters.
    pub(super) fn look(&mut self, now: u64, tally: Tally) {
        if tally.calls() != self.calls {
            self.calls = tally.calls();
            self.since(now);
        }
    }

    /// Somebody has used it at that time. Between two ticks the clock may step back and forward again, unseen, so the
    /// later time stands.
    pub(super) fn since(&mut self, now: u64) {
        self.at = self.at.max(now);
    }

    /// How long nobody has used it.
    pub(super) fn idle(&self, now: u64) -> u64 {
        now.saturating_sub(self.at)
    }

    /// The clock has leapt ahead, or the worker was stopped. That time does not count as idle, since a request may
    /// have come in it.
    pub(super) fn leap(&mut self, by: u64, now: u64) {
        self.at = self.at.saturating_add(by).min(now);
    }

    /// The clock has stepped back.
    pub(super) fn rebase(&mut self, now: u64) {
        self.at = self.at.min(now);
        self.told = self.told.min(now);
    }
}
