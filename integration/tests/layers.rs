//! The breaker beside Envoy's own layers, as a DestinationRule and a VirtualService set them up: retries, timeouts,
//! outlier detection. The rules of `istio/resilience.md` come from these tests.

use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{Scenario, State};
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use circuit_breaker_integration::wait::until;
use serde_json::json;

for_one_and_four_workers!(
    one_bad_host_of_two_is_ejected_and_the_circuit_stays_closed,
    an_upstream_of_many_bad_hosts_trips_before_any_is_ejected,
    retries_hide_a_bad_host_from_users_and_from_the_circuit_but_not_from_ejection,
    attempts_all_shows_the_circuit_what_retries_hide,
    retries_eject_a_host_before_the_circuit_trips,
    when_all_hosts_are_ejected_no_healthy_upstream_trips_the_circuit,
    a_probe_that_comes_before_the_ejected_host_is_back_reopens,
    a_probe_that_comes_after_the_ejected_host_is_back_recovers,
    a_route_timeout_shorter_than_all_tries_cuts_the_last_ones_off,
);

/// The DestinationRule's `consecutive5xxErrors: 5` and `maxEjectionPercent: 100`, with times that suit a test.
fn ejecting(cluster: &mut Cluster, base_ejection_time: &str) {
    cluster.outlier_detection = Some(json!({
        "consecutive_5xx": 5,
        "interval": "1s",
        "base_ejection_time": base_ejection_time,
        "max_ejection_time": base_ejection_time,
        "max_ejection_percent": 100,
        // Istio switches these off too.
        "enforcing_success_rate": 0,
    }));
}

/// `sick` is one of so many hosts. `retries`: those of the route.
async fn with_hosts(
    workers: u32,
    config: &str,
    more: &[&Upstream],
    retries: u32,
    base_ejection_time: &str,
) -> Scenario {
    let more = more.iter().map(|upstream| upstream.address()).collect();
    Scenario::start_with(workers, config, |bootstrap| {
        let cluster = &mut bootstrap.clusters[0];
        ejecting(cluster, base_ejection_time);
        cluster.more_addresses = more;
        cluster.retries = retries;
    })
    .await
}

async fn ejected(scenario: &Scenario) -> u64 {
    scenario.envoy.stats().await.unwrap()["cluster.sick.outlier_detection.ejections_active"]
}

async fn until_ejected(scenario: &Scenario, hosts: u64) {
    until(&format!("{hosts} hosts to be ejected"), || ejected(scenario), |seen| *seen == hosts).await;
}

async fn one_bad_host_of_two_is_ejected_and_the_circuit_stays_closed(workers: u32) {
    let well = Upstream::start().await;
    // Each worker takes turns among the hosts by itself. With four workers five failures in a row may come by chance.
    let config = r#"{"default": {"trip": {"consecutiveFailures": 10}}}"#;
    let scenario = with_hosts(workers, if workers == 1 { "" } else { config }, &[&well], 0, "300s").await;
    scenario.sick.behave(Behaviour::Status(503));
    while scenario.sick.seen() < 5 {
        assert!(!scenario.get("/sick").await.is_rejection());
    }
    until_ejected(&scenario, 1).await;
    let before = scenario.sick.seen();
    assert!(scenario.get_times("/sick", 30).await.iter().all(|reply| reply.status == 200));
    assert_eq!(scenario.sick.seen(), before);
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "http").await, before);
}

async fn an_upstream_of_many_bad_hosts_trips_before_any_is_ejected(workers: u32) {
    let (second, third) = (Upstream::start().await, Upstream::start().await);
    // With four workers, one host may by chance get all of the first requests, and four of them eject nobody.
    let config = r#"{"default": {"trip": {"consecutiveFailures": 4}}}"#;
    let scenario = with_hosts(workers, config, &[&second, &third], 0, "300s").await;
    for host in [&scenario.sick, &second, &third] {
        host.behave(Behaviour::Status(503));
    }
    let rejected: Vec<bool> = scenario.get_times("/sick", 10).await.iter().map(|reply| reply.is_rejection()).collect();
    assert_eq!(rejected, [vec![false; 4], vec![true; 6]].concat());
    assert_eq!(scenario.sick.seen() + second.seen() + third.seen(), 4);
    assert_eq!(ejected(&scenario).await, 0);
}

async fn retries_hide_a_bad_host_from_users_and_from_the_circuit_but_not_from_ejection(workers: u32) {
    let well = Upstream::start().await;
    let scenario = with_hosts(workers, "", &[&well], 3, "300s").await;
    scenario.sick.behave(Behaviour::Status(503));
    while scenario.sick.seen() < 5 {
        assert_eq!(scenario.get("/sick").await.status, 200);
    }
    until_ejected(&scenario, 1).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, 0);
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
}

