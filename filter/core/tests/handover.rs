//! Slots that change hands while a request of their earlier circuit is still under way, and slots that wait for hands.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::config::SECOND;
use circuit_breaker_core::metrics::{INTERNAL_ERRORS, UNPROTECTED};
use circuit_breaker_core::permit::{Admission, Permit};
use circuit_breaker_core::testing::Proxy;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";

fn config(mode: &str, most: u32) -> String {
    format!(
        r#"{{"default": {{"mode": "{mode}", "open": {{"jitterPercent": 0}}, "fallback": {{"headers": {{"x-fallback": "1"}}}},
              "halfOpen": {{"ramp": {{"duration": "0s"}}}}}},
            "limits": {{"maxCircuits": {most}, "idleCircuit": "40s"}}}}"#
    )
}

fn start(most: u32) -> Proxy {
    Proxy::start(2, &config("enforce", most))
}

/// With ticks enough that nobody takes it for a leap of the clock.
fn wait(proxy: &mut Proxy, seconds: u64) {
    (0..seconds).for_each(|_| proxy.pass(SECOND));
}

fn pass(proxy: &mut Proxy, vm: usize, upstream: &str) -> Permit {
    match proxy.vms[vm].admit(700, upstream, proxy.now) {
        Admission::Pass(permit) => permit,
        Admission::Reject { .. } => panic!("it is let go"),
    }
}

fn no_errors(proxy: &Proxy) {
    for component in INTERNAL_ERRORS.components {
        assert_eq!(proxy.host.value(&INTERNAL_ERRORS, "", component), 0, "{component}: {:?}", proxy.host.log_lines());
    }
}

#[test]
fn slots_that_were_free_before_a_vm_began_are_used() {
    let mut proxy = start(2);
    proxy.succeed(A, 2);
    proxy.succeed(B, 2);
    wait(&mut proxy, 120);
    assert!(proxy.host.circuits().is_empty());
    proxy.configure(2, &config("enforce", 2));
    proxy.fail("c", 5);
    assert_eq!((proxy.state("c"), proxy.host.value(&UNPROTECTED, "", "")), (2, 0));
    proxy.reconfigure(&config("enforce", 3));
    proxy.reconfigure(&config("enforce", 2));
    proxy.fail("d", 5);
    assert_eq!((proxy.state("d"), proxy.host.value(&UNPROTECTED, "", "")), (2, 0));
    no_errors(&proxy);
}
