//! The probes that this VM has out. Each is settled exactly once: by its end, by its headers where these are bad, by the
//! tick a moment after headers that are good, or by its timeout. If the VM dies, the lease in the record ends.

use super::Breaker;
use crate::circuit::Verdict;
use crate::config::SECOND;
use crate::host::{Fault, Host};
use crate::outcome::{Answer, FailureKind, Outcome};
use crate::permit::Permit;

/// A call with good headers is good if nothing breaks it off for so long: a download or an event stream must not hold
/// the only probe slot, and an upstream that dies right after its headers must not pass.
pub(super) const SETTLED_AFTER: u64 = SECOND;

#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    circuit: u32,
    generation: u64,
    lease: u32,
    /// When it has failed if there is no answer.
    times_out: u64,
    /// When it is good, once there are good headers.
    good_at: Option<u64>,
}

impl<H: Host> Breaker<H> {
    pub(super) fn remember(&mut self, permit: Permit, now: u64) {
        if let Permit::Probe { circuit, generation, lease } = permit
            && let Some((view, _)) = self.parts(circuit)
        {
            let times_out = now.saturating_add(view.policy.half_open.probe_timeout);
            self.probes.push(Probe { circuit, generation, lease, times_out, good_at: None });
        }
    }

    /// The response headers of a probe, `first_byte` nanoseconds after it was sent. Bad or slow ones settle it at once.
    pub fn answered(&mut self, permit: Permit, answer: &Answer, first_byte: u64, now: u64) {
        let Permit::Probe { circuit, .. } = permit else { return };
        let Some((view, _)) = self.parts(circuit) else { return };
        let outcome = view.slowed(answer.outcome(&view.policy.failures, true), Some(first_byte), None);
        match outcome {
            Outcome::Success => {
                if let Some(probe) = self.probes.iter_mut().find(|probe| probe.is(permit)) {
                    probe.good_at = Some(now.saturating_add(SETTLED_AFTER));
                }
            }
            Outcome::Failure(_) | Outcome::Slow => self.end_probe(permit, outcome, now),
            Outcome::Neutral => {}
        }
    }

    /// Settles the probe if nobody has.
    pub(super) fn end_probe(&mut self, permit: Permit, outcome: Outcome, now: u64) {
        let Some(at) = self.probes.iter().position(|probe| probe.is(permit)) else { return };
        let probe = self.probes.swap_remove(at);
        let ended = self.end(probe, outcome, now);
        self.noted(ended);
    }

    fn end(&mut self, probe: Probe, outcome: Outcome, now: u64) -> Result<(), Fault> {
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
        // Counted before the record moves on: what the next phase's window begins with must hold this call.
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
            probe.times_out = probe.times_out.min(now.saturating_add(timeout));
            probe.good_at = probe.good_at.map(|good_at| good_at.min(now.saturating_add(SETTLED_AFTER)));
        }
    }

    /// Settles the probes whose time has come.
    pub(super) fn end_probes(&mut self, now: u64) {
        while let Some((permit, outcome)) = self.probes.iter().find_map(|probe| probe.due(now)) {
            self.end_probe(permit, outcome, now);
        }
    }
}

impl Probe {
    fn permit(&self) -> Permit {
        Permit::Probe { circuit: self.circuit, generation: self.generation, lease: self.lease }
    }

    fn is(&self, permit: Permit) -> bool {
        self.permit() == permit
    }

    fn due(&self, now: u64) -> Option<(Permit, Outcome)> {
        let outcome = match self.good_at {
            Some(good_at) if now >= good_at => Outcome::Success,
            None if now >= self.times_out => Outcome::Failure(FailureKind::Timeout),
            _ => return None,
        };
        Some((self.permit(), outcome))
    }
}
