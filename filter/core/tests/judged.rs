//! Where a call counts, and what its end may still change: calls that go elsewhere, redirects, streams, hangs, and
//! the time that an upstream asks for.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{Answer, Ending, FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, FAILURES, TRIPS};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";
const C: &str = "outbound|80||c.default.svc.cluster.local";
const RESET: Outcome = Outcome::Failure(FailureKind::Reset);

fn counts(proxy: &Proxy, upstream: &str) -> [u64; 4] {
    ["success", "failure", "slow", "neutral"].map(|component| proxy.host.value(&CALLS, upstream, component))
}

fn begin(proxy: &mut Proxy, vm: usize, upstream: &str) -> Permit {
    let Admission::Pass(permit) = proxy.admit(vm, upstream) else { panic!("admitted") };
    permit
}

/// Settles a call of which Envoy says that it ended in `upstream`.
fn end(proxy: &mut Proxy, vm: usize, upstream: &str, permit: Permit, answer: &Answer) {
    let now = proxy.now;
    proxy.vms[vm].settle(permit, Some(upstream), answer, Some(1), now);
}

#[test]
fn a_call_counts_where_it_went_last_whether_all_is_calm_or_not() {
    for calm in [true, false] {
        let mut proxy = Proxy::start(2, "");
        proxy.succeed(A, 2);
        if calm {
            proxy.pass(SECOND);
        } else {
            proxy.fail(C, 5);
        }
        for turn in 0..5 {
            let permit = begin(&mut proxy, turn % 2, A);
            end(&mut proxy, turn % 2, B, permit, &Answer::of_status(500));
        }
        assert_eq!((proxy.state(A), proxy.state(B)), (0, 2), "calm: {calm}");
        assert_eq!((counts(&proxy, A), counts(&proxy, B)), ([2, 0, 0, 0], [0, 5, 0, 0]));
    }
}

#[test]
fn a_good_call_that_went_elsewhere_is_not_its_first_circuits() {
    let mut proxy = Proxy::start(1, "");
    proxy.succeed(A, 1);
    proxy.succeed(B, 1);
    proxy.fail(C, 5);
    let permit = begin(&mut proxy, 0, A);
    assert!(!proxy.vms[0].settle_well(permit, B, Some(1)), "it is to be looked at");
    end(&mut proxy, 0, B, permit, &Answer::well());
    assert_eq!((counts(&proxy, A), counts(&proxy, B)), ([1, 0, 0, 0], [2, 0, 0, 0]));
}

