//! What a decision costs natively, beside the breakers that Rust has: `make bench-core`. It fails where this breaker
//! is not the fastest.
//!
//! Peers keep their state in the process and need no host. This breaker goes through a host at every step
//! (`native.rs`), keeps a histogram, and lists every call in flight for its tick. A peer's caller holds the breaker
//! that it asks; ours holds the circuit's name. For all breakers the compiler knows each caller's closure, and how a
//! call ends.

mod native;

use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::{Admission, Permit};
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::config::Config;
use circuit_breaker_core::policy::classify::Answer;
use circuit_breaker_integration::envoy::workspace;
use criterion::{Criterion, criterion_group};
use failsafe::CircuitBreaker;
use native::{Native, Shared};
use tower::{Service, ServiceExt};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

const A: &str = "outbound|80||a.default.svc.cluster.local";

/// Groups, and the breakers in them.
const CLOSED: &str = "closed: admit and settle a success";
const OPEN: &str = "open: reject";
const FOUR_THREADS: &str = "closed: four threads";
const OURS: &str = "this breaker";
/// What this breaker may take at most, as a part of the fastest peer's time.
const BOUND: f64 = 1.0;
const PEERS: &[&str] = &["recloser", "failsafe", "tower-resilience"];

const START: u64 = 1_790_000_000 * SECOND;

/// Nanoseconds to the first byte of an answer.
const FIRST_BYTE: u64 = 1000;

/// A worker, its clock, and a request from its admission to its end.
struct Worker {
    breaker: Breaker<Native>,
    upstream: Rc<str>,
    now: u64,
}

impl Worker {
    fn new(shared: &Arc<Shared>) -> Worker {
        let config = r#"{"default": {"open": {"baseDuration": "24h", "maxDuration": "24h"}, "trip": {"failureRatePercent": 0}}}"#;
        let config = Config::parse(config.as_bytes()).unwrap();
        let mut worker =
            Worker { breaker: Breaker::start(shared.host(), config, START, 1), upstream: Rc::from(A), now: START };
        worker.request(true);
        worker.upstream = Rc::clone(worker.breaker.upstream(0).unwrap());
        worker.breaker.tick(START);
        worker
    }

    /// A request that ends as a success, or as a failure. True: it was let go.
    #[inline(always)]
    fn request(&mut self, well: bool) -> bool {
        self.now += 1000;
        if !self.breaker.is_calm() {
            return self.request_seen(well);
        }
        let permit = self.breaker.admit_unseen(1, self.now);
        self.breaker.arrived(permit, self.now);
        let settled = well && self.breaker.settle_well(permit, &self.upstream, Some(FIRST_BYTE));
        if !settled && let Permit::Calm { flight, start } = permit {
            self.settle_unseen(flight, start, well);
        }
        true
    }

    /// The permit comes in parts, so that it stays in registers on the way here.
    #[cold]
    fn settle_unseen(&mut self, flight: u32, start: u64, well: bool) {
        self.settle(Permit::Calm { flight, start }, well);
    }

    /// Where not every circuit is CLOSED.
    #[inline(never)]
    fn request_seen(&mut self, well: bool) -> bool {
        let Admission::Pass(permit) = self.breaker.admit(1, &self.upstream, self.now) else { return false };
        self.breaker.arrived(permit, self.now);
        if !(well && self.breaker.settle_well(permit, &self.upstream, Some(FIRST_BYTE))) {
            self.settle(permit, well);
        }
        true
    }

    fn settle(&mut self, permit: Permit, well: bool) {
        let answer = if well { Answer::well() } else { Answer { status: 500, ..Answer::default() } };
        self.breaker.settle(permit, Some(&self.upstream), &answer, Some(FIRST_BYTE), self.now);
    }

    fn trip(&mut self) {
        while self.request(false) {}
    }
}

fn closed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(CLOSED);
    group.bench_function(OURS, |bencher| {
        let mut worker = Worker::new(&Arc::default());
        bencher.iter(|| black_box(worker.request(true)));
    });
    group.bench_function("recloser", |bencher| {
        let breaker = recloser::Recloser::custom().build();
        bencher.iter(|| black_box(breaker.call(|| Ok::<_, ()>(())).is_ok()));
    });
    group.bench_function("failsafe", |bencher| {
        let breaker = failsafe::Config::new().build();
        bencher.iter(|| black_box(breaker.call(|| Ok::<_, ()>(())).is_ok()));
    });
    group.bench_function("tower-resilience", |bencher| {
        bencher.iter_custom(|requests| tower_resilience(false, requests));
    });
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(OPEN);
    group.bench_function(OURS, |bencher| {
        let mut worker = Worker::new(&Arc::default());
        worker.trip();
        bencher.iter(|| black_box(!worker.request(true)));
    });
    group.bench_function("recloser", |bencher| {
        let breaker = recloser::Recloser::custom().closed_len(2).open_wait(Duration::from_secs(3600)).build();
        while !matches!(breaker.call(|| Err::<(), _>(())), Err(recloser::Error::Rejected)) {}
        bencher.iter(|| black_box(breaker.call(|| Ok::<_, ()>(())).is_err()));
    });
    group.bench_function("failsafe", |bencher| {
        let long = failsafe::backoff::constant(Duration::from_secs(3600));
        let policy = failsafe::failure_policy::consecutive_failures(2, long);
        let breaker = failsafe::Config::new().failure_policy(policy).build();
        while !matches!(breaker.call(|| Err::<(), _>(())), Err(failsafe::Error::Rejected)) {}
        bencher.iter(|| black_box(breaker.call(|| Ok::<_, ()>(())).is_err()));
    });
    group.bench_function("tower-resilience", |bencher| {
        bencher.iter_custom(|requests| tower_resilience(true, requests));
    });
    group.finish();
}

