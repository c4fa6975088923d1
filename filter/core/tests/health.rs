//! The health endpoint: which circuits decide, when the overall health turns, and that all workers say the same.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::config::Config;
use circuit_breaker_core::policy::classify::Outcome;
use circuit_breaker_core::telemetry::metrics::CALLS;
use circuit_breaker_core::testing::{Proxy, Sending};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.shop.svc";
const B: &str = "outbound|80||b.shop.svc";
const C: &str = "outbound|80||c.other.svc";
const PATH: &[u8] = b"/health";

/// `health`: fields of the endpoint beside its path and its times. OPEN lasts 20 s, and there is no ramp.
fn config(mode: &str, health: &str) -> String {
    format!(
        r#"{{"default": {{"mode": "{mode}", "open": {{"baseDuration": "20s", "jitterPercent": 0}},
            "halfOpen": {{"ramp": {{"duration": "0s"}}}}}},
            "health": {{"path": "/health", "after": "5s", "recoverAfter": "15s", "detail": true{health}}}}}"#
    )
}

/// What all workers answer, which is the same.
fn answer(proxy: &mut Proxy) -> (bool, String) {
    let now = proxy.now;
    let mut answers: Vec<_> = proxy.vms.iter_mut().map(|vm| vm.health(PATH, now).unwrap()).collect();
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    (answers[0].healthy, answers[0].body.clone())
}

fn is_healthy(proxy: &mut Proxy) -> bool {
    answer(proxy).0
}

fn served(mode: &str, health: &str) -> Proxy {
    let mut proxy = Proxy::start(3, &config(mode, health));
    for upstream in [A, B, C] {
        proxy.succeed(upstream, 1);
    }
    proxy.pass(SECOND);
    assert!(is_healthy(&mut proxy));
    proxy
}

#[test]
fn it_turns_after_its_time_and_back_after_another() {
    let mut proxy = served("enforce", "");
    proxy.fail(A, 5);
    proxy.pass(SECOND);
    assert!(is_healthy(&mut proxy), "not before `after`");
    proxy.pass(5 * SECOND);
    let (healthy, body) = answer(&mut proxy);
    assert!(!healthy);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["healthy"], &body["circuits"]), (&false.into(), &3.into()));
    assert_eq!((&body["open"][0]["upstream"], &body["open"][0]["state"]), (&A.into(), &"OPEN".into()));
    assert_eq!(body["open"].as_array().unwrap().len(), 1);
    proxy.pass(15 * SECOND);
    assert!(!is_healthy(&mut proxy), "still probed");
    assert!(answer(&mut proxy).1.contains("HALF_OPEN"));
    proxy.succeed(A, 3);
    assert_eq!(proxy.state(A), 0);
    proxy.pass(14 * SECOND);
    assert!(!is_healthy(&mut proxy), "not before `recoverAfter`");
    proxy.pass(2 * SECOND);
    assert_eq!(answer(&mut proxy), (true, "{\"healthy\":true,\"circuits\":3,\"open\":[]}\n".to_owned()));
}

