//! Every place at which a worker can be stopped in the middle of an operation while another worker does a whole one.
//!
//! For each state of a circuit, each pair of operations and each host call of the first one: the second runs right before
//! that call. Whatever comes out must be what one of the two orders gives, one after the other: the same answers, the
//! same state, the same counts. That is what "one breaker over all workers" means.
#![cfg(feature = "testing")]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::cell::RefCell;
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::config::SECOND;
use circuit_breaker_core::metrics::{CALLS, REJECTED, SHARED, TRIPS};
use circuit_breaker_core::outcome::{FailureKind, Outcome};
use circuit_breaker_core::permit::{Admission, Permit};
use circuit_breaker_core::testing::{Memory, Proxy, answer};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const A: &str = "outbound|80||a.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);
const CONFIG: &str = r#"{"default": {"open": {"jitterPercent": 0},
    "trip": {"consecutiveFailures": 5, "failureRatePercent": 50, "minimumCalls": 10},
    "halfOpen": {"maxConcurrentProbes": 2, "successThreshold": 2, "ramp": {"duration": "0s"}}}}"#;

/// What a worker does in one go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Admit,
    /// Settles the call that the worker holds.
    Settle(Outcome),
    Tick,
}

const OPERATIONS: [Operation; 5] = [
    Operation::Admit,
    Operation::Settle(Outcome::Success),
    Operation::Settle(BAD),
    Operation::Settle(Outcome::Neutral),
    Operation::Tick,
];

/// A worker and the call that it holds.
struct Worker {
    breaker: Breaker<Memory>,
    held: Permit,
}

type Shared = Rc<RefCell<Worker>>;

/// What an operation told its caller, as far as the order can matter: admitted as a probe, admitted, rejected, nothing.
fn perform(worker: &Shared, operation: Operation, now: u64) -> &'static str {
    let mut worker = worker.borrow_mut();
    match operation {
        Operation::Admit => {
            let admission = if worker.breaker.is_calm() {
                Admission::Pass(worker.breaker.admit_unseen(7, now))
            } else {
                worker.breaker.admit(7, A, now)
            };
            match admission {
                Admission::Pass(Permit::Probe { .. }) => "probe",
                Admission::Pass(_) => "admitted",
                Admission::Reject { circuit, cause, .. } => {
                    worker.breaker.rejected(circuit, cause);
                    "rejected"
                }
            }
        }
        Operation::Settle(outcome) => {
            let held = worker.held;
            worker.breaker.settle(held, Some(A), &answer(outcome), None, now);
            "settled"
        }
        Operation::Tick => {
            worker.breaker.tick(now);
            "ticked"
        }
    }
}

/// States of a circuit in which two workers meet, each holding a call of that state where there can be one.
#[derive(Clone, Copy, Debug)]
enum Start {
    Healthy,
    /// The last failure has left the window, and no tick has come since.
    NothingToWatchAnyLonger,
    OneFailureBelowTheStreak,
    OneCallBelowTheMinimum,
    Open,
    OpenTimeJustOver,
    TwoProbesOut,
    TwoProbesOutOneSuccessSeen,
}

const STARTS: [Start; 8] = [
    Start::Healthy,
    Start::NothingToWatchAnyLonger,
    Start::OneFailureBelowTheStreak,
    Start::OneCallBelowTheMinimum,
    Start::Open,
    Start::OpenTimeJustOver,
    Start::TwoProbesOut,
    Start::TwoProbesOutOneSuccessSeen,
];

impl Start {
    /// Transitions before the two workers meet.
    fn transitions(self) -> usize {
        match self {
            Start::Healthy
            | Start::NothingToWatchAnyLonger
            | Start::OneFailureBelowTheStreak
            | Start::OneCallBelowTheMinimum => 0,
            Start::Open | Start::OpenTimeJustOver => 1,
            Start::TwoProbesOut | Start::TwoProbesOutOneSuccessSeen => 2,
        }
    }
}

fn hold_all(proxy: &mut Proxy) -> Vec<Permit> {
    (0..proxy.vms.len()).map(|vm| hold(proxy, vm)).collect()
}

fn hold(proxy: &mut Proxy, vm: usize) -> Permit {
    match proxy.admit(vm, A) {
        Admission::Pass(permit) => permit,
        Admission::Reject { .. } => Permit::Uncounted,
    }
}

