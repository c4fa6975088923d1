//! A new version of the module under traffic. Envoy replaces all VMs, and forgets a metric with the last VM that
//! knows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::client;
use circuit_breaker_integration::envoy::Delivery;
use circuit_breaker_integration::faulty::{module_of_another_version, module_that_traps};
use circuit_breaker_integration::grpc::{self, GrpcUpstream};
use circuit_breaker_integration::scenario::{LISTENER, Scenario};
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;

const UPSTREAMS: usize = 300;
const VERSIONS: u8 = 5;

/// The header that names the upstream.
const HEADER: &str = "x-upstream";

/// Every third upstream is sick, some requests never reach their upstream, the first upstreams have tripped, and one
/// has no circuit.
async fn everything_counted(scenario: &Scenario) {
    scenario.sick.behave(Behaviour::Status(500));
    let to = scenario.envoy.address(LISTENER);
    for number in 0..=UPSTREAMS {
        let name = name(number);
        let requests = if number < 9 { 8 } else { 1 };
        for _ in 0..requests {
            client::request(to, "GET", "/", &[(HEADER, &name)]).await.unwrap();
        }
        if number % 5 == 1 {
            let aborted = [(HEADER, name.as_str()), ("x-envoy-fault-abort-request", "503")];
            client::request(to, "GET", "/", &aborted).await.unwrap();
        }
    }
    assert_eq!(scenario.configure("none").await, Delivery::Refused);
}

fn name(number: usize) -> String {
    format!("outbound|80||upstream-{number}.default.svc.cluster.local")
}

/// Counters by name, and the other series of a circuit. Gauges may have other values. What a module says of itself goes
/// with it.
type Page = BTreeMap<String, u64>;

fn page(text: &str) -> Page {
    let ours = text.lines().filter(|line| line.contains("circuit_breaker_") && !line.contains("_info:"));
    let pairs = ours.filter_map(|line| line.split_once(": "));
    let value = |name: &str, value: &str| if name.ends_with("_total") { value.parse().unwrap() } else { 0 };
    pairs.map(|(name, text)| (name.to_owned(), value(name, text))).collect()
}

/// What vanished between two pages, or went back.
fn lost(before: &Page, after: &Page) -> Vec<String> {
    let told = |(name, value): (&String, &u64)| match after.get(name) {
        Some(now) if now >= value => None,
        now => Some(format!("{name} was {value} and is {now:?}")),
    };
    before.iter().filter_map(told).collect()
}

/// Reads all metrics as fast as it can.
async fn read_on(scenario: &Scenario, ended: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut pages, mut all, mut last) = (0, Vec::new(), Page::new());
    while !ended.load(Ordering::Relaxed) {
        let text = client::get(scenario.envoy.admin(), "/stats?filter=circuit_breaker_").await.unwrap().text();
        let next = page(&text);
        all.extend(lost(&last, &next));
        (pages, last) = (pages + 1, next);
    }
    (pages, all)
}

async fn vms(scenario: &Scenario) -> u64 {
    let stats = scenario.envoy.stats().await.unwrap();
    stats.get("wasm.envoy.wasm.runtime.v8.active").copied().unwrap_or_default()
}

async fn replace(scenario: &Scenario, ended: &AtomicBool) {
    let directory = tempfile::tempdir().unwrap();
    let before = vms(scenario).await;
    for version in 0..VERSIONS {
        let module = module_of_another_version(directory.path(), version).unwrap();
        let delivery = scenario.envoy.replace_module(LISTENER, &module, "{}").await.unwrap();
        assert_eq!(delivery, Delivery::Taken);
        until("the old VMs to be gone", || vms(scenario), |vms| *vms == before).await;
    }
    // Half a second is the longest time to a tick: by then each VM has ticked.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    ended.store(true, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_counted_is_lost_with_the_old_one() {
    let config = format!(
        r#"{{"default": {{"trip": {{"latencyPercentile": 99, "latencyThreshold": "10s"}}, "open": {{"baseDuration": "5m"}}}},
        "limits": {{"maxCircuits": {UPSTREAMS}}}}}"#
    );
    let scenario = Scenario::start_with(4, &config, |bootstrap| {
        let addresses = [0, 1].map(|upstream| bootstrap.clusters[upstream].address.unwrap());
        let address = |number| addresses[usize::from(number % 3 != 0)];
        bootstrap.clusters.extend((0..=UPSTREAMS).map(|number| Cluster::new(&name(number), address(number))));
        bootstrap.cluster_header = Some(HEADER);
    })
    .await;
    everything_counted(&scenario).await;
    let ended = Arc::new(AtomicBool::new(false));
    let ((pages, lost), ()) = tokio::join!(read_on(&scenario, Arc::clone(&ended)), replace(&scenario, &ended));
    let few: Vec<&String> = lost.iter().take(10).collect();
    assert!(lost.is_empty(), "{} series went back or vanished between two of {pages} pages: {few:#?}", lost.len());
}

/// Traps the VM of the only worker, and returns as soon as Envoy has made another.
async fn trap(scenario: &Scenario) {
    let to = scenario.envoy.address(LISTENER);
    let reloads = || async {
        let stats = scenario.envoy.stats().await.unwrap();
        stats.iter().filter(|(name, _)| name.ends_with("vm_reload_success")).map(|(_, value)| value).sum::<u64>()
    };
    let before = reloads().await;
    let reloaded = || async {
        let _ = grpc::call(to, "/grpc").await;
        let _ = client::get(to, "/other").await;
        reloads().await
    };
    until("a new VM after the trap", reloaded, |now| *now > before).await;
}

/// Who mends a module that traps gives a new one while VMs of the old one begin anew, again and again.
#[tokio::test]
async fn nothing_is_lost_where_a_vm_has_begun_anew_right_before() {
    let directory = tempfile::tempdir().unwrap();
    let faulty = module_that_traps(directory.path()).unwrap();
    let upstream = GrpcUpstream::start().await;
    let address = upstream.address();
    let scenario = Scenario::start_with(1, "{}", |bootstrap| {
        bootstrap.module = faulty.clone();
        bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("grpc", address) });
    })
    .await;
    scenario.trip().await;
    let vms_at_first = vms(&scenario).await;
    for version in 0..3 {
        trap(&scenario).await;
        let before = page(&client::get(scenario.envoy.admin(), "/stats?filter=circuit_breaker_").await.unwrap().text());
        let mended = module_of_another_version(directory.path(), version).unwrap();
        assert_eq!(scenario.envoy.replace_module(LISTENER, &mended, "{}").await.unwrap(), Delivery::Taken);
        until("the old VMs to be gone", || vms(&scenario), |vms| *vms == vms_at_first).await;
        let after = page(&client::get(scenario.envoy.admin(), "/stats?filter=circuit_breaker_").await.unwrap().text());
        assert_eq!(lost(&before, &after), Vec::<String>::new(), "round {version}");
        assert_eq!(scenario.envoy.replace_module(LISTENER, &faulty, "{}").await.unwrap(), Delivery::Taken);
        until("the mended VMs to be gone", || vms(&scenario), |vms| *vms == vms_at_first).await;
    }
}
