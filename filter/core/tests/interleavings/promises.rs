//! What must be true whenever the workers rest, and how far each fault weakens it.

use circuit_breaker_core::clock::MILLISECOND;
use circuit_breaker_core::telemetry::metrics::{
    CALLS, CIRCUITS, INTERNAL_ERRORS, REJECTED, SHARED, TRIPS, WOULD_REJECT,
};

use super::crowd::{CLOSED, Crowd, UPSTREAMS};
use super::member::{HOUR, Member};

/// Checks what the workers left behind. Nothing more comes of the requests that they hold.
pub(super) fn hold(crowd: &Crowd, members: &mut [Member]) {
    for upstream in crowd.upstreams() {
        one_transition_to_each_generation(crowd, upstream);
        no_trip_is_lost(crowd, upstream);
    }
    slots_are_few(crowd);
    members.iter_mut().for_each(Member::let_all_end);
    crowd.upstreams().for_each(|upstream| no_slot_is_lost(crowd, upstream));
    all_is_counted(crowd);
    the_gauges_are_right(crowd, members);
}

/// Workers that may be stopped in the middle of an operation for ever, and workers that have died there.
fn broken_off(crowd: &Crowd) -> u64 {
    crowd.fates.deaths.get() + crowd.fates.stopped.get()
}

/// A worker that writes a record logs its transition right after, unless it dies between the two.
fn one_transition_to_each_generation(crowd: &Crowd, upstream: usize) {
    let generation = crowd.record(upstream).map_or(0, |(_, generation)| generation);
    let mut logged = crowd.generations(upstream);
    logged.sort_unstable();
    let missing = (1..=generation).filter(|generation| !logged.contains(generation)).count() as u64;
    let lines = || crowd.transitions(upstream);
    assert!(missing <= broken_off(crowd), "{missing} transitions were not told: {:#?}", lines());
    if crowd.plan.churn {
        return each_circuit_has_had_its_earlier_generations(crowd, upstream, &logged);
    }
    assert_eq!(logged.len() as u64 + missing, generation, "one transition to each generation: {:#?}", lines());
}

/// With churn an upstream has had several circuits, and each has counted from 1. The lines do not say which circuit
/// they are of, but no generation comes more often than the one before it.
fn each_circuit_has_had_its_earlier_generations(crowd: &Crowd, upstream: usize, logged: &[u64]) {
    let times = |generation: u64| logged.iter().filter(|logged| **logged == generation).count() as u64;
    for generation in 2..=logged.last().copied().unwrap_or(0) {
        let (earlier, later) = (times(generation - 1), times(generation));
        let lines = || crowd.transitions(upstream);
        assert!(later <= earlier + broken_off(crowd), "{later} times {generation} after {earlier}: {:#?}", lines());
    }
}

/// No name has two circuits, and there are no more slots than the configuration allows.
fn slots_are_few(crowd: &Crowd) {
    if !crowd.plan.churn {
        return;
    }
    let mut names = crowd.host.circuits();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name has two circuits: {names:?}");
    let slots = crowd.host.shared_data("circuit_breaker:circuit:").len();
    assert!(slots <= crowd.plan.slots() as usize, "{slots} slots");
}

/// A failure that makes the streak long enough trips the circuit. If its worker dies between the count and the
/// decision, or its host fails it there, the next failure trips.
fn no_trip_is_lost(crowd: &Crowd, upstream: usize) {
    if crowd.record(upstream).is_none_or(|(phase, _)| phase != CLOSED) {
        return;
    }
    let streak = crowd.host.value(&SHARED, UPSTREAMS[upstream], "streak");
    let interrupted = broken_off(crowd) + crowd.fates.errors();
    // A worker may be stopped in a failure while one circuit ends and another begins. It then adds the failure to the
    // new circuit's streak.
    let between = if crowd.plan.churn { crowd.begun() * crowd.plan.workers } else { 0 };
    let bounds = || crowd.plan.policies().map(|policy| u64::from(policy.trip.consecutive_failures));
    let most = bounds().max().unwrap_or(0);
    // Under a policy without `consecutiveFailures` it grows for ever.
    if bounds().all(|bound| bound > 0) {
        assert!(
            streak < most + crowd.astride(upstream) + between + interrupted,
            "a trip was lost at a streak of {streak}"
        );
    }
    // A worker may be stopped after it has counted a failure and before it asks to be watched, while a tick that has
    // seen no failure looks again. It then leaves a streak that no good call ends. The next failure asks to be
    // watched in its place.
    let watched = crowd.host.value(&SHARED, UPSTREAMS[upstream], "watch") == 1;
    assert!(streak == 0 || watched || interrupted > 0, "no good call would end the streak of {streak}");
}

