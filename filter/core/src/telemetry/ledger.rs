//! The ledger: which series a circuit has, in shared data.
//!
//! Envoy forgets a metric with the last VM that has defined it, and a new version of the module has new VMs. They
//! must define all that the old VMs have counted before these are gone. They must define nothing else: an upstream
//! that never failed has no series of failures, which saves most of Envoy's memory for a thousand upstreams.
//!
//! A page is the set of a circuit's series, in eight bytes, followed by the name of its upstream. So a page tells
//! whose it is, whoever had its slot before.

use std::cell::Cell;

use crate::host::{ABSENT, Fault, Host, HostError, TRIES};
use crate::keys::series_key;
use crate::telemetry::metrics::{self, Metric, shared_name, stat};

/// The first bit of each metric. The bits of its components follow in their order. Other versions of the module read
/// them, so a bit never changes its meaning, and new components come after the old ones.
static PLACES: [(&Metric, u32); 17] = [
    (&metrics::CALLS, 0),
    (&metrics::SHARED, 4),
    (&metrics::STATE, 60),
    (&metrics::FAILURES, 12),
    (&metrics::PROBES, 21),
    (&metrics::REJECTED, 24),
    (&metrics::WOULD_REJECT, 30),
    (&metrics::TRIPS, 36),
    (&metrics::FALLBACK, 48),
    (&metrics::OPEN_UNTIL, 49),
    (&metrics::RECOVERY, 50),
    (&metrics::LATENCY, 51),
    (&metrics::OVER_THRESHOLD, 52),
    (&metrics::CIRCUITS, 53),
    (&metrics::UNPROTECTED, 54),
    (&metrics::INTERNAL_ERRORS, 55),
    (&metrics::MODE, 61),
];

/// The series that each circuit has: success, failure, slow; epoch, watch; the state.
const OF_EACH_CIRCUIT: u64 = 0b11_0111 | 1 << 60;

/// The series that each proxy has: an epoch, and the number of circuits.
const OF_EACH_PROXY: u64 = 1 << 4 | 1 << 53;

/// The series that nobody need note.
const ALWAYS: u64 = OF_EACH_CIRCUIT | OF_EACH_PROXY;

/// One of a metric's series: the metric, and the value of its label `component`.
pub(crate) type OfMetric = (&'static Metric, &'static str);

/// All that can be in a ledger, each with its bit.
fn places() -> impl Iterator<Item = (u64, OfMetric)> {
    PLACES.iter().flat_map(|(metric, first)| {
        let alone: &[&str] = if metric.components.is_empty() { &[""] } else { &[] };
        let components = metric.components.iter().chain(alone);
        components.zip(*first..u64::BITS).map(|(component, bit)| (1 << bit, (*metric, *component)))
    })
}

fn bit(metric: &Metric, component: &str) -> u64 {
    let is_it = |(_, (own, part)): &(u64, OfMetric)| std::ptr::eq(*own, metric) && *part == component;
    places().find(is_it).map_or(0, |(bit, _)| bit)
}

/// The page of one circuit, or of the whole proxy.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// The circuit's; `None`: the proxy's own page.
    slot: Option<u32>,
    /// The series that need not be noted any more.
    noted: Cell<u64>,
}

impl Default for Ledger {
    /// The proxy's own page.
    fn default() -> Ledger {
        Ledger { slot: None, noted: Cell::new(ALWAYS) }
    }
}

impl Ledger {
    /// The page of the circuit in this slot.
    pub(crate) fn of(slot: u32) -> Ledger {
        Ledger { slot: Some(slot), ..Ledger::default() }
    }

    fn page<H: Host>(&self, host: &H, upstream: &str) -> Result<(u64, u32), HostError> {
        let Some((bytes, cas)) = host.get(&series_key(self.slot))? else { return Ok((0, ABSENT)) };
        let own = bytes.split_first_chunk().filter(|(_, name)| *name == upstream.as_bytes());
        Ok((own.map_or(0, |(series, _)| u64::from_le_bytes(*series)), cas))
    }

