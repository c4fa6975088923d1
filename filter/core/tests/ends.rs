//! Circuits that end: when they do, and what becomes of their slots and of the calls that they had admitted.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Cause, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, CIRCUITS, INTERNAL_ERRORS, OPEN_UNTIL, REJECTED, UNPROTECTED};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);
const HOUR: u64 = 3600 * SECOND;

fn config(most: u32) -> String {
    format!(
        r#"{{"default": {{"open": {{"jitterPercent": 0}}, "halfOpen": {{"ramp": {{"duration": "0s"}}}}}},
            "limits": {{"maxCircuits": {most}}}}}"#
    )
}

fn circuits(proxy: &Proxy) -> u64 {
    proxy.host.value(&CIRCUITS, "", "")
}

/// Lets time pass, with enough ticks that no worker takes it for a leap of the clock.
fn wait(proxy: &mut Proxy, time: u64) {
    for _ in 0..time / SECOND {
        proxy.pass(SECOND);
    }
}

fn no_errors(proxy: &Proxy) {
    for component in INTERNAL_ERRORS.components {
        assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", component), 0, "{component}: {:?}", proxy.host.log_lines());
    }
}

#[test]
fn an_upstream_that_was_deleted_while_open_is_forgotten() {
    let mut proxy = Proxy::start(3, &config(8));
    proxy.fail(A, 5);
    proxy.succeed(B, 3);
    assert_eq!(proxy.state(A), 2);
    for _ in 0..61 {
        proxy.succeed(B, 3);
        wait(&mut proxy, 60 * SECOND);
    }
    assert_eq!((proxy.state(A), proxy.host.value(&OPEN_UNTIL, A, ""), circuits(&proxy)), (0, 0, 1));
    assert_eq!(proxy.reasons(), ["consecutive", "open_over", "idle"]);
    assert!(proxy.vms.iter().all(circuit_breaker_core::breaker::Breaker::is_calm), "the proxy is calm again");
    assert!((0..3).all(|vm| proxy.request(vm, A, Outcome::Success)), "it may come back");
    proxy.fail(A, 5);
    assert_eq!(proxy.state(A), 2, "and is protected");
    no_errors(&proxy);
}

#[test]
fn a_circuit_that_somebody_uses_does_not_end() {
    let mut proxy = Proxy::start(2, &config(8));
    proxy.fail(A, 5);
    wait(&mut proxy, 40 * SECOND);
    proxy.succeed(B, 1);
    // Only the second worker sees these requests, and no call is ever counted.
    for _ in 0..7 {
        wait(&mut proxy, 1800 * SECOND);
        let Admission::Pass(probe) = proxy.admit(1, A) else { panic!("the slot of the last probe is free again") };
        proxy.settle(1, A, probe, Outcome::Neutral);
        assert!(proxy.request(0, B, Outcome::Success));
    }
    assert_eq!((proxy.state(A), circuits(&proxy)), (1, 2));
    assert_eq!(proxy.reasons(), ["consecutive", "open_over"]);
}

#[test]
fn what_a_person_has_forced_open_and_what_is_open_do_not_end() {
    let long = r#"{"default": {"open": {"baseDuration": "3h", "maxDuration": "3h", "jitterPercent": 0}},
        "upstreams": [{"match": {"cluster": "outbound|80||b.default.svc.cluster.local"}, "mode": "forceOpen"}]}"#;
    let mut proxy = Proxy::start(2, long);
    proxy.fail(A, 5);
    assert!(!proxy.request(0, B, Outcome::Success));
    wait(&mut proxy, 2 * HOUR);
    assert_eq!((proxy.state(A), proxy.state(B)), (2, 2));
    assert!(!proxy.request(0, A, Outcome::Success) && !proxy.request(1, B, Outcome::Success));
}

#[test]
fn weeks_of_names_that_come_and_go_take_no_more_room_than_there_is() {
    let mut proxy = Proxy::start(2, &config(4));
    let keys = |proxy: &Proxy| proxy.host.shared_data("circuit_breaker:").len();
    let mut most = 0;
    for revision in 0..60 {
        let names: Vec<String> = (0..4).map(|service| format!("outbound|80|v{revision}|s{service}")).collect();
        for name in &names {
            proxy.fail(name, 5);
            assert_eq!(proxy.state(name), 2, "{name} is protected");
            assert!(!proxy.request(0, name, Outcome::Success) && !proxy.request(1, name, Outcome::Success));
        }
        wait(&mut proxy, 3660 * SECOND);
        assert!(names.iter().all(|name| proxy.state(name) == 0), "{revision}");
        assert_eq!(circuits(&proxy), 0);
        most = if revision < 2 { keys(&proxy) } else { most };
    }
    assert_eq!(keys(&proxy), most, "no key more than at first");
    assert_eq!(proxy.host.value(&UNPROTECTED, "", ""), 0);
    no_errors(&proxy);
}

