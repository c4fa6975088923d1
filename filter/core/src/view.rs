//! One VM's view of one circuit: the record as last read, the window over the shared counters, and the only way to change
//! the record.
//!
//! Nothing here is authoritative but what lies in the host. A view is refreshed before every decision, which costs one
//! gauge while nothing has changed; a change is decided on what was read in the same round and written by
//! compare-and-swap, so a decision made on an old view never lands.

use std::rc::Rc;

use crate::circuit::{Change, Moment, Reason, condition, ramp_conditions};
use crate::fallback::Place;
use crate::host::{ABSENT, Fault, Gauge, Host, TRIES};
use crate::idle::Used;
use crate::key;
use crate::metrics;
use crate::policy::{Length, Policy};
use crate::ramp::Spread;
use crate::record::{Phase, Record};
use crate::report;
use crate::series::{Histogram, Series};
use crate::vm::Vm;
use crate::window::{Tally, Window};
use crate::words::Words;

#[derive(Clone)]
pub(crate) struct View {
    pub(crate) name: Rc<str>,
    pub(crate) slot: u32,
    pub(crate) policy: Rc<Policy>,
    pub(crate) words: Words,
    pub(crate) series: Series,
    /// The epoch that was read before `record`; `None` where the record must be read in any case.
    pub(crate) epoch: Option<u64>,
    /// The epoch of the record that the gauges were last set to.
    pub(crate) told: Option<u64>,
    pub(crate) record: Record,
    /// Calls that were admitted from then on count in the record's generation.
    counts_since: u64,
    /// A good call whose answer began in less time is nothing but one more good call.
    plain_below: u64,
    pub(crate) window: Window,
    pub(crate) spread: Spread,
    asked_for: AskedFor,
    pub(crate) latency: Histogram,
    /// Where the fallback leads, as this worker knows it.
    pub(crate) landing: Option<Place>,
    /// When somebody used the circuit last, as far as this worker knows.
    pub(crate) used: Used,
    /// Its window holds no call, and nothing is watched: it is looked at less often.
    pub(crate) unused: bool,
    /// The gauges may say that it is not CLOSED.
    shown: bool,
}

/// The metrics of an upstream, which outlive its circuit.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) words: Words,
    series: Series,
    latency: Histogram,
}

/// When the upstream wants to be asked again, as this worker has heard it from a failure last.
#[derive(Clone, Copy, Debug, Default)]
struct AskedFor {
    at: u64,
    /// The good calls by then: one more, of any worker, and it is forgotten.
    successes: u64,
}

impl AskedFor {
    /// When; 0 where nobody has asked since the last good call.
    fn since_success(self, tally: Tally) -> u64 {
        if tally.success == self.successes { self.at } else { 0 }
    }
}

/// What a decision about a change may look at.
pub(crate) struct Sight<'a> {
    pub(crate) record: &'a Record,
    pub(crate) at: Moment,
    pub(crate) policy: &'a Policy,
    window: &'a Window,
    pub(crate) streak: u64,
}

impl Sight<'_> {
    /// The condition that holds now, if any; the ramp's own reason in the ramp.
    pub(crate) fn condition(&self) -> Option<Reason> {
        let counted = self.window.count(self.at.now, self.at.tally, self.policy.trip.window);
        match self.record.phase {
            Phase::Closed => condition(&self.policy.trip, self.streak, counted),
            Phase::Ramp => condition(&ramp_conditions(self.policy), self.streak, counted).map(|_| Reason::RampFailed),
            Phase::Open | Phase::Probe | Phase::Ended => None,
        }
    }
}

impl View {
    /// The metrics of an upstream, defined where they are not known yet.
    pub(crate) fn known<H: Host>(vm: &Vm<H>, known: Option<Known>, name: &str) -> Result<Known, Fault> {
        match known {
            Some(known) => Ok(known),
            None => {
                let words = Words::of(&vm.host, vm.process()?, name)?;
                Ok(Known { words, series: Series::default(), latency: Histogram::UNMET })
            }
        }
    }

