//! Prometheus' text format, as Envoy and Istio's agent write it.
//!
//! A page of a large proxy has a hundred thousand lines, and a handful is ours. So lines are told apart by the
//! beginning of their names, and only those that are wanted are taken apart.

use std::borrow::Cow;

/// One line: a name, labels, a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// The metric.
    pub name: &'a str,
    /// Its labels, as written.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// Its value.
    pub value: f64,
}

impl Sample<'_> {
    /// A label's value; empty where it has no such label, which Prometheus holds for the same.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// The samples whose names begin with one of these. A line that is not as it should be is passed over: it is another's.
pub fn samples<'a>(text: &'a str, wanted: &'a [&'a str]) -> impl Iterator<Item = Sample<'a>> {
    text.lines().filter(move |line| wanted.iter().any(|start| line.starts_with(start))).filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A timestamp may follow.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let end = closing_quote(quoted)?;
        labels.push((name, unescaped(&quoted[..end])));
        rest = &quoted[end + 1..];
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let (mut out, mut letters) = (String::with_capacity(text.len()), text.chars());
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            (letter, false) => out.push(letter),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_is_read_with_its_labels() {
        let text = "# TYPE circuit_breaker_state gauge\n\
            circuit_breaker_state{tag=\"outbound|80||a.b\",wasm_filter=\"circuit_breaker\"} 2\n\
            envoy_other{tag=\"x\"} 1\n\
            circuit_breaker_circuits{} 7 1700000000000\n\
            circuit_breaker_plain 1.5e3\n";
        let seen: Vec<_> = samples(text, &["circuit_breaker_"]).collect();
        assert_eq!(seen.len(), 3);
        assert_eq!(
            (seen[0].name, seen[0].label("tag"), seen[0].value),
            ("circuit_breaker_state", "outbound|80||a.b", 2.0)
        );
        assert_eq!((seen[1].value, seen[1].label("tag")), (7.0, ""));
        assert_eq!(seen[2].value, 1500.0);
    }

    #[test]
    fn quotes_braces_and_backslashes_in_a_label_are_its_own() {
        let seen: Vec<_> = samples("m{a=\"x\\\"}, \\\\ \\n\",b=\"\"} NaN\n", &["m"]).collect();
        assert_eq!((seen[0].label("a"), seen[0].label("b")), ("x\"}, \\ \n", ""));
        assert!(seen[0].value.is_nan());
    }

    #[test]
    fn a_broken_line_is_passed_over() {
        for line in ["m", "m{", "m{a=\"b}", "m{a=\"b\"}", "m{a=\"b\"} x", "m{a} 1"] {
            assert_eq!(samples(line, &["m"]).count(), 0, "{line}");
        }
    }
}
