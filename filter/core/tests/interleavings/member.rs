//! A worker of the crowd: what it does, in the order that its seed says, and its checks of what no worker may ever
//! see.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::{Admission, Cause, Permit, Request};
use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::policy::classify::{Answer, Ending};
use circuit_breaker_core::testing::Memory;

use super::crowd::{Crowd, Moved, UPSTREAMS};
use super::fates::{self, Died, Fate};
use super::plan::{Draw, Fault, OVER, SLOW, observes};

/// Operations of one worker in one schedule.
const OPERATIONS: usize = 30;

/// Longer than most windows.
const LONG: u64 = 6 * SECOND;
pub(super) const HOUR: u64 = 3600 * SECOND;

pub(super) struct Member {
    crowd: Rc<Crowd>,
    draw: Draw,
    /// Its configurations, the newest last, with the place of each in the plan.
    breakers: Vec<(Breaker<Memory>, usize)>,
    held: Vec<Held>,
    fates: VecDeque<(u64, Fate)>,
    /// No other VM is started in place of its own.
    dies_for_good: bool,
}

/// A request that was let go.
#[derive(Clone, Copy)]
struct Held {
    permit: Permit,
    /// Which of the worker's configurations has let it go.
    by: usize,
    upstream: usize,
    /// Envoy's number of it.
    stream: u32,
    /// It is still coming: its last byte has not arrived.
    sending: bool,
    /// Its answer has begun well.
    begun: bool,
}

/// What could be seen when a request came.
struct Sight {
    /// Which OPEN it is, where all workers were told that the circuit is OPEN.
    open: Option<Moved>,
    /// Requests that had found no room.
    unprotected: u64,
    /// Host calls that had failed.
    errors: u64,
    /// When it came.
    asked: u64,
}

fn is_against(permit: Permit) -> bool {
    matches!(permit, Permit::Call { generation: Permit::NO_GENERATION, .. })
}

/// How a call ends.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) answer: Answer,
    pub(super) first_byte: Option<u64>,
}

impl End {
    pub(super) fn well() -> End {
        End { answer: Answer::well(), first_byte: Some(MILLISECOND) }
    }

    pub(super) fn bad() -> End {
        End { answer: Answer::of_status(500), first_byte: Some(MILLISECOND) }
    }

    /// The call says nothing about the upstream, however long it took.
    pub(super) fn nothing() -> End {
        End { answer: Answer::ended(Ending::Elsewhere), first_byte: None }
    }

    fn drawn(draw: &mut Draw) -> End {
        match draw.below(12) {
            0..=3 => End::well(),
            4 => End { first_byte: Some(OVER), ..End::well() },
            5 => End { first_byte: Some(SLOW), ..End::well() },
            6..=8 => End::bad(),
            9 => {
                let retry_after = Some((1 + draw.below(30)) * SECOND);
                End { answer: Answer { retry_after, ..Answer::of_status(503) }, ..End::bad() }
            }
            _ => End { answer: Answer::ended(Ending::LeftWaiting { delayed: false }), first_byte: None },
        }
    }

    fn is_answered(&self) -> bool {
        self.answer.ending == Ending::Answered
    }

    fn is_good(&self) -> bool {
        self.is_answered() && self.answer.status == 200
    }
}

impl Member {
    pub(super) fn new(crowd: &Rc<Crowd>, number: u64, mut draw: Draw) -> Member {
        let fates = fates::drawn(&crowd.plan, number, &mut draw);
        let dies_for_good = crowd.plan.has(Fault::DeathForGood) && number == 0;
        let crowd = Rc::clone(crowd);
        let mut member = Member { crowd, draw, breakers: Vec::new(), held: Vec::new(), fates, dies_for_good };
        member.start(0);
        member
    }

    fn start(&mut self, version: usize) {
        let config = self.crowd.plan.rules[version].config.clone();
        let breaker = Breaker::start(self.crowd.host.clone(), config, self.crowd.now.get(), self.draw.below(u64::MAX));
        self.breakers.push((breaker, version));
    }

