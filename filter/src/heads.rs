//! Whether the head of an answer is looked at when it comes by, and not only what Envoy says of it at its end.
//!
//! At the end Envoy knows the status that the client got. A filter on the way may have made another one of it: a Lua
//! script, `custom_response`. What the upstream itself answered stands only in the head, and a look at it costs as much as
//! all else. So it is looked at where there is reason to: of each answer, once one was found that had been changed; for a
//! moment after a failing one; and else of a few, so that a proxy which changes answers is found out.

use std::cell::Cell;

/// Of so many answers one is looked at. A filter that makes good answers of an upstream's failing ones is found out by its
/// thirty-second answer at the latest, and the looks add about a seventieth to what the breaker costs.
const SAMPLED: u32 = 32;

/// Ticks for which each head is looked at after a failing answer. If it is a filter that makes good answers fail, the next
/// ones tell, and none of them may count.
const ALERT: u32 = 4;

#[derive(Default)]
pub(crate) struct Heads {
    /// Some answer's status was not the upstream's own.
    changed: Cell<bool>,
    alert: Cell<u32>,
    turn: Cell<u32>,
}

impl Heads {
    /// Whether to look at the head that comes by now.
    pub(crate) fn is_due(&self) -> bool {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        self.changed.get() || self.alert.get() > 0 || turn.is_multiple_of(SAMPLED)
    }

    /// An answer ended with a failing status.
    pub(crate) fn failed(&self) {
        self.alert.set(ALERT);
    }

    /// An answer ended with another status than its upstream's, here or at another worker.
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