    /// The view of the circuit in a slot.
    pub(crate) fn new<H: Host>(
        vm: &Vm<H>,
        slot: u32,
        name: Rc<str>,
        policy: Rc<Policy>,
        known: Known,
        now: u64,
    ) -> Result<View, Fault> {
        let Known { mut words, mut series, latency } = known;
        series.move_to(slot);
        words.mind_latency(&vm.host, &name, policy.trip.latency_threshold > 0)?;
        let tally = words.tally(&vm.host)?;
        let record = Record::fresh(0, now, tally);
        let mut view = View {
            name,
            slot,
            plain_below: policy.plain_below(),
            policy,
            words,
            series,
            epoch: None,
            told: None,
            counts_since: record.counts_since(),
            record,
            window: Window::starting(now, tally),
            spread: Spread::starting(now, vm.random.draw()),
            asked_for: AskedFor::default(),
            latency,
            landing: None,
            used: Used::at(now, tally),
            unused: false,
            shown: false,
        };
        view.refresh(vm, now)?;
        view.keep_metrics(vm)?;
        // Another worker may have made the circuit a moment ago: what it has counted since is in this window too.
        view.window = view.window_since_record(now, tally);
        view.tell(vm)?;
        Ok(view)
    }

    /// The same circuit under another policy, as this VM knows it: its window lives on, and no metric is defined twice, each
    /// of which would cost Envoy memory for as long as the VM lives.
    pub(crate) fn under<H: Host>(&self, vm: &Vm<H>, policy: Rc<Policy>) -> Result<View, Fault> {
        let mut view = self.clone();
        view.words.mind_latency(&vm.host, &self.name, policy.trip.latency_threshold > 0)?;
        view.plain_below = policy.plain_below();
        view.policy = policy;
        // What the gauges say may depend on the policy.
        view.told = None;
        view.landing = None;
        view.note_threshold(vm);
        Ok(view)
    }

    /// What outlives it.
    pub(crate) fn to_known(&self) -> Known {
        Known { words: self.words.clone(), series: self.series.clone(), latency: self.latency.clone() }
    }

    /// Where the record lies. Made when it is needed: a circuit that stays CLOSED never looks, and there are many.
    fn key(&self) -> String {
        key::record_key(self.slot)
    }

    /// Where lies where its fallback leads.
    pub(crate) fn fallback_key(&self) -> String {
        key::fallback_key(self.slot)
    }

