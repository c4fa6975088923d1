//! Two versions of the module at work on the same circuits, as during a rollout. Each has a listener of one Envoy,
//! and they share its shared data. The later versions are made for tests. The record of one has a tail, which the
//! present version is to carry along (layout 2). No earlier version may write the record of the other one (layout 3).

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use circuit_breaker_integration::bootstrap::{Bootstrap, Cluster, Listener};
use circuit_breaker_integration::client::{self, Reply};
use circuit_breaker_integration::envoy::{Delivery, Envoy, later_module, tool};
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{LISTENER as EARLIER, Scenario, State};
use circuit_breaker_integration::soak::counters::Counters;
use circuit_breaker_integration::soak::evidence::{Evidence, Round};
use circuit_breaker_integration::soak::invariants::{chain, rejections};
use circuit_breaker_integration::soak::journal::{Call, End, Journal, Span};
use circuit_breaker_integration::soak::log;
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use circuit_breaker_integration::wait::until;
use tokio::task::JoinHandle;

for_one_and_four_workers!(
    a_streak_a_trip_and_the_probes_are_of_both,
    both_under_load_are_one_breaker,
    a_listener_may_go_back_and_forth_between_them_under_load,
    where_only_the_later_one_may_write_the_earlier_one_obeys,
);

/// The listener with the later version.
const LATER: &str = "later";

const CONFIG: &str = r#"{"default": {"open": {"baseDuration": "1s", "multiplier": 1, "jitterPercent": 0},
    "halfOpen": {"successThreshold": 2, "ramp": {"duration": "0s"}}}}"#;

/// Clients of each listener.
const CLIENTS: usize = 2;

/// Time between two requests of a client: short enough for what a circuit needs, and long enough for a busy machine.
const PACE: Duration = Duration::from_millis(3);

/// An Envoy with both versions before two upstreams.
async fn start(workers: u32, layout: u8) -> Scenario {
    let module = later_module(layout);
    assert!(module.is_file(), "{} is not there: run `make build-later`", module.display());
    let (sick, other) = (Upstream::start().await, Upstream::start().await);
    let bootstrap = Bootstrap::new(
        vec![Cluster::new("sick", sick.address()), Cluster::new("other", other.address())],
        vec![
            Listener::new(EARLIER, Some(CONFIG)),
            Listener { module: Some(module), ..Listener::new(LATER, Some(CONFIG)) },
        ],
    );
    let mut command = Command::new(tool("envoy").unwrap());
    command.args(["--log-format", log::FORMAT]);
    let envoy = Envoy::start_by(bootstrap, workers, command).await.unwrap();
    Scenario { envoy, sick, other }
}

async fn get(scenario: &Scenario, listener: &str) -> Reply {
    client::get(scenario.envoy.address(listener), "/sick").await.unwrap()
}

/// Clients of both listeners, and what became of their requests.
struct Load {
    journal: Arc<Journal>,
    stop: Arc<AtomicBool>,
    /// Requests so far that passed and that were rejected: of the earlier version, and of the later one.
    counts: [Arc<[AtomicU64; 2]>; 2],
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(scenario: &Scenario) -> Load {
        let (journal, stop) = (Arc::new(Journal::begin()), Arc::default());
        let mut load = Load { journal, stop, counts: Default::default(), clients: Vec::new() };
        for (listener, counts) in [EARLIER, LATER].into_iter().zip(load.counts.clone()) {
            let to = scenario.envoy.address(listener);
            for _ in 0..CLIENTS {
                let (journal, stop, counts) = (load.journal.clone(), load.stop.clone(), counts.clone());
                load.clients.push(tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let from = journal.now();
                        let reply = client::get(to, "/sick").await.expect("an answer");
                        enter(&journal, &reply, from);
                        counts[usize::from(reply.is_rejection())].fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(PACE).await;
                    }
                }));
            }
        }
        load
    }

    /// So many requests of a version passed, or were rejected.
    fn count(&self, version: usize, rejected: bool) -> u64 {
        self.counts[version][usize::from(rejected)].load(Ordering::Relaxed)
    }

    /// Waits for so many more of each version.
    async fn until_more(&self, more: u64, rejected: bool) {
        let counts = || [self.count(0, rejected), self.count(1, rejected)];
        let before = counts();
        let enough = |now: &[u64; 2]| now.iter().zip(before).all(|(now, before)| *now >= before + more);
        until("more requests of both versions", || std::future::ready(counts()), enough).await;
    }

    async fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.await.unwrap();
        }
    }
}

fn enter(journal: &Journal, reply: &Reply, from: f64) {
    let span = Span { from, to: journal.now() };
    let end = match reply.is_rejection() {
        true => End::Rejected(reply.header("x-circuit-breaker").to_owned()),
        false => End::Answered(reply.status),
    };
    journal.with(|entries| {
        let id = entries.calls.len() as u64;
        entries.calls.push(Call { id, upstream: "sick".to_owned(), span, end });
    });
}

/// The upstream falls sick and gets well, and both versions go through all of it.
async fn outage(scenario: &Scenario, load: &Load) {
    scenario.sick.behave(Behaviour::Status(500));
    scenario.until_state("sick", State::Open).await;
    load.until_more(20, true).await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_state("sick", State::Closed).await;
    load.until_more(50, false).await;
}

