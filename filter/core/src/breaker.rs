//! The breaker of one proxy, as one VM has it: its circuits, the admission and settling of calls, and the tick.
//!
//! **The healthy path.** The gauge `epoch` moves whenever a worker writes a record. A tick that finds all circuits
//! CLOSED remembers the epoch that it began with. As long as the epoch stays there, the proxy is *calm*: a request
//! passes, and nobody even reads its upstream. A success then costs two steps more: it reads `watch` and adds to
//! `success`.
//!
//! **The circuits** of a proxy are in a list that all workers share (`shared/slots`). So a worker without traffic
//! still moves a circuit on, and `limits.maxCircuits` bounds the number of keys over all workers. A circuit that
//! nobody uses ends, and its slot goes to another one (`breaker/idle`).
//!
//! **Errors of our own** let traffic pass and are counted.

mod admit;
mod change;
mod circuits;
mod directory;
mod fallback;
mod flight;
mod idle;
mod in_flight;
mod keeping;
mod landing;
pub mod permit;
mod probes;
mod remembered;
mod rest;
mod room;
mod settle;
mod used;
mod view;
mod waiting;

use std::rc::Rc;

use crate::breaker::in_flight::Flights;
use crate::breaker::permit::Cause;
use crate::breaker::view::View;
use crate::circuit::record::Phase;
use crate::clock;
use crate::clock::MILLISECOND;
use crate::config::Config;
use crate::host::{Fault, Host};
use crate::policy::{Length, Mode, Policy, Rejection};
use crate::shared::vm::Vm;
use crate::telemetry::metrics;
use crate::telemetry::series::Series;
use circuits::Circuits;
use directory::Reading;
use keeping::Keeping;
use probes::Probe;
use remembered::Remembered;

/// The breaker of one VM under one configuration.
pub struct Breaker<H> {
    vm: Vm<H>,
    config: Config,
    circuits: Circuits,
    /// Additions to the shared list that this VM knows of.
    additions: u64,
    /// How far this VM has read all slots; `None` while it reads none.
    reading: Option<Reading>,
    remembered: Remembered,
    /// No circuit could make room for another one. The breaker asks no more of them before the next tick.
    crowded: bool,
    /// The policy whose reply is given where a request without a circuit is rejected.
    without_circuit: Option<Rc<Policy>>,
    /// The epoch at which all circuits were CLOSED.
    calm: Option<u64>,
    /// The epoch at the last tick.
    ticked_at: Option<u64>,
    /// Probes of this VM that are not settled.
    probes: Vec<Probe>,
    counts_attempts: bool,
    trusts_good_statuses: bool,
    /// Calls that wait for their answers.
    flights: Flights,
    /// The shortest `slowCallDuration` of all policies; `None` where none has one.
    shortest_slow: Option<u64>,
    /// Time between two ticks.
    period: u64,
    /// A newer configuration has taken over: this one only serves the requests that it still has.
    retired: bool,
    /// Envoy follows redirects itself. Then only the moment at which a call is let go tells for certain where it
    /// went.
    follows_redirects: bool,
    /// The shortest time to a first byte that may count as slow or over the threshold, under any policy.
    shortest_patience: u64,
    keeping: Keeping,
}

/// A tick that is rarer than this would settle probes late; one that is more frequent costs and gains nothing.
const LONGEST_TICK: u64 = 500 * MILLISECOND;
const SHORTEST_TICK: u64 = 50 * MILLISECOND;

/// The key in shared data that says that a filter changes answers.
const CHANGED: &str = "changed_answers";

/// In this many ticks each record is read once, even if nobody has said that it was written: its writer may have died
/// in between. With ticks of half a second a trip is then known after ten seconds, and a thousand circuits cost 100
/// reads a second.
const ROUND: usize = 20;

/// Periods after which the worker counts as stopped, and the tick as more than late. A busy worker may well miss one
/// tick.
const LATE: u64 = 3;

impl<H: Host> Breaker<H> {
    /// A breaker under `config`. `now` in nanoseconds since 1970; `seed` differs between VMs.
    ///
    /// It changes no circuit before its first request or tick. Envoy hands a configuration to every VM before it
    /// knows whether it takes the whole update, and a configuration that Envoy takes back must not have acted.
    pub fn start(host: H, config: Config, now: u64, seed: u64) -> Breaker<H> {
        Breaker::of(Vm::new(host, seed, now), config)
    }

    /// As [`Breaker::start`], in the place of an older configuration of this VM. It takes over what the older one
    /// knows of the circuits.
    pub fn start_after(older: &Breaker<H>, host: H, config: Config, now: u64, seed: u64) -> Breaker<H> {
        let mut breaker = Breaker::of(Vm::after(&older.vm, host, seed, now), config);
        breaker.inherit(older, now);
        // The metrics are the VM's, and it lives on.
        breaker.keeping = older.keeping;
        breaker
    }

