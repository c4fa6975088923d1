//! The configuration: what is read, what is refused, and with which words.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::Upstream;
use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::config::{Config, effective};
use circuit_breaker_core::policy::{Length, Mode};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn refused(document: &str) -> String {
    Config::parse(document.as_bytes()).expect_err(document).to_string()
}

fn default_with(section: &str) -> String {
    format!(r#"{{"default": {section}}}"#)
}

#[test]
fn nothing_is_all_defaults() {
    let empty = Config::parse(b"").unwrap();
    for same in ["{}", "  \n", r#"{"default": {}}"#, r#"{"upstreams": []}"#] {
        let same = Config::parse(same.as_bytes()).unwrap();
        assert!(same.policies().eq(empty.policies()));
        assert_eq!((same.max_circuits, same.exempt), (empty.max_circuits, empty.exempt.clone()));
    }
    let policy = empty.policies().next().unwrap().clone();
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!(
        (policy.trip.consecutive_failures, policy.trip.failure_rate, policy.trip.minimum_calls),
        (5, 500_000, 20)
    );
    assert_eq!(
        (policy.trip.window, policy.open.base, policy.open.max),
        (Length::Time(10 * SECOND), 30 * SECOND, 300 * SECOND)
    );
    assert_eq!((policy.half_open.max_probes, policy.half_open.success_threshold), (1, 3));
    assert_eq!((policy.rejection.status, policy.rejection.body.as_str()), (503, "upstream circuit is open\n"));
    assert_eq!(empty.max_circuits, 1024);
}

#[test]
fn fields_replace_defaults_one_by_one() {
    let config = Config::parse(
        br#"{"default": {"trip": {"consecutiveFailures": 9}, "open": {"baseDuration": "1m30s"}},
            "upstreams": [{"match": {"host": "a.b"}, "trip": {"failureRatePercent": 12.5}, "mode": "observe"}]}"#,
    )
    .unwrap();
    let policies: Vec<_> = config.policies().collect();
    assert_eq!((policies[0].trip.consecutive_failures, policies[0].open.base), (9, 90 * SECOND));
    assert_eq!((policies[1].trip.consecutive_failures, policies[1].trip.failure_rate), (9, 125_000));
    assert_eq!((policies[0].mode, policies[1].mode), (Mode::Enforce, Mode::Observe));
    assert_eq!(policies[1].open.base, 90 * SECOND);
}

