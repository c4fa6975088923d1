//! `istio/mesh`, the sample with all other layers of a mesh, as a user applies it: authorization, mutual TLS, outlier
//! detection, retries and a canary. The breaker with its fallback is at the gateway and in the client's sidecar.

use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::control_plane::manifests;
use circuit_breaker_mesh::plugin::Plugin;
use circuit_breaker_mesh::pod::{Proxy, Spec};
use circuit_breaker_mesh::service::{APPLICATION, Service};

use crate::world::{IMAGE, INGRESS, SHOP, World, ask_at};

/// The port of the gateway's pod: the target of port 80 of its Service.
const ENTRANCE: u16 = 8080;

const HOST: &str = "shop.example.com";

pub async fn the_sample_mesh_serves_its_users_while_one_version_is_sick(world: &World) {
    let (lab, kubectl) = (&world.lab, world.lab.kubectl());
    kubectl.apply_kustomization(&manifests().join("mesh")).expect("the API server takes it");
    Plugin::overlay("fallback", IMAGE).apply(kubectl, lab.directory()).expect("the API server takes it");
    Plugin::overlay("sidecar", IMAGE).apply(kubectl, lab.directory()).expect("the API server takes it");
    let version = |version: &str| {
        let spec = Spec::new(SHOP, &format!("shop-{version}-0"), Proxy::Sidecar).account("shop");
        lab.pod(spec.label("app", "shop").label("version", version))
    };
    let (v1, v2) = (version("v1").await.expect("a pod"), version("v2").await.expect("a pod"));
    let well = v1.upstream(APPLICATION).expect("the pod's port is free");
    let sick = v2.upstream(APPLICATION).expect("the pod's port is free");
    let shop = Service::find(kubectl, SHOP, "shop").expect("the sample has it");
    shop.serve(kubectl, &[&v1, &v2]).expect("the API server takes it");
    let spec = Spec::new(INGRESS, "ingressgateway-0", Proxy::Gateway).account("ingressgateway");
    let gateway =
        lab.pod(spec.label("app", "ingressgateway").label("istio", "ingressgateway")).await.expect("a gateway");
    let entrance = Service::find(kubectl, INGRESS, "ingressgateway").expect("the sample has it");
    entrance.serve(kubectl, &[&gateway]).expect("the API server takes it");
    let visit = || async { ask_at(&gateway, ENTRANCE, HOST, "/").await.ok().map(|reply| reply.status) };
    until("the sample to be served", visit, |status| *status == Some(200)).await;

    sick.behave(Behaviour::Status(500));
    let canary = shop.subset(APPLICATION, "v2");
    let open = || async {
        visit().await;
        gateway.state(&canary).await
    };
    until("the canary's circuit to open", open, |state| *state == Some(State::Open)).await;
    let seen = (well.seen(), sick.seen());
    for _ in 0..100 {
        assert_eq!(visit().await, Some(200), "version 1 serves whom version 2 does not");
    }
    assert_eq!((well.seen(), sick.seen()), (seen.0 + 100, seen.1));
    assert!(gateway.metric("circuit_breaker_fallback_total", &canary, "").await > 0);

    let client = Spec::new(SHOP, "client-0", Proxy::Sidecar).account("client").label("app", "client");
    let client = lab.pod(client).await.expect("a pod");
    let stranger = lab.pod(Spec::new(SHOP, "stranger", Proxy::Sidecar)).await.expect("a pod");
    let refused = stranger.get(shop.address(), &shop.host(), "/").await.expect("an answer");
    assert_eq!((refused.status, refused.is_rejection()), (403, false), "the sample's authorization is in force");
    let call = || async {
        client.get(shop.address(), &shop.host(), "/").await.expect("an answer");
        client.state(&canary).await
    };
    until("the canary's circuit to open in the client's sidecar", call, |state| *state == Some(State::Open)).await;
    let seen = sick.seen();
    for _ in 0..50 {
        client.get(shop.address(), &shop.host(), "/").await.expect("an answer");
    }
    assert_eq!(sick.seen(), seen);
}
