//! Workers that meet in the middle of an operation: what they do, the states in which they meet, and what is seen
//! afterwards.

use std::cell::RefCell;
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, REJECTED, TRIPS};
use circuit_breaker_core::testing::{Memory, Proxy, answer};

pub(crate) const A: &str = "outbound|80||a.default.svc.cluster.local";
pub(crate) const BAD: Outcome = Outcome::Failure(FailureKind::Http);
const CONFIG: &str = r#"{"default": {"open": {"jitterPercent": 0},
    "trip": {"consecutiveFailures": 5, "failureRatePercent": 50, "slowCallRatePercent": 50, "slowCallDuration": "2s",
             "minimumCalls": 10},
    "halfOpen": {"maxConcurrentProbes": 2, "successThreshold": 2, "ramp": {"duration": "0s"}}}}"#;

/// What a worker does in one go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    Admit,
    /// Settles the call that the worker holds.
    Settle(Outcome),
    Tick,
}

pub(crate) const OPERATIONS: [Operation; 5] = [
    Operation::Admit,
    Operation::Settle(Outcome::Success),
    Operation::Settle(BAD),
    Operation::Settle(Outcome::Neutral),
    Operation::Tick,
];

/// A worker and the call that it holds.
pub(crate) struct Worker {
    pub(crate) breaker: Breaker<Memory>,
    pub(crate) held: Permit,
}

pub(crate) type Shared = Rc<RefCell<Worker>>;

/// What an operation told its caller, as far as the order can matter: admitted as a probe, admitted, rejected, or
/// nothing.
pub(crate) fn perform(worker: &Shared, operation: Operation, now: u64) -> &'static str {
    let mut worker = worker.borrow_mut();
    match operation {
        Operation::Admit => {
            let admission = if worker.breaker.is_calm() {
                Admission::Pass(worker.breaker.admit_unseen(7, now))
            } else {
                worker.breaker.admit(7, A, now)
            };
            if let Admission::Pass(permit) = admission {
                worker.held = permit;
            }
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
            let first_byte = (outcome == Outcome::Slow).then_some(2 * SECOND);
            worker.breaker.settle(held, Some(A), &answer(outcome), first_byte, now);
            "settled"
        }
        Operation::Tick => {
            worker.breaker.tick(now);
            "ticked"
        }
    }
}

/// States of a circuit in which two workers meet. Each worker holds a call of that state, where there can be one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    Healthy,
    /// Every sample of the window is too old, and no tick has come since.
    NothingToWatchAnyLonger,
    /// The failure has left the window, and its streak was ended after the last tick.
    StreakJustOver,
    OneFailureBelowTheStreak,
    OneCallBelowTheMinimum,
    Open,
    OpenTimeJustOver,
    TwoProbesOut,
    TwoProbesOutOneSuccessSeen,
}

pub(crate) const STARTS: [Start; 9] = [
    Start::Healthy,
    Start::NothingToWatchAnyLonger,
    Start::StreakJustOver,
    Start::OneFailureBelowTheStreak,
    Start::OneCallBelowTheMinimum,
    Start::Open,
    Start::OpenTimeJustOver,
    Start::TwoProbesOut,
    Start::TwoProbesOutOneSuccessSeen,
];

impl Start {
    /// Transitions before the two workers meet.
    pub(crate) fn transitions(self) -> usize {
        match self {
            Start::Healthy
            | Start::NothingToWatchAnyLonger
            | Start::StreakJustOver
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

pub(crate) fn prepare(start: Start, workers: u64) -> (Memory, Vec<Shared>, u64) {
    let mut proxy = Proxy::start(workers, CONFIG);
    proxy.pass(SECOND);
    match start {
        Start::Healthy => proxy.succeed(A, 2),
        Start::NothingToWatchAnyLonger => {
            proxy.fail(A, 1);
            proxy.succeed(A, 1);
            // Every worker knows the circuit from then on.
            proxy.pass(SECOND);
            proxy.now += 60 * SECOND;
        }
        Start::StreakJustOver => {
            proxy.fail(A, 1);
            proxy.pass(60 * SECOND);
            proxy.succeed(A, 1);
            // The next tick takes a sample.
            proxy.now += 4 * SECOND;
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
        | Start::StreakJustOver
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
pub(crate) fn seen(start: Start, host: &Memory, workers: &[Shared], now: u64, told: &[Vec<&'static str>]) -> String {
    for worker in workers.iter().chain(workers) {
        worker.borrow_mut().breaker.tick(now);
    }
    let mut counts: Vec<u64> = CALLS.components.iter().map(|component| host.value(&CALLS, A, component)).collect();
    let rejected: u64 = REJECTED.components.iter().map(|cause| host.value(&REJECTED, A, cause)).sum();
    let trips: u64 = TRIPS.components.iter().map(|reason| host.value(&TRIPS, A, reason)).sum();
    let state = host.value(&circuit_breaker_core::telemetry::metrics::STATE, A, "");
    // Two workers that make two transitions at once may log them in either order.
    let mut generations: Vec<String> = host
        .log_lines()
        .iter()
        .filter_map(|line| Some(line.split_once("\"generation\":")?.1.split_once(',')?.0.to_owned()))
        .collect();
    generations.sort_unstable();
    // A call that ends together with a transition may count as one from before it, or as a late one, which is
    // neutral. It counts exactly once in any case.
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

/// What each worker does, one operation after the other. `order` says whose operation is next.
pub(crate) fn in_order(start: Start, scripts: &[&[Operation]], order: &[usize]) -> String {
    let (host, workers, now) = prepare(start, scripts.len() as u64);
    let mut told = vec![Vec::new(); scripts.len()];
    for worker in order {
        let done = told[*worker].len();
        told[*worker].push(perform(&workers[*worker], scripts[*worker][done], now));
    }
    seen(start, &host, &workers, now, &told)
}
