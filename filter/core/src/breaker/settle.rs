//! What each call came to.

use super::Breaker;
use crate::breaker::flight::{Early, Ended};
use crate::breaker::in_flight::Call;
use crate::breaker::permit::Permit;
use crate::breaker::view::View;
use crate::circuit::record::Phase;
use crate::clock::MILLISECOND;
use crate::host::{Fault, Host};
use crate::names;
use crate::policy::classify::{Answer, Ending, FailureKind, Outcome};
use crate::policy::{Length, Mode};
use crate::shared::vm::Vm;
use crate::telemetry::metrics;

impl<H: Host> Breaker<H> {
    /// Settles a request that went well, where that changes nothing but a count: the circuit that admitted it is
    /// CLOSED, it went there, no failure is to be watched, and it was not slow. False: [`Breaker::settle`] is to look
    /// closer, and needs the time.
    // Inlined into its caller: a permit that goes through memory costs as much as all the rest.
    #[inline(always)]
    pub fn settle_well(&mut self, permit: Permit, upstream: &str, first_byte: Option<u64>) -> bool {
        let Some((circuit, view)) = self.circuits.named(upstream) else { return false };
        let vm = &self.vm;
        match permit {
            Permit::Calm { .. } => {}
            Permit::Call { circuit: admitted, .. } if admitted == circuit => {}
            Permit::Call { .. } | Permit::Uncounted | Permit::Probe { .. } => return false,
        }
        let call = self.flights.call(permit.flight());
        if !view.is_plain(vm, by_this_clock(permit, call.as_ref()), first_byte) {
            return false;
        }
        let latency = view.latency(vm, first_byte);
        let counted = match call.map(|call| call.end().early) {
            Some(Some(_)) => Ok(()),
            _ => view.count_success(vm),
        };
        self.noted(latency);
        self.noted(counted);
        true
    }

    /// Settles a request by what is known of its end. `upstream` is where it went last. Where that is not known, the
    /// request says something only about the circuit that admitted it. `first_byte` is how many nanoseconds the
    /// upstream took from the request's last byte to the answer's first, where there was an answer.
    pub fn settle(
        &mut self,
        permit: Permit,
        upstream: Option<&str>,
        answer: &Answer,
        first_byte: Option<u64>,
        now: u64,
    ) {
        // After a redirect Envoy names the redirect's target here.
        let followed = answer.ending == Ending::Followed;
        let permit = self.relocate(permit, upstream.filter(|_| !followed), now);
        let waited_as_probe = self.probe_waited(permit, now);
        let leap = self.leap(now);
        let call = self.flights.call(permit.flight());
        let permit = by_this_clock(permit, call.as_ref());
        let ended = call.map_or(Ended::UNKNOWN, Call::end);
        let circuit = match permit {
            Permit::Uncounted => return,
            Permit::Call { circuit, .. } | Permit::Probe { circuit, .. } => circuit,
            Permit::Calm { .. } if followed => return self.know_redirects(),
            Permit::Calm { .. } => {
                let Some(upstream) = upstream else { return };
                let found = self.find_present(upstream, now);
                let Some(Some(circuit)) = self.noted(found) else { return };
                circuit
            }
        };
        let Some((view, vm)) = self.parts(circuit) else { return };
        if view.policy.mode == Mode::Disabled {
            return;
        }
        let waited = ended.waited(now).or(waited_as_probe).map(|waited| waited.saturating_sub(leap));
        let first_byte = if followed { waited } else { first_byte };
        let latency = view.latency(vm, first_byte);
        let is_probe = matches!(permit, Permit::Probe { .. });
        let outcome = view.outcome(answer, is_probe, first_byte, waited);
        let heard = match outcome {
            // A call that passed only because the mode is observe changes nothing about the circuit.
            Outcome::Failure(_) if !permit.is_against() => view.hear(vm, answer.retry_after, now),
            _ => Ok(()),
        };
        let settled = match ended.early {
            _ if is_probe => {
                self.end_probe(permit, outcome, now);
                Ok(())
            }
            Some(early) => view.settle_again(vm, permit, early, outcome, now),
            None => view.settle_call(vm, permit, answer, outcome, first_byte.or(waited), now),
        };
        self.noted(latency.and(heard).and(settled));
    }

    /// Envoy follows redirects here. It then says of an ended call that it went where the redirect led. So from now
    /// on each call is looked at when it is let go.
    #[cold]
    fn know_redirects(&mut self) {
        self.follows_redirects = true;
        self.calm = None;
    }

