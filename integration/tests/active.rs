//! Probes of the breaker's own (`halfOpen.activeProbe`) in a real Envoy.

use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;

for_one_and_four_workers!(
    an_upstream_without_traffic_recovers_in_full,
    no_user_reaches_a_sick_upstream_before_its_probes_were_good,
    one_probe_is_out_at_a_time_over_all_workers,
    a_hanging_upstream_fails_a_probe_at_its_timeout,
    an_answer_that_does_not_end_fails_a_probe,
    an_upstream_without_a_host_fails_a_probe_at_once,
    a_new_policy_goes_on_where_the_old_one_was,
);

const PROBES: &str = "circuit_breaker_probes_total";

/// The default policy with a short OPEN and these settings of `halfOpen`.
fn policy(half_open: &str) -> String {
    format!(
        r#"{{"default": {{"open": {{"baseDuration": "300ms", "multiplier": 4, "jitterPercent": 0}}, "halfOpen": {half_open}}}}}"#
    )
}

/// The sick upstream's probes so far: good ones and failed ones.
async fn probes(scenario: &Scenario) -> (u64, u64) {
    (scenario.metric(PROBES, "sick", "success").await, scenario.metric(PROBES, "sick", "failure").await)
}

async fn an_upstream_without_traffic_recovers_in_full(workers: u32) {
    let config = policy(
        r#"{"activeProbe": {"path": "/health?deep=1", "interval": "500ms", "headers": {"x-probe": "yes"}}, "ramp": {"duration": "5s"}}"#,
    );
    let scenario = Scenario::start(workers, &config).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Status(200));
    let (seen, calls) = (scenario.sick.seen(), scenario.counts("sick").await);
    scenario.until_transition("probes_succeeded").await;
    assert_eq!(scenario.sick.header("x-probe"), "yes");
    assert_eq!(scenario.sick.header("host"), "sick", "the upstream's own");
    assert_eq!(scenario.sick.header("user-agent"), "circuit-breaker-probe");
    scenario.until_state("sick", State::Closed).await;
    assert!(scenario.reasons().starts_with(&["consecutive".to_owned(), "open_over".to_owned()]));
    assert_eq!(scenario.reasons().last().map(String::as_str), Some("ramp_done"));
    let (good, failed) = probes(&scenario).await;
    assert_eq!(scenario.sick.seen() - seen, good + failed, "nobody else has sent a request");
    assert_eq!(scenario.sick.seen_for("/health?deep=1"), good + failed);
    assert_eq!(scenario.counts("sick").await, calls, "no probe is a call");
}

async fn no_user_reaches_a_sick_upstream_before_its_probes_were_good(workers: u32) {
    let config = policy(r#"{"activeProbe": {"path": "/health", "interval": "500ms"}, "ramp": {"duration": "0s"}}"#);
    let scenario = Scenario::start(workers, &config).await;
    scenario.trip().await;
    let by_users = || scenario.sick.seen() - scenario.sick.seen_for("/health");
    let before = by_users();
    let busy = || async {
        let replies = scenario.get_at_once("/sick", 16).await;
        assert!(replies.iter().all(|reply| reply.header("x-circuit-breaker") == "open"), "rejected as OPEN");
        scenario.sick.seen_for("/health")
    };
    until("two failed probes", busy, |probes| *probes >= 2).await;
    scenario.sick.behave(Behaviour::Gate(200));
    until("a probe that waits", || async { scenario.sick.in_flight() }, |out| *out == 1).await;
    let stage = scenario.get_at_once("/sick", 16).await;
    assert!(stage.iter().all(|reply| reply.header("x-circuit-breaker") == "open"), "in the probe stage, too");
    assert_eq!(by_users(), before, "no user has reached it");
    scenario.sick.behave(Behaviour::Status(200));
    scenario.sick.release(1);
    scenario.until_state("sick", State::Closed).await;
    assert!(scenario.get_at_once("/sick", 32).await.iter().all(|reply| reply.status == 200));
}

async fn one_probe_is_out_at_a_time_over_all_workers(workers: u32) {
    let config = policy(
        r#"{"maxConcurrentProbes": 16, "successThreshold": 5, "activeProbe": {"path": "/health", "interval": "100ms", "timeout": "30s"}}"#,
    );
    let scenario = Scenario::start(workers, &config).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Gate(200));
    scenario.sick.forget_peak();
    for probe in 1..=5 {
        let out = || async { scenario.sick.seen_for("/health") };
        until(&format!("probe {probe}"), out, |seen| *seen == probe).await;
        scenario.sick.release(1);
    }
    scenario.until_transition("probes_succeeded").await;
    assert_eq!((scenario.sick.peak(), probes(&scenario).await), (1, (5, 0)));
}

async fn a_hanging_upstream_fails_a_probe_at_its_timeout(workers: u32) {
    let config = policy(r#"{"activeProbe": {"path": "/health", "timeout": "700ms"}}"#);
    let scenario = Scenario::start(workers, &config).await;
    scenario.trip().await;
    scenario.sick.behave(Behaviour::Hang);
    until("a probe that hangs", || async { scenario.sick.in_flight() }, |out| *out == 1).await;
    let reopened = scenario.until_transition("probe_failed").await;
    assert_eq!((reopened["open_ms"].as_u64(), reopened["trips_in_a_row"].as_u64()), (Some(1200), Some(2)));
    // Envoy has broken it off, too.
    scenario.until_in_flight(0).await;
    assert_eq!(probes(&scenario).await, (0, 1));
    scenario.sick.behave(Behaviour::Status(200));
    scenario.until_transition("probes_succeeded").await;
}

async fn an_answer_that_does_not_end_fails_a_probe(workers: u32) {
    for behaviour in [Behaviour::Endless, Behaviour::ResetAfterHeaders, Behaviour::Status(404)] {
        let config = policy(r#"{"activeProbe": {"path": "/health", "timeout": "700ms"}}"#);
        let scenario = Scenario::start(workers, &config).await;
        scenario.trip().await;
        scenario.sick.behave(behaviour);
        scenario.until_transition("probe_failed").await;
        assert_eq!(probes(&scenario).await, (0, 1));
    }
}

async fn an_upstream_without_a_host_fails_a_probe_at_once(workers: u32) {
    let config = policy(r#"{"activeProbe": {"path": "/health", "timeout": "20s"}}"#);
    let scenario = Scenario::start_with(workers, &config, |bootstrap| {
        bootstrap.clusters[0].address = None;
    })
    .await;
    while scenario.state("sick").await != Some(State::Open) {
        assert_eq!(scenario.get("/sick").await.status, 503);
    }
    scenario.until_metric(PROBES, "sick", "failure", 2).await;
    assert!(scenario.reasons().ends_with(&["open_over".to_owned(), "probe_failed".to_owned()]));
    assert!(scenario.get("/sick").await.is_rejection(), "and Envoy is well");
}

async fn a_new_policy_goes_on_where_the_old_one_was(workers: u32) {
    let scenario = Scenario::start(workers, &policy("{}")).await;
    scenario.trip().await;
    scenario.until_half_open().await;
    scenario.sick.behave(Behaviour::Status(200));
    scenario.configure(&policy(r#"{"activeProbe": {"path": "/health"}}"#)).await;
    scenario.until_transition("probes_succeeded").await;
    assert_eq!(scenario.sick.seen_for("/health"), 3);
}
