//! The clients: GETs, uploads, gRPC calls, and clients that leave early, to all upstreams at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::chance::Chance;
use super::journal::{Call, End, Journal, Span};
use super::stop::Stop;
use super::upstreams::Protocol;
use crate::client::{self, Upload};
use crate::grpc;

/// Pause between two requests to one upstream, in milliseconds: 15 a second on average.
pub const PAUSE: (u64, u64) = (30, 100);

/// The longest pause between two requests.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(PAUSE.1);

/// Time after which a client has no patience any more.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// So many of a hundred clients leave early.
const HASTY: u64 = 8;

/// The header that names the cluster of a request to an upstream that comes and goes.
pub const CLUSTER_HEADER: &str = "x-soak-cluster";

/// What every client needs.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Envoy's listener.
    pub to: SocketAddr,
    /// The journal that each request is entered in.
    pub journal: Arc<Journal>,
    /// Numbers of the requests.
    pub numbers: Arc<AtomicU64>,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Get,
    /// A body, and a pause in its middle.
    Upload {
        chunked: bool,
        pause: Duration,
    },
    Grpc,
    /// A GET whose route takes the cluster from a header.
    Named(String),
}

impl Clients {
    /// Sends to one upstream until it is to stop and all its requests have ended.
    pub async fn send_to(self, upstream: &'static str, protocol: Protocol, mut chance: Chance, mut stop: Stop) {
        let mut requests = JoinSet::new();
        while stop.pause(chance.milliseconds(PAUSE.0, PAUSE.1)).await {
            let kind = kind_of(protocol, &mut chance);
            let clients = self.clone();
            let patience = patience(&mut chance);
            requests.spawn(async move { clients.send(upstream, kind, patience).await });
            while requests.try_join_next().is_some() {}
        }
        requests.join_all().await;
    }

    /// Sends one request to a cluster that may come or go meanwhile.
    pub async fn send_named(&self, cluster: &str) {
        self.send(cluster, Kind::Named(cluster.to_owned()), PATIENCE).await;
    }

    async fn send(&self, upstream: &str, kind: Kind, patience: Duration) {
        let id = self.numbers.fetch_add(1, Ordering::SeqCst);
        let from = self.journal.now();
        let end = tokio::time::timeout(patience, ask(self.to, upstream, id, kind)).await.unwrap_or(End::Left);
        let call = Call { id, upstream: upstream.to_owned(), span: Span { from, to: self.journal.now() }, end };
        self.journal.with(|entries| entries.calls.push(call));
    }
}

fn kind_of(protocol: Protocol, chance: &mut Chance) -> Kind {
    match (protocol, chance.between(0, 99)) {
        (Protocol::Grpc, _) => Kind::Grpc,
        (Protocol::Http1, 0..=9) => Kind::Upload { chunked: true, pause: Duration::ZERO },
        (Protocol::Http1, 10..=14) => Kind::Upload { chunked: chance.percent(50), pause: chance.milliseconds(1, 600) },
        _ => Kind::Get,
    }
}

fn patience(chance: &mut Chance) -> Duration {
    if chance.percent(HASTY) { chance.milliseconds(0, 400) } else { PATIENCE }
}

async fn ask(to: SocketAddr, upstream: &str, id: u64, kind: Kind) -> End {
    let path = format!("/{upstream}/{id}");
    match kind {
        Kind::Get => replied(client::get(to, &path).await),
        Kind::Named(cluster) => {
            let headers = [(CLUSTER_HEADER, cluster.as_str())];
            replied(client::request(to, "GET", &format!("/{NAMED}/{id}"), &headers).await)
        }
        Kind::Upload { chunked, pause } => upload(to, &path, chunked, pause).await,
        Kind::Grpc => match grpc::call(to, &path).await {
            // A gRPC call that fails has the status 200 all the same.
            Ok(reply) if reply.field("grpc-status") != "0" => ended(503, reply.field("x-circuit-breaker")),
            Ok(reply) => ended(reply.status, reply.field("x-circuit-breaker")),
            Err(_) => End::Broken,
        },
    }
}

/// The beginning of the paths of requests to named clusters.
pub const NAMED: &str = "named";

fn replied(reply: anyhow::Result<client::Reply>) -> End {
    reply.map_or(End::Broken, |reply| ended(reply.status, reply.header("x-circuit-breaker")))
}

fn ended(status: u16, word: &str) -> End {
    if word.is_empty() { End::Answered(status) } else { End::Rejected(word.to_owned()) }
}

async fn upload(to: SocketAddr, path: &str, chunked: bool, pause: Duration) -> End {
    let Ok(mut upload) = Upload::begin(to, path, chunked).await else { return End::Broken };
    tokio::time::sleep(pause).await;
    // A client that is rejected at once finds the connection closed, and the answer tells why.
    let _ = upload.finish().await;
    read(&upload.answer().await)
}

/// How an answer over HTTP/1.1 ended.
fn read(answer: &str) -> End {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let marker = answer.lines().find_map(|line| line.strip_prefix("x-circuit-breaker: "));
    status.map_or(End::Broken, |status| ended(status, marker.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_whether_the_breaker_gave_it() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\nx-circuit-breaker: half-open\r\n\r\nbody";
        assert_eq!(read(answer), End::Rejected("half-open".to_owned()));
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\nx"), End::Answered(200));
        assert_eq!(read(""), End::Broken);
    }
}
