//! Requests that a circuit rejects go where its fallback leads, if the circuit there admits them.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Origin, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{self, CALLS, FALLBACK, REJECTED};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";
const C: &str = "outbound|80||c.default.svc.cluster.local";

const CONFIG: &str = r#"{"default": {"open": {"jitterPercent": 0}},
    "upstreams": [{"match": {"host": "a.default.svc.cluster.local"}, "fallback": {"headers": {"x-circuit-fallback": "true"}}}]}"#;

const FAILED: Outcome = Outcome::Failure(FailureKind::Http);

/// A proxy whose circuit of A is OPEN.
fn open(workers: u64) -> Proxy {
    let mut proxy = Proxy::start(workers, CONFIG);
    proxy.fail(A, 5);
    assert_eq!(proxy.state(A), 2);
    proxy
}

/// A request to A that A's circuit rejects. `None`: it gets no fallback.
fn leave(proxy: &mut Proxy, vm: usize) -> Option<(Permit, Origin)> {
    let (permit, from) = proxy.admit_or_fall_back(vm, A)?;
    Some((permit, from.unwrap()))
}

/// It lands and ends.
fn land(proxy: &mut Proxy, vm: usize, (permit, from): (Permit, Origin), upstream: &str, outcome: Outcome) {
    let now = proxy.now;
    let permit = proxy.vms[vm].landed(from, permit, upstream, now);
    proxy.settle(vm, upstream, permit, outcome);
}

/// The fallback leads to B, and all workers know that.
fn scouted(workers: u64) -> Proxy {
    let mut proxy = open(workers);
    let scout = leave(&mut proxy, 0).unwrap();
    land(&mut proxy, 0, scout, B, Outcome::Success);
    proxy
}

fn calls(proxy: &Proxy, upstream: &str) -> [u64; 3] {
    ["success", "failure", "neutral"].map(|component| proxy.host.value(&CALLS, upstream, component))
}

#[test]
fn one_scout_finds_out_where_it_leads_and_all_others_are_rejected_until_it_has_landed() {
    let mut proxy = open(3);
    let scout = leave(&mut proxy, 0).unwrap();
    for vm in [0, 1, 2] {
        assert_eq!(leave(&mut proxy, vm), None);
    }
    land(&mut proxy, 0, scout, B, Outcome::Success);
    for vm in [0, 1, 2] {
        let next = leave(&mut proxy, vm).unwrap();
        land(&mut proxy, vm, next, B, Outcome::Success);
    }
    assert_eq!(calls(&proxy, B), [4, 0, 0]);
    assert_eq!((proxy.host.value(&FALLBACK, A, ""), proxy.host.value(&REJECTED, A, "open")), (4, 3));
}

#[test]
fn the_fallbacks_own_circuit_counts_trips_and_then_all_is_rejected() {
    let mut proxy = scouted(2);
    for turn in 0..5 {
        let next = leave(&mut proxy, turn % 2).unwrap();
        land(&mut proxy, turn % 2, next, B, FAILED);
    }
    assert_eq!((proxy.state(B), calls(&proxy, B)), (2, [1, 5, 0]));
    assert_eq!((leave(&mut proxy, 0), leave(&mut proxy, 1)), (None, None));
    assert_eq!(proxy.host.value(&REJECTED, B, "open"), 0, "what was wanted of A is rejected for A");
}

#[test]
fn requests_that_fall_back_are_the_probes_of_an_upstream_that_has_no_others() {
    let mut proxy = scouted(2);
    proxy.fail(B, 5);
    proxy.pass(20 * SECOND);
    proxy.fail(A, 0);
    proxy.pass(11 * SECOND);
    // A's probes fail, B's are good.
    assert_eq!((proxy.state(A), proxy.state(B)), (1, 1));
    proxy.request(0, A, FAILED);
    assert_eq!(proxy.state(A), 2);
    for _ in 0..3 {
        let probe = leave(&mut proxy, 0).unwrap();
        assert!(matches!(probe.0, Permit::Probe { .. }));
        assert_eq!(leave(&mut proxy, 1), None, "B's only probe is out");
        land(&mut proxy, 0, probe, B, Outcome::Success);
    }
    assert!(proxy.reasons().contains(&"probes_succeeded".to_owned()));
}

#[test]
fn where_it_lands_counts_and_not_where_it_was_thought_to_land() {
    let mut proxy = scouted(1);
    let next = leave(&mut proxy, 0).unwrap();
    land(&mut proxy, 0, next, C, FAILED);
    assert_eq!((calls(&proxy, B), calls(&proxy, C)), ([1, 0, 0], [0, 1, 0]));
    proxy.fail(C, 4);
    assert_eq!(leave(&mut proxy, 0), None, "from then on C's circuit is asked, which is OPEN");
}

