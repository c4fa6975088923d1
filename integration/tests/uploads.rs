//! Whose time it is in a real Envoy: an upload takes the client's time, and no client decides about a probe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use circuit_breaker_integration::client::Upload;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use serde_json::json;
use tokio::task::JoinSet;

for_one_and_four_workers!(
    a_slow_upload_that_is_answered_at_once_is_a_success,
    slow_uploads_alone_close_a_circuit,
    clients_that_stall_in_their_bodies_say_nothing_about_the_upstream,
    a_complete_request_that_idles_is_a_timeout,
    a_complete_upload_that_nobody_answers_is_hung,
    a_client_that_leaves_in_its_upload_says_nothing,
    clients_that_stall_keep_no_circuit_from_closing,
    of_many_uploads_no_more_are_sent_whole_than_there_are_probes,
);

const IMPATIENT: &str = r#"{"default": {"trip": {"slowCallDuration": "500ms"}}}"#;

/// An upload that takes this long, and the status line of its answer.
async fn upload(scenario: &Scenario, chunked: bool, time: Duration) -> String {
    let mut upload = Upload::begin(scenario.envoy.address(LISTENER), "/sick", chunked).await.unwrap();
    tokio::time::sleep(time).await;
    // An answer that came early has closed the connection.
    let _ = upload.finish().await;
    upload.answer().await.lines().next().unwrap_or_default().to_owned()
}

async fn a_slow_upload_that_is_answered_at_once_is_a_success(workers: u32) {
    let scenario = Scenario::start(workers, IMPATIENT).await;
    let time = Duration::from_millis(1500);
    for _ in 0..2 {
        let (a, b, c, d) = tokio::join!(
            upload(&scenario, false, time),
            upload(&scenario, true, time),
            upload(&scenario, false, time),
            upload(&scenario, true, time),
        );
        assert!([a, b, c, d].iter().all(|line| line.contains(" 200 ")));
    }
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 8).await;
    assert_eq!((scenario.counts("sick").await, scenario.state("sick").await), ([8, 0, 0, 0], Some(State::Closed)));
}

async fn slow_uploads_alone_close_a_circuit(workers: u32) {
    let config = r#"{"default": {"trip": {"slowCallDuration": "500ms"}, "open": {"baseDuration": "300ms", "jitterPercent": 0},
        "halfOpen": {"probeTimeout": "500ms", "successThreshold": 2, "ramp": {"duration": "0s"}}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_half_open().await;
    for _ in 0..2 {
        assert!(upload(&scenario, true, Duration::from_millis(1500)).await.contains(" 200 "));
    }
    scenario.until_state("sick", State::Closed).await;
    assert_eq!(scenario.reasons(), ["consecutive", "open_over", "probes_succeeded"]);
}

async fn clients_that_stall_in_their_bodies_say_nothing_about_the_upstream(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.connection_manager = json!({"stream_idle_timeout": "0.3s"});
    })
    .await;
    for _ in 0..6 {
        let mut stalled = Upload::begin(scenario.envoy.address(LISTENER), "/sick", false).await.unwrap();
        assert!(stalled.answer().await.starts_with("HTTP/1.1 408"));
    }
    scenario.until_metric("circuit_breaker_calls_total", "sick", "neutral", 6).await;
    assert_eq!((scenario.counts("sick").await, scenario.state("sick").await), ([0, 0, 0, 6], Some(State::Closed)));
}

async fn a_complete_request_that_idles_is_a_timeout(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.connection_manager = json!({"stream_idle_timeout": "0.3s"});
    })
    .await;
    scenario.sick.behave(Behaviour::Hang);
    for turn in 0..5 {
        let line = upload(&scenario, turn % 2 == 0, Duration::ZERO).await;
        assert!(line.contains(" 504 "), "{line}");
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "timeout").await, 5);
}

async fn a_complete_upload_that_nobody_answers_is_hung(workers: u32) {
    let scenario = Scenario::start(workers, IMPATIENT).await;
    scenario.sick.behave(Behaviour::Hang);
    let mut uploads = Vec::new();
    for turn in 0..5 {
        let mut upload = Upload::begin(scenario.envoy.address(LISTENER), "/sick", turn % 2 == 0).await.unwrap();
        upload.finish().await.unwrap();
        uploads.push(upload);
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.reasons(), ["consecutive"]);
    assert_eq!(scenario.counts("sick").await[2], 5);
}

