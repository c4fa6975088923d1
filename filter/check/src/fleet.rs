//! What many proxies say of one upstream, put together.
//!
//! Every proxy has circuits of its own. The worst of them is what users feel, and how many agree tells whether the
//! upstream is at fault or one way to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::look::{Circuit, Counts, Look, State};

/// What all proxies answered in one round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// When, as Unix time in seconds.
    pub at: f64,
    /// Each proxy, and its page or why there is none.
    pub proxies: Vec<(String, Result<Look, String>)>,
}

/// One upstream, over all proxies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upstream {
    /// Proxies whose circuit is OPEN.
    pub open: u64,
    /// Proxies whose circuit is HALF_OPEN.
    pub half_open: u64,
    /// Proxies whose circuit is CLOSED.
    pub closed: u64,
    /// The first moment at which an OPEN circuit is over, as Unix time.
    pub open_until: Option<f64>,
    /// Since when it is not CLOSED, as Unix time. Only a database that remembers can say it.
    pub since: Option<f64>,
    /// Trips by reason, since the proxies started.
    pub trips: Counts,
    /// Calls by outcome, since the proxies started.
    pub calls: Counts,
    /// Failures by kind, since the proxies started.
    pub failures: Counts,
    /// Requests that are rejected each second; nothing where there was one look only.
    pub rejected_per_second: Option<f64>,
    /// Requests each second that enforce would reject.
    pub would_reject_per_second: Option<f64>,
    /// Indices into [`crate::look::MODES`].
    pub modes: BTreeSet<usize>,
    /// Hosts that outlier detection has ejected, in the proxy where they are most; nothing where no proxy says.
    pub ejected: Option<f64>,
    /// Policies of the proxies that have a circuit for it.
    pub policies: BTreeSet<String>,
    /// Modules of the proxies that have a circuit for it.
    pub modules: BTreeSet<String>,
}

impl Upstream {
    /// The worst state in any proxy.
    #[must_use]
    pub fn state(&self) -> State {
        match (self.open, self.half_open) {
            (1.., _) => State::Open,
            (0, 1..) => State::HalfOpen,
            (0, 0) => State::Closed,
        }
    }

    /// Proxies that have a circuit for it.
    #[must_use]
    pub fn proxies(&self) -> u64 {
        self.open + self.half_open + self.closed
    }

    /// Whether its requests are kept from it: the circuit is not CLOSED, and some proxy acts on that.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.modes.iter().any(|mode| [ENFORCE, FORCE_OPEN].contains(mode))
    }
}

/// Places in [`crate::look::MODES`].
const ENFORCE: usize = 0;
const FORCE_OPEN: usize = 3;

/// All upstreams and all proxies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// When, as Unix time in seconds.
    pub at: f64,
    /// By Envoy's cluster name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Proxies that answered.
    pub proxies: u64,
    /// Proxies that answered and run without the module.
    pub unprotected: Vec<String>,
    /// Proxies that did not answer, and why.
    pub unreachable: Vec<(String, String)>,
    /// Proxies by the hash of their policy.
    pub policies: BTreeMap<String, u64>,
    /// Proxies by the version of their module.
    pub modules: BTreeMap<String, u64>,
}

impl Fleet {
    /// Puts a round together. An earlier one makes rates out of counters.
    #[must_use]
    pub fn of(earlier: Option<&Round>, round: &Round) -> Fleet {
        let mut fleet = Fleet { at: round.at, ..Fleet::default() };
        let before: BTreeMap<&str, &Look> = earlier
            .into_iter()
            .flat_map(|earlier| &earlier.proxies)
            .filter_map(|(proxy, look)| Some((proxy.as_str(), look.as_ref().ok()?)))
            .collect();
        let passed = earlier.map(|earlier| round.at - earlier.at).filter(|passed| *passed > 0.0);
        for (proxy, answer) in &round.proxies {
            match answer {
                Ok(look) => {
                    let before = passed.and_then(|passed| Some((*before.get(proxy.as_str())?, passed)));
                    fleet.add(proxy, look, before);
                }
                Err(why) => fleet.unreachable.push((proxy.clone(), why.clone())),
            }
        }
        fleet
    }

