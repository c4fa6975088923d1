//! Who may pass.

use super::{Breaker, come_back, policy_of};
use crate::breaker::permit::{Admission, Cause, NOWHERE, Permit, Request};
use crate::breaker::view::View;
use crate::circuit::ramp;
use crate::circuit::record::Phase;
use crate::host::{Fault, Host};
use crate::policy::Mode;
use crate::shared::vm::Vm;
use crate::telemetry::metrics;

/// Rounds of one admission. Each further round means that the circuit has changed meanwhile. Its state goes at most
/// from OPEN to probe to ramp to CLOSED; or its probe slots have gone to others.
const ROUNDS: u32 = 4;

/// A number that no circuit has: `limits` are far below.
const NO_CIRCUIT: u32 = u32::MAX;

enum Decision {
    Pass(Permit),
    Reject(Cause),
    /// The circuit has changed: decide again.
    Again,
}

impl<H: Host> Breaker<H> {
    /// Lets a request go while the proxy is calm.
    #[inline]
    pub fn admit_unseen(&mut self, request: impl Into<Request>, now: u64) -> Permit {
        Permit::Calm { flight: self.flights.begin_unseen(request.into(), now), start: now }
    }

    /// Decides about a request to `upstream` when the proxy is not calm.
    pub fn admit(&mut self, request: impl Into<Request>, upstream: &str, now: u64) -> Admission {
        let request = request.into();
        let admission = self.admit_seen(request, upstream, now);
        let Admission::Pass(Permit::Call { circuit, generation, .. }) = admission else { return admission };
        let flight = self.flights.begin_seen(request, now, circuit, generation);
        Admission::Pass(Permit::Call { flight, circuit, generation })
    }

    pub(super) fn admit_seen(&mut self, request: Request, upstream: &str, now: u64) -> Admission {
        let mut admitted_by = 0;
        for _ in 0..ROUNDS {
            let found = self.find(upstream, now);
            let circuit = match self.noted(found) {
                Some(Some(circuit)) => circuit,
                Some(None) => return self.admit_without_circuit(upstream),
                None => return Admission::Pass(Permit::Uncounted),
            };
            admitted_by = circuit;
            let decided = self.decide(circuit, request.whole, now);
            match self.noted(decided) {
                Some(Decision::Again) => {}
                Some(Decision::Reject(cause)) => return self.reject(circuit, cause, now),
                Some(Decision::Pass(permit)) => {
                    self.remember(permit, request, now);
                    return Admission::Pass(permit);
                }
                None => return Admission::Pass(Permit::Uncounted),
            }
        }
        // In each round another worker took the slot that this one saw free.
        self.reject(admitted_by, Cause::ProbeLimit, now)
    }

    /// Without a circuit nothing is known of an upstream, but what the operator's policy forces still holds.
    #[cold]
    fn admit_without_circuit(&mut self, upstream: &str) -> Admission {
        let policy = policy_of(&self.config, upstream);
        if policy.mode != Mode::ForceOpen || self.vm.is_blind() {
            return Admission::Pass(Permit::Uncounted);
        }
        let retry_after = policy.open.base;
        self.without_circuit = Some(policy);
        Admission::Reject { circuit: NO_CIRCUIT, cause: Cause::Forced, retry_after }
    }

    fn decide(&mut self, circuit: u32, whole: bool, now: u64) -> Result<Decision, Fault> {
        let retired = self.retired;
        let Some((view, vm)) = self.parts(circuit) else { return Ok(Decision::Pass(Permit::Uncounted)) };
        view.refresh(vm, now)?;
        if view.is_gone() {
            return Ok(Decision::Again);
        }
        if view.policy.mode == Mode::Disabled {
            return Ok(Decision::Pass(Permit::Uncounted));
        }
        if view.record.foreign {
            return Ok(obey(view, now));
        }
        if !retired && is_due(view, now) {
            let tally = view.counts.tally(&vm.host)?;
            view.advance(vm, now, tally, 0)?;
        }
        if view.record.phase != Phase::Closed {
            view.note_use(vm, now)?;
        }
        Ok(match view.record.phase {
            Phase::Ended => Decision::Again,
            Phase::Closed => Decision::Pass(call(view, circuit)),
            Phase::Open if view.record.forced => Decision::Reject(Cause::Forced),
            Phase::Open => Decision::Reject(Cause::Open),
            Phase::Probe if view.probes_itself() => Decision::Reject(Cause::Open),
            Phase::Probe if !view.record.has_slot(&view.policy, now, whole) => Decision::Reject(Cause::ProbeLimit),
            Phase::Probe => lease(view, vm, circuit, whole, now)?,
            Phase::Ramp => ramp(view, circuit, now),
        })
    }

