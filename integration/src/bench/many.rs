//! Ten thousand upstreams in a proxy with four workers: the cost of the ticks while nobody calls, and how long an
//! update keeps clients waiting.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::callgrind::Client;
use super::scale::{bootstrap_of, circuits, requests, share_of_a_core};
use super::variant::Variant;
use crate::bootstrap::Listener;
use crate::envoy::{Delivery, Envoy};
use crate::upstream::Upstream;
use crate::wait::until;

/// Upstreams, and circuits: as many as `limits.maxCircuits` allows.
const UPSTREAMS: usize = 10_000;

const WORKERS: u32 = 4;

/// Clients with one connection each, so that every worker has some.
const CLIENTS: usize = 16;

/// How long each client goes on asking after an update.
const AFTER: Duration = Duration::from_secs(3);

const UPDATES: usize = 5;

/// After this time nothing is left to be met, and every circuit counts as unused.
const SETTLED: Duration = Duration::from_secs(100);

/// What was measured of a module.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    /// Processor time of idle ticks, in percent of a core.
    pub idle: f64,
    /// The longest that a client waited during updates, in milliseconds: the median of these times, and the worst.
    pub waited: [f64; 2],
}

/// The breaker, and the empty filter, which shows what Envoy itself takes with so many upstreams on this machine.
/// They run one after the other: two Envoys at once would measure each other.
///
/// # Errors
/// A module is not there, or Envoy does not start.
pub async fn measure() -> Result<[Many; 2]> {
    let upstream = Upstream::start().await;
    Ok([of(Variant::Closed, &upstream).await?, of(Variant::Empty, &upstream).await?])
}

async fn of(variant: Variant, upstream: &Upstream) -> Result<Many> {
    let config = |update: usize| {
        let body = format!("update {update}\n");
        json!({"default": {"rejection": {"body": body}}, "limits": {"maxCircuits": UPSTREAMS}}).to_string()
    };
    let listener = Listener { filter: Some(config(0)), ..variant.listener() };
    let envoy = Envoy::start(bootstrap_of(UPSTREAMS, upstream, vec![listener]), WORKERS).await?;
    Client::taking_turns(envoy.address(variant.name()), requests(UPSTREAMS), "200").await?.send(UPSTREAMS).await?;
    if variant == Variant::Closed {
        until("ten thousand circuits", || circuits(&envoy), |held| *held == UPSTREAMS.to_string()).await;
    }
    // Every worker has met all of them.
    tokio::time::sleep(SETTLED).await;
    let idle = share_of_a_core(&envoy).await?;
    let mut waits = Vec::new();
    for update in 1..=UPDATES {
        let update = async {
            let delivery = envoy.configure(variant.name(), &config(update)).await?;
            ensure!(delivery == Delivery::Taken, "Envoy refuses the update");
            Ok(())
        };
        waits.push(longest_wait(&envoy, variant, update).await?);
    }
    waits.sort();
    let milliseconds = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0);
    Ok(Many { idle, waited: [milliseconds(waits.get(UPDATES / 2)), milliseconds(waits.last())] })
}

/// The longest that any client waits for an answer while `act` runs and for a while after.
async fn longest_wait(envoy: &Envoy, variant: Variant, act: impl Future<Output = Result<()>>) -> Result<Duration> {
    let until = Instant::now() + AFTER;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = Client::taking_turns(envoy.address(variant.name()), requests(UPSTREAMS), "200").await?;
        clients.spawn(async move {
            let mut longest = Duration::ZERO;
            while Instant::now() < until {
                let sent = Instant::now();
                client.send(1).await?;
                longest = longest.max(sent.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(longest)
        });
    }
    act.await?;
    let mut longest = Duration::ZERO;
    while let Some(waited) = clients.join_next().await {
        longest = longest.max(waited??);
    }
    Ok(longest)
}