async fn attempts_all_shows_the_circuit_what_retries_hide(workers: u32) {
    let well = Upstream::start().await;
    let config = r#"{"default": {"failure": {"attempts": "all"}}}"#;
    let scenario = with_hosts(workers, config, &[&well], 3, "300s").await;
    scenario.sick.behave(Behaviour::Status(503));
    while scenario.sick.seen() < 3 {
        assert_eq!(scenario.get("/sick").await.status, 200);
    }
    scenario.until_metric("circuit_breaker_calls_total", "sick", "failure", scenario.sick.seen()).await;
}

async fn retries_eject_a_host_before_the_circuit_trips(workers: u32) {
    let scenario = with_hosts(workers, "", &[], 3, "300s").await;
    scenario.sick.behave(Behaviour::Status(503));
    scenario.get("/sick").await;
    assert_eq!((scenario.sick.seen(), ejected(&scenario).await), (4, 0), "one request, four attempts");
    scenario.get("/sick").await;
    until_ejected(&scenario, 1).await;
    let seen = scenario.sick.seen();
    assert!((5..=8).contains(&seen), "the second request ejects: {seen}");
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, 2, "one outcome a request");
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
    for _ in 0..3 {
        assert!(!scenario.get("/sick").await.is_rejection());
    }
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.sick.seen(), seen, "an ejected host sees nothing");
}

async fn when_all_hosts_are_ejected_no_healthy_upstream_trips_the_circuit(workers: u32) {
    let config = r#"{"default": {"trip": {"consecutiveFailures": 8}}}"#;
    let scenario = with_hosts(workers, config, &[], 0, "300s").await;
    scenario.sick.behave(Behaviour::Status(503));
    scenario.get_times("/sick", 5).await;
    until_ejected(&scenario, 1).await;
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
    // The host is well again, but nobody asks it.
    scenario.sick.behave(Behaviour::Status(200));
    for reply in scenario.get_times("/sick", 3).await {
        assert_eq!((reply.status, reply.is_rejection(), reply.text().as_str()), (503, false, "no healthy upstream"));
    }
    assert!(scenario.get("/sick").await.is_rejection(), "five of the host and three without one");
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "http").await, 5);
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "no_healthy_upstream").await, 3);
    let log = scenario.envoy.access_log(9).await;
    let flags: Vec<_> = log.iter().map(|line| line["flags"].as_str().unwrap_or_default()).collect();
    assert_eq!(flags.iter().filter(|flags| **flags == "UH").count(), 3, "{flags:?}");
}

/// Trips with the only host ejected, heals it, and waits for the circuit's first probe.
async fn probed_after(workers: u32, open: &str, base_ejection_time: &str) -> (Scenario, u16) {
    let config = format!(
        r#"{{"default": {{"open": {{"baseDuration": "{open}", "jitterPercent": 0}},
            "halfOpen": {{"successThreshold": 1, "ramp": {{"duration": "0s"}}}}}}}}"#
    );
    let scenario = with_hosts(workers, &config, &[], 0, base_ejection_time).await;
    scenario.sick.behave(Behaviour::Status(503));
    scenario.get_times("/sick", 5).await;
    until_ejected(&scenario, 1).await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_half_open().await;
    let status = scenario.get("/sick").await.status;
    (scenario, status)
}

async fn a_probe_that_comes_before_the_ejected_host_is_back_reopens(workers: u32) {
    let (scenario, status) = probed_after(workers, "1s", "20s").await;
    assert_eq!(status, 503);
    scenario.until_transition("probe_failed").await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "no_healthy_upstream").await, 1);
    assert_eq!(scenario.sick.seen(), 5, "the host is well, and was not asked");
}

/// A host is back at the first look after its ejection time. So `baseDuration` must cover `baseEjectionTime` and
/// `interval`.
async fn a_probe_that_comes_after_the_ejected_host_is_back_recovers(workers: u32) {
    let (scenario, status) = probed_after(workers, "3s", "1s").await;
    assert_eq!(status, 200);
    scenario.until_state("sick", State::Closed).await;
    assert_eq!(scenario.metric("circuit_breaker_trips_total", "sick", "probe_failed").await, 0);
}

async fn a_route_timeout_shorter_than_all_tries_cuts_the_last_ones_off(workers: u32) {
    for (timeout, tries) in [("0s", 4), ("0.5s", 2)] {
        let scenario = Scenario::start_with(workers, "", |bootstrap| {
            let cluster = &mut bootstrap.clusters[0];
            cluster.retries = 3;
            cluster.per_try_timeout = "0.3s".to_owned();
            cluster.timeout = timeout.to_owned();
        })
        .await;
        scenario.sick.behave(Behaviour::Hang);
        assert_eq!(scenario.get("/sick").await.status, 504);
        assert_eq!(scenario.sick.seen(), tries, "route timeout {timeout}");
        assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "timeout").await, 1);
    }
}