    fn of(vm: Vm<H>, config: Config) -> Breaker<H> {
        let counts_attempts = config.policies().any(|policy| policy.failures.all_attempts);
        let patience = |policy: &Policy| policy.trip.slow_duration;
        let shortest_slow = config.policies().map(patience).filter(|duration| *duration > 0).min();
        let shortest_patience = config.policies().map(Policy::plain_below).filter(|below| *below > 0).min();
        let trusts_good_statuses = !counts_attempts
            && config.policies().all(|policy| (0..400).all(|status| !policy.failures.http_fails(status)));
        Breaker {
            counts_attempts,
            trusts_good_statuses,
            flights: Flights::new(),
            period: tick_period(&config),
            shortest_slow,
            vm,
            config,
            circuits: Circuits::default(),
            additions: 0,
            reading: None,
            remembered: Remembered::default(),
            crowded: false,
            without_circuit: None,
            calm: None,
            ticked_at: None,
            probes: Vec::new(),
            retired: false,
            follows_redirects: false,
            shortest_patience: shortest_patience.unwrap_or(u64::MAX),
            keeping: Keeping::Begins,
        }
    }

    /// Time between two ticks in nanoseconds.
    #[must_use]
    pub fn tick_period(&self) -> u64 {
        self.period
    }

    /// Whether a tick's time has come, for whoever ticks more often than that.
    #[must_use]
    pub fn is_tick_due(&self, now: u64) -> bool {
        now.wrapping_sub(self.vm.ticked.get()) >= self.period
    }

    /// A newer configuration takes over. This one still settles the requests that it has admitted. It rejects those
    /// that still reach it as the record says, but time and policy no longer move a circuit from here.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// The newer configuration is gone, and this one is the newest again.
    pub fn resume(&mut self) {
        self.retired = false;
    }

    /// Whether a request can be let go without knowing its upstream.
    #[must_use]
    #[inline(always)]
    pub fn is_calm(&self) -> bool {
        self.calm.is_some_and(|calm| self.vm.epoch() == Some(calm))
    }

    /// The reply that a circuit's policy wants.
    #[must_use]
    pub fn rejection(&self, circuit: u32) -> Option<&Rejection> {
        let policy = match self.circuits.get(circuit) {
            Some(view) => Some(&view.policy),
            None => self.without_circuit.as_ref(),
        };
        policy.map(|policy| &policy.rejection)
    }

    /// The name of a circuit's upstream. A caller that asks with this very name saves the breaker a comparison.
    #[must_use]
    pub fn upstream(&self, circuit: u32) -> Option<&Rc<str>> {
        self.circuits.get(circuit).map(|view| &view.name)
    }

    /// Whether any path is exempt. If none is, nobody needs to read the path.
    #[must_use]
    pub fn has_exempt_paths(&self) -> bool {
        !self.config.exempt.is_empty()
    }

    /// Whether requests to this path are never counted and never rejected.
    #[must_use]
    pub fn is_exempt(&self, path: &str) -> bool {
        self.config.exempt.contains(path)
    }

    /// An answer ended with another status than its upstream's. This tells all workers and the operator.
    pub fn answers_are_changed(&self) {
        self.vm.say_once(
            CHANGED,
            "circuit_breaker another filter changes the status of upstreams' answers: the breaker looks at the head of each \
             answer, at a higher cost for every request",
        );
    }

    /// Whether some worker has found an answer changed.
    #[must_use]
    pub fn are_answers_changed(&self) -> bool {
        self.vm.is_said(CHANGED)
    }

    /// Whether some policy counts the attempts that Envoy's retries hide.
    #[must_use]
    pub fn counts_attempts(&self) -> bool {
        self.counts_attempts
    }

    /// Whether a time to the first byte is so short that no policy minds it.
    #[must_use]
    #[inline]
    pub fn is_in_time(&self, first_byte: u64) -> bool {
        first_byte < self.shortest_patience
    }

    /// Whether an upstream's own status below 400 is a success whatever the policy.
    #[must_use]
    pub fn trusts_good_statuses(&self) -> bool {
        self.trusts_good_statuses
    }

    /// What time does: windows roll, OPEN ends, ramps climb, probes run out, and calm is found again.
    pub fn tick(&mut self, now: u64) {
        if clock::stepped_back(now, self.vm.ticked.get()) {
            self.flights.rebase(now);
            self.rebase_probes(now);
            self.circuits.iter_mut().for_each(|view| view.used.rebase(now));
        }
        let leap = self.leap(now);
        if leap > 0 {
            self.flights.leap(leap);
            self.leap_probes(leap);
            self.circuits.leap(leap, now);
        }
        self.vm.ticked.set(now);
        self.crowded = false;
        self.end_probes(now);
        self.age_flights(now);
        self.settle_long_lived(now);
        if self.retired {
            return;
        }
        let met = self.vm.meet(now);
        self.noted(met);
        let epoch = self.vm.epoch();
        if self.ticked_at != epoch {
            self.vm.look_whether_blind();
        }
        if self.vm.is_blind() {
            return self.let_all_pass();
        }
        self.look_again(now);
        let found = self.learn(now);
        let mut calm = self.noted(found) == Some(true)
            && !self.follows_redirects
            && !self.config.policies().any(|p| p.mode == Mode::ForceOpen);
        let unwritten = epoch.is_some() && self.ticked_at == epoch;
        self.ticked_at = epoch;
        let (mut some_ended, idle) = (false, self.config.idle_circuit);
        for view in self.circuits.iter_mut() {
            if unwritten && view.is_at_rest(now, idle) {
                continue;
            }
            match tick_circuit(view, &self.vm, now, idle) {
                Ok(closed) => calm &= closed,
                Err(fault) => {
                    calm = false;
                    self.vm.failed(fault);
                }
            }
            some_ended |= view.is_gone();
        }
        if some_ended {
            self.clear_ended();
        }
        self.calm = if calm { epoch } else { None };
        self.vm.circuits(self.circuits.held());
    }

