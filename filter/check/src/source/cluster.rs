//! The proxies of a cluster, through its API server.
//!
//! Each proxy is asked by a port-forward, as `kubectl port-forward` does it: that works wherever its user may do so,
//! whatever the network policies say. Where it is not to be had the API server itself asks the pod.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::{StreamExt, stream};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::client::{Client, UpgradeConnectionError};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Api, Error};
use serde_json::Value;

use super::{AT_ONCE, Progress, http, now};
use crate::files::{Found, is_breaker, plugin_config};
use crate::fleet::Round;
use crate::look::Look;

/// Which cluster, and which of its proxies.
#[derive(Args, Clone, Debug, Default)]
pub struct Access {
    /// The kubeconfig, in place of the usual one
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Ask the proxies of this namespace only
    #[arg(long, value_name = "NAMESPACE")]
    pub proxies_in: Option<String>,
    /// Ask the proxies whose pods have these labels only
    #[arg(long, short = 'l', value_name = "LABELS")]
    pub selector: Option<String>,
}

/// The container in which Envoy runs, in sidecars and gateways alike.
const CONTAINER: &str = "istio-proxy";

/// Envoy's own metrics. Agents offer them too, merged with the application's, on a port that sometimes is another.
const PORT: u16 = 15090;

/// Only what is read here, by Envoy's names: the whole page of a gateway has megabytes.
const PATH: &str = "/stats/prometheus?filter=circuit_breaker_%7Coutlier_detection";

/// Lines of a proxy's log that are searched for transitions.
const LOG_LINES: i64 = 20_000;

/// A cluster that can be asked.
pub struct Cluster {
    client: Client,
    access: Access,
    patience: Duration,
    /// Whether this user may not forward ports: then no other pod need be tried that way.
    forward_refused: AtomicBool,
}

/// A pod with a proxy in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Proxy {
    namespace: String,
    name: String,
}

