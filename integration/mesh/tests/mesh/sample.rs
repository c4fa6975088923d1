//! `istio/mesh`, the sample with all other layers of a mesh, as a user applies it: TLS at the edge, authorization, mutual
//! TLS, outlier detection, retries and a canary. The breaker with its fallback is at the gateway and in the client's
//! sidecar.

use std::sync::Arc;

use circuit_breaker_integration::client::{self, Reply};
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::authority::Authority;
use circuit_breaker_mesh::collector::Collector;
use circuit_breaker_mesh::control_plane::manifests;
use circuit_breaker_mesh::plugin::Plugin;
use circuit_breaker_mesh::pod::{Pod, Proxy, Spec};
use circuit_breaker_mesh::service::{APPLICATION, Service};
use tokio::sync::OnceCell;

use crate::world::{IMAGE, INGRESS, SHOP, World};

/// The ports of the gateway's pod: the targets of ports 80 and 443 of its Service.
pub const PLAIN: u16 = 8080;
pub const TLS: u16 = 8443;

pub const HOST: &str = "shop.example.com";

/// The secret that the sample's Gateway names.
const CREDENTIAL: &str = "shop-example-com";

/// The sample, up and served, with a collector of traces beside it.
pub struct Sample {
    /// Signed the certificate that the gateway shows.
    pub authority: Authority,
    pub collector: Collector,
    pub gateway: Arc<Pod>,
    pub client: Arc<Pod>,
    pub shop: Service,
    /// Version 1.
    pub stable: Upstream,
    /// Version 2, a tenth of the traffic.
    pub canary: Upstream,
    /// The pods of both versions.
    pub servers: [Arc<Pod>; 2],
}

static SAMPLE: OnceCell<Sample> = OnceCell::const_new();

/// From the first call on, the policies of the sample apply to the pods of all tests.
pub async fn sample(world: &World) -> &'static Sample {
    SAMPLE.get_or_init(|| Sample::open(world)).await
}

impl Sample {
    async fn open(world: &World) -> Sample {
        let (lab, kubectl) = (&world.lab, world.lab.kubectl());
        let collector = Collector::start(lab).await.unwrap_or_else(|why| panic!("{why:#}"));
        let authority = Authority::found().expect("keys can be made");
        let secret = authority.secret(INGRESS, CREDENTIAL, HOST).expect("a certificate");
        kubectl.apply(&[secret]).expect("the API server takes it");
        kubectl.apply_kustomization(&manifests().join("mesh")).expect("the API server takes it");
        // The sample has 1 %, and the caller's own wish does not change what a proxy traces.
        let all = r#"[{"op": "replace", "path": "/spec/tracing/0/randomSamplingPercentage", "value": 100}]"#;
        for [name, namespace] in [["ingressgateway", INGRESS], ["shop", SHOP]] {
            kubectl.run(&["patch", "telemetry", name, "-n", namespace, "--type=json", "-p", all]).expect("it is there");
        }
        Plugin::overlay("fallback", IMAGE).apply(kubectl, lab.directory()).expect("the API server takes it");
        Plugin::overlay("sidecar", IMAGE).apply(kubectl, lab.directory()).expect("the API server takes it");
        let version = |version: &str| {
            let spec = Spec::new(SHOP, &format!("shop-{version}-0"), Proxy::Sidecar).account("shop");
            lab.pod(spec.label("app", "shop").label("version", version))
        };
        let servers = [version("v1").await.expect("a pod"), version("v2").await.expect("a pod")];
        let [stable, canary] =
            [&servers[0], &servers[1]].map(|pod| pod.upstream(APPLICATION).expect("the pod's port is free"));
        let shop = Service::find(kubectl, SHOP, "shop").expect("the sample has it");
        shop.serve(kubectl, &[&servers[0], &servers[1]]).expect("the API server takes it");
        let spec = Spec::new(INGRESS, "ingressgateway-0", Proxy::Gateway).account("ingressgateway");
        let spec = spec.label("app", "ingressgateway").label("istio", "ingressgateway");
        let gateway = lab.pod(spec).await.expect("a gateway");
        let entrance = Service::find(kubectl, INGRESS, "ingressgateway").expect("the sample has it");
        entrance.serve(kubectl, &[&gateway]).expect("the API server takes it");
        let client = Spec::new(SHOP, "client-0", Proxy::Sidecar).account("client").label("app", "client");
        let client = lab.pod(client).await.expect("a pod");
        let sample = Sample { authority, collector, gateway, client, shop, stable, canary, servers };
        let visit = || async { sample.try_get("/", &[]).await.ok().map(|reply| reply.status) };
        until("the sample to be served", visit, |status| *status == Some(200)).await;
        sample
    }

    async fn try_get(&self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Reply> {
        self.authority.get((self.gateway.address(), TLS), HOST, path, headers).await
    }

    /// GET from outside, over TLS, through the gateway.
    pub async fn get(&self, path: &str) -> Reply {
        self.try_get(path, &[]).await.expect("an answer")
    }

    /// The same of the shop's entrance, with these headers.
    pub async fn visit(&self, headers: &[(&str, &str)]) -> Reply {
        self.try_get("/", headers).await.expect("an answer")
    }

    /// GET by the client, through its sidecar.
    pub async fn call(&self, headers: &[(&str, &str)]) -> Reply {
        let stream = self.client.netns().connect(self.shop.address()).await.expect("the sidecar takes it");
        let host = self.shop.host();
        client::request_over(stream, "GET", "/", &[&[("host", host.as_str())], headers].concat())
            .await
            .expect("an answer")
    }

    /// The name of a version's upstream.
    pub fn upstream(&self, version: &str) -> String {
        self.shop.subset(APPLICATION, version)
    }
}

pub async fn the_sample_mesh_serves_its_users_while_one_version_is_sick(world: &World) {
    let sample = sample(world).await;
    let Sample { gateway, client, shop, stable, canary, .. } = sample;
    canary.behave(Behaviour::Status(500));
    let upstream = sample.upstream("v2");
    let open = || async {
        sample.visit(&[]).await;
        gateway.state(&upstream).await
    };
    until("the canary's circuit to open", open, |state| *state == Some(State::Open)).await;
    let seen = (stable.seen(), canary.seen());
    for _ in 0..100 {
        assert_eq!(sample.visit(&[]).await.status, 200, "version 1 serves whom version 2 does not");
    }
    assert_eq!((stable.seen(), canary.seen()), (seen.0 + 100, seen.1));
    assert!(gateway.metric("circuit_breaker_fallback_total", &upstream, "").await > 0);

    let stranger = world.lab.pod(Spec::new(SHOP, "stranger", Proxy::Sidecar)).await.expect("a pod");
    let refused = stranger.get(shop.address(), &shop.host(), "/").await.expect("an answer");
    assert_eq!((refused.status, refused.is_rejection()), (403, false), "the sample's authorization is in force");
    let call = || async {
        sample.call(&[]).await;
        client.state(&upstream).await
    };
    until("the canary's circuit to open in the client's sidecar", call, |state| *state == Some(State::Open)).await;
    let seen = canary.seen();
    for _ in 0..50 {
        sample.call(&[]).await;
    }
    assert_eq!(canary.seen(), seen);
}
