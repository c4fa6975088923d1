//! What an ended request says about its upstream: success, a failure of some kind, or nothing.
//!
//! Envoy's response flags tell who is to blame. Only what the upstream did, or failed to do, counts; what Envoy, another
//! filter or the client did says nothing about the upstream and is neutral.

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
        }
    }
}

/// What one call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// It failed.
    Failure(FailureKind),
    /// The call says nothing about the upstream.
    Neutral,
}

/// What Envoy knows of an ended request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; 0 where the client left before there was one.
    pub status: u32,
    /// Envoy's response flags, one bit each.
    pub flags: u64,
    /// Whether the status is the upstream's own and not a local reply. Only read where it can matter (see
    /// [`Answer::needs_origin`]); true otherwise.
    pub from_upstream: bool,
    /// The upstream's `grpc-status`, where it sent one.
    pub grpc_status: Option<u32>,
}

// Bits of `response.flags`: `1 << CoreResponseFlag` in Envoy's envoy/stream_info/stream_info.h, unchanged since 1.33.
const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
const LOCAL_RESET: u64 = 1 << 3;
const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 1 << 14;
const UPSTREAM_RETRY_LIMIT: u64 = 1 << 15;
const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
const UPSTREAM_MAX_STREAM_DURATION: u64 = 1 << 19;
const DURATION_TIMEOUT: u64 = 1 << 22;
const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
const DNS_RESOLUTION_FAILED: u64 = 1 << 26;
const DOWNSTREAM_REMOTE_RESET: u64 = 1 << 28;

const TIMEOUT: u64 = UPSTREAM_REQUEST_TIMEOUT | STREAM_IDLE_TIMEOUT | UPSTREAM_MAX_STREAM_DURATION | DURATION_TIMEOUT;
const CONNECT: u64 = UPSTREAM_CONNECTION_FAILURE | DNS_RESOLUTION_FAILED;
const RESET: u64 = LOCAL_RESET | UPSTREAM_REMOTE_RESET | UPSTREAM_CONNECTION_TERMINATION | UPSTREAM_PROTOCOL_ERROR;
const CLIENT_GONE: u64 = DOWNSTREAM_CONNECTION_TERMINATION | DOWNSTREAM_REMOTE_RESET;

/// gRPC codes that mean a failing server and not a refused request: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE,
/// DATA_LOSS.
const FAILING_GRPC: [u32; 5] = [2, 4, 13, 14, 15];

impl Answer {
    /// Whether a status and flags leave it open who answered: an error without any flag may be the upstream's or another
    /// filter's. (Retries that ran out leave their own flag beside the upstream's status.)
    #[must_use]
    pub fn needs_origin(status: u32, flags: u64) -> bool {
        status >= 500 && flags & !UPSTREAM_RETRY_LIMIT == 0
    }

    /// The outcome.
    ///
    /// A client that leaves is neutral even where Envoy then resets the upstream: who left first decides. A timeout
    /// stands before a reset, because Envoy resets what it has given up on.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let has = |flags: u64| self.flags & flags != 0;
        if has(CLIENT_GONE) {
            Outcome::Neutral
        } else if has(TIMEOUT) {
            Outcome::Failure(FailureKind::Timeout)
        } else if has(CONNECT) {
            Outcome::Failure(FailureKind::Connect)
        } else if has(RESET) {
            Outcome::Failure(FailureKind::Reset)
        } else if has(NO_HEALTHY_UPSTREAM) {
            Outcome::Failure(FailureKind::NoHealthyUpstream)
        } else if self.flags & !UPSTREAM_RETRY_LIMIT != 0 {
            // Overflow, faults, rate limits, authorization, overload: not the upstream's doing.
            Outcome::Neutral
        } else {
            self.answered()
        }
    }

    /// The outcome where no flag says anything.
    fn answered(&self) -> Outcome {
        if let Some(code) = self.grpc_status {
            let fails = FAILING_GRPC.contains(&code);
            return if fails { Outcome::Failure(FailureKind::Grpc) } else { Outcome::Success };
        }
        match self.status {
            0 => Outcome::Neutral,
            500.. if !self.from_upstream => Outcome::Neutral,
            500.. => Outcome::Failure(FailureKind::Http),
            _ => Outcome::Success,
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn outcome(status: u32, flags: u64) -> Outcome {
        Answer { status, flags, from_upstream: true, grpc_status: None }.outcome()
    }

    /// Statuses and flags as a real Envoy 1.40 gave them.
    #[test]
    fn each_way_to_fail_has_its_kind() {
        use FailureKind::{Connect, Http, NoHealthyUpstream, Reset, Timeout};
        for (what, status, flags, kind) in [
            ("refused", 503, 0x20, Connect),
            ("name not resolved", 503, 0x400_0000, Connect),
            ("route timeout", 504, 0x4, Timeout),
            ("per-try timeout, retries exhausted", 504, 0x8004, Timeout),
            ("closed before headers", 503, 0x40, Reset),
            ("garbage", 502, 0x80_0000, Reset),
            ("broken off after headers", 200, 0x80_0000, Reset),
            ("no hosts", 503, 0x2, NoHealthyUpstream),
            ("500", 500, 0, Http),
            ("500, retries exhausted", 500, 0x8000, Http),
        ] {
            assert_eq!(outcome(status, flags), Outcome::Failure(kind), "{what}");
        }
    }

    #[test]
    fn what_the_upstream_did_not_do_is_neutral() {
        for (what, status, flags) in [
            ("the client left before headers", 0, 0x4000),
            ("the client left in the body", 200, 0x4000),
            ("no answer and no flag", 0, 0),
            ("overflow of the pool", 503, 0x80),
            ("injected fault", 520, 0x400),
            ("no route", 404, 0x100),
            ("rate limited", 429, 0x800),
            ("a client that left while a retry was on its way", 0, 0x4020),
        ] {
            assert_eq!(outcome(status, flags), Outcome::Neutral, "{what}");
        }
    }

    #[test]
    fn a_local_error_without_a_flag_is_not_the_upstreams() {
        assert!(Answer::needs_origin(503, 0) && Answer::needs_origin(500, 0x8000));
        assert!(!Answer::needs_origin(404, 0) && !Answer::needs_origin(503, 0x20));
        let local = Answer { status: 503, from_upstream: false, ..Answer::default() };
        assert_eq!(local.outcome(), Outcome::Neutral);
    }

    #[test]
    fn grpc_tells_its_own_status_and_http_errors_stay_errors() {
        for (code, fails) in [(0, false), (2, true), (4, true), (5, false), (8, false), (13, true), (14, true)] {
            let answer = Answer { status: 200, flags: 0, from_upstream: true, grpc_status: Some(code) };
            let expected = if fails { Outcome::Failure(FailureKind::Grpc) } else { Outcome::Success };
            assert_eq!(answer.outcome(), expected, "code {code}");
        }
        assert_eq!(outcome(404, 0), Outcome::Success, "the upstream works; the request was wrong");
    }
}
