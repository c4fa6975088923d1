//! What `circuit-breaker status` and `why` say of a real mesh.
//!
//! The lab has no kubelet, so that no port can be forwarded and no log can be had from the API server: proxies are
//! asked by the API server itself, which is the other way that there is.

use std::time::Duration;

use circuit_breaker_check::fleet::{Fleet, Round};
use circuit_breaker_check::report::{Filter, document};
use circuit_breaker_check::source::cluster::{Access, Cluster};
use circuit_breaker_check::transitions;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::pod::Pod;
use serde_json::{Value, json};

use crate::world::{INGRESS, SHOP, World, ask, gateway_spec, policy, policy_with};

/// Two gateways with the breaker, one without it and one that is gone; an upstream that one of the two has given up,
/// and one that is only observed.
pub async fn status_tells_who_has_given_up_and_who_runs_without_the_breaker(world: &World) {
    let (sick, watched) = (world.backend(SHOP, "told").await, world.backend(SHOP, "watched").await);
    let observe = json!({"match": {"host": watched.service.host()}, "mode": "observe"});
    world.apply(&policy_with(observe));
    let (host, watched_host) = ("told.example.com", "watched.example.com");
    world.route(host, json!([{"route": [{"destination": {"host": sick.service.host()}}]}])).await;
    world.route(watched_host, json!([{"route": [{"destination": {"host": watched.service.host()}}]}])).await;
    world.gateway.until_metric("circuit_breaker_mode", &watched.service.upstream(), "", 1).await;
    let second = world.lab.pod(gateway_spec(INGRESS, "second-gateway", "ingressgateway")).await.expect("a gateway");
    let bare = world.lab.pod(gateway_spec(INGRESS, "bare-gateway", "another")).await.expect("a gateway");
    let gone = world.lab.pod(gateway_spec(INGRESS, "gone-gateway", "another")).await.expect("a gateway");
    gone.stop_agent();
    served(&second, host).await;
    sick.upstream.behave(Behaviour::Status(500));
    watched.upstream.behave(Behaviour::Status(500));
    world.get_times(host, "/", 6).await;
    world.get_times(watched_host, "/", 6).await;

    let access = Access {
        kubeconfig: Some(world.lab.kubectl().kubeconfig().to_owned()),
        proxies_in: Some(INGRESS.to_owned()),
        ..Access::default()
    };
    let cluster = Cluster::reach(&access, Duration::from_secs(5)).await.expect("the API server is there");
    let before = cluster.round(true).await.expect("the API server lists pods");
    world.get_times(host, "/", 3).await;
    let seen = told(&cluster, Some(&before)).await;
    let upstream = upstream_of(&seen, &sick.service.upstream());
    assert_eq!(upstream["proxies"], json!({"open": 1, "half_open": 0, "closed": 1}), "{upstream}");
    assert_eq!((&upstream["state"], &upstream["mode"]), (&json!("OPEN"), &json!("enforce")));
    assert_eq!((&upstream["namespace"], &upstream["reasons"]), (&json!(SHOP), &json!({"consecutive": 1})));
    assert!(upstream["rejected_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{upstream}");
    assert!(upstream["reopens_in_seconds"].as_u64().is_some_and(|seconds| seconds > 0), "{upstream}");
    assert_eq!(
        (&upstream["policies"], &upstream["modules"]),
        (&seen_once(&seen, "policies"), &seen_once(&seen, "modules"))
    );
    let upstream = upstream_of(&seen, &watched.service.upstream());
    assert_eq!((&upstream["state"], &upstream["mode"]), (&json!("OPEN"), &json!("observe")));
    let named = |key: &str, name: &str| seen[key].as_array().is_some_and(|names| names.contains(&json!(name)));
    assert!(named("unprotected_proxies", "istio-ingress/bare-gateway"), "{seen}");
    assert!(named("unreachable_proxies", "istio-ingress/gone-gateway"), "{seen}");

    let made = transitions::read("gateway", &world.gateway.log());
    let made = made.iter().rfind(|made| made.upstream == sick.service.upstream()).expect("a transition in the log");
    assert!(made.cause().starts_with("5 failures in a row; open for ") && made.at.len() > 20, "{made:?}");
    world.apply(&policy());
    for pod in [second, bare, gone] {
        world.lab.delete(pod).expect("the API server takes it");
    }
}

/// A gateway serves a host: then it has a circuit for it, which is CLOSED.
async fn served(gateway: &Pod, host: &str) {
    let status = || async { ask(gateway, host, "/").await.ok().map(|reply| reply.status) };
    until(&format!("{host} to be served by {}", gateway.spec().name), status, |status| *status == Some(200)).await;
    let circuits = || gateway.metric("circuit_breaker_circuits", "", "");
    until("the breaker to know an upstream", circuits, |circuits| *circuits > 0).await;
}

async fn told(cluster: &Cluster, before: Option<&Round>) -> Value {
    let round = cluster.round(true).await.expect("the API server lists pods");
    document(&Fleet::of(before, &round), &Filter::default())
}

fn upstream_of<'a>(seen: &'a Value, name: &str) -> &'a Value {
    let upstreams = seen["upstreams"].as_array().expect("a list");
    upstreams.iter().find(|upstream| upstream["upstream"] == name).unwrap_or_else(|| panic!("no {name} in {seen}"))
}

/// The only one there is in the whole fleet, as a list.
fn seen_once(seen: &Value, key: &str) -> Value {
    let all = seen[key].as_object().expect("counts by name");
    assert_eq!(all.len(), 1, "{seen}");
    json!(all.keys().collect::<Vec<_>>())
}
