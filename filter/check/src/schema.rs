//! The JSON Schema of `pluginConfig`, written from the tables that the module's parser reads.
//!
//! A schema cannot say everything that the parser checks (durations' bounds, `maxDuration` against `baseDuration`,
//! two entries with the same match). The parser refuses whatever the schema refuses. What the parser alone refuses
//! falls under one of the rules that `tests/agreement.rs` names.

use circuit_breaker_core::config::{
    BODILESS, CONFIG, CONNECTION_HEADERS, Field, Kind, LEAST_PERCENT, LONGEST_NAME, LONGEST_VALUE, MOST_HEADERS,
    MOST_UPSTREAMS,
};
use serde_json::{Map, Value, json};

/// The whole schema.
#[must_use]
pub fn schema() -> Value {
    let mut schema = section(CONFIG);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("pluginConfig of the circuit breaker for Envoy and Istio");
    hold_the_default_minimum(&mut schema["properties"]["default"]["properties"]["trip"]);
    schema
}

/// A window of calls without a `minimumCalls` beside it must hold the default one. This is only checked in `default`:
/// an entry of `upstreams` may have its minimum from there.
fn hold_the_default_minimum(trip: &mut Value) {
    let minimum = trip["properties"]["minimumCalls"]["default"].clone();
    trip["if"] = json!({
        "required": ["window"],
        "properties": {"window": {"required": ["calls"]}},
        "not": {"required": ["minimumCalls"]},
    });
    trip["then"] = json!({"properties": {"window": {"properties": {"calls": {"minimum": minimum}}}}});
}

fn section(fields: &[Field]) -> Value {
    let properties: Map<String, Value> = fields.iter().map(|field| (field.name.to_owned(), described(field))).collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn described(field: &Field) -> Value {
    let mut value = kind(&field.kind);
    beside_the_table(field.name, &mut value);
    value["description"] = json!(field.meaning);
    if let Ok(default) = serde_json::from_str::<Value>(field.default)
        && default != json!({})
    {
        value["default"] = default;
    }
    value
}

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Section(fields) => section(fields),
        Kind::Sections(fields) => {
            let mut item = section(fields);
            item["required"] = json!(["match"]);
            json!({"type": "array", "items": item, "maxItems": MOST_UPSTREAMS})
        }
        Kind::Choice(words) => json!({"enum": words}),
        Kind::ChoiceOrDuration(words) => {
            json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": DURATION}]})
        }
        Kind::Choices(words) => json!({"type": "array", "items": {"enum": words}}),
        Kind::Duration { .. } => json!({"type": "string", "pattern": DURATION}),
        Kind::Percent => json!({"anyOf": [{"const": 0}, {"type": "number", "minimum": LEAST_PERCENT, "maximum": 100}]}),
        Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Factor { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
        Kind::Text { max } => json!({"type": "string", "maxLength": max}),
        Kind::Visible { begins, max } => {
            json!({"type": "string", "maxLength": max, "pattern": format!("^({begins}[!-~]*)?$")})
        }
        Kind::Line { max } => line(*max),
        Kind::Statuses => json!({"type": "array", "items": statuses(5)}),
        Kind::Status => json!({"type": "integer", "minimum": 200, "maximum": 599, "not": {"enum": BODILESS}}),
        Kind::Paths => json!({"type": "array", "items": {"type": "string", "pattern": PATH}}),
        Kind::Path => {
            json!({"type": "string", "maxLength": LONGEST_NAME, "pattern": PATH, "not": {"pattern": "\\*$|[^!-~]"}})
        }
        Kind::Hosts => {
            json!({"type": "array", "items": {"type": "string", "maxLength": LONGEST_NAME, "pattern": HOST}})
        }
        Kind::ChoiceOrSection(words, fields) => {
            let mut section = section(fields);
            section["required"] = fields.iter().map(|field| field.name).collect();
            json!({"anyOf": [{"enum": words}, section]})
        }
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Headers => json!({
            "type": "object",
            "propertyNames": {"pattern": "^[a-z0-9!#$%&'*+.^_`|~-]{1,256}$", "not": {"enum": CONNECTION_HEADERS}},
            "additionalProperties": line(LONGEST_VALUE),
            "maxProperties": MOST_HEADERS,
        }),
    }
}

/// A status, a class or a range, of no class above this.
fn statuses(class: u32) -> Value {
    let last = class * 100 + 99;
    let (class, digits) = (format!("[2-{class}]"), "[0-9][0-9]");
    json!({"anyOf": [
        {"type": "integer", "minimum": 200, "maximum": last},
        {"type": "string", "pattern": format!("^({class}xx|{class}{digits}(-{class}{digits})?)$")},
    ]})
}

fn line(max: u32) -> Value {
    json!({"type": "string", "maxLength": max, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"})
}

/// What the parser asks of a field beyond its table, when it reads the checked document.
fn beside_the_table(name: &str, value: &mut Value) {
    match name {
        "window" => {
            value["minProperties"] = json!(1);
            value["maxProperties"] = json!(1);
        }
        "match" => {
            value["minProperties"] = json!(1);
            value["dependentSchemas"] = json!({"cluster": {"maxProperties": 1}});
        }
        "host" => value["pattern"] = json!(HOST),
        "health" => value["required"] = json!(["path"]),
        "expectedStatus" => {
            value["items"] = statuses(4);
            value["minItems"] = json!(1);
        }
        _ => {}
    }
}

/// A host name, or `*`, or `*` as the leading label of one.
const HOST: &str = "^([^*]+|\\*|\\*\\.[^*]+)$";

/// A path's segments. None is `.` or `..`, only the last may be empty, and none holds what a server may decode to
/// another path.
const PATH: &str = "^(?![\\s\\S]*(/\\.{1,2}(/|$)|//|%(2[fF]|5[cC]|2[eE]|25)))/([^*?#;\\\\]*/)?([^*?#;\\\\/]*|\\*)$";

/// Hours, minutes, seconds, milliseconds, each at most once and in this order; no finer than a nanosecond.
const DURATION: &str = "^(?=.)([0-9]{1,9}(\\.[0-9]{1,9})?h)?([0-9]{1,9}(\\.[0-9]{1,9})?m)?\
    ([0-9]{1,9}(\\.[0-9]{1,9})?s)?([0-9]{1,9}(\\.[0-9]{1,6}0{0,3})?ms)?$";
