//! What a filter costs: instructions a request, counted exactly.
//!
//! Envoy runs under callgrind, which counts every instruction and is deaf to whatever else the machine does; repeats agree
//! to 0.3 %. All listeners are in one process and are asked in turn, each after it has warmed up, by one client on one
//! connection, so that they differ in nothing but their filters; the ticks of the breaker fall on all of them alike.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bootstrap::{Bootstrap, Cluster, Listener};
use crate::envoy::{Envoy, tool, workspace};
use crate::upstream::{Behaviour, Upstream};

/// Requests before the first count: V8 has compiled by then what it will compile.
const WARM_UP: usize = 4000;

/// Requests of one count, and counts of which the median is taken.
const BATCH: usize = 500;
const COUNTS: usize = 5;

/// Envoy starts about thirty times as slowly under callgrind.
const PATIENCE: Duration = Duration::from_secs(600);

/// A listener and what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// No filter.
    None,
    /// [`circuit-breaker-empty`](../../empty): the SDK and nothing else.
    Empty,
    /// The breaker.
    Breaker,
    /// A Lua filter that does what the least breaker must, in one worker.
    Lua,
    /// Envoy's own `admission_control`.
    AdmissionControl,
}

impl Variant {
    /// All of them.
    pub const ALL: [Variant; 5] =
        [Variant::None, Variant::Empty, Variant::Breaker, Variant::Lua, Variant::AdmissionControl];

    /// The name of the listener.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Variant::None => "none",
            Variant::Empty => "empty",
            Variant::Breaker => "breaker",
            Variant::Lua => "lua",
            Variant::AdmissionControl => "admission-control",
        }
    }

    fn listener(self) -> Listener {
        // Once OPEN, a circuit stays so for the whole run.
        let open = r#"{"default": {"open": {"baseDuration": "24h", "maxDuration": "24h"}}}"#;
        let filter = |filter: Value| Listener { filters: vec![filter], ..Listener::new(self.name(), None) };
        match self {
            Variant::None => Listener::new(self.name(), None),
            Variant::Breaker => Listener::new(self.name(), Some(open)),
            Variant::Empty => Listener { module: Some(empty_filter()), ..Listener::new(self.name(), Some("")) },
            Variant::Lua => filter(json!({"name": "lua", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                "default_source_code": {"inline_string": LUA},
            }})),
            Variant::AdmissionControl => filter(json!({"name": "admission_control", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
                "success_criteria": {"http_criteria": {"http_success_status": [{"start": 100, "end": 500}]}},
            }})),
        }
    }
}

/// The upstream's name, the clock, the status and a count by worker: what no breaker can do without.
const LUA: &str = r#"
local calls, failures = {}, {}
function envoy_on_request(handle)
  local info = handle:streamInfo()
  info:dynamicMetadata():set("breaker", "upstream", info:routeName())
  info:dynamicMetadata():set("breaker", "start", handle:timestamp())
end
function envoy_on_response(handle)
  local seen = handle:streamInfo():dynamicMetadata():get("breaker")
  local upstream = seen["upstream"]
  calls[upstream] = (calls[upstream] or 0) + 1
  if tonumber(handle:headers():get(":status")) >= 500 or handle:timestamp() - seen["start"] > 60000 then
    failures[upstream] = (failures[upstream] or 0) + 1
  end
end
"#;

/// Where `make build-empty` leaves the filter that does nothing.
#[must_use]
pub fn empty_filter() -> PathBuf {
    workspace().join("target/wasm32-unknown-unknown/release/circuit_breaker_empty.wasm")
}

/// An Envoy under callgrind with a listener for each variant, before a healthy upstream and one that fails when asked to.
pub struct Bench {
    envoy: Envoy,
    healthy: Upstream,
    sick: Upstream,
    counts: tempfile::TempDir,
    dumps: usize,
}

