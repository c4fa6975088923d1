//! Four workers under random schedules: too many to try all, so what must never happen is looked for instead.
//!
//! Each worker takes and ends calls and ticks, as its seed says, and is stopped before each of its host calls for as long
//! as the scheduler likes. `SCHEDULES=100000` takes more.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::config::{MILLISECOND, SECOND};
use circuit_breaker_core::metrics::{CALLS, INTERNAL_ERRORS, REJECTED, SHARED, STATE};
use circuit_breaker_core::outcome::Outcome;
use circuit_breaker_core::permit::{Admission, Cause, Permit, Request};
use circuit_breaker_core::testing::{Memory, Proxy, answer};
use shuttle::scheduler::RandomScheduler;

use super::schedules::{OnOneThread, config};
use super::workers::{A, BAD};

const WORKERS: u64 = 4;

/// Operations of one worker in one schedule.
const OPERATIONS: usize = 30;

const PROBES: usize = 2;
const PROBE_TIMEOUT: u64 = 3 * SECOND;
const STREAK: u64 = 3;
/// Longer than a window.
const LONG: u64 = 6 * SECOND;
const CONFIG: &str = r#"{"default": {
    "trip": {"consecutiveFailures": 3, "failureRatePercent": 50, "minimumCalls": 6, "window": {"duration": "5s"}},
    "open": {"baseDuration": "1s", "maxDuration": "2s"},
    "halfOpen": {"maxConcurrentProbes": 2, "successThreshold": 2, "probeTimeout": "3s",
                 "ramp": {"initialPercent": 50, "duration": "2s"}}}}"#;

/// What all workers of one schedule share beside the host, and what was seen of them.
struct Crowd {
    host: Memory,
    now: Cell<u64>,
    /// Probes that are out: generation, lease, since when.
    probes: RefCell<Vec<(u64, u32, u64)>>,
    settled: Cell<u64>,
    rejected: Cell<u64>,
    /// Failures in whose midst the circuit changed its state: a worker that is stopped for as long as an OPEN lasts adds to
    /// a streak that began meanwhile.
    astride: Cell<u64>,
}

impl Crowd {
    fn state(&self) -> u64 {
        self.host.value(&STATE, A, "")
    }

    /// Whether all that was told says OPEN: the gauge, and the newest generation's transition. A worker that is stopped before it
    /// tells may set the gauge to what was, until a tick sets it right.
    fn is_open(&self) -> bool {
        let newest = self.generations().into_iter().max().unwrap_or(0);
        let opened =
            |line: &String| line.contains(&format!("\"generation\":{newest},")) && line.contains("\"to\":\"OPEN\"");
        self.state() == 2 && self.host.log_lines().iter().any(opened)
    }

    /// Transitions so far, as logged: where there is one to each generation, the last one's number is their count.
    fn generations(&self) -> Vec<u64> {
        let number = |line: &String| line.split_once("\"generation\":")?.1.split_once(',')?.0.parse().ok();
        self.host.log_lines().iter().filter_map(number).collect()
    }

    /// `asked`: when its admission began, which its lease counts from, however long its worker was stopped in it.
    fn probe_leaves(&self, generation: u64, lease: u32, asked: u64) {
        let now = self.now.get();
        let mut probes = self.probes.borrow_mut();
        probes.push((generation, lease, asked));
        // One that has run out has failed, whether its worker knows it or not.
        let live = |probe: &&(u64, u32, u64)| probe.0 == generation && now - probe.2 < PROBE_TIMEOUT;
        let live = probes.iter().filter(live).count();
        assert!(live <= PROBES, "{live} probes are out: {probes:?}");
    }

    fn probe_ends(&self, generation: u64, lease: u32) {
        self.probes.borrow_mut().retain(|probe| (probe.0, probe.1) != (generation, lease));
    }
}

struct Worker {
    breaker: Breaker<Memory>,
    crowd: Rc<Crowd>,
    /// What it has let go, and whether the request is still coming.
    held: Vec<(Permit, bool)>,
    random: u64,
}

impl Worker {
    /// xorshift64: the scheduler's seed and the worker's number decide what a worker does.
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn work(mut self) -> Worker {
        for _ in 0..OPERATIONS {
            match self.draw(10) {
                0..=3 => self.admit(),
                4..=7 => self.settle(),
                8 => {
                    let now = self.crowd.now.get();
                    self.breaker.tick(now);
                }
                _ => {
                    // Now and then so long that no worker's window has a sample left.
                    let time = if self.draw(6) == 0 { LONG } else { self.draw(700) * MILLISECOND };
                    self.crowd.now.set(self.crowd.now.get() + time);
                }
            }
        }
        self
    }

    fn admit(&mut self) {
        // Told by its gauge, it was told to all workers before.
        let (was_open, generations, now) = (self.crowd.is_open(), self.crowd.generations().len(), self.crowd.now.get());
        let request = Request { stream: 7, whole: self.draw(2) == 0 };
        let admission = if self.breaker.is_calm() {
            Admission::Pass(self.breaker.admit_unseen(request, now))
        } else {
            self.breaker.admit(request, A, now)
        };
        match admission {
            Admission::Reject { circuit, cause, .. } => self.reject(circuit, cause),
            Admission::Pass(permit) => {
                assert_ne!(permit, Permit::Uncounted, "a request that no state has let go");
                if let Permit::Probe { generation, lease, .. } = permit {
                    // One on trial is no probe yet.
                    if request.whole {
                        self.crowd.probe_leaves(generation, lease, now);
                    }
                } else {
                    let moved = self.crowd.generations().len() > generations;
                    assert!(!was_open || moved, "{permit:?} was admitted though the circuit was OPEN and still is");
                }
                self.held.push((permit, !request.whole));
            }
        }
    }

