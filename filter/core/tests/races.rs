//! Two workers at the same record: the one that writes second decides again on what the first has written.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::{Admission, Cause, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::TRIPS;
use circuit_breaker_core::testing::{Memory, Proxy, Touch, answer};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);
const CONFIG: &str = r#"{"default": {"open": {"jitterPercent": 0}, "halfOpen": {"successThreshold": 1}}}"#;

/// A proxy of two workers, the second of which acts when the first is about to write.
fn rivals(proxy: &mut Proxy) -> Rc<RefCell<Breaker<Memory>>> {
    Rc::new(RefCell::new(proxy.vms.remove(1)))
}

fn half_open() -> Proxy {
    let mut proxy = Proxy::start(2, CONFIG);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!(proxy.state(A), 1);
    proxy
}

#[test]
fn the_last_probe_slot_goes_to_one_worker() {
    let mut proxy = half_open();
    let (rival, now) = (rivals(&mut proxy), proxy.now);
    let taken = Rc::clone(&rival);
    proxy.host.before_next_write(move || {
        let admission = taken.borrow_mut().admit(1000, A, now);
        assert!(matches!(admission, Admission::Pass(Permit::Probe { .. })), "{admission:?}");
    });
    let Admission::Reject { cause, .. } = proxy.admit(0, A) else { panic!("two probes are out") };
    assert_eq!(cause, Cause::ProbeLimit);
}

#[test]
fn a_trip_is_made_and_counted_once() {
    let mut proxy = Proxy::start(2, CONFIG);
    proxy.fail(A, 4);
    proxy.pass(SECOND);
    let (rival, now) = (rivals(&mut proxy), proxy.now);
    let faster = Rc::clone(&rival);
    let start = Permit::Calm { start: now, flight: u32::MAX };
    proxy.host.before_next_write(move || faster.borrow_mut().settle(start, Some(A), &answer(BAD), None, now));
    assert!(proxy.request(0, A, BAD));
    assert_eq!((proxy.state(A), proxy.host.value(&TRIPS, A, "consecutive")), (2, 1));
    assert_eq!(proxy.reasons(), ["consecutive"]);
}

#[test]
fn a_good_probe_does_not_undo_the_failure_of_another() {
    let config =
        r#"{"default": {"open": {"jitterPercent": 0}, "halfOpen": {"successThreshold": 1, "maxConcurrentProbes": 2}}}"#;
    let mut proxy = Proxy::start(2, config);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    let Admission::Pass(good) = proxy.admit(0, A) else { panic!("a probe") };
    let Admission::Pass(bad) = proxy.admit(1, A) else { panic!("a second probe") };
    let (rival, now) = (rivals(&mut proxy), proxy.now);
    let faster = Rc::clone(&rival);
    proxy.host.before_next_write(move || faster.borrow_mut().settle(bad, Some(A), &answer(BAD), None, now));
    proxy.settle(0, A, good, Outcome::Success);
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("probe_failed"));
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn an_upstream_that_two_workers_meet_at_once_has_one_circuit() {
    let mut proxy = Proxy::start(2, CONFIG);
    let (rival, now) = (rivals(&mut proxy), proxy.now);
    let faster = Rc::clone(&rival);
    let start = Permit::Calm { start: now, flight: u32::MAX };
    proxy.host.before_next_write(move || faster.borrow_mut().settle(start, Some(A), &answer(BAD), None, now));
    proxy.fail(A, 4);
    assert_eq!(proxy.state(A), 2, "five failures, one of them the rival's");
    assert_eq!(proxy.host.value(&circuit_breaker_core::telemetry::metrics::CIRCUITS, "", ""), 1);
}

/// The rival gives the only slot back whenever this worker looks for one, and takes it again before this worker can.
#[test]
fn whoever_loses_every_slot_that_it_sees_free_is_rejected() {
    let mut proxy =
        Proxy::start(2, r#"{"default": {"open": {"jitterPercent": 0}, "halfOpen": {"maxConcurrentProbes": 1}}}"#);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    let (rival, now) = (rivals(&mut proxy), proxy.now);
    // Each round of an admission reads the epoch twice: to look at the record, and to change it.
    let (reads, busy, probe) = (Rc::new(Cell::new(0)), Cell::new(false), Cell::new(Permit::Uncounted));
    let seen = Rc::clone(&reads);
    proxy.host.before_every_call(move |what, _| {
        if !(what.contains(A) && what.contains("epoch")) || busy.replace(true) {
            return;
        }
        let mut rival = rival.borrow_mut();
        if seen.get() % 2 == 0 {
            rival.settle(probe.get(), None, &answer(Outcome::Neutral), None, now);
        } else if let Admission::Pass(taken) = rival.admit(1000, A, now) {
            probe.set(taken);
        }
        seen.set(seen.get() + 1);
        busy.set(false);
    });
    let Admission::Reject { cause, .. } = proxy.admit(0, A) else { panic!("let go without a slot") };
    assert_eq!((cause, reads.get()), (Cause::ProbeLimit, 8), "four rounds");
}

/// The worker that writes dies before it tells anybody. (From the call that would tell on, nothing of it reaches the
/// host.)
fn trips_and_dies(proxy: &mut Proxy) {
    let host = proxy.host.clone();
    proxy.host.before_every_call(move |what, how| {
        if what.contains("epoch") && how == Touch::Add {
            host.set_broken(true);
        }
    });
    proxy.request(0, A, BAD);
    proxy.host.before_every_call(|_, _| {});
    proxy.host.set_broken(false);
    proxy.vms.remove(0);
}

#[test]
fn a_trip_that_nobody_was_told_of_is_on_the_gauge_once_all_others_have_met_it_at_a_change_of_their_own() {
    let mut proxy = Proxy::start(3, CONFIG);
    proxy.fail(A, 4);
    proxy.pass(SECOND);
    let held: Vec<Admission> = (1..3).map(|vm| proxy.admit(vm, A)).collect();
    trips_and_dies(&mut proxy);
    assert_eq!(proxy.state(A), 0);
    // Their own failures would trip it too, but each finds that it has already tripped.
    for (vm, admission) in held.into_iter().enumerate() {
        let Admission::Pass(permit) = admission else { panic!("CLOSED") };
        proxy.settle(vm, A, permit, BAD);
    }
    proxy.pass(SECOND);
    assert_eq!(proxy.state(A), 2);
}
