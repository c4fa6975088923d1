//! The validated configuration of one circuit. Code that holds a [`Policy`] need not check it again.
//!
//! Times are nanoseconds, shares millionths. A condition that is switched off holds zero.

pub mod active;
pub mod classify;
pub mod exempt;
mod failures;
pub mod health;
mod statuses;
pub(crate) mod upstream;

pub use failures::{Failures, RateLimited};
pub use statuses::Statuses;

use active::ActiveProbe;

/// What the breaker may do to traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reject when the circuit says so.
    Enforce,
    /// Do everything but reject, and count what would have been rejected.
    Observe,
    /// Reject everything until the mode changes.
    ForceOpen,
    /// Neither count nor reject.
    Disabled,
}

impl Mode {
    /// The word in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
            Mode::ForceOpen => "forceOpen",
            Mode::Disabled => "disabled",
        }
    }

    /// The value of the metric that tells of it.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Mode::Enforce => 0,
            Mode::Observe => 1,
            Mode::Disabled => 2,
            Mode::ForceOpen => 3,
        }
    }
}

/// The policy of a circuit.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What the breaker may do to traffic.
    pub mode: Mode,
    /// CLOSED to OPEN.
    pub trip: Trip,
    /// What counts as a failure.
    pub failures: Failures,
    /// How long OPEN lasts.
    pub open: Open,
    /// How traffic comes back.
    pub half_open: HalfOpen,
    /// What a rejected request gets.
    pub rejection: Rejection,
    /// Headers that route a request which the circuit rejects to another place; none: it is rejected.
    pub fallback: Vec<(String, String)>,
}

/// Conditions of a trip; any of them suffices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip {
    /// Failures in a row; 0 is off.
    pub consecutive_failures: u32,
    /// Share of failures in the window, in millionths; 0 is off.
    pub failure_rate: u32,
    /// Share of slow calls in the window, in millionths; 0 is off.
    pub slow_rate: u32,
    /// A call that waits so long for the first byte of its answer is slow, and one more failure in the streak. 0 is
    /// off.
    pub slow_duration: u64,
    /// Share of calls that may take longer than `latency_threshold`, in millionths: the whole less the percentile.
    pub over_share: u32,
    /// A call that takes longer for the first byte of its answer is over the threshold; 0 switches the condition off.
    pub latency_threshold: u64,
    /// The percentile decides nothing with fewer calls over the threshold than this.
    pub least_over: u32,
    /// Calls in the window before a rate means anything; at least 1.
    pub minimum_calls: u32,
    /// What the rates are taken over.
    pub window: Length,
}

/// Length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// The last so many nanoseconds.
    Time(u64),
    /// The last so many calls.
    Calls(u64),
}

impl Length {
    /// Buckets of a window: a tenth is fine enough to forget smoothly and coarse enough for a tick of 100 ms or more.
    pub(crate) const BUCKETS: u64 = 10;

    /// The whole, in its own unit.
    #[must_use]
    pub fn whole(self) -> u64 {
        match self {
            Length::Time(whole) | Length::Calls(whole) => whole,
        }
    }

    /// One bucket, in its own unit: ten of them are never shorter than the whole.
    #[must_use]
    pub fn bucket(self) -> u64 {
        self.whole().div_ceil(Self::BUCKETS).max(1)
    }
}

/// The open time.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// First open time in nanoseconds.
    pub base: u64,
    /// Factor for each further trip in a row, at least 1.
    pub multiplier: f64,
    /// Cap before jitter; at least `base`.
    pub max: u64,
    /// Largest lengthening, in millionths.
    pub jitter: u32,
    /// Longest open time that an upstream may ask for; 0 ignores what it asks.
    pub max_retry_after: u64,
}

/// The number of leases that a record has room for. More test traffic than this is what the ramp is for.
pub const MOST_PROBES: u32 = 16;

/// Probes and ramp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfOpen {
    /// Probes in flight over all workers; 1 to [`MOST_PROBES`].
    pub max_probes: u32,
    /// Good probes that end the probe stage; at least 1.
    pub success_threshold: u32,
    /// A probe older than this has failed.
    pub probe_timeout: u64,
    /// Share admitted when the ramp begins, in millionths.
    pub ramp_initial: u32,
    /// Length of the ramp; 0 switches it off.
    pub ramp_duration: u64,
    /// The breaker sends probes of its own, and no request of a user is one.
    pub active: Option<ActiveProbe>,
}

impl HalfOpen {
    /// No probe is waited for any longer: neither a user's request nor one of the breaker's own.
    #[must_use]
    pub fn longest_probe(&self) -> u64 {
        self.active.as_ref().map_or(0, |probe| probe.timeout).max(self.probe_timeout)
    }
}

/// The reply to a rejected request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// HTTP status, 200 to 599.
    pub status: u32,
    /// Body; also gRPC's message.
    pub body: String,
    /// Content type of the body.
    pub content_type: String,
    /// Headers added to the reply.
    pub headers: Vec<(String, String)>,
    /// Whether the reply says when to come back.
    pub retry_after: bool,
}

impl Policy {
    /// A good call whose answer began in less nanoseconds changes nothing but the count of successes: it is not slow,
    /// and not over the threshold. 0 where no call is counted at all.
    #[must_use]
    pub fn plain_below(&self) -> u64 {
        let slow = if self.trip.slow_duration > 0 { self.trip.slow_duration } else { u64::MAX };
        let over =
            if self.trip.latency_threshold > 0 { self.trip.latency_threshold.saturating_add(1) } else { u64::MAX };
        if self.mode == Mode::Disabled { 0 } else { slow.min(over) }
    }

    /// No open time drawn under this policy is longer: a later one comes from a clock that stepped back.
    #[must_use]
    pub fn longest_open(&self) -> u64 {
        let drawn = self.open.max.saturating_add(crate::share::part(self.open.max, self.open.jitter));
        drawn.max(self.open.max_retry_after)
    }
}
