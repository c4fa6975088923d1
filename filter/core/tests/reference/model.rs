//! One circuit under its workers, as plainly as possible: it keeps every call, and it takes every count by going
//! through all of them. It shares no code with the breaker. Times are milliseconds.

use crate::rules::{Came, Counted, Rules, Window};
use crate::workers::Worker;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Closed,
    Open,
    Probe,
    Ramp,
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Pass,
    /// Milliseconds until it is worth coming back.
    Open(u64),
    NoProbe,
    /// The ramp decides: it is to pass if the number of calls that have passed so far is between these two.
    Share,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    name: u64,
    worker: usize,
    start: u64,
    generation: u64,
    /// A probe's lease; 0 for other calls.
    lease: u64,
    /// It passed only because the mode is observe.
    against: bool,
    /// Let go unseen: only its start tells its generation.
    unseen: bool,
    /// A tick has settled it.
    settled: bool,
}

/// A probe that nobody has settled.
#[derive(Clone, Copy, Debug)]
struct Probe {
    worker: usize,
    lease: u64,
    generation: u64,
    times_out: u64,
}

pub struct Model {
    pub rules: Rules,
    pub workers: Vec<Worker>,
    pub phase: Phase,
    pub generation: u64,
    /// When the generation began, and how many of `calls` there were.
    pub since: u64,
    pub base: usize,
    /// Calls of this generation that count, oldest first.
    pub calls: Vec<Counted>,
    /// Good calls of all generations, whether they count or not.
    pub good_calls: u64,
    pub streak: u64,
    /// Some worker has found only good calls in its window since the last bad one.
    rested: bool,
    trips: u64,
    pub open_until: u64,
    good: u64,
    /// Leases that nobody has given back: number and end.
    leases: Vec<(u64, u64)>,
    last_lease: u64,
    pub step: u64,
    pub marked: u64,
    /// How many of `calls` there were at `marked`.
    pub mark: usize,
    flights: Vec<Flight>,
    out: Vec<Probe>,
    pub reasons: Vec<&'static str>,
    /// The breaker's own reasons so far. The model asks for them only where a window of calls leaves it a choice.
    pub told: Vec<String>,
}

/// `clientCancel`, by default.
const CLIENT_CANCEL: u64 = 10_000;
const GRACE: u64 = 2000;
pub const SKEW: u64 = 5000;

impl Model {
    pub fn new(rules: Rules, now: u64) -> Model {
        let workers = (0..rules.workers).map(|_| Worker::starting(now)).collect();
        Model {
            rules,
            workers,
            phase: Phase::Closed,
            generation: 0,
            since: now,
            base: 0,
            calls: Vec::new(),
            good_calls: 0,
            streak: 0,
            rested: true,
            trips: 0,
            open_until: 0,
            good: 0,
            leases: Vec::new(),
            last_lease: 0,
            step: 0,
            marked: now,
            mark: 0,
            flights: Vec::new(),
            out: Vec::new(),
            reasons: Vec::new(),
            told: Vec::new(),
        }
    }

    fn counts(&self) -> bool {
        self.phase == Phase::Closed || self.phase == Phase::Ramp
    }

    /// Another state. All that belongs to a state begins afresh.
    pub fn move_to(&mut self, worker: usize, phase: Phase, reason: &'static str, now: u64) {
        let counted_before = self.counts();
        self.phase = phase;
        self.generation += 1;
        (self.since, self.base) = (now, 0);
        (self.marked, self.mark) = (now, 0);
        self.calls.clear();
        (self.good, self.step) = (0, 0);
        self.leases.clear();
        self.rested = false;
        self.reasons.push(reason);
        if self.counts() && !counted_before {
            self.streak = 0;
        }
        self.look(worker, now);
    }

    fn trip(&mut self, worker: usize, reason: &'static str, now: u64) {
        self.trips += 1;
        let mut time = self.rules.base;
        for _ in 1..self.trips {
            time = (time * self.rules.multiplier).min(self.rules.longest);
        }
        let asked = self.asked_for(worker, now);
        self.move_to(worker, Phase::Open, reason, now);
        self.open_until = asked.max(now + time);
    }

    /// A call of the present generation has ended.
    fn count(&mut self, by: usize, came: Came, waited: u64, now: u64) {
        if came == Came::Nothing {
            return;
        }
        let over = self.rules.percentile > 0 && waited > self.rules.threshold;
        self.calls.push(Counted { by, at: now, came, over });
        if came == Came::Good {
            (self.streak, self.good_calls) = (0, self.good_calls + 1);
        } else {
            self.streak += 1;
        }
        self.rested &= came == Came::Good && !over;
        match self.why(by, now) {
            Some(_) if self.phase == Phase::Ramp => self.trip(by, "ramp_failed", now),
            Some(reason) if !self.rested || self.has_told(reason) => self.trip(by, reason, now),
            Some(_) => {}
            None => {
                self.roll(by, false, true, now);
                if came == Came::Good && self.phase == Phase::Ramp {
                    self.climb(by, now);
                }
            }
        }
    }

