//! The configuration, the breaker and the tick of this VM.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use circuit_breaker_core::breaker::{self, Breaker};
use circuit_breaker_core::clock::MILLISECOND;
use circuit_breaker_core::config::Config;

use crate::envoy::{Envoy, Headers};
use crate::glance::Glance;
use crate::heads::Heads;
use crate::shared::Shared;
use crate::stream::Stream;

/// Nanoseconds after which a VM goes on with work that it does bit by bit. A bit takes about a twentieth of that to meet
/// circuits, and as long to define what an older version of the module has counted.
const PAUSE: u64 = 4 * MILLISECOND;

/// A configuration in use in this VM.
struct InUse<E: Envoy> {
    root: u32,
    /// Its root id: Istio's `pluginName`.
    plugin: String,
    document: Vec<u8>,
    breaker: Weak<RefCell<Breaker<E>>>,
}

/// The configurations of a VM, oldest first.
///
/// Envoy gives a changed configuration a new root context in the same VM, and lets the old one drain. The new one
/// must tell the old one to stand back, or two policies would drive the same circuits.
pub(crate) struct Configurations<E: Envoy>(Vec<InUse<E>>);

/// One configuration. It is never configured twice: a change is a new root context.
pub(crate) struct Root<E: Envoy> {
    id: u32,
    envoy: E,
    /// Its root id. Plugins with other root ids have other circuits.
    plugin: String,
    /// Work is left that is done bit by bit between the ticks, so that it keeps no request waiting: to define what an
    /// older version of the module has counted, and to meet circuits.
    is_busy: bool,
    shared: Option<Rc<Shared<E>>>,
    configurations: Rc<RefCell<Configurations<E>>>,
}

impl<E: Envoy> Root<E> {
    /// `id`: Envoy's number of the root context. `configurations`: those of its VM.
    pub(crate) fn new(envoy: E, id: u32, configurations: Rc<RefCell<Configurations<E>>>) -> Root<E> {
        Root { id, envoy, plugin: String::new(), is_busy: false, shared: None, configurations }
    }

    /// Envoy's number of it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// A new request. It passes untouched where nothing is configured.
    pub(crate) fn stream(&self, id: u32) -> Stream<E> {
        Stream::new(self.envoy.clone(), id, self.shared.clone())
    }

