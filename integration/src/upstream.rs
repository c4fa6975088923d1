//! A scripted HTTP/1.1 upstream. What it does with a request can change at any time, and it counts what it sees.
//!
//! It is written on bare sockets, because a breaker must notice what no server library does on purpose: a reset in
//! the middle of a body, a connection closed without an answer, an answer that never comes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What the upstream does with a request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers with this status.
    Status(u16),
    /// Answers with this status and one more header.
    With(u16, &'static str, String),
    /// Answers with this status after a time.
    Slow(Duration, u16),
    /// Answers with a body of so many bytes.
    Large(usize),
    /// Answers with this status and a body of so many bytes.
    LargeWith(u16, usize),
    /// Never answers.
    Hang,
    /// Resets the connection without an answer.
    ResetBeforeHeaders,
    /// Sends headers and half a body, then resets.
    ResetAfterHeaders,
    /// Closes the connection without an answer.
    Close,
    /// Sends headers and one chunk, and never ends.
    Endless,
    /// Sends these bytes and closes the connection.
    Raw(&'static str),
    /// Sends this head and then whatever it gets, until the connection is closed.
    Echo(&'static str),
    /// Sends headers and one chunk, and ends once [`Upstream::release`] lets it.
    Download,
    /// Answers with this status, once [`Upstream::release`] lets it.
    Gate(u16),
    /// Of every `of` requests the first `failing` ones fail with a 500: `(failing, of)`.
    FailingFirst(u64, u64),
    /// So many of every hundred requests fail with a 500, spread evenly; the rest are good.
    FailingPercent(u64),
}

#[derive(Debug)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    seen: AtomicU64,
    by_path: Mutex<BTreeMap<String, u64>>,
    headers: Mutex<BTreeMap<String, String>>,
    in_flight: AtomicU64,
    peak: AtomicU64,
    gate: Semaphore,
}

/// A running upstream. Closed when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Holds the port while nobody listens on it: a free port could become another test's.
    reserved: Mutex<Option<TcpSocket>>,
}

impl Upstream {
    /// Listens on a free port and answers 200.
    ///
    /// # Panics
    /// No port is free.
    pub async fn start() -> Upstream {
        Upstream::listen(0).await.expect("a free port")
    }

    /// Listens on this port and answers 200.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn listen(port: u16) -> std::io::Result<Upstream> {
        Upstream::serve_on(bound(SocketAddr::from(([127, 0, 0, 1], port)))?.listen(1024)?)
    }

    /// Answers 200 to each client of this listener, which may be in another network.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn serve_on(listener: TcpListener) -> std::io::Result<Upstream> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::Status(200)),
            seen: AtomicU64::new(0),
            by_path: Mutex::new(BTreeMap::new()),
            headers: Mutex::new(BTreeMap::new()),
            in_flight: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            gate: Semaphore::new(0),
        });
        let own = Arc::clone(&shared);
        let server = tokio::spawn(serve(listener, move |stream| converse(stream, Arc::clone(&own))));
        Ok(Upstream { address, shared, server: Mutex::new(Some(server)), reserved: Mutex::new(None) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it does this with every request.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().expect("no holder panics") = behaviour;
    }

    /// Requests seen so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::SeqCst)
    }

    /// Requests for this path seen so far.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    #[must_use]
    pub fn seen_for(&self, path: &str) -> u64 {
        self.shared.by_path.lock().expect("no holder panics").get(path).copied().unwrap_or(0)
    }

    /// A header of the last request, or nothing.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        self.shared.headers.lock().expect("no holder panics").get(name).cloned().unwrap_or_default()
    }

    /// Requests that it has received and not answered.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// The largest number of unanswered requests so far.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// Begins a new measurement of the peak.
    pub fn forget_peak(&self) {
        self.shared.peak.store(self.in_flight(), Ordering::SeqCst);
    }

    /// Lets so many requests through the gate.
    pub fn release(&self, requests: usize) {
        self.shared.gate.add_permits(requests);
    }

    /// Closes the port and all connections. New connections are refused.
    ///
    /// # Panics
    /// The system has no socket left.
    pub async fn refuse(&self) {
        // Opened before the listener lets the port go, so that the port is never free.
        *self.reserved.lock().expect("no holder panics") = Some(bound(self.address).expect("a port may be shared"));
        let server = self.server.lock().expect("no holder panics").take();
        if let Some(server) = server {
            server.abort();
            let _ = server.await;
        }
    }
}

/// A socket that holds the port, beside others of ours. Until it listens, new connections are refused.
pub(crate) fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().ok().and_then(|mut server| server.take()) {
            server.abort();
        }
    }
}

