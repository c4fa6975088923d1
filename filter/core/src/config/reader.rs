//! Reads a checked document, by names that are fields.
//!
//! A document that was checked has nothing wrong in it; what a reader does not find is 0, empty, or not given. So a name that
//! is no field of any section would read as 0 for ever. It does not compile: [`field!`] looks it up in the tables while the
//! crate is built. Of which section it is, is not looked at there; the defaults that tests compare tell.

use super::check::{millionths, statuses, whole};
use super::duration;
use super::fields::{CONFIG, Field, Kind};
use super::node::Node;

/// The name of a field that there is.
#[derive(Clone, Copy)]
pub(super) struct Name(&'static str);

impl Name {
    /// # Panics
    /// While the crate is built, where the tables have no such field.
    #[allow(clippy::panic)]
    pub(super) const fn of(name: &'static str) -> Name {
        assert!(is_in(CONFIG, name), "no table of the configuration has this field");
        Name(name)
    }
}

/// A [`Name`], found while the crate is built.
macro_rules! field {
    ($name:literal) => {
        const { $crate::config::reader::Name::of($name) }
    };
}
pub(super) use field;

const fn is_in(table: &[Field], name: &str) -> bool {
    let mut rest = table;
    while let [field, others @ ..] = rest {
        let below = match &field.kind {
            Kind::Section(inner) | Kind::Sections(inner) | Kind::ChoiceOrSection(_, inner) => is_in(inner, name),
            _ => false,
        };
        if below || same(field.name.as_bytes(), name.as_bytes()) {
            return true;
        }
        rest = others;
    }
    false
}

/// `==` is not for constants yet.
const fn same(one: &[u8], other: &[u8]) -> bool {
    let (mut one, mut other) = (one, other);
    while let ([first, others @ ..], [same, rest @ ..]) = (one, other) {
        if *first != *same {
            return false;
        }
        (one, other) = (others, rest);
    }
    one.is_empty() && other.is_empty()
}

/// Reads fields of a section that [`super::check::section`] has accepted, with the defaults already under it.
///
/// An absent or mistyped field reads as zero, empty or false: after the check neither exists.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) Option<&'a Node>);

impl<'a> Reader<'a> {
    pub(super) fn at(self, field: Name) -> Reader<'a> {
        Reader(self.0.and_then(|node| node.get(field.0)))
    }

    pub(super) fn is_given(self) -> bool {
        self.0.is_some()
    }

    pub(super) fn number(self, field: Name) -> f64 {
        match self.at(field).0 {
            Some(Node::Number(number)) => *number,
            _ => 0.0,
        }
    }

    pub(super) fn integer(self, field: Name) -> u32 {
        whole(self.number(field), 0, u32::MAX).unwrap_or(0)
    }

    /// A percent as millionths of the whole.
    pub(super) fn share(self, field: Name) -> u32 {
        millionths(self.number(field) / 100.0).unwrap_or(0)
    }

    pub(super) fn text(self, field: Name) -> &'a str {
        match self.at(field).0 {
            Some(Node::Text(text)) => text,
            _ => "",
        }
    }

    pub(super) fn duration(self, field: Name) -> u64 {
        duration::parse(self.text(field)).unwrap_or(0)
    }

    pub(super) fn flag(self, field: Name) -> bool {
        matches!(self.at(field).0, Some(Node::Flag(true)))
    }

    /// The words of a list.
    pub(super) fn words(self, field: Name) -> impl Iterator<Item = &'a str> {
        self.items(field).iter().filter_map(|item| match item {
            Node::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// All statuses that a list stands for.
    pub(super) fn statuses(self, field: Name) -> impl Iterator<Item = u32> {
        self.items(field).iter().filter_map(statuses).flatten()
    }

    fn items(self, field: Name) -> &'a [Node] {
        match self.at(field).0 {
            Some(Node::List(items)) => items,
            _ => &[],
        }
    }

    pub(super) fn headers(self, field: Name) -> Vec<(String, String)> {
        match self.at(field).0 {
            Some(Node::Map(entries)) => entries
                .iter()
                .filter_map(|(key, value)| match value {
                    Node::Text(text) => Some((key.clone(), text.clone())),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}
