//! The edge of the sample: users' TLS, and the path that probes from outside the cluster ask.

use std::time::Duration;

use circuit_breaker_integration::client::Reply;
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::authority::Authority;
use circuit_breaker_mesh::plugin::Plugin;
use serde_json::json;

use crate::sample::{HOST, PLAIN, TLS, sample};
use crate::world::{IMAGE, World, ask_at};

/// Where Traffic Manager, Front Door or an Application Gateway ask whether the shop is well.
const HEALTH: &str = "/healthz/shop";
/// Where the application itself says so.
const OWN_HEALTH: &str = "/status/200";

pub async fn users_of_the_sample_come_in_over_tls_and_those_without_it_are_sent_there(world: &World) {
    let sample = sample(world).await;
    let reply = sample.get("/").await;
    assert_eq!((reply.status, reply.header("strict-transport-security")), (200, "max-age=31536000"));
    let stranger = Authority::found().expect("keys can be made");
    let refused = stranger.get((sample.gateway.address(), TLS), HOST, "/", &[]).await;
    assert!(refused.is_err(), "who does not trust the authority does not come in: {refused:?}");

    let seen = (sample.stable.seen(), sample.canary.seen());
    let reply = ask_at(&sample.gateway, PLAIN, HOST, "/cart?of=mine").await.expect("an answer");
    assert_eq!((reply.status, reply.header("location")), (301, "https://shop.example.com/cart?of=mine"));
    assert_eq!(reply.header("strict-transport-security"), "", "it means nothing without TLS");
    assert_eq!((sample.stable.seen(), sample.canary.seen()), seen, "nothing reaches the application without TLS");
}

pub async fn the_samples_health_path_says_how_it_is_with_one_try_whatever_the_circuit_says(world: &World) {
    let sample = sample(world).await;
    let tries = || sample.stable.seen_for(OWN_HEALTH);
    let probe = || sample.get(HEALTH);
    let before = tries();
    assert_eq!(probe().await.status, 200);
    assert_eq!(tries(), before + 1, "the application's own health path is asked");

    sample.stable.behave(Behaviour::Status(503));
    let reply = probe().await;
    assert_eq!((reply.status, reply.is_rejection()), (503, false), "the application's own answer");
    assert_eq!(tries(), before + 2, "no retries: every edge location probes, and each of its probes is one request");
    sample.stable.behave(Behaviour::Hang);
    let reply = probe().await;
    assert_eq!((reply.status, tries()), (504, before + 3));
    assert!(reply.elapsed > Duration::from_millis(1500) && reply.elapsed < Duration::from_secs(5), "{reply:?}");

    sample.stable.behave(Behaviour::Status(200));
    assert_eq!(probe().await.status, 200);
    let v1 = sample.upstream("v1");
    assert_ne!(sample.gateway.state(&v1).await, Some(State::Open), "probes count for nothing");
    let policy = |mode: &str| {
        let entry = json!({
            "match": {"host": sample.shop.host(), "subset": "v1"}, "mode": mode, "open": {"baseDuration": "2s"},
            "halfOpen": {"successThreshold": 1, "ramp": {"duration": "0s"}},
        });
        let plugin = Plugin::overlay("fallback", IMAGE).patch("add", "/spec/pluginConfig/upstreams/-", entry);
        plugin.apply(world.lab.kubectl(), world.lab.directory()).expect("the API server takes it");
    };
    policy("forceOpen");
    sample.gateway.until_state(&v1, State::Open).await;
    assert_eq!(probe().await.status, 200, "were the circuit to answer it, traffic that left would never come back");
    let rejected = until("a rejection", || sample.get("/"), Reply::is_rejection).await;
    assert_eq!(rejected.header("strict-transport-security"), "max-age=31536000", "of the gateway's own");
    policy("enforce");
    let visited = || async {
        sample.get("/").await;
        sample.gateway.state(&v1).await
    };
    until("the circuit to close", visited, |state| *state == Some(State::Closed)).await;
}
