//! How the record of a circuit lies in shared data, and whose a slot is.
//!
//! A record is in Envoy's shared data, under its slot's key, and changes only by compare-and-swap. It is
//! little-endian. In this layout it has 336 bytes and the upstream's name, whatever the state.
//!
//! **Names.** Keys of shared data can't be deleted, so there is one for each slot, and not one for each name ever
//! seen. The name is in the record. So one compare-and-swap tells both whose slot it is and how its circuit stands,
//! and nobody can write the state of one upstream into the record of another. A circuit that has ended leaves its
//! record in its slot, with its generation, and the next circuit goes on from there. So no permit of an earlier
//! circuit is ever current again.
//!
//! **Versions.** Records outlive versions of the module, and two versions run while a new one is rolled out. So a
//! record begins with a head that every version understands: its layout, the oldest version that may write it, the
//! state of its circuit, and its upstream. After the head come the fields of layout 1, and after these a tail with
//! the fields of later layouts:
//! - A version that may write a record carries the tail along untouched, and keeps the layout's number.
//! - A version that may not write it leaves the record alone and obeys its head: it rejects while the head says OPEN,
//!   and lets all else pass.
//! - Bytes that are no record at all are left alone too, and are counted as an error. Their slot is lost. The
//!   upstream begins another circuit, CLOSED, in another slot.

use crate::circuit::record::{LEASES, Later, Lease, Phase, Record};
use crate::circuit::window::Tally;

/// This version's layout. A later one takes the next number, appends to this one, and reads the older ones.
#[cfg(not(feature = "layout-2"))]
const LAYOUT: u8 = 1;

/// The oldest layout whose versions may write what this one writes.
#[cfg(not(feature = "layout-2"))]
const OLDEST_WRITER: u8 = 1;

/// The length of what this version's layout has after layout 1.
#[cfg(not(feature = "layout-2"))]
const TAIL: &[u8] = &[];

#[cfg(feature = "layout-2")]
use made_up::{LAYOUT, OLDEST_WRITER, TAIL};

/// Layouts of later versions, for tests with two versions side by side. Layout 2 has a tail, which older versions are
/// to carry along. Older versions may not write layout 3.
#[cfg(feature = "layout-2")]
mod made_up {
    pub(super) const LAYOUT: u8 = if cfg!(feature = "layout-3") { 3 } else { 2 };
    pub(super) const OLDEST_WRITER: u8 = if cfg!(feature = "layout-3") { 3 } else { 1 };
    pub(super) const TAIL: &[u8] = b"what no older version knows";
}

/// Bytes of the head: layout, oldest writer, phase, one to spare, generation, time of the last transition, end of
/// OPEN, end of the last lease, length of the name. The name follows.
const HEAD_BYTES: usize = 4 + 8 * 4 + 4;

/// Bytes of a record of layout 1 beside the name.
pub const RECORD_BYTES: usize = HEAD_BYTES + 4 * 4 + 8 * 11 + LEASES * 12;

