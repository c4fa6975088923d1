//! One circuit under one worker, as plainly as it can be said: every call is kept, every count is taken by going through
//! all of them. Shares no code with the breaker; times are milliseconds.

use crate::rules::{Came, Counted, Rules, Window};

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
    /// One of the share is to pass: which, is between these two numbers of calls passed so far.
    Share,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    name: u64,
    start: u64,
    generation: u64,
    /// A probe's lease; 0 for other calls.
    lease: u64,
    /// Passed only because the mode is observe.
    against: bool,
    /// Let go unseen: only its start tells its generation.
    unseen: bool,
}

pub struct Model {
    rules: Rules,
    pub phase: Phase,
    generation: u64,
    /// Calls of this generation that count, oldest first.
    calls: Vec<Counted>,
    /// When a sample was taken, and how many of `calls` there were.
    samples: Vec<(u64, usize)>,
    streak: u64,
    trips: u64,
    open_until: u64,
    good: u64,
    /// Leases that nobody has given back: number and end.
    leases: Vec<(u64, u64)>,
    last_lease: u64,
    step: u64,
    marked: u64,
    /// How many of `calls` there were at `marked`.
    mark: usize,
    flights: Vec<Flight>,
    /// Ends of probes that are out: lease, generation, when it has failed.
    out: Vec<(u64, u64, u64)>,
    ticked: u64,
    /// Sum of the shares of all calls that asked in this ramp, in millionths, and how many of them passed.
    pub shares: u64,
    pub passed: u64,
    pub reasons: Vec<&'static str>,
    /// The breaker's own reasons so far. Asked only where a window of calls leaves it a choice.
    pub told: Vec<String>,
}

/// `clientCancel`, by default.
const CLIENT_CANCEL: u64 = 10_000;
const STEPS: u64 = 10;
const GRACE: u64 = 2000;
const SKEW: u64 = 5000;

impl Model {
    pub fn new(rules: Rules, now: u64) -> Model {
        Model {
            rules,
            phase: Phase::Closed,
            generation: 0,
            calls: Vec::new(),
            samples: vec![(now, 0)],
            streak: 0,
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
            ticked: now,
            shares: 0,
            passed: 0,
            reasons: Vec::new(),
            told: Vec::new(),
        }
    }

    fn counts(&self) -> bool {
        self.phase == Phase::Closed || self.phase == Phase::Ramp
    }

    /// Another state, with everything that belongs to a state begun afresh.
    fn move_to(&mut self, phase: Phase, reason: &'static str, now: u64) {
        let counted_before = self.counts();
        self.phase = phase;
        self.generation += 1;
        (self.marked, self.mark) = (now, 0);
        self.calls.clear();
        self.samples = vec![(now, 0)];
        (self.good, self.step, self.shares, self.passed) = (0, 0, 0, 0);
        self.leases.clear();
        self.reasons.push(reason);
        if self.counts() && !counted_before {
            self.streak = 0;
        }
    }

    fn trip(&mut self, reason: &'static str, now: u64) {
        self.trips += 1;
        let mut time = self.rules.base;
        for _ in 1..self.trips {
            time = (time * self.rules.multiplier).min(self.rules.longest);
        }
        self.move_to(Phase::Open, reason, now);
        self.open_until = now + time;
    }

    /// Calls of the window: of time, as the samples bound it; of calls, exactly the last so many.
    fn window(&self, now: u64) -> &[Counted] {
        match self.rules.window {
            Window::Time(window) => {
                let oldest = self.samples.iter().find(|(at, _)| now.saturating_sub(*at) <= window);
                oldest.map_or(&[], |(_, first)| &self.calls[*first..])
            }
            Window::Calls(calls) => &self.calls[self.calls.len().saturating_sub(calls)..],
        }
    }

    fn roll(&mut self, now: u64) {
        let Window::Time(window) = self.rules.window else { return };
        let (last, _) = self.samples[self.samples.len() - 1];
        if last > now + SKEW {
            self.samples = vec![(now, self.calls.len())];
        } else if now.saturating_sub(last) >= window / 10 {
            self.samples.push((now, self.calls.len()));
            if self.samples.len() > 11 {
                self.samples.remove(0);
            }
        }
    }

    /// Bad calls of each kind that the breaker may take for gone though they are still in the window: of a bucket that leaves
    /// it in part, all but one.
    fn fewer(&self) -> u64 {
        match self.rules.window {
            Window::Calls(calls) if self.calls.len() > calls => calls.div_ceil(10) as u64 - 1,
            _ => 0,
        }
    }

