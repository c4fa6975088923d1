//! The state machine, as functions from a record to the next record: no host, no clock, no randomness, no side
//! effect. The worker whose compare-and-swap writes the result has made the change. A worker that loses decides
//! again.
//!
//! ```text
//!            a condition holds                    open time over
//!  CLOSED ───────────────────────► OPEN ──────────────────────────► HALF_OPEN: probe
//!    ▲                              ▲ ▲                                │        │
//!    │ ramp done                    │ └────────── a probe failed ──────┘        │ enough good probes
//!    └──── HALF_OPEN: ramp ─────────┘ a condition holds                         │
//!                ▲──────────────────────────────────────────────────────────────┘
//! ```
//!
//! CLOSED and HALF_OPEN end where nobody has used the upstream for long. Then it has no circuit, and its next request
//! begins another one, CLOSED. OPEN does not end in this way: its time runs out by itself, and a circuit that a
//! person has forced OPEN stays so.

use crate::circuit::conditions::{Reason, condition};
use crate::circuit::open_time::open_time;
use crate::circuit::ramp;
use crate::circuit::record::{LEASES, Lease, Phase, Record};
use crate::circuit::window::{Tally, between};
use crate::clock;
use crate::clock::{MILLISECOND, SECOND};
use crate::policy::{Length, Mode, Policy};

/// What a decision takes from outside the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: u64,
    /// The counters, read after the record.
    pub(crate) tally: Tally,
    /// Uniform over all of `u64`.
    pub(crate) random: u64,
    /// When the upstream wants to be asked again; 0 where it did not say.
    pub(crate) retry_at: u64,
}

/// A new record, and why its state is another one; `None` where only details changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) record: Record,
    pub(crate) reason: Option<Reason>,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Bad,
    /// It said nothing: the slot is free again.
    Nothing,
}

/// A lease outlives `probeTimeout` by this much. Its owner judges the probe at its own tick (at most a second apart),
/// and nobody else may take the slot before.
const LEASE_GRACE: u64 = 2 * SECOND;

/// How long a request that is still coming may hold a probe slot. A body that is sent at once arrives in a fraction
/// of this time. A client that stalls must not keep others from probing. A slow upload loses nothing: if its body
/// takes longer it asks for a slot again when it is complete.
pub(crate) const TRIAL: u64 = 250 * MILLISECOND;

/// When the upstream wants to be asked again, as far as the policy lets it say so.
fn asked_for(policy: &Policy, at: &Moment) -> u64 {
    at.retry_at.min(at.now.saturating_add(policy.open.max_retry_after))
}

impl Record {
    /// Whether this is CLOSED or the ramp: the phases in which conditions are watched.
    pub(crate) fn is_counting(&self) -> bool {
        matches!(self.phase, Phase::Closed | Phase::Ramp) && !self.foreign
    }

    /// Calls that were admitted from this time on count in this generation, by their time alone. A circuit that never
    /// changed its state has only one generation.
    pub(crate) fn counts_since(&self) -> u64 {
        match self.transitions() {
            _ if !self.is_counting() => u64::MAX,
            0 => 0,
            _ => self.since,
        }
    }

    /// Nanoseconds until OPEN is over. If the time is longer than the policy can have drawn, it comes from a clock
    /// that stepped back or from an older policy, and OPEN is over.
    pub(crate) fn open_for(&self, policy: &Policy, now: u64) -> u64 {
        clock::left(now, self.open_until, policy.longest_open())
    }

    /// The next generation, in `phase`.
    fn moved(&self, phase: Phase, at: &Moment, reason: Reason) -> Change {
        let record = Record {
            phase,
            forced: false,
            generation: self.generation.wrapping_add(1),
            since: at.now,
            base: at.tally,
            open_until: 0,
            progress: 0,
            mark_at: at.now,
            mark: at.tally,
            leases: Vec::new(),
            ..self.clone()
        };
        Change { record, reason: Some(reason) }
    }

    /// OPEN, for longer with every trip in a row.
    pub(crate) fn trip(&self, policy: &Policy, at: &Moment, reason: Reason) -> Change {
        let mut change = self.moved(Phase::Open, at, reason);
        let record = &mut change.record;
        record.trips_in_a_row = self.trips_in_a_row.saturating_add(1);
        let drawn = at.now.saturating_add(open_time(&policy.open, record.trips_in_a_row, at.random));
        record.open_until = drawn.max(asked_for(policy, at));
        if self.outage_since == 0 {
            record.outage_since = at.now;
        }
        change
    }

