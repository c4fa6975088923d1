//! HTTP/1.1 clients. Every request has a connection of its own, so that Envoy spreads them over its workers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; where the connection broke, the part that had come.
    pub body: Bytes,
    /// From the request to the end of the answer.
    pub elapsed: Duration,
    /// Whether the body ended as it should.
    pub whole: bool,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whether the breaker answered in the upstream's place.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        self.headers.contains_key("x-circuit-breaker")
    }
}

/// GET on a new connection.
///
/// # Errors
/// No connection, or no answer.
pub async fn get(to: SocketAddr, path: &str) -> Result<Reply> {
    request(to, "GET", path, &[]).await
}

/// A request without a body on a new connection.
///
/// # Errors
/// No connection, or no answer.
pub async fn request(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Reply> {
    request_over(TcpStream::connect(to).await?, method, path, headers).await
}

/// A request without a body on this connection, which ends with the answer. Its host is `test` unless a header says
/// otherwise.
///
/// # Errors
/// No answer.
pub async fn request_over<S>(stream: S, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let start = Instant::now();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer; its errors are the request's.
    tokio::spawn(connection);
    let mut builder = Request::builder().method(method).uri(path).header("connection", "close");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        builder = builder.header("host", "test");
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let response = sender.send_request(builder.body(Empty::<Bytes>::new())?).await?;
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Ok(Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: bytes.into(),
        elapsed: start.elapsed(),
        whole,
    })
}

/// A POST whose body comes in two halves, the second one when it is asked for.
#[derive(Debug)]
pub struct Upload {
    stream: TcpStream,
    rest: &'static [u8],
}

impl Upload {
    /// Sends the head and half of the body, by its length or in chunks.
    ///
    /// # Errors
    /// No connection.
    pub async fn begin(to: SocketAddr, path: &str, chunked: bool) -> Result<Upload> {
        let mut stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (framing, half, rest): (&str, &str, &'static [u8]) = if chunked {
            ("transfer-encoding: chunked", "4\r\nhalf\r\n", b"4\r\nrest\r\n0\r\n\r\n")
        } else {
            ("content-length: 8", "half", b"rest")
        };
        let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{framing}\r\n\r\n{half}");
        stream.write_all(head.as_bytes()).await?;
        Ok(Upload { stream, rest })
    }

    /// Sends the other half.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn finish(&mut self) -> Result<()> {
        Ok(self.stream.write_all(self.rest).await?)
    }

    /// The whole answer as it came, once the connection is closed; where it broke, the part that had come.
    pub async fn answer(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset after the answer does not damage the answer.
        let _ = self.stream.read_to_end(&mut bytes).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
