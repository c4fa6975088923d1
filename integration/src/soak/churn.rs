//! Upstreams that come and go: clusters from a file that changes twice a second, and requests that name them in a
//! header.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, sync::Mutex};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::chance::Chance;
use super::stop::Stop;
use super::traffic::Clients;
use crate::bootstrap::{self, Cluster};
use crate::client;
use crate::upstream::{Behaviour, Upstream};
use crate::wait::PATIENCE;

/// Clusters that exist at once.
const ALIVE: usize = 6;

/// Time that a cluster is the newest.
const NEWEST: (u64, u64) = (300, 700);

/// Pause between two requests, in milliseconds.
const PAUSE: (u64, u64) = (40, 160);

/// The clusters that come and go.
pub struct Churn {
    admin: SocketAddr,
    file: PathBuf,
    well: Upstream,
    sick: Upstream,
    come: AtomicU64,
    /// Names that exist, oldest first, and where each leads.
    alive: Mutex<VecDeque<(String, SocketAddr)>>,
}

impl Churn {
    /// Upstreams behind the clusters. `file`: where Envoy finds the clusters.
    ///
    /// # Errors
    /// No port is free, or the file cannot be written.
    pub async fn start(file: PathBuf) -> Result<Churn> {
        let (well, sick) = (Upstream::listen(0).await?, Upstream::listen(0).await?);
        sick.behave(Behaviour::Status(500));
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        let churn = Churn { admin, file, well, sick, come: AtomicU64::new(0), alive: Mutex::default() };
        churn.write()?;
        Ok(churn)
    }

    /// Where Envoy tells which file it has taken.
    pub fn ask_at(&mut self, admin: SocketAddr) {
        self.admin = admin;
    }

    /// The addition to Envoy's bootstrap that gives it clusters from the file.
    #[must_use]
    pub fn resources(&self) -> Value {
        json!({"dynamic_resources": {"cds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": self.file},
        }}})
    }

    /// Names that have come so far.
    #[must_use]
    pub fn come(&self) -> u64 {
        self.come.load(Ordering::SeqCst)
    }

    /// Lets clusters come and go until it is to stop. `some_sick`: every third one fails, and is removed while its
    /// circuit is OPEN or HALF_OPEN.
    ///
    /// # Errors
    /// The file cannot be written, or Envoy does not take it.
    pub async fn turn(&self, some_sick: bool, mut chance: Chance, mut stop: Stop) -> Result<()> {
        while stop.pause(chance.milliseconds(NEWEST.0, NEWEST.1)).await {
            let number = self.come.fetch_add(1, Ordering::SeqCst) + 1;
            let upstream = if some_sick && number.is_multiple_of(3) { &self.sick } else { &self.well };
            {
                let mut alive = self.alive();
                alive.push_back((format!("churn-{number}"), upstream.address()));
                if alive.len() > ALIVE {
                    alive.pop_front();
                }
            }
            let taken = self.taken().await?;
            self.write()?;
            self.until_taken(taken).await?;
        }
        Ok(())
    }

    /// Sends requests to the names that exist, and now and then to one that has gone, until it is to stop.
    pub async fn send(&self, clients: &Clients, mut chance: Chance, mut stop: Stop) {
        while stop.pause(chance.milliseconds(PAUSE.0, PAUSE.1)).await {
            let come = self.come();
            let name = if chance.percent(5) {
                Some(format!("churn-{}", chance.between(0, come)))
            } else {
                let alive = self.alive();
                let place = chance.between(0, (alive.len() as u64).max(1) - 1);
                alive.get(usize::try_from(place).unwrap_or(0)).map(|(name, _)| name.clone())
            };
            if let Some(name) = name {
                clients.send_named(&name).await;
            }
        }
    }

    fn alive(&self) -> std::sync::MutexGuard<'_, VecDeque<(String, SocketAddr)>> {
        self.alive.lock().expect("no holder panics")
    }

    fn write(&self) -> Result<()> {
        let alive = self.alive().clone();
        let documents = alive.iter().map(|(name, address)| {
            let mut document = bootstrap::cluster(&Cluster::new(name, *address));
            document["@type"] = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
            document
        });
        let document = json!({"resources": documents.collect::<Vec<Value>>()});
        let staging = self.file.with_extension("new");
        fs::write(&staging, document.to_string())?;
        // Envoy watches for the rename.
        Ok(fs::rename(&staging, &self.file)?)
    }

    /// Cluster files that Envoy has taken so far.
    async fn taken(&self) -> Result<u64> {
        let text = client::get(self.admin, "/stats?filter=cluster_manager.cds.update_success").await?.text();
        Ok(text.lines().find_map(|line| line.rsplit_once(": ")?.1.parse().ok()).unwrap_or(0))
    }

    async fn until_taken(&self, before: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.taken().await? == before {
            ensure!(Instant::now() < deadline, "Envoy has not taken a file of clusters within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}
