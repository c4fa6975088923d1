//! The tick: what time does to the circuits that one worker knows.

use super::Breaker;
use super::health::Look;
use super::view::View;
use crate::circuit::record::Phase;
use crate::clock;
use crate::host::{Fault, Host};
use crate::policy::Mode;
use crate::shared::vm::Vm;

/// In this many ticks each record is read once, even if nobody has said that it was written: its writer may have died
/// in between. With ticks of half a second a trip is then known after ten seconds, and a thousand circuits cost 100
/// reads a second.
const ROUND: usize = 20;

/// Periods after which the worker counts as stopped, and the tick as more than late. A busy worker may well miss one
/// tick.
const LATE: u64 = 3;

impl<H: Host> Breaker<H> {
    /// What time does: windows roll, OPEN ends, ramps climb, probes run out, and calm is found again.
    pub fn tick(&mut self, now: u64) {
        if clock::stepped_back(now, self.vm.ticked.get()) {
            self.flights.rebase(now);
            self.rebase_probes(now);
            self.rebase_sent(now);
            self.circuits.iter_mut().for_each(|view| view.used.rebase(now));
        }
        let leap = self.leap(now);
        if leap > 0 {
            self.flights.leap(leap);
            self.leap_probes(leap);
            self.leap_sent(leap);
            self.circuits.leap(leap, now);
        }
        self.vm.ticked.set(now);
        self.crowded = false;
        self.end_probes(now);
        self.end_overdue(now);
        self.age_flights(now);
        self.settle_long_lived(now);
        if self.retired {
            return;
        }
        let met = self.vm.meet(now);
        self.noted(met);
        self.tell_info();
        let epoch = self.vm.epoch();
        if self.ticked_at != epoch {
            self.vm.look_whether_blind();
        }
        if self.vm.is_blind() {
            return self.let_all_pass();
        }
        let overall = self.overall_before();
        self.look_again(now);
        let learned = self.learn(now);
        let learned = self.noted(learned);
        self.behind = learned == Some(false);
        let mut calm = learned == Some(true)
            && !self.follows_redirects
            && !self.config.policies().any(|p| p.mode == Mode::ForceOpen);
        let unwritten = epoch.is_some() && self.ticked_at == epoch;
        self.ticked_at = epoch;
        let (mut some_ended, idle) = (false, self.config.idle_circuit);
        let mut look = Look::default();
        for view in self.circuits.iter_mut() {
            if unwritten && view.is_at_rest(now, idle) {
                look.add(view, now);
                continue;
            }
            match tick_circuit(view, &self.vm, now, idle) {
                Ok(closed) => calm &= closed,
                Err(fault) => {
                    calm = false;
                    self.vm.failed(fault);
                }
            }
            some_ended |= view.is_gone();
            look.add(view, now);
        }
        // Those that are still to be met are mostly CLOSED, and would be missing in a share of all.
        if let Some(overall) = overall.filter(|_| learned == Some(true)) {
            self.judge_health(overall, look, now);
        }
        if some_ended {
            self.clear_ended();
        }
        self.probe_upstreams(now);
        self.calm = if calm { epoch } else { None };
        self.vm.circuits(self.circuits.held());
    }

    /// The breaker can decide nothing, so it shows every circuit as CLOSED.
    #[cold]
    fn let_all_pass(&mut self) {
        self.calm = None;
        for (_, view, _) in std::mem::take(&mut self.circuits).known() {
            view.tell_nothing(&self.vm);
        }
    }

    /// Looks at a part of the circuits at each tick. After [`ROUND`] ticks each has had its turn.
    fn look_again(&mut self, now: u64) {
        let part = self.circuits.slots().div_ceil(ROUND);
        for view in self.circuits.next_of_round(part) {
            if let Err(fault) = view.look_again(&self.vm, now) {
                self.vm.failed(fault);
            }
        }
    }

    /// By how much the time since the last tick is longer than a period: the clock has leapt ahead, or this worker
    /// was stopped. It could see no answer in that time, so no call counts as waiting in it. 0 where the tick is only
    /// late.
    pub(super) fn leap(&self, now: u64) -> u64 {
        let (passed, period) = (now.saturating_sub(self.vm.ticked.get()), self.period);
        if passed > period.saturating_mul(LATE) { passed.saturating_sub(period) } else { 0 }
    }
}

/// Whether the circuit lets everything pass. It ends where nobody has used it for `idle` nanoseconds.
fn tick_circuit<H: Host>(view: &mut View, vm: &Vm<H>, now: u64, idle: u64) -> Result<bool, Fault> {
    view.refresh(vm, now)?;
    if view.is_gone() || view.is_at_rest(now, idle) {
        return Ok(true);
    }
    let tally = view.counts.tally(&vm.host)?;
    if view.policy.mode == Mode::Disabled {
        view.end_if_idle(vm, now, tally, idle)?;
        view.tell(vm)?;
        return Ok(true);
    }
    if !view.is_still_unused(now, tally) {
        view.roll(vm, now, tally)?;
        view.advance(vm, now, tally, 0)?;
        view.stop_watching(vm, now, tally)?;
    }
    view.end_if_idle(vm, now, tally, idle)?;
    view.tell(vm)?;
    Ok(matches!(view.record.phase, Phase::Closed | Phase::Ended) && !view.record.foreign)
}