#[test]
fn so_many_circuits_decide_as_it_says() {
    for (when, sick, turns) in [
        (r#""any""#, 1, true),
        (r#""all""#, 2, false),
        (r#""all""#, 3, true),
        (r#"{"percent": 60}"#, 1, false),
        (r#"{"percent": 60}"#, 2, true),
    ] {
        let mut proxy = served("enforce", &format!(r#", "unhealthyWhen": {when}"#));
        [A, B, C][..sick].iter().for_each(|upstream| proxy.fail(upstream, 5));
        proxy.pass(7 * SECOND);
        assert_eq!(is_healthy(&mut proxy), !turns, "{when}: {sick} of 3");
    }
}

#[test]
fn only_named_hosts_decide_and_no_one_learns_a_name_without_detail() {
    let mut proxy = served("enforce", r#", "upstreams": ["*.shop.svc"]"#);
    proxy.fail(C, 5);
    proxy.pass(7 * SECOND);
    assert_eq!(answer(&mut proxy), (true, "{\"healthy\":true,\"circuits\":2,\"open\":[]}\n".to_owned()));
    let quiet = config("enforce", "").replace(r#""detail": true"#, r#""detail": false"#);
    proxy.reconfigure(&quiet);
    proxy.pass(7 * SECOND);
    let (healthy, body) = answer(&mut proxy);
    assert!(!healthy && body.contains(r#""open":[{"state":"OPEN","since":"#), "{body}");
    assert!(!body.contains("svc"), "{body}");
}

#[test]
fn what_is_only_observed_decides_nothing() {
    let mut proxy = served("observe", "");
    proxy.fail(A, 5);
    proxy.pass(7 * SECOND);
    assert_eq!(proxy.state(A), 2);
    assert!(is_healthy(&mut proxy));
}

#[test]
fn circuits_that_take_turns_make_one_outage() {
    let mut proxy = served("enforce", "");
    proxy.fail(A, 5);
    proxy.pass(3 * SECOND);
    proxy.fail(B, 5);
    proxy.pass(3 * SECOND);
    assert!(!is_healthy(&mut proxy), "one of them was OPEN all the time");
    proxy.pass(20 * SECOND);
    [A, B].iter().for_each(|upstream| proxy.succeed(upstream, 3));
    proxy.pass(10 * SECOND);
    proxy.fail(B, 5);
    proxy.pass(SECOND);
    proxy.pass(6 * SECOND);
    assert!(!is_healthy(&mut proxy), "the time to recover begins anew");
}

#[test]
fn a_worker_that_did_not_exist_and_an_update_know_the_overall_health() {
    let mut proxy = served("enforce", "");
    proxy.fail(A, 5);
    proxy.pass(7 * SECOND);
    proxy.reconfigure(&config("enforce", r#", "upstreams": ["*"]"#));
    assert!(!proxy.vms[0].health(PATH, proxy.now).unwrap().healthy);
    // Without the endpoint nobody looks, and with it again all begins well.
    proxy.reconfigure("");
    proxy.pass(60 * SECOND);
    proxy.reconfigure(&config("enforce", ""));
    assert!(proxy.vms[0].health(PATH, proxy.now).unwrap().healthy);
}

#[test]
fn only_its_path_is_answered_and_what_is_not_configured_costs_nothing() {
    let proxy = served("enforce", "");
    let now = proxy.now;
    for other in [&b"/health/"[..], b"/health?x", b"/Health", b"/", b"", b"\xff"] {
        assert!(proxy.vms[0].health(other, now).is_none());
    }
    let mut plain = Proxy::start(1, "");
    plain.succeed(A, 1);
    assert!(!plain.vms[0].minds_paths() && plain.vms[0].health(PATH, now).is_none());
    plain.pass(60 * SECOND);
    assert_eq!(plain.host.shared_data("circuit_breaker:overall").len(), 0);
}

#[test]
fn a_breaker_that_does_not_work_says_that_all_is_well() {
    let mut proxy = served("enforce", "");
    proxy.fail(A, 5);
    proxy.pass(7 * SECOND);
    assert!(!is_healthy(&mut proxy));
    proxy.host.set_broken(true);
    assert!(proxy.vms[0].health(PATH, proxy.now).unwrap().healthy);
    proxy.host.set_broken(false);
    assert!(!is_healthy(&mut proxy));
    assert_eq!(proxy.host.value(&CALLS, A, "success"), 1);
    assert!(!proxy.request(0, A, Outcome::Success));
}

#[test]
fn what_was_said_long_ago_is_forgotten_though_no_configuration_follows_another() {
    for outage in [1, 7] {
        let mut proxy = served("enforce", "");
        proxy.fail(A, 5);
        proxy.pass(outage * SECOND);
        assert_eq!(is_healthy(&mut proxy), outage < 5);
        // A new module: other VMs, which know no older configuration.
        proxy.configure(3, r#"{"default": {"halfOpen": {"ramp": {"duration": "0s"}}}}"#);
        proxy.pass(60 * SECOND);
        proxy.succeed(A, 3);
        assert_eq!(proxy.state(A), 0);
        proxy.configure(3, &config("enforce", ""));
        assert!(is_healthy(&mut proxy));
        proxy.pass(10 * SECOND);
        assert!(is_healthy(&mut proxy));
    }
}

#[test]
fn a_leap_of_the_clock_is_no_outage() {
    let mut proxy = served("enforce", "");
    proxy.fail(A, 5);
    proxy.pass(SECOND);
    proxy.now += 10 * SECOND;
    assert!(is_healthy(&mut proxy), "one second of it");
    proxy.pass(SECOND);
    assert!(is_healthy(&mut proxy));
    proxy.pass(5 * SECOND);
    assert!(!is_healthy(&mut proxy));
}

#[test]
fn an_upstream_that_was_deleted_does_not_decide_for_long() {
    for probe in ["", r#", "activeProbe": {"path": "/healthz"}"#] {
        let document = config("enforce", "").replace(r#""ramp""#, &format!(r#""probeTimeout": "1s"{probe}, "ramp""#));
        let mut proxy = Proxy::start(2, &document);
        proxy.host.sends(Sending::Refused);
        proxy.fail(A, 5);
        let mut unhealthy = 0;
        for _ in 0..1200 {
            proxy.pass(SECOND);
            proxy.succeed(B, 2);
            unhealthy += u32::from(!is_healthy(&mut proxy));
        }
        let longest = if probe.is_empty() { 20 + 300 + 15 } else { 20 + 15 };
        assert!((15..longest + 5).contains(&unhealthy), "{unhealthy} s with {probe:?}");
    }
}

#[test]
fn a_look_at_a_part_of_the_circuits_is_none() {
    let document = config("enforce", r#", "unhealthyWhen": {"percent": 6}"#);
    let sick = |data: Vec<Vec<u8>>| data.iter().any(|overall| overall[2] == 1);
    for at in 0..40 {
        let mut proxy = Proxy::start(1, &document);
        (0..100).for_each(|number| proxy.succeed(&format!("outbound|80||{number}.svc"), 1));
        proxy.fail("outbound|80||5.svc", 5);
        proxy.pass(SECOND);
        let parsed = Config::parse(document.replace("15s", "16s").as_bytes()).unwrap();
        let mut newer = Breaker::start_after(&proxy.vms[0], proxy.host.clone(), parsed, proxy.now, 1);
        let host = proxy.host.clone();
        proxy.host.before_call(at, move || host.fail_next_call());
        newer.tick(proxy.now + SECOND / 2);
        assert!(!sick(proxy.host.shared_data("circuit_breaker:overall")), "an error at call {at}");
    }
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    for (health, said) in [
        (r#"{}"#, "health.path: is missing"),
        (r#"{"path": "/a?b"}"#, r#"health.path: "/a?b" is not allowed"#),
        (r#"{"path": "/a b"}"#, r#"health.path: "/a b" is not allowed"#),
        (r#"{"path": "/ä"}"#, r#"health.path: "/ä" is not allowed"#),
        (r#"{"path": "/a/*"}"#, r#"health.path: "/a/*" is not allowed"#),
        (r#"{"path": "/a", "upstreams": ["a.*"]}"#, r#"health.upstreams[0]: "a.*" is not allowed"#),
        (
            r#"{"path": "/a", "unhealthyWhen": "some"}"#,
            r#"health.unhealthyWhen: "some" is not allowed; allowed: one of any, all, or"#,
        ),
        (r#"{"path": "/a", "unhealthyWhen": {}}"#, "health.unhealthyWhen: a section is not allowed"),
        (r#"{"path": "/a", "unhealthyWhen": {"percent": 101}}"#, "health.unhealthyWhen.percent: 101"),
        (r#"{"path": "/a", "afer": "1s"}"#, "health.afer: unknown field; did you mean after?"),
    ] {
        let error = Config::parse(format!(r#"{{"health": {health}}}"#).as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(said), "{health}: {error}");
    }
}
