//! A new configuration takes over the circuits of the older one, each when its turn comes or a request goes there.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::config::Config;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{INTERNAL_ERRORS, UNPROTECTED};
use circuit_breaker_core::testing::{Memory, Proxy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);

fn config(body: &str, most: u32) -> String {
    format!(
        r#"{{"default": {{"rejection": {{"body": "{body}"}}, "open": {{"jitterPercent": 0}}}},
            "limits": {{"maxCircuits": {most}, "idleCircuit": "1h"}}}}"#
    )
}

fn newer(proxy: &Proxy, older: &Breaker<Memory>, document: &str) -> Breaker<Memory> {
    let parsed = Config::parse(document.as_bytes()).unwrap();
    Breaker::start_after(older, proxy.host.clone(), parsed, proxy.now, 9)
}

/// Another configuration in place of each VM's one. It has not ticked yet. The older ones serve their last requests.
fn update(proxy: &mut Proxy, document: &str) -> Vec<Breaker<Memory>> {
    let newer: Vec<_> = proxy.vms.iter().map(|older| newer(proxy, older, document)).collect();
    let mut older = std::mem::replace(&mut proxy.vms, newer);
    older.iter_mut().for_each(Breaker::retire);
    older
}

fn upstreams(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("outbound|80||{number}.svc")).collect()
}

fn no_errors(proxy: &Proxy) {
    for component in INTERNAL_ERRORS.components {
        assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", component), 0, "{component}: {:?}", proxy.host.log_lines());
    }
}

#[test]
fn an_update_asks_the_host_nothing_and_its_ticks_take_over_so_many_circuits_at_once() {
    let mut proxy = Proxy::start(1, &config("a", 3000));
    for upstream in upstreams(2000) {
        assert!(proxy.request(0, &upstream, Outcome::Success));
    }
    proxy.pass(5 * SECOND);
    assert!(proxy.vms[0].is_calm());
    let before = proxy.host.calls();
    let _older = update(&mut proxy, &config("b", 3000));
    let after = proxy.host.calls();
    assert_eq!((after.bytes, after.words), (before.bytes, before.words));
    let mut ticks = 0;
    while !proxy.vms[0].is_calm() {
        proxy.pass(SECOND / 2);
        ticks += 1;
        assert!(ticks < 9, "two thousand circuits are taken over within two seconds");
    }
    assert!(ticks > 2, "not all at one tick, which would keep requests waiting");
    no_errors(&proxy);
}

#[test]
fn a_step_is_short_and_none_comes_before_the_first_tick() {
    let mut proxy = Proxy::start(1, &config("a", 3000));
    for upstream in upstreams(100) {
        assert!(proxy.request(0, &upstream, Outcome::Success));
    }
    proxy.pass(5 * SECOND);
    let (before, now) = (proxy.host.calls(), proxy.now);
    let mut older = update(&mut proxy, &config("b", 3000));
    let vm = &mut proxy.vms[0];
    assert!(!vm.is_behind() && !vm.catch_up(now), "Envoy may still take the configuration back");
    assert_eq!(proxy.host.calls(), before);
    vm.tick(now);
    let mut steps = 1;
    while vm.catch_up(now) {
        let before = proxy.host.calls();
        vm.catch_up(now);
        let calls = proxy.host.calls();
        assert!(calls.words + calls.bytes - before.words - before.bytes < 200, "{steps}");
        steps += 2;
    }
    assert!((6..9).contains(&steps), "{steps} steps for a hundred circuits");
    assert!(!vm.is_behind());
    older[0].tick(now);
    assert!(!older[0].is_behind() && !older[0].catch_up(now), "an older one has nothing to learn");
    no_errors(&proxy);
}

#[test]
fn what_a_window_holds_is_known_to_the_first_request_after_any_number_of_updates() {
    let mut proxy = Proxy::start(1, &config("a", 10));
    (0..4).for_each(|_| assert!(proxy.request(0, A, BAD)));
    // Nothing has ticked in between, so each takes over circuits that the one before it has not taken over.
    let older: Vec<_> = (0..3).map(|number| update(&mut proxy, &config(&number.to_string(), 10))).collect();
    drop(older);
    assert!(proxy.request(0, A, BAD));
    assert_eq!(proxy.reasons(), ["consecutive"]);
    let _older = update(&mut proxy, &config("z", 10));
    assert!(!proxy.request(0, A, BAD), "it is OPEN for the new configuration's first request");
    no_errors(&proxy);
}

#[test]
fn both_configurations_change_the_circuit_that_they_share() {
    let mut proxy = Proxy::start(1, &config("a", 10));
    (0..3).for_each(|_| assert!(proxy.request(0, A, BAD)));
    let mut older = update(&mut proxy, &config("b", 10));
    std::mem::swap(&mut proxy.vms, &mut older);
    assert!(proxy.request(0, A, BAD), "a connection that the old listener still serves");
    std::mem::swap(&mut proxy.vms, &mut older);
    assert!(proxy.request(0, A, BAD));
    assert_eq!(proxy.reasons(), ["consecutive"]);
    assert!(!proxy.request(0, A, BAD));
    std::mem::swap(&mut proxy.vms, &mut older);
    assert!(!proxy.request(0, A, BAD));
    no_errors(&proxy);
}

