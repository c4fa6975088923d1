//! CLOSED to OPEN in a real Envoy: what trips, what does not, and what the upstream sees of it.

use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::grpc::{self, Ending, GrpcUpstream};
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;

for_one_and_four_workers!(
    five_failures_in_a_row_trip,
    a_success_in_between_ends_the_streak,
    the_failure_rate_trips_at_the_minimum_of_calls,
    below_the_minimum_no_rate_trips,
    refused_connections_trip,
    timeouts_trip,
    resets_before_headers_trip,
    resets_after_good_headers_trip,
    closed_connections_trip,
    an_upstream_without_hosts_trips,
    failing_grpc_statuses_in_trailers_and_in_headers_trip,
    client_errors_and_clients_that_leave_do_not_trip,
    retries_that_ran_out_are_one_failure,
    two_upstreams_are_independent,
    after_a_trip_only_what_was_in_flight_has_reached_the_upstream,
);

const RATE: &str = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 50, "minimumCalls": 10}}}"#;

async fn five_failures_in_a_row_trip(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Status(503));
    let replies = scenario.get_times("/sick", 20).await;
    let rejected: Vec<bool> = replies.iter().map(|reply| reply.is_rejection()).collect();
    assert_eq!(rejected, [vec![false; 5], vec![true; 15]].concat(), "the sixth request is the first rejected one");
    assert_eq!(scenario.sick.seen(), 5);
    let trip = scenario.until_transition("consecutive").await;
    assert_eq!(
        (trip["upstream"].as_str(), trip["from"].as_str(), trip["to"].as_str()),
        (Some("sick"), Some("CLOSED"), Some("OPEN"))
    );
    assert_eq!((trip["generation"].as_u64(), trip["trips_in_a_row"].as_u64()), (Some(1), Some(1)));
    assert_eq!(trip["window"]["failures"], 5);
    assert_eq!(scenario.metric("circuit_breaker_trips_total", "sick", "consecutive").await, 1);
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "http").await, 5);
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, 5);
}

async fn a_success_in_between_ends_the_streak(workers: u32) {
    let scenario = Scenario::start(workers, r#"{"default": {"trip": {"failureRatePercent": 0}}}"#).await;
    for _ in 0..4 {
        scenario.sick.behave(Behaviour::Status(500));
        scenario.get_times("/sick", 4).await;
        scenario.sick.behave(Behaviour::Status(200));
        assert_eq!(scenario.get("/sick").await.status, 200);
    }
    assert_eq!(scenario.sick.seen(), 20);
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
}

async fn the_failure_rate_trips_at_the_minimum_of_calls(workers: u32) {
    let scenario = Scenario::start(workers, RATE).await;
    scenario.get_times("/sick", 5).await;
    scenario.sick.behave(Behaviour::Status(500));
    scenario.get_times("/sick", 4).await;
    assert_eq!(scenario.state("sick").await, Some(State::Closed), "nine calls");
    assert!(!scenario.get("/sick").await.is_rejection());
    assert!(scenario.get("/sick").await.is_rejection(), "the tenth call was the fifth failure");
    assert_eq!(scenario.metric("circuit_breaker_trips_total", "sick", "failure_rate").await, 1);
}

async fn below_the_minimum_no_rate_trips(workers: u32) {
    let scenario = Scenario::start(workers, RATE).await;
    scenario.sick.behave(Behaviour::Status(500));
    assert!(scenario.get_times("/sick", 9).await.iter().all(|reply| !reply.is_rejection()));
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
    assert_eq!(scenario.sick.seen(), 9);
}

/// Five failures of one kind, and the next request is rejected.
async fn trips_as(scenario: &Scenario, kind: &str, path: &str) {
    for _ in 0..5 {
        assert!(!scenario.get(path).await.is_rejection());
    }
    assert!(scenario.get(path).await.is_rejection());
    let upstream = path.trim_start_matches('/');
    assert_eq!(scenario.metric("circuit_breaker_failures_total", upstream, kind).await, 5);
}

async fn refused_connections_trip(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.refuse().await;
    trips_as(&scenario, "connect", "/sick").await;
}

async fn timeouts_trip(workers: u32) {
    let scenario =
        Scenario::start_with(workers, "", |bootstrap| bootstrap.clusters[0].timeout = "0.1s".to_owned()).await;
    scenario.sick.behave(Behaviour::Hang);
    trips_as(&scenario, "timeout", "/sick").await;
}

async fn resets_before_headers_trip(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::ResetBeforeHeaders);
    trips_as(&scenario, "reset", "/sick").await;
}

