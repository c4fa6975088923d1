//! A gRPC-like upstream and client: HTTP/2, `application/grpc`, the status in trailers or in the only headers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// How the upstream ends a call.
#[derive(Clone, Debug)]
pub enum Ending {
    /// This status, in trailers after a message.
    Trailers(u32),
    /// This status, in the only headers.
    Headers(u32),
    /// This status and `grpc-retry-pushback-ms`, in trailers after a message.
    Pushback(u32, u32),
    /// A message and nothing after it.
    NoStatus,
    /// A message, and this status in trailers once [`GrpcUpstream::break_off`] says so.
    Late(u32),
    /// Nothing for this time, and then OK.
    After(std::time::Duration),
    /// A message; once [`GrpcUpstream::break_off`] says so it resets the stream.
    Reset,
    /// A message; once [`GrpcUpstream::break_off`] says so it closes the connection.
    Close,
}

#[derive(Debug)]
struct Shared {
    ending: Mutex<Ending>,
    seen: AtomicU64,
    break_off: Notify,
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
        let shared = Arc::new(Shared {
            ending: Mutex::new(Ending::Trailers(0)),
            seen: AtomicU64::new(0),
            break_off: Notify::new(),
        });
        let own = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&own)));
            }
        });
        GrpcUpstream { address, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it ends every call in this way.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn end_with(&self, ending: Ending) {
        *self.shared.ending.lock().expect("no holder panics") = ending;
    }

    /// Breaks off the call that waits for this.
    pub fn break_off(&self) {
        self.shared.break_off.notify_one();
    }

    /// Calls seen so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let close = Arc::new(Notify::new());
    let closing = Arc::clone(&close);
    let service = service_fn(move |_: Request<Incoming>| {
        shared.seen.fetch_add(1, Ordering::SeqCst);
        let ending = shared.ending.lock().expect("no holder panics").clone();
        let wait = if let Ending::After(time) = ending { time } else { std::time::Duration::ZERO };
        let answer = answer(ending, &shared, &closing);
        async move {
            tokio::time::sleep(wait).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let connection =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => {}
        () = close.notified() => {}
    }
}

fn answer(ending: Ending, shared: &Arc<Shared>, close: &Arc<Notify>) -> Response<BoxBody<Bytes, BrokenOff>> {
    let builder = Response::builder().header("content-type", "application/grpc");
    if let Ending::Headers(code) = ending {
        let body = Empty::new().map_err(|never| match never {});
        return builder.header("grpc-status", code).body(BoxBody::new(body)).expect("a valid answer");
    }
    let (sender, frames) = tokio::sync::mpsc::channel(2);
    tokio::spawn(speak(ending, sender, Arc::clone(shared), Arc::clone(close)));
    builder.body(BoxBody::new(StreamBody::new(Frames(frames)))).expect("a valid answer")
}

type Sender = tokio::sync::mpsc::Sender<Result<Frame<Bytes>, BrokenOff>>;

async fn speak(ending: Ending, frames: Sender, shared: Arc<Shared>, close: Arc<Notify>) {
    // Where a frame cannot be sent, the caller has gone.
    let _ = frames.send(Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0])))).await;
    let mut trailers = HeaderMap::new();
    match ending {
        Ending::Trailers(code) | Ending::Headers(code) => {
            trailers.insert("grpc-status", code.into());
        }
        Ending::Pushback(code, milliseconds) => {
            trailers.insert("grpc-status", code.into());
            trailers.insert("grpc-retry-pushback-ms", milliseconds.into());
        }
        Ending::After(_) => {
            trailers.insert("grpc-status", 0.into());
        }
        Ending::Late(code) => {
            shared.break_off.notified().await;
            trailers.insert("grpc-status", code.into());
        }
        Ending::NoStatus => return,
        Ending::Reset => {
            shared.break_off.notified().await;
            let _ = frames.send(Err(BrokenOff)).await;
            return;
        }
        Ending::Close => {
            shared.break_off.notified().await;
            close.notify_one();
            return frames.closed().await;
        }
    }
    let _ = frames.send(Ok(Frame::trailers(trailers))).await;
}

/// The upstream broke its answer off on purpose.
#[derive(Debug)]
pub struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken off on purpose")
    }
}

impl std::error::Error for BrokenOff {}

/// Frames as they come.
struct Frames(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, BrokenOff>>);

impl futures_core::Stream for Frames {
    type Item = Result<Frame<Bytes>, BrokenOff>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// The result of a call.
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

/// Not compressed, and of no bytes. Every gRPC call has the frame of a message, or an empty frame of HTTP/2 at its
/// end.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// One unary call on a new connection, up to its end.
///
/// # Errors
/// No connection, or no whole answer.
pub async fn call(to: SocketAddr, path: &str) -> Result<GrpcReply> {
    let (parts, body) = begin(to, path).await?.into_parts();
    let mut fields = parts.headers;
    if let Some(trailers) = body.collect().await?.trailers() {
        fields.extend(trailers.clone());
    }
    Ok(GrpcReply { status: parts.status.as_u16(), fields })
}

/// One call on a new connection, up to its headers.
///
/// # Errors
/// No connection, or no answer.
pub async fn begin(to: SocketAddr, path: &str) -> Result<Response<Incoming>> {
    begin_with(to, path, &[], EMPTY_MESSAGE.len()).await
}

/// One call of a browser (gRPC-Web) on a new connection. Returns the body of its answer, which ends with its
/// trailers.
///
/// # Errors
/// No connection, or no whole answer.
pub async fn web(to: SocketAddr, path: &str) -> Result<String> {
    let answer = over_http1(to, path, "application/grpc-web+proto").await?;
    Ok(String::from_utf8_lossy(&answer.into_body().collect().await?.to_bytes()).into_owned())
}

/// One call over HTTP/1.1 on a new connection, up to the headers of its answer.
///
/// # Errors
/// No connection, or no answer.
pub async fn over_http1(to: SocketAddr, path: &str, content_type: &str) -> Result<Response<Incoming>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(path).header("host", "test").header("content-type", content_type);
    Ok(sender.send_request(request.body(Full::new(Bytes::from_static(EMPTY_MESSAGE)))?).await?)
}

/// A GET over HTTP/2 on a new connection, up to the headers of its answer.
///
/// # Errors
/// No connection, or no answer.
pub async fn get(to: SocketAddr, path: &str) -> Result<Response<Incoming>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(Request::get(format!("http://test{path}")).body(Empty::<Bytes>::new())?).await?)
}

/// As [`begin`], with more headers and with a message of so many bytes.
///
/// # Errors
/// No connection, or no answer.
pub async fn begin_with(
    to: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    size: usize,
) -> Result<Response<Incoming>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method("POST")
        .uri(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(vec![0; size])))?;
    Ok(sender.send_request(request).await?)
}
