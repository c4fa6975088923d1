//! Slow calls: those whose answers begin late, and those that still wait.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, TRIPS};
use circuit_breaker_core::testing::{Proxy, answer};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";
const SLOW: &str = r#"{"default": {"trip": {"slowCallRatePercent": 50, "slowCallDuration": "2s", "minimumCalls": 10},
    "open": {"jitterPercent": 0}}}"#;

fn begin(proxy: &mut Proxy, vm: usize, upstream: &str) -> Permit {
    let Admission::Pass(permit) = proxy.admit(vm, upstream) else { panic!("admitted") };
    permit
}

fn counts(proxy: &Proxy, upstream: &str) -> [u64; 4] {
    ["success", "failure", "slow", "neutral"].map(|component| proxy.host.value(&CALLS, upstream, component))
}

#[test]
fn a_call_that_the_tick_has_counted_is_not_counted_again_when_it_ends_well() {
    for shortly in [false, true] {
        let mut proxy = Proxy::start(1, SLOW);
        proxy.succeed(A, 1);
        proxy.pass(SECOND);
        proxy.host.answers_begin(circuit_breaker_core::policy::classify::Answer::well());
        let permit = begin(&mut proxy, 0, A);
        let now = proxy.now;
        proxy.vms[0].arrived(permit, now);
        proxy.pass(3 * SECOND);
        assert_eq!(counts(&proxy, A), [2, 0, 0, 0]);
        if shortly {
            assert!(proxy.vms[0].settle_well(permit, A, Some(1)));
        } else {
            proxy.settle(0, A, permit, Outcome::Success);
        }
        assert_eq!(counts(&proxy, A), [2, 0, 0, 0]);
    }
}

#[test]
fn answers_that_begin_late_trip_by_their_share() {
    let mut proxy = Proxy::start(4, SLOW);
    proxy.succeed(A, 5);
    proxy.first_byte = 2 * SECOND;
    proxy.succeed(A, 4);
    assert_eq!((proxy.state(A), counts(&proxy, A)), (0, [5, 0, 4, 0]));
    proxy.first_byte = 2 * SECOND - 1;
    proxy.succeed(A, 1);
    assert_eq!(proxy.state(A), 0, "4 of 10");
    proxy.first_byte = 2 * SECOND;
    proxy.succeed(A, 2);
    assert_eq!((proxy.state(A), proxy.host.value(&TRIPS, A, "slow_rate")), (2, 1), "6 of 12");
}

#[test]
fn a_hung_upstream_trips_though_no_call_ever_ends() {
    for workers in [1, 4] {
        let mut proxy = Proxy::start(workers, SLOW);
        proxy.pass(SECOND);
        let hung: Vec<Permit> = (0..30).map(|turn| begin(&mut proxy, turn % workers as usize, A)).collect();
        proxy.pass(1900 * MILLISECOND);
        assert_eq!(proxy.state(A), 0, "none has waited 2 s");
        proxy.pass(1100 * MILLISECOND);
        assert_eq!((proxy.state(A), proxy.reasons()), (2, vec!["consecutive".to_owned()]));
        let slow = counts(&proxy, A)[2];
        for (turn, permit) in hung.into_iter().enumerate() {
            proxy.settle(turn % workers as usize, A, permit, Outcome::Failure(FailureKind::Timeout));
        }
        assert_eq!(counts(&proxy, A), [0, 0, slow, 0], "each counts once, when it was too old");
        assert_eq!(slow, 30);
    }
}

#[test]
fn each_upstream_has_its_own_patience() {
    let config = r#"{"default": {"trip": {"slowCallDuration": "60s"}},
        "upstreams": [{"match": {"cluster": "fast"}, "trip": {"slowCallDuration": "1s", "minimumCalls": 5}},
                      {"match": {"cluster": "patient"}, "trip": {"slowCallDuration": "0s"}}]}"#;
    let mut proxy = Proxy::start(2, config);
    proxy.pass(SECOND);
    for turn in 0..10 {
        for upstream in ["fast", "patient", B] {
            begin(&mut proxy, turn % 2, upstream);
        }
    }
    proxy.pass(30 * SECOND);
    assert_eq!((proxy.state("fast"), proxy.state("patient"), proxy.state(B)), (2, 0, 0));
    proxy.pass(90 * SECOND);
    assert_eq!((counts(&proxy, "patient"), counts(&proxy, B)), ([0; 4], [0, 0, 10, 0]));
}

#[test]
fn an_answer_in_time_is_not_slow_however_long_its_body() {
    let mut proxy = Proxy::start(1, SLOW);
    proxy.pass(SECOND);
    let stream = begin(&mut proxy, 0, A);
    let now = proxy.now;
    proxy.vms[0].arrived(stream, now);
    proxy.pass(100 * SECOND);
    proxy.settle(0, A, stream, Outcome::Success);
    assert_eq!(counts(&proxy, A), [1, 0, 0, 0]);
}

