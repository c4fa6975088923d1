//! The counters add up: with what the clients saw, with Envoy's access log, with the transitions, and with each other.

use std::collections::BTreeMap;

use super::Finding;
use crate::scenario::State;
use crate::soak::counters::Counters;
use crate::soak::evidence::{Evidence, Round};
use crate::soak::journal::{Call, End};
use crate::soak::log::Line;
use crate::soak::upstreams::UPSTREAMS;

const CALLS: &str = "circuit_breaker_calls_total";
const FAILURES: &str = "circuit_breaker_failures_total";
const REJECTED: &str = "circuit_breaker_rejected_total";
const TRIPS: &str = "circuit_breaker_trips_total";
const UNPROTECTED: &str = "circuit_breaker_unprotected_total";

/// Balances the books of each round.
#[must_use]
pub fn check(evidence: &Evidence) -> Finding {
    let mut broken = Vec::new();
    for round in &evidence.rounds {
        let more = round.after.since(&round.before);
        let mut found = clients_and_lines(evidence, round);
        for (upstream, _) in UPSTREAMS {
            let own: Vec<&Line> = round.lines.iter().filter(|line| line.upstream == upstream).collect();
            if round.traps {
                found.extend(at_most(upstream, &own, &more));
            } else {
                found.extend(requests(upstream, &own, &more));
                found.extend(kinds(upstream, &more));
                found.extend(arrivals(upstream, &own, round));
            }
        }
        if !round.traps {
            found.extend(trips(evidence, round, &more));
            found.extend(named(round, &more));
        }
        broken.extend(found.into_iter().map(|found| format!("round {}: {found}", round.number)));
    }
    Finding {
        invariant: "counters add up with clients, access log, transitions and each other, in each round",
        seen: seen(evidence),
        broken,
    }
}

fn seen(evidence: &Evidence) -> String {
    let lines = || evidence.rounds.iter().flat_map(|round| &round.lines);
    let rejections = lines().filter(|line| line.is_rejection()).count();
    let twice = lines().filter(|line| line.may_count_twice()).count();
    let all = lines().count();
    let rounds = evidence.rounds.len();
    format!("{all} lines in {rounds} rounds, {rejections} of them rejections, {twice} that may count twice")
}

/// The access log and the client agree on each rejection. Where the client had left, nothing is asked of its account.
fn clients_and_lines(evidence: &Evidence, round: &Round) -> Vec<String> {
    let lines: BTreeMap<u64, &Line> = round.lines.iter().filter_map(|line| Some((line.id?, line))).collect();
    let within = |call: &&Call| round.span.from <= call.span.from && call.span.from <= round.span.to;
    let mut broken = Vec::new();
    for call in evidence.entries.calls.iter().filter(within) {
        let rejected = lines.get(&call.id).map(|line| line.is_rejection());
        let fits = match (&call.end, rejected) {
            (End::Rejected(_), rejected) => rejected == Some(true),
            (End::Answered(_), rejected) => rejected == Some(false),
            (End::Left | End::Broken, _) => true,
        };
        if !fits {
            broken.push(format!(
                "request {} to {} ended with {:?} for its client; the access log has {:?}",
                call.id,
                call.upstream,
                call.end,
                lines.get(&call.id)
            ));
        }
    }
    broken
}

/// The sums of an upstream's access log: requests, rejections, and requests that may be counted twice.
fn figures(lines: &[&Line]) -> (u64, u64, u64) {
    let count = |is_meant: fn(&Line) -> bool| lines.iter().filter(|line| is_meant(line)).count() as u64;
    (lines.len() as u64, count(Line::is_rejection), count(Line::may_count_twice))
}

fn requests(upstream: &str, lines: &[&Line], more: &Counters) -> Vec<String> {
    let (all, rejections, twice) = figures(lines);
    let (settled, rejected) = (more.sum(CALLS, upstream), more.sum(REJECTED, upstream));
    let mut broken = Vec::new();
    if rejected != rejections {
        broken.push(format!("{upstream}: {REJECTED} says {rejected}, the access log has {rejections} rejections"));
    }
    if !(all..=all + twice).contains(&(settled + rejected)) {
        let parts: Vec<_> = more.parts(CALLS, upstream).collect();
        broken.push(format!(
            "{upstream}: {settled} settled calls {parts:?} and {rejected} rejected are not the access log's {all} requests \
             ({twice} of which may count twice)"
        ));
    }
    broken
}

/// Where VMs trapped, calls are lost, but none is invented.
fn at_most(upstream: &str, lines: &[&Line], more: &Counters) -> Vec<String> {
    let (all, _, twice) = figures(lines);
    let counted = more.sum(CALLS, upstream) + more.sum(REJECTED, upstream);
    let invented = counted > all + twice;
    let said =
        || format!("{upstream}: {counted} calls settled and rejected, and only {all} requests in the access log");
    invented.then(said).into_iter().collect()
}

fn kinds(upstream: &str, more: &Counters) -> Vec<String> {
    let (kinds, failures) = (more.sum(FAILURES, upstream), more.get(CALLS, upstream, "failure"));
    let said = || format!("{upstream}: {FAILURES} of all kinds is {kinds}, {CALLS} says {failures} failures");
    (kinds != failures).then(said).into_iter().collect()
}