    /// Takes the configuration into use. False: the configuration is refused.
    pub(crate) fn configure(&mut self) -> bool {
        self.plugin = self.envoy.text("plugin_root_id").unwrap_or_default();
        self.envoy.belong_to(&self.plugin);
        let document = self.envoy.plugin_configuration();
        match Config::parse(&document) {
            Ok(config) => {
                self.start(config, document);
                true
            }
            Err(error) => {
                log::error!("circuit_breaker config refused: {error}");
                breaker::count_refused(&self.envoy);
                false
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        let Some(shared) = &self.shared else { return };
        if let Ok(mut breaker) = shared.breaker.try_borrow_mut() {
            let was_busy = self.is_busy;
            let is_due = !was_busy || breaker.is_tick_due(self.envoy.now());
            if was_busy {
                let keeps = breaker.keep(&|| self.envoy.now());
                self.is_busy = breaker.catch_up(self.envoy.now()) || keeps;
            }
            if is_due {
                breaker.tick(self.envoy.now());
                self.is_busy |= breaker.is_behind();
            }
            if was_busy != self.is_busy {
                self.envoy.tick_every(if self.is_busy { PAUSE } else { breaker.tick_period() });
            }
            if !is_due {
                return;
            }
            if !shared.heads.are_changed() && breaker.are_answers_changed() {
                shared.heads.changed();
            }
        }
        shared.heads.tick();
        if let Ok(mut glance) = shared.glance.try_borrow_mut() {
            glance.iter_mut().for_each(|glance| glance.turn(&self.envoy));
        }
    }

    /// The answer to a probe of the breaker's own has come. It has no status where it was broken off.
    pub(crate) fn probe_answered(&mut self, call: u32) {
        let Some(shared) = &self.shared else { return };
        let status = self.envoy.header(Headers::CallResponse, ":status").and_then(|text| String::from_utf8(text).ok());
        if let Ok(mut breaker) = shared.breaker.try_borrow_mut() {
            breaker.probe_answered(call, status.and_then(|text| text.parse().ok()), self.envoy.now());
        }
    }

    fn start(&mut self, config: Config, document: Vec<u8>) {
        let now = self.envoy.now();
        // The VMs of a proxy start within microseconds of each other, at times that differ in nanoseconds. The place
        // of the breaker in memory differs between configurations. Together that is random enough for jitter.
        let plugin = self.plugin.clone();
        let older = self.configurations.try_borrow().ok().and_then(|all| all.newest(&plugin));
        let envoy = self.envoy.clone();
        let mut breaker = match older.as_ref().and_then(|older| older.try_borrow().ok()) {
            Some(older) => Breaker::start_after(&older, envoy, config, now, now),
            None => Breaker::start(envoy, config, now, now),
        };
        self.is_busy = breaker.keep(&|| self.envoy.now());
        self.envoy.tick_every(if self.is_busy { PAUSE } else { breaker.tick_period() });
        let glance = Glance::new(&self.envoy, !breaker.trusts_good_statuses());
        let breaker = Rc::new(RefCell::new(breaker));
        self.shared = Some(Rc::new(Shared {
            envoy: self.envoy.clone(),
            breaker: Rc::clone(&breaker),
            glance: RefCell::new(glance),
            heads: Heads::default(),
        }));
        if let Ok(mut configurations) = self.configurations.try_borrow_mut() {
            configurations.take_over(InUse { root: self.id, plugin, document, breaker: Rc::downgrade(&breaker) });
        }
    }
}

impl<E: Envoy> Drop for Root<E> {
    fn drop(&mut self) {
        if let Ok(mut configurations) = self.configurations.try_borrow_mut() {
            configurations.give_back(self.id);
        }
    }
}

impl<E: Envoy> InUse<E> {
    /// Whether both have the same policies. Each listener has a breaker of its own under one document.
    fn agrees(&self, other: &InUse<E>) -> bool {
        self.plugin == other.plugin && self.document == other.document
    }

    /// The other one is no longer in use, and this one says so.
    fn replaces(&self, other: &InUse<E>) {
        let Some(other) = other.breaker.upgrade() else { return };
        if let Ok(other) = other.try_borrow() {
            self.breaker(|own| own.replaces(&other));
        }
    }

    fn breaker(&self, act: impl FnOnce(&mut Breaker<E>)) {
        if let Some(breaker) = self.breaker.upgrade()
            && let Ok(mut breaker) = breaker.try_borrow_mut()
        {
            act(&mut breaker);
        }
    }
}

impl<E: Envoy> Configurations<E> {
    pub(crate) const fn none() -> Configurations<E> {
        Configurations(Vec::new())
    }

    /// The breaker of the newest configuration of this plugin.
    fn newest(&self, plugin: &str) -> Option<Rc<RefCell<Breaker<E>>>> {
        self.0.iter().rev().filter(|own| own.plugin == plugin).find_map(|own| own.breaker.upgrade())
    }

    /// A configuration comes into use. Those of the same plugin under other documents retire.
    fn take_over(&mut self, new: InUse<E>) {
        for old in self.0.iter().filter(|old| old.plugin == new.plugin && !old.agrees(&new)) {
            old.breaker(Breaker::retire);
            new.replaces(old);
        }
        self.0.push(new);
    }

    /// A configuration goes. It may be the newest of its plugin: then Envoy has taken an update back, because another
    /// part of the listener was bad. The one before it then goes on, or no circuit would ever leave OPEN again.
    fn give_back(&mut self, root: u32) {
        let Some(at) = self.0.iter().position(|own| own.root == root) else { return };
        let gone = self.0.remove(at);
        let Some(newest) = self.0.iter().rev().find(|own| own.plugin == gone.plugin) else { return };
        for own in self.0.iter().filter(|own| own.agrees(newest)) {
            own.breaker(Breaker::resume);
        }
        if !gone.agrees(newest) {
            newest.replaces(&gone);
        }
    }
}
