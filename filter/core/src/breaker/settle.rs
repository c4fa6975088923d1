//! What each call came to.

use super::Breaker;
use crate::config::MILLISECOND;
use crate::flights::{Call, Ended};
use crate::host::{Fault, Host};
use crate::metrics;
use crate::outcome::{Answer, FailureKind, Outcome};
use crate::permit::Permit;
use crate::policy::{Length, Mode};
use crate::record::Phase;
use crate::view::View;
use crate::vm::Vm;
use crate::window::Tally;

impl<H: Host> Breaker<H> {
    /// Settles a request that went well, where that changes nothing but a count: its circuit is known and CLOSED, no
    /// failure is to be watched, and it was not slow. False: [`Breaker::settle`] is to look closer, and needs the time.
    // A part of its caller: a permit that goes there through memory costs as much as all the rest.
    #[inline(always)]
    pub fn settle_well(&mut self, permit: Permit, upstream: &str, first_byte: Option<u64>) -> bool {
        let view = match permit {
            Permit::Calm { .. } => self.circuits.named(upstream),
            Permit::Call { circuit, .. } => self.circuits.get_mut(circuit),
            Permit::Uncounted | Permit::Probe { .. } => None,
        };
        let (Some(view), vm) = (view, &self.vm) else { return false };
        let call = self.flights.call(permit.flight());
        if !view.is_plain(vm, by_this_clock(permit, call.as_ref()), first_byte) {
            return false;
        }
        let latency = view.latency(vm, first_byte);
        let counted = match call.map(Call::end) {
            Some(Ended::SettledBefore) => Ok(()),
            _ => view.words.add_success_inline(&vm.host, &view.name),
        };
        self.noted(latency);
        self.noted(counted);
        true
    }

    /// Settles a request by what Envoy knows of its end. `upstream` is where it went; only [`Permit::Calm`] needs it.
    /// `first_byte` is the time to the first byte of the answer in nanoseconds, where there was one.
    pub fn settle(
        &mut self,
        permit: Permit,
        upstream: Option<&str>,
        answer: &Answer,
        first_byte: Option<u64>,
        now: u64,
    ) {
        let call = self.flights.call(permit.flight());
        let permit = by_this_clock(permit, call.as_ref());
        let ended = call.map_or(Ended::Otherwise, Call::end);
        let circuit = match permit {
            Permit::Uncounted => return,
            Permit::Call { circuit, .. } | Permit::Probe { circuit, .. } => circuit,
            Permit::Calm { .. } => {
                let Some(upstream) = upstream else { return };
                let found = self.find(upstream, now);
                let Some(Some(circuit)) = self.noted(found) else { return };
                circuit
            }
        };
        let Some((view, vm)) = self.parts(circuit) else { return };
        if view.policy.mode == Mode::Disabled {
            return;
        }
        let latency = view.latency(vm, first_byte);
        let heard = view.hear(vm, answer.retry_after, now);
        let settled = match permit {
            _ if ended == Ended::SettledBefore => Ok(()),
            Permit::Probe { .. } => {
                let outcome = view.slowed(answer.outcome(&view.policy.failures, true), first_byte, None);
                self.end_probe(permit, outcome, now);
                Ok(())
            }
            Permit::Uncounted | Permit::Calm { .. } | Permit::Call { .. } => {
                let unanswered = match ended {
                    Ended::Unanswered { start } => Some(now.saturating_sub(start)),
                    Ended::SettledBefore | Ended::Otherwise => None,
                };
                view.settle_call(vm, permit, answer, (first_byte, unanswered), now)
            }
        };
        self.noted(latency.and(heard).and(settled));
    }
}

/// The permit as the tick has set it right, if the clock stepped back meanwhile.
#[inline]
fn by_this_clock(permit: Permit, call: Option<&Call<'_>>) -> Permit {
    match (permit, call) {
        (Permit::Calm { flight, .. }, Some(call)) => Permit::Calm { flight, start: call.unseen_since() },
        _ => permit,
    }
}

impl View {
    /// Whether a good call changes nothing but a count.
    #[inline(always)]
    fn is_plain<H: Host>(&self, vm: &Vm<H>, permit: Permit, first_byte: Option<u64>) -> bool {
        self.is_plainly_in_time(first_byte) && self.is_current(permit) && self.words.watch.get_inline(&vm.host) == Ok(0)
    }

    #[inline]
    fn latency<H: Host>(&mut self, vm: &Vm<H>, first_byte: Option<u64>) -> Result<(), Fault> {
        let Some(time) = first_byte else { return Ok(()) };
        Ok(self.latency.record(&vm.host, &metrics::LATENCY, &self.name, time / MILLISECOND)?)
    }

    /// Settles a call and the attempts before its last one, which all failed.
    fn settle_call<H: Host>(
        &mut self,
        vm: &Vm<H>,
        permit: Permit,
        answer: &Answer,
        (first_byte, unanswered): (Option<u64>, Option<u64>),
        now: u64,
    ) -> Result<(), Fault> {
        for _ in 0..answer.failed_attempts(&self.policy.failures) {
            // How long each of them took, nobody knows.
            self.settle(vm, permit, Outcome::Failure(FailureKind::Http), None, now)?;
        }
        let outcome = self.slowed(answer.outcome(&self.policy.failures, false), first_byte, unanswered);
        self.settle(vm, permit, outcome, first_byte.or(unanswered), now)
    }

