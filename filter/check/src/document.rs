//! YAML and JSON as they were written: with the place of each value, and with keys that stand twice.
//!
//! A reader that makes maps of it would keep one of two equal keys, and an author would never learn that half of the
//! policy is lost. The module refuses such a document, so it must reach the module as it is.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Result, bail};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde_json::Value;

/// Where something stands; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl From<Marker> for Place {
    fn from(marker: Marker) -> Place {
        Place { line: marker.line(), column: marker.col() + 1 }
    }
}

/// A value and where it stands: in a map, where its key does.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where.
    pub at: Place,
    /// What.
    pub content: Content,
    /// Whether it is left out when the document is written again.
    pub gone: bool,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Text, a number, true, false, null.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// Keys and values in their order, equal keys too.
    Map(Vec<(String, Node)>),
}

impl Node {
    fn new(span: Span, content: Content) -> Node {
        Node { at: span.start.into(), content, gone: false }
    }

    /// The value of a key, the first where it stands twice.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// As JSON text, without what is gone.
    #[must_use]
    pub fn json(&self) -> String {
        match &self.content {
            Content::Scalar(value) => value.to_string(),
            Content::List(items) => {
                let items: Vec<_> = items.iter().filter(|item| !item.gone).map(Node::json).collect();
                format!("[{}]", items.join(","))
            }
            Content::Map(entries) => {
                let entries = entries.iter().filter(|(_, node)| !node.gone);
                let entries: Vec<_> =
                    entries.map(|(key, node)| format!("{}:{}", Value::from(key.as_str()), node.json())).collect();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    /// As a value, in which the last of two equal keys counts.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.json()).unwrap_or(Value::Null)
    }
}

/// All documents of a text that are not empty.
///
/// # Errors
/// It is neither YAML nor JSON; with the place.
pub fn documents(text: &str) -> Result<Vec<Node>> {
    let (mut reader, mut found) = (Reader { events: Parser::new_from_str(text), anchors: HashMap::new() }, Vec::new());
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(found),
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
            event => {
                let node = reader.node(event)?;
                if node.content != Content::Scalar(Value::Null) {
                    found.push(node);
                }
            }
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span)> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(why)) => bail!("{}: neither YAML nor JSON: {}", Place::from(*why.marker()), why.info()),
            None => bail!("the text ends early"),
        }
    }

    fn node(&mut self, (event, span): (Event<'a>, Span)) -> Result<Node> {
        let (anchor, content) = match event {
            Event::Alias(anchor) => {
                let Some(known) = self.anchors.get(&anchor) else {
                    bail!("{}: unknown alias", Place::from(span.start))
                };
                return Ok(Node { at: span.start.into(), ..known.clone() });
            }
            Event::Scalar(text, style, anchor, tag) => {
                // A tag says that its author means what it says: `!!str 5` is text.
                let plain = style == ScalarStyle::Plain && tag.is_none();
                (anchor, Content::Scalar(if plain { scalar(&text) } else { Value::from(text.as_ref()) }))
            }
            Event::SequenceStart(anchor, _) => (anchor, self.list()?),
            Event::MappingStart(anchor, _) => (anchor, self.map()?),
            _ => bail!("{}: no value", Place::from(span.start)),
        };
        let node = Node::new(span, content);
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Content> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                event => items.push(self.node(event)?),
            }
        }
    }

    fn map(&mut self) -> Result<Content> {
        let mut entries = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Content::Map(entries)),
                event => self.node(event)?,
            };
            let name = match key.content {
                Content::Scalar(Value::String(text)) => text,
                Content::Scalar(other) => other.to_string(),
                _ => bail!("{}: a key is a list or a map", key.at),
            };
            let event = self.next()?;
            let value = self.node(event)?;
            entries.push((name, Node { at: key.at, ..value }));
        }
    }
}

/// A plain word of YAML 1.2's core schema.
fn scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => number(text).unwrap_or_else(|| text.into()),
    }
}

fn number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Value::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(Value::from);
    }
    // The standard library also reads "inf" and "nan".
    if !digits.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.') {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    text.parse::<i64>().map(Value::from).ok().or_else(|| text.parse::<f64>().ok().map(Value::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_those_of_keys_and_items() {
        let documents = documents("a:\n  b: 1\n  c:\n  - x\n  -  y\n---\nd: 2\n").unwrap();
        let c = documents[0].get("a").unwrap().get("c").unwrap();
        assert_eq!(c.at, Place { line: 3, column: 3 });
        let Content::List(items) = &c.content else { panic!("{c:?}") };
        assert_eq!(items[1].at, Place { line: 5, column: 6 });
        assert_eq!((documents.len(), documents[1].value()), (2, json!({"d": 2})));
    }

    #[test]
    fn scalars_are_read_as_kubernetes_reads_them() {
        let text = "[1, -2, 1.5, 1e3, 0x1f, +7, true, ~, '5', 5xx, 30s, .inf, 1m30s, \"a\\nb\", 1.2.3]";
        let expected =
            json!([1, -2, 1.5, 1000.0, 31, 7, true, null, "5", "5xx", "30s", ".inf", "1m30s", "a\nb", "1.2.3"]);
        assert_eq!(documents(text).unwrap()[0].value(), expected);
    }

    #[test]
    fn both_of_two_equal_keys_are_kept_and_aliases_followed() {
        assert_eq!(documents("a: 1\na: 2\n").unwrap()[0].json(), r#"{"a":1,"a":2}"#);
        assert_eq!(documents("a: &x {b: 1}\nc: *x\n").unwrap()[0].value(), json!({"a": {"b": 1}, "c": {"b": 1}}));
        assert!(documents("# nothing\n---\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_neither_yaml_nor_json_is_told_with_its_place() {
        let why = documents("a: [\n").unwrap_err().to_string();
        assert!(why.contains("neither YAML nor JSON") && why.starts_with(char::is_numeric), "{why}");
    }
}
