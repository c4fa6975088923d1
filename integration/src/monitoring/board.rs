//! The dashboards as Grafana reads them: panels, variables, and what a variable's value makes of a query.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::directory;
use super::prometheus::Span;

/// Four scrapes and one: what Grafana takes for `$__rate_interval` where one scrape a second is known.
const RATE_INTERVAL: &str = "5s";

/// A dashboard.
#[derive(Clone, Debug)]
pub struct Board {
    /// The file's content.
    pub document: Value,
}

/// One query of a dashboard.
#[derive(Clone, Debug)]
pub struct Question {
    /// The panel's title, or what else asks.
    pub place: String,
    /// The panel's number; none for an annotation.
    pub panel: Option<u64>,
    /// The query's letter within the panel.
    pub letter: String,
    /// What its series are called.
    pub legend: String,
    /// The expression, with Grafana's variables.
    pub expression: String,
    /// Whether the panel asks for one moment only.
    pub instant: bool,
}

/// A variable of a dashboard: the values of a label.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Which series.
    pub selector: String,
    /// Which label.
    pub label: String,
}

impl Board {
    /// All dashboards, by name of file.
    ///
    /// # Errors
    /// There are none, or one is no JSON.
    pub fn read_all() -> Result<Vec<Board>> {
        let mut files: Vec<_> =
            fs::read_dir(directory().join("dashboards"))?.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        ensure!(!files.is_empty(), "there are no dashboards");
        let read = |file: &std::path::PathBuf| {
            let document = serde_json::from_str(&fs::read_to_string(file)?);
            Ok(Board { document: document.with_context(|| format!("{} is no JSON", file.display()))? })
        };
        files.iter().map(read).collect()
    }

    /// What its address in Grafana ends with.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.document["uid"].as_str().unwrap_or_default()
    }

    /// All queries: of panels, and of annotations.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        let panels = self.document["panels"].as_array().into_iter().flatten();
        let asked = panels.flat_map(|panel| {
            let targets = panel["targets"].as_array().into_iter().flatten();
            targets.map(|target| Question {
                place: text(&panel["title"]),
                panel: panel["id"].as_u64(),
                letter: text(&target["refId"]),
                legend: text(&target["legendFormat"]),
                expression: text(&target["expr"]),
                instant: target["instant"] == true,
            })
        });
        let annotations = self.document["annotations"]["list"].as_array().into_iter().flatten();
        let annotated = annotations.map(|annotation| Question {
            place: format!("annotation {}", text(&annotation["name"])),
            panel: None,
            letter: text(&annotation["name"]),
            legend: text(&annotation["textFormat"]),
            expression: text(&annotation["expr"]),
            instant: false,
        });
        asked.chain(annotated).collect()
    }

    /// The variables that Prometheus is asked for.
    ///
    /// # Errors
    /// One is something else than the values of a label.
    pub fn variables(&self) -> Result<Vec<Variable>> {
        let list = self.document["templating"]["list"].as_array().into_iter().flatten();
        let asked = list.filter(|variable| variable["type"] == "query");
        asked
            .map(|variable| {
                let query = text(&variable["query"]["query"]);
                let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
                let (selector, label) = inner.and_then(|inner| inner.rsplit_once(", ")).context(query.clone())?;
                Ok(Variable { name: text(&variable["name"]), selector: selector.to_owned(), label: label.to_owned() })
            })
            .collect()
    }
}

/// The expression as Grafana sends it, with All for every variable but the host.
#[must_use]
pub fn filled(expression: &str, host: &str, span: Span) -> String {
    let range = format!("{}s", span.seconds());
    [
        ("$__rate_interval", RATE_INTERVAL),
        ("$__range", &range),
        ("$cluster", ".*"),
        ("$namespace", ".*"),
        ("$pod", ".*"),
        ("$subset", "[^|]*"),
        ("$host", host),
    ]
    .iter()
    .fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// The expression without what Grafana shows in place of nothing: a zero would hide that nothing was found.
#[must_use]
pub fn without_default(expression: &str) -> String {
    expression.replace(" or vector(0)", "")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
