//! Every place at which a worker can be stopped in the middle of an operation while another worker does a whole one.
//!
//! For each state of a circuit, each pair of operations and each host call of the first one, the second operation
//! runs right before that call. The result must be one that the two give in some order, one after the other: the same
//! answers, the same state, the same counts. That is what "one breaker over all workers" means. In `schedules` the
//! workers are switched any number of times.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/crowd.rs"]
mod crowd;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/fates.rs"]
mod fates;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/liveness.rs"]
mod liveness;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/member.rs"]
mod member;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/plan.rs"]
mod plan;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/prober.rs"]
mod prober;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/promises.rs"]
mod promises;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/reuse.rs"]
mod reuse;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/schedules.rs"]
mod schedules;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/tangles.rs"]
mod tangles;
#[path = "interleavings/workers.rs"]
mod workers;

use std::cell::RefCell;
use std::rc::Rc;

use circuit_breaker_core::policy::classify::Outcome;
use circuit_breaker_core::telemetry::metrics::SHARED;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use workers::{A, BAD, OPERATIONS, Operation, STARTS, Start, in_order, perform, prepare, seen};

/// The second operation runs in the middle of the first, before its `call`-th host call. `None`: the first makes
/// fewer calls.
fn nested(start: Start, operations: [Operation; 2], call: u64) -> Option<String> {
    let (host, workers, now) = prepare(start, 2);
    let inner = Rc::new(RefCell::new(None));
    let (worker, result) = (Rc::clone(&workers[1]), Rc::clone(&inner));
    host.before_call(call, move || *result.borrow_mut() = Some(perform(&worker, operations[1], now)));
    let outer = perform(&workers[0], operations[0], now);
    let told = [vec![outer], vec![inner.take()?]];
    Some(seen(start, &host, &workers, now, &told))
}

/// The one result that no order gives: calls that end together are counted together. At the tenth call half have
/// failed, and the circuit would trip. Two good calls at once make eleven, of which less than half have failed, and
/// no decision sees ten.
fn is_diluted(start: Start, operations: &[Operation]) -> bool {
    let good = operations.iter().filter(|operation| **operation == Operation::Settle(Outcome::Success)).count();
    matches!(start, Start::OneCallBelowTheMinimum) && good >= 2
}

#[test]
fn a_worker_stopped_anywhere_leaves_what_one_of_the_two_orders_leaves() {
    let mut explored = 0;
    let mut wrong = Vec::new();
    for start in STARTS {
        for first in OPERATIONS {
            for second in OPERATIONS {
                let legal = [[0, 1], [1, 0]].map(|order| in_order(start, &[&[first], &[second]], &order));
                for call in 0.. {
                    let Some(found) = nested(start, [first, second], call) else { break };
                    explored += 1;
                    if !legal.contains(&found) && !is_diluted(start, &[first, second]) {
                        wrong.push(format!("{start:?}: {second:?} before call {call} of {first:?}\n  gave {found}\n  not  {}\n  nor  {}", legal[0], legal[1]));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {explored} interleavings are neither order:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    assert!(explored > 1000, "only {explored} interleavings were seen");
}

/// A success looks no closer while `watch` is 0. So no failure may be left unwatched, wherever the tick that clears
/// `watch` is stopped.
#[test]
fn a_failure_is_watched_wherever_it_meets_the_tick_that_has_seen_none() {
    let failing = Operation::Settle(BAD);
    for (first, second) in [(Operation::Tick, failing), (failing, Operation::Tick)] {
        let mut explored = 0;
        for call in 0.. {
            let (host, workers, now) = prepare(Start::NothingToWatchAnyLonger, 2);
            let worker = Rc::clone(&workers[1]);
            let done = Rc::new(RefCell::new(false));
            let inner = Rc::clone(&done);
            host.before_call(call, move || {
                perform(&worker, second, now);
                *inner.borrow_mut() = true;
            });
            perform(&workers[0], first, now);
            if !*done.borrow() {
                break;
            }
            explored += 1;
            assert_eq!(host.value(&SHARED, A, "watch"), 1, "{second:?} before call {call} of {first:?}");
        }
        assert!(explored > 5);
    }
}
