//! All faults of a policy, in the order of the document.
//!
//! The module stops at the first fault, which is enough for a proxy and keeps the module small. A person wants to mend
//! all at once. So here the module is asked again and again, each time without what it has refused: every verdict is in
//! the module's own words, and there is no second set of rules that could differ.

use circuit_breaker_core::config::{Config, ConfigError, path_of};

use crate::document::{Content, Node, Place};

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where.
    pub at: Place,
    /// The path and what is wrong, in the module's words.
    pub message: String,
}

/// A node that lives, by the names that the module knows and by those that its author knows: once an item of a list
/// is gone, the module counts the later ones otherwise.
struct Named {
    /// The way to it: the number of each child.
    way: Vec<usize>,
    module: String,
    author: String,
    at: Place,
}

/// All faults of a document. Nothing, where the module takes it.
#[must_use]
pub fn faults(document: &Node) -> Vec<Fault> {
    let (mut document, mut found, mut taken_out) = (document.clone(), Vec::new(), Vec::new());
    while let Err(error) = Config::parse_fields(document.json().as_bytes()) {
        let Some(author) = refuse(&mut document, &error, &mut found, |_| true) else { return found };
        taken_out.push(author);
    }
    // Fields that are fine alone and not together. Where one of them has been refused already, its default stands in its
    // place now, and says nothing about what the author meant.
    let meant = |author: &str| !taken_out.iter().any(|gone| concerns(gone, author));
    while let Err(error) = Config::parse(document.json().as_bytes()) {
        if refuse(&mut document, &error, &mut found, meant).is_none() {
            break;
        }
    }
    found.sort();
    found
}

/// Notes the fault and takes what it is about out of the document. The author's path of that; nothing where no part
/// of the document is to blame, so that asking again would say the same.
fn refuse(
    document: &mut Node,
    error: &ConfigError,
    found: &mut Vec<Fault>,
    meant: impl Fn(&str) -> bool,
) -> Option<String> {
    let message = error.to_string();
    let Some(blamed) = blamed(document, &message) else {
        found.push(Fault { at: document.at, message });
        return None;
    };
    let tail = message.get(blamed.module.len()..).unwrap_or_default();
    if meant(&blamed.author) {
        found.push(Fault { at: blamed.at, message: format!("{}{tail}", blamed.author) });
    }
    // An entry without its match would be refused for that.
    let way = blamed.way.as_slice();
    let way = if blamed.author.ends_with(".match") { way.split_last()?.1 } else { way };
    // What is wrong may not stand there, but come from elsewhere: then it is a field beside it that the message names.
    if tail.starts_with(':') || !take_out_named(child_at(document, way)?, tail) {
        take_out(document, way);
    }
    Some(blamed.author)
}

/// The node that a message is about: that with the longest path which begins the message.
fn blamed(document: &Node, message: &str) -> Option<Named> {
    let mut living = Vec::new();
    list(document, &mut Vec::new(), ("", ""), &mut living);
    let is_about =
        |named: &Named| message.strip_prefix(&named.module).is_some_and(|rest| rest.starts_with([':', '.', '[']));
    living.retain(is_about);
    let longest = living.iter().map(|named| named.module.len()).max()?;
    living.retain(|named| named.module.len() == longest);
    // Of two equal keys the second is one too many; any other fault of theirs is found in the first one first.
    if message.contains(": the key stands twice") && living.len() > 1 {
        Some(living.remove(1))
    } else {
        living.into_iter().next()
    }
}

fn list(node: &Node, way: &mut Vec<usize>, (module, author): (&str, &str), living: &mut Vec<Named>) {
    let mut add = |number: usize, child: &Node, module: String, author: String| {
        way.push(number);
        list(child, way, (&module, &author), living);
        living.push(Named { way: way.clone(), module, author, at: child.at });
        way.pop();
    };
    match &node.content {
        Content::Scalar(_) => {}
        Content::Map(entries) => {
            for (number, (key, child)) in entries.iter().enumerate().filter(|(_, (_, child))| !child.gone) {
                add(number, child, path_of(module, key), path_of(author, key));
            }
        }
        Content::List(items) => {
            let living = items.iter().enumerate().filter(|(_, item)| !item.gone);
            for (place, (number, child)) in living.enumerate() {
                add(number, child, format!("{module}[{place}]"), format!("{author}[{number}]"));
            }
        }
    }
}

fn child_at<'a>(node: &'a mut Node, way: &[usize]) -> Option<&'a mut Node> {
    let Some((first, rest)) = way.split_first() else { return Some(node) };
    let child = match &mut node.content {
        Content::Scalar(_) => None,
        Content::Map(entries) => entries.get_mut(*first).map(|(_, child)| child),
        Content::List(items) => items.get_mut(*first),
    };
    child_at(child?, rest)
}

