//! Ways in which other breakers stay HALF_OPEN for ever, each with the issue that reported it. The tests show that
//! none of them happens here.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{Answer, Ending, FailureKind, Outcome};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";

/// HALF_OPEN, with one probe slot over four workers.
fn half_open(failure: &str) -> Proxy {
    let config = format!(
        r#"{{"default": {{"failure": {failure}, "open": {{"jitterPercent": 0}}, "trip": {{"minimumCalls": 100, "slowCallDuration": "10s"}},
        "halfOpen": {{"successThreshold": 2, "ramp": {{"duration": "10s"}}}}}}}}"#
    );
    let mut proxy = Proxy::start(4, &config);
    proxy.fail(A, 5);
    proxy.pass(31 * SECOND);
    assert_eq!(proxy.state(A), 1);
    proxy
}

fn probe(proxy: &mut Proxy, vm: usize) -> Permit {
    match proxy.admit(vm, A) {
        Admission::Pass(permit @ Permit::Probe { .. }) => permit,
        other => panic!("a probe may go: {other:?}"),
    }
}

/// The upstream is well and has a call a second: the circuit must close.
fn closes(proxy: &mut Proxy) {
    for second in 0..60 {
        proxy.request(second % 4, A, Outcome::Success);
        proxy.pass(SECOND);
    }
    assert_eq!(proxy.state(A), 0, "{:?}", proxy.reasons());
}

/// alibaba/Sentinel#1638, sentinel-golang#196: the probe is admitted and then blocked by a rule further on, so it never
/// completes.
#[test]
fn sentinel_1638_a_probe_that_another_filter_blocks() {
    let mut proxy = half_open("{}");
    for vm in 0..4 {
        let permit = probe(&mut proxy, vm);
        let now = proxy.now;
        // A fault, a rate limit, an authorization; or a reply that another filter made without any flag.
        let blocked = [
            Answer { status: 503, ..Answer::ended(Ending::Injected) },
            Answer { status: 503, ..Answer::ended(Ending::Elsewhere) },
        ];
        proxy.vms[vm].settle(permit, Some(A), &blocked[vm % 2], None, now);
    }
    closes(&mut proxy);
}

/// resilience4j/resilience4j#903: fewer calls come than the rate needs, and nothing is ever decided.
#[test]
fn resilience4j_903_fewer_calls_than_the_minimum() {
    let mut proxy = half_open("{}");
    for minute in 0..30 {
        proxy.request(minute % 4, A, Outcome::Success);
        proxy.pass(60 * SECOND);
    }
    assert_eq!(proxy.state(A), 0, "{:?}", proxy.reasons());
}

/// resilience4j/resilience4j#935, #544: permits whose calls never report back.
#[test]
fn resilience4j_935_probes_whose_worker_dies() {
    let mut proxy = half_open("{}");
    for _ in 0..5 {
        probe(&mut proxy, 0);
        // The VM traps: nothing of it is left, and a new one starts over what the host holds.
        let config = r#"{"default": {"open": {"jitterPercent": 0}, "halfOpen": {"successThreshold": 2, "probeTimeout": "10s", "ramp": {"duration": "10s"}}}}"#;
        proxy.configure(4, config);
        proxy.pass(13 * SECOND);
    }
    closes(&mut proxy);
}

/// resilience4j/resilience4j#1389: calls that never end.
#[test]
fn resilience4j_1389_a_probe_that_hangs() {
    let mut proxy = half_open("{}");
    for turn in 0..3 {
        probe(&mut proxy, turn);
        // It times out, the circuit is OPEN for its time, and then another probe may go.
        proxy.pass(10 * SECOND + 300 * SECOND);
        assert_eq!(proxy.state(A), 1);
    }
    closes(&mut proxy);
}

/// nodeshift/opossum#388, resilience4j/resilience4j#544: the probe ends in something that the policy ignores.
#[test]
fn opossum_388_a_probe_whose_error_is_ignored() {
    for ignored in [
        Answer { status: 404, ..Answer::default() },
        Answer { status: 503, ..Answer::default() },
        Answer { status: 503, ..Answer::ended(Ending::Failed(FailureKind::Connect)) },
        Answer { status: 200, grpc_status: Some(14), ..Answer::default() },
        Answer { status: 429, ..Answer::default() },
        Answer::ended(Ending::LeftWaiting { delayed: false }),
    ] {
        let mut proxy = half_open("{}");
        // From here on the policy ignores what trips by default.
        proxy.configure(
            4,
            r#"{"default": {"failure": {"httpStatus": [], "grpcStatus": [], "upstreamErrors": [], "rateLimited": "ignore"}}}"#,
        );
        for vm in 0..4 {
            if let Admission::Pass(permit) = proxy.admit(vm, A) {
                let now = proxy.now;
                proxy.vms[vm].settle(permit, Some(A), &ignored, Some(1), now);
            }
        }
        closes(&mut proxy);
    }
}

/// resilience4j/resilience4j#1432: HALF_OPEN lets a crowd through.
#[test]
fn resilience4j_1432_a_crowd_at_the_moment_of_half_open() {
    let mut proxy = half_open("{}");
    let admitted = (0..1000).filter(|turn| matches!(proxy.admit(turn % 4, A), Admission::Pass(_))).count();
    assert_eq!(admitted, 1);
}

/// A failed probe reopens, however often: neither the trips nor the time grow past their bounds.
#[test]
fn an_upstream_that_stays_down_for_a_week_is_asked_again_within_the_longest_open_time() {
    let mut proxy = half_open("{}");
    for _ in 0..2000 {
        let permit = probe(&mut proxy, 0);
        proxy.settle(0, A, permit, Outcome::Failure(FailureKind::Http));
        proxy.now += 300 * SECOND;
        proxy.pass(SECOND);
    }
    closes(&mut proxy);
}
