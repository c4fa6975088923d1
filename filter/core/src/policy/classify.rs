//! What an ended call says about its upstream: success, a failure of some kind, slow, or nothing.
//!
//! **The principle.** A call is judged by where it went last, by what that upstream itself answered, and by how long that
//! upstream took once it had the whole request. What Envoy, another filter or the client did says nothing about the
//! upstream, and is neutral. A shortcut that saves instructions may only be taken where it is certain under this rule.
//!
//! There are two steps, and a host other than Envoy replaces only the first. [`crate::envoy`] says who ended the
//! exchange and how (an [`Ending`]). Here the policy says what of that counts.
//!
//! - *Where it went last*: the caller that settles a call names the upstream at its end (`breaker/settle.rs`).
//! - *What it answered*: only [`Ending::Answered`] is judged by its status or its gRPC status.
//! - *How long it took*: from the request's last byte to the answer's first. A call without an answer after
//!   `slowCallDuration` is *hung*. It is slow, and one more failure in the streak, at once and not when it ends.

pub use super::failures::FailureKind;
use super::failures::{Failures, RateLimited};

/// What one call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// It failed.
    Failure(FailureKind),
    /// It did its work too slowly, or has not done it yet. It is one more failure in the streak, and a kind of its
    /// own in the window.
    Slow,
    /// The call says nothing about the upstream.
    Neutral,
}

/// Who ended an exchange, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The upstream, with its own answer.
    Answered,
    /// The upstream, with a redirect that the proxy followed itself: it did its work.
    Followed,
    /// The proxy, which could not get the upstream's answer.
    Failed(FailureKind),
    /// The client, or the deadline that it had set, while the upstream had the whole request and had not begun to answer.
    LeftWaiting {
        /// A fault filter held the request back, for an unknown part of that time.
        delayed: bool,
    },
    /// The client, after the head of an answer.
    LeftAfterHead {
        /// The head was the upstream's own.
        own: bool,
    },
    /// A fault that was injected on purpose.
    Injected,
    /// Another filter, a limit of the proxy's own, or a client that was still sending.
    Elsewhere,
}

/// What is known of an ended call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who ended it, and how.
    pub ending: Ending,
    /// HTTP status; 0 where the client left before there was one.
    pub status: u32,
    /// The `grpc-status` of the answer, where it has one.
    pub grpc_status: Option<u32>,
    /// How often the request was sent; more than 1 where the proxy retried. It is only read where a policy asks for
    /// it.
    pub attempts: u32,
    /// When the upstream wants to be asked again, in nanoseconds from now, where it failed and said so.
    pub retry_after: Option<u64>,
    /// Nanoseconds for which a fault filter held the request back before the upstream had it.
    pub injected_delay: u64,
}

impl Default for Answer {
    fn default() -> Answer {
        let (ending, status) = (Ending::Answered, 0);
        Answer { ending, status, grpc_status: None, attempts: 1, retry_after: None, injected_delay: 0 }
    }
}

const TOO_MANY_REQUESTS: u32 = 429;
const RESOURCE_EXHAUSTED: u32 = 8;

impl Answer {
    /// The upstream's own good answer.
    #[must_use]
    pub fn well() -> Answer {
        Answer::of_status(200)
    }

    /// The upstream's own answer with this status.
    #[must_use]
    pub fn of_status(status: u32) -> Answer {
        Answer { status, ..Answer::default() }
    }

    /// An exchange that ended in this way, without an answer of the upstream's own.
    #[must_use]
    pub fn ended(ending: Ending) -> Answer {
        Answer { ending, ..Answer::default() }
    }

