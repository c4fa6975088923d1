//! Answers that another filter changes on their way to the client. At the end Envoy knows only the last status. The
//! head of an answer has the upstream's own status, where it passes the breaker unchanged.

use circuit_breaker_integration::bootstrap::{Bootstrap, Cluster, lua};
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::grpc::{self, Ending, GrpcUpstream};
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use serde_json::{Value, json};

for_one_and_four_workers!(
    failing_answers_that_a_filter_makes_good_trip_all_the_same,
    good_answers_that_a_filter_makes_fail_trip_nothing,
    an_answer_that_custom_response_replaces_counts_where_it_comes_by_the_breaker,
    a_probe_is_judged_by_the_upstreams_own_status,
    grpc_web_behind_the_breaker_hides_the_trailers,
    a_grpc_failure_that_a_filter_translates_is_the_upstreams,
);

fn place(bootstrap: &mut Bootstrap, filter: Value, behind: bool) {
    let filters = if behind { &mut bootstrap.filters_after } else { &mut bootstrap.filters_before };
    filters.push(filter);
}

async fn calls(scenario: &Scenario, component: &str) -> u64 {
    scenario.metric("circuit_breaker_calls_total", "sick", component).await
}

/// Turns every status into 200.
const WELL: &str = r#"function envoy_on_response(handle) handle:headers():replace(":status", "200") end"#;
/// Turns every status into 503.
const SICK: &str = r#"function envoy_on_response(handle) handle:headers():replace(":status", "503") end"#;

async fn failing_answers_that_a_filter_makes_good_trip_all_the_same(workers: u32) {
    for behind in [false, true] {
        let scenario = Scenario::start_with(workers, "", |bootstrap| place(bootstrap, lua("well", WELL), behind)).await;
        scenario.sick.behave(Behaviour::Status(503));
        // One worker finds it out by its thirty-second answer at the latest, and the others at their next tick.
        let mut calls = 0;
        while !scenario.get("/sick").await.is_rejection() {
            calls += 1;
            assert!(calls < 5000, "behind: {behind}: never seen");
        }
        assert!(scenario.metric("circuit_breaker_failures_total", "sick", "http").await >= 5);
    }
}

async fn good_answers_that_a_filter_makes_fail_trip_nothing(workers: u32) {
    for behind in [false, true] {
        let scenario = Scenario::start_with(workers, "", |bootstrap| place(bootstrap, lua("sick", SICK), behind)).await;
        for _ in 0..200 {
            let reply = scenario.get("/sick").await;
            assert!(reply.status == 503 && !reply.is_rejection(), "behind: {behind}");
        }
        // Each worker takes the first changed answer for the upstream's own.
        assert!(calls(&scenario, "failure").await <= u64::from(workers));
        assert_eq!(scenario.state("sick").await, Some(State::Closed));
    }
}

async fn an_answer_that_custom_response_replaces_counts_where_it_comes_by_the_breaker(workers: u32) {
    let custom = json!({"name": "custom", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.custom_response.v3.CustomResponse",
        "custom_response_matcher": {"on_no_match": {"action": {"name": "page", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
            "status_code": 499, "body": {"inline_string": "sorry"},
        }}}},
    }});
    for behind in [false, true] {
        let scenario = Scenario::start_with(workers, "", |bootstrap| place(bootstrap, custom.clone(), behind)).await;
        scenario.sick.behave(Behaviour::Status(503));
        // The filter replaces the breaker's rejections too, so the test goes by the state.
        scenario.get_times("/sick", 32 * 4 + 20).await;
        if behind {
            // The filter has replaced the answer before the breaker saw it.
            assert_eq!(scenario.state("sick").await, Some(State::Closed));
        } else {
            while scenario.state("sick").await != Some(State::Open) {
                scenario.get("/sick").await;
            }
        }
        assert_eq!(calls(&scenario, "success").await, 0);
    }
}

async fn a_probe_is_judged_by_the_upstreams_own_status(workers: u32) {
    const ONCE_OPEN: &str = r#"function envoy_on_response(handle)
        if handle:headers():get("x-hide") then handle:headers():replace(":status", "200") end
    end"#;
    let config = r#"{"default": {"open": {"baseDuration": "300ms", "jitterPercent": 0}}}"#;
    let scenario =
        Scenario::start_with(workers, config, |bootstrap| place(bootstrap, lua("hide", ONCE_OPEN), false)).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::With(503, "x-hide", "1".to_owned()));
    scenario.until_half_open().await;
    assert_eq!(scenario.get("/sick").await.status, 200);
    scenario.until_transition("probe_failed").await;
}

async fn grpc_web_behind_the_breaker_hides_the_trailers(workers: u32) {
    for behind in [true, false] {
        let upstream = GrpcUpstream::start().await;
        let address = upstream.address();
        let scenario = Scenario::start_with(workers, "", |bootstrap| {
            bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("grpc", address) });
            let web = json!({"name": "web", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
            }});
            place(bootstrap, web, behind);
        })
        .await;
        upstream.end_with(Ending::Trailers(14));
        let to = scenario.envoy.address(LISTENER);
        for _ in 0..5 {
            let reply = grpc::web(to, "/grpc").await.unwrap();
            assert!(reply.contains("grpc-status:14"), "{reply:?}");
        }
        let kind = if behind { "success" } else { "failure" };
        scenario.until_metric("circuit_breaker_calls_total", "grpc", kind, 5).await;
        let state = if behind { State::Closed } else { State::Open };
        scenario.until_state("grpc", state).await;
    }
}

async fn a_grpc_failure_that_a_filter_translates_is_the_upstreams(workers: u32) {
    let upstream = GrpcUpstream::start().await;
    let address = upstream.address();
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("grpc", address) });
        let bridge = json!({"name": "bridge", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_http1_bridge.v3.Config",
        }});
        place(bootstrap, bridge, true);
    })
    .await;
    upstream.end_with(Ending::Trailers(14));
    let to = scenario.envoy.address(LISTENER);
    for _ in 0..5 {
        let reply = grpc::over_http1(to, "/grpc", "application/grpc").await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.headers()["grpc-status"].as_bytes()), (503, b"14".as_slice()));
    }
    scenario.until_state("grpc", State::Open).await;
}
