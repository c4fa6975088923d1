//! The schema and the parser agree on good and bad values of every field. The checked-in schema is the one that the
//! tables give.
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::fs;

use circuit_breaker_check::schema::schema;
use circuit_breaker_core::config::{CONFIG, Config, Field, Kind, MOST_HEADERS, MOST_UPSTREAMS};
use serde_json::{Map, Value, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config.schema.json");

#[test]
fn the_checked_in_schema_is_current() {
    let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(FILE, current).unwrap();
    } else {
        assert!(fs::read_to_string(FILE).unwrap() == current, "UPDATE_SCHEMA=1 writes filter/config.schema.json");
    }
}

/// Values of a kind: those that are allowed, and those that are not.
fn values(kind: &Kind) -> (Vec<Value>, Vec<Value>) {
    let of_other_types = vec![json!(null), json!([[]]), json!({"x": 1})];
    let (good, mut bad) = match kind {
        Kind::Section(_) => (vec![json!({})], vec![json!([]), json!("x"), json!({"unknown": 1})]),
        Kind::Sections(_) => (vec![json!([])], vec![json!({}), json!([1])]),
        Kind::Choice(words) => (words.iter().map(|word| json!(word)).collect(), vec![json!("other"), json!("")]),
        Kind::ChoiceOrDuration(words) => (
            words.iter().map(|word| json!(word)).chain([json!("10s"), json!("0s")]).collect(),
            vec![json!("other"), json!(10), json!("10")],
        ),
        Kind::Choices(words) => {
            (vec![json!([]), json!([words[0]]), json!(words)], vec![json!(["other"]), json!(words[0])])
        }
        Kind::Duration { .. } => (
            vec![json!("1s"), json!("1m30s"), json!("1500ms"), json!("2.5s"), json!("1h")],
            vec![json!("1"), json!("1 s"), json!("-1s"), json!("s"), json!(""), json!("1s1m"), json!(1), json!("1d")],
        ),
        Kind::Percent => {
            (vec![json!(0), json!(12.5), json!(100)], vec![json!(-1), json!(100.5), json!("50"), json!(0.000_001)])
        }
        Kind::Integer { min, max } => (
            vec![json!(min), json!(max)],
            vec![json!(i64::from(*min) - 1), json!(u64::from(*max) + 1), json!(f64::from(*min) + 0.5), json!("5")],
        ),
        Kind::Status => (
            vec![json!(200), json!(203), json!(503), json!(599)],
            vec![json!(199), json!(600), json!(204), json!(205.0), json!(304), json!("503")],
        ),
        Kind::Factor { min, max } => {
            (vec![json!(min), json!(max), json!(1.5)], vec![json!(min - 0.5), json!(max + 1.0), json!("2")])
        }
        Kind::Text { max } => (
            vec![json!("text"), json!("\u{e9}".repeat(*max as usize))],
            vec![json!("x".repeat(*max as usize + 1)), json!(1)],
        ),
        Kind::Visible { begins, max } => (
            vec![json!(""), json!(begins), json!(format!("{begins}a.b?c=%20~:80"))],
            vec![
                json!(format!("{begins}{}", "x".repeat(*max as usize + 1))),
                json!(format!("{begins}a b")),
                json!(format!("{begins}\u{e9}")),
                json!(format!("{begins}\n")),
                json!(1),
            ],
        ),
        Kind::Line { max } => (
            vec![json!(""), json!("text/html"), json!("\u{e9}".repeat(*max as usize))],
            vec![json!("x".repeat(*max as usize + 1)), json!("a\r\nb: c"), json!("\u{7f}"), json!("\u{85}"), json!(1)],
        ),
        Kind::Statuses => (
            vec![json!([]), json!([429, "5xx", "500-504", "404"])],
            vec![json!([199]), json!(["6xx"]), json!([600]), json!(["5x"]), json!("5xx"), json!(["500-"])],
        ),
        Kind::Paths => (
            vec![json!([]), json!(["/a", "/a/*", "/*", "/", "/a/b/", "/a.b/%20c", "/..."])],
            [
                "a", "/a*", "/*/a", "", "/a/../b", "/..", "/./*", "//a", "/a//*", "/a;b", "/a\\b", "/a%2Fb", "/%25",
                "/\n/../b",
            ]
            .iter()
            .map(|path| json!([path]))
            .chain([json!("/a")])
            .collect(),
        ),
        Kind::Path => {
            (vec![json!("/"), json!("/.well-known/x")], vec![json!("a"), json!("/a?b"), json!("/a/*"), json!(["/a"])])
        }
        Kind::Hosts => (
            vec![json!([]), json!(["a.b", "*.b", "*"])],
            vec![json!(["a.*"]), json!([""]), json!(["**"]), json!([1]), json!("a.b")],
        ),
        Kind::ChoiceOrSection(words, fields) => (
            words.iter().map(|word| json!(word)).chain([json!({fields[0].name: 50})]).collect(),
            vec![json!("other"), json!({}), json!({fields[0].name: "x"}), json!(50)],
        ),
        Kind::Flag => (vec![json!(true), json!(false)], vec![json!("true"), json!(0)]),
        Kind::Headers => (
            vec![json!({}), json!({"x-a": "b"}), headers(MOST_HEADERS)],
            vec![headers(MOST_HEADERS + 1), json!({"X-A": "b"}), json!({"x a": "b"}), json!({"x-a": 1}), json!("x")],
        ),
    };
    bad.extend(of_other_types);
    (good, bad)
}