impl Bench {
    /// Starts it.
    ///
    /// # Errors
    /// valgrind or a module is not there, or Envoy does not start.
    pub async fn start(variants: &[Variant]) -> Result<Bench> {
        let found = Command::new("valgrind").arg("--version").output();
        ensure!(found.is_ok(), "valgrind is not here: install Debian's package `valgrind`");
        let (healthy, sick) = (Upstream::start().await, Upstream::start().await);
        let clusters = vec![Cluster::new("healthy", healthy.address()), Cluster::new("sick", sick.address())];
        let listeners = variants.iter().map(|variant| variant.listener()).collect();
        let mut bootstrap = Bootstrap { bare: true, ..Bootstrap::new(clusters, listeners) };
        let reply = json!({"status": 503, "body": {"inline_string": "upstream circuit is open\n"}});
        bootstrap.routes.push(json!({"match": {"path": "/direct"}, "direct_response": reply}));
        let counts = tempfile::Builder::new().prefix("circuit-breaker-bench-").tempdir()?;
        let mut command = Command::new("valgrind");
        command
            .args(["--quiet", "--tool=callgrind", "--smc-check=all-non-file"])
            .arg(format!("--callgrind-out-file={}", counts.path().join("count").display()))
            .arg(tool("envoy")?);
        let envoy = Envoy::start_within(PATIENCE, bootstrap, 1, command).await?;
        Ok(Bench { envoy, healthy, sick, counts, dumps: 0 })
    }

    /// Instructions of one request to the healthy upstream: the median of several counts.
    ///
    /// # Errors
    /// Envoy or callgrind does not answer.
    pub async fn request(&mut self, variant: Variant) -> Result<f64> {
        self.count(variant, "/healthy", "200").await
    }

    /// Instructions of one request that is rejected.
    ///
    /// # Errors
    /// As above, or it is not rejected.
    pub async fn rejection(&mut self) -> Result<f64> {
        self.count(Variant::Breaker, "/sick", "503").await
    }

    /// Instructions of one reply of Envoy's own, without any filter: no rejection can be had for less.
    ///
    /// # Errors
    /// As above.
    pub async fn direct_response(&mut self) -> Result<f64> {
        self.count(Variant::None, "/direct", "503").await
    }

    /// Opens the circuit of the other upstream.
    ///
    /// # Errors
    /// It does not open.
    pub async fn open_other(&mut self) -> Result<()> {
        self.sick.behave(Behaviour::Status(500));
        let to = self.envoy.address(Variant::Breaker.name());
        for _ in 0..5 {
            crate::client::get(to, "/sick").await?;
        }
        ensure!(crate::client::get(to, "/sick").await?.is_rejection(), "five failures have not opened the circuit");
        Ok(())
    }

    async fn count(&mut self, variant: Variant, path: &str, status: &str) -> Result<f64> {
        let mut client = Client::connect(self.envoy.address(variant.name()), path, status).await?;
        client.send(WARM_UP).await?;
        let mut counts = Vec::new();
        for _ in 0..COUNTS {
            self.control("-z")?;
            client.send(BATCH).await?;
            self.control("-d")?;
            self.dumps += 1;
            let file = self.counts.path().join(format!("count.{}", self.dumps));
            #[allow(clippy::cast_precision_loss)]
            counts.push(total(&file)? as f64 / BATCH as f64);
        }
        counts.sort_by(f64::total_cmp);
        ensure!(self.healthy.seen() > 0, "nothing has reached the upstream");
        Ok(counts[COUNTS / 2])
    }

    fn control(&self, option: &str) -> Result<()> {
        let pid = self.envoy.pid().to_string();
        let done = Command::new("callgrind_control").args([option, &pid]).output()?;
        ensure!(done.status.success(), "callgrind_control {option}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }
}

/// Instructions of all threads in a dump of callgrind's.
fn total(dump: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(dump).with_context(|| format!("no dump {}", dump.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    Ok(line.context("a dump without its total")?.trim().parse()?)
}

/// One connection, one request after the other.
struct Client {
    stream: TcpStream,
    request: String,
    status: String,
}

impl Client {
    async fn connect(to: SocketAddr, path: &str, status: &str) -> Result<Client> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        Ok(Client { stream, request, status: format!("HTTP/1.1 {status} ") })
    }

    async fn send(&mut self, requests: usize) -> Result<()> {
        let mut buffer = Vec::new();
        for _ in 0..requests {
            self.stream.write_all(self.request.as_bytes()).await?;
            buffer.clear();
            while !is_whole(&buffer) {
                ensure!(self.stream.read_buf(&mut buffer).await? > 0, "Envoy has closed the connection");
            }
            let wanted = self.status.as_bytes();
            ensure!(buffer.starts_with(wanted), "not {}: {}", self.status, String::from_utf8_lossy(&buffer));
        }
        Ok(())
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = response.parse(answer) else { return false };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body: Option<usize> = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    answer.len() >= head + body.unwrap_or(0)
}
