//! The breaker's host for a process without Envoy: threads take the place of workers.
//!
//! A write costs a thread little, unless other threads write to the same place. So each thread writes its counters
//! and histograms into a part of its own. A reader of a counter adds up all parts (striped counters, as Java's
//! `LongAdder`); a worker reads one at its tick and where a call fails. Gauges exist once for all threads, since they
//! are set and not only added to. Every request reads two gauges that are hardly ever written. Shared data is a map
//! behind a lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use circuit_breaker_core::host::{ABSENT, Host, HostError, Level, MetricKind, Progress};
use circuit_breaker_core::policy::active::ActiveProbe;
use circuit_breaker_core::policy::classify::Answer;

/// More metrics than a few circuits have. A power of two, so that the low bits of a number are its place.
const METRICS: usize = 64;

/// Buckets of a histogram: a value falls into the bucket of its number of bits.
const BUCKETS: usize = 64;

/// The bits of a metric's number that tell its kind, as Envoy's numbers do.
const COUNTER: u32 = 1 << 30;
const HISTOGRAM: u32 = 1 << 31;

/// A gauge that shares no cache line with another one (nor with the neighbouring line, which processors fetch too).
/// So threads that read one gauge are not slowed by threads that write another.
#[repr(align(128))]
#[derive(Default)]
struct Gauge(AtomicU64);

/// The numbers that one thread writes and all may read.
#[repr(align(128))]
struct Part {
    counters: [AtomicU64; METRICS],
    histograms: [[AtomicU64; BUCKETS]; METRICS],
}

impl Part {
    fn new() -> Part {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Part { counters: zeros(), histograms: std::array::from_fn(|_| zeros()) }
    }
}

/// Adds where no other thread writes, which needs no locked instruction.
#[inline]
fn add(cell: &AtomicU64, delta: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(delta), Ordering::Release);
}

#[inline]
fn place(metric: u32) -> usize {
    metric as usize % METRICS
}

/// What the threads of a process share.
#[derive(Default)]
pub struct Shared {
    gauges: Gauges,
    parts: Mutex<Vec<Arc<Part>>>,
    numbers: Mutex<HashMap<String, u32>>,
    data: Mutex<HashMap<String, (Vec<u8>, u32)>>,
}

struct Gauges([Gauge; METRICS]);

impl Default for Gauges {
    fn default() -> Gauges {
        Gauges(std::array::from_fn(|_| Gauge::default()))
    }
}

/// One thread's host.
pub struct Native {
    shared: Arc<Shared>,
    own: Arc<Part>,
}

/// A thread that panicked has left whole data behind: nothing here stops halfway.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The host of one more thread.
    #[must_use]
    pub fn host(self: &Arc<Shared>) -> Native {
        let own = Arc::new(Part::new());
        locked(&self.parts).push(Arc::clone(&own));
        Native { shared: Arc::clone(self), own }
    }

    #[inline]
    fn gauge(&self, metric: u32) -> &AtomicU64 {
        &self.gauges.0[place(metric)].0
    }

    #[cold]
    fn counted(&self, metric: u32) -> u64 {
        let of = |part: &Arc<Part>| part.counters[place(metric)].load(Ordering::SeqCst);
        locked(&self.parts).iter().map(of).fold(0, u64::wrapping_add)
    }

    /// Sets a gauge. One thread counts a failure and then asks to be watched. Another stops watching and then counts.
    /// They must not both miss each other, so neither may read before its own writes can be read.
    #[cold]
    fn set(&self, metric: u32, value: u64) {
        fence(Ordering::SeqCst);
        self.gauge(metric).store(value, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

impl Host for Native {
    fn module(&self) -> &str {
        "native"
    }

    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        Ok(locked(&self.shared.data).get(key).cloned())
    }

    fn swap(&self, key: &str, value: &[u8], expected: u32) -> Result<bool, HostError> {
        let mut data = locked(&self.shared.data);
        let next = match data.get(key) {
            Some((_, cas)) if *cas == expected => cas.wrapping_add(1),
            None if expected == ABSENT => 1,
            _ => return Ok(false),
        };
        data.insert(key.to_owned(), (value.to_owned(), next));
        Ok(true)
    }

    fn define(&self, kind: MetricKind, name: &str) -> Result<u32, HostError> {
        let mut numbers = locked(&self.shared.numbers);
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        let number = *numbers.entry(name.to_owned()).or_insert(next);
        assert!((number as usize) < METRICS, "more than {METRICS} metrics");
        Ok(match kind {
            MetricKind::Counter => number | COUNTER,
            MetricKind::Gauge => number,
            MetricKind::Histogram => number | HISTOGRAM,
        })
    }

    #[inline]
    fn add(&self, metric: u32, delta: i64) -> Result<(), HostError> {
        if metric & COUNTER == 0 {
            self.shared.gauge(metric).fetch_add(delta.cast_unsigned(), Ordering::SeqCst);
        } else {
            add(&self.own.counters[place(metric)], delta.cast_unsigned());
        }
        Ok(())
    }

    #[inline]
    fn record(&self, metric: u32, value: u64) -> Result<(), HostError> {
        if metric & HISTOGRAM == 0 {
            self.shared.set(metric, value);
        } else {
            let bits = u64::BITS.wrapping_sub(value.leading_zeros()) as usize;
            add(&self.own.histograms[place(metric)][bits % BUCKETS], 1);
        }
        Ok(())
    }

    #[inline]
    fn read(&self, metric: u32) -> Result<u64, HostError> {
        if metric & COUNTER == 0 {
            Ok(self.shared.gauge(metric).load(Ordering::Acquire))
        } else {
            Ok(self.shared.counted(metric))
        }
    }

    fn progress_of(&self, _stream: u32) -> Option<Progress> {
        None
    }

    fn answer_of(&self, _stream: u32) -> Option<(String, Answer)> {
        None
    }

    fn send(&self, _upstream: &str, _probe: &ActiveProbe) -> Result<Option<u32>, HostError> {
        Ok(None)
    }

    fn log(&self, _level: Level, _line: &str) {}
}
