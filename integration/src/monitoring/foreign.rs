//! Series that no bare Envoy has: Istio's telemetry, the agent's, the kubelet's. A page of each lies beside the
//! dashboards, with its origin, and Prometheus scrapes it like the proxies.
//!
//! So the queries on them are checked for their names and labels, and not for what a mesh would count.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::directory;

/// The pages, each as a target of its own.
pub const PAGES: [&str; 3] = ["istio-telemetry", "istio-agent", "kubelet"];

/// The text of a page.
///
/// # Errors
/// It is not there.
pub fn text(page: &str) -> Result<String> {
    let file = directory().join(format!("dashboards/foreign/{page}.prom"));
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// The names of the series on a page.
#[must_use]
pub fn names(page: &str) -> Vec<&str> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let mut names: Vec<&str> =
        lines.filter_map(|line| line.split(['{', ' ']).next()).filter(|name| !name.is_empty()).collect();
    names.dedup();
    names
}

/// Fails where a proxy has one of these series itself: then the real ones must be asked.
///
/// # Errors
/// It does.
pub fn must_be_absent(page: &str, scraped: &str) -> Result<()> {
    for name in names(page) {
        if names(scraped).contains(&name) {
            bail!("a page stands in for {name}, but a proxy of the run has it: ask that one");
        }
    }
    Ok(())
}

/// Serves a page until the task ends.
///
/// # Errors
/// No port is free.
pub async fn serve(page: String) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let page = Bytes::from(page.clone());
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = Response::builder().header("content-type", "text/plain; version=0.0.4");
                let answer = answer.body(Full::new(page.clone()));
                async { Ok::<_, Infallible>(answer.unwrap_or_default()) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}
