//! The list of circuits that all workers of a proxy share.

use std::rc::Rc;

use super::{Breaker, policy_of};
use crate::host::{ABSENT, Fault, Host};
use crate::key::slot_key;
use crate::policy::Mode;
use crate::view::View;

/// Circuits that a VM meets at one tick. Each costs some tens of host calls and the names of six metrics: so many take a
/// worker a few milliseconds, and a thousand are met within seconds.
const MET_AT_A_TICK: usize = 128;

impl<H: Host> Breaker<H> {
    /// Takes over the circuits of an older configuration.
    pub(super) fn inherit(&mut self, older: &Breaker<H>) {
        for circuit in 0..older.slots {
            let Some(name) = older.circuits.name(circuit) else { return };
            self.push(Rc::clone(name));
            let policy = policy_of(&self.config, name);
            let Some(Ok(mut view)) = older.circuits.get(circuit).map(|view| view.under(&self.vm, policy)) else {
                continue;
            };
            view.latency.want(circuit < self.config.latency_histograms);
            self.circuits.set(circuit, view);
        }
    }

    /// Takes over the names of the circuits that other workers have listed.
    pub(super) fn discover(&mut self) -> Result<(), Fault> {
        while let Some((name, _)) = self.vm.host.get(&slot_key(self.slots))? {
            self.push(String::from_utf8_lossy(&name).into());
        }
        Ok(())
    }

    /// Meets some of the circuits that no request has led to yet. False: there are more.
    pub(super) fn meet_some(&mut self, now: u64) -> Result<bool, Fault> {
        for _ in 0..MET_AT_A_TICK {
            let Some(circuit) = self.circuits.unmet() else { return Ok(true) };
            self.meet(circuit, now)?;
        }
        Ok(self.circuits.unmet().is_none())
    }

    /// The circuit of `upstream`, listed if it is new; `None` where it is to have none.
    pub(super) fn find(&mut self, upstream: &str, now: u64) -> Result<Option<u32>, Fault> {
        if self.vm.is_blind() {
            return Ok(None);
        }
        let circuit = match self.circuits.number_of(upstream) {
            Some(circuit) => circuit,
            None => match self.list(upstream, now)? {
                Some(circuit) => circuit,
                None => return Ok(None),
            },
        };
        if self.circuits.get(circuit).is_none() {
            self.meet(circuit, now)?;
        }
        Ok(Some(circuit))
    }

    /// Lists a circuit that is new to this VM.
    #[cold]
    fn list(&mut self, upstream: &str, now: u64) -> Result<Option<u32>, Fault> {
        self.vm.meet(now)?;
        if policy_of(&self.config, upstream).mode == Mode::Disabled {
            return Ok(None);
        }
        self.discover()?;
        loop {
            if let Some(circuit) = self.circuits.number_of(upstream) {
                return Ok(Some(circuit));
            }
            if self.slots >= self.config.max_circuits {
                self.vm.unprotected();
                return Ok(None);
            }
            if self.vm.host.swap(&slot_key(self.slots), upstream.as_bytes(), ABSENT)? {
                self.push(upstream.into());
            } else {
                self.discover()?;
            }
        }
    }

    fn push(&mut self, name: Rc<str>) {
        self.circuits.push(name);
        self.slots = self.slots.saturating_add(1);
    }

    #[cold]
    fn meet(&mut self, circuit: u32, now: u64) -> Result<(), Fault> {
        let Some(name) = self.circuits.name(circuit).cloned() else { return Ok(()) };
        let policy = policy_of(&self.config, &name);
        let mut view = View::new(&self.vm, name, policy, now)?;
        view.latency.want(circuit < self.config.latency_histograms);
        if circuit > 0 && circuit == self.config.latency_histograms {
            self.vm.say_once(
                "latency_histograms",
                "circuit_breaker_latency_ms is not kept for more upstreams than limits.latencyHistograms",
            );
        }
        self.circuits.set(circuit, view);
        self.vm.circuits(self.circuits.len());
        Ok(())
    }
}
