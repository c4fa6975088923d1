//! Calls that have waited too long are slow at once, not when they end: a hung upstream ends none.

use super::Breaker;
use crate::flights::Waiting;
use crate::host::{Fault, Host};
use crate::outcome::Outcome;
use crate::permit::Permit;

impl<H: Host> Breaker<H> {
    /// The answer of a call has begun: it no longer waits.
    pub fn arrived(&mut self, permit: Permit) {
        self.flights.arrive(permit.flight());
    }

    /// Settles the calls that have waited past their policy's `slowCallDuration`.
    pub(super) fn age_flights(&mut self, now: u64) {
        self.flights.beat();
        let Some(shortest) = self.shortest_slow else { return };
        for waiting in self.flights.older_than(now, shortest, self.tick_period()) {
            let aged = self.age(&waiting, now);
            self.noted(aged);
        }
    }

    fn age(&mut self, waiting: &Waiting, now: u64) -> Result<(), Fault> {
        let Some(circuit) = self.circuit_of(waiting, now)? else {
            self.flights.arrive(waiting.flight);
            return Ok(());
        };
        let Some((view, vm)) = self.parts(circuit) else { return Ok(()) };
        let trip = &view.policy.trip;
        if trip.slow_rate > 0 && now.saturating_sub(waiting.start) < trip.slow_duration {
            return Ok(());
        }
        if trip.slow_rate == 0 || view.policy.mode == crate::policy::Mode::Disabled {
            self.flights.arrive(waiting.flight);
            return Ok(());
        }
        let settled = view.settle(vm, waiting.permit, Outcome::Slow, now);
        self.flights.age(waiting.flight);
        settled
    }

    /// The circuit of a waiting call; one that was let go unseen is looked at now.
    fn circuit_of(&mut self, waiting: &Waiting, now: u64) -> Result<Option<u32>, Fault> {
        match waiting.permit {
            Permit::Call { circuit, .. } | Permit::Probe { circuit, .. } => Ok(Some(circuit)),
            Permit::Uncounted => Ok(None),
            Permit::Calm { .. } => match self.vm.host.upstream_of(waiting.stream) {
                Some(upstream) => self.find(&upstream, now),
                None => Ok(None),
            },
        }
    }
}
