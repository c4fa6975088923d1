//! Probes of the breaker's own: no user pays for the test, and an upstream without traffic recovers.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Cause, Permit};
use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, INTERNAL_ERRORS, PROBES, REJECTED, TRIPS, WOULD_REJECT};
use circuit_breaker_core::testing::{Proxy, Sending};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);
const WELL: Option<u32> = Some(200);

fn config(half_open: &str) -> String {
    format!(r#"{{"default": {{"open": {{"jitterPercent": 0}}, "halfOpen": {half_open}}}}}"#)
}

/// A proxy of four workers whose circuit has tripped, and is HALF_OPEN since this very tick.
fn half_open(half_open: &str) -> Proxy {
    let mut proxy = Proxy::start(4, &config(half_open));
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!(proxy.state(A), 1);
    proxy
}

const PROBED: &str = r#"{"activeProbe": {"path": "/healthz"}}"#;

/// The newest probe is answered, on whichever worker sent it.
fn answer(proxy: &mut Proxy, status: Option<u32>) {
    let (call, now) = (u32::try_from(proxy.host.sent().len()).unwrap(), proxy.now);
    proxy.vms.iter_mut().for_each(|vm| vm.probe_answered(call, status, now));
}

fn probes(proxy: &Proxy) -> [u64; 2] {
    ["success", "failure"].map(|how| proxy.host.value(&PROBES, A, how))
}

fn last_reason(proxy: &Proxy) -> String {
    proxy.reasons().last().unwrap().clone()
}

#[test]
fn one_worker_probes_at_once_and_then_in_each_interval_until_enough_were_good() {
    let mut proxy = half_open(r#"{"activeProbe": {"path": "/healthz", "interval": "2s"}}"#);
    for sent in 1..=3 {
        assert_eq!(proxy.host.sent().len(), sent, "one of four workers");
        answer(&mut proxy, WELL);
        proxy.pass(1500 * MILLISECOND);
        assert_eq!(proxy.host.sent().len(), sent, "an interval has not passed");
        proxy.pass(500 * MILLISECOND);
    }
    assert_eq!((last_reason(&proxy).as_str(), probes(&proxy)), ("probes_succeeded", [3, 0]));
    let calls = ["success", "failure", "slow", "neutral"].map(|how| proxy.host.value(&CALLS, A, how));
    assert_eq!(calls, [0, 5, 0, 0], "no probe is a call");
}

#[test]
fn what_is_sent_is_what_the_policy_says() {
    let proxy = half_open(
        r#"{"activeProbe": {"path": "/ready?deep=1", "method": "HEAD", "headers": {"x-probe": "1"}, "timeout": "3s"}}"#,
    );
    let (upstream, probe) = &proxy.host.sent()[0];
    assert_eq!((upstream.as_str(), probe.method, probe.path.as_str()), (A, "HEAD", "/ready?deep=1"));
    assert_eq!(probe.authority_for(A), "a.default.svc.cluster.local");
    assert_eq!(probe.headers, [("x-probe".to_owned(), "1".to_owned())]);
    assert_eq!((probe.interval, probe.timeout), (SECOND, 3 * SECOND));
}

#[test]
fn no_request_of_a_user_is_a_probe() {
    let mut proxy = half_open(PROBED);
    for vm in 0..4 {
        let rejected = proxy.admit(vm, A);
        assert!(
            matches!(rejected, Admission::Reject { cause: Cause::Open, retry_after: SECOND, .. }),
            "{rejected:?} while a probe is out"
        );
    }
    answer(&mut proxy, WELL);
    assert!(!proxy.request(0, A, Outcome::Success), "between two probes");
    assert_eq!(proxy.host.value(&REJECTED, A, "open"), 5);
}

#[test]
fn a_bad_answer_or_none_reopens_for_twice_as_long() {
    for reply in [Some(500), Some(404), None] {
        let mut proxy = half_open(PROBED);
        answer(&mut proxy, reply);
        assert_eq!((proxy.state(A), probes(&proxy)), (2, [0, 1]), "{reply:?}");
        assert_eq!(proxy.host.value(&TRIPS, A, "probe_failed"), 1);
        proxy.pass(59 * SECOND);
        assert_eq!(proxy.host.sent().len(), 1, "nobody is tested while OPEN");
        proxy.pass(SECOND);
        assert_eq!(proxy.host.sent().len(), 2);
    }
}

#[test]
fn the_policy_says_which_answers_are_good() {
    let mut proxy = half_open(
        r#"{"successThreshold": 1, "activeProbe": {"path": "/", "expectedStatus": [204, "401-404"]}, "ramp": {"duration": "0s"}}"#,
    );
    answer(&mut proxy, Some(404));
    assert_eq!((proxy.state(A), probes(&proxy)), (0, [1, 0]));
}

#[test]
fn an_older_configuration_still_hears_of_its_probe() {
    let mut proxy = half_open(PROBED);
    let mut old = std::mem::take(&mut proxy.vms);
    proxy.configure(4, &config(PROBED));
    let now = proxy.now;
    old.iter_mut().for_each(|vm| {
        vm.retire();
        vm.probe_answered(1, Some(500), now);
        vm.tick(now + SECOND);
    });
    assert_eq!((proxy.state(A), probes(&proxy), proxy.host.sent().len()), (2, [0, 1], 1));
}

#[test]
fn a_probe_that_hangs_has_failed_at_its_timeout() {
    let mut proxy = half_open(r#"{"activeProbe": {"path": "/healthz", "timeout": "2s"}}"#);
    proxy.pass(1500 * MILLISECOND);
    assert_eq!((proxy.state(A), proxy.host.sent().len()), (1, 1));
    proxy.pass(500 * MILLISECOND);
    assert_eq!((proxy.state(A), probes(&proxy)), (2, [0, 1]));
    answer(&mut proxy, WELL);
    assert_eq!((proxy.state(A), probes(&proxy)), (2, [0, 1]), "a late answer changes nothing");
}

#[test]
fn an_answer_after_the_timeout_is_none() {
    let mut proxy = half_open(PROBED);
    proxy.now += SECOND;
    answer(&mut proxy, WELL);
    assert_eq!((proxy.state(A), probes(&proxy)), (2, [0, 1]));
}

#[test]
fn an_upstream_that_cannot_even_be_asked_has_failed() {
    let mut proxy = Proxy::start(4, &config(PROBED));
    proxy.host.sends(Sending::Fails);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!((proxy.state(A), probes(&proxy)), (2, [0, 1]));
    assert_eq!(proxy.reasons(), ["consecutive", "open_over", "probe_failed"]);
}

/// Nobody would ever learn that the upstream is well.
#[test]
fn where_the_host_sends_nothing_users_test() {
    let mut proxy = Proxy::start(4, &config(PROBED));
    proxy.host.sends(Sending::Refused);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!((proxy.state(A), probes(&proxy)), (1, [0, 0]));
    assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", "host"), 4, "each worker has tried, once");
    for vm in 0..3 {
        assert!(matches!(proxy.admit(vm, A), Admission::Pass(permit @ Permit::Probe { .. }) if {
            proxy.settle(vm, A, permit, Outcome::Success);
            true
        }));
    }
    assert_eq!(last_reason(&proxy), "probes_succeeded");
    proxy.pass(5 * SECOND);
    assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", "host"), 4, "nor is it tried again and again");
    // The next outage begins afresh.
    proxy.host.sends(Sending::Works);
    proxy.fail(A, 200);
    proxy.pass(60 * SECOND);
    assert_eq!(proxy.host.sent().len(), 1);
}

#[test]
fn a_probe_whose_worker_died_gives_its_place_back_with_its_lease() {
    let mut proxy = half_open(PROBED);
    // The worker that ticked first has sent it.
    proxy.vms.remove(0);
    proxy.pass(2500 * MILLISECOND);
    assert_eq!(proxy.host.sent().len(), 1, "the lease outlives the timeout by its grace");
    proxy.pass(500 * MILLISECOND);
    assert_eq!((proxy.state(A), proxy.host.sent().len()), (1, 2), "nobody knows that it failed");
    for _ in 0..3 {
        answer(&mut proxy, WELL);
        proxy.pass(SECOND);
    }
    assert_eq!((last_reason(&proxy).as_str(), probes(&proxy)), ("probes_succeeded", [3, 0]));
}

#[test]
fn without_any_traffic_the_ramp_ends_on_probes_too() {
    let mut proxy = half_open(r#"{"successThreshold": 1, "activeProbe": {"path": "/"}, "ramp": {"duration": "10s"}}"#);
    answer(&mut proxy, WELL);
    assert_eq!(last_reason(&proxy), "probes_succeeded");
    for step in 1..=10 {
        proxy.pass(1500 * MILLISECOND);
        assert_eq!(proxy.host.sent().len(), step, "the step may still see a call");
        proxy.pass(500 * MILLISECOND);
        assert_eq!(proxy.host.sent().len(), step + 1, "it has waited twice its time");
        answer(&mut proxy, WELL);
    }
    assert_eq!((proxy.state(A), last_reason(&proxy).as_str()), (0, "ramp_done"));
    assert_eq!(probes(&proxy), [11, 0]);
}

#[test]
fn a_bad_probe_in_the_ramp_reopens() {
    let mut proxy = half_open(r#"{"successThreshold": 1, "activeProbe": {"path": "/"}, "ramp": {"duration": "10s"}}"#);
    answer(&mut proxy, WELL);
    proxy.pass(2 * SECOND);
    answer(&mut proxy, Some(503));
    assert_eq!((proxy.state(A), last_reason(&proxy).as_str()), (2, "probe_failed"));
}

#[test]
fn a_ramp_with_traffic_needs_no_probe() {
    let mut proxy = half_open(r#"{"successThreshold": 1, "activeProbe": {"path": "/"}, "ramp": {"duration": "10s"}}"#);
    answer(&mut proxy, WELL);
    while proxy.state(A) == 1 {
        proxy.succeed(A, 40);
        proxy.pass(500 * MILLISECOND);
    }
    assert_eq!((last_reason(&proxy).as_str(), proxy.host.sent().len()), ("ramp_done", 1));
}

#[test]
fn observe_probes_too_and_rejects_nothing() {
    let mode =
        r#"{"default": {"mode": "observe", "open": {"jitterPercent": 0}, "halfOpen": {"activeProbe": {"path": "/"}}}}"#;
    let mut proxy = Proxy::start(4, mode);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!(proxy.host.sent().len(), 1);
    assert!(proxy.request(1, A, BAD), "it passes");
    assert_eq!((proxy.state(A), proxy.host.value(&WOULD_REJECT, A, "open")), (1, 1), "and decides nothing");
}

#[test]
fn nothing_is_sent_where_the_policy_wants_no_probe_or_no_circuit() {
    for policy in [
        r#"{"default": {}, "upstreams": []}"#,
        r#"{"default": {"mode": "forceOpen", "halfOpen": {"activeProbe": {"path": "/"}}}}"#,
        r#"{"default": {"mode": "disabled", "halfOpen": {"activeProbe": {"path": "/"}}}}"#,
        r#"{"default": {"halfOpen": {"activeProbe": {"path": "/"}}},
            "upstreams": [{"match": {"port": 80}, "halfOpen": {"activeProbe": {"path": ""}}}]}"#,
    ] {
        let mut proxy = Proxy::start(2, policy);
        proxy.fail(A, 5);
        proxy.pass(40 * SECOND);
        assert!(proxy.host.sent().is_empty(), "{policy}");
    }
}

/// A probe is no use of the upstream.
#[test]
fn an_upstream_that_nobody_uses_any_more_is_forgotten_though_it_is_probed() {
    let limits = r#"{"default": {"halfOpen": {"activeProbe": {"path": "/"}}}, "limits": {"idleCircuit": "5m"}}"#;
    let mut proxy = Proxy::start(2, limits);
    proxy.fail(A, 5);
    for _ in 0..700 {
        proxy.pass(SECOND);
        answer(&mut proxy, Some(503));
    }
    assert!(proxy.host.circuits().is_empty());
    let sent = proxy.host.sent().len();
    proxy.pass(600 * SECOND);
    assert_eq!(proxy.host.sent().len(), sent);
}

#[test]
fn a_clock_that_steps_back_or_leaps_wedges_no_probe() {
    for hours in [-2_i64, 2] {
        let mut proxy = half_open(PROBED);
        proxy.now = proxy.now.saturating_add_signed(hours * 3_600 * 1_000_000_000);
        proxy.pass(10 * SECOND);
        assert_eq!((proxy.state(A), last_reason(&proxy).as_str()), (2, "probe_failed"), "{hours}: it hung");
    }
}

#[test]
fn a_good_answer_is_not_late_where_the_clock_has_leapt() {
    let mut proxy = Proxy::start(1, &config(PROBED));
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!(proxy.host.sent().len(), 1);
    let now = proxy.now + 30 * SECOND;
    proxy.vms[0].probe_answered(1, Some(200), now);
    assert_eq!(proxy.state(A), 1, "{:?}", proxy.reasons());
}

#[test]
fn a_count_that_fails_loses_no_verdict() {
    let mut proxy = Proxy::start(1, &config(PROBED));
    proxy.fail(A, 5);
    proxy.host.refuse(Some(|name| name.contains("probes_total")));
    proxy.pass(30 * SECOND);
    for _ in 0..8 {
        let (call, now) = (u32::try_from(proxy.host.sent().len()).unwrap(), proxy.now + MILLISECOND);
        proxy.vms[0].probe_answered(call, Some(200), now);
        proxy.pass(SECOND / 2);
    }
    assert!(proxy.reasons().contains(&"probes_succeeded".to_owned()), "{:?}", proxy.reasons());
}

#[test]
fn many_circuits_that_end_their_open_time_at_once_are_not_probed_at_once() {
    let forced = config(PROBED)
        .replacen("{", r#"{"limits": {"maxCircuits": 200}, "#, 1)
        .replace(r#""open""#, r#""mode": "forceOpen", "open""#);
    let mut proxy = Proxy::start(2, &forced);
    for number in 0..200 {
        proxy.request(0, &format!("outbound|80||{number}.svc"), Outcome::Success);
    }
    proxy.pass(5 * SECOND);
    proxy.reconfigure(&forced.replace("forceOpen", "enforce"));
    let mut sent = 0;
    for _ in 0..40 {
        proxy.pass(SECOND / 2);
        let now = proxy.host.sent().len();
        assert!(now - sent <= 32, "{} at one tick of two workers", now - sent);
        sent = now;
    }
    assert!(sent >= 200, "{sent}");
}