    /// The outcome under a policy. A probe is judged more strictly: an upstream that answers "too many requests" is
    /// not well yet. `waited`: nanoseconds from the request's last byte to the answer's first, or to the end without
    /// one.
    #[must_use]
    pub fn outcome(&self, policy: &Failures, probe: bool, waited: Option<u64>) -> Outcome {
        match self.ending {
            Ending::Answered if self.status == 0 => Outcome::Neutral,
            Ending::Answered => self.answered(policy, probe),
            Ending::Followed => Outcome::Success,
            Ending::Failed(kind) if policy.counts(kind) => Outcome::Failure(kind),
            Ending::LeftWaiting { delayed } if !delayed || policy.injected_faults => {
                let counts = policy.client_cancel.zip(waited).is_some_and(|(bound, waited)| waited >= bound);
                if counts { Outcome::Failure(FailureKind::ClientCancel) } else { Outcome::Neutral }
            }
            Ending::LeftAfterHead { own } => match self.failing(policy) {
                Some(kind) if own => Outcome::Failure(kind),
                _ if policy.client_cancel == Some(0) => Outcome::Failure(FailureKind::ClientCancel),
                _ => Outcome::Neutral,
            },
            Ending::Injected if policy.injected_faults => {
                self.failing(policy).map_or(Outcome::Neutral, Outcome::Failure)
            }
            Ending::Failed(_) | Ending::LeftWaiting { .. } | Ending::Injected | Ending::Elsewhere => Outcome::Neutral,
        }
    }

    /// Whether the client left while the upstream owed an answer, so that the time it waited counts.
    #[must_use]
    pub(crate) fn left_waiting(&self, policy: &Failures) -> bool {
        matches!(self.ending, Ending::LeftWaiting { delayed } if !delayed || policy.injected_faults)
    }

    /// The kind of failure that status and gRPC status are.
    fn failing(&self, policy: &Failures) -> Option<FailureKind> {
        match self.grpc_status {
            Some(code) => policy.grpc_fails(code).then_some(FailureKind::Grpc),
            None => policy.http_fails(self.status).then_some(FailureKind::Http),
        }
    }

