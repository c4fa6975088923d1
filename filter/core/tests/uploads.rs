//! Whose time it is: an upstream owes nothing before it has the whole request, and no client decides about a probe.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::permit::{Admission, Cause, Permit};
use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::policy::classify::{Answer, Ending, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, FAILURES, TRIPS};
use circuit_breaker_core::testing::{Proxy, answer};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const CONFIG: &str = r#"{"default": {"trip": {"slowCallDuration": "500ms"}, "open": {"jitterPercent": 0},
    "halfOpen": {"successThreshold": 2, "ramp": {"duration": "0s"}}}}"#;

fn counts(proxy: &Proxy) -> [u64; 4] {
    ["success", "failure", "slow", "neutral"].map(|component| proxy.host.value(&CALLS, A, component))
}

/// A request whose body is still to come.
fn begin(proxy: &mut Proxy, vm: usize) -> Permit {
    proxy.whole = false;
    let admission = proxy.admit(vm, A);
    proxy.whole = true;
    let Admission::Pass(permit) = admission else { panic!("{admission:?}") };
    permit
}

fn complete(proxy: &mut Proxy, vm: usize, permit: Permit) -> Admission {
    let now = proxy.now;
    proxy.vms[vm].request_ended(permit, now)
}

/// Its answer begins now, and is all there is.
fn respond(proxy: &mut Proxy, vm: usize, permit: Permit, answer: &Answer) {
    let now = proxy.now;
    let first_byte = proxy.vms[vm].arrived(permit, now);
    let permit = proxy.vms[vm].answered(permit, Some(A), answer, first_byte, now);
    proxy.vms[vm].settle(permit, Some(A), answer, first_byte, now);
}

/// A proxy of two workers whose circuit has just become HALF_OPEN.
fn half_open() -> Proxy {
    let mut proxy = Proxy::start(2, CONFIG);
    proxy.fail(A, 5);
    proxy.pass(30 * SECOND);
    assert_eq!(proxy.state(A), 1);
    proxy
}

#[test]
fn an_upload_takes_the_clients_time_and_its_answer_the_upstreams() {
    for calm in [true, false] {
        let mut proxy = Proxy::start(1, CONFIG);
        proxy.succeed(A, 1);
        if calm {
            proxy.pass(SECOND);
        } else {
            proxy.fail("other", 5);
        }
        for _ in 0..8 {
            let permit = begin(&mut proxy, 0);
            proxy.pass(2 * SECOND);
            complete(&mut proxy, 0, permit);
            proxy.now += MILLISECOND;
            respond(&mut proxy, 0, permit, &Answer::well());
        }
        assert_eq!((counts(&proxy), proxy.state(A)), ([9, 0, 0, 0], 0), "calm: {calm}");
    }
}

#[test]
fn a_complete_upload_that_nobody_answers_is_hung() {
    let mut proxy = Proxy::start(1, CONFIG);
    proxy.succeed(A, 1);
    proxy.pass(SECOND);
    let permits: Vec<Permit> = (0..5).map(|_| begin(&mut proxy, 0)).collect();
    proxy.pass(20 * SECOND);
    assert_eq!(counts(&proxy), [1, 0, 0, 0], "its client is still sending");
    for permit in permits {
        complete(&mut proxy, 0, permit);
    }
    proxy.pass(SECOND);
    assert_eq!((proxy.state(A), proxy.reasons()[0].as_str()), (2, "consecutive"));
    assert_eq!(counts(&proxy), [1, 0, 5, 0]);
}

#[test]
fn an_answer_before_the_requests_end_is_in_time() {
    let mut proxy = Proxy::start(1, CONFIG);
    proxy.succeed(A, 1);
    proxy.pass(SECOND);
    let permit = begin(&mut proxy, 0);
    proxy.pass(5 * SECOND);
    respond(&mut proxy, 0, permit, &Answer::well());
    assert_eq!(counts(&proxy), [2, 0, 0, 0]);
}

#[test]
fn a_probe_on_trial_makes_way_for_a_request_that_is_complete() {
    let mut proxy = half_open();
    let stalled = begin(&mut proxy, 0);
    assert!(matches!(stalled, Permit::Probe { .. }));
    let honest = proxy.admit(1, A);
    let Admission::Pass(permit @ Permit::Probe { .. }) = honest else { panic!("{honest:?}") };
    let Admission::Reject { cause, .. } = proxy.admit(0, A) else { panic!("one probe is out") };
    assert_eq!(cause, Cause::ProbeLimit);
    proxy.settle(1, A, permit, Outcome::Success);
    proxy.pass(60 * SECOND);
    assert_eq!(
        (proxy.state(A), proxy.host.value(&TRIPS, A, "probe_failed")),
        (1, 0),
        "a client that stalls fails nothing"
    );
    assert!(proxy.request(1, A, Outcome::Success));
    assert_eq!(proxy.state(A), 0);
    proxy.settle(0, A, stalled, Outcome::Neutral);
}

#[test]
fn no_number_of_stalling_clients_keeps_a_circuit_from_closing() {
    let mut proxy = half_open();
    let mut honest = 0;
    for turn in 0..200 {
        proxy.whole = false;
        for vm in 0..2 {
            proxy.admit(vm, A);
        }
        proxy.whole = true;
        proxy.now += 50 * MILLISECOND;
        if turn % 2 == 0 {
            honest += u64::from(proxy.request(turn % 2, A, Outcome::Success));
        }
    }
    assert_eq!((proxy.state(A), proxy.host.value(&TRIPS, A, "probe_failed")), (0, 0));
    assert_eq!(honest, 100, "every complete request found a slot");
}

