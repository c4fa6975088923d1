//! A small HTTP server that stands for many proxies: what it answers is a function of the path and of how often that
//! path was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What a path gets.
pub enum Answer {
    /// 200 and this text.
    Page(String),
    /// This status.
    Status(u16),
    /// Nothing, and the connection stays.
    Never,
}

type Answers = dyn Fn(&str, u64) -> Answer + Send + Sync;

/// A server; it ends with this.
pub struct Server {
    port: u16,
    _runtime: Runtime,
}

impl Server {
    /// On a free port.
    pub fn start(answer: impl Fn(&str, u64) -> Answer + Send + Sync + 'static) -> Server {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, times): (Arc<Answers>, _) = (Arc::new(answer), Arc::new(Mutex::new(HashMap::new())));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answer), Arc::clone(&times)));
            }
        });
        Server { port, _runtime: runtime }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// One connection, request after request.
async fn serve(
    stream: TcpStream,
    answer: Arc<Answers>,
    times: Arc<Mutex<HashMap<String, u64>>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if stream.read_line(&mut first).await? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while stream.read_line(&mut header).await? > 2 {
            header.clear();
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let time = {
            let mut times = times.lock().unwrap();
            let time = times.entry(path.clone()).or_insert(0);
            *time += 1;
            *time
        };
        let (status, body) = match answer(&path, time) {
            Answer::Page(page) => (200, page),
            Answer::Status(status) => (status, "no healthy upstream".to_owned()),
            Answer::Never => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
    }
}
