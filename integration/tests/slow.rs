//! Slow calls in a real Envoy: late answers, and answers that never come.

use std::time::{Duration, Instant};

use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;

for_one_and_four_workers!(
    late_answers_trip_by_their_share,
    an_upstream_that_never_answers_trips_though_no_call_ends,
    calls_that_wait_are_told_apart_by_their_upstream,
    a_long_body_is_not_slow,
    a_percentile_of_the_latencies_over_its_threshold_trips,
);

fn slow_after(duration: &str) -> String {
    format!(
        r#"{{"default": {{"trip": {{"consecutiveFailures": 0, "slowCallDuration": "{duration}", "minimumCalls": 20}}}}}}"#
    )
}

async fn late_answers_trip_by_their_share(workers: u32) {
    let scenario = Scenario::start(workers, &slow_after("200ms")).await;
    scenario.sick.behave(Behaviour::Slow(Duration::from_millis(250), 200));
    assert!(scenario.get_at_once("/sick", 19).await.iter().all(|reply| reply.status == 200));
    scenario.until_metric("circuit_breaker_calls_total", "sick", "slow", 19).await;
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
    scenario.get("/sick").await;
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_trips_total", "sick", "slow_rate").await, 1);
    assert_eq!(scenario.until_transition("slow_rate").await["window"]["slow"], 20);
}

async fn an_upstream_that_never_answers_trips_though_no_call_ends(workers: u32) {
    let scenario = Scenario::start(workers, &slow_after("1s")).await;
    scenario.sick.behave(Behaviour::Hang);
    let begun = Instant::now();
    let hung: Vec<_> = (0..30).map(|_| scenario.begin("/sick")).collect();
    scenario.until_in_flight(30).await;
    let all_wait = Instant::now();
    scenario.until_state("sick", State::Open).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "no call was slow yet: {:?}", begun.elapsed());
    assert!(all_wait.elapsed() <= Duration::from_secs(2), "slowCallDuration and a second: {:?}", all_wait.elapsed());
    assert!(scenario.get("/sick").await.is_rejection());
    assert!(hung.iter().all(|request| !request.is_finished()), "nothing has ended");
    let slow = scenario.metric("circuit_breaker_calls_total", "sick", "slow").await;
    hung.iter().for_each(tokio::task::JoinHandle::abort);
    scenario.until_in_flight(0).await;
    scenario.until_metric("circuit_breaker_calls_total", "sick", "slow", 30).await;
    assert!(slow >= 20);
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "neutral").await, 0, "each counts once");
}

async fn calls_that_wait_are_told_apart_by_their_upstream(workers: u32) {
    let config = r#"{"upstreams": [{"match": {"cluster": "sick"}, "trip": {"slowCallDuration": "300ms"}},
        {"match": {"cluster": "other"}, "trip": {"slowCallDuration": "60s"}}]}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.sick.behave(Behaviour::Hang);
    scenario.other.behave(Behaviour::Hang);
    let hung: Vec<_> = (0..30).flat_map(|_| [scenario.begin("/sick"), scenario.begin("/other")]).collect();
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "other", "slow").await, 0);
    assert_eq!(scenario.state("other").await, Some(State::Closed));
    hung.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn a_percentile_of_the_latencies_over_its_threshold_trips(workers: u32) {
    let config = r#"{"default": {"trip": {"latencyPercentile": 90, "latencyThreshold": "300ms", "minimumCalls": 20,
        "window": {"duration": "60s"}}}}"#;
    let scenario = Scenario::start(workers, config).await;
    assert!(scenario.get_times("/sick", 27).await.iter().all(|reply| reply.status == 200));
    scenario.sick.behave(Behaviour::Slow(Duration::from_millis(350), 200));
    scenario.get_at_once("/sick", 3).await;
    scenario.until_metric("circuit_breaker_over_threshold_total", "sick", "", 3).await;
    assert_eq!(scenario.state("sick").await, Some(State::Closed), "the 27th of 30 was in time");
    scenario.get("/sick").await;
    let trip = scenario.until_transition("latency").await;
    assert_eq!((&trip["window"]["calls"], &trip["window"]["over_threshold"]), (&31.into(), &4.into()));
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.metric("circuit_breaker_trips_total", "sick", "latency").await, 1);
}

async fn a_long_body_is_not_slow(workers: u32) {
    let scenario = Scenario::start(workers, &slow_after("200ms")).await;
    scenario.sick.behave(Behaviour::Endless);
    let streams: Vec<_> = (0..30).map(|_| scenario.begin("/sick")).collect();
    scenario.until_in_flight(30).await;
    // Hung calls of another upstream have become slow by now, so the streams have had enough time too.
    scenario.other.behave(Behaviour::Hang);
    let hung: Vec<_> = (0..30).map(|_| scenario.begin("/other")).collect();
    scenario.until_state("other", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "slow").await, 0);
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
    streams.iter().chain(&hung).for_each(tokio::task::JoinHandle::abort);
}
