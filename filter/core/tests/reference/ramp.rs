//! The ramp of the reference model: its steps, and the share at each moment.

use crate::model::{Model, Phase, SKEW};
use crate::rules::Came;

const STEPS: u64 = 10;

impl Model {
    /// A step is over at the first moment at which it has had its time and enough good calls. The next one begins
    /// there, even if nobody sees that until now; but no longer ago than a step lasts.
    pub fn climb(&mut self, worker: usize, now: u64) -> bool {
        if self.marked > now + SKEW {
            (self.marked, self.mark) = (now, self.calls.len());
            return true;
        }
        let length = self.rules.ramp / STEPS;
        let good = || self.calls[self.mark..].iter().filter(|call| call.came == Came::Good).map(|call| call.at);
        let enough = good().nth(self.rules.good_probes as usize - 1).map(|at| at.max(self.marked + length));
        let late = good().next().map(|at| at.max(self.marked + 2 * length));
        let Some(over) = enough.into_iter().chain(late).min().filter(|over| *over <= now) else { return false };
        self.step += 1;
        if self.step == STEPS {
            self.move_to(worker, Phase::Closed, "ramp_done", now);
        } else {
            (self.marked, self.mark) = (over.max(now.saturating_sub(length)), self.calls.len());
        }
        true
    }

    /// The share of the ramp, in millionths.
    pub fn share(&self, now: u64) -> u64 {
        let length = (self.rules.ramp / STEPS).max(1);
        let within = now.saturating_sub(self.marked).min(length) * 1_000_000 / length;
        let done = (self.step * 1_000_000 + within) / STEPS;
        let initial = self.rules.ramp_initial * 10_000;
        initial + (1_000_000 - initial) * done / 1_000_000
    }

    /// A step's length, where the present one has lasted more than twice as long.
    pub fn overdue(&self, now: u64) -> Option<u64> {
        let length = self.rules.ramp / STEPS;
        (now.saturating_sub(self.marked) >= 2 * length).then_some(length)
    }
}
