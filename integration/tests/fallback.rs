//! A fallback in a real Envoy: the header, the second route, the circuit there, and no loop.

use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::client::{self, Reply};
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use serde_json::{Value, json};

for_one_and_four_workers!(
    an_open_circuit_sends_requests_to_the_fallback_and_back_again,
    a_fallback_that_fails_has_its_own_circuit_and_then_requests_are_rejected,
    a_fallback_that_no_route_matches_reaches_the_sick_upstream_once,
    a_direct_response_serves_as_a_fallback,
    a_client_that_sends_the_header_gets_the_fallbacks_own_circuit_and_no_second_one,
    a_header_of_a_client_is_overwritten_or_removed_before_it_routes,
    a_trace_context_reaches_upstream_and_fallback_as_the_client_sent_it,
);

const MARKER: &str = "x-circuit-fallback";

fn config(base: &str) -> String {
    format!(
        r#"{{"default": {{"open": {{"baseDuration": "{base}", "jitterPercent": 0}}, "halfOpen": {{"successThreshold": 1, "ramp": {{"duration": "0s"}}}}}},
            "upstreams": [{{"match": {{"cluster": "sick"}}, "fallback": {{"headers": {{"{MARKER}": "true"}}}}}}]}}"#
    )
}

fn marked(action: (&str, Value)) -> Value {
    let mut route = json!({"match": {"prefix": "/", "headers": [{"name": MARKER, "string_match": {"exact": "true"}}]}});
    route[action.0] = action.1;
    route
}

/// `sick` falls back to `spare`.
async fn with_spare(workers: u32, base: &str) -> (Scenario, Upstream) {
    let spare = Upstream::start().await;
    let address = spare.address();
    let scenario = Scenario::start_with(workers, &config(base), |bootstrap| {
        bootstrap.clusters.push(Cluster::new("spare", address));
        bootstrap.routes.push(marked(("route", json!({"cluster": "spare"}))));
    })
    .await;
    (scenario, spare)
}

async fn marked_get(scenario: &Scenario, value: &str) -> Reply {
    client::request(scenario.envoy.address(LISTENER), "GET", "/sick", &[(MARKER, value)]).await.unwrap()
}

async fn an_open_circuit_sends_requests_to_the_fallback_and_back_again(workers: u32) {
    let (scenario, spare) = with_spare(workers, "2s").await;
    scenario.sick.behave(Behaviour::Status(500));
    assert!(scenario.get_times("/sick", 5).await.iter().all(|reply| reply.status == 500));
    for reply in scenario.get_times("/sick", 20).await {
        assert_eq!((reply.status, reply.is_rejection()), (200, false), "served by the fallback");
    }
    assert_eq!((scenario.sick.seen(), spare.seen()), (5, 20));
    assert_eq!(scenario.metric("circuit_breaker_fallback_total", "sick", "").await, 20);
    scenario.until_metric("circuit_breaker_calls_total", "spare", "success", 20).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "success").await, 0);
    assert_eq!(scenario.metric("circuit_breaker_rejected_total", "sick", "open").await, 0);
    assert_eq!(spare.header(MARKER), "true", "the fallback sees why it is asked");
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_half_open().await;
    scenario.get_times("/sick", 10).await;
    scenario.until_state("sick", State::Closed).await;
    let before = spare.seen();
    scenario.get_times("/sick", 10).await;
    assert_eq!(spare.seen(), before);
    assert_eq!(scenario.sick.header(MARKER), "", "and the upstream never sees the header");
}

async fn a_fallback_that_fails_has_its_own_circuit_and_then_requests_are_rejected(workers: u32) {
    let (scenario, spare) = with_spare(workers, "60s").await;
    scenario.sick.behave(Behaviour::Status(500));
    spare.behave(Behaviour::Status(500));
    scenario.get_times("/sick", 5).await;
    assert!(scenario.get_times("/sick", 5).await.iter().all(|reply| reply.status == 500 && !reply.is_rejection()));
    scenario.until_state("spare", State::Open).await;
    for reply in scenario.get_times("/sick", 10).await {
        assert_eq!((reply.status, reply.header("x-circuit-breaker")), (503, "open"));
    }
    assert_eq!((scenario.sick.seen(), spare.seen()), (5, 5));
    assert_eq!(scenario.metric("circuit_breaker_rejected_total", "sick", "open").await, 10);
    assert_eq!(scenario.reasons(), ["consecutive", "consecutive"]);
}

