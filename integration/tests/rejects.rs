//! OPEN in a real Envoy: the reply, the access log, the metrics, and that no request reaches the upstream.

use circuit_breaker_integration::client;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{AT_ONCE, LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;

for_one_and_four_workers!(
    a_rejection_is_the_reply_of_the_contract,
    every_method_is_rejected_alike,
    the_reply_is_what_the_configuration_says,
    an_open_circuit_sends_the_upstream_nothing_and_answers_at_once,
    rejections_are_no_calls,
    open_ends_by_itself_and_the_metrics_tell,
    prometheus_sees_labels_as_on_stock_istio,
);

async fn a_rejection_is_the_reply_of_the_contract(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.trip().await;
    let reply = scenario.get("/sick").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("x-circuit-breaker"), "open");
    assert_eq!(reply.header("content-type"), "text/plain");
    assert_eq!(reply.text(), "upstream circuit is open\n");
    let retry_after: u64 = reply.header("retry-after").parse().unwrap();
    assert!((29..=36).contains(&retry_after), "what is left of 30 s and at most 20 % of jitter: {retry_after}");
    let log = scenario.envoy.access_log(6).await;
    let rejected = log.iter().filter(|line| line["details"] == "circuit_breaker_open{open}").count();
    let sent = log.iter().filter(|line| line["details"] == "via_upstream").count();
    assert_eq!((sent, rejected), (5, log.len() - 5));
    assert!(rejected >= 1);
}

async fn every_method_is_rejected_alike(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.trip().await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        let reply = client::request(scenario.envoy.address(LISTENER), method, "/sick", &[]).await.unwrap();
        assert_eq!((reply.status, reply.header("x-circuit-breaker")), (503, "open"), "{method}");
        assert_eq!(reply.body.is_empty(), method == "HEAD");
    }
    assert_eq!(scenario.sick.seen(), 5);
}

async fn the_reply_is_what_the_configuration_says(workers: u32) {
    let config = r#"{"default": {"rejection": {"status": 429, "body": "{\"busy\":true}", "contentType": "application/json",
        "headers": {"x-team": "payments"}, "retryAfter": false}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.trip().await;
    let reply = scenario.get("/sick").await;
    assert_eq!((reply.status, reply.text().as_str()), (429, "{\"busy\":true}"));
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("x-team"), "payments");
    assert_eq!(reply.header("retry-after"), "");
}

async fn an_open_circuit_sends_the_upstream_nothing_and_answers_at_once(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Hang);
    let before = scenario.sick.seen();
    let replies = scenario.get_at_once("/sick", 200).await;
    assert!(replies.iter().all(|reply| reply.is_rejection() && reply.elapsed < AT_ONCE));
    assert_eq!(scenario.sick.seen(), before);
    assert_eq!(scenario.metric("circuit_breaker_rejected_total", "sick", "open").await, 200);
}

async fn rejections_are_no_calls(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.trip().await;
    scenario.get_times("/sick", 50).await;
    for (component, calls) in [("failure", 5), ("success", 0), ("neutral", 0)] {
        assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", component).await, calls, "{component}");
    }
    assert_eq!(scenario.reasons(), ["consecutive"]);
}

async fn open_ends_by_itself_and_the_metrics_tell(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "1s", "jitterPercent": 0}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.trip().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let until = scenario.metric("circuit_breaker_open_until_seconds", "sick", "").await;
    assert!((now..=now + 2).contains(&until), "{until} at {now}");
    scenario.until_state("sick", State::HalfOpen).await;
    assert_eq!(scenario.metric("circuit_breaker_open_until_seconds", "sick", "").await, 0);
    assert_eq!(scenario.sick.seen(), 5, "nobody asked, so nothing was sent");
}

async fn prometheus_sees_labels_as_on_stock_istio(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.trip().await;
    let text = scenario.envoy.prometheus().await.unwrap();
    for line in [
        r#"circuit_breaker_state{tag="sick",wasm_filter="circuit_breaker"} 2"#,
        r#"circuit_breaker_calls_total{component="failure",tag="sick",wasm_filter="circuit_breaker"} 5"#,
        r#"circuit_breaker_trips_total{component="consecutive",tag="sick",wasm_filter="circuit_breaker"} 1"#,
        r#"circuit_breaker_circuits{wasm_filter="circuit_breaker"} 1"#,
    ] {
        let wanted = sorted_labels(line);
        assert!(text.lines().any(|seen| sorted_labels(seen) == wanted), "no line {line} in\n{text}");
    }
}

/// A sample with its labels in order: Prometheus gives them no order.
fn sorted_labels(line: &str) -> String {
    let Some((name, (labels, value))) =
        line.split_once('{').and_then(|(name, rest)| Some((name, rest.split_once('}')?)))
    else {
        return line.to_owned();
    };
    let mut labels: Vec<&str> = labels.split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}{value}", labels.join(","))
}
