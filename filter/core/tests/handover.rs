//! Slots that go to another circuit while a request of the earlier one is still under way, and slots that wait for a
//! circuit.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::config::Config;
use circuit_breaker_core::policy::classify::{Answer, Ending, FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, INTERNAL_ERRORS, OPEN_UNTIL, UNPROTECTED};
use circuit_breaker_core::testing::{Proxy, Touch};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);

fn config(mode: &str, most: u32) -> String {
    format!(
        r#"{{"default": {{"mode": "{mode}", "open": {{"jitterPercent": 0}}, "fallback": {{"headers": {{"x-fallback": "1"}}}},
              "halfOpen": {{"ramp": {{"duration": "0s"}}}}}},
            "limits": {{"maxCircuits": {most}, "idleCircuit": "40s"}}}}"#
    )
}

fn start(most: u32) -> Proxy {
    Proxy::start(2, &config("enforce", most))
}

/// With enough ticks that no worker takes it for a leap of the clock.
fn wait(proxy: &mut Proxy, seconds: u64) {
    (0..seconds).for_each(|_| proxy.pass(SECOND));
}

fn calls(proxy: &Proxy, upstream: &str) -> [u64; 4] {
    ["success", "failure", "slow", "neutral"].map(|component| proxy.host.value(&CALLS, upstream, component))
}

fn pass(proxy: &mut Proxy, vm: usize, upstream: &str) -> Permit {
    match proxy.vms[vm].admit(700, upstream, proxy.now) {
        Admission::Pass(permit) => permit,
        Admission::Reject { .. } => panic!("it is let go"),
    }
}

fn no_errors(proxy: &Proxy) {
    for component in INTERNAL_ERRORS.components {
        assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", component), 0, "{component}: {:?}", proxy.host.log_lines());
    }
}

/// B has the slot that A had, and is OPEN.
fn hand_over(proxy: &mut Proxy) {
    wait(proxy, 120);
    assert!(proxy.host.circuits().is_empty());
    proxy.fail(B, 5);
    assert_eq!((proxy.state(B), proxy.host.circuits()), (2, vec![B.to_owned()]));
}

#[test]
fn slots_that_were_free_before_a_vm_began_are_used() {
    let mut proxy = start(2);
    proxy.succeed(A, 2);
    proxy.succeed(B, 2);
    wait(&mut proxy, 120);
    assert!(proxy.host.circuits().is_empty());
    proxy.configure(2, &config("enforce", 2));
    proxy.fail("c", 5);
    assert_eq!((proxy.state("c"), proxy.host.value(&UNPROTECTED, "", "")), (2, 0));
    proxy.reconfigure(&config("enforce", 3));
    proxy.reconfigure(&config("enforce", 2));
    proxy.fail("d", 5);
    assert_eq!((proxy.state("d"), proxy.host.value(&UNPROTECTED, "", "")), (2, 0));
    no_errors(&proxy);
}

#[test]
fn an_upload_whose_circuit_has_ended_is_not_asked_of_the_one_that_has_its_slot() {
    for reused in [true, false] {
        let mut proxy = start(1);
        proxy.fail(A, 5);
        wait(&mut proxy, 31);
        proxy.whole = false;
        let Admission::Pass(upload @ Permit::Probe { .. }) = proxy.admit(0, A) else { panic!("a probe on trial") };
        proxy.whole = true;
        wait(&mut proxy, 120);
        if reused {
            hand_over(&mut proxy);
        }
        let now = proxy.now;
        let Admission::Pass(permit) = proxy.vms[0].request_ended(upload, now) else { panic!("B is OPEN, and not A") };
        let before = (calls(&proxy, A), calls(&proxy, B));
        if reused {
            // There is no room.
            wait(&mut proxy, 1);
            proxy.settle(0, A, permit, BAD);
            assert_eq!((calls(&proxy, A), calls(&proxy, B)), before);
        } else {
            proxy.settle(0, A, permit, BAD);
            assert_eq!(calls(&proxy, A)[1], before.0[1] + 1, "A has a circuit again");
            proxy.fail(A, 4);
            assert_eq!(proxy.state(A), 2);
        }
        no_errors(&proxy);
    }
}

