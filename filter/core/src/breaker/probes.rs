//! The probes that this VM has out. Each is settled exactly once: by its end; by its headers, where these are bad; by
//! the tick, a moment after good headers; or by its timeout. If the VM dies, the lease in the record ends.
//!
//! **A client decides nothing about a probe.** A request whose body is still coming holds its slot on trial only: for
//! a moment, and not against a complete request. When its last byte comes it gets a slot for good, if there is one.
//! Only then does the upstream's time begin. So a client that stalls costs nobody a probe and brings the upstream no
//! verdict.

use super::Breaker;
use crate::breaker::flight::Early;
use crate::breaker::permit::{Admission, Permit, Request};
use crate::circuit::transitions::{Change, Verdict};
use crate::clock::SECOND;
use crate::host::{Fault, Host};
use crate::policy::classify::{Answer, FailureKind, Outcome};

/// A call with good headers is good if nothing breaks it off for so long. A download or an event stream must not hold
/// the only probe slot, and an upstream that dies right after its headers must not pass.
pub(super) const SETTLED_AFTER: u64 = SECOND;

/// The same for a call that sent a body: a unary gRPC call is one, and only its trailers tell how it went. Most such
/// calls take less time from headers to trailers. A stream of messages that lives longer is good.
pub(super) const SETTLED_AFTER_BODY: u64 = 10 * SECOND;

#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    circuit: u32,
    generation: u64,
    lease: u32,
    request: Request,
    /// When it was admitted.
    start: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its request is still coming: it has a slot on trial, or has had one.
    Sending,
    /// The upstream has the whole request.
    Waiting {
        since: u64,
        /// When it has failed if there is no answer.
        times_out: u64,
    },
    /// Its answer began well.
    Begun {
        /// When it is good.
        good_at: u64,
    },
    /// The tick has settled it.
    Settled(Early),
}

impl<H: Host> Breaker<H> {
    pub(super) fn remember(&mut self, permit: Permit, request: Request, now: u64) {
        if let Permit::Probe { circuit, generation, lease } = permit {
            let state = if request.whole { self.waiting(circuit, now) } else { State::Sending };
            self.probes.push(Probe { circuit, generation, lease, request, start: now, state });
        }
    }

    /// The state of a probe whose upstream has the whole request from now on.
    fn waiting(&self, circuit: u32, now: u64) -> State {
        let timeout = self.circuits.get(circuit).map_or(0, |view| view.policy.half_open.probe_timeout);
        State::Waiting { since: now, times_out: now.saturating_add(timeout) }
    }

    /// The last byte of the request has come: from now on its upstream owes an answer. Returns what the request goes
    /// on with. A probe whose slot has gone to another request meanwhile may be rejected.
    pub fn request_ended(&mut self, permit: Permit, now: u64) -> Admission {
        self.flights.complete(permit.flight(), now);
        let Some(at) = self.place_of(permit) else { return Admission::Pass(permit) };
        let Some(probe) = self.probes.get(at).copied().filter(|probe| probe.state == State::Sending) else {
            return Admission::Pass(permit);
        };
        self.probes.swap_remove(at);
        if !self.lives(probe.circuit, probe.generation, now) {
            return self.goes_unseen(&probe, now);
        }
        let whole = Request { whole: true, ..probe.request };
        let confirmed = self.confirm(&probe, now);
        match self.noted(confirmed) {
            Some(Some(lease)) => {
                let probe = Probe { lease, state: self.waiting(probe.circuit, now), ..probe };
                self.probes.push(probe);
                Admission::Pass(probe.permit())
            }
            Some(None) => match self.upstream(probe.circuit).cloned() {
                Some(upstream) => self.admit(whole, &upstream, now),
                None => Admission::Pass(Permit::Uncounted),
            },
            None => Admission::Pass(Permit::Uncounted),
        }
    }

    /// Its circuit has ended, and another upstream may have the slot. The request goes on as one that was let go
    /// unseen, and its end tells where it went.
    fn goes_unseen(&mut self, probe: &Probe, now: u64) -> Admission {
        let flight = self.flights.begin_unseen(probe.request, probe.start);
        self.flights.complete(flight, now);
        Admission::Pass(Permit::Calm { flight, start: probe.start })
    }

