//! A policy in a line or two: what a person asks of it while something is down.

use serde_json::Value;

/// When it trips, how long it stays open, and how traffic comes back. `effective` is the whole policy with its
/// defaults, as the core prints it.
#[must_use]
pub fn words(effective: &Value) -> Vec<String> {
    let policy = &effective["default"];
    let (open, half) = (&policy["open"], &policy["halfOpen"]);
    vec![
        format!("mode {}; trips on {}", plain(&policy["mode"]), conditions(&policy["trip"]).join(", or ")),
        format!(
            "open for {}, x {} for each failed test, at most {}; then {} good probes{}",
            plain(&open["baseDuration"]),
            plain(&open["multiplier"]),
            plain(&open["maxDuration"]),
            plain(&half["successThreshold"]),
            ramp(&half["ramp"]),
        ),
    ]
}

fn conditions(trip: &Value) -> Vec<String> {
    let on = |name: &str| trip[name].as_f64().is_some_and(|number| number > 0.0);
    let least = plain(&trip["minimumCalls"]);
    let window = match &trip["window"]["calls"] {
        Value::Null => format!("of {}", plain(&trip["window"]["duration"])),
        calls => format!("of the last {}", plain(calls)),
    };
    let mut conditions = Vec::new();
    if on("consecutiveFailures") {
        conditions.push(format!("{} failures in a row", plain(&trip["consecutiveFailures"])));
    }
    if on("failureRatePercent") {
        conditions.push(format!("{} % failed {window} (at least {least} calls)", plain(&trip["failureRatePercent"])));
    }
    if on("slowCallRatePercent") && trip["slowCallDuration"] != "0s" {
        let (share, slow) = (plain(&trip["slowCallRatePercent"]), plain(&trip["slowCallDuration"]));
        conditions.push(format!("{share} % slower than {slow}"));
    }
    if on("latencyPercentile") {
        conditions.push(format!("p{} over {}", plain(&trip["latencyPercentile"]), plain(&trip["latencyThreshold"])));
    }
    if conditions.is_empty() {
        conditions.push("nothing".to_owned());
    }
    conditions
}

fn ramp(ramp: &Value) -> String {
    match ramp["duration"].as_str() {
        Some("0s") | None => String::new(),
        Some(duration) => format!(", then from {} % to all within {duration}", plain(&ramp["initialPercent"])),
    }
}

/// Text without its quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use circuit_breaker_core::config::effective;

    fn said(document: &str) -> Vec<String> {
        words(&serde_json::from_str(&effective(document.as_bytes(), "outbound|80||a.b").unwrap()).unwrap())
    }

    #[test]
    fn the_default_policy_is_said_in_two_lines() {
        assert_eq!(
            said("{}"),
            [
                "mode enforce; trips on 5 failures in a row, or 50 % failed of 10s (at least 20 calls), or 100 % slower than 60s",
                "open for 30s, x 2 for each failed test, at most 300s; then 3 good probes, then from 10 % to all within 30s",
            ]
        );
    }

    #[test]
    fn what_is_off_is_not_said() {
        let off =
            r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 0, "slowCallDuration": "0s"}}}"#;
        assert_eq!(said(off)[0], "mode enforce; trips on nothing");
        let latency = r#"{"default": {"trip": {"latencyPercentile": 95, "latencyThreshold": "800ms", "window": {"calls": 100}}}}"#;
        assert!(
            said(latency)[0].contains("50 % failed of the last 100") && said(latency)[0].ends_with("p95 over 800ms")
        );
    }
}
