//! The story that Prometheus sees: services, their faults, and the load.
//!
//! One service goes down for good reasons to be paged: it fails, then hangs, then is well. Around it others do what the
//! rest of the panels show: one host of a service is ejected, a pool fills, another service gets slow, a fallback
//! answers, a policy is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::proxies::{LISTENER, Proxy, UPSTREAM};
use crate::client;
use crate::upstream::{Behaviour, Upstream};

/// How long the story takes: the longest recovery in it ends some seconds before.
pub const LENGTH: Duration = Duration::from_secs(80);

/// From here on the service that goes down is at its worst, in seconds from the start: what a fleet's picture shows.
pub const WORST: Duration = Duration::from_secs(40);

/// Between two requests of a proxy to an upstream: six proxies and six upstreams leave half of two cores free.
const PAUSE: Duration = Duration::from_millis(125);

/// A client of a hanging upstream gives up after the route has.
const PATIENCE: Duration = Duration::from_secs(3);

/// A service, and the subset that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Version 1 of the shop, which goes down.
    Shop,
    /// Version 2 of it, which stays well.
    ShopCanary,
    /// Two hosts, of which one fails, and a small pool.
    Payments,
    /// Gets slow for a while.
    Catalog,
    /// Goes down with a fallback to the catalog.
    Search,
    /// Is switched off by hand.
    Ledger,
}

impl Service {
    /// All of them.
    pub const ALL: [Service; 6] =
        [Service::Shop, Service::ShopCanary, Service::Payments, Service::Catalog, Service::Search, Service::Ledger];

    /// Its name in the mesh.
    #[must_use]
    pub fn host(self) -> &'static str {
        match self {
            Service::Shop | Service::ShopCanary => "shop.shop.svc.cluster.local",
            Service::Payments => "payments.payments.svc.cluster.local",
            Service::Catalog => "catalog.shop.svc.cluster.local",
            Service::Search => "search.search.svc.cluster.local",
            Service::Ledger => "ledger.payments.svc.cluster.local",
        }
    }

    /// Its name as Istio gives it to Envoy.
    #[must_use]
    pub fn cluster(self) -> String {
        let (port, subset) = match self {
            Service::Shop => (8080, "v1"),
            Service::ShopCanary => (8080, "v2"),
            Service::Payments => (443, ""),
            Service::Catalog | Service::Search => (80, ""),
            Service::Ledger => (9090, ""),
        };
        format!("outbound|{port}|{subset}|{}", self.host())
    }

    /// Connections and waiting requests that its DestinationRule allows.
    #[must_use]
    pub fn pool(self) -> (u32, u32) {
        if self == Service::Payments { (6, 1) } else { (100, 100) }
    }

    /// How many hosts it has.
    fn hosts(self) -> usize {
        if self == Service::Payments { 2 } else { 1 }
    }
}

/// A service and its running hosts.
pub struct Running {
    service: Service,
    hosts: Vec<Upstream>,
}

/// Starts all services.
///
/// # Errors
/// No port is free.
pub async fn start_services() -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for service in Service::ALL {
        let mut hosts = Vec::new();
        for _ in 0..service.hosts() {
            let host = Upstream::listen(0).await?;
            host.behave(well());
            hosts.push(host);
        }
        running.push(Running { service, hosts });
    }
    Ok(running)
}

/// Where the services listen.
#[must_use]
pub fn addresses(running: &[Running]) -> Vec<(Service, Vec<SocketAddr>)> {
    running.iter().map(|one| (one.service, one.hosts.iter().map(Upstream::address).collect())).collect()
}

fn well() -> Behaviour {
    Behaviour::Slow(Duration::from_millis(8), 200)
}

/// The faults: from which second on which host of which service does what.
fn script() -> Vec<(u64, Service, usize, Behaviour)> {
    let slow = |milliseconds| Behaviour::Slow(Duration::from_millis(milliseconds), 200);
    vec![
        (10, Service::Payments, 1, Behaviour::Status(503)),
        (14, Service::Shop, 0, Behaviour::FailingPercent(60)),
        (18, Service::Search, 0, Behaviour::ResetBeforeHeaders),
        (26, Service::Shop, 0, Behaviour::Hang),
        (28, Service::Search, 0, well()),
        (34, Service::Payments, 1, well()),
        (34, Service::Catalog, 0, slow(400)),
        (40, Service::Catalog, 0, well()),
        (44, Service::Shop, 0, well()),
        (46, Service::Payments, 0, slow(950)),
        (46, Service::Payments, 1, slow(950)),
        (56, Service::Payments, 0, well()),
        (56, Service::Payments, 1, well()),
    ]
}

/// The second at which somebody applies a policy with a mistake in it.
const MISTAKE: u64 = 30;

/// Plays the story under load, from the beginning to the end.
///
/// # Errors
/// Envoy does not take a configuration.
pub async fn play(proxies: &Arc<Vec<Proxy>>, services: &[Running]) -> Result<()> {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for at in 0..proxies.len() {
        for service in Service::ALL {
            clients.spawn(send(Arc::clone(proxies), at, service));
        }
    }
    let mistake = async {
        tokio::time::sleep(Duration::from_secs(MISTAKE)).await;
        let guarded = proxies.iter().find(|proxy| proxy.is_guarded() && proxy.namespace == "shop");
        if let Some(proxy) = guarded { proxy.misconfigure().await } else { Ok(()) }
    };
    let faults = async {
        for (second, service, host, behaviour) in script() {
            tokio::time::sleep_until((begin + Duration::from_secs(second)).into()).await;
            if let Some(one) = services.iter().find(|one| one.service == service) {
                one.hosts[host].behave(behaviour);
            }
        }
        tokio::time::sleep_until((begin + LENGTH).into()).await;
    };
    let (mistaken, ()) = tokio::join!(mistake, faults);
    mistaken
}

/// Sends requests of one proxy to one service for ever, whatever becomes of them.
async fn send(proxies: Arc<Vec<Proxy>>, at: usize, service: Service) {
    let (to, cluster) = (proxies[at].envoy.address(LISTENER), service.cluster());
    let mut clock = tokio::time::interval(PAUSE);
    let mut open = JoinSet::new();
    loop {
        clock.tick().await;
        let cluster = cluster.clone();
        open.spawn(async move {
            let headers = [(UPSTREAM, cluster.as_str())];
            let _ = tokio::time::timeout(PATIENCE, client::request(to, "GET", "/", &headers)).await;
        });
        while open.try_join_next().is_some() {}
    }
}
