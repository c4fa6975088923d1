//! One upstream, a hundred, a thousand.
//!
//! A header names the upstream, so that Envoy's own route table is the same whatever their number; and what the breaker
//! adds is taken over the same requests without it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::callgrind::{Callgrind, Client};
use super::process::{cpu_time, linear_memories, resident};
use super::variant::Variant;
use crate::bootstrap::{Bootstrap, Cluster};
use crate::client;
use crate::envoy::Envoy;
use crate::upstream::Upstream;
use crate::wait::until;

/// How many upstreams requests are spread over.
pub const SIZES: [usize; 3] = [1, 100, MOST];
const MOST: usize = 1000;

/// Requests before the first count.
const WARM_UP: usize = 4000;

/// Requests of one count, and counts, of which the least is taken: one without a tick, which looks at each circuit once a
/// second and takes long under callgrind. What ticks cost in life is [`Memory::idle`].
const BATCH: usize = 5;
const COUNTS: usize = 60;

/// The header that names the upstream.
const HEADER: &str = "x-upstream";

/// Instructions of a request that goes to one of so many upstreams.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// Their number.
    pub upstreams: usize,
    /// Without a filter.
    pub none: f64,
    /// With the breaker, which has a circuit for each.
    pub breaker: f64,
}

fn bootstrap(upstream: &Upstream, variants: &[Variant]) -> Bootstrap {
    let clusters = (0..MOST).map(|number| Cluster::new(&name(number), upstream.address())).collect();
    let listeners = variants.iter().map(|variant| variant.listener()).collect();
    Bootstrap { bare: true, cluster_header: Some(HEADER), ..Bootstrap::new(clusters, listeners) }
}

/// As long as names are in Istio.
fn name(number: usize) -> String {
    format!("outbound|8080||service-{number}.default.svc.cluster.local")
}

fn requests(upstreams: usize) -> Vec<String> {
    (0..upstreams).map(|number| format!("GET / HTTP/1.1\r\nhost: test\r\n{HEADER}: {}\r\n\r\n", name(number))).collect()
}

/// What a request costs, by the number of upstreams.
///
/// # Errors
/// valgrind or a module is not there, or Envoy does not start.
pub async fn instructions() -> Result<Vec<Spread>> {
    let upstream = Upstream::start().await;
    let variants = [Variant::None, Variant::Closed];
    let mut callgrind = Callgrind::start(bootstrap(&upstream, &variants)).await?;
    let mut spreads = Vec::new();
    for upstreams in SIZES {
        let mut costs = Vec::new();
        for variant in variants {
            let to = callgrind.envoy.address(variant.name());
            let mut client = Client::taking_turns(to, requests(upstreams), "200").await?;
            client.send(if spreads.is_empty() { WARM_UP } else { upstreams }).await?;
            costs.push(callgrind.count(&mut client, COUNTS, BATCH, 0.0).await?);
        }
        spreads.push(Spread { upstreams, none: costs[0], breaker: costs[1] });
    }
    Ok(spreads)
}

/// What a thousand circuits take of a proxy with one worker.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The largest linear memory of a VM, in MB.
    pub vm: f64,
    /// The same with one circuit.
    pub vm_with_one: f64,
    /// Memory in use over that of an Envoy with the empty filter and the same clusters, in MB.
    pub over_empty: f64,
    /// Processor time that the ticks take while there is no traffic, in percent of a core.
    pub idle: f64,
}

/// Over how long the idle proxy is watched.
const IDLE: Duration = Duration::from_secs(5);

/// Memory with a thousand circuits.
///
/// # Errors
/// A module is not there, Envoy does not start, or V8 keeps its memories elsewhere than expected.
pub async fn memory() -> Result<Memory> {
    let upstream = Upstream::start().await;
    let breaker = Envoy::start(bootstrap(&upstream, &[Variant::Closed]), 1).await?;
    let empty = Envoy::start(bootstrap(&upstream, &[Variant::Empty]), 1).await?;
    let largest = |envoy: &Envoy| -> Result<f64> {
        let memories = linear_memories(envoy.pid())?;
        memories.last().copied().context("no linear memory before a guard in /proc/PID/maps")
    };
    Client::taking_turns(breaker.address(Variant::Closed.name()), requests(1), "200").await?.send(1).await?;
    let vm_with_one = largest(&breaker)?;
    for (envoy, variant) in [(&breaker, Variant::Closed), (&empty, Variant::Empty)] {
        // The second time round all is there that a request needs.
        Client::taking_turns(envoy.address(variant.name()), requests(MOST), "200").await?.send(2 * MOST).await?;
    }
    let circuits = || async { breaker.metric("circuit_breaker_circuits", "", "").await.unwrap_or(0) };
    until("a thousand circuits", circuits, |held| *held == MOST as u64).await;
    // What people do with metrics: Envoy's buffers for it are in the figures.
    for envoy in [&breaker, &empty] {
        ensure!(client::get(envoy.admin(), "/stats/prometheus").await?.status == 200, "Prometheus gets no metrics");
    }
    let idle = share_of_a_core(&breaker).await? - share_of_a_core(&empty).await?;
    let over_empty = in_use(&breaker).await? - in_use(&empty).await?;
    Ok(Memory { vm: largest(&breaker)?, vm_with_one, over_empty, idle })
}

/// What is resident, without the pages that the allocator keeps for later: of these, two runs of one program differ by twenty
/// megabytes.
async fn in_use(envoy: &Envoy) -> Result<f64> {
    let memory: Value = serde_json::from_str(&client::get(envoy.admin(), "/memory").await?.text())?;
    let free: f64 = memory["pageheap_free"].as_str().context("an Envoy that does not tell its free pages")?.parse()?;
    Ok(resident(envoy.pid())? - free / f64::from(1 << 20))
}

/// In percent.
async fn share_of_a_core(envoy: &Envoy) -> Result<f64> {
    let (start, before) = (Instant::now(), cpu_time(envoy.pid())?);
    tokio::time::sleep(IDLE).await;
    let spent = cpu_time(envoy.pid())?.saturating_sub(before);
    Ok(spent.as_secs_f64() * 100.0 / start.elapsed().as_secs_f64())
}
