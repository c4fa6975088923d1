//! What a request carries between its admission and its settling.

/// No place: the call is not among those in flight.
pub(super) const NOWHERE: u32 = u32::MAX;

/// A request that asks for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Envoy's number of it.
    pub stream: u32,
    /// It ended with its headers. Otherwise its body is still to come, and the upstream owes nothing before the last
    /// byte has come: [`crate::breaker::Breaker::request_ended`] tells.
    pub whole: bool,
}

impl From<u32> for Request {
    /// A request that ended with its headers.
    fn from(stream: u32) -> Request {
        Request { stream, whole: true }
    }
}

/// Leave to send a request. Settled exactly once, whatever becomes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Nobody counts this request: its upstream has no circuit, or its circuit is switched off.
    Uncounted,
    /// A probe, on a lease.
    Probe {
        /// Which circuit.
        circuit: u32,
        /// Its generation then.
        generation: u64,
        /// Number of the lease.
        lease: u32,
    },
    /// Every circuit of the proxy was CLOSED, so nobody had to know even the upstream.
    Calm {
        /// Its place among the calls in flight.
        flight: u32,
        /// When it was admitted.
        start: u64,
    },
    /// A call of a circuit.
    Call {
        /// Its place among the calls in flight.
        flight: u32,
        /// Which circuit.
        circuit: u32,
        /// The circuit's generation then. [`Permit::NO_GENERATION`] where the circuit would have rejected it.
        generation: u64,
    },
}

impl Permit {
    /// Its place among the calls in flight.
    #[inline]
    pub(crate) fn flight(self) -> u32 {
        match self {
            Permit::Calm { flight, .. } | Permit::Call { flight, .. } => flight,
            Permit::Uncounted | Permit::Probe { .. } => NOWHERE,
        }
    }

    /// Whether the circuit would have rejected it, and let it pass only because the mode is observe.
    pub(crate) fn is_against(self) -> bool {
        matches!(self, Permit::Call { generation: Permit::NO_GENERATION, .. })
    }

    /// The generation of a call whose outcome must not move the circuit: no circuit ever reaches it.
    pub const NO_GENERATION: u64 = u64::MAX;
}

/// The circuit that a request left for its fallback. Another upstream may have its slot before the request has
/// landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its slot.
    pub circuit: u32,
    /// The generation that it began with.
    pub(crate) born: u64,
}

/// Why a request is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The circuit is OPEN.
    Open,
    /// HALF_OPEN, and all probes are out.
    ProbeLimit,
    /// HALF_OPEN, and this request is not one of the share that is admitted.
    Ramp,
    /// The policy says `forceOpen`.
    Forced,
}

impl Cause {
    /// The word for labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Cause::Open => "open",
            Cause::ProbeLimit => "probe_limit",
            Cause::Ramp => "ramp",
            Cause::Forced => "forced",
        }
    }

    /// What the access log's `response_code_details` says.
    #[must_use]
    pub fn details(self) -> &'static str {
        match self {
            Cause::Open => "circuit_breaker_open{open}",
            Cause::ProbeLimit => "circuit_breaker_open{probe_limit}",
            Cause::Ramp => "circuit_breaker_open{ramp}",
            Cause::Forced => "circuit_breaker_open{forced}",
        }
    }

    /// What the reply's `x-circuit-breaker` header says.
    #[must_use]
    pub fn header(self) -> &'static str {
        match self {
            Cause::Open => "open",
            Cause::ProbeLimit | Cause::Ramp => "half-open",
            Cause::Forced => "forced-open",
        }
    }
}

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Send it.
    Pass(Permit),
    /// Do not send it.
    Reject {
        /// The circuit that rejects it.
        circuit: u32,
        /// Why.
        cause: Cause,
        /// When it is worth coming back, in nanoseconds from now.
        retry_after: u64,
    },
}
