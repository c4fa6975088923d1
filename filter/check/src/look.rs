//! One proxy at one moment: the circuits that it holds, as its metrics say.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use circuit_breaker_core::telemetry::metrics::{
    CALLS, CIRCUITS, FAILURES, INFO, MODE, Metric, OPEN_UNTIL, REJECTED, STATE, TRIPS, WOULD_REJECT,
};
use percent_encoding::percent_decode_str;

use crate::exposition::{Sample, samples};

/// How a circuit stands; the larger the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// All requests pass.
    Closed,
    /// Some pass, to see.
    HalfOpen,
    /// None pass.
    Open,
}

impl State {
    /// The word that metrics, logs and documents use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Closed => "CLOSED",
            State::HalfOpen => "HALF_OPEN",
            State::Open => "OPEN",
        }
    }

    /// From the gauge. During a hot restart two processes add up to as much as 4.
    #[must_use]
    pub fn of(gauge: f64) -> State {
        match gauge {
            value if value >= 2.0 => State::Open,
            value if value >= 1.0 => State::HalfOpen,
            _ => State::Closed,
        }
    }
}

/// The words of `circuit_breaker_mode`, by its value. A circuit without the gauge enforces.
pub const MODES: [&str; 4] = ["enforce", "observe", "disabled", "forceOpen"];

/// Counts by the label `component`.
pub type Counts = BTreeMap<String, f64>;

/// One circuit of one proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Circuit {
    /// The state; nothing where only counters are left.
    pub state: Option<State>,
    /// Unix time at which OPEN is over; 0 where it is not OPEN.
    pub open_until: f64,
    /// Index into [`MODES`].
    pub mode: usize,
    /// Trips by reason.
    pub trips: Counts,
    /// Calls by outcome.
    pub calls: Counts,
    /// Failures by kind.
    pub failures: Counts,
    /// Requests not sent, so far.
    pub rejected: f64,
    /// Requests that enforce would not have sent, so far.
    pub would_reject: f64,
}

/// What a proxy's page says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Whether the module runs in it.
    pub protected: bool,
    /// By upstream.
    pub circuits: BTreeMap<String, Circuit>,
    /// Hashes of the policies in use.
    pub policies: BTreeSet<String>,
    /// Versions of the module in use.
    pub modules: BTreeSet<String>,
    /// Hosts that outlier detection has ejected, by Envoy's cluster; where the proxy keeps the series.
    pub ejected: Counts,
}

/// What is read of a circuit.
static OF_A_CIRCUIT: [&Metric; 8] = [&STATE, &OPEN_UNTIL, &MODE, &TRIPS, &CALLS, &FAILURES, &REJECTED, &WOULD_REJECT];

/// What Envoy itself says of ejected hosts.
const EJECTED: &str = "envoy_cluster_outlier_detection_ejections_active";

impl Look {
    /// Reads a page in Prometheus' text format.
    #[must_use]
    pub fn read(page: &str) -> Look {
        let mut look = Look::default();
        samples(page, &["circuit_breaker_", EJECTED]).for_each(|sample| look.add(&sample));
        look
    }

    fn add(&mut self, sample: &Sample<'_>) {
        let (tag, component) = (sample.label("tag"), sample.label("component"));
        match sample.name {
            EJECTED => {
                // Istio calls the label so, a bare Envoy the other way.
                let names = [sample.label("cluster_name"), sample.label("envoy_cluster_name")];
                let cluster = names.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
                self.ejected.insert(cluster.to_owned(), sample.value);
            }
            name if name == CIRCUITS.name => self.protected = true,
            name if name == INFO.name && sample.value > 0.0 => {
                self.policies.insert(component.to_owned());
                self.modules.insert(tag.to_owned());
            }
            name if !tag.is_empty() => self.circuit(tag, name, component, sample.value),
            _ => {}
        }
    }