    /// The permit that a call in `upstream` is settled with. If another circuit admitted the call, or its circuit has
    /// ended since, the call counts where it is, by the time of its admission. A probe gives its slot back.
    pub(super) fn relocate(&mut self, permit: Permit, upstream: Option<&str>, now: u64) -> Permit {
        let (Permit::Call { circuit, generation, .. } | Permit::Probe { circuit, generation, .. }) = permit else {
            return permit;
        };
        let lives = self.lives(circuit, generation, now);
        let Some(upstream) = upstream else {
            // For a call that passed only because the mode is observe, nobody knows which circuit of its slot it
            // belonged to.
            let certain = lives && !(permit.is_against() && self.is_handed_on(circuit));
            return if certain { permit } else { self.let_go(permit, now) };
        };
        if lives && self.upstream(circuit).is_some_and(|admitted| names::same(admitted, upstream)) {
            return permit;
        }
        if !lives && self.is_settled(permit) {
            // The tick has already counted it.
            return self.let_go(permit, now);
        }
        let start = self.probe_start(permit).or_else(|| self.flights.start_of(permit.flight())).unwrap_or(now);
        self.end_probe(permit, Outcome::Neutral, now);
        Permit::Calm { start, flight: permit.flight() }
    }
}

impl<H: Host> Breaker<H> {
    /// All that is known of this call is a circuit that has ended, so it says nothing about any upstream.
    fn let_go(&mut self, permit: Permit, now: u64) -> Permit {
        self.end_probe(permit, Outcome::Neutral, now);
        self.flights.call(permit.flight()).map(Call::end);
        Permit::Uncounted
    }

    /// Whether the slot had another circuit before.
    fn is_handed_on(&self, circuit: u32) -> bool {
        self.circuits.get(circuit).is_some_and(|view| view.record.born > 0)
    }

    /// Whether the circuit that gave a permit of this generation is still there.
    pub(super) fn lives(&mut self, circuit: u32, generation: u64, now: u64) -> bool {
        let Some((view, vm)) = self.parts(circuit) else { return false };
        // Where the record cannot be read, the older knowledge of it stands, and the next step counts the error.
        let _ = view.refresh(vm, now);
        !view.is_gone() && generation >= view.record.born
    }
}

