//! What most tests need: one Envoy with the breaker before two upstreams, `sick` and `other`.

use std::time::Duration;

use crate::bootstrap::{Bootstrap, Cluster, Listener};
use crate::client::{self, Reply};
use crate::envoy::{Delivery, Envoy};
use crate::upstream::{Behaviour, Upstream};
use crate::wait::until;

/// The listener with the breaker.
pub const LISTENER: &str = "guarded";

/// The possible outcomes of a settled call.
pub const OUTCOMES: [&str; 4] = ["success", "failure", "slow", "neutral"];

const CALLS: &str = "circuit_breaker_calls_total";

/// States as the gauge tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All pass.
    Closed = 0,
    /// Probes, then a growing share.
    HalfOpen = 1,
    /// None pass.
    Open = 2,
}

/// An Envoy and its upstreams.
pub struct Scenario {
    /// The proxy.
    pub envoy: Envoy,
    /// The upstream behind `/sick`, which fails when a test says so.
    pub sick: Upstream,
    /// The upstream behind `/other`, which is always well.
    pub other: Upstream,
}

impl Scenario {
    /// Both upstreams answer 200; the breaker has `plugin_config`.
    ///
    /// # Panics
    /// Envoy does not start; with its log.
    pub async fn start(workers: u32, plugin_config: &str) -> Scenario {
        Scenario::start_with(workers, plugin_config, |_| {}).await
    }

    /// As [`Scenario::start`], with a change to Envoy's bootstrap.
    ///
    /// # Panics
    /// Envoy does not start; with its log.
    pub async fn start_with(workers: u32, plugin_config: &str, change: impl FnOnce(&mut Bootstrap)) -> Scenario {
        let (sick, other) = (Upstream::start().await, Upstream::start().await);
        let mut bootstrap = Bootstrap::new(
            vec![Cluster::new("sick", sick.address()), Cluster::new("other", other.address())],
            vec![Listener::new(LISTENER, Some(plugin_config))],
        );
        change(&mut bootstrap);
        let envoy = Envoy::start(bootstrap, workers).await.unwrap_or_else(|why| panic!("{why:#}"));
        Scenario { envoy, sick, other }
    }

    /// GET through the breaker, on a new connection.
    ///
    /// # Panics
    /// Envoy gives no answer at all.
    pub async fn get(&self, path: &str) -> Reply {
        let to = self.envoy.address(LISTENER);
        client::get(to, path).await.unwrap_or_else(|why| panic!("no answer to GET {path}: {why:#}"))
    }

    /// So many GETs, one after the other.
    pub async fn get_times(&self, path: &str, times: usize) -> Vec<Reply> {
        let mut replies = Vec::with_capacity(times);
        for _ in 0..times {
            replies.push(self.get(path).await);
        }
        replies
    }

    /// So many GETs at once, each on a connection of its own.
    ///
    /// # Panics
    /// Envoy gives no answer to one.
    pub async fn get_at_once(&self, path: &str, clients: usize) -> Vec<Reply> {
        let to = self.envoy.address(LISTENER);
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let path = path.to_owned();
                tokio::spawn(async move { client::get(to, &path).await })
            })
            .collect();
        let mut replies = Vec::with_capacity(clients);
        for task in tasks {
            replies.push(task.await.expect("no task panics").expect("an answer"));
        }
        replies
    }

    /// A GET that is under way.
    #[must_use]
    pub fn begin(&self, path: &str) -> tokio::task::JoinHandle<anyhow::Result<Reply>> {
        let (to, path) = (self.envoy.address(LISTENER), path.to_owned());
        tokio::spawn(async move { client::get(to, &path).await })
    }

    /// Lets the sick upstream fail until its circuit is OPEN.
    pub async fn trip(&self) {
        self.sick.behave(Behaviour::Status(500));
        while self.state("sick").await != Some(State::Open) {
            self.get("/sick").await;
        }
    }

    /// Sends nothing, and waits until OPEN is over.
    pub async fn until_half_open(&self) {
        self.until_state("sick", State::HalfOpen).await;
    }

    /// The state that the gauge tells.
    ///
    /// # Panics
    /// The admin interface does not answer.
    pub async fn state(&self, upstream: &str) -> Option<State> {
        match self.metric("circuit_breaker_state", upstream, "").await {
            0 => Some(State::Closed),
            1 => Some(State::HalfOpen),
            2 => Some(State::Open),
            _ => None,
        }
    }

    /// Waits for a state.
    pub async fn until_state(&self, upstream: &str, state: State) {
        until(&format!("{upstream} to be {state:?}"), || self.state(upstream), |seen| *seen == Some(state)).await;
    }

    /// One of the breaker's metrics.
    ///
    /// # Panics
    /// The admin interface does not answer.
    pub async fn metric(&self, metric: &str, upstream: &str, component: &str) -> u64 {
        self.envoy.metric(metric, upstream, component).await.expect("the admin interface answers")
    }

    /// Waits until a metric has a value.
    pub async fn until_metric(&self, metric: &str, upstream: &str, component: &str, value: u64) {
        let look = || self.metric(metric, upstream, component);
        until(&format!("{metric} {component} of {upstream} to be {value}"), look, |seen| *seen == value).await;
    }

    /// Calls settled so far, by [`OUTCOMES`].
    ///
    /// # Panics
    /// The admin interface does not answer.
    pub async fn counts(&self, upstream: &str) -> [u64; 4] {
        let mut counts = [0; 4];
        for (count, outcome) in counts.iter_mut().zip(OUTCOMES) {
            *count = self.metric(CALLS, upstream, outcome).await;
        }
        counts
    }

    /// Waits until so many calls are settled, by [`OUTCOMES`].
    pub async fn until_counts(&self, upstream: &str, expected: [u64; 4]) {
        for (outcome, count) in OUTCOMES.into_iter().zip(expected) {
            self.until_metric(CALLS, upstream, outcome, count).await;
        }
    }

    /// Waits until the log tells of a transition for this reason.
    pub async fn until_transition(&self, reason: &str) -> serde_json::Value {
        let look = || async { self.envoy.transitions().into_iter().rev().find(|seen| seen["reason"] == reason) };
        until(&format!("a transition for {reason}"), look, Option::is_some).await.unwrap_or_default()
    }

    /// The reasons of all transitions so far.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let transitions = self.envoy.transitions();
        transitions.iter().map(|line| line["reason"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Gives the breaker another configuration.
    ///
    /// # Panics
    /// The configuration cannot be written.
    pub async fn configure(&self, plugin_config: &str) -> Delivery {
        self.envoy.configure(LISTENER, plugin_config).await.expect("a file can be written")
    }

    /// Waits until the sick upstream has so many unanswered requests.
    pub async fn until_in_flight(&self, requests: u64) {
        let look = || async { self.sick.in_flight() };
        until(&format!("{requests} requests in the upstream's hands"), look, |seen| *seen == requests).await;
    }
}

/// Time of a request that waits for nothing: far below every timeout of a test.
pub const AT_ONCE: Duration = Duration::from_millis(500);

/// Makes a test of `async fn name(workers: u32)` with one worker and one with four.
#[macro_export]
macro_rules! for_one_and_four_workers {
    ($($name:ident),* $(,)?) => {
        mod one_worker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(1).await })*
        }
        mod four_workers {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(4).await })*
        }
    };
}
