//! What each worker of the reference model has for itself. The circuit, its calls and its streak are the same for
//! all. But a worker knows what has left the window only as well as its own looks tell. It has heard only its own
//! answers, and it picks its own share of a ramp's calls.

use crate::model::{Model, Phase, SKEW};
use crate::rules::{Came, Counted, Window};

pub struct Worker {
    /// The generation that it knew last.
    pub knows: u64,
    /// When it took a sample, and how many of the model's calls there were.
    pub samples: Vec<(u64, usize)>,
    pub ticked: u64,
    /// Writes of the record that it knew of at its last tick.
    pub writes: u64,
    /// Its window held no call at its last look, so it looks rarely.
    pub unused: bool,
    /// How many of the model's calls there were at each of its ticks.
    pub ticks: Vec<usize>,
    /// When the upstream wants to be asked again, as this worker has heard it last, and how many calls had gone well
    /// by then.
    pub asked: (u64, u64),
    pub picks: Picks,
}

/// The calls of a ramp that asked one worker.
#[derive(Clone, Copy, Debug)]
pub struct Picks {
    /// Sum of their shares, in millionths.
    shares: u64,
    passed: u64,
    /// How many may have passed only because a step was overdue.
    nudges: u64,
    nudged_at: u64,
    /// When the last one passed while a step was overdue, or when the ramp began.
    passed_at: u64,
}

impl Picks {
    pub fn starting(now: u64) -> Picks {
        Picks { shares: 0, passed: 0, nudges: 0, nudged_at: now, passed_at: now }
    }

    /// One more has asked. As many of them pass as their shares add up to, give or take the one that is under way.
    /// For an overdue step one more passes for each time of its length.
    ///
    /// # Panics
    /// Where none of this allows the result.
    pub fn ask(&mut self, share: u64, overdue: Option<u64>, admitted: bool, now: u64) {
        self.shares += share;
        self.passed += u64::from(admitted);
        if let Some(length) = overdue {
            let is_past = |then: u64| now.saturating_sub(then) >= length || then > now + SKEW;
            assert!(admitted || !is_past(self.passed_at), "overdue, and nobody passes: {self:?}");
            if is_past(self.nudged_at) {
                (self.nudges, self.nudged_at) = (self.nudges + 1, now);
            }
            if admitted {
                self.passed_at = now;
            }
        }
        let most = self.shares + (1 + self.nudges) * 1_000_000;
        let passed = self.passed * 1_000_000;
        assert!(passed <= most && passed + 1_000_000 >= self.shares, "another share: {self:?}");
    }
}

impl Worker {
    pub fn starting(now: u64) -> Worker {
        let (samples, ticks, picks) = (vec![(now, 0)], Vec::new(), Picks::starting(now));
        Worker { knows: 0, samples, ticked: now, writes: 0, unused: false, ticks, asked: (0, 0), picks }
    }
}

impl Worker {
    /// Nothing was counted since its last sample.
    fn has_seen_all_by(&mut self, now: u64) {
        if let Some((at, _)) = self.samples.last_mut() {
            *at = (*at).max(now);
        }
    }
}

impl Model {
    /// The worker looks at the circuit. For a generation that is new to it, the window begins where the generation
    /// did; or now, where that is longer ago than a window.
    pub fn look(&mut self, worker: usize, now: u64) {
        let own = &mut self.workers[worker];
        if own.knows == self.generation {
            return;
        }
        let whole = if let Window::Time(window) = self.rules.window { window } else { u64::MAX };
        let reaches = now.saturating_sub(self.since) <= whole && self.since <= now + SKEW;
        own.samples = vec![if reaches { (self.since, self.base) } else { (now, self.calls.len()) }];
        own.unused = false;
        own.ticks.clear();
        own.picks = Picks::starting(now);
        own.knows = self.generation;
    }

    /// Calls of the window. A window of time is bounded by the worker's samples. A window of calls holds exactly the
    /// last so many.
    fn window(&self, worker: usize, now: u64) -> &[Counted] {
        match self.rules.window {
            Window::Time(window) => {
                let mut samples = self.workers[worker].samples.iter();
                let oldest = samples.find(|(at, _)| now.saturating_sub(*at) <= window);
                oldest.map_or(&[], |(_, first)| &self.calls[*first..])
            }
            Window::Calls(calls) => &self.calls[self.calls.len().saturating_sub(calls)..],
        }
    }

