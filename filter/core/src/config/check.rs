//! Checks a document against the field tables and reads values out of a checked one.

use std::ops::RangeInclusive;

use super::duration;
use super::error::ConfigError;
use super::fields::{
    BODILESS, CONNECTION_HEADERS, Field, Kind, LEAST_PERCENT, LONGEST_NAME, LONGEST_VALUE, MOST_HEADERS, MOST_UPSTREAMS,
};
use super::node::{Node, decimal};
use crate::json::quoted;

/// Percents and factors are kept as millionths: whole numbers compare exactly.
pub(super) const MILLION: u32 = 1_000_000;

/// Refuses whatever in `node` the `fields` do not allow. `path` names the node in messages.
pub(super) fn section(node: &Node, fields: &[Field], path: &str) -> Result<(), ConfigError> {
    let Node::Map(entries) = node else {
        return Err(ConfigError::new(path, node, &format!("a section with {}", names(fields))));
    };
    for (at, (key, value)) in entries.iter().enumerate() {
        let path = join(path, key);
        let Some(field) = fields.iter().find(|field| field.name == key) else {
            return Err(unknown(&path, key, fields));
        };
        // All earlier keys are known and unique, so there are never more of them than the table has fields.
        once(entries, at, key, &path)?;
        check(value, &field.kind, &path)?;
    }
    Ok(())
}

/// Refuses the key at `at` where an earlier entry has it.
fn once(entries: &[(String, Node)], at: usize, key: &str, path: &str) -> Result<(), ConfigError> {
    let stands_twice = entries.iter().take(at).any(|(earlier, _)| earlier == key);
    if stands_twice { Err(ConfigError::said(path, "the key stands twice; allowed: once")) } else { Ok(()) }
}

