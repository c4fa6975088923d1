//! Rejections, circuits and streams over every protocol that clients speak to Envoy.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use circuit_breaker_integration::bootstrap::{Bootstrap, Cluster, Listener};
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::grpc::{self, Ending, GrpcUpstream};
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::upstream::Behaviour;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

for_one_and_four_workers!(
    http2_clients_get_the_same_rejection,
    http3_clients_trip_the_circuit_and_get_the_same_rejection,
    grpc_clients_see_unavailable_the_message_and_the_pushback,
    resource_exhausted_is_nothing_in_closed_and_fails_a_probe,
    a_grpc_answer_without_a_status_counts_by_its_http_status,
    a_grpc_upstream_can_ask_for_a_longer_open_time,
    a_websocket_counts_as_good_while_it_lives_and_holds_no_probe,
    an_upgrade_that_the_upstream_refuses_is_a_failure,
    a_connect_tunnel_counts_as_good_while_it_lives,
);

async fn http2_clients_get_the_same_rejection(workers: u32) {
    let scenario = Scenario::start(workers, "").await;
    scenario.trip().await;
    let stream = TcpStream::connect(scenario.envoy.address(LISTENER)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("http://test/sick").body(Empty::<Bytes>::new()).unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        assert_eq!((parts.status.as_u16(), &parts.headers["x-circuit-breaker"]), (503, &"open".parse().unwrap()));
        assert!(parts.headers.contains_key("retry-after"));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "upstream circuit is open\n");
    }
}

/// An HTTP/3 client that trusts one certificate.
struct Http3 {
    sender: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    _endpoint: quinn::Endpoint,
}

impl Http3 {
    async fn connect(to: SocketAddr, trusted: &CertificateDer<'static>) -> Http3 {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        let connection = endpoint.connect(to, "localhost").unwrap().await.unwrap();
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
        tokio::spawn(async move { std::future::poll_fn(|context| driver.poll_close(context)).await });
        Http3 { sender, _endpoint: endpoint }
    }

    async fn get(&mut self, path: &str) -> (u16, hyper::HeaderMap, String) {
        let request = Request::get(format!("https://localhost{path}")).body(()).unwrap();
        let mut stream = self.sender.send_request(request).await.unwrap();
        stream.finish().await.unwrap();
        let (parts, ()) = stream.recv_response().await.unwrap().into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = stream.recv_data().await.unwrap() {
            body.extend_from_slice(chunk.chunk());
        }
        (parts.status.as_u16(), parts.headers, String::from_utf8(body).unwrap())
    }
}

async fn http3_clients_trip_the_circuit_and_get_the_same_rejection(workers: u32) {
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = (signed.cert.pem(), signed.signing_key.serialize_pem());
    let scenario = Scenario::start_with(workers, "", |bootstrap: &mut Bootstrap| {
        bootstrap.certificate = Some(pem);
        bootstrap.listeners.push(Listener { quic: true, ..Listener::new("quic", Some("")) });
    })
    .await;
    let mut client = Http3::connect(scenario.envoy.address("quic"), signed.cert.der()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/sick").await.0, 200);
    }
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 3).await;
    scenario.sick.behave(Behaviour::Status(500));
    for _ in 0..5 {
        let (status, headers, _) = client.get("/sick").await;
        assert_eq!((status, headers.contains_key("x-circuit-breaker")), (500, false));
    }
    scenario.until_state("sick", State::Open).await;
    let (status, headers, body) = client.get("/sick").await;
    assert_eq!((status, body.as_str()), (503, "upstream circuit is open\n"));
    assert_eq!(headers["x-circuit-breaker"], "open");
    assert!(headers.contains_key("retry-after"));
    assert!(scenario.get("/sick").await.is_rejection(), "one circuit for both listeners");
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "http").await, 5);
}

