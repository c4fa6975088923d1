//! What runs in a proxy: the module and the policy that are in use, as one series. A fleet with two policies shows.

use std::cell::RefCell;
use std::rc::Rc;

use crate::envoy::stat_name::stat_name;
use crate::host::{Host, HostError, MetricKind};
use crate::telemetry::metrics;

/// The series of all policies that were in use in this VM. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Info(Rc<RefCell<Vec<Series>>>);

struct Series {
    /// The hash of the policy.
    policy: u32,
    metric: u32,
}

impl Info {
    /// The policy of this hash is in use.
    pub(crate) fn begins<H: Host>(&self, host: &H, policy: u32) -> Result<(), HostError> {
        let metric = match self.known(policy) {
            Some(metric) => metric,
            None => self.define(host, policy)?,
        };
        host.record(metric, 1)
    }

    /// The policy of this hash is no longer in use. One that never was has no series.
    pub(crate) fn ends<H: Host>(&self, host: &H, policy: u32) -> Result<(), HostError> {
        self.known(policy).map_or(Ok(()), |metric| host.record(metric, 0))
    }

    fn known(&self, policy: u32) -> Option<u32> {
        self.0.borrow().iter().rev().find(|series| series.policy == policy).map(|series| series.metric)
    }

    fn define<H: Host>(&self, host: &H, policy: u32) -> Result<u32, HostError> {
        let name = stat_name(metrics::INFO.name, host.module(), &format!("{policy:08x}"));
        let metric = host.define(MetricKind::Gauge, &name)?;
        self.0.borrow_mut().push(Series { policy, metric });
        Ok(metric)
    }
}
