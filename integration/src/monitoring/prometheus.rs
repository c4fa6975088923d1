//! A real Prometheus: Debian's, with a data directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::directory;
use crate::client;
use crate::wait::PATIENCE;

/// What Prometheus scrapes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// The label `namespace`, as a PodMonitor sets it.
    pub namespace: String,
    /// The label `pod`, as a PodMonitor sets it.
    pub pod: String,
}

/// A time span that a dashboard shows.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its begin.
    pub from: SystemTime,
    /// Its end.
    pub until: SystemTime,
}

impl Span {
    /// Its length in whole seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.until.duration_since(self.from).unwrap_or_default().as_secs().max(1)
    }
}

/// Seconds of the Unix epoch.
fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A running Prometheus. Killed when dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

/// Debian's Prometheus stops scraping for a moment when its disk is busy, hence not shorter.
const SCRAPE: &str = "1s";

impl Prometheus {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It is not installed, or it ended; with its log.
    pub async fn start(targets: &[Target]) -> Result<Prometheus> {
        let directory = tempfile::Builder::new().prefix("circuit-breaker-prometheus-").tempdir()?;
        fs::write(directory.path().join("rules.json"), rules()?.to_string())?;
        let config = directory.path().join("prometheus.json");
        fs::write(&config, configuration(targets).to_string())?;
        let address = free_address()?;
        let log = fs::File::create(directory.path().join("prometheus.log"))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start prometheus: apt-get install prometheus")?;
        let mut prometheus = Prometheus { child, address, directory };
        prometheus.become_ready().await?;
        Ok(prometheus)
    }

    async fn become_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if matches!(client::get(self.address, "/-/ready").await, Ok(reply) if reply.status == 200) {
                return Ok(());
            }
            let ended = self.child.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.directory.path().join("prometheus.log")).unwrap_or_default();
                bail!("Prometheus is not ready:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The targets that it could not scrape last, with the reason.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn unhealthy(&self) -> Result<Vec<String>> {
        let targets = self.ask("/api/v1/targets?state=active").await?;
        let targets = targets["activeTargets"].as_array().cloned().unwrap_or_default();
        ensure!(!targets.is_empty(), "Prometheus has no targets");
        let sick = targets.iter().filter(|target| target["health"] != "up");
        Ok(sick.map(|target| format!("{}: {}", target["labels"]["pod"], target["lastError"])).collect())
    }

    /// The series of an expression over a span, one point a second.
    ///
    /// # Errors
    /// It refuses the expression.
    pub async fn range(&self, expression: &str, span: Span) -> Result<Vec<Value>> {
        let (from, until) = (unix(span.from), unix(span.until));
        let path = format!(
            "/api/v1/query_range?query={}&start={from}&end={until}&step=1",
            utf8_percent_encode(expression, NON_ALPHANUMERIC)
        );
        Ok(self.ask(&path).await?["result"].as_array().cloned().unwrap_or_default())
    }

    /// The series of an expression at a moment.
    ///
    /// # Errors
    /// It refuses the expression.
    pub async fn instant(&self, expression: &str, at: SystemTime) -> Result<Vec<Value>> {
        let path =
            format!("/api/v1/query?query={}&time={}", utf8_percent_encode(expression, NON_ALPHANUMERIC), unix(at));
        Ok(self.ask(&path).await?["result"].as_array().cloned().unwrap_or_default())
    }

    /// The values of a label of some series.
    ///
    /// # Errors
    /// It refuses the selector.
    pub async fn label_values(&self, selector: &str, label: &str, span: Span) -> Result<Vec<String>> {
        let (from, until) = (unix(span.from), unix(span.until));
        let path = format!(
            "/api/v1/label/{label}/values?match[]={}&start={from}&end={until}",
            utf8_percent_encode(selector, NON_ALPHANUMERIC)
        );
        let values = self.ask(&path).await?;
        Ok(values.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    async fn ask(&self, path: &str) -> Result<Value> {
        let reply = client::get(self.address, path).await?;
        let answer: Value = serde_json::from_str(&reply.text()).with_context(|| format!("{}", reply.status))?;
        ensure!(answer["status"] == "success", "{}", answer["error"]);
        Ok(answer["data"].clone())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Ended already, perhaps: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody has. Prometheus cannot tell which it took itself.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// JSON is YAML, too.
fn configuration(targets: &[Target]) -> Value {
    let targets: Vec<Value> = targets
        .iter()
        .map(|target| {
            json!({"targets": [target.address.to_string()], "labels": {
                // Azure Monitor's collector adds the label `cluster`.
                "cluster": "aks-westeurope", "namespace": target.namespace, "pod": target.pod,
            }})
        })
        .collect();
    json!({
        "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE},
        "rule_files": ["rules.json"],
        "scrape_configs": [
            {"job_name": "circuit-breaker", "metrics_path": "/stats/prometheus", "static_configs": targets},
        ],
    })
}

/// The repository's alerts and the recording rules that they read, without the alerts' waiting times: an outage of a
/// minute is to fire some.
fn rules() -> Result<Value> {
    let mut groups = Vec::new();
    for file in fs::read_dir(directory())? {
        let path = file?.path();
        if path.to_string_lossy().ends_with("-prometheusRule.yaml") {
            let resource: Value = serde_yaml_ng::from_str(&fs::read_to_string(&path)?)
                .with_context(|| format!("{} is no YAML", path.display()))?;
            groups.extend(resource["spec"]["groups"].as_array().cloned().unwrap_or_default());
        }
    }
    for rule in groups.iter_mut().filter_map(|group| group["rules"].as_array_mut()).flatten() {
        if let Some(rule) = rule.as_object_mut() {
            rule.remove("for");
        }
    }
    Ok(json!({"groups": groups}))
}
