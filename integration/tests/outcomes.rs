//! What counts as a failure in a real Envoy, as the policy's `failure` says it.

use circuit_breaker_integration::client;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;

for_one_and_four_workers!(
    listed_statuses_fail_and_others_do_not,
    too_many_requests_is_nothing_in_closed_and_fails_a_probe,
    attempts_that_retries_hid_count_where_the_policy_says_so,
    clients_that_leave_count_where_the_policy_says_so,
    an_overflowing_pool_counts_where_the_policy_says_so,
    faults_that_another_filter_injects_are_neutral,
    a_stream_counts_as_good_while_it_lives,
    a_long_download_counts_once_however_it_ends,
    requests_that_envoy_never_logs_are_settled_when_it_deletes_them,
    exempt_paths_are_neither_counted_nor_rejected,
    an_upstream_can_ask_for_a_longer_open_time,
);

async fn listed_statuses_fail_and_others_do_not(workers: u32) {
    let config = r#"{"default": {"failure": {"httpStatus": [418, "500-502"]}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.sick.behave(Behaviour::Status(503));
    assert!(scenario.get_times("/sick", 10).await.iter().all(|reply| !reply.is_rejection()));
    scenario.sick.behave(Behaviour::Status(418));
    scenario.get_times("/sick", 3).await;
    scenario.sick.behave(Behaviour::Status(502));
    scenario.get_times("/sick", 2).await;
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "success").await, 10);
}

async fn too_many_requests_is_nothing_in_closed_and_fails_a_probe(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "300ms", "multiplier": 10, "jitterPercent": 0}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.sick.behave(Behaviour::Status(429));
    scenario.get_times("/sick", 30).await;
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "neutral").await, 30);
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Status(429));
    scenario.until_half_open().await;
    assert_eq!(scenario.get("/sick").await.status, 429);
    scenario.until_transition("probe_failed").await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "rate_limited").await, 1);
}

async fn attempts_that_retries_hid_count_where_the_policy_says_so(workers: u32) {
    for (attempts, failures) in [("final", 0), ("all", 8)] {
        let config = format!(
            r#"{{"default": {{"failure": {{"attempts": "{attempts}"}}, "trip": {{"failureRatePercent": 0}}}}}}"#
        );
        let scenario = Scenario::start_with(workers, &config, |bootstrap| bootstrap.clusters[0].retries = 3).await;
        scenario.sick.behave(Behaviour::FailingFirst(2, 3));
        assert!(scenario.get_times("/sick", 4).await.iter().all(|reply| reply.status == 200));
        assert_eq!(scenario.sick.seen(), 12);
        assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, failures, "{attempts}");
        assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "success").await, 4);
    }
}

async fn clients_that_leave_count_where_the_policy_says_so(workers: u32) {
    let scenario = Scenario::start(workers, r#"{"default": {"failure": {"clientCancel": "failure"}}}"#).await;
    scenario.sick.behave(Behaviour::Hang);
    for _ in 0..5 {
        let request = scenario.begin("/sick");
        scenario.until_in_flight(1).await;
        request.abort();
        scenario.until_in_flight(0).await;
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "client_cancel").await, 5);
}

async fn an_overflowing_pool_counts_where_the_policy_says_so(workers: u32) {
    for (errors, trips) in [(r#"["connect"]"#, false), (r#"["overflow"]"#, true)] {
        let config = format!(r#"{{"default": {{"failure": {{"upstreamErrors": {errors}}}}}}}"#);
        let scenario = Scenario::start_with(workers, &config, |bootstrap| bootstrap.clusters[0].max_requests = 1).await;
        scenario.sick.behave(Behaviour::Hang);
        let held = scenario.begin("/sick");
        scenario.until_in_flight(1).await;
        for reply in scenario.get_times("/sick", 5).await {
            assert_eq!((reply.status, reply.header("x-envoy-overloaded")), (503, "true"));
        }
        assert_eq!(scenario.get("/sick").await.is_rejection(), trips, "{errors}");
        held.abort();
    }
}

async fn faults_that_another_filter_injects_are_neutral(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    let to = scenario.envoy.address(LISTENER);
    for _ in 0..10 {
        let reply = client::request(to, "GET", "/sick", &[("x-envoy-fault-abort-request", "503")]).await.unwrap();
        assert!(reply.status == 503 && !reply.is_rejection());
    }
    assert_eq!(scenario.sick.seen(), 0);
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "neutral").await, 10);
    assert_eq!(scenario.state("sick").await, Some(State::Closed));
}

