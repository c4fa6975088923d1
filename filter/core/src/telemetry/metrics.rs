//! The metrics: names, kinds, labels, meanings, in one table. The README's table is tested against it.
//!
//! Envoy has no labels; a proxy that runs stock Istio's bootstrap cuts them out of the name. Labels stand first:
//! `wasm_filter.circuit_breaker.component.<value>.tag.<upstream>;.<metric>` becomes
//! `<metric>{wasm_filter="circuit_breaker", tag="<upstream>", component="<value>"}`.
//!
//! Each label is cut out by a pattern that takes its first match, so that an upstream's name stands behind `component`,
//! and what would end it or pass for another label in it is escaped: two upstreams never share a series.

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
    /// The meaning, in the README's words.
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $id:ident = $name:literal, $kind:ident, $per:literal, [$($component:literal),*], $meaning:literal;)*) => {
        $($(#[doc = $doc])* pub static $id: Metric = Metric {
            name: $name, kind: MetricKind::$kind, components: &[$($component),*], per_upstream: $per,
            // Meanings are for documents and tests: inside the module they would only weigh.
            meaning: if cfg!(all(target_arch = "wasm32", not(feature = "testing"))) { "" } else { $meaning },
        };)*
        /// All metrics, in the order of the README.
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
    /// Requests sent elsewhere.
    FALLBACK = "circuit_breaker_fallback_total", Counter, true, [], "requests sent to the fallback";
    /// End of OPEN.
    OPEN_UNTIL = "circuit_breaker_open_until_seconds", Gauge, true, [], "Unix time at which OPEN is over, 0 when not OPEN";
    /// Recovery time.
    RECOVERY = "circuit_breaker_recovery_time_ms", Histogram, true, [], "first OPEN to CLOSED again";
    /// Latency.
    LATENCY = "circuit_breaker_latency_ms", Histogram, true, [], "time to the first byte of the answer of admitted calls, for `limits.latencyHistograms` upstreams";
    /// Calls over the threshold.
    OVER_THRESHOLD = "circuit_breaker_over_threshold_total", Counter, true, [],
        "settled calls that took longer than `latencyThreshold` (only where it is set)";
    /// The words that the workers share.
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
}

/// The stat name of a metric. `upstream` and `component` are left out where they are empty.
#[must_use]
pub fn stat(metric: &Metric, upstream: &str, component: &str) -> String {
    let mut name = String::with_capacity(96_usize.saturating_add(upstream.len()));
    name.push_str("wasm_filter.circuit_breaker.");
    if !component.is_empty() {
        name.push_str("component.");
        name.push_str(component);
        name.push('.');
    }
    if !upstream.is_empty() {
        name.push_str("tag.");
        push_label(&mut name, upstream);
        name.push_str(";.");
    }
    name.push_str(metric.name);
    name
}

/// What begins another label.
const OTHER_LABEL: &str = "component";

/// Writes an upstream's name so that it can be told from any other and is one label: as in a URL, `%` and two digits
/// stand for what may not stand there itself. That is `;`, which ends the label, `%`, control characters, which no pattern
/// spans, and a dot after `component` (a service `web-component`).
fn push_label(label: &mut String, upstream: &str) {
    let from = label.len();
    for character in upstream.chars() {
        let ends = matches!(character, ';' | '%') || character.is_ascii_control();
        let begins = character == '.' && label.get(from..).is_some_and(|label| label.ends_with(OTHER_LABEL));
        if ends || begins {
            let code = u32::from(character);
            label.push('%');
            label.extend([code >> 4, code & 15].into_iter().filter_map(|digit| char::from_digit(digit, 16)));
        } else {
            label.push(character);
        }
    }
}

/// Stat name of one of the gauges that the workers of the process of this number share; without an upstream, of the whole
/// proxy.
pub(crate) fn shared_name(process: u32, upstream: &str, component: &str) -> String {
    stat(&SHARED, upstream, &format!("{component}-{process:08x}"))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn names_are_labels_that_no_other_name_has() {
        let label = |name: &str| {
            let mut label = String::new();
            push_label(&mut label, name);
            label
        };
        for (name, written) in [
            ("outbound|80|v1|a.b.svc.cluster.local", "outbound|80|v1|a.b.svc.cluster.local"),
            ("a;b", "a%3bb"),
            ("a%3bb", "a%253bb"),
            ("a_b", "a_b"),
            ("a\nb\u{7f}", "a%0ab%7f"),
            ("web-component.shop", "web-component%2eshop"),
            ("component.", "component%2e"),
            ("components.shop", "components.shop"),
            ("ä.b", "ä.b"),
        ] {
            assert_eq!(label(name), written);
        }
    }

    #[test]
    fn labels_stand_before_the_metric() {
        assert_eq!(
            stat(&CALLS, "a", "success"),
            "wasm_filter.circuit_breaker.component.success.tag.a;.circuit_breaker_calls_total"
        );
        assert_eq!(stat(&STATE, "a", ""), "wasm_filter.circuit_breaker.tag.a;.circuit_breaker_state");
        assert_eq!(stat(&CIRCUITS, "", ""), "wasm_filter.circuit_breaker.circuit_breaker_circuits");
    }
}
