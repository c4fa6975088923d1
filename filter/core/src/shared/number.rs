//! Numbers that all workers of a proxy share: Envoy's metrics, which are atomics.
//!
//! A metric that Envoy does not keep reads 0 for ever. Counters and gauges prove themselves before a decision uses
//! them.

use std::cell::Cell;

use crate::host::{Fault, Host, MetricKind};

/// A number of calls that all workers share: a counter of Envoy's.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    id: u32,
    proof: Cell<Proof>,
}

/// Whether Envoy keeps a counter. One that it does not keep always reads 0. So does any counter right after
/// `/reset_counters`, so a single zero is only a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    None,
    Doubt,
    Kept,
}

impl Counter {
    pub(crate) fn meet<H: Host>(host: &H, name: &str) -> Result<Counter, Fault> {
        Ok(Counter { id: host.define(MetricKind::Counter, name)?, proof: Cell::new(Proof::None) })
    }

    pub(crate) fn get<H: Host>(&self, host: &H) -> Result<u64, Fault> {
        Ok(host.read(self.id)?)
    }

    /// Adds one, and checks that it reads back once: a counter that Envoy does not keep must not pass for one at 0.
    #[inline(always)]
    pub(crate) fn add_one<H: Host>(&self, host: &H) -> Result<(), Fault> {
        host.add(self.id, 1)?;
        if self.proof.get() == Proof::Kept { Ok(()) } else { self.prove(host) }
    }

    #[cold]
    fn prove<H: Host>(&self, host: &H) -> Result<(), Fault> {
        let proof = match (host.read(self.id)?, self.proof.get()) {
            (0, Proof::Doubt) => return Err(Fault::NotKept),
            (0, _) => Proof::Doubt,
            _ => Proof::Kept,
        };
        self.proof.set(proof);
        Ok(())
    }
}

/// A number of 32 bits that all workers share: the lower half of a gauge of Envoy's.
///
/// The upper half is never 0 once a VM has met the gauge. So a gauge at 0 differs from one that Envoy does not keep,
/// which always reads 0.
#[derive(Clone, Debug)]
pub(crate) struct Gauge(u32);

/// What each VM adds when it meets a gauge.
const MET: u64 = 1 << 32;

impl Gauge {
    /// # Errors
    /// Envoy does not keep it, among others.
    pub(crate) fn meet<H: Host>(host: &H, name: &str) -> Result<Gauge, Fault> {
        let gauge = Gauge(host.define(MetricKind::Gauge, name)?);
        host.add(gauge.0, MET.cast_signed())?;
        if host.read(gauge.0)? < MET { Err(Fault::NotKept) } else { Ok(gauge) }
    }

    #[inline(always)]
    pub(crate) fn get<H: Host>(&self, host: &H) -> Result<u64, Fault> {
        Ok(host.read(self.0)? & (MET - 1))
    }

    pub(crate) fn add_one<H: Host>(&self, host: &H) -> Result<(), Fault> {
        Ok(host.add(self.0, 1)?)
    }

    /// Sets its lower half.
    pub(crate) fn set<H: Host>(&self, host: &H, value: u64) -> Result<(), Fault> {
        Ok(host.record(self.0, MET | value)?)
    }
}
