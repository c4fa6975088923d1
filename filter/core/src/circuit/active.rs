//! Probes of the breaker's own: when one is due, and its lease.
//!
//! They take the same leases as users' requests that test, so a worker that dies gives its place back by time, and a late
//! result changes nothing. But only one is out at a time, whatever `maxConcurrentProbes` says: it is there to learn
//! whether the upstream is well, and more of them would tell nothing more.
//!
//! **In the probe stage** the next one is due an `interval` after the last one was sent. `mark_at` says when.
//!
//! **In the ramp** users' requests are the evidence. Where a step has waited twice its time and there was none, one good
//! probe stands for it. Otherwise an upstream without traffic would stay HALF_OPEN until its first users come, and most
//! of these would be rejected.

use crate::circuit::ramp;
use crate::circuit::record::{Phase, Record};
use crate::circuit::transitions::Change;
use crate::clock;
use crate::policy::Policy;

impl Record {
    /// Whether a probe of the breaker's own is to be sent now.
    pub(crate) fn is_probe_due(&self, policy: &Policy, now: u64) -> bool {
        let Some(probe) = &policy.half_open.active else { return false };
        let is_time = match self.phase {
            Phase::Probe => clock::left(now, self.mark_at, probe.interval) == 0,
            Phase::Ramp => ramp::is_overdue(&policy.half_open, now.saturating_sub(self.mark_at)),
            Phase::Closed | Phase::Open | Phase::Ended => false,
        };
        is_time && !self.foreign && !self.has_live_lease(policy, now)
    }

    /// Takes the lease of a probe of the breaker's own: the record with it, and its number.
    pub(crate) fn lease_own(&self, policy: &Policy, now: u64) -> Option<(Record, u32)> {
        let probe = policy.half_open.active.as_ref().filter(|_| self.is_probe_due(policy, now))?;
        let (mut record, number) = self.leased(policy, now, probe.timeout, false);
        if record.phase == Phase::Probe {
            record.mark_at = now.saturating_add(probe.interval);
        }
        Some((record, number))
    }

    /// Gives the lease back of a probe that the host has not sent. `None` where the circuit has moved on.
    pub(crate) fn unsent(&self, now: u64, generation: u64, number: u32) -> Option<Change> {
        let at = self.leases.iter().position(|lease| lease.number == number)?;
        let mut record = self.clone();
        record.leases.remove(at);
        if record.phase == Phase::Probe {
            // Every worker is to find out at its next tick that nothing can be sent, and not one in each interval.
            record.mark_at = now;
        }
        (self.generation == generation).then_some(Change { record, reason: None })
    }
}
