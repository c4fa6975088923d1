//! The module over a scripted Envoy: what it asks, what it makes of the answers, and what it replies. Each test runs
//! with Envoy's expressions and without, since what the breaker is told must not depend on how Envoy was asked.
#![allow(clippy::arithmetic_side_effects)]

use std::cell::RefCell;
use std::rc::Rc;

use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::config::Config;
use circuit_breaker_core::host::Host;
use circuit_breaker_core::telemetry::metrics::{CALLS, FAILURES, INFO, INTERNAL_ERRORS, LATENCY, PROBES, STATE};

use crate::envoy::{Envoy, Headers};
use crate::root::{Configurations, Root};
use crate::script::{Script, Value};
use crate::stream::Stream;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";
const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];

struct World {
    envoy: Script,
    root: Root<Script>,
    streams: u32,
}

/// The same on an Envoy with expressions and on one without.
fn everywhere(document: &str, act: impl Fn(&mut World)) {
    for has_expressions in [true, false] {
        let envoy = Script::new(has_expressions, document);
        let configurations = Rc::new(RefCell::new(Configurations::none()));
        let mut root = Root::new(envoy.clone(), 1, configurations);
        assert!(root.configure());
        act(&mut World { envoy, root, streams: 1 });
    }
}

impl World {
    /// A request to `upstream`, and whether it goes on.
    fn begin(&mut self, upstream: &str, headers: &[(&str, &str)], headers_only: bool) -> (Stream<Script>, bool) {
        self.streams += 1;
        self.envoy.request(upstream, headers);
        let mut stream = self.root.stream(self.streams);
        let goes_on = stream.admit(headers_only);
        (stream, goes_on)
    }

    /// A GET, and how Envoy says that it ended. False: it was rejected.
    fn get(&mut self, upstream: &str, code: i64, flags: i64, details: &str) -> bool {
        let (mut stream, goes_on) = self.begin(upstream, &[], true);
        if goes_on {
            self.envoy.answers(code, flags, details);
            stream.response_headers(false);
            stream.settle();
        }
        goes_on
    }

    fn counts(&self, upstream: &str) -> [u64; 4] {
        ["success", "failure", "slow", "neutral"].map(|component| self.envoy.memory.value(&CALLS, upstream, component))
    }

    fn state(&self, upstream: &str) -> u64 {
        self.envoy.memory.value(&STATE, upstream, "")
    }

    fn pass(&mut self, time: u64) {
        for _ in 0..time / (500 * MILLISECOND) {
            self.envoy.pass(500 * MILLISECOND);
            self.root.tick();
        }
    }
}

#[test]
fn good_and_failing_answers_are_told_apart_and_a_rejection_says_when_again() {
    everywhere("", |world| {
        for code in [200, 302, 404] {
            assert!(world.get(A, code, 0, "via_upstream"));
        }
        for _ in 0..5 {
            assert!(world.get(A, 503, 0, "via_upstream"));
        }
        assert_eq!((world.counts(A), world.state(A)), ([3, 5, 0, 0], 2));
        assert!(!world.get(A, 200, 0, "via_upstream"), "rejected");
        let (status, headers) = world.envoy.replies().remove(0);
        assert_eq!((status, headers["x-circuit-breaker"].as_str()), (503, "open"));
        assert!((30..=36).contains(&headers["retry-after"].parse::<u64>().unwrap()));
        assert!(world.get(B, 200, 0, "via_upstream"), "another upstream's is CLOSED");
    });
}

#[test]
fn flags_beside_the_upstreams_own_answer_say_nothing() {
    everywhere("", |world| {
        const UO: i64 = 1 << 7;
        const DI: i64 = 1 << 9;
        for flags in [UO, DI] {
            assert!(world.get(A, 200, flags, "via_upstream"));
        }
        for flags in [UO, DI, UO, DI, UO] {
            assert!(world.get(A, 503, flags, "via_upstream"));
        }
        assert_eq!((world.counts(A), world.state(A)), ([2, 5, 0, 0], 2));
    });
}