#[test]
fn slow_uploads_alone_close_a_circuit() {
    let mut proxy = half_open();
    for _ in 0..2 {
        let permit = begin(&mut proxy, 0);
        proxy.pass(3 * SECOND);
        let Admission::Pass(permit @ Permit::Probe { .. }) = complete(&mut proxy, 0, permit) else {
            panic!("a slot is free")
        };
        proxy.now += MILLISECOND;
        respond(&mut proxy, 0, permit, &Answer::well());
    }
    assert_eq!(proxy.reasons(), ["consecutive", "open_over", "probes_succeeded"]);
}

#[test]
fn of_many_uploads_no_more_are_sent_whole_than_there_are_slots() {
    let mut proxy = half_open();
    let mut sending = Vec::new();
    for _ in 0..10 {
        // Each holds the slot on trial for a moment.
        sending.push(begin(&mut proxy, 0));
        proxy.pass(500 * MILLISECOND);
    }
    let ends: Vec<Admission> = sending.into_iter().map(|permit| complete(&mut proxy, 0, permit)).collect();
    assert!(matches!(ends[0], Admission::Pass(Permit::Probe { .. })));
    for end in &ends[1..] {
        assert!(matches!(end, Admission::Reject { cause: Cause::ProbeLimit, .. }), "{end:?}");
    }
}

#[test]
fn an_upload_whose_circuit_has_moved_on_goes_by_what_it_is_now() {
    for (bad, passes) in [(false, true), (true, false)] {
        let mut proxy = half_open();
        let upload = begin(&mut proxy, 0);
        for _ in 0..2 {
            let outcome = if bad {
                Outcome::Failure(circuit_breaker_core::policy::classify::FailureKind::Http)
            } else {
                Outcome::Success
            };
            proxy.request(1, A, outcome);
        }
        let end = complete(&mut proxy, 0, upload);
        assert_eq!(matches!(end, Admission::Pass(Permit::Call { .. })), passes, "{end:?}");
        assert_eq!(matches!(end, Admission::Reject { cause: Cause::Open, .. }), bad, "{end:?}");
    }
}

#[test]
fn a_complete_probe_that_hangs_fails_and_one_that_another_filter_holds_does_not() {
    for (held_back, delayed, state) in [(false, false, 2), (true, false, 1), (false, true, 1)] {
        let mut proxy = half_open();
        let permit = begin(&mut proxy, 0);
        assert!(matches!(complete(&mut proxy, 0, permit), Admission::Pass(Permit::Probe { .. })));
        proxy.host.holds_back(held_back, delayed);
        proxy.pass(2 * SECOND);
        assert_eq!(proxy.state(A), state, "held back: {held_back}, delayed: {delayed}");
    }
}

#[test]
fn a_client_that_leaves_counts_from_its_requests_last_byte_on() {
    let config = CONFIG.replace(r#""trip": {"slowCallDuration": "500ms"}"#, r#""failure": {"clientCancel": "2s"}"#);
    for (sent_after, waited, expected) in [(3, 1, [1, 0, 0, 1]), (1, 3, [1, 1, 0, 0])] {
        let mut proxy = Proxy::start(1, &config);
        proxy.succeed(A, 1);
        proxy.pass(SECOND);
        let permit = begin(&mut proxy, 0);
        proxy.pass(sent_after * SECOND);
        complete(&mut proxy, 0, permit);
        proxy.pass(waited * SECOND);
        let now = proxy.now;
        let left = Answer::ended(Ending::LeftWaiting { delayed: false });
        proxy.vms[0].settle(permit, Some(A), &left, None, now);
        assert_eq!(counts(&proxy), expected);
        assert_eq!(proxy.host.value(&FAILURES, A, "client_cancel"), expected[1]);
    }
}

#[test]
fn a_call_that_another_filter_holds_back_is_not_hung() {
    for delayed in [false, true] {
        let mut proxy = Proxy::start(1, CONFIG);
        proxy.succeed(A, 1);
        proxy.pass(SECOND);
        proxy.host.holds_back(true, delayed);
        let permits: Vec<Admission> = (0..5).map(|_| proxy.admit(0, A)).collect();
        proxy.pass(5 * SECOND);
        assert_eq!(counts(&proxy), [1, 0, 0, 0], "the upstream has none of them");
        proxy.host.holds_back(false, delayed);
        proxy.pass(400 * MILLISECOND);
        assert_eq!(counts(&proxy), [1, 0, 0, 0]);
        proxy.pass(2 * SECOND);
        assert_eq!(counts(&proxy), [1, 0, 5, 0], "now it has had them for long enough");
        drop(permits);
    }
}

#[test]
fn an_injected_delay_is_the_upstreams_only_in_a_drill() {
    for (policy, expected) in [("neutral", [2, 0, 0, 0]), ("failure", [1, 0, 1, 0])] {
        let failure = format!(r#""failure": {{"injectedFaults": "{policy}"}}, "trip""#);
        let mut proxy = Proxy::start(1, &CONFIG.replace(r#""trip""#, &failure));
        proxy.succeed(A, 1);
        let Admission::Pass(permit) = proxy.admit(0, A) else { panic!("CLOSED") };
        let now = proxy.now;
        let delayed = Answer { injected_delay: 600 * MILLISECOND, ..answer(Outcome::Success) };
        proxy.vms[0].settle(permit, Some(A), &delayed, Some(MILLISECOND), now);
        assert_eq!(counts(&proxy), expected, "{policy}");
    }
}
