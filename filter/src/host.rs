//! The only user of host calls: [`Envoy`], over the proxy-wasm ABI. It handles every status, and nothing panics.
//!
//! The SDK's wrappers panic on statuses that they do not expect, and a panic inside Envoy is an outage. So the calls
//! are declared here. They also do what the SDK leaves out: details of a local reply, and metrics without a trait
//! object.

// Calls through a foreign interface are unsafe by nature. Only this file has them.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ptr::{null, null_mut};
use std::rc::Rc;

use circuit_breaker_core::clock::MILLISECOND;
use circuit_breaker_core::envoy::{self, Details};
use circuit_breaker_core::host::{Host, HostError, Level, MetricKind, Progress};
use circuit_breaker_core::policy::active::ActiveProbe;
use circuit_breaker_core::policy::classify::{Answer, Ending};

use crate::envoy::{CLUSTER, Envoy, Evaluated, FLAGS, Headers, LocalReply, Token};
use crate::glance::Seen;
use crate::name::name;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_current_time_nanoseconds(now: *mut u64) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, value_size: usize, cas: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, value: *mut *mut u8, value_size: *mut usize) -> u32;
    fn proxy_get_buffer_bytes(kind: u32, start: usize, most: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        argument: *const u8,
        argument_size: usize,
        result: *mut *mut u8,
        result_size: *mut usize,
    ) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        call: *mut u32,
    ) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
}

// Statuses of the proxy-wasm ABI.
const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
/// A value that has no bytes. Among the values of an expression only `null` has none (Envoy's `serializeValue`).
const SERIALIZATION_FAILURE: u32 = 3;
const CAS_MISMATCH: u32 = 8;
/// A call that has failed before it was sent: no healthy host, or a full pool (Envoy's `Context::httpCall`). Envoy calls
/// the module for it no more.
const INTERNAL_FAILURE: u32 = 10;

/// `BufferType` of the plugin's configuration.
const PLUGIN_CONFIGURATION: u32 = 7;

fn ok(status: u32) -> Result<(), HostError> {
    if status == OK { Ok(()) } else { Err(HostError(status)) }
}

/// Takes over bytes that the host put into memory which this module's `malloc` gave it.
///
/// # Safety
/// `data` is null or came from a host call that returned `size` with it: the SDK's `malloc` hands the host a `Vec` of
/// exactly that capacity.
unsafe fn taken(data: *mut u8, size: usize) -> Vec<u8> {
    if data.is_null() { Vec::new() } else { unsafe { Vec::from_raw_parts(data, size, size) } }
}

/// Calls a foreign function. An error where the host has no such function, or where it fails.
fn foreign(name: &str, argument: &[u8]) -> Result<Vec<u8>, HostError> {
    let (mut data, mut size) = (null_mut(), 0);
    let status = unsafe {
        proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            argument.as_ptr(),
            argument.len(),
            &raw mut data,
            &raw mut size,
        )
    };
    let result = unsafe { taken(data, size) };
    ok(status).map(|()| result)
}

/// A header map in the ABI's form: the number of pairs, the sizes of names and values, then all of them, each ended
/// by a zero byte.
fn serialized(headers: &[(&str, &str)]) -> Vec<u8> {
    let size = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    // Eight bytes for the sizes of a pair, and two for its zero bytes.
    let room = headers.iter().map(|(name, value)| name.len().saturating_add(value.len()).saturating_add(10));
    let mut bytes = Vec::with_capacity(room.fold(4, usize::saturating_add));
    bytes.extend_from_slice(&u32::try_from(headers.len()).unwrap_or(0).to_le_bytes());
    for (name, value) in headers {
        bytes.extend_from_slice(&size(name));
        bytes.extend_from_slice(&size(value));
    }
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// What the breaker's own probes say of themselves, if the policy says nothing: servers' logs shall tell them from users.
const AGENT: (&str, &str) = ("user-agent", "circuit-breaker-probe");

/// The ABI of one root context.
#[derive(Clone, Debug)]
pub(crate) struct Abi {
    /// Envoy's number of our root context. A tick runs in it, and the module returns to it after a look at a request.
    root: u32,
    /// The text that stands in place of [`OWN`] in the names of this plugin's keys and metrics. `None`: none does.
    space: Option<Rc<str>>,
}

/// The plugin's usual name. The names of keys and metrics begin with it.
const OWN: &str = "circuit_breaker";

/// The names of metrics begin with this, before [`OWN`].
const LABEL: &str = "wasm_filter.";

impl Abi {
    /// The host for the root context of this number.
    pub(crate) fn of(root: u32) -> Abi {
        Abi { root, space: None }
    }

    /// A name of ours in the plugin's own space.
    fn own<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let Some(space) = &self.space else { return Cow::Borrowed(name) };
        let (label, rest) = name.strip_prefix(LABEL).map_or(("", name), |rest| (LABEL, rest));
        match rest.strip_prefix(OWN) {
            Some(rest) => Cow::Owned([label, space, rest].concat()),
            None => Cow::Borrowed(name),
        }
    }

    /// From the tick: calls `look` with a request in flight. `None` where the request has ended.
    fn looking_at<T>(&self, stream: u32, look: impl FnOnce() -> Option<T>) -> Option<T> {
        ok(unsafe { proxy_set_effective_context(stream) }).ok()?;
        let seen = look();
        unsafe { proxy_set_effective_context(self.root) };
        seen
    }
}

