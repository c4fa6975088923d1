//! What `status` tells, in the order of harm, and as the JSON that scripts read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use circuit_breaker_core::Upstream as Name;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::fleet::{Fleet, Upstream};
use crate::look::{Counts, MODES, State};

/// Which upstreams are asked about.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Their namespace.
    pub namespace: Option<String>,
    /// Their host: whole, its first label, or with a leading `*.`.
    pub host: Option<String>,
    /// Their worst state.
    pub state: Option<StateWord>,
}

/// A state, as a person types it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateWord {
    /// CLOSED in all proxies
    Closed,
    /// HALF_OPEN at worst
    HalfOpen,
    /// OPEN in a proxy
    Open,
}

impl StateWord {
    /// The state that it names.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            StateWord::Closed => State::Closed,
            StateWord::HalfOpen => State::HalfOpen,
            StateWord::Open => State::Open,
        }
    }
}

impl Filter {
    /// Whether an upstream is asked about.
    #[must_use]
    pub fn takes(&self, name: &str, upstream: &Upstream) -> bool {
        let host = Name::parse(name).host;
        self.namespace.as_deref().is_none_or(|wanted| namespace_of(host) == Some(wanted))
            && self.host.as_deref().is_none_or(|wanted| is_host(host, wanted))
            && self.state.is_none_or(|wanted| upstream.state() == wanted.state())
    }
}

/// Whether a person means this host by that word.
#[must_use]
pub fn is_host(host: &str, wanted: &str) -> bool {
    match wanted.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end),
        None => host.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
    }
}

/// The namespace of a Kubernetes Service, by its host.
#[must_use]
pub fn namespace_of(host: &str) -> Option<&str> {
    let mut labels = host.split('.');
    let (_, namespace, svc) = (labels.next()?, labels.next()?, labels.next()?);
    (svc == "svc").then_some(namespace)
}

/// The upstreams that a filter takes, the most harmed first.
#[must_use]
pub fn by_harm<'a>(fleet: &'a Fleet, filter: &Filter) -> Vec<(&'a str, &'a Upstream)> {
    let all = fleet.upstreams.iter().map(|(name, upstream)| (name.as_str(), upstream));
    let mut rows: Vec<_> = all.filter(|(name, upstream)| filter.takes(name, upstream)).collect();
    rows.sort_by_key(|(name, upstream)| (Reverse(harm(upstream)), *name));
    rows
}

/// The larger the worse. An upstream that is kept from its users comes first, then those that lose the most requests,
/// then those that the most proxies have given up.
fn harm(upstream: &Upstream) -> (bool, State, u64, u64) {
    let rate = |rate: Option<f64>| thousandths(rate.unwrap_or(0.0));
    let lost = rate(upstream.rejected_per_second).max(rate(upstream.would_reject_per_second));
    (upstream.acts() && upstream.state() > State::Closed, upstream.state(), lost, upstream.open)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn thousandths(number: f64) -> u64 {
    (number * 1000.0) as u64
}

/// The modes of an upstream's proxies: more than one where they differ.
#[must_use]
pub fn modes(modes: &BTreeSet<usize>) -> String {
    let words: Vec<_> = modes.iter().filter_map(|mode| MODES.get(*mode).copied()).collect();
    if words.is_empty() { MODES[0].to_owned() } else { words.join("/") }
}

/// Whole seconds until the first OPEN circuit is over.
#[must_use]
pub fn reopens_in(upstream: &Upstream, now: f64) -> Option<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    upstream.open_until.map(|until| (until - now).max(0.0).ceil() as u64)
}

/// The document of `-o json` and `-o yaml`.
#[must_use]
pub fn document(fleet: &Fleet, filter: &Filter) -> Value {
    let rows = by_harm(fleet, filter);
    json!({
        "upstreams": rows.iter().map(|(name, upstream)| row(name, upstream, fleet.at)).collect::<Vec<_>>(),
        "proxies": fleet.proxies,
        "unprotected_proxies": fleet.unprotected,
        "unreachable_proxies": fleet.unreachable.iter().map(|(proxy, _)| proxy).collect::<Vec<_>>(),
        "unreachable_because": fleet.unreachable.iter().cloned().collect::<BTreeMap<_, _>>(),
        "policies": fleet.policies,
        "modules": fleet.modules,
    })
}

/// One upstream of the document.
#[must_use]
pub fn row(name: &str, upstream: &Upstream, now: f64) -> Value {
    let parts = Name::parse(name);
    json!({
        "upstream": name,
        "host": parts.host,
        "port": parts.port,
        "subset": parts.subset,
        "namespace": namespace_of(parts.host),
        "state": upstream.state().word(),
        "mode": modes(&upstream.modes),
        "proxies": {"open": upstream.open, "half_open": upstream.half_open, "closed": upstream.closed},
        "since": upstream.since,
        "reopens_in_seconds": reopens_in(upstream, now),
        "reasons": whole(&upstream.trips),
        "rejected_per_second": upstream.rejected_per_second.map(rounded),
        "would_reject_per_second": upstream.would_reject_per_second.map(rounded),
        "policies": upstream.policies,
        "modules": upstream.modules,
    })
}

