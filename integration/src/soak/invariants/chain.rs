//! The transitions of a circuit are one unbroken chain, however many workers make them, through updates and traps.

use std::collections::BTreeMap;

use super::Finding;
use crate::scenario::State;
use crate::soak::evidence::Evidence;
use crate::soak::log::Transition;
use crate::soak::upstreams::UPSTREAMS;

/// Checks each line against the one before it, and the gauge against the last one.
#[must_use]
pub fn check(evidence: &Evidence) -> Finding {
    let mut chains: BTreeMap<&str, Vec<&Transition>> = BTreeMap::new();
    for transition in &evidence.transitions {
        chains.entry(&transition.upstream).or_default().push(transition);
    }
    let counters = evidence.last();
    let mut broken = Vec::new();
    for (upstream, chain) in &mut chains {
        sort(chain, UPSTREAMS.iter().all(|(used, _)| used != upstream));
        let (mut generation, mut state) = (0, State::Closed);
        for next in chain.iter() {
            let begins_anew = next.generation == 1 && state == State::Closed;
            if (next.generation, next.from) != (if begins_anew { 1 } else { generation + 1 }, state) {
                broken.push(format!(
                    "{upstream}: after generation {generation} ({state:?}) comes generation {} from {:?} to {:?} ({}) at {:.3} s",
                    next.generation, next.from, next.to, next.reason, next.at
                ));
            }
            (generation, state) = (next.generation, next.to);
        }
        let gauge = counters.get("circuit_breaker_state", upstream, "");
        if gauge != state as u64 {
            broken
                .push(format!("{upstream}: circuit_breaker_state is {gauge} at the end, the last line says {state:?}"));
        }
    }
    Finding {
        invariant: "each circuit's transitions are one chain without a gap, and the gauge tells its end",
        seen: format!("{} transitions of {} circuits", evidence.transitions.len(), chains.len()),
        broken,
    }
}

/// Sorts by generation. Where the circuit may have ended in between, it sorts within each of the upstream's circuits.
/// Two workers that make two transitions at once may log them in either order.
fn sort(chain: &mut [&Transition], may_end: bool) {
    let mut circuit = 0;
    chain.sort_by_cached_key(|transition| {
        circuit += u64::from(may_end && transition.generation == 1);
        (circuit, transition.generation)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::invariants::tests::{evidence, transition};

    #[test]
    fn a_gap_a_double_and_a_gauge_that_tells_another_state_are_found() {
        let mut evidence = evidence();
        let first = transition("u1", 1, 2.0, (State::Closed, State::Open), "consecutive");
        evidence.transitions =
            vec![first.clone(), transition("u1", 2, 3.0, (State::Open, State::Closed), "probes_succeeded")];
        assert!(check(&evidence).broken.is_empty());
        evidence.transitions.push(first.clone());
        assert_eq!(check(&evidence).broken.len(), 1, "one generation twice");
        let of_churn = |transition: &Transition| Transition { upstream: "churn-1".to_owned(), ..transition.clone() };
        let again: Vec<_> =
            evidence.transitions.iter().take(2).chain(&evidence.transitions[..2]).map(of_churn).collect();
        evidence.transitions = again;
        assert!(check(&evidence).broken.is_empty(), "its circuit has ended, and another one begun");
        evidence.transitions = vec![transition("u1", 2, 3.0, (State::Open, State::Closed), "probes_succeeded")];
        assert_eq!(check(&evidence).broken.len(), 1, "no first one");
        evidence.transitions = vec![first];
        assert_eq!(check(&evidence).broken.len(), 1, "the gauge says CLOSED");
    }
}
