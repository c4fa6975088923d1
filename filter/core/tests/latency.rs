//! The latency condition: a percentile of the window's latencies over a threshold, exactly, over all workers.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]

use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::MILLISECOND;
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics;
use circuit_breaker_core::testing::{Calls, Proxy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const UPSTREAM: &str = "outbound|80||api.default.svc.cluster.local";

const P95: &str =
    r#"{"default": {"trip": {"latencyPercentile": 95, "latencyThreshold": "800ms", "minimumCalls": 20}}}"#;

/// Good calls of this latency, spread over all workers.
fn take(proxy: &mut Proxy, milliseconds: u64, times: usize) {
    proxy.first_byte = milliseconds * MILLISECOND;
    proxy.succeed(UPSTREAM, times);
}

#[test]
fn the_call_that_takes_the_percentile_over_the_threshold_trips_whichever_worker_has_it() {
    for workers in [1, 4] {
        let mut proxy = Proxy::start(workers, P95);
        take(&mut proxy, 800, 95);
        take(&mut proxy, 801, 5);
        assert_eq!((proxy.state(UPSTREAM), proxy.reasons().len()), (0, 0), "the 95th of 100 is in time");
        take(&mut proxy, 2000, 1);
        assert_eq!((proxy.state(UPSTREAM), proxy.reasons()), (2, vec!["latency".to_owned()]));
        assert_eq!(proxy.host.value(&metrics::TRIPS, UPSTREAM, "latency"), 1);
        assert_eq!(proxy.host.value(&metrics::OVER_THRESHOLD, UPSTREAM, ""), 6);
        assert!(
            proxy.host.log_lines()[0].contains(r#""window":{"calls":101,"failures":0,"slow":0,"over_threshold":6}"#)
        );
    }
}

#[test]
fn no_percentile_of_fewer_calls_than_the_minimum() {
    let mut proxy = Proxy::start(2, P95);
    take(&mut proxy, 5000, 19);
    assert_eq!(proxy.state(UPSTREAM), 0);
    take(&mut proxy, 1, 1);
    assert_eq!(proxy.state(UPSTREAM), 2, "a call in time that makes them enough decides too");
}

#[test]
fn it_agrees_with_the_sorted_latencies_at_every_call() {
    for (percentile, threshold) in [(50.0, 300), (90.0, 700), (99.0, 950), (99.5, 500), (100.0, 990)] {
        let config = format!(
            r#"{{"default": {{"trip": {{"latencyPercentile": {percentile}, "latencyThreshold": "{threshold}ms", "minimumCalls": 1}}}}}}"#
        );
        let mut random = 0x2545_f491_4f6c_dd1d_u64 ^ threshold;
        for fastest in [0, 200, 600] {
            let mut proxy = Proxy::start(3, &config);
            let mut seen: Vec<u64> = Vec::new();
            for turn in 0..400 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Rarely over the threshold at first, so that the windows grow.
                let span = if turn < 20 { threshold.saturating_sub(fastest).max(1) } else { 1000 - fastest };
                let latency = fastest + (random >> 33) % span;
                seen.push(latency);
                seen.sort_unstable();
                take(&mut proxy, latency, 1);
                let rank = (percentile / 100.0 * seen.len() as f64 - 1e-9).ceil() as usize;
                let over = seen[rank.max(1) - 1] > threshold;
                assert_eq!(proxy.state(UPSTREAM) == 2, over, "p{percentile} of {} calls, {fastest}", seen.len());
                if over {
                    break;
                }
            }
        }
    }
}

#[test]
fn what_left_the_window_no_longer_counts() {
    let mut proxy = Proxy::start(2, P95);
    take(&mut proxy, 5000, 15);
    proxy.pass(12 * SECOND);
    take(&mut proxy, 10, 100);
    assert_eq!(proxy.state(UPSTREAM), 0);
    proxy.pass(12 * SECOND);
    assert_eq!(proxy.host.value(&metrics::SHARED, UPSTREAM, "watch"), 0, "and successes pass unlooked at again");
}

#[test]
fn calls_without_an_answer_have_the_time_they_waited() {
    let mut proxy = Proxy::start(1, P95);
    proxy.succeed(UPSTREAM, 30);
    for _ in 0..2 {
        let Admission::Pass(permit) = proxy.admit(0, UPSTREAM) else { panic!("CLOSED") };
        proxy.pass(SECOND);
        let now = proxy.now;
        let timeout = circuit_breaker_core::testing::answer(Outcome::Failure(FailureKind::Timeout));
        proxy.vms[0].settle(permit, Some(UPSTREAM), &timeout, None, now);
    }
    assert_eq!(proxy.reasons(), ["latency"], "2 of 32, long before 5 in a row or half of them");
}

#[test]
fn a_stream_that_began_late_counts_while_it_lives() {
    let mut proxy = Proxy::start(1, P95);
    proxy.host.answers_begin(circuit_breaker_core::policy::classify::Answer::well());
    let permits: Vec<Permit> = (0..20)
        .map(|_| match proxy.admit(0, UPSTREAM) {
            Admission::Pass(permit) => permit,
            Admission::Reject { .. } => panic!("CLOSED"),
        })
        .collect();
    proxy.now += 900 * MILLISECOND;
    let now = proxy.now;
    for permit in &permits {
        proxy.vms[0].arrived(*permit, now);
    }
    proxy.pass(3 * SECOND);
    assert_eq!(proxy.reasons()[0], "latency");
}

#[test]
fn in_the_ramp_it_takes_more_than_one_call_over_the_threshold() {
    let to_ramp = |proxy: &mut Proxy| {
        take(proxy, 2000, 20);
        proxy.pass(40 * SECOND);
        for _ in 0..3 {
            take(proxy, 1, 1);
        }
        assert_eq!(proxy.reasons(), ["latency", "open_over", "probes_succeeded"]);
        // Late enough in the ramp that calls get through, and with enough good ones for a percentile.
        proxy.pass(SECOND);
        take(proxy, 1, 60);
    };
    let mut proxy = Proxy::start(1, P95);
    to_ramp(&mut proxy);
    let over = |proxy: &Proxy| proxy.host.value(&metrics::OVER_THRESHOLD, UPSTREAM, "");
    let before = over(&proxy);
    for (calls, transitions) in [(2, 3), (3, 4)] {
        // The ramp admits a share. The test sends as many requests as that takes, up to a bound.
        for _ in 0..200 {
            if over(&proxy) < before + calls {
                take(&mut proxy, 2000, 1);
            }
        }
        assert_eq!((over(&proxy), proxy.reasons().len()), (before + calls, transitions), "{:?}", proxy.reasons());
    }
    assert_eq!(proxy.reasons()[3], "ramp_failed");
}

#[test]
fn switched_off_it_costs_nothing_and_defines_nothing() {
    let cost = |config: &str| {
        let mut proxy = Proxy::start(1, config);
        take(&mut proxy, 5000, 5);
        proxy.fail(UPSTREAM, 1);
        let before = proxy.host.calls();
        take(&mut proxy, 5000, 100);
        let after = proxy.host.calls();
        Calls { bytes: after.bytes - before.bytes, words: after.words - before.words }
    };
    let never_over = r#"{"default": {"trip": {"latencyPercentile": 95, "latencyThreshold": "10s"}}}"#;
    let (off, on) = (cost("{}"), cost(never_over));
    assert_eq!(off.bytes, on.bytes);
    assert!(off.words < on.words, "while a failure is watched, the condition reads one counter more");
}

#[test]
fn one_without_the_other_is_refused() {
    for (given, message) in [
        (
            r#"{"default": {"trip": {"latencyPercentile": 95}}}"#,
            "default.trip.latencyThreshold: is off, and latencyPercentile is given; allowed: a duration such as \"800ms\", or both off",
        ),
        (
            r#"{"upstreams": [{"match": {"host": "a"}, "trip": {"latencyThreshold": "1s"}}]}"#,
            "upstreams[0].trip.latencyPercentile: is off, and latencyThreshold is given; allowed: a percentile such as 95, or both off",
        ),
    ] {
        let error = circuit_breaker_core::config::Config::parse(given.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

const NO_THRESHOLD: &str = r#"{"default": {"trip": {"minimumCalls": 20}, "open": {"jitterPercent": 0},
    "halfOpen": {"ramp": {"duration": "0s"}}}}"#;
const MEDIAN: &str = r#"{"default": {"trip": {"latencyPercentile": 50, "latencyThreshold": "800ms", "minimumCalls": 20},
    "open": {"jitterPercent": 0}, "halfOpen": {"ramp": {"duration": "0s"}}}}"#;

