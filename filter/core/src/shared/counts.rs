//! The words of a circuit that all workers share: the counters that are its window's source, and three gauges.
//!
//! - `epoch`: writes of the record. Whoever keeps a decoded record reads it again only when this moved.
//! - `watch`: 0 only while the circuit is CLOSED, its window holds no failure, no slow call and none over the latency
//!   threshold, and its streak is 0. A success then has
//!   nothing to do but count itself.
//! - `streak`: failures in a row.
//! - `used`: when a request found the circuit not CLOSED last, in seconds since 1970. Those that find it CLOSED are counted
//!   at their end.
//!
//! A `stats_matcher` may keep Envoy from keeping any of them; such a metric reads 0 for ever, and nothing that is decided
//! with it is right. Gauges prove themselves when they are met, counters when they are first added to; where one is not
//! kept the breaker lets everything pass (`Fault::NotKept`).
//!
//! The gauges belong to one process: a new Envoy that takes over from an old one (hot restart) has the old one's gauges
//! added to its own for as long as both live, and a streak of there must trip nothing here. So their names hold a number
//! of the process.

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
    /// Only where the policy minds.
    over: Option<Counter>,
}

impl Counts {
    /// The words of `upstream` in the process of this number.
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

    /// When the circuit was found not CLOSED last.
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

    /// Those that this VM has met though not every circuit has them.
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
