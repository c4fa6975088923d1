//! A new version of the module defines what the old one has counted, before the old one is gone, and changes nothing.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::unwrap_used, missing_docs)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use circuit_breaker_core::breaker::{Breaker, count_refused};
use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::config::Config;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::INFO;
use circuit_breaker_core::testing::{Memory, Proxy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SICK: &str = "outbound|80||sick.default.svc.cluster.local";
const WELL: &str = "outbound|80||well.default.svc.cluster.local";

/// Metrics that a VM may change without acting.
const OWN: &str = "circuit_breaker:kept";

/// A proxy in which calls of one upstream have ended in every way, and another upstream was always well.
fn seasoned() -> Proxy {
    const CONFIG: &str = r#"{
        "default": {"open": {"baseDuration": "1s"}, "halfOpen": {"ramp": {"duration": "0s"}},
            "trip": {"latencyPercentile": 99, "latencyThreshold": "10s"}},
        "limits": {"maxCircuits": 2, "latencyHistograms": 1}}"#;
    let mut proxy = Proxy::start(2, CONFIG);
    proxy.request(0, SICK, Outcome::Neutral);
    proxy.request(1, SICK, Outcome::Failure(FailureKind::Reset));
    proxy.fail(SICK, 9);
    proxy.succeed(WELL, 2);
    proxy.succeed("one too many", 1);
    proxy.pass(2 * SECOND);
    proxy.succeed(SICK, 8);
    assert_eq!(proxy.reasons(), ["consecutive", "open_over", "probes_succeeded"]);
    count_refused(&proxy.host);
    proxy
}

fn newcomer(host: &Memory, now: u64) -> Breaker<Memory> {
    Breaker::start(host.clone(), Config::parse(b"").unwrap(), now, 7)
}

/// A clock that moves on by so much with each look at it.
fn clock(from: u64, step: u64) -> impl Fn() -> u64 {
    let now = Cell::new(from);
    move || now.replace(now.get() + step)
}

/// Metrics that were defined while `act` ran.
fn defined_by(host: &Memory, act: impl FnOnce()) -> BTreeSet<String> {
    let before = host.metrics_defined();
    act();
    defined_after(host, before)
}

/// All metrics that there are.
fn all(host: &Memory) -> BTreeSet<String> {
    defined_after(host, 0)
}

/// What a module says of itself ends with it, and no other module keeps it.
fn defined_after(host: &Memory, definitions: usize) -> BTreeSet<String> {
    let names = host.names_defined_after(definitions).into_iter();
    names.filter(|name| !name.ends_with(INFO.name)).collect()
}

fn data(host: &Memory) -> Vec<Vec<u8>> {
    ["circuit", "process", "slots", "series", "said"]
        .iter()
        .flat_map(|key| host.shared_data(&format!("circuit_breaker:{key}")))
        .collect()
}

#[test]
fn all_that_was_counted_is_defined_at_its_start_and_nothing_else_and_nothing_changes() {
    let proxy = seasoned();
    let (host, there) = (proxy.host.clone(), all(&proxy.host));
    let before: (BTreeMap<String, u64>, _, _) = (host.values(), data(&host), host.log_lines());
    let defined = defined_by(&host, || {
        assert!(!newcomer(&host, proxy.now).keep(&|| proxy.now), "nothing is left");
    });
    let missing: Vec<_> = there.difference(&defined).collect();
    let invented: Vec<_> = defined.difference(&there).collect();
    assert_eq!((missing, invented), (vec![], vec![]));
    for series in
        ["neutral", "reset", "internal_errors", "unprotected", "over_threshold", "streak", "recovery", "latency"]
    {
        assert!(defined.iter().any(|name| name.contains(series)), "{series} of {defined:#?}");
    }
    assert_eq!(before, (host.values(), data(&host), host.log_lines()));
}

#[test]
fn a_vm_that_has_met_all_circuits_has_defined_all_that_was_counted() {
    let proxy = seasoned();
    let there = all(&proxy.host);
    let defined = defined_by(&proxy.host, || newcomer(&proxy.host, proxy.now).tick(proxy.now));
    assert_eq!(defined, there);
}

#[test]
fn in_a_new_process_there_is_nothing_to_keep_and_nothing_is_written() {
    let host = Memory::default();
    assert!(!newcomer(&host, SECOND).keep(&|| SECOND));
    assert_eq!((host.metrics_defined(), host.shared_data("circuit_breaker:").len()), (0, 0));
}

