//! One circuit under one worker, as plainly as it can be said: every call is kept, every count is taken by going through
//! all of them. Shares no code with the breaker; times are milliseconds.

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    Good,
    Failed,
    Slow,
    Nothing,
}

/// The policy, as far as the model knows one. Zero switches a condition off.
#[derive(Clone, Debug)]
pub struct Rules {
    pub consecutive: u64,
    pub failure_percent: u64,
    pub slow_percent: u64,
    pub slow_after: u64,
    pub percentile: u64,
    pub threshold: u64,
    pub minimum: u64,
    pub window: u64,
    pub base: u64,
    pub multiplier: u64,
    pub longest: u64,
    pub probes: usize,
    pub good_probes: u64,
    pub probe_timeout: u64,
    pub ramp_initial: u64,
    pub ramp: u64,
    pub observe: bool,
}

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
struct Counted {
    came: Came,
    over: bool,
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

    /// Calls of the window, as the samples bound it.
    fn window(&self, now: u64) -> &[Counted] {
        let oldest = self.samples.iter().find(|(at, _)| now.saturating_sub(*at) <= self.rules.window);
        oldest.map_or(&[], |(_, first)| &self.calls[*first..])
    }

    fn roll(&mut self, now: u64) {
        let (last, _) = self.samples[self.samples.len() - 1];
        if last > now + SKEW {
            self.samples = vec![(now, self.calls.len())];
        } else if now.saturating_sub(last) >= self.rules.window / 10 {
            self.samples.push((now, self.calls.len()));
            if self.samples.len() > 11 {
                self.samples.remove(0);
            }
        }
    }

    fn condition(&self, calls: &[Counted], streak: u64, ramp: bool) -> Option<&'static str> {
        let few = self.rules.good_probes;
        let consecutive = match (ramp, self.rules.consecutive) {
            (false, bound) => bound,
            (true, 0) => few,
            (true, bound) => bound.min(few),
        };
        let minimum = if ramp { self.rules.minimum.min(few) } else { self.rules.minimum };
        let least_over = if ramp { few } else { 1 };
        if consecutive > 0 && streak >= consecutive {
            return Some("consecutive");
        }
        let all = calls.len() as u64;
        let came = |which: Came| calls.iter().filter(|call| call.came == which).count() as u64;
        let over = calls.iter().filter(|call| call.over).count() as u64;
        if all < minimum {
            return None;
        }
        if self.rules.failure_percent > 0 && came(Came::Failed) * 100 >= self.rules.failure_percent * all {
            return Some("failure_rate");
        }
        if self.rules.slow_percent > 0 && came(Came::Slow) * 100 >= self.rules.slow_percent * all {
            return Some("slow_rate");
        }
        let late = self.rules.percentile > 0 && over * 100 > all * (100 - self.rules.percentile);
        (late && over >= least_over).then_some("latency")
    }

    /// A call of the present generation has come to something.
    fn count(&mut self, came: Came, waited: u64, now: u64) {
        if came == Came::Nothing {
            return;
        }
        let over = self.rules.percentile > 0 && waited > self.rules.threshold;
        self.calls.push(Counted { came, over });
        match came {
            Came::Good => self.streak = 0,
            Came::Failed | Came::Slow => self.streak += 1,
            Came::Nothing => {}
        }
        match self.condition(self.window(now), self.streak, self.phase == Phase::Ramp) {
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

    fn climb(&mut self, now: u64) {
        let length = self.rules.ramp / STEPS;
        let elapsed = now.saturating_sub(self.marked);
        if self.marked > now + SKEW {
            (self.marked, self.mark) = (now, self.calls.len());
            return;
        }
        let good = self.calls[self.mark..].iter().filter(|call| call.came == Came::Good).count() as u64;
        let needed = if elapsed < 2 * length { self.rules.good_probes } else { 1 };
        if elapsed < length || good < needed {
            return;
        }
        self.step += 1;
        if self.step == STEPS {
            self.move_to(Phase::Closed, "ramp_done", now);
        } else {
            (self.marked, self.mark) = (now, self.calls.len());
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
        if now.saturating_sub(self.marked) < self.rules.window || (seen.len() as u64) < self.rules.minimum {
            return;
        }
        if self.condition(seen, 0, false).is_none() {
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

    /// Milliseconds between two ticks.
    fn tick_length(&self) -> u64 {
        (self.rules.window / 20).min(500)
    }

    /// What has passed since the last tick, where that is more than three of them take: nobody has waited for it.
    fn leap(&self, now: u64) -> u64 {
        let (passed, tick) = (now.saturating_sub(self.ticked), self.tick_length());
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
