//! Some workers under random schedules, policies and faults. There are too many schedules to try all, so these tests
//! look for what must never happen.
//!
//! Each worker takes and ends calls, and ticks, as its seed says. It is stopped before each of its host calls for as
//! long as the scheduler likes. The schedule's seed also chooses policies and faults ([`plan`](super::plan)). When
//! all have done their work, what they leave must keep the promises ([`promises`](super::promises)), and the workers
//! that are left must still trip, probe and recover ([`liveness`](super::liveness)). `SCHEDULES=200000` tries more.
//! `SHUTTLE_RANDOM_SEED` tries the schedule that a failure has named, with `SCHEDULES=1`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use circuit_breaker_core::breaker::permit::Permit;
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::Answer;
use circuit_breaker_core::telemetry::metrics::{
    CALLS, FAILURES, Metric, PROBES, REJECTED, STATE, TRIPS, UNPROTECTED, WOULD_REJECT,
};
use circuit_breaker_core::testing::Memory;
use shuttle::scheduler::RandomScheduler;

use super::fates::Fates;
use super::member::Member;
use super::plan::{Draw, Plan};
use super::schedules::{OnOneThread, config};
use super::{liveness, promises};

pub(super) const UPSTREAMS: [&str; 3] = [
    "outbound|80||a.default.svc.cluster.local",
    "outbound|80||b.default.svc.cluster.local",
    "outbound|80||c.default.svc.cluster.local",
];

/// Phases, as the record's head writes them (`circuit/layout.rs`).
pub(super) const CLOSED: u8 = 0;
pub(super) const OPEN: u8 = 1;
pub(super) const RAMP: u8 = 3;
const ENDED: u8 = 5;

/// All counters, so that the test can add what a reset took off.
const COUNTED: [&Metric; 5] = [&CALLS, &FAILURES, &REJECTED, &WOULD_REJECT, &TRIPS];

/// Reasons of transitions, without those of `forceOpen`, which no plan has.
const REASONS: [&str; 10] = [
    "consecutive",
    "failure_rate",
    "slow_rate",
    "latency",
    "probe_failed",
    "ramp_failed",
    "open_over",
    "probes_succeeded",
    "ramp_done",
    "idle",
];

/// The time of an ordinary day.
const START: u64 = 1_790_000_000 * SECOND;

/// A probe: its upstream, its circuit's slot, its generation and its lease.
type Probe = (usize, u32, u64, u32);

/// A transition of one circuit.
pub(super) type Moved = (u64, u64);

/// Bytes of a record before its upstream's name.
const HEAD_BYTES: usize = 40;

/// What all workers of one schedule share beside the host, and what was seen of them.
pub(super) struct Crowd {
    pub(super) plan: Plan,
    pub(super) host: Memory,
    pub(super) now: Cell<u64>,
    pub(super) fates: Fates,
    /// Envoy's number of the last request.
    streams: Cell<u32>,
    /// Probes that are out, and since when.
    probes: RefCell<Vec<(Probe, u64)>>,
    pub(super) settled: Cell<u64>,
    pub(super) rejected: Cell<u64>,
    pub(super) would_reject: Cell<u64>,
    /// Calls that have been let go and have not ended.
    pub(super) held: Cell<u64>,
    /// Calls that died with their VMs.
    pub(super) orphans: Cell<u64>,
    /// Calls that may have ended when there was no room for a circuit of their upstream: no worker counts them.
    pub(super) roomless: Cell<u64>,
    /// Calls that may have been counted twice.
    pub(super) twice: Cell<u64>,
    /// Transitions that were made while calls were settled. A worker that is stopped there for as long as an OPEN
    /// lasts adds to a streak that began meanwhile.
    astride: [Cell<u64>; 3],
    resets: Cell<u64>,
    unprotected_before: Cell<u64>,
    /// What resets have taken off each of the counters.
    forgotten: RefCell<[u64; COUNTED.len()]>,
}