    /// The outcome of the upstream's own answer.
    fn answered(&self, policy: &Failures, probe: bool) -> Outcome {
        if let Some(kind) = self.failing(policy) {
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

    /// Attempts before the last one. Each failed, or the proxy would not have retried.
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

    fn outcome(answer: Answer, failure: &str) -> Outcome {
        answer.outcome(&policy(failure), false, None)
    }

    #[test]
    fn only_the_upstreams_own_answer_is_judged_by_its_status() {
        assert_eq!(outcome(Answer::of_status(500), "{}"), Outcome::Failure(FailureKind::Http));
        for status in [200, 101, 302, 404, 499] {
            assert_eq!(outcome(Answer::of_status(status), "{}"), Outcome::Success, "{status}: the upstream works");
        }
        assert_eq!(outcome(Answer::default(), "{}"), Outcome::Neutral, "there was no status");
        for status in [200, 401, 429, 500, 503] {
            for grpc_status in [None, Some(14)] {
                let other = Answer { status, grpc_status, ..Answer::ended(Ending::Elsewhere) };
                for probe in [false, true] {
                    assert_eq!(other.outcome(&policy("{}"), probe, Some(u64::MAX)), Outcome::Neutral, "{other:?}");
                }
            }
        }
    }

    #[test]
    fn listed_statuses_fail() {
        let listed = r#"{"httpStatus": [404, "500-503", 511]}"#;
        for (status, fails) in [(404, true), (403, false), (500, true), (503, true), (504, false), (511, true)] {
            let expected = if fails { Outcome::Failure(FailureKind::Http) } else { Outcome::Success };
            assert_eq!(outcome(Answer::of_status(status), listed), expected, "{status}");
        }
    }

    #[test]
    fn a_redirect_that_the_proxy_follows_is_the_upstreams_work() {
        assert_eq!(outcome(Answer::ended(Ending::Followed), "{}"), Outcome::Success);
    }

    #[test]
    fn a_client_that_left_counts_where_it_had_waited_long_enough() {
        const SECOND: u64 = 1_000_000_000;
        let left = Answer::ended(Ending::LeftWaiting { delayed: false });
        let cancel = Outcome::Failure(FailureKind::ClientCancel);
        for (failure, waited, expected) in [
            ("{}", Some(10 * SECOND - 1), Outcome::Neutral),
            ("{}", Some(10 * SECOND), cancel),
            ("{}", None, Outcome::Neutral),
            (r#"{"clientCancel": "2s"}"#, Some(2 * SECOND), cancel),
            (r#"{"clientCancel": "failure"}"#, Some(0), cancel),
            (r#"{"clientCancel": "failure"}"#, None, Outcome::Neutral),
            (r#"{"clientCancel": "neutral"}"#, Some(u64::MAX), Outcome::Neutral),
        ] {
            for probe in [false, true] {
                assert_eq!(left.outcome(&policy(failure), probe, waited), expected, "{failure} {waited:?}");
            }
        }
    }

    #[test]
    fn a_client_that_left_after_the_head_leaves_a_failing_head_behind() {
        let left = |own, status| Answer { status, ..Answer::ended(Ending::LeftAfterHead { own }) };
        assert_eq!(outcome(left(true, 503), "{}"), Outcome::Failure(FailureKind::Http));
        assert_eq!(outcome(left(false, 503), "{}"), Outcome::Neutral, "another filter's head");
        assert_eq!(outcome(left(true, 200), "{}"), Outcome::Neutral, "how it would have ended nobody knows");
        let counted = outcome(left(true, 200), r#"{"clientCancel": "failure"}"#);
        assert_eq!(counted, Outcome::Failure(FailureKind::ClientCancel));
    }

    #[test]
    fn injected_faults_count_where_the_policy_says_so() {
        let fault = |status| Answer { status, ..Answer::ended(Ending::Injected) };
        let counted = r#"{"injectedFaults": "failure"}"#;
        for status in [200, 404, 503] {
            assert_eq!(outcome(fault(status), "{}"), Outcome::Neutral);
        }
        assert_eq!(outcome(fault(503), counted), Outcome::Failure(FailureKind::Http));
        assert_eq!(outcome(fault(404), counted), Outcome::Neutral, "no answer of the upstream's");
        let grpc = Answer { grpc_status: Some(14), ..fault(200) };
        assert_eq!(outcome(grpc, counted), Outcome::Failure(FailureKind::Grpc));
        let delayed = Answer::ended(Ending::LeftWaiting { delayed: true });
        assert_eq!(delayed.outcome(&policy("{}"), false, Some(u64::MAX)), Outcome::Neutral, "whose time that was");
        let waited = delayed.outcome(&policy(counted), false, Some(u64::MAX));
        assert_eq!(waited, Outcome::Failure(FailureKind::ClientCancel));
    }

    #[test]
    fn upstream_errors_count_as_listed() {
        use FailureKind::{Connect, NoHealthyUpstream, Overflow, Reset, Timeout};
        for kind in [Connect, Timeout, Reset, NoHealthyUpstream, Overflow] {
            let failed = Answer { status: 503, ..Answer::ended(Ending::Failed(kind)) };
            let by_default = if kind == Overflow { Outcome::Neutral } else { Outcome::Failure(kind) };
            assert_eq!(outcome(failed, "{}"), by_default);
            let only_overflow = if kind == Overflow { Outcome::Failure(kind) } else { Outcome::Neutral };
            assert_eq!(outcome(failed, r#"{"upstreamErrors": ["overflow"]}"#), only_overflow, "{kind:?}");
        }
    }

    #[test]
    fn too_many_requests_is_soft_in_closed_and_strict_in_a_probe() {
        let grpc = Answer { grpc_status: Some(8), ..Answer::well() };
        for limited in [Answer::of_status(429), grpc] {
            let limited_fails = Outcome::Failure(FailureKind::RateLimited);
            let both = |failure: &str| [false, true].map(|probe| limited.outcome(&policy(failure), probe, None));
            assert_eq!(both("{}"), [Outcome::Neutral, limited_fails]);
            assert_eq!(both(r#"{"rateLimited": "failure"}"#), [limited_fails, limited_fails]);
            assert_eq!(both(r#"{"rateLimited": "ignore"}"#), [Outcome::Success, Outcome::Success]);
        }
    }

    #[test]
    fn grpc_tells_its_own_status() {
        for (code, fails) in
            [(0, false), (2, true), (4, true), (5, false), (13, true), (14, true), (15, true), (99, false)]
        {
            let answer = Answer { grpc_status: Some(code), ..Answer::well() };
            let expected = if fails { Outcome::Failure(FailureKind::Grpc) } else { Outcome::Success };
            assert_eq!(outcome(answer, "{}"), expected, "code {code}");
            assert_eq!(outcome(answer, r#"{"grpcStatus": []}"#), Outcome::Success);
        }
    }

    #[test]
    fn attempts_before_the_last_count_where_the_policy_says_so() {
        let retried = Answer { attempts: 3, ..Answer::well() };
        assert_eq!(retried.failed_attempts(&policy("{}")), 0);
        assert_eq!(retried.failed_attempts(&policy(r#"{"attempts": "all"}"#)), 2);
    }
}
