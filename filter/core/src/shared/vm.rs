//! What one VM has beside its circuits: the host, randomness, the proxy's epoch, the metrics of the whole proxy.

use std::cell::{Cell, OnceCell};

use crate::clock::MILLISECOND;
use crate::host::{ABSENT, Fault, Host, Level};
use crate::keys;
use crate::random::Random;
use crate::shared::counts;
use crate::shared::number::Gauge;
use crate::telemetry::info::Info;
use crate::telemetry::metrics;
use crate::telemetry::series::Series;

pub(crate) struct Vm<H> {
    pub(crate) host: H,
    pub(crate) random: Random,
    /// Met at the first tick or request: a configuration that is not in use writes nothing.
    process: OnceCell<Process>,
    /// When it ticked last, in nanoseconds.
    pub(crate) ticked: Cell<u64>,
    /// Envoy does not keep our metrics: nothing can be decided.
    blind: Cell<bool>,
    series: Series,
    /// Which policy is in use.
    pub(crate) info: Info,
}

/// The process that this VM is in.
#[derive(Clone)]
struct Process {
    /// A number that tells this process from the one that it took over from.
    number: u32,
    /// The number of writes of any record of this proxy.
    epoch: Gauge,
}

/// The key in shared data that says that Envoy does not keep our metrics.
const NOT_KEPT: &str = "not_kept";

impl<H: Host> Vm<H> {
    pub(crate) fn new(host: H, seed: u64, now: u64) -> Vm<H> {
        let (random, ticked, blind) = (Random::seeded(seed), Cell::new(now), Cell::new(false));
        Vm { host, random, process: OnceCell::new(), ticked, blind, series: Series::default(), info: Info::default() }
    }

    /// The same VM under another configuration: it has its metrics already.
    pub(crate) fn after(older: &Vm<H>, host: H, seed: u64, now: u64) -> Vm<H> {
        let (process, blind, series) = (older.process.clone(), older.blind.clone(), older.series.clone());
        Vm {
            host,
            random: Random::seeded(seed),
            process,
            ticked: Cell::new(now),
            blind,
            series,
            info: older.info.clone(),
        }
    }

    /// Meets what all VMs of this process share. `now` in nanoseconds.
    pub(crate) fn meet(&self, now: u64) -> Result<(), Fault> {
        if self.process.get().is_some() {
            return Ok(());
        }
        let key = keys::process_key();
        // A new process begins a millisecond after its parent at the earliest, so the two differ.
        let own = u32::try_from((now / MILLISECOND) & u64::from(u32::MAX)).unwrap_or_default();
        self.host.swap(&key, &own.to_le_bytes(), ABSENT)?;
        let (bytes, _) = self.host.get(&key)?.ok_or(Fault::Host)?;
        let number = bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let epoch = counts::gauge(&self.host, number, "", "epoch")?;
        self.look_whether_blind();
        let _ = self.process.set(Process { number, epoch });
        self.series.keep(&self.host, "", |_, _| Ok(false))
    }

    /// The number of the process.
    pub(crate) fn process(&self) -> Result<u32, Fault> {
        self.process.get().map(|process| process.number).ok_or(Fault::Host)
    }

    /// Whether Envoy does not keep our metrics, as far as this VM knows.
    pub(crate) fn is_blind(&self) -> bool {
        self.blind.get()
    }

    /// Learns whether another VM has found out that Envoy does not keep our metrics.
    pub(crate) fn look_whether_blind(&self) {
        if !self.blind.get() && self.is_said(NOT_KEPT) {
            self.blind.set(true);
        }
    }

    /// Number of writes of any record so far; `None` where it cannot be read.
    #[inline]
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.process.get()?.epoch.get(&self.host).ok()
    }

    /// Tells all workers that a record was written.
    pub(crate) fn advance(&self) -> Result<(), Fault> {
        self.process.get().map_or(Err(Fault::Host), |process| process.epoch.add_one(&self.host))
    }

    /// Counts a failure of our own. Traffic still passes.
    pub(crate) fn failed(&self, fault: Fault) {
        if fault == Fault::NotKept {
            self.go_blind();
        }
        self.count(match fault {
            Fault::Host | Fault::NotKept => "host",
            Fault::Cas => "cas",
            Fault::Record => "record",
        });
    }

    fn count(&self, component: &'static str) {
        // Nothing is left to do where the count of an error fails too.
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

    /// All counts are lost. This tells all workers and the operator.
    fn go_blind(&self) {
        self.blind.set(true);
        self.say_once(
            NOT_KEPT,
            "circuit_breaker is off: this Envoy does not keep all of its metrics, with which its workers count together; let \
             the stats_matcher include wasmcustom.*",
        );
        // Where this fails, each worker finds out by itself.
        let _ = self.advance();
    }

    /// Whether some worker has logged it.
    pub(crate) fn is_said(&self, what: &str) -> bool {
        matches!(self.host.get(&keys::said_key(what)), Ok(Some(_)))
    }

    /// Logs a warning about an upstream, unless the last warning under this key was about the same upstream.
    pub(crate) fn say_once_of(&self, what: &str, upstream: &str, line: &str) {
        let key = keys::said_key(what);
        let Ok(said) = self.host.get(&key) else { return };
        let (said, cas) = said.unwrap_or((Vec::new(), ABSENT));
        if said != upstream.as_bytes() && self.host.swap(&key, upstream.as_bytes(), cas) == Ok(true) {
            self.host.log(Level::Warn, line);
        }
    }

    /// Logs a warning once a proxy.
    pub(crate) fn say_once(&self, what: &str, line: &str) {
        if let Ok(true) = self.host.swap(&keys::said_key(what), &[1], ABSENT) {
            self.host.log(Level::Warn, line);
        }
    }
}
