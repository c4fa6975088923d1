//! Two workers meet while a circuit ends and its slot is used again. The test tries every schedule in which a worker
//! is stopped at most a bounded number of times ([`Bounded`]).
//!
//! The result differs with the schedule: the worker that is first has the slot. In each schedule these must hold: no
//! name has two circuits, no call is lost or counted twice, nobody meets an error, and an upstream that has a circuit
//! afterwards is protected by it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::Outcome;
use circuit_breaker_core::telemetry::metrics::{CALLS, INTERNAL_ERRORS, STATE, UNPROTECTED};
use circuit_breaker_core::testing::{Memory, Proxy, answer};

use circuit_breaker_core::testing::Touch;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

use super::schedules::{Call, NEXT, OnOneThread, about_to_call, config, wait_for_turn};
use super::workers::BAD;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a worker does in one go.
#[derive(Clone, Copy, Debug)]
enum Act {
    Tick,
    /// A whole call, which fails.
    Fail(&'static str),
    /// The end of a call that it let go before.
    End,
}

/// The state of `a`'s circuit when the two meet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    /// The next tick ends it.
    Idle,
    /// It is HALF_OPEN, and the next tick ends it.
    IdleHalfOpen,
    /// It has ended, and the workers know it.
    Ended,
    /// It has ended, and only the first worker knows it.
    EndedUnnoticed,
    /// It makes room for another one: there is one slot.
    Full,
}

const STARTS: [Start; 5] = [Start::Idle, Start::IdleHalfOpen, Start::Ended, Start::EndedUnnoticed, Start::Full];

/// Each meeting differs from the others by more than which worker is first.
const MEETINGS: [[Act; 2]; 10] = [
    [Act::Tick, Act::Tick],
    [Act::Tick, Act::Fail("a")],
    [Act::Tick, Act::Fail("b")],
    [Act::Tick, Act::End],
    [Act::Fail("a"), Act::Fail("a")],
    [Act::Fail("a"), Act::Fail("b")],
    [Act::Fail("b"), Act::Fail("b")],
    [Act::Fail("b"), Act::Fail("c")],
    [Act::Fail("a"), Act::End],
    [Act::Fail("b"), Act::End],
];

struct Worker {
    breaker: Breaker<Memory>,
    held: Option<Permit>,
}

struct Scene {
    host: Memory,
    workers: Vec<Rc<RefCell<Worker>>>,
    now: u64,
    /// Calls that have ended before the two meet.
    calls: u64,
}

fn prepare(start: Start) -> Scene {
    let slots = if start == Start::Full { 1 } else { 2 };
    let document = format!(
        r#"{{"default": {{"open": {{"baseDuration": "1s", "jitterPercent": 0}},
            "trip": {{"window": {{"duration": "2s"}}, "slowCallDuration": "0s"}},
            "halfOpen": {{"ramp": {{"duration": "0s"}}}}}}, "limits": {{"maxCircuits": {slots}, "idleCircuit": "{}"}}}}"#,
        if start == Start::Full { "1h" } else { "3s" }
    );
    let mut proxy = Proxy::start(2, &document);
    let mut calls = 2;
    proxy.succeed("a", 2);
    if start == Start::IdleHalfOpen {
        proxy.fail("a", 5);
        calls += 5;
        // On a whole second: other workers know of its use in whole seconds.
        proxy.pass(2 * SECOND);
        assert_eq!(proxy.state("a"), 1, "{:#?}", proxy.host.log_lines());
    }
    let held = match proxy.admit(1, "a") {
        Admission::Pass(permit) => permit,
        Admission::Reject { .. } => panic!("it lets all pass, or a probe"),
    };
    match start {
        Start::Idle | Start::IdleHalfOpen => {
            proxy.pass(3 * SECOND);
            proxy.now += SECOND / 4;
        }
        Start::Ended => proxy.pass(4 * SECOND),
        Start::EndedUnnoticed => {
            proxy.pass(3 * SECOND);
            proxy.now += SECOND / 4;
            let now = proxy.now;
            proxy.vms[0].tick(now);
        }
        Start::Full => proxy.pass(61 * SECOND),
    }
    let taken = usize::from(!matches!(start, Start::Ended | Start::EndedUnnoticed));
    assert_eq!(proxy.host.circuits().len(), taken, "{start:?}");
    let held = [None, Some(held)];
    let workers = proxy.vms.drain(..).zip(held);
    let workers = workers.map(|(breaker, held)| Rc::new(RefCell::new(Worker { breaker, held }))).collect();
    Scene { host: proxy.host.clone(), workers, now: proxy.now, calls }
}

