//! Asks every query of every dashboard, and keeps the answers for the pictures.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use circuit_breaker_core::telemetry::metrics;
use serde_json::{Value, json};

use super::board::{Board, filled, without_default};
use super::outage::Service;
use super::prometheus::{Prometheus, Span};

/// What a run has shown.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Queries that found something.
    pub found: usize,
    /// What is wrong.
    pub faults: Vec<String>,
}

/// Asks everything over the whole outage.
///
/// # Errors
/// Prometheus does not answer.
pub async fn judge(prometheus: &Prometheus, boards: &[Board], span: Span) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for board in boards {
        for question in board.questions() {
            let place = format!("{}: {} ({})", board.uid(), question.place, question.letter);
            match finds(prometheus, &question.expression, span).await {
                Ok(true) => verdict.found += 1,
                Ok(false) => verdict.faults.push(format!("{place} finds nothing: {}", question.expression)),
                Err(why) => verdict.faults.push(format!("{place}: {why:#}: {}", question.expression)),
            }
        }
        for variable in board.variables()? {
            let selector = filled(&variable.selector, "", span);
            let values = prometheus.label_values(&selector, &variable.label, span).await?;
            if values.iter().all(String::is_empty) {
                verdict.faults.push(format!("{}: the variable {} has no values", board.uid(), variable.name));
            }
        }
    }
    verdict.faults.extend(unseen_metrics(boards));
    verdict.faults.extend(prometheus.unhealthy().await?);
    Ok(verdict)
}

/// Whether an expression finds something for one of the services at some time.
async fn finds(prometheus: &Prometheus, expression: &str, span: Span) -> Result<bool> {
    ensure!(!expression.is_empty(), "it is empty");
    for service in Service::ALL {
        let expression = filled(&without_default(expression), service.host(), span);
        let series = prometheus.range(&expression, span).await?;
        let numbers = series.iter().flat_map(|one| one["values"].as_array().into_iter().flatten());
        if numbers.into_iter().any(|point| point[1].as_str().is_some_and(|number| number != "NaN")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The breaker's metrics that no panel shows.
fn unseen_metrics(boards: &[Board]) -> Vec<String> {
    let all: String = boards.iter().flat_map(Board::questions).map(|question| question.expression).collect();
    let unseen = metrics::ALL.iter().filter(|metric| !all.contains(metric.name));
    unseen.map(|metric| format!("no panel shows {}", metric.name)).collect()
}

/// The answers to all queries of a dashboard over a span, for its picture.
///
/// # Errors
/// Prometheus does not answer.
pub async fn answers(prometheus: &Prometheus, board: &Board, span: Span, host: &str) -> Result<Value> {
    let (mut panels, mut annotations) = (BTreeMap::<String, Value>::new(), Vec::new());
    for question in board.questions() {
        let expression = filled(&question.expression, host, span);
        let series = if question.instant {
            prometheus.instant(&expression, span.until).await?
        } else {
            prometheus.range(&expression, span).await?
        };
        match question.panel {
            Some(number) => {
                panels.entry(number.to_string()).or_insert_with(|| json!({}))[&question.letter] = series.into()
            }
            None => annotations.extend(series),
        }
    }
    Ok(json!({
        "uid": board.uid(), "from": milliseconds(span.from), "until": milliseconds(span.until), "host": host,
        "panels": panels, "annotations": annotations,
    }))
}

fn milliseconds(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or_default()
}
