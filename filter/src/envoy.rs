//! What the module asks of Envoy.
//!
//! It is a trait, for two reasons: all code but the host calls themselves is tested natively over a scripted double,
//! and another host can take the place of Envoy's Wasm ABI.

use circuit_breaker_core::host::{Host, HostError};

/// The property that names the upstream. It is known from the request headers on, since Envoy takes the route before
/// the filters run.
pub(crate) const CLUSTER: &str = "xds\0cluster_name";

/// The property that exists once Envoy has chosen a host of the upstream.
pub(crate) const ADDRESS: &str = "upstream\0address";

/// Envoy's response flags.
pub(crate) const FLAGS: &str = "response\0flags";

/// How often Envoy's router has tried; 0 before it has the request.
pub(crate) const ATTEMPTS: &str = "upstream\0request_attempt_count";

/// Kinds of header maps, by their number in the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Headers {
    Request = 0,
    Response = 2,
    ResponseTrailers = 3,
    /// The answer to a request of the module's own.
    CallResponse = 6,
}

/// A reply that Envoy is to give in the upstream's place.
pub(crate) struct LocalReply<'a> {
    pub(crate) status: u32,
    /// Shown as `response_code_details`.
    pub(crate) details: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// Only read for gRPC requests.
    pub(crate) grpc_status: i32,
}

/// The host's handle of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) Vec<u8>);

/// The value of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Evaluated {
    Text(String),
    Null,
}

/// The host of one root context. Questions about a request are about the one that Envoy is calling us for.
pub(crate) trait Envoy: Host + Clone + 'static {
    /// Nanoseconds since 1970. 0 where the host has no clock, which the breaker takes for a clock that stepped back.
    fn now(&self) -> u64;

    /// A property, its path joined by zero bytes. `None`: absent or empty.
    fn property(&self, path: &str) -> Option<Vec<u8>>;

    /// The value of a header. `None`: absent or empty, and this answer costs next to nothing.
    fn header(&self, map: Headers, name: &str) -> Option<Vec<u8>>;

    /// Sets a header of the request in the place of all others of its name.
    fn set_request_header(&self, name: &str, value: &str) -> Result<(), HostError>;

    /// Forgets the request's route, which is then looked for again by its headers as they are now.
    fn clear_route_cache(&self) -> Result<(), HostError>;

    /// Makes an expression over the properties of a request (CEL), which Envoy keeps with the root context. `None`: this
    /// host has no expressions, or not such ones.
    fn create(&self, expression: &str) -> Option<Token>;

    /// Evaluates an expression for the present request. `None`: an error, for example a property that the request
    /// does not have.
    fn evaluate(&self, expression: &Token) -> Option<Evaluated>;

    /// Ends an expression.
    fn delete(&self, expression: &Token);

    /// Sends the reply once the present callback has returned.
    fn reply(&self, reply: &LocalReply<'_>) -> Result<(), HostError>;

    /// Asks for a tick every `period` nanoseconds.
    fn tick_every(&self, period: u64);

    /// From now on circuits and series are those of this plugin. Two plugins of one proxy share none.
    fn belong_to(&mut self, plugin: &str);

    /// The `pluginConfig` as it came.
    fn plugin_configuration(&self) -> Vec<u8>;

    /// A property that is a number.
    fn number(&self, path: &str) -> Option<u64> {
        self.property(path)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Whether the request has come through all filters, to the router.
    fn is_sent(&self) -> bool {
        self.number(ATTEMPTS).is_none_or(|attempts| attempts > 0)
    }

    /// A property that is text.
    fn text(&self, path: &str) -> Option<String> {
        String::from_utf8(self.property(path)?).ok()
    }
}
