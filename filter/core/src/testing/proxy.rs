//! The VMs of a proxy, their requests, and the time.

use super::memory::Memory;
use crate::breaker::Breaker;
use crate::breaker::permit::{Admission, Origin, Permit, Request};
use crate::clock::{MILLISECOND, SECOND};
use crate::config::Config;
use crate::policy::classify::{Answer, Ending, FailureKind, Outcome};

/// A proxy: one host, a VM per worker, and the time.
pub struct Proxy {
    /// What all VMs share.
    pub host: Memory,
    /// The VMs.
    pub vms: Vec<Breaker<Memory>>,
    /// Nanoseconds since 1970.
    pub now: u64,
    /// How long answers take to begin.
    pub first_byte: u64,
    /// Whether requests end with their headers.
    pub whole: bool,
    streams: u32,
}

/// What is known of a call that came to `outcome` under the default policy.
#[must_use]
pub fn answer(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Success | Outcome::Slow => Answer::well(),
        Outcome::Neutral => Answer::ended(Ending::LeftWaiting { delayed: false }),
        Outcome::Failure(FailureKind::Http) => Answer::of_status(500),
        Outcome::Failure(kind) => Answer { status: 503, ..Answer::ended(Ending::Failed(kind)) },
    }
}

/// The time of an ordinary day, so that no test begins at zero by chance.
const START: u64 = 1_790_000_000 * SECOND;

/// Steps after each tick. The module makes a hundred in half a second: a few leave tests time to see what is not done.
const STEPS: usize = 31;

impl Proxy {
    /// `workers` VMs under `config`.
    ///
    /// # Panics
    /// Where the configuration is refused: tests say what they expect by panicking.
    #[must_use]
    pub fn start(workers: u64, config: &str) -> Proxy {
        Proxy::on(Memory::default(), workers, config)
    }

    /// `workers` VMs over `host`.
    ///
    /// # Panics
    /// Where the configuration is refused.
    #[must_use]
    pub fn on(host: Memory, workers: u64, config: &str) -> Proxy {
        Proxy::on_at(host, workers, config, START)
    }

    /// `workers` VMs over `host`, from `now` on.
    ///
    /// # Panics
    /// Where the configuration is refused.
    #[must_use]
    pub fn on_at(host: Memory, workers: u64, config: &str, now: u64) -> Proxy {
        let mut proxy = Proxy { host, vms: Vec::new(), now, first_byte: 5 * MILLISECOND, whole: true, streams: 0 };
        proxy.configure(workers, config);
        proxy
    }