#[test]
fn a_call_that_nobody_knows_the_upstream_of_is_none_of_the_next_circuits() {
    for mode in ["enforce", "observe"] {
        for (ending, upstream) in [(Ending::Followed, Some(A)), (Ending::Answered, None)] {
            let mut proxy = Proxy::start(2, &config(mode, 1));
            proxy.fail(A, 5);
            if mode == "enforce" {
                wait(&mut proxy, 31);
                (0..3).for_each(|_| assert!(proxy.request(0, A, Outcome::Success)));
            }
            let permit = pass(&mut proxy, 0, A);
            assert!(matches!(permit, Permit::Call { .. }), "{permit:?}");
            hand_over(&mut proxy);
            let before = calls(&proxy, B);
            let answer = Answer { status: 500, retry_after: Some(600 * SECOND), ..Answer::ended(ending) };
            let now = proxy.now;
            proxy.vms[0].settle(permit, upstream, &answer, Some(1), now);
            assert_eq!(calls(&proxy, B), before, "{mode} {ending:?}");
            wait(&mut proxy, 31);
            assert_eq!(proxy.state(B), 1, "{mode} {ending:?}: what A asks for does not hold B OPEN");
            no_errors(&proxy);
        }
    }
}

#[test]
fn a_request_that_comes_home_when_its_circuit_has_ended_says_nothing_of_the_next_ones_fallback() {
    let mut proxy = start(1);
    proxy.fail(A, 5);
    let (permit, from) = proxy.admit_or_fall_back(0, A).unwrap();
    hand_over(&mut proxy);
    let now = proxy.now;
    proxy.vms[0].landed(from.unwrap(), permit, "a-fallback", now);
    let scout = proxy.admit_or_fall_back(0, B).map(|(permit, _)| permit);
    assert!(matches!(scout, Some(Permit::Calm { .. })), "nobody knows yet where the fallback of B leads: {scout:?}");
}

#[test]
fn a_worker_that_was_stopped_in_a_transition_leaves_no_gauge_behind() {
    let mut proxy = start(1);
    proxy.fail(A, 4);
    let other = Rc::new(RefCell::new(proxy.vms.remove(1)));
    let (now, host, busy) = (proxy.now, proxy.host.clone(), RefCell::new(Some(Rc::clone(&other))));
    // The trip is written and told, but its log line and gauges are not yet. The circuit recovers and ends meanwhile.
    host.before_every_call(move |what, _| {
        if what != "log" {
            return;
        }
        let Some(other) = busy.take() else { return };
        (1..400).for_each(|half| other.borrow_mut().tick(now + half * SECOND / 2));
    });
    assert!(proxy.request(0, A, BAD));
    proxy.host.before_every_call(|_, _| {});
    assert!(proxy.host.circuits().is_empty(), "{:#?}", proxy.host.log_lines());
    proxy.now += 200 * SECOND;
    wait(&mut proxy, 20);
    assert_eq!(proxy.state(A), 0, "{:#?}", proxy.host.log_lines());
}

#[test]
fn a_clock_that_has_just_leapt_makes_no_circuit_look_idle() {
    let document = config("enforce", 1).replace("\"40s\"", "\"1h\"");
    let mut proxy = Proxy::start(1, &document);
    for _ in 0..90 {
        assert!(proxy.request(0, A, Outcome::Success));
        wait(&mut proxy, 1);
    }
    proxy.now += 3600 * SECOND;
    assert!(proxy.request(0, B, BAD));
    assert_eq!(proxy.host.circuits(), [A], "it was used a second ago");
    wait(&mut proxy, 62);
    assert!(proxy.request(0, B, BAD));
    assert_eq!(proxy.host.circuits(), [B]);
}

#[test]
fn a_use_between_a_leap_of_the_clock_and_the_tick_that_sees_it_lasts_no_longer_than_any() {
    let mut proxy = start(1);
    proxy.fail(A, 5);
    wait(&mut proxy, 31);
    proxy.now += 3600 * SECOND;
    assert!((0..2).all(|vm| proxy.request(vm, A, Outcome::Neutral)));
    wait(&mut proxy, 30);
    assert_eq!(proxy.host.circuits(), [A]);
    wait(&mut proxy, 20);
    assert!(proxy.host.circuits().is_empty());
}

#[test]
fn a_probe_that_is_out_keeps_its_circuit() {
    let mut proxy = start(1);
    proxy.fail(A, 5);
    wait(&mut proxy, 31);
    let Admission::Pass(probe @ Permit::Probe { .. }) = proxy.admit(0, A) else { panic!("a probe") };
    wait(&mut proxy, 50);
    proxy.settle(0, A, probe, BAD);
    assert_eq!(proxy.reasons(), ["consecutive", "open_over", "probe_failed"]);
}

