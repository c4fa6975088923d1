//! A JSON document as it was written: order kept, repeated keys kept.
//!
//! `serde_json::Value` keeps the last of two equal keys, so a policy with two `trip` sections would silently lose
//! one. This tree keeps both, so that the check can refuse them. It can be merged section by section, as `upstreams:`
//! entries override `default:`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::names;

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value of `name` where this is a map that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        match self {
            Node::Map(entries) => entries.iter().find(|(key, _)| key == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// A hash of what this node says: the same in whatever order its keys stand, and however its numbers are written.
    /// Istio turns a policy into a protobuf and back before a module reads it.
    pub(super) fn hash(&self) -> u32 {
        let of = |kind: u8, bytes: &[u8]| names::hash(&[&[kind], bytes].concat());
        match self {
            Node::Null => of(b'-', b""),
            Node::Flag(flag) => of(b'?', &[u8::from(*flag)]),
            Node::Number(number) => of(b'#', &number.to_le_bytes()),
            Node::Text(text) => of(b'"', text.as_bytes()),
            Node::List(items) => of(b'[', &items.iter().flat_map(|item| item.hash().to_le_bytes()).collect::<Vec<_>>()),
            Node::Map(entries) => {
                // A sum does not depend on the order, and a sort would be a fiftieth of the module.
                let entry =
                    |(key, value): &(String, Node)| of(b':', &[key.as_bytes(), &value.hash().to_le_bytes()].concat());
                of(b'{', &entries.iter().map(entry).fold(0, u32::wrapping_add).to_le_bytes())
            }
        }
    }

    /// Puts `other` over this node. Maps are merged key by key where `merges` says so for the key; all else is
    /// replaced.
    pub(super) fn overlay(&mut self, other: &Node, merges: fn(&str) -> bool) {
        let (Node::Map(mine), Node::Map(theirs)) = (&mut *self, other) else {
            *self = other.clone();
            return;
        };
        for (key, value) in theirs {
            match mine.iter_mut().find(|(known, _)| known == key) {
                Some((_, node)) if merges(key) => node.overlay(value, merges),
                Some((_, node)) => *node = value.clone(),
                None => mine.push((key.clone(), value.clone())),
            }
        }
    }
}

impl fmt::Display for Node {
    /// The value as a person would recognise it in a message: JSON for plain values, the kind for the others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Null => write!(f, "null"),
            Node::Flag(flag) => write!(f, "{flag}"),
            Node::Number(number) => f.write_str(&decimal(*number)),
            Node::Text(text) => write!(f, "{}", crate::json::quoted(text)),
            Node::List(_) => write!(f, "a list"),
            Node::Map(_) => write!(f, "a section"),
        }
    }
}

/// A number with up to six decimals. The standard library prints any float exactly, and its code is a tenth of the
/// module.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn decimal(number: f64) -> String {
    let millionths = (number.abs() * 1e6).round();
    // Beyond this a double no longer holds millionths.
    if !(0.0..9e15).contains(&millionths) {
        return "a number of that size".to_owned();
    }
    let millionths = millionths as u64;
    let whole = millionths / 1_000_000;
    let sign = if number < 0.0 { "-" } else { "" };
    let fraction = format!("{:06}", millionths % 1_000_000);
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Flag(value))
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        // Istio carries numbers as doubles in any case, and whole numbers beyond 2^53 are outside every range of the
        // tables.
        Ok(Node::Number(value as f64))
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn numbers_are_printed_as_they_were_written() {
        for (number, text) in [(0.0, "0"), (50.0, "50"), (-1.5, "-1.5"), (0.000_001, "0.000001"), (99.99, "99.99")] {
            assert_eq!(decimal(number), text);
        }
        for number in [1e300, f64::NAN, f64::INFINITY] {
            assert_eq!(decimal(number), "a number of that size");
        }
    }
}
