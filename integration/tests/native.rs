//! The host of the timed decisions is exact, and so is the breaker on it with real threads. Every count is there, the
//! next request of any thread sees a trip, and no failure goes unwatched.

#[path = "../benches/decisions/native.rs"]
mod native;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::Admission;
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::config::Config;
use circuit_breaker_core::host::{Host, MetricKind};
use circuit_breaker_core::policy::classify::Answer;
use circuit_breaker_core::telemetry::metrics::{CALLS, stat};
use native::{Native, Shared};

const A: &str = "outbound|80||a.default.svc.cluster.local";
const NOW: u64 = 1_790_000_000 * SECOND;

fn worker(shared: &Arc<Shared>, config: &str) -> Breaker<Native> {
    Breaker::start(shared.host(), Config::parse(config.as_bytes()).unwrap(), NOW, 1)
}

/// A request with this outcome, admitted and settled at once. False: it was rejected.
fn request(breaker: &mut Breaker<Native>, well: bool, now: u64) -> bool {
    let permit = if breaker.is_calm() {
        breaker.admit_unseen(1, now)
    } else {
        let Admission::Pass(permit) = breaker.admit(1, A, now) else { return false };
        permit
    };
    if !(well && breaker.settle_well(permit, A, None)) {
        let answer = if well { Answer::well() } else { Answer { status: 500, ..Answer::default() } };
        breaker.settle(permit, Some(A), &answer, None, now);
    }
    true
}

#[test]
fn what_four_threads_count_is_all_there() {
    const EACH: u64 = 20_000;
    let shared = Arc::<Shared>::default();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let off = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 0}}}"#;
                let mut breaker = worker(&shared, off);
                start.wait();
                for call in 0..EACH {
                    assert!(request(&mut breaker, call % 5 != 0, NOW));
                    if call % 1000 == 0 {
                        breaker.tick(NOW);
                    }
                }
            });
        }
    });
    let host = shared.host();
    let counted = |outcome| {
        let counter = host.define(MetricKind::Counter, &stat(&CALLS, A, outcome)).unwrap();
        host.read(counter).unwrap()
    };
    assert_eq!((counted("success"), counted("failure")), (4 * EACH / 5 * 4, 4 * EACH / 5));
}

#[test]
fn a_trip_is_seen_by_the_next_request_of_another_thread() {
    let shared = Arc::<Shared>::default();
    let mut here = worker(&shared, "{}");
    assert!(request(&mut here, true, NOW));
    here.tick(NOW);
    assert!(here.is_calm());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut there = worker(&shared, "{}");
            let passed = (0..10).take_while(|_| request(&mut there, false, NOW)).count();
            assert_eq!(passed, 5, "five failures in a row");
        });
    });
    assert!(!request(&mut here, true, NOW));
}

/// A worker that finds nothing to watch says so, and then looks again at what was counted meanwhile. A worker whose
/// call fails counts it, adds to the streak, and then asks to be watched. If a read of one of them overtook its own
/// write, a failure could go unwatched, and the good call after it would not end its streak.
#[test]
fn no_failure_goes_unwatched() {
    const ROUNDS: u64 = 20_000;
    let two_in_a_row = r#"{"default": {"trip": {"consecutiveFailures": 2, "failureRatePercent": 0}}}"#;
    let shared = Arc::<Shared>::default();
    let mut rejected = 0;
    // One thread begins a round by adding one, and the other ends it in the same way.
    let turn = AtomicU64::new(0);
    let wait_for = |number: u64| {
        while turn.load(Ordering::Acquire) < number {
            std::thread::yield_now();
        }
    };
    // One begins a little after the other, by a varying time, so that they meet at every step.
    let linger = |steps: u64| (0..steps).for_each(|_| std::hint::spin_loop());
    // By then the failures of the earlier round have left the window.
    let time = |round: u64| NOW + round * 60 * SECOND;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut breaker = worker(&shared, two_in_a_row);
            for round in 1..=ROUNDS {
                wait_for(2 * round - 1);
                linger(round % 41);
                breaker.tick(time(round));
                turn.fetch_add(1, Ordering::AcqRel);
            }
        });
        let mut breaker = worker(&shared, two_in_a_row);
        for round in 1..=ROUNDS {
            turn.fetch_add(1, Ordering::AcqRel);
            linger(round % 37);
            let mut passed = request(&mut breaker, false, time(round));
            wait_for(2 * round);
            for well in [true, false, true] {
                passed &= request(&mut breaker, well, time(round));
            }
            rejected += u32::from(!passed);
        }
    });
    assert_eq!(rejected, 0, "a trip without two failures in a row");
}
