//! The metrics of one circuit, each defined when it is first needed. An upstream that never fails has no series of
//! failures, and on a proxy with hundreds of upstreams these would be most of them.

use std::cell::RefCell;

use crate::host::{Fault, Host, HostError};
use crate::telemetry::ledger::{Ledger, OfMetric};
use crate::telemetry::metrics::{LATENCY, Metric, stat};

/// A histogram that most requests record into. It has a place of its own, so that nobody has to search for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histogram(u32);

impl Histogram {
    /// Not defined yet: Envoy would take memory for it.
    pub(crate) const UNMET: Histogram = Histogram(u32::MAX);
    /// Not to be recorded into: Envoy keeps much for each histogram.
    pub(crate) const UNWANTED: Histogram = Histogram(u32::MAX - 1);

    /// Whether it is to be recorded into from now on.
    pub(crate) fn want(&mut self, wanted: bool) {
        if !wanted {
            *self = Histogram::UNWANTED;
        } else if *self == Histogram::UNWANTED {
            *self = Histogram::UNMET;
        }
    }

    #[inline]
    pub(crate) fn record<H: Host>(
        &mut self,
        host: &H,
        series: &Series,
        upstream: &str,
        value: u64,
    ) -> Result<(), HostError> {
        if self.0 < Histogram::UNWANTED.0 {
            host.record(self.0, value)
        } else {
            self.meet(host, series, upstream, value)
        }
    }

    #[cold]
    fn meet<H: Host>(&mut self, host: &H, series: &Series, upstream: &str, value: u64) -> Result<(), HostError> {
        if *self == Histogram::UNWANTED {
            return Ok(());
        }
        self.0 = series.id(host, &LATENCY, upstream, "")?;
        host.record(self.0, value)
    }
}

/// Room for the metrics of a circuit that never failed: its state. There may be a thousand such circuits.
const AT_FIRST: usize = 1;

/// Ids of defined metrics. Envoy gives a new id for every definition and keeps it for ever, so each is asked for once.
#[derive(Clone, Default)]
pub(crate) struct Series {
    ids: RefCell<Vec<(&'static Metric, &'static str, u32)>>,
    ledger: Ledger,
}

impl Series {
    /// From now on these are the series of the circuit in this slot.
    pub(crate) fn move_to(&mut self, slot: u32) {
        self.ledger = Ledger::of(slot);
    }

    /// Notes all series that this VM has defined.
    pub(crate) fn note_all<H: Host>(&self, host: &H, upstream: &str) {
        for (metric, component, _) in self.ids.borrow().iter() {
            self.note(host, (*metric, *component), upstream);
        }
    }

    fn id<H: Host>(
        &self,
        host: &H,
        metric: &'static Metric,
        upstream: &str,
        component: &'static str,
    ) -> Result<u32, HostError> {
        let known = |&&(known, part, _): &&(&'static Metric, &'static str, u32)| {
            std::ptr::eq(known, metric) && part == component
        };
        if let Some((_, _, id)) = self.ids.borrow().iter().find(known) {
            return Ok(*id);
        }
        let id = host.define(metric.kind, &stat(metric, upstream, component))?;
        let mut ids = self.ids.borrow_mut();
        if ids.is_empty() {
            ids.reserve_exact(AT_FIRST);
        }
        ids.push((metric, component, id));
        drop(ids);
        self.note(host, (metric, component), upstream);
        Ok(id)
    }

    /// Notes a series that is defined elsewhere, so that the next version of the module keeps it.
    pub(crate) fn note<H: Host>(&self, host: &H, series: OfMetric, upstream: &str) {
        self.ledger.note(host, upstream, series);
    }

    /// Defines the series that other VMs have noted, except those that `is_met` has met by itself.
    pub(crate) fn keep<H: Host>(
        &self,
        host: &H,
        upstream: &str,
        is_met: impl Fn(&'static Metric, &'static str) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        for (metric, component) in self.ledger.read(host, upstream)? {
            if !is_met(metric, component)? {
                self.id(host, metric, upstream, component)?;
            }
        }
        Ok(())
    }

    /// Whether any of a metric is defined.
    pub(crate) fn has(&self, metric: &'static Metric) -> bool {
        self.ids.borrow().iter().any(|(known, _, _)| std::ptr::eq(*known, metric))
    }

    /// Adds one to a counter.
    pub(crate) fn count<H: Host>(
        &self,
        host: &H,
        metric: &'static Metric,
        upstream: &str,
        component: &'static str,
    ) -> Result<(), HostError> {
        host.add(self.id(host, metric, upstream, component)?, 1)
    }

    /// Sets a gauge.
    pub(crate) fn record<H: Host>(
        &self,
        host: &H,
        metric: &'static Metric,
        upstream: &str,
        value: u64,
    ) -> Result<(), HostError> {
        host.record(self.id(host, metric, upstream, "")?, value)
    }
}
