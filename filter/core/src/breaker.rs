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

mod active;
mod admit;
mod change;
mod circuits;
mod directory;
mod fallback;
mod flight;
pub mod health;
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
mod tick;
mod used;
mod view;
mod waiting;

use std::rc::Rc;

use crate::breaker::in_flight::Flights;
use crate::breaker::permit::Cause;
use crate::breaker::view::View;
use crate::circuit::record::Phase;
use crate::clock::MILLISECOND;
use crate::config::Config;
use crate::host::{Fault, Host};
use crate::policy::{Length, Policy, Rejection};
use crate::shared::vm::Vm;
use crate::telemetry::metrics;
use crate::telemetry::series::Series;
use active::Sent;
use circuits::Circuits;
use directory::Reading;
use health::Look;
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
    /// The last step has left circuits that are still to be met.
    behind: bool,
    /// No circuit could make room for another one. The breaker asks no more of them before the next tick.
    crowded: bool,
    /// What the last look at the circuits has found, where there is a health endpoint.
    look: Look,
    /// The policy whose reply is given where a request without a circuit is rejected.
    without_circuit: Option<Rc<Policy>>,
    /// The epoch at which all circuits were CLOSED.
    calm: Option<u64>,
    /// The epoch at the last tick.
    ticked_at: Option<u64>,
    /// Probes of this VM that are not settled.
    probes: Vec<Probe>,
    /// Some policy wants probes of the breaker's own.
    probes_itself: bool,
    /// Those of them that this VM has out.
    sent: Vec<Sent>,
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
    /// Hashes of the policies that are no longer in use. The next tick says so.
    replaced: Vec<u32>,
}

/// A tick that is rarer than this would settle probes late; one that is more frequent costs and gains nothing.
const LONGEST_TICK: u64 = 500 * MILLISECOND;
const SHORTEST_TICK: u64 = 50 * MILLISECOND;

/// The key in shared data that says that a filter changes answers.
const CHANGED: &str = "changed_answers";

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
        breaker.look = older.look;
        breaker
    }

    fn of(vm: Vm<H>, config: Config) -> Breaker<H> {
        let counts_attempts = config.policies().any(|policy| policy.failures.all_attempts);
        let patience = |policy: &Policy| policy.trip.slow_duration;
        let shortest_slow = config.policies().map(patience).filter(|duration| *duration > 0).min();
        let shortest_patience = config.policies().map(Policy::plain_below).filter(|below| *below > 0).min();
        let probes_itself = config.policies().any(|policy| policy.half_open.active.is_some());
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
            behind: false,
            crowded: false,
            look: Look::default(),
            without_circuit: None,
            calm: None,
            ticked_at: None,
            probes: Vec::new(),
            probes_itself,
            sent: Vec::new(),
            retired: false,
            follows_redirects: false,
            shortest_patience: shortest_patience.unwrap_or(u64::MAX),
            keeping: Keeping::Begins,
            replaced: Vec::new(),
        }
    }

    /// Time between two ticks in nanoseconds.
    #[must_use]
    pub fn tick_period(&self) -> u64 {
        self.period
    }

    /// Whether a tick's time has come. A caller that ticks more often than the period asks this.
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

    /// This configuration is in use in the place of another one of this VM.
    pub fn replaces(&mut self, other: &Breaker<H>) {
        self.replaced.push(other.config.hash);
        // The other one may never have ticked, and so not have told what it replaced.
        self.replaced.extend(&other.replaced);
    }

    /// Says which policy is in use, and which is not any more.
    fn tell_info(&mut self) {
        let Vm { info, host, .. } = &self.vm;
        let in_use = self.config.hash;
        let ended = std::mem::take(&mut self.replaced).into_iter().filter(|policy| *policy != in_use);
        for told in ended.map(|policy| info.ends(host, policy)).chain([info.begins(host, in_use)]) {
            self.noted(told.map_err(Fault::from));
        }
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

fn index(circuit: u32) -> usize {
    usize::try_from(circuit).unwrap_or(usize::MAX)
}

/// What a rejected request is told to wait where no open time tells: HALF_OPEN admits more every moment, and only a
/// person ends `forceOpen`.
fn come_back(view: &View, cause: Cause, now: u64) -> u64 {
    match cause {
        // The probe stage has no end that is known beforehand. Requests are rejected there where the breaker itself probes.
        Cause::Open if view.record.phase == Phase::Probe => crate::clock::SECOND,
        Cause::Open => view.record.open_for(&view.policy, now),
        Cause::ProbeLimit | Cause::Ramp => crate::clock::SECOND,
        Cause::Forced => view.policy.open.base,
    }
}

/// Policy of an upstream that has no circuit yet.
fn policy_of(config: &Config, upstream: &str) -> Rc<Policy> {
    config.policy_of(&crate::policy::upstream::Upstream::parse(upstream))
}