fn check(node: &Node, kind: &Kind, path: &str) -> Result<(), ConfigError> {
    let refuse = |allowed: &str| Err(ConfigError::new(path, node, allowed));
    match (kind, node) {
        (Kind::Section(fields), _) => section(node, fields, path),
        (Kind::Sections(fields), Node::List(items)) if items.len() <= MOST_UPSTREAMS => {
            items.iter().enumerate().try_for_each(|(at, item)| section(item, fields, &format!("{path}[{at}]")))
        }
        (Kind::Sections(_), _) => refuse(&format!("a list of at most {MOST_UPSTREAMS} sections")),
        (Kind::Choice(words), Node::Text(text)) if words.contains(&text.as_str()) => Ok(()),
        (Kind::Choice(words), _) => refuse(&format!("one of {}", words.join(", "))),
        (Kind::ChoiceOrDuration(words), Node::Text(text)) if words.contains(&text.as_str()) => Ok(()),
        (Kind::ChoiceOrDuration(words), _) => match lasts(node) {
            Some(nanos) => lasts_within(nanos, 0).or_else(|allowed| refuse(&allowed)),
            None => refuse(&format!("one of {}, or {DURATION}", words.join(", "))),
        },
        (Kind::Duration { min }, _) => match lasts(node) {
            Some(nanos) => lasts_within(nanos, *min).or_else(|allowed| refuse(&allowed)),
            None => refuse(DURATION),
        },
        (Kind::Percent, Node::Number(number)) if *number == 0.0 || (LEAST_PERCENT..=100.0).contains(number) => Ok(()),
        (Kind::Percent, _) => refuse("a percent: 0, or from 0.0001 to 100"),
        (Kind::Integer { min, max }, Node::Number(number)) if whole(*number, *min, *max).is_some() => Ok(()),
        (Kind::Integer { min, max }, _) => refuse(&format!("a whole number from {min} to {max}")),
        (Kind::Factor { min, max }, Node::Number(number)) if (*min..=*max).contains(number) => Ok(()),
        (Kind::Factor { min, max }, _) => refuse(&format!("a number from {} to {}", decimal(*min), decimal(*max))),
        (Kind::Text { max }, Node::Text(text)) if has_at_most(text, *max) => Ok(()),
        (Kind::Text { max }, _) => refuse(&format!("text of at most {max} characters")),
        (Kind::Visible { begins, max }, Node::Text(text)) if is_visible(text, begins, *max) => Ok(()),
        (Kind::Visible { begins, max }, _) => {
            let begins = if begins.is_empty() { String::new() } else { format!(", the first of them {begins}") };
            refuse(&format!("text of at most {max} visible ASCII characters{begins}"))
        }
        (Kind::Line { max }, Node::Text(text)) if has_at_most(text, *max) && !text.chars().any(char::is_control) => {
            Ok(())
        }
        (Kind::Line { max }, _) => {
            refuse(&format!("text of at most {max} characters, none of which is a control character"))
        }
        (Kind::Choices(words), Node::List(items)) => items.iter().enumerate().try_for_each(|(at, item)| match item {
            Node::Text(text) if words.contains(&text.as_str()) => Ok(()),
            _ => Err(ConfigError::new(&format!("{path}[{at}]"), item, &format!("one of {}", words.join(", ")))),
        }),
        (Kind::Choices(words), _) => refuse(&format!("a list of {}", words.join(", "))),
        (Kind::Statuses, Node::List(items)) => {
            items.iter().enumerate().try_for_each(|(at, item)| match statuses(item) {
                Some(_) => Ok(()),
                None => Err(ConfigError::new(&format!("{path}[{at}]"), item, STATUSES)),
            })
        }
        (Kind::Statuses, _) => refuse("a list of statuses"),
        (Kind::Status, Node::Number(number))
            if whole(*number, 200, 599).is_some_and(|status| !BODILESS.contains(&status)) =>
        {
            Ok(())
        }
        (Kind::Status, _) => refuse(STATUS),
        (Kind::Paths, Node::List(items)) => items.iter().enumerate().try_for_each(|(at, item)| match item {
            Node::Text(text) if crate::policy::exempt::is_valid(text) => Ok(()),
            _ => Err(ConfigError::new(&format!("{path}[{at}]"), item, PATH)),
        }),
        (Kind::Paths, _) => refuse("a list of paths"),
        (Kind::Path, Node::Text(text)) if is_one_path(text) => Ok(()),
        (Kind::Path, _) => refuse(&format!("a path of at most {LONGEST_NAME} visible ASCII characters, {ONE_PATH}")),
        (Kind::Hosts, Node::List(items)) => items.iter().enumerate().try_for_each(|(at, item)| match item {
            Node::Text(text) if is_host(text) => Ok(()),
            _ => Err(ConfigError::new(&format!("{path}[{at}]"), item, HOST)),
        }),
        (Kind::Hosts, _) => refuse("a list of host names"),
        (Kind::ChoiceOrSection(words, _), Node::Text(text)) if words.contains(&text.as_str()) => Ok(()),
        (Kind::ChoiceOrSection(_, fields), Node::Map(entries)) if entries.len() >= fields.len() => {
            section(node, fields, path)
        }
        (Kind::ChoiceOrSection(words, fields), _) => {
            refuse(&format!("one of {}, or a section with {}", words.join(", "), names(fields)))
        }
        (Kind::Flag, Node::Flag(_)) => Ok(()),
        (Kind::Flag, _) => refuse("true or false"),
        (Kind::Headers, Node::Map(entries)) if entries.len() <= MOST_HEADERS => headers(entries, path),
        (Kind::Headers, _) => refuse(&format!("a section of at most {MOST_HEADERS} header names and their values")),
    }
}

const DURATION: &str = "a duration: a number and one of ms, s, m, h, such as \"30s\" or \"1m30s\"";

const PATH: &str = "a path that begins with /, `*` only as its end after a /, without `.` and `..` segments, `//`, `;`, \
    `\\`, and without %2F, %5C, %2E and %25";

const ONE_PATH: &str = "the first of them /, without `*`, query, `.` and `..` segments, `//`, `;`, `\\`, and \
    without %2F, %5C, %2E and %25";

const HOST: &str = "a host name, `*` only as its leading label";

/// No request's path has anything else than visible ASCII characters, so that no other path would ever be found.
fn is_one_path(text: &str) -> bool {
    is_visible(text, "/", LONGEST_NAME) && crate::policy::exempt::is_valid(text) && !text.ends_with('*')
}

/// As far as a matcher can be made of it.
fn is_host(text: &str) -> bool {
    has_at_most(text, LONGEST_NAME) && crate::policy::upstream::Matcher::parts(Some(text), None, None).is_some()
}

const STATUSES: &str = "a status from 200 to 599, or text such as \"5xx\" or \"500-504\"";

const STATUS: &str = "a status from 200 to 599, not 204, 205, 304, whose replies have no body";

/// The statuses that an item of a list stands for.
pub(super) fn statuses(item: &Node) -> Option<RangeInclusive<u32>> {
    let range = match item {
        Node::Number(number) => {
            let status = whole(*number, 200, 599)?;
            status..=status
        }
        Node::Text(text) => text_statuses(text)?,
        _ => return None,
    };
    let fits = range.start() <= range.end() && *range.start() >= 200 && *range.end() <= 599;
    fits.then_some(range)
}

