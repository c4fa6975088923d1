//! HALF_OPEN, first stage: a few leased probes.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, OPEN_UNTIL, REJECTED, TRIPS};
use circuit_breaker_core::testing::{Proxy, answer};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);

/// A proxy of four workers whose circuit has just become HALF_OPEN.
fn half_open(half_open: &str) -> Proxy {
    let config = format!(
        r#"{{"default": {{"open": {{"jitterPercent": 0}}, "trip": {{"slowCallDuration": "10s"}}, "halfOpen": {half_open}}}}}"#
    );
    let mut proxy = Proxy::start(4, &config);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!(proxy.state(A), 1);
    proxy
}

fn probe(proxy: &mut Proxy, vm: usize) -> Option<Permit> {
    match proxy.admit(vm, A) {
        Admission::Pass(permit @ Permit::Probe { .. }) => Some(permit),
        Admission::Pass(other) => panic!("not a probe: {other:?}"),
        Admission::Reject { .. } => None,
    }
}

#[test]
fn no_more_probes_are_out_than_the_policy_allows_over_all_workers() {
    for limit in [1_usize, 3, 16] {
        let mut proxy = half_open(&format!(r#"{{"maxConcurrentProbes": {limit}, "successThreshold": 100}}"#));
        let out: Vec<Permit> = (0..64).filter_map(|turn| probe(&mut proxy, turn % 4)).collect();
        assert_eq!(out.len(), limit);
        assert_eq!(proxy.host.value(&REJECTED, A, "probe_limit"), 64 - limit as u64);
        proxy.settle(0, A, out[0], Outcome::Success);
        assert_eq!((0..64).filter_map(|turn| probe(&mut proxy, turn % 4)).count(), 1, "one slot came back");
    }
}

#[test]
fn a_failed_probe_reopens_for_twice_as_long() {
    let mut proxy = half_open("{}");
    assert!(proxy.request(2, A, BAD));
    assert_eq!(proxy.state(A), 2);
    assert_eq!(proxy.host.value(&TRIPS, A, "probe_failed"), 1);
    assert_eq!(proxy.host.value(&OPEN_UNTIL, A, "") - proxy.now / SECOND, 60);
    proxy.pass(59 * SECOND);
    assert!(!proxy.request(1, A, Outcome::Success));
    proxy.pass(SECOND);
    assert!(proxy.request(1, A, BAD));
    assert_eq!(proxy.host.value(&OPEN_UNTIL, A, "") - proxy.now / SECOND, 120);
}

#[test]
fn enough_good_probes_lead_on() {
    let mut proxy = half_open("{}");
    for vm in 0..3 {
        assert_eq!(proxy.reasons().last().map(String::as_str), Some("open_over"));
        assert!(proxy.request(vm, A, Outcome::Success));
    }
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("probes_succeeded"));
    assert_eq!(proxy.state(A), 1, "the ramp is HALF_OPEN too");
}

#[test]
fn without_a_ramp_good_probes_close() {
    let mut proxy = half_open(r#"{"ramp": {"duration": "0s"}}"#);
    for _ in 0..3 {
        assert!(proxy.request(0, A, Outcome::Success));
    }
    assert_eq!(proxy.state(A), 0);
    proxy.fail(A, 4);
    assert_eq!(proxy.state(A), 0, "the streak began afresh");
}

#[test]
fn a_hung_probe_fails_at_its_timeout() {
    let mut proxy = half_open("{}");
    let hung = probe(&mut proxy, 3).unwrap();
    proxy.pass(9 * SECOND);
    assert_eq!(proxy.state(A), 1);
    assert!(probe(&mut proxy, 0).is_none());
    proxy.pass(1500 * MILLISECOND);
    assert_eq!(proxy.state(A), 2);
    assert_eq!(proxy.host.value(&TRIPS, A, "probe_failed"), 1);
    let trips = proxy.reasons().len();
    proxy.settle(3, A, hung, Outcome::Success);
    assert_eq!(proxy.reasons().len(), trips, "its late answer changes nothing");
}

#[test]
fn a_probe_whose_worker_died_gives_its_slot_back_with_its_lease() {
    let mut proxy = half_open("{}");
    probe(&mut proxy, 3).unwrap();
    proxy.vms.remove(3);
    proxy.pass(11 * SECOND);
    assert!(probe(&mut proxy, 0).is_none(), "the lease outlives the timeout by its grace");
    proxy.pass(2 * SECOND);
    assert_eq!(proxy.state(A), 1, "nobody knows that it failed");
    assert!(probe(&mut proxy, 0).is_some());
}

#[test]
fn more_probes_lost_than_a_record_has_room_for_leave_room_for_the_next() {
    let mut proxy = half_open("{}");
    for lost in 0..20 {
        assert!(probe(&mut proxy, 3).is_some(), "after {lost}");
        // New VMs: the VM that had the probe is gone.
        proxy.configure(4, r#"{"default": {"open": {"jitterPercent": 0}, "halfOpen": {"probeTimeout": "10s"}}}"#);
        proxy.pass(13 * SECOND);
    }
    for vm in 0..3 {
        let good = probe(&mut proxy, vm).unwrap();
        proxy.settle(vm, A, good, Outcome::Success);
    }
    assert_eq!(proxy.reasons().last().unwrap(), "probes_succeeded");
}

#[test]
fn a_cancelled_probe_gives_its_slot_back_at_once() {
    let mut proxy = half_open("{}");
    for vm in [0, 1, 2, 3, 0] {
        let cancelled = probe(&mut proxy, vm).unwrap();
        assert!(probe(&mut proxy, 1).is_none());
        proxy.settle(vm, A, cancelled, Outcome::Neutral);
    }
    assert_eq!(proxy.state(A), 1);
    for _ in 0..3 {
        assert!(proxy.request(2, A, Outcome::Success));
    }
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("probes_succeeded"));
}

#[test]
fn a_probe_is_settled_once() {
    let mut proxy = half_open(r#"{"successThreshold": 2}"#);
    let twice = probe(&mut proxy, 0).unwrap();
    proxy.settle(0, A, twice, Outcome::Success);
    proxy.settle(0, A, twice, Outcome::Success);
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("open_over"), "one success, not two");
}

#[test]
fn bad_headers_fail_a_probe_before_its_body_ends() {
    let mut proxy = half_open("{}");
    let out = probe(&mut proxy, 0).unwrap();
    let now = proxy.now;
    proxy.vms[0].answered(out, Some(A), &answer(BAD), Some(MILLISECOND), now);
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn good_headers_settle_a_probe_a_moment_later_though_its_body_goes_on() {
    let mut proxy = half_open(r#"{"successThreshold": 1}"#);
    let stream = probe(&mut proxy, 0).unwrap();
    let now = proxy.now;
    proxy.vms[0].answered(stream, Some(A), &answer(Outcome::Success), Some(MILLISECOND), now);
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("open_over"));
    proxy.pass(1500 * MILLISECOND);
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("probes_succeeded"));
}

#[test]
fn a_reset_right_after_good_headers_still_fails_a_probe() {
    let mut proxy = half_open(r#"{"successThreshold": 1}"#);
    let out = probe(&mut proxy, 0).unwrap();
    let now = proxy.now;
    proxy.vms[0].answered(out, Some(A), &answer(Outcome::Success), Some(MILLISECOND), now);
    proxy.settle(0, A, out, Outcome::Failure(FailureKind::Reset));
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn probes_still_out_after_a_reopening_change_nothing() {
    let mut proxy = half_open(r#"{"maxConcurrentProbes": 2, "successThreshold": 1}"#);
    let (first, second) = (probe(&mut proxy, 0).unwrap(), probe(&mut proxy, 1).unwrap());
    proxy.settle(0, A, first, BAD);
    proxy.settle(1, A, second, Outcome::Success);
    assert_eq!(proxy.state(A), 2);
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("probe_failed"));
}

#[test]
fn a_good_answer_from_before_the_trip_is_no_call_of_the_circuit_that_has_recovered() {
    let mut proxy = half_open(r#"{"successThreshold": 1, "ramp": {"duration": "0s"}}"#);
    let Admission::Pass(old) = Proxy::start(1, "").admit(0, A) else { panic!("calm") };
    assert!(matches!(old, Permit::Calm { .. }));
    proxy.succeed(A, 1);
    proxy.pass(20 * SECOND);
    assert_eq!((proxy.state(A), proxy.vms[0].is_calm()), (0, true));
    let before = proxy.host.value(&CALLS, A, "success");
    // Neither the short way nor the long one takes it for a success of the present.
    assert!(!proxy.vms[0].settle_well(old, A, Some(1)));
    proxy.settle(0, A, old, Outcome::Success);
    assert_eq!((proxy.host.value(&CALLS, A, "success"), proxy.host.value(&CALLS, A, "neutral")), (before, 1));
}

#[test]
fn a_worker_that_read_the_clock_a_moment_earlier_sees_the_same_leases() {
    let mut proxy = half_open(r#"{"maxConcurrentProbes": 2}"#);
    assert!(probe(&mut proxy, 0).is_some());
    proxy.now -= 1;
    assert!(probe(&mut proxy, 1).is_some());
    proxy.now -= MILLISECOND;
    assert!(probe(&mut proxy, 2).is_none() && probe(&mut proxy, 3).is_none());
}

#[test]
fn a_probe_that_fails_after_the_circuit_has_closed_does_not_fall_into_its_window() {
    let mut proxy = half_open(r#"{"maxConcurrentProbes": 2, "successThreshold": 1, "ramp": {"duration": "0s"}}"#);
    let (good, late) = (probe(&mut proxy, 0).unwrap(), probe(&mut proxy, 1).unwrap());
    proxy.settle(0, A, good, Outcome::Success);
    assert_eq!(proxy.state(A), 0);
    let failed = proxy.host.value(&CALLS, A, "failure");
    proxy.settle(1, A, late, BAD);
    assert_eq!((proxy.host.value(&CALLS, A, "failure"), proxy.host.value(&CALLS, A, "neutral")), (failed, 1));
}
