//! What an ended request says about its upstream: success, a failure of some kind, or nothing.
//!
//! Envoy's response flags tell who is to blame. Only what the upstream did, or failed to do, counts; what Envoy, another
//! filter or the client did says nothing about the upstream and is neutral. Which of it counts is the policy's to say.

use crate::policy::{Failures, RateLimited};

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
    /// The client did not wait for it, where the policy counts that.
    ClientCancel,
    /// It said that there are too many requests, where the policy counts that.
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

/// What one call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// It failed.
    Failure(FailureKind),
    /// It did its work, or has not yet, but too slowly.
    Slow,
    /// The call says nothing about the upstream.
    Neutral,
}

/// What Envoy knows of an ended request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// How often Envoy sent the request; more than 1 where it retried. Only read where a policy asks.
    pub attempts: u32,
    /// When the upstream wants to be asked again, in nanoseconds from now, where it failed and said so.
    pub retry_after: Option<u64>,
}

impl Default for Answer {
    fn default() -> Answer {
        Answer { status: 0, flags: 0, from_upstream: true, grpc_status: None, attempts: 1, retry_after: None }
    }
}

// Bits of `response.flags`: `1 << CoreResponseFlag` in Envoy's envoy/stream_info/stream_info.h, unchanged since 1.33.
const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
const LOCAL_RESET: u64 = 1 << 3;
const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
const UPSTREAM_OVERFLOW: u64 = 1 << 7;
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

/// Envoy's flags for what the upstream did or failed to do, and their kinds; the first that is set decides. A timeout
/// stands before a reset, because Envoy resets what it has given up on.
const UPSTREAM_FLAGS: [(u64, FailureKind); 5] = [
    (TIMEOUT, FailureKind::Timeout),
    (CONNECT, FailureKind::Connect),
    (RESET, FailureKind::Reset),
    (NO_HEALTHY_UPSTREAM, FailureKind::NoHealthyUpstream),
    (UPSTREAM_OVERFLOW, FailureKind::Overflow),
];

const TOO_MANY_REQUESTS: u32 = 429;
const RESOURCE_EXHAUSTED: u32 = 8;

impl Answer {
    /// The upstream's own good answer.
    #[must_use]
    pub fn well() -> Answer {
        Answer { status: 200, ..Answer::default() }
    }

    /// Whether status and flags leave it open who answered: an error without any flag may be the upstream's or another
    /// filter's. (Retries that ran out leave their own flag beside the upstream's status.)
    #[must_use]
    pub fn needs_origin(status: u32, flags: u64) -> bool {
        status >= 400 && flags & !UPSTREAM_RETRY_LIMIT == 0
    }

    /// The outcome under a policy. A probe is judged more strictly: an upstream that says "too many" is not well yet.
    ///
    /// A client that leaves is the client's doing even where Envoy then resets the upstream: who left first decides.
    #[must_use]
    pub fn outcome(&self, policy: &Failures, probe: bool) -> Outcome {
        if self.flags & CLIENT_GONE != 0 {
            return if policy.client_cancel { Outcome::Failure(FailureKind::ClientCancel) } else { Outcome::Neutral };
        }
        if let Some((_, kind)) = UPSTREAM_FLAGS.iter().find(|(flags, _)| self.flags & flags != 0) {
            return if policy.counts(*kind) { Outcome::Failure(*kind) } else { Outcome::Neutral };
        }
        if self.flags & !UPSTREAM_RETRY_LIMIT != 0 || self.status == 0 || !self.from_upstream {
            // Faults, rate limits, authorization, overload: not the upstream's doing.
            return Outcome::Neutral;
        }
        self.answered(policy, probe)
    }

    /// The outcome of the upstream's own answer.
    fn answered(&self, policy: &Failures, probe: bool) -> Outcome {
        let fails = match self.grpc_status {
            Some(code) => policy.grpc_fails(code).then_some(FailureKind::Grpc),
            None => policy.http_fails(self.status).then_some(FailureKind::Http),
        };
        if let Some(kind) = fails {
            return Outcome::Failure(kind);
        }
        if self.status != TOO_MANY_REQUESTS && self.grpc_status != Some(RESOURCE_EXHAUSTED) {
            return Outcome::Success;
        }
        match policy.rate_limited {
            RateLimited::Ignore => Outcome::Success,
            RateLimited::Soft if !probe => Outcome::Neutral,
            RateLimited::Soft | RateLimited::Failure => Outcome::Failure(FailureKind::RateLimited),
        }
    }

