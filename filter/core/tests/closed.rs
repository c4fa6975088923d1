//! CLOSED: what trips a circuit, and what does not.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, FAILURES, TRIPS};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";

const BAD: Outcome = Outcome::Failure(FailureKind::Http);

const RATE_ONLY: &str =
    r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 50, "minimumCalls": 20}}}"#;

#[test]
fn the_fifth_failure_in_a_row_over_all_workers_trips() {
    for workers in [1, 4] {
        let mut proxy = Proxy::start(workers, "");
        proxy.fail(A, 4);
        assert_eq!(proxy.state(A), 0);
        proxy.fail(A, 1);
        assert_eq!(proxy.state(A), 2);
        assert_eq!(proxy.host.value(&TRIPS, A, "consecutive"), 1, "one worker counts the trip");
        assert_eq!(proxy.reasons(), ["consecutive"]);
        for vm in 0..proxy.vms.len() {
            assert!(!proxy.request(vm, A, Outcome::Success), "worker {vm} rejects the very next request");
        }
    }
}

#[test]
fn a_success_on_any_worker_ends_the_streak() {
    let mut proxy = Proxy::start(4, "");
    for _ in 0..3 {
        proxy.fail(A, 4);
        assert!(proxy.request(3, A, Outcome::Success));
    }
    assert_eq!(proxy.state(A), 0);
    proxy.fail(A, 5);
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn the_rate_trips_at_the_minimum_and_not_before() {
    let mut proxy = Proxy::start(4, RATE_ONLY);
    proxy.succeed(A, 9);
    proxy.fail(A, 10);
    assert_eq!(proxy.state(A), 0, "19 calls are below the minimum");
    proxy.fail(A, 1);
    assert_eq!(proxy.state(A), 2);
    assert_eq!(proxy.reasons(), ["failure_rate"]);
}

#[test]
fn a_success_that_makes_the_minimum_full_trips_a_rate_that_holds() {
    let mut proxy = Proxy::start(2, RATE_ONLY);
    proxy.fail(A, 19);
    assert_eq!(proxy.state(A), 0);
    proxy.succeed(A, 1);
    assert_eq!(proxy.state(A), 2, "19 of 20 have failed");
}

#[test]
fn a_worker_that_meets_an_upstream_late_counts_what_the_others_have_seen() {
    let mut proxy = Proxy::start(4, RATE_ONLY);
    for _ in 0..19 {
        proxy.request(0, A, Outcome::Failure(FailureKind::Http));
    }
    proxy.request(3, A, Outcome::Failure(FailureKind::Http));
    assert_eq!(proxy.state(A), 2);
    assert!(
        proxy
            .host
            .log_lines()
            .last()
            .unwrap()
            .contains(r#""window":{"calls":20,"failures":20,"slow":0,"over_threshold":0}"#)
    );
}

#[test]
fn a_rate_below_the_bound_never_trips() {
    let mut proxy = Proxy::start(2, RATE_ONLY);
    for _ in 0..50 {
        proxy.succeed(A, 11);
        proxy.fail(A, 9);
        proxy.pass(SECOND);
    }
    assert_eq!(proxy.state(A), 0);
}

#[test]
fn failures_leave_the_window_with_time() {
    let mut proxy = Proxy::start(4, RATE_ONLY);
    proxy.fail(A, 19);
    proxy.pass(12 * SECOND);
    proxy.fail(A, 19);
    assert_eq!(proxy.state(A), 0, "the first 19 are older than the window");
    proxy.fail(A, 1);
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn upstreams_are_independent() {
    let mut proxy = Proxy::start(4, "");
    proxy.fail(A, 5);
    proxy.fail(B, 4);
    assert_eq!((proxy.state(A), proxy.state(B)), (2, 0));
    assert!(proxy.request(0, B, Outcome::Success));
    assert!(!proxy.request(0, A, Outcome::Success));
}

#[test]
fn neutral_calls_neither_trip_nor_heal() {
    let mut proxy = Proxy::start(1, "");
    proxy.fail(A, 4);
    for _ in 0..10 {
        assert!(proxy.request(0, A, Outcome::Neutral));
    }
    assert_eq!(proxy.state(A), 0);
    assert_eq!(proxy.host.value(&CALLS, A, "neutral"), 10);
    proxy.fail(A, 1);
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn every_call_is_counted_once_and_by_kind() {
    let mut proxy = Proxy::start(3, "");
    proxy.succeed(A, 7);
    proxy.request(1, A, Outcome::Failure(FailureKind::Connect));
    proxy.request(2, A, Outcome::Failure(FailureKind::Timeout));
    let calls = |component| proxy.host.value(&CALLS, A, component);
    assert_eq!((calls("success"), calls("failure")), (7, 2));
    assert_eq!(proxy.host.value(&FAILURES, A, "connect"), 1);
    assert_eq!(proxy.host.value(&FAILURES, A, "timeout"), 1);
}

#[test]
fn calls_in_flight_at_a_trip_change_nothing_afterwards() {
    let mut proxy =
        Proxy::start(2, r#"{"default": {"halfOpen": {"ramp": {"duration": "0s"}, "successThreshold": 1}}}"#);
    proxy.pass(SECOND);
    let Admission::Pass(old @ Permit::Calm { .. }) = proxy.admit(0, A) else { panic!("admitted without a look") };
    proxy.pass(SECOND);
    proxy.fail(A, 5);
    proxy.pass(40 * SECOND);
    assert!(proxy.request(1, A, Outcome::Success), "the probe");
    assert_eq!(proxy.state(A), 0);
    for _ in 0..5 {
        proxy.settle(0, A, old, Outcome::Failure(FailureKind::Timeout));
    }
    assert_eq!(proxy.state(A), 0, "failures of an older generation are late");
    assert_eq!(proxy.host.value(&CALLS, A, "neutral"), 5);
}

#[test]
fn the_healthy_path_makes_no_shared_data_call() {
    let mut proxy = Proxy::start(4, "");
    proxy.succeed(A, 8);
    proxy.pass(SECOND);
    // Metrics are defined at their first use, once a VM.
    proxy.succeed(A, 4);
    let before = proxy.host.calls();
    proxy.succeed(A, 100);
    let after = proxy.host.calls();
    assert_eq!(after.bytes, before.bytes);
    assert_eq!(after.words - before.words, 400, "epoch; latency, watch, success");
}

/// Calls of words and of bytes in ten seconds without traffic on a hundred upstreams, with `act` at each tick.
fn looks_at_a_hundred(act: impl Fn(&mut Proxy)) -> (u64, u64) {
    let mut proxy = Proxy::start(1, r#"{"default": {"open": {"baseDuration": "1s", "maxDuration": "1s"}}}"#);
    let upstreams: Vec<String> = (0..100).map(|number| format!("outbound|80||{number}.svc")).collect();
    for upstream in &upstreams {
        proxy.succeed(upstream, 1);
    }
    proxy.pass(30 * SECOND);
    let before = proxy.host.calls();
    for _ in 0..20 {
        act(&mut proxy);
        proxy.pass(SECOND / 2);
    }
    let after = proxy.host.calls();
    (after.words - before.words, after.bytes - before.bytes)
}

#[test]
fn a_tick_looks_rarely_at_a_circuit_that_nobody_uses() {
    let (words, bytes) = looks_at_a_hundred(|_| {});
    // Each record has its turn once in ten seconds.
    let rounds = 100;
    // Every two to four buckets: epoch and three counters.
    let looks = 100 * 10 / 2;
    assert!(words <= looks * 4 + 20 * 5 + rounds, "{words}");
    assert!(bytes <= 20 + rounds, "a tick asks for new circuits once: {bytes}");
}

#[test]
fn a_circuit_that_changes_all_the_time_makes_no_tick_look_at_all_others() {
    let (quiet, _) = looks_at_a_hundred(|_| {});
    let (busy, _) = looks_at_a_hundred(|proxy| {
        (0..5).for_each(|_| {
            proxy.request(0, A, BAD);
        });
    });
    let epochs = 100 * 20;
    assert!(busy <= quiet + epochs + 20 * 100, "an epoch tells of each that it was not written: {busy} {quiet}");
}

#[test]
fn the_window_of_a_circuit_that_nobody_has_used_is_whole_from_its_first_call_on() {
    for slot in 0..5 {
        for wait in [0, SECOND / 2, SECOND, 3 * SECOND / 2] {
            let mut proxy = Proxy::start(1, RATE_ONLY);
            (0..slot).for_each(|number| proxy.succeed(&format!("outbound|80||{number}.svc"), 1));
            proxy.succeed(A, 1);
            proxy.pass(60 * SECOND + wait);
            proxy.succeed(A, 10);
            proxy.pass(8 * SECOND);
            proxy.fail(A, 9);
            assert_eq!(proxy.reasons(), [""; 0], "19 calls are below the minimum");
            proxy.fail(A, 1);
            assert_eq!(proxy.reasons(), ["failure_rate"], "slot {slot} after {wait} more");
        }
    }
}

#[test]
fn counters_that_are_reset_start_the_window_afresh() {
    let mut proxy = Proxy::start(2, RATE_ONLY);
    proxy.succeed(A, 40);
    proxy.fail(A, 15);
    proxy.host.reset_counters();
    proxy.fail(A, 19);
    proxy.pass(SECOND);
    assert_eq!(proxy.state(A), 0, "19 calls are all that is known");
    proxy.fail(A, 20);
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn a_worker_that_only_ticks_knows_the_last_calls_of_the_others() {
    let config = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 10, "minimumCalls": 20,
        "window": {"calls": 30}}}}"#;
    let mut proxy = Proxy::start(2, config);
    proxy.request(0, A, Outcome::Success);
    proxy.pass(SECOND);
    for outcome in [vec![Outcome::Success; 100], vec![BAD; 2]].concat() {
        assert!(proxy.request(0, A, outcome));
    }
    proxy.pass(SECOND);
    assert_eq!(proxy.state(A), 0, "two of thirty");
    proxy.request(1, A, BAD);
    assert_eq!(proxy.state(A), 2, "three of thirty, of which the other worker had two");
}

#[test]
fn a_window_of_calls_forgets_by_calls_and_not_by_time() {
    let config = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 50, "minimumCalls": 20,
        "window": {"calls": 40}}}}"#;
    let mut proxy = Proxy::start(4, config);
    proxy.fail(A, 10);
    proxy.pass(3600 * SECOND);
    proxy.succeed(A, 9);
    assert_eq!(proxy.state(A), 0, "19 calls");
    proxy.succeed(A, 1);
    assert_eq!(proxy.state(A), 2, "10 of the last 20 failed, an hour ago or not");

    let mut proxy = Proxy::start(4, config);
    proxy.fail(A, 9);
    proxy.succeed(A, 60);
    proxy.fail(A, 17);
    assert_eq!(proxy.state(A), 0, "17 of the last 40, or of the last 36 where a bucket is just full");
    proxy.fail(A, 6);
    assert_eq!(proxy.state(A), 2, "23 of the last 40");
}

#[test]
fn a_reset_that_only_another_worker_has_seen_makes_no_window_of_failures() {
    let mut proxy = Proxy::start(2, r#"{"default": {"trip": {"consecutiveFailures": 0}}}"#);
    proxy.pass(SECOND);
    (0..1000).for_each(|turn| assert!(proxy.request(turn % 2, A, Outcome::Success)));
    // The window's samples from before these calls are too old.
    proxy.pass(20 * SECOND);
    proxy.host.reset_counters();
    for turn in 0..480 {
        assert!(proxy.request(0, A, Outcome::Success));
        assert!(turn % 25 != 0 || turn == 0 || proxy.request(0, A, BAD));
    }
    // A second worker. Its last sample is of a time with a thousand good calls.
    proxy.request(1, A, BAD);
    assert_eq!(proxy.host.value(&CALLS, A, "failure"), 20, "of 500");
    assert_eq!(proxy.state(A), 0);
}

#[test]
fn a_push_of_configuration_leaves_the_windows_full() {
    let config = |body: &str| {
        format!(r#"{{"default": {{"trip": {{"consecutiveFailures": 0}}, "rejection": {{"body": "{body}"}}}}}}"#)
    };
    let mut proxy = Proxy::start(2, &config("old"));
    proxy.succeed(A, 1);
    proxy.pass(60 * SECOND);
    proxy.fail(A, 19);
    proxy.pass(SECOND);
    let defined = proxy.host.metrics_defined();
    proxy.reconfigure(&config("new"));
    assert!(proxy.request(1, A, BAD));
    assert_eq!(proxy.state(A), 2, "the twentieth of twenty");
    for turn in 0..1000 {
        // Each policy has a series of its own, so a few take turns.
        proxy.reconfigure(&config(&format!("{}", turn % 10)));
        proxy.pass(SECOND / 10);
    }
    let more = proxy.host.metrics_defined() - defined;
    assert!(more < 100, "{more} more definitions after 1,000 updates");
}

#[test]
fn a_worker_that_rarely_uses_a_circuit_trips_on_no_call_that_is_older_than_the_window() {
    let config = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 50, "minimumCalls": 11,
        "window": {"duration": "10s"}}}}"#;
    for (slot, wait) in (0..9).flat_map(|slot| (0..10).map(move |wait| (slot, wait))) {
        let mut proxy = Proxy::start(2, config);
        let upstreams: Vec<_> = (0..=slot).map(|number| format!("outbound|80||{number}.svc")).collect();
        upstreams.iter().for_each(|upstream| assert!(proxy.request(0, upstream, Outcome::Success)));
        let upstream = &upstreams[slot];
        (0..30).for_each(|_| proxy.pass(SECOND));
        (0..wait).for_each(|_| proxy.pass(SECOND / 2));
        (0..9).for_each(|_| assert!(proxy.request(0, upstream, BAD)));
        (0..7).for_each(|_| proxy.pass(SECOND / 2));
        assert!(proxy.request(1, upstream, Outcome::Success));
        (0..15).for_each(|_| proxy.pass(SECOND / 2));
        assert!(proxy.request(1, upstream, BAD));
        assert!(proxy.reasons().is_empty(), "slot {slot} after {wait} more: nine failed eleven seconds ago");
    }
}
