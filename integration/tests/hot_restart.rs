//! A bare Envoy that another one takes over from (hot restart). While both live, Envoy adds the old process's gauges
//! to the new one's. It also adds what the old one has counted since its last flush to the new one's counters.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use circuit_breaker_integration::bootstrap::{Bootstrap, Cluster, Listener};
use circuit_breaker_integration::client::{self, Reply};
use circuit_breaker_integration::envoy::{Envoy, tool};
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::LISTENER;
use circuit_breaker_integration::upstream::{Behaviour, Upstream};
use circuit_breaker_integration::wait::until;
use serde_json::json;

for_one_and_four_workers!(
    circuits_begin_closed_in_the_process_that_takes_over,
    calls_that_the_old_process_still_ends_count_in_the_new_ones_window,
);

/// Seconds from the new process's start to the old one's end. The checks of both take a fraction of this time.
const BOTH_LIVE: &str = "8";

/// OPEN outlasts the test.
const CONFIG: &str = r#"{"default": {"open": {"baseDuration": "10m", "maxDuration": "10m"}}}"#;

/// Files that two processes of one base id share, and what Envoy leaves of them.
struct Base {
    directory: tempfile::TempDir,
}

impl Base {
    fn new() -> Base {
        Base { directory: tempfile::tempdir().unwrap() }
    }

    fn id_file(&self) -> PathBuf {
        self.directory.path().join("base-id")
    }

    /// The number that the first process has found free.
    fn id(&self) -> u32 {
        std::fs::read_to_string(self.id_file()).unwrap().trim().parse().unwrap()
    }

    fn first(&self) -> Command {
        let mut command = Command::new(tool("envoy").unwrap());
        command.args(["--restart-epoch", "0", "--use-dynamic-base-id", "--base-id-path"]).arg(self.id_file());
        command
    }

    fn second(&self) -> Command {
        let mut command = Command::new(tool("envoy").unwrap());
        command.args(["--restart-epoch", "1", "--base-id", &self.id().to_string()]);
        command.args(["--drain-time-s", "1", "--parent-shutdown-time-s", BOTH_LIVE]);
        command
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let id = std::fs::read_to_string(self.id_file()).unwrap_or_default();
        // Envoy leaves its shared memory behind, under ten times the number. If it has left none, nothing is to be
        // done.
        let _ = std::fs::remove_file(format!("/dev/shm/envoy_shared_memory_{}0", id.trim()));
    }
}

/// Upstreams behind `/streak`, `/open` and `/well`.
struct Upstreams {
    streak: Upstream,
    open: Upstream,
    well: Upstream,
}

impl Upstreams {
    async fn start() -> Upstreams {
        Upstreams { streak: Upstream::start().await, open: Upstream::start().await, well: Upstream::start().await }
    }

    /// An Envoy that says its name in each answer.
    fn bootstrap(&self, name: &str, port: u16) -> Bootstrap {
        let named = [("streak", &self.streak), ("open", &self.open), ("well", &self.well)];
        let clusters = named.iter().map(|(name, upstream)| Cluster::new(name, upstream.address())).collect();
        let listener = Listener { port, ..Listener::new(LISTENER, Some(CONFIG)) };
        let mut bootstrap = Bootstrap::new(clusters, vec![listener]);
        bootstrap.connection_manager = json!({"server_name": name});
        bootstrap.stats_flush_interval = "0.1s".to_owned();
        bootstrap
    }
}

async fn get(to: SocketAddr, path: &str) -> Reply {
    client::get(to, path).await.unwrap()
}

async fn get_times(to: SocketAddr, path: &str, times: usize) -> Vec<Reply> {
    let mut replies = Vec::new();
    for _ in 0..times {
        replies.push(get(to, path).await);
    }
    replies
}

/// Waits until the new process has the listener for itself: for a moment both accept.
async fn until_taken_over(to: SocketAddr) {
    let look = || async { get_times(to, "/well", 20).await };
    let taken = |replies: &Vec<Reply>| replies.iter().all(|reply| reply.header("server") == "child");
    until("the child to have the listener alone", look, taken).await;
}

