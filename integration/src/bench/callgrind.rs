//! Envoy under callgrind, which counts every instruction.
//!
//! Counting makes Envoy fifty times as slow, so it is off while Envoy starts and warms up.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bootstrap::Bootstrap;
use crate::envoy::{Envoy, tool};

/// Envoy starts slowly under valgrind, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(600);

/// Requests between the start of counting and the first count.
const SETTLING: usize = 10;

/// An Envoy with one worker under callgrind.
pub struct Callgrind {
    /// The proxy.
    pub envoy: Envoy,
    counts: tempfile::TempDir,
    dumps: usize,
}

impl Callgrind {
    /// Starts it.
    ///
    /// # Errors
    /// valgrind or a module is not there, or Envoy does not start.
    pub async fn start(bootstrap: Bootstrap) -> Result<Callgrind> {
        let found = Command::new("valgrind").arg("--version").output();
        ensure!(found.is_ok(), "valgrind is not here: install Debian's package `valgrind`");
        let counts = tempfile::Builder::new().prefix("circuit-breaker-bench-").tempdir()?;
        let mut command = Command::new("valgrind");
        command
            .args(["--quiet", "--tool=callgrind", "--smc-check=all-non-file", "--instr-atstart=no"])
            .arg(format!("--callgrind-out-file={}", counts.path().join("count").display()))
            .arg(tool("envoy")?);
        let envoy = Envoy::start_within(PATIENCE, bootstrap, 1, command).await?;
        Ok(Callgrind { envoy, counts, dumps: 0 })
    }

    /// Instructions of a request, from many batches of requests: the value that a `share` of the batches stays below
    /// (0 is the least of all, 0.25 the lower quartile).
    ///
    /// Batches are short and many. Counting slows Envoy down, but what it does by the clock, for example the
    /// breaker's ticks, comes as often as before. A long batch would have fifty times as many ticks as in life, and
    /// more on a busy machine. Some of the short ones have none.
    ///
    /// # Errors
    /// Envoy or callgrind does not answer, or not as the client wants.
    pub async fn count(&mut self, client: &mut Client, batches: usize, requests: usize, share: f64) -> Result<f64> {
        let mut counts = Vec::with_capacity(batches);
        self.tell(&["instrumentation", "on"])?;
        client.send(SETTLING).await?;
        for _ in 0..batches {
            self.tell(&["zero"])?;
            client.send(requests).await?;
            self.tell(&["dump"])?;
            self.dumps += 1;
            let file = self.counts.path().join(format!("count.{}", self.dumps));
            #[allow(clippy::cast_precision_loss)]
            counts.push(total(&file)? as f64 / requests as f64);
        }
        self.tell(&["instrumentation", "off"])?;
        counts.sort_by(f64::total_cmp);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        counts.get((batches as f64 * share) as usize).copied().context("no batches")
    }

    /// Uses valgrind's own messenger. `callgrind_control` uses it too, but a hundred times as slowly.
    fn tell(&self, command: &[&str]) -> Result<()> {
        let done = Command::new("vgdb").arg(format!("--pid={}", self.envoy.pid())).args(command).output()?;
        ensure!(done.status.success(), "vgdb {command:?}: {}", String::from_utf8_lossy(&done.stderr));
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
pub struct Client {
    stream: TcpStream,
    requests: Vec<String>,
    next: usize,
    status: String,
}

impl Client {
    /// A client that asks for `path` and wants `status`.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(to: SocketAddr, path: &str, status: &str) -> Result<Client> {
        Client::taking_turns(to, vec![format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")], status).await
    }

    /// A client that sends these requests in turn.
    ///
    /// # Errors
    /// No connection.
    pub async fn taking_turns(to: SocketAddr, requests: Vec<String>, status: &str) -> Result<Client> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, requests, next: 0, status: format!("HTTP/1.1 {status} ") })
    }

    /// Sends so many, each when the one before has been answered.
    ///
    /// # Errors
    /// The connection was closed, or an answer has another status.
    pub async fn send(&mut self, requests: usize) -> Result<()> {
        let mut buffer = Vec::new();
        for _ in 0..requests {
            let request = self.requests.get(self.next % self.requests.len().max(1)).context("nothing to ask for")?;
            self.next += 1;
            self.stream.write_all(request.as_bytes()).await?;
            buffer.clear();
            let whole = loop {
                match whole(&buffer) {
                    Some(whole) => break whole,
                    None => ensure!(self.stream.read_buf(&mut buffer).await? > 0, "Envoy has closed the connection"),
                }
            };
            ensure!(
                buffer.starts_with(self.status.as_bytes()),
                "not {}: {}",
                self.status,
                String::from_utf8_lossy(&buffer)
            );
            // For a large body it only waits for the rest: a search through the head at every read would take its
            // time.
            let mut left = whole.saturating_sub(buffer.len());
            let mut rest = vec![0; left.min(1 << 16)];
            while left > 0 {
                let read = self.stream.read(&mut rest).await?;
                ensure!(read > 0, "Envoy has closed the connection");
                left = left.saturating_sub(read);
            }
        }
        Ok(())
    }
}

/// The length of the whole answer; `None` where its head is not whole.
fn whole(answer: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = response.parse(answer) else { return None };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body: Option<usize> = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    Some(head + body.unwrap_or(0))
}
