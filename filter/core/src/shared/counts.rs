//! The counts of a circuit that all workers share: the counters that its window reads, and gauges.
//!
//! - `epoch`: the number of writes of the record. A worker that keeps a decoded record reads it again only when this
//!   moved.
//! - `watch`: 0 only while the circuit is CLOSED, its streak is 0, and its window holds no failure, no slow call and
//!   none over the latency threshold. A success then only counts itself.
//! - `streak`: failures in a row.
//! - `used`: when a request last found the circuit not CLOSED, in seconds since 1970. Requests that find it CLOSED
//!   are counted at their end.
//!
//! A `stats_matcher` may keep Envoy from keeping one of these. Such a metric reads 0 for ever, and every decision
//! from it would be wrong. Gauges prove themselves when they are met, and counters when they are first added to.
//! Where one is not kept the breaker lets everything pass (`Fault::NotKept`).
//!
//! The gauges belong to one process. When a new Envoy takes over from an old one (hot restart), Envoy adds the old
//! one's gauges to the new one's as long as both live. A streak of the old process must trip nothing in the new one,
//! so the names of the gauges have a number of the process.

use std::cell::OnceCell;

use crate::circuit::window::Tally;
use crate::host::{Fault, Host};
use crate::shared::number::{Counter, Gauge};
use crate::telemetry::metrics::{self, stat};

#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) epoch: Gauge,
    pub(crate) watch: Gauge,
    /// Met when the first failure is counted: most upstreams never have one, and Envoy takes memory for each metric.
    streak: OnceCell<Gauge>,
    /// Met when the circuit is not CLOSED.
    used: OnceCell<Gauge>,
    success: Counter,
    failure: Counter,
    slow: Counter,
    /// Only where the policy has a `latencyThreshold`.
    over: Option<Counter>,
}

impl Counts {
    /// The counts of `upstream`, in the process of this number.
    pub(crate) fn of<H: Host>(host: &H, process: u32, upstream: &str) -> Result<Counts, Fault> {
        let counter = |component| Counter::meet(host, &stat(&metrics::CALLS, upstream, component));
        Ok(Counts {
            epoch: gauge(host, process, upstream, "epoch")?,
            watch: gauge(host, process, upstream, "watch")?,
            streak: OnceCell::new(),
            used: OnceCell::new(),
            success: counter("success")?,
            failure: counter("failure")?,
            slow: counter("slow")?,
            over: None,
        })
    }

    /// Whether the policy has a `latencyThreshold` from now on.
    pub(crate) fn mind_latency<H: Host>(&mut self, host: &H, upstream: &str, minds: bool) -> Result<(), Fault> {
        if minds && self.over.is_none() {
            self.over = Some(Counter::meet(host, &stat(&metrics::OVER_THRESHOLD, upstream, ""))?);
        }
        Ok(())
    }

    /// Failures in a row.
    pub(crate) fn streak<H: Host>(&self, host: &H, process: u32, upstream: &str) -> Result<&Gauge, Fault> {
        late(&self.streak, || gauge(host, process, upstream, "streak"))
    }

    /// When a request last found the circuit not CLOSED.
    pub(crate) fn used<H: Host>(&self, host: &H, process: u32, upstream: &str) -> Result<&Gauge, Fault> {
        late(&self.used, || gauge(host, process, upstream, "used"))
    }

    /// Whether this VM has met the streak.
    pub(crate) fn has_streak(&self) -> bool {
        self.streak.get().is_some()
    }

    /// Whether this VM has met the time of use.
    pub(crate) fn has_used(&self) -> bool {
        self.used.get().is_some()
    }

    /// The gauges that this VM has met and that not every circuit has.
    pub(crate) fn met_late(&self) -> impl Iterator<Item = &'static str> {
        let met = |(gauge, word): (&OnceCell<Gauge>, &'static str)| gauge.get().map(|_| word);
        [(&self.streak, "streak"), (&self.used, "used")].into_iter().filter_map(met)
    }

    pub(crate) fn tally<H: Host>(&self, host: &H) -> Result<Tally, Fault> {
        Ok(Tally {
            success: self.success.get(host)?,
            failure: self.failure.get(host)?,
            slow: self.slow.get(host)?,
            over: self.over.as_ref().map_or(Ok(Tally::UNKNOWN), |over| over.get(host))?,
        })
    }

    #[inline(always)]
    pub(crate) fn add_success<H: Host>(&self, host: &H) -> Result<(), Fault> {
        self.success.add_one(host)
    }

    pub(crate) fn add_failure<H: Host>(&self, host: &H) -> Result<(), Fault> {
        self.failure.add_one(host)
    }

    pub(crate) fn add_slow<H: Host>(&self, host: &H) -> Result<(), Fault> {
        self.slow.add_one(host)
    }

    /// Counts a call that took longer than `latencyThreshold`.
    pub(crate) fn add_over<H: Host>(&self, host: &H) -> Result<(), Fault> {
        self.over.as_ref().map_or(Ok(()), |over| over.add_one(host))
    }
}

/// A gauge that is met when it is first needed.
fn late(gauge: &OnceCell<Gauge>, meet: impl FnOnce() -> Result<Gauge, Fault>) -> Result<&Gauge, Fault> {
    if let Some(gauge) = gauge.get() {
        return Ok(gauge);
    }
    let met = meet()?;
    Ok(gauge.get_or_init(|| met))
}

/// One of the gauges of the process of this number; without an upstream, of the whole proxy.
pub(crate) fn gauge<H: Host>(host: &H, process: u32, upstream: &str, component: &str) -> Result<Gauge, Fault> {
    Gauge::meet(host, &metrics::shared_name(process, upstream, component))
}