/// The transitions are one chain, they explain every rejection, and there was no error.
async fn judge(scenario: &Scenario, load: &Load) {
    let counters = Counters::of(&scenario.envoy.stats().await.unwrap());
    let transitions = log::transitions(&scenario.envoy.log(), &load.journal);
    let round = Round {
        number: 1,
        span: Span { from: 0.0, to: load.journal.now() },
        before: Counters::default(),
        after: counters.clone(),
        seen: Default::default(),
        lines: Vec::new(),
        traps: false,
    };
    let end = load.journal.now();
    let trips = transitions.iter().filter(|transition| transition.to == State::Open).count();
    let entries = load.journal.with(|entries| entries.clone());
    let evidence = Evidence { entries, transitions, rounds: vec![round], end, ..Evidence::default() };
    for finding in [chain::check(&evidence), rejections::check(&evidence)] {
        assert!(finding.broken.is_empty(), "{}: {:#?}", finding.invariant, finding.broken);
    }
    assert_eq!(counters.sum("circuit_breaker_trips_total", "sick"), trips as u64);
    assert_eq!(counters.sum("circuit_breaker_internal_errors_total", ""), 0);
}

/// Waits until so many calls are settled and so many requests rejected, which are all requests. A call is settled a
/// moment after its client has the answer.
async fn until_booked(scenario: &Scenario, settled: u64, rejected: u64) {
    let look = || async {
        let counters = Counters::of(&scenario.envoy.stats().await.unwrap());
        (counters.sum("circuit_breaker_calls_total", "sick"), counters.sum("circuit_breaker_rejected_total", "sick"))
    };
    until(&format!("{settled} calls and {rejected} rejections"), look, |seen| *seen == (settled, rejected)).await;
}

/// Transitions that the version of this listener has made.
fn transitions_of(scenario: &Scenario, listener: &str) -> usize {
    let told = format!("wasm log {listener}-breaker circuit_breaker: circuit_breaker transition");
    scenario.envoy.log().matches(&told).count()
}

async fn a_streak_a_trip_and_the_probes_are_of_both(workers: u32) {
    let scenario = start(workers, 2).await;
    for (first, last) in [(EARLIER, LATER), (LATER, EARLIER)] {
        scenario.sick.behave(Behaviour::Status(500));
        for listener in [first, last, first, first, last] {
            assert!(!get(&scenario, listener).await.is_rejection());
        }
        scenario.until_state("sick", State::Open).await;
        for listener in [EARLIER, LATER] {
            assert_eq!(get(&scenario, listener).await.header("x-circuit-breaker"), "open");
        }
        assert_eq!(scenario.until_transition("consecutive").await["streak"], 5);
        assert!(transitions_of(&scenario, last) > 0, "whose call was the last one makes the trip");
        scenario.sick.behave(Behaviour::Gate(200));
        scenario.until_half_open().await;
        let rejected = || async { scenario.metric("circuit_breaker_rejected_total", "sick", "probe_limit").await };
        let before = rejected().await;
        let asked: Vec<_> = [EARLIER, LATER, EARLIER, LATER]
            .map(|listener| {
                let to = scenario.envoy.address(listener);
                tokio::spawn(async move { client::get(to, "/sick").await.unwrap() })
            })
            .into();
        until("all but one to be rejected", rejected, |seen| *seen == before + 3).await;
        scenario.until_in_flight(1).await;
        scenario.sick.behave(Behaviour::Status(200));
        scenario.sick.release(1);
        for reply in asked {
            reply.await.unwrap();
        }
        until("a second probe to pass", || get(&scenario, first), |reply| reply.status == 200).await;
        scenario.until_state("sick", State::Closed).await;
    }
    let one_round = ["consecutive", "open_over", "probes_succeeded"];
    assert_eq!(scenario.reasons(), [one_round, one_round].concat());
    scenario.until_metric("circuit_breaker_internal_errors_total", "", "record", 0).await;
}

async fn both_under_load_are_one_breaker(workers: u32) {
    let scenario = start(workers, 2).await;
    let mut load = Load::begin(&scenario);
    load.until_more(50, false).await;
    assert_eq!(load.count(0, true) + load.count(1, true), 0);
    for _ in 0..3 {
        outage(&scenario, &load).await;
    }
    load.end().await;
    let (passed, rejected) = (load.count(0, false) + load.count(1, false), load.count(0, true) + load.count(1, true));
    until_booked(&scenario, passed, rejected).await;
    assert_eq!(scenario.sick.seen(), passed);
    judge(&scenario, &load).await;
}

async fn a_listener_may_go_back_and_forth_between_them_under_load(workers: u32) {
    let scenario = start(workers, 2).await;
    let mut load = Load::begin(&scenario);
    for turn in 0..4 {
        let update = if turn % 2 == 0 {
            scenario.envoy.replace_module(EARLIER, &later_module(2), CONFIG).await
        } else {
            scenario.envoy.configure(EARLIER, CONFIG).await
        };
        assert_eq!(update.unwrap(), Delivery::Taken);
        outage(&scenario, &load).await;
    }
    load.end().await;
    assert_eq!(scenario.sick.seen(), load.count(0, false) + load.count(1, false));
    judge(&scenario, &load).await;
}

/// It rejects while the record says OPEN. It lets all else pass, and counts none of that.
async fn where_only_the_later_one_may_write_the_earlier_one_obeys(workers: u32) {
    let scenario = start(workers, 3).await;
    // The first request makes the record.
    assert_eq!(get(&scenario, LATER).await.status, 200);
    scenario.sick.behave(Behaviour::Status(500));
    for _ in 0..20 {
        assert!(!get(&scenario, EARLIER).await.is_rejection(), "what does not count trips nothing");
    }
    scenario.sick.behave(Behaviour::Status(200));
    let mut load = Load::begin(&scenario);
    for _ in 0..3 {
        outage(&scenario, &load).await;
    }
    load.end().await;
    until_booked(&scenario, 1 + load.count(1, false), load.count(0, true) + load.count(1, true)).await;
    assert_eq!(scenario.sick.seen(), 21 + load.count(0, false) + load.count(1, false));
    assert_eq!(transitions_of(&scenario, EARLIER), 0);
    judge(&scenario, &load).await;
}
