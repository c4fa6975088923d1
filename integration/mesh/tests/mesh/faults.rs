//! Parts of the mesh fail; the breaker must not be what takes the service down.

use std::net::SocketAddr;
use std::sync::Arc;

use circuit_breaker_integration::client::{self, Reply};
use circuit_breaker_integration::envoy::module;
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::pod::{Pod, Proxy, Spec};
use circuit_breaker_mesh::service::APPLICATION;
use circuit_breaker_mesh::variant::{self, TRAPPING_HEADERS};
use serde_json::json;

use crate::world::{QUICK, SHOP, World, ask, gateway_spec, policy};

/// A gateway of its own, with the manifests' plugin, an image and a fail strategy.
async fn gateway(world: &World, name: &str, image: &str, strategy: &str) -> Arc<Pod> {
    world.lab.namespace(name).expect("the API server takes it");
    let plugin = policy()
        .namespace(name)
        .image(image)
        .patch("replace", "/spec/selector/matchLabels/istio", json!(name))
        .patch("replace", "/spec/failStrategy", json!(strategy));
    world.apply(&plugin);
    world.lab.pod(gateway_spec(name, name, name)).await.expect("a gateway")
}

async fn until_served(gateway: &Pod, host: &str, status: u16) {
    let look = || async { ask(gateway, host, "/").await.ok().map(|reply| reply.status) };
    until(&format!("{host} to be answered {status}"), look, |seen| *seen == Some(status)).await;
}

