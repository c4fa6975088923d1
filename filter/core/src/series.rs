//! The metrics of one circuit, each defined when it is first needed: an upstream that never fails has no series of
//! failures, which on a proxy with hundreds of upstreams is most of them.

use std::cell::RefCell;

use crate::host::{Host, HostError};
use crate::metrics::{Metric, stat};

/// Room for as many as a circuit has that never failed: its state and its latency. There may be a thousand such circuits.
const AT_FIRST: usize = 2;

/// Ids of defined metrics. Envoy gives a new id for every definition and keeps it for ever, so each is asked for once.
#[derive(Default)]
pub(crate) struct Series {
    ids: RefCell<Vec<(&'static Metric, &'static str, u32)>>,
}

impl Series {
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
        Ok(id)
    }

    /// Defines a metric with all its components.
    pub(crate) fn meet<H: Host>(&self, host: &H, metric: &'static Metric, upstream: &str) -> Result<(), HostError> {
        let alone: &[&str] = if metric.components.is_empty() { &[""] } else { &[] };
        for component in metric.components.iter().chain(alone) {
            self.id(host, metric, upstream, component)?;
        }
        Ok(())
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

    /// Sets a gauge, or records into a histogram.
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
