//! The effective policy of an upstream, printed as a document that parses to the same policy.

use super::node::{Node, decimal};
use super::reader::{Reader, field};
use super::{CONFIG, Config, ConfigError, check, defaults, fields, matcher, read};
use crate::json::quoted_whole;
use crate::policy::Mode;
use crate::policy::upstream::{Matcher, Upstream};

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
    let upstream = Upstream::parse(upstream);
    match most_specific(&whole, &upstream)? {
        Some((matcher, entry)) if matcher.names(&upstream) || !upstream.is_catch_all() => {
            policy.overlay(&without_match(entry), fields::merges);
        }
        _ if upstream.is_catch_all() => put(&mut policy, "mode", Node::Text(Mode::Disabled.word().to_owned())),
        _ => {}
    }
    let given = Reader(Some(&policy)).at(field!("halfOpen")).at(field!("probeTimeout")).is_given();
    if !given {
        let timeout = super::policy(&policy, "default")?.half_open.probe_timeout;
        let text = Node::Text(super::print_duration(timeout));
        put(&mut policy, "halfOpen", Node::Map(vec![("probeTimeout".to_owned(), text)]));
    }
    let mut out = String::new();
    let mut fields = vec![("default".to_owned(), policy)];
    if upstream.is_catch_all() {
        // The printed document gives this upstream the same policy too.
        let matched = Node::Map(vec![("cluster".to_owned(), Node::Text(upstream.cluster.to_owned()))]);
        fields.push(("upstreams".to_owned(), Node::List(vec![Node::Map(vec![("match".to_owned(), matched)])])));
    }
    write(&Node::Map(fields), 0, &mut out);
    out.push('\n');
    Ok(out)
}

fn put(policy: &mut Node, name: &str, value: Node) {
    policy.overlay(&Node::Map(vec![(name.to_owned(), value)]), fields::merges);
}

fn most_specific<'a>(whole: &'a Node, upstream: &Upstream<'_>) -> Result<Option<(Matcher, &'a Node)>, ConfigError> {
    let Some(Node::List(entries)) = whole.get("upstreams") else { return Ok(None) };
    let mut best: Option<(Matcher, &Node)> = None;
    for (at, entry) in entries.iter().enumerate() {
        let matcher = matcher(Reader(entry.get("match")), &format!("upstreams[{at}]"))?;
        let better = best.as_ref().is_none_or(|(known, _)| matcher.specificity() > known.specificity());
        if matcher.matches(upstream) && better {
            best = Some((matcher, entry));
        }
    }
    Ok(best)
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