    /// The worker takes a sample where one is due: once a bucket, or every second one where the circuit is unused.
    /// `rests`: it looks no more often, unless the record was `written`. False: nothing has asked it to look closer.
    pub fn roll(&mut self, worker: usize, rests: bool, written: bool, now: u64) -> bool {
        let Window::Time(window) = self.rules.window else { return true };
        let own = &mut self.workers[worker];
        let (last, seen) = own.samples[own.samples.len() - 1];
        let between = window / 10 * if own.unused { 2 } else { 1 };
        let is_ahead = last > now + SKEW;
        let is_due = is_ahead || now.saturating_sub(last) >= between;
        if rests && !is_due && (own.unused || !written) {
            return false;
        }
        if rests && own.unused && seen == self.calls.len() && !is_ahead {
            own.has_seen_all_by(now);
            return false;
        }
        own.unused = false;
        if is_ahead {
            own.samples = vec![(now, self.calls.len())];
        } else if now.saturating_sub(last) >= window / 10 {
            own.samples.push((now, self.calls.len()));
            if own.samples.len() > 11 {
                own.samples.remove(0);
            }
        }
        true
    }

    /// A call of the worker's own has ended, the first one since its last tick: it looks as it would have then.
    pub fn wake(&mut self, worker: usize) {
        let own = &mut self.workers[worker];
        if !std::mem::take(&mut own.unused) {
            return;
        }
        let (ticked, (last, seen)) = (own.ticked, own.samples[own.samples.len() - 1]);
        if seen == self.calls.len() && last <= ticked + SKEW {
            own.has_seen_all_by(ticked);
        } else {
            self.roll(worker, false, true, ticked);
        }
    }

    /// Whether nobody has called lately, as far as the worker knows.
    pub fn is_unused(&self, worker: usize, now: u64) -> bool {
        matches!(self.rules.window, Window::Time(_)) && self.window(worker, now).is_empty()
    }

    /// Bad calls of each kind that the worker may take for gone though they are still in the window: all but one of a
    /// bucket that leaves the window in part, and as many more as others had calls between two looks of this worker.
    fn fewer(&self, worker: usize) -> u64 {
        let Window::Calls(calls) = self.rules.window else { return 0 };
        if self.calls.len() <= calls {
            return 0;
        }
        (calls.div_ceil(10) - 1 + self.longest_absence(worker)) as u64
    }

    /// The most calls of others, one after the other, that came between two looks of this worker.
    fn longest_absence(&self, worker: usize) -> usize {
        let ticks = &self.workers[worker].ticks;
        let (mut longest, mut others) = (0, 0);
        for (at, call) in self.calls.iter().enumerate() {
            let looked = call.by == worker || ticks.contains(&at);
            others = usize::from(call.by != worker) + if looked { 0 } else { others };
            longest = longest.max(others);
        }
        longest
    }

    /// Why it trips now. Where an exact count and a count with some bad calls fewer give different answers, the
    /// breaker may go by either, or by a count between them. It has told by which.
    pub fn why(&self, worker: usize, now: u64) -> Option<&'static str> {
        let ramp = self.phase == Phase::Ramp;
        let conditions = |fewer| self.rules.conditions(self.window(worker, now), self.streak, ramp, fewer);
        let (possible, certain) = (conditions(0), conditions(self.fewer(worker)));
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

    /// Whether this is the breaker's next reason.
    pub fn has_told(&self, reason: &str) -> bool {
        self.told.get(self.reasons.len()).is_some_and(|told| told == reason)
    }

    /// Whether all calls in the worker's window were good and in time. Then no worker looks closer at a good call.
    /// But a worker that slept for a window may know of none, where another one knows of a bad one at its end.
    pub fn is_healthy(&self, worker: usize, now: u64) -> bool {
        self.window(worker, now).iter().all(|call| call.came == Came::Good && !call.over)
    }

    /// The upstream has told this worker when it wants to be asked again.
    pub fn hear(&mut self, worker: usize, after: u64, now: u64) {
        if self.rules.longest_asked == 0 {
            return;
        }
        self.look(worker, now);
        self.workers[worker].asked = (now + after, self.good_calls);
        let until = self.asked_for(worker, now);
        if self.phase == Phase::Open && until > self.open_until + 1000 {
            self.open_until = until;
        }
    }

    /// When the upstream wants to be asked again, as this worker has heard since any worker's last good call, within
    /// what the policy lets it ask for.
    pub fn asked_for(&self, worker: usize, now: u64) -> u64 {
        let (at, good_calls) = self.workers[worker].asked;
        if good_calls == self.good_calls { at.min(now + self.rules.longest_asked) } else { 0 }
    }
}
