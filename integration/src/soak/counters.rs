//! The breaker's own metrics at one moment.

use std::collections::BTreeMap;

/// The beginning of each of their names in Envoy's own words.
const PREFIX: &str = "wasmcustom.wasm_filter.circuit_breaker.";

/// Metric, upstream, component.
type Key = (String, String, String);

/// Values by metric, upstream and component.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters(BTreeMap<Key, u64>);

impl Counters {
    /// The breaker's metrics among all of Envoy's stats.
    #[must_use]
    pub fn of(stats: &BTreeMap<String, u64>) -> Counters {
        Counters(stats.iter().filter_map(|(name, value)| Some((key(name)?, *value))).collect())
    }

    /// A metric of an upstream, over all components; of the proxy where `upstream` is empty.
    #[must_use]
    pub fn sum(&self, metric: &str, upstream: &str) -> u64 {
        self.parts(metric, upstream).map(|(_, value)| value).sum()
    }

    /// A metric's components and their values.
    pub fn parts<'a>(&'a self, metric: &str, upstream: &str) -> impl Iterator<Item = (&'a str, u64)> {
        let own = self.0.iter().filter(move |((name, of, _), _)| name == metric && of == upstream);
        own.map(|((_, _, component), value)| (component.as_str(), *value))
    }

    /// One value; 0 where it does not exist.
    #[must_use]
    pub fn get(&self, metric: &str, upstream: &str, component: &str) -> u64 {
        let key = (metric.to_owned(), upstream.to_owned(), component.to_owned());
        self.0.get(&key).copied().unwrap_or(0)
    }

    /// The sum of a metric over all upstreams for which this holds.
    pub fn sum_where(&self, metric: &str, is_meant: impl Fn(&str) -> bool) -> u64 {
        self.0.iter().filter(|((name, of, _), _)| name == metric && is_meant(of)).map(|(_, value)| value).sum()
    }

    /// All upstreams that have a metric.
    #[must_use]
    pub fn upstreams(&self, metric: &str) -> Vec<&str> {
        let mut all: Vec<&str> =
            self.0.keys().filter(|(name, ..)| name == metric).map(|(_, upstream, _)| upstream.as_str()).collect();
        all.dedup();
        all
    }

    /// The growth since `before`.
    #[must_use]
    pub fn since(&self, before: &Counters) -> Counters {
        let more =
            |(key, value): (&Key, &u64)| (key.clone(), value.saturating_sub(before.0.get(key).copied().unwrap_or(0)));
        Counters(self.0.iter().map(more).collect())
    }
}

fn key(name: &str) -> Option<Key> {
    let mut rest = name.strip_prefix(PREFIX)?;
    let mut component = "";
    if let Some(of_part) = rest.strip_prefix("component.") {
        (component, rest) = of_part.split_once('.')?;
    }
    let mut upstream = "";
    if let Some(tagged) = rest.strip_prefix("tag.") {
        (upstream, rest) = tagged.split_once(";.")?;
    }
    Some((rest.to_owned(), upstream.to_owned(), component.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let stats = [
            ("wasmcustom.wasm_filter.circuit_breaker.component.open.tag.u1;.circuit_breaker_rejected_total", 5),
            ("wasmcustom.wasm_filter.circuit_breaker.component.ramp.tag.u1;.circuit_breaker_rejected_total", 2),
            ("wasmcustom.wasm_filter.circuit_breaker.tag.u1;.circuit_breaker_state", 2),
            ("wasmcustom.wasm_filter.circuit_breaker.circuit_breaker_circuits", 8),
            ("cluster.u1.upstream_rq_total", 9),
        ];
        let counters = Counters::of(&stats.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(counters.sum("circuit_breaker_rejected_total", "u1"), 7);
        assert_eq!(counters.get("circuit_breaker_rejected_total", "u1", "ramp"), 2);
        assert_eq!(counters.get("circuit_breaker_state", "u1", ""), 2);
        assert_eq!(counters.sum("circuit_breaker_circuits", ""), 8);
        assert_eq!(counters.since(&counters).sum("circuit_breaker_rejected_total", "u1"), 0);
        assert_eq!(counters.upstreams("circuit_breaker_rejected_total"), ["u1"]);
    }
}
