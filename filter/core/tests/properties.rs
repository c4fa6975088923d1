//! Properties that hold whatever happens, against a reference that is too simple to be wrong.
#![cfg(all(feature = "testing", not(target_arch = "wasm32")))]
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use circuit_breaker_core::Upstream;
use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::config::{CONFIG, Config, Field, Kind, effective};
use circuit_breaker_core::policy::classify::{FailureKind, Outcome};
use circuit_breaker_core::telemetry::metrics::{CALLS, REJECTED};
use circuit_breaker_core::testing::Proxy;
use proptest::prelude::*;
use serde_json::{Value, json};

const A: &str = "outbound|80||a.default.svc.cluster.local";
const BAD: Outcome = Outcome::Failure(FailureKind::Http);

/// Something that happens to a proxy of four workers.
#[derive(Clone, Copy, Debug)]
enum Event {
    Begin {
        vm: usize,
    },
    End {
        which: usize,
        outcome: Outcome,
    },
    Pass {
        time: u64,
    },
    /// The clock moves, and no worker ticks.
    Leap {
        time: u64,
    },
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![4 => Just(Outcome::Success), 4 => Just(BAD), 1 => Just(Outcome::Neutral)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..4_usize).prop_map(|vm| Event::Begin { vm }),
        6 => (0..64_usize, outcome()).prop_map(|(which, outcome)| Event::End { which, outcome }),
        2 => (1..4000_u64).prop_map(|time| Event::Pass { time: time * MILLISECOND }),
        1 => (1..4000_u64).prop_map(|time| Event::Leap { time: time * MILLISECOND }),
    ]
}

fn rejections(proxy: &Proxy) -> u64 {
    REJECTED.components.iter().map(|cause| proxy.host.value(&REJECTED, A, cause)).sum()
}

/// A section with some of its fields, each with a value that it may hold.
fn section(fields: &[Field], choose: &mut dyn FnMut() -> usize) -> Value {
    let mut all = serde_json::Map::new();
    for field in fields {
        if choose().is_multiple_of(2) || field.name == "match" {
            all.insert(field.name.to_owned(), value(field, choose));
        }
    }
    Value::Object(all)
}

fn value(field: &Field, choose: &mut dyn FnMut() -> usize) -> Value {
    let of = choose();
    let some = |words: &[&str], of: usize| -> Vec<Value> {
        words.iter().enumerate().filter(|(at, _)| of >> at & 1 == 1).map(|(_, word)| json!(word)).collect()
    };
    match (field.name, &field.kind) {
        ("match", _) => [
            json!({"host": "*.payments.svc.cluster.local"}),
            json!({"host": "a.default.svc.cluster.local", "port": 80}),
            json!({"cluster": "any-name"}),
            json!({"subset": "v2"}),
        ][of % 4]
            .clone(),
        ("window", _) => [json!({"duration": "1m30s"}), json!({"calls": 1_000_000})][of % 2].clone(),
        // Each value that a probe may not have stands in `config`.
        ("expectedStatus", _) => [json!([200]), json!(["2xx", "301-404"])][of % 2].clone(),
        ("activeProbe", Kind::Section(fields)) => {
            let mut probe = section(fields, choose);
            probe["path"] = json!(["/healthz", "/a?b=c", ""][of % 3]);
            probe
        }
        (_, Kind::Section(fields)) => section(fields, choose),
        (_, Kind::Sections(fields)) => (0..of % 4).map(|_| section(fields, choose)).collect(),
        (_, Kind::Choice(words)) => json!(words[of % words.len()]),
        (_, Kind::ChoiceOrDuration(words)) => json!(words.iter().chain(&["7s"]).nth(of % (words.len() + 1))),
        (_, Kind::Choices(words)) => Value::Array(some(words, of)),
        (_, Kind::Duration { .. }) => json!(["30s", "1m30s", "2.5s", "750ms", "1h", "301s"][of % 6]),
        (_, Kind::Percent) => json!([0.0, 0.0001, 12.5, 33.3333, 99.9, 100.0][of % 6]),
        (_, Kind::Integer { min, max }) => json!(min + u32::try_from(of).unwrap_or(0) % (max - min).min(500)),
        (_, Kind::Factor { .. }) => json!([1.0, 1.1, 2.0, 99.999][of % 4]),
        (_, Kind::Text { .. }) => json!(["", "line\n", "\"quoted\" \\ \u{1F600} \u{0}", "{\"a\": 1}"][of % 4]),
        (_, Kind::Visible { begins, .. }) => json!(["".to_owned(), format!("{begins}a\"b\\c")][of % 2]),
        (_, Kind::Line { .. }) => json!(["", "text/html; charset=\"utf-8\"", "\u{1F600}\\"][of % 3]),
        (_, Kind::Statuses) => Value::Array([json!(429), json!("5xx"), json!("500-504")][..of % 4].to_vec()),
        (_, Kind::Status) => json!([200, 429, 503, 599][of % 4]),
        (_, Kind::Paths) => Value::Array(some(&["/a", "/b/*", "/"], of)),
        (_, Kind::Path) => json!(["/", "/healthz"][of % 2]),
        (_, Kind::Hosts) => Value::Array(some(&["a.b", "*.shop.svc", "*"], of)),
        (_, Kind::ChoiceOrSection(words, _)) => json!(words[of % words.len()]),
        (_, Kind::Flag) => json!(of.is_multiple_of(2)),
        (_, Kind::Headers) => json!({"x-a": "b", "x-quoted": "\"\\"}),
    }
}