#[test]
fn the_answer_to_a_probe_of_the_breakers_own_is_read_where_there_is_one() {
    let policy =
        r#"{"default": {"halfOpen": {"successThreshold": 1, "activeProbe": {"path": "/healthz", "timeout": "5s"}}}}"#;
    for (status, state, probes) in [(Some("204"), 1, [1, 0]), (Some("503"), 2, [0, 1]), (None, 2, [0, 1])] {
        everywhere(policy, |world| {
            for _ in 0..5 {
                assert!(world.get(A, 503, 0, "via_upstream"));
            }
            while world.envoy.memory.sent().is_empty() {
                world.pass(500 * MILLISECOND);
            }
            assert!(!world.get(A, 200, 0, "via_upstream"), "rejected");
            world.envoy.request(A, &[]);
            if let Some(status) = status {
                world.envoy.sends(Headers::CallResponse, ":status", status);
            }
            world.root.probe_answered(1);
            let counted = ["success", "failure"].map(|how| world.envoy.memory.value(&PROBES, A, how));
            assert_eq!((world.state(A), counted), (state, probes), "{status:?}");
        });
    }
}

#[test]
fn an_answer_of_another_filter_is_neutral_whatever_its_status() {
    everywhere("", |world| {
        for (code, details) in
            [(200, "cors_response"), (503, "lua_response"), (413, "request_payload_too_large"), (403, "")]
        {
            for _ in 0..6 {
                assert!(world.get(A, code, 0, details));
            }
        }
        assert_eq!((world.counts(A), world.state(A)), ([0, 0, 0, 24], 0));
    });
}

#[test]
fn a_refused_grpc_call_is_no_call_of_the_upstream_and_a_failing_one_is() {
    everywhere("", |world| {
        for (details, expected) in [("lua_response", [0, 0, 0, 5]), ("via_upstream", [0, 5, 0, 5])] {
            for _ in 0..5 {
                let (mut stream, _) = world.begin(A, GRPC, false);
                stream.request_ended();
                world.envoy.answers(200, 0, details);
                world.envoy.sends(Headers::Response, "grpc-status", "14");
                stream.response_headers(true);
                stream.settle();
            }
            assert_eq!(world.counts(A), expected, "{details}");
        }
    });
}

#[test]
fn a_deadline_of_the_clients_own_is_not_the_upstreams_timeout() {
    const UT: i64 = 1 << 2;
    everywhere("", |world| {
        let headers = [GRPC[0], ("grpc-timeout", "500m")];
        // Envoy's timer may be some milliseconds early.
        for (waited, expected) in [(500, [0, 0, 0, 5]), (480, [0, 0, 0, 10]), (400, [0, 5, 0, 10])] {
            for _ in 0..5 {
                let (mut stream, _) = world.begin(A, &headers, false);
                stream.request_ended();
                world.envoy.pass(waited * MILLISECOND);
                world.envoy.answers(200, UT, "response_timeout");
                stream.response_headers(true);
                stream.settle();
            }
            assert_eq!(world.counts(A), expected, "after {waited} ms");
        }
    });
}

#[test]
fn a_call_counts_where_it_is_at_its_end() {
    everywhere("", |world| {
        for _ in 0..5 {
            world.get("other", 500, 0, "via_upstream");
        }
        for _ in 0..5 {
            let (mut stream, _) = world.begin(A, &[], true);
            world.envoy.says("xds.cluster_name", Value::Text(B.to_owned()));
            world.envoy.answers(500, 0, "via_upstream");
            stream.response_headers(false);
            stream.settle();
        }
        assert_eq!((world.counts(A), world.counts(B)), ([0; 4], [0, 5, 0, 0]));
    });
}