impl Envoy for Abi {
    fn now(&self) -> u64 {
        let mut now = 0;
        unsafe { proxy_get_current_time_nanoseconds(&raw mut now) };
        now
    }

    fn property(&self, path: &str) -> Option<Vec<u8>> {
        let (mut data, mut size) = (null_mut(), 0);
        let status = unsafe { proxy_get_property(path.as_ptr(), path.len(), &raw mut data, &raw mut size) };
        let value = unsafe { taken(data, size) };
        (status == OK && !value.is_empty()).then_some(value)
    }

    fn header(&self, map: Headers, name: &str) -> Option<Vec<u8>> {
        let (mut data, mut size) = (null_mut(), 0);
        let status =
            unsafe { proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), &raw mut data, &raw mut size) };
        let value = unsafe { taken(data, size) };
        (status == OK && !value.is_empty()).then_some(value)
    }

    fn set_request_header(&self, name: &str, value: &str) -> Result<(), HostError> {
        let map = Headers::Request as u32;
        ok(unsafe { proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
    }

    /// Of the header itself Envoy takes notice only for modules of ABI 0.2.1 and older (`ContextBase::onHeadersModified`).
    fn clear_route_cache(&self) -> Result<(), HostError> {
        foreign("clear_route_cache", &[]).map(|_| ())
    }

    fn create(&self, expression: &str) -> Option<Token> {
        let token = foreign("expr_create", expression.as_bytes()).ok()?;
        (!token.is_empty()).then_some(Token(token))
    }

    fn evaluate(&self, expression: &Token) -> Option<Evaluated> {
        match foreign("expr_evaluate", &expression.0) {
            Ok(bytes) => String::from_utf8(bytes).ok().map(Evaluated::Text),
            Err(HostError(SERIALIZATION_FAILURE)) => Some(Evaluated::Null),
            Err(_) => None,
        }
    }

    fn delete(&self, expression: &Token) {
        // An expression that the host no longer knows needs no end.
        let _ = foreign("expr_delete", &expression.0);
    }

    fn reply(&self, reply: &LocalReply<'_>) -> Result<(), HostError> {
        let headers = serialized(reply.headers);
        ok(unsafe {
            proxy_send_local_response(
                reply.status,
                reply.details.as_ptr(),
                reply.details.len(),
                reply.body.as_ptr(),
                reply.body.len(),
                headers.as_ptr(),
                headers.len(),
                reply.grpc_status,
            )
        })
    }

    fn tick_every(&self, period: u64) {
        let milliseconds = u32::try_from(period / MILLISECOND).unwrap_or(u32::MAX).max(1);
        unsafe { proxy_set_tick_period_milliseconds(milliseconds) };
    }

    fn belong_to(&mut self, plugin: &str) {
        // Envoy's patterns end this label at the next dot.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let space = plugin.replace(|c| !is_plain(c), "_");
        self.space = (!space.is_empty() && space != OWN).then(|| space.into());
    }

    fn plugin_configuration(&self) -> Vec<u8> {
        let (mut data, mut size) = (null_mut(), 0);
        unsafe {
            proxy_get_buffer_bytes(PLUGIN_CONFIGURATION, 0, usize::MAX, &raw mut data, &raw mut size);
            taken(data, size)
        }
    }
}

impl Host for Abi {
    fn module(&self) -> &str {
        name()
    }

    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        let key = &*self.own(key);
        let (mut data, mut size, mut cas) = (null_mut(), 0, 0);
        let status =
            unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), &raw mut data, &raw mut size, &raw mut cas) };
        let value = unsafe { taken(data, size) };
        match status {
            OK => Ok(Some((value, cas))),
            NOT_FOUND => Ok(None),
            other => Err(HostError(other)),
        }
    }

    fn swap(&self, key: &str, value: &[u8], expected: u32) -> Result<bool, HostError> {
        let key = &*self.own(key);
        match unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), expected) } {
            OK => Ok(true),
            CAS_MISMATCH => Ok(false),
            other => Err(HostError(other)),
        }
    }

    fn define(&self, kind: MetricKind, name: &str) -> Result<u32, HostError> {
        let kind = match kind {
            MetricKind::Counter => 0,
            MetricKind::Gauge => 1,
            MetricKind::Histogram => 2,
        };
        let name = &*self.own(name);
        let mut id = 0;
        ok(unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) }).map(|()| id)
    }

    fn add(&self, metric: u32, delta: i64) -> Result<(), HostError> {
        ok(unsafe { proxy_increment_metric(metric, delta) })
    }

    fn record(&self, metric: u32, value: u64) -> Result<(), HostError> {
        ok(unsafe { proxy_record_metric(metric, value) })
    }

    fn read(&self, metric: u32) -> Result<u64, HostError> {
        let mut value = 0;
        ok(unsafe { proxy_get_metric(metric, &raw mut value) }).map(|()| value)
    }

    fn progress_of(&self, stream: u32) -> Option<Progress> {
        self.looking_at(stream, || {
            let upstream = self.text(CLUSTER)?;
            let delayed = envoy::is_delayed(self.number(FLAGS).unwrap_or(0));
            Some(Progress { upstream, sent: self.is_sent(), delayed })
        })
    }

    fn answer_of(&self, stream: u32) -> Option<(String, Answer)> {
        self.looking_at(stream, || {
            let ended = Seen::read(self);
            // Whoever asks only trusts what is good and the upstream's own.
            let own = ended.details == Details::ViaUpstream;
            let ending = if own { Ending::Answered } else { Ending::Elsewhere };
            let upstream = ended.upstream?.to_string();
            (ended.status != 0).then_some((upstream, Answer { ending, ..Answer::of_status(ended.status) }))
        })
    }

    fn send(&self, upstream: &str, probe: &ActiveProbe) -> Result<Option<u32>, HostError> {
        let mut headers =
            vec![(":method", probe.method), (":path", &*probe.path), (":authority", probe.authority_for(upstream))];
        if !probe.headers.iter().any(|(name, _)| name == AGENT.0) {
            headers.push(AGENT);
        }
        headers.extend(probe.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let headers = serialized(&headers);
        let timeout = u32::try_from(probe.timeout / MILLISECOND).unwrap_or(u32::MAX);
        let mut call = 0;
        let status = unsafe {
            proxy_http_call(
                upstream.as_ptr(),
                upstream.len(),
                headers.as_ptr(),
                headers.len(),
                null(),
                0,
                null(),
                0,
                timeout,
                &raw mut call,
            )
        };
        match status {
            OK => Ok(Some(call)),
            INTERNAL_FAILURE => Ok(None),
            other => Err(HostError(other)),
        }
    }

    fn log(&self, level: Level, line: &str) {
        match level {
            Level::Info => log::info!("{line}"),
            Level::Warn => log::warn!("{line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plugin_has_names_of_its_own() {
        let mut abi = Abi::of(1);
        let names =
            ["circuit_breaker:slot:1", "wasm_filter.circuit_breaker.tag.circuit_breaker;.circuit_breaker_state"];
        for usual in ["circuit_breaker", ""] {
            abi.belong_to(usual);
            assert_eq!(names.map(|name| abi.own(name).into_owned()), names);
        }
        abi.belong_to("edge.strict");
        assert_eq!(
            names.map(|name| abi.own(name).into_owned()),
            ["edge_strict:slot:1", "wasm_filter.edge_strict.tag.circuit_breaker;.circuit_breaker_state"]
        );
    }

    #[test]
    fn a_header_map_is_written_as_the_abi_wants_it() {
        let bytes = serialized(&[("a", "xy"), ("bc", "")]);
        assert_eq!(bytes, b"\x02\0\0\0\x01\0\0\0\x02\0\0\0\x02\0\0\0\0\0\0\0a\0xy\0bc\0\0");
    }
}
