//! The next step for one upstream: what `istio/monitoring/runbooks.md` says, for the facts at hand.

use crate::fleet::Upstream;
use crate::look::State;
use crate::report::by_size;

/// What to do, and where to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is.
    pub finding: &'static str,
    /// What to do.
    pub action: &'static str,
    /// The alert whose runbook has the rest.
    pub runbook: &'static str,
}

/// Place of forceOpen in [`crate::look::MODES`].
const FORCE_OPEN: usize = 3;

/// Trips within what is logged that are more than an outage and its failed probes.
const FLAPPING: usize = 4;

/// What to do. `trips` are those by real traffic, as far as logs tell.
#[must_use]
pub fn next_step(upstream: &Upstream, trips: usize) -> Step {
    match upstream.state() {
        _ if upstream.modes.contains(&FORCE_OPEN) => step(
            "somebody has set mode: forceOpen for it",
            "take the entry out of the policy when it is well: the circuit tests it first, and then closes",
            "CircuitBreakerRejectingMost",
        ),
        State::Closed if trips > FLAPPING => step(
            "it fails, vanishes and comes back: more trips than one outage has",
            "a longer halfOpen.ramp.duration or a smaller initialPercent; a higher minimumCalls; more capacity",
            "CircuitBreakerFlapping",
        ),
        State::Closed => step("all its circuits are CLOSED", "nothing: requests pass", "CircuitBreakerOpen"),
        State::HalfOpen => step(
            "it is being tested: probes go first, then a growing share of the traffic",
            "wait; a good upstream closes by itself, a sick one reopens",
            "CircuitBreakerOpen",
        ),
        State::Open if !upstream.acts() => step(
            "the policy observes: nothing is kept from its users",
            "see that it is sick; if it is well, raise the threshold of the reason before you enforce",
            "CircuitBreakerOpen",
        ),
        State::Open if upstream.open == 1 && upstream.proxies() > 2 => step(
            "one proxy alone has given it up: the way from that proxy is at fault, not the upstream",
            "look at that proxy's node, network policy and DNS; restart the pod if only it is stuck",
            "CircuitBreakerOpen",
        ),
        State::Open => sick(upstream),
    }
}

/// What it suffers from, by the kind of failure that there is most of.
fn sick(upstream: &Upstream) -> Step {
    let slow = upstream.calls.get("slow").copied().unwrap_or(0.0);
    let failures = by_size(&upstream.failures);
    let most = failures.first().map_or("", |(kind, _)| *kind);
    let failed: f64 = upstream.failures.values().sum();
    let (finding, action) = match most {
        _ if slow > failed => (
            "it hangs or crawls: most of its bad calls are slow",
            "look at what it waits for; a route timeout below slowCallDuration frees callers sooner",
        ),
        "no_healthy_upstream" => (
            "it has no healthy host: outlier detection has ejected all, or none is ready",
            "heal the hosts; keep open.baseDuration above baseEjectionTime + interval",
        ),
        "connect" => (
            "nobody accepts connections there",
            "see whether its pods run and listen, and whether a network policy or mTLS is in the way",
        ),
        "timeout" => ("its answers come after the route's timeout", "look at what it waits for, and at its capacity"),
        "reset" => ("it breaks connections off", "look for restarts and out-of-memory kills of its pods"),
        "http" | "grpc" => (
            "it answers with errors",
            "read its own log at the time of the first trip; a rollout of it at that time is the first suspect",
        ),
        "overflow" => ("its connection pool is full", "raise connectionPool in the DestinationRule, or its capacity"),
        _ => ("it is still sick", "heal it; the circuit closes by itself"),
    };
    step(finding, action, "CircuitBreakerOpen")
}

const fn step(finding: &'static str, action: &'static str, runbook: &'static str) -> Step {
    Step { finding, action, runbook }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn open(open: u64, closed: u64, failures: &[(&str, f64)]) -> Upstream {
        let failures = failures.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        Upstream { open, closed, failures, modes: BTreeSet::from([0]), ..Upstream::default() }
    }

    #[test]
    fn the_kind_of_failure_decides_where_to_look() {
        for (failures, finding) in [
            (&[("http", 5.0), ("connect", 1.0)][..], "it answers with errors"),
            (&[("no_healthy_upstream", 4.0), ("http", 1.0)], "it has no healthy host"),
            (&[("connect", 4.0)], "nobody accepts connections"),
            (&[], "it is still sick"),
        ] {
            let step = next_step(&open(2, 0, failures), 1);
            assert!(step.finding.starts_with(finding), "{step:?}");
        }
        let mut hung = open(2, 0, &[("timeout", 1.0)]);
        hung.calls.insert("slow".to_owned(), 20.0);
        assert!(next_step(&hung, 1).finding.starts_with("it hangs"));
    }

    #[test]
    fn who_has_given_it_up_and_why_comes_before_how_it_fails() {
        assert!(next_step(&open(1, 5, &[("http", 5.0)]), 1).finding.starts_with("one proxy alone"));
        let mut forced = open(3, 0, &[]);
        forced.modes = BTreeSet::from([FORCE_OPEN]);
        assert_eq!(next_step(&forced, 0).runbook, "CircuitBreakerRejectingMost");
        let mut observed = open(3, 0, &[]);
        observed.modes = BTreeSet::from([1]);
        assert!(next_step(&observed, 0).finding.starts_with("the policy observes"));
        assert_eq!(next_step(&open(0, 3, &[]), 9).runbook, "CircuitBreakerFlapping");
    }

    /// The runbooks are what people are sent to.
    #[test]
    fn every_runbook_exists() {
        let runbooks = include_str!("../../../istio/monitoring/runbooks.md");
        for runbook in ["CircuitBreakerOpen", "CircuitBreakerRejectingMost", "CircuitBreakerFlapping"] {
            assert!(runbooks.contains(&format!("## {runbook}\n")), "{runbook}");
        }
    }
}
