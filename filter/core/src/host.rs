//! What the breaker needs of its host, and the atomic numbers it builds from that.
//!
//! Envoy gives each worker a VM of its own. Two things reach all of them: **metrics**, process-wide atomics that cost
//! about 0.07 us, and **shared data**, bytes under a key behind one mutex, about ten times as dear. Counts, streaks and
//! epochs are therefore metrics; what must change together is a record in shared data (`record.rs`).

use std::cell::Cell;

use crate::outcome::Answer;

/// A status that the host gave and that was not expected, by its number in the proxy-wasm ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError(pub u32);

/// Kinds of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only ever grows.
    Counter,
    /// Any value.
    Gauge,
    /// A distribution.
    Histogram,
}

/// Importance of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warn,
}

/// How far a request in flight has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its upstream, as its route is now.
    pub upstream: String,
    /// All filters have let it go: the upstream has it, or is about to.
    pub sent: bool,
    /// A fault filter has held it back.
    pub delayed: bool,
}

/// Compare-and-swap value that means "only if the key is absent": the host's own values never reach it.
pub const ABSENT: u32 = u32::MAX;

/// The host. Every method is one host call: between two of them any other VM may have made any of its own.
pub trait Host {
    /// The value under `key` and its compare-and-swap number; `None` where the key is absent or empty.
    ///
    /// # Errors
    /// An unexpected status.
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError>;

    /// Writes `value` if the key's number is still `expected` ([`ABSENT`]: if there is no such key). False: it was not.
    ///
    /// # Errors
    /// An unexpected status.
    fn swap(&self, key: &str, value: &[u8], expected: u32) -> Result<bool, HostError>;

    /// The number of the metric of this name.
    ///
    /// # Errors
    /// An unexpected status.
    fn define(&self, kind: MetricKind, name: &str) -> Result<u32, HostError>;

    /// Adds to a counter or a gauge.
    ///
    /// # Errors
    /// An unexpected status.
    fn add(&self, metric: u32, delta: i64) -> Result<(), HostError>;

    /// Sets a gauge, or records into a histogram.
    ///
    /// # Errors
    /// An unexpected status.
    fn record(&self, metric: u32, value: u64) -> Result<(), HostError>;

    /// The value of a counter or a gauge over all VMs.
    ///
    /// # Errors
    /// An unexpected status.
    fn read(&self, metric: u32) -> Result<u64, HostError>;

    /// How far a request in flight has come, by Envoy's number of it; `None` where it has no upstream, or is over.
    fn progress_of(&self, stream: u32) -> Option<Progress>;

    /// Where a request in flight went, and how its answer began; `None` where it has not, or the request is over.
    fn answer_of(&self, stream: u32) -> Option<(String, Answer)>;

    /// Writes a log line.
    fn log(&self, level: Level, line: &str);
}

/// Our own failure. Whoever meets one lets traffic flow and counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The host gave an unexpected status.
    Host,
    /// A compare-and-swap lost too often in a row.
    Cas,
    /// The metric is a null one, which always reads 0 (a `stats_matcher` excludes it).
    NotKept,
    /// A record that this version of the module cannot read.
    Record,
}

impl From<HostError> for Fault {
    fn from(_: HostError) -> Fault {
        Fault::Host
    }
}

/// Tries of a compare-and-swap. Each loss means that another VM made progress; a proxy has few workers, and what loses
/// this often is a host that does not work.
pub(crate) const TRIES: u32 = 32;

/// A number of calls that all workers share: a counter of Envoy's.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    id: u32,
    proof: Cell<Proof>,
}

/// Whether Envoy keeps a counter. A null one always reads 0, and so does one right after `/reset_counters`: a single zero
/// is only a doubt.
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

    /// Adds one. Until it has been read back once, a null counter must not pass for one that nobody has written.
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
/// The upper half is never 0 once a VM has met the gauge, which tells a null one, that always reads 0, from one that is 0.
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
