//! How a call can end in a real Envoy, and what each end counts as.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use circuit_breaker_integration::bootstrap::{Bootstrap, Cluster};
use circuit_breaker_integration::client;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::grpc::{self, Ending, GrpcUpstream};
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

for_one_and_four_workers!(
    connections_that_nobody_accepts_in_time_are_connect_failures,
    per_try_timeouts_with_retries_exhausted_are_one_timeout,
    a_body_that_is_cut_short_is_a_reset,
    a_stream_that_breaks_off_over_http2_is_a_reset,
    an_answer_that_is_no_http_is_a_reset,
    what_a_filter_before_or_after_the_breaker_refuses_is_no_call_of_the_upstream,
    direct_responses_and_redirects_have_no_circuit,
    a_client_that_leaves_after_the_headers_is_neutral,
    head_requests_count_like_any_other,
    an_answer_after_100_continue_counts_once_by_its_own_status,
    a_count_window_trips_by_the_last_calls_whatever_their_age,
    an_upstream_that_most_calls_go_to_counts_like_any_other,
);

async fn counted(scenario: &Scenario, upstream: &str, expected: [u64; 3]) {
    for (component, count) in ["success", "failure", "neutral"].into_iter().zip(expected) {
        scenario.until_metric("circuit_breaker_calls_total", upstream, component, count).await;
    }
}

/// A port whose queue of connections is full: further connections are neither accepted nor refused.
struct Blackhole {
    address: SocketAddr,
    _listener: tokio::net::TcpListener,
    _queued: JoinSet<std::io::Result<TcpStream>>,
}

impl Blackhole {
    async fn open() -> Blackhole {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = JoinSet::new();
        let mut streams = Vec::new();
        // A queue of one holds two on Linux. A connection that does not get in tries again and again.
        for _ in 0..2 {
            streams.push(TcpStream::connect(address).await);
        }
        for stream in streams {
            queued.spawn(async { stream });
        }
        for _ in 0..4 {
            queued.spawn(TcpStream::connect(address));
        }
        Blackhole { address, _listener: listener, _queued: queued }
    }
}

async fn connections_that_nobody_accepts_in_time_are_connect_failures(workers: u32) {
    let blackhole = Blackhole::open().await;
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.clusters[0].address = Some(blackhole.address);
        bootstrap.clusters[0].connect_timeout = "0.1s".to_owned();
    })
    .await;
    assert!(scenario.get_times("/sick", 5).await.iter().all(|reply| reply.status == 503 && !reply.is_rejection()));
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "connect").await, 5);
}

async fn per_try_timeouts_with_retries_exhausted_are_one_timeout(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        let sick = &mut bootstrap.clusters[0];
        (sick.retries, sick.per_try_timeout, sick.timeout) = (2, "0.1s".to_owned(), "10s".to_owned());
    })
    .await;
    scenario.sick.behave(Behaviour::Hang);
    assert!(scenario.get_at_once("/sick", 5).await.iter().all(|reply| reply.status == 504));
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.sick.seen(), 15, "three attempts each");
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "timeout").await, 5);
}

async fn a_body_that_is_cut_short_is_a_reset(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf of it"));
    for _ in 0..5 {
        let reply = scenario.get("/sick").await;
        assert_eq!((reply.status, reply.whole), (200, false));
    }
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "reset").await, 5);
}

async fn a_stream_that_breaks_off_over_http2_is_a_reset(workers: u32) {
    for ending in [Ending::Reset, Ending::Close] {
        let upstream = GrpcUpstream::start().await;
        let address = upstream.address();
        let scenario = Scenario::start_with(workers, "", |bootstrap| {
            bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("h2", address) });
        })
        .await;
        upstream.end_with(ending.clone());
        for _ in 0..5 {
            let reply = grpc::begin(scenario.envoy.address(LISTENER), "/h2").await.unwrap();
            assert_eq!(reply.status(), 200);
            upstream.break_off();
            assert!(reply.into_body().collect().await.is_err(), "it breaks off for the client too");
        }
        scenario.until_state("h2", State::Open).await;
        assert_eq!(scenario.metric("circuit_breaker_failures_total", "h2", "reset").await, 5, "{ending:?}");
    }
}

async fn an_answer_that_is_no_http_is_a_reset(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Raw("220 mail.example ESMTP\r\n\r\n"));
    assert!(scenario.get_times("/sick", 5).await.iter().all(|reply| reply.status == 502));
    assert!(scenario.get("/sick").await.is_rejection());
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "reset").await, 5);
    assert!(scenario.envoy.access_log(5).await.iter().take(5).all(|line| line["flags"] == "UPE"));
}

/// Refuses requests with this header.
fn refuses(header: &str) -> Value {
    json!({"name": format!("rbac-{header}"), "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": "DENY", "policies": {"no": {
            "permissions": [{"any": true}],
            "principals": [{"header": {"name": header, "present_match": true}}],
        }}},
    }})
}