fn prepare(start: Start, workers: u64) -> (Memory, Vec<Shared>, u64) {
    let mut proxy = Proxy::start(workers, CONFIG);
    proxy.pass(SECOND);
    match start {
        Start::Healthy => proxy.succeed(A, 2),
        Start::NothingToWatchAnyLonger => {
            proxy.fail(A, 1);
            proxy.succeed(A, 1);
            proxy.now += 30 * SECOND;
        }
        Start::OneFailureBelowTheStreak => proxy.fail(A, 4),
        Start::OneCallBelowTheMinimum => {
            proxy.fail(A, 4);
            proxy.succeed(A, 4);
            proxy.fail(A, 1);
        }
        Start::Open => {}
        Start::OpenTimeJustOver | Start::TwoProbesOut | Start::TwoProbesOutOneSuccessSeen => proxy.fail(A, 5),
    }
    let mut held = vec![Permit::Uncounted; proxy.vms.len()];
    match start {
        Start::Healthy
        | Start::NothingToWatchAnyLonger
        | Start::OneFailureBelowTheStreak
        | Start::OneCallBelowTheMinimum => {
            held = hold_all(&mut proxy);
        }
        Start::Open => {
            held = hold_all(&mut proxy);
            proxy.fail(A, 5);
        }
        Start::OpenTimeJustOver => proxy.now += 30 * SECOND,
        Start::TwoProbesOut => {
            proxy.pass(30 * SECOND);
            held = hold_all(&mut proxy);
        }
        Start::TwoProbesOutOneSuccessSeen => {
            proxy.pass(30 * SECOND);
            assert!(proxy.request(0, A, Outcome::Success));
            held = hold_all(&mut proxy);
        }
    }
    let workers = proxy.vms.drain(..).zip(held).map(|(breaker, held)| Rc::new(RefCell::new(Worker { breaker, held })));
    (proxy.host.clone(), workers.collect(), proxy.now)
}

/// All that can be seen from outside once everything has come to rest.
fn seen(start: Start, host: &Memory, workers: &[Shared], now: u64, told: &[&'static str]) -> String {
    for worker in workers.iter().chain(workers) {
        worker.borrow_mut().breaker.tick(now);
    }
    let mut counts: Vec<u64> = CALLS.components.iter().map(|component| host.value(&CALLS, A, component)).collect();
    let rejected: u64 = REJECTED.components.iter().map(|cause| host.value(&REJECTED, A, cause)).sum();
    let trips: u64 = TRIPS.components.iter().map(|reason| host.value(&TRIPS, A, reason)).sum();
    let state = host.value(&circuit_breaker_core::metrics::STATE, A, "");
    let generations: Vec<String> = host
        .log_lines()
        .iter()
        .filter_map(|line| Some(line.split_once("\"generation\":")?.1.split_once(',')?.0.to_owned()))
        .collect();
    // A call that ends together with a transition may count as of before it, or as a late one, which is neutral. It counts
    // exactly once in any case.
    let moved_on = generations.len() > start.transitions();
    if moved_on {
        counts = vec![counts.iter().sum()];
    }
    let next: Vec<&str> = workers.iter().map(|worker| perform(worker, Operation::Admit, now)).collect();
    format!(
        "told {told:?}, state {state}, calls {:?}, rejected {rejected}, trips {trips}, generations {generations:?}, next {next:?}",
        counts
    )
}

/// One after the other.
fn in_order(start: Start, operations: &[Operation], order: &[usize]) -> String {
    let (host, workers, now) = prepare(start, operations.len() as u64);
    let mut told = vec![""; operations.len()];
    for worker in order {
        told[*worker] = perform(&workers[*worker], operations[*worker], now);
    }
    seen(start, &host, &workers, now, &told)
}

/// The second in the middle of the first, before its `call`-th host call. `None`: the first makes fewer calls.
fn nested(start: Start, operations: [Operation; 2], call: u64) -> Option<String> {
    let (host, workers, now) = prepare(start, 2);
    let inner = Rc::new(RefCell::new(None));
    let (worker, result) = (Rc::clone(&workers[1]), Rc::clone(&inner));
    host.before_call(call, move || *result.borrow_mut() = Some(perform(&worker, operations[1], now)));
    let outer = perform(&workers[0], operations[0], now);
    let told = [outer, inner.take()?];
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
    let told = [told[0]?, told[1]?, told[2]?];
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
                let legal = [[0, 1], [1, 0]].map(|order| in_order(start, &[first, second], &order));
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
        let legal = ORDERS.map(|order| in_order(start, &operations, &order));
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