async fn exempt_paths_are_neither_counted_nor_rejected(workers: u32) {
    let config = r#"{"exempt": {"paths": ["/sick/healthz", "/sick/ready/*"]}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.sick.behave(Behaviour::Status(500));
    for path in ["/sick/healthz", "/sick/healthz?deep=1", "/sick/ready/db"] {
        assert!(scenario.get_times(path, 5).await.iter().all(|reply| reply.status == 500 && !reply.is_rejection()));
    }
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, 0);
    scenario.trip().await;
    assert!(scenario.get("/sick/healthz/no").await.is_rejection());
    assert!(!scenario.get("/sick/healthz").await.is_rejection(), "OPEN, and the health check still gets through");
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "failure").await, 5);
}

async fn an_upstream_can_ask_for_a_longer_open_time(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "1s", "maxDuration": "1s", "jitterPercent": 0, "maxRetryAfter": "1m"}}}"#;
    // A date has whole seconds, and some time passes until the breaker reads it.
    for (asked, seconds, slack) in [("40", 40, 0), ("86400", 60, 0), ("soon", 1, 0), ("a date", 40, 5)] {
        let scenario = Scenario::start(workers, config).await;
        let in_40_s = || httpdate::fmt_http_date(std::time::SystemTime::now() + std::time::Duration::from_secs(40));
        let value = if asked == "a date" { in_40_s() } else { asked.to_owned() };
        scenario.sick.behave(Behaviour::With(503, "retry-after", value));
        scenario.get_times("/sick", 5).await;
        let trip = scenario.until_transition("consecutive").await;
        let open = trip["open_ms"].as_u64().unwrap();
        assert!((seconds * 1000 - 900 - slack * 1000..=seconds * 1000).contains(&open), "{asked}: {open} ms");
        let reply = scenario.get("/sick").await;
        let retry_after: u64 = reply.header("retry-after").parse().unwrap();
        assert!((seconds - 1 - slack..=seconds).contains(&retry_after), "{asked}: {retry_after}");
    }
}

async fn a_stream_counts_as_good_while_it_lives(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Endless);
    let streams: Vec<_> = (0..8).map(|_| scenario.begin("/sick")).collect();
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 8).await;
    assert!(streams.iter().all(|stream| !stream.is_finished()));
    streams.iter().for_each(tokio::task::JoinHandle::abort);
    scenario.until_in_flight(0).await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.get("/sick").await;
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 9).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "neutral").await, 0, "each counts once");
}

async fn a_long_download_counts_once_however_it_ends(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Download);
    let downloads: Vec<_> = (0..8).map(|_| scenario.begin("/sick")).collect();
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 8).await;
    scenario.sick.release(8);
    for download in downloads {
        let reply = download.await.unwrap().unwrap();
        assert_eq!((reply.text().as_str(), reply.whole), ("firstlast", true));
    }
    scenario.sick.behave(Behaviour::Status(200));
    scenario.get("/sick").await;
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 9).await;
}

/// The module as HTTP/3 sees it: its `on_log` is never called.
fn module_without_log(directory: &std::path::Path) -> std::path::PathBuf {
    let mut module = walrus::Module::from_file(circuit_breaker_integration::envoy::module()).unwrap();
    let on_log = module.exports.get_func("proxy_on_log").unwrap();
    module.replace_exported_func(on_log, |_| {}).unwrap();
    let path = directory.join("unlogged.wasm");
    module.emit_wasm_file(&path).unwrap();
    path
}

async fn requests_that_envoy_never_logs_are_settled_when_it_deletes_them(workers: u32) {
    let directory = tempfile::tempdir().unwrap();
    let unlogged = module_without_log(directory.path());
    let scenario = Scenario::start_with(workers, "", |bootstrap| bootstrap.module = unlogged).await;
    scenario.get_times("/sick", 3).await;
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 3).await;
    scenario.sick.behave(Behaviour::Status(500));
    scenario.get_times("/sick", 5).await;
    scenario.until_state("sick", State::Open).await;
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "http").await, 5);
}
