//! What the module answers itself: a rejected request, and one that asks for the health of the upstreams.

use circuit_breaker_core::breaker::health::Report;
use circuit_breaker_core::breaker::permit::Cause;
use circuit_breaker_core::policy::Rejection;

use crate::envoy::{Envoy, Headers, LocalReply};

/// gRPC's UNAVAILABLE: "most likely a transient condition, try again", which is what clients and meshes act on.
const GRPC_UNAVAILABLE: i32 = 14;

/// A second and a millisecond in nanoseconds.
const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// The content type that Envoy gives a body of its own. It need not be set.
const TEXT: &str = "text/plain";

/// Answers in the upstream's place. `headers_only`: the request has no body. False: the host refused, and the request
/// must go on.
pub(crate) fn send(
    envoy: &impl Envoy,
    rejection: &Rejection,
    cause: Cause,
    retry_after: u64,
    headers_only: bool,
) -> bool {
    // A gRPC call ends with a message's frame, never with its headers (gRPC over HTTP/2, "Requests"), so a request
    // without a body is no gRPC call, and nobody need ask.
    let grpc = !headers_only && is_grpc(envoy);
    let seconds = retry_after.div_ceil(SECOND).max(1).to_string();
    let milliseconds = if grpc { retry_after.div_ceil(MILLISECOND).max(1).to_string() } else { String::new() };
    let mut headers: Vec<(&str, &str)> = Vec::with_capacity(rejection.headers.len().saturating_add(3));
    headers.push(("x-circuit-breaker", cause.header()));
    if rejection.retry_after {
        headers.push(("retry-after", &seconds));
        if grpc {
            headers.push(("grpc-retry-pushback-ms", &milliseconds));
        }
    }
    if !grpc && rejection.content_type != TEXT {
        headers.push(("content-type", &rejection.content_type));
    }
    headers.extend(rejection.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    // Envoy makes the body gRPC's message, where a line feed would show as %0A.
    let body = if grpc { rejection.body.trim_end() } else { &rejection.body };
    let reply = LocalReply {
        status: rejection.status,
        details: cause.details(),
        body: body.as_bytes(),
        headers: &headers,
        grpc_status: GRPC_UNAVAILABLE,
    };
    envoy.reply(&reply).is_ok()
}

fn is_grpc(envoy: &impl Envoy) -> bool {
    let content_type = envoy.header(Headers::Request, "content-type");
    content_type.is_some_and(|value| value.starts_with(b"application/grpc"))
}

/// Answers a request for the health of the upstreams. False: the host refused, and the request goes on.
pub(crate) fn health(envoy: &impl Envoy, report: &Report) -> bool {
    let reply = LocalReply {
        status: if report.healthy { 200 } else { 503 },
        details: "circuit_breaker_health",
        body: report.body.as_bytes(),
        headers: &[("content-type", "application/json"), ("cache-control", "no-store")],
        grpc_status: GRPC_UNAVAILABLE,
    };
    envoy.reply(&reply).is_ok()
}
