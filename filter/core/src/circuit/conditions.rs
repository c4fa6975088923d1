//! The conditions of a trip, and the reasons of all transitions.

use crate::circuit::window::Tally;
use crate::policy::{Policy, Trip};

/// Why a circuit changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `consecutiveFailures` in a row.
    Consecutive,
    /// `failureRatePercent` of the window.
    FailureRate,
    /// `slowCallRatePercent` of the window.
    SlowRate,
    /// `latencyPercentile` of the window over `latencyThreshold`.
    Latency,
    /// A probe failed.
    ProbeFailed,
    /// A condition held in the ramp.
    RampFailed,
    /// The policy says `forceOpen`.
    Forced,
    /// OPEN lasted its time.
    OpenOver,
    /// The policy no longer says `forceOpen`.
    ForceLifted,
    /// Enough probes were good.
    ProbesSucceeded,
    /// The ramp came to its end.
    RampDone,
    /// Nobody has used the upstream for `limits.idleCircuit`.
    Idle,
}

impl Reason {
    /// The word for logs and labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Reason::Consecutive => "consecutive",
            Reason::FailureRate => "failure_rate",
            Reason::SlowRate => "slow_rate",
            Reason::Latency => "latency",
            Reason::ProbeFailed => "probe_failed",
            Reason::RampFailed => "ramp_failed",
            Reason::Forced => "forced",
            Reason::OpenOver => "open_over",
            Reason::ForceLifted => "force_lifted",
            Reason::ProbesSucceeded => "probes_succeeded",
            Reason::RampDone => "ramp_done",
            Reason::Idle => "idle",
        }
    }
}

/// The first condition that holds, if any. `streak` and `window` are of the present generation.
pub(crate) fn condition(trip: &Trip, streak: u64, window: Tally) -> Option<Reason> {
    if trip.consecutive_failures > 0 && streak >= u64::from(trip.consecutive_failures) {
        return Some(Reason::Consecutive);
    }
    let enough = window.calls() >= u64::from(trip.minimum_calls);
    let holds = |part: u64, share: u32| enough && share > 0 && at_least(part, window.calls(), share);
    if holds(window.failure, trip.failure_rate) {
        return Some(Reason::FailureRate);
    }
    if holds(window.slow, trip.slow_rate) {
        return Some(Reason::SlowRate);
    }
    (enough && is_late(trip, window)).then_some(Reason::Latency)
}

/// Whether the percentile of the window's latencies is over the threshold. By nearest rank the p-th percentile of n
/// calls is the call at rank ceil(p n / 100). It is over the threshold exactly if more than n (100 - p) / 100 calls
/// are. So the histogram that answers this needs only two buckets, with the threshold between them. It is exact, it
/// is two counters wide, and adding these up merges all workers.
fn is_late(trip: &Trip, window: Tally) -> bool {
    let over = u128::from(window.over).saturating_mul(1_000_000);
    let enough = trip.latency_threshold > 0 && window.over >= u64::from(trip.least_over);
    enough && over > u128::from(window.calls()).saturating_mul(u128::from(trip.over_share))
}

/// The conditions of the ramp: as few calls decide as end the probe stage. A circuit that is coming back must not
/// wait for a full sample before it protects the upstream again, and it must not reopen at a single unlucky call.
pub(crate) fn ramp_conditions(policy: &Policy) -> Trip {
    let few = policy.half_open.success_threshold;
    let trip = &policy.trip;
    let streak = if trip.consecutive_failures == 0 { few } else { trip.consecutive_failures.min(few) };
    // A percentile of so few calls is their slowest one, and one call alone must decide nothing.
    let minimum_calls = trip.minimum_calls.min(few);
    Trip { consecutive_failures: streak, minimum_calls, least_over: few, ..trip.clone() }
}

/// Whether `part` is at least `share` millionths of `whole`.
fn at_least(part: u64, whole: u64, share: u32) -> bool {
    u128::from(part).saturating_mul(1_000_000) >= u128::from(whole).saturating_mul(u128::from(share))
}
