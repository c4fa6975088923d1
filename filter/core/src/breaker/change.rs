//! The record of one circuit as one worker reads and changes it.
//!
//! A view is refreshed before every decision, which costs one gauge while nothing has changed. A change is decided on
//! what was read in the same round, and written by compare-and-swap, so a decision made on an old view never takes
//! effect.

use super::view::{Sight, View};
use crate::circuit::ramp::Spread;
use crate::circuit::record::{Phase, Record};
use crate::circuit::transitions::{Change, Moment};
use crate::circuit::window::{Tally, Window};
use crate::host::{ABSENT, Fault, Host, TRIES};
use crate::shared::vm::Vm;
use crate::telemetry::transition::Transition;

impl View {
    /// Reads the record again if anyone has written it.
    pub(super) fn refresh<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<(), Fault> {
        let epoch = self.counts.epoch.get(&vm.host)?;
        if self.epoch != Some(epoch) {
            let (record, _) = self.load(vm)?;
            let tally = self.counts.tally(&vm.host)?;
            self.take(vm, record, now, tally);
            self.epoch = Some(epoch);
        }
        Ok(())
    }

    /// Reads the record again although nobody has said that it was written. Its writer may have died first, or its
    /// host may have failed it. All workers are told of a change that is found.
    pub(super) fn look_again<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<(), Fault> {
        self.refresh(vm, now)?;
        if self.record.phase != Phase::Closed {
            // The worker that set the gauges last may have died halfway, or may have set them late.
            self.told = None;
        }
        let (record, _) = self.load(vm)?;
        if record != self.record {
            let tally = self.counts.tally(&vm.host)?;
            self.take(vm, record, now, tally);
            self.counts.epoch.add_one(&vm.host)?;
            vm.advance()?;
        }
        Ok(())
    }

    /// The record and its compare-and-swap number.
    fn load<H: Host>(&self, vm: &Vm<H>) -> Result<(Record, u32), Fault> {
        let Some((bytes, cas)) = vm.host.get(&self.key())? else { return Ok((Record::ended(), ABSENT)) };
        let record = Record::decode(&bytes, &self.name).unwrap_or_else(|| {
            vm.failed(Fault::Record);
            Record::ended()
        });
        Ok((record, cas))
    }

    /// Keeps a record that was read or written. Another generation starts window and spread afresh.
    fn take<H: Host>(&mut self, vm: &Vm<H>, record: Record, now: u64, tally: Tally) {
        let moved_on = (record.generation, record.foreign) != (self.record.generation, self.record.foreign);
        if record.born != self.record.born {
            self.landing = None;
        }
        if moved_on {
            // Its writer may have died before it told of the write. Then no epoch says that the gauges are to be set.
            self.told = None;
        }
        self.counts_since = record.counts_since();
        self.record = record;
        if moved_on {
            self.unused = false;
            self.cannot_probe = false;
            self.window = self.window_since_record(now, tally);
            self.spread = Spread::starting(now, vm.random.draw());
        }
    }

    /// A window that begins with the record's generation, where the record tells what was counted by then.
    pub(super) fn window_since_record(&self, now: u64, tally: Tally) -> Window {
        Window::since((self.record.since, self.record.base), (now, tally), self.policy.trip.window)
    }

    /// Changes the record as `decide` says. Whenever another worker was faster, `decide` is asked again with the new
    /// record. `None`: it said that nothing is to be done.
    pub(super) fn change<H: Host>(
        &mut self,
        vm: &Vm<H>,
        now: u64,
        // Not generic: six copies of this loop would be a fiftieth of the module.
        decide: &mut dyn FnMut(&Sight<'_>) -> Option<Change>,
    ) -> Result<Option<Change>, Fault> {
        for _ in 0..TRIES {
            let epoch = self.counts.epoch.get(&vm.host)?;
            let (record, cas) = self.load(vm)?;
            let tally = self.counts.tally(&vm.host)?;
            self.take(vm, record, now, tally);
            self.epoch = Some(epoch);
            if self.record.foreign || self.is_gone() {
                return Ok(None);
            }
            let streak = self.streak(vm)?.get(&vm.host)?;
            let retry_at = self.asked_for.since_success(tally);
            let at = Moment { now, tally, random: vm.random.draw(), retry_at };
            let Some(change) = decide(&self.sight(at, streak)) else { return Ok(None) };
            if change.record.phase == Phase::Ended {
                // If the swap does not end the circuit, the gauges are to be set again.
                self.told = None;
            }
            self.prepare(vm, &change)?;
            if vm.host.swap(&self.key(), &change.record.encode(&self.name), cas)? {
                self.shown |= !matches!(change.record.phase, Phase::Closed | Phase::Ended);
                self.tell_written(vm, &change, at, streak);
                self.take(vm, change.record.clone(), now, tally);
                return Ok(Some(change));
            }
        }
        Err(Fault::Cas)
    }

    /// Does what must be done before a change can be seen. While a circuit is not CLOSED, every success looks closer.
    /// A phase that counts begins with a streak of 0, and nobody adds to the streak before the phase begins.
    fn prepare<H: Host>(&self, vm: &Vm<H>, change: &Change) -> Result<(), Fault> {
        if change.record.phase == Phase::Ended {
            // The upstream's next circuit begins with this streak. A worker that adds to it from now on has not
            // noticed the end yet, and its call is as young as that circuit.
            self.streak(vm)?.set(&vm.host, 0)?;
            // This worker may die right after it has ended the circuit, and perhaps no other worker knows the
            // circuit. So the gauges are set before.
            return if change.reason.is_some() { self.told_as().nothing(&vm.host) } else { Ok(()) };
        }
        if change.reason.is_none() {
            return Ok(());
        }
        if change.record.phase != Phase::Closed {
            self.counts.watch.set(&vm.host, 1)?;
        }
        if change.record.is_counting() && !self.record.is_counting() {
            self.streak(vm)?.set(&vm.host, 0)?;
        }
        Ok(())
    }

    /// Tells all workers that the record was written, and everybody else what changed.
    ///
    /// A fault is counted and the rest is still done: the change stands. Workers that were not told find it in their
    /// round through all records ([`View::look_again`]).
    fn tell_written<H: Host>(&self, vm: &Vm<H>, change: &Change, at: Moment, streak: u64) {
        let told = self.counts.epoch.add_one(&vm.host).and(vm.advance());
        let said = change.reason.map_or(Ok(()), |reason| {
            let window = self.window.count(at.now, at.tally, self.policy.trip.window);
            let made = Transition { from: &self.record, to: &change.record, reason, now: at.now, window, streak };
            self.told_as().transition(&vm.host, &made)
        });
        for fault in [told.err(), said.err()].into_iter().flatten() {
            vm.failed(fault);
        }
    }
}