/// Messages as bytes: a real gRPC client needs no schema.
#[derive(Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// An Envoy before a gRPC upstream, and a tonic client.
struct Grpc {
    scenario: Scenario,
    upstream: GrpcUpstream,
    client: tonic::client::Grpc<tonic::transport::Channel>,
}

impl Grpc {
    async fn start(workers: u32, config: &str) -> Grpc {
        let upstream = GrpcUpstream::start().await;
        let address = upstream.address();
        let scenario = Scenario::start_with(workers, config, |bootstrap| {
            bootstrap.clusters.push(Cluster { http2: true, ..Cluster::new("grpc", address) });
        })
        .await;
        let to = format!("http://{}", scenario.envoy.address(LISTENER));
        let channel = tonic::transport::Endpoint::new(to).unwrap().connect().await.unwrap();
        Grpc { scenario, upstream, client: tonic::client::Grpc::new(channel) }
    }

    async fn call(&mut self) -> Result<Bytes, tonic::Status> {
        self.client.ready().await.unwrap();
        let path = "/grpc.Greeter/Hello".parse().unwrap();
        let reply = self.client.unary(tonic::Request::new(Bytes::new()), path, Plain).await?;
        Ok(reply.into_inner())
    }
}

async fn grpc_clients_see_unavailable_the_message_and_the_pushback(workers: u32) {
    let mut grpc = Grpc::start(workers, "").await;
    assert!(grpc.call().await.is_ok());
    grpc.upstream.end_with(Ending::Trailers(13));
    for _ in 0..5 {
        assert_eq!(grpc.call().await.unwrap_err().code(), tonic::Code::Internal);
    }
    let rejected = grpc.call().await.unwrap_err();
    assert_eq!((rejected.code(), rejected.message()), (tonic::Code::Unavailable, "upstream circuit is open"));
    let pushback: u64 = rejected.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert!((25_000..=36_000).contains(&pushback), "{pushback}");
    assert_eq!(rejected.metadata().get("x-circuit-breaker").unwrap(), "open");
    assert_eq!(grpc.upstream.seen(), 6);
}

async fn resource_exhausted_is_nothing_in_closed_and_fails_a_probe(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "300ms", "multiplier": 10, "jitterPercent": 0}}}"#;
    let mut grpc = Grpc::start(workers, config).await;
    grpc.upstream.end_with(Ending::Trailers(8));
    for _ in 0..30 {
        assert_eq!(grpc.call().await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    }
    grpc.scenario.until_metric("circuit_breaker_calls_total", "grpc", "neutral", 30).await;
    grpc.upstream.end_with(Ending::Trailers(14));
    for _ in 0..5 {
        grpc.call().await.unwrap_err();
    }
    grpc.scenario.until_state("grpc", State::HalfOpen).await;
    grpc.upstream.end_with(Ending::Trailers(8));
    assert_eq!(grpc.call().await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    grpc.scenario.until_transition("probe_failed").await;
    assert_eq!(grpc.scenario.metric("circuit_breaker_failures_total", "grpc", "rate_limited").await, 1);
}

async fn a_grpc_answer_without_a_status_counts_by_its_http_status(workers: u32) {
    let grpc = Grpc::start(workers, "").await;
    grpc.upstream.end_with(Ending::NoStatus);
    let to = grpc.scenario.envoy.address(LISTENER);
    for _ in 0..3 {
        let reply = grpc::call(to, "/grpc").await.unwrap();
        assert_eq!((reply.status, reply.field("grpc-status")), (200, ""));
    }
    grpc.scenario.until_metric("circuit_breaker_calls_total", "grpc", "success", 3).await;
}

async fn a_grpc_upstream_can_ask_for_a_longer_open_time(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "1s", "maxDuration": "1s", "jitterPercent": 0, "maxRetryAfter": "1m"}}}"#;
    for (asked, seconds) in [(40_000, 40), (4_000_000_000, 60)] {
        let mut grpc = Grpc::start(workers, config).await;
        grpc.upstream.end_with(Ending::Pushback(14, asked));
        for _ in 0..5 {
            grpc.call().await.unwrap_err();
        }
        let open = grpc.scenario.until_transition("consecutive").await["open_ms"].as_u64().unwrap();
        assert!((seconds * 1000 - 900..=seconds * 1000).contains(&open), "{asked}: {open} ms");
    }
}

