//! What must change together about one circuit: the record that all workers share.
//!
//! It lies in Envoy's shared data and changes only by compare-and-swap. It is little-endian, 324 bytes in this layout,
//! whatever the state.
//!
//! **Versions.** Records outlive versions of the module, and while a new one is rolled out both run. So a record begins
//! with a head that every version understands: its layout, the oldest version that may write it, and how its circuit
//! stands. Behind the head comes what layout 1 has, and behind that a tail of later layouts:
//! - A version that may write a record carries the tail along untouched, and so it keeps the layout's number.
//! - One that may not leaves the record alone and obeys its head: it rejects while that says OPEN, and lets all else pass.
//! - What is no record at all is left alone too, lets everything pass, and is counted as an error.

use crate::config::MOST_PROBES;
use crate::window::Tally;

/// Places for leases in a record.
pub(crate) const LEASES: usize = MOST_PROBES as usize;

/// This version's layout. A later one takes the next number, appends to this one, and reads the older ones.
const LAYOUT: u8 = 1;

/// The oldest layout whose versions may write what this one writes.
const OLDEST_WRITER: u8 = 1;

/// Bytes of the head: layout, oldest writer, phase, one to spare, generation, since when, until when OPEN, end of the last
/// lease.
const HEAD_BYTES: usize = 4 + 8 * 4;

/// Bytes of a record of layout 1.
pub const RECORD_BYTES: usize = HEAD_BYTES + 4 * 4 + 8 * 10 + LEASES * 12;

/// Leave to send one probe, until it is settled or its time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Which lease of this circuit; 0 is no lease.
    pub(crate) number: u32,
    /// When the slot is free again even if nobody settled the probe (its VM trapped).
    pub(crate) ends_at: u64,
    /// Its request is still coming: it holds the slot for a moment, and whoever is complete may have it.
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
}

/// The shared state of a circuit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) phase: Phase,
    /// OPEN because the policy says `forceOpen`, not because of a failure.
    pub(crate) forced: bool,
    /// Transitions so far. A result of an older generation changes nothing.
    pub(crate) generation: u64,
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
    /// RAMP: when the step began. CLOSED: since when health is being proved.
    pub(crate) mark_at: u64,
    /// The counters at `mark_at`.
    pub(crate) mark: Tally,
    /// Number of the last lease given.
    pub(crate) last_lease: u32,
    /// Of the probes that are out, at most [`MOST_PROBES`]: none for nearly every circuit, and there may be many circuits.
    pub(crate) leases: Vec<Lease>,
    /// A later version's: only its head is known, and nobody here may write it.
    pub(crate) foreign: bool,
    /// What later layouts have. Absent for nearly every circuit.
    pub(crate) later: Option<Box<Later>>,
}

/// The part of a record that this version carries along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Later {
    layout: u8,
    oldest_writer: u8,
    tail: Vec<u8>,
}

impl Record {
    /// A CLOSED circuit that begins now.
    pub(crate) fn fresh(now: u64, tally: Tally) -> Record {
        Record { since: now, base: tally, mark_at: now, mark: tally, ..Record::default() }
    }

    /// What stands in the place of a record that nobody can read: it lets everything pass.
    pub(crate) fn unreadable() -> Record {
        Record { foreign: true, ..Record::default() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let later = self.later.as_deref();
        let mut out = Vec::with_capacity(RECORD_BYTES.saturating_add(later.map_or(0, |later| later.tail.len())));
        let (layout, oldest) = later.map_or((LAYOUT, OLDEST_WRITER), |later| (later.layout, later.oldest_writer));
        out.extend_from_slice(&[layout, oldest, self.phase_byte(), 0]);
        let last_lease_ends = self.leases.iter().map(|lease| lease.ends_at).max().unwrap_or(0);
        put(&mut out, &[self.generation, self.since, self.open_until, last_lease_ends]);
        for word in [self.trips_in_a_row, self.progress, self.last_lease, self.trials()] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        put(&mut out, &self.base.words());
        put(&mut out, &[self.outage_since, self.mark_at]);
        put(&mut out, &self.mark.words());
        for place in 0..LEASES {
            let lease = self.leases.get(place).copied().unwrap_or_default();
            out.extend_from_slice(&lease.number.to_le_bytes());
            put(&mut out, &[lease.ends_at]);
        }
        out.extend_from_slice(later.map_or(&[], |later| &later.tail));
        out
    }

    /// `None` for what is no record.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Record> {
        let mut from = Cursor { bytes };
        let [layout, oldest_writer, phase, _] = from.take::<4>()?;
        if layout == 0 {
            return None;
        }
        let mut record = Record::default();
        (record.phase, record.forced) = Self::phase_of(phase)?;
        (record.generation, record.since, record.open_until) = (from.u64()?, from.u64()?, from.u64()?);
        // When the last lease ends: what follows tells each.
        from.u64()?;
        if oldest_writer > LAYOUT {
            record.foreign = true;
            return Some(record);
        }
        (record.trips_in_a_row, record.progress, record.last_lease) = (from.u32()?, from.u32()?, from.u32()?);
        let trials = from.u32()?;
        record.base = from.tally()?;
        (record.outage_since, record.mark_at) = (from.u64()?, from.u64()?);
        record.mark = from.tally()?;
        for place in 0..LEASES {
            let trial = trials & (1 << place) != 0;
            let lease = Lease { number: from.u32()?, ends_at: from.u64()?, trial };
            if lease.number != 0 {
                record.leases.push(lease);
            }
        }
        if layout > LAYOUT || !from.bytes.is_empty() {
            record.later = Some(Box::new(Later { layout, oldest_writer, tail: from.bytes.to_vec() }));
        }
        Some(record)
    }