    /// Whether a call that took so long to its first byte, or to its end without one, is over `latencyThreshold`.
    fn is_over(&self, waited: Option<u64>) -> bool {
        let threshold = self.policy.trip.latency_threshold;
        threshold > 0 && waited.is_some_and(|waited| waited > threshold)
    }

    /// A success that took too long to begin is slow; so is a call that nobody waited for any longer, after so long.
    pub(crate) fn slowed(&self, outcome: Outcome, first_byte: Option<u64>, unanswered: Option<u64>) -> Outcome {
        let trip = &self.policy.trip;
        let waited = match outcome {
            Outcome::Success => first_byte,
            Outcome::Neutral => unanswered,
            Outcome::Failure(_) | Outcome::Slow => None,
        };
        let late = trip.slow_rate > 0 && waited.is_some_and(|time| time >= trip.slow_duration);
        if late { Outcome::Slow } else { outcome }
    }

    pub(crate) fn settle<H: Host>(
        &mut self,
        vm: &Vm<H>,
        permit: Permit,
        outcome: Outcome,
        waited: Option<u64>,
        now: u64,
    ) -> Result<(), Fault> {
        let over = outcome != Outcome::Neutral && self.is_over(waited);
        let watched = self.words.watch.get(&vm.host)? != 0;
        if !watched && !over && outcome == Outcome::Success && self.is_current(permit) {
            return self.words.add_success(&vm.host, &self.name);
        }
        self.refresh(vm, now)?;
        if !self.is_current(permit) {
            return self.count_late(vm, outcome);
        }
        if matches!(self.policy.trip.window, Length::Calls(_)) {
            let tally = self.words.tally(&vm.host)?;
            self.roll(vm, now, tally)?;
        }
        self.count(vm, outcome)?;
        if over {
            self.words.add_over(&vm.host, &self.name)?;
            self.words.watch.set(&vm.host, 1)?;
        }
        match outcome {
            Outcome::Neutral => Ok(()),
            Outcome::Success => {
                if self.streak(vm)?.get(&vm.host)? != 0 {
                    self.streak(vm)?.set(&vm.host, 0)?;
                }
                self.judge(vm, now)?;
                if self.record.phase != Phase::Ramp {
                    return Ok(());
                }
                let tally = self.words.tally(&vm.host)?;
                self.advance(vm, now, tally)
            }
            Outcome::Slow => {
                self.words.watch.set(&vm.host, 1)?;
                self.judge(vm, now)
            }
            Outcome::Failure(_) => {
                self.streak(vm)?.add_one(&vm.host)?;
                self.words.watch.set(&vm.host, 1)?;
                self.judge(vm, now)
            }
        }
    }

    /// Whether the call was admitted in the generation that is still there, and counts in it.
    #[inline]
    fn is_current(&self, permit: Permit) -> bool {
        match permit {
            Permit::Calm { start, .. } => self.has_counted_since(start),
            Permit::Call { generation, .. } => generation == self.record.generation && self.record.is_counting(),
            Permit::Uncounted | Permit::Probe { .. } => false,
        }
    }

    /// A call of an older generation. Where a window is open it must not fall into it.
    pub(crate) fn count_late<H: Host>(&mut self, vm: &Vm<H>, outcome: Outcome) -> Result<(), Fault> {
        let outcome = if self.record.is_counting() { Outcome::Neutral } else { outcome };
        self.count(vm, outcome)
    }

    /// Counts a call.
    pub(crate) fn count<H: Host>(&mut self, vm: &Vm<H>, outcome: Outcome) -> Result<(), Fault> {
        match outcome {
            Outcome::Success => self.words.add_success(&vm.host, &self.name),
            Outcome::Slow => self.words.add_slow(&vm.host, &self.name),
            Outcome::Neutral => Ok(self.series.count(&vm.host, &metrics::CALLS, &self.name, "neutral")?),
            Outcome::Failure(kind) => {
                self.words.add_failure(&vm.host, &self.name)?;
                Ok(self.series.count(&vm.host, &metrics::FAILURES, &self.name, kind.word())?)
            }
        }
    }

    /// Lets successes pass unlooked at again once there is nothing to watch. A failure that comes meanwhile sets `watch`
    /// after it has counted itself and added to the streak: either this sees both, or it sets what this has cleared. The
    /// count alone would not tell: it may be older than `tally`, which was read before, and too old for the window of a
    /// worker that has not ticked for long.
    pub(crate) fn rest<H: Host>(&mut self, vm: &Vm<H>, now: u64, tally: Tally) -> Result<(), Fault> {
        let host = &vm.host;
        if self.record.phase != Phase::Closed || self.words.watch.get(host)? == 0 {
            return Ok(());
        }
        let counted = self.window.count(now, tally, self.policy.trip.window);
        if !counted.is_healthy() || self.streak(vm)?.get(host)? != 0 {
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
}