    /// Replaces the VMs by new ones, as a configuration change does. What the host holds stays. Each new VM has
    /// ticked once.
    ///
    /// # Panics
    /// Where the configuration is refused.
    #[allow(clippy::panic)]
    pub fn configure(&mut self, workers: u64, config: &str) {
        let parsed = Config::parse(config.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        self.vms = (0..workers).map(|seed| Breaker::start(self.host.clone(), parsed.clone(), self.now, seed)).collect();
        for vm in &mut self.vms {
            vm.tick(self.now);
        }
    }

    /// Gives the VMs another configuration, which goes on where the old one was.
    ///
    /// # Panics
    /// Where the configuration is refused.
    #[allow(clippy::panic)]
    pub fn reconfigure(&mut self, config: &str) {
        let parsed = Config::parse(config.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        for (seed, vm) in (0..).zip(&mut self.vms) {
            let mut new = Breaker::start_after(vm, self.host.clone(), parsed.clone(), self.now, seed);
            new.tick(self.now);
            *vm = new;
        }
    }

    /// Moves the clock, with a tick of every VM at its period.
    pub fn pass(&mut self, time: u64) {
        let end = self.now.saturating_add(time);
        let period = self.vms.first().map_or(SECOND, Breaker::tick_period);
        while self.now < end {
            self.now = self.now.saturating_add(period).min(end);
            for vm in &mut self.vms {
                vm.tick(self.now);
                (0..STEPS).for_each(|_| {
                    vm.catch_up(self.now);
                });
            }
        }
    }

    /// Asks one VM for admission, as the module does.
    pub fn admit(&mut self, vm: usize, upstream: &str) -> Admission {
        let admission = self.ask(vm, upstream);
        self.reply(vm, admission);
        admission
    }

    fn ask(&mut self, vm: usize, upstream: &str) -> Admission {
        let now = self.now;
        let Some(breaker) = self.vms.get_mut(vm) else { return Admission::Pass(Permit::Uncounted) };
        self.streams = self.streams.wrapping_add(1);
        self.host.is_in(self.streams, Some(upstream));
        let request = Request { stream: self.streams, whole: self.whole };
        if breaker.is_calm() {
            return Admission::Pass(breaker.admit_unseen(request, now));
        }
        breaker.admit(request, upstream, now)
    }

    /// Tells the VM that a rejected request was answered.
    fn reply(&mut self, vm: usize, admission: Admission) {
        if let (Admission::Reject { circuit, cause, .. }, Some(breaker)) = (admission, self.vms.get_mut(vm)) {
            breaker.rejected(circuit, cause);
        }
    }

    /// Asks one VM for admission, and for a fallback where the circuit rejects the request. Returns the permit, and
    /// the circuit that rejected it. `None`: rejected.
    pub fn admit_or_fall_back(&mut self, vm: usize, upstream: &str) -> Option<(Permit, Option<Origin>)> {
        let admission = self.ask(vm, upstream);
        let Admission::Reject { circuit, .. } = admission else {
            let Admission::Pass(permit) = admission else { return None };
            return Some((permit, None));
        };
        let (now, stream) = (self.now, self.streams);
        let left = self.vms.get_mut(vm)?.fall_back(stream, circuit, now);
        if left.is_none() {
            self.reply(vm, admission);
        }
        left.map(|(permit, origin)| (permit, Some(origin)))
    }

    /// Where Envoy says that all requests in flight are.
    pub fn everything_lands_in(&self, upstream: &str) {
        self.host.all_are_in(upstream);
    }

    /// Settles a request that a VM admitted, as the module does: the short way where that is enough.
    pub fn settle(&mut self, vm: usize, upstream: &str, permit: Permit, outcome: Outcome) {
        let now = self.now;
        if let Some(breaker) = self.vms.get_mut(vm) {
            let well = outcome == Outcome::Success && !matches!(permit, Permit::Probe { .. });
            if well && breaker.settle_well(permit, upstream, Some(self.first_byte)) {
                return;
            }
            breaker.settle(permit, Some(upstream), &answer(outcome), Some(self.first_byte), now);
        }
    }

    /// One whole request on one VM. False: it was rejected.
    pub fn request(&mut self, vm: usize, upstream: &str, outcome: Outcome) -> bool {
        match self.admit(vm, upstream) {
            Admission::Pass(permit) => {
                self.settle(vm, upstream, permit, outcome);
                true
            }
            Admission::Reject { .. } => false,
        }
    }

    /// Failed requests, spread over all VMs.
    pub fn fail(&mut self, upstream: &str, times: usize) {
        self.repeat(upstream, times, Outcome::Failure(FailureKind::Http));
    }

    /// Good requests, spread over all VMs.
    pub fn succeed(&mut self, upstream: &str, times: usize) {
        self.repeat(upstream, times, Outcome::Success);
    }

    fn repeat(&mut self, upstream: &str, times: usize, outcome: Outcome) {
        let workers = self.vms.len().max(1);
        for turn in 0..times {
            self.request(turn.checked_rem(workers).unwrap_or(0), upstream, outcome);
        }
    }

    /// The state as the gauge tells it: 0 CLOSED, 1 HALF_OPEN, 2 OPEN.
    #[must_use]
    pub fn state(&self, upstream: &str) -> u64 {
        self.host.value(&crate::telemetry::metrics::STATE, upstream, "")
    }

    /// The reasons of all transitions so far.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let reason = |line: &String| {
            let (_, rest) = line.split_once("\"reason\":\"")?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        self.host.log_lines().iter().filter_map(reason).collect()
    }
}