    /// Does all its work. `None`: it has died for good.
    pub(super) fn work(mut self) -> Option<Member> {
        let fates = std::mem::take(&mut self.fates);
        self.crowd.fates.decide(fates);
        for _ in 0..OPERATIONS {
            let lived = catch_unwind(AssertUnwindSafe(|| self.operate()));
            match lived {
                Ok(()) => {}
                Err(died) if died.is::<Died>() => self.die()?,
                Err(other) => resume_unwind(other),
            }
            if self.crowd.fates.are_let_go() {
                break;
            }
        }
        Some(self)
    }

    /// Its VM is gone. No VM has the requests that it has let go.
    fn die(&mut self) -> Option<()> {
        let orphans = self.held.len() as u64;
        self.crowd.orphans.set(self.crowd.orphans.get() + orphans);
        self.crowd.held.set(self.crowd.held.get() - orphans);
        self.held.drain(..).for_each(|held| self.crowd.host.is_in(held.stream, None));
        let (_, version) = self.breakers.pop()?;
        self.breakers.clear();
        if self.dies_for_good {
            return None;
        }
        self.start(version);
        Some(())
    }

    fn operate(&mut self) {
        let plan = &self.crowd.plan;
        match self.draw.below(24) {
            0 if plan.has(Fault::Takeover) => self.take_over(),
            1 if plan.has(Fault::ClockStep) => self.step_clock(),
            2 if plan.has(Fault::Reset) => self.crowd.reset(),
            0..=10 => self.admit(),
            11 if plan.probes_itself() => self.answer(),
            11..=19 => self.settle(),
            20 | 21 => self.tick(),
            22 if plan.churn => self.dwell(),
            _ => {
                // Now and then long enough that no worker's window has a sample left.
                let time = if self.draw.one_in(6) { LONG } else { self.draw.below(700) * MILLISECOND };
                self.crowd.now.set(self.crowd.now.get() + time);
            }
        }
    }

    /// Ticks without traffic: circuits that nobody uses end meanwhile.
    fn dwell(&mut self) {
        for _ in 0..self.draw.below(24) {
            self.crowd.now.set(self.crowd.now.get() + self.tick_period());
            self.tick();
        }
    }

    fn step_clock(&mut self) {
        let now = self.crowd.now.get();
        self.crowd.now.set(if self.draw.one_in(2) { now + HOUR } else { now - HOUR });
    }

    pub(super) fn tick(&mut self) {
        let now = self.crowd.now.get();
        // Calls that hang are settled there.
        let before = self.crowd.upstreams().map(|upstream| self.crowd.record(upstream)).collect::<Vec<_>>();
        self.breakers.iter_mut().for_each(|(breaker, _)| breaker.tick(now));
        self.crowd.upstreams().zip(before).for_each(|(upstream, before)| self.crowd.was_settled(upstream, before));
    }

    pub(super) fn tick_period(&self) -> u64 {
        self.newest().0.tick_period()
    }

    /// Which of the plan's configurations it has.
    pub(super) fn version(&self) -> usize {
        self.newest().1
    }

    fn newest(&self) -> &(Breaker<Memory>, usize) {
        self.breakers.last().unwrap()
    }

    /// The other configuration takes over; or Envoy takes it back before it has had a request.
    fn take_over(&mut self) {
        let (now, seed, is_taken_back) = (self.crowd.now.get(), self.draw.below(u64::MAX), self.draw.one_in(4));
        let version = 1 - self.version();
        let config = self.crowd.plan.rules[version].config.clone();
        let host = self.crowd.host.clone();
        let (older, _) = self.breakers.last_mut().unwrap();
        let newer = Breaker::start_after(older, host, config, now, seed);
        older.retire();
        if is_taken_back {
            older.resume();
        } else {
            self.breakers.push((newer, version));
        }
    }

    /// The configuration that a request comes to: an old connection still leads to an older one.
    fn asked(&mut self) -> usize {
        let newest = self.breakers.len() - 1;
        if newest > 0 && self.draw.one_in(6) { self.draw.below(newest as u64) as usize } else { newest }
    }

