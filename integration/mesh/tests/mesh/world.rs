//! What most tests share: a lab, the image in its registry, and a gateway with the breaker, as in
//! `istio/overlays/gateway`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use circuit_breaker_integration::client::{self, Reply};
use circuit_breaker_integration::upstream::Upstream;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::control_plane::Istio;
use circuit_breaker_mesh::lab::Lab;
use circuit_breaker_mesh::namespaces::Rights;
use circuit_breaker_mesh::plugin::Plugin;
use circuit_breaker_mesh::pod::{Pod, Proxy, Spec};
use circuit_breaker_mesh::service::{APPLICATION, Service};
use serde_json::{Value, json};

/// The tag of the image that `make image` made.
pub const IMAGE: &str = "v1";

/// The namespace of the gateway and its plugin.
pub const INGRESS: &str = "istio-ingress";

/// The namespace whose circuits have the policy of the manifests.
pub const SHOP: &str = "shop";

/// The namespace whose circuits open for two seconds, probe once and have no ramp, so that a test sees them recover.
pub const QUICK: &str = "quick";

pub struct World {
    pub lab: Lab,
    pub gateway: Arc<Pod>,
}

/// A Service with one pod outside of the mesh.
pub struct Backend {
    pub service: Service,
    pub pod: Arc<Pod>,
    pub upstream: Upstream,
}

impl World {
    pub async fn start(rights: Rights, istio: Istio) -> Result<World> {
        let lab = Lab::start(rights, istio).await?;
        lab.registry().push_build(IMAGE)?;
        for namespace in [INGRESS, SHOP, QUICK] {
            lab.namespace(namespace)?;
        }
        apply_policy(&lab, &policy())?;
        lab.kubectl().apply(&[json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "lab", "namespace": INGRESS},
            "spec": {
                "selector": {"gateway": "lab"},
                "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*/*"]}],
            },
        })])?;
        let gateway = lab.pod(gateway_spec(INGRESS, "ingressgateway", "ingressgateway")).await?;
        Ok(World { lab, gateway })
    }

    /// Puts back what a failed test has taken away, so that it fails no other test.
    pub async fn mend(&self) -> Result<()> {
        self.lab.plane().start_istiod().await?;
        self.lab.registry().resume().await?;
        for plugin in [["wasmplugin", "istio-system"], ["trafficextension", INGRESS], ["trafficextension", SHOP]] {
            // 1.29 knows no TrafficExtension.
            let _ = self.lab.kubectl().delete(&[plugin[0], "circuit-breaker", "-n", plugin[1]]);
        }
        apply_policy(&self.lab, &policy())
    }

    /// The policy of the shared gateway becomes this.
    pub fn apply(&self, plugin: &Plugin) {
        apply_policy(&self.lab, plugin).expect("the API server takes it");
    }

    /// A Service in `namespace` with one pod that has no sidecar.
    pub async fn backend(&self, namespace: &str, name: &str) -> Backend {
        let pod = self.lab.pod(Spec::new(namespace, name, Proxy::None)).await.expect("a pod");
        let upstream = pod.upstream(APPLICATION).expect("the pod's port is free");
        let service = self.lab.service(namespace, name, &[APPLICATION], &[&pod]).expect("a Service");
        Backend { service, pod, upstream }
    }

    /// Routes `host` at the gateways as this VirtualService says, and waits until that is in force.
    pub async fn route(&self, host: &str, http: Value) {
        self.virtual_service(host, http);
        until(&format!("{host} to be served"), || self.try_get(host, "/"), |reply| *reply == Some(200)).await;
    }

    pub fn virtual_service(&self, host: &str, http: Value) {
        let object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": host, "namespace": INGRESS},
            "spec": {"hosts": [host], "gateways": ["lab"], "http": http},
        });
        self.lab.kubectl().apply(&[object]).expect("the API server takes it");
    }

    async fn try_get(&self, host: &str, path: &str) -> Option<u16> {
        Some(ask(&self.gateway, host, path).await.ok()?.status)
    }

    /// GET from outside, through the gateway.
    pub async fn get(&self, host: &str, path: &str) -> Reply {
        ask(&self.gateway, host, path).await.unwrap_or_else(|why| panic!("no answer from {host}{path}: {why:#}"))
    }

    /// So many GETs, one after the other.
    pub async fn get_times(&self, host: &str, path: &str, times: usize) -> Vec<Reply> {
        let mut replies = Vec::with_capacity(times);
        for _ in 0..times {
            replies.push(self.get(host, path).await);
        }
        replies
    }

    /// So many GETs at once.
    pub async fn get_at_once(&self, host: &str, path: &str, clients: usize) -> Vec<Reply> {
        futures_util::future::join_all((0..clients).map(|_| self.get(host, path))).await
    }
}

/// GET from outside through any gateway.
pub async fn ask(gateway: &Pod, host: &str, path: &str) -> Result<Reply> {
    ask_at(gateway, 80, host, path).await
}

/// GET from outside through any gateway, at a port other than 80.
pub async fn ask_at(gateway: &Pod, port: u16, host: &str, path: &str) -> Result<Reply> {
    let stream = tokio::net::TcpStream::connect(SocketAddr::from((gateway.address(), port))).await?;
    client::request_over(stream, "GET", path, &[("host", host)]).await
}

/// A gateway's pod: the label `istio` chooses its plugins, `gateway` its routes.
pub fn gateway_spec(namespace: &str, name: &str, istio: &str) -> Spec {
    Spec::new(namespace, name, Proxy::Gateway).label("istio", istio).label("gateway", "lab")
}

/// `istio/overlays/gateway`, with entries for upstreams whose tests cannot wait half a minute.
pub fn policy() -> Plugin {
    Plugin::overlay("gateway", IMAGE).patch("add", "/spec/pluginConfig/upstreams", json!([quick()]))
}

/// The same, with an entry for one more upstream.
pub fn policy_with(upstream: Value) -> Plugin {
    Plugin::overlay("gateway", IMAGE).patch("add", "/spec/pluginConfig/upstreams", json!([quick(), upstream]))
}

fn quick() -> Value {
    json!({
        "match": {"host": format!("*.{QUICK}.svc.cluster.local")},
        "open": {"baseDuration": "2s", "jitterPercent": 0},
        "halfOpen": {"successThreshold": 1, "ramp": {"duration": "0s"}},
    })
}

fn apply_policy(lab: &Lab, plugin: &Plugin) -> Result<()> {
    plugin.apply(lab.kubectl(), lab.directory())
}
