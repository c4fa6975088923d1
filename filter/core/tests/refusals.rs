//! What a refusal says of a document that was written to do harm: it is one short line, and it comes at once.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::config::Config;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn refused(document: &str) -> String {
    Config::parse(document.as_bytes()).expect_err("is refused").to_string()
}

/// `text` as JSON.
fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// Documents with `text` wherever a text of the author's choice reaches a message.
fn everywhere(text: &str) -> Vec<String> {
    let text = json(text);
    let inside = [
        format!(r#"{text}: 1"#),
        format!(r#""trip": {{{text}: 1}}"#),
        format!(r#""mode": {text}"#),
        format!(r#""trip": {{"minimumCalls": {text}}}"#),
        format!(r#""trip": {{"failureRatePercent": {text}}}"#),
        format!(r#""open": {{"baseDuration": {text}}}"#),
        format!(r#""failure": {{"httpStatus": [{text}]}}"#),
        format!(r#""failure": {{"grpcStatus": [{text}]}}"#),
        format!(r#""failure": {{"clientCancel": {text}}}"#),
        format!(r#""rejection": {{"retryAfter": {text}}}"#),
        format!(r#""rejection": {{"headers": {{{text}: "a"}}}}"#),
        format!(r#""fallback": {{"headers": {{"x-a": {text}}}}}"#),
    ];
    let whole = [
        format!("{{{text}: 1}}"),
        format!(r#"{{"exempt": {{"paths": [{text}]}}}}"#),
        format!(r#"{{"upstreams": [{{"match": {{"host": {text}}}}}]}}"#),
        format!(r#"{{"upstreams": [{{"match": {{{text}: 1}}}}]}}"#),
    ];
    inside.into_iter().map(|policy| format!("{{\"default\": {{{policy}}}}}")).chain(whole).collect()
}

#[test]
fn every_key_is_named() {
    for (key, named) in [
        ("", r#""""#),
        (" ", r#"" ""#),
        ("mode\n", r#""mode\u000a""#),
        ("trip.mode", r#""trip.mode""#),
        ("upstreams[0]", r#""upstreams[0]""#),
        ("\u{1b}[2J", r#""\u001b[2J""#),
        ("a\"b", r#""a\"b""#),
        ("é", r#""é""#),
        ("banana", "banana"),
    ] {
        let key = json(key);
        for (document, path) in [
            (format!("{{{key}: 1}}"), named.to_owned()),
            (format!("{{\"default\": {{{key}: 1}}}}"), format!("default.{named}")),
            (format!("{{\"default\": {{\"trip\": {{{key}: 1}}}}}}"), format!("default.trip.{named}")),
        ] {
            let message = refused(&document);
            assert!(message.starts_with(&format!("{path}: unknown field; ")), "{document} gave {message}");
        }
    }
    let message = refused(r#"{"default": {"rejection": {"headers": {"": "a"}}}}"#);
    assert!(message.starts_with(r#"default.rejection.headers."": "#), "{message}");
}

#[test]
fn no_text_reaches_a_line_but_in_quotes_without_control_characters_and_cut() {
    // A colour, a line separator of Unicode, and characters that turn the direction of the text after them.
    let strange = "*\u{1b}[31m\r\n\0\u{85}\u{2028}\u{202e}\u{2066}";
    let long = "*".repeat(1 << 20);
    for text in [strange, &long, &strange.repeat(1 << 16)] {
        for document in everywhere(text) {
            let message = refused(&document);
            let (start, length) = (document.get(..60).unwrap_or(&document), message.len());
            assert!(length < 4096, "{length} bytes of {start}");
            let plain = |c: char| !c.is_control() && !('\u{2028}'..='\u{2069}').contains(&c);
            assert!(message.chars().all(plain), "{start} gave {message:?}");
        }
    }
}

#[test]
fn a_key_that_stands_twice_is_named_with_its_place() {
    for (document, path) in [
        (r#"{"default": {}, "default": {}}"#, "default"),
        (r#"{"default": {"mode": "observe", "mode": "enforce"}}"#, "default.mode"),
        (r#"{"upstreams": [{"match": {"port": 1}, "trip": {}, "trip": {}}]}"#, "upstreams[0].trip"),
        (
            r#"{"default": {"fallback": {"headers": {"x-a": "b", "x-b": "c", "x-a": "b"}}}}"#,
            "default.fallback.headers.x-a",
        ),
    ] {
        assert_eq!(refused(document), format!("{path}: the key stands twice; allowed: once"));
    }
}

/// Envoy refuses a message with more than 100 headers.
#[test]
fn a_reply_has_64_headers_of_its_own_at_most() {
    let document = |count: usize| {
        let headers: Vec<String> = (0..count).map(|number| format!(r#""x-{number}": "a""#)).collect();
        format!(r#"{{"default": {{"rejection": {{"headers": {{{}}}}}}}}}"#, headers.join(", "))
    };
    assert!(Config::parse(document(64).as_bytes()).is_ok());
    let message = refused(&document(65));
    assert!(message.starts_with("default.rejection.headers: ") && message.contains("at most 64"), "{message}");
}

/// Envoy reads a configuration on its main thread, and does nothing else meanwhile.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn a_large_document_is_judged_at_once() {
    use std::time::{Duration, Instant};
    let keys: Vec<String> = (0..100_000).map(|number| format!(r#""k{number:06}": "a""#)).collect();
    let keys = format!("{{{}}}", keys.join(","));
    let entries = |count: usize| {
        // In reverse order: each has its place before all earlier ones.
        let entries: Vec<String> =
            (0..count).rev().map(|number| format!(r#"{{"match": {{"host": "h{number:06}"}}}}"#)).collect();
        format!(r#"{{"upstreams": [{}]}}"#, entries.join(","))
    };
    for (document, valid) in [
        (keys.clone(), false),
        (format!(r#"{{"default": {keys}}}"#), false),
        (format!(r#"{{"default": {{"mode": {keys}}}}}"#), false),
        (format!(r#"{{"default": {{"rejection": {{"headers": {keys}}}}}}}"#), false),
        (format!(r#"{{"upstreams": [{keys}]}}"#), false),
        (format!(r#"{{"{}": 1}}"#, "consecutiveFailure".repeat(100_000)), false),
        (entries(100_000), false),
        (entries(10_000), true),
    ] {
        let judged = || {
            let start = Instant::now();
            assert_eq!(Config::parse(document.as_bytes()).is_ok(), valid, "{}", document.get(..60).unwrap());
            start.elapsed()
        };
        // The quickest of several tries: a busy machine runs others in between.
        let taken = (0..5).map(|_| judged()).min().unwrap();
        assert!(taken < Duration::from_millis(500), "{taken:?} for {}", document.get(..60).unwrap());
    }
}