    /// The breaker can decide nothing, so it shows every circuit as CLOSED.
    #[cold]
    fn let_all_pass(&mut self) {
        self.calm = None;
        for (_, view) in std::mem::take(&mut self.circuits).known() {
            view.tell_nothing(&self.vm);
        }
    }

    /// Looks at a part of the circuits at each tick. After [`ROUND`] ticks each has had its turn.
    fn look_again(&mut self, now: u64) {
        let part = self.circuits.slots().div_ceil(ROUND);
        for view in self.circuits.next_of_round(part) {
            if let Err(fault) = view.look_again(&self.vm, now) {
                self.vm.failed(fault);
            }
        }
    }

    /// By how much the time since the last tick is longer than a period: the clock has leapt ahead, or this worker
    /// was stopped. It could see no answer in that time, so no call counts as waiting in it. 0 where the tick is only
    /// late.
    fn leap(&self, now: u64) -> u64 {
        let (passed, period) = (now.saturating_sub(self.vm.ticked.get()), self.period);
        if passed > period.saturating_mul(LATE) { passed.saturating_sub(period) } else { 0 }
    }

    /// The value, or `None` and one more internal error.
    fn noted<T>(&self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.vm.failed(fault)).ok()
    }

    fn parts(&mut self, circuit: u32) -> Option<(&mut View, &Vm<H>)> {
        self.circuits.get_mut(circuit).map(|view| (view, &self.vm))
    }
}

/// Counts a configuration that was refused.
pub fn count_refused<H: Host>(host: &H) {
    // An error that cannot be counted is only in the log line.
    let _ = Series::default().count(host, &metrics::INTERNAL_ERRORS, "", "config");
}

/// Time between two ticks in nanoseconds. A bucket of the shortest window has two ticks, so that no bucket gets much
/// longer than it should be.
fn tick_period(config: &Config) -> u64 {
    let half_bucket = |policy: &Policy| match policy.trip.window {
        Length::Time(_) => Some(policy.trip.window.bucket() / 2),
        Length::Calls(_) => None,
    };
    let shortest = config.policies().filter_map(half_bucket).min();
    shortest.unwrap_or(LONGEST_TICK).clamp(SHORTEST_TICK, LONGEST_TICK)
}

/// Whether the circuit lets everything pass. It ends where nobody has used it for `idle` nanoseconds.
fn tick_circuit<H: Host>(view: &mut View, vm: &Vm<H>, now: u64, idle: u64) -> Result<bool, Fault> {
    view.refresh(vm, now)?;
    if view.is_gone() || view.is_at_rest(now, idle) {
        return Ok(true);
    }
    let tally = view.counts.tally(&vm.host)?;
    if view.policy.mode == Mode::Disabled {
        view.end_if_idle(vm, now, tally, idle)?;
        view.tell(vm)?;
        return Ok(true);
    }
    let still = view.is_still_unused(now, tally);
    if !still {
        view.roll(vm, now, tally)?;
        view.advance(vm, now, tally, 0)?;
        view.stop_watching(vm, now, tally)?;
    }
    view.end_if_idle(vm, now, tally, idle)?;
    view.tell(vm)?;
    Ok(matches!(view.record.phase, Phase::Closed | Phase::Ended) && !view.record.foreign)
}

fn index(circuit: u32) -> usize {
    usize::try_from(circuit).unwrap_or(usize::MAX)
}

/// What a rejected request is told to wait where no open time tells: HALF_OPEN admits more every moment, and only a
/// person ends `forceOpen`.
fn come_back(view: &View, cause: Cause, now: u64) -> u64 {
    match cause {
        Cause::Open => view.record.open_for(&view.policy, now),
        Cause::ProbeLimit | Cause::Ramp => crate::clock::SECOND,
        Cause::Forced => view.policy.open.base,
    }
}

/// Policy of an upstream that has no circuit yet.
fn policy_of(config: &Config, upstream: &str) -> Rc<Policy> {
    config.policy_of(&crate::policy::upstream::Upstream::parse(upstream))
}
