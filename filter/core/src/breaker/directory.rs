//! The list of circuits that all workers of a proxy share, as one VM follows it.

use std::rc::Rc;

use super::circuits::Circuits;
use super::{Breaker, index, policy_of};
use crate::breaker::view::View;
use crate::circuit::layout::Slot;
use crate::circuit::record::Record;
use crate::host::{ABSENT, Fault, Host, TRIES};
use crate::keys::{record_key, slots_key};
use crate::policy::Mode;
use crate::shared::slots::{Addition, Slots};

/// How much a VM does at one step to meet circuits. The unit is the cost of taking one over from an older
/// configuration, some 10 us. All workers step at the same time, often on fewer processors, and each keeps requests
/// waiting meanwhile. Ten thousand circuits are taken over in 625 steps.
const MET_AT_A_STEP: usize = 16;

/// What it costs to meet a circuit that this VM has never known: some tens of host calls, and the names of six metrics.
const NEVER_KNOWN: usize = 4;

/// Slots that are read at one step, where the list does not tell which of them have changed. A read costs some
/// microseconds.
const READ_AT_A_STEP: u32 = 64;

/// A reading of all slots that goes on over several steps.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// The number of additions that the slots are sure to show.
    additions: u64,
    /// The next slot to read.
    next: u32,
}

impl<H: Host> Breaker<H> {
    /// Goes on with the circuits of an older configuration, each when it is met.
    pub(super) fn inherit(&mut self, older: &Breaker<H>, now: u64) {
        self.additions = older.additions;
        self.remembered = older.remembered.clone();
        // No tick of this configuration will see the time that has passed since the older one's last tick.
        self.circuits = Circuits::inherit(&older.circuits, older.leap(now));
    }

    /// Takes over all additions that other workers have made: the list, and its compare-and-swap number.
    fn discover(&mut self, now: u64) -> Result<(Slots, u32), Fault> {
        let (list, cas) = self.list_of_slots()?;
        self.reading = None;
        self.follow(&list, u32::MAX, now)?;
        Ok((list, cas))
    }

    /// Takes over the additions of the list. Where it does not tell which slots they are in, `most` slots are read, and
    /// the next call goes on: a worker that has missed many additions keeps no request waiting. False: there are more.
    fn follow(&mut self, list: &Slots, most: u32, now: u64) -> Result<bool, Fault> {
        if list.additions == self.additions {
            return Ok(true);
        }
        self.finish(&list.newest, now)?;
        if let Some(changed) = list.after(self.additions) {
            self.look_at(changed)?;
            self.have_seen(list.used, list.additions);
            return Ok(true);
        }
        let begins = Reading { additions: list.additions, next: 0 };
        let Reading { mut additions, next } = self.reading.take().unwrap_or(begins);
        // Slots that were read may have changed since.
        if let Some(changed) = list.after(additions) {
            self.look_at(changed)?;
            additions = list.additions;
        }
        let end = list.used.min(next.saturating_add(most));
        self.look_at(&(next..end).collect::<Vec<_>>())?;
        if end < list.used {
            self.reading = Some(Reading { additions, next: end });
            return Ok(false);
        }
        self.have_seen(list.used, additions);
        Ok(additions == list.additions)
    }

    fn list_of_slots(&self) -> Result<(Slots, u32), Fault> {
        let Some((bytes, cas)) = self.vm.host.get(&slots_key())? else { return Ok((Slots::default(), ABSENT)) };
        Ok((Slots::decode(&bytes).ok_or(Fault::Record)?, cas))
    }

    /// So many additions are taken over.
    fn have_seen(&mut self, slots: u32, additions: u64) {
        self.circuits.reach(index(slots));
        self.additions = additions;
        self.reading = None;
    }

