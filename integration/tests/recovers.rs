//! HALF_OPEN in a real Envoy: leased probes over all workers, then a growing share, then CLOSED.

use std::time::{Duration, Instant};

use circuit_breaker_integration::client;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;

for_one_and_four_workers!(
    no_more_probes_than_allowed_are_out_at_any_time,
    a_failed_probe_reopens_for_longer,
    good_probes_without_a_ramp_close,
    a_hung_probe_does_not_wedge_the_circuit,
    a_client_that_cancels_a_probe_does_not_wedge_the_circuit,
    a_probe_that_another_filter_blocks_does_not_wedge_the_circuit,
    a_probe_that_another_filter_answers_well_proves_nothing,
    an_endless_answer_does_not_hold_the_only_probe_slot,
    a_probe_that_breaks_off_after_its_headers_has_failed,
    a_trip_is_forgotten_after_a_healthy_window_and_not_by_time_alone,
    the_ramp_follows_its_schedule_to_closed,
    a_failure_in_the_ramp_reopens,
);

fn half_open(settings: &str) -> String {
    format!(
        r#"{{"default": {{"open": {{"baseDuration": "300ms", "multiplier": 4, "jitterPercent": 0}}, "halfOpen": {settings}}}}}"#
    )
}

async fn no_more_probes_than_allowed_are_out_at_any_time(workers: u32) {
    let config = half_open(r#"{"maxConcurrentProbes": 3, "successThreshold": 100}"#);
    let scenario = Scenario::start(workers, &config).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Gate(200));
    scenario.until_half_open().await;
    scenario.sick.forget_peak();
    let mut rejected = 0;
    for round in 1..=3 {
        let requests: Vec<_> = (0..64).map(|_| scenario.begin("/sick")).collect();
        let look = || async {
            let limited = scenario.metric("circuit_breaker_rejected_total", "sick", "probe_limit").await;
            (scenario.sick.in_flight(), limited - rejected)
        };
        let (out, limited) = until("64 requests to be decided", look, |(out, limited)| out + limited == 64).await;
        // A later round may begin before the last slot of the earlier one is back. The slot comes back when Envoy
        // logs the request, an instant after its answer.
        assert!(out == 3 || (round > 1 && out < 3), "{out} probes are out in round {round}");
        rejected += limited;
        scenario.sick.release(usize::try_from(out).unwrap());
        let mut half_open = 0;
        for request in requests {
            let reply = request.await.unwrap().unwrap();
            assert!(reply.status == 200 || reply.header("x-circuit-breaker") == "half-open");
            half_open += u64::from(reply.is_rejection());
        }
        assert_eq!(half_open, limited);
    }
    assert_eq!(scenario.sick.peak(), 3);
}

async fn a_failed_probe_reopens_for_longer(workers: u32) {
    let scenario = Scenario::start(workers, &half_open("{}")).await;
    scenario.trip().await;
    scenario.until_half_open().await;
    assert_eq!(scenario.get("/sick").await.status, 500);
    let reopened = scenario.until_transition("probe_failed").await;
    assert_eq!((reopened["open_ms"].as_u64(), reopened["trips_in_a_row"].as_u64()), (Some(1200), Some(2)));
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.metric("circuit_breaker_trips_total", "sick", "probe_failed").await, 1);
}

