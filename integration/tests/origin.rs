//! Whose answer it was in a real Envoy: only the upstream's own answer counts, and only for the upstream where the
//! call went last.

use std::net::SocketAddr;
use std::time::Duration;

use circuit_breaker_integration::bootstrap::{Bootstrap, Cluster, lua};
use circuit_breaker_integration::client;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::grpc::{self, Ending, GrpcUpstream};
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

for_one_and_four_workers!(
    an_answer_is_the_upstreams_though_no_retry_was_left,
    an_injected_delay_is_not_the_upstreams_time_and_its_answer_is_its_own,
    a_grpc_call_that_another_filter_refuses_is_no_call_of_the_upstream,
    a_grpc_clients_own_deadline_is_not_the_upstreams_timeout,
    a_routes_timeout_is_the_upstreams_whatever_a_clients_deadline,
    a_call_counts_where_a_later_filter_has_sent_it,
    a_probe_that_a_later_filter_sends_elsewhere_says_nothing,
    a_redirect_that_envoy_follows_is_its_senders_work,
    redirects_close_a_circuit,
    a_failing_head_counts_though_its_client_leaves,
    a_preflight_that_envoy_answers_ends_no_streak,
);

async fn an_answer_is_the_upstreams_though_no_retry_was_left(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        (bootstrap.clusters[0].retries, bootstrap.clusters[0].max_retries) = (2, 0);
    })
    .await;
    scenario.sick.behave(Behaviour::Status(503));
    assert!(scenario.get_times("/sick", 5).await.iter().all(|reply| reply.status == 503 && !reply.is_rejection()));
    let log = scenario.envoy.access_log(5).await;
    assert!(log.iter().all(|line| line["details"] == "via_upstream" && line["flags"] == "UO"), "{log:?}");
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.counts("sick").await, [0, 5, 0, 0]);
}

async fn delayed(to: SocketAddr, milliseconds: &str) -> client::Reply {
    client::request(to, "GET", "/sick", &[("x-envoy-fault-delay-request", milliseconds)]).await.unwrap()
}

async fn an_injected_delay_is_not_the_upstreams_time_and_its_answer_is_its_own(workers: u32) {
    let config = r#"{"default": {"trip": {"slowCallDuration": "300ms"}}}"#;
    let scenario = Scenario::start(workers, config).await;
    let to = scenario.envoy.address(LISTENER);
    let (a, b, c) = tokio::join!(delayed(to, "700"), delayed(to, "700"), delayed(to, "700"));
    // Envoy's timers count from the last turn of its loop, and so run some milliseconds early.
    assert!([a, b, c].iter().all(|reply| reply.status == 200 && reply.elapsed >= Duration::from_millis(600)));
    scenario.until_counts("sick", [3, 0, 0, 0]).await;
    scenario.sick.behave(Behaviour::Status(503));
    for _ in 0..5 {
        delayed(to, "50").await;
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.counts("sick").await, [3, 5, 0, 0]);
}

/// An Envoy before a gRPC upstream `grpc`.
async fn before_grpc(workers: u32, config: &str, change: impl FnOnce(&mut Bootstrap)) -> (Scenario, GrpcUpstream) {
    let upstream = GrpcUpstream::start().await;
    let address = upstream.address();
    let scenario = Scenario::start_with(workers, config, |bootstrap| {
        bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("grpc", address) });
        change(bootstrap);
    })
    .await;
    (scenario, upstream)
}

async fn a_grpc_call_that_another_filter_refuses_is_no_call_of_the_upstream(workers: u32) {
    const REFUSE: &str = r#"function envoy_on_request(handle)
        local status = handle:headers():get("x-refuse")
        if status then handle:respond({[":status"] = status}, "no") end
    end"#;
    let (scenario, upstream) = before_grpc(workers, "", |bootstrap| {
        bootstrap.filters_after.push(lua("refuse", REFUSE));
        bootstrap.filters_after.push(json!({"name": "buffer", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": 1000,
        }}));
    })
    .await;
    let to = scenario.envoy.address(LISTENER);
    for status in ["503", "400", "403"] {
        for _ in 0..6 {
            let reply = grpc::begin_with(to, "/grpc", &[("x-refuse", status)], 5).await.unwrap();
            assert!(!reply.headers().contains_key("x-circuit-breaker"), "{status}");
        }
    }
    for _ in 0..6 {
        assert!(grpc::begin_with(to, "/grpc", &[], 100_000).await.unwrap().headers().contains_key("grpc-status"));
    }
    scenario.until_counts("grpc", [0, 0, 0, 24]).await;
    assert_eq!((upstream.seen(), scenario.state("grpc").await), (0, Some(State::Closed)));
}