    /// A call of an older generation. It counts for nothing; only a good one counts as one more where no window can
    /// hold it.
    fn count_late(&mut self, came: Came) {
        if came == Came::Good && !self.counts() {
            self.good_calls += 1;
        }
    }

    /// A trip is forgotten after a window that was full and healthy.
    fn recover(&mut self, now: u64) -> bool {
        if self.trips == 0 {
            return false;
        }
        if self.marked > now + SKEW {
            (self.marked, self.mark) = (now, self.calls.len());
            return true;
        }
        let seen = &self.calls[self.mark..];
        let full = match self.rules.window {
            Window::Time(window) => now.saturating_sub(self.marked) >= window,
            Window::Calls(calls) => seen.len() >= calls,
        };
        if !full || (seen.len() as u64) < self.rules.minimum {
            return false;
        }
        if self.rules.conditions(seen, 0, false, 0).is_empty() {
            self.trips -= 1;
        }
        (self.marked, self.mark) = (now, self.calls.len());
        true
    }

    fn live(&self, (_, ends): (u64, u64), now: u64) -> bool {
        let left = ends.saturating_sub(now);
        left > 0 && left <= self.rules.probe_timeout + GRACE + SKEW
    }

    /// What a new request will meet.
    pub fn ask(&mut self, worker: usize, now: u64) -> Verdict {
        self.look(worker, now);
        self.end_open(worker, now);
        match self.phase {
            Phase::Closed => Verdict::Pass,
            Phase::Open => Verdict::Open(self.open_until.saturating_sub(now)),
            Phase::Probe => {
                let live = self.leases.iter().filter(|lease| self.live(**lease, now)).count();
                if live < self.rules.probes { Verdict::Pass } else { Verdict::NoProbe }
            }
            Phase::Ramp => Verdict::Share,
        }
    }

    /// The request was sent. `against`: only because the mode is observe. `unseen`: while all was CLOSED.
    pub fn send(&mut self, worker: usize, name: u64, against: bool, unseen: bool, now: u64) {
        let mut lease = 0;
        if self.phase == Phase::Probe && !against {
            self.last_lease += 1;
            lease = self.last_lease;
            if self.leases.len() == 16 {
                let over = self.leases.iter().position(|lease| !self.live(*lease, now)).unwrap();
                self.leases.remove(over);
            }
            self.leases.push((lease, now + self.rules.probe_timeout + GRACE));
            let times_out = now + self.rules.probe_timeout;
            self.out.push(Probe { worker, lease, generation: self.generation, times_out });
        }
        let (generation, settled) = (self.generation, false);
        self.flights.push(Flight { name, worker, start: now, generation, lease, against, unseen, settled });
    }

    fn end_probe(&mut self, lease: u64, generation: u64, came: Came, now: u64) {
        let is_it = |out: &Probe| (out.lease, out.generation) == (lease, generation);
        let Some(at) = self.out.iter().position(is_it) else { return };
        let Probe { worker, .. } = self.out.remove(at);
        self.look(worker, now);
        if self.generation != generation {
            return self.count_late(came);
        }
        self.good_calls += u64::from(came == Came::Good);
        let Some(slot) = self.leases.iter().position(|(number, _)| *number == lease) else { return };
        self.leases.remove(slot);
        match came {
            Came::Nothing => {}
            Came::Failed | Came::Asked(_) | Came::Slow => self.trip(worker, "probe_failed", now),
            Came::Good => {
                self.good += 1;
                if self.good >= self.rules.good_probes {
                    let next = if self.rules.ramp == 0 { Phase::Closed } else { Phase::Ramp };
                    self.move_to(worker, next, "probes_succeeded", now);
                }
            }
        }
    }

    /// The outcome of a call that had waited for so long.
    fn came(&self, came: Came, waited: u64) -> Came {
        let slow = waited >= self.rules.slow_after;
        match came {
            Came::Good if slow => Came::Slow,
            // The client had waited long enough that it counts.
            Came::Nothing if waited >= CLIENT_CANCEL => Came::Failed,
            // Nobody waited for it any longer, but it was slow all the same.
            Came::Nothing if slow => Came::Slow,
            Came::Asked(_) => Came::Failed,
            other => other,
        }
    }