/// `PROPTEST_CASES` sets a larger number.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    /// One call at a time: the circuit opens exactly when a plain counter of failures in a row reaches the bound.
    #[test]
    fn the_streak_is_a_plain_counter(calls in prop::collection::vec((0..4_usize, outcome(), 0..3_u64), 1..200)) {
        let config = r#"{"default": {"trip": {"consecutiveFailures": 7, "failureRatePercent": 0}}}"#;
        let mut proxy = Proxy::start(4, config);
        let mut streak = 0;
        for (vm, outcome, seconds) in calls {
            proxy.pass(seconds * SECOND);
            prop_assert!(proxy.request(vm, A, outcome));
            match outcome {
                Outcome::Success => streak = 0,
                Outcome::Failure(_) => streak += 1,
                Outcome::Neutral | Outcome::Slow => {}
            }
            prop_assert_eq!(proxy.state(A), if streak >= 7 { 2 } else { 0 });
            if streak >= 7 {
                break;
            }
        }
    }

    /// The window holds no call that is older than ten buckets, and it holds every call of the last eight and a half.
    /// Samples are taken at ticks, half a bucket apart, so two of them may be one and a half buckets apart.
    #[test]
    fn the_rate_is_taken_over_the_window(calls in prop::collection::vec((0..4_usize, any::<bool>(), 0..2500_u64), 1..150)) {
        let config = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 50, "minimumCalls": 10}}}"#;
        let mut proxy = Proxy::start(4, config);
        let mut log: Vec<(u64, bool)> = Vec::new();
        for (vm, bad, milliseconds) in calls {
            proxy.pass(milliseconds * MILLISECOND);
            let admitted = proxy.request(vm, A, if bad { BAD } else { Outcome::Success });
            prop_assert!(admitted);
            log.push((proxy.now, bad));
            let holds = |length: u64| {
                let recent = || log.iter().filter(|(at, _)| proxy.now - at <= length);
                let (all, failed) = (recent().count(), recent().filter(|(_, bad)| *bad).count());
                all >= 10 && failed * 2 >= all
            };
            // A worker may see a window of any length between the two. What a window holds changes only where a call
            // leaves it, so these lengths are enough.
            let (shortest, longest) = (8500 * MILLISECOND, 10 * SECOND);
            let ages = log.iter().map(|(at, _)| proxy.now - at).filter(|age| (shortest..=longest).contains(age));
            let lengths: Vec<bool> = ages.chain([shortest]).map(holds).collect();
            let open = proxy.state(A) == 2;
            if open {
                prop_assert!(lengths.contains(&true), "tripped though no window holds it");
                break;
            }
            prop_assert!(lengths.contains(&false), "every window holds it, and it has not tripped");
        }
    }

    /// A circuit with a window of calls never trips where a list of the last calls says no. It trips where the list
    /// says yes even with some failures fewer: a bucket less one, and the calls of others between two calls of its
    /// own.
    #[test]
    fn the_rate_is_taken_over_the_last_calls(
        workers in prop_oneof![3 => Just(1_usize), 1 => Just(2), 1 => Just(4), 1 => Just(9)],
        (length, minimum, percent) in (10..150_usize).prop_flat_map(|length| (Just(length), 1..=length, 1..=100_usize)),
        runs in prop::collection::vec((1..40_usize, any::<bool>(), 0..9_usize, prop_oneof![3 => Just(0), 1 => 0..1000_u64]), 1..60),
    ) {
        let config = format!(r#"{{"default": {{"trip": {{"consecutiveFailures": 0, "failureRatePercent": {percent},
            "minimumCalls": {minimum}, "window": {{"calls": {length}}}}}}}}}"#);
        let mut proxy = Proxy::start(workers as u64, &config);
        let mut list: Vec<bool> = Vec::new();
        // The number of calls at each worker's last one, and the most calls of others since then.
        let mut last = vec![0; workers];
        let mut left = vec![0; workers];
        for (calls, bad, stride, milliseconds) in runs {
            for call in 0..calls {
                let vm = (call * stride + stride / 2) % workers;
                left[vm] = left[vm].max(list.len() - last[vm]);
                let admitted = proxy.request(vm, A, if bad { BAD } else { Outcome::Success });
                prop_assert!(admitted);
                list.push(bad);
                last[vm] = list.len();
                let known = &list[list.len().saturating_sub(length)..];
                let holds = |less: usize| {
                    let failed = known.iter().filter(|bad| **bad).count().saturating_sub(less);
                    known.len() >= minimum && failed * 100 >= percent * known.len()
                };
                let unknown = if list.len() <= length { 0 } else { length.div_ceil(10) - 1 + left[vm] };
                let open = proxy.state(A) == 2;
                prop_assert!(!open || holds(0), "tripped at call {} of worker {vm}, the list says no", list.len());
                prop_assert!(open || !holds(unknown), "not tripped at call {} of worker {vm}", list.len());
                if open {
                    return Ok(());
                }
            }
            proxy.pass(milliseconds * MILLISECOND);
        }
    }

    /// Whatever happens, these hold: requests are admitted or rejected, admitted ones are counted exactly once,
    /// probes never exceed their limit, generations never skip, and the gauge tells what the record says.
    #[test]
    fn nothing_is_lost_or_counted_twice(events in prop::collection::vec(event(), 1..400)) {
        let config = r#"{"default": {"open": {"baseDuration": "2s", "maxDuration": "4s"}, "trip": {"minimumCalls": 5},
            "halfOpen": {"maxConcurrentProbes": 2, "successThreshold": 2, "probeTimeout": "3s", "ramp": {"duration": "5s"}}}}"#;
        let mut proxy = Proxy::start(4, config);
        let mut out: Vec<(usize, Permit, u64)> = Vec::new();
        let (mut admitted, mut rejected) = (0, 0);
        for event in events {
            match event {
                Event::Begin { vm } => match proxy.admit(vm, A) {
                    Admission::Pass(permit) => {
                        admitted += 1;
                        out.push((vm, permit, proxy.now));
                    }
                    Admission::Reject { .. } => rejected += 1,
                },
                Event::End { which, outcome } if !out.is_empty() => {
                    let (vm, permit, _) = out.swap_remove(which % out.len());
                    proxy.settle(vm, A, permit, outcome);
                }
                Event::End { .. } => {}
                Event::Pass { time } => proxy.pass(time),
                Event::Leap { time } => proxy.now += time,
            }
            let now = proxy.now;
            // A probe counts against the limit until its timeout. Then it has failed.
            let probes = out.iter().filter(|(_, permit, at)| matches!(permit, Permit::Probe { .. }) && now - at < 3 * SECOND);
            let mut by_generation = std::collections::BTreeMap::new();
            for (_, permit, _) in probes {
                if let Permit::Probe { generation, .. } = permit {
                    *by_generation.entry(generation).or_insert(0) += 1;
                }
            }
            prop_assert!(by_generation.values().all(|probes| *probes <= 2), "{:?}", by_generation);
        }
        for (vm, permit, _) in out.drain(..) {
            proxy.settle(vm, A, permit, Outcome::Neutral);
        }
        let calls: u64 = CALLS.components.iter().map(|component| proxy.host.value(&CALLS, A, component)).sum();
        prop_assert_eq!(calls, admitted);
        prop_assert_eq!(rejections(&proxy), rejected);
        let generations: Vec<u64> = proxy.host.log_lines().iter().map(|line| {
            let (_, rest) = line.split_once("\"generation\":").unwrap();
            rest.split_once(',').unwrap().0.parse().unwrap()
        }).collect();
        prop_assert_eq!(&generations, &(1..=generations.len() as u64).collect::<Vec<_>>());
    }

    /// Any bytes are a configuration or an error, never a panic.
    #[test]
    fn any_document_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), number in any::<f64>(), word in ".*") {
        let _ = Config::parse(&bytes);
        let word = serde_json::to_string(&word).unwrap();
        for value in [serde_json::to_string(&number).unwrap(), word.clone(), format!("{{{word}: {word}}}"), format!("[{word}]")] {
            for path in ["trip", "mode", "open", "halfOpen", "rejection"] {
                let _ = Config::parse(format!(r#"{{"default": {{"{path}": {value}}}}}"#).as_bytes());
            }
            for field in ["baseDuration", "multiplier", "jitterPercent"] {
                let _ = Config::parse(format!(r#"{{"default": {{"open": {{"{field}": {value}}}}}}}"#).as_bytes());
            }
        }
    }

    /// The printed policy of an upstream parses to the policy that the whole document gives it.
    #[test]
    fn the_effective_policy_reads_as_itself(choices in prop::collection::vec(any::<u32>(), 400), upstream in 0..3_usize) {
        let mut choices = choices.into_iter().cycle();
        let document = section(CONFIG, &mut || choices.next().unwrap() as usize).to_string();
        let Ok(whole) = Config::parse(document.as_bytes()) else { return Ok(()) };
        let upstream = [A, "outbound|8443|v2|api.payments.svc.cluster.local", "any-name"][upstream];
        let printed = effective(document.as_bytes(), upstream).unwrap();
        let read = Config::parse(printed.as_bytes()).unwrap();
        let parsed = Upstream::parse(upstream);
        prop_assert_eq!(read.policy_of(&parsed), whole.policy_of(&parsed), "{}\n{}", document, printed);
        prop_assert_eq!(effective(printed.as_bytes(), upstream).unwrap(), printed);
    }

    /// Whatever bytes are in a record's place: bytes that are no record let everything pass, and with any record of
    /// this version the circuit works again.
    #[test]
    fn any_record_is_survived(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        // As long as a record of this version is.
        (0..6_u8, prop::collection::vec(any::<u8>(), 321)).prop_map(|(phase, rest)| [vec![1, 1, phase], rest].concat()),
    ]) {
        let mut proxy = Proxy::start(2, "");
        proxy.request(0, A, Outcome::Success);
        proxy.host.overwrite("circuit_breaker:circuit:", &bytes);
        proxy.configure(2, "");
        for turn in 0..200 {
            proxy.request(turn % 2, A, Outcome::Success);
            proxy.pass(10 * SECOND);
        }
        let passes = proxy.request(0, A, Outcome::Success) && proxy.request(1, A, Outcome::Success);
        prop_assert!(passes || bytes.get(1).is_some_and(|writer| *writer > 1), "it lets all pass in the end");
    }
}
