//! The metrics: names, kinds, labels, meanings, in one table. That of istio/monitoring/README.md is tested against it.

use crate::envoy::stat_name::stat_name;
use crate::host::MetricKind;

/// One metric.
pub struct Metric {
    /// Name in Prometheus.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// Values of the label `component`; empty where there is none.
    pub components: &'static [&'static str],
    /// Whether it has the label `tag`, the upstream.
    pub per_upstream: bool,
    /// The meaning, as `istio/monitoring/README.md` shows it.
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $id:ident = $name:literal, $kind:ident, $per:literal, [$($component:literal),*], $meaning:literal;)*) => {
        $($(#[doc = $doc])* pub static $id: Metric = Metric {
            name: $name, kind: MetricKind::$kind, components: &[$($component),*], per_upstream: $per,
            // Meanings are for documents and tests. In the module they would only take space.
            meaning: if cfg!(all(target_arch = "wasm32", not(feature = "testing"))) { "" } else { $meaning },
        };)*
        /// All metrics, in the order of `istio/monitoring/README.md`.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    /// The state.
    STATE = "circuit_breaker_state", Gauge, true, [], "0 CLOSED, 1 HALF_OPEN, 2 OPEN: `max()` is the worst";
    /// Settled calls.
    CALLS = "circuit_breaker_calls_total", Counter, true, ["success", "failure", "slow", "neutral"],
        "settled calls: slow ones did not fail, neutral ones say nothing about the upstream's present state";
    /// Failures by kind.
    FAILURES = "circuit_breaker_failures_total", Counter, true,
        ["http", "grpc", "connect", "timeout", "reset", "no_healthy_upstream", "overflow", "client_cancel", "rate_limited"],
        "failures by kind";
    /// Rejections.
    REJECTED = "circuit_breaker_rejected_total", Counter, true, ["open", "probe_limit", "ramp", "forced"],
        "requests not sent (enforce)";
    /// Rejections that observe did not make.
    WOULD_REJECT = "circuit_breaker_would_reject_total", Counter, true, ["open", "probe_limit", "ramp", "forced"],
        "requests that enforce would not have sent (observe)";
    /// Trips.
    TRIPS = "circuit_breaker_trips_total", Counter, true,
        ["consecutive", "failure_rate", "slow_rate", "latency", "probe_failed", "ramp_failed", "forced"], "CLOSED or HALF_OPEN to OPEN, by reason";
    /// Probes of the breaker's own.
    PROBES = "circuit_breaker_probes_total", Counter, true, ["success", "failure"],
        "probes that the breaker itself sent (`activeProbe`), by how they ended; they are no calls";
    /// Requests sent elsewhere.
    FALLBACK = "circuit_breaker_fallback_total", Counter, true, [], "requests sent to the fallback";
    /// End of OPEN.
    OPEN_UNTIL = "circuit_breaker_open_until_seconds", Gauge, true, [], "Unix time at which OPEN is over, 0 when not OPEN";
    /// What the policy lets the breaker do.
    MODE = "circuit_breaker_mode", Gauge, true, [],
        "1 observe, 2 disabled, 3 forceOpen, 0 enforce; an upstream that was always enforced has none";
    /// Recovery time.
    RECOVERY = "circuit_breaker_recovery_time_ms", Histogram, true, [], "first OPEN to CLOSED again";
    /// Latency.
    LATENCY = "circuit_breaker_latency_ms", Histogram, true, [], "time to the first byte of the answer of admitted calls, for `limits.latencyHistograms` upstreams";
    /// Calls over the threshold.
    OVER_THRESHOLD = "circuit_breaker_over_threshold_total", Counter, true, [],
        "settled calls that took longer than `latencyThreshold` (only where it is set)";
    /// The numbers that the workers share.
    SHARED = "circuit_breaker_shared", Gauge, true, ["epoch", "watch", "streak", "used"],
        "what the workers of a proxy share: writes of the circuit's record (without `tag`: of any record), \
        1 while the window holds a failure, a slow call or one over the latency threshold, or the circuit is not CLOSED, failures in a row, \
        when a request found the circuit not CLOSED last; each in the lower 32 bits, and `component` ends with a number of the process";
    /// Circuits.
    CIRCUITS = "circuit_breaker_circuits", Gauge, false, [], "circuits held";
    /// Requests beyond the limit.
    UNPROTECTED = "circuit_breaker_unprotected_total", Counter, false, [],
        "requests without a circuit because of `limits.maxCircuits`";
    /// Own errors.
    INTERNAL_ERRORS = "circuit_breaker_internal_errors_total", Counter, false, ["record", "cas", "host", "config"],
        "own errors, each failed open";
    /// What runs.
    INFO = "circuit_breaker_info", Gauge, false, [],
        "1 while it is in use, then 0: `tag` is the module (its version and a hash of its code), `component` the hash of the policy, as \
        `circuit-breaker check` prints it";
}

/// The stat name of a metric. `upstream` and `component` are left out where they are empty.
#[must_use]
pub fn stat(metric: &Metric, upstream: &str, component: &str) -> String {
    stat_name(metric.name, upstream, component)
}

/// Stat name of one of the gauges that the workers of one process share, by the number of the process. Without an
/// upstream it is the gauge of the whole proxy.
pub(crate) fn shared_name(process: u32, upstream: &str, component: &str) -> String {
    stat(&SHARED, upstream, &format!("{component}-{process:08x}"))
}
