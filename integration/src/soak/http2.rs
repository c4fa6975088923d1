//! An upstream that speaks HTTP/2, plain or like gRPC. It fails in the ways that only HTTP/2 has: resets of one
//! stream, GOAWAY.

use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::fault::{Fault, SLOW};
use crate::grpc::BrokenOff;
use crate::upstream::{bound, serve};

#[derive(Debug)]
struct Shared {
    grpc: bool,
    fault: Mutex<Fault>,
    seen: AtomicU64,
}

/// A running upstream. Closed when dropped.
#[derive(Debug)]
pub struct Http2Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
    /// Holds the port while nobody listens on it.
    _reserved: TcpSocket,
}

impl Http2Upstream {
    /// Listens on a free port and answers 200; `grpc`: with a status in trailers.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(grpc: bool) -> std::io::Result<Http2Upstream> {
        let reserved = bound(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = reserved.local_addr()?;
        let shared = Arc::new(Shared { grpc, fault: Mutex::new(Fault::Healthy), seen: AtomicU64::new(0) });
        let mut upstream = Http2Upstream { address, shared, server: None, _reserved: reserved };
        upstream.listen()?;
        Ok(upstream)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests seen so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::SeqCst)
    }

    /// From now on it does this with every request.
    ///
    /// # Errors
    /// It cannot listen again.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub async fn behave(&mut self, fault: Fault) -> std::io::Result<()> {
        *self.shared.fault.lock().expect("no holder panics") = fault;
        match (fault, self.server.take()) {
            (Fault::Refuse, Some(server)) => {
                server.abort();
                let _ = server.await;
            }
            (Fault::Refuse, None) => {}
            (_, Some(server)) => self.server = Some(server),
            (_, None) => self.listen()?,
        }
        Ok(())
    }

    fn listen(&mut self) -> std::io::Result<()> {
        let listener = bound(self.address)?.listen(1024)?;
        let shared = Arc::clone(&self.shared);
        self.server = Some(tokio::spawn(serve(listener, move |stream| converse(stream, Arc::clone(&shared)))));
        Ok(())
    }
}

impl Drop for Http2Upstream {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

/// Time for GOAWAY to reach Envoy. Then the connection is closed under the requests that wait.
const FAREWELL: Duration = Duration::from_millis(20);

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let going = Arc::new(Notify::new());
    let go = Arc::clone(&going);
    let service = service_fn(move |_: Request<Incoming>| {
        shared.seen.fetch_add(1, Ordering::SeqCst);
        let fault = *shared.fault.lock().expect("no holder panics");
        if fault == Fault::GoAway {
            go.notify_one();
        }
        answer(fault, shared.grpc)
    });
    let mut connection = pin!(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => {}
        () = going.notified() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(FAREWELL, connection).await;
        }
    }
}

type Answer = Response<BoxBody<Bytes, BrokenOff>>;

async fn answer(fault: Fault, grpc: bool) -> Result<Answer, BrokenOff> {
    match fault {
        Fault::Healthy => Ok(say(200, 0, grpc)),
        // UNAVAILABLE in the trailers of a 200.
        Fault::Errors if grpc => Ok(say(200, 14, grpc)),
        Fault::Errors => Ok(say(503, 0, grpc)),
        Fault::Slow => {
            tokio::time::sleep(SLOW).await;
            Ok(say(200, 0, grpc))
        }
        Fault::Reset => Err(BrokenOff),
        Fault::Hang | Fault::GoAway | Fault::Refuse => pending().await,
    }
}

fn say(status: u16, code: u32, grpc: bool) -> Answer {
    let message = Full::new(Bytes::from_static(&[0; 5])).map_err(|never| match never {});
    let builder = Response::builder().status(status);
    let answer = if grpc {
        let trailers = HeaderMap::from_iter([(hyper::header::HeaderName::from_static("grpc-status"), code.into())]);
        let body = message.with_trailers(async move { Some(Ok(trailers)) });
        builder.header("content-type", "application/grpc").body(BoxBody::new(body))
    } else {
        builder.body(BoxBody::new(message))
    };
    answer.expect("a valid answer")
}
