//! The other overlays of `istio/`.

use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::control_plane::manifests;
use circuit_breaker_mesh::plugin::Plugin;
use circuit_breaker_mesh::pod::Pod;
use serde_json::json;

use crate::world::{IMAGE, INGRESS, SHOP, World, ask, gateway_spec, policy};

async fn until_served(gateway: &Pod, host: &str) {
    let look = || async { ask(gateway, host, "/").await.ok().map(|reply| reply.status) };
    until(&format!("{host} to be served"), look, |seen| *seen == Some(200)).await;
}

async fn rejected(gateway: &Pod, host: &str, times: usize) -> usize {
    let mut rejected = 0;
    for _ in 0..times {
        rejected += usize::from(ask(gateway, host, "/").await.expect("an answer").is_rejection());
    }
    rejected
}

pub async fn observe_rejects_nothing_and_tells_what_it_would_have_rejected(world: &World) {
    let backend = world.backend(SHOP, "observed").await;
    let (host, upstream) = ("observed.example.com", backend.service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    world.lab.namespace("observe").expect("the API server takes it");
    world.apply(&Plugin::overlay("observe", IMAGE).namespace("observe").patch(
        "replace",
        "/spec/selector/matchLabels/istio",
        json!("observe"),
    ));
    let gateway = world.lab.pod(gateway_spec("observe", "observe", "observe")).await.expect("a gateway");
    until_served(&gateway, host).await;
    backend.upstream.behave(Behaviour::Status(500));
    let seen = backend.upstream.seen();
    assert_eq!(rejected(&gateway, host, 9).await, 0);
    assert_eq!(backend.upstream.seen(), seen + 9);
    assert_eq!(gateway.state(&upstream).await, Some(State::Open));
    gateway.until_metric("circuit_breaker_would_reject_total", &upstream, "open", 4).await;
}

pub async fn the_mesh_wide_overlay_is_everywhere_but_where_a_namespace_opts_out(world: &World) {
    let backend = world.backend(SHOP, "wide").await;
    let host = "wide.example.com";
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    for namespace in ["wide", "opted-out"] {
        world.lab.namespace(namespace).expect("the API server takes it");
    }
    let kubectl = world.lab.kubectl();
    let opt_out = manifests().join("overlays/mesh-wide/opt-out-envoyFilter.yaml").display().to_string();
    kubectl.run(&["apply", "--server-side", "-n", "opted-out", "-f", &opt_out]).expect("the API server takes it");
    world.apply(&Plugin::overlay("mesh-wide", IMAGE));
    let with = world.lab.pod(gateway_spec("wide", "wide", "wide")).await.expect("a gateway");
    let without = world.lab.pod(gateway_spec("opted-out", "opted-out", "opted-out")).await.expect("a gateway");
    until_served(&with, host).await;
    until_served(&without, host).await;
    backend.upstream.behave(Behaviour::Status(500));
    assert_eq!(rejected(&with, host, 8).await, 3, "five fail");
    assert_eq!(rejected(&without, host, 8).await, 0);
    // With this one beside it, the shared gateway would count every request twice.
    kubectl.delete(&["wasmplugin", "circuit-breaker", "-n", "istio-system"]).expect("the API server takes it");
}

pub async fn a_traffic_extension_does_what_the_wasm_plugin_does(world: &World) {
    let backend = world.backend(SHOP, "extended").await;
    let (host, upstream) = ("extended.example.com", backend.service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    let kubectl = world.lab.kubectl();
    // One plugin a proxy, as istio/README.md says.
    kubectl.delete(&["wasmplugin", "circuit-breaker", "-n", INGRESS]).expect("the API server takes it");
    kubectl.delete(&["wasmplugin", "circuit-breaker", "-n", SHOP]).expect("the API server takes it");
    world.apply(&Plugin::overlay("traffic-extension", IMAGE));
    // A new gateway: in the shared one the listeners with the plugin still drain for a while.
    let gateway = world.lab.pod(gateway_spec(INGRESS, "extension", "ingressgateway")).await.expect("a gateway");
    until_served(&gateway, host).await;
    let filters = gateway.admin("/config_dump").await.expect("the admin interface answers");
    assert!(
        filters.contains("trafficextension/istio-ingress.circuit-breaker\""),
        "it is the TrafficExtension's filter"
    );
    assert!(!filters.contains("wasmplugin"), "and no other");
    backend.upstream.behave(Behaviour::Status(500));
    assert_eq!(rejected(&gateway, host, 8).await, 3, "five fail");
    assert_eq!(gateway.state(&upstream).await, Some(State::Open));
    for namespace in [INGRESS, SHOP] {
        kubectl.delete(&["trafficextension", "circuit-breaker", "-n", namespace]).expect("the API server takes it");
    }
    world.apply(&policy());
}
