//! The host in memory: metrics and shared data of one proxy, faults, and a watch on every call.
//!
//! It behaves as Envoy does where the breaker can notice. Metrics are shared by name. Each definition gives a new id.
//! An excluded metric always reads 0. Compare-and-swap numbers never repeat.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::circuit::layout::Slot;
use crate::circuit::record::{Phase, Record};
use crate::host::{ABSENT, Host, HostError, Level, MetricKind, Progress};
use crate::keys;
use crate::policy::active::ActiveProbe;
use crate::policy::classify::Answer;
use crate::telemetry::metrics::{Metric, SHARED, stat};

#[derive(Debug, Default)]
struct Store {
    data: BTreeMap<String, (Vec<u8>, u32)>,
    last_cas: u32,
    values: BTreeMap<String, u64>,
    records: BTreeMap<String, Vec<u64>>,
    ids: Vec<(MetricKind, String)>,
    excluded: Option<fn(&str) -> bool>,
    log: Vec<(Level, String)>,
    calls: Calls,
    broken: bool,
    /// The next call fails.
    failing: bool,
    refused: Option<fn(&str) -> bool>,
    /// What another process adds to the gauges.
    imported: BTreeMap<String, u64>,
    streams: BTreeMap<u32, String>,
    interference: Interference,
    watcher: Watcher,
    begun: Answer,
    sending: Sending,
    /// The breaker's own requests so far, and where each went. The number of each is its place, from 1 on.
    sent: Vec<(String, ActiveProbe)>,
    held_back: bool,
    delayed: bool,
}

/// What becomes of the breaker's own requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sending {
    /// They are sent.
    #[default]
    Works,
    /// The upstream cannot even be asked.
    Fails,
    /// The host sends nothing.
    Refused,
}

/// What a host call does to something that other workers may touch too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Looks at it.
    Read,
    /// Adds to it without seeing the result: two such calls may come in either order.
    Add,
    /// Changes it, or reads it and changes it.
    Write,
}

/// Told of every host call right before it is made.
#[derive(Clone, Default)]
struct Watcher(Option<Rc<Watch>>);

type Watch = dyn Fn(&str, Touch);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watcher").field(&self.0.is_some()).finish()
    }
}

/// What another worker does in the middle of this worker's decision, and before which host call.
#[derive(Default)]
struct Interference(Option<(When, Box<dyn FnOnce()>)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    NextWrite,
    /// The number of calls that come first.
    Call(u64),
}

impl std::fmt::Debug for Interference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Interference").field(&self.0.is_some()).finish()
    }
}

/// Host calls made so far, by cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls that return bytes or hand bytes to shared data: dear.
    pub bytes: u64,
    /// Calls that move one number: cheap.
    pub words: u64,
}