    fn reject(&mut self, circuit: u32, cause: Cause) {
        self.breaker.rejected(circuit, cause);
        self.crowd.rejected.set(self.crowd.rejected.get() + 1);
    }

    fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let which = self.draw(self.held.len() as u64) as usize;
        let held = self.held.swap_remove(which);
        let outcome = [Outcome::Success, Outcome::Success, BAD, BAD, Outcome::Neutral][self.draw(5) as usize];
        self.end(held, outcome);
    }

    /// The call ends; one that its client does not break off has been sent whole before.
    fn end(&mut self, (mut permit, sending): (Permit, bool), outcome: Outcome) {
        if sending && outcome != Outcome::Neutral {
            let now = self.crowd.now.get();
            match self.breaker.request_ended(permit, now) {
                Admission::Pass(other) => permit = other,
                Admission::Reject { circuit, cause, .. } => return self.reject(circuit, cause),
            }
            if let Permit::Probe { generation, lease, .. } = permit {
                self.crowd.probe_leaves(generation, lease, now);
            }
        }
        if let Permit::Probe { generation, lease, .. } = permit {
            self.crowd.probe_ends(generation, lease);
        }
        let generations = self.crowd.generations().len();
        self.breaker.settle(permit, Some(A), &answer(outcome), Some(MILLISECOND), self.crowd.now.get());
        if outcome == BAD && self.crowd.generations().len() > generations {
            self.crowd.astride.set(self.crowd.astride.get() + 1);
        }
        self.crowd.settled.set(self.crowd.settled.get() + 1);
    }
}

fn gather(seed: u64) -> (Rc<Crowd>, Vec<Worker>) {
    let mut proxy = Proxy::start(WORKERS, CONFIG);
    proxy.succeed(A, WORKERS as usize);
    let crowd = Rc::new(Crowd {
        host: proxy.host.clone(),
        now: Cell::new(proxy.now),
        probes: RefCell::default(),
        settled: Cell::new(WORKERS),
        rejected: Cell::new(0),
        astride: Cell::new(0),
    });
    let workers = proxy.vms.drain(..).zip(1_u64..).map(|(breaker, number)| Worker {
        breaker,
        crowd: Rc::clone(&crowd),
        held: Vec::new(),
        random: (seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1,
    });
    let workers = workers.collect();
    (crowd, workers)
}

/// One schedule, and what must be true after it.
fn crowd() {
    let (crowd, workers) = gather(shuttle::rand::Rng::r#gen(&mut shuttle::rand::thread_rng()));
    crowd.host.before_every_call(|_, _| shuttle::thread::yield_now());
    let workers = workers.into_iter().map(OnOneThread);
    let begun: Vec<_> =
        workers.map(|worker| shuttle::thread::spawn(move || OnOneThread(worker.get().work()))).collect();
    let mut workers: Vec<Worker> = begun.into_iter().map(|worker| worker.join().unwrap().get()).collect();
    crowd.host.before_every_call(|_, _| {});
    let generations = crowd.generations();
    let mut sorted = generations.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=sorted.len() as u64).collect::<Vec<_>>(), "one transition to each generation");
    if crowd.state() == 0 {
        let streak = crowd.host.value(&SHARED, A, "streak");
        assert!(streak < STREAK + crowd.astride.get(), "a trip was lost");
        assert!(streak == 0 || crowd.host.value(&SHARED, A, "watch") == 1, "no good call would end the streak");
    }
    for worker in &mut workers {
        while let Some(permit) = worker.held.pop() {
            worker.end(permit, Outcome::Neutral);
        }
    }
    counted(&crowd);
    recovers(&crowd, &mut workers);
}

fn counted(crowd: &Crowd) {
    let calls: u64 = CALLS.components.iter().map(|component| crowd.host.value(&CALLS, A, component)).sum();
    assert_eq!(calls, crowd.settled.get(), "every call is counted once");
    let rejected: u64 = REJECTED.components.iter().map(|cause| crowd.host.value(&REJECTED, A, cause)).sum();
    assert_eq!(rejected, crowd.rejected.get(), "and so is every rejection");
    for component in INTERNAL_ERRORS.components {
        assert_eq!(crowd.host.value(&INTERNAL_ERRORS, "", component), 0, "{component}");
    }
}

/// Whatever was left behind: a healthy upstream is CLOSED again before long.
fn recovers(crowd: &Crowd, workers: &mut [Worker]) {
    for _ in 0..40 {
        crowd.now.set(crowd.now.get() + SECOND / 2);
        for worker in workers.iter_mut() {
            worker.breaker.tick(crowd.now.get());
            worker.admit();
            while let Some(permit) = worker.held.pop() {
                worker.end(permit, Outcome::Success);
            }
        }
    }
    assert_eq!(crowd.state(), 0, "wedged: {:#?}", crowd.host.log_lines());
}

#[test]
fn four_workers_under_random_schedules_keep_every_promise() {
    let schedules = std::env::var("SCHEDULES").ok().and_then(|schedules| schedules.parse().ok()).unwrap_or(1000);
    // The same schedules each time: what fails can be looked at.
    shuttle::Runner::new(RandomScheduler::new_from_seed(1, schedules), config()).run(crowd);
}