/// Many threads on one circuit: the time of a request when four ask at once.
fn four_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(FOUR_THREADS);
    group.bench_function(OURS, |bencher| {
        bencher.iter_custom(|requests| {
            let shared = Arc::default();
            in_four_threads(requests, || {
                let mut worker = Worker::new(&shared);
                move || worker.request(true)
            })
        });
    });
    group.bench_function("recloser", |bencher| {
        let breaker = Arc::new(recloser::Recloser::custom().build());
        bencher.iter_custom(|requests| {
            in_four_threads(requests, || {
                let breaker = Arc::clone(&breaker);
                move || breaker.call(|| Ok::<_, ()>(())).is_ok()
            })
        });
    });
    group.bench_function("failsafe", |bencher| {
        let breaker = failsafe::Config::new().build();
        bencher.iter_custom(|requests| {
            in_four_threads(requests, || {
                let breaker = breaker.clone();
                move || breaker.call(|| Ok::<_, ()>(())).is_ok()
            })
        });
    });
    group.finish();
}

/// Time of `requests` requests, a quarter of them in each thread, from the first thread's start to the last one's
/// end. Where there are fewer cores than threads, some threads wait for others. Each thread makes its own caller.
fn in_four_threads<F: FnMut() -> bool>(requests: u64, make: impl Fn() -> F + Sync) -> Duration {
    let barrier = Barrier::new(4);
    let times = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut request = make();
                    barrier.wait();
                    let start = Instant::now();
                    for _ in 0..requests.div_ceil(4) {
                        black_box(request());
                    }
                    (start, Instant::now())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let (first, last) = (times.iter().map(|(start, _)| start).min(), times.iter().map(|(_, end)| end).max());
    first.zip(last).map_or(Duration::ZERO, |(first, last)| last.duration_since(*first))
}

/// Time of so many requests through tower-resilience's breaker, all in one run of the executor, so that only its own
/// work is measured. `fails`: the inner service fails, and the circuit is OPEN when the clock starts.
fn tower_resilience(fails: bool, requests: u64) -> Duration {
    let layer = CircuitBreakerLayer::builder().wait_duration_in_open(Duration::from_secs(3600)).build().unwrap();
    let mut service =
        layer.layer_fn(tower::service_fn(move |()| async move { if fails { Err("down") } else { Ok(()) } }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..200 {
            let _ = service.ready().await.unwrap().call(()).await;
        }
        let start = Instant::now();
        for _ in 0..requests {
            let _ = black_box(service.ready().await.unwrap().call(()).await);
        }
        start.elapsed()
    })
}

criterion_group! {
    name = decisions;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(2)).without_plots();
    targets = closed, open, four_threads
}

fn main() -> ExitCode {
    decisions();
    Criterion::default().configure_from_args().final_summary();
    let verdicts = [CLOSED, FOUR_THREADS, OPEN].map(holds);
    if verdicts.into_iter().all(|holds| holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints how this breaker compares with the fastest peer, and whether that is within the bound.
fn holds(group: &str) -> bool {
    let mut times: Vec<(String, f64)> = [OURS].iter().chain(PEERS).filter_map(|name| found(group, name)).collect();
    // With a filter on the command line some breakers were not measured.
    if times.first().is_none_or(|(name, _)| name != OURS) || times.len() < 2 {
        return true;
    }
    let ours = times.remove(0).1;
    let Some((peer, fastest)) = times.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)) else { return true };
    let ratio = ours / fastest;
    let over = ratio > BOUND;
    println!(
        "{group}: {ours:.1} ns against {fastest:.1} ns of {peer}: {ratio:.2}x (must {BOUND}){}",
        if over { ": MISSED" } else { "" }
    );
    !over
}

/// The least of criterion's samples in nanoseconds: a disturbance of the machine only ever adds.
fn found(group: &str, name: &str) -> Option<(String, f64)> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    // Criterion's own names for directories.
    let directory = target.join("criterion").join(group.replace(':', "_")).join(name);
    let text = std::fs::read_to_string(directory.join("new/sample.json")).ok()?;
    let sample: serde_json::Value = serde_json::from_str(&text).ok()?;
    let numbers = |field: &str| Some(sample[field].as_array()?.iter().filter_map(serde_json::Value::as_f64).collect());
    let (times, rounds): (Vec<f64>, Vec<f64>) = (numbers("times")?, numbers("iters")?);
    let each = times.iter().zip(&rounds).map(|(time, rounds)| time / rounds);
    Some((name.to_owned(), each.min_by(f64::total_cmp)?))
}
