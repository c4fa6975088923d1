//! `istio/overlays/tight-pool`: what a pool of one does to users, and what the breaker makes of it.

use circuit_breaker_integration::client::Reply;
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::control_plane::manifests;
use circuit_breaker_mesh::kubectl::Kubectl;
use circuit_breaker_mesh::pod::Pod;
use circuit_breaker_mesh::service::APPLICATION;
use futures_util::future::join_all;

use crate::sample::{Sample, sample};
use crate::world::World;

/// Users who come at the same moment.
const BURST: usize = 20;

pub async fn a_pool_of_one_serves_the_samples_users_one_by_one_and_refuses_bursts(world: &World) {
    let sample = sample(world).await;
    let (kubectl, gateway) = (world.lab.kubectl(), &sample.gateway);
    let v1 = sample.upstream("v1");
    assert!(burst(sample).await.iter().all(|reply| reply.status == 200), "the sample's own pool has room for them");

    apply_rule(kubectl, "overlays/tight-pool");
    until_pending(gateway, &v1, 1).await;
    // The limits of a DestinationRule also hold between a sidecar and its own application.
    until_pending(&sample.servers[0], &format!("inbound|{APPLICATION}||"), 1).await;
    for number in 0..2 * BURST {
        assert_eq!(sample.get("/").await.status, 200, "number {number} comes alone");
    }
    let neutral = gateway.metric("circuit_breaker_calls_total", &v1, "neutral").await;
    let refused = || async { burst(sample).await.into_iter().filter(|reply| reply.status != 200).collect::<Vec<_>>() };
    for reply in until("a burst that the pool has no room for", refused, |refused| !refused.is_empty()).await {
        assert_eq!((reply.status, reply.is_rejection()), (503, false));
        assert!(reply.text().ends_with("reset reason: overflow"), "{}", reply.text());
    }
    assert_eq!(gateway.state(&v1).await, Some(State::Closed), "that the pool is full says nothing about the upstream");
    let counted = || gateway.metric("circuit_breaker_calls_total", &v1, "neutral");
    until("the refused to be counted as neutral", counted, |now| *now > neutral).await;

    apply_rule(kubectl, "mesh");
    until_pending(gateway, &v1, 100).await;
}

/// Applies the DestinationRule of a kustomization: all else of the sample stays as the other tests have it.
fn apply_rule(kubectl: &Kubectl, kustomization: &str) {
    let directory = manifests().join(kustomization).display().to_string();
    let objects = kubectl.run(&["kustomize", &directory]).expect("it can be built");
    let rule = objects.split("---\n").find(|object| object.contains("\nkind: DestinationRule\n"));
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    kubectl.feed(&apply, rule.expect("it has one")).expect("the API server takes it");
}

async fn burst(sample: &Sample) -> Vec<Reply> {
    join_all((0..BURST).map(|_| sample.get("/"))).await
}

/// Waits until so many requests may wait in this proxy for a connection to a cluster.
async fn until_pending(pod: &Pod, cluster: &str, pending: u16) {
    let line = format!("{cluster}::default_priority::max_pending_requests::{pending}\n");
    let look = || async { pod.admin("/clusters").await.expect("the admin interface answers").contains(&line) };
    until(&line, look, |there| *there).await;
}
