//! The list of circuits that all workers of a proxy share.

use std::rc::Rc;

use super::{Breaker, policy_of};
use crate::host::{ABSENT, Fault, Host};
use crate::key::slot_key;
use crate::policy::Mode;
use crate::series::Histogram;
use crate::view::View;

impl<H: Host> Breaker<H> {
    /// Takes over the circuits that other workers have listed.
    pub(super) fn discover(&mut self, now: u64) -> Result<(), Fault> {
        while let Some((name, _)) = self.vm.host.get(&slot_key(self.slots))? {
            self.take_slot(&String::from_utf8_lossy(&name), now)?;
        }
        Ok(())
    }

    /// The circuit of `upstream`, listed if it is new; `None` where it is to have none.
    pub(super) fn find(&mut self, upstream: &str, now: u64) -> Result<Option<u32>, Fault> {
        match self.circuits.number_of(upstream) {
            Some(circuit) => Ok(Some(circuit)),
            None => self.list(upstream, now),
        }
    }

    /// Lists a circuit that is new to this VM.
    #[cold]
    fn list(&mut self, upstream: &str, now: u64) -> Result<Option<u32>, Fault> {
        if policy_of(&self.config, upstream).mode == Mode::Disabled {
            return Ok(None);
        }
        self.discover(now)?;
        loop {
            if let Some(circuit) = self.circuits.number_of(upstream) {
                return Ok(Some(circuit));
            }
            if self.slots >= self.config.max_circuits {
                self.vm.unprotected();
                return Ok(None);
            }
            if self.vm.host.swap(&slot_key(self.slots), upstream.as_bytes(), ABSENT)? {
                self.take_slot(upstream, now)?;
            } else {
                self.discover(now)?;
            }
        }
    }

    fn take_slot(&mut self, name: &str, now: u64) -> Result<(), Fault> {
        let name: Rc<str> = name.into();
        let policy = policy_of(&self.config, &name);
        let mut view = View::new(&self.vm, name, policy, now)?;
        let circuit = self.circuits.next();
        if circuit >= self.config.latency_histograms {
            view.latency = Histogram::UNWANTED;
        }
        if circuit > 0 && circuit == self.config.latency_histograms {
            self.vm.say_once(
                "latency_histograms",
                "circuit_breaker_latency_ms is not kept for more upstreams than limits.latencyHistograms",
            );
        }
        self.circuits.push(view);
        self.slots = self.slots.saturating_add(1);
        self.vm.circuits(self.circuits.len());
        Ok(())
    }
}
