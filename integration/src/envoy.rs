//! One real Envoy process, from its start to its end.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::bootstrap::{Bootstrap, filter_file, listeners_file};
use crate::client;
pub use crate::places::{later_module, module, tool, workspace};
use crate::wait::{PATIENCE, until};

/// A running Envoy. It is killed when dropped. Where a test is failing, it first prints its log and stats.
pub struct Envoy {
    child: Child,
    directory: TempDir,
    bootstrap: Bootstrap,
    admin: SocketAddr,
    ports: BTreeMap<String, u16>,
}

/// Time that Envoy has to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// Whether a new filter configuration is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Envoy has taken it.
    Taken,
    /// It was refused, and the old one goes on.
    Refused,
}

impl Envoy {
    /// Starts Envoy with `workers` worker threads and waits until it serves.
    ///
    /// # Errors
    /// It is not installed, it ended, or it was not ready in time; with its log.
    pub async fn start(bootstrap: Bootstrap, workers: u32) -> Result<Envoy> {
        let binary = tool("envoy")?;
        Envoy::start_by(bootstrap, workers, Command::new(binary)).await
    }

    /// Starts Envoy by `command`, which takes Envoy's own arguments. Another process can take over from it only where
    /// these include a `--restart-epoch`.
    ///
    /// # Errors
    /// As [`Envoy::start`].
    pub async fn start_by(bootstrap: Bootstrap, workers: u32, command: Command) -> Result<Envoy> {
        Envoy::start_within(PATIENCE, bootstrap, workers, command).await
    }

    /// As [`Envoy::start_by`], with a longer time for the start.
    ///
    /// # Errors
    /// As [`Envoy::start`].
    pub async fn start_within(
        patience: Duration,
        bootstrap: Bootstrap,
        workers: u32,
        mut command: Command,
    ) -> Result<Envoy> {
        ensure!(bootstrap.module.is_file(), "{} is not there: run `make build`", bootstrap.module.display());
        let directory = tempfile::Builder::new().prefix("circuit-breaker-").tempdir()?;
        write(&bootstrap.listeners_document(directory.path()), &listeners_file(directory.path()))?;
        for listener in &bootstrap.listeners {
            if let Some(config) = &listener.filter {
                write_filter(&bootstrap, directory.path(), &listener.name, config)?;
            }
        }
        let config = directory.path().join("envoy.json");
        fs::write(&config, serde_json::to_string_pretty(&bootstrap.document(directory.path()))?)?;
        let log = fs::File::create(directory.path().join("envoy.log"))?;
        if !command.get_args().any(|own| own == "--restart-epoch") {
            command.arg("--disable-hot-restart");
        }
        let child = command
            .arg("-c")
            .arg(&config)
            .args(["--concurrency", &workers.to_string()])
            .args(["--log-level", "warning", "--component-log-level", "wasm:info"])
            .arg("--admin-address-path")
            .arg(directory.path().join("admin"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start Envoy")?;
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy = Envoy { child, directory, bootstrap, admin, ports: BTreeMap::new() };
        if let Err(why) = envoy.become_ready(patience).await {
            bail!("{why:#}\n{}", tail(&envoy.log(), 60));
        }
        Ok(envoy)
    }

    async fn become_ready(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("Envoy ended while starting: {status}");
            }
            if self.is_ready().await.unwrap_or(false) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "Envoy was not ready after {patience:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn is_ready(&mut self) -> Result<bool> {
        self.admin = fs::read_to_string(self.directory.path().join("admin"))?.trim().parse()?;
        if client::get(self.admin, "/ready").await?.status != 200 {
            return Ok(false);
        }
        let listeners: Value = serde_json::from_str(&client::get(self.admin, "/listeners?format=json").await?.text())?;
        for status in listeners["listener_statuses"].as_array().into_iter().flatten() {
            let port = status["local_address"]["socket_address"]["port_value"].as_u64().context("no port")?;
            self.ports.insert(status["name"].as_str().unwrap_or_default().to_owned(), u16::try_from(port)?);
        }
        Ok(self.ports.len() == self.bootstrap.listeners.len())
    }

    /// Where a listener listens.
    ///
    /// # Panics
    /// There is no such listener.
    #[must_use]
    pub fn address(&self, listener: &str) -> SocketAddr {
        let port = self.ports.get(listener).unwrap_or_else(|| panic!("no listener {listener}"));
        SocketAddr::from(([127, 0, 0, 1], *port))
    }

    /// Where the admin interface listens.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has ended by itself.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Gives a listener's filter another configuration, and waits until Envoy has taken or refused it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn configure(&self, listener: &str, plugin_config: &str) -> Result<Delivery> {
        let before = self.deliveries().await?;
        write_filter(&self.bootstrap, self.directory.path(), listener, plugin_config)?;
        self.delivered(before).await
    }