    fn add(&mut self, proxy: &str, look: &Look, before: Option<(&Look, f64)>) {
        self.proxies += 1;
        if !look.protected {
            self.unprotected.push(proxy.to_owned());
        }
        for policy in &look.policies {
            *self.policies.entry(policy.clone()).or_default() += 1;
        }
        for module in &look.modules {
            *self.modules.entry(module.clone()).or_default() += 1;
        }
        for (name, circuit) in &look.circuits {
            let upstream = self.upstreams.entry(name.clone()).or_default();
            upstream.add(circuit, self.at);
            upstream.policies.extend(look.policies.iter().cloned());
            upstream.modules.extend(look.modules.iter().cloned());
            if let Some((earlier, passed)) = before {
                let earlier = earlier.circuits.get(name);
                let rate = |now: f64, counter: fn(&Circuit) -> f64| grown(earlier.map_or(0.0, counter), now) / passed;
                *upstream.rejected_per_second.get_or_insert_default() += rate(circuit.rejected, |c| c.rejected);
                *upstream.would_reject_per_second.get_or_insert_default() +=
                    rate(circuit.would_reject, |c| c.would_reject);
            }
            if let Some(hosts) = look.ejected.get(name) {
                upstream.ejected = Some(upstream.ejected.map_or(*hosts, |most| most.max(*hosts)));
            }
        }
    }
}

impl Upstream {
    fn add(&mut self, circuit: &Circuit, now: f64) {
        match circuit.state {
            Some(State::Open) => self.open += 1,
            Some(State::HalfOpen) => self.half_open += 1,
            Some(State::Closed) => self.closed += 1,
            None => {}
        }
        if circuit.state == Some(State::Open) && circuit.open_until > 0.0 {
            let until = circuit.open_until.max(now);
            self.open_until = Some(self.open_until.map_or(until, |first| first.min(until)));
        }
        self.modes.insert(circuit.mode);
        for (all, own) in [
            (&mut self.trips, &circuit.trips),
            (&mut self.calls, &circuit.calls),
            (&mut self.failures, &circuit.failures),
        ] {
            own.iter().for_each(|(component, count)| *all.entry(component.clone()).or_default() += count);
        }
    }
}

/// What a counter grew by. One that fell began anew, with its proxy.
fn grown(before: f64, now: f64) -> f64 {
    if now >= before { now - before } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(state: u8, until: u64, rejected: u64) -> Result<Look, String> {
        Ok(Look::read(&format!(
            "circuit_breaker_circuits{{}} 1\ncircuit_breaker_state{{tag=\"a\"}} {state}\n\
             circuit_breaker_open_until_seconds{{tag=\"a\"}} {until}\n\
             circuit_breaker_trips_total{{tag=\"a\",component=\"latency\"}} 1\n\
             circuit_breaker_rejected_total{{tag=\"a\",component=\"open\"}} {rejected}\n"
        )))
    }

    fn round(at: f64, proxies: &[(&str, Result<Look, String>)]) -> Round {
        Round { at, proxies: proxies.iter().map(|(name, look)| ((*name).to_owned(), look.clone())).collect() }
    }

    #[test]
    fn the_worst_state_counts_and_the_first_open_circuit_to_end() {
        let now =
            round(100.0, &[("p", page(2, 130, 0)), ("q", page(2, 120, 0)), ("r", page(0, 0, 0)), ("s", page(1, 0, 0))]);
        let fleet = Fleet::of(None, &now);
        let upstream = &fleet.upstreams["a"];
        assert_eq!((upstream.open, upstream.half_open, upstream.closed, upstream.state()), (2, 1, 1, State::Open));
        assert_eq!(upstream.open_until, Some(120.0));
        assert_eq!((upstream.trips["latency"], upstream.rejected_per_second), (4.0, None), "one look knows no rate");
    }

    #[test]
    fn two_looks_make_rates_and_a_counter_that_fell_began_anew() {
        let before = round(100.0, &[("p", page(2, 0, 10)), ("q", page(2, 0, 50)), ("r", page(2, 0, 0))]);
        let now = round(102.0, &[("p", page(2, 0, 30)), ("q", page(2, 0, 4)), ("new", page(2, 0, 900))]);
        let fleet = Fleet::of(Some(&before), &now);
        assert_eq!(
            fleet.upstreams["a"].rejected_per_second,
            Some(12.0),
            "a proxy that was not asked before has no rate"
        );
    }

    #[test]
    fn a_proxy_without_the_module_and_one_without_an_answer_are_rows() {
        let now =
            round(1.0, &[("bare", Ok(Look::default())), ("gone", Err("timed out".to_owned())), ("p", page(0, 0, 0))]);
        let fleet = Fleet::of(None, &now);
        assert_eq!((fleet.proxies, fleet.unprotected.as_slice()), (2, ["bare".to_owned()].as_slice()));
        assert_eq!(fleet.unreachable, [("gone".to_owned(), "timed out".to_owned())]);
    }
}
