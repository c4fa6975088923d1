//! Envoy, the upstreams, and what is asked of them between the rounds.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::chance::Chance;
use super::churn::Churn;
use super::counters::Counters;
use super::evidence::Evidence;
use super::journal::{Journal, Span, What};
use super::log::{self, Line};
use super::traffic::{CLUSTER_HEADER, Clients, NAMED};
use super::upstreams::{Target, UPSTREAMS};
use super::{LIMITS, LISTENER, Settings, WORKERS, updates};
use crate::bootstrap::{Bootstrap, Listener};
use crate::client;
use crate::envoy::{Envoy, tool};
use crate::faulty::module_that_traps;
use crate::wait::PATIENCE;

/// All that a run needs.
pub struct Stage {
    /// The proxy.
    pub envoy: Envoy,
    /// The eight upstreams.
    pub targets: Vec<Arc<Target>>,
    /// The upstreams that come and go.
    pub churn: Churn,
    /// What was done and seen.
    pub journal: Arc<Journal>,
    /// The module that traps.
    pub faulty: PathBuf,
    numbers: Arc<AtomicU64>,
    access: Mutex<Access>,
    _directory: TempDir,
}

/// How far the access log was read.
struct Access {
    file: PathBuf,
    offset: u64,
    /// Lines so far.
    lines: u64,
}

impl Access {
    /// The whole lines that have come since the last time.
    fn read(&mut self, journal: &Journal) -> Result<Vec<Line>> {
        let mut reader = BufReader::new(File::open(&self.file).context("Envoy has no access log")?);
        reader.seek(SeekFrom::Start(self.offset))?;
        let (mut lines, mut text) = (Vec::new(), String::new());
        loop {
            text.clear();
            let read = reader.read_line(&mut text)?;
            // A line that is not whole yet is read again when it is.
            if !text.ends_with('\n') {
                return Ok(lines);
            }
            let line = log::line(&text, journal).with_context(|| format!("no line of an access log: {text}"))?;
            self.offset += read as u64;
            self.lines += 1;
            lines.push(line);
        }
    }
}

impl Stage {
    /// Starts all.
    ///
    /// # Errors
    /// Envoy is not installed or does not start; the module is not built.
    pub async fn set(settings: Settings) -> Result<Stage> {
        let directory = tempfile::Builder::new().prefix("circuit-breaker-soak-").tempdir()?;
        let journal = Arc::new(Journal::begin());
        let mut targets = Vec::new();
        for (name, protocol) in UPSTREAMS {
            targets.push(Arc::new(Target::start(name, protocol).await?));
        }
        let mut churn = Churn::start(directory.path().join("clusters.json")).await?;
        let access = directory.path().join("access.log");
        let bootstrap = bootstrap(&targets, &access, settings.seed);
        let faulty = module_that_traps(directory.path()).context("run `make build`")?;
        let mut command = Command::new(tool("envoy")?);
        // More often than Envoy's 10 s: the end of a round waits for its lines.
        command.args(["--log-format", log::FORMAT, "--file-flush-interval-msec", "200"]);
        command.args(["--config-yaml", &churn.resources().to_string()]);
        let envoy = Envoy::start_by(bootstrap, WORKERS, command).await?;
        churn.ask_at(envoy.admin());
        let access = Mutex::new(Access { file: access, offset: 0, lines: 0 });
        let numbers = Arc::default();
        Ok(Stage { envoy, targets, churn, journal, faulty, numbers, access, _directory: directory })
    }

    /// What clients need.
    #[must_use]
    pub fn clients(&self) -> Clients {
        let (journal, numbers) = (Arc::clone(&self.journal), Arc::clone(&self.numbers));
        Clients { to: self.envoy.address(LISTENER), journal, numbers }
    }

    /// Gives each of the eight upstreams its circuit before names that come and go take all circuits.
    ///
    /// # Errors
    /// Envoy does not answer.
    pub async fn warm_up(&self) -> Result<()> {
        for target in &self.targets {
            client::get(self.envoy.address(LISTENER), &format!("/{}/first", target.name)).await?;
        }
        self.until_quiet().await?;
        let circuits = self.counters().await?.sum("circuit_breaker_circuits", "");
        ensure!(circuits == UPSTREAMS.len() as u64, "{circuits} circuits after one request to each upstream");
        Ok(())
    }

