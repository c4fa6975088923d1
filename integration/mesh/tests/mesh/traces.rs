//! What the sample's Telemetry tells of a request that a circuit rejected or sent to its fallback: spans in a real
//! collector, and lines of the access log. Queries of the documents are tried on the same lines.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use circuit_breaker_integration::client::Reply;
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::collector::Span;
use circuit_breaker_mesh::control_plane::manifests;
use circuit_breaker_mesh::pod::Pod;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::sample::{Sample, sample};
use crate::world::World;

/// Another vendor's state, which every proxy hands on as it is.
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

/// The span of whoever called from outside.
const CALLER: &str = "00f067aa0ba902b7";

/// A trace of our own.
fn new_trace() -> String {
    static TRACES: AtomicU64 = AtomicU64::new(1);
    format!("4bf92f3577b34da6{:016x}", TRACES.fetch_add(1, Ordering::SeqCst))
}

fn parent(trace: &str) -> String {
    format!("00-{trace}-{CALLER}-01")
}

/// One outage of the sample: first the canary alone, then both versions.
pub struct Incident {
    pub sample: &'static Sample,
    /// A request for the canary that version 1 has served.
    pub fallen_back: String,
    /// What that request had as its trace context when it arrived there.
    arrived: [String; 2],
    /// A request that the gateway rejected, since the fallback's circuit was OPEN too.
    pub rejected: String,
    /// A call that the client's sidecar rejected.
    rejected_call: String,
}

static INCIDENT: OnceCell<Incident> = OnceCell::const_new();

pub async fn incident(world: &World) -> &'static Incident {
    INCIDENT.get_or_init(|| live_through(world)).await
}

async fn live_through(world: &World) -> Incident {
    let sample = sample(world).await;
    sample.canary.behave(Behaviour::Status(500));
    let canary = sample.upstream("v2");
    let open = || async {
        sample.visit(&[]).await;
        sample.gateway.state(&canary).await
    };
    until("the canary's circuit to open", open, |state| *state == Some(State::Open)).await;
    // Nine of ten requests are for version 1 anyway: only its header tells which one fell back.
    let fall_back = || async {
        let (trace, seen) = (new_trace(), sample.stable.seen());
        sample.visit(&[("traceparent", &parent(&trace)), ("tracestate", STATE)]).await;
        let served = sample.stable.seen() == seen + 1;
        (served && sample.stable.header("x-circuit-fallback") == "true").then_some(trace)
    };
    let fallen_back = until("a request to fall back", fall_back, Option::is_some).await.unwrap_or_default();
    let arrived = ["traceparent", "tracestate"].map(|name| sample.stable.header(name));

    sample.stable.behave(Behaviour::Status(500));
    let visit = || if_rejected(async |headers| sample.visit(headers).await);
    let rejected = until("the gateway to reject", visit, Option::is_some).await.unwrap_or_default();
    let call = || if_rejected(async |headers| sample.call(headers).await);
    let rejected_call = until("the sidecar to reject", call, Option::is_some).await.unwrap_or_default();
    Incident { sample, fallen_back, arrived, rejected, rejected_call }
}

/// A request in a trace of its own: that trace, if a circuit rejected the request.
async fn if_rejected(send: impl AsyncFn(&[(&str, &str)]) -> Reply) -> Option<String> {
    let trace = new_trace();
    let reply = send(&[("traceparent", &parent(&trace)), ("tracestate", STATE)]).await;
    reply.is_rejection().then_some(trace)
}

impl Incident {
    /// The span of the proxy that the caller from outside came to. A proxy sends its spans every five seconds.
    async fn entrance(&self, trace: &str) -> Span {
        let look = || async { self.sample.collector.trace(trace).into_iter().find(|span| span.parent == CALLER) };
        until(&format!("the first span of {trace}"), look, Option::is_some).await.expect("there is one")
    }

    /// The spans from the caller to the application, once all are there.
    async fn way(&self, trace: &str, traceparent: &str) -> Vec<Span> {
        let look = || async {
            let all = self.sample.collector.trace(trace);
            let (mut way, mut id) = (Vec::new(), traceparent.split('-').nth(2)?.to_owned());
            while id != CALLER {
                let span = all.iter().find(|span| span.id == id)?.clone();
                id.clone_from(&span.parent);
                way.insert(0, span);
            }
            Some(way)
        };
        until(&format!("all spans of {trace}"), look, Option::is_some).await.unwrap_or_default()
    }
}