fn text_statuses(text: &str) -> Option<RangeInclusive<u32>> {
    if let Some(class) = text.strip_suffix("xx") {
        let first = digits(class, 1)?.checked_mul(100)?;
        return Some(first..=first.checked_add(99)?);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(digits(first, 3)?..=digits(last, 3)?)
}

/// The number, where the text is exactly so many digits: the standard library also takes a sign and leading zeros.
fn digits(text: &str, count: usize) -> Option<u32> {
    let are_digits = text.len() == count && text.bytes().all(|c| c.is_ascii_digit());
    if are_digits { text.parse().ok() } else { None }
}

fn headers(entries: &[(String, Node)], path: &str) -> Result<(), ConfigError> {
    entries.iter().enumerate().try_for_each(|(at, (name, value))| {
        let path = join(path, name);
        once(entries, at, name, &path)?;
        header(name, value, &path)
    })
}

fn header(name: &str, value: &Node, at: &str) -> Result<(), ConfigError> {
    let token = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&c);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err(ConfigError::new(at, &Node::Text(name.to_owned()), "a lower-case header name"));
    }
    if CONNECTION_HEADERS.contains(&name) {
        return Err(ConfigError::new(at, &Node::Text(name.to_owned()), "any header but those of the connection"));
    }
    check(value, &Kind::Line { max: LONGEST_VALUE }, at)
}

fn is_visible(text: &str, begins: &str, max: u32) -> bool {
    has_at_most(text, max)
        && text.bytes().all(|c| c.is_ascii_graphic())
        && (text.is_empty() || text.starts_with(begins))
}

fn has_at_most(text: &str, max: u32) -> bool {
    text.chars().count() <= max as usize
}

fn lasts(node: &Node) -> Option<u64> {
    match node {
        Node::Text(text) => duration::parse(text),
        _ => None,
    }
}

/// Whether a duration has at least `min` nanoseconds and at most a day's; else what is allowed.
fn lasts_within(nanos: u64, min: u64) -> Result<(), String> {
    let allowed = || format!("a duration from {} to {}", duration::print(min), duration::print(duration::LONGEST));
    (min..=duration::LONGEST).contains(&nanos).then_some(()).ok_or_else(allowed)
}

fn unknown(path: &str, key: &str, fields: &[Field]) -> ConfigError {
    // A third of the letters wrong is another word, not a slip.
    let slips = |name: &str| name.len().max(3) / 3;
    // Nor is a word with so many letters more or less. This also keeps a key of a megabyte from being compared.
    let alike = fields.iter().filter(|field| key.len().abs_diff(field.name.len()) <= slips(field.name));
    match alike.map(|field| (distance(key, field.name), field.name)).min() {
        Some((steps, name)) if steps <= slips(name) => ConfigError::unknown(path, &format!("did you mean {name}?")),
        _ => ConfigError::unknown(path, &format!("known here: {}", names(fields))),
    }
}

fn names(fields: &[Field]) -> String {
    fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", ")
}

/// Letters to insert, delete or replace, case aside (Wagner and Fischer's distance).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i.saturating_add(1);
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal.saturating_add(usize::from(!x.eq_ignore_ascii_case(&y)));
            diagonal = *cell;
            left = replaced.min(left.saturating_add(1)).min(cell.saturating_add(1));
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The path of `key` below `path`. A key that would not read as one name of a path is quoted, escaped and cut.
#[must_use]
pub fn join(path: &str, key: &str) -> String {
    let plain = |c: u8| c.is_ascii_graphic() && !b".[]\"\\".contains(&c);
    let is_name = (1..=LONGEST_PLAIN).contains(&key.len()) && key.bytes().all(plain);
    let key = if is_name { key.to_owned() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The longest key that a path shows in full.
const LONGEST_PLAIN: usize = 64;

/// `number` as millionths, `None` where it is not one within `u32`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn millionths(number: f64) -> Option<u32> {
    let scaled = (number * f64::from(MILLION)).round();
    (0.0..=f64::from(u32::MAX)).contains(&scaled).then_some(scaled as u32)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn whole(number: f64, min: u32, max: u32) -> Option<u32> {
    let fits = number.trunc() == number && (f64::from(min)..=f64::from(max)).contains(&number);
    fits.then_some(number as u32)
}
