//! Which circuit has which slot: the list that all workers of a proxy share.
//!
//! It is in shared data under one key, and changes only by compare-and-swap, one addition at a time. It holds the
//! newest addition, and the slots of the additions before it. All else is in the records of the slots.
//!
//! **Two keys change, and a worker may die between them.** An addition is first written here, and only then into the
//! slot's record. The worker that makes the next addition first finishes the newest one. So at most one is ever
//! unfinished, and all earlier ones are in their records. An addition is finished when the generation of the slot's
//! record is not below the one that the addition gave it. So it does not matter how many workers finish it, nor how
//! late.
//!
//! **No name has two slots.** A worker that adds a name knows all additions up to the one that its compare-and-swap
//! replaces.
//!
//! The end of a circuit is not written here. One compare-and-swap of its record ends it
//! ([`crate::circuit::record::Phase::Ended`]), and its slot is free until an addition takes it.

/// This version's layout of the list. A list of an unknown layout is left alone, and new upstreams then pass
/// unprotected.
const LAYOUT: u8 = 1;

/// Slots that no list reaches, whatever `limits.maxCircuits` a later version allows.
const MOST: u32 = 1 << 16;

/// Additions that a worker may miss before it must read all slots again. Workers look twice a second.
const RECENT: usize = 64;

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Additions so far.
    pub(crate) additions: u64,
    /// Slots that were ever used.
    pub(crate) used: u32,
    /// The newest addition.
    pub(crate) newest: Addition,
    /// The slots of the newest additions, oldest first.
    recent: Vec<u32>,
}

/// A circuit that gets a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addition {
    pub(crate) slot: u32,
    /// The generation that its record begins with.
    pub(crate) born: u64,
    pub(crate) upstream: String,
}

impl Slots {
    /// The list with one circuit more.
    pub(crate) fn with(&self, addition: Addition) -> Slots {
        let mut next = self.clone();
        next.additions = self.additions.wrapping_add(1);
        next.used = self.used.max(addition.slot.saturating_add(1));
        if next.recent.len() >= RECENT {
            next.recent.remove(0);
        }
        next.recent.push(addition.slot);
        next.newest = addition;
        next
    }

    /// The slots of the additions after the first so many. `None` where they are too many for the list to tell.
    pub(crate) fn after(&self, additions: u64) -> Option<&[u32]> {
        let missed = usize::try_from(self.additions.wrapping_sub(additions)).ok()?;
        self.recent.get(self.recent.len().checked_sub(missed)?..)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![LAYOUT, u8::try_from(self.recent.len()).unwrap_or_default()];
        out.extend_from_slice(&self.additions.to_le_bytes());
        out.extend_from_slice(&self.newest.born.to_le_bytes());
        for word in [self.used, self.newest.slot].iter().chain(&self.recent) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(self.newest.upstream.as_bytes());
        out
    }

    /// A VM that follows the list takes memory for each of its slots, so a list that this version cannot have written
    /// must not be followed.
    fn is_sound(&self) -> bool {
        let has = |slot: &u32| *slot < self.used;
        let is_new = self.additions == 0 && self.recent.is_empty();
        self.used < MOST && self.recent.iter().all(has) && (is_new || has(&self.newest.slot))
    }

    /// `None` for bytes that this version does not know.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Slots> {
        let (&[layout, recent], rest) = bytes.split_first_chunk()?;
        if layout != LAYOUT {
            return None;
        }
        let (additions, rest) = rest.split_first_chunk()?;
        let (born, rest) = rest.split_first_chunk()?;
        let (used, rest) = rest.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (recent, name) = rest.split_at_checked(usize::from(recent).saturating_mul(4))?;
        let newest = Addition {
            slot: u32::from_le_bytes(*slot),
            born: u64::from_le_bytes(*born),
            upstream: String::from_utf8_lossy(name).into_owned(),
        };
        let list = Slots {
            additions: u64::from_le_bytes(*additions),
            used: u32::from_le_bytes(*used),
            newest,
            recent: recent.as_chunks().0.iter().map(|slot| u32::from_le_bytes(*slot)).collect(),
        };
        list.is_sound().then_some(list)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn added(slots: &[u32]) -> Slots {
        slots.iter().fold(Slots::default(), |list, slot| {
            list.with(Addition { slot: *slot, born: 7, upstream: format!("outbound|80||{slot}") })
        })
    }

    #[test]
    fn a_list_reads_as_it_was_written() {
        for count in [0, 1, 2, RECENT, RECENT + 9] {
            let list = added(&(0..).take(count).collect::<Vec<_>>());
            assert_eq!(Slots::decode(&list.encode()), Some(list.clone()));
            assert_eq!(list.used as usize, count);
        }
        let bytes = added(&[1, 2, 3]).encode();
        assert_eq!(Slots::decode(&[&[2], &bytes[1..]].concat()), None, "another layout");
        assert_eq!(Slots::decode(&bytes[..30]), None);
        for slot in [MOST, u32::MAX] {
            let huge = added(&[0, slot]);
            assert_eq!(Slots::decode(&huge.encode()), None, "no worker has memory for so many slots");
        }
        let astray = Slots { recent: vec![0, 9], ..added(&[0, 1]) };
        assert_eq!(Slots::decode(&astray.encode()), None, "a slot that was never used");
    }

    #[test]
    fn a_worker_learns_which_slots_have_changed_since_it_looked() {
        let list = added(&[0, 1, 2, 1]);
        assert_eq!(list.after(4), Some(&[][..]));
        assert_eq!(list.after(2), Some(&[2, 1][..]));
        assert_eq!(list.after(0), Some(&[0, 1, 2, 1][..]));
        let long = added(&vec![3; RECENT + 2]);
        assert_eq!(long.after(2).map(<[u32]>::len), Some(RECENT));
        assert_eq!(long.after(1), None);
        assert_eq!(added(&[0]).after(5), None, "a list that began anew");
    }
}