    /// Turns a probe's trial into a slot for good. Returns the number of the new lease.
    fn confirm(&mut self, probe: &Probe, now: u64) -> Result<Option<u32>, Fault> {
        let Some((view, vm)) = self.parts(probe.circuit) else { return Ok(None) };
        let mut number = None;
        view.change(vm, now, &mut |sight| {
            let confirmed = sight.record.confirm(sight.policy, sight.at.now, probe.generation, probe.lease);
            let (record, given) = confirmed?;
            number = Some(given);
            Some(Change { record, reason: None })
        })
        .map(|change| change.and(number))
    }

    /// The response headers of a probe, `first_byte` nanoseconds after the upstream had it. Bad or slow headers
    /// settle it at once. `upstream` is where it went. Returns the permit that it goes on with: if it was sent
    /// elsewhere it is no probe.
    pub fn answered(
        &mut self,
        permit: Permit,
        upstream: Option<&str>,
        answer: &Answer,
        first_byte: Option<u64>,
        now: u64,
    ) -> Permit {
        let permit = self.relocate(permit, upstream, now);
        let Permit::Probe { circuit, .. } = permit else { return permit };
        let Some((view, vm)) = self.parts(circuit) else { return permit };
        let outcome = view.outcome(answer, true, first_byte, None);
        match outcome {
            Outcome::Success => self.begun(permit, now),
            Outcome::Failure(_) => {
                let heard = view.hear(vm, answer.retry_after, now);
                self.noted(heard);
                self.end_probe(permit, outcome, now);
            }
            Outcome::Slow => self.end_probe(permit, outcome, now),
            Outcome::Neutral => {}
        }
        permit
    }

    /// The answer of a probe began well.
    fn begun(&mut self, permit: Permit, now: u64) {
        let probe = self.place_of(permit).and_then(|at| self.probes.get_mut(at));
        if let Some(probe) = probe.filter(|probe| matches!(probe.state, State::Sending | State::Waiting { .. })) {
            let after = if probe.request.whole { SETTLED_AFTER } else { SETTLED_AFTER_BODY };
            probe.state = State::Begun { good_at: now.saturating_add(after) };
        }
    }

    fn place_of(&self, permit: Permit) -> Option<usize> {
        self.probes.iter().position(|probe| probe.permit() == permit)
    }

    /// When a probe was admitted.
    pub(super) fn probe_start(&self, permit: Permit) -> Option<u64> {
        Some(self.probes.get(self.place_of(permit)?)?.start)
    }

    /// Whether the tick has settled a probe.
    pub(super) fn is_settled(&self, permit: Permit) -> bool {
        let probe = self.place_of(permit).and_then(|at| self.probes.get(at));
        probe.is_some_and(|probe| matches!(probe.state, State::Settled(_)))
    }

    /// How long the upstream has had the probe without an answer; not at all while its request is still coming.
    pub(super) fn probe_waited(&self, permit: Permit, now: u64) -> Option<u64> {
        match self.probes.get(self.place_of(permit)?)?.state {
            State::Waiting { since, .. } => Some(now.saturating_sub(since)),
            State::Sending => Some(0),
            State::Begun { .. } | State::Settled(_) => None,
        }
    }

    /// The request of a probe is over. This settles the probe if nobody has. A probe that was good early may have
    /// failed since.
    pub(super) fn end_probe(&mut self, permit: Permit, outcome: Outcome, now: u64) {
        let Some(at) = self.place_of(permit) else { return };
        let probe = self.probes.swap_remove(at);
        let ended = match (probe.state, outcome) {
            (State::Settled(Early::Good), Outcome::Failure(_)) => self.count_failed_later(&probe, outcome, now),
            (State::Settled(_), _) => Ok(()),
            _ => self.end(&probe, outcome, now),
        };
        self.noted(ended);
    }