    /// A request has ended.
    pub fn end(&mut self, name: u64, came: Came, now: u64) {
        let Some(at) = self.flights.iter().position(|flight| flight.name == name) else { return };
        let flight = self.flights.remove(at);
        // This holds although the tick may have settled it.
        self.look(flight.worker, now);
        if let Came::Asked(after) = came
            && !flight.against
        {
            self.hear(flight.worker, after, now);
        }
        let waited = now.saturating_sub(flight.start).saturating_sub(self.leap(flight.worker, now));
        let came = self.came(came, waited);
        if flight.lease != 0 {
            self.end_probe(flight.lease, flight.generation, came, now);
        } else if !flight.settled {
            self.settle(&flight, came, waited, now);
        }
    }

    fn settle(&mut self, flight: &Flight, came: Came, waited: u64, now: u64) {
        self.look(flight.worker, now);
        self.wake(flight.worker);
        if flight.generation == self.generation && self.counts() && !flight.against {
            self.count(flight.worker, came, waited, now);
        } else {
            self.count_late(came);
        }
    }

    /// What time does, as far as this worker sees to it. `writes` is the number of writes of the breaker's record,
    /// before and after. Each makes the worker look once more.
    pub fn tick(&mut self, worker: usize, writes: [u64; 2], now: u64) {
        self.look(worker, now);
        if self.workers[worker].ticked > now + SKEW {
            self.step_back(worker, now);
        }
        let leap = self.leap(worker, now);
        self.flights.iter_mut().filter(|flight| flight.worker == worker).for_each(|flight| flight.start += leap);
        self.out.iter_mut().filter(|out| out.worker == worker).for_each(|out| out.times_out += leap);
        self.workers[worker].ticked = now;
        while let Some(probe) = self.out.iter().find(|out| out.worker == worker && now >= out.times_out).copied() {
            self.end_probe(probe.lease, probe.generation, Came::Failed, now);
        }
        self.age(worker, now);
        self.workers[worker].ticks.push(self.calls.len());
        let written = std::mem::replace(&mut self.workers[worker].writes, writes[0]) != writes[0];
        let rests = self.phase == Phase::Closed && self.trips == 0;
        let looked = self.roll(worker, rests, written, now);
        let changed = match self.phase {
            Phase::Open => self.end_open(worker, now),
            Phase::Probe => false,
            Phase::Ramp => self.climb(worker, now),
            Phase::Closed => self.recover(now),
        };
        if looked && self.phase == Phase::Closed && self.rested {
            self.workers[worker].unused = self.is_unused(worker, now);
        }
        if looked && !self.rested && self.phase == Phase::Closed && self.streak == 0 && self.is_healthy(worker, now) {
            self.rested = true;
            // It has looked at the record since then.
            self.workers[worker].writes = writes[1];
        }
        if !changed && self.since > now + SKEW {
            (self.since, self.base) = (now, self.calls.len());
        }
    }

    fn step_back(&mut self, worker: usize, now: u64) {
        for flight in self.flights.iter_mut().filter(|flight| flight.worker == worker) {
            if flight.unseen && self.generation > 0 {
                flight.generation = u64::MAX;
            }
            flight.start = flight.start.min(now);
        }
        let latest = now + self.rules.probe_timeout;
        let own = self.out.iter_mut().filter(|out| out.worker == worker);
        own.for_each(|out| out.times_out = out.times_out.min(latest));
    }

    /// OPEN is over at its time. It is also over where it was to last longer than any can.
    fn end_open(&mut self, worker: usize, now: u64) -> bool {
        let left = self.open_until.saturating_sub(now);
        let longest = self.rules.longest.max(self.rules.longest_asked);
        let over = self.phase == Phase::Open && (left == 0 || left > longest + SKEW);
        if over {
            self.move_to(worker, Phase::Probe, "open_over", now);
        }
        over
    }

    /// The time since the worker's last tick, where that is more than three periods. No call counts as waiting in it.
    fn leap(&self, worker: usize, now: u64) -> u64 {
        let (passed, tick) = (now.saturating_sub(self.workers[worker].ticked), self.rules.window.tick());
        if passed > 3 * tick { passed - tick } else { 0 }
    }

    /// Calls that still wait are slow as soon as they have waited too long.
    fn age(&mut self, worker: usize, now: u64) {
        let after = self.rules.slow_after;
        let old = |flight: &Flight| {
            flight.worker == worker && flight.lease == 0 && !flight.settled && now.saturating_sub(flight.start) >= after
        };
        while let Some(at) = self.flights.iter().position(old) {
            self.flights[at].settled = true;
            let flight = self.flights[at];
            self.settle(&flight, Came::Slow, now.saturating_sub(flight.start), now);
        }
    }
}