    /// Whether the circuit has ended, as far as this VM knows: whoever needs it looks for its upstream again.
    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        self.record.phase == Phase::Ended
    }

    /// Takes over what other VMs have counted and this one has not: Envoy forgets a metric with the last VM that knows it, and
    /// a new version of the module replaces them all.
    fn keep_metrics<H: Host>(&self, vm: &Vm<H>) -> Result<(), Fault> {
        self.series.keep(&vm.host, &self.name, |metric, component| {
            let shared = std::ptr::eq(metric, &raw const metrics::SHARED);
            match component {
                "streak" if shared => self.streak(vm).map(|_| true),
                "used" if shared => self.used_at(vm).map(|_| true),
                _ => Ok(false),
            }
        })?;
        // An earlier circuit of the upstream may have had another slot.
        self.series.note_all(&vm.host, &self.name);
        self.words.met_late().for_each(|word| self.series.note(&vm.host, (&metrics::SHARED, word), &self.name));
        self.note_threshold(vm);
        Ok(())
    }

    fn note_threshold<H: Host>(&self, vm: &Vm<H>) {
        if self.policy.trip.latency_threshold > 0 {
            self.series.note(&vm.host, (&metrics::OVER_THRESHOLD, ""), &self.name);
        }
    }

    pub(crate) fn streak<H: Host>(&self, vm: &Vm<H>) -> Result<&Gauge, Fault> {
        if !self.words.has_streak() {
            self.series.note(&vm.host, (&metrics::SHARED, "streak"), &self.name);
        }
        self.words.streak(&vm.host, vm.process()?, &self.name)
    }

    pub(crate) fn used_at<H: Host>(&self, vm: &Vm<H>) -> Result<&Gauge, Fault> {
        if !self.words.has_used() {
            self.series.note(&vm.host, (&metrics::SHARED, "used"), &self.name);
        }
        self.words.used(&vm.host, vm.process()?, &self.name)
    }

    /// Reads the record again if anyone has written it.
    pub(crate) fn refresh<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<(), Fault> {
        let epoch = self.words.epoch.get(&vm.host)?;
        if self.epoch != Some(epoch) {
            let (record, _) = self.load(vm)?;
            let tally = self.words.tally(&vm.host)?;
            self.take(vm, record, now, tally);
            self.epoch = Some(epoch);
        }
        Ok(())
    }

    /// Reads the record again although nobody has said that it was written: whoever wrote it may have died before it could
    /// say so, or could not. What is found is told to all.
    pub(crate) fn look_again<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<(), Fault> {
        self.refresh(vm, now)?;
        if self.record.phase != Phase::Closed {
            // Whoever set the gauges last may have died before it ended what they say, or told late.
            self.told = None;
        }
        let (record, _) = self.load(vm)?;
        if record != self.record {
            let tally = self.words.tally(&vm.host)?;
            self.take(vm, record, now, tally);
            self.words.epoch.add_one(&vm.host)?;
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
            // Its writer may have died before it could tell, and then no epoch says that the gauges are to be set.
            self.told = None;
        }
        self.counts_since = record.counts_since();
        self.record = record;
        if moved_on {
            self.unused = false;
            self.window = self.window_since_record(now, tally);
            self.spread = Spread::starting(now, vm.random.draw());
        }
    }

    /// A window that begins with the record's generation, where that tells what is in it.
    fn window_since_record(&self, now: u64, tally: Tally) -> Window {
        Window::since((self.record.since, self.record.base), (now, tally), self.policy.trip.window)
    }

    /// Changes the record as `decide` says, which is asked again with what is there now whenever another worker was
    /// faster. `None`: it said that nothing is to be done.
    pub(crate) fn change<H: Host>(
        &mut self,
        vm: &Vm<H>,
        now: u64,
        // Not generic: six copies of this loop would be a fiftieth of the module.
        decide: &mut dyn FnMut(&Sight<'_>) -> Option<Change>,
    ) -> Result<Option<Change>, Fault> {
        for _ in 0..TRIES {
            let epoch = self.words.epoch.get(&vm.host)?;
            let (record, cas) = self.load(vm)?;
            let tally = self.words.tally(&vm.host)?;
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
                // Where this does not end it, the gauges are to be set again.
                self.told = None;
            }
            self.prepare(vm, &change)?;
            if vm.host.swap(&self.key(), &change.record.encode(&self.name), cas)? {
                self.shown |= !matches!(change.record.phase, Phase::Closed | Phase::Ended);
                report::written(self, vm, &change, at, streak);
                self.take(vm, change.record.clone(), now, tally);
                return Ok(Some(change));
            }
        }
        Err(Fault::Cas)
    }

    /// Whether a call of which only the time of its admission is known counts in the record's generation.
    #[inline]
    pub(crate) fn has_counted_since(&self, start: u64) -> bool {
        start >= self.counts_since
    }

    /// Whether a good call that had its first byte in that time is nothing but one more good call.
    #[inline]
    pub(crate) fn is_plainly_in_time(&self, first_byte: Option<u64>) -> bool {
        first_byte.unwrap_or(0) < self.plain_below
    }

    fn sight(&self, at: Moment, streak: u64) -> Sight<'_> {
        Sight { record: &self.record, at, policy: &self.policy, window: &self.window, streak }
    }

    /// What must be true before a change can be seen. While a circuit is not CLOSED every success looks closer; and a
    /// phase that counts begins with no streak, which nobody adds to before it begins.
    fn prepare<H: Host>(&self, vm: &Vm<H>, change: &Change) -> Result<(), Fault> {
        if change.record.phase == Phase::Ended {
            // What the upstream's next circuit begins with. Whoever adds to it from now on has not noticed the end yet, and
            // has seen a call that is as young as that circuit.
            self.streak(vm)?.set(&vm.host, 0)?;
            // Nobody may be left who knows of the circuit if this worker dies when it has ended it.
            return if change.reason.is_some() { report::nothing(self, &vm.host) } else { Ok(()) };
        }
        if change.reason.is_none() {
            return Ok(());
        }
        if change.record.phase != Phase::Closed {
            self.words.watch.set(&vm.host, 1)?;
        }
        if change.record.is_counting() && !self.record.is_counting() {
            self.streak(vm)?.set(&vm.host, 0)?;
        }
        Ok(())
    }

    /// Takes a sample of the counters where one is due.
    pub(crate) fn roll<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally) -> Result<(), Fault> {
        let length = self.policy.trip.window;
        // Only a window of calls asks in which order they came.
        let streak = if matches!(length, Length::Calls(_)) { self.streak(vm)?.get(&vm.host)? } else { 0 };
        self.window.roll(now, tally, streak, length);
        Ok(())
    }

    /// Sets the gauges to what the record says, where it was written since. Two workers that publish two transitions at
    /// the same time may do so in the wrong order; a tick of theirs then sets it right.
    pub(crate) fn tell<H: Host>(&mut self, vm: &Vm<H>) -> Result<(), Fault> {
        if self.told != self.epoch && !self.record.foreign && !self.is_gone() {
            report::state(self, &vm.host)?;
            self.told = self.epoch;
            self.shown = self.record.phase != Phase::Closed;
        }
        Ok(())
    }

    /// The circuit has ended. Where this worker may have told its state after the one that ended it, the gauges are set right,
    /// and whoever has the upstream's next circuit tells again.
    pub(crate) fn leave<H: Host>(&self, vm: &Vm<H>) {
        if self.shown {
            let told = report::nothing(self, &vm.host).and(self.words.epoch.add_one(&vm.host));
            told.unwrap_or_else(|fault| vm.failed(fault));
        }
    }

    /// Sets the gauges to what they are without a circuit.
    pub(crate) fn tell_nothing<H: Host>(&self, vm: &Vm<H>) {
        // Where even that cannot be told, nothing is left to do.
        let _ = report::nothing(self, &vm.host);
    }

    /// Trips the circuit if a condition holds for this generation.
    pub(crate) fn judge<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<(), Fault> {
        let tally = self.words.tally(&vm.host)?;
        let streak = self.streak(vm)?.get(&vm.host)?;
        let at = Moment { now, tally, random: 0, retry_at: 0 };
        if self.sight(at, streak).condition().is_none() {
            // A window of calls moves with them and not with the tick.
            self.window.roll(now, tally, streak, self.policy.trip.window);
            return Ok(());
        }
        let generation = self.record.generation;
        self.change(vm, now, &mut |sight| {
            if sight.record.generation != generation {
                return None;
            }
            sight.condition().map(|reason| sight.record.trip(sight.policy, &sight.at, reason))
        })?;
        Ok(())
    }

    /// The upstream has failed and has said when it wants to be asked again. Heard before a trip it lengthens the open
    /// time, and heard while the circuit is OPEN it does so too, whichever worker hears it.
    pub(crate) fn hear<H: Host>(&mut self, vm: &Vm<H>, retry_after: Option<u64>, now: u64) -> Result<(), Fault> {
        let Some(retry_after) = retry_after.filter(|_| self.policy.open.max_retry_after > 0) else { return Ok(()) };
        let successes = self.words.tally(&vm.host)?.success;
        self.asked_for = AskedFor { at: now.saturating_add(retry_after), successes };
        self.refresh(vm, now)?;
        if self.record.phase == Phase::Open {
            self.change(vm, now, &mut |sight| sight.record.lengthen(sight.policy, &sight.at))?;
        }
        Ok(())
    }

    /// Makes what time, evidence and the policy demand. `tally` was read after the record; `latest` good calls of it end right
    /// now.
    pub(crate) fn advance<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally, latest: u64) -> Result<(), Fault> {
        if self.record.due(&self.policy, &Moment { now, tally, random: 0, retry_at: 0 }, latest).is_some() {
            self.change(vm, now, &mut |sight| sight.record.due(sight.policy, &sight.at, latest))?;
        }
        Ok(())
    }
}
