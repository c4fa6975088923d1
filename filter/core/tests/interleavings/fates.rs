//! What befalls a worker between two of its host calls: it waits for its turn, dies or is stopped, or the host fails
//! it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::resume_unwind;

use circuit_breaker_core::testing::Memory;

use super::plan::{Draw, Fault, Plan};

/// What happens right before a host call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    /// The VM is killed.
    Die,
    /// The worker goes on only when all are let go.
    Stop,
    /// The call gives an error.
    Fail,
}

/// The payload that a killed VM unwinds with. It is no panic, and nobody is told of it.
pub(super) struct Died;

/// The fates of all workers of a schedule, and what has come of them so far.
#[derive(Default)]
pub(super) struct Fates {
    /// By a worker's task: after how many host calls, and what happens then.
    ahead: RefCell<BTreeMap<usize, VecDeque<(u64, Fate)>>>,
    pub(super) deaths: Cell<u64>,
    /// Workers that are stopped now.
    pub(super) stopped: Cell<u64>,
    pub(super) stops: Cell<u64>,
    let_go: Cell<bool>,
    /// What the failed calls were about to touch.
    failed: RefCell<Vec<String>>,
}

/// The task that a coroutine of shuttle's runs as.
pub(super) fn task() -> usize {
    usize::from(shuttle::current::me())
}

/// The task that begins the others, looks at them afterwards, and is never stopped.
const ONLOOKER: usize = 0;

impl Fates {
    /// Decides what becomes of the worker that runs as this task.
    pub(super) fn decide(&self, fates: VecDeque<(u64, Fate)>) {
        self.ahead.borrow_mut().insert(task(), fates);
    }

    /// Right before a host call that touches `what`.
    pub(super) fn before_call(&self, host: &Memory, what: &str) {
        if task() == ONLOOKER {
            return;
        }
        shuttle::thread::yield_now();
        match self.next(what) {
            None => {}
            Some(Fate::Die) => {
                self.deaths.set(self.deaths.get() + 1);
                resume_unwind(Box::new(Died));
            }
            Some(Fate::Stop) => self.stop(),
            Some(Fate::Fail) => {
                self.failed.borrow_mut().push(what.to_owned());
                host.fail_next_call();
            }
        }
    }

    /// Workers that are let go have no fate any longer: they are to finish what they are at.
    fn next(&self, what: &str) -> Option<Fate> {
        let mut ahead = self.ahead.borrow_mut();
        let fates = ahead.get_mut(&task()).filter(|_| !self.let_go.get())?;
        let (calls, fate) = fates.front_mut()?;
        *calls = calls.saturating_sub(1);
        // Writing a line cannot fail.
        let is_due = *calls == 0 && (what != "log" || *fate != Fate::Fail);
        let fate = *fate;
        is_due.then(|| fates.pop_front()).map(|_| fate)
    }

    fn stop(&self) {
        self.stops.set(self.stops.get() + 1);
        self.stopped.set(self.stopped.get() + 1);
        while !self.let_go.get() {
            shuttle::thread::yield_now();
        }
        self.stopped.set(self.stopped.get() - 1);
    }

    /// Lets the stopped workers go on.
    pub(super) fn let_go(&self) {
        self.let_go.set(true);
    }

    pub(super) fn are_let_go(&self) -> bool {
        self.let_go.get()
    }

    /// Host calls that have failed.
    pub(super) fn errors(&self) -> u64 {
        self.failed.borrow().len() as u64
    }

    /// Whether the others may not have been told of a write, because the call failed that would have told them.
    pub(super) fn is_untold(&self) -> bool {
        self.failed.borrow().iter().any(|what| what.contains("epoch"))
    }
}

/// What becomes of a worker. A worker makes only a few hundred host calls.
pub(super) fn drawn(plan: &Plan, number: u64, draw: &mut Draw) -> VecDeque<(u64, Fate)> {
    let mut fates = VecDeque::new();
    if plan.has(Fault::HostError) && draw.one_in(2) {
        fates.extend((0..=draw.below(3)).map(|_| (1 + draw.below(120), Fate::Fail)).collect::<Vec<_>>());
    }
    if plan.has(Fault::Death) && draw.one_in(2) {
        fates.extend((0..=draw.below(2)).map(|_| (1 + draw.below(150), Fate::Die)).collect::<Vec<_>>());
    }
    if plan.has(Fault::DeathForGood) && number == 0 {
        fates.push_back((1 + draw.below(250), Fate::Die));
    }
    if plan.has(Fault::Stop) && number + 1 == plan.workers {
        fates.push_back((1 + draw.below(250), Fate::Stop));
    }
    // In any order.
    fates.rotate_left(draw.below(fates.len().max(1) as u64) as usize);
    fates
}