async fn what_a_filter_before_or_after_the_breaker_refuses_is_no_call_of_the_upstream(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap: &mut Bootstrap| {
        bootstrap.filters_before.push(refuses("x-refuse-before"));
        bootstrap.filters_after.push(refuses("x-refuse-after"));
    })
    .await;
    let to = scenario.envoy.address(LISTENER);
    for header in ["x-refuse-before", "x-refuse-after"] {
        for _ in 0..10 {
            let reply = client::request(to, "GET", "/sick", &[(header, "1")]).await.unwrap();
            assert_eq!((reply.status, reply.is_rejection()), (403, false));
        }
    }
    scenario.get("/sick").await;
    // A rejection by a filter before the breaker is nobody's call. By one after it, the call was admitted and reached
    // no upstream.
    counted(&scenario, "sick", [1, 0, 10]).await;
    assert_eq!(scenario.sick.seen(), 1);
    scenario.trip().await;
    let reply = client::request(to, "GET", "/sick", &[("x-refuse-before", "1")]).await.unwrap();
    assert_eq!(reply.status, 403, "OPEN or not");
}

async fn direct_responses_and_redirects_have_no_circuit(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.routes = vec![
            json!({"match": {"path": "/down"}, "direct_response": {"status": 503}}),
            json!({"match": {"path": "/moved"}, "redirect": {"path_redirect": "/"}}),
        ];
    })
    .await;
    assert!(scenario.get_times("/down", 10).await.iter().all(|reply| reply.status == 503 && !reply.is_rejection()));
    assert!(scenario.get_times("/moved", 10).await.iter().all(|reply| reply.status == 301));
    scenario.trip().await;
    assert_eq!((scenario.get("/down").await.is_rejection(), scenario.get("/moved").await.status), (false, 301));
    assert_eq!(scenario.metric("circuit_breaker_circuits", "", "").await, 1);
    counted(&scenario, "sick", [0, 5, 0]).await;
}

async fn a_client_that_leaves_after_the_headers_is_neutral(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.sick.behave(Behaviour::Endless);
    for _ in 0..5 {
        let mut stream = TcpStream::connect(scenario.envoy.address(LISTENER)).await.unwrap();
        stream.write_all(b"GET /sick HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"event\n\r\n") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
        }
    }
    counted(&scenario, "sick", [0, 0, 5]).await;
}

async fn head_requests_count_like_any_other(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    let head = || client::request(scenario.envoy.address(LISTENER), "HEAD", "/sick", &[]);
    scenario.sick.behave(Behaviour::Raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"));
    for _ in 0..3 {
        assert_eq!(head().await.unwrap().status, 200, "no body is no broken one");
    }
    counted(&scenario, "sick", [3, 0, 0]).await;
    scenario.sick.behave(Behaviour::Raw("HTTP/1.1 500 Scripted\r\ncontent-length: 1000\r\n\r\n"));
    for _ in 0..5 {
        assert_eq!(head().await.unwrap().status, 500);
    }
    assert!(head().await.unwrap().is_rejection());
}

async fn an_answer_after_100_continue_counts_once_by_its_own_status(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.connection_manager = json!({"proxy_100_continue": true});
    })
    .await;
    for (status, counts) in [(200, [1, 0, 0]), (500, [1, 1, 0])] {
        scenario.sick.behave(Behaviour::Status(status));
        let mut stream = TcpStream::connect(scenario.envoy.address(LISTENER)).await.unwrap();
        let head = b"POST /sick HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
        stream.write_all(head).await.unwrap();
        read_until(&mut stream, "HTTP/1.1 100 Continue").await;
        stream.write_all(b"body").await.unwrap();
        read_until(&mut stream, &format!("HTTP/1.1 {status} ")).await;
        counted(&scenario, "sick", counts).await;
    }
}

async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "no {text} in {}", String::from_utf8_lossy(&seen));
    }
}

async fn a_count_window_trips_by_the_last_calls_whatever_their_age(workers: u32) {
    let config = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 50, "minimumCalls": 20,
        "window": {"calls": 20}}}}"#;
    let scenario = Scenario::start(workers, config).await;
    scenario.get_times("/sick", 100).await;
    scenario.sick.behave(Behaviour::Status(500));
    let replies = scenario.get_times("/sick", 20).await;
    let sent = replies.iter().take_while(|reply| !reply.is_rejection()).count();
    assert_eq!(sent, 10, "failures are half of the last 20 calls");
    assert_eq!(scenario.reasons(), ["failure_rate"]);
}

/// A worker guesses the upstream of its next call after so many calls, at the next tick.
const CALLS_BEFORE_A_GUESS: u32 = 256;
const LONGEST_TICK: Duration = Duration::from_millis(500);

async fn an_upstream_that_most_calls_go_to_counts_like_any_other(workers: u32) {
    let never = r#"{"default": {"trip": {"consecutiveFailures": 0, "failureRatePercent": 0}}}"#;
    let scenario = Scenario::start(workers, never).await;
    // A new circuit makes every worker look closer until its next tick.
    scenario.get("/other").await;
    let (started, mut well) = (Instant::now(), 0_u32);
    // Connections fall to workers by chance. With twice as many calls each worker gets enough.
    while well < 2 * CALLS_BEFORE_A_GUESS * workers || started.elapsed() < 2 * LONGEST_TICK {
        scenario.get_times("/sick", 50).await;
        well += 50;
    }
    // Calls in between, so that a worker goes from one upstream to the other and back.
    for behaviour in
        [Behaviour::Status(500), Behaviour::Status(200), Behaviour::ResetAfterHeaders, Behaviour::Status(404)]
    {
        scenario.sick.behave(behaviour);
        for _ in 0..8 {
            scenario.get("/sick").await;
            scenario.get("/other").await;
        }
    }
    let well = u64::from(well);
    counted(&scenario, "other", [1 + 32, 0, 0]).await;
    counted(&scenario, "sick", [well + 8 + 8, 8 + 8, 0]).await;
}
