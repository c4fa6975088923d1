//! Configurations that come every few seconds, good ones and bad ones.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::LISTENER;
use super::chance::Chance;
use super::journal::{Journal, Span, Update, What};
use super::stop::Stop;
use super::traffic::LONGEST_PAUSE;
use super::upstreams::UPSTREAMS;
use crate::envoy::{Delivery, Envoy};

/// The longest times that a good configuration may have. The invariants rely on them.
pub mod longest {
    use std::time::Duration;

    /// An open time before its jitter. An upstream's `retry-after` can make it no longer than this.
    pub const OPEN: Duration = Duration::from_millis(2500);
    /// Jitter in percent.
    pub const JITTER: u64 = 20;
    /// A ramp.
    pub const RAMP: Duration = Duration::from_secs(2);
    /// Good probes before it.
    pub const PROBES: u64 = 3;
    /// Time after which a call, or a probe, has waited too long.
    pub const PATIENCE: Duration = Duration::from_secs(1);
    /// A window of time.
    pub const WINDOW: Duration = Duration::from_secs(3);
    /// A window of calls.
    pub const CALLS: u64 = 30;
}

/// The longest time until the module notices something by its tick (`LONGEST_TICK` in `filter/core/src/breaker.rs`).
const TICK: Duration = Duration::from_millis(500);

/// Allowance for a busy machine: a late timer, or a worker that does not run.
const BUSY: Duration = Duration::from_secs(2);

/// How long a circuit may stay not CLOSED once its upstream is well and has traffic:
/// - Calls that failed while it was sick may still begin another OPEN, as long as they are in the window; a good call
///   may complete `minimumCalls`. A call or probe that was sent then may hang until it has waited too long.
/// - The longest OPEN.
/// - Probes, one after the other. Each waits for a request of the right kind: a client that leaves early gives its
///   slot back, and an upload may hold it for 250 ms. A probe may be judged only by a tick.
/// - Ten steps of the ramp. Each lasts twice its time at most, and then until a good call has come.
#[must_use]
pub fn bound() -> Duration {
    let open = longest::OPEN * (100 + u32::try_from(longest::JITTER).unwrap_or(0)) / 100;
    let probe = LONGEST_PAUSE + TICK;
    let probes = probe * u32::try_from(longest::PROBES).unwrap_or(1);
    let ramp = longest::RAMP * 2 + (LONGEST_PAUSE * 3) * 10;
    let calls = LONGEST_PAUSE * u32::try_from(longest::CALLS).unwrap_or(1);
    let echo = longest::WINDOW.max(calls).max(longest::PATIENCE + TICK);
    echo + open + TICK + probes + ramp + BUSY
}

/// Circuits that the module may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub u64);

/// A good configuration. `number` makes it differ from all earlier ones. Also returns the upstream that it forces
/// open.
#[must_use]
pub fn good(number: u64, limit: Limit, chance: &mut Chance) -> (Value, Option<String>) {
    let mut document = plain(number, limit, chance);
    let (upstream, _) = *chance.one_of(&UPSTREAMS);
    let mode = match chance.between(0, 99) {
        0..=14 => "observe",
        15..=24 => "forceOpen",
        _ => return (document, None),
    };
    document["upstreams"] = json!([{"match": {"cluster": upstream}, "mode": mode}]);
    (document, (mode == "forceOpen").then(|| upstream.to_owned()))
}

/// A good configuration under which every circuit with a healthy upstream becomes CLOSED, and which rejects until
/// then.
#[must_use]
pub fn plain(number: u64, limit: Limit, chance: &mut Chance) -> Value {
    let window = if chance.percent(30) {
        json!({"calls": chance.between(20, longest::CALLS)})
    } else {
        json!({"duration": format!("{}s", chance.between(1, longest::WINDOW.as_secs()))})
    };
    let milliseconds = |number: u64| format!("{number}ms");
    let mut document = json!({
        "default": {
            "trip": {
                "consecutiveFailures": chance.between(3, 8),
                "failureRatePercent": chance.between(30, 70),
                "slowCallRatePercent": chance.between(50, 100),
                "slowCallDuration": milliseconds(chance.between(700, 1000)),
                "minimumCalls": 10,
                "window": window,
            },
            "open": {
                "baseDuration": milliseconds(chance.between(300, 1200)),
                "multiplier": chance.between(1, 2),
                "maxDuration": "2500ms",
                "jitterPercent": chance.between(0, longest::JITTER),
                "maxRetryAfter": "2500ms",
            },
            "halfOpen": {
                "maxConcurrentProbes": chance.between(1, 4),
                "successThreshold": chance.between(1, longest::PROBES),
                "probeTimeout": "1s",
                "ramp": {
                    "initialPercent": chance.between(5, 50),
                    "duration": milliseconds(*chance.one_of(&[0, 1000, 2000])),
                },
            },
            "rejection": {"body": format!("configuration {number}\n")},
        },
        "limits": {"maxCircuits": limit.0, "latencyHistograms": 16},
    });
    if chance.percent(30) {
        document["default"]["trip"]["latencyPercentile"] = 90.into();
        document["default"]["trip"]["latencyThreshold"] = "500ms".into();
    }
    document
}

