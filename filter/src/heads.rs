//! Whether the module reads the head of an answer when it passes, and not only what Envoy says at the end.
//!
//! At the end Envoy knows the status that the client got. A filter on the way may have changed it: a Lua script,
//! `custom_response`. Only the head tells what the upstream itself answered, and a look at it costs as much as all
//! else. So a head is read only with a reason. Once an answer was found that had been changed, each head is read. For
//! a moment after a failing answer each is read too. Else a few are, so that a proxy which changes answers is found
//! out.

use std::cell::Cell;

/// One of so many answers is looked at. A filter that turns an upstream's failing answers into good ones is found out
/// by its thirty-second answer at the latest. The looks add about a seventieth to what the breaker costs.
const SAMPLED: u32 = 32;

/// Ticks for which each head is read after a failing answer. If a filter makes good answers fail, the next heads show
/// it, and none of these failures may count.
const ALERT: u32 = 4;

#[derive(Default)]
pub(crate) struct Heads {
    /// Some answer's status was not the upstream's own.
    changed: Cell<bool>,
    alert: Cell<u32>,
    turn: Cell<u32>,
}

impl Heads {
    /// Whether to read the head that passes now.
    pub(crate) fn is_due(&self) -> bool {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        self.changed.get() || self.alert.get() > 0 || turn.is_multiple_of(SAMPLED)
    }

    /// An answer ended with a failing status.
    pub(crate) fn failed(&self) {
        self.alert.set(ALERT);
    }

    /// An answer ended with another status than its upstream's, in this worker or in another one.
    pub(crate) fn changed(&self) {
        self.changed.set(true);
    }

    pub(crate) fn are_changed(&self) -> bool {
        self.changed.get()
    }

    pub(crate) fn tick(&self) {
        self.alert.set(self.alert.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_looked_at_rarely_after_a_failure_and_always_once_one_was_changed() {
        let heads = Heads::default();
        assert_eq!((0..64).filter(|_| heads.is_due()).count(), 2);
        heads.failed();
        for _ in 0..ALERT {
            assert!((0..10).all(|_| heads.is_due()));
            heads.tick();
        }
        assert_eq!((0..32).filter(|_| heads.is_due()).count(), 1);
        heads.changed();
        assert!((0..100).all(|_| heads.is_due()));
    }
}