#[test]
fn an_upstream_that_comes_back_every_few_hours_defines_no_metric_again() {
    let mut proxy = Proxy::start(2, &config(8));
    let come_and_go = |proxy: &mut Proxy| {
        proxy.fail(A, 5);
        assert_eq!(proxy.state(A), 2);
        wait(proxy, 2 * HOUR);
        assert_eq!((proxy.state(A), circuits(proxy)), (0, 0));
    };
    (0..2).for_each(|_| come_and_go(&mut proxy));
    let defined = proxy.host.metrics_defined();
    (0..5).for_each(|_| come_and_go(&mut proxy));
    assert_eq!(proxy.host.metrics_defined(), defined);
    assert_eq!(proxy.host.value(&CALLS, A, "failure"), 35, "counters go on");
}

#[test]
fn where_all_slots_are_taken_the_closed_circuit_that_was_idle_for_longest_makes_room() {
    let mut proxy = Proxy::start(2, &config(3));
    proxy.succeed("a", 2);
    wait(&mut proxy, 100 * SECOND);
    proxy.succeed("b", 2);
    proxy.fail("c", 5);
    wait(&mut proxy, 61 * SECOND);
    // The counters tell that it was used a moment ago, and no tick has seen that.
    proxy.request(1, "b", Outcome::Success);
    proxy.fail("d", 5);
    assert_eq!((proxy.state("c"), proxy.state("d"), circuits(&proxy)), (1, 2, 3));
    // No circuit makes room: b was used a moment ago, and c and d are not CLOSED.
    assert!((0..10).all(|turn| proxy.request(turn % 2, "e", BAD)));
    assert_eq!((proxy.state("e"), proxy.host.value(&UNPROTECTED, "", "")), (0, 10));
    wait(&mut proxy, 61 * SECOND);
    proxy.fail("e", 5);
    assert_eq!(proxy.state("e"), 2, "b has made room");
    assert!(proxy.request(0, "b", BAD) && proxy.request(1, "a", BAD));
    no_errors(&proxy);
}

#[test]
fn what_a_person_has_forced_open_is_rejected_without_a_circuit_too() {
    let forced = r#"{"default": {"mode": "forceOpen", "rejection": {"status": 599}}, "limits": {"maxCircuits": 1}}"#;
    let mut proxy = Proxy::start(2, forced);
    for name in [A, B, A, B] {
        for vm in [0, 1] {
            let Admission::Reject { circuit, cause, retry_after } = proxy.admit(vm, name) else { panic!("{name}") };
            assert_eq!((cause, retry_after), (Cause::Forced, 30 * SECOND));
            assert_eq!(proxy.vms[vm].rejection(circuit).map(|rejection| rejection.status), Some(599));
        }
    }
    assert_eq!((proxy.host.value(&REJECTED, A, "forced"), proxy.host.value(&UNPROTECTED, "", "")), (4, 4));
}

/// A call that A's circuit has admitted. It ends after that circuit has ended and B has its slot.
fn astride(open: bool, outcome: Outcome) -> Proxy {
    let mut proxy = Proxy::start(2, &config(1));
    if open {
        proxy.fail(A, 5);
        wait(&mut proxy, 40 * SECOND);
    } else {
        proxy.succeed(A, 2);
    }
    let Admission::Pass(permit) = proxy.vms[0].admit(7, A, proxy.now) else { panic!("it is let go") };
    assert_eq!(matches!(permit, Permit::Probe { .. }), open);
    wait(&mut proxy, HOUR + 60 * SECOND);
    assert!(proxy.request(1, B, Outcome::Success));
    let before: u64 = CALLS.components.iter().map(|component| proxy.host.value(&CALLS, A, component)).sum();
    proxy.settle(0, A, permit, outcome);
    let after: u64 = CALLS.components.iter().map(|component| proxy.host.value(&CALLS, A, component)).sum();
    assert!(after <= before + 1);
    let of_b: u64 = CALLS.components.iter().map(|component| proxy.host.value(&CALLS, B, component)).sum();
    assert_eq!((of_b, proxy.state(B)), (1, 0), "it is none of B's");
    proxy
}

#[test]
fn a_call_whose_circuit_has_ended_is_none_of_the_next_ones() {
    for outcome in [Outcome::Success, BAD, Outcome::Slow, Outcome::Neutral] {
        for open in [false, true] {
            let mut proxy = astride(open, outcome);
            proxy.fail(B, 5);
            assert_eq!(proxy.state(B), 2);
            no_errors(&proxy);
        }
    }
}