    /// As [`Envoy::configure`], with another module. The next [`Envoy::configure`] gives it its own again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn replace_module(&self, listener: &str, module: &Path, plugin_config: &str) -> Result<Delivery> {
        let before = self.deliveries().await?;
        let mut bootstrap = self.bootstrap.clone();
        for own in bootstrap.listeners.iter_mut().filter(|own| own.name == listener) {
            own.module = Some(module.to_owned());
        }
        write_filter(&bootstrap, self.directory.path(), listener, plugin_config)?;
        self.delivered(before).await
    }

    /// Gives Envoy other listeners, where it reads them from a file, and waits until it has taken or refused them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn relist(&self, change: impl FnOnce(&mut Bootstrap)) -> Result<Delivery> {
        let before = self.deliveries().await?;
        let mut bootstrap = self.bootstrap.clone();
        change(&mut bootstrap);
        write(&bootstrap.listeners_document(self.directory.path()), &listeners_file(self.directory.path()))?;
        self.delivered(before).await
    }

    async fn delivered(&self, before: (u64, u64)) -> Result<Delivery> {
        let after = until(
            "the configuration to be delivered",
            || async { self.deliveries().await.ok() },
            |seen| seen.is_some_and(|seen| seen != before),
        )
        .await
        .unwrap_or(before);
        Ok(if after.1 > before.1 { Delivery::Refused } else { Delivery::Taken })
    }

    /// Configurations of filters and listeners taken and refused so far.
    async fn deliveries(&self) -> Result<(u64, u64)> {
        let stats = self.stats().await?;
        let sum = |end: &str| {
            let ours = stats.iter().filter(|(name, _)| {
                (name.contains("extension_config_discovery") || name.contains(".lds.")) && name.ends_with(end)
            });
            ours.map(|(_, value)| value).sum::<u64>()
        };
        Ok((sum(".config_reload"), sum(".update_rejected")))
    }

    /// All counters and gauges, by Envoy's own names.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let text = client::get(self.admin, "/stats").await?.text();
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// One of the breaker's metrics; 0 where it does not exist yet.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub async fn metric(&self, metric: &str, upstream: &str, component: &str) -> Result<u64> {
        let tag = if upstream.is_empty() { String::new() } else { format!("tag.{upstream};.") };
        let part = if component.is_empty() { String::new() } else { format!("component.{component}.") };
        let name = format!("wasmcustom.wasm_filter.circuit_breaker.{part}{tag}{metric}");
        Ok(self.stats().await?.get(&name).copied().unwrap_or(0))
    }

    /// What Prometheus would scrape.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub async fn prometheus(&self) -> Result<String> {
        Ok(client::get(self.admin, "/stats/prometheus").await?.text())
    }

    /// Envoy's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("envoy.log")).unwrap_or_default()
    }

    /// The transitions so far, as logged.
    #[must_use]
    pub fn transitions(&self) -> Vec<Value> {
        let marked = |line: &str| Some(line.split_once("circuit_breaker transition ")?.1.to_owned());
        self.log().lines().filter_map(marked).filter_map(|json| serde_json::from_str(&json).ok()).collect()
    }

    /// The access log, once it has at least `lines` lines: Envoy writes it from time to time.
    pub async fn access_log(&self, lines: usize) -> Vec<Value> {
        let read = || async {
            let text = fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>()
        };
        until("lines in the access log", read, |seen| seen.len() >= lines).await
    }

    /// Asks Envoy to end, so that its starter (func-e) ends too and leaves nothing behind.
    fn quit(&mut self) {
        let admin = self.admin;
        let asked = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(client::request(admin, "POST", "/quitquitquit", &[])).ok()
        });
        let asked = asked.join().ok().flatten().is_some();
        let deadline = Instant::now() + GRACE;
        while asked && Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Prints the end of its log and the breaker's stats, to help find the cause.
    pub fn print_what_is_known(&self) {
        eprintln!("--- Envoy's log\n{}", tail(&self.log(), 80));
        // A drop can happen in an async test, so a thread of its own asks.
        let admin = self.admin;
        let stats = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            Some(runtime.block_on(client::get(admin, "/stats?filter=circuit_breaker_")).ok()?.text())
        });
        let stats = stats.join().ok().flatten().unwrap_or_default();
        eprintln!("--- the breaker's stats\n{stats}");
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_what_is_known();
        }
        self.quit();
        // Ended already, perhaps: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_filter(bootstrap: &Bootstrap, directory: &Path, listener: &str, plugin_config: &str) -> Result<()> {
    write(&bootstrap.filter_document(listener, plugin_config), &filter_file(directory, listener))
}

fn write(document: &Value, file: &Path) -> Result<()> {
    let staging = file.with_extension("new");
    fs::write(&staging, document.to_string())?;
    // Envoy watches for the rename.
    fs::rename(&staging, file)?;
    Ok(())
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
