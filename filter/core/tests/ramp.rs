//! HALF_OPEN, second stage: a growing share, by evidence.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::ops::Range;

use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{RECOVERY, REJECTED, TRIPS};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const CONFIG: &str =
    r#"{"default": {"open": {"jitterPercent": 0}, "halfOpen": {"ramp": {"initialPercent": 10, "duration": "30s"}}}}"#;

/// A proxy of four workers whose ramp has just begun.
fn ramping() -> Proxy {
    let mut proxy = Proxy::start(4, CONFIG);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    for _ in 0..3 {
        assert!(proxy.request(0, A, Outcome::Success));
    }
    proxy
}

/// Requests at a steady rate for a second, over all workers. Returns how many were admitted.
fn second(proxy: &mut Proxy, rate: usize, outcome: Outcome) -> usize {
    let mut admitted = 0;
    for turn in 0..rate {
        admitted += usize::from(proxy.request(turn % 4, A, outcome));
        proxy.pass(SECOND / rate as u64);
    }
    admitted
}

#[test]
fn the_admitted_share_follows_the_schedule_to_closed() {
    let mut proxy = ramping();
    for elapsed in 0..29 {
        let admitted = second(&mut proxy, 200, Outcome::Success);
        let scheduled = 200.0 * (0.1 + 0.9 * (elapsed as f64 + 0.5) / 30.0);
        let off = (admitted as f64 - scheduled).abs();
        assert!(off < 12.0, "second {elapsed}: {admitted} admitted, {scheduled:.0} scheduled");
    }
    second(&mut proxy, 200, Outcome::Success);
    second(&mut proxy, 200, Outcome::Success);
    assert_eq!(proxy.state(A), 0);
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("ramp_done"));
    let outages = proxy.host.recorded(&RECOVERY, A);
    assert_eq!(outages.len(), 1);
    assert!((60_000..63_000).contains(&outages[0]), "first OPEN to CLOSED took {} ms", outages[0]);
    assert!(proxy.host.value(&REJECTED, A, "ramp") > 1000);
}

#[test]
fn at_twenty_thousand_calls_a_second_it_does_not_overshoot() {
    let config = r#"{"default": {"open": {"jitterPercent": 0}, "halfOpen": {"ramp": {"initialPercent": 10, "duration": "3s"}}}}"#;
    let mut proxy = Proxy::start(4, config);
    proxy.fail(A, 5);
    proxy.pass(31 * SECOND);
    proxy.succeed(A, 3);
    let share = |milliseconds: u64| 0.1 + 0.9 * milliseconds as f64 / 3000.0;
    for step in 0..29 {
        let (mut admitted, mut rejected_in_a_row, mut longest) = (0_u64, 0, 0);
        for _ in 0..100 {
            for turn in 0..20 {
                if proxy.request(turn % 4, A, Outcome::Success) {
                    admitted += 1;
                    rejected_in_a_row = 0;
                } else {
                    rejected_in_a_row += 1;
                    longest = longest.max(rejected_in_a_row);
                }
            }
            proxy.pass(SECOND / 1000);
        }
        // A step begins at a tick or a call, so the share may lag a little. It never runs ahead of the schedule.
        let most = 2000.0 * share((step + 1) * 100) + 8.0;
        assert!((admitted as f64) < most, "tenth {step}: {admitted} admitted, at most {most:.0} scheduled");
        let gap = (4.0 / share(step * 100)).ceil() as u64 + 4;
        assert!(longest <= gap, "tenth {step}: {longest} rejected in a row");
    }
    proxy.pass(SECOND);
    proxy.succeed(A, 20);
    proxy.pass(SECOND);
    assert_eq!(proxy.state(A), 0, "{:?}", proxy.reasons());
}

/// Ticks at odd times, as on a busy machine, each with some good calls. Returns how many of a hundred requests are
/// admitted at the end. `from` and `to` are milliseconds after the ramp's beginning. There are no calls in `quiet`.
fn at_odd_times(proxy: &mut Proxy, from: u64, to: u64, quiet: Range<u64>) -> usize {
    let (mut at, mut turn) = (from, from);
    let begin = proxy.now - from * MILLISECOND;
    while at < to {
        turn = (turn * 37 + 11) % 100;
        at = (at + 550 + 4 * turn).min(to);
        proxy.now = begin + at * MILLISECOND;
        for vm in 0..4 {
            proxy.vms[vm].tick(proxy.now);
        }
        if !quiet.contains(&at) {
            at_once(proxy, 40);
        }
    }
    at_once(proxy, 100)
}