/// The host of all VMs of one proxy.
#[derive(Clone, Debug, Default)]
pub struct Memory(Rc<RefCell<Store>>, &'static str);

impl Memory {
    /// A host whose statistics do not keep the metrics that `excluded` picks.
    #[must_use]
    pub fn excluding(excluded: fn(&str) -> bool) -> Memory {
        let memory = Memory::default();
        memory.0.borrow_mut().excluded = Some(excluded);
        memory
    }

    /// The same host, for VMs of the module of this name.
    #[must_use]
    pub fn of_module(&self, name: &'static str) -> Memory {
        Memory(Rc::clone(&self.0), name)
    }

    /// From now on all requests in flight are in this upstream.
    pub(super) fn all_are_in(&self, upstream: &str) {
        for lands_in in self.0.borrow_mut().streams.values_mut() {
            upstream.clone_into(lands_in);
        }
    }

    /// From now on every host call gives an error, or works again.
    pub fn set_broken(&self, broken: bool) {
        self.0.borrow_mut().broken = broken;
    }

    /// The next host call that can fail gives an error; those after it work.
    pub fn fail_next_call(&self) {
        self.0.borrow_mut().failing = true;
    }

    /// From now on nothing can be added to the metrics that `refused` picks; `None`: everything works again.
    pub fn refuse(&self, refused: Option<fn(&str) -> bool>) {
        self.0.borrow_mut().refused = refused;
    }

    /// Value of a counter or gauge; 0 where nobody has defined it.
    #[must_use]
    pub fn value(&self, metric: &Metric, upstream: &str, component: &str) -> u64 {
        if std::ptr::eq(metric, &raw const SHARED) {
            return self.shared(upstream, component);
        }
        self.0.borrow().value(&stat(metric, upstream, component))
    }

    /// A number that the workers of this process share.
    fn shared(&self, upstream: &str, component: &str) -> u64 {
        let store = self.0.borrow();
        let process = store.data.get(&keys::process_key()).and_then(|(bytes, _)| bytes.first_chunk());
        let process = process.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let value = store.value(&stat(&SHARED, upstream, &format!("{component}-{process:08x}")));
        value & u64::from(u32::MAX)
    }

    /// The host of a process that takes over from this one. As in Envoy's hot restart, it adds this one's gauges to
    /// its own.
    #[must_use]
    pub fn hot_restarted(&self) -> Memory {
        let parent = self.0.borrow();
        let is_gauge = |name: &&String| parent.ids.iter().any(|(kind, own)| *kind == MetricKind::Gauge && own == *name);
        let gauges = parent.values.iter().filter(|(name, _)| is_gauge(name));
        let imported = gauges.map(|(name, value)| (name.clone(), *value)).collect();
        Memory(Rc::new(RefCell::new(Store { imported, ..Store::default() })), self.1)
    }

    /// What was recorded into a histogram.
    #[must_use]
    pub fn recorded(&self, metric: &Metric, upstream: &str) -> Vec<u64> {
        self.0.borrow().records.get(&stat(metric, upstream, "")).cloned().unwrap_or_default()
    }

    /// Definitions of metrics so far: each takes memory of Envoy's.
    #[must_use]
    pub fn metrics_defined(&self) -> usize {
        self.0.borrow().ids.len()
    }

    /// The names of all metrics that were defined after so many definitions.
    #[must_use]
    pub fn names_defined_after(&self, definitions: usize) -> BTreeSet<String> {
        self.0.borrow().ids.iter().skip(definitions).map(|(_, name)| name.clone()).collect()
    }

    /// The values of all counters and gauges, by their names.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, u64> {
        self.0.borrow().values.clone()
    }

    /// The log so far.
    #[must_use]
    pub fn log_lines(&self) -> Vec<String> {
        self.0.borrow().log.iter().map(|(_, line)| line.clone()).collect()
    }

    /// Host calls so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.0.borrow().calls
    }

    /// Where a request in flight is, by Envoy's number of it; `None`: it is over.
    pub fn is_in(&self, stream: u32, upstream: Option<&str>) {
        let streams = &mut self.0.borrow_mut().streams;
        match upstream {
            Some(upstream) => streams.insert(stream, upstream.to_owned()),
            None => streams.remove(&stream),
        };
    }

    /// How the answers of all requests in flight have begun.
    pub fn answers_begin(&self, answer: Answer) {
        self.0.borrow_mut().begun = answer;
    }

    /// What becomes of the breaker's own requests from now on.
    pub fn sends(&self, sending: Sending) {
        self.0.borrow_mut().sending = sending;
    }

    /// The breaker's own requests so far: the upstream of each, and what was sent. The host's number of each is its place,
    /// from 1 on.
    #[must_use]
    pub fn sent(&self) -> Vec<(String, ActiveProbe)> {
        self.0.borrow().sent.clone()
    }

    /// Whether another filter holds all requests in flight back, and whether a fault filter has.
    pub fn holds_back(&self, held_back: bool, delayed: bool) {
        let mut store = self.0.borrow_mut();
        (store.held_back, store.delayed) = (held_back, delayed);
    }

    /// Right before the next write of shared data `act` happens, as if another worker were faster.
    pub fn before_next_write(&self, act: impl FnOnce() + 'static) {
        self.0.borrow_mut().interference.0 = Some((When::NextWrite, Box::new(act)));
    }

    /// `act` happens right before the host call that comes after `others` more, of any kind: a worker is stopped
    /// there, and another one runs.
    pub fn before_call(&self, others: u64, act: impl FnOnce() + 'static) {
        let mut store = self.0.borrow_mut();
        let at = store.calls.words.saturating_add(store.calls.bytes).saturating_add(others);
        store.interference.0 = Some((When::Call(at), Box::new(act)));
    }

    /// Calls `watch` right before every host call, with what the call touches and how.
    pub fn before_every_call(&self, watch: impl Fn(&str, Touch) + 'static) {
        self.0.borrow_mut().watcher = Watcher(Some(Rc::new(watch)));
    }

    fn touch(&self, what: &str, how: Touch) {
        let watcher = self.0.borrow().watcher.clone();
        if let Some(watch) = watcher.0 {
            watch(what, how);
        }
    }

    /// Before a host call on a metric.
    fn touch_metric(&self, metric: u32, how: Touch) {
        let name = self.0.borrow().name(metric);
        if let Ok((_, name)) = name {
            self.touch(&name, how);
        }
    }

    fn interfere(&self, now: When) {
        let mut store = self.0.borrow_mut();
        let due = matches!(&store.interference.0, Some((moment, _)) if *moment == now);
        let act = if due { store.interference.0.take() } else { None };
        drop(store);
        if let Some((_, act)) = act {
            act();
        }
    }

    fn interfere_at_call(&self) {
        let calls = self.calls();
        self.interfere(When::Call(calls.words.saturating_add(calls.bytes)));
    }

    /// Sets every counter to 0, as Envoy's `/reset_counters` does.
    pub fn reset_counters(&self) {
        let mut store = self.0.borrow_mut();
        let counters: Vec<String> =
            store.ids.iter().filter(|(kind, _)| *kind == MetricKind::Counter).map(|(_, name)| name.clone()).collect();
        for name in counters {
            store.values.insert(name, 0);
        }
    }

    /// What lies under every key that begins with `prefix`.
    #[must_use]
    pub fn shared_data(&self, prefix: &str) -> Vec<Vec<u8>> {
        let store = self.0.borrow();
        let under = store.data.iter().filter(|(key, _)| key.starts_with(prefix));
        under.map(|(_, (value, _))| value.clone()).collect()
    }

    /// The upstreams that have a circuit, by slot.
    #[must_use]
    pub fn circuits(&self) -> Vec<String> {
        let slots = (0..).map(|slot| self.0.borrow().data.get(&keys::record_key(slot)).cloned());
        let records = slots.map_while(|record| record);
        let upstream = |(bytes, _): (Vec<u8>, u32)| match Slot::read(Some(&bytes)) {
            Slot::Taken(upstream) => Some(upstream),
            Slot::Free { .. } | Slot::Foreign | Slot::Unknown => None,
        };
        records.filter_map(upstream).collect()
    }

    /// How the circuit of an upstream stands by its record: the byte of its phase, and its transitions so far.
    #[must_use]
    pub fn circuit(&self, upstream: &str) -> Option<(u8, u64)> {
        let records = self.shared_data(keys::RECORDS).into_iter();
        let mut own = records.filter_map(|bytes| Some((*bytes.get(2)?, Record::decode(&bytes, upstream)?)));
        let (phase, record) = own.find(|(_, record)| record.phase != Phase::Ended)?;
        Some((phase, record.transitions()))
    }

    /// Puts bytes under every key that begins with `prefix`.
    pub fn overwrite(&self, prefix: &str, bytes: &[u8]) {
        for (key, (value, _)) in &mut self.0.borrow_mut().data {
            if key.starts_with(prefix) {
                bytes.clone_into(value);
            }
        }
    }

    fn word_call(&self) -> Result<std::cell::RefMut<'_, Store>, HostError> {
        self.interfere_at_call();
        let mut store = self.0.borrow_mut();
        store.calls.words = store.calls.words.saturating_add(1);
        if store.fails() { Err(HostError(10)) } else { Ok(store) }
    }

    fn bytes_call(&self) -> Result<std::cell::RefMut<'_, Store>, HostError> {
        self.interfere_at_call();
        let mut store = self.0.borrow_mut();
        store.calls.bytes = store.calls.bytes.saturating_add(1);
        if store.fails() { Err(HostError(10)) } else { Ok(store) }
    }
}