/// Some calls over the threshold, too few to trip; then new VMs under a policy without one, for as long as a window.
fn without_a_threshold_after_some_over_it(workers: u64) -> Proxy {
    let mut proxy = Proxy::start(workers, MEDIAN);
    take(&mut proxy, 1, 400);
    take(&mut proxy, 900, 300);
    assert_eq!(proxy.state(UPSTREAM), 0);
    proxy.configure(workers, NO_THRESHOLD);
    for _ in 0..20 {
        take(&mut proxy, 1, 4);
        proxy.pass(SECOND);
    }
    proxy
}

#[test]
fn a_threshold_that_comes_back_finds_no_call_of_before_in_its_window() {
    for workers in [1, 4] {
        let mut proxy = without_a_threshold_after_some_over_it(workers);
        proxy.reconfigure(MEDIAN);
        take(&mut proxy, 1, 40);
        take(&mut proxy, 900, 1);
        assert_eq!((proxy.reasons(), proxy.state(UPSTREAM)), (vec![], 0), "{workers} workers");
        take(&mut proxy, 900, 120);
        assert_eq!(proxy.reasons(), ["latency"], "and counts from then on");
    }
}

/// While an update is on its way some workers have the threshold and some do not.
#[test]
fn a_generation_that_a_worker_without_a_threshold_begins_holds_no_call_of_before() {
    let mut proxy = without_a_threshold_after_some_over_it(2);
    let newer = Proxy::on_at(proxy.host.clone(), 1, MEDIAN, proxy.now).vms;
    proxy.fail(UPSTREAM, 5);
    proxy.pass(31 * SECOND);
    take(&mut proxy, 1, 3);
    assert_eq!((proxy.state(UPSTREAM), proxy.reasons().len()), (0, 3));
    proxy.vms = newer;
    proxy.pass(SECOND);
    take(&mut proxy, 1, 40);
    take(&mut proxy, 900, 1);
    assert_eq!((proxy.state(UPSTREAM), proxy.reasons().len()), (0, 3), "{:?}", proxy.reasons());
    take(&mut proxy, 900, 60);
    assert_eq!(proxy.reasons()[3..], ["latency"], "and counts from then on");
}