fn at_once(proxy: &mut Proxy, requests: usize) -> usize {
    (0..requests).filter(|turn| proxy.request(turn % 4, A, Outcome::Success)).count()
}

#[test]
fn late_ticks_do_not_add_up() {
    for end in [15_000, 29_400] {
        let mut proxy = ramping();
        let admitted = at_odd_times(&mut proxy, 0, end, 0..0) as f64;
        let scheduled = 10.0 + 90.0 * end as f64 / 30_000.0;
        assert!((admitted - scheduled).abs() <= 4.0, "{admitted} of 100 after {end} ms, {scheduled} scheduled");
    }
    let mut proxy = ramping();
    at_odd_times(&mut proxy, 0, 29_950, 0..0);
    assert_eq!(proxy.state(A), 1, "a moment before its time");
    at_odd_times(&mut proxy, 29_950, 30_000, 0..0);
    assert_eq!(proxy.state(A), 0, "at its time");
}

#[test]
fn a_step_that_waits_for_calls_shifts_the_schedule_by_its_wait_only() {
    let mut proxy = ramping();
    // The step from 6 s to 9 s has no call before 10 s.
    at_odd_times(&mut proxy, 0, 5900, 0..0);
    at_odd_times(&mut proxy, 5900, 9999, 5900..10_000);
    at_odd_times(&mut proxy, 9999, 30_900, 0..0);
    assert_eq!(proxy.state(A), 1);
    at_odd_times(&mut proxy, 30_900, 31_000, 0..0);
    assert_eq!(proxy.state(A), 0, "a second late");
}

#[test]
fn time_that_nobody_was_awake_in_is_no_schedule_to_catch_up_with() {
    let mut proxy = ramping();
    at_odd_times(&mut proxy, 0, 5900, 0..0);
    proxy.now += 20 * SECOND;
    for vm in 0..4 {
        proxy.vms[vm].tick(proxy.now);
    }
    // The step that was under way is over. One more has had its time, but no good call.
    let admitted = at_once(&mut proxy, 100);
    assert!((30..=40).contains(&admitted), "{admitted} of 100");
    assert_eq!(proxy.state(A), 1);
}

#[test]
fn failures_in_the_ramp_reopen_after_as_many_calls_as_end_the_probes() {
    let mut proxy = ramping();
    second(&mut proxy, 200, Outcome::Success);
    let mut sent = 0;
    while proxy.state(A) == 1 {
        sent += usize::from(proxy.request(sent % 4, A, Outcome::Failure(FailureKind::Http)));
    }
    assert_eq!(sent, 3);
    assert_eq!(proxy.host.value(&TRIPS, A, "ramp_failed"), 1);
}

#[test]
fn without_calls_the_ramp_waits() {
    let mut proxy = ramping();
    proxy.pass(600 * SECOND);
    assert_eq!(proxy.state(A), 1, "nobody knows whether the upstream is healthy");
}

#[test]
fn an_upstream_with_few_calls_gets_through() {
    let mut proxy = ramping();
    let mut minutes = 0;
    while proxy.state(A) != 0 {
        minutes += 1;
        assert!(minutes < 30, "two calls a minute are not enough");
        proxy.request(0, A, Outcome::Success);
        proxy.pass(30 * SECOND);
        proxy.request(1, A, Outcome::Success);
        proxy.pass(30 * SECOND);
    }
}

#[test]
fn trips_in_a_row_are_forgotten_only_by_full_healthy_windows() {
    let mut proxy = ramping();
    while proxy.state(A) == 1 {
        second(&mut proxy, 200, Outcome::Success);
    }
    proxy.pass(600 * SECOND);
    proxy.fail(A, 5);
    assert!(proxy.host.log_lines().last().unwrap().contains("\"open_ms\":60000"), "time alone forgets nothing");

    let mut proxy = ramping();
    while proxy.state(A) == 1 {
        second(&mut proxy, 200, Outcome::Success);
    }
    for _ in 0..12 {
        second(&mut proxy, 50, Outcome::Success);
    }
    proxy.pass(500 * MILLISECOND);
    proxy.fail(A, 5);
    assert!(proxy.host.log_lines().last().unwrap().contains("\"open_ms\":30000"), "a healthy window was seen");
}