/// How long a request that is still coming may hold a slot (`TRIAL` in `circuit/transitions.rs`).
const TRIAL: u64 = 250 * MILLISECOND;

/// When all probes have ended none holds a slot. Exceptions are probes whose end was broken off and those that ended
/// with their VM: their leases run out. A lease that ends later than any could is of a clock that has stepped back,
/// and is over. A trial may have been rejected when its request was complete. It lasts for a moment more, and takes
/// no slot from a request that is complete.
fn no_slot_is_lost(crowd: &Crowd, upstream: usize) {
    let excused = broken_off(crowd) + crowd.orphans.get() + crowd.held.get() + crowd.fates.errors() > 0;
    let left = crowd.last_lease_ends(upstream).saturating_sub(crowd.now.get());
    let is_over = left <= TRIAL || left > HOUR / 2;
    assert!(is_over || excused, "a slot is taken for {left} ns more in {:?}", crowd.record(upstream));
}

/// Every call, rejection and trip is counted once. An interrupted call may have been counted or not. A call that died
/// with its VM, or that a stopped worker holds, may have been counted when it hung.
fn all_is_counted(crowd: &Crowd) {
    let (broken_off, errors) = (broken_off(crowd), crowd.fates.errors());
    let counted = |what: &str, found: u64, least: u64, more: u64| {
        let range = least.saturating_sub(errors)..=least + more;
        assert!(range.contains(&found), "{found} {what} are counted, not {range:?}");
    };
    let more = broken_off + crowd.orphans.get() + crowd.held.get() + crowd.twice.get();
    // With churn a call may end when there is no room for a circuit of its upstream.
    let less = crowd.roomless.get();
    counted("calls", crowd.counted(&CALLS), crowd.settled.get() - less, less + more);
    counted("rejections", crowd.counted(&REJECTED), crowd.rejected.get(), broken_off);
    counted("rejections of observe", crowd.counted(&WOULD_REJECT), crowd.would_reject.get(), broken_off);
    let trips = crowd.upstreams().flat_map(|upstream| crowd.transitions(upstream));
    let trips = trips.filter(|line| line.contains("\"to\":\"OPEN\"")).count() as u64;
    // The log line is written first.
    counted("trips", crowd.counted(&TRIPS), trips.saturating_sub(broken_off), broken_off);
    own_errors(crowd);
}

/// The only own errors are those of the host. (Each is counted at most once, and some change nothing.)
fn own_errors(crowd: &Crowd) {
    let of = |component: &str| crowd.host.value(&INTERNAL_ERRORS, "", component);
    assert!(of("host") <= crowd.fates.errors(), "{} own errors", of("host"));
    for component in ["record", "cas", "config"] {
        assert_eq!(of(component), 0, "{component}");
    }
}

/// Ticks after which each worker has looked at each record again, whether it was told or not (`ROUND` in
/// `breaker.rs`).
const ROUND: usize = 20;

/// Each tick corrects a gauge that was set to an older state. A change that was not told is found at the worker's
/// round.
fn the_gauges_are_right(crowd: &Crowd, members: &mut [Member]) {
    let rounds = if broken_off(crowd) + crowd.fates.errors() > 0 { ROUND } else { 2 };
    for _ in 0..rounds {
        members.iter_mut().for_each(Member::tick);
    }
    let circuits = crowd.host.circuits().len() as u64;
    let told = crowd.host.value(&CIRCUITS, "", "");
    assert!(members.is_empty() || told == circuits, "the gauge says {told} circuits of {circuits}");
    for upstream in crowd.upstreams() {
        let phase = crowd.record(upstream).map_or(0, |(phase, _)| phase);
        let told = [0, 2, 1, 1][usize::from(phase)];
        let lines = || crowd.transitions(upstream);
        assert!(
            members.is_empty() || crowd.state(upstream) == told,
            "the gauge says {} in phase {phase} of {:?}: {:#?}",
            crowd.state(upstream),
            crowd.record(upstream),
            lines()
        );
    }
}
