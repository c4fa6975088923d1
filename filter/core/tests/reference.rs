//! The breaker decides as a reference model does, on random traces of events, clock steps and configurations.
//!
//! `TRACES=1000000 cargo test --release -p circuit-breaker-core --test reference` takes a million of them.
#![cfg(all(feature = "testing", not(target_arch = "wasm32")))]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

#[path = "reference/model.rs"]
mod model;
#[path = "reference/rules.rs"]
mod rules;

use circuit_breaker_core::config::MILLISECOND;
use circuit_breaker_core::outcome::{FailureKind, Outcome};
use circuit_breaker_core::permit::{Admission, Cause, Permit};
use circuit_breaker_core::testing::Proxy;
use model::{Model, Phase, Verdict};
use proptest::prelude::*;
use rules::{Came, Rules, Window};

const A: &str = "outbound|80||a.default.svc.cluster.local";

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A request begins.
    Begin,
    /// One of those in flight ends.
    End(usize, Came),
    /// So many requests, one after the other, each at once.
    Calls(usize, Came),
    /// So many ticks pass.
    Ticks(u64),
    /// The workers sleep so many ticks long.
    Sleep(u64),
    /// The clock steps back by an hour.
    StepBack,
}

fn came() -> impl Strategy<Value = Came> {
    prop_oneof![4 => Just(Came::Good), 4 => Just(Came::Failed), 1 => Just(Came::Nothing)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Begin),
        8 => (0..64_usize, came()).prop_map(|(which, came)| Event::End(which, came)),
        8 => (1..8_usize, came()).prop_map(|(calls, came)| Event::Calls(calls, came)),
        8 => (1..8_u64).prop_map(Event::Ticks),
        2 => (8..80_u64).prop_map(Event::Ticks),
        1 => (1..80_u64).prop_map(Event::Sleep),
        1 => Just(Event::StepBack),
    ]
}

/// `consecutive`, `failure_percent`, `slow_percent`, `slow_after`, `percentile`, `threshold` and `minimum`, and the window.
fn trips() -> impl Strategy<Value = ([u64; 7], Window)> {
    let latency = prop_oneof![2 => Just((0, 0)), 1 => (50..100_u64, 1..8_u64)];
    let slow = prop_oneof![1 => Just((0, 60_000)), 2 => (1..=100_u64, 1..30_u64)];
    let failures = (prop_oneof![Just(0), 1..6_u64], prop_oneof![Just(0), 1..=100_u64]);
    (failures, slow, latency, 1..12_u64, window()).prop_map(|((row, rate), slow, latency, minimum, window)| {
        let tick = window.tick();
        let slow_after = if slow.0 == 0 { slow.1 } else { slow.1 * tick };
        let minimum = if let Window::Calls(calls) = window { minimum.min(calls as u64) } else { minimum };
        ([row, rate, slow.0, slow_after, latency.0, latency.1 * tick, minimum], window)
    })
}

fn window() -> impl Strategy<Value = Window> {
    let time = prop_oneof![Just(1000_u64), Just(2000), Just(5000), Just(10_000)];
    prop_oneof![4 => time.prop_map(Window::Time), 1 => Just(Window::Calls(10)), 2 => (10..40_usize).prop_map(Window::Calls)]
}

fn rules() -> impl Strategy<Value = Rules> {
    let open = (100..2000_u64, prop_oneof![Just(1_u64), Just(2)], 1..8_u64);
    let half_open = (1..4_usize, 1..4_u64, 100..3000_u64, prop_oneof![Just(0_u64), Just(10), Just(60)]);
    let ramp = prop_oneof![Just(0_u64), Just(2000), Just(10_000)];
    (trips(), open, half_open, ramp, prop::bool::weighted(0.1)).prop_map(
        |((trip, window), open, half, ramp, observe)| Rules {
            consecutive: trip[0],
            failure_percent: trip[1],
            slow_percent: trip[2],
            slow_after: trip[3],
            percentile: trip[4],
            threshold: trip[5],
            minimum: trip[6],
            window,
            base: open.0,
            multiplier: open.1,
            longest: open.0 * open.2,
            probes: half.0,
            good_probes: half.1,
            probe_timeout: half.2,
            ramp_initial: half.3,
            ramp,
            observe,
        },
    )
}

