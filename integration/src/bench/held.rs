//! Ten thousand calls that are held open, like long polls, beside one impatient policy.
//!
//! The tick looks at calls in flight, since nothing else ends a call that waits too long. The most impatient policy
//! sets the age from which on a call is looked at. Such a call is to be looked at once, and then left alone until its
//! own policy's time has come.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::scale::share_of_a_core;
use super::variant::Variant;
use crate::bootstrap::{Bootstrap, Cluster, Listener};
use crate::envoy::Envoy;
use crate::upstream::{Behaviour, Upstream};
use crate::wait::until;

/// Calls that are held open.
const CALLS: usize = 10_000;

/// Clients' connections. They speak HTTP/2, and Envoy lets them have a hundred calls at once.
const CLIENTS: usize = 100;

/// The connections of the upstream, and some to spare.
const FILES: usize = CALLS + 2000;

/// Time after which each call was old for the impatient policy, and was looked at.
const AGED: Duration = Duration::from_secs(3);

/// Processor time of their ticks in percent of a core, beyond that of an Envoy with the empty filter.
///
/// # Errors
/// A module is not there, Envoy does not start, or this process may not have so many connections.
pub async fn measure() -> Result<f64> {
    allow_many_files()?;
    let config = json!({
        "default": {"trip": {"slowCallDuration": "1h"}},
        "upstreams": [{"match": {"cluster": "impatient"}, "trip": {"slowCallDuration": "500ms"}}],
    });
    let breaker = share(Listener::new("held", Some(&config.to_string()))).await?;
    let empty = share(Listener { name: "held".to_owned(), ..Variant::Empty.listener() }).await?;
    Ok(breaker - empty)
}

async fn share(listener: Listener) -> Result<f64> {
    let upstream = Upstream::start().await;
    upstream.behave(Behaviour::Hang);
    let clusters = ["polls", "impatient"].map(|name| Cluster::new(name, upstream.address()));
    let bootstrap = Bootstrap { bare: true, ..Bootstrap::new(clusters.into(), vec![listener]) };
    let envoy = Envoy::start(bootstrap, 1).await?;
    let mut held = JoinSet::new();
    let in_flight = || async { upstream.in_flight() };
    for client in 1..=CLIENTS {
        let stream = TokioIo::new(TcpStream::connect(envoy.address("held")).await?);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        held.spawn(async { connection.await.is_ok() });
        for _ in 0..CALLS / CLIENTS {
            let call = sender.send_request(Request::get("http://test/polls").body(Empty::<Bytes>::new())?);
            held.spawn(async { call.await.is_ok() });
        }
        // One client after the other: an upstream lets at most a thousand connections wait to be accepted.
        let so_far = (client * (CALLS / CLIENTS)) as u64;
        until("all calls to be in the upstream's hands", in_flight, |calls| *calls == so_far).await;
    }
    tokio::time::sleep(AGED).await;
    let share = share_of_a_core(&envoy).await?;
    ensure!(upstream.in_flight() == CALLS as u64, "calls have ended while they were to be held");
    Ok(share)
}

/// Envoy inherits it.
fn allow_many_files() -> Result<()> {
    let id = std::process::id().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &id, &format!("--nofile={FILES}:")])
        .status()
        .context("prlimit is not here: install Debian's package `util-linux`")?;
    ensure!(status.success(), "{FILES} open files are not allowed: raise the hard limit (`ulimit -Hn`)");
    Ok(())
}
