//! The queries of logs in `istio/monitoring/README.md`, as far as they can be tried without Loki and Azure Monitor: their
//! patterns find real lines, and the fields that they name are there. Both languages have the regular expressions of
//! RE2, whose syntax is also that of Rust's.

use std::collections::BTreeSet;
use std::fs;

use circuit_breaker_mesh::control_plane::manifests;
use circuit_breaker_mesh::pod::Pod;
use regex::Regex;
use serde_json::Value;

use crate::traces::{Incident, access_log, access_log_of, incident};
use crate::world::World;

/// What agents add to each line, and what the queries call their own results.
const NOT_OF_A_LINE: [&str; 3] = ["container", "transition", "line"];

pub async fn the_documents_queries_find_real_lines_and_name_real_fields(world: &World) {
    let incident = incident(world).await;
    let lines = lines(incident).await;
    let fields = fields(&incident.sample.gateway, &lines);
    let readme = fs::read_to_string(manifests().join("monitoring/README.md")).expect("there is one");
    for language in ["logql", "kusto"] {
        let queries = all(&format!(r"(?ms)^```{language}\n(.*?)^```$"), &readme);
        assert!(queries.len() >= 4, "{language}: {queries:?}");
        for query in queries {
            check(&query, &lines, &fields);
        }
    }
}

/// All lines of the gateway, once the incident's are among them.
async fn lines(incident: &Incident) -> Vec<String> {
    let gateway = &incident.sample.gateway;
    for trace in [&incident.fallen_back, &incident.rejected] {
        access_log_of(gateway, trace).await;
    }
    gateway.log().lines().map(str::to_owned).collect()
}

/// The fields of transitions and of the access log. Loki joins the names of nested ones.
fn fields(gateway: &Pod, lines: &[String]) -> BTreeSet<String> {
    let transitions = gateway.transitions();
    assert!(!transitions.is_empty() && !lines.is_empty());
    let mut names = BTreeSet::new();
    for object in transitions.iter().chain(&access_log(gateway)) {
        for (name, value) in object.as_object().into_iter().flatten() {
            names.insert(name.clone());
            for (nested, _) in value.as_object().into_iter().flatten() {
                names.extend([nested.clone(), format!("{name}_{nested}")]);
            }
        }
    }
    names
}

fn check(query: &str, lines: &[String], fields: &BTreeSet<String>) {
    let parts = all(r#"\|= `([^`]+)`|has "([^"]+)""#, query);
    let patterns = all(r#"regexp `([^`]+)`|=~`([^`]+)`|@"([^"]+)""#, query);
    assert!(!parts.is_empty(), "it looks for no text: {query}");
    for part in parts.iter().filter(|part| !is_example(part)) {
        assert!(lines.iter().any(|line| line.contains(part.as_str())), "no line has {part:?}: {query}");
    }
    for pattern in &patterns {
        check_pattern(pattern, lines, query);
    }
    let named = all(r#"\["(\w+)"\]|by \(([\w, ]+)\)|(\w+)(?:=~|!~|=)["`]"#, query);
    let named: BTreeSet<_> = named.iter().flat_map(|names| names.split(", ")).map(str::to_owned).collect();
    let unknown: Vec<_> =
        named.iter().filter(|name| !fields.contains(*name) && !NOT_OF_A_LINE.contains(&name.as_str())).collect();
    assert!(!named.is_empty() && unknown.is_empty(), "no line has the fields {unknown:?}: {query}");
}

/// It finds what it is for: a whole transition, or the details of a rejection.
fn check_pattern(pattern: &str, lines: &[String], query: &str) {
    let regex = Regex::new(pattern).unwrap_or_else(|why| panic!("{why}: {query}"));
    if regex.captures_len() == 1 {
        let details = |line: &String| {
            let line: Value = serde_json::from_str(line).ok()?;
            Some(line["response_code_details"].as_str()?.to_owned())
        };
        assert!(lines.iter().filter_map(details).any(|details| regex.is_match(&details)), "{pattern} in {query}");
        return;
    }
    let found: Vec<_> = lines.iter().filter_map(|line| regex.captures(line)).collect();
    assert!(!found.is_empty(), "{pattern} finds no line: {query}");
    for captures in found {
        let transition: Value = serde_json::from_str(&captures[1]).unwrap_or_else(|why| panic!("{why}: {captures:?}"));
        assert!(transition["upstream"].is_string() && transition["to"].is_string(), "{transition}");
    }
}

/// The trace of the W3C's own example stands for one of the reader's.
fn is_example(text: &str) -> bool {
    text == "4bf92f3577b34da6a3ce929d0e0e4736"
}

/// What the groups of this pattern capture, one after the other.
fn all(pattern: &str, text: &str) -> Vec<String> {
    let regex = Regex::new(pattern).expect("the test's own pattern");
    let found = regex.captures_iter(text);
    found.filter_map(|captures| Some(captures.iter().skip(1).flatten().next()?.as_str().to_owned())).collect()
}
