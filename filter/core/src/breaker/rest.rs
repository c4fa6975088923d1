//! Circuits at rest, which a tick passes by.
//!
//! A proxy may have ten thousand circuits, and most of them have nothing to do. A circuit is **at rest** when it is
//! CLOSED, has nothing to forget, and has a sample for now. The tick looks at it once a bucket. A circuit is
//! **unused** when the window of time holds no call of its upstream. The tick looks at it every two to four buckets.
//! A call of this worker ends that at once. Where the first calls are other workers', this worker's window once
//! begins up to four buckets too late: it may miss the first of them.

use crate::breaker::view::View;
use crate::circuit::record::Phase;
use crate::circuit::window::Tally;
use crate::clock;
use crate::host::{Fault, Host};
use crate::policy::{Length, Mode};
use crate::shared::vm::Vm;

/// Time between two looks at an unused circuit, in half buckets: four, and up to four more, by its slot. Where the
/// window is the shortest one, ticks are that far apart, so the circuits are spread over them.
const RARELY: u64 = 4;
const SPREAD: u64 = 5;

impl View {
    /// Whether the tick need not look at it, given that nobody has written its record. `idle`: nanoseconds without
    /// use after which it ends.
    pub(super) fn is_at_rest(&self, now: u64, idle: u64) -> bool {
        let plain = self.is_left_to_calls() && self.told == self.epoch;
        plain && self.has_nothing_to_forget() && !self.is_due(now) && !self.is_idle(now, idle)
    }

    /// Whether calls decide about it, and no person.
    fn is_left_to_calls(&self) -> bool {
        matches!(self.policy.mode, Mode::Enforce | Mode::Observe)
    }

    /// Whether it is CLOSED, and no trip is to be forgotten.
    fn has_nothing_to_forget(&self) -> bool {
        self.record.phase == Phase::Closed && self.record.trips_in_a_row == 0
    }

    fn is_due(&self, now: u64) -> bool {
        let length = self.policy.trip.window;
        let Length::Time(_) = length else { return true };
        let last = self.window.last_sample();
        let halves = if self.unused { RARELY.saturating_add(u64::from(self.slot) % SPREAD) } else { 2 };
        clock::stepped_back(now, last)
            || now.saturating_sub(last).saturating_mul(2) >= length.bucket().saturating_mul(halves)
    }

    /// A call of this worker has ended, and is not counted yet. If the circuit was unused, it is the worker's first call
    /// since its last tick.
    #[inline]
    pub(super) fn wake_if_unused<H: Host>(&mut self, vm: &Vm<H>) -> Result<(), Fault> {
        if self.unused { self.wake(vm) } else { Ok(()) }
    }

    /// The window is whole from this call on. Calls that others have made since the last look stay as old as that look:
    /// taken for newer ones they could trip the circuit when they have left the window.
    #[cold]
    fn wake<H: Host>(&mut self, vm: &Vm<H>) -> Result<(), Fault> {
        self.unused = false;
        let (ticked, tally) = (vm.ticked.get(), self.counts.tally(&vm.host)?);
        if self.window.has_seen(ticked, tally) { Ok(()) } else { self.roll(vm, ticked, tally) }
    }

    /// Whether a circuit that was unused still is. Where a look is due the counters tell, and then only the time is
    /// to be noted.
    pub(super) fn is_still_unused(&mut self, now: u64, tally: Tally) -> bool {
        // A newer configuration may force it open.
        let rests = self.unused && self.is_left_to_calls() && self.has_nothing_to_forget();
        self.unused = rests && (!self.is_due(now) || self.window.has_seen(now, tally));
        self.unused
    }

    /// Lets successes pass unlooked at again once there is nothing to watch. A failure that comes meanwhile sets `watch`
    /// after it has counted itself and added to the streak: either this sees both, or it sets what this has cleared. The
    /// count alone would not tell: it may be older than `tally`, which was read before, and too old for the window of a
    /// worker that has not ticked for long.
    pub(super) fn stop_watching<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally) -> Result<(), Fault> {
        let host = &vm.host;
        if self.record.phase != Phase::Closed {
            return Ok(());
        }
        if self.counts.watch.get(host)? == 0 {
            let length = self.policy.trip.window;
            self.unused = matches!(length, Length::Time(_)) && self.window.count(now, tally, length).calls() == 0;
            return Ok(());
        }
        if !self.window.is_healthy(now, tally, self.policy.trip.window) || self.streak(vm)?.get(host)? != 0 {
            return Ok(());
        }
        let epoch = self.counts.epoch.get(host)?;
        self.counts.watch.set(host, 0)?;
        let after = self.counts.tally(host)?;
        let failed = !after.since(tally).is_healthy() || self.streak(vm)?.get(host)? != 0;
        if failed || self.counts.epoch.get(host)? != epoch {
            self.counts.watch.set(host, 1)?;
        }
        self.refresh(vm, now)?;
        if self.record.phase != Phase::Closed {
            self.counts.watch.set(host, 1)?;
        }
        Ok(())
    }
}