impl Record {
    /// The bytes of this record, for `upstream`.
    pub(crate) fn encode(&self, upstream: &str) -> Vec<u8> {
        let (layout, oldest, tail) = match self.later.as_deref() {
            Some(later) => (later.layout, later.oldest_writer, &*later.tail),
            None => (LAYOUT, OLDEST_WRITER, TAIL),
        };
        let more = tail.len().saturating_add(upstream.len());
        let mut out = Vec::with_capacity(RECORD_BYTES.saturating_add(more));
        out.extend_from_slice(&[layout, oldest, self.phase_byte(), 0]);
        let last_lease_ends = self.leases.iter().map(|lease| lease.ends_at).max().unwrap_or(0);
        put(&mut out, &[self.generation, self.since, self.open_until, last_lease_ends]);
        out.extend_from_slice(&u32::try_from(upstream.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(upstream.as_bytes());
        for word in [self.trips_in_a_row, self.progress, self.last_lease, self.trials()] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        put(&mut out, &self.base.words());
        put(&mut out, &[self.outage_since, self.mark_at, self.born]);
        put(&mut out, &self.mark.words());
        for place in 0..LEASES {
            let lease = self.leases.get(place).copied().unwrap_or_default();
            out.extend_from_slice(&lease.number.to_le_bytes());
            put(&mut out, &[lease.ends_at]);
        }
        out.extend_from_slice(tail);
        out
    }

    /// The record of `upstream`; [`Record::ended`] where it belongs to another upstream. `None` for bytes that are no
    /// record.
    pub(crate) fn decode(bytes: &[u8], upstream: &str) -> Option<Record> {
        let (head, rest) = Head::read(bytes)?;
        if head.upstream != upstream.as_bytes() {
            return Some(Record::ended());
        }
        let Head { layout, oldest_writer, phase, forced, generation, since, open_until, .. } = head;
        let mut record = Record { phase, forced, generation, since, open_until, ..Record::default() };
        if oldest_writer > LAYOUT {
            record.foreign = true;
            return Some(record);
        }
        let mut from = Cursor { bytes: rest };
        (record.trips_in_a_row, record.progress, record.last_lease) = (from.u32()?, from.u32()?, from.u32()?);
        let trials = from.u32()?;
        record.base = from.tally()?;
        (record.outage_since, record.mark_at, record.born) = (from.u64()?, from.u64()?, from.u64()?);
        record.mark = from.tally()?;
        for place in 0..LEASES {
            let trial = trials & (1 << place) != 0;
            let lease = Lease { number: from.u32()?, ends_at: from.u64()?, trial };
            if lease.number != 0 {
                record.leases.push(lease);
            }
        }
        let own_tail = if layout == 1 { &[] } else { TAIL };
        // A version that a test makes up finds its own tail again, whoever has written the record since.
        if cfg!(feature = "layout-2") && layout <= LAYOUT && from.bytes != own_tail {
            return None;
        }
        if layout > LAYOUT || from.bytes != own_tail {
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
            (Phase::Ended, _) => 5,
        }
    }

    fn phase_of(byte: u8) -> Option<(Phase, bool)> {
        Some(match byte {
            0 => (Phase::Closed, false),
            1 => (Phase::Open, false),
            2 => (Phase::Probe, false),
            3 => (Phase::Ramp, false),
            4 => (Phase::Open, true),
            5 => (Phase::Ended, false),
            _ => return None,
        })
    }
}

/// Whose a slot is, as far as its record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// This upstream's.
    Taken(String),
    /// Free. The next circuit begins with this generation.
    Free {
        /// One more than the generation of any permit of an earlier circuit.
        born: u64,
    },
    /// Free, but in a later version's layout: only that version may write it.
    Foreign,
    /// No record at all.
    Unknown,
}

impl Slot {
    /// `None`: nothing was ever there.
    pub(crate) fn read(bytes: Option<&[u8]>) -> Slot {
        let Some(bytes) = bytes else { return Slot::Free { born: 0 } };
        match Head::read(bytes) {
            Some((Head { phase: Phase::Ended, oldest_writer, .. }, _)) if oldest_writer > LAYOUT => Slot::Foreign,
            Some((Head { phase: Phase::Ended, generation, .. }, _)) => {
                Slot::Free { born: generation.saturating_add(1) }
            }
            Some((head, _)) => Slot::Taken(String::from_utf8_lossy(head.upstream).into_owned()),
            None => Slot::Unknown,
        }
    }
}

/// What every version knows of a record.
struct Head<'a> {
    layout: u8,
    oldest_writer: u8,
    phase: Phase,
    forced: bool,
    generation: u64,
    since: u64,
    open_until: u64,
    upstream: &'a [u8],
}