#[test]
fn an_uploads_time_is_its_clients() {
    everywhere(r#"{"default": {"trip": {"slowCallDuration": "500ms"}}}"#, |world| {
        for _ in 0..8 {
            let (mut stream, _) = world.begin(A, &[], false);
            world.pass(2 * SECOND);
            assert!(stream.request_ended());
            world.envoy.pass(MILLISECOND);
            world.envoy.answers(200, 0, "via_upstream");
            stream.response_headers(false);
            stream.settle();
        }
        assert_eq!(world.counts(A), [8, 0, 0, 0]);
        assert!(world.envoy.memory.recorded(&LATENCY, A).iter().all(|time| *time <= 1));
    });
}

#[test]
fn an_upgrade_waits_from_its_head_on_and_who_only_says_so_does_not() {
    const HANDSHAKE: [(&str, &str); 3] = [(":method", "GET"), ("connection", "Upgrade"), ("upgrade", "websocket")];
    everywhere(r#"{"default": {"trip": {"slowCallDuration": "500ms"}}}"#, |world| {
        let post = [(":method", "POST"), HANDSHAKE[1], HANDSHAKE[2]];
        let with_body = [HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], ("content-length", "8")];
        let in_chunks = [HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], ("transfer-encoding", "chunked")];
        let forged: [&[(&str, &str)]; 4] = [&post, &with_body, &in_chunks, &[HANDSHAKE[0], HANDSHAKE[2]]];
        for headers in forged {
            let (stream, _) = world.begin(A, headers, false);
            world.pass(2 * SECOND);
            assert_eq!(world.counts(A)[2], 0, "{headers:?}");
            drop(stream);
        }
        let (_handshake, _) = world.begin(A, &HANDSHAKE, false);
        world.pass(2 * SECOND);
        assert_eq!(world.counts(A)[2], 1);
    });
}

#[test]
fn the_routers_own_time_is_believed_where_other_filters_took_some() {
    everywhere(r#"{"default": {"trip": {"slowCallDuration": "550ms"}}}"#, |world| {
        const DI: i64 = 1 << 9;
        for (told, flags, expected) in [(Some("7"), 0, [1, 0, 0, 0]), (None, DI, [2, 0, 0, 0]), (None, 0, [2, 0, 1, 0])]
        {
            let (mut stream, _) = world.begin(A, &[], true);
            world.pass(500 * MILLISECOND);
            world.envoy.pass(100 * MILLISECOND);
            world.envoy.answers(200, flags, "via_upstream");
            if let Some(told) = told {
                world.envoy.sends(Headers::Response, "x-envoy-upstream-service-time", told);
            }
            stream.response_headers(false);
            stream.settle();
            assert_eq!(world.counts(A), expected, "{told:?} {flags}");
        }
    });
}

#[test]
fn a_client_that_leaves_an_upload_or_a_filters_hands_is_neutral() {
    const DC: i64 = 1 << 14;
    everywhere(r#"{"default": {"failure": {"clientCancel": "1s"}}}"#, |world| {
        for (complete, attempts, expected) in
            [(false, 1, [0, 0, 0, 1]), (true, 0, [0, 0, 0, 2]), (true, 1, [0, 1, 0, 2])]
        {
            let (mut stream, _) = world.begin(A, &[], false);
            if complete {
                stream.request_ended();
            }
            world.pass(2 * SECOND);
            world.envoy.says("upstream.request_attempt_count", Value::Number(attempts));
            world.envoy.says("response.flags", Value::Number(DC));
            stream.settle();
            assert_eq!(world.counts(A), expected, "complete: {complete}, attempts: {attempts}");
        }
        assert_eq!(world.envoy.memory.value(&FAILURES, A, "client_cancel"), 1);
    });
}