/// The lines of the access log that the sample's provider writes.
pub fn access_log(pod: &Pod) -> Vec<Value> {
    let log = pod.log();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| !line["trace_id"].is_null())
        .collect()
}

/// Envoy writes its access log every ten seconds.
pub async fn access_log_of(pod: &Pod, trace: &str) -> Value {
    let look = || async { access_log(pod).into_iter().find(|line| line["trace_id"] == trace) };
    until(&format!("the access log of {trace}"), look, Option::is_some).await.unwrap_or_default()
}

pub async fn spans_tell_which_request_was_rejected_and_which_fell_back(world: &World) {
    let incident = incident(world).await;
    let (stable, trace) = (incident.sample.upstream("v1"), &incident.fallen_back);
    let [traceparent, tracestate] = &incident.arrived;
    assert_eq!((&traceparent[..36], &traceparent[52..], tracestate.as_str()), (&*format!("00-{trace}-"), "-01", STATE));
    let way = incident.way(trace, traceparent).await;
    assert_eq!((way[0].tag("http.status_code"), way[0].tag("circuit_fallback")), ("200", "true"), "{way:#?}");
    assert_eq!((way[0].tag("upstream_cluster"), way[0].tag("circuit_breaker")), (stable.as_str(), ""), "{way:#?}");
    let services = [&way[0], &way[way.len() - 1]].map(|span| span.service.as_str());
    assert_eq!(services, ["ingressgateway.istio-ingress", "shop.shop"], "{way:#?}");

    for (trace, proxy) in
        [(&incident.rejected, "ingressgateway.istio-ingress"), (&incident.rejected_call, "client.shop")]
    {
        let span = incident.entrance(trace).await;
        assert_eq!((span.service.as_str(), span.tag("http.status_code")), (proxy, "503"), "{span:?}");
        assert_eq!(span.tag("response_code_details"), "circuit_breaker_open{open}", "{span:?}");
        assert_eq!(span.tag("circuit_breaker"), "open", "{span:?}");
        assert_eq!(incident.sample.collector.trace(trace).len(), 1, "nothing was called");
    }
}

pub async fn the_samples_access_log_tells_the_same(world: &World) {
    let incident = incident(world).await;
    let Sample { gateway, client, .. } = incident.sample;
    let (stable, canary) = (incident.sample.upstream("v1"), incident.sample.upstream("v2"));
    let fallen_back = access_log_of(gateway, &incident.fallen_back).await;
    assert_eq!(
        [
            "response_code",
            "response_code_details",
            "circuit_fallback",
            "circuit_breaker",
            "upstream_cluster",
            "attempts"
        ]
        .map(|field| &fallen_back[field]),
        [&json!(200), &json!("via_upstream"), &json!("true"), &Value::Null, &json!(stable), &json!(1)],
        "{fallen_back}"
    );
    for (pod, trace) in [(gateway, &incident.rejected), (client, &incident.rejected_call)] {
        let line = access_log_of(pod, trace).await;
        assert_eq!(
            ["response_code", "response_code_details", "circuit_breaker", "upstream_host", "attempts"]
                .map(|field| &line[field]),
            [&json!(503), &json!("circuit_breaker_open{open}"), &json!("open"), &Value::Null, &json!(0)],
            "{line}"
        );
        assert!([&json!(stable), &json!(canary)].contains(&&line["upstream_cluster"]), "{line}");
        let wait = line["retry_after"].as_str().and_then(|seconds| seconds.parse::<u64>().ok());
        assert!(wait.is_some_and(|seconds| seconds >= 1), "{line}");
        assert_eq!(line["traceparent"], parent(trace), "as the caller sent it");
        let fields: BTreeSet<_> = line.as_object().into_iter().flat_map(|line| line.keys().cloned()).collect();
        assert_eq!(fields, documented_fields(), "the README names each");
    }
}

/// The first column of the table in `istio/monitoring/README.md`.
fn documented_fields() -> BTreeSet<String> {
    let readme = fs::read_to_string(manifests().join("monitoring/README.md")).expect("there is one");
    let (_, table) = readme.split_once("<!-- access log -->\n").expect("the table begins");
    let (table, _) = table.split_once("<!-- /access log -->").expect("the table ends");
    let names = table.lines().filter_map(|row| row.split(" | ").next());
    names.flat_map(|names| names.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}
