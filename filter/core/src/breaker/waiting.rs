//! Calls that the tick settles: those that wait too long, since a hung upstream ends none; and those whose answers began
//! well and do not end, since an event stream may live for hours.

use super::Breaker;
use super::probes::SETTLED_AFTER;
use crate::flights::Old;
use crate::host::{Fault, Host};
use crate::outcome::Outcome;
use crate::permit::Permit;
use crate::policy::Mode;

impl<H: Host> Breaker<H> {
    /// The answer of a call has begun: it no longer waits.
    #[inline]
    pub fn arrived(&mut self, permit: Permit, now: u64) {
        self.flights.arrive(permit.flight(), now);
    }

    /// Settles the calls that have waited past their policy's `slowCallDuration`.
    pub(super) fn age_flights(&mut self, now: u64) {
        self.flights.beat();
        let Some(shortest) = self.shortest_slow else { return };
        for old in self.flights.waiting_for(now, shortest, self.tick_period()) {
            let aged = self.age(&old, now);
            self.noted(aged);
        }
    }

    fn age(&mut self, old: &Old, now: u64) -> Result<(), Fault> {
        let Some(circuit) = self.circuit_of(old, now)? else {
            self.flights.forget(old.flight);
            return Ok(());
        };
        let Some((view, vm)) = self.parts(circuit) else { return Ok(()) };
        let trip = &view.policy.trip;
        if trip.slow_rate > 0 && now.saturating_sub(old.start) < trip.slow_duration {
            return Ok(());
        }
        if trip.slow_rate == 0 || view.policy.mode == Mode::Disabled {
            self.flights.forget(old.flight);
            return Ok(());
        }
        let settled = view.settle(vm, old.permit, Outcome::Slow, Some(now.saturating_sub(old.start)), now);
        self.flights.settled(old.flight);
        settled
    }

    /// Settles the calls whose answers began a while ago, by how they began. What is not good yet waits for its end.
    pub(super) fn settle_long_lived(&mut self, now: u64) {
        for old in self.flights.answered_since(now, SETTLED_AFTER) {
            let settled = self.settle_one(&old, now);
            self.noted(settled);
        }
    }

    fn settle_one(&mut self, old: &Old, now: u64) -> Result<(), Fault> {
        // Whatever comes of it, the tick looks at a call once.
        self.flights.forget(old.flight);
        let Some(answer) = self.vm.host.answer_of(old.stream) else { return Ok(()) };
        let Some(circuit) = self.circuit_of(old, now)? else { return Ok(()) };
        let Some((view, vm)) = self.parts(circuit) else { return Ok(()) };
        let good = answer.outcome(&view.policy.failures, false) == Outcome::Success;
        if !good || view.policy.mode == Mode::Disabled {
            return Ok(());
        }
        let settled = view.settle(vm, old.permit, Outcome::Success, Some(old.since.saturating_sub(old.start)), now);
        self.flights.settled(old.flight);
        settled
    }

    /// The circuit of a call; one that was let go unseen is looked at now.
    fn circuit_of(&mut self, old: &Old, now: u64) -> Result<Option<u32>, Fault> {
        match old.permit {
            Permit::Call { circuit, .. } | Permit::Probe { circuit, .. } => Ok(Some(circuit)),
            Permit::Uncounted => Ok(None),
            Permit::Calm { .. } => match self.vm.host.upstream_of(old.stream) {
                Some(upstream) => self.find(&upstream, now),
                None => Ok(None),
            },
        }
    }
}
