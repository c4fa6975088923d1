//! What counts as a failure, and its kinds.

use crate::policy::statuses::Statuses;

/// How an upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It answered with a 5xx status.
    Http,
    /// It answered with a failing gRPC status.
    Grpc,
    /// No connection to it could be made.
    Connect,
    /// It did not answer in time.
    Timeout,
    /// It broke off an exchange.
    Reset,
    /// Envoy had no healthy host of it left.
    NoHealthyUpstream,
    /// Envoy's own limits for it (`connectionPool`) were full.
    Overflow,
    /// The client waited too long for it and left, where the policy counts that.
    ClientCancel,
    /// It answered that there are too many requests, where the policy counts that.
    RateLimited,
}

impl FailureKind {
    /// The word for labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            FailureKind::Http => "http",
            FailureKind::Grpc => "grpc",
            FailureKind::Connect => "connect",
            FailureKind::Timeout => "timeout",
            FailureKind::Reset => "reset",
            FailureKind::NoHealthyUpstream => "no_healthy_upstream",
            FailureKind::Overflow => "overflow",
            FailureKind::ClientCancel => "client_cancel",
            FailureKind::RateLimited => "rate_limited",
        }
    }
}

/// What counts as a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Failing HTTP statuses.
    pub(crate) http: Statuses,
    /// Failing gRPC codes: a bit for each.
    pub(crate) grpc: u32,
    /// Kinds of upstream errors that count: a bit for each.
    pub(crate) kinds: u32,
    /// A client that leaves counts if it has waited so many nanoseconds for its answer's first byte. 0: whenever it
    /// leaves. `None`: never.
    pub client_cancel: Option<u64>,
    /// Faults that the proxy's own fault filter injects count as the upstream's: for drills.
    pub injected_faults: bool,
    /// What 429 and RESOURCE_EXHAUSTED mean.
    pub rate_limited: RateLimited,
    /// Attempts that Envoy's retries hid count too.
    pub all_attempts: bool,
}

/// What an upstream's "too many requests" means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateLimited {
    /// Nothing in CLOSED and the ramp; a probe has failed.
    #[default]
    Soft,
    /// A failure.
    Failure,
    /// A success like any answer.
    Ignore,
}

impl Failures {
    /// Counts this HTTP status.
    pub(crate) fn add_http(&mut self, status: u32) {
        self.http.add(status);
    }

    /// Counts this gRPC code.
    pub(crate) fn add_grpc(&mut self, code: u32) {
        self.grpc |= 1_u32.checked_shl(code).unwrap_or(0);
    }

    /// Counts this kind.
    pub(crate) fn add_kind(&mut self, kind: FailureKind) {
        self.kinds |= 1 << (kind as u32);
    }

    pub(crate) fn http_fails(&self, status: u32) -> bool {
        self.http.contains(status)
    }

    pub(crate) fn grpc_fails(&self, code: u32) -> bool {
        1_u32.checked_shl(code).is_some_and(|bit| self.grpc & bit != 0)
    }

    pub(crate) fn counts(&self, kind: FailureKind) -> bool {
        self.kinds & (1 << (kind as u32)) != 0
    }
}