impl Crowd {
    fn of(plan: Plan) -> Crowd {
        Crowd {
            plan,
            host: Memory::default(),
            now: Cell::new(START),
            fates: Fates::default(),
            streams: Cell::new(0),
            probes: RefCell::default(),
            settled: Cell::new(0),
            rejected: Cell::new(0),
            would_reject: Cell::new(0),
            held: Cell::new(0),
            orphans: Cell::new(0),
            roomless: Cell::new(0),
            twice: Cell::new(0),
            astride: Default::default(),
            resets: Cell::new(0),
            unprotected_before: Cell::new(0),
            forgotten: RefCell::default(),
        }
    }

    /// A request goes to an upstream. Returns Envoy's number of it.
    pub(super) fn sends(&self, upstream: usize) -> u32 {
        self.streams.set(self.streams.get() + 1);
        self.host.is_in(self.streams.get(), Some(UPSTREAMS[upstream]));
        self.streams.get()
    }

    pub(super) fn upstreams(&self) -> std::ops::Range<usize> {
        0..self.plan.upstreams
    }

    pub(super) fn state(&self, upstream: usize) -> u64 {
        self.host.value(&STATE, UPSTREAMS[upstream], "")
    }

    /// Phase and generation as they stand in the record; `None` where there is no circuit.
    pub(super) fn record(&self, upstream: usize) -> Option<(u8, u64)> {
        self.host.circuit(UPSTREAMS[upstream])
    }

    /// Nanoseconds for which OPEN still lasts, as the record's head says.
    pub(super) fn open_for(&self, upstream: usize) -> u64 {
        self.word(upstream, 20).unwrap_or(0).saturating_sub(self.now.get())
    }

    /// When the last of the leases that stand in the record ends; 0 where there is none.
    pub(super) fn last_lease_ends(&self, upstream: usize) -> u64 {
        self.word(upstream, 28).unwrap_or(0)
    }

    fn bytes(&self, upstream: usize) -> Option<Vec<u8>> {
        let name = UPSTREAMS[upstream].as_bytes();
        let is_its = |record: &Vec<u8>| {
            record.get(HEAD_BYTES..).is_some_and(|rest| rest.starts_with(name)) && record.get(2) != Some(&ENDED)
        };
        self.host.shared_data("circuit_breaker:circuit:").into_iter().find(is_its)
    }

