//! Two versions of the module in one proxy of the mesh. Each has a port of its own, and both have the same upstreams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use circuit_breaker_integration::envoy::later_module;
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::pod::Pod;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::world::{Backend, INGRESS, QUICK, World, ask_at, gateway_spec, policy};

const NAME: &str = "versions";
const HOST: &str = "versions.example.com";

/// The port of the present version, and the port of the later one.
const PORTS: [u16; 2] = [80, 8081];

const OUTAGES: usize = 3;

/// The second port, and a plugin that is on it alone, with the same policy and another image.
fn add_later(world: &World) {
    let kubectl = world.lab.kubectl();
    let earlier = kubectl.run(&["get", "wasmplugin", "circuit-breaker", "-n", NAME, "-o", "json"]);
    let mut later: Value = serde_json::from_str(&earlier.expect("it is there")).expect("JSON");
    later["metadata"] = json!({"name": "circuit-breaker-later", "namespace": NAME});
    later["spec"]["match"] = json!([{"mode": "CLIENT", "ports": [{"number": PORTS[1]}]}]);
    let url = later["spec"]["url"].as_str().unwrap_or_default();
    later["spec"]["url"] = json!(format!("{}:layout-2", url.rsplit_once(':').expect("a tag").0));
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": NAME, "namespace": NAME},
        "spec": {
            "selector": {"istio": NAME},
            "servers": [{"port": {"number": PORTS[1], "name": "http", "protocol": "HTTP"}, "hosts": ["*/*"]}],
        },
    });
    kubectl.apply(&[later, gateway]).expect("the API server takes it");
}

/// Clients of both ports, and how many of their requests passed and were rejected.
struct Load {
    stop: Arc<AtomicBool>,
    counts: [Arc<[AtomicU64; 2]>; 2],
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(gateway: &Arc<Pod>) -> Load {
        let mut load = Load { stop: Arc::default(), counts: Default::default(), clients: Vec::new() };
        for (port, counts) in PORTS.into_iter().zip(load.counts.clone()) {
            for _ in 0..2 {
                let (gateway, stop, counts) = (Arc::clone(gateway), Arc::clone(&load.stop), Arc::clone(&counts));
                load.clients.push(tokio::spawn(async move {
                    while !stop.load(Ordering::SeqCst) {
                        let reply = ask_at(&gateway, port, HOST, "/").await.expect("an answer");
                        counts[usize::from(reply.is_rejection())].fetch_add(1, Ordering::SeqCst);
                    }
                }));
            }
        }
        load
    }

    fn counts(&self, rejected: bool) -> [u64; 2] {
        [&self.counts[0], &self.counts[1]].map(|counts| counts[usize::from(rejected)].load(Ordering::SeqCst))
    }

    async fn until_more(&self, more: u64, rejected: bool) {
        let before = self.counts(rejected);
        let enough = |now: &[u64; 2]| now.iter().zip(before).all(|(now, before)| *now >= before + more);
        until("more requests on both ports", || std::future::ready(self.counts(rejected)), enough).await;
    }

    async fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.await.expect("every request is answered");
        }
    }
}

/// All components of a metric.
async fn sum(gateway: &Pod, metric: &str, upstream: &str, components: &[&str]) -> u64 {
    let mut sum = 0;
    for component in components {
        sum += gateway.metric(metric, upstream, component).await;
    }
    sum
}

/// A gateway with both versions before one upstream.
async fn gateway(world: &World, backend: &Backend) -> Arc<Pod> {
    let module = std::fs::read(later_module(2)).expect("make build-later has made it");
    world.lab.registry().push_module(&module, "layout-2").expect("the registry takes it");
    let earlier = policy().namespace(NAME).patch("replace", "/spec/selector/matchLabels/istio", json!(NAME)).patch(
        "replace",
        "/spec/match",
        json!([{"mode": "CLIENT", "ports": [{"number": PORTS[0]}]}]),
    );
    world.apply(&earlier);
    add_later(world);
    let route = json!([{"route": [{"destination": {"host": backend.service.host()}}]}]);
    let service = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": NAME, "namespace": NAME},
        "spec": {"hosts": [HOST], "gateways": [format!("{INGRESS}/lab"), NAME], "http": route},
    });
    world.lab.kubectl().apply(&[service]).expect("the API server takes it");
    let gateway = world.lab.pod(gateway_spec(NAME, NAME, NAME)).await.expect("a gateway");
    for port in PORTS {
        let look = || async { ask_at(&gateway, port, HOST, "/").await.ok().map(|reply| reply.status) };
        until(&format!("port {port} to serve"), look, |seen| *seen == Some(200)).await;
    }
    gateway
}

/// One transition follows the other, whichever version has made them.
fn check_chain(transitions: &mut [Value]) {
    transitions.sort_by_key(|line| line["generation"].as_u64());
    let mut from = "CLOSED";
    for (line, generation) in transitions.iter().zip(1_u64..) {
        assert_eq!((&line["generation"], &line["from"]), (&json!(generation), &json!(from)), "{line}");
        from = line["to"].as_str().unwrap_or_default();
    }
    assert!(transitions.iter().filter(|line| line["to"] == "OPEN").count() >= OUTAGES, "{transitions:#?}");
}

pub async fn two_versions_side_by_side_under_load_are_one_breaker(world: &World) {
    world.lab.namespace(NAME).expect("the API server takes it");
    let backend = world.backend(QUICK, NAME).await;
    let (gateway, upstream) = (gateway(world, &backend).await, backend.service.upstream());
    let settled =
        || sum(&gateway, "circuit_breaker_calls_total", &upstream, &["success", "failure", "slow", "neutral"]);
    let before = backend.upstream.seen();
    until("the first calls to be settled", settled, |now| *now == before).await;

    let mut load = Load::begin(&gateway);
    load.until_more(50, false).await;
    assert_eq!(load.counts(true), [0, 0]);
    for _ in 0..OUTAGES {
        backend.upstream.behave(Behaviour::Status(500));
        gateway.until_state(&upstream, State::Open).await;
        load.until_more(50, true).await;
        backend.upstream.behave(Behaviour::Status(200));
        gateway.until_state(&upstream, State::Closed).await;
        load.until_more(50, false).await;
    }
    load.end().await;

    let total = |rejected| load.counts(rejected).iter().sum::<u64>();
    until("every call to be settled", settled, |now| *now == before + total(false)).await;
    assert_eq!(backend.upstream.seen(), before + total(false));
    let causes = ["open", "probe_limit", "ramp", "forced"];
    assert_eq!(sum(&gateway, "circuit_breaker_rejected_total", &upstream, &causes).await, total(true));
    let errors = ["record", "cas", "host", "config"];
    assert_eq!(sum(&gateway, "circuit_breaker_internal_errors_total", "", &errors).await, 0);
    check_chain(&mut gateway.transitions());
}
