//! The breaker in a sidecar.

use std::net::SocketAddr;
use std::sync::Arc;

use circuit_breaker_integration::client::Reply;
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::plugin::Plugin;
use circuit_breaker_mesh::pod::{Pod, Proxy, Spec};
use circuit_breaker_mesh::service::{APPLICATION, Service};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::world::{IMAGE, SHOP, World, policy, policy_with};

/// A client with the plugin, one without, and the service that both call. All have sidecars, under `STRICT`.
struct Shop {
    client: Arc<Pod>,
    other: Arc<Pod>,
    server: Arc<Pod>,
    backend: Service,
    application: Upstream,
}

static SHOPPING: OnceCell<Shop> = OnceCell::const_new();

async fn shop(world: &World) -> &'static Shop {
    SHOPPING.get_or_init(|| open_shop(world)).await
}

async fn open_shop(world: &World) -> Shop {
    let lab = &world.lab;
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": SHOP}, "spec": {"mtls": {"mode": "STRICT"}},
    });
    lab.kubectl().apply(&[strict]).expect("the API server takes it");
    Plugin::overlay("sidecar", IMAGE).apply(lab.kubectl(), lab.directory()).expect("the API server takes it");
    let server = lab.pod(Spec::new(SHOP, "backend", Proxy::Sidecar)).await.expect("a pod");
    let application = server.upstream(APPLICATION).expect("the pod's port is free");
    let backend = lab.service(SHOP, "backend", &[APPLICATION], &[&server]).expect("a Service");
    let client = lab.pod(Spec::new(SHOP, "client", Proxy::Sidecar)).await.expect("a pod");
    let other = lab.pod(Spec::new(SHOP, "other", Proxy::Sidecar)).await.expect("a pod");
    let shop = Shop { client, other, server, backend, application };
    for pod in [&shop.client, &shop.other] {
        let serve = || async { call(pod, &shop.backend).await.map(|reply| reply.status) };
        until("the backend to be served", serve, |status| *status == Some(200)).await;
    }
    shop
}

async fn call(pod: &Pod, service: &Service) -> Option<Reply> {
    pod.get(service.address(), &service.host(), "/").await.ok()
}

pub async fn a_client_with_the_plugin_trips_and_another_pod_is_untouched(world: &World) {
    let shop = shop(world).await;
    let upstream = shop.backend.upstream();
    shop.application.behave(Behaviour::Status(500));
    for _ in 0..5 {
        let reply = call(&shop.client, &shop.backend).await.expect("an answer");
        assert_eq!((reply.status, reply.is_rejection()), (500, false));
    }
    assert_eq!(shop.client.state(&upstream).await, Some(State::Open));
    for _ in 0..5 {
        let reply = call(&shop.client, &shop.backend).await.expect("an answer");
        assert_eq!((reply.status, reply.header("x-circuit-breaker")), (503, "open"));
    }
    shop.application.behave(Behaviour::Status(200));
    let seen = shop.application.seen();
    for _ in 0..5 {
        assert_eq!(call(&shop.other, &shop.backend).await.expect("an answer").status, 200);
        assert!(call(&shop.client, &shop.backend).await.expect("an answer").is_rejection());
    }
    assert_eq!(shop.application.seen(), seen + 5, "only the other pod's requests arrive");
    assert_eq!(shop.other.state(&upstream).await, None, "there is no circuit in the other pod");
}

pub async fn inbound_traffic_is_untouched(world: &World) {
    let shop = shop(world).await;
    let application = shop.client.upstream(APPLICATION).expect("the pod's port is free");
    let own = world.lab.service(SHOP, "client", &[APPLICATION], &[&shop.client]).expect("a Service");
    let served = || async { call(&shop.other, &own).await.map(|reply| reply.status) };
    until("the client's own Service to be served", served, |status| *status == Some(200)).await;
    application.behave(Behaviour::Status(500));
    for _ in 0..20 {
        let reply = call(&shop.other, &own).await.expect("an answer");
        assert_eq!((reply.status, reply.is_rejection()), (500, false), "nothing stands in for the application");
    }
    let stats = shop.client.stats().await.expect("the admin interface answers");
    let circuits: Vec<_> =
        stats.keys().filter(|name| name.contains("circuit_breaker") && name.contains("inbound")).collect();
    assert!(circuits.is_empty(), "{circuits:?}");
}

pub async fn calls_stay_under_mutual_tls(world: &World) {
    let shop = shop(world).await;
    shop.application.behave(Behaviour::Status(200));
    assert_eq!(call(&shop.other, &shop.backend).await.expect("an answer").status, 200);
    let peer = shop.application.header("x-forwarded-client-cert");
    assert!(peer.contains("URI=spiffe://cluster.local/ns/shop/sa/default"), "the backend saw a certificate: {peer}");
    let outside = world.lab.pod(Spec::new(SHOP, "outside", Proxy::None)).await.expect("a pod");
    // Outside of the mesh nobody translates a Service's address, so the request goes straight to the pod.
    let to = SocketAddr::from((shop.server.address(), APPLICATION));
    let plain = outside.get(to, &shop.backend.host(), "/").await;
    assert!(plain.is_err(), "nobody gets in without a certificate: {plain:?}");
}

/// The series of the policies that a proxy's workers have in use.
async fn policies_in_use(proxy: &Pod) -> Vec<String> {
    let stats = proxy.stats().await.expect("the admin interface answers");
    stats
        .into_iter()
        .filter(|(name, value)| name.contains("circuit_breaker_info") && *value == 1)
        .map(|(name, _)| name)
        .collect()
}

pub async fn the_breakers_own_probes_go_under_mutual_tls_and_without_users(world: &World) {
    shop(world).await;
    let server = world.lab.pod(Spec::new(SHOP, "probed", Proxy::Sidecar)).await.expect("a pod");
    let application = server.upstream(APPLICATION).expect("the pod's port is free");
    let service = world.lab.service(SHOP, "probed", &[APPLICATION], &[&server]).expect("a Service");
    let (host, upstream) = ("probed.example.com", service.upstream());
    world.route(host, json!([{"route": [{"destination": {"host": service.host()}}]}])).await;
    let earlier = policies_in_use(&world.gateway).await;
    world.apply(&policy_with(json!({
        "match": {"host": service.host()},
        "open": {"baseDuration": "2s", "jitterPercent": 0},
        "halfOpen": {
            "successThreshold": 2, "activeProbe": {"path": "/healthz", "interval": "500ms"}, "ramp": {"duration": "0s"},
        },
    })));
    // A circuit that trips before has the open time of the earlier policy.
    let in_use = || policies_in_use(&world.gateway);
    until("the new policy alone to be in use", in_use, |now| now.len() == 1 && *now != earlier).await;
    application.behave(Behaviour::Status(500));
    until("the circuit to be OPEN", || async { world.get(host, "/").await.is_rejection() }, |open| *open).await;
    let users = application.seen_for("/");
    let probed = || async { application.seen_for("/healthz") };
    until("a probe that fails", probed, |probes| *probes > 0).await;
    application.behave(Behaviour::Status(200));
    world.gateway.until_state(&upstream, State::Closed).await;
    let peer = application.header("x-forwarded-client-cert");
    assert!(peer.contains("URI=spiffe://cluster.local/ns/istio-ingress/"), "the gateway's own certificate: {peer}");
    let sent = ["user-agent", "host"].map(|name| application.header(name));
    assert_eq!(sent, ["circuit-breaker-probe".to_owned(), service.host()]);
    assert_eq!(application.seen_for("/"), users, "no user paid for a test");
    world.apply(&policy());
}
