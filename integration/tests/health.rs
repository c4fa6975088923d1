//! The health endpoint: what outer layers are told of a proxy's upstreams.

use std::time::{Duration, Instant};

use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;

for_one_and_four_workers!(
    it_says_503_while_an_upstream_is_cut_off_and_turns_back_later,
    it_is_answered_on_every_connection_and_reaches_no_upstream,
    it_is_not_answered_where_it_is_not_configured,
);

const CONFIG: &str = r#"{
    "default": {"open": {"baseDuration": "1s", "jitterPercent": 0}, "halfOpen": {"successThreshold": 1, "ramp": {"duration": "0s"}}},
    "health": {"path": "/.well-known/circuit-breaker", "after": "1s", "recoverAfter": "2s", "detail": true}}"#;

const PATH: &str = "/.well-known/circuit-breaker";

async fn it_says_503_while_an_upstream_is_cut_off_and_turns_back_later(workers: u32) {
    let scenario = Scenario::start(workers, CONFIG).await;
    let status = || async { scenario.get(PATH).await.status };
    assert_eq!(status().await, 200);
    scenario.sick.behave(Behaviour::Status(500));
    scenario.trip().await;
    let tripped = Instant::now();
    until("the answer to be 503", status, |status| *status == 503).await;
    let after = tripped.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&after), "after {after:?}");
    let reply = scenario.get(PATH).await;
    let body: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
    assert_eq!((&body["healthy"], &body["open"][0]["upstream"]), (&false.into(), &"sick".into()));
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert!(!reply.is_rejection());
    scenario.sick.behave(Behaviour::Status(200));
    let healed = async || {
        scenario.get("/sick").await;
        scenario.state("sick").await
    };
    until("the circuit to close", healed, |state| *state == Some(State::Closed)).await;
    let closed = Instant::now();
    assert_eq!(status().await, 503, "it does not follow at once");
    until("the answer to be 200", status, |status| *status == 200).await;
    let after = closed.elapsed();
    assert!((Duration::from_millis(1400)..Duration::from_secs(5)).contains(&after), "after {after:?}");
}

async fn it_is_answered_on_every_connection_and_reaches_no_upstream(workers: u32) {
    let scenario = Scenario::start(workers, CONFIG).await;
    scenario.sick.behave(Behaviour::Status(500));
    scenario.trip().await;
    let unhealthy = || async { scenario.get(PATH).await.status };
    until("the answer to be 503", unhealthy, |status| *status == 503).await;
    let (seen, calls) = (scenario.sick.seen(), scenario.metric("circuit_breaker_calls_total", "sick", "failure").await);
    // Each connection may meet another worker.
    let replies = scenario.get_at_once(PATH, 32).await;
    let told: Vec<_> = replies.iter().map(|reply| (reply.status, reply.text())).collect();
    let healthy: Vec<_> = told.iter().filter(|(status, _)| *status != 503).collect();
    assert!(healthy.is_empty(), "{healthy:?}");
    assert_eq!(scenario.sick.seen(), seen);
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, calls);
}

async fn it_is_not_answered_where_it_is_not_configured(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    let reply = scenario.get(PATH).await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, ""), "an upstream answers");
}
