//! A host call that fails costs the decision that it belongs to, and no later one.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::Admission;
use circuit_breaker_core::config::Config;
use circuit_breaker_core::telemetry::metrics::INTERNAL_ERRORS;
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";

/// A new VM learns the names of the circuits at its first tick, even if it could not meet what it shares with the
/// others.
#[test]
fn a_worker_whose_first_tick_the_host_fails_protects_its_first_request() {
    let mut proxy = Proxy::start(2, "");
    proxy.fail(A, 5);
    proxy.vms[0] = Breaker::start(proxy.host.clone(), Config::parse(b"").unwrap(), proxy.now, 7);
    proxy.host.fail_next_call();
    let now = proxy.now;
    proxy.vms[0].tick(now);
    let admission = proxy.admit(0, A);
    assert!(matches!(admission, Admission::Reject { .. }), "{admission:?}");
    assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", "host"), 1);
}
