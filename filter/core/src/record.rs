//! What must change together about one circuit: the record that all workers share.
//!
//! It lies in Envoy's shared data and changes only by compare-and-swap. Records outlive configurations and versions of
//! the module, so the layout is fixed, little-endian and begins with a version; unknown bytes read as no record at all,
//! which is a fresh CLOSED circuit. 314 bytes, whatever the state.

use crate::config::MOST_PROBES;
use crate::window::Tally;

/// Places for leases in a record.
pub(crate) const LEASES: usize = MOST_PROBES as usize;

/// Layout version. A change of the layout takes the next number and reads the older ones.
const VERSION: u8 = 1;

/// Bytes of an encoded record.
pub const RECORD_BYTES: usize = 2 + 4 * 4 + 8 * 13 + LEASES * 12;

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
}

impl Record {
    /// A CLOSED circuit that begins now.
    pub(crate) fn fresh(now: u64, tally: Tally) -> Record {
        Record { since: now, base: tally, mark_at: now, mark: tally, ..Record::default() }
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = Writer { bytes: [0; RECORD_BYTES], at: 0 };
        out.put(&[VERSION, self.phase_byte()]);
        for word in [self.trips_in_a_row, self.progress, self.last_lease, self.trials()] {
            out.put(&word.to_le_bytes());
        }
        for word in [
            self.generation,
            self.since,
            self.base.success,
            self.base.failure,
            self.base.slow,
            self.base.over,
            self.open_until,
            self.outage_since,
            self.mark_at,
            self.mark.success,
            self.mark.failure,
            self.mark.slow,
            self.mark.over,
        ] {
            out.put(&word.to_le_bytes());
        }
        for lease in self.leases.iter().take(LEASES) {
            out.put(&lease.number.to_le_bytes());
            out.put(&lease.ends_at.to_le_bytes());
        }
        out.bytes
    }

    /// `None` for a layout that this version does not know.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Record> {
        if bytes.len() != RECORD_BYTES {
            return None;
        }
        let mut from = Cursor { bytes };
        let [version, phase] = from.take::<2>()?;
        if version != VERSION {
            return None;
        }
        let (trips_in_a_row, progress, last_lease, trials) = (from.u32()?, from.u32()?, from.u32()?, from.u32()?);
        let mut record = Record { trips_in_a_row, progress, last_lease, ..Record::default() };
        (record.phase, record.forced) = Self::phase_of(phase)?;
        record.generation = from.u64()?;
        record.since = from.u64()?;
        record.base = from.tally()?;
        record.open_until = from.u64()?;
        record.outage_since = from.u64()?;
        record.mark_at = from.u64()?;
        record.mark = from.tally()?;
        for place in 0..LEASES {
            let trial = trials & (1 << place) != 0;
            let lease = Lease { number: from.u32()?, ends_at: from.u64()?, trial };
            if lease.number != 0 {
                record.leases.push(lease);
            }
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

struct Writer {
    bytes: [u8; RECORD_BYTES],
    at: usize,
}

impl Writer {
    fn put(&mut self, value: &[u8]) {
        let end = self.at.saturating_add(value.len());
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(value);
            self.at = end;
        }
    }
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
            leases: Vec::new(),
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
        assert_eq!(RECORD_BYTES, 314);
        let bytes = full().encode();
        assert_eq!(bytes[..6], [1, 3, 5, 0, 0, 0], "version, phase, trips in a row");
        assert_eq!(bytes[18..26], [1, 0, 0, 0, 0, 0, 0, 0], "generation");
        assert_eq!(bytes[122..126], [13, 0, 0, 0], "number of the first lease");
    }

    #[test]
    fn unknown_layouts_are_no_record() {
        let good = full().encode();
        assert_eq!(Record::decode(&[]), None);
        assert_eq!(Record::decode(&good[1..]), None);
        for (at, value) in [(0, 2), (1, 5)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Record::decode(&bad), None, "byte {at} = {value}");
        }
    }
}
