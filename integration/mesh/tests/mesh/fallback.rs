//! While a circuit is open its requests go elsewhere, by a route that matches the marker.

use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use serde_json::json;

use crate::world::{QUICK, World, policy_with};

pub async fn an_open_circuit_sends_requests_to_another_service_and_back(world: &World) {
    let (sick, spare) = (world.backend(QUICK, "main-line").await, world.backend(QUICK, "spare").await);
    let host = "fallback.example.com";
    world
        .route(
            host,
            json!([
                {
                    "match": [{"headers": {"x-circuit-fallback": {"exact": "true"}}}],
                    "route": [{"destination": {"host": spare.service.host()}}],
                },
                {"route": [{"destination": {"host": sick.service.host()}}]},
            ]),
        )
        .await;
    let marker = json!({"headers": {"x-circuit-fallback": "true"}});
    world.apply(&policy_with(json!({
        "match": {"host": sick.service.host()}, "fallback": marker,
        "open": {"baseDuration": "4s", "jitterPercent": 0},
        "halfOpen": {"successThreshold": 1, "ramp": {"duration": "0s"}},
    })));
    sick.upstream.behave(Behaviour::Status(500));
    // The edited policy is in use once an open circuit gives no reply of its own.
    let served = || async { world.get(host, "/").await.status };
    until("the fallback to serve", served, |status| *status == 200).await;
    let seen = (sick.upstream.seen(), spare.upstream.seen());
    for reply in world.get_times(host, "/", 10).await {
        assert_eq!((reply.status, reply.is_rejection()), (200, false));
    }
    assert_eq!((sick.upstream.seen(), spare.upstream.seen()), (seen.0, seen.1 + 10), "all went to the spare");
    sick.upstream.behave(Behaviour::Status(200));
    let back = || async {
        world.get(host, "/").await;
        world.gateway.state(&sick.service.upstream()).await
    };
    until("the circuit to close", back, |state| *state == Some(State::Closed)).await;
    let seen = (sick.upstream.seen(), spare.upstream.seen());
    world.get_times(host, "/", 10).await;
    assert_eq!((sick.upstream.seen(), spare.upstream.seen()), (seen.0 + 10, seen.1), "all are back");
}
