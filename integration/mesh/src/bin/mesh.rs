//! `make mesh`: a mesh that stays until Ctrl-C, for curl and kubectl.

use std::sync::Arc;

use anyhow::Result;
use circuit_breaker_integration::control::obey;
use circuit_breaker_mesh::control_plane::Istio;
use circuit_breaker_mesh::lab::Lab;
use circuit_breaker_mesh::namespaces;
use circuit_breaker_mesh::plugin::Plugin;
use circuit_breaker_mesh::pod::{Pod, Proxy, Spec};
use circuit_breaker_mesh::service::APPLICATION;
use serde_json::json;
use tokio::net::TcpListener;

const TAG: &str = "latest-build";
/// Where the application is told how to behave.
const CONTROL: u16 = 10081;

fn main() -> Result<()> {
    let rights = namespaces::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let lab = Lab::start(rights, Istio::chosen()?).await?;
        lab.registry().push_build(TAG)?;
        for namespace in ["istio-ingress", "shop"] {
            lab.namespace(namespace)?;
        }
        Plugin::overlay("gateway", TAG).apply(lab.kubectl(), lab.directory())?;
        Plugin::overlay("sidecar", TAG).apply(lab.kubectl(), lab.directory())?;
        let sidecar = if rights == namespaces::Rights::Full { Proxy::Sidecar } else { Proxy::None };
        let server = lab.pod(Spec::new("shop", "backend", sidecar)).await?;
        let application = Arc::new(server.upstream(APPLICATION)?);
        let service = lab.service("shop", "backend", &[APPLICATION], &[&server])?;
        lab.kubectl().apply(&routes(&service.host()))?;
        let gateway = Spec::new("istio-ingress", "ingressgateway", Proxy::Gateway).label("istio", "ingressgateway");
        let gateway = lab.pod(gateway).await?;
        let client = lab.pod(Spec::new("shop", "client", sidecar)).await?;
        tokio::spawn(obey(TcpListener::bind(("127.0.0.1", CONTROL)).await?, application));
        print_help(&lab, &gateway, &client);
        // Ctrl-C ends the process, and with it the lab.
        std::future::pending().await
    })
}

fn routes(host: &str) -> [serde_json::Value; 2] {
    let server = json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*/*"]});
    let metadata = json!({"name": "lab", "namespace": "istio-ingress"});
    [
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": metadata,
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": [server]},
        }),
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata,
            "spec": {
                "hosts": ["*"], "gateways": ["lab"],
                "http": [{"timeout": "10s", "route": [{"destination": {"host": host}}]}],
            },
        }),
    ]
}

fn print_help(lab: &Lab, gateway: &Pod, client: &Pod) {
    let way_in = namespaces::way_in(lab.rights());
    let (kubeconfig, kubectl) = (lab.kubectl().kubeconfig().display(), lab.kubectl().binary().display());
    let address = gateway.address();
    let pod = client.netns_name();
    let log = gateway.directory().join("agent.log");
    println!(
        "
  The mesh is a network of its own. In another terminal:

    alias lab='{way_in}'
    lab curl -i http://{address}/                            a request through the gateway
    lab ip netns exec {pod} curl -i http://backend.shop.svc.cluster.local:{APPLICATION}/    one of a client with a sidecar
    lab curl http://127.0.0.1:{CONTROL}/fail                     make the application fail (/hang, /reset, /healthy)
    lab curl -s http://{address}:15090/stats/prometheus | grep ^circuit_breaker
    alias kubectl='lab env KUBECONFIG={kubeconfig} {kubectl}'
    kubectl edit wasmplugin circuit-breaker -n istio-ingress
    lab tail -f {}
    lab ip netns exec {pod} curl -s http://127.0.0.1:15000/config_dump

  Ctrl-C ends all.
",
        log.display()
    );
}