/// How many calls have ended.
fn perform(worker: &Rc<RefCell<Worker>>, act: Act, now: u64) -> u64 {
    let mut worker = worker.borrow_mut();
    match act {
        Act::Tick => {
            worker.breaker.tick(now);
            0
        }
        Act::Fail(upstream) => call(&mut worker.breaker, upstream, BAD, now),
        Act::End => {
            let Some(permit) = worker.held.take() else { return 0 };
            worker.breaker.settle(permit, Some("a"), &answer(BAD), Some(1), now);
            // A probe that ends after its circuit has ended says nothing about the next one.
            u64::from(!matches!(permit, Permit::Probe { .. }))
        }
    }
}

/// One call. Returns how many calls it counts as: 0 where it is rejected, or a probe.
fn call(breaker: &mut Breaker<Memory>, upstream: &str, outcome: Outcome, now: u64) -> u64 {
    let admission =
        if breaker.is_calm() { Admission::Pass(breaker.admit_unseen(7, now)) } else { breaker.admit(7, upstream, now) };
    match admission {
        Admission::Pass(permit) => {
            breaker.settle(permit, Some(upstream), &answer(outcome), Some(1), now);
            u64::from(!matches!(permit, Permit::Probe { .. }))
        }
        Admission::Reject { circuit, cause, .. } => {
            breaker.rejected(circuit, cause);
            0
        }
    }
}

fn counted(host: &Memory) -> u64 {
    let of = |name: &&str| CALLS.components.iter().map(|part| host.value(&CALLS, name, part)).sum::<u64>();
    NAMES.iter().map(of).sum::<u64>() + host.value(&UNPROTECTED, "", "")
}

fn holds(start: Start, acts: [Act; 2], scene: &Scene, ended: u64) {
    let Scene { host, workers, now, calls } = scene;
    let now = *now;
    let probes = start == Start::IdleHalfOpen;
    let what = || format!("{start:?} {acts:?}: {:?} {:#?}", host.circuits(), host.log_lines());
    let all = counted(host);
    assert!(all == calls + ended || probes && all >= calls + ended, "{all} of {} calls: {}", calls + ended, what());
    for part in INTERNAL_ERRORS.components {
        assert_eq!(host.value(&INTERNAL_ERRORS, "", part), 0, "{part}: {}", what());
    }
    let names = host.circuits();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a name has two circuits: {}", what());
    let records = host.shared_data("circuit_breaker:circuit:").len();
    assert!(records <= if start == Start::Full { 1 } else { 2 }, "{records} records: {}", what());
    for worker in workers.iter().chain(workers) {
        worker.borrow_mut().breaker.tick(now);
    }
    for name in host.circuits() {
        for turn in 0..6 {
            let mut worker = workers[turn % 2].borrow_mut();
            call(&mut worker.breaker, &name, BAD, now);
        }
        assert_ne!(host.value(&STATE, &name, ""), 0, "{name} is not protected: {}", what());
        for worker in workers {
            let admission = worker.borrow_mut().breaker.admit(7, &name, now);
            assert!(matches!(admission, Admission::Reject { .. }), "{name}: {admission:?}: {}", what());
        }
    }
}

/// All schedules in which a worker with work left is stopped at most so many times (Musuvathi and Qadeer, Iterative
/// Context Bounding for Systematic Testing of Multithreaded Programs, 2007): most faults need one or two. It is
/// stopped only before calls on what both workers touch. For all other calls it makes no difference when they are
/// made.
struct Bounded {
    most: usize,
    shared: BTreeSet<String>,
    /// The workers that could run at each choice, and the one that did.
    path: Vec<(Vec<usize>, usize)>,
    depth: usize,
    stops: usize,
    running: Option<usize>,
    begun: bool,
}

thread_local! {
    static SCHEDULES: Cell<usize> = const { Cell::new(0) };
}

impl Bounded {
    fn new(most: usize, shared: BTreeSet<String>) -> Bounded {
        Bounded { most, shared, path: Vec::new(), depth: 0, stops: 0, running: None, begun: false }
    }

    /// The workers that may run now, first the one that runs already.
    fn options(&self, next: &BTreeMap<usize, Call>) -> Vec<usize> {
        let Some(call) = self.running.and_then(|running| next.get(&running)) else {
            return next.keys().copied().collect();
        };
        let stops = self.stops < self.most && self.shared.contains(&call.what);
        let others = next.keys().filter(|worker| stops && Some(**worker) != self.running);
        self.running.iter().chain(others).copied().collect()
    }
}

