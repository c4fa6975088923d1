//! Limits of Envoy's own and of other filters, and configurations and names in the forms that other parts of a mesh
//! write.

use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::client;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use circuit_breaker_integration::wait::until;
use serde_json::json;

for_one_and_four_workers!(
    what_another_filter_limits_or_forbids_is_neutral,
    an_upstream_that_exceeds_its_longest_stream_is_a_timeout,
    a_route_that_exceeds_its_longest_stream_is_a_timeout,
    a_longest_stream_that_ends_an_answer_is_neutral,
    a_waypoints_name_is_matched_by_host_port_and_subset,
    a_policy_that_comes_as_a_struct_is_refused_as_one,
);

async fn neutral(scenario: &Scenario, count: u64) {
    scenario.until_metric("circuit_breaker_calls_total", "sick", "neutral", count).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, 0);
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
}

async fn what_another_filter_limits_or_forbids_is_neutral(workers: u32) {
    let limits = json!({"name": "limit", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limit", "status": {"code": "ServiceUnavailable"},
        "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
        "filter_enabled": {"default_value": {"numerator": 100}}, "filter_enforced": {"default_value": {"numerator": 100}},
    }});
    let forbids = json!({"name": "authorize", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "http_service": {"server_uri": {"uri": "http://other", "cluster": "other", "timeout": "1s"}},
        "status_on_error": {"code": "ServiceUnavailable"},
    }});
    for (filter, flag) in [(limits, "RL"), (forbids, "UAEX")] {
        let scenario = Scenario::start_with(workers, "", |bootstrap| bootstrap.filters_after.push(filter)).await;
        scenario.other.behave(Behaviour::Status(503));
        let first = u64::from(scenario.get("/sick").await.status == 200);
        for reply in scenario.get_times("/sick", 6).await {
            assert!(reply.status >= 403 && !reply.is_rejection(), "{flag}");
        }
        let log = scenario.envoy.access_log(7).await;
        assert!(log[1..].iter().all(|line| line["flags"] == flag), "{log:?}");
        neutral(&scenario, 7 - first).await;
        assert_eq!(scenario.sick.seen(), first);
    }
}

async fn an_upstream_that_exceeds_its_longest_stream_is_a_timeout(workers: u32) {
    let scenario =
        Scenario::start_with(workers, "", |bootstrap| bootstrap.clusters[0].max_stream_duration = "0.2s".to_owned())
            .await;
    scenario.sick.behave(Behaviour::Hang);
    scenario.get_times("/sick", 5).await;
    let log = scenario.envoy.access_log(5).await;
    assert!(log.iter().all(|line| line["flags"] == "UMSDR"), "{log:?}");
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "timeout").await, 5);
}

fn longest(time: &str) -> serde_json::Value {
    json!({"max_stream_duration": {"max_stream_duration": time}})
}

async fn a_route_that_exceeds_its_longest_stream_is_a_timeout(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| bootstrap.clusters[0].route = longest("0.2s")).await;
    scenario.sick.behave(Behaviour::Hang);
    assert!(scenario.get_times("/sick", 5).await.iter().all(|reply| reply.status >= 408));
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "timeout").await, 5);
}

async fn a_longest_stream_that_ends_an_answer_is_neutral(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| bootstrap.clusters[0].route = longest("0.3s")).await;
    scenario.sick.behave(Behaviour::Endless);
    for reply in scenario.get_times("/sick", 6).await {
        assert_eq!((reply.status, reply.whole), (200, false));
    }
    neutral(&scenario, 6).await;
}

async fn a_waypoints_name_is_matched_by_host_port_and_subset(workers: u32) {
    let config = r#"{"upstreams": [{"match": {"host": "shop", "port": 80, "subset": "v1"}, "mode": "forceOpen"}]}"#;
    let service = Upstream::start().await;
    let address = service.address();
    let scenario = Scenario::start_with(workers, config, |bootstrap| {
        for (path, name) in [("/v1", "inbound-vip|80|http/v1|shop"), ("/all", "inbound-vip|80|http|shop")] {
            bootstrap.clusters.push(Cluster::new(name, address));
            bootstrap.routes.push(json!({"match": {"prefix": path}, "route": {"cluster": name}}));
        }
    })
    .await;
    until("v1 to be forced", || scenario.get("/v1"), client::Reply::is_rejection).await;
    assert_eq!(scenario.get("/all").await.status, 200);
}

/// Envoy hands the configuration on in binary.
async fn a_policy_that_comes_as_a_struct_is_refused_as_one(workers: u32) {
    let scenario = Scenario::start_with(workers, r#"{"default": {"mode": "forceOpen"}}"#, |bootstrap| {
        bootstrap.configuration_as_struct = true;
    })
    .await;
    let to = scenario.envoy.address(LISTENER);
    let reply = client::get(to, "/sick").await.unwrap();
    let refused = scenario.envoy.log().contains("a protobuf Struct in binary; allowed: JSON as text");
    assert_eq!((reply.status, reply.is_rejection(), refused), (500, false, true));
}
