//! No circuit stays away from CLOSED longer than it must, once its upstream is well.

use super::Finding;
use crate::scenario::State;
use crate::soak::evidence::Evidence;
use crate::soak::fault::Fault;
use crate::soak::journal::{At, Span, What};
use crate::soak::updates::bound;
use crate::soak::upstreams::UPSTREAMS;

/// A probe that was lost with its VM holds its slot until its lease ends: `probeTimeout`, and 2 s for its owner's
/// tick.
const LOST_LEASE: f64 = 3.0;

/// Checks each time in which an upstream was well and had traffic against its circuit's life.
#[must_use]
pub fn check(evidence: &Evidence) -> Finding {
    let (mut longest, mut whole, mut broken) = (0.0_f64, 0, Vec::new());
    let bound = bound().as_secs_f64();
    for (upstream, _) in UPSTREAMS {
        for well in well(evidence, upstream) {
            let allowed = bound + stalled(evidence, &well);
            let back = back(evidence, upstream, &well);
            longest = longest.max(back - well.from);
            whole += usize::from(well.to - well.from > allowed);
            if back - well.from > allowed {
                broken.push(format!(
                    "{upstream} is well since {:.1} s, and its circuit still was not CLOSED at {back:.1} s: allowed are {allowed:.1} s",
                    well.from
                ));
            }
        }
    }
    Finding {
        invariant: "a circuit is CLOSED again within its bound once its upstream is well and has traffic",
        seen: format!(
            "the longest took {longest:.1} s (bound: {bound:.1}); {whole} times the upstream was well for longer than that"
        ),
        broken,
    }
}

/// The last moment of the span at which the circuit was not CLOSED. If it was CLOSED all the time, the span's
/// beginning.
fn back(evidence: &Evidence, upstream: &str, well: &Span) -> At {
    let life = evidence.life(upstream);
    let away = life.iter().filter(|stretch| stretch.state != State::Closed && stretch.span.meets(well));
    away.map(|stretch| stretch.span.to.min(well.to)).fold(well.from, f64::max)
}

/// Time of a span in which the machine did not run this process, and perhaps not Envoy either.
fn stalled(evidence: &Evidence, span: &Span) -> f64 {
    let within = |stall: &Span| (stall.to.min(span.to) - stall.from.max(span.from)).max(0.0);
    evidence.entries.stalls.iter().map(within).fold(0.0, std::ops::Add::add)
}

/// When an upstream was well, had traffic, and no configuration forced it OPEN.
fn well(evidence: &Evidence, upstream: &str) -> Vec<Span> {
    let mut unwell = sick(evidence, upstream);
    unwell.extend(forced(evidence, upstream));
    unwell.extend(evidence.trap.map(|trap| Span { to: trap.to + LOST_LEASE, ..trap }));
    unwell.extend(quiet(evidence));
    rest(unwell, evidence.end)
}

fn sick(evidence: &Evidence, upstream: &str) -> Vec<Span> {
    let own: Vec<_> = evidence.entries.phases.iter().filter(|phase| phase.upstream == upstream).collect();
    let until = |at: usize| own.get(at + 1).map_or(evidence.end, |next| next.from);
    let sick = own.iter().enumerate().filter(|(_, phase)| phase.fault != Fault::Healthy);
    sick.map(|(at, phase)| Span { from: phase.from, to: until(at) }).collect()
}

/// From the moment before a configuration that forces it OPEN was given until the next good one was taken.
fn forced(evidence: &Evidence, upstream: &str) -> Vec<Span> {
    let good: Vec<_> = evidence.entries.updates.iter().filter(|update| update.what != What::Bad).collect();
    let until = |at: usize| good.get(at + 1).map_or(evidence.end, |next| next.span.to);
    let forces = |what: &What| matches!(what, What::Good(Some(forced)) if forced == upstream);
    let own = good.iter().enumerate().filter(|(_, update)| forces(&update.what));
    own.map(|(at, update)| Span { from: update.span.from, to: until(at) }).collect()
}

fn quiet(evidence: &Evidence) -> Vec<Span> {
    rest(evidence.entries.traffic.clone(), evidence.end)
}

/// What is left of the run.
fn rest(mut taken: Vec<Span>, end: At) -> Vec<Span> {
    taken.sort_by(|one, other| one.from.total_cmp(&other.from));
    let (mut left, mut from) = (Vec::new(), 0.0_f64);
    for span in taken {
        if span.from > from {
            left.push(Span { from, to: span.from });
        }
        from = from.max(span.to);
    }
    if end > from {
        left.push(Span { from, to: end });
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::invariants::tests::{evidence, transition};
    use crate::soak::journal::{Phase, Update};

    fn phase(from: At, fault: Fault) -> Phase {
        Phase { upstream: "u1".to_owned(), from, fault }
    }

    fn healed_at_ten() -> Evidence {
        let mut evidence = evidence();
        evidence.entries.traffic = vec![Span { from: 0.0, to: 100.0 }];
        evidence.entries.phases = vec![phase(5.0, Fault::Errors), phase(10.0, Fault::Healthy)];
        evidence.transitions = vec![transition("u1", 1, 6.0, (State::Closed, State::Open), "consecutive")];
        evidence
    }

    #[test]
    fn a_circuit_that_stays_open_although_its_upstream_is_well_is_found() {
        let mut evidence = healed_at_ten();
        assert_eq!(check(&evidence).broken.len(), 1);
        evidence.transitions.push(transition("u1", 2, 12.0, (State::Open, State::Closed), "x"));
        assert!(check(&evidence).broken.is_empty());
        evidence.transitions.push(transition("u1", 3, 60.0, (State::Closed, State::Open), "consecutive"));
        assert_eq!(check(&evidence).broken.len(), 1, "trips although it is well");
    }

    #[test]
    fn without_traffic_or_while_it_is_forced_open_it_need_not_close() {
        let mut evidence = healed_at_ten();
        evidence.entries.traffic = vec![Span { from: 0.0, to: 20.0 }];
        assert!(check(&evidence).broken.is_empty());
        let mut evidence = healed_at_ten();
        let forced = What::Good(Some("u1".to_owned()));
        evidence.entries.updates = vec![Update { span: Span { from: 11.0, to: 12.0 }, what: forced }];
        assert!(check(&evidence).broken.is_empty());
        evidence.entries.updates.push(Update { span: Span { from: 20.0, to: 21.0 }, what: What::Bad });
        assert!(check(&evidence).broken.is_empty(), "a bad one lifts nothing");
        evidence.entries.updates.push(Update { span: Span { from: 30.0, to: 31.0 }, what: What::Good(None) });
        assert_eq!(check(&evidence).broken.len(), 1);
    }
}