/// A configuration that must be refused.
#[must_use]
pub fn bad(number: u64, chance: &mut Chance) -> String {
    match chance.between(0, 5) {
        0 => format!("not JSON {number}"),
        1 => format!(r#"{{"default": {{"trip": {{"consecutiveFailure": {number}}}}}}}"#),
        2 => format!(r#"{{"default": {{"open": {{"baseDuration": "{number}"}}}}}}"#),
        3 => format!(r#"{{"default": {{"trip": {{"failureRatePercent": {}}}}}}}"#, number + 101),
        4 => format!(r#"{{"default": {{"mode": "mode {number}"}}}}"#),
        _ => ["{\"default\":".repeat(200), number.to_string(), "}".repeat(200)].concat(),
    }
}

/// Updates one Envoy.
pub struct Updates<'a> {
    envoy: &'a Envoy,
    journal: &'a Journal,
    /// Configurations so far.
    number: u64,
    chance: Chance,
}

impl<'a> Updates<'a> {
    /// No configuration so far but the one that Envoy was started with.
    #[must_use]
    pub fn new(envoy: &'a Envoy, journal: &'a Journal, seed: u64) -> Updates<'a> {
        Updates { envoy, journal, number: 0, chance: Chance::of(seed, "updates") }
    }

    /// Updates every few seconds until it is to stop.
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn go_on(&mut self, limit: Limit, mut stop: Stop) -> Result<()> {
        while stop.pause(self.chance.milliseconds(1500, 5000)).await {
            self.number += 1;
            if self.chance.percent(30) {
                let document = bad(self.number, &mut self.chance);
                self.give(&document, What::Bad).await?;
            } else {
                let (document, forced) = good(self.number, limit, &mut self.chance);
                self.give(&document.to_string(), What::Good(forced)).await?;
            }
        }
        Ok(())
    }

    /// Gives it a configuration that forces no circuit open, and that rejects in enforce mode.
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn calm(&mut self, limit: Limit) -> Result<()> {
        self.number += 1;
        let document = plain(self.number, limit, &mut self.chance);
        self.give(&document.to_string(), What::Good(None)).await
    }

    /// Gives it a module that traps, under a configuration that forces no circuit open.
    ///
    /// # Errors
    /// A file cannot be written, or it is refused.
    pub async fn trap(&mut self, module: &Path, limit: Limit) -> Result<()> {
        self.number += 1;
        let document = plain(self.number, limit, &mut self.chance).to_string();
        let from = self.journal.now();
        let delivery = self.envoy.replace_module(LISTENER, module, &document).await?;
        ensure!(delivery == Delivery::Taken, "Envoy refuses the module that traps");
        self.enter(from, What::Trapping);
        Ok(())
    }

    async fn give(&self, document: &str, what: What) -> Result<()> {
        let from = self.journal.now();
        let delivery = self.envoy.configure(LISTENER, document).await?;
        let wanted = if what == What::Bad { Delivery::Refused } else { Delivery::Taken };
        if delivery != wanted {
            self.journal.complain(format!("a configuration was {delivery:?} and should be {wanted:?}: {document}"));
        }
        self.enter(from, what);
        Ok(())
    }

    fn enter(&self, from: f64, what: What) {
        let update = Update { span: Span { from, to: self.journal.now() }, what };
        self.journal.with(|entries| entries.updates.push(update));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use circuit_breaker_core::config::Config;

    const LIMIT: Limit = Limit(48);

    #[test]
    fn the_module_takes_every_good_configuration_and_no_bad_one() {
        let mut chance = Chance::of(1, "configurations");
        for number in 0..2000 {
            let (document, _) = good(number, LIMIT, &mut chance);
            let taken = Config::parse(document.to_string().as_bytes());
            assert!(taken.is_ok(), "{:?}: {document}", taken.err());
            let document = bad(number, &mut chance);
            assert!(Config::parse(document.as_bytes()).is_err(), "{document}");
        }
    }

    #[test]
    fn no_good_configuration_has_longer_times_than_the_bound_knows_of() {
        let mut chance = Chance::of(2, "configurations");
        for number in 0..2000 {
            let (document, _) = good(number, LIMIT, &mut chance);
            let config = Config::parse(document.to_string().as_bytes()).unwrap();
            for policy in config.policies() {
                let at_most = |nanoseconds: u64, bound: Duration| u128::from(nanoseconds) <= bound.as_nanos();
                let open = longest::OPEN * (100 + u32::try_from(longest::JITTER).unwrap()) / 100;
                assert!(at_most(policy.longest_open(), open), "{document}");
                assert!(at_most(policy.half_open.ramp_duration, longest::RAMP));
                assert!(at_most(policy.half_open.probe_timeout, longest::PATIENCE));
                assert!(at_most(policy.trip.slow_duration, longest::PATIENCE));
                assert!(u64::from(policy.half_open.success_threshold) <= longest::PROBES);
            }
        }
    }
}