#[test]
fn a_probe_that_was_good_early_counts_once_though_its_circuit_ends_before_it() {
    for (begun, time) in [(true, 120), (false, 180)] {
        let mut proxy = start(2);
        proxy.fail(A, 5);
        wait(&mut proxy, 31);
        let Admission::Pass(probe @ Permit::Probe { .. }) = proxy.admit(0, A) else { panic!("a probe") };
        let now = proxy.now;
        if begun {
            proxy.vms[0].answered(probe, Some(A), &Answer::well(), Some(1), now);
        }
        wait(&mut proxy, time);
        assert!(proxy.host.circuits().is_empty());
        let before = calls(&proxy, A);
        assert_eq!(before.iter().sum::<u64>(), 6, "the tick has settled it");
        proxy.settle(0, A, probe, Outcome::Success);
        assert_eq!(calls(&proxy, A), before);
        no_errors(&proxy);
    }
}

#[test]
fn a_vm_whom_the_host_fails_at_first_counts_that_once_and_finishes_what_others_have_begun() {
    let mut proxy = start(1);
    let calls = Rc::new(Cell::new(0));
    let (dead, host, written) = (proxy.host.clone(), proxy.host.clone(), Rc::clone(&calls));
    // The worker dies right after it has added to the list.
    host.before_every_call(move |what, how| {
        written.set(written.get() + u32::from(what == "circuit_breaker:slots" && how == Touch::Write));
        if written.get() > 0 && what.starts_with("circuit_breaker:circuit:") {
            dead.set_broken(true);
        }
    });
    let now = proxy.now;
    let _ = proxy.vms[0].admit(7, A, now);
    proxy.host.before_every_call(|_, _| {});
    proxy.host.set_broken(false);
    assert_eq!((calls.get(), proxy.host.circuits()), (1, Vec::new()));
    let config = Config::parse(config("enforce", 1).as_bytes()).unwrap();
    let mut fresh = Breaker::start(proxy.host.clone(), config, now, 9);
    proxy.host.fail_next_call();
    let errors = proxy.host.value(&INTERNAL_ERRORS, "", "host");
    fresh.tick(now);
    assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", "host"), errors + 1);
    assert_eq!(proxy.host.circuits(), [A]);
}

#[test]
fn a_worker_that_dies_when_it_has_ended_a_circuit_leaves_no_gauge_behind() {
    let mut proxy = Proxy::start(1, &config("enforce", 2));
    proxy.fail(A, 5);
    wait(&mut proxy, 39);
    assert_eq!((proxy.state(A), proxy.host.value(&OPEN_UNTIL, A, "")), (1, 0));
    let dead = proxy.host.clone();
    proxy.host.before_every_call(move |what, _| dead.set_broken(what == "log" || dead.circuits().is_empty()));
    wait(&mut proxy, 2);
    proxy.host.before_every_call(|_, _| {});
    proxy.host.set_broken(false);
    assert!(proxy.host.circuits().is_empty());
    proxy.configure(1, &config("enforce", 2));
    wait(&mut proxy, 20);
    assert_eq!(proxy.state(A), 0);
}

#[test]
fn a_configuration_that_serves_old_connections_finds_room_as_the_newest_does() {
    let document = config("enforce", 1).replace("\"40s\"", "\"1h\"");
    let mut proxy = Proxy::start(1, &document);
    assert!(proxy.request(0, A, Outcome::Success));
    let parsed = Config::parse(document.as_bytes()).unwrap();
    let newest = Breaker::start_after(&proxy.vms[0], proxy.host.clone(), parsed, proxy.now, 9);
    proxy.vms[0].retire();
    proxy.vms.push(newest);
    wait(&mut proxy, 10);
    assert!(proxy.request(0, B, BAD));
    assert_eq!(proxy.host.circuits(), [A]);
    // It looks at the counters when it is asked for room, and only then sees that A was used.
    (0..2).for_each(|_| {
        wait(&mut proxy, 61);
        assert!(proxy.request(0, B, BAD));
    });
    assert_eq!(proxy.host.circuits(), [B]);
}

#[test]
fn a_circuit_in_use_does_not_end_however_late_others_hear_of_it() {
    let document = config("enforce", 1).replace("\"40s\"", "\"1s\"");
    let document = document
        .replace("\"open\": {", "\"trip\": {\"window\": {\"calls\": 20}}, \"open\": {\"baseDuration\": \"500ms\",");
    let mut proxy = Proxy::start(2, &document);
    proxy.fail(A, 5);
    proxy.now += SECOND / 2;
    for _ in 0..200 {
        proxy.now += SECOND / 20;
        assert!(proxy.request(0, A, Outcome::Neutral));
        let now = proxy.now;
        proxy.vms.iter_mut().filter(|vm| vm.is_tick_due(now)).for_each(|vm| vm.tick(now));
        assert_eq!(proxy.reasons(), ["consecutive", "open_over"]);
    }
}