/// Serves each connection until the server is aborted.
pub(crate) async fn serve<C>(listener: TcpListener, converse: impl Fn(TcpStream) -> C)
where
    C: Future<Output = ()> + Send + 'static,
{
    // Connections live in the set: when the server is aborted, they end with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(converse(stream));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a request until it is dropped, in whatever way.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn enter(shared: &Arc<Shared>) -> InFlight {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.peak.fetch_max(now, Ordering::SeqCst);
        InFlight(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn converse(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some((path, headers)) = read_request(&mut stream, &mut buffer).await {
        *shared.by_path.lock().expect("no holder panics").entry(path).or_default() += 1;
        *shared.headers.lock().expect("no holder panics") = headers;
        let number = shared.seen.fetch_add(1, Ordering::SeqCst);
        let in_flight = InFlight::enter(&shared);
        let behaviour = shared.behaviour.lock().expect("no holder panics").clone();
        if !answer(&mut stream, &shared, behaviour, number).await {
            return;
        }
        drop(in_flight);
    }
}

/// Reads one request: without a body, with a content-length, or in chunks that do not hold an end of chunks
/// themselves. Returns its path and headers. `None`: no request will come.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, BTreeMap<String, String>)> {
    let mut continued = false;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(buffer) {
            Ok(httparse::Status::Complete(head)) => {
                let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
                let body = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
                let chunked =
                    request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding"));
                let end = buffer[head..].windows(LAST_CHUNK.len()).position(|bytes| bytes == LAST_CHUNK);
                let whole =
                    head + if chunked { end.unwrap_or(usize::MAX / 2) + LAST_CHUNK.len() } else { body.unwrap_or(0) };
                if buffer.len() >= whole {
                    let path = request.path.unwrap_or_default().to_owned();
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    let headers =
                        request.headers.iter().map(|header| (header.name.to_ascii_lowercase(), text(header.value)));
                    let headers = headers.collect();
                    buffer.drain(..whole);
                    return Some((path, headers));
                }
                if !continued && request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("expect")) {
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
                    continued = true;
                }
            }
            Ok(httparse::Status::Partial) => {}
            Err(_) => return None,
        }
        match stream.read_buf(buffer).await {
            Ok(read) if read > 0 => {}
            _ => return None,
        }
    }
}

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// False: the connection is not to be used again.
async fn answer(stream: &mut TcpStream, shared: &Shared, behaviour: Behaviour, number: u64) -> bool {
    match behaviour {
        Behaviour::Status(status) => send(stream, status).await,
        Behaviour::With(status, name, value) => {
            let answer = format!("HTTP/1.1 {status} Scripted\r\n{name}: {value}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.is_ok()
        }
        Behaviour::Large(size) => send_large(stream, 200, size).await,
        Behaviour::LargeWith(status, size) => send_large(stream, status, size).await,
        Behaviour::Slow(time, status) => {
            tokio::select! {
                () = tokio::time::sleep(time) => send(stream, status).await,
                () = gone(stream) => false,
            }
        }
        Behaviour::FailingPercent(percent) => {
            let fails = number * percent / 100 != (number + 1) * percent / 100;
            send(stream, if fails { 500 } else { 200 }).await
        }
        Behaviour::FailingFirst(failing, of) => send(stream, if number % of < failing { 500 } else { 200 }).await,
        Behaviour::Gate(status) => {
            tokio::select! {
                permit = shared.gate.acquire() => {
                    if let Ok(permit) = permit {
                        permit.forget();
                    }
                    send(stream, status).await
                }
                () = gone(stream) => false,
            }
        }
        Behaviour::Hang => {
            gone(stream).await;
            false
        }
        Behaviour::Endless => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\nevent\n\r\n";
            let _ = stream.write_all(head).await;
            gone(stream).await;
            false
        }
        Behaviour::Download => {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            let _ = stream.write_all(head).await;
            tokio::select! {
                permit = shared.gate.acquire() => {
                    if let Ok(permit) = permit {
                        permit.forget();
                    }
                    stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.is_ok()
                }
                () = gone(stream) => false,
            }
        }
        Behaviour::ResetBeforeHeaders => reset(stream),
        Behaviour::ResetAfterHeaders => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf of it";
            let _ = stream.write_all(head).await;
            let _ = stream.flush().await;
            reset(stream)
        }
        Behaviour::Raw(bytes) => {
            let _ = stream.write_all(bytes.as_bytes()).await;
            false
        }
        Behaviour::Echo(head) => {
            let _ = stream.write_all(head.as_bytes()).await;
            echo(stream).await;
            false
        }
        Behaviour::Close => false,
    }
}

async fn send_large(stream: &mut TcpStream, status: u16, size: usize) -> bool {
    let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.is_ok() && stream.write_all(&vec![b'x'; size]).await.is_ok()
}

async fn send(stream: &mut TcpStream, status: u16) -> bool {
    let answer = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 3\r\n\r\n{status}");
    stream.write_all(answer.as_bytes()).await.is_ok()
}

/// Closing with a linger of zero sends RST instead of FIN.
fn reset(stream: &TcpStream) -> bool {
    let _ = stream.set_zero_linger();
    false
}

async fn echo(stream: &mut TcpStream) {
    let mut bytes = [0; 256];
    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// Until the other side has closed the connection.
async fn gone(stream: &mut TcpStream) {
    let mut rest = [0; 256];
    while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
}