/// The upstream saw none of the rejected requests.
fn arrivals(upstream: &str, lines: &[&Line], round: &Round) -> Vec<String> {
    let (all, rejections, _) = figures(lines);
    let seen = round.seen.get(upstream).copied().unwrap_or(0);
    let said = || format!("{upstream}: it saw {seen} requests, and only {} were let through", all - rejections);
    (seen > all - rejections).then(said).into_iter().collect()
}

/// Each transition to OPEN is counted once, with its reason.
fn trips(evidence: &Evidence, round: &Round, more: &Counters) -> Vec<String> {
    let mut logged: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let within = |at: f64| round.span.from <= at && at <= round.span.to;
    for trip in evidence.transitions.iter().filter(|trip| trip.to == State::Open && within(trip.at)) {
        *logged.entry((&trip.upstream, &trip.reason)).or_default() += 1;
    }
    let mut counted: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for upstream in more.upstreams(TRIPS) {
        for (reason, count) in more.parts(TRIPS, upstream).filter(|(_, count)| *count > 0) {
            counted.insert((upstream, reason), count);
        }
    }
    let said = || format!("{TRIPS} says {counted:?}, the log has {logged:?}");
    (counted != logged).then(said).into_iter().collect()
}

/// Whether a cluster is one of those that come and go.
fn is_named(upstream: &str) -> bool {
    upstream.starts_with("churn-")
}

/// Clusters that come and go are taken together. Past `limits.maxCircuits` nobody settles their calls, and a name
/// that Envoy does not know has no upstream.
fn named(round: &Round, more: &Counters) -> Vec<String> {
    let eight = |line: &&Line| UPSTREAMS.iter().any(|(name, _)| line.upstream == *name);
    let own: Vec<&Line> =
        round.lines.iter().filter(|line| !eight(line) && line.details != "cluster_not_found").collect();
    let (all, rejections, twice) = figures(&own);
    let (settled, rejected) = (more.sum_where(CALLS, is_named), more.sum_where(REJECTED, is_named));
    let unprotected = more.sum(UNPROTECTED, "");
    let mut broken = Vec::new();
    if rejected != rejections {
        broken.push(format!("churn: {REJECTED} says {rejected}, the access log has {rejections} rejections"));
    }
    if !(all..=all + twice).contains(&(settled + rejected + unprotected)) {
        broken.push(format!(
            "churn: {settled} settled calls, {rejected} rejected and {unprotected} unprotected are not the access log's {all}"
        ));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::invariants::tests::{evidence, line, rejected, round, transition};

    fn stat(metric: &str, component: &str, value: u64) -> (String, u64) {
        (format!("wasmcustom.wasm_filter.circuit_breaker.component.{component}.tag.u1;.{metric}"), value)
    }

    /// A good call, a failed one and a rejection.
    fn balanced() -> Evidence {
        let mut evidence = evidence();
        let mut call = rejected("u1", 3.0, 3.1, "open");
        call.id = 3;
        evidence.entries.calls = vec![call];
        evidence.transitions = vec![transition("u1", 1, 2.0, (State::Closed, State::Open), "consecutive")];
        let mut round = round();
        round.lines = vec![line("u1", 1, "via_upstream"), line("u1", 2, "via_upstream")];
        round.lines.push(line("u1", 3, "circuit_breaker_open{open}"));
        round.seen = [("u1".to_owned(), 2)].into();
        round.after = counters([1, 1, 1, 1, 1]);
        evidence.rounds = vec![round];
        evidence
    }

    fn counters([good, failed, kinds, rejected, trips]: [u64; 5]) -> Counters {
        let stats = [
            stat(CALLS, "success", good),
            stat(CALLS, "failure", failed),
            stat(FAILURES, "http", kinds),
            stat(REJECTED, "open", rejected),
            stat(TRIPS, "consecutive", trips),
        ];
        Counters::of(&stats.into())
    }

    #[test]
    fn what_does_not_add_up_is_found() {
        assert_eq!(check(&balanced()).broken, Vec::<String>::new());
        for wrong in [[2, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 2, 1, 1], [1, 1, 1, 1, 2], [1, 1, 1, 1, 0]] {
            let mut evidence = balanced();
            evidence.rounds[0].after = counters(wrong);
            assert_eq!(check(&evidence).broken.len(), 1, "{wrong:?}: {:?}", check(&evidence).broken);
        }
        let mut evidence = balanced();
        evidence.rounds[0].after = counters([2, 1, 1, 0, 1]);
        assert_eq!(check(&evidence).broken.len(), 1, "a rejection that is counted as good");
        let mut evidence = balanced();
        evidence.rounds[0].seen = [("u1".to_owned(), 3)].into();
        assert_eq!(check(&evidence).broken.len(), 1, "the upstream saw the rejected one");
        let mut evidence = balanced();
        evidence.rounds[0].lines[2].details = "via_upstream".to_owned();
        assert_eq!(check(&evidence).broken.len(), 2, "its client says rejected, and so does the counter");
    }

    #[test]
    fn a_trap_may_lose_calls_and_invents_none() {
        let mut evidence = balanced();
        evidence.rounds[0].traps = true;
        evidence.rounds[0].after = counters([1, 0, 0, 1, 1]);
        assert!(check(&evidence).broken.is_empty());
        evidence.rounds[0].after = counters([4, 0, 0, 1, 1]);
        assert_eq!(check(&evidence).broken.len(), 1);
    }
}
