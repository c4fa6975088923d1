//! `make test-monitoring`: an outage on real proxies, a real Prometheus, and every query of the dashboards.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use circuit_breaker_integration::envoy::workspace;
use circuit_breaker_integration::monitoring::board::Board;
use circuit_breaker_integration::monitoring::foreign;
use circuit_breaker_integration::monitoring::outage::{self, LENGTH, Service, WORST};
use circuit_breaker_integration::monitoring::prometheus::{Prometheus, Span, Target};
use circuit_breaker_integration::monitoring::proxies::Proxy;
use circuit_breaker_integration::monitoring::verdict::{answers, judge};
use serde_json::Value;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let boards = Board::read_all()?;
    let services = outage::start_services().await?;
    let proxies = Arc::new(Proxy::start_all(&outage::addresses(&services)).await?);
    let prometheus = Prometheus::start(&targets(&proxies).await?).await?;
    println!("{} proxies and a Prometheus; an outage of {} s begins", proxies.len(), LENGTH.as_secs());
    let from = SystemTime::now();
    outage::play(&proxies, &services).await?;
    let whole = Span { from, until: SystemTime::now() };
    let verdict = judge(&prometheus, &boards, whole).await?;
    keep(&prometheus, &boards, from).await?;
    for fault in &verdict.faults {
        println!("{fault}");
    }
    println!("{} queries found something, {} faults", verdict.found, verdict.faults.len());
    Ok(if verdict.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The proxies, and the pages of what only a mesh has.
async fn targets(proxies: &[Proxy]) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for Proxy { namespace, pod, envoy } in proxies {
        let (namespace, pod) = ((*namespace).to_owned(), (*pod).to_owned());
        targets.push(Target { address: envoy.admin(), namespace, pod });
    }
    for page in foreign::PAGES {
        let text = foreign::text(page)?;
        for proxy in proxies {
            foreign::must_be_absent(&text, &proxy.envoy.prometheus().await?)?;
        }
        let address = foreign::serve(text).await?;
        targets.push(Target { address, namespace: "foreign".to_owned(), pod: page.to_owned() });
    }
    Ok(targets)
}

/// A picture: its name, the dashboard, the service in it, when it ends, and the only row of it; none for all rows.
type Picture = (&'static str, &'static str, Service, Duration, Option<&'static str>);

const PICTURES: [Picture; 4] = [
    ("fleet", "circuit-breaker-fleet", Service::Shop, WORST, None),
    ("upstream", "circuit-breaker-upstream", Service::Shop, LENGTH, None),
    ("pool", "circuit-breaker-upstream", Service::Payments, LENGTH, Some("Hosts and connection pool")),
    ("proxy", "circuit-breaker-proxy", Service::Shop, LENGTH, None),
];

/// Writes what the pictures show.
async fn keep(prometheus: &Prometheus, boards: &[Board], from: SystemTime) -> Result<()> {
    let mut kept = Vec::<Value>::new();
    for (name, uid, service, until, row) in PICTURES {
        let board = boards.iter().find(|board| board.uid() == uid).context(uid)?;
        let mut answers = answers(prometheus, board, Span { from, until: from + until }, service.host()).await?;
        answers["name"] = name.into();
        answers["row"] = row.into();
        kept.push(answers);
    }
    let directory = workspace().join("target/monitoring");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("answers.json"), serde_json::to_string(&kept)?)?;
    Ok(())
}