    /// Why it trips now. Where an exact count and one with some bad calls fewer say different things, the breaker may go by
    /// either or by one between them: it has told which.
    fn why(&self, now: u64) -> Option<&'static str> {
        let ramp = self.phase == Phase::Ramp;
        let conditions = |fewer| self.rules.conditions(self.window(now), self.streak, ramp, fewer);
        let (possible, certain) = (conditions(0), conditions(self.fewer()));
        let certain = certain.first().copied();
        if certain == possible.first().copied() {
            return certain;
        }
        let told = self.told.get(self.reasons.len()).map_or("", String::as_str);
        if ramp {
            return if told == "ramp_failed" { possible.first().copied() } else { certain };
        }
        let asked = possible.iter().position(|reason| Some(*reason) == certain).map_or(possible.len(), |last| last + 1);
        possible[..asked].iter().find(|reason| told == **reason).copied().or(certain)
    }

    /// A call of the present generation has come to something.
    fn count(&mut self, came: Came, waited: u64, now: u64) {
        if came == Came::Nothing {
            return;
        }
        let over = self.rules.percentile > 0 && waited > self.rules.threshold;
        self.calls.push(Counted { at: now, came, over });
        match came {
            Came::Good => self.streak = 0,
            Came::Failed | Came::Slow => self.streak += 1,
            Came::Nothing => {}
        }
        match self.why(now) {
            Some(_) if self.phase == Phase::Ramp => self.trip("ramp_failed", now),
            Some(reason) => self.trip(reason, now),
            None => {
                self.roll(now);
                if came == Came::Good && self.phase == Phase::Ramp {
                    self.climb(now);
                }
            }
        }
    }

    /// A step is over at the first moment at which it has had its time and good calls enough, and the next one begins there,
    /// though nobody sees it before now; but not longer ago than a step lasts.
    fn climb(&mut self, now: u64) {
        if self.marked > now + SKEW {
            (self.marked, self.mark) = (now, self.calls.len());
            return;
        }
        let length = self.rules.ramp / STEPS;
        let good = || self.calls[self.mark..].iter().filter(|call| call.came == Came::Good).map(|call| call.at);
        let enough = good().nth(self.rules.good_probes as usize - 1).map(|at| at.max(self.marked + length));
        let late = good().next().map(|at| at.max(self.marked + 2 * length));
        let Some(over) = enough.into_iter().chain(late).min().filter(|over| *over <= now) else { return };
        self.step += 1;
        if self.step == STEPS {
            self.move_to(Phase::Closed, "ramp_done", now);
        } else {
            (self.marked, self.mark) = (over.max(now.saturating_sub(length)), self.calls.len());
        }
    }

    /// A trip is forgotten after a window that was full and healthy.
    fn recover(&mut self, now: u64) {
        if self.trips == 0 {
            return;
        }
        if self.marked > now + SKEW {
            (self.marked, self.mark) = (now, self.calls.len());
            return;
        }
        let seen = &self.calls[self.mark..];
        let full = match self.rules.window {
            Window::Time(window) => now.saturating_sub(self.marked) >= window,
            Window::Calls(calls) => seen.len() >= calls,
        };
        if !full || (seen.len() as u64) < self.rules.minimum {
            return;
        }
        if self.rules.conditions(seen, 0, false, 0).is_empty() {
            self.trips -= 1;
        }
        (self.marked, self.mark) = (now, self.calls.len());
    }

    fn live(&self, (_, ends): (u64, u64), now: u64) -> bool {
        let left = ends.saturating_sub(now);
        left > 0 && left <= self.rules.probe_timeout + GRACE + SKEW
    }

    /// What a new request is to meet.
    pub fn ask(&mut self, now: u64) -> Verdict {
        self.end_open(now);
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

    /// The share of the ramp, in millionths.
    pub fn share(&self, now: u64) -> u64 {
        let length = (self.rules.ramp / STEPS).max(1);
        let within = now.saturating_sub(self.marked).min(length) * 1_000_000 / length;
        let done = (self.step * 1_000_000 + within) / STEPS;
        let initial = self.rules.ramp_initial * 10_000;
        initial + (1_000_000 - initial) * done / 1_000_000
    }

    /// Whether a step of the ramp has lasted more than twice its time.
    pub fn overdue(&self, now: u64) -> bool {
        now.saturating_sub(self.marked) >= 2 * (self.rules.ramp / STEPS)
    }

    /// The request was sent. `against`: only because the mode is observe. `unseen`: while all was CLOSED.
    pub fn send(&mut self, name: u64, against: bool, unseen: bool, now: u64) {
        let mut lease = 0;
        if self.phase == Phase::Probe && !against {
            self.last_lease += 1;
            lease = self.last_lease;
            if self.leases.len() == 16 {
                let over = self.leases.iter().position(|lease| !self.live(*lease, now)).unwrap();
                self.leases.remove(over);
            }
            self.leases.push((lease, now + self.rules.probe_timeout + GRACE));
            self.out.push((lease, self.generation, now + self.rules.probe_timeout));
        }
        self.flights.push(Flight { name, start: now, generation: self.generation, lease, against, unseen });
    }

    fn end_probe(&mut self, lease: u64, generation: u64, came: Came, now: u64) {
        let Some(at) = self.out.iter().position(|out| (out.0, out.1) == (lease, generation)) else { return };
        self.out.remove(at);
        if self.phase != Phase::Probe || self.generation != generation {
            return;
        }
        let Some(slot) = self.leases.iter().position(|(number, _)| *number == lease) else { return };
        self.leases.remove(slot);
        match came {
            Came::Nothing => {}
            Came::Failed | Came::Slow => self.trip("probe_failed", now),
            Came::Good => {
                self.good += 1;
                if self.good >= self.rules.good_probes {
                    let next = if self.rules.ramp == 0 { Phase::Closed } else { Phase::Ramp };
                    self.move_to(next, "probes_succeeded", now);
                }
            }
        }
    }

    /// A request has ended.
    pub fn end(&mut self, name: u64, came: Came, now: u64) {
        let Some(at) = self.flights.iter().position(|flight| flight.name == name) else { return };
        let flight = self.flights.remove(at);
        let waited = now.saturating_sub(flight.start).saturating_sub(self.leap(now));
        let slow = waited >= self.rules.slow_after;
        let came = match came {
            Came::Good if slow => Came::Slow,
            // The client had waited long enough to say so.
            Came::Nothing if waited >= CLIENT_CANCEL => Came::Failed,
            // Nobody waited for it any longer: slow all the same.
            Came::Nothing if slow => Came::Slow,
            other => other,
        };
        if flight.lease != 0 {
            self.end_probe(flight.lease, flight.generation, came, now);
        } else if flight.generation == self.generation && self.counts() && !flight.against {
            self.count(came, waited, now);
        }
    }

    /// What time does.
    pub fn tick(&mut self, now: u64) {
        if self.ticked > now + SKEW {
            for flight in &mut self.flights {
                if flight.unseen && self.generation > 0 {
                    flight.generation = u64::MAX;
                }
                flight.start = flight.start.min(now);
            }
            let timeout = self.rules.probe_timeout;
            self.out.iter_mut().for_each(|out| out.2 = out.2.min(now + timeout));
        }
        let leap = self.leap(now);
        self.flights.iter_mut().for_each(|flight| flight.start += leap);
        self.out.iter_mut().for_each(|out| out.2 += leap);
        self.ticked = now;
        while let Some((lease, generation, _)) = self.out.iter().find(|out| now >= out.2).copied() {
            self.end_probe(lease, generation, Came::Failed, now);
        }
        self.age(now);
        self.roll(now);
        match self.phase {
            Phase::Open => self.end_open(now),
            Phase::Probe => {}
            Phase::Ramp => self.climb(now),
            Phase::Closed => self.recover(now),
        }
    }

    /// OPEN is over at its time, or where it was to last longer than any can.
    fn end_open(&mut self, now: u64) {
        let left = self.open_until.saturating_sub(now);
        if self.phase == Phase::Open && (left == 0 || left > self.rules.longest + SKEW) {
            self.move_to(Phase::Probe, "open_over", now);
        }
    }

    /// What has passed since the last tick, where that is more than three of them take: nobody has waited for it.
    fn leap(&self, now: u64) -> u64 {
        let (passed, tick) = (now.saturating_sub(self.ticked), self.rules.window.tick());
        if passed > 3 * tick { passed - tick } else { 0 }
    }

    /// Calls that still wait are slow as soon as they have waited too long.
    fn age(&mut self, now: u64) {
        let after = self.rules.slow_after;
        let long = |flight: &Flight| now.saturating_sub(flight.start) >= after;
        while let Some(at) = self.flights.iter().position(|flight| flight.lease == 0 && long(flight)) {
            let flight = self.flights.remove(at);
            if flight.generation == self.generation && self.counts() && !flight.against {
                self.count(Came::Slow, now.saturating_sub(flight.start), now);
            }
        }
    }
}