impl Store {
    /// Whether this call fails.
    fn fails(&mut self) -> bool {
        std::mem::take(&mut self.failing) || self.broken
    }

    fn name(&self, id: u32) -> Result<(MetricKind, String), HostError> {
        let at = usize::try_from(id).map_err(|_| HostError(1))?;
        self.ids.get(at).cloned().ok_or(HostError(1))
    }

    fn value(&self, name: &str) -> u64 {
        let of = |values: &BTreeMap<String, u64>| values.get(name).copied().unwrap_or(0);
        of(&self.values).wrapping_add(of(&self.imported))
    }

    fn is_kept(&self, name: &str) -> bool {
        !self.excluded.is_some_and(|excluded| excluded(name))
    }
}

impl Host for Memory {
    fn module(&self) -> &str {
        self.1
    }

    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        self.touch(key, Touch::Read);
        Ok(self.bytes_call()?.data.get(key).cloned())
    }

    fn swap(&self, key: &str, value: &[u8], expected: u32) -> Result<bool, HostError> {
        self.touch(key, Touch::Write);
        self.interfere(When::NextWrite);
        let mut store = self.bytes_call()?;
        let fits = store.data.get(key).map_or(expected == ABSENT, |(_, cas)| *cas == expected);
        if fits {
            store.last_cas = store.last_cas.wrapping_add(1);
            let cas = store.last_cas;
            store.data.insert(key.to_owned(), (value.to_owned(), cas));
        }
        Ok(fits)
    }

    fn define(&self, kind: MetricKind, name: &str) -> Result<u32, HostError> {
        // Each gets a number of its own. No test may depend on the order.
        self.touch("definitions", Touch::Add);
        let mut store = self.bytes_call()?;
        store.ids.push((kind, name.to_owned()));
        u32::try_from(store.ids.len().saturating_sub(1)).map_err(|_| HostError(2))
    }

    fn add(&self, metric: u32, delta: i64) -> Result<(), HostError> {
        self.touch_metric(metric, Touch::Add);
        let mut store = self.word_call()?;
        let (kind, name) = store.name(metric)?;
        if kind == MetricKind::Counter && delta <= 0 {
            return Err(HostError(2));
        }
        if store.refused.is_some_and(|refused| refused(&name)) {
            return Err(HostError(10));
        }
        if store.is_kept(&name) {
            let value = store.values.entry(name).or_default();
            *value = value.wrapping_add_signed(delta);
        }
        Ok(())
    }

    fn record(&self, metric: u32, value: u64) -> Result<(), HostError> {
        self.touch_metric(metric, Touch::Write);
        let mut store = self.word_call()?;
        let (kind, name) = store.name(metric)?;
        if !store.is_kept(&name) {
        } else if kind == MetricKind::Histogram {
            store.records.entry(name).or_default().push(value);
        } else {
            store.values.insert(name, value);
        }
        Ok(())
    }

    fn read(&self, metric: u32) -> Result<u64, HostError> {
        self.touch_metric(metric, Touch::Read);
        let store = self.word_call()?;
        let (_, name) = store.name(metric)?;
        Ok(store.value(&name))
    }

    fn progress_of(&self, stream: u32) -> Option<Progress> {
        let store = self.bytes_call().ok()?;
        let upstream = store.streams.get(&stream).cloned()?;
        Some(Progress { upstream, sent: !store.held_back, delayed: store.delayed })
    }

    fn answer_of(&self, stream: u32) -> Option<(String, Answer)> {
        let store = self.bytes_call().ok()?;
        store.streams.get(&stream).map(|upstream| (upstream.clone(), store.begun))
    }

    fn send(&self, upstream: &str, probe: &ActiveProbe) -> Result<Option<u32>, HostError> {
        self.touch("sent", Touch::Write);
        let mut store = self.bytes_call()?;
        match store.sending {
            Sending::Refused => Err(HostError(2)),
            Sending::Fails => Ok(None),
            Sending::Works => {
                store.sent.push((upstream.to_owned(), probe.clone()));
                Ok(u32::try_from(store.sent.len()).ok())
            }
        }
    }

    fn log(&self, level: Level, line: &str) {
        self.touch("log", Touch::Add);
        self.0.borrow_mut().log.push((level, line.to_owned()));
    }
}
