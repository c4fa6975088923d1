//! Hangs, streams that break off late, drills, and what an upstream may ask for, in a real Envoy.

use std::time::Duration;

use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::client;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::grpc::{self, Ending, GrpcUpstream};
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use http_body_util::BodyExt;

for_one_and_four_workers!(
    rare_calls_that_hang_trip_in_a_row,
    clients_that_waited_long_enough_and_left_count,
    a_stream_that_breaks_off_late_is_counted_twice_and_fails_in_a_row,
    a_unary_grpc_call_is_judged_by_its_trailers_whenever_they_come,
    injected_faults_count_in_a_drill,
    a_neutral_answer_asks_for_no_longer_open_time,
    open_ends_in_observe_though_failures_go_on,
    what_has_no_service_of_its_own_has_a_circuit_only_where_an_entry_names_it,
    no_forged_path_is_exempt,
);

async fn rare_calls_that_hang_trip_in_a_row(workers: u32) {
    let scenario = Scenario::start(workers, r#"{"default": {"trip": {"slowCallDuration": "300ms"}}}"#).await;
    scenario.sick.behave(Behaviour::Hang);
    let mut hung = Vec::new();
    for calls in 1..=5 {
        hung.push(scenario.begin("/sick"));
        scenario.until_metric("circuit_breaker_calls_total", "sick", "slow", calls).await;
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.reasons(), ["consecutive"]);
    assert!(hung.iter().all(|call| !call.is_finished()), "nothing has ended");
    hung.iter().for_each(tokio::task::JoinHandle::abort);
    scenario.until_in_flight(0).await;
    scenario.sick.behave(Behaviour::Status(200));
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.counts("sick").await, [0, 0, 5, 0], "each counts once");
}

async fn clients_that_waited_long_enough_and_left_count(workers: u32) {
    let scenario = Scenario::start(workers, r#"{"default": {"failure": {"clientCancel": "1s"}}}"#).await;
    scenario.sick.behave(Behaviour::Hang);
    for (waited, clients, failures, neutral) in [(200, 6, 0, 6), (1200, 5, 5, 6)] {
        let calls: Vec<_> = (0..clients).map(|_| scenario.begin("/sick")).collect();
        scenario.until_in_flight(clients).await;
        tokio::time::sleep(Duration::from_millis(waited)).await;
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        scenario.until_metric("circuit_breaker_failures_total", "sick", "client_cancel", failures).await;
        scenario.until_metric("circuit_breaker_calls_total", "sick", "neutral", neutral).await;
    }
    scenario.until_state("sick", State::Open).await;
}

/// An Envoy before a gRPC upstream `grpc`.
async fn before_grpc(workers: u32) -> (Scenario, GrpcUpstream) {
    let upstream = GrpcUpstream::start().await;
    let address = upstream.address();
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("grpc", address) });
    })
    .await;
    (scenario, upstream)
}

async fn a_stream_that_breaks_off_late_is_counted_twice_and_fails_in_a_row(workers: u32) {
    let (scenario, upstream) = before_grpc(workers).await;
    upstream.end_with(Ending::Reset);
    for stream in 1..=5 {
        // A GET that streams, as an event stream does.
        let reply = grpc::get(scenario.envoy.address(LISTENER), "/grpc").await.unwrap();
        scenario.until_metric("circuit_breaker_calls_total", "grpc", "success", stream).await;
        upstream.break_off();
        assert!(reply.into_body().collect().await.is_err());
        scenario.until_metric("circuit_breaker_failures_total", "grpc", "reset", stream).await;
    }
    scenario.until_state("grpc", State::Open).await;
    assert_eq!((scenario.reasons(), scenario.counts("grpc").await), (vec!["consecutive".to_owned()], [5, 5, 0, 0]));
}