async fn a_grpc_clients_own_deadline_is_not_the_upstreams_timeout(workers: u32) {
    for (route, details) in [
        (json!({"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}), "max_duration_timeout"),
        (json!({"timeout": "0s", "max_grpc_timeout": "0s"}), "response_timeout"),
    ] {
        let (scenario, upstream) =
            before_grpc(workers, "", |bootstrap| bootstrap.clusters[2].route = route.clone()).await;
        upstream.end_with(Ending::After(Duration::from_millis(200)));
        let to = scenario.envoy.address(LISTENER);
        for _ in 0..6 {
            let reply = grpc::begin_with(to, "/grpc", &[("grpc-timeout", "5m")], 5).await.unwrap();
            assert!(!reply.headers().contains_key("x-circuit-breaker"), "{details}");
        }
        let log = scenario.envoy.access_log(6).await;
        assert!(log.iter().all(|line| line["details"] == details), "{log:?}");
        scenario.until_counts("grpc", [0, 0, 0, 6]).await;
        assert_eq!(scenario.state("grpc").await, Some(State::Closed), "{details}");
    }
}

async fn a_routes_timeout_is_the_upstreams_whatever_a_clients_deadline(workers: u32) {
    let route = json!({"timeout": "0.2s", "max_grpc_timeout": "0.2s"});
    let (scenario, upstream) = before_grpc(workers, "", |bootstrap| bootstrap.clusters[2].route = route).await;
    upstream.end_with(Ending::After(Duration::from_secs(60)));
    let to = scenario.envoy.address(LISTENER);
    for _ in 0..5 {
        grpc::begin_with(to, "/grpc", &[("grpc-timeout", "30S")], 5).await.unwrap();
    }
    scenario.until_state("grpc", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "grpc", "timeout").await, 5);
}

/// After the breaker `/sick` goes to `canary` if its header says so.
const CANARY: &str = r#"function envoy_on_request(handle)
    if handle:headers():get("x-canary") then
        handle:headers():add("x-to-canary", "1")
        handle:clearRouteCache()
    end
end"#;

async fn with_canary(workers: u32, config: &str) -> (Scenario, Upstream) {
    let canary = Upstream::start().await;
    let address = canary.address();
    let scenario = Scenario::start_with(workers, config, |bootstrap| {
        bootstrap.clusters.push(Cluster::new("canary", address));
        bootstrap.filters_after.push(lua("canary", CANARY));
        bootstrap.routes.push(json!({
            "match": {"prefix": "/sick", "headers": [{"name": "x-to-canary", "present_match": true}]},
            "route": {"cluster": "canary", "timeout": "0s"},
        }));
    })
    .await;
    (scenario, canary)
}

async fn to_canary(scenario: &Scenario) -> client::Reply {
    client::request(scenario.envoy.address(LISTENER), "GET", "/sick", &[("x-canary", "1")]).await.unwrap()
}

async fn a_call_counts_where_a_later_filter_has_sent_it(workers: u32) {
    for calm in [true, false] {
        let (scenario, canary) = with_canary(workers, "").await;
        scenario.get("/sick").await;
        if !calm {
            scenario.other.behave(Behaviour::Status(500));
            scenario.get_times("/other", 5).await;
            scenario.until_state("other", State::Open).await;
        }
        canary.behave(Behaviour::Status(500));
        for _ in 0..5 {
            assert_eq!(to_canary(&scenario).await.status, 500);
        }
        scenario.until_state("canary", State::Open).await;
        assert_eq!(scenario.state("sick").await, Some(State::Closed), "calm: {calm}");
        scenario.until_counts("sick", [1, 0, 0, 0]).await;
        scenario.until_counts("canary", [0, 5, 0, 0]).await;
    }
}

async fn a_probe_that_a_later_filter_sends_elsewhere_says_nothing(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "300ms", "jitterPercent": 0}, "halfOpen": {"successThreshold": 1, "ramp": {"duration": "0s"}}}}"#;
    for (status, of_canary) in [(200, [1, 0, 0, 0]), (500, [0, 1, 0, 0])] {
        let (scenario, canary) = with_canary(workers, config).await;
        scenario.trip().await;
        scenario.sick.behave(Behaviour::Status(200));
        canary.behave(Behaviour::Status(status));
        scenario.until_half_open().await;
        assert_eq!(to_canary(&scenario).await.status, status);
        scenario.until_counts("canary", of_canary).await;
        assert_eq!(scenario.state("sick").await, Some(State::HalfOpen));
        assert_eq!(scenario.get("/sick").await.status, 200, "its slot is free at once");
        scenario.until_state("sick", State::Closed).await;
    }
}

