//! The effective policy of an upstream, as a document that reads as the same policy.

use super::check::Reader;
use super::node::{Node, decimal};
use super::{CONFIG, Config, ConfigError, check, defaults, fields, matcher, read};
use crate::key::Upstream;
use crate::text::quoted_whole;

/// The policy of `upstream` under `document`, with all defaults, as a `pluginConfig` of its own.
///
/// # Errors
/// As [`Config::parse`].
pub fn effective(document: &[u8], upstream: &str) -> Result<String, ConfigError> {
    Config::parse(document)?;
    let given = read(document)?;
    check::section(&given, CONFIG, "")?;
    let mut whole = defaults(CONFIG);
    whole.overlay(&given, |name| name != "upstreams" && fields::merges(name));
    let mut policy = whole.get("default").cloned().unwrap_or(Node::Null);
    if let Some(entry) = most_specific(&whole, &Upstream::parse(upstream))? {
        policy.overlay(&without_match(entry), fields::merges);
    }
    let mut out = String::new();
    write(&Node::Map(vec![("default".to_owned(), policy)]), 0, &mut out);
    out.push('\n');
    Ok(out)
}

fn most_specific<'a>(whole: &'a Node, upstream: &Upstream<'_>) -> Result<Option<&'a Node>, ConfigError> {
    let Some(Node::List(entries)) = whole.get("upstreams") else { return Ok(None) };
    let mut best = None;
    for (at, entry) in entries.iter().enumerate() {
        let matcher = matcher(Reader(entry.get("match")), &format!("upstreams[{at}]"))?;
        let better = best.as_ref().is_none_or(|(known, _)| matcher.specificity() > *known);
        if matcher.matches(upstream) && better {
            best = Some((matcher.specificity(), entry));
        }
    }
    Ok(best.map(|(_, entry)| entry))
}

fn without_match(entry: &Node) -> Node {
    match entry {
        Node::Map(fields) => Node::Map(fields.iter().filter(|(name, _)| name != "match").cloned().collect()),
        other => other.clone(),
    }
}

fn write(node: &Node, depth: usize, out: &mut String) {
    match node {
        Node::Null => out.push_str("null"),
        Node::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Node::Number(number) => out.push_str(&decimal(*number)),
        Node::Text(text) => out.push_str(&quoted_whole(text)),
        Node::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write(item, depth, out);
            }
            out.push(']');
        }
        Node::Map(fields) if fields.is_empty() => out.push_str("{}"),
        Node::Map(fields) => {
            let inner = depth.saturating_add(1);
            for (at, (name, value)) in fields.iter().enumerate() {
                out.push_str(if at > 0 { ",\n" } else { "{\n" });
                out.push_str(&"  ".repeat(inner));
                out.push_str(&quoted_whole(name));
                out.push_str(": ");
                write(value, inner, out);
            }
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
            out.push('}');
        }
    }
}