#[test]
fn durations_are_a_number_and_a_unit_single_or_combined() {
    for (text, nanos) in [("500ms", 500 * MILLISECOND), ("1s", SECOND), ("1m30s", 90 * SECOND), ("2h", 7200 * SECOND)] {
        let document = default_with(&format!(r#"{{"open": {{"baseDuration": "{text}", "maxDuration": "24h"}}}}"#));
        let config = Config::parse(document.as_bytes()).unwrap();
        assert_eq!(config.policies().next().unwrap().open.base, nanos, "{text}");
    }
    for text in ["30", "30 s", "-1s", "1d", "", "s", "1.5.1s", "99999999999h", "1e3s"] {
        let message = refused(&default_with(&format!(r#"{{"open": {{"baseDuration": "{text}"}}}}"#)));
        assert!(message.starts_with("default.open.baseDuration") && message.contains("duration"), "{text}: {message}");
    }
}

#[test]
fn a_clients_patience_is_a_word_or_a_duration() {
    for (given, cancel) in
        [("", Some(10 * SECOND)), ("neutral", None), ("failure", Some(0)), ("1m30s", Some(90 * SECOND))]
    {
        let section = if given.is_empty() { String::new() } else { format!(r#""clientCancel": "{given}""#) };
        let config = Config::parse(default_with(&format!(r#"{{"failure": {{{section}}}}}"#)).as_bytes()).unwrap();
        assert_eq!(config.policies().next().unwrap().failures.client_cancel, cancel, "{given}");
    }
    let message = refused(r#"{"default": {"failure": {"clientCancel": "soon"}}}"#);
    for part in ["default.failure.clientCancel", "\"soon\"", "neutral, failure", "1m30s"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_probe_may_take_as_long_as_a_good_call_unless_somebody_says_otherwise() {
    for (policy, timeout) in [
        ("{}", 60 * SECOND),
        (r#"{"trip": {"slowCallDuration": "12s"}}"#, 12 * SECOND),
        (r#"{"trip": {"slowCallDuration": "0s"}}"#, 60 * SECOND),
        (r#"{"trip": {"slowCallDuration": "1ms"}}"#, 100 * MILLISECOND),
        (r#"{"halfOpen": {"probeTimeout": "5s"}}"#, 5 * SECOND),
    ] {
        let document = default_with(policy);
        let config = Config::parse(document.as_bytes()).unwrap();
        assert_eq!(config.policies().next().unwrap().half_open.probe_timeout, timeout, "{policy}");
        let shown = effective(document.as_bytes(), "outbound|80||a.b").unwrap();
        assert!(shown.contains("\"probeTimeout\""), "{shown}");
        assert_eq!(config.warnings().len(), usize::from(policy.contains("5s")), "{:?}", config.warnings());
    }
    let entry = r#"{"upstreams": [{"match": {"host": "*.a.b", "port": 80}, "halfOpen": {"probeTimeout": "5s"}}]}"#;
    let warnings = Config::parse(entry.as_bytes()).unwrap().warnings();
    assert!(warnings[0].contains("*.a.b:80") && warnings[0].contains("probeTimeout is 5s"), "{warnings:?}");
}

#[test]
fn the_breaker_probes_itself_where_a_path_is_given_and_not_taken_away() {
    let probe = |default: &str, entry: &str| {
        let document = format!(
            r#"{{"default": {{"halfOpen": {{"activeProbe": {default}}}}},
                "upstreams": [{{"match": {{"port": 80}}, "halfOpen": {{"activeProbe": {entry}}}}}]}}"#
        );
        let policy = |document: &str| {
            Config::parse(document.as_bytes()).unwrap().policy_of(&Upstream::parse("outbound|80||a.b"))
        };
        let shown = effective(document.as_bytes(), "outbound|80||a.b").unwrap();
        let probe = policy(&document).half_open.active.clone();
        assert_eq!(policy(&shown).half_open.active, probe, "what is shown reads as the same policy: {shown}");
        probe.map(|probe| (probe.path, probe.interval, probe.timeout))
    };
    assert_eq!(probe("{}", "{}"), None);
    assert_eq!(probe("{}", r#"{"path": "/a"}"#), Some(("/a".to_owned(), SECOND, SECOND)));
    assert_eq!(
        probe(r#"{"path": "/a", "timeout": "2s"}"#, r#"{"interval": "5s"}"#),
        Some(("/a".to_owned(), 5 * SECOND, 2 * SECOND))
    );
    assert_eq!(probe(r#"{"path": "/a", "timeout": "2s"}"#, r#"{"path": ""}"#), None);
}

#[test]
fn what_has_no_service_of_its_own_is_disabled_unless_an_entry_names_it() {
    let mode = |document: &str, name: &str| {
        let shown = effective(document.as_bytes(), name).unwrap();
        let mode = Config::parse(document.as_bytes()).unwrap().policy_of(&Upstream::parse(name)).mode;
        assert!(shown.contains(&format!("\"mode\": \"{}\"", mode.word())), "{shown}");
        assert_eq!(effective(shown.as_bytes(), name).unwrap(), shown, "what is shown reads as the same policy");
        mode
    };
    for name in ["PassthroughCluster", "BlackHoleCluster", "InboundPassthroughClusterIpv4"] {
        for other in [
            "{}",
            r#"{"default": {"mode": "observe"}}"#,
            r#"{"upstreams": [{"match": {"host": "*"}, "mode": "enforce"}]}"#,
        ] {
            assert_eq!(mode(other, name), Mode::Disabled, "{other}");
        }
        for key in ["cluster", "host"] {
            let named = format!(r#"{{"upstreams": [{{"match": {{"{key}": "{name}"}}, "mode": "observe"}}]}}"#);
            assert_eq!(mode(&named, name), Mode::Observe, "{named}");
        }
    }
    assert_eq!(mode("{}", "outbound|80||a.b"), Mode::Enforce);
}

#[test]
fn a_struct_in_binary_is_refused_as_what_it_is() {
    let policy = b"\x0a\x20\x0a\x07default\x12\x15\x2a\x13\x0a\x11\x0a\x04mode\x12\x09\x1a\x07observe";
    let message = Config::parse(policy).unwrap_err().to_string();
    for part in ["pluginConfig", "protobuf Struct", "google.protobuf.StringValue"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(Config::parse(b"\n\n{\"default\": {}}").is_ok());
}

#[test]
fn each_refusal_names_path_value_and_what_is_allowed() {
    for (document, parts) in [
        (r#"{"defaults": {}}"#, vec!["defaults", "did you mean default?"]),
        (
            r#"{"default": {"trip": {"consecutiveFailure": 5}}}"#,
            vec!["default.trip.consecutiveFailure", "did you mean consecutiveFailures?"],
        ),
        (r#"{"default": {"trip": {"banana": 5}}}"#, vec!["default.trip.banana", "known here", "minimumCalls"]),
        (
            r#"{"default": {"trip": {"consecutiveFailures": "5"}}}"#,
            vec!["default.trip.consecutiveFailures", "\"5\"", "whole number"],
        ),
        (r#"{"default": {"trip": {"consecutiveFailures": -1}}}"#, vec!["consecutiveFailures", "-1", "from 0"]),
        (r#"{"default": {"trip": {"minimumCalls": 2.5}}}"#, vec!["minimumCalls", "2.5", "whole number"]),
        (r#"{"default": {"trip": {"failureRatePercent": 101}}}"#, vec!["failureRatePercent", "101", "0.0001 to 100"]),
        (r#"{"default": {"mode": "on"}}"#, vec!["default.mode", "\"on\"", "enforce, observe, forceOpen, disabled"]),
        (r#"{"default": {"open": {"multiplier": 0.5}}}"#, vec!["default.open.multiplier", "0.5", "from 1"]),
        (
            r#"{"default": {"open": {"baseDuration": "10m"}}}"#,
            vec!["default.open.maxDuration", "300s", "at least baseDuration"],
        ),
        (r#"{"default": {"halfOpen": {"maxConcurrentProbes": 17}}}"#, vec!["maxConcurrentProbes", "17", "1 to 16"]),
        (
            r#"{"default": {"halfOpen": {"activeProbe": {"interval": "5s"}}}}"#,
            vec!["default.halfOpen.activeProbe.path: is not given", "such as \"/healthz\""],
        ),
        (
            r#"{"default": {"halfOpen": {"activeProbe": {"path": "healthz"}}}}"#,
            vec!["default.halfOpen.activeProbe.path: \"healthz\"", "visible ASCII", "the first of them /"],
        ),
        (r#"{"default": {"halfOpen": {"activeProbe": {"path": "/a b"}}}}"#, vec!["activeProbe.path", "visible ASCII"]),
        (
            r#"{"default": {"halfOpen": {"activeProbe": {"path": "/", "authority": "a b"}}}}"#,
            vec!["activeProbe.authority: \"a b\"", "visible ASCII"],
        ),
        (
            r#"{"default": {"halfOpen": {"activeProbe": {"path": "/", "method": "POST"}}}}"#,
            vec!["\"POST\"", "GET, HEAD"],
        ),
        (r#"{"default": {"halfOpen": {"activeProbe": {"path": "/", "timeout": "0s"}}}}"#, vec!["timeout", "100ms"]),
        (
            r#"{"upstreams": [{"match": {"port": 1}, "halfOpen": {"activeProbe": {"path": "/", "expectedStatus": ["4xx", 503]}}}]}"#,
            vec!["upstreams[0].halfOpen.activeProbe.expectedStatus", "200 to 499", "Envoy itself"],
        ),
        (
            r#"{"default": {"halfOpen": {"activeProbe": {"path": "/", "expectedStatus": []}}}}"#,
            vec!["expectedStatus: a list is not allowed", "some statuses"],
        ),
        (r#"{"default": {"rejection": {"status": 199}}}"#, vec!["default.rejection.status", "199", "200 to 599"]),
        (
            r#"{"default": {"rejection": {"status": 204}}}"#,
            vec!["default.rejection.status: 204 is", "200 to 599", "not 204, 205, 304"],
        ),
        (
            r#"{"upstreams": [{"match": {"port": 1}, "rejection": {"status": 205}}]}"#,
            vec!["upstreams[0].rejection.status: 205 is"],
        ),
        (r#"{"default": {"rejection": {"status": 304}}}"#, vec!["default.rejection.status: 304 is"]),
        (r#"{"default": {"rejection": {"headers": {"connection": "close"}}}}"#, vec!["headers.connection"]),
        (r#"{"default": {"rejection": {"headers": {":path": "/"}}}}"#, vec!["headers.:path", "header name"]),
        (r#"{"default": {"mode": "observe", "mode": "enforce"}}"#, vec!["default.mode: the key stands twice"]),
        (
            r#"{"default": {"trip": {"window": {"duration": "10s", "calls": 100}}}}"#,
            vec!["default.trip.window", "duration and calls", "one of them"],
        ),
        (r#"{"default": {"trip": {"window": {}}}}"#, vec!["default.trip.window", "nothing is given"]),
        (
            r#"{"default": {"trip": {"window": {"calls": 10}}}}"#,
            vec!["default.trip.window.calls", "10", "at least minimumCalls, which is 20"],
        ),
        (
            r#"{"default": {"failure": {"httpStatus": ["6xx"]}}}"#,
            vec!["default.failure.httpStatus[0]", "\"6xx\"", "200 to 599"],
        ),
        (
            r#"{"default": {"failure": {"grpcStatus": ["BAD"]}}}"#,
            vec!["default.failure.grpcStatus[0]", "\"BAD\"", "UNAVAILABLE"],
        ),
        (r#"{"exempt": {"paths": ["healthz"]}}"#, vec!["exempt.paths[0]", "\"healthz\"", "begins with /"]),
        (r#"{"default": []}"#, vec!["default", "a list", "a section"]),
        (
            r#"{"upstreams": [{"match": {"host": "a"}}, {"match": {"host": "a"}}]}"#,
            vec!["upstreams[1].match", "same match"],
        ),
        (
            r#"{"upstreams": [{"match": {"host": "*.A.b", "port": 1}}, {"match": {"port": 1, "host": "*.a.B"}}]}"#,
            vec!["upstreams[1].match", "same match"],
        ),
        (r#"{"upstreams": [{"match": {"host": "a.*"}}]}"#, vec!["upstreams[0].match.host", "\"a.*\"", "leading label"]),
        (r#"{"upstreams": [{"match": {}}]}"#, vec!["upstreams[0].match", "nothing to match"]),
        (r#"{"upstreams": [{"mode": "observe"}]}"#, vec!["upstreams[0].match", "nothing to match"]),
        (r#"{"limits": {"maxCircuits": 0}}"#, vec!["limits.maxCircuits", "0", "from 1"]),
        ("{", vec!["not a JSON document"]),
        ("[1]", vec!["a list", "a section"]),
    ] {
        let message = refused(document);
        for part in parts {
            assert!(message.contains(part), "{document}\n  gave: {message}\n  without: {part}");
        }
        assert_eq!(message.lines().count(), 1, "one message, one line: {message}");
    }
}

#[test]
fn the_effective_policy_reads_as_the_same_policy() {
    for section in [
        "{}",
        r#"{"trip": {"failureRatePercent": 12.345, "window": {"calls": 50}}}"#,
        r#"{"failure": {"httpStatus": [404, "500-503"], "grpcStatus": [], "rateLimited": "ignore"}, "mode": "observe"}"#,
        r#"{"open": {"baseDuration": "1m30s", "multiplier": 1.5}, "rejection": {"body": "a\"b\\\n\u00e9", "headers": {"x-a": "b"}}}"#,
    ] {
        let default = default_with(section);
        let shown = effective(default.as_bytes(), "anything").unwrap();
        let again = Config::parse(shown.as_bytes()).unwrap();
        assert_eq!(again.policies().next(), Config::parse(default.as_bytes()).unwrap().policies().next(), "{shown}");

        let entry = section.replacen('{', r#"{"match": {"host": "*.b.c"}"#, 1).replacen("\"}\"", "\"}, \"", 1);
        let upstreams = format!(r#"{{"upstreams": [{entry}]}}"#);
        let shown = effective(upstreams.as_bytes(), "outbound|80||a.b.c").unwrap();
        let again = Config::parse(shown.as_bytes()).unwrap();
        assert_eq!(again.policies().next(), Config::parse(upstreams.as_bytes()).unwrap().policies().nth(1), "{shown}");
    }
}

#[test]
fn the_most_specific_entry_wins_whatever_the_order() {
    let entries = [
        (r#"{"cluster": "outbound|80|v1|api.shop.svc"}"#, 1),
        (r#"{"host": "api.shop.svc", "subset": "v1", "port": 80}"#, 2),
        (r#"{"host": "api.shop.svc", "subset": "v1"}"#, 3),
        (r#"{"host": "api.shop.svc", "port": 80}"#, 4),
        (r#"{"host": "api.shop.svc"}"#, 5),
        (r#"{"host": "*.shop.svc", "port": 80}"#, 6),
        (r#"{"host": "*.shop.svc"}"#, 7),
        (r#"{"host": "*.svc", "subset": "v1"}"#, 8),
        (r#"{"subset": "v1", "port": 80}"#, 9),
        (r#"{"port": 80}"#, 10),
    ];
    for first in 0..entries.len() {
        for reversed in [false, true] {
            let mut left: Vec<String> = entries[first..]
                .iter()
                .map(|(matches, bound)| {
                    format!(r#"{{"match": {matches}, "trip": {{"consecutiveFailures": {bound}}}}}"#)
                })
                .collect();
            if reversed {
                left.reverse();
            }
            let document = format!(r#"{{"upstreams": [{}]}}"#, left.join(", "));
            let policy = effective(document.as_bytes(), "outbound|80|v1|api.shop.svc").unwrap();
            let wanted = format!("\"consecutiveFailures\": {}", entries[first].1);
            assert!(policy.contains(&wanted), "of {document}\n  not {wanted}");
        }
    }
}

#[test]
fn the_hash_is_of_what_is_said_and_not_of_how() {
    let hash = |document: &str| Config::parse(document.as_bytes()).unwrap().hash;
    let one = r#"{"default": {"mode": "observe", "trip": {"consecutiveFailures": 7, "failureRatePercent": 12.5}}}"#;
    for same in [
        r#"{"default":{"trip":{"failureRatePercent":12.50,"consecutiveFailures":7.0},"mode":"observe"}}"#,
        r#"{"upstreams": [], "default": {"mode": "observe", "trip": {"consecutiveFailures": 7, "failureRatePercent": 12.5}}}"#,
    ] {
        assert_eq!(hash(same), hash(one), "{same}");
    }
    let others = [
        "",
        r#"{"default": {"mode": "observe", "trip": {"consecutiveFailures": 8, "failureRatePercent": 12.5}}}"#,
        r#"{"default": {"mode": "enforce", "trip": {"consecutiveFailures": 7, "failureRatePercent": 12.5}}}"#,
        r#"{"upstreams": [{"match": {"host": "a"}, "mode": "observe"}]}"#,
        r#"{"upstreams": [{"match": {"host": "b"}, "mode": "observe"}]}"#,
        r#"{"limits": {"maxCircuits": 1023}}"#,
    ];
    let mut hashes: Vec<u32> = others.iter().map(|document| hash(document)).chain([hash(one)]).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), others.len() + 1);
    assert_eq!(hash(""), hash("{}"));
}

#[test]
fn a_probe_that_the_health_endpoint_would_answer_is_warned_of() {
    for (probe, warned) in [("/health", true), ("/health?x", true), ("/healthz", false)] {
        let document = format!(
            r#"{{"default": {{"halfOpen": {{"activeProbe": {{"path": "{probe}"}}}}}}, "health": {{"path": "/health"}}}}"#
        );
        let warnings = Config::parse(document.as_bytes()).unwrap().warnings();
        assert_eq!(warnings.iter().any(|warning| warning.contains("is health.path")), warned, "{warnings:?}");
    }
}
