//! Instructions of a request, counted exactly.
//!
//! Repeats agree to 0.3 %. All listeners are in one process. One client on one connection asks them in turn, each
//! after it has warmed up. So they differ in nothing but their filters.

use anyhow::{Result, ensure};
use serde_json::json;

use super::callgrind::{Callgrind, Client};
use super::variant::Variant;
use crate::bootstrap::{Bootstrap, Cluster};
use crate::upstream::{Behaviour, Upstream};

/// Requests before the first count: V8 has then compiled all that it will compile.
const WARM_UP: usize = 4000;

/// Requests of one count, and counts.
const BATCH: usize = 50;
const COUNTS: usize = 24;
const QUARTILE: f64 = 0.25;

/// Size of large answers, and how much of them Envoy is to take at once.
const MEGABYTE: usize = 1 << 20;
const CHUNK: u32 = 1 << 14;

/// Chunks of a large answer.
pub const CHUNKS: f64 = 64.0;
const LARGE_BATCH: usize = 10;

/// An Envoy under callgrind with a listener for each variant, and with three upstreams: a healthy one, one that fails
/// when asked to, and one with large answers.
pub struct Bench {
    callgrind: Callgrind,
    healthy: Upstream,
    sick: Upstream,
    /// Answers as long as Envoy does.
    _large: Upstream,
}

impl Bench {
    /// Starts it.
    ///
    /// # Errors
    /// valgrind or a module is not there, or Envoy does not start.
    pub async fn start(variants: &[Variant]) -> Result<Bench> {
        let (healthy, sick, large) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
        large.behave(Behaviour::Large(MEGABYTE));
        let clusters = vec![
            Cluster::new("healthy", healthy.address()),
            Cluster::new("sick", sick.address()),
            Cluster { buffer: CHUNK, ..Cluster::new("large", large.address()) },
        ];
        let listeners = variants.iter().map(|variant| variant.listener()).collect();
        let mut bootstrap = Bootstrap { bare: true, ..Bootstrap::new(clusters, listeners) };
        let reply = json!({"status": 503, "body": {"inline_string": "upstream circuit is open\n"}});
        bootstrap.routes.push(json!({"match": {"path": "/direct"}, "direct_response": reply}));
        Ok(Bench { callgrind: Callgrind::start(bootstrap).await?, healthy, sick, _large: large })
    }

    /// Instructions of one request to the healthy upstream.
    ///
    /// # Errors
    /// Envoy or callgrind does not answer.
    pub async fn request(&mut self, variant: Variant) -> Result<f64> {
        let cost = self.count(variant, "/healthy", "200").await?;
        ensure!(self.healthy.seen() > 0, "nothing has reached the upstream");
        Ok(cost)
    }

    /// Instructions of one request that is rejected.
    ///
    /// # Errors
    /// As above, or it is not rejected.
    pub async fn rejection(&mut self) -> Result<f64> {
        self.count(Variant::Closed, "/sick", "503").await
    }

    /// Instructions of one request that is rejected by a module which does nothing else.
    ///
    /// # Errors
    /// As above.
    pub async fn bare_rejection(&mut self) -> Result<f64> {
        self.count(Variant::Rejecting, "/sick", "503").await
    }

    /// Instructions of one reply of Envoy's own, without any filter: no rejection can cost less.
    ///
    /// # Errors
    /// As above.
    pub async fn direct_response(&mut self) -> Result<f64> {
        self.count(Variant::None, "/direct", "503").await
    }

    /// Instructions of one request whose answer is a megabyte, after [`Bench::request`] has warmed the listener up.
    ///
    /// # Errors
    /// As above.
    pub async fn large(&mut self, variant: Variant) -> Result<f64> {
        let mut client = Client::connect(self.callgrind.envoy.address(variant.name()), "/large", "200").await?;
        client.send(LARGE_BATCH).await?;
        self.callgrind.count(&mut client, COUNTS, LARGE_BATCH, QUARTILE).await
    }

    /// Opens the circuit of the other upstream.
    ///
    /// # Errors
    /// It does not open.
    pub async fn open_other(&mut self) -> Result<()> {
        self.sick.behave(Behaviour::Status(500));
        let to = self.callgrind.envoy.address(Variant::Closed.name());
        for _ in 0..5 {
            crate::client::get(to, "/sick").await?;
        }
        ensure!(crate::client::get(to, "/sick").await?.is_rejection(), "five failures have not opened the circuit");
        Ok(())
    }

    async fn count(&mut self, variant: Variant, path: &str, status: &str) -> Result<f64> {
        let mut client = Client::connect(self.callgrind.envoy.address(variant.name()), path, status).await?;
        client.send(WARM_UP).await?;
        self.callgrind.count(&mut client, COUNTS, BATCH, QUARTILE).await
    }
}
