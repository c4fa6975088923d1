//! One call in flight, as far as the tick needs to know it.

use super::permit::Permit;

/// A call's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) admitted: Admitted,
    /// When it was admitted.
    pub(super) start: u64,
    /// When its request's last byte came. While that byte has not come, the call's start.
    pub(super) since: u64,
    pub(super) state: State,
    /// Envoy's number of the request.
    pub(super) stream: u32,
    /// The request had no body: it ended with its headers.
    pub(super) whole: bool,
    pub(super) held: Held,
}

/// What is known of how long other filters have held a call back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nobody has looked. Most calls are sent at once.
    Unknown,
    /// It had not been sent at `since`.
    Unsent,
    /// It had been sent at `since`.
    Sent,
}

/// Under which circuit and generation a call was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Unseen: its start time tells the generation.
    Unseen,
    /// Unseen, and let go before the clock stepped back: its generation is older than all that there are.
    Before,
    By {
        circuit: u32,
        generation: u64,
    },
}

impl Flight {
    /// The call's permit, corrected by the tick where the clock stepped back.
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
        /// The next free place.
        next: u32,
    },
    /// The request is still coming: nobody waits for the upstream yet.
    Sending,
    Waiting {
        /// When the tick is to look at it. The tick looks at every call that has reached a certain age, and from then
        /// on at this time.
        look_at: u64,
    },
    Answered {
        /// When its answer began.
        at: u64,
    },
    /// No policy minds any longer how long it takes.
    Left,
    /// It was settled by the tick.
    Settled(Early),
}

/// What the tick has settled a call as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    /// Good: its answer had begun well. This stays counted, and a later failure is counted too.
    Good,
    /// Hung: nothing more is counted of it.
    Hung,
}

/// How a call ended, as far as its place tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// What the tick has settled it as.
    pub(super) early: Option<Early>,
    /// Since when it has waited for the upstream.
    pub(super) since: u64,
}

impl Ended {
    /// The end of a call without a place.
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
