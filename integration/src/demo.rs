//! The main job, made visible: steady load through two listeners of one Envoy, one with the breaker and one without.
//! Their common upstream goes from healthy to sick to hung to healthy.

pub mod board;
pub mod load;
pub mod page;
pub mod summary;

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::bootstrap::{Bootstrap, Cluster, Listener};
use crate::envoy::{Envoy, tool};
use crate::upstream::{Behaviour, Upstream};

/// One stretch of the upstream's life.
#[derive(Clone, Debug)]
pub struct Phase {
    /// What people call it.
    pub name: &'static str,
    /// When it begins, from the start of the load.
    pub from: Duration,
    /// What the upstream does.
    pub behaviour: Behaviour,
}

/// Length of the whole.
pub const LENGTH: Duration = Duration::from_secs(45);

/// The upstream's life. Each stretch is long enough to show how the breaker handles it.
#[must_use]
pub fn phases() -> Vec<Phase> {
    let at = Duration::from_secs;
    vec![
        Phase { name: "healthy", from: at(0), behaviour: Behaviour::Slow(Duration::from_millis(5), 200) },
        Phase { name: "60 % errors", from: at(8), behaviour: Behaviour::FailingPercent(60) },
        Phase { name: "hangs", from: at(18), behaviour: Behaviour::Hang },
        Phase { name: "healthy again", from: at(28), behaviour: Behaviour::Slow(Duration::from_millis(5), 200) },
    ]
}

/// When the upstream is well again.
#[must_use]
pub fn healed_at() -> Duration {
    phases().last().map(|phase| phase.from).unwrap_or_default()
}

/// A policy ten times as fast as the defaults, to fit the demo.
pub const POLICY: &str = r#"{"default": {
  "trip": {"consecutiveFailures": 5, "failureRatePercent": 50, "minimumCalls": 20, "window": {"duration": "5s"}},
  "open": {"baseDuration": "2s", "multiplier": 2, "maxDuration": "4s", "jitterPercent": 10},
  "halfOpen": {"maxConcurrentProbes": 1, "successThreshold": 3, "probeTimeout": "1s",
               "ramp": {"initialPercent": 10, "duration": "5s"}}
}}"#;

/// The two ways to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Through the breaker.
    With,
    /// Without it.
    Without,
}

impl Side {
    /// Both, in the order of every table.
    pub const BOTH: [Side; 2] = [Side::Without, Side::With];

    /// Its listener.
    #[must_use]
    pub fn listener(self) -> &'static str {
        match self {
            Side::With => "with-breaker",
            Side::Without => "without-breaker",
        }
    }

    /// Its cluster: the same upstream, with connections of its own.
    #[must_use]
    pub fn cluster(self) -> &'static str {
        match self {
            Side::With => "shop",
            Side::Without => "unguarded-shop",
        }
    }

    /// The path that leads there.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Side::With => "/shop",
            Side::Without => "/unguarded-shop",
        }
    }

    /// What people call it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Side::With => "with breaker",
            Side::Without => "without",
        }
    }
}

/// Worker threads of the demo's Envoy. There are several, to show one breaker over all of them.
pub const WORKERS: u32 = 4;

/// The stage: Envoy before one upstream.
pub struct Stage {
    /// The proxy.
    pub envoy: Envoy,
    /// The upstream.
    pub upstream: Upstream,
    /// How Envoy was started, for the reader.
    pub started_by: String,
}

impl Stage {
    /// Starts all parts. Envoy is started by func-e where that is installed.
    ///
    /// # Errors
    /// Envoy is not installed or does not start.
    pub async fn set() -> Result<Stage> {
        let upstream = Upstream::start().await;
        let cluster =
            |side: Side| Cluster { timeout: "1s".to_owned(), ..Cluster::new(side.cluster(), upstream.address()) };
        let listener = |side: Side| Listener::new(side.listener(), (side == Side::With).then_some(POLICY));
        let bootstrap = Bootstrap::new(Side::BOTH.map(cluster).to_vec(), Side::BOTH.map(listener).to_vec());
        let (command, started_by) = envoy_command()?;
        let envoy = Envoy::start_by(bootstrap, WORKERS, command).await?;
        Ok(Stage { envoy, upstream, started_by })
    }
}

/// Envoy by func-e, or directly where there is no func-e; and the text that tells which.
///
/// # Errors
/// Envoy is not installed.
pub fn envoy_command() -> Result<(Command, String)> {
    let envoy = tool("envoy")?;
    let version = std::env::var("ENVOY").unwrap_or_else(|_| "1.40.0".to_owned());
    Ok(match tool("func-e") {
        Ok(func_e) => {
            let mut command = Command::new(func_e);
            command.arg("run").env("ENVOY_PATH", envoy);
            (command, format!("Envoy {version} by func-e"))
        }
        Err(_) => (Command::new(envoy), format!("Envoy {version} directly (func-e needs Go, which is not here)")),
    })
}