async fn a_client_that_leaves_in_its_upload_says_nothing(workers: u32) {
    let config = r#"{"default": {"failure": {"clientCancel": "500ms"}, "trip": {"slowCallDuration": "500ms"}}}"#;
    let scenario = Scenario::start(workers, config).await;
    for _ in 0..6 {
        let stalled = Upload::begin(scenario.envoy.address(LISTENER), "/sick", true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(stalled);
    }
    scenario.until_metric("circuit_breaker_calls_total", "sick", "neutral", 6).await;
    assert_eq!((scenario.counts("sick").await, scenario.state("sick").await), ([0, 0, 0, 6], Some(State::Closed)));
}

/// Half-sent requests, one after the other on each of so many connections. As soon as one is answered or closed, the
/// next one begins.
fn stall(scenario: &Scenario, connections: usize, stop: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    let to = scenario.envoy.address(LISTENER);
    for turn in 0..connections {
        let stop = Arc::clone(stop);
        attackers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                if let Ok(mut upload) = Upload::begin(to, "/sick", turn % 2 == 0).await {
                    let _ = tokio::time::timeout(Duration::from_secs(60), upload.answer()).await;
                }
            }
        });
    }
    attackers
}

async fn clients_that_stall_keep_no_circuit_from_closing(workers: u32) {
    let config = r#"{"default": {"trip": {"slowCallDuration": "1s"}, "open": {"baseDuration": "300ms", "jitterPercent": 0},
        "halfOpen": {"probeTimeout": "1s", "successThreshold": 3, "ramp": {"duration": "1s"}}}}"#;
    for (connections, posts) in [(2, false), (8, false), (8, true)] {
        let scenario = Scenario::start(workers, config).await;
        scenario.trip().await;
        scenario.sick.behave(Behaviour::Status(200));
        let stop = Arc::new(AtomicBool::new(false));
        let mut attackers = stall(&scenario, connections, &stop);
        let mut honest = 0;
        while scenario.state("sick").await != Some(State::Closed) {
            assert!(honest < 400, "{connections} connections keep it open: {:?}", scenario.reasons());
            if posts {
                upload(&scenario, honest % 2 == 0, Duration::ZERO).await;
            } else {
                scenario.get("/sick").await;
            }
            honest += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.store(true, Ordering::SeqCst);
        attackers.abort_all();
        while attackers.join_next().await.is_some() {}
        let reasons = scenario.reasons();
        assert!(!reasons.iter().any(|reason| reason == "probe_failed" || reason == "ramp_failed"), "{reasons:?}");
    }
}

async fn of_many_uploads_no_more_are_sent_whole_than_there_are_probes(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "300ms", "jitterPercent": 0}, "halfOpen": {"successThreshold": 100}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.trip().await;
    scenario.until_half_open().await;
    scenario.sick.behave(Behaviour::Gate(200));
    scenario.sick.forget_peak();
    let to = scenario.envoy.address(LISTENER);
    let mut clients = JoinSet::new();
    for turn in 0..6 {
        // The requests hold the slot on trial one after the other, and all are complete at about the same time.
        let begun = Duration::from_millis(400 * turn);
        clients.spawn(async move {
            tokio::time::sleep(begun).await;
            let mut upload = Upload::begin(to, "/sick", turn % 2 == 0).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3000) - begun).await;
            let _ = upload.finish().await;
            upload.answer().await
        });
    }
    for _ in 0..5 {
        let answer = clients.join_next().await.unwrap().unwrap();
        assert!(answer.contains("x-circuit-breaker: half-open"), "{answer}");
    }
    scenario.until_in_flight(1).await;
    assert_eq!(scenario.sick.peak(), 1);
    scenario.sick.release(1);
    assert!(clients.join_next().await.unwrap().unwrap().starts_with("HTTP/1.1 200"));
}
