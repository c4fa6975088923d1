//! A clock that steps back: no wait goes by a time that was read from the old clock.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::CALLS;
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const HOUR: u64 = 3600 * SECOND;

const CONFIG: &str = r#"{"default": {"trip": {"slowCallDuration": "2s", "slowCallRatePercent": 50}, "open": {"jitterPercent": 0},
    "halfOpen": {"successThreshold": 1, "ramp": {"duration": "0s"}}}}"#;

/// The clock steps back by an hour; the workers' next tick sees it.
fn step_back(proxy: &mut Proxy) {
    proxy.now -= HOUR;
    proxy.pass(SECOND);
}

#[test]
fn a_circuit_that_has_recovered_before_trips_after_it() {
    for workers in [1, 4] {
        let mut proxy = Proxy::start(workers, CONFIG);
        proxy.fail(A, 5);
        proxy.pass(31 * SECOND);
        proxy.succeed(A, 1);
        proxy.pass(20 * SECOND);
        assert_eq!(proxy.state(A), 0);
        step_back(&mut proxy);
        proxy.fail(A, 5);
        assert_eq!(proxy.reasons().last().unwrap(), "consecutive");
    }
}

#[test]
fn calls_that_hang_since_before_do_not_hide_those_that_hang_after() {
    let mut proxy = Proxy::start(1, CONFIG);
    proxy.succeed(A, 1);
    proxy.admit(0, A);
    step_back(&mut proxy);
    for _ in 0..30 {
        proxy.admit(0, A);
    }
    proxy.pass(3 * SECOND);
    assert_eq!((proxy.reasons(), proxy.state(A)), (vec!["consecutive".to_owned()], 2));
}

#[test]
fn a_probe_that_hangs_since_before_times_out() {
    let mut proxy = Proxy::start(1, CONFIG);
    proxy.fail(A, 5);
    proxy.pass(31 * SECOND);
    assert!(matches!(proxy.admit(0, A), Admission::Pass(Permit::Probe { .. })));
    step_back(&mut proxy);
    proxy.pass(11 * SECOND);
    assert_eq!(proxy.reasons().last().unwrap(), "probe_failed");
}

/// Only the start of such a call tells in which generation it was admitted, and by the new clock that start is in the
/// future.
#[test]
fn a_call_that_began_before_it_says_nothing_about_an_upstream_that_has_recovered_since() {
    // No call is slow, so that none is settled before it ends.
    let config = CONFIG.replace(r#""slowCallDuration": "2s""#, r#""slowCallDuration": "0s""#);
    for outcome in [Outcome::Success, Outcome::Failure(FailureKind::Http)] {
        let mut proxy = Proxy::start(1, &config);
        proxy.succeed(A, 1);
        proxy.pass(SECOND);
        let calls: Vec<Admission> = (0..5).map(|_| proxy.admit(0, A)).collect();
        step_back(&mut proxy);
        proxy.fail(A, 5);
        proxy.pass(31 * SECOND);
        proxy.succeed(A, 1);
        assert_eq!(proxy.state(A), 0);
        for call in calls {
            let Admission::Pass(permit @ Permit::Calm { .. }) = call else { panic!("{call:?}") };
            proxy.settle(0, A, permit, outcome);
        }
        assert_eq!(proxy.state(A), 0, "{outcome:?}");
        assert_eq!(proxy.host.value(&CALLS, A, "neutral"), 5, "{outcome:?}");
    }
}

#[test]
fn a_ramp_that_began_before_goes_on_at_one_call_a_second() {
    let ramp = r#"{"default": {"halfOpen": {"successThreshold": 1, "ramp": {"initialPercent": 0, "duration": "2s"}}}}"#;
    let mut proxy = Proxy::start(1, ramp);
    proxy.fail(A, 5);
    proxy.pass(40 * SECOND);
    proxy.succeed(A, 1);
    step_back(&mut proxy);
    // Each step is overdue by then, so each call shows that its step may end.
    for _ in 0..10 {
        assert!(proxy.request(0, A, Outcome::Success));
        proxy.pass(SECOND);
    }
    assert_eq!(proxy.state(A), 0);
}

#[test]
fn it_empties_no_window_of_calls_for_a_worker_that_has_not_looked_since_a_transition() {
    let config = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 51, "minimumCalls": 1,
        "window": {"calls": 10}}, "halfOpen": {"successThreshold": 1, "ramp": {"duration": "0s"}}}}"#;
    let mut proxy = Proxy::start(3, config);
    proxy.fail(A, 1);
    proxy.pass(40 * SECOND);
    for _ in 0..4 {
        assert!(proxy.request(0, A, Outcome::Success));
    }
    step_back(&mut proxy);
    for _ in 0..3 {
        assert!(proxy.request(2, A, Outcome::Failure(FailureKind::Http)), "three good calls were before");
    }
    assert_eq!(proxy.state(A), 0);
}
