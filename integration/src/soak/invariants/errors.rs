//! The module makes no errors of its own, and Envoy logs nothing critical.

use super::Finding;
use crate::soak::evidence::Evidence;
use crate::soak::journal::{Span, What};

const ERRORS: &str = "circuit_breaker_internal_errors_total";

/// Seconds after which Envoy may still log a trap: it does so when a worker meets one, and for another worker a
/// moment later.
const AFTERMATH: f64 = 1.0;

/// Envoy's critical line about a configuration that the module refuses.
const REFUSED: &str = "failed to load";

/// Checks the metric of own errors and Envoy's critical lines against what the soak provoked.
#[must_use]
pub fn check(evidence: &Evidence) -> Finding {
    let mut broken = own_errors(evidence);
    let critical = evidence.critical.iter().filter(|(at, line)| !is_provoked(evidence, *at, line));
    broken.extend(critical.map(|(at, line)| format!("a critical line at {at:.3} s: {line}")));
    let counters = evidence.last();
    if evidence.trap.is_some() && evidence.reloads == 0 {
        broken.push("no VM was made anew after a trap".to_owned());
    }
    let circuits = counters.sum("circuit_breaker_circuits", "");
    if circuits > evidence.limit {
        broken.push(format!("{circuits} circuits, and limits.maxCircuits is {}", evidence.limit));
    }
    Finding {
        invariant: "no errors of its own but for refused configurations, no critical line, no more circuits than allowed",
        seen: format!(
            "{} configurations refused; {} VMs made anew after traps; {circuits} circuits of {} names",
            evidence.refused.len(),
            evidence.reloads,
            evidence.entries.names + 8
        ),
        broken,
    }
}

/// Only refused configurations count as errors, once each.
fn own_errors(evidence: &Evidence) -> Vec<String> {
    let mut broken = Vec::new();
    for round in &evidence.rounds {
        let within = |at: &&f64| round.span.from <= **at && **at <= round.span.to;
        let refused = evidence.refused.iter().filter(within).count() as u64;
        let more = round.after.since(&round.before);
        let count = more.get(ERRORS, "", "config");
        if count != refused {
            broken.push(format!(
                "round {}: {ERRORS}{{component=\"config\"}} says {count}, the log has {refused} refused configurations",
                round.number
            ));
        }
        for (component, count) in
            more.parts(ERRORS, "").filter(|(component, count)| *component != "config" && *count > 0)
        {
            broken.push(format!("round {}: {ERRORS}{{component=\"{component}\"}} says {count}", round.number));
        }
    }
    broken
}

/// Whether a critical line is about a trap or a bad configuration that the soak itself made.
fn is_provoked(evidence: &Evidence, at: f64, line: &str) -> bool {
    let meets = |span: &Span| span.from <= at && at <= span.to + AFTERMATH;
    let bad = evidence.entries.updates.iter().filter(|update| update.what == What::Bad);
    evidence.trap.as_ref().is_some_and(meets)
        || line.contains(REFUSED) && bad.into_iter().any(|update| meets(&update.span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::counters::Counters;
    use crate::soak::invariants::tests::{evidence, round};
    use crate::soak::journal::Update;

    fn errors(component: &str, count: u64) -> Counters {
        let name = format!(
            "wasmcustom.wasm_filter.circuit_breaker.component.{component}.circuit_breaker_internal_errors_total"
        );
        Counters::of(&[(name, count)].into())
    }

    #[test]
    fn own_errors_and_critical_lines_are_found() {
        let mut evidence = evidence();
        evidence.rounds = vec![round()];
        assert!(check(&evidence).broken.is_empty());
        evidence.rounds[0].after = errors("cas", 1);
        assert_eq!(check(&evidence).broken.len(), 1);
        evidence.rounds[0].after = errors("config", 2);
        assert_eq!(check(&evidence).broken.len(), 1, "more than were refused");
        evidence.refused = vec![3.0, 4.0];
        assert!(check(&evidence).broken.is_empty());
        evidence.critical = vec![(5.0, "[critical] panicked".to_owned())];
        assert_eq!(check(&evidence).broken.len(), 1);
        (evidence.trap, evidence.reloads) = (Some(Span { from: 4.0, to: 6.0 }), 1);
        assert!(check(&evidence).broken.is_empty(), "it was provoked");
        evidence.reloads = 0;
        assert_eq!(check(&evidence).broken.len(), 1);
    }

    #[test]
    fn envoy_may_call_a_refused_configuration_critical() {
        let mut evidence = evidence();
        evidence.critical = vec![(5.0, "[critical][wasm] Plugin guarded-breaker failed to load".to_owned())];
        assert_eq!(check(&evidence).broken.len(), 1, "nobody gave it a bad one");
        evidence.entries.updates = vec![Update { span: Span { from: 4.9, to: 5.1 }, what: What::Bad }];
        assert!(check(&evidence).broken.is_empty());
    }
}
