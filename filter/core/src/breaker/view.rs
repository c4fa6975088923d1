//! One VM's view of one circuit: the record as it was last read, and the window over the shared counters. Only a view
//! changes the record.
//!
//! The truth is what the host has. A view is refreshed before every decision, which costs one gauge while nothing has
//! changed. A change is decided on what was read in the same round, and written by compare-and-swap, so a decision
//! made on an old view never takes effect.

use std::rc::Rc;

use crate::breaker::landing::Place;
use crate::breaker::used::Used;
use crate::circuit::conditions::{Reason, condition, ramp_conditions};
use crate::circuit::ramp::Spread;
use crate::circuit::record::{Phase, Record};
use crate::circuit::transitions::Moment;
use crate::circuit::window::{Tally, Window};
use crate::host::{Fault, Host};
use crate::keys;
use crate::policy::{Length, Mode, Policy};
use crate::shared::counts::Counts;
use crate::shared::number::Gauge;
use crate::shared::vm::Vm;
use crate::telemetry::metrics;
use crate::telemetry::series::{Histogram, Series};
use crate::telemetry::transition::Told;

#[derive(Clone)]
pub(super) struct View {
    pub(super) name: Rc<str>,
    pub(super) slot: u32,
    pub(super) policy: Rc<Policy>,
    pub(super) counts: Counts,
    pub(super) series: Series,
    /// The epoch that was read before `record`; `None` where the record must be read in any case.
    pub(super) epoch: Option<u64>,
    /// The epoch of the record that the gauges were last set to.
    pub(super) told: Option<u64>,
    pub(super) record: Record,
    /// Calls that were admitted from this time on count in the record's generation.
    pub(super) counts_since: u64,
    /// A good call whose answer began in less time changes nothing but the count of successes.
    plain_below: u64,
    pub(super) window: Window,
    pub(super) spread: Spread,
    pub(super) asked_for: AskedFor,
    pub(super) latency: Histogram,
    /// Where the fallback leads, as this worker knows it.
    pub(super) landing: Option<Place>,
    /// When somebody used the circuit last, as far as this worker knows.
    pub(super) used: Used,
    /// Its window holds no call, and nothing is watched. The tick looks at it less often.
    pub(super) unused: bool,
    /// The gauges may say something that must go with the circuit.
    pub(super) shown: bool,
    /// Its upstream is one of those that decide about the health of the whole.
    pub(super) of_health: bool,
    /// The host has refused to send a probe of the breaker's own since the last transition. So users' requests test.
    pub(super) cannot_probe: bool,
}

/// The metrics of an upstream, which outlive its circuit.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) counts: Counts,
    series: Series,
    latency: Histogram,
}

/// The last time at which the upstream wants to be asked again, as this worker has heard from a failure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AskedFor {
    at: u64,
    /// The count of good calls by then. One more, of any worker, and the time is forgotten.
    successes: u64,
}

impl AskedFor {
    /// The time, or 0 where the upstream has not asked since the last good call.
    pub(super) fn since_success(self, tally: Tally) -> u64 {
        if tally.success == self.successes { self.at } else { 0 }
    }
}

/// What a decision about a change may look at.
pub(super) struct Sight<'a> {
    pub(super) record: &'a Record,
    pub(super) at: Moment,
    pub(super) policy: &'a Policy,
    window: &'a Window,
    pub(super) streak: u64,
}

