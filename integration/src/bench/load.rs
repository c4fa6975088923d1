//! Load by wrk, and short loads by h2load.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::process::{Core, require};

/// The result.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Answers.
    pub requests: f64,
    /// Answers a second.
    pub rate: f64,
    /// Share of the answers that are errors: rejections, where the upstream is well.
    pub refused: f64,
    /// How long clients waited, in milliseconds.
    pub p50: f64,
    /// As above.
    pub p99: f64,
    /// As above.
    pub p999: f64,
}

/// Connections at once.
pub const CONNECTIONS: u32 = 16;

/// Full load for so many seconds, from the core that is not Envoy's.
///
/// # Errors
/// wrk is not installed, or connections break.
pub async fn full(to: SocketAddr, path: &str, seconds: u32) -> Result<Load> {
    let url = format!("http://{to}{path}");
    tokio::task::spawn_blocking(move || wrk(&url, seconds)).await?
}

/// wrk itself prints no p99.9.
const SCRIPT: &str = r#"
function done(summary, latency, requests)
  local broken = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('\nJSON {"requests": %d, "us": %d, "broken": %d, "refused": %d, "p50": %d, "p99": %d, "p999": %d}\n',
    summary.requests, summary.duration, broken, summary.errors.status,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

fn wrk(url: &str, seconds: u32) -> Result<Load> {
    require("wrk", "wrk")?;
    let directory = tempfile::Builder::new().prefix("circuit-breaker-wrk-").tempdir()?;
    let script = directory.path().join("percentiles.lua");
    fs::write(&script, SCRIPT)?;
    let done = Core::Rest
        .command(Path::new("wrk"))
        .args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{seconds}s"), "-s"])
        .args([script.as_os_str(), url.as_ref()])
        .output()
        .context("cannot start wrk")?;
    let said = String::from_utf8_lossy(&done.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("JSON "));
    let said_wrong = || format!("wrk failed: {said}{}", String::from_utf8_lossy(&done.stderr));
    let found: Value = serde_json::from_str(line.with_context(said_wrong)?)?;
    let of = |field: &str| found[field].as_f64().with_context(|| format!("wrk told no {field}"));
    let requests = of("requests")?;
    ensure!(requests > 0.0, "wrk got no answer from {url}");
    ensure!(of("broken")? == 0.0, "connections to {url} broke: {found}");
    let (milliseconds, microseconds) = (1e-3, 1e-6);
    Ok(Load {
        requests,
        rate: requests / (of("us")? * microseconds),
        refused: of("refused")? / requests,
        p50: of("p50")? * milliseconds,
        p99: of("p99")? * milliseconds,
        p999: of("p999")? * milliseconds,
    })
}

/// So many requests, from the core that is not Envoy's. wrk cannot run so short a load.
///
/// # Errors
/// h2load is not installed, or not all answers are good.
pub async fn short(to: SocketAddr, path: &str, requests: u32) -> Result<()> {
    let url = format!("http://{to}{path}");
    tokio::task::spawn_blocking(move || h2load(&url, requests)).await?
}

fn h2load(url: &str, requests: u32) -> Result<()> {
    require("h2load", "nghttp2-client")?;
    let (connections, requests) = (CONNECTIONS.to_string(), requests.to_string());
    let done = Core::Rest
        .command(Path::new("h2load"))
        .args(["--h1", "--threads=1", "--clients", &connections, "--requests", &requests, url])
        .output()
        .context("cannot start h2load")?;
    let said = String::from_utf8_lossy(&done.stdout);
    let all_good = format!("status codes: {requests} 2xx");
    ensure!(said.contains(&all_good), "h2load failed: {said}{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
