//! The lines that a proxy logs when a circuit changes its state, and what they mean.

use serde::Deserialize;
use serde_json::{Value, json};

/// What the window held.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Window {
    calls: u64,
    failures: u64,
    slow: u64,
    over_threshold: u64,
}

/// One transition of one circuit in one proxy.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Transition {
    /// When, as `2026-11-26T23:20:01.123`; empty where the log does not say.
    #[serde(skip)]
    pub at: String,
    /// Whose log it is.
    #[serde(skip)]
    pub proxy: String,
    /// Envoy's cluster name.
    pub upstream: String,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
    /// Which part of `HALF_OPEN`.
    pub stage: String,
    /// Why.
    pub reason: String,
    open_ms: u64,
    trips_in_a_row: u64,
    window: Window,
    streak: u64,
    mode: String,
}

/// What begins the object of a transition.
const MARK: &str = "circuit_breaker transition ";

/// All transitions of a log, in its order.
#[must_use]
pub fn read(proxy: &str, log: &str) -> Vec<Transition> {
    log.lines().filter(|line| line.contains(MARK.trim_end())).filter_map(|line| transition(proxy, line)).collect()
}

fn transition(proxy: &str, line: &str) -> Option<Transition> {
    // With `logAsJson` Istio's agent puts the line and its time into an object.
    let wrapped: Option<Value> = line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten();
    let text = |name: &str| wrapped.as_ref().and_then(|object| object[name].as_str());
    let said = text("msg").or_else(|| text("message")).unwrap_or(line);
    let (before, object) = said.split_once(MARK)?;
    // Envoy ends the line with the thread that wrote it.
    let mut made: Transition = serde_json::Deserializer::from_str(object).into_iter().next()?.ok()?;
    made.at = time(text("time").unwrap_or(before)).unwrap_or_default();
    proxy.clone_into(&mut made.proxy);
    Some(made)
}

/// The time at which a line begins: Istio's `2026-11-26T23:20:01.123456Z` or Envoy's `[2026-11-26 23:20:01.123]`.
fn time(line: &str) -> Option<String> {
    const SHAPE: &str = "0000-00-00T00:00:00";
    let line = line.trim_start_matches('[');
    let (whole, rest) = line.split_at_checked(SHAPE.len())?;
    let is_time = whole.chars().zip(SHAPE.chars()).all(|(letter, shape)| match shape {
        '0' => letter.is_ascii_digit(),
        'T' => letter == 'T' || letter == ' ',
        other => letter == other,
    });
    let fraction: String =
        rest.strip_prefix('.').unwrap_or("").chars().take_while(char::is_ascii_digit).take(3).collect();
    is_time.then(|| format!("{}.{fraction:0<3}", whole.replace(' ', "T")))
}

impl Transition {
    /// The time of day.
    #[must_use]
    pub fn clock(&self) -> &str {
        self.at.get(11..19).unwrap_or("–")
    }

    /// Why it happened, with the numbers that decided it.
    #[must_use]
    pub fn cause(&self) -> String {
        let Window { calls, failures, slow, over_threshold } = self.window;
        let cause = match self.reason.as_str() {
            "consecutive" => format!("{} failures in a row", self.streak),
            "failure_rate" => format!("{failures} of {calls} calls failed"),
            "slow_rate" => format!("{slow} of {calls} calls were slow"),
            "latency" => format!("{over_threshold} of {calls} calls took longer than the threshold"),
            "probe_failed" => "a probe failed".to_owned(),
            "ramp_failed" => "it failed again under more traffic".to_owned(),
            "forced" => "somebody has set forceOpen".to_owned(),
            "force_lifted" => "forceOpen was lifted".to_owned(),
            "open_over" => "the open time is over; probes go first".to_owned(),
            "probes_succeeded" => "the probes were good; a growing share passes".to_owned(),
            "ramp_done" => "all traffic passes again".to_owned(),
            "idle" => "nobody used it".to_owned(),
            other => other.to_owned(),
        };
        if self.to != "OPEN" || self.open_ms == 0 {
            return cause;
        }
        let again =
            if self.trips_in_a_row > 1 { format!(", trip {} in a row", self.trips_in_a_row) } else { String::new() };
        format!("{cause}{again}; open for {} s", self.open_ms.div_ceil(1000))
    }

    /// For programs.
    #[must_use]
    pub fn document(&self) -> Value {
        json!({
            "at": if self.at.is_empty() { Value::Null } else { json!(format!("{}Z", self.at)) },
            "proxy": self.proxy, "from": self.from, "to": self.to, "reason": self.reason, "cause": self.cause(),
            "open_ms": self.open_ms, "trips_in_a_row": self.trips_in_a_row, "mode": self.mode,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = r#"{"upstream":"shop","from":"CLOSED","to":"OPEN","reason":"consecutive","generation":1,"open_ms":10832,"trips_in_a_row":2,"window":{"calls":6,"failures":5,"slow":0,"over_threshold":0},"streak":5,"mode":"enforce"}"#;

    #[test]
    fn lines_of_istio_of_envoy_and_in_json_are_read() {
        let istio = format!(
            "2026-11-26T23:20:01.123456Z\twarning\tenvoy wasm external/x.cc:1\twasm log: {MARK}{OBJECT}\tthread=21"
        );
        let envoy = format!("[2026-11-26 23:20:01.123][12][warning][wasm] wasm log: {MARK}{OBJECT}");
        let json =
            json!({"level": "warn", "time": "2026-11-26T23:20:01.123456Z", "msg": format!("wasm log: {MARK}{OBJECT}")});
        for line in [istio, envoy, json.to_string()] {
            let seen = read("shop/web-1", &format!("other\n{line}\n"));
            assert_eq!((seen.len(), seen[0].at.as_str()), (1, "2026-11-26T23:20:01.123"), "{line}");
            assert_eq!(
                (seen[0].upstream.as_str(), seen[0].clock(), seen[0].proxy.as_str()),
                ("shop", "23:20:01", "shop/web-1")
            );
            assert_eq!(seen[0].cause(), "5 failures in a row, trip 2 in a row; open for 11 s");
        }
    }

    #[test]
    fn a_line_without_a_time_and_a_reason_of_a_later_version_are_shown_all_the_same() {
        let seen = read("p", &format!("{MARK}{}", OBJECT.replace("consecutive", "moon_phase").replace("10832", "0")));
        assert_eq!((seen[0].clock(), seen[0].cause().as_str()), ("–", "moon_phase"));
        assert!(read("p", &format!("{MARK}{{\"upstream\":")).is_empty(), "a line that was cut");
    }
}