#[test]
fn a_circuit_that_no_request_has_used_since_the_update_makes_room() {
    let mut proxy = Proxy::start(1, &config("a", 1));
    assert!(proxy.request(0, A, Outcome::Success));
    (0..61).for_each(|_| proxy.pass(SECOND));
    let _older = update(&mut proxy, &config("b", 1));
    assert!(proxy.request(0, B, BAD));
    assert_eq!(proxy.host.circuits(), [B]);
    assert_eq!(proxy.host.value(&UNPROTECTED, "", ""), 0);
    no_errors(&proxy);
}

#[test]
fn a_leap_of_the_clock_before_a_circuit_is_taken_over_is_no_time_in_which_nobody_used_it() {
    for leaps_before in [false, true] {
        let mut proxy = Proxy::start(1, &config("a", 1));
        assert!(proxy.request(0, A, Outcome::Success));
        (0..3).for_each(|_| proxy.pass(SECOND));
        if leaps_before {
            proxy.now += 7200 * SECOND;
        }
        let _older = update(&mut proxy, &config("b", 1));
        let _older = update(&mut proxy, &config("c", 1));
        if !leaps_before {
            proxy.now += 7200 * SECOND;
        }
        assert!(proxy.request(0, B, BAD));
        proxy.pass(SECOND);
        proxy.pass(SECOND);
        assert_eq!(proxy.host.circuits(), [A], "leaps before the update: {leaps_before}");
    }
}

#[test]
fn a_slot_that_changes_hands_before_its_circuit_is_taken_over_is_the_new_upstreams() {
    let mut proxy = Proxy::start(2, &config("a", 1));
    proxy.fail(A, 5);
    assert_eq!(proxy.state(A), 2);
    // A's circuit closes again, and is idle.
    (0..90).for_each(|_| {
        proxy.pass(SECOND);
        proxy.request(0, A, Outcome::Success);
    });
    assert_eq!(proxy.state(A), 0);
    (0..70).for_each(|_| proxy.pass(SECOND));
    let lagging = proxy.vms.pop().unwrap();
    let lagging = newer(&proxy, &lagging, &config("b", 1));
    assert!(proxy.request(0, B, BAD));
    assert_eq!(proxy.host.circuits(), [B]);
    proxy.vms.push(lagging);
    assert!(proxy.request(1, B, BAD));
    (0..3).for_each(|_| assert!(proxy.request(1, B, BAD)));
    assert_eq!((proxy.state(A), proxy.state(B)), (0, 2));
    no_errors(&proxy);
}

#[test]
fn a_worker_that_has_missed_many_additions_learns_them_by_steps_and_is_not_calm_before() {
    let mut proxy = Proxy::start(1, &config("a", 3000));
    let late = Config::parse(config("a", 3000).as_bytes()).unwrap();
    for upstream in upstreams(2000) {
        assert!(proxy.request(0, &upstream, Outcome::Success));
    }
    proxy.fail("outbound|80||1999.svc", 5);
    let mut late = Breaker::start(proxy.host.clone(), late, proxy.now, 9);
    let before = proxy.host.calls().bytes;
    late.tick(proxy.now);
    let read = proxy.host.calls().bytes - before;
    assert!((60..160).contains(&read), "{read} records are read at one step");
    assert!(late.is_behind());
    assert!(!late.is_calm());
    proxy.vms.push(late);
    (0..20).for_each(|_| {
        proxy.pass(SECOND / 2);
        assert!(!proxy.vms[1].is_calm());
    });
    assert!(!proxy.request(1, "outbound|80||1999.svc", BAD));
    no_errors(&proxy);
}

/// Trips on half of ten calls in ten seconds, and on nothing else.
const RATE: &str = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 50, "minimumCalls": 10,
    "window": {"duration": "10s"}}}, "limits": {"idleCircuit": "1h"}}"#;

fn wait(proxy: &mut Proxy, seconds: u64) {
    (0..seconds).for_each(|_| proxy.pass(SECOND));
}