impl Sight<'_> {
    /// The condition that holds now, if any; the ramp's own reason in the ramp.
    pub(super) fn condition(&self) -> Option<Reason> {
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
    pub(super) fn known<H: Host>(vm: &Vm<H>, known: Option<Known>, name: &str) -> Result<Known, Fault> {
        match known {
            Some(known) => Ok(known),
            None => {
                let counts = Counts::of(&vm.host, vm.process()?, name)?;
                Ok(Known { counts, series: Series::default(), latency: Histogram::UNMET })
            }
        }
    }

    /// The view of the circuit in a slot.
    pub(super) fn new<H: Host>(
        vm: &Vm<H>,
        slot: u32,
        name: Rc<str>,
        policy: Rc<Policy>,
        known: Known,
        now: u64,
    ) -> Result<View, Fault> {
        let Known { mut counts, mut series, latency } = known;
        series.move_to(slot);
        counts.mind_latency(&vm.host, &name, policy.trip.latency_threshold > 0)?;
        let tally = counts.tally(&vm.host)?;
        let record = Record::fresh(0, now, tally);
        let mut view = View {
            name,
            slot,
            plain_below: policy.plain_below(),
            policy,
            counts,
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
            of_health: false,
            cannot_probe: false,
        };
        view.refresh(vm, now)?;
        view.keep_metrics(vm)?;
        // Another worker may have made the circuit a moment ago. What it has counted since is in this window too.
        view.window = view.window_since_record(now, tally);
        view.tell(vm)?;
        Ok(view)
    }

    /// The same circuit under another policy, as this VM knows it. Its window lives on. No metric is defined twice:
    /// each definition would cost Envoy memory for as long as the VM lives.
    pub(super) fn under<H: Host>(&self, vm: &Vm<H>, policy: Rc<Policy>) -> Result<View, Fault> {
        let mut view = self.clone();
        view.counts.mind_latency(&vm.host, &self.name, policy.trip.latency_threshold > 0)?;
        view.plain_below = policy.plain_below();
        view.policy = policy;
        // What the gauges say may depend on the policy.
        view.told = None;
        view.landing = None;
        view.cannot_probe = false;
        view.note_threshold(vm);
        Ok(view)
    }

    /// What outlives the circuit.
    pub(super) fn to_known(&self) -> Known {
        Known { counts: self.counts.clone(), series: self.series.clone(), latency: self.latency.clone() }
    }

    /// The key of the record. It is made when it is needed: a circuit that stays CLOSED never reads its record, and
    /// there are many.
    pub(super) fn key(&self) -> String {
        keys::record_key(self.slot)
    }

    /// The key of where its fallback leads.
    pub(super) fn fallback_key(&self) -> String {
        keys::fallback_key(self.slot)
    }

    /// Whether the circuit has ended, as far as this VM knows. A caller that needs a circuit then looks for its
    /// upstream again.
    #[inline]
    pub(super) fn is_gone(&self) -> bool {
        self.record.phase == Phase::Ended
    }

    /// Takes over what other VMs have counted and this one has not. Envoy forgets a metric with the last VM that
    /// knows it, and a new version of the module replaces all VMs.
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
        self.counts.met_late().for_each(|word| self.series.note(&vm.host, (&metrics::SHARED, word), &self.name));
        self.note_threshold(vm);
        Ok(())
    }

    fn note_threshold<H: Host>(&self, vm: &Vm<H>) {
        if self.policy.trip.latency_threshold > 0 {
            self.series.note(&vm.host, (&metrics::OVER_THRESHOLD, ""), &self.name);
        }
    }

    pub(super) fn streak<H: Host>(&self, vm: &Vm<H>) -> Result<&Gauge, Fault> {
        if !self.counts.has_streak() {
            self.series.note(&vm.host, (&metrics::SHARED, "streak"), &self.name);
        }
        self.counts.streak(&vm.host, vm.process()?, &self.name)
    }

    pub(super) fn used_at<H: Host>(&self, vm: &Vm<H>) -> Result<&Gauge, Fault> {
        if !self.counts.has_used() {
            self.series.note(&vm.host, (&metrics::SHARED, "used"), &self.name);
        }
        self.counts.used(&vm.host, vm.process()?, &self.name)
    }

    /// Whether a call counts in the record's generation, if only the time of its admission is known.
    #[inline]
    pub(super) fn has_counted_since(&self, start: u64) -> bool {
        start >= self.counts_since
    }

    /// Whether a good call with this time to its first byte changes nothing but the count of successes.
    #[inline]
    pub(super) fn is_plainly_in_time(&self, first_byte: Option<u64>) -> bool {
        first_byte.unwrap_or(0) < self.plain_below
    }

    pub(super) fn sight(&self, at: Moment, streak: u64) -> Sight<'_> {
        Sight { record: &self.record, at, policy: &self.policy, window: &self.window, streak }
    }

    /// Takes a sample of the counters where one is due.
    pub(super) fn roll<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally) -> Result<(), Fault> {
        let length = self.policy.trip.window;
        // Only a window of calls needs to know in which order they came.
        let streak = if matches!(length, Length::Calls(_)) { self.streak(vm)?.get(&vm.host)? } else { 0 };
        self.window.roll(now, tally, streak, length);
        Ok(())
    }

    /// Itself, as the outside knows it.
    pub(super) fn told_as(&self) -> Told<'_> {
        Told { upstream: &self.name, series: &self.series, mode: self.policy.mode }
    }

    /// Sets the gauges to what the record says, where it was written since. Two workers that publish two transitions
    /// at the same time may do so in the wrong order; their next ticks then set the gauges right.
    pub(super) fn tell<H: Host>(&mut self, vm: &Vm<H>) -> Result<(), Fault> {
        if self.told != self.epoch && !self.record.foreign && !self.is_gone() {
            self.told_as().state(&vm.host, &self.record)?;
            self.told = self.epoch;
            self.shown = self.record.phase != Phase::Closed || self.policy.mode != Mode::Enforce;
        }
        Ok(())
    }

    /// The circuit has ended. This worker may have set the gauges after the worker that ended it. Then it sets them
    /// right, and a worker with the upstream's next circuit sets them again.
    pub(super) fn leave<H: Host>(&self, vm: &Vm<H>) {
        if self.shown {
            let told = self.told_as().nothing(&vm.host).and(self.counts.epoch.add_one(&vm.host));
            told.unwrap_or_else(|fault| vm.failed(fault));
        }
    }

    /// Sets the gauges to what they are without a circuit.
    pub(super) fn tell_nothing<H: Host>(&self, vm: &Vm<H>) {
        // Where even that fails, nothing is left to do.
        let _ = self.told_as().nothing(&vm.host);
    }

    /// Trips the circuit if a condition holds for this generation.
    pub(super) fn judge<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<(), Fault> {
        let tally = self.counts.tally(&vm.host)?;
        let streak = self.streak(vm)?.get(&vm.host)?;
        let at = Moment { now, tally, random: 0, retry_at: 0 };
        if self.sight(at, streak).condition().is_none() {
            // A window of calls moves with its calls, not with the tick.
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

    /// The upstream has failed and has said when it wants to be asked again. This lengthens the open time, whichever
    /// worker hears it, before the trip as well as while the circuit is OPEN.
    pub(super) fn hear<H: Host>(&mut self, vm: &Vm<H>, retry_after: Option<u64>, now: u64) -> Result<(), Fault> {
        let Some(retry_after) = retry_after.filter(|_| self.policy.open.max_retry_after > 0) else { return Ok(()) };
        let successes = self.counts.tally(&vm.host)?.success;
        self.asked_for = AskedFor { at: now.saturating_add(retry_after), successes };
        self.refresh(vm, now)?;
        if self.record.phase == Phase::Open {
            self.change(vm, now, &mut |sight| sight.record.lengthen(sight.policy, &sight.at))?;
        }
        Ok(())
    }

    /// Makes the change that time, evidence and the policy demand. `tally` was read after the record. `latest` of its
    /// good calls end right now.
    pub(super) fn advance<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally, latest: u64) -> Result<(), Fault> {
        if self.record.due(&self.policy, &Moment { now, tally, random: 0, retry_at: 0 }, latest).is_some() {
            self.change(vm, now, &mut |sight| sight.record.due(sight.policy, &sight.at, latest))?;
        }
        Ok(())
    }
}
