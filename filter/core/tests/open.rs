//! OPEN: it rejects at once for its time, longer with every trip, and ends by itself.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Cause};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{Answer, Outcome};
use circuit_breaker_core::telemetry::metrics::{OPEN_UNTIL, REJECTED};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const NO_JITTER: &str = r#"{"default": {"open": {"jitterPercent": 0}}}"#;

#[test]
fn every_request_is_rejected_until_the_time_is_over() {
    let mut proxy = Proxy::start(4, NO_JITTER);
    proxy.fail(A, 5);
    for _ in 0..29 {
        proxy.pass(SECOND);
        for vm in 0..4 {
            assert!(!proxy.request(vm, A, Outcome::Success));
        }
    }
    assert_eq!(proxy.host.value(&REJECTED, A, "open"), 29 * 4);
    proxy.pass(SECOND);
    assert_eq!(proxy.state(A), 1, "HALF_OPEN without any request");
    assert!(proxy.request(0, A, Outcome::Success));
}

#[test]
fn a_request_ends_open_when_its_time_is_over_though_no_tick_came() {
    let mut proxy = Proxy::start(2, NO_JITTER);
    proxy.fail(A, 5);
    proxy.now += 30 * SECOND;
    assert!(proxy.request(1, A, Outcome::Success));
    assert_eq!(proxy.state(A), 1);
}

#[test]
fn the_rejection_tells_what_is_left_of_the_open_time() {
    let mut proxy = Proxy::start(1, NO_JITTER);
    proxy.fail(A, 5);
    proxy.pass(10 * SECOND);
    let Admission::Reject { cause, retry_after, .. } = proxy.admit(0, A) else { panic!("rejected") };
    assert_eq!((cause, retry_after), (Cause::Open, 20 * SECOND));
    assert_eq!(proxy.host.value(&OPEN_UNTIL, A, ""), (proxy.now + 20 * SECOND) / SECOND);
}

#[test]
fn jitter_makes_proxies_probe_at_different_times_and_never_early() {
    let ends: Vec<u64> = (0..8)
        .map(|turn| {
            let mut proxy = Proxy::start(1, "");
            // Another history of requests, so another draw.
            proxy.succeed(A, turn);
            proxy.vms[0] = circuit_breaker_core::breaker::Breaker::start(
                proxy.host.clone(),
                circuit_breaker_core::config::Config::parse(b"").unwrap(),
                proxy.now,
                turn as u64,
            );
            proxy.fail(A, 5);
            proxy.host.value(&OPEN_UNTIL, A, "") - proxy.now / SECOND
        })
        .collect();
    assert!(ends.iter().all(|seconds| (30..=36).contains(seconds)), "{ends:?}");
    assert!(ends.iter().any(|seconds| *seconds != ends[0]), "{ends:?}");
}

#[test]
fn late_results_do_not_move_an_open_circuit() {
    let mut proxy = Proxy::start(2, NO_JITTER);
    proxy.request(1, A, Outcome::Success);
    proxy.pass(SECOND);
    let Admission::Pass(permit) = proxy.admit(1, A) else { panic!("admitted") };
    proxy.pass(SECOND);
    proxy.fail(A, 5);
    proxy.settle(1, A, permit, Outcome::Success);
    assert_eq!(proxy.state(A), 2);
    assert!(!proxy.request(1, A, Outcome::Success));
}

#[test]
fn a_clock_that_steps_back_does_not_keep_it_open_for_ever() {
    let mut proxy = Proxy::start(1, NO_JITTER);
    proxy.fail(A, 5);
    proxy.now -= 3600 * SECOND;
    assert!(proxy.request(0, A, Outcome::Success), "a remaining time that no policy can draw is over");
}

#[test]
fn a_worker_that_read_the_clock_a_moment_earlier_sees_it_open() {
    let config = r#"{"default": {"open": {"baseDuration": "30s", "maxDuration": "30s", "jitterPercent": 0}}}"#;
    let mut proxy = Proxy::start(2, config);
    proxy.fail(A, 5);
    proxy.now -= 1;
    assert!(!proxy.request(1, A, Outcome::Success));
    assert_eq!(proxy.state(A), 2);
}

/// Lets a proxy trip on failures that carry a `retry-after` of so many seconds. Returns the seconds that it then
/// stays OPEN.
fn open_after(open: &str, retry_after: u64) -> u64 {
    let config = format!(r#"{{"default": {{"open": {{"jitterPercent": 0, {open}}}}}}}"#);
    let mut proxy = Proxy::start(2, &config);
    for turn in 0..5 {
        let Admission::Pass(permit) = proxy.admit(turn % 2, A) else { panic!("admitted") };
        let answer = Answer { status: 503, retry_after: Some(retry_after.saturating_mul(SECOND)), ..Answer::default() };
        let now = proxy.now;
        proxy.vms[turn % 2].settle(permit, Some(A), &answer, None, now);
    }
    assert_eq!(proxy.state(A), 2);
    proxy.host.value(&OPEN_UNTIL, A, "") - proxy.now / SECOND
}

#[test]
fn an_upstream_can_ask_for_a_longer_open_time_and_not_for_a_shorter_one_nor_too_much() {
    assert_eq!(open_after(r#""baseDuration": "30s""#, 100), 100);
    assert_eq!(open_after(r#""baseDuration": "30s""#, 10), 30);
    assert_eq!(open_after(r#""baseDuration": "30s", "maxRetryAfter": "2m""#, 100_000), 120);
    assert_eq!(open_after(r#""baseDuration": "30s""#, u64::MAX), 300, "for ever is as long as the policy allows");
    assert_eq!(open_after(r#""baseDuration": "30s", "maxRetryAfter": "0s""#, 100), 30);
}

#[test]
fn an_upstream_that_says_so_after_the_trip_lengthens_it_from_any_worker() {
    let mut proxy = Proxy::start(2, NO_JITTER);
    proxy.pass(SECOND);
    let Admission::Pass(late) = proxy.admit(1, A) else { panic!("admitted") };
    proxy.fail(A, 5);
    let answer = Answer { status: 503, retry_after: Some(90 * SECOND), ..Answer::default() };
    let now = proxy.now;
    proxy.vms[1].settle(late, Some(A), &answer, None, now);
    proxy.pass(89 * SECOND);
    assert!(!proxy.request(0, A, Outcome::Success));
    proxy.pass(SECOND);
    assert_eq!(proxy.state(A), 1);
    assert_eq!(proxy.reasons(), ["consecutive", "open_over"], "a longer OPEN is no transition");
}
