//! Valid documents, from the tables that the parser reads.

use circuit_breaker_core::config::{CONFIG, Field, Kind};
use serde_json::{Map, Value, json};

use crate::Random;

/// A document that is valid whatever is drawn: its values also fit each other.
pub fn valid(random: &mut Random) -> Value {
    section(CONFIG, random)
}

/// A path from the document to a field.
type Way = Vec<&'static Field>;

/// The paths to all fields below `way`.
pub fn ways(fields: &'static [Field], way: &[&'static Field]) -> Vec<Way> {
    let mut all = Vec::new();
    for field in fields {
        let way: Way = [way, &[field]].concat();
        if let Kind::Section(inner) | Kind::Sections(inner) = field.kind {
            all.extend(ways(inner, &way));
        }
        all.push(way);
    }
    all
}

/// A document that holds one field, which is valid by itself, and the JSON pointer to it.
pub fn of_one_field(way: &[&Field], random: &mut Random) -> (Value, String) {
    let path: Vec<&str> = way.iter().map(|field| field.name).collect();
    around(&path, value(way[way.len() - 1], random))
}

fn around(path: &[&str], value: Value) -> (Value, String) {
    let (mut document, mut pointer) = (value, String::new());
    for (depth, name) in path.iter().enumerate().rev() {
        if *name == "upstreams" && depth + 1 < path.len() {
            let mut entry = json!({"match": {"cluster": "a"}});
            entry.as_object_mut().unwrap().append(document.as_object_mut().unwrap());
            (document, pointer) = (json!([entry]), format!("/0{pointer}"));
        }
        (document, pointer) = (json!({*name: document}), format!("/{name}{pointer}"));
    }
    (document, pointer)
}

fn section(fields: &[Field], random: &mut Random) -> Value {
    let mut section = Map::new();
    for field in fields {
        if random.percent(40) {
            section.insert(field.name.to_owned(), value(field, random));
        }
    }
    // One of them means nothing without the other.
    if section.contains_key("latencyPercentile") != section.contains_key("latencyThreshold") {
        section.remove("latencyPercentile");
        section.remove("latencyThreshold");
    }
    // A health endpoint has a path.
    if fields.iter().any(|field| field.name == "recoverAfter") {
        section.entry("path").or_insert(json!("/healthz"));
    }
    // A probe's other fields mean nothing without its path.
    if fields.iter().any(|field| field.name == "expectedStatus") && !section.is_empty() {
        section.insert("path".to_owned(), json!(random.of(&["/healthz", "/a?b=c", ""])));
    }
    Value::Object(section)
}

fn value(field: &Field, random: &mut Random) -> Value {
    match field.name {
        "upstreams" if matches!(field.kind, Kind::Sections(_)) => upstreams(field, random),
        "window" => {
            [json!({"duration": "5s"}), json!({"calls": 20}), json!({"calls": 1_000_000})][random.below(3)].clone()
        }
        // Small enough for each window, also one that is merged with another section's.
        "minimumCalls" => json!(1 + random.below(20)),
        "baseDuration" => json!(random.of(&["100ms", "1s", "1.5s", "1m30s"])),
        "maxDuration" => json!(random.of(&["90s", "300s", "1h", "24h"])),
        "latencyPercentile" => json!([0.0001, 50.0, 99.9, 100.0][random.below(4)]),
        "latencyThreshold" => json!(random.of(&["800ms", "0.5ms", "24h"])),
        "expectedStatus" => json!([[json!(200)].as_slice(), &[json!("2xx"), json!("301-499")]][random.below(2)]),
        _ => of_kind(&field.kind, random),
    }
}

fn upstreams(field: &Field, random: &mut Random) -> Value {
    let Kind::Sections(fields) = field.kind else { panic!("{} is no list", field.name) };
    let entry = |number: usize, random: &mut Random| {
        let mut entry = section(fields, random);
        entry["match"] = [
            json!({"host": format!("h{number}.default.svc.cluster.local")}),
            json!({"host": format!("*.n{number}.svc"), "port": 80}),
            json!({"port": 1 + number, "subset": "v1"}),
            json!({"cluster": format!("outbound|{number}|v1|a.b")}),
        ][random.below(4)]
        .clone();
        entry
    };
    (0..random.below(3)).map(|number| entry(number, random)).collect()
}

fn of_kind(kind: &Kind, random: &mut Random) -> Value {
    match kind {
        Kind::Section(fields) | Kind::Sections(fields) => section(fields, random),
        Kind::Choice(words) => json!(random.of(words)),
        Kind::ChoiceOrDuration(words) if random.percent(50) => json!(random.of(words)),
        Kind::ChoiceOrDuration(_) | Kind::Duration { .. } => {
            json!(random.of(&["1s", "30s", "1m30s", "1h2m3s4ms", "1500ms", "2.5s", "1.000000001s", "0.25h", "24h"]))
        }
        Kind::Choices(words) => (0..random.below(4)).map(|_| json!(random.of(words))).collect(),
        Kind::Percent => json!([0.0, 0.0001, 12.5, 33.333_333, 99.9999, 100.0][random.below(6)]),
        Kind::Integer { min, max } => json!([*min, *max, min + (max - min) / 2][random.below(3)]),
        Kind::Factor { min, max } => json!([*min, *max, (min + max) / 2.0][random.below(3)]),
        Kind::Text { max } => {
            json!([String::new(), "closed\n".to_owned(), "x".repeat(*max as usize)][random.below(3)])
        }
        Kind::Visible { begins, max } => {
            let longest = format!("{begins}{}", "x".repeat(*max as usize - begins.len()));
            json!([String::new(), format!("{begins}a.b:80"), longest][random.below(3)])
        }
        Kind::Line { max } => {
            json!([String::new(), "text/html".to_owned(), "\u{e9}".repeat(*max as usize)][random.below(3)])
        }
        Kind::Statuses => {
            let statuses =
                [json!(200), json!(404), json!(599), json!("2xx"), json!("5xx"), json!("500-504"), json!("429")];
            (0..random.below(4)).map(|_| statuses[random.below(statuses.len())].clone()).collect()
        }
        Kind::Status => json!([200, 203, 429, 503, 599][random.below(5)]),
        Kind::Paths => {
            let paths = ["/", "/*", "/healthz", "/a/b/", "/a.b/%20c", "/a/*", "/..."];
            (0..random.below(4)).map(|_| json!(random.of(&paths))).collect()
        }
        Kind::Path => json!(random.of(&["/", "/healthz", "/.well-known/circuit-breaker"])),
        Kind::Hosts => (0..random.below(3)).map(|_| json!(random.of(&["a.b", "*.shop.svc", "*"]))).collect(),
        Kind::ChoiceOrSection(words, _) if random.percent(50) => json!(random.of(words)),
        Kind::ChoiceOrSection(_, fields) => {
            fields.iter().map(|field| (field.name.to_owned(), value(field, random))).collect()
        }
        Kind::Flag => json!(random.percent(50)),
        Kind::Headers => {
            let names = ["x-a", "cache-control", "x_b.c", "!#$%&'*+-.^_`|~9"];
            (0..random.below(4)).map(|at| (names[at].to_owned(), json!(random.of(&["", "a b", "\u{e9}"])))).collect()
        }
    }
}