/// The permit, corrected by the tick if the clock stepped back meanwhile.
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
        self.is_plainly_in_time(first_byte) && self.is_current(permit) && self.counts.watch.get(&vm.host) == Ok(0)
    }

    #[inline]
    fn latency<H: Host>(&mut self, vm: &Vm<H>, first_byte: Option<u64>) -> Result<(), Fault> {
        let Some(time) = first_byte else { return Ok(()) };
        Ok(self.latency.record(&vm.host, &self.series, &self.name, time / MILLISECOND)?)
    }

    /// The outcome of a call. `first_byte`: how long the upstream took. `waited`: how long the call had waited when
    /// it ended.
    pub(crate) fn outcome(
        &self,
        answer: &Answer,
        probe: bool,
        first_byte: Option<u64>,
        waited: Option<u64>,
    ) -> Outcome {
        let failures = &self.policy.failures;
        let delay = if failures.injected_faults { answer.injected_delay } else { 0 };
        let outcome = answer.outcome(failures, probe, waited);
        let took = match outcome {
            Outcome::Success => first_byte.map(|time| time.saturating_add(delay)),
            // Nobody waited for the answer any longer.
            Outcome::Neutral if answer.left_waiting(failures) => waited,
            Outcome::Neutral | Outcome::Failure(_) | Outcome::Slow => None,
        };
        let patience = self.policy.trip.slow_duration;
        let late = patience > 0 && took.is_some_and(|time| time >= patience);
        if late { Outcome::Slow } else { outcome }
    }

    /// Settles a call and the attempts before its last one, which all failed.
    fn settle_call<H: Host>(
        &mut self,
        vm: &Vm<H>,
        permit: Permit,
        answer: &Answer,
        outcome: Outcome,
        waited: Option<u64>,
        now: u64,
    ) -> Result<(), Fault> {
        for _ in 0..answer.failed_attempts(&self.policy.failures) {
            // Nobody knows how long each of them took.
            self.settle(vm, permit, Outcome::Failure(FailureKind::Http), None, now)?;
        }
        self.settle(vm, permit, outcome, waited, now)
    }

    /// A call has ended that the tick has settled before. What was counted stays counted. A failure after a good
    /// beginning is counted too. A good end ends the streak, which the good beginning did not.
    fn settle_again<H: Host>(
        &mut self,
        vm: &Vm<H>,
        permit: Permit,
        early: Early,
        outcome: Outcome,
        now: u64,
    ) -> Result<(), Fault> {
        match (early, outcome) {
            (Early::Good, Outcome::Failure(_)) => self.settle(vm, permit, outcome, None, now),
            (Early::Good, Outcome::Success) => {
                self.refresh(vm, now)?;
                if self.is_current(permit) { self.end_streak(vm) } else { Ok(()) }
            }
            (Early::Good, Outcome::Slow | Outcome::Neutral) | (Early::Hung, _) => Ok(()),
        }
    }

    fn end_streak<H: Host>(&self, vm: &Vm<H>) -> Result<(), Fault> {
        if self.streak(vm)?.get(&vm.host)? != 0 {
            self.streak(vm)?.set(&vm.host, 0)?;
        }
        Ok(())
    }

    /// Settles a call whose answer has begun well and goes on. It ends no streak: how it ends is not known yet.
    pub(crate) fn settle_early<H: Host>(
        &mut self,
        vm: &Vm<H>,
        permit: Permit,
        waited: Option<u64>,
        now: u64,
    ) -> Result<(), Fault> {
        self.settle_as(vm, permit, Outcome::Success, waited, false, now)
    }

    pub(crate) fn settle<H: Host>(
        &mut self,
        vm: &Vm<H>,
        permit: Permit,
        outcome: Outcome,
        waited: Option<u64>,
        now: u64,
    ) -> Result<(), Fault> {
        self.settle_as(vm, permit, outcome, waited, true, now)
    }

    /// Whether a call that took so long to its first byte, or to its end without one, is over `latencyThreshold`.
    fn is_over(&self, waited: Option<u64>) -> bool {
        let threshold = self.policy.trip.latency_threshold;
        threshold > 0 && waited.is_some_and(|waited| waited > threshold)
    }

    fn settle_as<H: Host>(
        &mut self,
        vm: &Vm<H>,
        permit: Permit,
        outcome: Outcome,
        waited: Option<u64>,
        ends_streak: bool,
        now: u64,
    ) -> Result<(), Fault> {
        self.wake_if_unused(vm)?;
        let over = outcome != Outcome::Neutral && self.is_over(waited);
        let watched = self.counts.watch.get(&vm.host)? != 0;
        if !watched && !over && outcome == Outcome::Success && self.is_current(permit) {
            return self.count_success(vm);
        }
        self.refresh(vm, now)?;
        if !self.is_current(permit) {
            return self.count_late(vm, outcome);
        }
        if matches!(self.policy.trip.window, Length::Calls(_)) {
            let tally = self.counts.tally(&vm.host)?;
            self.roll(vm, now, tally)?;
        }
        self.count(vm, outcome)?;
        if over {
            self.counts.add_over(&vm.host)?;
            self.counts.watch.set(&vm.host, 1)?;
        }
        match outcome {
            Outcome::Neutral => Ok(()),
            Outcome::Success => {
                if ends_streak {
                    self.end_streak(vm)?;
                }
                self.judge(vm, now)?;
                if self.record.phase != Phase::Ramp {
                    return Ok(());
                }
                let tally = self.counts.tally(&vm.host)?;
                self.advance(vm, now, tally, 1)
            }
            Outcome::Failure(_) | Outcome::Slow => {
                self.streak(vm)?.add_one(&vm.host)?;
                self.counts.watch.set(&vm.host, 1)?;
                self.judge(vm, now)
            }
        }
    }

    /// Whether the call was admitted in the present generation, and counts in it.
    #[inline]
    fn is_current(&self, permit: Permit) -> bool {
        match permit {
            Permit::Calm { start, .. } => self.has_counted_since(start),
            Permit::Call { generation, .. } => generation == self.record.generation && self.record.is_counting(),
            Permit::Uncounted | Permit::Probe { .. } => false,
        }
    }

    /// Counts a call of an older generation. Where a window is open the call must not fall into it.
    pub(crate) fn count_late<H: Host>(&mut self, vm: &Vm<H>, outcome: Outcome) -> Result<(), Fault> {
        let outcome = if self.record.is_counting() { Outcome::Neutral } else { outcome };
        self.count(vm, outcome)
    }

    /// Counts one more good call.
    #[inline(always)]
    fn count_success<H: Host>(&mut self, vm: &Vm<H>) -> Result<(), Fault> {
        let woken = self.wake_if_unused(vm);
        self.counts.add_success(&vm.host).and(woken)
    }

    /// Counts a call.
    pub(crate) fn count<H: Host>(&mut self, vm: &Vm<H>, outcome: Outcome) -> Result<(), Fault> {
        match outcome {
            Outcome::Success => self.count_success(vm),
            Outcome::Slow => self.counts.add_slow(&vm.host),
            Outcome::Neutral => Ok(self.series.count(&vm.host, &metrics::CALLS, &self.name, "neutral")?),
            Outcome::Failure(kind) => {
                self.counts.add_failure(&vm.host)?;
                Ok(self.series.count(&vm.host, &metrics::FAILURES, &self.name, kind.word())?)
            }
        }
    }
}