#[test]
fn the_first_vm_does_it_and_the_others_need_not() {
    let proxy = seasoned();
    assert!(!newcomer(&proxy.host, proxy.now).keep(&|| proxy.now));
    let others = defined_by(&proxy.host, || {
        for _ in 0..5 {
            assert!(!newcomer(&proxy.host, proxy.now).keep(&|| proxy.now + MILLISECOND));
        }
    });
    assert_eq!(others, BTreeSet::new());
    let next = proxy.now + SECOND;
    assert_eq!(defined_by(&proxy.host, || assert!(!newcomer(&proxy.host, next).keep(&|| next))), all(&proxy.host));
}

#[test]
fn a_vm_of_the_old_module_that_has_just_begun_anew_does_not_do_it_for_the_new_one() {
    let proxy = seasoned();
    let (old, new) = (proxy.host.of_module("1.0.0-aaaaaaaa"), proxy.host.of_module("1.0.0-bbbbbbbb"));
    assert!(!newcomer(&old, proxy.now).keep(&|| proxy.now));
    let mut first = newcomer(&new, proxy.now);
    let defined = defined_by(&new, || assert!(!first.keep(&|| proxy.now + MILLISECOND)));
    assert_eq!(defined, all(&proxy.host));
}

#[test]
fn vms_of_two_modules_that_begin_at_once_do_not_hold_each_other_up() {
    let proxy = with_many_circuits();
    let (host, other) = (proxy.host.of_module("1.0.0-aaaaaaaa"), proxy.host.of_module("1.0.0-bbbbbbbb"));
    let mut now = proxy.now;
    let mut vms: Vec<_> = (0..4).map(|_| newcomer(&host, now)).collect();
    let mut turns = 0;
    while vms.iter_mut().filter_map(|vm| vm.keep(&clock(now, 200_000)).then_some(())).count() > 0 {
        newcomer(&other, now).keep(&clock(now, 10_000));
        now += 15 * MILLISECOND;
        turns += 1;
        assert!(turns < 1000, "they never end");
    }
}

fn with_many_circuits() -> Proxy {
    let mut proxy = Proxy::start(1, r#"{"limits": {"maxCircuits": 10000}}"#);
    for number in 0..4000 {
        proxy.succeed(&format!("upstream-{number}"), 1);
    }
    proxy
}

#[test]
fn what_takes_too_long_is_left_to_the_others_who_take_it_by_parts() {
    let proxy = with_many_circuits();
    let (host, mut now) = (&proxy.host, proxy.now);
    let defined = defined_by(host, || {
        let before = host.metrics_defined();
        // 200 us a circuit: names that are new to Envoy.
        assert!(newcomer(host, now).keep(&clock(now, 200_000)), "not all in half a second");
        let first = host.metrics_defined() - before;
        now += 501 * MILLISECOND;
        let mut late = newcomer(host, now);
        assert!(late.keep(&|| now));
        let mut vms: Vec<_> = (0..4).map(|_| newcomer(host, now)).collect();
        for turn in 0.. {
            let before = host.metrics_defined();
            let left = vms.iter_mut().filter_map(|vm| vm.keep(&clock(now, 200_000)).then_some(())).count();
            let most = first / 125 + 10;
            assert!(host.metrics_defined() - before <= most, "4 ms of one of them at a time");
            if left == 0 {
                break;
            }
            assert!(turn < 1000, "they never end");
            now += 15 * MILLISECOND;
        }
        let before = host.metrics_defined();
        assert!(!late.keep(&clock(now + SECOND, 200_000)));
        assert_eq!(host.metrics_defined(), before, "one that looks later finds all done");
    });
    assert_eq!(defined, all(host));
}

#[test]
fn a_vm_in_the_place_of_one_that_trapped_keeps_no_request_waiting() {
    let proxy = with_many_circuits();
    let mut vm = newcomer(&proxy.host, proxy.now);
    // 10 us a circuit: names that Envoy knows.
    let clock = clock(proxy.now, 10_000);
    assert!(vm.keep(&clock));
    let took = clock() - proxy.now;
    assert!((4 * MILLISECOND..5 * MILLISECOND).contains(&took), "{took} ns");
}

#[test]
fn a_host_that_does_not_work_keeps_nobody_waiting() {
    let proxy = seasoned();
    let mut vm = newcomer(&proxy.host, proxy.now);
    proxy.host.set_broken(true);
    assert!(!vm.keep(&|| proxy.now));
    proxy.host.set_broken(false);
    assert_eq!(defined_by(&proxy.host, || vm.tick(proxy.now)), all(&proxy.host), "its tick does");
}

#[test]
fn an_unreadable_place_is_begun_anew() {
    let proxy = seasoned();
    let keep = || assert!(!newcomer(&proxy.host, proxy.now).keep(&|| proxy.now));
    keep();
    for bytes in [&b""[..], b"x", &[0xFF; 40]] {
        proxy.host.overwrite(OWN, bytes);
        assert_eq!(defined_by(&proxy.host, keep), all(&proxy.host), "{bytes:?}");
    }
}
