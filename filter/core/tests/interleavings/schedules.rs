//! Every schedule of two workers, and random ones of four.
//!
//! The workers run as coroutines (shuttle), and before each host call a scheduler decides whose call is next.
//! [`Exhaustive`] tries all schedules, but of those that differ only in the order of two calls on different things it
//! tries one (sleep sets; Godefroid, Partial-Order Methods for the Verification of Concurrent Systems, 1996, ch. 5).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use circuit_breaker_core::policy::classify::Outcome;
use circuit_breaker_core::telemetry::metrics::SHARED;
use circuit_breaker_core::testing::Touch;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

use super::is_diluted;
use super::workers::{A, BAD, OPERATIONS, Operation, STARTS, Shared, Start, in_order, perform, prepare, seen};

/// A host call that a worker is about to make.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) what: String,
    pub(super) how: Touch,
}

impl Call {
    /// Whether the order of the two makes no difference.
    pub(super) fn commutes(&self, other: &Call) -> bool {
        self.what != other.what || (self.how == other.how && self.how != Touch::Write)
    }
}

thread_local! {
    /// The next host call of each worker. Coroutines of one test run on one thread.
    pub(super) static NEXT: RefCell<BTreeMap<usize, Call>> = const { RefCell::new(BTreeMap::new()) };
    static SCHEDULES: Cell<usize> = const { Cell::new(0) };
    static ODD: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Says what the worker is about to touch, and waits for its turn.
pub(super) fn wait_for_turn(what: &str, how: Touch) {
    // The order of definitions and log lines makes no difference.
    if matches!(what, "definitions" | "log") {
        return;
    }
    let me = usize::from(shuttle::current::me());
    NEXT.with_borrow_mut(|next| next.insert(me, Call { what: what.to_owned(), how }));
    shuttle::thread::yield_now();
    NEXT.with_borrow_mut(|next| next.remove(&me));
}

/// The time of use is read only where a circuit may end, and the noted series only by a new module. Neither decides
/// anything here.
pub(super) fn wait_for_turn_of_a_call(what: &str, how: Touch) {
    if !what.contains("component.used-") && !what.starts_with("circuit_breaker:series") {
        wait_for_turn(what, how);
    }
}

/// The next host call of each worker. A worker without one before it does nothing that another worker could see.
pub(super) fn about_to_call(runnable: &[&Task]) -> Result<BTreeMap<usize, Call>, TaskId> {
    let next = NEXT.with_borrow(Clone::clone);
    let free = runnable.iter().find(|task| !next.contains_key(&usize::from(task.id())));
    free.map_or(Ok(next), |task| Err(task.id()))
}

/// A place where the scheduler had a choice.
struct Choice {
    next: BTreeMap<usize, Call>,
    chosen: usize,
    /// Workers whose next call need not be tried here: it was tried, or its result was seen elsewhere.
    asleep: BTreeSet<usize>,
}

impl Choice {
    /// The workers that may sleep on after the chosen call.
    fn still_asleep(&self) -> BTreeSet<usize> {
        let commutes = |worker: &&usize| self.next[*worker].commutes(&self.next[&self.chosen]);
        self.asleep.iter().filter(|worker| **worker != self.chosen).filter(commutes).copied().collect()
    }

    /// The next worker to try here.
    fn awake(&self) -> Option<usize> {
        self.next.keys().find(|worker| !self.asleep.contains(worker)).copied()
    }
}

/// Depth first over all schedules.
#[derive(Default)]
pub(super) struct Exhaustive {
    path: Vec<Choice>,
    depth: usize,
    begun: bool,
    /// All that follows was already seen.
    seen: bool,
}

impl Scheduler for Exhaustive {
    fn new_execution(&mut self) -> Option<Schedule> {
        while self.begun {
            let choice = self.path.last_mut()?;
            choice.asleep.insert(choice.chosen);
            if let Some(other) = choice.awake() {
                choice.chosen = other;
                break;
            }
            self.path.pop();
        }
        (self.depth, self.begun, self.seen) = (0, true, false);
        NEXT.with_borrow_mut(BTreeMap::clear);
        SCHEDULES.set(SCHEDULES.get() + 1);
        Some(Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], _: Option<TaskId>, _: bool) -> Option<TaskId> {
        let next = match about_to_call(runnable) {
            Ok(next) => next,
            Err(task) => return Some(task),
        };
        let chosen = self.choose(next);
        runnable.iter().map(|task| task.id()).find(|id| usize::from(*id) == chosen)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}

impl Exhaustive {
    fn choose(&mut self, next: BTreeMap<usize, Call>) -> usize {
        if let Some(choice) = self.path.get(self.depth) {
            self.depth += 1;
            assert_eq!(choice.next, next, "the same choices lead to another place");
            return choice.chosen;
        }
        let asleep = self.path.last().map(Choice::still_asleep).unwrap_or_default();
        let mut choice = Choice { next, chosen: 0, asleep };
        match choice.awake() {
            Some(worker) if !self.seen => {
                choice.chosen = worker;
                self.path.push(choice);
                self.depth += 1;
                worker
            }
            _ => {
                self.seen = true;
                choice.next.into_keys().next().unwrap_or(0)
            }
        }
    }
}

/// What a coroutine takes along.
pub(super) struct OnOneThread<T>(pub(super) T);

// The coroutines of an execution all run on the thread that began it, one at a time.
#[allow(unsafe_code)]
unsafe impl<T> Send for OnOneThread<T> {}

impl<T> OnOneThread<T> {
    /// Takes all of it into the closure: one field alone would not carry its `Send` promise.
    pub(super) fn get(self) -> T {
        self.0
    }
}

/// Both workers at once, as the scheduler wants it.
fn together(start: Start, scripts: [&'static [Operation]; 2]) -> String {
    let (host, workers, now) = prepare(start, 2);
    host.before_every_call(wait_for_turn_of_a_call);
    let begun: Vec<_> = workers.iter().zip(scripts).map(|(worker, script)| begin(worker, script, now)).collect();
    let told: Vec<_> = begun.into_iter().map(|worker| worker.join().unwrap()).collect();
    host.before_every_call(|_, _| {});
    seen(start, &host, &workers, now, &told)
}

fn begin(worker: &Shared, script: &'static [Operation], now: u64) -> shuttle::thread::JoinHandle<Vec<&'static str>> {
    let worker = OnOneThread(Rc::clone(worker));
    shuttle::thread::spawn(move || {
        let worker = worker.get();
        script.iter().map(|operation| perform(&worker, *operation, now)).collect()
    })
}

pub(super) fn config() -> shuttle::Config {
    let mut config = shuttle::Config::new();
    // Room for a configuration to be parsed in a debug build.
    config.stack_size = 1 << 20;
    config.failure_persistence = shuttle::FailurePersistence::None;
    config
}

/// How many schedules `run` tries.
pub(super) fn schedules(run: impl FnOnce()) -> usize {
    SCHEDULES.set(0);
    run();
    SCHEDULES.get()
}

/// The orders in which two workers can do so many operations each.
fn orders(first: usize, second: usize) -> Vec<Vec<usize>> {
    if first == 0 || second == 0 {
        return vec![[vec![0; first], vec![1; second]].concat()];
    }
    let begin_with =
        |worker: usize, rest: Vec<Vec<usize>>| rest.into_iter().map(move |rest| [vec![worker], rest].concat());
    begin_with(0, orders(first - 1, second)).chain(begin_with(1, orders(first, second - 1))).collect()
}

/// Explores one meeting. Returns how many schedules it took, and the results that no order gives.
fn explore(start: Start, scripts: [&'static [Operation]; 2]) -> (usize, Vec<String>) {
    let orders = orders(scripts[0].len(), scripts[1].len());
    let legal: BTreeSet<String> = orders.iter().map(|order| in_order(start, &scripts, order)).collect();
    SCHEDULES.set(0);
    ODD.take();
    shuttle::Runner::new(Exhaustive::default(), config()).run(move || {
        let found = together(start, scripts);
        if !legal.contains(&found) && !is_diluted(start, &scripts.concat()) {
            ODD.with_borrow_mut(|odd| odd.insert(format!("{start:?}: {scripts:?}\n  gave {found}")));
        }
    });
    (SCHEDULES.get(), ODD.take().into_iter().collect())
}

#[test]
fn every_schedule_of_two_operations_leaves_what_one_of_their_orders_leaves() {
    let mut explored = 0;
    for start in STARTS {
        for (at, first) in OPERATIONS.iter().enumerate() {
            for second in &OPERATIONS[at..] {
                let (schedules, odd) = explore(start, [std::slice::from_ref(first), std::slice::from_ref(second)]);
                assert!(odd.is_empty(), "{}", odd.join("\n"));
                explored += schedules;
            }
        }
    }
    assert!(explored > 10_000, "only {explored} schedules were seen");
}

/// A success looks no closer while `watch` is 0. It would then neither end the streak that a failure has begun, nor
/// complete the number of calls that a trip needs.
#[test]
fn what_went_wrong_is_watched_in_every_schedule_with_the_tick_that_has_seen_none_of_it() {
    const FAILS: &[Operation] = &[Operation::Settle(BAD)];
    const IS_SLOW: &[Operation] = &[Operation::Settle(Outcome::Slow)];
    // (Where the window has no recent sample, a slow call may be older than it.)
    let meetings =
        [(Start::NothingToWatchAnyLonger, FAILS), (Start::StreakJustOver, FAILS), (Start::StreakJustOver, IS_SLOW)];
    for (start, script) in meetings {
        SCHEDULES.set(0);
        shuttle::Runner::new(Exhaustive::default(), config()).run(move || {
            let (host, workers, now) = prepare(start, 2);
            assert_eq!(host.value(&SHARED, A, "watch"), 1);
            host.before_every_call(wait_for_turn_of_a_call);
            let begun = [begin(&workers[0], script, now), begin(&workers[1], &[Operation::Tick], now)];
            begun.into_iter().for_each(|worker| drop(worker.join().unwrap()));
            host.before_every_call(|_, _| {});
            assert_eq!(host.value(&SHARED, A, "watch"), 1, "{start:?}: {script:?}");
        });
        assert!(SCHEDULES.get() > 50, "only {} schedules were seen", SCHEDULES.get());
    }
}

/// What a worker does, one operation after the other.
const SCRIPTS: [&[Operation]; 3] = [
    &[Operation::Settle(BAD), Operation::Admit],
    &[Operation::Settle(Outcome::Success), Operation::Admit],
    &[Operation::Tick, Operation::Admit],
];

/// The one result that no order gives: the look at the streak and the swap that trips are two moments. A success that
/// ends between them comes too late to save the circuit. A request that its worker lets go before the swap comes too
/// early to be rejected. The trip is made once all the same, and a request that comes after it is rejected.
fn is_between(start: Start, scripts: [&[Operation]; 2], found: &str) -> bool {
    let saves = |script: &[Operation]| script == [Operation::Settle(Outcome::Success), Operation::Admit];
    matches!(start, Start::OneFailureBelowTheStreak)
        && (saves(scripts[0]) != saves(scripts[1]))
        && scripts.concat().contains(&Operation::Settle(BAD))
        && found.contains("state 2, calls [6]")
        && found.ends_with("trips 1, generations [\"1\"], next [\"rejected\", \"rejected\"]")
}

#[test]
fn every_schedule_of_two_scripts_leaves_what_one_of_their_orders_leaves() {
    let mut explored = 0;
    for start in STARTS {
        for (at, first) in SCRIPTS.iter().enumerate() {
            for second in &SCRIPTS[at..] {
                let (schedules, mut odd) = explore(start, [first, second]);
                odd.retain(|found| !is_between(start, [first, second], found));
                assert!(odd.is_empty(), "{}", odd.join("\n"));
                explored += schedules;
            }
        }
    }
    assert!(explored > 100_000, "only {explored} schedules were seen");
}