#[test]
fn a_circuit_that_nobody_has_used_lately_is_forced_open_by_the_next_tick() {
    let mut proxy = Proxy::start(2, RATE);
    assert!(proxy.request(0, A, Outcome::Success));
    wait(&mut proxy, 30);
    let _older = update(&mut proxy, r#"{"default": {"mode": "forceOpen"}, "limits": {"idleCircuit": "1h"}}"#);
    wait(&mut proxy, 5);
    assert_eq!(proxy.state(A), 2, "{:?}", proxy.reasons());
}

#[test]
fn a_retired_configuration_trips_on_no_call_that_is_older_than_its_window() {
    let mut proxy = Proxy::start(1, RATE);
    assert!(proxy.request(0, A, Outcome::Success));
    wait(&mut proxy, 30);
    let mut older = update(&mut proxy, RATE);
    (0..9).for_each(|_| assert!(proxy.request(0, A, BAD)));
    for _ in 0..600 {
        wait(&mut proxy, 1);
        older[0].tick(proxy.now);
    }
    std::mem::swap(&mut proxy.vms, &mut older);
    assert!(proxy.request(0, A, BAD), "a connection that the old listener still serves");
    assert!(proxy.reasons().is_empty(), "nine of the ten failed ten minutes ago: {:?}", proxy.reasons());
}

#[test]
fn a_slot_whose_circuit_another_worker_has_ended_is_free_before_it_is_taken_over() {
    const C: &str = "outbound|80||c.default.svc.cluster.local";
    let limited = r#"{"limits": {"maxCircuits": 2, "idleCircuit": "100s"}}"#;
    let mut proxy = Proxy::start(2, limited);
    assert!(proxy.request(0, A, Outcome::Success));
    wait(&mut proxy, 30);
    assert!(proxy.request(0, B, Outcome::Success));
    wait(&mut proxy, 69);
    let _older = update(&mut proxy, limited);
    // One worker ticks first.
    (0..8).for_each(|_| {
        proxy.now += SECOND / 2;
        proxy.vms[0].tick(proxy.now);
    });
    assert_eq!(proxy.host.circuits(), [B]);
    assert!(proxy.request(1, C, Outcome::Success));
    assert_eq!(proxy.host.circuits(), [C, B], "B keeps its circuit, as there is room");
    assert_eq!(proxy.host.value(&UNPROTECTED, "", ""), 0);
    no_errors(&proxy);
}

#[test]
fn what_is_not_closed_is_taken_over_first() {
    let three_thousand =
        r#"{"default": {"open": {"jitterPercent": 0, "baseDuration": "30s"}}, "limits": {"maxCircuits": 3000}}"#;
    let mut proxy = Proxy::start(1, three_thousand);
    for upstream in upstreams(2999) {
        assert!(proxy.request(0, &upstream, Outcome::Success));
    }
    proxy.fail(A, 5);
    wait(&mut proxy, 29);
    assert_eq!(proxy.reasons(), ["consecutive"]);
    let _older = update(&mut proxy, three_thousand);
    wait(&mut proxy, 1);
    assert_eq!(proxy.reasons(), ["consecutive", "open_over"]);
}

#[test]
fn circuits_are_taken_over_though_the_list_of_slots_is_a_later_versions() {
    let document = r#"{"default": {"open": {"jitterPercent": 0, "baseDuration": "30s"}}}"#;
    let mut proxy = Proxy::start(1, document);
    proxy.fail(A, 5);
    wait(&mut proxy, 10);
    proxy.host.overwrite("circuit_breaker:slots", b"\xffa later layout");
    let _older = update(&mut proxy, document);
    wait(&mut proxy, 21);
    assert_eq!(proxy.reasons(), ["consecutive", "open_over"]);
}

#[test]
fn a_worker_that_is_behind_catches_up_though_upstreams_come_all_the_time() {
    let mut proxy = Proxy::start(1, &config("a", 9000));
    let late = Config::parse(config("a", 9000).as_bytes()).unwrap();
    let names = upstreams(4000);
    let (first, later) = names.split_at(3000);
    first.iter().for_each(|upstream| assert!(proxy.request(0, upstream, Outcome::Success)));
    let mut late = Breaker::start(proxy.host.clone(), late, proxy.now, 9);
    for (turn, some) in later.chunks(40).take(12).enumerate() {
        some.iter().for_each(|upstream| assert!(proxy.request(0, upstream, Outcome::Success)));
        proxy.now += SECOND / 2;
        late.tick(proxy.now);
        let before = proxy.host.calls().bytes;
        proxy.now += 1;
        late.tick(proxy.now);
        let read = proxy.host.calls().bytes - before;
        assert!(turn < 8 || read < 700, "it reads slots of the list still: {read} calls at turn {turn}");
    }
    no_errors(&proxy);
}

#[test]
fn after_a_leap_a_full_proxy_asks_no_used_circuit_for_its_room() {
    let mut proxy = Proxy::start(1, &config("a", 600));
    let names = upstreams(600);
    names.iter().for_each(|upstream| assert!(proxy.request(0, upstream, Outcome::Success)));
    (0..61).for_each(|_| proxy.pass(SECOND));
    names[1..].iter().for_each(|upstream| assert!(proxy.request(0, upstream, Outcome::Success)));
    (0..3).for_each(|_| proxy.pass(SECOND));
    let _older = update(&mut proxy, &config("b", 600));
    proxy.now += 7200 * SECOND;
    let now = proxy.now;
    // It sees the leap, and takes a part of the circuits over.
    proxy.vms[0].tick(now);
    proxy.request(0, B, BAD);
    assert!(proxy.host.circuits().contains(&B.to_owned()), "the circuit that nobody has used makes room");
    assert_eq!(proxy.host.value(&UNPROTECTED, "", ""), 0);
}