async fn good_probes_without_a_ramp_close(workers: u32) {
    let scenario = Scenario::start(workers, &half_open(r#"{"ramp": {"duration": "0s"}}"#)).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_half_open().await;
    for _ in 0..3 {
        // The slot comes back when Envoy logs the request, an instant after its answer.
        until("a free probe slot", || scenario.get("/sick"), |reply| reply.status == 200).await;
    }
    scenario.until_state("sick", State::Closed).await;
    assert_eq!(scenario.reasons(), ["consecutive", "open_over", "probes_succeeded"]);
    assert!(scenario.get_at_once("/sick", 32).await.iter().all(|reply| reply.status == 200));
}

async fn a_hung_probe_does_not_wedge_the_circuit(workers: u32) {
    let scenario = Scenario::start(workers, &half_open(r#"{"probeTimeout": "500ms", "successThreshold": 1}"#)).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Hang);
    scenario.until_half_open().await;
    let hung = scenario.begin("/sick");
    scenario.until_transition("probe_failed").await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_half_open().await;
    assert_eq!(scenario.get("/sick").await.status, 200, "the next probe");
    scenario.until_transition("probes_succeeded").await;
    assert!(!hung.is_finished(), "the breaker does not break off what it has sent");
}

async fn a_client_that_cancels_a_probe_does_not_wedge_the_circuit(workers: u32) {
    let scenario = Scenario::start(workers, &half_open(r#"{"successThreshold": 1}"#)).await;
    scenario.trip().await;
    scenario.until_half_open().await;
    for _ in 0..3 {
        scenario.sick.behave(Behaviour::Hang);
        let probe = scenario.begin("/sick");
        scenario.until_in_flight(1).await;
        assert!(scenario.get("/sick").await.is_rejection(), "the only slot is taken");
        probe.abort();
        scenario.until_in_flight(0).await;
    }
    scenario.sick.behave(Behaviour::Status(200));
    until("a free probe slot", || scenario.get("/sick"), |reply| reply.status == 200).await;
    scenario.until_transition("probes_succeeded").await;
    assert_eq!(scenario.metric("circuit_breaker_trips_total", "sick", "probe_failed").await, 0);
}

async fn a_probe_that_another_filter_blocks_does_not_wedge_the_circuit(workers: u32) {
    let scenario = Scenario::start(workers, &half_open(r#"{"successThreshold": 1}"#)).await;
    scenario.trip().await;
    scenario.until_half_open().await;
    let seen = scenario.sick.seen();
    for _ in 0..5 {
        let fault = [("x-envoy-fault-abort-request", "503")];
        let reply = client::request(scenario.envoy.address(LISTENER), "GET", "/sick", &fault).await.unwrap();
        assert!(reply.status == 503 && !reply.is_rejection(), "admitted as the probe, and blocked by the fault filter");
    }
    assert_eq!(scenario.sick.seen(), seen);
    scenario.sick.behave(Behaviour::Status(200));
    assert_eq!(scenario.get("/sick").await.status, 200, "the slot is free");
    scenario.until_transition("probes_succeeded").await;
}

async fn a_probe_that_another_filter_answers_well_proves_nothing(workers: u32) {
    let config = half_open(r#"{"successThreshold": 1}"#);
    let scenario = Scenario::start_with(workers, &config, |bootstrap| {
        bootstrap.filters_after.push(serde_json::json!({"name": "health", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck",
            "pass_through_mode": false,
            "headers": [{"name": ":path", "string_match": {"exact": "/sick/health"}}],
        }}));
    })
    .await;
    scenario.trip().await;
    scenario.until_half_open().await;
    for _ in 0..5 {
        let reply = scenario.get("/sick/health").await;
        assert_eq!((reply.status, reply.is_rejection()), (200, false), "a probe, and answered by the filter");
    }
    assert_eq!(scenario.reasons(), ["consecutive", "open_over"]);
    scenario.sick.behave(Behaviour::Status(200));
    assert_eq!(scenario.get("/sick").await.status, 200, "the slot is free");
    scenario.until_transition("probes_succeeded").await;
}

async fn an_endless_answer_does_not_hold_the_only_probe_slot(workers: u32) {
    let scenario = Scenario::start(workers, &half_open(r#"{"successThreshold": 1}"#)).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Endless);
    scenario.until_half_open().await;
    let stream = scenario.begin("/sick");
    scenario.until_transition("probes_succeeded").await;
    assert!(!stream.is_finished());
}

async fn a_probe_that_breaks_off_after_its_headers_has_failed(workers: u32) {
    let scenario = Scenario::start(workers, &half_open(r#"{"successThreshold": 1}"#)).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::ResetAfterHeaders);
    scenario.until_half_open().await;
    assert!(!scenario.get("/sick").await.whole);
    scenario.until_transition("probe_failed").await;
}

/// A request of the ramp: when it was sent, from the ramp's beginning, and whether it was admitted.
type Sample = (Duration, bool);

/// Sends requests from several clients until the circuit is CLOSED.
async fn a_trip_is_forgotten_after_a_healthy_window_and_not_by_time_alone(workers: u32) {
    let config = r#"{"default": {"trip": {"window": {"duration": "1s"}, "minimumCalls": 5},
        "open": {"baseDuration": "300ms", "multiplier": 2, "jitterPercent": 0},
        "halfOpen": {"successThreshold": 1, "ramp": {"duration": "0s"}}}}"#;
    let scenario = Scenario::start(workers, config).await;
    let recover = async || {
        scenario.sick.behave(Behaviour::Status(200));
        scenario.until_half_open().await;
        scenario.get("/sick").await;
        scenario.until_state("sick", State::Closed).await;
        Instant::now()
    };
    let opened = async || {
        let transitions = scenario.envoy.transitions().len();
        scenario.trip().await;
        let now = || async { scenario.envoy.transitions() };
        let all = until("the transition line", now, |seen| seen.len() > transitions).await;
        all[transitions]["open_ms"].as_u64().unwrap()
    };
    assert_eq!(opened().await, 300);
    let closed = recover().await;
    // Two windows without a call prove nothing.
    until("two windows", || async { closed.elapsed() }, |time| *time > Duration::from_millis(2200)).await;
    assert_eq!(opened().await, 600, "the second in a row");
    let closed = recover().await;
    // Two healthy windows forget two trips.
    let calls = || async {
        scenario.get("/sick").await;
        closed.elapsed()
    };
    until("healthy windows", calls, |time| *time > Duration::from_millis(3500)).await;
    assert_eq!(opened().await, 300);
}

async fn load(scenario: &Scenario, start: Instant) -> Vec<Sample> {
    let to = scenario.envoy.address(LISTENER);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = std::sync::Arc::clone(&stop);
            tokio::spawn(async move {
                let mut samples: Vec<Sample> = Vec::new();
                let mut beat = tokio::time::interval(Duration::from_millis(10));
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    beat.tick().await;
                    let sent = start.elapsed();
                    let reply = client::get(to, "/sick").await.unwrap();
                    samples.push((sent, !reply.is_rejection()));
                }
                samples
            })
        })
        .collect();
    scenario.until_state("sick", State::Closed).await;
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut samples = Vec::new();
    for client in clients {
        samples.extend(client.await.unwrap());
    }
    samples
}

async fn the_ramp_follows_its_schedule_to_closed(workers: u32) {
    let config = half_open(r#"{"successThreshold": 1, "ramp": {"initialPercent": 10, "duration": "5s"}}"#);
    let scenario = Scenario::start(workers, &config).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_half_open().await;
    assert_eq!(scenario.get("/sick").await.status, 200, "the probe");
    let start = Instant::now();
    let samples = load(&scenario, start).await;
    assert!(start.elapsed() > Duration::from_secs(5), "not before its time: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(7), "evidence was there at every step: {:?}", start.elapsed());
    for second in 0..4 {
        let within = |sample: &&Sample| sample.0.as_secs() == second;
        let sent = samples.iter().filter(within).count();
        let admitted = samples.iter().filter(within).filter(|(_, admitted)| *admitted).count();
        #[allow(clippy::cast_precision_loss)]
        let (share, scheduled) = (admitted as f64 / sent as f64, 0.1 + 0.9 * (second as f64 + 0.5) / 5.0);
        assert!(sent > 100, "{sent} requests in second {second} tell too little");
        // A step waits for the first call or tick after its time. Then it goes on at the share that its schedule has
        // by then.
        assert!(
            share < scheduled + 0.06 && share > scheduled - 0.08,
            "second {second}: {share:.2} of {sent} admitted, {scheduled:.2} scheduled"
        );
    }
    assert!(scenario.get_at_once("/sick", 32).await.iter().all(|reply| reply.status == 200));
    assert_eq!(scenario.reasons(), ["consecutive", "open_over", "probes_succeeded", "ramp_done"]);
}

async fn a_failure_in_the_ramp_reopens(workers: u32) {
    let config = half_open(r#"{"successThreshold": 1, "ramp": {"initialPercent": 50, "duration": "60s"}}"#);
    let scenario = Scenario::start(workers, &config).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_half_open().await;
    scenario.get("/sick").await;
    scenario.until_transition("probes_succeeded").await;
    scenario.sick.behave(Behaviour::Status(500));
    let failed = until("an admitted request", || scenario.get("/sick"), |reply| reply.status == 500).await;
    assert!(!failed.is_rejection());
    let reopened = scenario.until_transition("ramp_failed").await;
    assert_eq!(reopened["trips_in_a_row"], 2);
}