#[test]
fn a_probe_on_trial_that_lost_its_slot_is_answered_at_its_end() {
    everywhere(r#"{"default": {"open": {"jitterPercent": 0}}}"#, |world| {
        for _ in 0..5 {
            world.get(A, 500, 0, "via_upstream");
        }
        world.pass(30 * SECOND);
        let (mut upload, goes_on) = world.begin(A, &[], false);
        assert!(goes_on);
        let (mut honest, goes_on) = world.begin(A, &[], true);
        assert!(goes_on, "who is complete need not wait");
        assert!(!upload.request_ended(), "its last byte does not reach the upstream");
        assert_eq!(world.envoy.replies().last().unwrap().1["x-circuit-breaker"], "half-open");
        world.envoy.answers(200, 0, "via_upstream");
        honest.response_headers(true);
        honest.settle();
        upload.settle();
        assert_eq!(world.counts(A)[0], 1);
    });
}

#[test]
fn a_probe_on_trial_is_judged_before_its_last_bytes_go_on() {
    everywhere(r#"{"default": {"open": {"jitterPercent": 0}}}"#, |world| {
        for _ in 0..5 {
            world.get(A, 500, 0, "via_upstream");
        }
        world.pass(30 * SECOND);
        let (mut upload, _) = world.begin(A, &[("content-length", "8")], false);
        let (_honest, goes_on) = world.begin(A, &[], true);
        assert!(goes_on);
        assert!(upload.request_body(4, false));
        assert!(!upload.request_body(4, false), "Envoy tells of the end only after these");
        assert!(upload.request_body(0, true), "it has been answered once");
        assert_eq!(world.envoy.replies().len(), 1);
    });
}

#[test]
fn an_answer_that_a_filter_made_good_is_the_upstreams_own_again() {
    everywhere("", |world| {
        let mut calls = 0;
        while world.state(A) == 0 {
            calls += 1;
            assert!(calls < 60, "it is never found out");
            let (mut stream, _) = world.begin(A, &[], true);
            world.envoy.answers(503, 0, "via_upstream");
            stream.response_headers(false);
            world.envoy.answers(200, 0, "via_upstream");
            stream.settle();
        }
        assert!(world.envoy.memory.log_lines().iter().any(|line| line.contains("changes the status")));
    });
}

#[test]
fn an_exempt_path_passes_an_open_circuit_and_a_forged_one_does_not() {
    everywhere(r#"{"exempt": {"paths": ["/readyz/*"]}}"#, |world| {
        for _ in 0..5 {
            world.get(A, 500, 0, "via_upstream");
        }
        for (path, passes) in [("/readyz/db", true), ("/readyz/..%2fpay", false), ("/pay", false)] {
            assert_eq!(world.begin(A, &[(":path", path)], true).1, passes, "{path}");
        }
    });
}

#[test]
fn the_health_path_is_answered_and_never_counted() {
    let document =
        r#"{"health": {"path": "/health", "after": "0s", "detail": true}, "exempt": {"paths": ["/healthz"]}}"#;
    everywhere(document, |world| {
        (0..5).for_each(|_| assert!(world.get(A, 500, 0, "via_upstream")));
        let before = world.counts(A);
        for (path, goes_on) in [("/health", false), ("/healthz", true), ("/health?x", false)] {
            assert_eq!(world.begin(A, &[(":path", path)], true).1, goes_on, "{path}");
        }
        let replies = world.envoy.replies();
        assert_eq!(replies.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [200, 503], "then a rejection");
        assert_eq!(replies[0].1["cache-control"], "no-store");
        assert_eq!(world.counts(A), before);
        world.pass(SECOND);
        assert!(!world.begin(A, &[(":path", "/health")], true).1);
        let (status, headers) = world.envoy.replies().pop().unwrap();
        assert_eq!((status, headers.contains_key("x-circuit-breaker")), (503, false));
    });
}

