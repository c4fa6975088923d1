//! Whoever is left must still trip, probe and recover, whatever the others have left behind, and within bounded time.

use super::crowd::{Crowd, OPEN, UPSTREAMS};
use super::member::{End, Member};
use super::plan::{failures_to_trip, observes, pause, recovery};
use circuit_breaker_core::metrics::SHARED;

/// Every worker meets every circuit.
pub(super) fn warm_up(crowd: &Crowd, members: &mut [Member]) {
    for member in members {
        member.tick();
        crowd.upstreams().for_each(|upstream| _ = member.request(upstream, End::well()));
    }
}

/// Recovers, trips at failures in a row, and recovers.
pub(super) fn goes_on(crowd: &Crowd, members: &mut [Member]) {
    if members.is_empty() {
        return;
    }
    recovers(crowd, members);
    for upstream in crowd.upstreams() {
        trips(crowd, members, upstream);
    }
    recovers(crowd, members);
}

fn tick_all(crowd: &Crowd, members: &mut [Member]) -> u64 {
    let period = members.iter().map(Member::tick_period).min().unwrap_or(0);
    crowd.now.set(crowd.now.get() + period);
    members.iter_mut().for_each(Member::tick);
    period
}

/// A healthy upstream is CLOSED again before long.
fn recovers(crowd: &Crowd, members: &mut [Member]) {
    let begun = crowd.now.get();
    let is_closed =
        |upstream: usize| crowd.state(upstream) == 0 && crowd.record(upstream).is_none_or(|(phase, _)| phase == 0);
    let mut rested = 0;
    // A circuit may open once more, at the good call that makes up the number of calls.
    while rested < 20 {
        let period = tick_all(crowd, members);
        for member in members.iter_mut() {
            crowd.upstreams().for_each(|upstream| _ = member.request(upstream, End::well()));
        }
        rested = if crowd.upstreams().all(is_closed) { rested + 1 } else { 0 };
        let passed = crowd.now.get() - begun;
        let bound = recovery(&crowd.plan, period) + 20 * period;
        let lines = || crowd.upstreams().map(|upstream| crowd.transitions(upstream)).collect::<Vec<_>>();
        assert!(passed <= bound, "wedged for {} s: {:#?}", passed / 1_000_000_000, lines());
    }
}

/// Failures in a row, spread over all workers, open the circuit, and all know it at their next request.
fn trips(crowd: &Crowd, members: &mut [Member], upstream: usize) {
    let longest = members.iter().map(|member| pause(&crowd.plan.rules[member.version()].policy)).max().unwrap_or(0);
    let until = crowd.now.get() + longest;
    while crowd.now.get() < until {
        tick_all(crowd, members);
    }
    let streak = crowd.host.value(&SHARED, UPSTREAMS[upstream], "streak");
    let needed = |member: &Member| failures_to_trip(&crowd.plan.rules[member.version()].policy, streak);
    let most = members.iter().map(needed).max().unwrap_or(0);
    let workers = members.len();
    for turn in 0..most as usize {
        if crowd.state(upstream) == 2 {
            break;
        }
        members[turn % workers].request(upstream, End::bad());
    }
    let is_open = crowd.state(upstream) == 2 && crowd.record(upstream).is_some_and(|(phase, _)| phase == OPEN);
    assert!(is_open, "{most} failures after a streak of {streak} have tripped nothing");
    for member in members {
        let passed = member.request(upstream, End::nothing());
        assert!(
            !passed,
            "OPEN, and a worker does not know (observe: {})",
            observes(&crowd.plan.rules[member.version()].policy)
        );
    }
}
