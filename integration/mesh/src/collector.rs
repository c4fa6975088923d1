//! A real OpenTelemetry collector, as the Service that the manifests name as the provider of traces. It writes what
//! proxies send to a file, where tests read it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use circuit_breaker_integration::envoy::tool;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::lab::Lab;
use crate::pod::{Pod, Proxy, Spec};
use crate::process::Program;
use crate::service::Service;

/// OTLP over gRPC.
const OTLP: u16 = 4317;

const NAMESPACE: &str = "monitoring";
const NAME: &str = "otel-collector";

/// A running collector. Ended when dropped.
pub struct Collector {
    spans: PathBuf,
    // Before its pod, whose network it lives in.
    _program: Program,
    _pod: Arc<Pod>,
}

/// What one proxy did about one request.
#[derive(Clone, Debug)]
pub struct Span {
    /// The proxy, as Istio calls it: `client.shop`.
    pub service: String,
    /// The trace that it belongs to.
    pub trace: String,
    /// Its own identity.
    pub id: String,
    /// The identity of the span that called.
    pub parent: String,
    /// All tags.
    pub tags: BTreeMap<String, String>,
}

impl Span {
    /// A tag, or nothing.
    #[must_use]
    pub fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    /// Starts it and makes it known.
    ///
    /// # Errors
    /// It does not start; with its log.
    pub async fn start(lab: &Lab) -> Result<Collector> {
        let pod = lab.pod(Spec::new(NAMESPACE, NAME, Proxy::None)).await?;
        let (spans, config) = (pod.directory().join("spans.json"), pod.directory().join("config.json"));
        fs::write(&config, configuration(&spans.display().to_string()).to_string())?;
        let mut command = pod.netns().command(&tool(NAME)?.display().to_string());
        command.arg("--config").arg(config);
        let program = Program::start(pod.directory(), NAME, command)?;
        let address = SocketAddr::from((pod.address(), OTLP));
        program.until_ready(|| async move { TcpStream::connect(address).await.is_ok() }).await?;
        // Istio takes the protocol from the port's name.
        let port = json!({"name": "grpc-otlp", "port": OTLP, "targetPort": OTLP});
        lab.kubectl().apply(&[json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {"ports": [port]},
        })])?;
        Service::find(lab.kubectl(), NAMESPACE, NAME)?.serve(lab.kubectl(), &[&pod])?;
        Ok(Collector { spans, _program: program, _pod: pod })
    }

    /// What it has got of this trace so far.
    #[must_use]
    pub fn trace(&self, trace: &str) -> Vec<Span> {
        let lines = fs::read_to_string(&self.spans).unwrap_or_default();
        // The last line may be half written.
        let batches = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        batches.flat_map(|batch| spans(&batch)).filter(|span| span.trace == trace).collect()
    }
}

/// The file is YAML, and JSON is YAML.
fn configuration(spans: &str) -> Value {
    json!({
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": format!("0.0.0.0:{OTLP}")}}}},
        "exporters": {"file": {"path": spans, "flush_interval": "100ms"}},
        "service": {
            // Its own metrics would take a port.
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
        },
    })
}

fn spans(batch: &Value) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in items(&batch["resourceSpans"]) {
        let service = tags(&resource["resource"]).remove("service.name").unwrap_or_default();
        for span in items(&resource["scopeSpans"]).flat_map(|scope| items(&scope["spans"])) {
            let text = |field: &str| span[field].as_str().unwrap_or_default().to_owned();
            spans.push(Span {
                service: service.clone(),
                trace: text("traceId"),
                id: text("spanId"),
                parent: text("parentSpanId"),
                tags: tags(span),
            });
        }
    }
    spans
}

fn tags(of: &Value) -> BTreeMap<String, String> {
    let pairs = items(&of["attributes"]).filter_map(|pair| {
        let value = pair["value"].as_object()?.values().next()?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((pair["key"].as_str()?.to_owned(), text))
    });
    pairs.collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
