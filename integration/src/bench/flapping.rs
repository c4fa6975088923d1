//! Four workers at full load on one circuit that keeps going OPEN and coming back.

use anyhow::{Result, ensure};
use serde_json::json;

use super::load;
use super::process::cpu_time;
use crate::bootstrap::{Bootstrap, Cluster, Listener};
use crate::envoy::Envoy;
use crate::upstream::{Behaviour, Upstream};

const WORKERS: u32 = 4;
const SECONDS: u32 = 10;

/// Of so many requests that reach the upstream the first few fail: enough to trip, and few enough to come back.
const FAILING: (u64, u64) = (10, 1000);

/// The result.
#[derive(Clone, Copy, Debug)]
pub struct Flapping {
    /// Answers a second, rejections among them.
    pub rate: f64,
    /// Envoy's processor time of a request, in microseconds.
    pub cpu: f64,
    /// Changes of the circuit's state.
    pub transitions: usize,
    /// Writes of its record: transitions, and probes that began and ended.
    pub writes: u64,
    /// How many trips the log and the metric differ by.
    pub miscounted: u64,
    /// Errors of the breaker's own: each is a compare-and-swap that lost too often, or worse.
    pub errors: u64,
}

/// Lets it flap.
///
/// # Errors
/// wrk is not installed, Envoy does not start, or the circuit does not flap.
pub async fn measure() -> Result<Flapping> {
    let upstream = Upstream::start().await;
    upstream.behave(Behaviour::FailingFirst(FAILING.0, FAILING.1));
    let config = json!({"default": {
        "open": {"baseDuration": "0.1s", "multiplier": 1, "jitterPercent": 0},
        // Several probes at once, so that workers compete for leases too.
        "halfOpen": {"maxConcurrentProbes": 4, "successThreshold": 4, "ramp": {"duration": "0s"}},
    }});
    let listener = Listener::new("flapping", Some(&config.to_string()));
    let clusters = vec![Cluster::new("flapping", upstream.address())];
    let bootstrap = Bootstrap { bare: true, ..Bootstrap::new(clusters, vec![listener]) };
    let envoy = Envoy::start(bootstrap, WORKERS).await?;
    let before = cpu_time(envoy.pid())?;
    let load = load::full(envoy.address("flapping"), "/", SECONDS).await?;
    let spent = cpu_time(envoy.pid())?.saturating_sub(before);
    let transitions = envoy.transitions();
    ensure!(transitions.len() >= 10, "the circuit has changed its state {} times only", transitions.len());
    let stats = envoy.stats().await?;
    let sum = |metric: &str, part: &str| -> u64 {
        let named = stats.iter().filter(|(name, _)| name.ends_with(metric) && name.contains(part));
        named.map(|(_, value)| value).sum()
    };
    let logged = transitions.iter().filter(|line| line["to"] == "OPEN").count() as u64;
    Ok(Flapping {
        rate: load.rate,
        cpu: spent.as_secs_f64() * 1e6 / load.requests,
        transitions: transitions.len(),
        // The lower half of the gauge. Its name has the number of the process.
        writes: sum(".tag.flapping;.circuit_breaker_shared", ".component.epoch-") & u64::from(u32::MAX),
        miscounted: sum(".circuit_breaker_trips_total", "").abs_diff(logged),
        errors: sum(".circuit_breaker_internal_errors_total", ""),
    })
}
