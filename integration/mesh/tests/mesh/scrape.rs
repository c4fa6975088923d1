//! What a Prometheus finds on the ports that `istio/monitoring` scrapes, asked as the dashboards ask.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use circuit_breaker_integration::monitoring::board::{Board, filled};
use circuit_breaker_integration::monitoring::foreign;
use circuit_breaker_integration::monitoring::prometheus::{Prometheus, Span, Target};
use circuit_breaker_integration::upstream::Behaviour;
use circuit_breaker_integration::wait::until;
use circuit_breaker_mesh::pod::{Proxy, Spec};
use circuit_breaker_mesh::service::APPLICATION;
use serde_json::json;

use crate::world::{INGRESS, SHOP, World};

/// The page of a gateway: the port that its Deployment calls `metrics`.
const AGENT: u16 = 15020;

/// The page of a sidecar: the port that Istio's injector calls `http-envoy-prom`.
const ENVOY: u16 = 15090;

const UPSTREAM: &str = "circuit-breaker-upstream";

pub async fn prometheus_sees_an_ejection_a_full_pool_and_a_trip_as_the_dashboards_ask_for_them(world: &World) {
    let (lab, host) = (&world.lab, "scraped.example.com");
    let pod = |name: &'static str| lab.pod(Spec::new(SHOP, name, Proxy::None));
    let (good, bad) = (pod("scraped-a").await.expect("a pod"), pod("scraped-b").await.expect("a pod"));
    let well = good.upstream(APPLICATION).expect("the pod's port is free");
    let sick = bad.upstream(APPLICATION).expect("the pod's port is free");
    let service = lab.service(SHOP, "scraped", &[APPLICATION], &[&good, &bad]).expect("a Service");
    lab.kubectl()
        .apply(&[json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "scraped", "namespace": SHOP},
            "spec": {"host": service.host(), "trafficPolicy": {
                "connectionPool": {"tcp": {"maxConnections": 2}, "http": {"http1MaxPendingRequests": 1}},
                "outlierDetection": {
                    "consecutive5xxErrors": 2, "interval": "1s", "baseEjectionTime": "120s", "maxEjectionPercent": 50,
                },
            }},
        })])
        .expect("the API server takes it");
    world.route(host, json!([{"route": [{"destination": {"host": service.host()}}]}])).await;

    let targets = [AGENT, ENVOY].map(|port| Target {
        address: SocketAddr::from((world.gateway.address(), port)),
        namespace: INGRESS.to_owned(),
        pod: format!("ingressgateway-{port}"),
    });
    let prometheus = Prometheus::start(&targets).await.expect("Prometheus starts");
    let service = service.host();
    let asked = |panel: &'static str, legend: &'static str| largest(&prometheus, panel, legend, &service);

    sick.behave(Behaviour::Status(503));
    let ejected = || async {
        world.get(host, "/").await;
        asked("Hosts that outlier detection has ejected", "ejected now").await
    };
    until("an ejection to be seen", ejected, |seen| *seen == Some(1.0)).await;

    well.behave(Behaviour::Gate(200));
    let crowd = world.get_at_once(host, "/", 6);
    let full = until("the pool to be full", || asked("Pool in use", "connections"), |seen| *seen == Some(1.0));
    let away = || asked("Turned away by a full pool", "turned away/s");
    let away = until("requests to be turned away", away, |seen| seen.is_some_and(|rate| rate > 0.0));
    let watch = async {
        tokio::join!(full, away);
        well.release(6);
    };
    tokio::join!(crowd, watch);

    well.behave(Behaviour::Status(503));
    let open = || async {
        world.get(host, "/").await;
        asked("State in each proxy", "{{pod}}").await
    };
    until("the trip to be seen", open, |seen| *seen == Some(2.0)).await;
    assert_eq!(prometheus.unhealthy().await.expect("Prometheus answers"), Vec::<String>::new());
    agents_name_their_series_as_the_page_in_their_place_does(world).await;
}

/// The largest value now of one query of the upstream's dashboard.
async fn largest(prometheus: &Prometheus, panel: &str, legend: &str, host: &str) -> Option<f64> {
    let boards = Board::read_all().expect("the dashboards are there");
    let board = boards.iter().find(|board| board.uid() == UPSTREAM).expect("one is the upstream's");
    let questions = board.questions();
    let question = questions.iter().find(|question| question.place == panel && question.legend == legend);
    let question = question.unwrap_or_else(|| panic!("no query {legend} of {panel}"));
    let now = SystemTime::now();
    let span = Span { from: now - Duration::from_secs(60), until: now };
    let expression = filled(&question.expression, host, span);
    let series = prometheus.instant(&expression, now).await.unwrap_or_else(|why| panic!("{expression}: {why:#}"));
    let numbers = series.iter().filter_map(|one| one["value"][1].as_str()?.parse::<f64>().ok());
    numbers.reduce(f64::max)
}

/// The dashboards' own check has no agent, and reads a page that was written down.
async fn agents_name_their_series_as_the_page_in_their_place_does(world: &World) {
    let real = world.gateway.prometheus(AGENT).await.expect("the agent answers");
    let written = foreign::text("istio-agent").expect("the page is there");
    for name in foreign::names(&written) {
        assert!(foreign::names(&real).contains(&name), "{name} is not on the agent's page");
    }
    let success = "istio_agent_wasm_remote_fetch_count{result=\"success\"}";
    assert!(written.contains(success) && real.contains(success), "the module was fetched:\n{real}");
}