async fn until_state(envoy: &Envoy, upstream: &str, state: u64) {
    let look = || async { envoy.metric("circuit_breaker_state", upstream, "").await.unwrap_or(u64::MAX) };
    until(&format!("the state of {upstream} to be {state}"), look, |seen| *seen == state).await;
}

async fn circuits_begin_closed_in_the_process_that_takes_over(workers: u32) {
    let (base, upstreams) = (Base::new(), Upstreams::start().await);
    upstreams.streak.behave(Behaviour::Status(500));
    upstreams.open.behave(Behaviour::Status(500));
    let mut parent = Envoy::start_by(upstreams.bootstrap("parent", 0), workers, base.first()).await.unwrap();
    let to = parent.address(LISTENER);
    get_times(to, "/streak", 4).await;
    get_times(to, "/open", 5).await;
    until_state(&parent, "open", 2).await;
    assert!(get(to, "/open").await.is_rejection());

    let child = Envoy::start_by(upstreams.bootstrap("child", to.port()), workers, base.second()).await.unwrap();
    until_taken_over(to).await;
    // The gauge of the parent alone.
    until_state(&child, "open", 2).await;
    let replies = [get(to, "/streak").await, get(to, "/open").await];
    assert!(replies.iter().all(|reply| reply.status == 500 && !reply.is_rejection()), "{replies:?}");
    upstreams.streak.behave(Behaviour::Status(200));
    get_times(to, "/streak", 8).await;
    assert_eq!(child.transitions(), [json!(null); 0], "a failure beside the parent's four");

    get_times(to, "/open", 4).await;
    assert!(get(to, "/open").await.is_rejection(), "five failures of its own");
    let trips = child.transitions();
    assert!(trips.len() == 1 && trips[0]["streak"] == 5 && trips[0]["generation"] == 1, "{trips:?}");
    // Envoy adds the parent's gauge.
    until_state(&child, "open", 4).await;
    let open_until = || async { child.metric("circuit_breaker_open_until_seconds", "open", "").await.unwrap() };
    let both = open_until().await;
    assert!(!parent.has_ended().unwrap(), "both live");

    until("the parent to end", || std::future::ready(parent.has_ended().unwrap()), |ended| *ended).await;
    until_state(&child, "open", 2).await;
    until_state(&child, "streak", 0).await;
    let own = open_until().await;
    assert!(both > own + own / 2, "{both} is no sum of two times like {own}");
    assert!(get(to, "/open").await.is_rejection());
    assert_eq!(child.transitions().len(), 1);
}

/// They are the same upstream's calls, of the last few seconds. It makes no difference to a rate which process had
/// them.
async fn calls_that_the_old_process_still_ends_count_in_the_new_ones_window(workers: u32) {
    const IN_FLIGHT: usize = 25;
    let (base, upstreams) = (Base::new(), Upstreams::start().await);
    let parent = Envoy::start_by(upstreams.bootstrap("parent", 0), workers, base.first()).await.unwrap();
    let to = parent.address(LISTENER);
    upstreams.open.behave(Behaviour::Gate(500));
    let begun: Vec<_> = (0..IN_FLIGHT).map(|_| tokio::spawn(get(to, "/open"))).collect();
    let in_flight = || async { upstreams.open.in_flight() };
    until("all to be in flight", in_flight, |seen| *seen == IN_FLIGHT as u64).await;

    let child = Envoy::start_by(upstreams.bootstrap("child", to.port()), workers, base.second()).await.unwrap();
    until_taken_over(to).await;
    upstreams.open.behave(Behaviour::Status(200));
    // Its window begins.
    get(to, "/open").await;
    upstreams.open.release(IN_FLIGHT);
    for call in begun {
        assert_eq!(call.await.unwrap().header("server"), "parent");
    }
    let failures = || async { child.metric("circuit_breaker_calls_total", "open", "failure").await.unwrap() };
    until("the parent's failures to be added", failures, |seen| *seen == IN_FLIGHT as u64).await;
    assert_eq!(child.transitions(), [json!(null); 0], "the child has had no failure");
    upstreams.open.behave(Behaviour::Status(500));
    get(to, "/open").await;
    assert!(get(to, "/open").await.is_rejection());
    let trips = child.transitions();
    assert!(trips.len() == 1 && trips[0]["reason"] == "failure_rate" && trips[0]["streak"] == 1, "{trips:?}");
}
