//! Every query that a document shows asks for series that exist.

use circuit_breaker_core::host::MetricKind;
use circuit_breaker_core::telemetry::metrics;

use crate::markdown::{Document, documents};

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
    let series = series();
    let words = query.split(|char: char| !(char.is_alphanumeric() || char == '_'));
    let ours: Vec<&str> = words.filter(|word| word.starts_with("circuit_breaker_")).collect();
    for word in &ours {
        assert!(series.iter().any(|name| name == word), "{place}: no metric {word}");
    }
    for asked in components(query) {
        let named = |metric: &metrics::Metric| ours.iter().any(|word| word.starts_with(metric.name));
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
