//! The words of a circuit that all workers share: the counters that are its window's source, and three gauges.
//!
//! - `epoch`: writes of the record. Whoever keeps a decoded record reads it again only when this moved.
//! - `watch`: 0 only while the circuit is CLOSED, its window holds no failure, no slow call and none over the latency
//!   threshold, and its streak is 0. A success then has
//!   nothing to do but count itself.
//! - `streak`: failures in a row.
//!
//! A `stats_matcher` may keep Envoy from keeping any of them; such a metric reads 0 for ever. The three gauges share one
//! metric name, so that they share that fate, and the epoch proves it when the circuit is first seen; counters prove
//! themselves when they are first added to. Every VM comes to the same answer, so all use the same stand-ins.

use std::cell::OnceCell;

use crate::host::{Fault, Host, MetricKind, Word};
use crate::metrics::{self, Metric, stat};
use crate::window::Tally;

#[derive(Clone, Debug)]
pub(crate) struct Words {
    pub(crate) epoch: Word,
    pub(crate) watch: Word,
    /// Met when the first failure is counted: most upstreams never have one, and Envoy takes memory for each metric.
    streak: OnceCell<Word>,
    /// Whether Envoy keeps the gauges.
    kept: bool,
    success: Word,
    failure: Word,
    slow: Word,
    /// Only where the policy minds.
    over: Option<Word>,
}

impl Words {
    /// The words of `upstream`, and whether Envoy keeps the gauges. `minds_latency`: its policy has a `latencyThreshold`.
    pub(crate) fn of<H: Host>(host: &H, upstream: &str, minds_latency: bool) -> Result<(Words, bool), Fault> {
        let counter = |component| Word::metric(host, MetricKind::Counter, &stat(&metrics::CALLS, upstream, component));
        let (success, failure, slow) = (counter("success")?, counter("failure")?, counter("slow")?);
        let (epoch, kept) = proven_gauge(host, upstream, "epoch")?;
        let watch = gauge(host, upstream, "watch", kept)?;
        let mut words = Words { epoch, watch, streak: OnceCell::new(), kept, success, failure, slow, over: None };
        words.mind_latency(host, upstream, minds_latency)?;
        Ok((words, kept))
    }

    /// Whether the policy has a `latencyThreshold` from now on.
    pub(crate) fn mind_latency<H: Host>(&mut self, host: &H, upstream: &str, minds: bool) -> Result<(), Fault> {
        if minds && self.over.is_none() {
            let name = stat(&metrics::OVER_THRESHOLD, upstream, "");
            self.over = Some(Word::metric(host, MetricKind::Counter, &name)?);
        }
        Ok(())
    }

    /// Failures in a row.
    pub(crate) fn streak<H: Host>(&self, host: &H, upstream: &str) -> Result<&Word, Fault> {
        if let Some(streak) = self.streak.get() {
            return Ok(streak);
        }
        let streak = gauge(host, upstream, "streak", self.kept)?;
        Ok(self.streak.get_or_init(|| streak))
    }

    pub(crate) fn tally<H: Host>(&self, host: &H) -> Result<Tally, Fault> {
        Ok(Tally {
            success: self.success.get(host)?,
            failure: self.failure.get(host)?,
            slow: self.slow.get(host)?,
            over: self.over.as_ref().map_or(Ok(0), |over| over.get(host))?,
        })
    }

    /// As [`Words::add_success`], but a part of its caller.
    #[inline(always)]
    pub(crate) fn add_success_inline<H: Host>(&mut self, host: &H, upstream: &str) -> Result<(), Fault> {
        if self.success.add_one_proven(host)? { Ok(()) } else { self.add_success(host, upstream) }
    }

    pub(crate) fn add_success<H: Host>(&mut self, host: &H, upstream: &str) -> Result<(), Fault> {
        add(&mut self.success, host, &metrics::CALLS, upstream, "success")
    }

    pub(crate) fn add_failure<H: Host>(&mut self, host: &H, upstream: &str) -> Result<(), Fault> {
        add(&mut self.failure, host, &metrics::CALLS, upstream, "failure")
    }

    pub(crate) fn add_slow<H: Host>(&mut self, host: &H, upstream: &str) -> Result<(), Fault> {
        add(&mut self.slow, host, &metrics::CALLS, upstream, "slow")
    }

    /// Counts a call that took longer than `latencyThreshold`.
    pub(crate) fn add_over<H: Host>(&mut self, host: &H, upstream: &str) -> Result<(), Fault> {
        self.over.as_mut().map_or(Ok(()), |over| add(over, host, &metrics::OVER_THRESHOLD, upstream, ""))
    }
}

fn gauge<H: Host>(host: &H, upstream: &str, component: &str, kept: bool) -> Result<Word, Fault> {
    let name = stat(&metrics::SHARED, upstream, component);
    if kept { Word::kept(host, MetricKind::Gauge, &name) } else { Ok(Word::shared(&name)) }
}

/// A gauge that is known to be kept, or its stand-in.
pub(crate) fn proven_gauge<H: Host>(host: &H, upstream: &str, component: &str) -> Result<(Word, bool), Fault> {
    let name = stat(&metrics::SHARED, upstream, component);
    let gauge = Word::metric(host, MetricKind::Gauge, &name)?;
    match gauge.add_one(host) {
        Ok(()) => Ok((gauge, true)),
        Err(Fault::NotKept) => Ok((Word::shared(&name), false)),
        Err(fault) => Err(fault),
    }
}

fn add<H: Host>(word: &mut Word, host: &H, metric: &Metric, upstream: &str, component: &str) -> Result<(), Fault> {
    match word.add_one(host) {
        Err(Fault::NotKept) => {
            *word = Word::shared(&stat(metric, upstream, component));
            word.add_one(host)
        }
        done => done,
    }
}
