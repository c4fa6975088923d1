//! What an operator does to a running breaker, and what happens to it: modes, new configurations, bad ones, traps.

use circuit_breaker_integration::bootstrap::{Bootstrap, Cluster};
use circuit_breaker_integration::envoy::{Delivery, module};
use circuit_breaker_integration::faulty::module_that_traps;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::grpc::{self, GrpcUpstream};
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use serde_json::json;

for_one_and_four_workers!(
    observe_rejects_nothing_and_counts_what_it_would_have,
    force_open_rejects_everything_until_it_is_lifted,
    a_new_configuration_keeps_an_open_circuit_open,
    modes_are_switched_live_for_one_upstream_and_its_history_stays,
    a_bad_configuration_is_refused_by_name_and_the_old_one_serves_on,
    an_update_that_envoy_takes_back_leaves_the_old_configuration_at_work,
    an_update_that_envoy_takes_back_has_not_acted,
    without_metrics_all_pass_and_it_is_said,
    without_expressions_requests_are_looked_at_property_by_property,
    policies_are_found_by_istios_cluster_names,
    state_survives_a_trap,
    a_probe_lost_in_a_trap_gives_its_slot_back,
);

async fn observe_rejects_nothing_and_counts_what_it_would_have(workers: u32) {
    let scenario = Scenario::start(workers, r#"{"default": {"mode": "observe"}}"#).await;
    scenario.sick.behave(Behaviour::Status(500));
    let replies = scenario.get_times("/sick", 25).await;
    assert!(replies.iter().all(|reply| reply.status == 500 && !reply.is_rejection()));
    assert_eq!(scenario.sick.seen(), 25);
    assert_eq!(scenario.state("sick").await, Some(State::Open));
    assert_eq!(scenario.metric("circuit_breaker_would_reject_total", "sick", "open").await, 20);
    assert_eq!(scenario.metric("circuit_breaker_rejected_total", "sick", "open").await, 0);
    let trip = scenario.until_transition("consecutive").await;
    assert_eq!(trip["mode"], "observe");
}

async fn force_open_rejects_everything_until_it_is_lifted(workers: u32) {
    let forced = r#"{"default": {}, "upstreams": [{"match": {"cluster": "sick"}, "mode": "forceOpen"}]}"#;
    let scenario = Scenario::start(workers, forced).await;
    for reply in scenario.get_at_once("/sick", 16).await {
        assert_eq!((reply.status, reply.header("x-circuit-breaker")), (503, "forced-open"));
    }
    assert_eq!(scenario.get("/other").await.status, 200);
    assert_eq!(scenario.sick.seen(), 0);
    assert_eq!(scenario.metric("circuit_breaker_rejected_total", "sick", "forced").await, 16);
    assert_eq!(scenario.configure(r#"{"default": {"halfOpen": {"ramp": {"duration": "0s"}}}}"#).await, Delivery::Taken);
    for _ in 0..3 {
        until("a probe to pass", || scenario.get("/sick"), |reply| reply.status == 200).await;
    }
    scenario.until_state("sick", State::Closed).await;
}

async fn a_new_configuration_keeps_an_open_circuit_open(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.trip().await;
    let seen = scenario.sick.seen();
    let calls = scenario.metric("circuit_breaker_calls_total", "sick", "failure").await;
    let new = r#"{"default": {"trip": {"consecutiveFailures": 2}, "rejection": {"body": "new"}}}"#;
    assert_eq!(scenario.configure(new).await, Delivery::Taken);
    let replies = scenario.get_at_once("/sick", 32).await;
    assert!(replies.iter().all(|reply| reply.is_rejection()));
    until("the new reply on every worker", || scenario.get("/sick"), |reply| reply.text() == "new").await;
    assert_eq!(scenario.sick.seen(), seen);
    assert_eq!(scenario.reasons(), ["consecutive"]);
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, calls, "counters live on");
}

async fn modes_are_switched_live_for_one_upstream_and_its_history_stays(workers: u32) {
    let mode = |mode: &str| {
        format!(
            r#"{{"default": {{"trip": {{"window": {{"duration": "60s"}}}}}}, "upstreams": [{{"match": {{"cluster": "sick"}}, "mode": "{mode}"}}]}}"#
        )
    };
    let switch = async |scenario: &Scenario, to: &str| {
        assert_eq!(scenario.configure(&mode(to)).await, Delivery::Taken, "{to}");
    };
    let scenario = Scenario::start(workers, &mode("enforce")).await;
    scenario.sick.behave(Behaviour::Status(500));
    scenario.get_times("/sick", 4).await;
    switch(&scenario, "disabled").await;
    until(
        "nothing to be counted",
        || async {
            let before = scenario.metric("circuit_breaker_calls_total", "sick", "failure").await;
            scenario.sick.behave(Behaviour::Status(200));
            scenario.get_times("/sick", 4).await;
            (before, scenario.metric("circuit_breaker_calls_total", "sick", "success").await)
        },
        |seen| *seen == (4, 0),
    )
    .await;
    scenario.sick.behave(Behaviour::Status(500));
    switch(&scenario, "observe").await;
    until(
        "the streak to go on where it was",
        || async {
            scenario.get("/sick").await;
            scenario.state("sick").await
        },
        |state| *state == Some(State::Open),
    )
    .await;
    assert_eq!(scenario.until_transition("consecutive").await["streak"], 5);
    let would = || scenario.metric("circuit_breaker_would_reject_total", "sick", "open");
    let before = would().await;
    assert!(!scenario.get("/sick").await.is_rejection());
    assert_eq!(would().await, before + 1);
    switch(&scenario, "enforce").await;
    until("the OPEN circuit to be enforced", || scenario.get("/sick"), |reply| reply.is_rejection()).await;
    switch(&scenario, "disabled").await;
    until("everything to pass", || scenario.get("/sick"), |reply| reply.status == 500).await;
    switch(&scenario, "enforce").await;
    until("the circuit still to be OPEN", || scenario.get("/sick"), |reply| reply.is_rejection()).await;
    assert_eq!(scenario.reasons(), ["consecutive"]);
    assert_eq!(scenario.get("/other").await.status, 200);
}

async fn policies_are_found_by_istios_cluster_names(workers: u32) {
    let name = "outbound|8443|v2|api.payments.svc.cluster.local";
    let config = r#"{"default": {"trip": {"consecutiveFailures": 9}}, "upstreams": [
        {"match": {"host": "*.svc.cluster.local"}, "trip": {"consecutiveFailures": 7}},
        {"match": {"host": "api.payments.svc.cluster.local", "port": 8443, "subset": "v2"}, "trip": {"consecutiveFailures": 2}},
        {"match": {"host": "api.payments.svc.cluster.local"}, "trip": {"consecutiveFailures": 5}},
        {"match": {"cluster": "sick"}, "trip": {"consecutiveFailures": 3}}]}"#;
    let scenario = Scenario::start_with(workers, config, |bootstrap| {
        let address = bootstrap.clusters[0].address.unwrap();
        bootstrap.clusters.push(Cluster::new(name, address));
        bootstrap.routes.push(serde_json::json!({"match": {"prefix": "/payments"}, "route": {"cluster": name}}));
    })
    .await;
    scenario.sick.behave(Behaviour::Status(500));
    for (path, upstream, failures) in [("/payments", name, 2), ("/sick", "sick", 3)] {
        let replies = scenario.get_times(path, 10).await;
        assert_eq!(replies.iter().filter(|reply| !reply.is_rejection()).count(), failures, "{path}");
        scenario.until_state(upstream, State::Open).await;
    }
    let labels = format!(r#"tag="{name}""#);
    assert!(scenario.envoy.prometheus().await.unwrap().lines().any(|line| line.contains(&labels)));
}

fn nested(depth: usize) -> String {
    [r#"{"default":"#.repeat(depth), "1".to_owned(), "}".repeat(depth)].concat()
}

async fn a_bad_configuration_is_refused_by_name_and_the_old_one_serves_on(workers: u32) {
    let scenario = Scenario::start(workers, r#"{"default": {"trip": {"consecutiveFailures": 3}}}"#).await;
    // As deep as the parser goes, and deeper: the stack of a VM is small.
    let (nested, endless) = (nested(120), nested(100_000));
    // Envoy's main thread reads it. A search through all keys for each key took 26 s.
    let many: Vec<String> = (0..100_000).map(|number| format!(r#""k{number}": 1"#)).collect();
    let many = format!("{{{}}}", many.join(","));
    for (bad, message) in [
        (&*nested, "unknown field"),
        (&*endless, "recursion limit"),
        (&*many, "refused: k0: unknown field"),
        (r#"{"\u001b[2J\n": 1}"#, r#"refused: "\u001b[2J\u000a": unknown field"#),
        (r#"{"default": {"rejection": {"status": 204}}}"#, "default.rejection.status: 204 is not allowed"),
        (r#"{"default": {"trip": {"consecutiveFailure": 5}}}"#, "default.trip.consecutiveFailure"),
        (r#"{"default": {"open": {"baseDuration": "30"}}}"#, "default.open.baseDuration"),
        ("not JSON", "not a JSON document"),
    ] {
        assert_eq!(scenario.configure(bad).await, Delivery::Refused, "{bad}");
        let log = scenario.envoy.log();
        let refused = log.lines().rfind(|line| line.contains("circuit_breaker config refused"));
        assert!(refused.is_some_and(|line| line.contains(message)), "{refused:?}");
    }
    scenario.until_metric("circuit_breaker_internal_errors_total", "", "config", 8).await;
    scenario.sick.behave(Behaviour::Status(500));
    let replies = scenario.get_times("/sick", 4).await;
    let rejected: Vec<bool> = replies.iter().map(|reply| reply.is_rejection()).collect();
    assert_eq!(rejected, [false, false, false, true], "the old configuration serves");
    assert_eq!(
        scenario.configure(r#"{"default": {"mode": "disabled"}}"#).await,
        Delivery::Taken,
        "a good one is taken"
    );
    until("the new mode", || scenario.get("/sick"), |reply| !reply.is_rejection()).await;
}

/// Envoy gives the breaker's part of a listener to every worker before it finds that another part is bad.
async fn an_update_that_envoy_takes_back_leaves_the_old_configuration_at_work(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "1s", "jitterPercent": 0}, "halfOpen": {"ramp": {"duration": "0s"}}}}"#;
    let scenario = Scenario::start_with(workers, config, |bootstrap| bootstrap.inline = true).await;
    scenario.get("/sick").await;
    let update = scenario.envoy.relist(|bootstrap| {
        bootstrap.listeners[0].filter = Some(r#"{"default": {"mode": "observe"}}"#.to_owned());
        let bad = bootstrap.filter_document(LISTENER, r#"{"no such field": 1}"#);
        bootstrap.filters_after = vec![json!({"name": "bad", "typed_config": bad["resources"][0]["typed_config"]})];
    });
    assert_eq!(update.await.unwrap(), Delivery::Refused);
    scenario.trip().await;
    assert!(scenario.get("/sick").await.is_rejection());
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_half_open().await;
    for _ in 0..3 {
        until("a probe to pass", || scenario.get("/sick"), |reply| reply.status == 200).await;
    }
    scenario.until_state("sick", State::Closed).await;
}

async fn an_update_that_envoy_takes_back_has_not_acted(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| bootstrap.inline = true).await;
    assert_eq!(scenario.get("/sick").await.status, 200);
    for _ in 0..5 {
        let update = scenario.envoy.relist(|bootstrap| {
            bootstrap.listeners[0].filter = Some(r#"{"default": {"mode": "forceOpen"}}"#.to_owned());
            let bad = bootstrap.filter_document(LISTENER, r#"{"no such field": 1}"#);
            bootstrap.filters_after = vec![json!({"name": "bad", "typed_config": bad["resources"][0]["typed_config"]})];
        });
        assert_eq!(update.await.unwrap(), Delivery::Refused);
        assert!(scenario.get_times("/sick", 20).await.iter().all(|reply| reply.status == 200));
    }
    assert!(scenario.reasons().is_empty(), "{:?}", scenario.reasons());
}

async fn without_metrics_all_pass_and_it_is_said(workers: u32) {
    for excluded in ["wasmcustom", "wasmcustom.wasm_filter.circuit_breaker.component.streak"] {
        let exclude = |bootstrap: &mut Bootstrap| bootstrap.excluded_stats = Some(excluded.to_owned());
        let scenario = Scenario::start_with(workers, "", exclude).await;
        scenario.sick.behave(Behaviour::Status(500));
        let replies = scenario.get_times("/sick", 30).await;
        assert!(replies.iter().all(|reply| reply.status == 500 && !reply.is_rejection()), "{excluded}");
        scenario.sick.behave(Behaviour::Status(200));
        assert!(scenario.get_at_once("/sick", 32).await.iter().all(|reply| reply.status == 200), "{excluded}");
        assert_eq!(scenario.envoy.log().matches("circuit_breaker is off").count(), 1, "said once a proxy");
    }
}

/// The module on a host without Envoy's expressions.
fn module_without_expressions(directory: &std::path::Path) -> std::path::PathBuf {
    let mut bytes = std::fs::read(module()).unwrap();
    let (name, absent) = (b"expr_create", b"expr_absent");
    let at = bytes.windows(name.len()).position(|window| window == name).expect("the module asks for expressions");
    bytes[at..at + absent.len()].copy_from_slice(absent);
    let path = directory.join("plain.wasm");
    std::fs::write(&path, bytes).unwrap();
    path
}

async fn without_expressions_requests_are_looked_at_property_by_property(workers: u32) {
    let directory = tempfile::tempdir().unwrap();
    let plain = module_without_expressions(directory.path());
    let scenario = Scenario::start_with(workers, "", |bootstrap| bootstrap.module = plain).await;
    scenario.get_times("/sick", 3).await;
    scenario.get_times("/other", 2).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "success").await, 3);
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "other", "success").await, 2);
    scenario.trip().await;
    assert!(scenario.get("/sick").await.is_rejection());
}

/// A scenario whose VMs trap when `/grpc` is called.
async fn fragile(workers: u32, config: &str) -> (Scenario, GrpcUpstream, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let upstream = GrpcUpstream::start().await;
    let address = upstream.address();
    let faulty = module_that_traps(directory.path()).unwrap();
    let scenario = Scenario::start_with(workers, config, |bootstrap| {
        bootstrap.module = faulty;
        bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("grpc", address) });
    })
    .await;
    (scenario, upstream, directory)
}

/// Traps VMs until Envoy has made so many new ones.
async fn trap(scenario: &Scenario, reloads: u64) {
    let to = scenario.envoy.address(LISTENER);
    let reloaded = || async {
        // Each call may meet any worker. A trapped worker does not answer, or answers 503 until its new VM may be
        // made.
        let _ = grpc::call(to, "/grpc").await;
        let _ = circuit_breaker_integration::client::get(to, "/other").await;
        let stats = scenario.envoy.stats().await.unwrap();
        stats.iter().filter(|(name, _)| name.ends_with("vm_reload_success")).map(|(_, value)| value).sum::<u64>()
    };
    until("VMs to be made anew after their traps", reloaded, |seen| *seen >= reloads).await;
}

async fn state_survives_a_trap(workers: u32) {
    let (scenario, _upstream, _directory) = fragile(workers, "").await;
    scenario.trip().await;
    let seen = scenario.sick.seen();
    trap(&scenario, u64::from(workers) * 2).await;
    for _ in 0..16 {
        let reply = until("a VM to answer", || scenario.get("/sick"), |reply| reply.is_rejection()).await;
        assert_eq!(reply.header("x-circuit-breaker"), "open");
    }
    assert_eq!(scenario.sick.seen(), seen);
    assert_eq!(scenario.state("sick").await, Some(State::Open));
    assert_eq!(scenario.reasons().iter().filter(|reason| *reason == "consecutive").count(), 1);
}

async fn a_probe_lost_in_a_trap_gives_its_slot_back(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "300ms", "jitterPercent": 0},
        "halfOpen": {"probeTimeout": "1s", "successThreshold": 1}}}"#;
    let (scenario, _upstream, _directory) = fragile(workers, config).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Hang);
    scenario.until_half_open().await;
    let lost = scenario.begin("/sick");
    scenario.until_in_flight(1).await;
    trap(&scenario, u64::from(workers)).await;
    scenario.sick.behave(Behaviour::Status(200));
    until("the slot to come back", || scenario.get("/sick"), |reply| reply.status == 200).await;
    scenario.until_transition("probes_succeeded").await;
    lost.abort();
}

/// An answer's body costs no call of the module. A request's body costs one call for each piece, since the upstream's
/// time begins with its last byte.
#[test]
fn envoy_does_not_enter_the_module_for_an_answers_body() {
    let module = walrus::Module::from_file(module()).unwrap();
    let callbacks: Vec<&str> = module.exports.iter().map(|export| export.name.as_str()).collect();
    assert!(callbacks.contains(&"proxy_on_request_headers"), "{callbacks:?}");
    let bodies: Vec<&&str> = callbacks.iter().filter(|name| name.ends_with("_body")).collect();
    assert_eq!(bodies, [&"proxy_on_request_body"], "{callbacks:?}");
}