    /// A longer OPEN, where the upstream asked for more time than is left.
    pub(crate) fn lengthen(&self, policy: &Policy, at: &Moment) -> Option<Change> {
        let open_until = asked_for(policy, at);
        // A little longer is not worth a write: each of a thousand late answers asks for a little more.
        if self.phase != Phase::Open || self.forced || open_until <= self.open_until.saturating_add(SECOND) {
            return None;
        }
        Some(Change { record: Record { open_until, ..self.clone() }, reason: None })
    }

    fn force_open(&self, at: &Moment) -> Change {
        let mut change = self.moved(Phase::Open, at, Reason::Forced);
        change.record.forced = true;
        if self.outage_since == 0 {
            change.record.outage_since = at.now;
        }
        change
    }

    fn close(&self, at: &Moment, reason: Reason) -> Change {
        let mut change = self.moved(Phase::Closed, at, reason);
        change.record.outage_since = 0;
        change
    }

    /// Ends the circuit. For a CLOSED circuit that is no transition to anybody outside.
    pub(crate) fn end(&self, at: &Moment) -> Change {
        let mut change = self.moved(Phase::Ended, at, Reason::Idle);
        change.reason = change.reason.filter(|_| self.phase != Phase::Closed);
        change
    }

    /// The change that time, evidence and the policy alone make to this record now; `None` for none. `latest` good
    /// calls end right now.
    pub(crate) fn due(&self, policy: &Policy, at: &Moment, latest: u64) -> Option<Change> {
        let change = match (self.phase, policy.mode) {
            (Phase::Ended, _) | (_, Mode::Disabled) => return None,
            (_, Mode::ForceOpen) => (!self.forced).then(|| self.force_open(at)),
            (Phase::Open, _) if self.forced => Some(self.moved(Phase::Probe, at, Reason::ForceLifted)),
            (Phase::Open, _) => {
                (self.open_for(policy, at.now) == 0).then(|| self.moved(Phase::Probe, at, Reason::OpenOver))
            }
            (Phase::Probe, _) => None,
            (Phase::Ramp, _) => self.climb(policy, at, latest),
            (Phase::Closed, _) => self.recover(policy, at),
        };
        change.or_else(|| clock::stepped_back(at.now, self.since).then(|| self.rebased(policy, at)))
    }

    /// The same state from now on, after the clock stepped back. Calls that begin now must not count as older than
    /// the state. A window of calls goes by no clock, and keeps its calls.
    fn rebased(&self, policy: &Policy, at: &Moment) -> Change {
        let base = if matches!(policy.trip.window, Length::Time(_)) { at.tally } else { self.base };
        let outage_since = self.outage_since.min(at.now);
        Change { record: Record { since: at.now, base, outage_since, ..self.clone() }, reason: None }
    }

    /// The ramp's next step, where this one has run its time and shown enough good calls.
    fn climb(&self, policy: &Policy, at: &Moment, latest: u64) -> Option<Change> {
        if at.tally.is_before(self.mark) || clock::stepped_back(at.now, self.mark_at) {
            return Some(self.marked(at, self.progress));
        }
        self.climb_by(policy, at, at.tally.since(self.mark).success, latest)
    }

    /// The next step, where this one has run its time and had so many good calls. `latest` of them end right now.
    fn climb_by(&self, policy: &Policy, at: &Moment, good: u64, latest: u64) -> Option<Change> {
        let took = ramp::over_after(&policy.half_open, at.now.saturating_sub(self.mark_at), good, latest)?;
        let step = self.progress.saturating_add(1);
        if step >= ramp::STEPS {
            return Some(self.close(at, Reason::RampDone));
        }
        let mut change = self.marked(at, step);
        change.record.mark_at = ramp::next_begins(&policy.half_open, self.mark_at, took, at.now);
        Some(change)
    }

    /// One trip forgotten for each full healthy window: its time has passed, it has seen calls enough to mean
    /// something, and they were good. Time alone forgets nothing.
    fn recover(&self, policy: &Policy, at: &Moment) -> Option<Change> {
        if self.trips_in_a_row == 0 {
            return None;
        }
        if at.tally.is_before(self.mark) || clock::stepped_back(at.now, self.mark_at) {
            return Some(self.marked(at, 0));
        }
        let seen = at.tally.since(self.mark);
        let length = policy.trip.window;
        let full = between(length, (self.mark_at, self.mark), (at.now, at.tally)) >= length.whole();
        if !full || seen.calls() < u64::from(policy.trip.minimum_calls) {
            return None;
        }
        let mut change = self.marked(at, 0);
        if condition(&policy.trip, 0, seen).is_none() {
            change.record.trips_in_a_row = self.trips_in_a_row.saturating_sub(1);
        }
        Some(change)
    }

    fn marked(&self, at: &Moment, progress: u32) -> Change {
        let record = Record { progress, mark_at: at.now, mark: at.tally, ..self.clone() };
        Change { record, reason: None }
    }

