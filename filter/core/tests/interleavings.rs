//! Every place at which a worker can be stopped in the middle of an operation while another worker does a whole one.
//!
//! For each state of a circuit, each pair of operations and each host call of the first one: the second runs right before
//! that call. Whatever comes out must be what one of the two orders gives, one after the other: the same answers, the
//! same state, the same counts. That is what "one breaker over all workers" means. `schedules` lets the workers be switched
//! any number of times.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/crowd.rs"]
mod crowd;
#[cfg(not(target_arch = "wasm32"))]
#[path = "interleavings/schedules.rs"]
mod schedules;
#[path = "interleavings/workers.rs"]
mod workers;

use std::cell::RefCell;
use std::rc::Rc;

use circuit_breaker_core::metrics::SHARED;
use circuit_breaker_core::outcome::Outcome;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use workers::{A, BAD, OPERATIONS, Operation, STARTS, Start, in_order, perform, prepare, seen};

/// The second in the middle of the first, before its `call`-th host call. `None`: the first makes fewer calls.
fn nested(start: Start, operations: [Operation; 2], call: u64) -> Option<String> {
    let (host, workers, now) = prepare(start, 2);
    let inner = Rc::new(RefCell::new(None));
    let (worker, result) = (Rc::clone(&workers[1]), Rc::clone(&inner));
    host.before_call(call, move || *result.borrow_mut() = Some(perform(&worker, operations[1], now)));
    let outer = perform(&workers[0], operations[0], now);
    let told = [vec![outer], vec![inner.take()?]];
    Some(seen(start, &host, &workers, now, &told))
}

/// How three workers get in each other's way.
#[derive(Clone, Copy, Debug)]
enum Tangle {
    /// The third runs in the middle of the second, which runs in the middle of the first.
    Deep,
    /// The first is stopped twice: once for the second, once for the third.
    Twice,
}

/// The second before the first's `call`-th host call, the third before the `then`-th of what runs after that.
fn tangled(start: Start, operations: [Operation; 3], tangle: Tangle, call: u64, then: u64) -> Option<String> {
    let (host, workers, now) = prepare(start, 3);
    let told: Rc<RefCell<[Option<&'static str>; 3]>> = Rc::default();
    let run = |which: usize| {
        let (worker, told) = (Rc::clone(&workers[which]), Rc::clone(&told));
        move || {
            let said = perform(&worker, operations[which], now);
            told.borrow_mut()[which] = Some(said);
        }
    };
    let (second, third, inside) = (run(1), run(2), host.clone());
    host.before_call(call, move || match tangle {
        Tangle::Deep => {
            inside.before_call(then, third);
            second();
        }
        Tangle::Twice => {
            second();
            inside.before_call(then, third);
        }
    });
    run(0)();
    let told = told.take();
    let told = [vec![told[0]?], vec![told[1]?], vec![told[2]?]];
    Some(seen(start, &host, &workers, now, &told))
}

/// The one thing that is looser than an order: calls that end together are counted together. At the tenth call half had
/// failed and the circuit would trip; two good calls at once make eleven, of which fewer have, and no decision sees ten.
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

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// Native only: some hundred thousand runs.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn three_workers_stopped_anywhere_leave_what_one_of_the_six_orders_leaves() {
    const MET: [Operation; 3] = [Operation::Admit, Operation::Settle(Outcome::Success), Operation::Settle(BAD)];
    let mut explored = 0;
    let mut wrong = Vec::new();
    let all = MET.iter().flat_map(|a| MET.iter().flat_map(move |b| MET.iter().map(move |c| [*a, *b, *c])));
    for (start, operations) in STARTS.iter().flat_map(|start| all.clone().map(move |operations| (*start, operations))) {
        let [first, second, third] = operations.each_ref().map(std::slice::from_ref);
        let legal = ORDERS.map(|order| in_order(start, &[first, second, third], &order));
        for tangle in [Tangle::Deep, Tangle::Twice] {
            for call in 0.. {
                let found: Vec<String> =
                    (0..).map_while(|then| tangled(start, operations, tangle, call, then)).collect();
                if found.is_empty() {
                    break;
                }
                explored += found.len();
                let odd = found.iter().filter(|found| !legal.contains(found) && !is_diluted(start, &operations));
                wrong.extend(odd.map(|found| {
                    format!(
                        "{start:?} {tangle:?} {operations:?} {call}\n  gave {found}\n  not {}",
                        legal.join("\n   or ")
                    )
                }));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {explored} interleavings are no order:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(6)].join("\n")
    );
    assert!(explored > 10_000, "only {explored} interleavings were seen");
}

/// A success looks no closer while `watch` is 0: no failure may be left unwatched, wherever the tick that clears it stops.
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
