//! Every query that a document shows, and every rule of istio/monitoring, asks for series that exist.

use std::fs;
use std::path::Path;

use circuit_breaker_core::host::MetricKind;
use circuit_breaker_core::telemetry::metrics;

use crate::markdown::{Document, ROOT, documents};

/// What is shipped as rules: promtool takes a name that no proxy has, and an alert on it would be silent for ever.
fn rules() -> Vec<(String, String)> {
    let directory = Path::new(ROOT).join("istio/monitoring");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let resources = files.filter(|path| path.to_string_lossy().ends_with("-prometheusRule.yaml"));
    resources.map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap())).collect()
}

/// The names of the series that rules record: they have colons.
fn recorded() -> Vec<String> {
    let rules = rules();
    let lines = rules.iter().flat_map(|(_, text)| text.lines());
    lines.filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect()
}

/// The series of the breaker's metrics, as Prometheus names them.
fn series() -> Vec<String> {
    let mut series = Vec::new();
    for metric in metrics::ALL {
        let endings: &[&str] = match metric.kind {
            MetricKind::Histogram => &["_bucket", "_sum", "_count"],
            MetricKind::Counter | MetricKind::Gauge => &[""],
        };
        series.extend(endings.iter().map(|ending| format!("{}{ending}", metric.name)));
    }
    series
}

/// The `promql` fences of a document, without comments.
fn queries(document: &Document) -> Vec<String> {
    let mut queries = Vec::new();
    let mut open: Option<String> = None;
    for line in document.text.lines().map(str::trim) {
        match (&mut open, line) {
            (None, "```promql") => open = Some(String::new()),
            (Some(_), "```") => queries.extend(open.take()),
            (Some(query), _) => query.extend([line.split('#').next().unwrap_or_default(), "\n"]),
            (None, _) => {}
        }
    }
    queries
}

/// What a query asks for: `component="a"`, `component!="a"`, `component=~"a|b"`.
fn components(query: &str) -> impl Iterator<Item = &str> {
    let values = query.split("component").skip(1).filter_map(|rest| {
        let (operator, rest) = rest.split_once('"')?;
        let asks = !operator.is_empty() && operator.chars().all(|char| "=!~".contains(char));
        rest.split('"').next().filter(|_| asks)
    });
    values.flat_map(|value| value.split('|'))
}

/// A component that a query asks for is one that its metric has.
fn check(query: &str, place: &str) -> usize {
    let series = [series(), recorded()].concat();
    let words = query.split(|char: char| !(char.is_alphanumeric() || "_:".contains(char)));
    let ours: Vec<&str> = words.filter(|word| word.contains("circuit_breaker_")).collect();
    for word in &ours {
        assert!(series.iter().any(|name| name == word), "{place}: no metric {word}");
    }
    for asked in components(query) {
        // A recorded series is called after its metric, without `_total`, between two colons.
        let of = |word: &str, metric: &metrics::Metric| match word.split(':').nth(1) {
            Some(recorded) => metric.name.starts_with(recorded),
            None => word.starts_with(metric.name),
        };
        let named = |metric: &metrics::Metric| ours.iter().any(|word| of(word, metric));
        let known = |metric: &metrics::Metric| named(metric) && metric.components.contains(&asked);
        assert!(metrics::ALL.iter().any(|metric| known(metric)), "{place}: no component {asked}");
    }
    ours.len()
}

#[test]
fn every_query_asks_for_series_that_exist() {
    let mut seen = 0;
    for document in documents() {
        for query in queries(&document) {
            seen += check(&query, &document.path);
        }
    }
    assert!(seen >= 10, "{seen} series in queries");
}

#[test]
fn every_rule_asks_for_series_that_exist() {
    let mut seen = 0;
    for (path, text) in rules() {
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().starts_with('#')).collect();
        // The rules of a file, each with its expression. Annotations hold words for people.
        for rule in lines.join("\n").split("    - ").skip(1) {
            let expression = rule.split_once("expr: ").map_or("", |(_, rest)| rest);
            let expression = expression.split("      annotations:").next().unwrap_or_default();
            seen += check(expression, &format!("{path}: {}", rule.lines().next().unwrap_or_default()));
        }
    }
    assert!(seen >= 40, "{seen} series in rules");
}
