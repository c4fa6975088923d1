//! A gRPC-like upstream and client: HTTP/2, `application/grpc`, the status in trailers or in the only headers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

/// Added to a code: the answer has headers only.
const HEADERS_ONLY: u32 = 1000;

#[derive(Debug, Default)]
struct Shared {
    code: AtomicU32,
    seen: AtomicU64,
}

/// A running gRPC upstream. Ends with the runtime.
#[derive(Debug)]
pub struct GrpcUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl GrpcUpstream {
    /// Listens on a free port and answers OK.
    ///
    /// # Panics
    /// No port is free.
    pub async fn start() -> GrpcUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&own);
                let service = service_fn(move |_: Request<Incoming>| {
                    let answer = answer(&shared);
                    async { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        GrpcUpstream { address, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it ends every call with this status, in trailers after a message.
    pub fn answer(&self, code: u32) {
        self.shared.code.store(code, Ordering::SeqCst);
    }

    /// From now on it ends every call with this status, in the only headers.
    pub fn answer_in_headers(&self, code: u32) {
        self.shared.code.store(code + HEADERS_ONLY, Ordering::SeqCst);
    }

    /// Calls seen so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::SeqCst)
    }
}

fn answer(shared: &Shared) -> Response<BoxBody<Bytes, Infallible>> {
    shared.seen.fetch_add(1, Ordering::SeqCst);
    let code = shared.code.load(Ordering::SeqCst);
    let builder = Response::builder().header("content-type", "application/grpc");
    if code >= HEADERS_ONLY {
        let body = BoxBody::new(Empty::new());
        return builder.header("grpc-status", code - HEADERS_ONLY).body(body).expect("a valid answer");
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    let frames = vec![Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0]))), Ok(Frame::trailers(trailers))];
    builder.body(BoxBody::new(StreamBody::new(Frames(frames.into_iter())))).expect("a valid answer")
}

/// Frames that are all there already, as a stream.
struct Frames(std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>);

impl futures_core::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

/// What a call came to.
#[derive(Clone, Debug)]
pub struct GrpcReply {
    /// HTTP status.
    pub status: u16,
    /// Headers, and the trailers after them.
    pub fields: HeaderMap,
}

impl GrpcReply {
    /// A header or trailer, or nothing.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// One unary call on a new connection.
///
/// # Errors
/// No connection, or no answer.
pub async fn call(to: SocketAddr, path: &str) -> Result<GrpcReply> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method("POST")
        .uri(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Empty::<Bytes>::new())?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let mut fields = parts.headers;
    if let Some(trailers) = body.collect().await?.trailers() {
        fields.extend(trailers.clone());
    }
    Ok(GrpcReply { status: parts.status.as_u16(), fields })
}
