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
        take_over(host::text("plugin_name"), document, &breaker);
    }
}

/// Retires the breakers of this plugin under other documents. Under the same document another listener has one too.
fn take_over(plugin: Option<String>, document: Vec<u8>, breaker: &SharedBreaker) {
    IN_USE.with(|in_use| {
        let Ok(mut in_use) = in_use.try_borrow_mut() else { return };
        in_use.retain(|other| other.breaker.strong_count() > 0);
        for other in in_use.iter().filter(|other| other.plugin == plugin && other.document != document) {
            if let Some(old) = other.breaker.upgrade()
                && let Ok(mut old) = old.try_borrow_mut()
            {
                old.retire();
            }
        }
        in_use.push(InUse { plugin, document, breaker: Rc::downgrade(breaker) });
    });
}

fn count_refused(envoy: Envoy) {
    let name = metrics::stat(&metrics::INTERNAL_ERRORS, "", "config");
    if let Ok(id) = envoy.define(MetricKind::Counter, &name) {
        // Nothing is left to do about an error that cannot be counted; the log line has it.
        let _ = envoy.add(id, 1);
    }
}
