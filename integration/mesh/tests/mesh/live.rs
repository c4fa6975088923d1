//! Changes while traffic flows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use circuit_breaker_integration::client;
use circuit_breaker_integration::envoy::module;
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::variant;
use serde_json::json;

use crate::world::{SHOP, World, ask, policy};

pub async fn an_edited_policy_takes_effect_and_an_open_circuit_stays_open(world: &World) {
    let backend = world.backend(SHOP, "edited").await;
    let (host, upstream) = ("edited.example.com", backend.service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    backend.upstream.behave(Behaviour::Status(500));
    world.get_times(host, "/", 5).await;
    let seen = backend.upstream.seen();
    backend.upstream.behave(Behaviour::Status(200));
    world.apply(&policy().patch("add", "/spec/pluginConfig/default/rejection", json!({"body": "edited\n"})));
    let rejected = || async {
        let reply = world.get(host, "/").await;
        assert!(reply.is_rejection(), "the circuit stays open through the change: {reply:?}");
        reply.text()
    };
    until("the edited policy to be in use", rejected, |body| body == "edited\n").await;
    assert_eq!(world.gateway.state(&upstream).await, Some(State::Open));
    assert_eq!(world.gateway.metric("circuit_breaker_trips_total", &upstream, "consecutive").await, 1);
    assert_eq!(backend.upstream.seen(), seen, "nothing got through");
    world.apply(&policy());
}

pub async fn a_bad_policy_is_refused_by_name_and_the_old_one_keeps_serving(world: &World) {
    let backend = world.backend(SHOP, "typo").await;
    let host = "typo.example.com";
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    let errors = || world.gateway.metric("circuit_breaker_internal_errors_total", "", "config");
    let before = errors().await;
    world.apply(&policy().patch("add", "/spec/pluginConfig/default/trip/consecutiveFailure", json!(1)));
    until("the policy to be refused", errors, |seen| *seen > before).await;
    let log = world.gateway.log();
    let refused = log.lines().find(|line| line.contains("circuit_breaker config refused")).unwrap_or_default();
    assert!(refused.contains("consecutiveFailure"), "the field is named: {refused}");
    let told =
        || async { world.lab.plane().log().lines().any(|line| line.contains("ECDS") && line.contains("ACK ERROR")) };
    until("istiod's log to tell that Envoy refused it", told, |told| *told).await;
    let rejects = client::get(([127, 0, 0, 1], 15014).into(), "/metrics").await.expect("istiod answers").text();
    let rejects = rejects.lines().find(|line| line.starts_with("pilot_total_xds_rejects") && line.contains("ecds"));
    assert!(rejects.is_some_and(|line| !line.ends_with(" 0")), "istiod counts it: {rejects:?}");
    backend.upstream.behave(Behaviour::Status(500));
    for (number, reply) in world.get_times(host, "/", 6).await.iter().enumerate() {
        assert_eq!(reply.is_rejection(), number == 5, "the old policy trips at five");
    }
    world.apply(&policy());
}

pub async fn a_new_image_under_load_fails_no_request_and_keeps_an_open_circuit(world: &World) {
    let (healthy, sick) = (world.backend(SHOP, "healthy").await, world.backend(SHOP, "sick").await);
    let route = |host: String| json!([{"route": [{"destination": {"host": host}}]}]);
    world.route("healthy.example.com", route(healthy.service.host())).await;
    world.route("sick.example.com", route(sick.service.host())).await;
    sick.upstream.behave(Behaviour::Status(500));
    world.get_times("sick.example.com", "/", 5).await;
    assert_eq!(world.gateway.state(&sick.service.upstream()).await, Some(State::Open));
    let next = variant::renewed(&std::fs::read(module()).expect("make build has made it"));
    world.lab.registry().push_module(&next, "v2").expect("the registry takes it");
    let created = || async {
        let stats = world.gateway.stats().await.expect("the admin interface answers");
        stats.get("wasm.envoy.wasm.runtime.v8.created").copied().unwrap_or(0)
    };
    let before = created().await;

    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, stop, sent) = (Arc::clone(&world.gateway), Arc::clone(&stop), Arc::clone(&sent));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let reply = ask(&gateway, "healthy.example.com", "/").await.expect("an answer");
                    assert_eq!(reply.status, 200, "after {} good ones", sent.load(Ordering::SeqCst));
                    let reply = ask(&gateway, "sick.example.com", "/").await.expect("an answer");
                    assert!(reply.is_rejection(), "the circuit stays open: {reply:?}");
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    until("load", || async { sent.load(Ordering::SeqCst) }, |sent| *sent > 100).await;
    world.apply(&policy().image("v2"));
    // A canary, the main thread and two workers.
    until("VMs of the new image", created, |created| *created >= before + 4).await;
    let at = sent.load(Ordering::SeqCst);
    until("load after the change", || async { sent.load(Ordering::SeqCst) }, |sent| *sent > at + 200).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no request fails");
    }
    let upstream = sick.service.upstream();
    assert_eq!(world.gateway.state(&upstream).await, Some(State::Open));
    assert_eq!(
        world.gateway.metric("circuit_breaker_calls_total", &upstream, "failure").await,
        5,
        "what was counted stays"
    );
    for (metric, component, counted) in
        [("circuit_breaker_failures_total", "http", 5), ("circuit_breaker_trips_total", "consecutive", 1)]
    {
        let found = world.gateway.metric(metric, &upstream, component).await;
        assert_eq!(found, counted, "{metric}, which no VM of the new image has added to");
    }
    let transitions = world.gateway.transitions();
    assert_eq!(transitions.iter().filter(|line| line["upstream"] == upstream.as_str()).count(), 1);
    world.apply(&policy());
}