/// Takes a node out, and a section that has nothing else: an empty `window` would be refused for that.
fn take_out(document: &mut Node, way: &[usize]) {
    let Some((_, section)) = way.split_last() else { return };
    if let Some(node) = child_at(document, way) {
        node.gone = true;
    }
    if let Some(Content::Map(entries)) = child_at(document, section).map(|node| &node.content)
        && entries.iter().all(|(_, node)| node.gone)
    {
        take_out(document, section);
    }
}

/// Takes the fields out whose names are words of the message. Whether there was one.
fn take_out_named(node: &mut Node, message: &str) -> bool {
    let Content::Map(entries) = &mut node.content else { return false };
    let is_word = |name: &str| message.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| word == name);
    let named = entries.iter_mut().filter(|(name, child)| !child.gone && is_word(name));
    named.map(|(_, child)| child.gone = true).count() > 0
}

/// Whether what is gone has a say in the section of a path: it was in the same section of the same policy, or of
/// `default`, which lies below all others.
fn concerns(gone: &str, path: &str) -> bool {
    let parts = |path: &str| {
        let mut parts = path.split('.').map(str::to_owned);
        (parts.next().unwrap_or_default(), parts.next())
    };
    let ((gone_policy, gone_section), (policy, section)) = (parts(gone), parts(path));
    (gone_policy == policy || gone_policy == "default") && (gone_section.is_none() || gone_section == section)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::documents;

    fn said(text: &str) -> Vec<String> {
        let node = documents(text).unwrap().remove(0);
        faults(&node).iter().map(|fault| format!("{} {}", fault.at, fault.message)).collect()
    }

    fn assert_said(text: &str, beginnings: &[&str]) {
        let said = said(text);
        assert_eq!(said.len(), beginnings.len(), "{said:#?}");
        said.iter()
            .zip(beginnings)
            .for_each(|(said, begin)| assert!(said.starts_with(begin), "{said} and not {begin}"));
    }

    #[test]
    fn a_good_document_has_none() {
        assert_said("default: {mode: observe}\n", &[]);
    }

    #[test]
    fn all_are_told_with_their_places_in_the_order_of_the_document() {
        let text = "\
default:
  mode: enforced
  trip:
    consecutiveFailure: 3
    minimumCalls: -1
    failureRatePercent: 101
  failure:
    httpStatus: [5xx, 700, 999]
upstreams:
- match: {hosts: a.b}
- match: {host: a.b}
  open: {baseDuration: 10 parsecs}
";
        assert_said(
            text,
            &[
                "2:3 default.mode: \"enforced\" is not allowed",
                "4:5 default.trip.consecutiveFailure: unknown field; did you mean consecutiveFailures?",
                "5:5 default.trip.minimumCalls: -1 is not allowed",
                "6:5 default.trip.failureRatePercent: 101 is not allowed",
                "8:23 default.failure.httpStatus[1]: 700",
                "8:28 default.failure.httpStatus[2]: 999",
                "10:11 upstreams[0].match.hosts: unknown field; did you mean host?",
                "12:10 upstreams[1].open.baseDuration: \"10 parsecs\" is not allowed",
            ],
        );
    }

    #[test]
    fn contradictions_are_told_unless_a_refused_field_has_a_part_in_them() {
        let contradictions = "\
default:
  open: {baseDuration: 60s, maxDuration: 30s}
  trip: {latencyPercentile: 95, window: {calls: 12}}
upstreams:
- match: {host: a.b}
- match: {host: A.B}
";
        assert_said(
            contradictions,
            &[
                "2:29 default.open.maxDuration: \"30s\" is not allowed; allowed: at least baseDuration, which is 60s",
                "3:3 default.trip.latencyThreshold: is off, and latencyPercentile is given",
                "3:42 default.trip.window.calls: 12 is not allowed",
                "6:3 upstreams[1].match: an earlier entry has the same match",
            ],
        );
        assert_said(
            "default:\n  open: {baseDuration: 1 s, maxDuration: 5s}\n",
            &["2:10 default.open.baseDuration: \"1 s\" is not allowed"],
        );
    }

    #[test]
    fn of_two_equal_keys_the_second_is_the_fault_and_the_first_counts() {
        assert_said(
            "default:\n  mode: wrong\n  mode: observe\n  mode: enforce\n",
            &["2:3 default.mode: \"wrong\" is not allowed", "4:3 default.mode: the key stands twice"],
        );
    }

    #[test]
    fn a_document_of_another_shape_has_one_fault() {
        for text in ["- a\n", "text\n", "default: 5\n", "default: [a, b]\n", "upstreams: 7\n"] {
            assert_eq!(said(text).len(), 1, "{text}: {:?}", said(text));
        }
    }
}