#[test]
fn a_call_whose_circuit_has_ended_counts_in_the_upstreams_next_one() {
    let mut proxy = Proxy::start(2, &config(8));
    proxy.succeed(A, 2);
    let held: Vec<Permit> = (100..105)
        .map(|stream| match proxy.vms[1].admit(stream, A, proxy.now) {
            Admission::Pass(permit) => permit,
            Admission::Reject { .. } => panic!("it is CLOSED"),
        })
        .collect();
    wait(&mut proxy, 2 * HOUR);
    assert_eq!(circuits(&proxy), 0);
    held.into_iter().for_each(|permit| proxy.settle(1, A, permit, BAD));
    assert_eq!((proxy.state(A), circuits(&proxy)), (2, 1));
}

#[test]
fn a_clock_that_leaps_or_a_worker_that_was_stopped_ends_no_circuit() {
    let mut proxy = Proxy::start(2, &config(8));
    proxy.fail(A, 5);
    wait(&mut proxy, 31 * SECOND);
    proxy.now += 5 * HOUR;
    wait(&mut proxy, 5 * SECOND);
    assert_eq!((proxy.state(A), circuits(&proxy)), (1, 1));
    proxy.now += 5 * HOUR;
    proxy.reconfigure(&config(9));
    wait(&mut proxy, 5 * SECOND);
    assert_eq!((proxy.state(A), circuits(&proxy)), (1, 1), "nor where an update comes first");
    proxy.now -= 24 * HOUR;
    wait(&mut proxy, 50 * 60 * SECOND);
    assert_eq!((proxy.state(A), circuits(&proxy)), (1, 1));
    wait(&mut proxy, 20 * 60 * SECOND);
    assert_eq!((proxy.state(A), circuits(&proxy)), (0, 0), "by the new clock");
}

#[test]
fn a_slot_that_another_worker_has_just_freed_is_used() {
    let mut proxy = Proxy::start(2, &config(1));
    proxy.succeed(A, 2);
    wait(&mut proxy, HOUR - SECOND);
    while !proxy.host.circuits().is_empty() {
        proxy.now += SECOND / 2;
        proxy.vms[0].tick(proxy.now);
    }
    (0..5).for_each(|_| assert!(proxy.request(1, B, BAD)));
    assert_eq!((proxy.state(B), proxy.host.value(&UNPROTECTED, "", "")), (2, 0));
}

#[test]
fn configurations_and_vms_that_come_later_know_what_has_ended() {
    let mut proxy = Proxy::start(2, &config(2));
    proxy.fail(A, 5);
    proxy.succeed(B, 2);
    wait(&mut proxy, 2 * HOUR);
    proxy.succeed("c", 2);
    proxy.reconfigure(&config(3));
    proxy.succeed("d", 2);
    proxy.configure(3, &config(3));
    assert_eq!(circuits(&proxy), 2);
    for name in ["c", "d", A] {
        proxy.fail(name, 5);
        assert!((0..3).all(|vm| !proxy.request(vm, name, Outcome::Success)), "{name}");
    }
    assert_eq!(circuits(&proxy), 3);
    no_errors(&proxy);
}

#[test]
fn fewer_circuits_allowed_than_there_are_stay() {
    let mut proxy = Proxy::start(2, &config(4));
    ["a", "b", "c", "d"].iter().for_each(|name| proxy.succeed(name, 2));
    proxy.reconfigure(&config(2));
    wait(&mut proxy, 10 * SECOND);
    assert_eq!(circuits(&proxy), 4);
    proxy.fail("d", 5);
    assert_eq!(proxy.state("d"), 2);
    proxy.fail("e", 5);
    assert_eq!((proxy.state("e"), circuits(&proxy)), (0, 4));
}

#[test]
fn a_worker_that_slept_while_a_slot_changed_hands_takes_no_record_for_its_own() {
    let mut proxy = Proxy::start(2, &config(1));
    proxy.succeed(A, 2);
    let sleeps = proxy.vms.remove(0);
    wait(&mut proxy, HOUR + 60 * SECOND);
    (0..5).for_each(|_| assert!(proxy.request(0, B, BAD)));
    proxy.vms.insert(0, sleeps);
    assert_eq!(proxy.state(B), 2);
    assert!((0..20).all(|_| proxy.request(0, A, BAD)), "B is OPEN, and not A");
    assert!(!proxy.request(0, B, Outcome::Success) && !proxy.request(1, B, Outcome::Success));
    assert_eq!((proxy.state(A), proxy.reasons().len()), (0, 1));
    no_errors(&proxy);
}