    fn circuit(&mut self, tag: &str, name: &str, component: &str, value: f64) {
        let Some(metric) = OF_A_CIRCUIT.iter().find(|metric| metric.name == name) else { return };
        let circuit = self.circuits.entry(upstream_of(tag)).or_default();
        let is = |other: &Metric| metric.name == other.name;
        let count = |counts: &mut Counts| *counts.entry(component.to_owned()).or_default() += value;
        if is(&STATE) {
            circuit.state = Some(State::of(value));
        } else if is(&OPEN_UNTIL) {
            circuit.open_until = value;
        } else if is(&MODE) {
            circuit.mode = mode_of(value);
        } else if is(&REJECTED) {
            circuit.rejected += value;
        } else if is(&WOULD_REJECT) {
            circuit.would_reject += value;
        } else if is(&TRIPS) {
            count(&mut circuit.trips);
        } else if is(&CALLS) {
            count(&mut circuit.calls);
        } else {
            count(&mut circuit.failures);
        }
    }
}

/// The index of a mode's word. A number that this version does not know is taken for enforce.
pub(crate) fn mode_of(value: f64) -> usize {
    (0_u8..).zip(MODES).position(|(number, _)| f64::from(number) == value).unwrap_or(0)
}

/// The upstream that a `tag` stands for: some of its characters are written there as in a URL.
#[must_use]
pub fn upstream_of(tag: &str) -> String {
    percent_decode_str(tag).decode_utf8().map_or_else(|_| tag.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use circuit_breaker_core::policy::Mode;

    const PAGE: &str = r#"
circuit_breaker_circuits{wasm_filter="circuit_breaker"} 2
circuit_breaker_info{component="0a1b2c3d",tag="0.1.0-89abcdef",wasm_filter="circuit_breaker"} 1
circuit_breaker_info{component="ffffffff",tag="0.1.0-89abcdef",wasm_filter="circuit_breaker"} 0
circuit_breaker_state{tag="outbound|80||web-component%2eshop",wasm_filter="circuit_breaker"} 2
circuit_breaker_open_until_seconds{tag="outbound|80||web-component%2eshop",wasm_filter="circuit_breaker"} 1700000030
circuit_breaker_mode{tag="outbound|80||web-component%2eshop",wasm_filter="circuit_breaker"} 1
circuit_breaker_trips_total{component="consecutive",tag="outbound|80||web-component%2eshop",wasm_filter="circuit_breaker"} 3
circuit_breaker_would_reject_total{component="open",tag="outbound|80||web-component%2eshop",wasm_filter="circuit_breaker"} 9
circuit_breaker_latency_ms_bucket{tag="outbound|80||x",le="1"} 9
circuit_breaker_shared{component="epoch-00000001",tag="outbound|80||x"} 9
envoy_cluster_outlier_detection_ejections_active{cluster_name="outbound|80||web-component.shop"} 1
"#;

    #[test]
    fn a_page_says_what_a_proxy_holds() {
        let look = Look::read(PAGE);
        assert!(look.protected);
        assert_eq!(
            look.policies,
            BTreeSet::from(["0a1b2c3d".to_owned()]),
            "one that is not in use any more does not count"
        );
        assert_eq!(look.modules, BTreeSet::from(["0.1.0-89abcdef".to_owned()]));
        let (upstream, circuit) = look.circuits.iter().next().unwrap();
        assert_eq!((look.circuits.len(), upstream.as_str()), (1, "outbound|80||web-component.shop"));
        assert_eq!(
            (circuit.state, circuit.open_until, MODES[circuit.mode]),
            (Some(State::Open), 1_700_000_030.0, "observe")
        );
        assert_eq!((circuit.trips["consecutive"], circuit.would_reject, circuit.rejected), (3.0, 9.0, 0.0));
        assert_eq!(look.ejected["outbound|80||web-component.shop"], 1.0);
        assert!(!Look::read("envoy_server_live 1\n").protected);
    }

    #[test]
    fn the_words_of_the_modes_have_the_modules_numbers() {
        for mode in [Mode::Enforce, Mode::Observe, Mode::Disabled, Mode::ForceOpen] {
            assert_eq!(MODES[mode_of(f64::from(mode.number()))], mode.word());
        }
    }

    #[test]
    fn a_percent_sign_that_begins_no_code_is_kept() {
        for (tag, upstream) in [("a%3bb", "a;b"), ("100%", "100%"), ("%zz", "%zz"), ("%25", "%"), ("%ff", "%ff")] {
            assert_eq!(upstream_of(tag), upstream);
        }
    }
}