    /// Whether a lease is neither settled nor over. One that ends later than any lease could comes from a clock that
    /// stepped back, and is over.
    fn is_live(lease: &Lease, policy: &Policy, now: u64) -> bool {
        let longest = policy.half_open.longest_probe().saturating_add(LEASE_GRACE);
        clock::left(now, lease.ends_at, longest) > 0
    }

    /// Whether a probe is out, as far as the leases tell.
    pub(crate) fn has_live_lease(&self, policy: &Policy, now: u64) -> bool {
        self.leases.iter().any(|lease| Self::is_live(lease, policy, now))
    }

    /// Whether a probe may be sent. `whole`: its request is complete, so it may take the slot of one that is still
    /// coming.
    pub(crate) fn has_slot(&self, policy: &Policy, now: u64, whole: bool) -> bool {
        let taken = |lease: &&Lease| Self::is_live(lease, policy, now) && !(whole && lease.trial);
        self.phase == Phase::Probe && self.leases.iter().filter(taken).count() < policy.half_open.max_probes as usize
    }

    /// Takes a probe slot: the record with the lease, and the lease's number.
    pub(crate) fn lease(&self, policy: &Policy, now: u64, whole: bool) -> Option<(Record, u32)> {
        self.has_slot(policy, now, whole).then(|| self.leased(policy, now, policy.half_open.probe_timeout, !whole))
    }

    /// The record with one more lease, and its number. `timeout`: how long its probe may take.
    pub(super) fn leased(&self, policy: &Policy, now: u64, timeout: u64, trial: bool) -> (Record, u32) {
        let mut next = self.clone();
        // 0 means "no lease": the number skips it when it wraps.
        let number = self.last_lease.checked_add(1).unwrap_or(1);
        let longest = if trial { TRIAL } else { timeout.saturating_add(LEASE_GRACE) };
        let lease = Lease { number, ends_at: now.saturating_add(longest), trial };
        next.make_room(policy, now);
        next.leases.push(lease);
        next.last_lease = number;
        (next, number)
    }

    /// Removes a lease where another one needs its place. Where all slots are taken, a trial goes. Where all places
    /// are taken, a lease goes that is over; its probe may still be out, and would count as long as the lease is
    /// there.
    fn make_room(&mut self, policy: &Policy, now: u64) {
        let live = self.leases.iter().filter(|lease| Self::is_live(lease, policy, now)).count();
        let trial = self.leases.iter().position(|lease| lease.trial && Self::is_live(lease, policy, now));
        if let Some(trial) = trial.filter(|_| live >= policy.half_open.max_probes as usize) {
            self.leases.remove(trial);
        }
        let over = self.leases.iter().position(|lease| !Self::is_live(lease, policy, now));
        if let Some(over) = over.filter(|_| self.leases.len() >= LEASES) {
            self.leases.remove(over);
        }
    }

    /// The request of a probe on trial is complete. It gets its slot for good, or another slot. `None` where no slot
    /// is left for it, or the circuit has moved on.
    pub(crate) fn confirm(&self, policy: &Policy, now: u64, generation: u64, number: u32) -> Option<(Record, u32)> {
        if self.generation != generation {
            return None;
        }
        let mut next = self.clone();
        next.leases.retain(|lease| lease.number != number);
        next.lease(policy, now, true)
    }

    /// Ends a probe. `None` where its generation or its lease is over: a late answer changes nothing.
    pub(crate) fn end_probe(
        &self,
        policy: &Policy,
        at: &Moment,
        generation: u64,
        number: u32,
        verdict: Verdict,
    ) -> Option<Change> {
        if !matches!(self.phase, Phase::Probe | Phase::Ramp) || self.generation != generation {
            return None;
        }
        let mut next = self.clone();
        let lease = next.leases.iter().position(|lease| lease.number == number)?;
        next.leases.remove(lease);
        match verdict {
            Verdict::Nothing => Some(Change { record: next, reason: None }),
            Verdict::Bad => Some(self.trip(policy, at, Reason::ProbeFailed)),
            // Only the breaker's own probes are sent in the ramp, and one stands for a good call.
            Verdict::Good if self.phase == Phase::Ramp => {
                let good = at.tally.since(self.mark).success.saturating_add(1);
                next.climb_by(policy, at, good, 1).or(Some(Change { record: next, reason: None }))
            }
            Verdict::Good => {
                next.progress = self.progress.saturating_add(1);
                if next.progress < policy.half_open.success_threshold {
                    Some(Change { record: next, reason: None })
                } else if policy.half_open.ramp_duration == 0 {
                    Some(self.close(at, Reason::ProbesSucceeded))
                } else {
                    Some(self.moved(Phase::Ramp, at, Reason::ProbesSucceeded))
                }
            }
        }
    }
}