impl Head<'_> {
    /// What comes after the head.
    fn read(bytes: &[u8]) -> Option<(Head<'_>, &[u8])> {
        let mut from = Cursor { bytes };
        let [layout, oldest_writer, phase, _] = from.take::<4>()?;
        if layout == 0 {
            return None;
        }
        let (phase, forced) = Record::phase_of(phase)?;
        let (generation, since, open_until) = (from.u64()?, from.u64()?, from.u64()?);
        // The head has only the end of the last lease. The fields after it have the end of each.
        from.u64()?;
        let length = usize::try_from(from.u32()?).ok()?;
        let (upstream, rest) = from.bytes.split_at_checked(length)?;
        Some((Head { layout, oldest_writer, phase, forced, generation, since, open_until, upstream }, rest))
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

    const A: &str = "outbound|80||a";

    fn full() -> Record {
        let mut record = Record {
            phase: Phase::Ramp,
            forced: false,
            generation: 1,
            born: 1,
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
            assert_eq!(Record::decode(&record.encode(A), A), Some(record.clone()));
            record.leases.truncate(2);
            assert_eq!(Record::decode(&record.encode(A), A), Some(record), "with places to spare");
        }
    }

    #[test]
    fn a_record_fits_its_budget_and_its_layout_stays() {
        assert_eq!(RECORD_BYTES, 336);
        let bytes = full().encode(A);
        assert_eq!(bytes.len(), RECORD_BYTES + A.len());
        assert_eq!(bytes[..4], [1, 1, 3, 0], "layout, oldest writer, phase");
        assert_eq!((bytes[4], bytes[12], bytes[20]), (1, 2, 6), "generation, since, open until");
        assert_eq!((bytes[36], &bytes[40..54]), (14, A.as_bytes()));
        assert_eq!(bytes[54..58], [5, 0, 0, 0], "trips in a row");
        assert_eq!(bytes[158..162], [13, 0, 0, 0], "number of the first lease");
    }

    #[test]
    fn the_tail_of_a_later_layout_is_carried_along() {
        let mut bytes = full().encode(A);
        (bytes[0], bytes[1]) = (2, 1);
        bytes.extend_from_slice(b"what layout 2 has");
        let mut record = Record::decode(&bytes, A).unwrap();
        assert!(!record.foreign);
        record.phase = Phase::Open;
        let written = record.encode(A);
        assert_eq!((written[0], written[1], written[2]), (2, 1, 1));
        assert_eq!(written[3..], bytes[3..]);
        assert_eq!(Record { phase: Phase::Ramp, later: None, ..record }, full());
    }

    #[test]
    fn of_a_layout_that_only_later_versions_may_write_the_head_is_known() {
        let mut bytes = full().encode(A);
        (bytes[0], bytes[1], bytes[2]) = (3, 3, 1);
        for length in [HEAD_BYTES + A.len(), RECORD_BYTES] {
            let record = Record::decode(&bytes[..length], A).unwrap();
            assert!(record.foreign);
            assert_eq!((record.phase, record.generation, record.open_until), (Phase::Open, 1, 6));
        }
    }

    #[test]
    fn a_record_of_another_upstream_is_none_of_ours_and_a_slot_tells_whose_it_is() {
        let bytes = full().encode(A);
        assert_eq!(Record::decode(&bytes, "outbound|80||b"), Some(Record::ended()));
        assert_eq!(Slot::read(Some(&bytes)), Slot::Taken(A.to_owned()));
        assert_eq!(Slot::read(None), Slot::Free { born: 0 });
        let mut ended = Record { phase: Phase::Ended, ..full() }.encode(A);
        assert_eq!(Slot::read(Some(&ended)), Slot::Free { born: 2 });
        ended[1] = LAYOUT + 1;
        assert_eq!(Slot::read(Some(&ended)), Slot::Foreign, "who knows what a later version keeps there");
        assert_eq!(Slot::read(Some(b"\xffgarbage")), Slot::Unknown);
    }

    #[test]
    fn what_is_no_record_is_none() {
        let good = full().encode(A);
        for length in 0..good.len() {
            assert_eq!(Record::decode(&good[..length], A), None, "{length} bytes");
        }
        for (at, value) in [(0, 0), (2, 6), (39, 255)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Record::decode(&bad, A), None, "byte {at} = {value}");
        }
    }
}