    /// Attempts before the last one: each failed, or Envoy would not have retried.
    #[must_use]
    pub fn failed_attempts(&self, policy: &Failures) -> u32 {
        if policy.all_attempts { self.attempts.saturating_sub(1) } else { 0 }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::config::Config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn policy(failure: &str) -> Failures {
        let document = format!(r#"{{"default": {{"failure": {failure}}}}}"#);
        Config::parse(document.as_bytes()).unwrap().policies().next().unwrap().failures.clone()
    }

    fn answer(status: u32, flags: u64) -> Answer {
        Answer { status, flags, ..Answer::default() }
    }

    fn outcome(status: u32, flags: u64) -> Outcome {
        answer(status, flags).outcome(&policy("{}"), false)
    }

    /// Every flag of Envoy alone, by its bit, as what the defaults make of it.
    #[test]
    fn each_of_the_thirty_flags_has_its_outcome() {
        use FailureKind::{Connect, NoHealthyUpstream, Reset, Timeout};
        let kinds = [
            None,                    // 0 LH: Envoy's own health check
            Some(NoHealthyUpstream), // 1 UH
            Some(Timeout),           // 2 UT
            Some(Reset),             // 3 LR
            Some(Reset),             // 4 UR
            Some(Connect),           // 5 UF
            Some(Reset),             // 6 UC
            None,                    // 7 UO: counts only where the policy says so
            None,                    // 8 NR
            None,                    // 9 DI
            None,                    // 10 FI
            None,                    // 11 RL
            None,                    // 12 UAEX
            None,                    // 13 RLSE
            None,                    // 14 DC
            None,                    // 15 URX: the status decides, below
            Some(Timeout),           // 16 SI
            None,                    // 17 IH
            None,                    // 18 DPE
            Some(Timeout),           // 19 UMSDR
            None,                    // 20 RFCF
            None,                    // 21 NFCF
            Some(Timeout),           // 22 DT
            Some(Reset),             // 23 UPE
            None,                    // 24 NC
            None,                    // 25 OM
            Some(Connect),           // 26 DF
            None,                    // 27 DO
            None,                    // 28 DR
            None,                    // 29 UDO
        ];
        for (bit, kind) in kinds.into_iter().enumerate().filter(|(bit, _)| *bit != 15) {
            let expected = kind.map_or(Outcome::Neutral, Outcome::Failure);
            assert_eq!(outcome(503, 1 << bit), expected, "bit {bit}");
            assert_eq!(outcome(200, 1 << bit), expected, "bit {bit}, seen after good headers");
        }
        assert_eq!(outcome(500, 1 << 15), Outcome::Failure(FailureKind::Http));
        assert_eq!(outcome(504, 1 << 15 | 1 << 2), Outcome::Failure(Timeout), "per-try timeouts, retries exhausted");
    }

    #[test]
    fn the_status_decides_where_no_flag_does() {
        assert_eq!(outcome(500, 0), Outcome::Failure(FailureKind::Http));
        for status in [200, 101, 302, 404, 499] {
            assert_eq!(outcome(status, 0), Outcome::Success, "{status}: the upstream works");
        }
        assert_eq!(outcome(0, 0), Outcome::Neutral, "the client left before there was a status");
        let listed = policy(r#"{"httpStatus": [404, "500-503", "42x"]}"#.replace("42x", "511").as_str());
        for (status, fails) in [(404, true), (403, false), (500, true), (503, true), (504, false), (511, true)] {
            let expected = if fails { Outcome::Failure(FailureKind::Http) } else { Outcome::Success };
            assert_eq!(answer(status, 0).outcome(&listed, false), expected, "{status}");
        }
    }

    #[test]
    fn a_client_that_left_counts_only_where_the_policy_says_so() {
        for flags in [1 << 14, 1 << 28, 1 << 14 | 1 << 5] {
            assert_eq!(outcome(200, flags), Outcome::Neutral);
            let counted = answer(0, flags).outcome(&policy(r#"{"clientCancel": "failure"}"#), false);
            assert_eq!(counted, Outcome::Failure(FailureKind::ClientCancel));
        }
    }

    #[test]
    fn upstream_errors_count_as_listed() {
        let only_overflow = policy(r#"{"upstreamErrors": ["overflow"]}"#);
        for (flags, kind) in UPSTREAM_FLAGS {
            let expected = if kind == FailureKind::Overflow { Outcome::Failure(kind) } else { Outcome::Neutral };
            assert_eq!(answer(503, flags).outcome(&only_overflow, false), expected, "{kind:?}");
        }
    }

    #[test]
    fn too_many_requests_is_soft_in_closed_and_strict_in_a_probe() {
        let grpc = Answer { status: 200, grpc_status: Some(8), ..Answer::default() };
        for limited in [answer(429, 0), grpc] {
            let limited_fails = Outcome::Failure(FailureKind::RateLimited);
            assert_eq!(limited.outcome(&policy("{}"), false), Outcome::Neutral);
            assert_eq!(limited.outcome(&policy("{}"), true), limited_fails);
            let strict = policy(r#"{"rateLimited": "failure"}"#);
            assert_eq!(
                (limited.outcome(&strict, false), limited.outcome(&strict, true)),
                (limited_fails, limited_fails)
            );
            assert_eq!(limited.outcome(&policy(r#"{"rateLimited": "ignore"}"#), true), Outcome::Success);
        }
    }

    #[test]
    fn a_local_reply_without_a_flag_is_not_the_upstreams() {
        for status in [401, 429, 500, 503] {
            assert!(Answer::needs_origin(status, 0) && Answer::needs_origin(status, 0x8000));
            let local = Answer { from_upstream: false, ..answer(status, 0) };
            assert_eq!(local.outcome(&policy("{}"), true), Outcome::Neutral);
        }
        assert!(!Answer::needs_origin(200, 0) && !Answer::needs_origin(503, 0x20));
    }

    #[test]
    fn grpc_tells_its_own_status() {
        for (code, fails) in
            [(0, false), (2, true), (4, true), (5, false), (13, true), (14, true), (15, true), (99, false)]
        {
            let answer = Answer { status: 200, grpc_status: Some(code), ..Answer::default() };
            let expected = if fails { Outcome::Failure(FailureKind::Grpc) } else { Outcome::Success };
            assert_eq!(answer.outcome(&policy("{}"), false), expected, "code {code}");
            let none = policy(r#"{"grpcStatus": []}"#);
            assert_eq!(answer.outcome(&none, false), Outcome::Success);
        }
    }

    #[test]
    fn attempts_before_the_last_count_where_the_policy_says_so() {
        let retried = Answer { attempts: 3, ..answer(200, 0) };
        assert_eq!(retried.failed_attempts(&policy("{}")), 0);
        assert_eq!(retried.failed_attempts(&policy(r#"{"attempts": "all"}"#)), 2);
    }
}