#[test]
fn a_probe_that_went_elsewhere_says_nothing_about_its_circuit() {
    for (answer, of_b) in [(Answer::well(), [1, 0, 0, 0]), (Answer::of_status(500), [0, 1, 0, 0])] {
        let mut proxy = Proxy::start(2, r#"{"default": {"open": {"jitterPercent": 0}}}"#);
        proxy.fail(A, 5);
        proxy.pass(30 * SECOND);
        let probe = begin(&mut proxy, 0, A);
        assert!(matches!(probe, Permit::Probe { .. }));
        let now = proxy.now;
        let permit = proxy.vms[0].answered(probe, Some(B), &answer, Some(1), now);
        assert!(matches!(begin(&mut proxy, 1, A), Permit::Probe { .. }), "its slot is free at once");
        end(&mut proxy, 0, B, permit, &answer);
        assert_eq!((proxy.state(A), counts(&proxy, B)), (1, of_b));
    }
}

#[test]
fn a_redirect_that_envoy_follows_is_the_work_of_whoever_sent_it() {
    let mut proxy = Proxy::start(1, "");
    proxy.succeed(A, 1);
    proxy.pass(SECOND);
    let followed = Answer::ended(Ending::Followed);
    for turn in 0..5 {
        let permit = begin(&mut proxy, 0, A);
        assert_eq!(
            matches!(permit, Permit::Calm { .. }),
            turn == 0,
            "from then on each is looked at when it is let go"
        );
        // Envoy names the redirect's target.
        end(&mut proxy, 0, B, permit, &followed);
        let permit = begin(&mut proxy, 0, B);
        end(&mut proxy, 0, B, permit, &Answer::of_status(500));
    }
    assert_eq!((proxy.state(A), proxy.state(B)), (0, 2));
    assert_eq!((counts(&proxy, A), counts(&proxy, B)), ([5, 0, 0, 0], [0, 5, 0, 0]), "all but the first");
}

#[test]
fn redirects_close_a_circuit() {
    let config = r#"{"default": {"open": {"jitterPercent": 0}, "halfOpen": {"ramp": {"duration": "0s"}}}}"#;
    let mut proxy = Proxy::start(1, config);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    for _ in 0..3 {
        let permit = begin(&mut proxy, 0, A);
        end(&mut proxy, 0, B, permit, &Answer::ended(Ending::Followed));
    }
    assert_eq!(proxy.state(A), 0);
}

#[test]
fn a_rare_hang_trips_though_no_rate_ever_has_its_minimum() {
    let mut proxy = Proxy::start(2, "");
    proxy.succeed(A, 1);
    for turn in 0..120 {
        if proxy.state(A) == 0 {
            proxy.admit(turn % 2, A);
        }
        proxy.pass(SECOND);
    }
    assert_eq!(proxy.reasons()[0], "consecutive");
    assert_eq!(proxy.host.value(&TRIPS, A, "consecutive"), 1);
    assert!(counts(&proxy, A)[2] >= 5);
}

#[test]
fn clients_that_give_up_on_a_hanging_upstream_trip_it() {
    let mut proxy = Proxy::start(2, "");
    proxy.succeed(A, 1);
    proxy.pass(SECOND);
    let waiting: Vec<Permit> = (0..5).map(|turn| begin(&mut proxy, turn % 2, A)).collect();
    proxy.pass(30 * SECOND);
    for (turn, permit) in waiting.into_iter().enumerate() {
        end(&mut proxy, turn % 2, A, permit, &Answer::ended(Ending::LeftWaiting { delayed: false }));
    }
    assert_eq!((proxy.state(A), proxy.host.value(&FAILURES, A, "client_cancel")), (2, 5));
}

#[test]
fn a_service_of_twelve_seconds_recovers_under_the_defaults() {
    let mut proxy = Proxy::start(1, r#"{"default": {"open": {"jitterPercent": 0}}}"#);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    for _ in 0..3 {
        let probe = begin(&mut proxy, 0, A);
        assert!(matches!(probe, Permit::Probe { .. }));
        proxy.pass(12 * SECOND);
        end(&mut proxy, 0, A, probe, &Answer::well());
    }
    assert_eq!(proxy.reasons(), ["consecutive", "open_over", "probes_succeeded"]);
}

/// A stream whose answer begins well now, and that the tick settles early.
fn stream(proxy: &mut Proxy) -> Permit {
    proxy.host.answers_begin(Answer::well());
    let permit = begin(proxy, 0, A);
    let now = proxy.now;
    proxy.vms[0].arrived(permit, now);
    proxy.pass(2 * SECOND);
    permit
}

#[test]
fn streams_that_break_off_late_fail_in_a_row() {
    let mut proxy = Proxy::start(1, "");
    proxy.succeed(A, 1);
    proxy.pass(SECOND);
    for _ in 0..5 {
        let permit = stream(&mut proxy);
        proxy.settle(0, A, permit, RESET);
    }
    assert_eq!(counts(&proxy, A), [6, 5, 0, 0], "what was counted good early stays counted");
    assert_eq!((proxy.state(A), proxy.reasons()[0].as_str()), (2, "consecutive"));
}

#[test]
fn a_stream_ends_a_streak_by_its_good_end_and_not_by_its_beginning() {
    let mut proxy = Proxy::start(1, "");
    proxy.succeed(A, 1);
    proxy.fail(A, 4);
    let permit = stream(&mut proxy);
    assert_eq!(counts(&proxy, A), [2, 4, 0, 0]);
    proxy.settle(0, A, permit, Outcome::Success);
    proxy.fail(A, 4);
    assert_eq!((counts(&proxy, A), proxy.state(A)), ([2, 8, 0, 0], 0), "its end began the streak afresh");
    let permit = stream(&mut proxy);
    proxy.settle(0, A, permit, RESET);
    assert_eq!(proxy.state(A), 2, "its beginning did not");
}

#[test]
fn a_neutral_call_asks_for_no_longer_open_time() {
    let mut proxy = Proxy::start(2, r#"{"default": {"open": {"jitterPercent": 0}}}"#);
    proxy.succeed(A, 2);
    for turn in 0..2 {
        let limited = Answer { retry_after: Some(300 * SECOND), ..Answer::of_status(429) };
        let permit = begin(&mut proxy, turn, A);
        end(&mut proxy, turn, A, permit, &limited);
    }
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!(proxy.state(A), 1);
}

#[test]
fn a_success_of_any_worker_forgets_what_a_failure_asked_for() {
    for forgotten in [true, false] {
        let mut proxy = Proxy::start(2, r#"{"default": {"open": {"jitterPercent": 0}}}"#);
        proxy.succeed(A, 2);
        let failed = Answer { retry_after: Some(300 * SECOND), ..Answer::of_status(503) };
        let permit = begin(&mut proxy, 0, A);
        end(&mut proxy, 0, A, permit, &failed);
        if forgotten {
            assert!(proxy.request(1, A, Outcome::Success));
        }
        for _ in 0..5 {
            proxy.request(0, A, Outcome::Failure(FailureKind::Http));
        }
        proxy.pass(30 * SECOND);
        assert_eq!(proxy.state(A), if forgotten { 1 } else { 2 });
    }
}

#[test]
fn calls_that_observe_lets_through_do_not_lengthen_open() {
    let config =
        r#"{"default": {"mode": "observe", "open": {"jitterPercent": 0}, "halfOpen": {"probeTimeout": "60s"}}}"#;
    let mut proxy = Proxy::start(2, config);
    proxy.fail(A, 5);
    let failed = Answer { retry_after: Some(60 * SECOND), ..Answer::of_status(503) };
    let before = proxy.host.calls().bytes;
    for second in 0..300 {
        if proxy.state(A) != 2 {
            break;
        }
        let vm = second % 2;
        for _ in 0..10 {
            let permit = begin(&mut proxy, vm, A);
            end(&mut proxy, vm, A, permit, &failed);
        }
        proxy.pass(SECOND);
    }
    assert_eq!(proxy.state(A), 1, "OPEN ends");
    let writes = proxy.host.calls().bytes - before;
    assert!(writes < 1000, "{writes} calls on shared data");
}