    /// Which of the leases are trials: a bit for each place.
    fn trials(&self) -> u32 {
        let trial = |(place, lease): (usize, &Lease)| if lease.trial { 1_u32 << place } else { 0 };
        self.leases.iter().take(LEASES).enumerate().map(trial).fold(0, |all, one| all | one)
    }

    fn phase_byte(&self) -> u8 {
        match (self.phase, self.forced) {
            (Phase::Closed, _) => 0,
            (Phase::Open, false) => 1,
            (Phase::Probe, _) => 2,
            (Phase::Ramp, _) => 3,
            (Phase::Open, true) => 4,
        }
    }

    fn phase_of(byte: u8) -> Option<(Phase, bool)> {
        Some(match byte {
            0 => (Phase::Closed, false),
            1 => (Phase::Open, false),
            2 => (Phase::Probe, false),
            3 => (Phase::Ramp, false),
            4 => (Phase::Open, true),
            _ => return None,
        })
    }
}

fn put(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = tail;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn tally(&mut self) -> Option<Tally> {
        Some(Tally { success: self.u64()?, failure: self.u64()?, slow: self.u64()?, over: self.u64()? })
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn full() -> Record {
        let mut record = Record {
            phase: Phase::Ramp,
            forced: false,
            generation: 1,
            since: 2,
            base: Tally { success: 3, failure: 4, slow: 14, over: 16 },
            trips_in_a_row: 5,
            open_until: 6,
            outage_since: 7,
            progress: 8,
            mark_at: 9,
            mark: Tally { success: 10, failure: 11, slow: 15, over: 17 },
            last_lease: 12,
            ..Record::default()
        };
        let lease =
            |number: u32| Lease { number, ends_at: u64::from(number) * 1_000_000_007, trial: number.is_multiple_of(3) };
        record.leases.extend((13..).take(LEASES).map(lease));
        record
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        for (phase, forced) in [
            (Phase::Closed, false),
            (Phase::Open, false),
            (Phase::Open, true),
            (Phase::Probe, false),
            (Phase::Ramp, false),
        ] {
            let mut record = Record { phase, forced, ..full() };
            assert_eq!(Record::decode(&record.encode()), Some(record.clone()));
            record.leases.truncate(2);
            assert_eq!(Record::decode(&record.encode()), Some(record), "with places to spare");
        }
    }

    #[test]
    fn a_record_fits_its_budget_and_its_layout_stays() {
        assert_eq!(RECORD_BYTES, 324);
        let bytes = full().encode();
        assert_eq!(bytes.len(), RECORD_BYTES);
        assert_eq!(bytes[..4], [1, 1, 3, 0], "layout, oldest writer, phase");
        assert_eq!((bytes[4], bytes[12], bytes[20]), (1, 2, 6), "generation, since, open until");
        assert_eq!(bytes[36..40], [5, 0, 0, 0], "trips in a row");
        assert_eq!(bytes[132..136], [13, 0, 0, 0], "number of the first lease");
    }

    #[test]
    fn the_tail_of_a_later_layout_is_carried_along() {
        let mut bytes = full().encode();
        (bytes[0], bytes[1]) = (2, 1);
        bytes.extend_from_slice(b"what layout 2 has");
        let mut record = Record::decode(&bytes).unwrap();
        assert!(!record.foreign);
        record.phase = Phase::Open;
        let written = record.encode();
        assert_eq!((written[0], written[1], written[2]), (2, 1, 1));
        assert_eq!(written[3..], bytes[3..]);
        assert_eq!(Record { phase: Phase::Ramp, later: None, ..record }, full());
    }

    #[test]
    fn of_a_layout_that_only_later_versions_may_write_the_head_is_known() {
        let mut bytes = full().encode();
        (bytes[0], bytes[1], bytes[2]) = (3, 3, 1);
        for length in [HEAD_BYTES, RECORD_BYTES] {
            let record = Record::decode(&bytes[..length]).unwrap();
            assert!(record.foreign);
            assert_eq!((record.phase, record.generation, record.open_until), (Phase::Open, 1, 6));
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        let good = full().encode();
        for length in 0..RECORD_BYTES {
            assert_eq!(Record::decode(&good[..length]), None, "{length} bytes");
        }
        for (at, value) in [(0, 0), (2, 5)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Record::decode(&bad), None, "byte {at} = {value}");
        }
    }
}
