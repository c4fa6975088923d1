//! The workers that are left must still trip, probe and recover within bounded time, whatever the others have left
//! behind.

use circuit_breaker_core::telemetry::metrics::SHARED;

use super::crowd::{CLOSED, Crowd, OPEN, RAMP, UPSTREAMS};
use super::member::{End, HOUR, Member};
use super::plan::{Fault, end, failures_to_trip, pause, recovery};

/// Each worker meets each circuit.
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

/// The plan's faults that can befall a proxy whose workers rest.
fn disturb(crowd: &Crowd, members: &mut [Member], forth: bool) {
    if crowd.plan.has(Fault::Reset) {
        crowd.reset();
    }
    if crowd.plan.has(Fault::ClockStep) {
        let now = crowd.now.get();
        crowd.now.set(if forth { now + HOUR } else { now - HOUR });
    }
    tick_all(crowd, members);
}

/// The disturbance comes after so many rounds. Many an OPEN is over by then, and few ramps are.
const DISTURBED: u64 = 7;

/// Rounds for which all circuits must stay CLOSED. A circuit may open once more, at the good call that completes
/// `minimumCalls`.
const RESTED: u64 = 20;

/// A healthy upstream is CLOSED again before long.
fn recovers(crowd: &Crowd, members: &mut [Member]) {
    let (mut rested, mut rounds) = (0, 0);
    while rested < RESTED {
        let period = tick_all(crowd, members);
        if rounds == DISTURBED {
            disturb(crowd, members, false);
        }
        members.iter_mut().for_each(Member::answer_all);
        for upstream in crowd.upstreams() {
            succeeds(crowd, members, upstream);
        }
        rounds += 1;
        rested = if crowd.upstreams().all(|upstream| is_closed(crowd, upstream)) { rested + 1 } else { 0 };
        let bound = recovery(&crowd.plan, period) / period + DISTURBED + RESTED;
        let lines = || crowd.upstreams().map(|upstream| crowd.transitions(upstream)).collect::<Vec<_>>();
        assert!(rounds <= bound, "wedged for {rounds} rounds: {:#?}", lines());
    }
}

fn is_closed(crowd: &Crowd, upstream: usize) -> bool {
    crowd.state(upstream) == 0 && crowd.record(upstream).is_none_or(|(phase, _)| phase == CLOSED)
}

/// A good call of each worker. A state that watches its calls begins with a streak of 0.
fn succeeds(crowd: &Crowd, members: &mut [Member], upstream: usize) {
    for member in members.iter_mut() {
        let before = crowd.record(upstream);
        member.request(upstream, End::well());
        let after = crowd.record(upstream);
        let streak = crowd.host.value(&SHARED, UPSTREAMS[upstream], "streak");
        // A worker that was stopped in a failure while a circuit ended adds to the streak of the next circuit, which
        // is as young.
        let is_another = crowd.plan.churn && before.is_none();
        let begins = !is_another && after != before && after.is_some_and(|(phase, _)| matches!(phase, CLOSED | RAMP));
        assert!(!begins || streak == 0, "{after:?} begins with a streak of {streak}");
    }
}

/// Circuits that nobody uses end, and there is room.
fn all_end(crowd: &Crowd, members: &mut [Member]) {
    let (mut passed, mut bound) = (0, 0);
    while !crowd.host.circuits().is_empty() {
        assert!(passed <= bound, "there still are {:?}", crowd.host.circuits());
        let period = tick_all(crowd, members);
        passed += period;
        bound = end(&crowd.plan, period);
    }
}

/// Failures in a row, spread over all workers, open the circuit, and all know it at their next request.
fn trips(crowd: &Crowd, members: &mut [Member], upstream: usize) {
    if crowd.plan.churn {
        all_end(crowd, members);
    }
    let longest = members.iter().map(|member| pause(&crowd.plan.rules[member.version()].policy)).max().unwrap_or(0);
    let until = crowd.now.get() + longest;
    while crowd.now.get() < until {
        tick_all(crowd, members);
    }
    disturb(crowd, members, upstream == 0);
    let streak = crowd.host.value(&SHARED, UPSTREAMS[upstream], "streak");
    let workers = members.len();
    let policy = |member: &Member| &crowd.plan.rules[member.version()].policy;
    let is_disturbed = crowd.plan.has(Fault::Reset) || crowd.plan.has(Fault::ClockStep);
    let begin = if is_disturbed { workers as u64 } else { 0 };
    let needed = |member: &Member| failures_to_trip(policy(member), streak, begin);
    let most = members.iter().map(needed).max().unwrap_or(0);
    for turn in 0..most as usize {
        if crowd.state(upstream) == 2 {
            break;
        }
        members[turn % workers].request(upstream, End::bad());
    }
    let is_open = crowd.state(upstream) == 2 && crowd.record(upstream).is_some_and(|(phase, _)| phase == OPEN);
    assert!(is_open, "{most} failures after a streak of {streak} have tripped nothing");
    // While an update is on its way, a worker may have a policy that cannot have drawn so long an OPEN. It then takes
    // the OPEN for one of another clock or of an older policy, and for over.
    let lasts = crowd.open_for(upstream);
    if members.iter().all(|member| lasts <= policy(member).longest_open()) {
        let knows = |member: &mut Member| !member.request(upstream, End::nothing());
        assert!(members.iter_mut().all(knows), "OPEN, and a worker does not know");
    }
}
