//! What `status` and `why` need of a Kubernetes API server: pods, their ports, their logs, and plugins.
//!
//! Ports are forwarded as the real one does it: over a WebSocket with one channel for data and one for errors a port,
//! each of whose first messages is the port's number.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// How a pod can be reached.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    /// By a forwarded port.
    Forward,
    /// Only by the API server's own request.
    Proxy,
    /// Not at all.
    None,
}

/// A pod of the namespace `shop`.
#[derive(Clone)]
pub struct Pod {
    pub name: &'static str,
    pub container: &'static str,
    pub way: Way,
    pub page: String,
    pub log: String,
}

/// A server, and a kubeconfig for it; both end with this.
pub struct ApiServer {
    kubeconfig: PathBuf,
    _runtime: Runtime,
}

struct Cluster {
    pods: Vec<Pod>,
    plugins: Vec<Value>,
}

impl ApiServer {
    pub fn start(name: &str, pods: Vec<Pod>, plugins: Vec<Value>) -> ApiServer {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let cluster = Arc::new(Cluster { pods, plugins });
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&cluster)));
            }
        });
        let kubeconfig = std::env::temp_dir().join(format!("circuit-breaker-{name}-{}", std::process::id()));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": server}}], "users": [{"name": "one", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "one"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        ApiServer { kubeconfig, _runtime: runtime }
    }

    pub fn kubeconfig(&self) -> &str {
        self.kubeconfig.to_str().unwrap()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

/// One connection: request after request, until one wants a port.
async fn serve(stream: TcpStream, cluster: Arc<Cluster>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if stream.read_line(&mut first).await.ok()? == 0 {
            return None;
        }
        let (mut header, mut key) = (String::new(), String::new());
        while stream.read_line(&mut header).await.ok()? > 2 {
            if let Some((_, value)) = header.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case(KEY)) {
                value.trim().clone_into(&mut key);
            }
            header.clear();
        }
        let path = first.split(' ').nth(1)?;
        let pod = cluster.pods.iter().find(|pod| path.contains(&format!("/pods/{}/portforward", pod.name)));
        if let Some(pod) = pod.filter(|pod| pod.way == Way::Forward) {
            return forward(stream, &key, &pod.page).await;
        }
        let (status, body) = cluster.answer(path);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
    }
}

const KEY: &str = "sec-websocket-key";

/// Answers one HTTP request that comes through the port.
async fn forward(mut stream: BufReader<TcpStream>, key: &str, page: &str) -> Option<()> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {}\r\nsec-websocket-protocol: v4.channel.k8s.io\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let [low, high] = 15090_u16.to_le_bytes();
    for channel in [0, 1] {
        socket.send(Message::binary(vec![channel, low, high])).await.ok()?;
    }
    let mut request: Vec<u8> = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        request.extend(socket.next().await?.ok()?.into_data().get(1..)?);
    }
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len());
    socket.send(Message::binary([&[0], answer.as_bytes()].concat())).await.ok()?;
    // Until the client has had enough.
    while socket.next().await?.is_ok() {}
    None
}

impl Cluster {
    fn answer(&self, path: &str) -> (u16, String) {
        let refused = |status: u16, why: &str| {
            let body =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": why, "code": status});
            (status, body.to_string())
        };
        let list = |items: Vec<Value>| {
            (200, json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}).to_string())
        };
        if path.starts_with("/api/v1/pods?") {
            return list(self.pods.iter().map(pod).collect());
        }
        if path == "/apis/extensions.istio.io/v1alpha1/wasmplugins" {
            return list(self.plugins.clone());
        }
        let Some(pod) = self.pods.iter().find(|pod| path.contains(&format!("/shop/pods/{}", pod.name))) else {
            return refused(404, "the server could not find the requested resource");
        };
        match (path.contains("/proxy/"), path.contains("/log?"), pod.way) {
            (true, _, Way::Proxy) => (200, pod.page.clone()),
            (_, true, Way::Forward | Way::Proxy) => (200, pod.log.clone()),
            (true, ..) => refused(503, "error trying to reach service: connection refused"),
            _ => refused(500, "nodes \"lab\" not found"),
        }
    }
}

fn pod(pod: &Pod) -> Value {
    json!({
        "metadata": {"name": pod.name, "namespace": "shop"},
        "spec": {"containers": [{"name": "app"}, {"name": pod.container}]},
        "status": {"phase": "Running"},
    })
}