async fn a_fallback_that_no_route_matches_reaches_the_sick_upstream_once(workers: u32) {
    let scenario = Scenario::start(workers, &config("60s")).await;
    scenario.sick.behave(Behaviour::Status(500));
    scenario.get_times("/sick", 5).await;
    scenario.until_state("sick", State::Open).await;
    let replies = scenario.get_times("/sick", 20).await;
    assert_eq!(replies.iter().filter(|reply| !reply.is_rejection()).count(), 1);
    assert_eq!(scenario.sick.seen(), 6);
    assert_eq!(scenario.envoy.log().matches("leads back to itself: no route matches its headers").count(), 1);
    // While the request that finds out hangs, no other follows it.
    scenario.sick.behave(Behaviour::Hang);
    assert!(scenario.get_at_once("/sick", 50).await.iter().all(Reply::is_rejection));
}

async fn a_direct_response_serves_as_a_fallback(workers: u32) {
    let scenario = Scenario::start_with(workers, &config("60s"), |bootstrap| {
        let page = json!({"status": 200, "body": {"inline_string": "we will be back"}});
        bootstrap.routes.push(marked(("direct_response", page)));
    })
    .await;
    scenario.sick.behave(Behaviour::Status(500));
    scenario.get_times("/sick", 5).await;
    for reply in scenario.get_times("/sick", 20).await {
        assert_eq!((reply.status, reply.text().as_str()), (200, "we will be back"));
    }
    assert_eq!(scenario.sick.seen(), 5);
    assert_eq!(scenario.metric("circuit_breaker_circuits", "", "").await, 1, "a page has no circuit");
}

async fn a_client_that_sends_the_header_gets_the_fallbacks_own_circuit_and_no_second_one(workers: u32) {
    let (scenario, spare) = with_spare(workers, "60s").await;
    // The spare upstream has the same fallback, which leads to itself.
    let everywhere = format!(r#"{{"default": {{"fallback": {{"headers": {{"{MARKER}": "true"}}}}}}}}"#);
    scenario.configure(&everywhere).await;
    spare.behave(Behaviour::Status(500));
    for _ in 0..5 {
        assert_eq!(marked_get(&scenario, "true").await.status, 500);
    }
    scenario.until_state("spare", State::Open).await;
    assert!(marked_get(&scenario, "true").await.is_rejection(), "its upstream is the spare one, whose circuit is OPEN");
    assert_eq!((spare.seen(), scenario.metric("circuit_breaker_fallback_total", "spare", "").await), (5, 0));
}

async fn a_header_of_a_client_is_overwritten_or_removed_before_it_routes(workers: u32) {
    let (scenario, spare) = with_spare(workers, "60s").await;
    scenario.trip().await;
    spare.behave(Behaviour::Status(200));
    assert_eq!(marked_get(&scenario, "false").await.status, 200, "it is no marker: it is overwritten");
    assert_eq!(spare.header(MARKER), "true");
    drop(scenario);

    // This makes the header unforgeable: the connection manager removes it before it takes a route.
    let spare = Upstream::start().await;
    let address = spare.address();
    let scenario = Scenario::start_with(workers, &config("60s"), |bootstrap| {
        bootstrap.clusters.push(Cluster::new("spare", address));
        bootstrap.routes.push(marked(("route", json!({"cluster": "spare"}))));
        bootstrap.connection_manager = json!({"early_header_mutation_extensions": [{
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                "mutations": [{"remove": MARKER}],
            },
        }]});
    })
    .await;
    assert_eq!(marked_get(&scenario, "true").await.status, 200);
    assert_eq!((scenario.sick.seen(), spare.seen()), (1, 0), "the client's header routes nothing");
    scenario.sick.behave(Behaviour::Status(500));
    for _ in 0..5 {
        marked_get(&scenario, "true").await;
    }
    assert_eq!(marked_get(&scenario, "true").await.status, 200);
    assert_eq!((scenario.sick.seen(), spare.seen()), (6, 1), "the breaker's does");
}

async fn a_trace_context_reaches_upstream_and_fallback_as_the_client_sent_it(workers: u32) {
    let (scenario, spare) = with_spare(workers, "60s").await;
    // W3C allows what no proxy would write: a future version, and several vendors' states.
    let context = [
        ("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-what-comes-later"),
        ("tracestate", "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE,,tenant@vendor=a b!c"),
    ];
    let to = scenario.envoy.address(LISTENER);
    let seen = |upstream: &Upstream| context.map(|(name, _)| upstream.header(name));
    client::request(to, "GET", "/sick", &context).await.unwrap();
    assert_eq!(seen(&scenario.sick), context.map(|(_, value)| value));
    scenario.trip().await;
    let reply = client::request(to, "GET", "/sick", &context).await.unwrap();
    assert_eq!((reply.status, reply.is_rejection(), spare.seen()), (200, false, 1));
    assert_eq!(seen(&spare), context.map(|(_, value)| value));
}