/// Envoy may follow redirects of `/sick` itself.
fn redirecting(bootstrap: &mut Bootstrap) {
    bootstrap.clusters[0].route = json!({"internal_redirect_policy": {
        "redirect_response_codes": [302], "max_internal_redirects": 2, "allow_cross_scheme_redirect": true,
    }});
}

fn to_other() -> Behaviour {
    Behaviour::With(302, "location", "http://test/other".to_owned())
}

async fn a_redirect_that_envoy_follows_is_its_senders_work(workers: u32) {
    let scenario = Scenario::start_with(workers, "", redirecting).await;
    scenario.sick.behave(to_other());
    scenario.other.behave(Behaviour::Status(500));
    for _ in 0..5 {
        assert_eq!(scenario.get("/sick").await.status, 500);
    }
    scenario.until_state("other", State::Open).await;
    assert!(scenario.get("/other").await.is_rejection());
    scenario.until_counts("other", [0, 5, 0, 0]).await;
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
    let [good, failed, slow, neutral] = scenario.counts("sick").await;
    // The first redirect that a worker sees tells it that Envoy follows them.
    assert!(good >= 5_u64.saturating_sub(u64::from(workers)), "{good}");
    assert_eq!([failed, slow, neutral], [0, 0, 0]);
}

async fn redirects_close_a_circuit(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "300ms", "jitterPercent": 0}, "halfOpen": {"successThreshold": 2, "ramp": {"duration": "0s"}}}}"#;
    let scenario = Scenario::start_with(workers, config, redirecting).await;
    scenario.trip().await;
    scenario.sick.behave(to_other());
    scenario.until_half_open().await;
    for _ in 0..2 {
        assert_eq!(scenario.get("/sick").await.status, 200);
    }
    scenario.until_state("sick", State::Closed).await;
}

/// Asks, reads the status line and closes the connection.
async fn glimpse(to: SocketAddr) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(b"GET /sick HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.unwrap();
    stream.set_zero_linger().unwrap();
    String::from_utf8(line.to_vec()).unwrap()
}

async fn a_failing_head_counts_though_its_client_leaves(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    let to = scenario.envoy.address(LISTENER);
    scenario.sick.behave(Behaviour::LargeWith(200, 16_000_000));
    for _ in 0..3 {
        assert_eq!(glimpse(to).await, "HTTP/1.1 200");
    }
    scenario.until_counts("sick", [0, 0, 0, 3]).await;
    scenario.sick.behave(Behaviour::LargeWith(503, 16_000_000));
    for _ in 0..5 {
        assert_eq!(glimpse(to).await, "HTTP/1.1 503");
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "http").await, 5);
}

async fn a_preflight_that_envoy_answers_ends_no_streak(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.filters_after.push(json!({"name": "cors", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors",
        }}));
        bootstrap.routes.push(json!({
            "match": {"prefix": "/sick"}, "route": {"cluster": "sick", "timeout": "0s"},
            "typed_per_filter_config": {"cors": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
                "allow_origin_string_match": [{"exact": "http://page"}], "allow_methods": "POST",
            }},
        }));
    })
    .await;
    let to = scenario.envoy.address(LISTENER);
    scenario.sick.behave(Behaviour::Status(500));
    let preflight = [("origin", "http://page"), ("access-control-request-method", "POST")];
    for _ in 0..5 {
        assert_eq!(client::request(to, "OPTIONS", "/sick", &preflight).await.unwrap().status, 200);
        assert_eq!(client::request(to, "POST", "/sick", &[]).await.unwrap().status, 500);
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!((scenario.sick.seen(), scenario.reasons()), (5, vec!["consecutive".to_owned()]));
}