#[test]
fn a_probe_of_the_wrong_upstream_gives_its_lease_back() {
    let mut proxy = scouted(1);
    proxy.fail(B, 5);
    proxy.pass(31 * SECOND);
    proxy.request(0, A, FAILED);
    let probe = leave(&mut proxy, 0).unwrap();
    land(&mut proxy, 0, probe, C, FAILED);
    assert_eq!((proxy.state(B), calls(&proxy, C)), (1, [0, 1, 0]), "B has not failed");
    let Some(Permit::Probe { .. }) = proxy.admit_or_fall_back(0, B).map(|(permit, _)| permit) else {
        panic!("the slot is free")
    };
}

#[test]
fn a_fallback_that_leads_back_is_found_out_by_one_request_an_outage() {
    let mut proxy = open(2);
    let scout = leave(&mut proxy, 0).unwrap();
    land(&mut proxy, 0, scout, A, FAILED);
    for second in 0..20 {
        assert_eq!(leave(&mut proxy, second % 2), None);
        proxy.pass(SECOND);
    }
    assert_eq!(proxy.host.value(&FALLBACK, A, ""), 1);
    assert_eq!(proxy.host.log_lines().iter().filter(|line| line.contains("leads back to itself")).count(), 1);
    proxy.pass(11 * SECOND);
    proxy.request(1, A, FAILED);
    let scout = leave(&mut proxy, 1).expect("another outage: the routes may be right by now");
    land(&mut proxy, 1, scout, B, Outcome::Success);
    assert!(leave(&mut proxy, 0).is_some());
    assert_eq!(proxy.host.log_lines().iter().filter(|line| line.contains("leads back to itself")).count(), 1);
}

#[test]
fn a_lost_scout_is_followed_by_another_one() {
    let mut proxy = open(2);
    leave(&mut proxy, 0).unwrap();
    proxy.pass(SECOND / 2);
    assert_eq!(leave(&mut proxy, 1), None);
    proxy.pass(SECOND);
    assert!(leave(&mut proxy, 1).is_some());
    assert_eq!(leave(&mut proxy, 0), None);
}

#[test]
fn a_route_without_an_upstream_takes_all() {
    let mut proxy = open(2);
    let scout = leave(&mut proxy, 0).unwrap();
    land(&mut proxy, 0, scout, "", Outcome::Success);
    for vm in [0, 1, 0, 1] {
        assert_eq!(leave(&mut proxy, vm).map(|(permit, _)| permit), Some(Permit::Uncounted));
    }
}

#[test]
fn a_fallback_that_hangs_trips_its_own_circuit() {
    let mut proxy = Proxy::start(
        2,
        r#"{"default": {"trip": {"slowCallDuration": "2s"}, "fallback": {"headers": {"x-to": "b"}}, "open": {"baseDuration": "300s"}}}"#,
    );
    proxy.fail(A, 5);
    let scout = leave(&mut proxy, 0).unwrap();
    land(&mut proxy, 0, scout, B, Outcome::Success);
    for turn in 0..40 {
        leave(&mut proxy, turn % 2).unwrap();
    }
    proxy.everything_lands_in(B);
    proxy.pass(15 * SECOND);
    assert_eq!((proxy.state(B), proxy.reasons()[1].as_str()), (2, "consecutive"));
}

#[test]
fn forced_open_falls_back_and_observe_does_not() {
    let config =
        |mode: &str| format!(r#"{{"default": {{"mode": "{mode}", "fallback": {{"headers": {{"x-to": "b"}}}}}}}}"#);
    let mut proxy = Proxy::start(1, &config("forceOpen"));
    assert!(leave(&mut proxy, 0).is_some(), "a failover by hand");
    let mut proxy = Proxy::start(1, &config("observe"));
    proxy.fail(A, 5);
    assert!(matches!(proxy.admit_or_fall_back(0, A), Some((Permit::Call { .. }, None))));
    assert_eq!(proxy.host.value(&metrics::WOULD_REJECT, A, "open"), 1);
}

#[test]
fn without_a_fallback_requests_are_rejected() {
    for config in ["{}", r#"{"default": {"fallback": {"headers": {}}}}"#] {
        let mut proxy = Proxy::start(1, config);
        proxy.fail(A, 5);
        assert_eq!(leave(&mut proxy, 0), None);
        assert_eq!((proxy.host.value(&FALLBACK, A, ""), proxy.host.value(&REJECTED, A, "open")), (0, 1));
    }
}

#[test]
fn a_new_configuration_finds_out_again_where_the_fallback_leads() {
    let mut proxy = scouted(2);
    proxy.fail(B, 5);
    assert_eq!((leave(&mut proxy, 0), leave(&mut proxy, 1)), (None, None));
    proxy.configure(2, &CONFIG.replace("\"true\"", "\"elsewhere\""));
    let scout = leave(&mut proxy, 0).expect("nobody knows where that leads");
    assert_eq!(leave(&mut proxy, 1), None, "one finds out");
    land(&mut proxy, 0, scout, C, Outcome::Success);
    for vm in [0, 1] {
        let next = leave(&mut proxy, vm).unwrap();
        land(&mut proxy, vm, next, C, Outcome::Success);
    }
    assert_eq!(calls(&proxy, C), [3, 0, 0]);
}
