//! An upstream whose health the user sets by curl.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::upstream::{Behaviour, Upstream};

/// Sets what the upstream does by requests to this port: `/fail`, `/hang`, `/reset` or `/healthy`.
pub async fn obey(listener: TcpListener, upstream: Arc<Upstream>) {
    while let Ok((stream, _)) = listener.accept().await {
        let upstream = Arc::clone(&upstream);
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = order(&upstream, request.uri().path());
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer)))) }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn order(upstream: &Upstream, path: &str) -> String {
    let behaviour = match path {
        "/healthy" => Behaviour::Status(200),
        "/fail" => Behaviour::Status(500),
        "/hang" => Behaviour::Hang,
        "/reset" => Behaviour::ResetBeforeHeaders,
        _ => return "the upstream can be told: /healthy, /fail, /hang, /reset\n".to_owned(),
    };
    upstream.behave(behaviour);
    format!("the upstream is now: {}\n", path.trim_start_matches('/'))
}