pub async fn without_istiod_the_breaker_goes_on(world: &World) {
    let backend = world.backend(QUICK, "orphan").await;
    let (host, upstream) = ("orphan.example.com", backend.service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    world.lab.plane().stop_istiod();
    let istiod = SocketAddr::from(([127, 0, 0, 1], 15014));
    assert!(client::get(istiod, "/metrics").await.is_err(), "there is no istiod");
    backend.upstream.behave(Behaviour::Status(500));
    world.get_times(host, "/", 5).await;
    assert!(world.get(host, "/").await.is_rejection());
    backend.upstream.behave(Behaviour::Status(200));
    until("the gateway to serve again", || async { world.get(host, "/").await.status }, |status| *status == 200).await;
    world.gateway.until_state(&upstream, State::Closed).await;
    world.lab.plane().start_istiod().await.expect("istiod starts again");
    // The agent connects to istiod again: a change that is made now arrives.
    world.route("again.example.com", json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
}

pub async fn an_image_that_is_not_there_takes_the_breaker_away_and_traffic_passes(world: &World) {
    let backend = world.backend(SHOP, "mistagged").await;
    let (host, upstream) = ("mistagged.example.com", backend.service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    backend.upstream.behave(Behaviour::Status(500));
    world.get_times(host, "/", 5).await;
    world.apply(&policy().image("no-such-tag"));
    let served = || async {
        let reply = world.get(host, "/").await;
        assert!(matches!(reply.status, 500 | 503), "never 403: {reply:?}");
        reply.is_rejection()
    };
    until("the breaker to be gone", served, |rejected| !rejected).await;
    assert!(world.gateway.log().contains("applying allow RBAC filter"), "the agent says why");
    // Back again: the agent has the image, and the circuits begin CLOSED.
    world.apply(&policy());
    until("the breaker to be back", served, |rejected| *rejected).await;
    let transitions = world.gateway.transitions();
    let trips = transitions.iter().filter(|line| line["upstream"] == upstream.as_str() && line["to"] == "OPEN");
    assert_eq!(trips.count(), 2, "it began closed, as nobody held its state meanwhile");
}

pub async fn with_the_registry_down_a_new_proxy_lets_traffic_pass(world: &World) {
    let backend = world.backend(SHOP, "unfetched").await;
    let host = "unfetched.example.com";
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    world.lab.registry().stop();
    let open = gateway(world, "registry-down", "v1", "FAIL_OPEN").await;
    until_served(&open, host, 200).await;
    backend.upstream.behave(Behaviour::Status(500));
    for _ in 0..10 {
        let reply = ask(&open, host, "/").await.expect("an answer");
        assert_eq!((reply.status, reply.is_rejection()), (500, false), "unprotected, and served");
    }
    assert!(open.log().contains("applying allow RBAC filter"), "the agent says why");
    world.lab.registry().resume().await.expect("the registry starts again");
}

pub async fn with_the_registry_down_fail_reload_and_fail_close_answer_403_to_everyone(world: &World) {
    let backend = world.backend(SHOP, "forbidden").await;
    let host = "forbidden.example.com";
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    world.lab.registry().stop();
    for (name, strategy) in [("fail-reload", "FAIL_RELOAD"), ("fail-close", "FAIL_CLOSE")] {
        let gateway = gateway(world, name, "v1", strategy).await;
        until_served(&gateway, host, 403).await;
        assert!(gateway.log().contains("applying deny RBAC filter"), "the agent says why");
    }
    world.lab.registry().resume().await.expect("the registry starts again");
}

async fn trap(gateway: &Pod, host: &str) -> Reply {
    let names: Vec<_> = (0..TRAPPING_HEADERS).map(|number| format!("x-filler-{number}")).collect();
    let mut headers = vec![("host", host)];
    headers.extend(names.iter().map(|name| (name.as_str(), "1")));
    let to = SocketAddr::from((gateway.address(), 80));
    client::request(to, "GET", "/", &headers).await.expect("an answer")
}

async fn push_trapping(world: &World) {
    let module =
        variant::trapping(&std::fs::read(module()).expect("make build has made it")).expect("it admits requests");
    world.lab.registry().push_module(&module, "trap").expect("the registry takes it");
}

pub async fn a_vm_that_traps_lets_traffic_pass(world: &World) {
    let backend = world.backend(SHOP, "trapped").await;
    let host = "trapped.example.com";
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    push_trapping(world).await;
    let gateway = gateway(world, "trap-open", "trap", "FAIL_OPEN").await;
    until_served(&gateway, host, 200).await;
    let reply = trap(&gateway, host).await;
    assert_eq!((reply.status, reply.is_rejection()), (503, false), "the request that met the bug");
    for _ in 0..20 {
        assert_eq!(ask(&gateway, host, "/").await.expect("an answer").status, 200, "the others pass");
    }
}

pub async fn a_vm_that_traps_is_made_anew_under_fail_reload_and_circuits_stay_open(world: &World) {
    let (sick, healthy) = (world.backend(SHOP, "reloaded").await, world.backend(SHOP, "beside").await);
    world.route("reloaded.example.com", json!([{"route": [{"destination": {"host": sick.service.host()}}]}])).await;
    world.route("beside.example.com", json!([{"route": [{"destination": {"host": healthy.service.host()}}]}])).await;
    push_trapping(world).await;
    let gateway = gateway(world, "trap-reload", "trap", "FAIL_RELOAD").await;
    until_served(&gateway, "reloaded.example.com", 200).await;
    sick.upstream.behave(Behaviour::Status(500));
    for _ in 0..5 {
        ask(&gateway, "reloaded.example.com", "/").await.expect("an answer");
    }
    assert_eq!(gateway.state(&sick.service.upstream()).await, Some(State::Open));
    assert_eq!(trap(&gateway, "beside.example.com").await.status, 503);
    let reloaded = || async {
        let reply = ask(&gateway, "beside.example.com", "/").await.expect("an answer");
        let stats = gateway.stats().await.expect("the admin interface answers");
        let reloads: u64 = stats.iter().filter(|(name, _)| name.ends_with("vm_reload_success")).map(|(_, n)| n).sum();
        (reply.status, reloads)
    };
    until("a new VM", reloaded, |seen| *seen == (200, 1)).await;
    for _ in 0..20 {
        let reply = ask(&gateway, "reloaded.example.com", "/").await.expect("an answer");
        assert!(reply.is_rejection(), "the circuit outlives the VM: {reply:?}");
    }
}

pub async fn an_agent_that_restarts_begins_closed_and_protects_again(world: &World) {
    let backend = world.backend(SHOP, "restarted").await;
    let host = "restarted.example.com";
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    let gateway = gateway(world, "restart", "v1", "FAIL_OPEN").await;
    until_served(&gateway, host, 200).await;
    backend.upstream.behave(Behaviour::Status(500));
    for _ in 0..2 {
        for number in 0..6 {
            let reply = ask(&gateway, host, "/").await.expect("an answer");
            assert_eq!(reply.is_rejection(), number == 5, "{reply:?}");
        }
        gateway.stop_agent();
        gateway.start_agent().await.expect("the agent starts again");
        until_served(&gateway, "restarted.example.com", 500).await;
        // This call was counted.
        backend.upstream.behave(Behaviour::Status(200));
        until_served(&gateway, host, 200).await;
        backend.upstream.behave(Behaviour::Status(500));
    }
}

pub async fn an_upstream_that_comes_back_under_another_address_closes_its_circuit(world: &World) {
    let backend = world.backend(QUICK, "moved").await;
    let (host, upstream) = ("moved.example.com", backend.service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": backend.service.host()}}]}])).await;
    let before = backend.pod.address();
    drop(backend.upstream);
    for _ in 0..5 {
        assert_eq!(world.get(host, "/").await.status, 503, "nobody listens");
    }
    assert!(world.get(host, "/").await.is_rejection());
    assert_eq!(world.gateway.metric("circuit_breaker_failures_total", &upstream, "connect").await, 5);
    world.lab.delete(backend.pod).expect("the API server takes it");
    let pod = world.lab.pod(Spec::new(QUICK, "moved", Proxy::None)).await.expect("a pod");
    assert_ne!(pod.address(), before);
    let _application = pod.upstream(APPLICATION).expect("the pod's port is free");
    backend.service.serve(world.lab.kubectl(), &[&pod]).expect("the API server takes it");
    until("the gateway to serve again", || async { world.get(host, "/").await.status }, |status| *status == 200).await;
    world.gateway.until_state(&upstream, State::Closed).await;
}
