//! Circuits that nobody uses end, and others get their slots.

use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;

for_one_and_four_workers!(
    an_upstream_that_was_deleted_while_open_is_forgotten,
    names_that_come_and_go_are_protected_each_time,
    no_circuit_makes_room_that_was_used_a_moment_ago,
);

/// A circuit ends two seconds after its last request.
fn config(most: u32) -> String {
    format!(
        r#"{{"default": {{"trip": {{"window": {{"duration": "1s"}}}}, "open": {{"baseDuration": "500ms", "jitterPercent": 0}}}},
            "limits": {{"maxCircuits": {most}, "idleCircuit": "2s"}}}}"#
    )
}

async fn until_circuits(scenario: &Scenario, held: u64) {
    let look = || scenario.metric("circuit_breaker_circuits", "", "");
    until(&format!("{held} circuits to be held"), look, |seen| *seen == held).await;
}

async fn errors(scenario: &Scenario) -> u64 {
    let mut errors = 0;
    for component in ["record", "cas", "host", "config"] {
        errors += scenario.metric("circuit_breaker_internal_errors_total", "", component).await;
    }
    errors
}

async fn an_upstream_that_was_deleted_while_open_is_forgotten(workers: u32) {
    let scenario = Scenario::start(workers, &config(8)).await;
    scenario.trip().await;
    until_circuits(&scenario, 0).await;
    assert_eq!(scenario.state("sick").await, Some(State::Closed), "no alert fires for ever");
    assert_eq!(scenario.metric("circuit_breaker_open_until_seconds", "sick", "").await, 0);
    assert_eq!(scenario.reasons(), ["consecutive", "open_over", "idle"]);
    let last = scenario.until_transition("idle").await;
    assert_eq!((last["from"].as_str(), last["to"].as_str()), (Some("HALF_OPEN"), Some("CLOSED")));
    scenario.trip().await;
    assert!(scenario.get("/sick").await.is_rejection(), "it has come back, and is protected");
    assert_eq!(scenario.metric("circuit_breaker_trips_total", "sick", "consecutive").await, 2, "counters go on");
    assert_eq!(errors(&scenario).await, 0);
}

async fn names_that_come_and_go_are_protected_each_time(workers: u32) {
    let names: Vec<String> = (0..6).map(|revision| format!("v{revision}/")).collect();
    let scenario = Scenario::start_with(workers, &config(2), |bootstrap| {
        let address = bootstrap.clusters[0].address.unwrap();
        bootstrap.clusters.extend(names.iter().map(|name| Cluster::new(name, address)));
    })
    .await;
    scenario.sick.behave(Behaviour::Status(500));
    for pair in names.chunks(2) {
        for name in pair {
            let replies = scenario.get_times(&format!("/{name}"), 6).await;
            let rejected: Vec<bool> = replies.iter().map(|reply| reply.is_rejection()).collect();
            assert_eq!(rejected, [false, false, false, false, false, true], "{name}: {:?}", scenario.reasons());
        }
        until_circuits(&scenario, 0).await;
    }
    assert_eq!(scenario.metric("circuit_breaker_unprotected_total", "", "").await, 0);
    assert_eq!(errors(&scenario).await, 0);
}

async fn no_circuit_makes_room_that_was_used_a_moment_ago(workers: u32) {
    let long = r#"{"limits": {"maxCircuits": 1}}"#;
    let scenario = Scenario::start(workers, long).await;
    assert_eq!(scenario.get("/other").await.status, 200);
    until_circuits(&scenario, 1).await;
    scenario.sick.behave(Behaviour::Status(500));
    let replies = scenario.get_times("/sick", 10).await;
    assert!(replies.iter().all(|reply| reply.status == 500), "it has no circuit");
    assert!(scenario.metric("circuit_breaker_unprotected_total", "", "").await >= 10);
    scenario.configure(r#"{"default": {"mode": "forceOpen"}, "limits": {"maxCircuits": 1}}"#).await;
    let look = || scenario.get("/sick");
    let reply =
        until("what was forced open to be rejected without a circuit", look, |reply| reply.is_rejection()).await;
    assert_eq!(reply.header("x-circuit-breaker"), "forced-open");
    assert_eq!(reply.header("retry-after"), "30");
}
