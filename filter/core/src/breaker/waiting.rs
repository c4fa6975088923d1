//! Calls that the tick settles. Some have waited too long, since a hung upstream ends no call. The answers of others
//! began well and do not end, since an event stream may live for hours.

use super::Breaker;
use super::probes::{SETTLED_AFTER, SETTLED_AFTER_BODY};
use crate::breaker::flight::{Early, Held, Old};
use crate::breaker::permit::Permit;
use crate::host::{Fault, Host, Progress};
use crate::policy::Mode;
use crate::policy::classify::Outcome;

/// A call that another filter holds back is looked at again after this part of `slowCallDuration`. It waits for its
/// upstream only from the look that finds it sent, so it is judged a quarter late at most.
const LOOKS: u64 = 4;

impl<H: Host> Breaker<H> {
    /// The answer of a call has begun, so it no longer waits. Returns the nanoseconds from its request's last byte
    /// until now, as far as this worker was there to see. 0 where that byte has not come, `None` where nobody counts
    /// this call.
    #[inline]
    pub fn arrived(&mut self, permit: Permit, now: u64) -> Option<u64> {
        let waited = match permit {
            Permit::Probe { .. } => self.probe_waited(permit, now),
            _ => self.flights.arrive(permit.flight(), now),
        }?;
        // No leap of the clock fits into so short a time.
        Some(if waited > self.period { waited.saturating_sub(self.leap(now)) } else { waited })
    }

    /// Settles the calls that have waited past their policy's `slowCallDuration`.
    pub(super) fn age_flights(&mut self, now: u64) {
        self.flights.trim();
        let Some(shortest) = self.shortest_slow else { return };
        for old in self.flights.waiting_for(now, shortest) {
            let aged = self.age(&old, now);
            self.noted(aged);
        }
    }

    fn age(&mut self, old: &Old, now: u64) -> Result<(), Fault> {
        let Some(progress) = self.vm.host.progress_of(old.stream) else {
            self.flights.forget(old.flight);
            return Ok(());
        };
        let Some((circuit, permit)) = self.circuit_of(old, &progress.upstream, now)? else {
            self.flights.forget(old.flight);
            return Ok(());
        };
        let Some((view, vm)) = self.parts(circuit) else { return Ok(()) };
        let patience = view.policy.trip.slow_duration;
        if patience == 0 || view.policy.mode == Mode::Disabled {
            self.flights.forget(old.flight);
            return Ok(());
        }
        if now.saturating_sub(old.since) < patience {
            self.flights.look_later(old.flight, old.since.saturating_add(patience));
            return Ok(());
        }
        if let Some((held, look_again)) = held_back(old, &progress, patience, view.policy.failures.injected_faults) {
            self.flights.held_back(old.flight, now, held);
            self.flights.look_later(old.flight, now.saturating_add(look_again));
            return Ok(());
        }
        let settled = view.settle(vm, permit, Outcome::Slow, Some(now.saturating_sub(old.since)), now);
        self.flights.settled(old.flight, Early::Hung);
        settled
    }

    /// Settles the calls whose answers began a while ago, by how they began. A call that is not good yet waits for
    /// its end.
    pub(super) fn settle_long_lived(&mut self, now: u64) {
        for old in self.flights.answered_since(now, SETTLED_AFTER, SETTLED_AFTER_BODY) {
            let settled = self.settle_one(&old, now);
            self.noted(settled);
        }
    }

    fn settle_one(&mut self, old: &Old, now: u64) -> Result<(), Fault> {
        // Whatever the result, the tick looks at a call only once.
        self.flights.forget(old.flight);
        let Some((upstream, answer)) = self.vm.host.answer_of(old.stream) else { return Ok(()) };
        let Some((circuit, permit)) = self.circuit_of(old, &upstream, now)? else { return Ok(()) };
        let Some((view, vm)) = self.parts(circuit) else { return Ok(()) };
        let waited = Some(old.at.saturating_sub(old.since));
        let good = view.outcome(&answer, false, waited, None) == Outcome::Success;
        if !good || view.policy.mode == Mode::Disabled {
            return Ok(());
        }
        let settled = view.settle_early(vm, permit, waited, now);
        self.flights.settled(old.flight, Early::Good);
        settled
    }

    /// The circuit that a call in `upstream` now belongs to, and the permit that it is settled with there.
    fn circuit_of(&mut self, old: &Old, upstream: &str, now: u64) -> Result<Option<(u32, Permit)>, Fault> {
        let permit = self.relocate(old.permit, Some(upstream), now);
        let circuit = match permit {
            Permit::Call { circuit, .. } | Permit::Probe { circuit, .. } => Some(circuit),
            Permit::Calm { .. } => self.find_present(upstream, now)?,
            Permit::Uncounted => None,
        };
        Ok(circuit.map(|circuit| (circuit, permit)))
    }
}

/// What this look finds of a call that another filter may have held back, and the nanoseconds until the next look.
/// `None`: the upstream has had the call for as long as it waits. `counts`: an injected delay counts as the upstream's,
/// for a drill.
fn held_back(old: &Old, progress: &Progress, patience: u64, counts: bool) -> Option<(Held, u64)> {
    if counts && progress.delayed {
        return None;
    }
    if !progress.sent {
        return Some((Held::Unsent, patience / LOOKS));
    }
    let certain = match old.held {
        Held::Unknown => !progress.delayed,
        Held::Unsent => false,
        Held::Sent => true,
    };
    (!certain).then_some((Held::Sent, patience))
}