    fn count_failed_later(&mut self, probe: &Probe, outcome: Outcome, now: u64) -> Result<(), Fault> {
        if !self.lives(probe.circuit, probe.generation, now) {
            return Ok(());
        }
        let Some((view, vm)) = self.parts(probe.circuit) else { return Ok(()) };
        view.count_late(vm, outcome)
    }

    fn end(&mut self, probe: &Probe, outcome: Outcome, now: u64) -> Result<(), Fault> {
        if !self.lives(probe.circuit, probe.generation, now) {
            return Ok(());
        }
        let Some((view, vm)) = self.parts(probe.circuit) else { return Ok(()) };
        let verdict = match outcome {
            Outcome::Success => Verdict::Good,
            Outcome::Failure(_) | Outcome::Slow => Verdict::Bad,
            Outcome::Neutral => Verdict::Nothing,
        };
        view.refresh(vm, now)?;
        if view.record.generation != probe.generation {
            return view.count_late(vm, outcome);
        }
        // Counted before the record moves on: the next phase's window begins with counts that must hold this call.
        view.count(vm, outcome)?;
        view.change(vm, now, &mut |sight| {
            sight.record.end_probe(sight.policy, &sight.at, probe.generation, probe.lease, verdict)
        })?;
        Ok(())
    }

    /// The clock has stepped back: no probe waits longer than one that is sent now.
    pub(super) fn rebase_probes(&mut self, now: u64) {
        for probe in &mut self.probes {
            let timeout = self.circuits.get(probe.circuit).map_or(0, |view| view.policy.half_open.probe_timeout);
            probe.start = probe.start.min(now);
            match &mut probe.state {
                State::Waiting { since, times_out } => {
                    (*since, *times_out) = ((*since).min(now), (*times_out).min(now.saturating_add(timeout)));
                }
                State::Begun { good_at } => *good_at = (*good_at).min(now.saturating_add(SETTLED_AFTER_BODY)),
                State::Sending | State::Settled(_) => {}
            }
        }
    }

    /// The clock has leapt ahead, or the worker was stopped: no probe counts as waiting in that time.
    pub(super) fn leap_probes(&mut self, by: u64) {
        for probe in &mut self.probes {
            match &mut probe.state {
                State::Waiting { since, times_out } => {
                    (*since, *times_out) = (since.saturating_add(by), times_out.saturating_add(by));
                }
                State::Begun { good_at } => *good_at = good_at.saturating_add(by),
                State::Sending | State::Settled(_) => {}
            }
        }
    }

    /// Settles the probes whose time has come. Each is remembered until its request ends.
    pub(super) fn end_probes(&mut self, now: u64) {
        for at in 0..self.probes.len() {
            let Some(probe) = self.probes.get(at).copied() else { return };
            let (outcome, early) = match probe.state {
                State::Begun { good_at } if now >= good_at => (Outcome::Success, Early::Good),
                State::Waiting { times_out, .. } if now >= times_out => (self.timed_out(&probe), Early::Hung),
                _ => continue,
            };
            if !self.lives(probe.circuit, probe.generation, now) {
                // Its own end counts it, in the upstream's next circuit.
                continue;
            }
            let ended = self.end(&probe, outcome, now);
            self.noted(ended);
            self.probes.iter_mut().skip(at).take(1).for_each(|probe| probe.state = State::Settled(early));
        }
    }

    /// The outcome of a probe that got no answer in time. It says nothing about the upstream where another filter has
    /// held it back.
    fn timed_out(&mut self, probe: &Probe) -> Outcome {
        let injected = self.circuits.get(probe.circuit).is_some_and(|view| view.policy.failures.injected_faults);
        match self.vm.host.progress_of(probe.request.stream) {
            Some(progress) if injected && progress.delayed => Outcome::Failure(FailureKind::Timeout),
            Some(progress) if !progress.sent || progress.delayed => Outcome::Neutral,
            _ => Outcome::Failure(FailureKind::Timeout),
        }
    }
}

impl Probe {
    fn permit(&self) -> Permit {
        Permit::Probe { circuit: self.circuit, generation: self.generation, lease: self.lease }
    }
}
