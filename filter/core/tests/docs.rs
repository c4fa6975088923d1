//! The documents say what the code says, and a reader finds the way through them.
//!
//! The code writes the tables. After a change of it: `UPDATE_DOCS=1 cargo test -p circuit-breaker-core --test docs`.
#![cfg(all(feature = "testing", not(target_arch = "wasm32")))]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::panic, clippy::unwrap_used, missing_docs)]

#[path = "docs/commands.rs"]
mod commands;
#[path = "docs/cost.rs"]
mod cost;
#[path = "docs/lines.rs"]
mod lines;
#[path = "docs/links.rs"]
mod links;
#[path = "docs/markdown.rs"]
mod markdown;
#[path = "docs/metrics.rs"]
mod queries;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use circuit_breaker_core::config::{
    BODILESS, CONFIG, Field, Kind, LEAST_PERCENT, MOST_HEADERS, MOST_UPSTREAMS, effective, print_duration,
};
use circuit_breaker_core::host::MetricKind;
use circuit_breaker_core::telemetry::metrics;
use markdown::{Document, ROOT};

/// The document with all fields.
const CONFIGURATION: &str = "filter/config.md";
/// The document with all metrics.
const MONITORING: &str = "istio/monitoring/README.md";

fn compare(path: &str, name: &str, table: &str) {
    let text = Document::read(path).text;
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{path} has no {begin}"));
    let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{path} has no {end}"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(Path::new(ROOT).join(path), format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        for (found, row) in found.lines().zip(table.lines()) {
            assert_eq!(found, row, "a table of {path} differs; UPDATE_DOCS=1 writes it");
        }
        assert_eq!(found.lines().count(), table.lines().count(), "rows of {path}'s table {name}");
    }
}

/// Each row of the table comes before all rows below it.
#[test]
fn the_order_of_the_matches_is_the_parsers() {
    let text = Document::read(CONFIGURATION).text;
    let table = text.split_once("<!-- precedence -->").unwrap().1.split_once("<!-- /precedence -->").unwrap().0;
    let matches: Vec<String> =
        table.split('`').filter(|cell| cell.starts_with('{')).map(|cell| cell.replace("\\|", "|")).collect();
    assert!(matches.len() > 8, "{matches:?}");
    for first in 0..matches.len() {
        for reversed in [false, true] {
            let left = matches.iter().enumerate().skip(first);
            let mut entries: Vec<String> = left
                .map(|(row, given)| format!(r#"{{"match": {given}, "trip": {{"consecutiveFailures": {row}}}}}"#))
                .collect();
            if reversed {
                entries.reverse();
            }
            let document = format!(r#"{{"upstreams": [{}]}}"#, entries.join(", "));
            let policy = effective(document.as_bytes(), "outbound|80|v1|api.shop.svc").unwrap();
            assert!(policy.contains(&format!("\"consecutiveFailures\": {first}")), "row {first} of {matches:?}");
        }
    }
}

fn allowed(kind: &Kind) -> String {
    match kind {
        Kind::Choice(words) => words.join(", "),
        Kind::ChoiceOrDuration(words) => format!("{}, duration", words.join(", ")),
        Kind::Duration { min: 0 } => "duration".to_owned(),
        Kind::Duration { min } => format!("duration from {}", print_duration(*min)),
        Kind::Percent => format!("0, or {LEAST_PERCENT} to 100"),
        Kind::Integer { min, max } => format!("{min} to {max}"),
        Kind::Factor { min, max } => format!("{min} to {max}"),
        Kind::Visible { begins: "", max } => format!("at most {max} visible ASCII characters"),
        Kind::Visible { begins, max } => format!("begins with `{begins}`, at most {max} visible ASCII characters"),
        Kind::Text { max } | Kind::Line { max } => format!("text, at most {max} characters"),
        Kind::Choices(words) => format!("list of {}", words.join(", ")),
        Kind::Statuses => "list of statuses, classes, ranges".to_owned(),
        Kind::Status => {
            format!("200 to 599, but none without a body: {}", BODILESS.map(|status| status.to_string()).join(", "))
        }
        Kind::Paths => "list of paths".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Hosts => "list of hosts, `*` only as the leading label".to_owned(),
        Kind::ChoiceOrSection(words, _) => format!("{}, or a section", words.join(", ")),
        Kind::Flag => "true, false".to_owned(),
        Kind::Headers => format!("names and values, at most {MOST_HEADERS}"),
        Kind::Sections(_) => format!("list of at most {MOST_UPSTREAMS}"),
        Kind::Section(_) => String::new(),
    }
}

fn default(field: &Field) -> String {
    if matches!(field.default, "" | "{}" | "[]") { String::new() } else { format!("`{}`", field.default) }
}

fn rows(table: &mut String, fields: &[Field], path: &str) {
    for field in fields {
        let at = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
        match &field.kind {
            Kind::Section(inner) | Kind::ChoiceOrSection(_, inner) => section(table, &at, field, inner),
            Kind::Sections(inner) => section(table, &format!("{at}[]"), field, inner),
            kind => {
                writeln!(table, "| `{at}` | {} | {} | {} |", default(field), allowed(kind), field.meaning).unwrap();
            }
        }
    }
}

fn section(table: &mut String, at: &str, field: &Field, inner: &[Field]) {
    let cells = format!("{} | {}", default(field), allowed(&field.kind));
    writeln!(table, "| **`{at}`** | {} | {} |", cells.trim_end(), field.meaning).unwrap();
    // An entry of `upstreams` has the fields of `default`, which are shown there.
    let again = at.starts_with("upstreams[].") && at != "upstreams[].match";
    if !again {
        rows(table, inner, at);
    }
}

#[test]
fn the_fields_are_those_of_the_parser() {
    let mut table = String::from("| field | default | allowed | meaning |\n|---|---|---|---|\n");
    rows(&mut table, CONFIG, "");
    compare(CONFIGURATION, "fields", &table);
}

#[test]
fn the_metrics_are_those_of_the_code() {
    let mut table = String::from("| metric | kind | component | meaning |\n|---|---|---|---|\n");
    for metric in metrics::ALL {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let of = if metric.per_upstream { "" } else { ", of the proxy" };
        let components = metric.components.join(", ");
        writeln!(table, "| `{}` | {kind}{of} | {components} | {} |", metric.name, metric.meaning).unwrap();
    }
    compare(MONITORING, "metrics", &table);
}
