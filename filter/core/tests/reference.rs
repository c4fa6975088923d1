//! The breaker decides as a reference model does, on random traces of events, clock steps and configurations.
//!
//! `TRACES=1000000 cargo test --release -p circuit-breaker-core --test reference` takes a million of them.
#![cfg(all(feature = "testing", not(target_arch = "wasm32")))]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

#[path = "reference/model.rs"]
mod model;
#[path = "reference/ramp.rs"]
mod ramp;
#[path = "reference/rules.rs"]
mod rules;
#[path = "reference/traces.rs"]
mod traces;
#[path = "reference/workers.rs"]
mod workers;

use circuit_breaker_core::breaker::permit::{Admission, Cause, Permit};
use circuit_breaker_core::clock::MILLISECOND;
use circuit_breaker_core::policy::classify::{Answer, FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::SHARED;
use circuit_breaker_core::testing::{Proxy, answer};
use model::{Model, Phase, Verdict};
use proptest::prelude::*;
use rules::{Came, Rules};
use traces::{Event, document, event, rules};

const A: &str = "outbound|80||a.default.svc.cluster.local";

const FAILURE: Outcome = Outcome::Failure(FailureKind::Http);

/// The breaker and the model beside it.
struct Both {
    proxy: Proxy,
    model: Model,
    rules: Rules,
    flights: Vec<Flight>,
    names: u64,
    /// Number of writes of the circuit's record when the model was told last.
    writes: u64,
}

/// A call in flight.
struct Flight {
    /// The model's name for it.
    name: u64,
    worker: usize,
    permit: Permit,
    start: u64,
}

impl Both {
    fn start(rules: Rules) -> Both {
        let proxy = Proxy::start(rules.workers as u64, &document(&rules));
        let model = Model::new(rules.clone(), proxy.now / MILLISECOND);
        let mut both = Both { proxy, model, rules, flights: Vec::new(), names: 0, writes: 0 };
        // A call makes the circuit, and all workers meet it.
        both.begin(0);
        both.end(0, Came::Good);
        both.happen(Event::Ticks(1));
        both
    }

    fn now(&self) -> u64 {
        self.proxy.now / MILLISECOND
    }

    fn begin(&mut self, worker: usize) {
        let worker = worker % self.rules.workers;
        let now = self.now();
        let expected = self.model.ask(worker, now);
        let admission = self.proxy.admit(worker, A);
        // Observe lets a request pass that it would reject, and that call then counts for nothing.
        let against = matches!(admission, Admission::Pass(Permit::Call { generation: Permit::NO_GENERATION, .. }));
        assert!(!against || self.rules.observe);
        let admitted = matches!(admission, Admission::Pass(_)) && !against;
        match (expected, admission) {
            (Verdict::Pass, _) => assert!(admitted, "{admission:?}"),
            (Verdict::Open(left), Admission::Reject { cause, retry_after, .. }) => {
                assert_eq!((cause, retry_after / MILLISECOND), (Cause::Open, left));
            }
            (Verdict::NoProbe, Admission::Reject { cause, .. }) => assert_eq!(cause, Cause::ProbeLimit),
            (Verdict::Open(_) | Verdict::NoProbe, Admission::Pass(_)) => assert!(against, "{admission:?}"),
            (Verdict::Share, _) => {
                let (share, overdue) = (self.model.share(now), self.model.overdue(now));
                self.model.workers[worker].picks.ask(share, overdue, admitted, now);
            }
        }
        if let Admission::Pass(permit) = admission {
            self.names += 1;
            self.model.send(worker, self.names, against, matches!(permit, Permit::Calm { .. }), now);
            self.flights.push(Flight { name: self.names, worker, permit, start: self.proxy.now });
        }
    }

    /// A whole request, if it may pass.
    fn call(&mut self, worker: usize, came: Came) {
        let before = self.flights.len();
        self.begin(worker);
        if self.flights.len() > before {
            self.end(before, came);
        }
    }

    fn end(&mut self, which: usize, came: Came) {
        if self.flights.is_empty() {
            return;
        }
        let Flight { name, worker, permit, start } = self.flights.remove(which % self.flights.len());
        let now = self.proxy.now;
        let vm = &mut self.proxy.vms[worker];
        let first_byte = vm.arrived(permit, now).unwrap_or(now.saturating_sub(start));
        self.proxy.first_byte = first_byte;
        match came {
            Came::Good | Came::Slow => self.proxy.settle(worker, A, permit, Outcome::Success),
            Came::Failed => self.proxy.settle(worker, A, permit, FAILURE),
            Came::Nothing => self.proxy.settle(worker, A, permit, Outcome::Neutral),
            Came::Asked(after) => {
                let asks = Answer { retry_after: Some(after * MILLISECOND), ..answer(FAILURE) };
                vm.settle(permit, Some(A), &asks, Some(first_byte), now);
            }
        }
        self.hear();
        self.model.end(name, came, now / MILLISECOND);
    }

    /// All workers tick, one after the other.
    fn tick(&mut self) {
        for worker in 0..self.rules.workers {
            let before = self.proxy.host.value(&SHARED, A, "epoch");
            self.proxy.vms[worker].tick(self.proxy.now);
            self.hear();
            let now = self.now();
            self.model.tick(worker, [before, self.writes], now);
        }
    }

    /// Tells the model of the breaker's transitions, which it needs where it may have to choose.
    fn hear(&mut self) {
        let writes = self.proxy.host.value(&SHARED, A, "epoch");
        if writes != self.writes {
            self.model.told = self.proxy.reasons();
            self.writes = writes;
        }
    }

    fn happen(&mut self, event: Event) {
        let period = self.rules.window.tick();
        match event {
            Event::Begin(worker) => self.begin(worker),
            Event::End(which, came) => self.end(which, came),
            Event::Calls(calls, came, [first, further]) => {
                (0..calls).for_each(|call| self.call(first + call * further, came));
            }
            Event::Health(ticks, calls) => {
                for _ in 0..ticks {
                    self.proxy.now += period * MILLISECOND;
                    self.tick();
                    (0..calls).for_each(|worker| self.call(worker, Came::Good));
                }
            }
            Event::Ticks(ticks) => {
                for _ in 0..ticks {
                    self.proxy.now += period * MILLISECOND;
                    self.tick();
                }
            }
            Event::Sleep(ticks) => {
                self.proxy.now += ticks * period * MILLISECOND;
                self.tick();
            }
            Event::StepBack => {
                self.proxy.now -= 3_600_000 * MILLISECOND;
                for flight in &mut self.flights {
                    flight.start = flight.start.min(self.proxy.now);
                }
                self.tick();
                // At the very instant of the step nobody could tell old calls from new ones.
                self.proxy.now += period * MILLISECOND;
                self.tick();
            }
        }
        let state = match self.model.phase {
            Phase::Closed => 0,
            Phase::Probe | Phase::Ramp => 1,
            Phase::Open => 2,
        };
        assert_eq!(
            self.proxy.state(A),
            state,
            "after {event:?}: {:?} and {:?}",
            self.proxy.reasons(),
            self.model.reasons
        );
    }
}

fn traces() -> u32 {
    // As many as a debug build does in some seconds.
    std::env::var("TRACES").ok().and_then(|traces| traces.parse().ok()).unwrap_or(2000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: traces(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_workers_decide_as_the_model_does(rules in rules(), events in prop::collection::vec(event(), 1..60)) {
        let mut both = Both::start(rules);
        for event in events {
            both.happen(event);
        }
        assert_eq!(both.proxy.reasons(), both.model.reasons);
    }
}
