//! Circuits at rest, which a tick passes by.
//!
//! A proxy may have ten thousand circuits, and most of them have nothing to do. **At rest** is a circuit that is CLOSED, has
//! nothing to forget, and has a sample for now: it is looked at once a bucket. One that nobody has **used** for a while is
//! sampled every three buckets or so, at another tick than the next one: the window of the first calls after that begins up
//! to four buckets too early or too late. A call of this worker ends that at once.

use crate::clock;
use crate::config::SECOND;
use crate::host::{Fault, Host};
use crate::policy::{Length, Mode};
use crate::record::Phase;
use crate::view::View;
use crate::vm::Vm;
use crate::window::Tally;

/// Time without a call after which a circuit counts as unused, where its window is one of calls: as long as the default one.
const QUIET: u64 = 10 * SECOND;

/// Between two samples of an unused circuit, in half buckets: four, and up to four more, by its slot. Ticks are that far apart;
/// so they share the circuits.
const RARELY: u64 = 4;
const SPREAD: u64 = 5;

impl View {
    /// Whether a tick need not look at it, where nobody has written its record. `idle`: after so many nanoseconds it ends.
    pub(crate) fn is_at_rest(&self, now: u64, idle: u64) -> bool {
        let plain = matches!(self.policy.mode, Mode::Enforce | Mode::Observe) && self.told == self.epoch;
        let closed = self.record.phase == Phase::Closed && self.record.trips_in_a_row == 0;
        plain && closed && !self.is_due(now) && !self.is_idle(now, idle)
    }

    fn is_due(&self, now: u64) -> bool {
        let length = self.policy.trip.window;
        if !self.unused {
            return self.window.is_due(now, length);
        }
        let bucket = match length {
            Length::Time(_) => length.bucket(),
            Length::Calls(_) => SECOND,
        };
        let halves = RARELY.saturating_add(u64::from(self.slot) % SPREAD);
        let last = self.window.last_sample();
        clock::stepped_back(now, last) || now.saturating_sub(last) >= (bucket / 2).saturating_mul(halves)
    }

    /// A call of this worker has ended that nobody looks at closer. It had none before its last tick, `ticked`.
    #[inline]
    pub(crate) fn is_used(&mut self, ticked: u64) {
        if self.unused {
            self.unused = false;
            self.window.had_seen_all_by(ticked);
        }
    }

    /// Whether a circuit that was unused still is: then nothing but the time is to be noted.
    pub(crate) fn is_still_unused(&mut self, now: u64, tally: Tally) -> bool {
        self.unused = self.unused && self.record.phase == Phase::Closed && self.window.has_seen(now, tally);
        self.unused
    }

    /// Lets successes pass unlooked at again once there is nothing to watch. A failure that comes meanwhile sets `watch`
    /// after it has counted itself and added to the streak: either this sees both, or it sets what this has cleared. The
    /// count alone would not tell: it may be older than `tally`, which was read before, and too old for the window of a
    /// worker that has not ticked for long.
    pub(crate) fn rest<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally) -> Result<(), Fault> {
        let host = &vm.host;
        if self.record.phase != Phase::Closed {
            return Ok(());
        }
        if self.words.watch.get(host)? == 0 {
            self.unused = self.used.idle(now) >= self.quiet();
            return Ok(());
        }
        if !self.window.is_healthy(now, tally, self.policy.trip.window) || self.streak(vm)?.get(host)? != 0 {
            return Ok(());
        }
        let epoch = self.words.epoch.get(host)?;
        self.words.watch.set(host, 0)?;
        let after = self.words.tally(host)?;
        let failed = !after.since(tally).is_healthy() || self.streak(vm)?.get(host)? != 0;
        if failed || self.words.epoch.get(host)? != epoch {
            self.words.watch.set(host, 1)?;
        }
        self.refresh(vm, now)?;
        if self.record.phase != Phase::Closed {
            self.words.watch.set(host, 1)?;
        }
        Ok(())
    }

    /// Time without a call after which nothing is left in the window.
    fn quiet(&self) -> u64 {
        match self.policy.trip.window {
            Length::Time(whole) => whole,
            Length::Calls(_) => QUIET,
        }
    }
}