fn document(rules: &Rules) -> String {
    let mode = if rules.observe { "observe" } else { "enforce" };
    let latency = if rules.percentile == 0 { 0 } else { rules.threshold };
    let window = match rules.window {
        Window::Time(window) => format!(r#""duration": "{window}ms""#),
        Window::Calls(calls) => format!(r#""calls": {calls}"#),
    };
    format!(
        r#"{{"default": {{"mode": "{mode}", "trip": {{"consecutiveFailures": {}, "failureRatePercent": {}, "slowCallRatePercent": {},
        "slowCallDuration": "{}ms", "latencyPercentile": {}, "latencyThreshold": "{latency}ms", "minimumCalls": {}, "window": {{{window}}}}},
        "open": {{"baseDuration": "{}ms", "multiplier": {}, "maxDuration": "{}ms", "jitterPercent": 0, "maxRetryAfter": "0s"}},
        "halfOpen": {{"maxConcurrentProbes": {}, "successThreshold": {}, "probeTimeout": "{}ms",
        "ramp": {{"initialPercent": {}, "duration": "{}ms"}}}}}}}}"#,
        rules.consecutive,
        rules.failure_percent,
        rules.slow_percent,
        rules.slow_after,
        rules.percentile,
        rules.minimum,
        rules.base,
        rules.multiplier,
        rules.longest,
        rules.probes,
        rules.good_probes,
        rules.probe_timeout,
        rules.ramp_initial,
        rules.ramp,
    )
}

/// The breaker and the model beside it.
struct Both {
    proxy: Proxy,
    model: Model,
    rules: Rules,
    /// Calls in flight: the model's name, the permit, the start.
    flights: Vec<(u64, Permit, u64)>,
    names: u64,
}

impl Both {
    fn start(rules: Rules) -> Both {
        let mut proxy = Proxy::start(1, &document(&rules));
        let now = proxy.now;
        let model = Model::new(rules.clone(), now / MILLISECOND);
        // A call makes the circuit.
        let Admission::Pass(permit) = proxy.admit(0, A) else { panic!("calm") };
        let mut both = Both { proxy, model, rules, flights: vec![(0, permit, now)], names: 0 };
        both.model.send(0, false, true, now / MILLISECOND);
        both.end(0, Came::Good);
        both
    }

    fn now(&self) -> u64 {
        self.proxy.now / MILLISECOND
    }

    fn begin(&mut self) {
        let now = self.now();
        let expected = self.model.ask(now);
        let admission = self.proxy.admit(0, A);
        // Observe lets pass what it would reject, and its call then counts for nothing.
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
            (Verdict::Share, _) => self.check_share(admitted, now),
        }
        if let Admission::Pass(permit) = admission {
            self.names += 1;
            self.model.send(self.names, against, matches!(permit, Permit::Calm { .. }), now);
            self.flights.push((self.names, permit, self.proxy.now));
        }
    }

    /// Of all calls that ask in a ramp as many pass as the shares add up to, give or take the one that is under way.
    fn check_share(&mut self, admitted: bool, now: u64) {
        if self.model.overdue(now) {
            // Then one passes for each step's length, whatever the share: counted afresh from here.
            (self.model.shares, self.model.passed) = (0, 0);
            return;
        }
        self.model.shares += self.model.share(now);
        self.model.passed += u64::from(admitted);
        let ahead = (self.model.passed * 1_000_000).abs_diff(self.model.shares);
        assert!(ahead <= 1_000_000, "{} passed of {} millionths", self.model.passed, self.model.shares);
    }

    fn end(&mut self, which: usize, came: Came) {
        if self.flights.is_empty() {
            return;
        }
        let (name, permit, start) = self.flights.remove(which % self.flights.len());
        let outcome = match came {
            Came::Good | Came::Slow => Outcome::Success,
            Came::Failed => Outcome::Failure(FailureKind::Http),
            Came::Nothing => Outcome::Neutral,
        };
        let now = self.proxy.now;
        let waited = self.proxy.vms[0].arrived(permit, now);
        self.proxy.first_byte = waited.unwrap_or(now.saturating_sub(start));
        self.proxy.settle(0, A, permit, outcome);
        self.hear();
        self.model.end(name, came, now / MILLISECOND);
    }

    fn tick(&mut self) {
        self.proxy.vms[0].tick(self.proxy.now);
        self.hear();
        let now = self.now();
        self.model.tick(now);
    }

    fn hear(&mut self) {
        if matches!(self.rules.window, Window::Calls(_)) {
            self.model.told = self.proxy.reasons();
        }
    }

    fn happen(&mut self, event: Event) {
        let period = self.rules.window.tick();
        match event {
            Event::Begin => self.begin(),
            Event::End(which, came) => self.end(which, came),
            Event::Calls(calls, came) => {
                for _ in 0..calls {
                    let before = self.flights.len();
                    self.begin();
                    if self.flights.len() > before {
                        self.end(before, came);
                    }
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
                    flight.2 = flight.2.min(self.proxy.now);
                }
                self.tick();
                // At the very instant of the step, old and new calls could not be told apart.
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
    // As many as a debug build takes in some seconds.
    std::env::var("TRACES").ok().and_then(|traces| traces.parse().ok()).unwrap_or(2000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: traces(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_worker_decides_as_the_model_does(rules in rules(), events in prop::collection::vec(event(), 1..60)) {
        let mut both = Both::start(rules);
        for event in events {
            both.happen(event);
        }
        assert_eq!(both.proxy.reasons(), both.model.reasons);
    }
}