impl Cluster {
    /// By the kubeconfig, or from inside of a pod.
    ///
    /// # Errors
    /// There is no way to a cluster.
    pub async fn reach(access: &Access, patience: Duration) -> Result<Cluster> {
        let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &access.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file).with_context(|| file.display().to_string())?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await?
            }
            None if access.context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer().await.context("no way to a cluster; --stats and --prometheus need none")?,
        };
        // A pod that is not there answers 503 through the API server. Asked again and again it would take all the
        // patience that there is, and its reason would be lost.
        config.default_retry = false;
        let client = Client::try_from(config)?;
        Ok(Cluster { client, access: access.clone(), patience, forward_refused: AtomicBool::new(false) })
    }

    /// What all proxies say now.
    ///
    /// # Errors
    /// The API server does not name the pods.
    pub async fn round(&self, quiet: bool) -> Result<Round> {
        let (at, proxies) = (now(), self.proxies().await?);
        let progress = Progress::of(proxies.len(), quiet);
        let asked = stream::iter(&proxies).map(|proxy| async {
            let look = self.page(proxy).await.map(|page| Look::read(&page)).map_err(|why| format!("{why:#}"));
            progress.one_more();
            (format!("{}/{}", proxy.namespace, proxy.name), look)
        });
        let answers: BTreeMap<_, _> = asked.buffer_unordered(AT_ONCE).collect().await;
        Ok(Round { at, proxies: answers.into_iter().collect() })
    }

    async fn proxies(&self) -> Result<Vec<Proxy>> {
        let pods = match &self.access.proxies_in {
            Some(namespace) => Api::<Pod>::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let mut wanted = ListParams::default().fields("status.phase=Running");
        wanted.label_selector.clone_from(&self.access.selector);
        let listed = tokio::time::timeout(self.patience, pods.list(&wanted)).await;
        let pods = listed.context("the API server does not answer")?.context("the API server does not list pods")?;
        let mut proxies: Vec<_> = pods.items.into_iter().filter(has_proxy).filter_map(proxy).collect();
        proxies.sort();
        Ok(proxies)
    }

    /// A proxy's metrics. One that hangs has cost its patience, and no second way is tried.
    async fn page(&self, proxy: &Proxy) -> Result<String> {
        let refused = if self.forward_refused.load(Ordering::Relaxed) {
            "not allowed".to_owned()
        } else {
            let Ok(forwarded) = tokio::time::timeout(self.patience, self.forwarded(proxy)).await else {
                bail!("no answer within {} s", self.patience.as_secs_f64());
            };
            match forwarded {
                Ok(page) => return Ok(page),
                Err(why) => format!("{why:#}"),
            }
        };
        let Proxy { namespace, name } = proxy;
        let request = Request::get(format!("/api/v1/namespaces/{namespace}/pods/{name}:{PORT}/proxy{PATH}"));
        let proxied = tokio::time::timeout(self.patience, self.client.request_text(request.body(Vec::new())?)).await;
        match proxied {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(why)) => bail!("port-forward: {refused}; through the API server: {}", said(&why)),
            Err(_) => bail!("no answer within {} s", self.patience.as_secs_f64()),
        }
    }

    async fn forwarded(&self, proxy: &Proxy) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &proxy.namespace);
        let mut forward = pods.portforward(&proxy.name, &[PORT]).await.map_err(|why| {
            let forbidden = UpgradeConnectionError::ProtocolSwitch(hyper::StatusCode::FORBIDDEN).to_string();
            if why.to_string().contains(&forbidden) {
                self.forward_refused.store(true, Ordering::Relaxed);
            }
            anyhow::anyhow!(said(&why))
        })?;
        let stream = forward.take_stream(PORT).context("no stream for the port")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(PATH).header("host", "localhost").body(Empty::<Bytes>::new())?;
        let page = async { http::text(sender.send_request(request).await?).await }.await;
        connection.abort();
        forward.abort();
        page
    }

    /// What the proxies have logged of late, by proxy; a log that cannot be had is a complaint.
    ///
    /// # Errors
    /// The API server does not name the pods.
    pub async fn logs(&self) -> Result<Vec<(String, Result<String, String>)>> {
        let proxies = self.proxies().await?;
        let progress = Progress::of(proxies.len(), false);
        let asked = stream::iter(&proxies).map(|proxy| async {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &proxy.namespace);
            let (container, tail_lines) = (Some(CONTAINER.to_owned()), Some(LOG_LINES));
            let wanted = LogParams { container, tail_lines, ..LogParams::default() };
            let log = tokio::time::timeout(self.patience, pods.logs(&proxy.name, &wanted)).await;
            let log = log.map_err(|_| "no answer".to_owned()).and_then(|log| log.map_err(|why| said(&why)));
            progress.one_more();
            (format!("{}/{}", proxy.namespace, proxy.name), log)
        });
        let answers: BTreeMap<_, _> = asked.buffer_unordered(AT_ONCE).collect().await;
        Ok(answers.into_iter().collect())
    }

    /// The policies that the cluster has.
    pub async fn policies(&self) -> Vec<Found> {
        let mut found = Vec::new();
        for plural in ["wasmplugins", "trafficextensions"] {
            let path = format!("/apis/extensions.istio.io/v1alpha1/{plural}");
            let Ok(request) = Request::get(path).body(Vec::new()) else { continue };
            // An Istio before 1.30 has no TrafficExtension.
            let Ok(list) = self.client.request::<Value>(request).await else { continue };
            let kind = if plural == "wasmplugins" { "WasmPlugin" } else { "TrafficExtension" };
            for resource in list["items"].as_array().into_iter().flatten() {
                let mut resource = resource.clone();
                // Items of a list do not say what they are.
                resource["kind"] = kind.into();
                found.extend(plugin_config(&resource).filter(|_| is_breaker(&resource)));
            }
        }
        found
    }
}

/// An ordinary sidecar is a container, a native one is an init container that goes on running.
fn has_proxy(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|container| container.name == CONTAINER)
}

fn proxy(pod: Pod) -> Option<Proxy> {
    Some(Proxy { namespace: pod.metadata.namespace?, name: pod.metadata.name? })
}

/// What the API server said, without what the client makes of it.
fn said(why: &Error) -> String {
    match why {
        Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sidecars_of_both_kinds_and_gateways_have_a_proxy() {
        let pod = |spec: Value| serde_json::from_value::<Pod>(json!({"spec": spec})).unwrap();
        assert!(has_proxy(&pod(json!({"containers": [{"name": "app"}, {"name": "istio-proxy"}]}))));
        assert!(has_proxy(&pod(json!({"containers": [{"name": "app"}], "initContainers": [{"name": "istio-proxy"}]}))));
        assert!(!has_proxy(&pod(json!({"containers": [{"name": "app"}]}))));
    }
}