/// Writes a head, and reads up to the end of the answer's.
async fn open(to: SocketAddr, head: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(seen).unwrap())
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
}

const WEBSOCKET: &str = "GET /sick HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

async fn with_websockets(workers: u32, config: &str) -> Scenario {
    Scenario::start_with(workers, config, |bootstrap| {
        bootstrap.connection_manager = json!({"upgrade_configs": [{"upgrade_type": "websocket"}]});
    })
    .await
}

async fn a_websocket_counts_as_good_while_it_lives_and_holds_no_probe(workers: u32) {
    let config = r#"{"default": {"open": {"baseDuration": "300ms"}, "halfOpen": {"successThreshold": 2, "ramp": {"duration": "0s"}}}}"#;
    let scenario = with_websockets(workers, config).await;
    let to = scenario.envoy.address(LISTENER);
    scenario.sick.behave(Behaviour::Echo(SWITCHING));
    let (mut first, head) = open(to, WEBSOCKET).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    echoes(&mut first).await;
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 1).await;
    scenario.trip().await;
    echoes(&mut first).await;
    scenario.sick.behave(Behaviour::Echo(SWITCHING));
    scenario.until_half_open().await;
    let (mut probe, _) = open(to, WEBSOCKET).await;
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 2).await;
    let (mut second, head) = open(to, WEBSOCKET).await;
    assert!(head.starts_with("HTTP/1.1 101"), "the only slot is free again: {head}");
    scenario.until_state("sick", State::Closed).await;
    for socket in [&mut first, &mut probe, &mut second] {
        echoes(socket).await;
    }
    drop((first, probe, second));
    scenario.until_in_flight(0).await;
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "success").await, 3, "each counts once");
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "neutral").await, 0);
}

async fn an_upgrade_that_the_upstream_refuses_is_a_failure(workers: u32) {
    let scenario = with_websockets(workers, "").await;
    scenario.sick.behave(Behaviour::Status(503));
    for _ in 0..5 {
        let (_, head) = open(scenario.envoy.address(LISTENER), WEBSOCKET).await;
        assert!(head.starts_with("HTTP/1.1 503") && !head.contains("x-circuit-breaker"), "{head}");
    }
    scenario.until_state("sick", State::Open).await;
    let (_, head) = open(scenario.envoy.address(LISTENER), WEBSOCKET).await;
    assert!(head.contains("x-circuit-breaker: open"), "{head}");
}

async fn a_connect_tunnel_counts_as_good_while_it_lives(workers: u32) {
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        bootstrap.connection_manager = json!({"upgrade_configs": [{"upgrade_type": "CONNECT"}]});
        bootstrap.routes = vec![json!({"match": {"connect_matcher": {}}, "route": {
            "cluster": "sick", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        }})];
    })
    .await;
    const CONNECT: &str = "CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n\r\n";
    let (mut tunnel, head) = open(scenario.envoy.address(LISTENER), CONNECT).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    tunnel.write_all(b"GET /inside HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    tunnel.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    scenario.until_metric("circuit_breaker_calls_total", "sick", "success", 1).await;
    drop(tunnel);
    scenario.sick.refuse().await;
    for _ in 0..5 {
        assert!(open(scenario.envoy.address(LISTENER), CONNECT).await.1.starts_with("HTTP/1.1 503"));
    }
    scenario.until_state("sick", State::Open).await;
    assert_eq!(scenario.metric("circuit_breaker_failures_total", "sick", "connect").await, 5);
    assert_eq!(scenario.metric("circuit_breaker_calls_total", "sick", "success").await, 1);
}
