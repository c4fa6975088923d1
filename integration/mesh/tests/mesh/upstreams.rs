//! One circuit for each upstream that the mesh knows, under the name that the mesh gives it.

use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::pod::{Proxy, Spec};
use circuit_breaker_mesh::service::APPLICATION;
use serde_json::json;

use crate::world::{SHOP, World};

pub async fn subsets_of_a_weighted_route_have_a_circuit_each(world: &World) {
    let (lab, host) = (&world.lab, "weighted.example.com");
    let pod = |version: &'static str| {
        lab.pod(Spec::new(SHOP, &format!("weighted-{version}"), Proxy::None).label("version", version))
    };
    let (stable, canary) = (pod("v1").await.expect("a pod"), pod("v2").await.expect("a pod"));
    let _well = stable.upstream(APPLICATION).expect("the pod's port is free");
    let sick = canary.upstream(APPLICATION).expect("the pod's port is free");
    let service = lab.service(SHOP, "weighted", &[APPLICATION], &[&stable, &canary]).expect("a Service");
    let subset = |name: &str| json!({"name": name, "labels": {"version": name}});
    lab.kubectl()
        .apply(&[json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "weighted", "namespace": SHOP},
            "spec": {"host": service.host(), "subsets": [subset("v1"), subset("v2")]},
        })])
        .expect("the API server takes it");
    let part = |name: &str| json!({"destination": {"host": service.host(), "subset": name}, "weight": 50});
    world.route(host, json!([{"route": [part("v1"), part("v2")]}])).await;
    sick.behave(Behaviour::Status(500));
    let (stable, canary) = (service.subset(APPLICATION, "v1"), service.subset(APPLICATION, "v2"));
    let ask = || async {
        world.get(host, "/").await;
        world.gateway.state(&canary).await
    };
    until("the canary's circuit to open", ask, |state| *state == Some(State::Open)).await;
    let seen = sick.seen();
    let replies = world.get_times(host, "/", 40).await;
    let (rejected, served) =
        (replies.iter().filter(|r| r.is_rejection()).count(), replies.iter().filter(|r| r.status == 200));
    assert_eq!(rejected + served.count(), 40, "a request is served by one or rejected for the other");
    assert!((5..=35).contains(&rejected), "about half of them: {rejected}");
    assert_eq!(sick.seen(), seen);
    assert_eq!(world.gateway.state(&stable).await, Some(State::Closed));
    assert_eq!(world.gateway.state(&service.upstream()).await, None, "nobody is sent to the Service without a subset");
}

pub async fn ports_of_one_service_have_a_circuit_each(world: &World) {
    let pod = world.lab.pod(Spec::new(SHOP, "two-ports", Proxy::None)).await.expect("a pod");
    let (sick, _well) = (pod.upstream(8080).expect("a free port"), pod.upstream(9090).expect("a free port"));
    let service = world.lab.service(SHOP, "two-ports", &[8080, 9090], &[&pod]).expect("a Service");
    let route = |port: u16| json!([{"route": [{"destination": {"host": service.host(), "port": {"number": port}}}]}]);
    world.route("one.example.com", route(8080)).await;
    world.route("two.example.com", route(9090)).await;
    sick.behave(Behaviour::Status(500));
    world.get_times("one.example.com", "/", 5).await;
    assert!(world.get("one.example.com", "/").await.is_rejection());
    assert_eq!(world.get("two.example.com", "/").await.status, 200);
    assert_eq!(world.gateway.state(&service.subset(8080, "")).await, Some(State::Open));
    assert_eq!(world.gateway.state(&service.subset(9090, "")).await, Some(State::Closed));
}

pub async fn an_external_host_has_a_circuit_under_its_own_name(world: &World) {
    // Outside of the mesh: there is no Service and no Pod that istiod would find by this name.
    let pod = world.lab.pod(Spec::new(SHOP, "abroad", Proxy::None)).await.expect("a pod");
    let upstream = pod.upstream(APPLICATION).expect("the pod's port is free");
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "payments", "namespace": SHOP},
        "spec": {
            "hosts": ["payments.example.net"], "location": "MESH_EXTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": APPLICATION}],
            "endpoints": [{"address": pod.address()}],
        },
    });
    world.lab.kubectl().apply(&[entry]).expect("the API server takes it");
    let host = "external.example.com";
    world.route(host, json!([{"route": [{"destination": {"host": "payments.example.net"}}]}])).await;
    upstream.behave(Behaviour::Status(500));
    world.get_times(host, "/", 5).await;
    assert!(world.get(host, "/").await.is_rejection());
    assert_eq!(world.gateway.state("outbound|80||payments.example.net").await, Some(State::Open));
}