    /// The breaker's metrics now.
    ///
    /// # Errors
    /// Envoy does not answer.
    pub async fn counters(&self) -> Result<Counters> {
        Ok(Counters::of(&self.envoy.stats().await?))
    }

    /// Waits until the circuits of all eight are CLOSED. If one takes too long the invariants find that: they know
    /// the bound, and what the machine was busy with.
    ///
    /// # Errors
    /// Envoy does not answer.
    pub async fn until_closed(&self) -> Result<()> {
        let deadline = Instant::now() + updates::bound() * 2;
        while Instant::now() < deadline {
            let counters = self.counters().await?;
            if UPSTREAMS.iter().all(|(upstream, _)| counters.get("circuit_breaker_state", upstream, "") == 0) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until no request is under way and each has its line in the access log. Returns the new lines.
    ///
    /// # Errors
    /// Envoy does not answer, or that takes too long.
    pub async fn until_quiet(&self) -> Result<Vec<Line>> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            let stats = self.envoy.stats().await?;
            let stat = |name: &str| stats.get(&format!("http.{LISTENER}.{name}")).copied().unwrap_or(0);
            let (active, total) = (stat("downstream_rq_active"), stat("downstream_rq_total"));
            let written = {
                let mut access = self.access.lock().expect("no holder panics");
                lines.extend(access.read(&self.journal)?);
                access.lines
            };
            if active == 0 && written == total {
                return Ok(lines);
            }
            if Instant::now() > deadline {
                bail!("Envoy does not come to rest: {active} requests under way, {written} lines for {total} requests");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// VMs that Envoy has made again after a trap so far.
    ///
    /// # Errors
    /// Envoy does not answer.
    pub async fn reloads(&self) -> Result<u64> {
        let stats = self.envoy.stats().await?;
        Ok(stats.iter().filter(|(name, _)| name.ends_with("vm_reload_success")).map(|(_, value)| value).sum())
    }

    /// Adds what Envoy's log and the journal tell.
    ///
    /// # Errors
    /// Envoy does not answer.
    pub async fn complete(&self, evidence: Evidence) -> Result<Evidence> {
        let log = self.envoy.log();
        let mut entries = self.journal.with(|entries| entries.clone());
        entries.names = self.churn.come();
        let trapping = entries.updates.iter().position(|update| update.what == What::Trapping);
        let trap = trapping.and_then(|at| {
            let (begin, rest) = (entries.updates.get(at)?, entries.updates.get(at + 1..)?);
            let end = rest.iter().find(|update| matches!(update.what, What::Good(_)))?;
            Some(Span { from: begin.span.from, to: end.span.to })
        });
        Ok(Evidence {
            transitions: log::transitions(&log, &self.journal),
            critical: log::critical(&log, &self.journal),
            refused: log::refused(&log, &self.journal),
            end: self.journal.now(),
            reloads: self.reloads().await?,
            trap,
            entries,
            ..evidence
        })
    }
}

/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// Clusters, one listener with the breaker, and an access log that names the request of each line.
fn bootstrap(targets: &[Arc<Target>], access: &Path, seed: u64) -> Bootstrap {
    let clusters = targets.iter().map(|target| target.cluster()).collect();
    let first = updates::plain(0, LIMITS[0], &mut Chance::of(seed, "first configuration"));
    let listener = Listener::new(LISTENER, Some(&first.to_string()));
    Bootstrap {
        routes: vec![json!({
            "match": {"prefix": format!("/{NAMED}/")},
            "route": {"cluster_header": CLUSTER_HEADER, "timeout": "2s"},
        })],
        connection_manager: json!({"access_log": [access_log(access)]}),
        ..Bootstrap::new(clusters, vec![listener])
    }
}

fn access_log(path: &Path) -> Value {
    json!({"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {"json_format": log::access_format()},
    }})
}