    /// Notes a series, so that the next version of the module keeps it.
    pub(crate) fn note<H: Host>(&self, host: &H, upstream: &str, series: OfMetric) {
        let bit = bit(series.0, series.1);
        if self.noted.get() & bit != bit {
            // A series that could not be noted is counted all the same. It only begins at 0 again with the next
            // module.
            let _ = self.write(host, upstream, bit);
        }
    }

    fn write<H: Host>(&self, host: &H, upstream: &str, bit: u64) -> Result<(), Fault> {
        for _ in 0..TRIES {
            let (there, cas) = self.page(host, upstream)?;
            let all = there | bit;
            let page = [&all.to_le_bytes(), upstream.as_bytes()].concat();
            if all == there || host.swap(&series_key(self.slot), &page, cas)? {
                self.noted.set(all | ALWAYS);
                return Ok(());
            }
        }
        Err(Fault::Cas)
    }

    /// The series that some VM has noted, beside those that each circuit or proxy has.
    pub(crate) fn read<H: Host>(&self, host: &H, upstream: &str) -> Result<impl Iterator<Item = OfMetric>, HostError> {
        let (there, _) = self.page(host, upstream)?;
        self.noted.set(there | ALWAYS);
        Ok(places().filter(move |(bit, _)| there & !ALWAYS & bit != 0).map(|(_, series)| series))
    }

    /// Defines all series that there are. This changes no value. `process`: the number of the process.
    pub(crate) fn define_all<H: Host>(&self, host: &H, process: u32, upstream: &str) -> Result<(), HostError> {
        let always = if self.slot.is_some() { OF_EACH_CIRCUIT } else { OF_EACH_PROXY };
        let there = self.page(host, upstream)?.0 | always;
        for (_, (metric, component)) in places().filter(|(bit, _)| there & bit != 0) {
            let shared = std::ptr::eq(metric, &raw const metrics::SHARED);
            let name =
                if shared { shared_name(process, upstream, component) } else { stat(metric, upstream, component) };
            host.define(metric.kind, &name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn each_series_has_a_bit_of_its_own() {
        let mut taken = 0;
        for (bit, (metric, component)) in places() {
            assert_eq!(taken & bit, 0, "{} {component}", metric.name);
            taken |= bit;
        }
        // What a module says of itself ends with it.
        let kept = |metric: &&&Metric| !std::ptr::eq(**metric, &raw const metrics::INFO);
        for metric in metrics::ALL.iter().filter(kept) {
            let alone: &[&str] = if metric.components.is_empty() { &[""] } else { &[] };
            for component in metric.components.iter().chain(alone) {
                assert_ne!(bit(metric, component), 0, "{} {component}", metric.name);
            }
        }
    }

    #[test]
    fn a_bit_keeps_its_meaning() {
        let bits = [
            (&metrics::CALLS, "neutral", 3),
            (&metrics::SHARED, "streak", 6),
            (&metrics::SHARED, "used", 7),
            (&metrics::FAILURES, "http", 12),
            (&metrics::FAILURES, "rate_limited", 20),
            (&metrics::PROBES, "success", 21),
            (&metrics::PROBES, "failure", 22),
            (&metrics::REJECTED, "forced", 27),
            (&metrics::WOULD_REJECT, "forced", 33),
            (&metrics::TRIPS, "forced", 42),
            (&metrics::INTERNAL_ERRORS, "config", 58),
        ];
        for (metric, component, at) in bits {
            assert_eq!(bit(metric, component), 1 << at, "{} {component}", metric.name);
        }
    }

    #[test]
    fn what_is_always_there_is_what_its_bits_say() {
        let named =
            |set: u64| places().filter(|(bit, _)| set & bit != 0).map(|(_, (m, part))| (m.name, part)).collect();
        let of_circuit: Vec<_> = named(OF_EACH_CIRCUIT);
        let calls = "circuit_breaker_calls_total";
        let shared = "circuit_breaker_shared";
        let first = [(calls, "success"), (calls, "failure"), (calls, "slow"), (shared, "epoch"), (shared, "watch")];
        assert_eq!(of_circuit[..5], first);
        assert_eq!(of_circuit[5..], [("circuit_breaker_state", "")]);
        let of_proxy: Vec<_> = named(OF_EACH_PROXY);
        assert_eq!(of_proxy, [(shared, "epoch"), ("circuit_breaker_circuits", "")]);
    }
}