    fn word(&self, upstream: usize, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(*self.bytes(upstream)?[at..].first_chunk()?))
    }

    /// Which OPEN it is, where all that was told of it says OPEN: the gauge, and the line of its transition, which
    /// its worker writes after it has told the others. A worker that is stopped before it tells may set the gauge to
    /// an older state, until a tick sets it right.
    ///
    /// With churn an earlier circuit may have had the same generation, so only the last line tells.
    pub(super) fn told_open(&self, upstream: usize) -> Option<Moved> {
        let (phase, generation) = self.record(upstream)?;
        let generations = self.generations(upstream);
        let told = if self.plan.churn { &generations[generations.len().saturating_sub(1)..] } else { &generations };
        let told = phase == OPEN && self.state(upstream) == 2 && told.contains(&generation);
        if told { self.moved(upstream) } else { None }
    }

    /// The last transition of an upstream's circuit: its generation, and with churn also its time, which tells the
    /// circuits of two slots apart.
    pub(super) fn moved(&self, upstream: usize) -> Option<Moved> {
        let since = if self.plan.churn { self.word(upstream, 12)? } else { 0 };
        Some((self.word(upstream, 4)?, since))
    }

    /// Circuits that have begun.
    pub(super) fn begun(&self) -> u64 {
        let list = self.host.shared_data("circuit_breaker:slots");
        let additions = list.first().and_then(|list| list.get(2..)?.first_chunk());
        additions.map_or(0, |additions| u64::from_le_bytes(*additions))
    }

    /// Requests and ends of calls that found no room for a circuit of their upstream.
    pub(super) fn unprotected(&self) -> u64 {
        self.host.value(&UNPROTECTED, "", "") + self.unprotected_before.get()
    }

    /// Lines of an upstream's transitions.
    pub(super) fn transitions(&self, upstream: usize) -> Vec<String> {
        let mut lines = self.host.log_lines();
        lines.retain(|line| line.contains("transition") && line.contains(UPSTREAMS[upstream]));
        lines
    }

    /// Transitions so far, as logged.
    pub(super) fn generations(&self, upstream: usize) -> Vec<u64> {
        let number = |line: &String| line.split_once("\"generation\":")?.1.split_once(',')?.0.parse().ok();
        self.transitions(upstream).iter().filter_map(number).collect()
    }

    /// `asked`: when its admission began. Its lease counts from then, however long its worker was stopped meanwhile.
    pub(super) fn probe_leaves(&self, upstream: usize, permit: Permit, asked: u64) {
        let Permit::Probe { circuit, generation, lease } = permit else { return };
        let (probe, now) = ((upstream, circuit, generation, lease), self.now.get());
        let mut probes = self.probes.borrow_mut();
        probes.push((probe, asked));
        let timeout = self.plan.policies().map(|policy| policy.half_open.probe_timeout).min().unwrap_or(0);
        let most = self.plan.policies().map(|policy| policy.half_open.max_probes).max().unwrap_or(0);
        // A probe whose lease has run out has failed, whether its worker knows or not. A probe that is later than a
        // clock that stepped back has a lease of the old clock, which is over.
        let is_live = |asked: u64| now.checked_sub(asked).is_some_and(|age| age < timeout);
        let same = |other: Probe| (other.0, other.1, other.2) == (probe.0, probe.1, probe.2);
        let live = probes.iter().filter(|(other, asked)| same(*other) && is_live(*asked)).count();
        assert!(live <= most as usize, "{live} probes are out: {probes:?}");
    }

    pub(super) fn probe_ends(&self, upstream: usize, permit: Permit) {
        if let Permit::Probe { circuit, generation, lease } = permit {
            self.probes.borrow_mut().retain(|(probe, _)| *probe != (upstream, circuit, generation, lease));
        }
    }

    /// Calls of an upstream were settled. This is its record from before.
    pub(super) fn was_settled(&self, upstream: usize, before: Option<(u8, u64)>) {
        let generation = |record: Option<(u8, u64)>| record.map_or(0, |(_, generation)| generation);
        let (now, then) = (generation(self.record(upstream)), generation(before));
        // Another circuit may have begun.
        self.astride[upstream].set(self.astride[upstream].get() + now.checked_sub(then).unwrap_or(now));
    }

    pub(super) fn astride(&self, upstream: usize) -> u64 {
        self.astride[upstream].get()
    }

    /// What a counter has counted over all upstreams, with what resets took off.
    pub(super) fn counted(&self, metric: &Metric) -> u64 {
        let place = COUNTED.iter().position(|counted| std::ptr::eq(*counted, metric)).unwrap();
        self.sum(metric) + self.forgotten.borrow()[place]
    }

    fn sum(&self, metric: &Metric) -> u64 {
        let of = |upstream: usize| metric.components.iter().map(move |part| (upstream, part));
        self.upstreams().flat_map(of).map(|(upstream, part)| self.host.value(metric, UPSTREAMS[upstream], part)).sum()
    }

    /// What has happened in this schedule.
    fn remember(&self) {
        let lines = self.upstreams().flat_map(|upstream| self.transitions(upstream)).collect::<Vec<_>>();
        let slow = self.upstreams().map(|upstream| self.host.value(&CALLS, UPSTREAMS[upstream], "slow")).sum();
        SEEN.with_borrow_mut(|seen| {
            let mut count = |what, times| *seen.entry(what).or_default() += times;
            for reason in REASONS {
                count(reason, lines.iter().filter(|line| line.contains(&format!("\"{reason}\""))).count() as u64);
            }
            count("deaths", self.fates.deaths.get());
            count("errors", self.fates.errors());
            count("stops", self.fates.stops.get());
            count("resets", self.resets.get());
            count("slow calls", slow);
            count("probes of the breaker's own", self.sum(&PROBES));
            count("slots used again", self.begun().saturating_sub(u64::from(self.plan.slots())));
            count("requests without room", self.unprotected());
            count("calls that died", self.orphans.get());
        });
    }

    /// `/reset_counters`.
    pub(super) fn reset(&self) {
        for (forgotten, metric) in self.forgotten.borrow_mut().iter_mut().zip(COUNTED) {
            *forgotten += self.sum(metric);
        }
        self.unprotected_before.set(self.unprotected());
        self.resets.set(self.resets.get() + 1);
        self.host.reset_counters();
    }

    /// Whether the breaker is off. A VM checks whether its first call to each counter reads back. If it finds none
    /// twice, it takes Envoy for one that does not keep the counter. Two resets at just these moments look the same,
    /// and nothing else does.
    pub(super) fn is_off(&self) -> bool {
        self.resets.get() >= 2 && self.host.log_lines().iter().any(|line| line.contains("circuit_breaker is off"))
    }
}

