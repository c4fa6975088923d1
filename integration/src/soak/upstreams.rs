//! Eight upstreams that fall sick and get well at random.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Mutex;

use super::chance::Chance;
use super::fault::{Fault, SLOW};
use super::http2::Http2Upstream;
use super::journal::{Journal, Phase};
use super::stop::Stop;
use crate::bootstrap::Cluster;
use crate::upstream::{Behaviour, Upstream};

/// What HTTP/1.1 can have.
const FAULTS: [Fault; 5] = [Fault::Errors, Fault::Reset, Fault::Hang, Fault::Refuse, Fault::Slow];

/// Which protocol an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 with a gRPC status in trailers.
    Grpc,
}

impl Protocol {
    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
            Protocol::Grpc => "gRPC",
        }
    }
}

/// The upstreams and what they speak.
pub const UPSTREAMS: [(&str, Protocol); 8] = [
    ("u1", Protocol::Http1),
    ("u2", Protocol::Http1),
    ("u3", Protocol::Http1),
    ("u4", Protocol::Http1),
    ("u5", Protocol::Http1),
    ("u6", Protocol::Http1),
    ("u7", Protocol::Http2),
    ("u8", Protocol::Grpc),
];

enum Server {
    Http1 {
        upstream: Upstream,
        listens: bool,
        /// Requests that earlier servers on its port have seen.
        seen_before: u64,
    },
    Http2(Http2Upstream),
}

/// One of them.
pub struct Target {
    /// Its name: the cluster, and the breaker's upstream.
    pub name: &'static str,
    /// What it speaks.
    pub protocol: Protocol,
    address: SocketAddr,
    server: Mutex<Server>,
}

impl Target {
    /// Starts it, healthy.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(name: &'static str, protocol: Protocol) -> Result<Target> {
        let (server, address) = match protocol {
            Protocol::Http1 => {
                let upstream = Upstream::listen(0).await?;
                let address = upstream.address();
                (Server::Http1 { upstream, listens: true, seen_before: 0 }, address)
            }
            Protocol::Http2 | Protocol::Grpc => {
                let upstream = Http2Upstream::start(protocol == Protocol::Grpc)?;
                let address = upstream.address();
                (Server::Http2(upstream), address)
            }
        };
        Ok(Target { name, protocol, address, server: Mutex::new(server) })
    }

    /// Its cluster. Every other one that speaks HTTP/1.1 has a route timeout, so that a hang ends in both ways: by
    /// Envoy, and by the client that leaves.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        let timed = self.name.bytes().last().is_some_and(|digit| digit % 2 == 0);
        let timeout = if timed { "2s" } else { "0s" };
        Cluster {
            timeout: timeout.to_owned(),
            http2: self.protocol != Protocol::Http1,
            ..Cluster::new(self.name, self.address)
        }
    }

    /// Whole requests that have reached it so far.
    pub async fn seen(&self) -> u64 {
        match &*self.server.lock().await {
            Server::Http1 { upstream, seen_before, .. } => seen_before + upstream.seen(),
            Server::Http2(upstream) => upstream.seen(),
        }
    }

    /// From the time in the journal on it does this with every request.
    ///
    /// # Errors
    /// It cannot listen again.
    pub async fn behave(&self, fault: Fault, chance: &mut Chance, journal: &Journal) -> Result<()> {
        match &mut *self.server.lock().await {
            Server::Http1 { upstream, listens, .. } if fault == Fault::Refuse => {
                upstream.refuse().await;
                *listens = false;
            }
            Server::Http1 { upstream, listens, seen_before } => {
                if !*listens {
                    *seen_before += upstream.seen();
                    // The old server holds the port until the new one has it.
                    *upstream =
                        Upstream::listen(self.address.port()).await.context("an upstream cannot listen again")?;
                    *listens = true;
                }
                upstream.behave(behaviour(fault, chance));
            }
            Server::Http2(upstream) => upstream.behave(fault).await?,
        }
        let phase = Phase { upstream: self.name.to_owned(), from: journal.now(), fault };
        journal.with(|entries| entries.phases.push(phase));
        Ok(())
    }

    /// Falls sick and gets well until it is to stop, and is well at the end.
    ///
    /// # Errors
    /// It cannot listen again.
    pub async fn flip(&self, mut chance: Chance, mut stop: Stop, journal: &Journal) -> Result<()> {
        while !stop.is_told() {
            let (fault, lasts) = self.draw(&mut chance);
            self.behave(fault, &mut chance, journal).await?;
            stop.pause(lasts).await;
        }
        self.behave(Fault::Healthy, &mut chance, journal).await
    }

    /// The next fault. Now and then it stays well for so long that its circuit must be CLOSED again.
    fn draw(&self, chance: &mut Chance) -> (Fault, Duration) {
        match chance.between(0, 99) {
            0..=34 => (Fault::Healthy, chance.milliseconds(1000, 6000)),
            35..=44 => (Fault::Healthy, chance.milliseconds(18_000, 26_000)),
            45..=59 if self.protocol != Protocol::Http1 => (Fault::GoAway, chance.milliseconds(500, 4000)),
            _ => (*chance.one_of(&FAULTS), chance.milliseconds(500, 6000)),
        }
    }
}

/// One of the ways in which an HTTP/1.1 server can have this fault.
fn behaviour(fault: Fault, chance: &mut Chance) -> Behaviour {
    let errors = [
        Behaviour::Status(500),
        Behaviour::Status(503),
        Behaviour::With(503, "retry-after", "1".to_owned()),
        Behaviour::FailingPercent(70),
    ];
    let resets = [Behaviour::ResetBeforeHeaders, Behaviour::ResetAfterHeaders, Behaviour::Close];
    match fault {
        Fault::Healthy => Behaviour::Status(200),
        Fault::Errors => chance.one_of(&errors).clone(),
        Fault::Reset | Fault::GoAway => chance.one_of(&resets).clone(),
        Fault::Slow => Behaviour::Slow(SLOW, 200),
        // An upstream that refuses does not listen.
        Fault::Hang | Fault::Refuse => Behaviour::Hang,
    }
}
