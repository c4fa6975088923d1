//! The results, the bounds that they must keep, and the values that are aimed at.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::cpu::Cost;

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is measured, with its unit.
    pub what: String,
    /// The result.
    pub found: f64,
    /// Largest value that may be.
    pub must: Option<f64>,
    /// Largest value that is aimed at.
    pub aim: Option<f64>,
}

impl Row {
    /// A row that is only told, without a bound.
    #[must_use]
    pub fn told(what: &str, found: f64) -> Row {
        Row { what: what.to_owned(), found, must: None, aim: None }
    }

    /// A row with bounds.
    #[must_use]
    pub fn bound(what: &str, found: f64, must: f64, aim: f64) -> Row {
        Row { what: what.to_owned(), found, must: Some(must), aim: Some(aim) }
    }

    /// A value that is not a number is no success.
    fn is_over(&self) -> bool {
        self.must.is_some_and(|must| self.found.is_nan() || self.found > must)
    }
}

/// The figures by variant, and the rows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Under full load.
    pub costs: Vec<Cost>,
    /// All else, and what has bounds.
    pub rows: Vec<Row>,
}

impl Report {
    /// The rows that are over their bounds.
    #[must_use]
    pub fn missed(&self) -> Vec<&str> {
        self.rows.iter().filter(|row| row.is_over()).map(|row| row.what.as_str()).collect()
    }

    /// The tables, in Markdown.
    #[must_use]
    pub fn tables(&self) -> String {
        let mut text = String::new();
        if !self.costs.is_empty() {
            text += "| 16 connections, one worker | CPU us a request | requests/s | p50 ms | p99 ms | p99.9 ms | RSS MB |\n";
            text += "|---|---|---|---|---|---|---|\n";
        }
        for cost in &self.costs {
            let Cost { variant, cpu, rate, p50, p99, p999, resident, .. } = cost;
            let title = variant.title();
            let _ =
                writeln!(text, "| {title} | {cpu:.1} | {rate:.0} | {p50:.2} | {p99:.2} | {p999:.2} | {resident:.0} |");
        }
        text += "\n| measure | found | must | aim |\n|---|---|---|---|\n";
        for row in &self.rows {
            let bound = |bound: Option<f64>| bound.map(|bound| format!("<= {bound}")).unwrap_or_default();
            let (must, aim) = (bound(row.must), bound(row.aim));
            let _ = writeln!(text, "| {} | {} | {must} | {aim} |", row.what, figure(row.found));
        }
        text
    }

    /// All of it, as JSON for machines.
    #[must_use]
    pub fn json(&self) -> Value {
        let costs = self.costs.iter().map(|cost| {
            json!({
                "variant": cost.variant.title(), "cpu_us": cost.cpu, "requests_per_second": cost.rate,
                "refused": cost.refused, "p50_ms": cost.p50, "p99_ms": cost.p99, "p999_ms": cost.p999,
                "rss_mb": cost.resident,
            })
        });
        let rows = self
            .rows
            .iter()
            .map(|row| json!({"measure": row.what, "found": row.found, "must": row.must, "aim": row.aim}));
        json!({"load": costs.collect::<Value>(), "measures": rows.collect::<Value>(), "missed": self.missed()})
    }
}

/// Prints as many digits as mean something.
#[must_use]
pub fn figure(value: f64) -> String {
    if value.abs() >= 1000.0 || value == value.trunc() { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_its_bound_is_named_and_what_was_not_found_too() {
        let rows = vec![
            Row::bound("at the bound", 2.0, 2.0, 1.0),
            Row::bound("over it", 2.1, 2.0, 1.0),
            Row::bound("not found", f64::NAN, 2.0, 1.0),
            Row::told("only told", 9.0),
        ];
        assert_eq!(Report { rows, ..Report::default() }.missed(), ["over it", "not found"]);
    }
}
