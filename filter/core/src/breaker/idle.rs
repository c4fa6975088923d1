//! Circuits that nobody uses: when and how they end.
//!
//! A proxy sees names come and go for weeks: revisions, subsets, removed services. A circuit that has ended makes
//! room for another one. So no gauge shows for ever an upstream that was deleted while it was sick.
//!
//! **Use** is any request of any worker. A request that finds the circuit CLOSED is counted at its end, in counters
//! that all workers share. Where these stand still there was no such request. A request that finds the circuit not
//! CLOSED may be rejected, so it leaves the time in a gauge.
//!
//! **One compare-and-swap ends a circuit** for all workers, on the counts that were seen last. A request may be let
//! go in that very moment. It goes to its upstream as under a CLOSED circuit, and at its end it is counted in the
//! upstream's next circuit, which begins then.

use crate::breaker::view::View;
use crate::circuit::record::Phase;
use crate::circuit::window::Tally;
use crate::clock;
use crate::clock::SECOND;
use crate::host::{Fault, Host};
use crate::policy::Length;
use crate::shared::vm::Vm;

/// A circuit that was used so recently makes no room for another one. Otherwise two upstreams that take turns would
/// begin anew each time, and neither would ever trip.
pub(super) const RECENTLY: u64 = 60 * SECOND;

/// Time between two writes of the gauge. Its readers count in minutes.
const OFTEN: u64 = SECOND;

/// No circuit ends sooner. A worker may hear of a use late by three times: the time between two writes, the whole
/// seconds that they are in, and the time until its own tick.
const LEAST: u64 = 3 * SECOND;

impl View {
    /// A request has found the circuit not CLOSED.
    pub(super) fn note_use<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<(), Fault> {
        self.used.since(now);
        if now.saturating_sub(self.used.told) < OFTEN {
            return Ok(());
        }
        self.used.told = now;
        self.used_at(vm)?.set(&vm.host, now / SECOND)
    }

    /// Whether nobody has used it for `idle` nanoseconds, as far as this worker knows.
    pub(super) fn is_idle(&self, now: u64, idle: u64) -> bool {
        // A call that has not left the window yet still counts as use.
        let window = match self.policy.trip.window {
            Length::Time(whole) => whole,
            Length::Calls(_) => 0,
        };
        self.used.idle(now) >= idle.max(window).max(LEAST)
    }

    /// Ends the circuit where nobody has used it for `idle` nanoseconds.
    pub(super) fn end_if_idle<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally, idle: u64) -> Result<(), Fault> {
        self.used.look(now, tally);
        if self.record.phase == Phase::Open || self.record.foreign || !self.is_idle(now, idle) {
            return Ok(());
        }
        self.hear_of_use(vm, now)?;
        if self.is_idle(now, idle) {
            self.end(vm, now, tally)?;
        }
        Ok(())
    }

    /// Ends a CLOSED circuit to make room for another one, if nobody has used it lately. Returns the generation that
    /// the next circuit of its slot begins with. `leap`: nanoseconds of a leap of the clock that no tick has seen.
    pub(super) fn make_room<H: Host>(&mut self, vm: &Vm<H>, now: u64, leap: u64) -> Result<Option<u64>, Fault> {
        self.refresh(vm, now)?;
        let tally = self.counts.tally(&vm.host)?;
        self.used.look(now, tally);
        self.hear_of_use(vm, now)?;
        let makes_room = self.record.phase == Phase::Closed && self.used.idle(now.saturating_sub(leap)) >= RECENTLY;
        if !makes_room || !self.end(vm, now, tally)? {
            return Ok(None);
        }
        Ok(Some(self.record.generation.saturating_add(1)))
    }

    /// When other workers may have rejected requests of this circuit.
    fn hear_of_use<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<(), Fault> {
        // A circuit that was never OPEN has rejected no request.
        if self.record.transitions() == 0 {
            return Ok(());
        }
        let told = self.used_at(vm)?.get(&vm.host)?.saturating_mul(SECOND);
        if !clock::stepped_back(now, told) {
            self.used.since(told.min(now));
        }
        Ok(())
    }

    /// Ends the circuit, unless somebody used it meanwhile. Whether this call ended it.
    fn end<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally) -> Result<bool, Fault> {
        let generation = self.record.generation;
        let ended = self.change(vm, now, &mut |sight| {
            let unused = sight.record.generation == generation && sight.at.tally == tally;
            // A worker that has sent a probe still needs the circuit to learn the probe's result.
            let unused = unused && !sight.record.has_live_lease(sight.policy, sight.at.now);
            unused.then(|| sight.record.end(&sight.at))
        })?;
        Ok(ended.is_some())
    }
}
