//! What the breaker needs of its host, and the atomic words it builds from that.
//!
//! Envoy gives each worker a VM of its own. Two things reach all of them: **metrics**, process-wide atomics that cost
//! about 0.07 us, and **shared data**, bytes under a key behind one mutex, about ten times as dear. Counts, streaks and
//! epochs are therefore metrics; what must change together is a record in shared data (`record.rs`).

use std::cell::Cell;

use crate::key;
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
    /// A record that no version of this module has written.
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

/// An unsigned number that all workers share: a metric, or bytes in shared data where Envoy does not keep the metric.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    Metric { id: u32, gauge: bool, proven: Cell<bool> },
    Shared { key: String },
}

impl Word {
    pub(crate) fn metric<H: Host>(host: &H, kind: MetricKind, name: &str) -> Result<Word, Fault> {
        let id = host.define(kind, name)?;
        Ok(Word::Metric { id, gauge: kind == MetricKind::Gauge, proven: Cell::new(false) })
    }

    /// A metric that is known to be kept, since another one of its name is. Reading it back would prove nothing where other
    /// workers set it to 0.
    pub(crate) fn kept<H: Host>(host: &H, kind: MetricKind, name: &str) -> Result<Word, Fault> {
        let word = Word::metric(host, kind, name)?;
        if let Word::Metric { proven, .. } = &word {
            proven.set(true);
        }
        Ok(word)
    }

    /// The stand-in for a metric that is not kept: slower, as exact.
    pub(crate) fn shared(name: &str) -> Word {
        Word::Shared { key: key::word_key(name) }
    }

    pub(crate) fn get<H: Host>(&self, host: &H) -> Result<u64, Fault> {
        self.get_inline(host)
    }

    /// As [`Word::get`], but a part of its caller: for the few words that every request reads.
    #[inline(always)]
    pub(crate) fn get_inline<H: Host>(&self, host: &H) -> Result<u64, Fault> {
        match self {
            Word::Metric { id, .. } => Ok(host.read(*id)?),
            Word::Shared { key } => shared(host, key),
        }
    }

    /// Adds one to a metric that was read back before, as a part of the caller; false: it was not, and nothing was added.
    #[inline(always)]
    pub(crate) fn add_one_proven<H: Host>(&self, host: &H) -> Result<bool, Fault> {
        match self {
            Word::Metric { id, proven, .. } if proven.get() => {
                host.add(*id, 1)?;
                Ok(true)
            }
            Word::Metric { .. } | Word::Shared { .. } => Ok(false),
        }
    }

    /// Adds one. The first time it is read back: a null metric must not pass for one that nobody has written. For words that
    /// only grow, or are known to be kept.
    pub(crate) fn add_one<H: Host>(&self, host: &H) -> Result<(), Fault> {
        match self {
            Word::Metric { id, proven, .. } => {
                host.add(*id, 1)?;
                if !proven.get() {
                    if host.read(*id)? == 0 {
                        return Err(Fault::NotKept);
                    }
                    proven.set(true);
                }
                Ok(())
            }
            Word::Shared { .. } => self.rewrite(host, |value| value.wrapping_add(1)),
        }
    }

    /// Sets a gauge.
    pub(crate) fn set<H: Host>(&self, host: &H, value: u64) -> Result<(), Fault> {
        match self {
            Word::Metric { id, gauge: true, .. } => Ok(host.record(*id, value)?),
            // A counter cannot be set; no caller does.
            Word::Metric { .. } => Err(Fault::Host),
            Word::Shared { .. } => self.rewrite(host, |_| value),
        }
    }

    fn rewrite<H: Host>(&self, host: &H, next: impl Fn(u64) -> u64) -> Result<(), Fault> {
        let Word::Shared { key } = self else { return Err(Fault::Host) };
        for _ in 0..TRIES {
            let (value, expected) = host.get(key)?.map_or((0, ABSENT), |(bytes, cas)| (number(&bytes), cas));
            if host.swap(key, &next(value).to_le_bytes(), expected)? {
                return Ok(());
            }
        }
        Err(Fault::Cas)
    }
}

#[cold]
fn shared<H: Host>(host: &H, key: &str) -> Result<u64, Fault> {
    Ok(host.get(key)?.map_or(0, |(bytes, _)| number(&bytes)))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