fn headers(count: usize) -> Value {
    (0..count).map(|number| (format!("x-{number}"), json!("a"))).collect::<Map<_, _>>().into()
}

/// A document with `value` at `path`; a list on the way holds one entry with a match.
fn document(path: &[&str], value: &Value) -> Value {
    match path {
        [] => value.clone(),
        ["upstreams", rest @ ..] if !rest.is_empty() => {
            let mut entry = document(rest, value);
            if rest[0] != "match" {
                entry["match"] = json!({"cluster": "a"});
            }
            json!({"upstreams": [entry]})
        }
        [first, rest @ ..] => json!({*first: document(rest, value)}),
    }
}

fn documents(fields: &'static [Field], path: &[&'static str], all: &mut Vec<(Value, bool)>) {
    for field in fields {
        let at = [path, &[field.name]].concat();
        let (good, bad) = values(&field.kind);
        // The fields of these depend on each other: the caller has good values of them.
        let in_probe = at.contains(&"activeProbe") && !["activeProbe", "path"].contains(&field.name);
        let alone = !["match", "window", "health"].iter().any(|section| at.contains(section)) && !in_probe;
        all.extend(good.iter().filter(|_| alone).map(|value| (document(&at, value), true)));
        all.extend(bad.iter().map(|value| (document(&at, value), false)));
        if let Kind::Section(inner) | Kind::Sections(inner) = &field.kind {
            documents(inner, &at, all);
        }
    }
}

#[test]
fn schema_and_parser_agree_on_every_field() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let mut all = vec![(json!({}), true), (json!([]), false), (json!({"unknown": 1}), false)];
    documents(CONFIG, &[], &mut all);
    for status in [json!([200]), json!(["2xx", "401-499", 302])] {
        let probe = json!({
            "path": "/healthz", "method": "HEAD", "authority": "a.b:80", "headers": {"x-a": "b"}, "interval": "2s", "timeout": "3s",
            "expectedStatus": status,
        });
        all.push((document(&["default", "halfOpen", "activeProbe"], &probe), true));
    }
    for status in [json!([]), json!(["5xx"]), json!([500]), json!(["400-500"])] {
        let probe = json!({"path": "/", "expectedStatus": status});
        all.push((document(&["default", "halfOpen", "activeProbe"], &probe), false));
    }
    for health in [
        json!({"path": "/healthz"}),
        json!({"path": "/a", "upstreams": ["*.shop.svc"], "unhealthyWhen": {"percent": 50}, "after": "5s", "recoverAfter": "9s", "detail": true}),
    ] {
        all.push((json!({"health": health}), true));
    }
    for window in [json!({"duration": "5s"}), json!({"calls": 50})] {
        all.push((document(&["default", "trip", "window"], &window), true));
    }
    for matches in [json!({"host": "*.a.b", "port": 80, "subset": "v1"}), json!({"cluster": "a|b"}), json!({"port": 1})]
    {
        all.push((json!({"upstreams": [{"match": matches, "mode": "observe"}]}), true));
    }
    for refused in [
        json!({"default": {"trip": {"window": {"duration": "5s", "calls": 50}}}}),
        json!({"default": {"trip": {"window": {}}}}),
        json!({"default": {"rejection": {"headers": {"connection": "close"}}}}),
        json!({"upstreams": [{"match": {}}]}),
        json!({"upstreams": [{"match": {"cluster": "a", "port": 1}}]}),
        json!({"upstreams": [{"match": {"host": "a.*"}}]}),
    ] {
        all.push((refused, false));
    }
    for (count, valid) in [(MOST_UPSTREAMS, true), (MOST_UPSTREAMS + 1, false)] {
        let entries: Value = (0..count).map(|number| json!({"match": {"cluster": number.to_string()}})).collect();
        all.push((json!({"upstreams": entries}), valid));
    }
    let (mut good, mut bad) = (0, 0);
    for (document, valid) in &all {
        // A cross-check, which a schema cannot make: long open times against short caps, a percentile without a
        // threshold.
        let parsed = Config::parse(document.to_string().as_bytes());
        let crossed = parsed
            .as_ref()
            .is_err_and(|error| error.to_string().contains("at least ") || error.to_string().contains("or both off"));
        assert_eq!(schema.is_valid(document), *valid, "schema: {document}");
        assert!(parsed.is_ok() == *valid || crossed, "parser: {document}: {parsed:?}");
        if *valid { good += 1 } else { bad += 1 }
    }
    assert!(good >= 100 && bad >= 200, "{good} good and {bad} bad documents are too few");
}

#[test]
fn a_window_of_calls_holds_the_default_minimum_or_has_one_of_its_own() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    for (trip, valid) in [
        (json!({"window": {"calls": 19}}), false),
        (json!({"window": {"calls": 20}}), true),
        (json!({"window": {"calls": 19}, "minimumCalls": 19}), true),
        (json!({"window": {"duration": "19s"}}), true),
    ] {
        let document = json!({"default": {"trip": trip}});
        assert_eq!(Config::parse(document.to_string().as_bytes()).is_ok(), valid, "{document}");
        assert_eq!(schema.is_valid(&document), valid, "{document}");
    }
    // The entry's minimum may be that of `default`.
    let document = json!({"default": {"trip": {"minimumCalls": 5}}, "upstreams": [{"match": {"port": 1}, "trip": {"window": {"calls": 10}}}]});
    assert!(Config::parse(document.to_string().as_bytes()).is_ok() && schema.is_valid(&document));
}
