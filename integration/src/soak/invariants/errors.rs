//! The module makes no errors of its own, and Envoy has nothing critical to say.

use super::Finding;
use crate::soak::evidence::Evidence;

/// Envoy writes of a trap when a worker meets it, and of another worker's a moment later.
const AFTERMATH: f64 = 1.0;

/// Holds the metric of own errors and Envoy's critical lines against what was provoked.
#[must_use]
pub fn check(evidence: &Evidence) -> Finding {
    let mut broken = Vec::new();
    let counters = evidence.last();
    for (component, count) in counters.parts("circuit_breaker_internal_errors_total", "") {
        if component == "config" && count == evidence.refused {
            continue;
        }
        broken.push(format!("circuit_breaker_internal_errors_total{{component=\"{component}\"}} is {count}"));
    }
    let trapping = |at: f64| evidence.trap.is_some_and(|trap| trap.from <= at && at <= trap.to + AFTERMATH);
    let critical = evidence.critical.iter().filter(|(at, _)| !trapping(*at));
    broken.extend(critical.map(|(at, line)| format!("a critical line at {at:.3} s: {line}")));
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
            evidence.refused,
            evidence.reloads,
            evidence.entries.names + 8
        ),
        broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::counters::Counters;
    use crate::soak::invariants::tests::{evidence, round};
    use crate::soak::journal::Span;

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
        evidence.refused = 2;
        assert!(check(&evidence).broken.is_empty());
        evidence.critical = vec![(5.0, "[critical] panicked".to_owned())];
        assert_eq!(check(&evidence).broken.len(), 1);
        (evidence.trap, evidence.reloads) = (Some(Span { from: 4.0, to: 6.0 }), 1);
        assert!(check(&evidence).broken.is_empty(), "it was provoked");
        evidence.reloads = 0;
        assert_eq!(check(&evidence).broken.len(), 1);
    }
}