impl Scheduler for Bounded {
    fn new_execution(&mut self) -> Option<Schedule> {
        while self.begun {
            let (options, chosen) = self.path.last_mut()?;
            *chosen += 1;
            if *chosen < options.len() {
                break;
            }
            self.path.pop();
        }
        (self.depth, self.stops, self.running, self.begun) = (0, 0, None, true);
        NEXT.with_borrow_mut(BTreeMap::clear);
        SCHEDULES.set(SCHEDULES.get() + 1);
        Some(Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], _: Option<TaskId>, _: bool) -> Option<TaskId> {
        let next = match about_to_call(runnable) {
            Ok(next) => next,
            Err(task) => return Some(task),
        };
        if self.depth == self.path.len() {
            self.path.push((self.options(&next), 0));
        }
        let (options, chosen) = &self.path[self.depth];
        let chosen = options[*chosen];
        self.depth += 1;
        let stopped = self.running.is_some_and(|running| running != chosen && next.contains_key(&running));
        self.stops += usize::from(stopped);
        self.running = Some(chosen);
        runnable.iter().map(|task| task.id()).find(|id| usize::from(*id) == chosen)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}

/// What both touch, if it makes a difference who is first.
fn shared(start: Start, acts: [Act; 2]) -> BTreeSet<String> {
    let mut shared = BTreeSet::new();
    for order in [[0, 1], [1, 0]] {
        let scene = prepare(start);
        let touched: [Rc<RefCell<Vec<Call>>>; 2] = Default::default();
        for worker in order {
            let calls = Rc::clone(&touched[worker]);
            let note = move |what: &str, how: Touch| calls.borrow_mut().push(Call { what: what.to_owned(), how });
            scene.host.before_every_call(note);
            perform(&scene.workers[worker], acts[worker], scene.now);
        }
        let [one, other] = touched.map(|calls| calls.take());
        shared.extend(one.into_iter().filter(|call| other.iter().any(|met| !call.commutes(met))).map(|call| call.what));
    }
    shared
}

#[test]
fn every_schedule_of_an_end_and_a_new_beginning_keeps_its_promises() {
    // `STOPS=3` takes many times as long.
    let stops = std::env::var("STOPS").ok().and_then(|stops| stops.parse().ok()).unwrap_or(2);
    let mut explored = 0;
    for start in STARTS {
        for acts in MEETINGS {
            SCHEDULES.set(0);
            shuttle::Runner::new(Bounded::new(stops, shared(start, acts)), config()).run(move || {
                let scene = prepare(start);
                scene.host.before_every_call(wait_for_turn);
                let begin = |(worker, act): (&Rc<RefCell<Worker>>, Act)| {
                    let (worker, now) = (OnOneThread(Rc::clone(worker)), scene.now);
                    shuttle::thread::spawn(move || perform(&worker.get(), act, now))
                };
                let begun: Vec<_> = scene.workers.iter().zip(acts).map(begin).collect();
                let ended = begun.into_iter().map(|worker| worker.join().unwrap()).sum();
                scene.host.before_every_call(|_, _| {});
                holds(start, acts, &scene, ended);
            });
            explored += SCHEDULES.get();
        }
    }
    assert!(explored > 1000, "only {explored} schedules were seen");
}

/// From its next host call but so many on, no call of the worker has an effect: it is dead.
fn dies_at(scene: &Scene, calls: u64, act: Act) -> bool {
    let (host, dead) = (scene.host.clone(), Rc::new(Cell::new(false)));
    let dies = Rc::clone(&dead);
    scene.host.before_call(calls, move || {
        host.set_broken(true);
        dies.set(true);
    });
    perform(&scene.workers[0], act, scene.now);
    scene.host.set_broken(false);
    dead.get()
}

#[test]
fn a_worker_that_dies_anywhere_leaves_slots_that_others_use() {
    let mut deaths = 0;
    for start in STARTS {
        for act in [Act::Tick, Act::Fail("a"), Act::Fail("b")] {
            for calls in 0.. {
                let mut scene = prepare(start);
                if !dies_at(&scene, calls, act) {
                    break;
                }
                deaths += 1;
                scene.workers.remove(0);
                let survivor = &scene.workers[0];
                let what = format!("{start:?} {act:?} dies after {calls} calls");
                // What it has left half done its successor finishes, or finds in its round. What it had kept busy is
                // idle after a minute.
                for _ in 0..615 {
                    scene.now += SECOND / 10;
                    survivor.borrow_mut().breaker.tick(scene.now);
                }
                let names = scene.host.circuits();
                assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{what}: {names:?}");
                // There may be one slot only.
                let names = if start == Start::Full { &["b"][..] } else { &["a", "b"] };
                for name in names {
                    let fail = || call(&mut survivor.borrow_mut().breaker, name, BAD, scene.now);
                    // The first one may be the dead worker's.
                    let let_go: u64 = (0..5).map(|_| fail()).sum();
                    assert!(let_go >= 4, "{what}: {name} is let through");
                    assert_eq!(fail(), 0, "{what}: {name} is not protected: {:?}", scene.host.circuits());
                }
            }
        }
    }
    assert!(deaths > 200, "only {deaths} deaths were seen");
}