thread_local! {
    /// How often each thing has happened, over all schedules of this thread.
    static SEEN: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    /// The plan of the schedule that runs on this thread.
    static PLANNED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Tells which plan failed.
struct Telling;

impl Drop for Telling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", PLANNED.take());
        }
    }
}

fn gather(seed: u64) -> (Rc<Crowd>, Vec<Member>) {
    let mut draw = Draw::from(seed);
    let crowd = Rc::new(Crowd::of(Plan::of(&mut draw)));
    PLANNED.set(crowd.plan.describe());
    let (told, workers) = (Rc::downgrade(&crowd), crowd.plan.workers);
    crowd.host.answers_begin(Answer::well());
    crowd.host.before_every_call(move |what, _| {
        if let Some(crowd) = told.upgrade() {
            crowd.fates.before_call(&crowd.host, what);
        }
    });
    let member =
        |number: u64| Member::new(&crowd, number, Draw::from(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let mut members: Vec<Member> = (0..workers).map(member).collect();
    if crowd.plan.warm {
        liveness::warm_up(&crowd, &mut members);
    }
    (crowd, members)
}

/// Workers that have done their work; `None` for those that have died for good.
type Done = Rc<RefCell<Vec<Option<Member>>>>;

fn begin(member: Member, done: &Done) -> shuttle::thread::JoinHandle<()> {
    let worker = OnOneThread((member, Rc::clone(done)));
    shuttle::thread::spawn(move || {
        let (member, done) = worker.get();
        let member = member.work();
        done.borrow_mut().push(member);
    })
}

/// One schedule, and what must be true after it.
fn crowd() {
    let (crowd, members) = gather(shuttle::rand::Rng::r#gen(&mut shuttle::rand::thread_rng()));
    let done = Done::default();
    let begun: Vec<_> = members.into_iter().map(|member| begin(member, &done)).collect();
    while done.borrow().len() as u64 + crowd.fates.stopped.get() < crowd.plan.workers {
        shuttle::thread::yield_now();
    }
    let mut members: Vec<Member> = done.take().into_iter().flatten().collect();
    look(&crowd, &mut members);
    // The stopped workers finish what they were at. They leave nothing that the others could not live with.
    crowd.fates.let_go();
    begun.into_iter().for_each(|worker| worker.join().unwrap());
    members.extend(done.take().into_iter().flatten());
    look(&crowd, &mut members);
    crowd.remember();
}

/// No worker is active any longer, only the test that looks at them.
fn look(crowd: &Crowd, members: &mut [Member]) {
    if !crowd.is_off() {
        promises::hold(crowd, members);
        liveness::goes_on(crowd, members);
    }
}

#[test]
fn a_crowd_under_random_schedules_policies_and_faults_keeps_every_promise() {
    let schedules = std::env::var("SCHEDULES").ok().and_then(|schedules| schedules.parse().ok()).unwrap_or(3000);
    let _telling = Telling;
    // The same schedules each time, so that a failure can be looked at.
    shuttle::Runner::new(RandomScheduler::new_from_seed(1, schedules), config()).run(crowd);
    let seen = SEEN.take();
    // A caller that asks for a single schedule wants to see it.
    assert!(schedules < 1000 || seen.values().all(|times| *times > 10), "too little happens: {seen:?}");
}
