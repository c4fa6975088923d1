//! One call in flight, as far as the tick must know it.

use super::permit::Permit;

/// A call's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) admitted: Admitted,
    /// When it was admitted.
    pub(super) start: u64,
    /// When its request's last byte came; its start while that has not.
    pub(super) since: u64,
    pub(super) state: State,
    /// Envoy's number of the request.
    pub(super) stream: u32,
    /// The request ended with its headers.
    pub(super) whole: bool,
    pub(super) held: Held,
}

/// What is known of how long other filters have held a call back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nobody has looked: that it was sent at once is the rule.
    Unknown,
    /// It had not been sent at `since`.
    Unsent,
    /// It had been sent at `since`.
    Sent,
}

/// By what a call was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Unseen: its start tells the generation.
    Unseen,
    /// Unseen, and before the clock stepped back: in an older generation than any that there is.
    Before,
    By {
        circuit: u32,
        generation: u64,
    },
}

impl Flight {
    /// What it was admitted with, as the tick has set it right.
    pub(super) fn permit(&self, place: u32) -> Permit {
        match self.admitted {
            Admitted::By { circuit, generation } => Permit::Call { flight: place, circuit, generation },
            Admitted::Unseen | Admitted::Before => Permit::Calm { flight: place, start: self.unseen_since() },
        }
    }

    /// When it was let go, if unseen.
    #[inline]
    pub(super) fn unseen_since(&self) -> u64 {
        if self.admitted == Admitted::Before { 0 } else { self.start }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free {
        /// The place that is free after it.
        next: u32,
    },
    /// The request is still coming: nobody waits for the upstream yet.
    Sending,
    Waiting {
        /// When the tick is to look at it; it looks at every call once its age asks for it, and then at this time.
        look_at: u64,
    },
    Answered {
        /// When its answer began.
        at: u64,
    },
    /// Nobody minds any longer how long it takes.
    Left,
    /// It was settled by the tick.
    Settled(Early),
}

/// What the tick has settled a call as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    /// Good: its answer had begun well. That stays counted, and a failure that comes later is counted too.
    Good,
    /// Hung: nothing more is counted of it.
    Hung,
}

/// How a call ended, as far as its place tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// What the tick has settled it as.
    pub(super) early: Option<Early>,
    /// Since when it had waited for the upstream.
    pub(super) since: u64,
}

impl Ended {
    /// Of a call without a place.
    pub(super) const UNKNOWN: Ended = Ended { early: None, since: u64::MAX };

    /// Nanoseconds that it has waited.
    pub(super) fn waited(&self, now: u64) -> Option<u64> {
        (self.since != u64::MAX).then(|| now.saturating_sub(self.since))
    }
}

/// A call that the tick must look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old {
    pub(super) flight: u32,
    pub(super) permit: Permit,
    /// When its request's last byte came.
    pub(super) since: u64,
    /// When its answer began, or else `since`.
    pub(super) at: u64,
    pub(super) stream: u32,
    pub(super) held: Held,
}