#[test]
fn a_refused_configuration_is_counted_and_named() {
    let envoy = Script::new(true, r#"{"default": {"mod": "observe"}}"#);
    let mut root = Root::new(envoy.clone(), 1, Rc::new(RefCell::new(Configurations::none())));
    assert!(!root.configure());
    assert_eq!(envoy.memory.value(&INTERNAL_ERRORS, "", "config"), 1);
    assert!(root.stream(2).admit(true), "requests pass");
}

#[test]
fn a_newer_configuration_retires_the_older_one_until_it_goes() {
    let configurations = Rc::new(RefCell::new(Configurations::none()));
    let envoy = Script::new(true, r#"{"default": {"open": {"jitterPercent": 0}}}"#);
    let mut old = Root::new(envoy.clone(), 1, Rc::clone(&configurations));
    assert!(old.configure());
    let newer = envoy.with(r#"{"default": {"mode": "observe"}}"#);
    let mut new = Root::new(newer, 2, configurations);
    assert!(new.configure());
    let mut world = World { envoy, root: old, streams: 2 };
    for _ in 0..5 {
        world.get(A, 500, 0, "via_upstream");
    }
    world.pass(31 * SECOND);
    assert_eq!(world.state(A), 2, "the old one moves no circuit on");
    drop(new);
    world.pass(SECOND);
    assert_eq!(world.state(A), 1);
}

#[test]
fn a_vm_that_has_many_circuits_to_meet_does_it_between_its_ticks() {
    const CIRCUITS: usize = 100;
    let envoy = Script::new(true, "");
    let root = |envoy: &Script| Root::new(envoy.clone(), 1, Rc::new(RefCell::new(Configurations::none())));
    let mut first = root(&envoy);
    assert!(first.configure());
    let mut world = World { envoy: envoy.clone(), root: first, streams: 1 };
    for number in 0..CIRCUITS {
        world.get(&format!("outbound|80||{number}.svc"), 200, 0, "via_upstream");
    }
    let mut second = root(&envoy);
    assert!(second.configure());
    let usual = envoy.period();
    second.tick();
    let mut steps = 1;
    while envoy.period() != usual {
        assert!(envoy.period() < 10 * MILLISECOND);
        envoy.pass(envoy.period());
        second.tick();
        steps += 1;
        assert!(steps < CIRCUITS, "it never ends");
    }
    assert!(steps > 10, "not all at once, which would keep requests waiting");
}

#[test]
fn the_policy_in_use_is_told_and_none_that_never_was() {
    let configurations = Rc::new(RefCell::new(Configurations::none()));
    let envoy = Script::new(true, "");
    let value = |document: &str| {
        let policy = format!("{:08x}", Config::parse(document.as_bytes()).unwrap().hash);
        envoy.memory.value(&INFO, envoy.memory.module(), &policy)
    };
    const NEWER: &str = r#"{"default": {"mode": "observe"}}"#;
    let mut old = Root::new(envoy.clone(), 1, Rc::clone(&configurations));
    assert!(old.configure());
    assert_eq!(value(""), 0, "Envoy may still take the configuration back");
    old.tick();
    assert_eq!(value(""), 1);
    let mut new = Root::new(envoy.with(NEWER), 2, Rc::clone(&configurations));
    assert!(new.configure());
    assert_eq!((value(""), value(NEWER)), (1, 0));
    for root in [&mut new, &mut old] {
        root.tick();
        assert_eq!((value(""), value(NEWER)), (0, 1), "the old one still has requests");
    }
    drop(new);
    old.tick();
    assert_eq!((value(""), value(NEWER)), (1, 0));
}

#[test]
fn a_request_that_falls_back_is_routed_again() {
    let document = r#"{"default": {"fallback": {"headers": {"x-fallback": "yes", "x-from": "breaker"}}}}"#;
    everywhere(document, |world| {
        (0..5).for_each(|_| assert!(world.get(A, 500, 0, "via_upstream")));
        assert_eq!(world.envoy.routed_again(), 0);
        let (_stream, goes_on) = world.begin(A, &[], true);
        assert!(goes_on, "to its fallback");
        let carried = world.envoy.header(Headers::Request, "x-fallback");
        assert_eq!(carried.as_deref(), Some(&b"yes"[..]));
        assert_eq!(world.envoy.routed_again(), 1, "once, when all headers are set");
    });
}
