//! The schema and the parser agree on thousands of documents, each a slip or two away from a valid one.
//!
//! [`RULES`] lists by name what a schema cannot say. Each rule occurs in the samples, and has an example.
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

#[path = "agreement/documents.rs"]
mod documents;
#[path = "agreement/slips.rs"]
mod slips;

use std::collections::BTreeMap;

use circuit_breaker_check::schema::schema;
use circuit_breaker_core::config::{CONFIG, Config, Field};
use jsonschema::Validator;
use serde_json::Value;

/// splitmix64: the same documents in each run.
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap() % bound
    }

    pub fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    pub fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// What a schema cannot say: its name, whether a refusal falls under it, and a document that only the parser refuses.
type Rule = (&'static str, fn(&str) -> bool, &'static str);

const RULES: [Rule; 8] = [
    (
        "the bounds of a duration",
        |said| said.contains("allowed: a duration from "),
        r#"{"default": {"open": {"baseDuration": "99ms"}}}"#,
    ),
    (
        "maxDuration is no shorter than baseDuration, the default's or a given one",
        |said| said.contains("open.maxDuration: ") && said.contains("allowed: at least baseDuration"),
        r#"{"default": {"open": {"baseDuration": "10m"}}}"#,
    ),
    (
        "a window of calls holds minimumCalls",
        |said| said.contains("trip.window.calls: ") && said.contains("allowed: at least minimumCalls"),
        r#"{"default": {"trip": {"minimumCalls": 21, "window": {"calls": 20}}}}"#,
    ),
    (
        "a percentile has a threshold, in its section or in the default's",
        |said| said.contains(".trip.latency") && said.ends_with("or both off"),
        r#"{"default": {"trip": {"latencyPercentile": 95}}}"#,
    ),
    (
        "a probe has a path, in its section or in the default's",
        |said| said.contains(".halfOpen.activeProbe.path: is not given"),
        r#"{"default": {"halfOpen": {"activeProbe": {"interval": "5s"}}}}"#,
    ),
    (
        "each match stands once",
        |said| said.contains("].match: an earlier entry has the same match"),
        r#"{"upstreams": [{"match": {"host": "a"}}, {"match": {"host": "A"}}]}"#,
    ),
    ("a range of statuses rises", falls, r#"{"default": {"failure": {"httpStatus": ["504-500"]}}}"#),
    (
        "each key stands once",
        |said| said.contains("the key stands twice"),
        r#"{"default": {"mode": "observe", "mode": "enforce"}}"#,
    ),
];

/// Whether the refused value is a range whose end lies before its start.
fn falls(said: &str) -> bool {
    let value = said.split_once("]: \"").and_then(|(_, rest)| rest.split_once("\" is not allowed"));
    let range = value.and_then(|(value, _)| value.split_once('-'));
    range.is_some_and(|(start, end)| {
        let status = |text: &str| text.parse::<u16>().ok().filter(|status| (200..600).contains(status));
        status(start).zip(status(end)).is_some_and(|(start, end)| start > end)
    })
}

/// What schema and parser said of a document.
enum Judged {
    /// Both accept it, or both refuse it.
    Alike {
        valid: bool,
    },
    /// Only the parser refuses it, by a rule that a schema cannot say.
    By(&'static str),
    Differently(String),
}

fn judge(schema: &Validator, text: &str) -> Judged {
    let value: Value = serde_json::from_str(text).unwrap();
    let by_schema = schema.is_valid(&value);
    match Config::parse(text.as_bytes()).map_err(|error| error.to_string()) {
        Ok(_) if by_schema => Judged::Alike { valid: true },
        Err(_) if !by_schema => Judged::Alike { valid: false },
        Ok(_) => Judged::Differently(format!("only the schema refuses {text}")),
        Err(said) => match RULES.iter().find(|(_, is_by, _)| is_by(&said)) {
            Some((rule, ..)) => Judged::By(rule),
            None => Judged::Differently(format!("only the parser refuses {text}\n  with {said}")),
        },
    }
}

/// `AGREEMENT_SAMPLES` sets a larger number; the first samples are always the same.
fn samples() -> usize {
    std::env::var("AGREEMENT_SAMPLES").ok().and_then(|samples| samples.parse().ok()).unwrap_or(30_000)
}

fn slips_anywhere(schema: &Validator, random: &mut Random) -> Value {
    let mut document = documents::valid(random);
    let unhurt = judge(schema, &document.to_string());
    assert!(matches!(unhurt, Judged::Alike { valid: true }), "a document without slips: {document}");
    for _ in 0..=random.below(2) {
        slips::one(&mut document, random);
    }
    document
}

fn slips_of_one_field(way: &[&Field], random: &mut Random) -> Value {
    let (mut document, pointer) = documents::of_one_field(way, random);
    let field = document.pointer_mut(&pointer).unwrap();
    for _ in 0..=random.below(2) {
        slips::one(field, random);
    }
    document
}

#[test]
fn schema_and_parser_agree_on_documents_with_slips() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let mut random = Random(20_261_126);
    let (mut good, mut bad) = (0, 0);
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    let mut differences: Vec<String> = Vec::new();
    let ways = documents::ways(CONFIG, &[]);
    let samples = samples();
    for _ in 0..samples {
        let document = if random.percent(30) {
            slips_anywhere(&schema, &mut random)
        } else {
            let way = random.below(ways.len());
            slips_of_one_field(&ways[way], &mut random)
        };
        match judge(&schema, &document.to_string()) {
            Judged::Alike { valid } => *(if valid { &mut good } else { &mut bad }) += 1,
            Judged::By(rule) => *by.entry(rule).or_default() += 1,
            Judged::Differently(how) => differences.push(how),
        }
    }
    differences.sort_by_key(String::len);
    let (count, some) = (differences.len(), differences.get(..20).unwrap_or(&differences).join("\n"));
    assert!(differences.is_empty(), "{count} of {samples} differ, such as\n{some}");
    assert!(good > samples / 10 && bad > samples / 4, "{good} good and {bad} bad documents are too few");
    // A JSON value cannot hold a key twice; only a text can.
    for (rule, ..) in RULES.iter().filter(|(rule, ..)| *rule != "each key stands once") {
        assert!(by.contains_key(rule), "no sample met: {rule}; {by:?}");
    }
}

#[test]
fn each_rule_is_beyond_a_schema_and_has_an_example() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    for (rule, _, example) in RULES {
        match judge(&schema, example) {
            Judged::By(found) => assert_eq!(found, rule, "{example}"),
            Judged::Alike { .. } => panic!("the schema says it too: {rule}: {example}"),
            Judged::Differently(how) => panic!("{rule}: {how}"),
        }
    }
}