#[test]
fn a_call_cancelled_after_its_time_is_slow_and_before_it_neutral() {
    let mut proxy = Proxy::start(1, SLOW);
    proxy.pass(SECOND);
    let (early, late) = (begin(&mut proxy, 0, A), begin(&mut proxy, 0, A));
    proxy.pass(SECOND);
    proxy.settle(0, A, early, Outcome::Neutral);
    // A tick would have settled it.
    proxy.pass(900 * MILLISECOND);
    proxy.now += 100 * MILLISECOND;
    proxy.settle(0, A, late, Outcome::Neutral);
    assert_eq!(counts(&proxy, A), [0, 0, 1, 1]);
}

#[test]
fn a_slow_probe_reopens() {
    let mut proxy = Proxy::start(1, SLOW);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    proxy.first_byte = 2 * SECOND;
    assert!(proxy.request(0, A, Outcome::Success));
    assert_eq!((proxy.state(A), proxy.host.value(&TRIPS, A, "probe_failed")), (2, 1));
}

#[test]
fn slow_calls_of_before_a_trip_do_not_count_after_it() {
    let mut proxy = Proxy::start(2, SLOW);
    proxy.pass(SECOND);
    let hung: Vec<Permit> = (0..30).map(|turn| begin(&mut proxy, turn % 2, A)).collect();
    proxy.fail(A, 5);
    proxy.pass(29 * SECOND);
    assert_eq!(proxy.reasons(), ["consecutive"]);
    assert_eq!(counts(&proxy, A)[2], 30);
    drop(hung);
}

#[test]
fn a_stream_that_lives_long_is_good_a_moment_after_its_headers_and_once() {
    let mut proxy = Proxy::start(2, SLOW);
    proxy.pass(SECOND);
    proxy.host.answers_begin(answer(Outcome::Success));
    let stream = begin(&mut proxy, 1, A);
    let now = proxy.now;
    proxy.vms[1].arrived(stream, now);
    proxy.pass(500 * MILLISECOND);
    assert_eq!(counts(&proxy, A), [0; 4]);
    proxy.pass(SECOND);
    assert_eq!(counts(&proxy, A), [1, 0, 0, 0], "while it lives");
    proxy.pass(3600 * SECOND);
    proxy.settle(1, A, stream, Outcome::Failure(FailureKind::Reset));
    assert_eq!(counts(&proxy, A), [1, 1, 0, 0], "a failure after a good beginning is counted too");
}

#[test]
fn a_stream_that_breaks_off_at_once_has_failed() {
    let mut proxy = Proxy::start(1, SLOW);
    proxy.pass(SECOND);
    proxy.host.answers_begin(answer(Outcome::Success));
    let stream = begin(&mut proxy, 0, A);
    let now = proxy.now;
    proxy.vms[0].arrived(stream, now);
    proxy.settle(0, A, stream, Outcome::Failure(FailureKind::Reset));
    proxy.pass(5 * SECOND);
    assert_eq!(counts(&proxy, A), [0, 1, 0, 0]);
}

#[test]
fn a_failing_answer_waits_for_its_end() {
    let mut proxy = Proxy::start(1, SLOW);
    proxy.pass(SECOND);
    proxy.host.answers_begin(answer(Outcome::Failure(FailureKind::Http)));
    let stream = begin(&mut proxy, 0, A);
    let now = proxy.now;
    proxy.vms[0].arrived(stream, now);
    proxy.pass(5 * SECOND);
    assert_eq!(counts(&proxy, A), [0; 4]);
    proxy.settle(0, A, stream, Outcome::Failure(FailureKind::Http));
    assert_eq!(counts(&proxy, A), [0, 1, 0, 0]);
}

#[test]
fn long_polls_beside_an_impatient_policy_are_looked_at_once() {
    let config = r#"{"default": {"trip": {"slowCallDuration": "60s"}},
        "upstreams": [{"match": {"host": "impatient"}, "trip": {"slowCallDuration": "100ms"}}]}"#;
    let mut proxy = Proxy::start(1, config);
    let polls: Vec<_> = (0..10_000).map(|_| proxy.admit(0, A)).collect();
    assert_eq!(polls.len(), 10_000);
    proxy.pass(SECOND);
    let before = proxy.host.calls();
    proxy.pass(10 * SECOND);
    let looks = proxy.host.calls().bytes - before.bytes;
    // At each of two ticks a second: whether there are more circuits, and the circuit's turn to be read.
    assert!(looks <= 10 * 4, "{looks} calls that return bytes in ten seconds");
}
