//! What the breaker needs of its host.
//!
//! Envoy gives each worker a VM of its own. Two things reach all of them. **Metrics** are process-wide atomics that
//! cost about 0.07 us. **Shared data** is bytes under a key, behind one mutex, about ten times as dear. So counts,
//! streaks and epochs are metrics, and what must change together is a record in shared data (`circuit/record`).

use crate::policy::active::ActiveProbe;
use crate::policy::classify::Answer;

/// A status that the host gave unexpectedly, by its number in the proxy-wasm ABI.
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

/// The host. Every method but [`Host::module`] is one host call. Between two calls of one VM any other VM may make calls
/// of its own.
pub trait Host {
    /// The name of this module: its version and a hash of its code. Modules that differ in one byte have two names.
    fn module(&self) -> &str;

    /// The value under `key` and its compare-and-swap number; `None` where the key is absent or empty.
    ///
    /// # Errors
    /// An unexpected status.
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError>;

    /// Writes `value` if the key's number is still `expected` ([`ABSENT`]: if there is no such key). False: nothing
    /// was written.
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

    /// How far a request in flight has come, by Envoy's number of it. `None` where it has no upstream, or is over.
    fn progress_of(&self, stream: u32) -> Option<Progress>;

    /// Where a request in flight went, and how its answer began. `None` where its answer has not begun, or the
    /// request is over.
    fn answer_of(&self, stream: u32) -> Option<(String, Answer)>;

    /// Sends a request of the breaker's own to `upstream`. Returns the host's number of it: its answer comes later, in a
    /// call of its own, with that number. `None`: the upstream could not even be asked, and no answer will come.
    ///
    /// # Errors
    /// An unexpected status: the host knows no such upstream, or sends nothing.
    fn send(&self, upstream: &str, probe: &ActiveProbe) -> Result<Option<u32>, HostError>;

    /// Writes a log line.
    fn log(&self, level: Level, line: &str);
}

/// A failure of our own. The code that meets one lets traffic pass and counts it.
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

/// Tries of a compare-and-swap. Each loss means that another VM made progress. A proxy has few workers, so a swap
/// that loses this often means that the host does not work.
pub(crate) const TRIES: u32 = 32;