    /// Whose these slots are now.
    fn look_at(&mut self, slots: &[u32]) -> Result<(), Fault> {
        for slot in slots.iter().copied() {
            match self.read(slot)? {
                Slot::Taken(name) => self.put(slot, &name),
                Slot::Free { .. } | Slot::Foreign => self.clear(slot),
                Slot::Unknown => {
                    self.vm.failed(Fault::Record);
                    self.clear(slot);
                }
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, slot: u32) -> Result<Slot, Fault> {
        let bytes = self.vm.host.get(&record_key(slot))?;
        Ok(Slot::read(bytes.as_ref().map(|(bytes, _)| bytes.as_slice())))
    }

    /// Writes the record of an addition, unless that is done.
    fn finish(&mut self, addition: &Addition, now: u64) -> Result<(), Fault> {
        let key = record_key(addition.slot);
        let bytes = self.vm.host.get(&key)?;
        let (bytes, cas) = bytes.as_ref().map_or((None, ABSENT), |(bytes, cas)| (Some(bytes.as_slice()), *cas));
        match Slot::read(bytes) {
            Slot::Free { born } if born <= addition.born => {}
            Slot::Free { .. } | Slot::Taken(_) | Slot::Foreign | Slot::Unknown => return Ok(()),
        }
        // A VM whose host failed it at first has not met the process yet.
        self.vm.meet(now)?;
        let upstream = &addition.upstream;
        let known = View::known(&self.vm, self.remembered.take(upstream), upstream)?;
        let fresh = Record::fresh(addition.born, now, known.counts.tally(&self.vm.host)?);
        // Another worker was faster and has finished it, which is as good.
        if self.vm.host.swap(&key, &fresh.encode(upstream), cas)? {
            known.counts.epoch.add_one(&self.vm.host)?;
            self.vm.advance()?;
        }
        self.remembered.keep(upstream.as_str().into(), known, self.config.max_circuits);
        Ok(())
    }

    /// Follows the list and meets circuits, some of each. False: there are more.
    pub(super) fn learn(&mut self, now: u64) -> Result<bool, Fault> {
        let all_listed = self.list_of_slots().and_then(|(list, _)| self.follow(&list, READ_AT_A_STEP, now));
        // A list that cannot be read, as a later version's, says nothing of the circuits that are known.
        let all_met = self.meet_some(now)?;
        Ok(all_listed? && all_met)
    }

    /// Goes on where the last tick has left some of that. The caller calls it every few milliseconds, between the ticks,
    /// as long as it is true.
    pub fn catch_up(&mut self, now: u64) -> bool {
        if self.behind && !self.retired && !self.vm.is_blind() {
            let learned = self.learn(now);
            // After a fault the next tick tries again.
            self.behind = self.noted(learned) == Some(false);
        }
        self.is_behind()
    }

    /// Whether there are circuits that no tick and no request has led to yet. Before the first tick nobody asks: Envoy
    /// may still take the configuration back.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind && !self.retired
    }

    /// Meets some of the circuits that no request has led to yet. False: there are more.
    fn meet_some(&mut self, now: u64) -> Result<bool, Fault> {
        let mut spent = 0_usize;
        while let Some(circuit) = self.circuits.unmet() {
            if spent >= MET_AT_A_STEP {
                return Ok(false);
            }
            spent = spent.saturating_add(if self.circuits.is_inherited(circuit) { 1 } else { NEVER_KNOWN });
            self.meet(circuit, now)?;
        }
        Ok(true)
    }

    /// The circuit of `upstream`, listed if it is new; `None` where it is to have none.
    pub(super) fn find(&mut self, upstream: &str, now: u64) -> Result<Option<u32>, Fault> {
        if self.vm.is_blind() {
            return Ok(None);
        }
        for _ in 0..TRIES {
            let circuit = match self.circuits.number_of(upstream) {
                Some(circuit) => circuit,
                None => match self.list(upstream, now)? {
                    Some(circuit) => circuit,
                    None => return Ok(None),
                },
            };
            if self.circuits.get(circuit).is_none() {
                self.meet(circuit, now)?;
            }
            match self.circuits.get(circuit) {
                Some(view) if !view.is_gone() => return Ok(Some(circuit)),
                _ => self.clear(circuit),
            }
        }
        Err(Fault::Cas)
    }

    /// As [`Breaker::find`], with the circuit's record as it is now: a call must not be settled in a circuit that has
    /// ended.
    pub(super) fn find_present(&mut self, upstream: &str, now: u64) -> Result<Option<u32>, Fault> {
        let Some(circuit) = self.find(upstream, now)? else { return Ok(None) };
        if let Some((view, vm)) = self.parts(circuit) {
            view.refresh(vm, now)?;
        }
        self.find(upstream, now)
    }

    /// Lists a circuit that is new to this VM.
    #[cold]
    fn list(&mut self, upstream: &str, now: u64) -> Result<Option<u32>, Fault> {
        self.vm.meet(now)?;
        let mode = policy_of(&self.config, upstream).mode;
        if mode == Mode::Disabled {
            return Ok(None);
        }
        for _ in 0..TRIES {
            let (list, cas) = self.discover(now)?;
            if let Some(circuit) = self.circuits.number_of(upstream) {
                return Ok(Some(circuit));
            }
            let Some((slot, born)) = self.room(&list, now)? else {
                self.vm.unprotected();
                return Ok(None);
            };
            let addition = Addition { slot, born, upstream: upstream.to_owned() };
            let list = list.with(addition);
            if self.vm.host.swap(&slots_key(), &list.encode(), cas)? {
                self.finish(&list.newest, now)?;
                self.put(slot, upstream);
                self.additions = list.additions;
                return Ok(Some(slot));
            }
        }
        Err(Fault::Cas)
    }

    /// A free slot, and the generation that its circuit begins with.
    fn room(&mut self, list: &Slots, now: u64) -> Result<Option<(u32, u64)>, Fault> {
        let most = index(self.config.max_circuits);
        if self.circuits.held() >= most && !self.crowded {
            self.notice_ends(now);
        }
        if self.circuits.held() < most {
            for slot in self.circuits.free() {
                match self.read(slot)? {
                    Slot::Free { born } => return Ok(Some((slot, born))),
                    // Another worker has added to the list meanwhile, and this addition will fail.
                    Slot::Taken(_) => return Ok(Some((slot, 0))),
                    Slot::Foreign | Slot::Unknown => {}
                }
            }
            if list.used < self.config.max_circuits {
                return Ok(Some((list.used, 0)));
            }
        }
        self.make_room(now)
    }

    fn put(&mut self, slot: u32, name: &str) {
        let ended = self.circuits.put(slot, name);
        ended.iter().for_each(|view| self.leave(view));
    }

    /// The circuit in a slot has ended.
    pub(super) fn clear(&mut self, slot: u32) {
        if let Some(view) = self.circuits.clear(slot) {
            self.leave(&view);
        }
    }

    fn leave(&mut self, view: &View) {
        view.leave(&self.vm);
        self.remembered.keep(Rc::clone(&view.name), view.to_known(), self.config.max_circuits);
    }

    /// Meets a circuit, or what an older configuration knows of it.
    #[cold]
    pub(super) fn meet(&mut self, circuit: u32, now: u64) -> Result<(), Fault> {
        let Some(name) = self.circuits.name(circuit).cloned() else { return Ok(()) };
        // Its name may come from a tick at which the host failed this VM here.
        self.vm.meet(now)?;
        let policy = policy_of(&self.config, &name);
        let mut view = match self.circuits.take_inherited(circuit) {
            Some(inherited) => {
                let mut view = inherited.view.under(&self.vm, policy)?;
                view.used.leap(inherited.leap, now);
                view.used.rebase(now);
                view
            }
            None => {
                let known = View::known(&self.vm, self.remembered.take(&name), &name)?;
                let mut view = View::new(&self.vm, circuit, name, policy, known, now)?;
                // The clock may have stepped back since the last tick, and may step forward again before the next
                // one.
                view.used.since(self.vm.ticked.get());
                view
            }
        };
        view.is_of(self.config.health.as_ref());
        view.latency.want(circuit < self.config.latency_histograms);
        if circuit > 0 && circuit == self.config.latency_histograms {
            self.vm.say_once(
                "latency_histograms",
                "circuit_breaker_latency_ms is not kept for more upstreams than limits.latencyHistograms",
            );
        }
        self.circuits.set(circuit, view);
        self.vm.circuits(self.circuits.held());
        Ok(())
    }
}