    fn admit(&mut self) {
        let upstream = self.draw.below(self.crowd.plan.upstreams as u64) as usize;
        let (by, whole) = (self.asked(), self.draw.one_in(2));
        self.ask(upstream, by, whole);
    }

    /// A request comes. False: it was rejected.
    fn ask(&mut self, upstream: usize, by: usize, whole: bool) -> bool {
        let crowd = Rc::clone(&self.crowd);
        let sight = Sight {
            open: crowd.told_open(upstream),
            unprotected: crowd.unprotected(),
            errors: crowd.fates.errors(),
            asked: crowd.now.get(),
        };
        let stream = crowd.sends(upstream);
        let request = Request { stream, whole };
        let (breaker, version) = &mut self.breakers[by];
        let observes = observes(&crowd.plan.rules[*version].policy);
        let admission = if breaker.is_calm() {
            Admission::Pass(breaker.admit_unseen(request, sight.asked))
        } else {
            breaker.admit(request, UPSTREAMS[upstream], sight.asked)
        };
        match admission {
            Admission::Reject { circuit, cause, .. } => {
                assert!(!observes, "observe rejects nothing");
                crowd.host.is_in(stream, None);
                self.reject(by, circuit, cause);
                false
            }
            Admission::Pass(permit) => {
                let held = Held { permit, by, upstream, stream, sending: !whole, begun: false };
                crowd.would_reject.set(crowd.would_reject.get() + u64::from(is_against(permit)));
                self.is_let_go(&held, &sight, observes);
                self.held.push(held);
                crowd.held.set(crowd.held.get() + 1);
                true
            }
        }
    }

    /// Whether it may have been let go.
    fn is_let_go(&self, held: &Held, sight: &Sight, observes: bool) {
        let (crowd, permit) = (&self.crowd, held.permit);
        // A worker lets a request through when its host fails it, and for no other reason but those below.
        let failed = crowd.fates.errors() > sight.errors || crowd.is_off();
        // It also lets a request through that finds no room, and counts that.
        let unprotected = crowd.plan.churn && crowd.unprotected() > sight.unprotected;
        assert!(permit != Permit::Uncounted || failed || unprotected, "a request that no state has let go");
        assert!(!is_against(permit) || observes, "against the circuit's will without observe");
        if let Permit::Probe { .. } = permit {
            let probes_itself = crowd.plan.rules[self.breakers[held.by].1].policy.half_open.active.is_some();
            assert!(!probes_itself || crowd.fates.errors() > 0, "a user's request tests in the breaker's place");
            // A request on trial is no probe yet.
            if !held.sending {
                crowd.probe_leaves(held.upstream, permit, sight.asked);
            }
        } else if let Some(open) = sight.open.filter(|_| !is_against(permit)) {
            let moved = crowd.moved(held.upstream) != Some(open);
            // If the call that tells of a trip fails, others know of the trip only at their round.
            let excused = failed || crowd.fates.is_untold();
            assert!(moved || excused, "{permit:?} was admitted though the circuit was OPEN and still is");
        }
    }

    /// One whole request, by the newest configuration. False: it was rejected, or observe would have.
    pub(super) fn request(&mut self, upstream: usize, end: End) -> bool {
        let against = self.crowd.would_reject.get();
        let passed = self.ask(upstream, self.breakers.len() - 1, true);
        if let Some(held) = self.held.pop() {
            self.end(held, end);
        }
        passed && self.crowd.would_reject.get() == against
    }

    fn reject(&mut self, by: usize, circuit: u32, cause: Cause) {
        self.breakers[by].0.rejected(circuit, cause);
        self.crowd.rejected.set(self.crowd.rejected.get() + 1);
    }

    fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let which = self.draw.below(self.held.len() as u64) as usize;
        let (held, end) = (self.held[which], End::drawn(&mut self.draw));
        if !held.begun && !held.sending && end.is_good() && self.draw.one_in(3) {
            return self.begin(which, end);
        }
        self.held.swap_remove(which);
        self.end(held, end);
    }

    /// An answer begins well and goes on. From then on a tick may free the probe's slot, unseen by this test.
    fn begin(&mut self, which: usize, end: End) {
        let (held, now) = (self.held[which], self.crowd.now.get());
        let (breaker, upstream) = (&mut self.breakers[held.by].0, UPSTREAMS[held.upstream]);
        self.crowd.probe_ends(held.upstream, held.permit);
        breaker.arrived(held.permit, now);
        breaker.answered(held.permit, Some(upstream), &end.answer, end.first_byte, now);
        self.held[which].begun = true;
    }

    /// One of the breaker's own probes is answered, if this worker has sent it.
    fn answer(&mut self) {
        let sent = self.crowd.host.sent().len() as u64;
        if sent > 0 {
            // An older one is over, one way or the other.
            let call = sent - self.draw.below(sent.min(4));
            let status = self.draw.one_of(&[Some(200), Some(200), Some(200), Some(503), None]);
            self.answered(call as u32, status);
        }
    }

    fn answered(&mut self, call: u32, status: Option<u32>) {
        let (crowd, now) = (Rc::clone(&self.crowd), self.crowd.now.get());
        let before = crowd.upstreams().map(|upstream| crowd.record(upstream)).collect::<Vec<_>>();
        self.breakers.iter_mut().for_each(|(breaker, _)| breaker.probe_answered(call, status, now));
        crowd.upstreams().zip(before).for_each(|(upstream, before)| crowd.was_settled(upstream, before));
    }

    /// All of the breaker's own probes that this worker has out are answered well.
    pub(super) fn answer_all(&mut self) {
        let sent = self.crowd.host.sent().len();
        (1..=sent).for_each(|call| self.answered(call as u32, Some(200)));
    }

    /// Nothing more comes of the requests that it holds.
    pub(super) fn let_all_end(&mut self) {
        self.answer_all();
        while let Some(held) = self.held.pop() {
            self.end(held, End::nothing());
        }
    }

    /// The call ends. Unless its client breaks it off, all of its request was sent before.
    fn end(&mut self, mut held: Held, end: End) {
        let crowd = Rc::clone(&self.crowd);
        crowd.held.set(crowd.held.get() - 1);
        if held.sending && end.is_answered() && !self.is_sent(&mut held) {
            return;
        }
        crowd.probe_ends(held.upstream, held.permit);
        let (before, unprotected) = (crowd.record(held.upstream), crowd.unprotected());
        let now = crowd.now.get();
        let (breaker, upstream) = (&mut self.breakers[held.by].0, UPSTREAMS[held.upstream]);
        let quick = end.is_good() && breaker.settle_well(held.permit, upstream, end.first_byte);
        if !quick {
            breaker.settle(held.permit, Some(upstream), &end.answer, end.first_byte, now);
        }
        if held.permit != Permit::Uncounted && crowd.unprotected() > unprotected {
            crowd.roomless.set(crowd.roomless.get() + 1);
        }
        crowd.was_settled(held.upstream, before);
        crowd.host.is_in(held.stream, None);
        if held.begun {
            // The tick may have counted it as good before. A later failure counts again.
            crowd.twice.set(crowd.twice.get() + 1);
        }
        if held.permit != Permit::Uncounted {
            crowd.settled.set(crowd.settled.get() + 1);
        }
    }

    /// The last byte of a request has come. False: it was rejected then.
    fn is_sent(&mut self, held: &mut Held) -> bool {
        let now = self.crowd.now.get();
        let was_against = is_against(held.permit);
        match self.breakers[held.by].0.request_ended(held.permit, now) {
            Admission::Pass(other) => held.permit = other,
            Admission::Reject { circuit, cause, .. } => {
                self.crowd.host.is_in(held.stream, None);
                self.reject(held.by, circuit, cause);
                return false;
            }
        }
        if !was_against && is_against(held.permit) {
            self.crowd.would_reject.set(self.crowd.would_reject.get() + 1);
        }
        self.crowd.probe_leaves(held.upstream, held.permit, now);
        true
    }
}
