//! What operators see, with nothing changed in Istio's bootstrap.

use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use serde_json::json;

use crate::world::{SHOP, World};

pub async fn metrics_carry_their_labels_on_the_proxys_and_the_agents_port(world: &World) {
    let backend = world.backend(SHOP, "metered").await;
    let (host, upstream) = ("metered.example.com", backend.service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    backend.upstream.behave(Behaviour::Status(500));
    world.get_times(host, "/", 7).await;
    let labels = |component: &str| {
        let component = if component.is_empty() { String::new() } else { format!("component=\"{component}\",") };
        format!("{{{component}tag=\"{upstream}\",wasm_filter=\"circuit_breaker\"}}")
    };
    let lines = [
        format!("circuit_breaker_state{} 2", labels("")),
        format!("circuit_breaker_calls_total{} 5", labels("failure")),
        format!("circuit_breaker_failures_total{} 5", labels("http")),
        format!("circuit_breaker_trips_total{} 1", labels("consecutive")),
        format!("circuit_breaker_rejected_total{} 2", labels("open")),
    ];
    for port in [15090, 15020] {
        let page = world.gateway.prometheus(port).await.expect("the port answers");
        for line in &lines {
            let ours: Vec<_> = page.lines().filter(|line| line.contains(&upstream)).collect();
            assert!(page.lines().any(|seen| seen == line), "{line} on port {port}; there is\n{}", ours.join("\n"));
        }
    }
}

pub async fn the_access_log_says_who_answered(world: &World) {
    let backend = world.backend(SHOP, "logged").await;
    let host = "logged.example.com";
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    backend.upstream.behave(Behaviour::Status(500));
    world.get_times(host, "/", 6).await;
    // Envoy writes its access log every ten seconds.
    let logged = || async {
        let log = world.gateway.log();
        let line =
            log.lines().find(|line| line.contains("logged.example.com") && line.contains("circuit_breaker_open"));
        line.map(str::to_owned)
    };
    let line = until("the rejection in the access log", logged, Option::is_some).await.unwrap_or_default();
    assert!(line.contains("\"GET / HTTP/1.1\" 503 "), "in Istio's own format: {line}");
}