async fn resets_after_good_headers_trip(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::ResetAfterHeaders);
    trips_as(&scenario, "reset", "/sick").await;
}

async fn closed_connections_trip(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Close);
    trips_as(&scenario, "reset", "/sick").await;
}

async fn an_upstream_without_hosts_trips(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| bootstrap.clusters[0].address = None).await;
    trips_as(&scenario, "no_healthy_upstream", "/sick").await;
}

async fn failing_grpc_statuses_in_trailers_and_in_headers_trip(workers: u32) {
    let upstream = GrpcUpstream::start().await;
    let address = upstream.address();
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("grpc", address) });
    })
    .await;
    let to = scenario.envoy.address(LISTENER);
    upstream.end_with(Ending::Trailers(5));
    for _ in 0..6 {
        assert_eq!(grpc::call(to, "/grpc").await.unwrap().field("grpc-status"), "5", "NOT_FOUND is no failure");
    }
    for turn in 0..5 {
        if turn % 2 == 0 {
            upstream.end_with(Ending::Trailers(14))
        } else {
            upstream.end_with(Ending::Headers(13))
        }
        assert_eq!(grpc::call(to, "/grpc").await.unwrap().field("x-circuit-breaker"), "");
    }
    let rejected = grpc::call(to, "/grpc").await.unwrap();
    assert_eq!(rejected.status, 200);
    assert_eq!(rejected.field("x-circuit-breaker"), "open");
    assert_eq!(rejected.field("grpc-status"), "14");
    assert_eq!(rejected.field("grpc-message"), "upstream circuit is open");
    let pushback: u64 = rejected.field("grpc-retry-pushback-ms").parse().unwrap();
    assert!((29_000..=36_000).contains(&pushback), "{pushback}");
    assert_eq!(upstream.seen(), 11);
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "grpc", "grpc").await, 5);
}

async fn client_errors_and_clients_that_leave_do_not_trip(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Status(404));
    scenario.get_times("/sick", 10).await;
    // A client may read an answer before the upstream counts the request as ended.
    scenario.until_in_flight(0).await;
    scenario.sick.behave(Behaviour::Hang);
    for _ in 0..10 {
        let request = scenario.begin("/sick");
        scenario.until_in_flight(1).await;
        request.abort();
        scenario.until_in_flight(0).await;
    }
    scenario.until_metric("circuit_breaker_calls_total", "sick", "neutral", 10).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "success").await, 10);
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
}

async fn retries_that_ran_out_are_one_failure(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| bootstrap.clusters[0].retries = 2).await;
    scenario.sick.behave(Behaviour::Status(503));
    trips_as(&scenario, "http", "/sick").await;
    assert_eq!(scenario.sick.seen(), 15, "three attempts a request");
}

async fn two_upstreams_are_independent(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.trip().await;
    assert!(scenario.get_times("/other", 20).await.iter().all(|reply| reply.status == 200));
    assert_eq!(scenario.state("other").await, Some(State::Closed));
    assert!(scenario.get("/sick").await.is_rejection());
}

async fn after_a_trip_only_what_was_in_flight_has_reached_the_upstream(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Gate(500));
    let requests: Vec<_> = (0..64).map(|_| scenario.begin("/sick")).collect();
    scenario.until_in_flight(64).await;
    scenario.sick.release(5);
    scenario.until_state("sick", State::Open).await;
    let later = scenario.get_at_once("/sick", 64).await;
    assert!(later.iter().all(|reply| reply.is_rejection()));
    assert_eq!(scenario.sick.seen(), 64);
    scenario.sick.release(59);
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status, 500);
    }
    scenario.until_metric("circuit_breaker_calls_total", "sick", "failure", 64).await;
    assert_eq!(scenario.reasons(), ["consecutive"], "late failures are no second trip");
}