    /// Rejects a request. In observe mode it only counts the request, and lets it pass.
    fn reject(&mut self, circuit: u32, cause: Cause, now: u64) -> Admission {
        let Some((view, vm)) = self.parts(circuit) else { return Admission::Pass(Permit::Uncounted) };
        if view.policy.mode != Mode::Observe {
            return Admission::Reject { circuit, cause, retry_after: come_back(view, cause, now) };
        }
        if let Err(error) = view.series.count(&vm.host, &metrics::WOULD_REJECT, &view.name, cause.word()) {
            vm.failed(error.into());
        }
        Admission::Pass(Permit::Call { circuit, generation: Permit::NO_GENERATION, flight: NOWHERE })
    }

    /// The rejected request was answered in the upstream's place.
    pub fn rejected(&mut self, circuit: u32, cause: Cause) {
        let Some((view, vm)) = self.parts(circuit) else { return };
        if let Err(error) = view.series.count(&vm.host, &metrics::REJECTED, &view.name, cause.word()) {
            vm.failed(error.into());
        }
    }
}

/// Whether the circuit is to change now, before this request is decided, and not only at the next tick. This runs for
/// every rejected request, so it looks at nothing but the record.
fn is_due(view: &View, now: u64) -> bool {
    let forced = view.record.forced;
    match view.policy.mode {
        Mode::ForceOpen => !forced,
        _ => view.record.phase == Phase::Open && (forced || view.record.open_for(&view.policy, now) == 0),
    }
}

/// A later version of the module owns this record, so only its phase and `forceOpen` decide.
fn obey(view: &View, now: u64) -> Decision {
    match view.record.phase {
        _ if view.policy.mode == Mode::ForceOpen => Decision::Reject(Cause::Forced),
        Phase::Open if view.record.forced => Decision::Reject(Cause::Forced),
        Phase::Open if view.record.open_for(&view.policy, now) > 0 => Decision::Reject(Cause::Open),
        Phase::Open | Phase::Closed | Phase::Probe | Phase::Ramp | Phase::Ended => Decision::Pass(Permit::Uncounted),
    }
}

fn call(view: &View, circuit: u32) -> Permit {
    Permit::Call { circuit, generation: view.record.generation, flight: NOWHERE }
}

/// Takes a probe slot. Only a compare-and-swap that succeeds gives one.
fn lease<H: Host>(view: &mut View, vm: &Vm<H>, circuit: u32, whole: bool, now: u64) -> Result<Decision, Fault> {
    let mut number = 0;
    let leased = view.change(vm, now, &mut |sight| {
        let (record, given) = sight.record.lease(sight.policy, sight.at.now, whole)?;
        number = given;
        Some(crate::circuit::transitions::Change { record, reason: None })
    })?;
    Ok(match leased {
        Some(change) => Decision::Pass(Permit::Probe { circuit, generation: change.record.generation, lease: number }),
        None => Decision::Again,
    })
}

fn ramp(view: &mut View, circuit: u32, now: u64) -> Decision {
    let half_open = &view.policy.half_open;
    let elapsed = now.saturating_sub(view.record.mark_at);
    let share = ramp::share(half_open, view.record.progress, elapsed);
    let length = ramp::step_length(half_open);
    // Nobody has sent enough good calls in twice the step's time.
    let overdue = ramp::is_overdue(half_open, elapsed);
    if view.spread.admits(share) || (overdue && view.spread.nudges(now, length)) {
        Decision::Pass(call(view, circuit))
    } else {
        Decision::Reject(Cause::Ramp)
    }
}
