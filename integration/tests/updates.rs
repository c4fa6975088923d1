//! Updates of the configuration and of the module: none costs memory for good, and a module that cannot work is refused.

use circuit_breaker_core::config::Config;
use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::client;
use circuit_breaker_integration::envoy::{Delivery, module};
use circuit_breaker_integration::faulty::module_of_another_version;
use circuit_breaker_integration::scenario::{LISTENER, Scenario};
use circuit_breaker_integration::wait::until;

const UPSTREAMS: u64 = 300;

/// Updates after which everything is allocated that updates take only once.
const WARM: usize = 5;

/// Updates that may cost nothing. If each defined 4 workers' metrics of 300 circuits anew, that would be 2 MB.
const UPDATES: usize = 25;

/// Bytes that Envoy's allocator has given out.
async fn allocated(scenario: &Scenario) -> u64 {
    let memory = client::get(scenario.envoy.admin(), "/memory").await.unwrap().text();
    let memory: serde_json::Value = serde_json::from_str(&memory).unwrap();
    memory["allocated"].as_str().unwrap().parse().unwrap()
}

async fn update(scenario: &Scenario, times: usize) {
    for turn in 0..times {
        let config = format!(r#"{{"default": {{"rejection": {{"body": "{times} {turn}"}}}}}}"#);
        assert_eq!(scenario.configure(&config).await, Delivery::Taken);
        assert_eq!(scenario.get("/sick").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_costs_no_memory_for_good() {
    let names: Vec<String> = (0..UPSTREAMS).map(|number| format!("upstream-{number}")).collect();
    let scenario = Scenario::start_with(4, "", |bootstrap| {
        let address = bootstrap.clusters[1].address.unwrap();
        // With a slash at the end: the route of `/upstream-1` would take `/upstream-11` too.
        bootstrap.clusters.extend(names.iter().map(|name| Cluster::new(&format!("{name}/"), address)));
    })
    .await;
    for name in &names {
        assert_eq!(client::get(scenario.envoy.address(LISTENER), &format!("/{name}/")).await.unwrap().status, 200);
    }
    let held = || async { scenario.metric("circuit_breaker_circuits", "", "").await };
    until("all circuits to be held", held, |held| *held == UPSTREAMS).await;
    update(&scenario, WARM).await;
    let before = allocated(&scenario).await;
    update(&scenario, UPDATES).await;
    let more = allocated(&scenario).await.saturating_sub(before);
    assert!(more < 1 << 20, "{more} bytes more after {UPDATES} updates");
}

/// The series of what is in use, as Prometheus reads them: the labels `component` and `tag`, and the value.
async fn in_use(scenario: &Scenario) -> Vec<(String, String, u64)> {
    let page = scenario.envoy.prometheus().await.unwrap();
    let series = page.lines().filter(|line| line.starts_with("circuit_breaker_info{"));
    let label = |line: &str, name: &str| {
        line.split_once(&format!("{name}=\""))
            .and_then(|(_, rest)| rest.split('"').next())
            .unwrap_or_default()
            .to_owned()
    };
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut series: Vec<_> = series.map(|line| (label(line, "component"), label(line, "tag"), value(line))).collect();
    series.sort();
    series
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn module_and_policy_in_use_are_told() {
    const OBSERVE: &str = r#"{"default": {"mode": "observe"}}"#;
    let policy = |document: &str| format!("{:08x}", Config::parse(document.as_bytes()).unwrap().hash);
    let scenario = Scenario::start(4, "").await;
    let of = |all: &[(String, String, u64)], document: &str| {
        all.iter().find(|(hash, ..)| *hash == policy(document)).map(|(.., value)| *value)
    };
    let all = until("the policy to be told", || in_use(&scenario), |all| of(all, "") == Some(1)).await;
    let (_, module, _) = all.first().unwrap();
    let (version, hash) = module.split_once('-').unwrap();
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert!(hash.len() == 8 && hash != "00000000" && u32::from_str_radix(hash, 16).is_ok(), "{module}");
    assert_eq!(scenario.configure(OBSERVE).await, Delivery::Taken);
    let told = |all: &Vec<(String, String, u64)>| (of(all, ""), of(all, OBSERVE)) == (Some(0), Some(1));
    until("the new policy to be told in place of the old one", || in_use(&scenario), told).await;
    // Istio hands a policy on as a protobuf, which keeps neither order nor spaces.
    assert_eq!(scenario.configure(r#"{ "default": { "mode": "observe" } }"#).await, Delivery::Taken);
    until("the same policy to be in use", || in_use(&scenario), told).await;

    let directory = tempfile::tempdir().unwrap();
    let other = module_of_another_version(directory.path(), 9).unwrap();
    assert_eq!(scenario.envoy.replace_module(LISTENER, &other, OBSERVE).await.unwrap(), Delivery::Taken);
    let replaced =
        |all: &Vec<(String, String, u64)>| all.iter().all(|(_, own, _)| own != module) && of(all, OBSERVE) == Some(1);
    until("the new module to be told in place of the old one", || in_use(&scenario), replaced).await;
}

/// As the linker leaves it, the module has the SDK's callbacks: it would load, and do nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_without_the_last_step_of_its_build_is_refused_and_says_what_is_missing() {
    let scenario = Scenario::start(1, "").await;
    let linked = module().with_file_name("deps").join("circuit_breaker.wasm");
    let delivery = scenario.envoy.replace_module(LISTENER, &linked, "").await.unwrap();
    assert_eq!(delivery, Delivery::Refused, "{}", scenario.envoy.log());
    let log = scenario.envoy.log();
    assert!(log.contains("this circuit breaker is not finished, build it with `make build`"), "{log}");
    assert_eq!(scenario.get("/sick").await.status, 200, "the finished one goes on");
}
