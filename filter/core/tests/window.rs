//! Windows of calls: a circuit trips as a list of its last calls says.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);

fn config(calls: usize, minimum: usize, percent: usize) -> String {
    format!(
        r#"{{"default": {{"trip": {{"consecutiveFailures": 0, "failureRatePercent": {percent}, "minimumCalls": {minimum},
        "window": {{"calls": {calls}}}}}}}}}"#
    )
}

/// Failing calls, spread over all workers, until the circuit is OPEN; at most so many.
fn failures_to_trip(proxy: &mut Proxy, most: usize) -> usize {
    let workers = proxy.vms.len();
    (1..=most)
        .find(|failure| {
            proxy.request(failure % workers, A, BAD);
            proxy.state(A) == 2
        })
        .unwrap_or(usize::MAX)
}

#[test]
fn every_minimum_that_a_window_can_hold_trips_at_that_very_call() {
    for workers in [1, 2, 4, 16] {
        for calls in (10..=60).chain([99, 100, 101, 1000]) {
            for minimum in [1, calls / 2, calls * 8 / 10, calls * 9 / 10 + 1, calls - 1, calls] {
                let mut proxy = Proxy::start(workers, &config(calls, minimum, 50));
                let sent = failures_to_trip(&mut proxy, 4 * calls);
                assert_eq!(sent, minimum, "{workers} workers, a window of {calls}, at least {minimum}");
            }
        }
    }
}

#[test]
fn a_window_forgets_by_calls_after_quiet_traffic_too() {
    for (workers, minimum) in [(1, 50), (1, 80), (1, 100), (4, 50), (4, 100)] {
        let mut proxy = Proxy::start(workers, &config(100, minimum, 10));
        for _ in 0..10 {
            proxy.succeed(A, 11);
            proxy.pass(50 * MILLISECOND);
        }
        // Ticks are rarer than that, so all workers have looked.
        proxy.pass(SECOND);
        assert_eq!(failures_to_trip(&mut proxy, 100), 10, "{workers} workers, at least {minimum}");
    }
}

#[test]
fn good_calls_between_ticks_are_not_taken_for_fewer_than_they_were() {
    for good in 1..=130 {
        let mut proxy = Proxy::start(1, &config(100, 50, 10));
        for _ in 0..40 {
            proxy.succeed(A, good);
            proxy.pass(SECOND);
        }
        let calls = |failed: usize| (good * 40 + failed).min(100);
        let first = (1..=100).find(|failed| calls(*failed) >= 50 && failed * 10 >= calls(*failed)).unwrap();
        assert_eq!(failures_to_trip(&mut proxy, 100), first, "{good} good calls between two ticks");
    }
}

#[test]
fn a_mixed_bucket_that_leaves_is_never_counted_worse_than_it_was() {
    // A bucket of ten. Its good half came first and leaves first.
    let mut proxy = Proxy::start(1, &config(100, 100, 50));
    for _ in 0..10 {
        proxy.succeed(A, 5);
        proxy.fail(A, 4);
        proxy.succeed(A, 1);
    }
    assert_eq!(proxy.state(A), 0, "40 of 100");
    // Each of the next five replaces a good call, and the bucket that leaves might have lost four failures.
    proxy.fail(A, 9);
    assert_eq!(proxy.state(A), 0, "49 of the last 100 at most");
    assert!(failures_to_trip(&mut proxy, 100) <= 10, "one bucket later than an exact list at most");
}

#[test]
fn a_worker_that_sees_few_calls_does_not_trip_on_its_own_few() {
    // It meets the upstream late; or it met it early, and the others then had a thousand calls.
    for met in [false, true] {
        let mut proxy = Proxy::start(2, &config(100, 20, 50));
        assert!(!met || proxy.request(1, A, Outcome::Success));
        for outcome in [vec![Outcome::Success; 60], vec![BAD; 10], vec![Outcome::Success; 930]].concat() {
            assert!(proxy.request(0, A, outcome));
        }
        (0..49).for_each(|_| assert!(proxy.request(1, A, BAD)));
        assert_eq!(proxy.state(A), 0, "49 of the last 100");
        assert!(proxy.request(1, A, BAD));
        assert_eq!(proxy.state(A), 2, "50 of the last 100");
    }
}

#[test]
fn a_clock_that_steps_back_takes_no_call_out_of_a_window_of_calls() {
    let mut proxy = Proxy::start(1, &config(20, 20, 50));
    proxy.fail(A, 19);
    proxy.now -= 3600 * SECOND;
    proxy.vms[0].tick(proxy.now);
    assert_eq!(failures_to_trip(&mut proxy, 40), 1, "the twentieth");
}