/// Counts that are not 0, as whole numbers.
#[must_use]
pub fn whole(counts: &Counts) -> Map<String, Value> {
    let there = counts.iter().filter(|(_, count)| **count > 0.0);
    there.map(|(component, count)| (component.clone(), json!(thousandths(*count) / 1000))).collect()
}

fn rounded(rate: f64) -> f64 {
    (rate * 1000.0).round() / 1000.0
}

/// Counts as words, the largest first.
#[must_use]
pub fn by_size(counts: &Counts) -> Vec<(&str, u64)> {
    let mut sizes: Vec<_> = counts.iter().map(|(word, count)| (word.as_str(), thousandths(*count) / 1000)).collect();
    sizes.retain(|(_, count)| *count > 0);
    sizes.sort_by_key(|(word, count)| (Reverse(*count), *word));
    sizes
}

/// How many upstreams there are of each state.
#[must_use]
pub fn states(rows: &[(&str, &Upstream)]) -> BTreeMap<State, usize> {
    let mut states = BTreeMap::from([State::Open, State::HalfOpen, State::Closed].map(|state| (state, 0)));
    rows.iter().for_each(|(_, upstream)| *states.entry(upstream.state()).or_default() += 1);
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(open: u64, half_open: u64, mode: usize, rejected: f64) -> Upstream {
        let rejected_per_second = Some(rejected);
        Upstream {
            open,
            half_open,
            closed: 1,
            modes: BTreeSet::from([mode]),
            rejected_per_second,
            ..Upstream::default()
        }
    }

    fn fleet(upstreams: &[(&str, Upstream)]) -> Fleet {
        let upstreams = upstreams.iter().map(|(name, upstream)| ((*name).to_owned(), upstream.clone())).collect();
        Fleet { at: 100.0, upstreams, ..Fleet::default() }
    }

    #[test]
    fn the_most_harmed_upstream_comes_first() {
        let fleet = fleet(&[
            ("well", upstream(0, 0, 0, 0.0)),
            ("observed", upstream(9, 0, 1, 0.0)),
            ("half", upstream(0, 1, 0, 50.0)),
            ("quiet", upstream(2, 0, 0, 0.0)),
            ("busy", upstream(1, 0, 0, 9.0)),
        ]);
        let rows = by_harm(&fleet, &Filter::default());
        assert_eq!(
            rows.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["busy", "quiet", "half", "observed", "well"]
        );
    }

    #[test]
    fn filters_take_names_as_people_write_them() {
        let (host, other) = ("payments.pay.svc.cluster.local", "payments-old.pay.svc.cluster.local");
        for wanted in ["payments", "payments.pay", host, "*.pay.svc.cluster.local"] {
            assert!(is_host(host, wanted), "{wanted}");
        }
        assert!(!is_host(other, "payments") && !is_host("pay.svc", "*pay.svc"));
        assert_eq!(
            (namespace_of(host), namespace_of("api.example.com"), namespace_of("local")),
            (Some("pay"), None, None)
        );
        let filter = Filter { namespace: Some("pay".to_owned()), state: Some(StateWord::Open), host: None };
        let name = "outbound|80||payments.pay.svc.cluster.local";
        assert!(filter.takes(name, &upstream(1, 0, 0, 0.0)) && !filter.takes(name, &upstream(0, 1, 0, 0.0)));
        assert!(!filter.takes("outbound|80||payments.shop.svc.cluster.local", &upstream(1, 0, 0, 0.0)));
    }

    #[test]
    fn the_document_has_the_keys_that_scripts_rely_on() {
        let mut sick = upstream(1, 0, 0, 1.25);
        sick.open_until = Some(112.3);
        sick.trips.insert("consecutive".to_owned(), 2.0);
        sick.trips.insert("latency".to_owned(), 0.0);
        let name = "outbound|8443|v2|payments.pay.svc.cluster.local";
        let mut fleet = fleet(&[(name, sick)]);
        fleet.unprotected.push("shop/web-1".to_owned());
        let document = document(&fleet, &Filter::default());
        let row = &document["upstreams"][0];
        let expected = json!({
            "upstream": name, "host": "payments.pay.svc.cluster.local", "port": 8443, "subset": "v2", "state": "OPEN",
            "mode": "enforce", "proxies": {"open": 1, "half_open": 0, "closed": 1}, "reopens_in_seconds": 13,
            "reasons": {"consecutive": 2}, "rejected_per_second": 1.25,
        });
        expected.as_object().unwrap().iter().for_each(|(key, value)| assert_eq!(&row[key], value, "{key}"));
        assert_eq!(document["unprotected_proxies"], json!(["shop/web-1"]));
        assert_eq!(document["unreachable_proxies"], json!([]));
    }
}
