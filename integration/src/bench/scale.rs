//! The cost with one upstream, a hundred, and a thousand.
//!
//! A header names the upstream, so that Envoy's own route table is the same for any number. What the breaker adds is
//! the difference to the same requests without it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::callgrind::{Callgrind, Client};
use super::process::{cpu_time, heap, linear_memories, resident};
use super::variant::Variant;
use crate::bootstrap::{Bootstrap, Cluster, Listener};
use crate::client;
use crate::envoy::Envoy;
use crate::upstream::Upstream;
use crate::wait::until;

/// How many upstreams requests are spread over.
pub const SIZES: [usize; 3] = [1, 100, MOST];
const MOST: usize = 1000;

/// Requests before the first count.
const WARM_UP: usize = 4000;

/// Requests of one count, and the number of counts. The least count is taken: one without a tick. A tick looks at
/// each circuit once a second, and takes long under callgrind. The cost of ticks in life is [`Memory::idle`].
const BATCH: usize = 5;
const COUNTS: usize = 60;

/// The header that names the upstream.
const HEADER: &str = "x-upstream";

/// Instructions of a request, with so many upstreams.
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
    bootstrap_of(MOST, upstream, variants.iter().map(|variant| variant.listener()).collect())
}

pub(super) fn bootstrap_of(upstreams: usize, upstream: &Upstream, listeners: Vec<Listener>) -> Bootstrap {
    let clusters = (0..upstreams).map(|number| Cluster::new(&name(number), upstream.address())).collect();
    Bootstrap { bare: true, cluster_header: Some(HEADER), ..Bootstrap::new(clusters, listeners) }
}

/// As long as names are in Istio.
fn name(number: usize) -> String {
    format!("outbound|8080||service-{number}.default.svc.cluster.local")
}

pub(super) fn requests(upstreams: usize) -> Vec<String> {
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

/// The memory that a thousand circuits take in a proxy with one worker.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The largest linear memory of a VM, in MB.
    pub vm: f64,
    /// The same with one circuit.
    pub vm_with_one: f64,
    /// The difference to an Envoy with the empty filter and the same clusters.
    pub over_empty: Taken,
    /// Processor time that the ticks take while there is no traffic, in percent of a core.
    pub idle: f64,
}

/// The memory of a process in MB, in three ways that differ in what its allocator keeps for later.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Resident memory, but with only the allocated bytes of the allocator's heap: nothing free counts.
    pub in_use: f64,
    /// Resident memory without the allocator's free pages. What it keeps by threads and by sizes counts. So do pages
    /// that it calls free but has not returned.
    pub but_free_pages: f64,
    /// Resident memory, as the kernel counts it. The allocator keeps the pages of a peak, for example of a scrape of
    /// all metrics.
    pub resident: f64,
}

impl Taken {
    async fn by(envoy: &Envoy) -> Result<Taken> {
        let memory: Value = serde_json::from_str(&client::get(envoy.admin(), "/memory").await?.text())?;
        let of = |field: &str| -> Result<f64> {
            let bytes = memory[field].as_str().with_context(|| format!("an Envoy that does not tell {field}"))?;
            Ok(bytes.parse::<f64>()? / f64::from(1 << 20))
        };
        let (allocated, heap, resident) = (of("allocated")?, heap(envoy.pid())?, resident(envoy.pid())?);
        ensure!(heap.size > allocated, "the heap is not where it is expected: {allocated} MB in {heap:?}");
        Ok(Taken {
            in_use: resident - heap.resident + allocated,
            but_free_pages: resident - of("pageheap_free")?,
            resident,
        })
    }

    fn over(self, other: Taken) -> Taken {
        Taken {
            in_use: self.in_use - other.in_use,
            but_free_pages: self.but_free_pages - other.but_free_pages,
            resident: self.resident - other.resident,
        }
    }
}

/// Pairs of an Envoy with the breaker and one with the empty filter. The median of each figure counts.
const PAIRS: usize = 3;

/// How long the idle proxy is watched: for forty ticks, in which Envoy merges its histograms four times. The
/// difference to be seen is a few thousandths of a core.
const IDLE: Duration = Duration::from_secs(20);

/// Memory with a thousand circuits.
///
/// # Errors
/// A module is not there, Envoy does not start, or V8 or the allocator keep their memories elsewhere than expected.
pub async fn memory() -> Result<Memory> {
    let upstream = Upstream::start().await;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push(pair(&upstream).await?);
    }
    let median = |figure: fn(&Memory) -> f64| {
        let mut figures: Vec<f64> = pairs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[PAIRS / 2]
    };
    Ok(Memory {
        vm: median(|pair| pair.vm),
        vm_with_one: median(|pair| pair.vm_with_one),
        over_empty: Taken {
            in_use: median(|pair| pair.over_empty.in_use),
            but_free_pages: median(|pair| pair.over_empty.but_free_pages),
            resident: median(|pair| pair.over_empty.resident),
        },
        idle: median(|pair| pair.idle),
    })
}

async fn pair(upstream: &Upstream) -> Result<Memory> {
    let start = |variant| Envoy::start(bootstrap(upstream, &[variant]), 1);
    let (breaker, empty) = (start(Variant::Closed).await?, start(Variant::Empty).await?);
    let largest = |envoy: &Envoy| -> Result<f64> {
        let memories = linear_memories(envoy.pid())?;
        memories.last().copied().context("no linear memory before a guard in /proc/PID/maps")
    };
    Client::taking_turns(breaker.address(Variant::Closed.name()), requests(1), "200").await?.send(1).await?;
    let vm_with_one = largest(&breaker)?;
    for (envoy, variant) in [(&breaker, Variant::Closed), (&empty, Variant::Empty)] {
        // After the second round everything exists that a request needs.
        Client::taking_turns(envoy.address(variant.name()), requests(MOST), "200").await?.send(2 * MOST).await?;
    }
    until("a thousand circuits", || circuits(&breaker), |held| *held == MOST.to_string()).await;
    // A scrape, as people do: Envoy's buffers for it are in the figures.
    for envoy in [&breaker, &empty] {
        ensure!(client::get(envoy.admin(), "/stats/prometheus").await?.status == 200, "Prometheus gets no metrics");
    }
    let (busy, bare) = tokio::try_join!(share_of_a_core(&breaker), share_of_a_core(&empty))?;
    Ok(Memory {
        vm: largest(&breaker)?,
        vm_with_one,
        over_empty: Taken::by(&breaker).await?.over(Taken::by(&empty).await?),
        idle: busy - bare,
    })
}

/// Circuits held. The metric is asked for by name: a list of all metrics would take memory in Envoy that would be in
/// the breaker's figures and not in the empty filter's.
pub(super) async fn circuits(envoy: &Envoy) -> String {
    let found = client::get(envoy.admin(), "/stats?filter=circuit_breaker_circuits$").await;
    let text = found.map(|found| found.text()).unwrap_or_default();
    text.trim().rsplit(' ').next().unwrap_or_default().to_owned()
}

/// Processor time of an Envoy that is left alone for a while, in percent of a core.
pub(super) async fn share_of_a_core(envoy: &Envoy) -> Result<f64> {
    let (start, before) = (Instant::now(), cpu_time(envoy.pid())?);
    tokio::time::sleep(IDLE).await;
    let spent = cpu_time(envoy.pid())?.saturating_sub(before);
    Ok(spent.as_secs_f64() * 100.0 / start.elapsed().as_secs_f64())
}
