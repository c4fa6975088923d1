//! Random policies, and random traces of what happens under them.

use proptest::prelude::*;

use crate::rules::{Came, Rules, Window};

#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A request begins at this worker.
    Begin(usize),
    /// One of those in flight ends.
    End(usize, Came),
    /// So many requests, one after the other, each settled at once. The first is at this worker, and each next one so
    /// many workers on.
    Calls(usize, Came, [usize; 2]),
    /// So many ticks pass. After each of them so many requests go well, one at each worker in turn. This ends a ramp.
    Health(u64, usize),
    /// So many ticks pass.
    Ticks(u64),
    /// The workers sleep for so many ticks.
    Sleep(u64),
    /// The clock steps back by an hour.
    StepBack,
}

fn came() -> impl Strategy<Value = Came> {
    let asked = (0..10_000_u64).prop_map(Came::Asked);
    prop_oneof![8 => Just(Came::Good), 6 => Just(Came::Failed), 2 => asked, 2 => Just(Came::Nothing)]
}

pub fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..4_usize).prop_map(Event::Begin),
        8 => (0..64_usize, came()).prop_map(|(which, came)| Event::End(which, came)),
        8 => (1..8_usize, came(), [0..4_usize, 0..4]).prop_map(|(calls, came, who)| Event::Calls(calls, came, who)),
        2 => (1..60_u64, 1..6_usize).prop_map(|(ticks, calls)| Event::Health(ticks, calls)),
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

pub fn rules() -> impl Strategy<Value = Rules> {
    let asked = prop_oneof![2 => Just(0_u64), 1 => Just(60_000), 2 => 500..8000_u64];
    let open = (100..2000_u64, prop_oneof![Just(1_u64), Just(2)], 1..8_u64, asked);
    let half_open = (1..4_usize, 1..4_u64, 100..3000_u64, prop_oneof![Just(0_u64), Just(10), Just(60)]);
    let ramp = prop_oneof![Just(0_u64), Just(2000), Just(10_000)];
    let workers = prop_oneof![1 => Just(1_usize), 2 => 2..=4_usize];
    (workers, trips(), open, half_open, ramp, prop::bool::weighted(0.1)).prop_map(
        |(workers, (trip, window), open, half, ramp, observe)| Rules {
            workers,
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
            longest_asked: open.3,
            probes: half.0,
            good_probes: half.1,
            probe_timeout: half.2,
            ramp_initial: half.3,
            ramp,
            observe,
        },
    )
}

pub fn document(rules: &Rules) -> String {
    let mode = if rules.observe { "observe" } else { "enforce" };
    let latency = if rules.percentile == 0 { 0 } else { rules.threshold };
    let window = match rules.window {
        Window::Time(window) => format!(r#""duration": "{window}ms""#),
        Window::Calls(calls) => format!(r#""calls": {calls}"#),
    };
    format!(
        r#"{{"default": {{"mode": "{mode}", "trip": {{"consecutiveFailures": {}, "failureRatePercent": {}, "slowCallRatePercent": {},
        "slowCallDuration": "{}ms", "latencyPercentile": {}, "latencyThreshold": "{latency}ms", "minimumCalls": {}, "window": {{{window}}}}},
        "open": {{"baseDuration": "{}ms", "multiplier": {}, "maxDuration": "{}ms", "jitterPercent": 0, "maxRetryAfter": "{}ms"}},
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
        rules.longest_asked,
        rules.probes,
        rules.good_probes,
        rules.probe_timeout,
        rules.ramp_initial,
        rules.ramp,
    )
}