async fn a_unary_grpc_call_is_judged_by_its_trailers_whenever_they_come(workers: u32) {
    let (scenario, upstream) = before_grpc(workers).await;
    upstream.end_with(Ending::Late(14));
    let to = scenario.envoy.address(LISTENER);
    let mut replies = Vec::new();
    for _ in 0..5 {
        replies.push(grpc::begin(to, "/grpc").await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scenario.counts("grpc").await, [0; 4], "none is judged by its beginning");
    for reply in replies {
        upstream.break_off();
        reply.into_body().collect().await.unwrap();
    }
    scenario.until_state("grpc", State::Open).await;
    assert_eq!(scenario.counts("grpc").await, [0, 5, 0, 0]);
}

async fn injected_faults_count_in_a_drill(workers: u32) {
    let config = r#"{"default": {"failure": {"injectedFaults": "failure"}, "trip": {"slowCallDuration": "300ms"}}}"#;
    let scenario = Scenario::start(workers, config).await;
    let to = scenario.envoy.address(LISTENER);
    let reply = client::request(to, "GET", "/sick", &[("x-envoy-fault-delay-request", "600")]).await.unwrap();
    assert_eq!(reply.status, 200);
    scenario.until_metric("circuit_breaker_calls_total", "sick", "slow", 1).await;
    scenario.get("/sick").await;
    for _ in 0..5 {
        let reply = client::request(to, "GET", "/sick", &[("x-envoy-fault-abort-request", "503")]).await.unwrap();
        assert!(reply.status == 503 && !reply.is_rejection());
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "http").await, 5);
    assert_eq!(scenario.sick.seen(), 2);
}

async fn a_neutral_answer_asks_for_no_longer_open_time(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "1s", "jitterPercent": 0}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.sick.behave(Behaviour::With(429, "retry-after", "300".to_owned()));
    scenario.get_times("/sick", 8).await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.get("/sick").await;
    scenario.trip().await;
    assert_eq!(scenario.until_transition("consecutive").await["open_ms"], 1000);
}

async fn open_ends_in_observe_though_failures_go_on(workers: u32) {
    let config = r#"{"default": {"mode": "observe", "open": {"baseDuration": "300ms", "jitterPercent": 0, "maxRetryAfter": "5m"}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.sick.behave(Behaviour::With(503, "retry-after", "2".to_owned()));
    while !scenario.reasons().iter().any(|reason| reason == "probe_failed") {
        assert_eq!(scenario.get("/sick").await.status, 503);
        assert!(scenario.sick.seen() < 5000, "OPEN does not end: {:?}", scenario.reasons());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(scenario.reasons()[..3], ["consecutive", "open_over", "probe_failed"]);
}

async fn what_has_no_service_of_its_own_has_a_circuit_only_where_an_entry_names_it(workers: u32) {
    let named = r#"{"upstreams": [{"match": {"cluster": "PassthroughCluster"}, "mode": "enforce"}]}"#;
    for (config, trips) in [("", false), (named, true)] {
        let world = Upstream::start().await;
        world.behave(Behaviour::Status(500));
        let address = world.address();
        let scenario = Scenario::start_with(workers, config, |bootstrap| {
            bootstrap.clusters.push(Cluster::new("PassthroughCluster", address));
        })
        .await;
        let replies = scenario.get_times("/PassthroughCluster", 20).await;
        assert_eq!(replies.iter().any(client::Reply::is_rejection), trips, "{config}");
        assert_eq!(scenario.counts("PassthroughCluster").await[1], if trips { 5 } else { 0 });
    }
}

async fn no_forged_path_is_exempt(workers: u32) {
    for normalizes in [false, true] {
        let config = r#"{"exempt": {"paths": ["/sick/readyz/*"]}}"#;
        let scenario = Scenario::start_with(workers, config, |bootstrap| {
            bootstrap.connection_manager = serde_json::json!({"normalize_path": normalizes});
        })
        .await;
        scenario.trip().await;
        for forged in ["/../pay", "/..%2fpay", "/%2e%2e/pay", "/..;/pay", "/x/..%2F..%2fpay", "/..%5cpay"] {
            let reply = scenario.get(&format!("/sick/readyz{forged}")).await;
            assert!(reply.is_rejection(), "{forged}, normalized: {normalizes}");
        }
        assert!(!scenario.get("/sick/readyz/db").await.is_rejection());
    }
}
