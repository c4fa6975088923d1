//! Modes, configuration changes, and errors of our own.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::{Admission, Cause, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::config::Config;
use circuit_breaker_core::host::{Host, MetricKind};
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{
    CALLS, CIRCUITS, INTERNAL_ERRORS, LATENCY, MODE, REJECTED, STATE, TRIPS, UNPROTECTED, WOULD_REJECT, stat,
};
use circuit_breaker_core::testing::{Memory, Proxy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);

fn mode(mode: &str) -> String {
    format!(r#"{{"default": {{"mode": "{mode}", "open": {{"jitterPercent": 0}}}}}}"#)
}

#[test]
fn a_gauge_that_two_workers_have_set_in_the_wrong_order_is_set_right_by_their_ticks() {
    let mut proxy = Proxy::start(2, "");
    proxy.fail(A, 5);
    let gauge = proxy.host.define(MetricKind::Gauge, &stat(&STATE, A, "")).unwrap();
    proxy.host.record(gauge, 0).unwrap();
    proxy.pass(SECOND);
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn observe_rejects_nothing_and_counts_what_it_would_have() {
    let mut proxy = Proxy::start(4, &mode("observe"));
    proxy.fail(A, 5);
    assert_eq!(proxy.state(A), 2);
    for vm in 0..4 {
        assert!(proxy.request(vm, A, BAD));
    }
    assert_eq!(proxy.host.value(&WOULD_REJECT, A, "open"), 4);
    assert_eq!(proxy.host.value(&REJECTED, A, "open"), 0);
    assert_eq!(proxy.host.value(&CALLS, A, "failure"), 9);
    proxy.pass(30 * SECOND);
    for _ in 0..3 {
        assert!(proxy.request(1, A, Outcome::Success));
    }
    assert_eq!(proxy.reasons(), ["consecutive", "open_over", "probes_succeeded"], "the circuit lives as in enforce");
}

#[test]
fn the_mode_of_an_upstream_is_told_where_it_is_not_enforced() {
    let mut proxy = Proxy::start(2, "");
    proxy.succeed(A, 2);
    let has_series = |proxy: &Proxy| proxy.host.names_defined_after(0).contains(&stat(&MODE, A, ""));
    assert!(!has_series(&proxy), "what is enforced costs no series");
    for (word, number) in [("observe", 1), ("disabled", 2), ("forceOpen", 3), ("enforce", 0), ("observe", 1)] {
        proxy.reconfigure(&mode(word));
        proxy.pass(2 * SECOND);
        assert_eq!((word, proxy.host.value(&MODE, A, "")), (word, number));
    }
    assert!(has_series(&proxy));
}

#[test]
fn an_upstream_without_a_circuit_has_no_mode() {
    let mut proxy = Proxy::start(1, r#"{"default": {"mode": "observe"}, "limits": {"idleCircuit": "20s"}}"#);
    proxy.succeed(A, 1);
    assert_eq!(proxy.host.value(&MODE, A, ""), 1);
    proxy.pass(60 * SECOND);
    assert_eq!((proxy.host.value(&CIRCUITS, "", ""), proxy.host.value(&MODE, A, "")), (0, 0));
}

#[test]
fn force_open_rejects_the_first_request_and_lifting_it_tests_the_upstream() {
    let mut proxy = Proxy::start(4, &mode("forceOpen"));
    let Admission::Reject { cause, .. } = proxy.admit(2, A) else { panic!("rejected") };
    assert_eq!(cause, Cause::Forced);
    assert_eq!((proxy.state(A), proxy.host.value(&TRIPS, A, "forced")), (2, 1));
    proxy.pass(3600 * SECOND);
    assert!(!proxy.request(0, A, Outcome::Success), "no time ends it");
    proxy.configure(4, &mode("enforce"));
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("force_lifted"));
    let Admission::Pass(Permit::Probe { .. }) = proxy.admit(0, A) else { panic!("a probe") };
}

#[test]
fn disabled_neither_counts_nor_rejects_even_what_was_open() {
    let mut proxy = Proxy::start(2, &mode("enforce"));
    proxy.fail(A, 5);
    proxy.configure(2, &mode("disabled"));
    assert_eq!(proxy.state(A), 0);
    for _ in 0..20 {
        assert!(proxy.request(0, A, BAD) && proxy.request(1, B, BAD));
    }
    assert_eq!((proxy.host.value(&CALLS, A, "failure"), proxy.host.value(&CALLS, B, "failure")), (5, 0));
}

#[test]
fn an_open_circuit_stays_open_over_a_configuration_change() {
    let mut proxy = Proxy::start(4, &mode("enforce"));
    proxy.fail(A, 5);
    proxy.pass(10 * SECOND);
    proxy.configure(2, r#"{"default": {"trip": {"consecutiveFailures": 9}, "open": {"jitterPercent": 0}}}"#);
    assert_eq!(proxy.state(A), 2);
    assert!(!proxy.request(1, A, Outcome::Success));
    proxy.pass(20 * SECOND);
    assert!(proxy.request(1, A, Outcome::Success));
}

#[test]
fn a_retired_configuration_moves_nothing_by_itself() {
    let mut proxy = Proxy::start(2, &mode("forceOpen"));
    proxy.vms[1].retire();
    let old = proxy.vms.remove(1);
    proxy.admit(0, A);
    proxy.configure(1, &mode("enforce"));
    proxy.vms.push(old);
    proxy.pass(5 * SECOND);
    assert_eq!(proxy.state(A), 1);
    assert_eq!(proxy.reasons(), ["forced", "force_lifted"]);
    proxy.vms.remove(0);
    proxy.vms[0].resume();
    proxy.pass(SECOND);
    assert_eq!(proxy.reasons(), ["forced", "force_lifted", "forced"], "the newest again");
}

#[test]
fn past_the_limit_upstreams_pass_unprotected_and_are_counted() {
    let mut proxy = Proxy::start(4, r#"{"limits": {"maxCircuits": 1}}"#);
    proxy.fail(A, 1);
    proxy.fail(B, 20);
    assert_eq!(proxy.host.value(&CIRCUITS, "", ""), 1);
    assert_eq!(proxy.host.value(&UNPROTECTED, "", ""), 20);
    assert_eq!(proxy.host.value(&CALLS, B, "failure"), 0);
    proxy.fail(A, 4);
    assert_eq!(proxy.state(A), 2);
}

#[test]
fn past_its_limit_upstreams_have_no_latency_histogram_whichever_worker_meets_them_and_it_says_so_once() {
    let mut proxy = Proxy::start(4, r#"{"limits": {"latencyHistograms": 1}}"#);
    for upstream in [A, B] {
        for vm in 0..4 {
            assert!(proxy.request(vm, upstream, Outcome::Success));
        }
        proxy.fail(upstream, 4);
    }
    assert_eq!((proxy.host.recorded(&LATENCY, A).len(), proxy.host.recorded(&LATENCY, B).len()), (8, 0));
    assert_eq!(proxy.host.value(&CALLS, B, "failure"), 4, "all else is counted");
    assert_eq!(proxy.host.log_lines().iter().filter(|line| line.contains("limits.latencyHistograms")).count(), 1);
}

#[test]
fn where_a_metric_is_not_kept_all_pass_and_it_says_so_once() {
    let excluded: [fn(&str) -> bool; 5] = [
        |_| true,
        |name| name.contains("shared"),
        |name| name.contains(".streak"),
        |name| name.contains("success"),
        |name| name.contains(".watch") && name.contains("a.default"),
    ];
    for (which, excluded) in excluded.into_iter().enumerate() {
        let host = Memory::excluding(excluded);
        let mut proxy = Proxy::on(host.clone(), 4, r#"{"default": {"open": {"jitterPercent": 0}}}"#);
        for turn in 0..200 {
            let outcome = if turn % 3 == 0 { Outcome::Success } else { BAD };
            assert!(proxy.request(turn % 4, A, outcome), "{which}: request {turn}");
            proxy.pass(SECOND / 10);
        }
        assert_eq!(proxy.reasons(), [""; 0], "{which}");
        assert_eq!(host.log_lines().iter().filter(|line| line.contains("is off")).count(), 1, "{which}");
        (0..50).for_each(|turn| assert!(proxy.request(turn % 4, B, BAD), "{which}"));
        assert_eq!(host.value(&STATE, A, ""), 0);
    }
}

#[test]
fn circuits_begin_closed_in_a_process_that_takes_over() {
    let mut parent = Proxy::start(2, &mode("enforce"));
    parent.fail(A, 5);
    parent.fail(B, 4);
    let mut child = Proxy::on_at(parent.host.hot_restarted(), 2, &mode("enforce"), parent.now + SECOND);
    for upstream in [A, B] {
        for vm in [0, 1] {
            assert!(child.request(vm, upstream, Outcome::Success) && child.request(vm, upstream, BAD));
        }
    }
    assert_eq!(child.reasons(), [""; 0]);
    (0..4).for_each(|_| assert!(child.request(0, A, BAD)));
    assert_eq!(child.reasons(), ["consecutive"]);
}

#[test]
fn a_host_that_fails_lets_everything_pass() {
    let mut proxy = Proxy::start(2, "");
    proxy.fail(A, 5);
    proxy.host.set_broken(true);
    for _ in 0..10 {
        assert!(proxy.request(0, A, BAD) && proxy.request(1, B, BAD));
        proxy.pass(SECOND);
    }
    proxy.host.set_broken(false);
    proxy.admit(0, A);
    assert_eq!(proxy.state(A), 2, "nothing was lost");
}

const RECORDS: &str = "circuit_breaker:circuit:";

#[test]
fn what_is_no_record_is_left_alone_and_counted_and_its_upstream_begins_another_circuit() {
    for new_vms in [true, false] {
        let mut proxy = Proxy::start(3, &mode("enforce"));
        proxy.fail(A, 5);
        proxy.host.overwrite(RECORDS, b"\xffgarbage");
        if new_vms {
            proxy.configure(3, &mode("enforce"));
        } else {
            // Each record is read again within this time.
            proxy.pass(10 * SECOND);
        }
        assert!((0..3).all(|vm| proxy.request(vm, A, Outcome::Success)), "it lets all pass");
        assert!(proxy.host.value(&INTERNAL_ERRORS, "", "record") > 0);
        proxy.fail(A, 5);
        assert!((0..3).all(|vm| !proxy.request(vm, A, Outcome::Success)), "and protects the upstream again");
        let records = proxy.host.shared_data(RECORDS);
        assert_eq!((records.len(), records[0].as_slice()), (2, &b"\xffgarbage"[..]));
    }
}

/// The record of A as a later version would write it.
fn later(proxy: &Proxy, layout: u8, oldest_writer: u8) -> Vec<u8> {
    let mut bytes = proxy.host.shared_data(RECORDS)[0].clone();
    (bytes[0], bytes[1]) = (layout, oldest_writer);
    bytes.extend_from_slice(b"what this version does not know");
    bytes
}

#[test]
fn a_record_of_a_later_layout_works_and_keeps_what_this_version_does_not_know() {
    let mut proxy = Proxy::start(2, &mode("enforce"));
    proxy.fail(A, 5);
    proxy.host.overwrite(RECORDS, &later(&proxy, 2, 1));
    proxy.configure(2, &mode("enforce"));
    assert!(!proxy.request(0, A, Outcome::Success) && !proxy.request(1, A, Outcome::Success), "still OPEN");
    proxy.pass(30 * SECOND);
    proxy.succeed(A, 3);
    assert_eq!(proxy.reasons().last().map(String::as_str), Some("probes_succeeded"));
    let record = &proxy.host.shared_data(RECORDS)[0];
    assert_eq!(record[0], 2);
    assert!(record.ends_with(b"what this version does not know"));
}

#[test]
fn a_record_that_only_later_versions_may_write_is_obeyed_and_left_alone() {
    let mut proxy = Proxy::start(2, &mode("enforce"));
    proxy.fail(A, 5);
    let record = later(&proxy, 3, 3);
    proxy.host.overwrite(RECORDS, &record);
    proxy.configure(2, &mode("enforce"));
    assert!(!proxy.request(0, A, BAD) && !proxy.request(1, A, BAD), "its head says OPEN");
    proxy.pass(31 * SECOND);
    for turn in 0..50 {
        assert!(proxy.request(turn % 2, A, BAD), "its time is over, and nobody here may count");
        proxy.pass(SECOND);
    }
    proxy.reconfigure(&mode("forceOpen"));
    assert!(!proxy.request(0, A, Outcome::Success) && !proxy.request(1, A, Outcome::Success), "a person has said so");
    assert_eq!(proxy.host.shared_data(RECORDS), [record]);
    assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", "record"), 0);
}

#[test]
fn a_configuration_that_is_only_started_changes_nothing() {
    let mut proxy = Proxy::start(2, "");
    proxy.succeed(A, 1);
    let seen = |proxy: &Proxy| (proxy.host.value(&STATE, A, ""), proxy.host.log_lines());
    let before = seen(&proxy);
    let forced = Config::parse(br#"{"default": {"mode": "forceOpen"}}"#).unwrap();
    let taken_back = Breaker::start(proxy.host.clone(), forced, proxy.now, 7);
    assert!(proxy.request(0, A, Outcome::Success), "the old configuration serves on");
    drop(taken_back);
    proxy.pass(SECOND);
    assert!(proxy.request(1, A, Outcome::Success));
    assert_eq!(seen(&proxy), before);
}

#[test]
fn a_trip_that_could_not_be_told_is_found() {
    let mut proxy = Proxy::start(3, &mode("enforce"));
    proxy.succeed(A, 3);
    proxy.pass(SECOND);
    proxy.host.refuse(Some(|name| name.contains("epoch")));
    (0..5).for_each(|_| assert!(proxy.request(0, A, BAD)));
    assert_eq!(proxy.state(A), 2);
    proxy.host.refuse(None);
    proxy.pass(11 * SECOND);
    for vm in [0, 1, 2] {
        assert!(matches!(proxy.admit(vm, A), Admission::Reject { .. }), "worker {vm}");
    }
}
