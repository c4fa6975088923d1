//! The record of a circuit, which all workers share: the fields that must change together.
//!
//! It is in Envoy's shared data, under its slot's key, and changes only by compare-and-swap. [`super::layout`] tells
//! its bytes.

use crate::circuit::window::Tally;
use crate::policy::MOST_PROBES;

/// Places for leases in a record.
pub(crate) const LEASES: usize = MOST_PROBES as usize;

/// Leave to send one probe, until it is settled or its time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Which lease of this circuit; 0 is no lease.
    pub(crate) number: u32,
    /// When the slot is free again even if nobody settled the probe (its VM trapped).
    pub(crate) ends_at: u64,
    /// Its request is still coming. It holds the slot for a moment, and a request that is complete may take it.
    pub(crate) trial: bool,
}

/// The states, with HALF_OPEN's two stages told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Closed,
    Open,
    /// HALF_OPEN: a few leased probes.
    Probe,
    /// HALF_OPEN: a growing share.
    Ramp,
    /// There is no circuit: its upstream had no traffic for long. The slot is free.
    Ended,
}

/// The shared state of a circuit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) phase: Phase,
    /// OPEN because the policy says `forceOpen`, not because of a failure.
    pub(crate) forced: bool,
    /// Transitions of all circuits of the slot so far. A result of an older generation changes nothing.
    pub(crate) generation: u64,
    /// The generation that this circuit began with.
    pub(crate) born: u64,
    /// When the last transition was made.
    pub(crate) since: u64,
    /// The counters at that moment: where every worker's window begins.
    pub(crate) base: Tally,
    /// Trips without a full healthy window between them.
    pub(crate) trips_in_a_row: u32,
    /// When OPEN is over.
    pub(crate) open_until: u64,
    /// When this outage began: the first OPEN since CLOSED.
    pub(crate) outage_since: u64,
    /// PROBE: good probes so far. RAMP: the step.
    pub(crate) progress: u32,
    /// RAMP: when the step began. CLOSED: since when health is being proved. PROBE: when the breaker's own next probe is
    /// due.
    pub(crate) mark_at: u64,
    /// The counters at `mark_at`.
    pub(crate) mark: Tally,
    /// Number of the last lease given.
    pub(crate) last_lease: u32,
    /// Leases of the probes that are out, at most [`MOST_PROBES`]. Nearly every circuit has none, and there may be
    /// many circuits.
    pub(crate) leases: Vec<Lease>,
    /// A later version owns this record: only its head is known, and this version may not write it.
    pub(crate) foreign: bool,
    /// The tail of later layouts. Nearly every circuit has none.
    pub(crate) later: Option<Box<Later>>,
}

/// The part of a record that this version carries along untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Later {
    pub(super) layout: u8,
    pub(super) oldest_writer: u8,
    pub(super) tail: Vec<u8>,
}

impl Record {
    /// A CLOSED circuit that begins now, with this generation.
    pub(crate) fn fresh(born: u64, now: u64, tally: Tally) -> Record {
        Record { generation: born, born, since: now, base: tally, mark_at: now, mark: tally, ..Record::default() }
    }

    /// The record that stands for a slot with another upstream's record, or with none.
    pub(crate) fn ended() -> Record {
        Record { phase: Phase::Ended, ..Record::default() }
    }

    /// Transitions of this circuit so far.
    pub(crate) fn transitions(&self) -> u64 {
        self.generation.saturating_sub(self.born)
    }
}
