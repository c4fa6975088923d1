//! The breaker at the ingress gateway.

use circuit_breaker_integration::scenario::{AT_ONCE, State};
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use serde_json::json;

use crate::world::{QUICK, SHOP, World};

pub async fn a_failing_upstream_trips_at_the_gateway_is_answered_there_and_recovers(world: &World) {
    let backend = world.backend(QUICK, "failing").await;
    let (host, upstream) = ("failing.example.com", backend.service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    backend.upstream.behave(Behaviour::Status(500));
    for reply in world.get_times(host, "/", 5).await {
        assert_eq!((reply.status, reply.is_rejection()), (500, false), "the upstream's own answer");
    }
    let seen = backend.upstream.seen();
    for reply in world.get_at_once(host, "/", 10).await {
        assert_eq!((reply.status, reply.header("x-circuit-breaker")), (503, "open"));
        assert!(reply.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{reply:?}");
        assert_eq!(reply.text(), "upstream circuit is open\n");
    }
    assert_eq!(backend.upstream.seen(), seen, "an open circuit sends nothing");
    assert_eq!(world.gateway.state(&upstream).await, Some(State::Open));
    assert_eq!(world.gateway.metric("circuit_breaker_trips_total", &upstream, "consecutive").await, 1);
    assert_eq!(world.gateway.metric("circuit_breaker_rejected_total", &upstream, "open").await, 10);
    backend.upstream.behave(Behaviour::Status(200));
    until("the gateway to serve again", || async { world.get(host, "/").await.status }, |status| *status == 200).await;
    world.gateway.until_state(&upstream, State::Closed).await;
    assert!(world.get_times(host, "/", 10).await.iter().all(|reply| reply.status == 200));
}

pub async fn a_hung_upstream_trips_before_its_retries_end_in_504(world: &World) {
    let backend = world.backend(SHOP, "hung").await;
    let (host, upstream) = ("hung.example.com", backend.service.upstream());
    // The values of the user's VirtualService: four tries, eight seconds.
    let retries = json!({"attempts": 3, "perTryTimeout": "2s", "retryOn": "5xx"});
    let route = json!([{"destination": {"host": backend.service.host()}}]);
    world.route(host, json!([{"timeout": "10s", "retries": retries, "route": route}])).await;
    let before = backend.upstream.seen();
    backend.upstream.behave(Behaviour::Hang);
    let hanging = world.get_at_once(host, "/", 20);
    let meanwhile = async {
        world.gateway.until_state(&upstream, State::Open).await;
        let reply = world.get(host, "/").await;
        assert_eq!((reply.status, reply.header("x-circuit-breaker")), (503, "open"));
        assert!(reply.elapsed < AT_ONCE, "a rejection waits for nobody: {:?}", reply.elapsed);
        assert!(backend.upstream.in_flight() > 0, "those that hang still do");
    };
    let (replies, ()) = tokio::join!(hanging, meanwhile);
    for reply in replies {
        assert_eq!((reply.status, reply.is_rejection()), (504, false));
    }
    assert_eq!(backend.upstream.seen() - before, 80, "each request is tried four times");
    world.gateway.until_metric("circuit_breaker_calls_total", &upstream, "slow", 20).await;
    assert_eq!(world.gateway.metric("circuit_breaker_trips_total", &upstream, "consecutive").await, 1);
}

pub async fn a_route_timeout_of_504_counts_as_a_failure_and_trips(world: &World) {
    let backend = world.backend(SHOP, "late").await;
    let (host, upstream) = ("late.example.com", backend.service.upstream());
    let route = json!([{"destination": {"host": backend.service.host()}}]);
    world.route(host, json!([{"timeout": "0.5s", "retries": {"attempts": 0}, "route": route}])).await;
    backend.upstream.behave(Behaviour::Hang);
    for reply in world.get_at_once(host, "/", 5).await {
        assert_eq!((reply.status, reply.is_rejection()), (504, false));
    }
    world.gateway.until_metric("circuit_breaker_failures_total", &upstream, "timeout", 5).await;
    assert_eq!(world.gateway.metric("circuit_breaker_trips_total", &upstream, "consecutive").await, 1);
    assert!(world.get(host, "/").await.is_rejection());
}
