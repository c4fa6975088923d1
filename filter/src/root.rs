//! The configuration, the breaker and the tick of this VM.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::config::Config;
use circuit_breaker_core::host::{Host, MetricKind};
use circuit_breaker_core::metrics;

use crate::glance::{Ended, Glance};
use crate::host::{self, Envoy};

/// The breaker that the streams of one configuration share.
type SharedBreaker = Rc<RefCell<Breaker<Envoy>>>;

/// What the streams of one configuration share.
pub(crate) struct Shared {
    pub(crate) breaker: SharedBreaker,
    /// `None` where the host has no expressions.
    pub(crate) glance: RefCell<Option<Glance>>,
}

/// A configuration in use in this VM.
struct InUse {
    root: u32,
    plugin: Option<String>,
    document: Vec<u8>,
    breaker: Weak<RefCell<Breaker<Envoy>>>,
}

thread_local! {
    /// Envoy gives a changed configuration a new root context in the same VM, and lets the old one drain: the new one
    /// must tell the old one to stand back, or two policies would pull at the same circuits.
    static IN_USE: RefCell<Vec<InUse>> = const { RefCell::new(Vec::new()) };
}

/// One configuration. Never configured twice: a change is a new root context.
pub(crate) struct Root {
    envoy: Envoy,
    shared: Option<Rc<Shared>>,
}

impl Shared {
    /// How the present request ended. `known`: where it went is not asked.
    pub(crate) fn ended(&self, known: bool) -> Ended {
        let told = self.glance.try_borrow_mut().ok().and_then(|mut glance| {
            let glance = glance.as_mut()?;
            if known { glance.look() } else { glance.find() }
        });
        told.unwrap_or_else(|| Ended::read(false))
    }
}

impl Root {
    pub(crate) fn new(id: u32) -> Root {
        Root { envoy: Envoy { root: id }, shared: None }
    }

    /// Envoy's number of it.
    pub(crate) fn id(&self) -> u32 {
        self.envoy.root
    }

    /// What its streams share; `None` before it is configured.
    pub(crate) fn shared(&self) -> Option<Rc<Shared>> {
        self.shared.clone()
    }

    /// Takes the configuration into use. False: it is refused.
    pub(crate) fn configure(&mut self) -> bool {
        let document = host::plugin_configuration();
        match Config::parse(&document) {
            Ok(config) => {
                self.start(config, document);
                true
            }
            Err(error) => {
                log::error!("circuit_breaker config refused: {error}");
                count_refused(self.envoy);
                false
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        let Some(shared) = &self.shared else { return };
        if let Ok(mut breaker) = shared.breaker.try_borrow_mut() {
            breaker.tick(host::now());
        }
        if let Ok(mut glance) = shared.glance.try_borrow_mut() {
            glance.as_mut().map(Glance::turn);
        }
    }

    fn start(&mut self, config: Config, document: Vec<u8>) {
        let now = host::now();
        // The VMs of a proxy start within microseconds of each other, at times that differ in nanoseconds, and the place
        // of the breaker in memory differs between configurations: enough for jitter.
        let breaker = Breaker::start(self.envoy, config, now, now);
        host::tick_every(breaker.tick_period());
        let glance = Glance::new(!breaker.trusts_good_statuses());
        let breaker = Rc::new(RefCell::new(breaker));
        self.shared = Some(Rc::new(Shared { breaker: Rc::clone(&breaker), glance: RefCell::new(glance) }));
        take_over(InUse {
            root: self.envoy.root,
            plugin: host::text("plugin_name"),
            document,
            breaker: Rc::downgrade(&breaker),
        });
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        give_back(self.envoy.root);
    }
}

impl InUse {
    /// Whether both have the same policies. Under one document each listener has a breaker.
    fn agrees(&self, other: &InUse) -> bool {
        self.plugin == other.plugin && self.document == other.document
    }

    fn breaker(&self, act: impl FnOnce(&mut Breaker<Envoy>)) {
        if let Some(breaker) = self.breaker.upgrade()
            && let Ok(mut breaker) = breaker.try_borrow_mut()
        {
            act(&mut breaker);
        }
    }
}

/// A configuration comes into use: those of its plugin under other documents retire.
fn take_over(new: InUse) {
    IN_USE.with(|in_use| {
        let Ok(mut in_use) = in_use.try_borrow_mut() else { return };
        for old in in_use.iter().filter(|old| old.plugin == new.plugin && !old.agrees(&new)) {
            old.breaker(Breaker::retire);
        }
        in_use.push(new);
    });
}

/// A configuration goes. It is the newest of its plugin where Envoy takes an update back, since another part of the
/// listener was no good: then the one before it goes on, or no circuit would ever leave OPEN again.
fn give_back(root: u32) {
    IN_USE.with(|in_use| {
        let Ok(mut in_use) = in_use.try_borrow_mut() else { return };
        let Some(gone) = in_use.iter().position(|own| own.root == root).map(|at| in_use.remove(at)) else { return };
        let Some(newest) = in_use.iter().rev().find(|own| own.plugin == gone.plugin) else { return };
        for own in in_use.iter().filter(|own| own.agrees(newest)) {
            own.breaker(Breaker::resume);
        }
    });
}

fn count_refused(envoy: Envoy) {
    let name = metrics::stat(&metrics::INTERNAL_ERRORS, "", "config");
    if let Ok(id) = envoy.define(MetricKind::Counter, &name) {
        // Nothing is left to do about an error that cannot be counted; the log line has it.
        let _ = envoy.add(id, 1);
    }
}
