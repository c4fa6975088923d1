//! What people, templates and converters do to a document.

use serde_json::{Map, Value, json};

use crate::Random;

/// Changes one place of `document`: a value, a key, or what a list or a section holds.
pub fn one(document: &mut Value, random: &mut Random) {
    let mut at = random.below(places(document));
    change(document, &mut at, random);
}

/// The values in `value`, and `value` itself.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(fields) => fields.values().map(places).sum::<usize>(),
        _ => 0,
    }
}

/// Changes the value that comes after `at` others. Whether there was one.
fn change(value: &mut Value, at: &mut usize, random: &mut Random) -> bool {
    if *at == 0 {
        slip(value, random);
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| change(item, at, random)),
        Value::Object(fields) => fields.values_mut().any(|field| change(field, at, random)),
        _ => false,
    }
}

fn slip(value: &mut Value, random: &mut Random) {
    if random.percent(8) {
        *value = other(random);
        return;
    }
    match value {
        Value::Null => *value = other(random),
        Value::Bool(flag) => *value = if random.percent(50) { json!(!*flag) } else { json!(flag.to_string()) },
        Value::Number(number) => *value = another_number(number.as_f64().unwrap(), random),
        Value::String(text) => *text = another_text(text, random),
        Value::Array(items) => in_list(items, random),
        Value::Object(fields) => in_section(fields, random),
    }
}

/// A value of whatever type.
fn other(random: &mut Random) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(503),
        json!(""),
        json!("5xx"),
        json!("30s"),
        json!([]),
        json!(["5xx"]),
        json!({}),
        json!({"mode": "observe"}),
        json!({"x-a": "b"}),
        json!({"": 1}),
    ];
    all[random.below(all.len())].clone()
}

/// Numbers near the bounds of some field, and what a spreadsheet or a template makes of numbers.
const NUMBERS: [f64; 44] = [
    -1.0,
    -0.0,
    0.0,
    0.000_001,
    0.000_049_999,
    0.000_05,
    0.000_099_999,
    0.000_1,
    0.000_15,
    0.5,
    0.999_999,
    1.0,
    1.5,
    9.0,
    10.0,
    16.0,
    17.0,
    99.999_96,
    100.0,
    100.000_04,
    100.000_05,
    100.5,
    101.0,
    199.0,
    200.0,
    204.0,
    205.0,
    304.0,
    599.0,
    599.5,
    600.0,
    1000.0,
    1001.0,
    10_000.0,
    10_001.0,
    65_535.0,
    65_536.0,
    1e6,
    1_000_001.0,
    4_294_967_295.0,
    4_294_967_296.0,
    9_007_199_254_740_993.0,
    1e19,
    1e300,
];

fn another_number(number: f64, random: &mut Random) -> Value {
    let drawn = match random.below(8) {
        0 => number + 1.0,
        1 => number - 1.0,
        2 => number * 1.000_000_5,
        3 => -number,
        _ => NUMBERS[random.below(NUMBERS.len())],
    };
    match random.below(6) {
        0 => json!(drawn.to_string()),
        // Without a point where it is a whole number.
        1..4 => serde_json::from_str(&drawn.to_string()).unwrap(),
        _ => json!(drawn),
    }
}

/// Characters that mean something in a duration, a status, a path, a host or a header, and others that look like
/// them.
const PIECES: [&str; 50] = [
    "+",
    "-",
    "0",
    "00",
    "1",
    "5",
    "9",
    ".",
    ".0",
    "x",
    "X",
    "xx",
    "*",
    "*.",
    "/*",
    "/",
    "//",
    "/.",
    "/..",
    "%",
    "%2e",
    "%2F",
    "%25",
    "%5c",
    "%20",
    "\\",
    ";",
    "?",
    "#",
    ":",
    "_",
    "\n",
    "\r",
    "\t",
    "\0",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{e9}",
    "\u{1F600}",
    "\u{660}",
    " ",
    "A",
    "h",
    "m",
    "s",
    "ms",
    "1m",
    "0.000000001ms",
    "e3",
];

/// Whole texts of the other kinds of fields.
const TEXTS: [&str; 28] = [
    "",
    "5xx",
    "+5xx",
    "05xx",
    "6xx",
    "1xx",
    "5Xx",
    "500",
    "0500",
    "+500",
    "500-504",
    "504-500",
    "500-+504",
    "500-0504",
    "500-",
    "-504",
    "500-504-505",
    "599-600",
    "25h",
    "0s",
    "1ms",
    "0.999999999h",
    "0.0000001ms",
    "0.1000000ms",
    "1000000000s",
    "100000h",
    "connection",
    "*",
];

/// Lengths near the bounds of some field.
const LENGTHS: [usize; 10] = [9, 10, 64, 256, 257, 512, 513, 4096, 4097, 5000];

fn another_text(text: &str, random: &mut Random) -> String {
    let mut letters: Vec<String> = text.chars().take(5000).map(String::from).collect();
    let at = random.below(letters.len() + 1);
    match random.below(8) {
        0 => return text.to_uppercase(),
        1 => return random.of(&TEXTS).to_owned(),
        2 => return random.of(&["a", "\u{e9}", "0", "1", "/a"]).repeat(LENGTHS[random.below(LENGTHS.len())]),
        3 => return format!("{text}{text}"),
        4 if at < letters.len() => drop(letters.remove(at)),
        5 if at < letters.len() => letters[at] = random.of(&PIECES).to_owned(),
        _ => letters.insert(at, random.of(&PIECES).to_owned()),
    }
    letters.concat()
}

fn in_list(items: &mut Vec<Value>, random: &mut Random) {
    let at = random.below(items.len() + 1);
    match random.below(5) {
        0 if at < items.len() => drop(items.remove(at)),
        1 if at < items.len() => items.push(items[at].clone()),
        2 => items.push(json!(random.of(&TEXTS))),
        3 => items.push(json!(NUMBERS[random.below(NUMBERS.len())])),
        _ => items.push(other(random)),
    }
}

/// Names of fields, also where they do not belong, and names of headers.
const KEYS: [&str; 20] = [
    "",
    "mode",
    "trip",
    "window",
    "match",
    "host",
    "port",
    "cluster",
    "duration",
    "calls",
    "status",
    "headers",
    "connection",
    "content-length",
    "host ",
    "X-A",
    "x a",
    ":path",
    "\u{e9}",
    "x-\n",
];

fn in_section(fields: &mut Map<String, Value>, random: &mut Random) {
    let keys: Vec<String> = fields.keys().cloned().collect();
    let Some(key) = keys.get(random.below(keys.len() + 1)).filter(|_| random.percent(80)) else {
        fields.insert(random.of(&KEYS).to_owned(), other(random));
        return;
    };
    let Some(value) = fields.remove(key) else { return };
    match random.below(4) {
        0 => {}
        1 => drop(fields.insert(random.of(&KEYS).to_owned(), value)),
        2 => drop(fields.insert(another_text(key, random), value)),
        _ => {
            fields.insert(random.of(&KEYS).to_owned(), value.clone());
            fields.insert(key.clone(), value);
        }
    }
}
