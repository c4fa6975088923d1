//! The validated configuration of one circuit. Whoever holds a [`Policy`] need not check it again.
//!
//! Times are nanoseconds, shares millionths. A condition that is switched off holds zero.

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
}

/// The policy of a circuit.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What the breaker may do to traffic.
    pub mode: Mode,
    /// CLOSED to OPEN.
    pub trip: Trip,
    /// How long OPEN lasts.
    pub open: Open,
    /// How traffic comes back.
    pub half_open: HalfOpen,
    /// What a rejected request gets.
    pub rejection: Rejection,
}

/// Conditions of a trip; any of them suffices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip {
    /// Failures in a row; 0 is off.
    pub consecutive_failures: u32,
    /// Share of failures in the window, in millionths; 0 is off.
    pub failure_rate: u32,
    /// Calls in the window before a rate means anything; at least 1.
    pub minimum_calls: u32,
    /// Length of the window.
    pub window: u64,
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
}

/// Probes and ramp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfOpen {
    /// Probes in flight over all workers; 1 to [`crate::config::MOST_PROBES`].
    pub max_probes: u32,
    /// Good probes that end the probe stage; at least 1.
    pub success_threshold: u32,
    /// A probe older than this has failed.
    pub probe_timeout: u64,
    /// Share admitted when the ramp begins, in millionths.
    pub ramp_initial: u32,
    /// Length of the ramp; 0 switches it off.
    pub ramp_duration: u64,
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
    /// Buckets of a window: a tenth is fine enough to forget smoothly and coarse enough for a tick of 100 ms or more.
    pub const BUCKETS: u64 = 10;

    /// Length of one bucket of the window.
    #[must_use]
    pub fn bucket(&self) -> u64 {
        self.trip.window / Self::BUCKETS
    }

    /// No open time drawn under this policy is longer: a later one comes from a clock that stepped back.
    #[must_use]
    pub fn longest_open(&self) -> u64 {
        self.open.max.saturating_add(crate::backoff::part(self.open.max, self.open.jitter))
    }
}
