//! What one VM has beside its circuits: the host, randomness, the proxy's epoch, the metrics of the whole proxy.

use crate::host::{Fault, Host, Level, Word};
use crate::key;
use crate::metrics;
use crate::random::Random;
use crate::series::Series;
use crate::words::proven_gauge;

pub(crate) struct Vm<H> {
    pub(crate) host: H,
    pub(crate) random: Random,
    /// Writes of any record of this proxy; `None` where the host did not even let us have this word.
    epoch: Option<Word>,
    series: Series,
}

impl<H: Host> Vm<H> {
    pub(crate) fn new(host: H, seed: u64) -> Vm<H> {
        let proven = proven_gauge(&host, "", "epoch");
        let (epoch, kept) = match proven {
            Ok((word, kept)) => (Some(word), kept),
            Err(_) => (None, true),
        };
        let vm = Vm { host, random: Random::seeded(seed), epoch, series: Series::default() };
        if vm.epoch.is_none() {
            vm.failed(Fault::Host);
        }
        if !kept {
            vm.say_not_kept();
        }
        vm
    }

    /// The same VM under another configuration: it has its metrics already.
    pub(crate) fn after(older: &Vm<H>, host: H, seed: u64) -> Vm<H> {
        let (epoch, series) = (older.epoch.clone(), older.series.clone());
        if epoch.is_none() { Vm::new(host, seed) } else { Vm { host, random: Random::seeded(seed), epoch, series } }
    }

    /// Writes of any record so far; `None` where that cannot be told.
    #[inline]
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.epoch.as_ref()?.get_inline(&self.host).ok()
    }

    /// Tells all workers that a record was written.
    pub(crate) fn advance(&self) -> Result<(), Fault> {
        self.epoch.as_ref().map_or(Err(Fault::Host), |epoch| epoch.add_one(&self.host))
    }

    /// Counts a failure of our own. Traffic flows on.
    pub(crate) fn failed(&self, fault: Fault) {
        self.count(match fault {
            Fault::Host | Fault::NotKept => "host",
            Fault::Cas => "cas",
            Fault::Record => "record",
        });
    }

    fn count(&self, component: &'static str) {
        // The last resort has none of its own: an error that cannot be counted is let go.
        let _ = self.series.count(&self.host, &metrics::INTERNAL_ERRORS, "", component);
    }

    /// Counts a request that has no circuit because of `limits.maxCircuits`.
    pub(crate) fn unprotected(&self) {
        let _ = self.series.count(&self.host, &metrics::UNPROTECTED, "", "");
    }

    pub(crate) fn circuits(&self, held: usize) {
        let held = u64::try_from(held).unwrap_or(u64::MAX);
        let _ = self.series.record(&self.host, &metrics::CIRCUITS, "", held);
    }

    /// Says once a proxy that Envoy's statistics do not keep our metrics.
    pub(crate) fn say_not_kept(&self) {
        self.say_once(
            "not_kept",
            "circuit_breaker metrics are not kept by this Envoy (a stats_matcher excludes wasmcustom.*): \
             the circuits count in shared data instead, as exact, at a higher cost for every request",
        );
    }

    /// Whether some worker has said it.
    pub(crate) fn is_said(&self, what: &str) -> bool {
        matches!(self.host.get(&key::said_key(what)), Ok(Some(_)))
    }

    /// Logs a warning once a proxy.
    pub(crate) fn say_once(&self, what: &str, line: &str) {
        if let Ok(true) = self.host.swap(&key::said_key(what), &[1], crate::host::ABSENT) {
            self.host.log(Level::Warn, line);
        }
    }
}
