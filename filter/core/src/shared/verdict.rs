//! Whether the upstreams of a proxy are well as a whole, as all its workers say: one verdict in shared data.
//!
//! Circuits open and close within seconds, and whoever sends users elsewhere by the verdict must not follow each of
//! these changes. So the verdict turns only after its condition has held for a while, which is longer on the way back.

/// This version's layout. A verdict of an unknown layout is begun anew.
const LAYOUT: u8 = 1;

/// The verdict, and what it will turn by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) healthy: bool,
    /// So many circuits are cut off that it is to be unhealthy.
    sick: bool,
    /// Since when that is so, or not so. Nanoseconds since 1970.
    since: u64,
}

impl Verdict {
    /// All is well.
    pub(crate) fn well(now: u64) -> Verdict {
        Verdict { healthy: true, sick: false, since: now }
    }

    /// The verdict now, if nothing has changed since the last look at the circuits. `after` and `recover_after`:
    /// nanoseconds until it turns.
    pub(crate) fn at(self, now: u64, after: u64, recover_after: u64) -> Verdict {
        let held = now.saturating_sub(self.since);
        let healthy = if self.sick { self.healthy && held < after } else { self.healthy || held >= recover_after };
        Verdict { healthy, ..self }
    }

    /// The verdict after a look at the circuits.
    pub(crate) fn seen(self, sick: bool, now: u64, after: u64, recover_after: u64) -> Verdict {
        let so_far = self.at(now, after, recover_after);
        // A clock that stepped back would else hold the verdict for as long as the step.
        let since = if sick == self.sick && self.since <= now { self.since } else { now };
        Verdict { sick, since, ..so_far }.at(now, after, recover_after)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Verdict> {
        let (head, rest) = bytes.split_first_chunk::<3>()?;
        let [LAYOUT, healthy, sick] = *head else { return None };
        let since = u64::from_le_bytes(*rest.first_chunk()?);
        Some(Verdict { healthy: healthy != 0, sick: sick != 0, since })
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![LAYOUT, u8::from(self.healthy), u8::from(self.sick)];
        bytes.extend_from_slice(&self.since.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::unwrap_used)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const AFTER: u64 = 10;
    const RECOVER: u64 = 30;

    #[test]
    fn it_turns_after_a_while_and_back_after_a_longer_one() {
        let mut verdict = Verdict::well(100);
        let mut healthy = |sick, now| {
            verdict = verdict.seen(sick, now, AFTER, RECOVER);
            verdict.healthy
        };
        assert!(healthy(true, 100) && healthy(true, 109));
        assert!(healthy(false, 109) && healthy(true, 110), "a moment without it begins the time anew");
        assert!(healthy(true, 119) && !healthy(true, 120) && !healthy(false, 121));
        assert!(!healthy(true, 150) && !healthy(false, 151), "a moment of it begins the time anew");
        assert!(!healthy(false, 180) && healthy(false, 181));
    }

    #[test]
    fn time_turns_it_though_nobody_looks() {
        let sick = Verdict::well(0).seen(true, 100, AFTER, RECOVER);
        assert!(sick.at(109, AFTER, RECOVER).healthy && !sick.at(110, AFTER, RECOVER).healthy);
        let left = sick.at(110, AFTER, RECOVER).seen(false, 200, AFTER, RECOVER);
        assert!(!left.at(229, AFTER, RECOVER).healthy && left.at(230, AFTER, RECOVER).healthy);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_hold_it() {
        let sick = Verdict::well(0).seen(true, 1_000_000, AFTER, RECOVER).seen(true, 100, AFTER, RECOVER);
        assert!(!sick.seen(true, 110, AFTER, RECOVER).healthy);
    }

    #[test]
    fn its_bytes_are_read_back() {
        for verdict in [Verdict::well(7), Verdict { healthy: false, sick: true, since: u64::MAX }] {
            assert_eq!(Verdict::decode(&verdict.encode()), Some(verdict));
        }
        for bytes in [&b""[..], b"\x01\x01", &[9; 11]] {
            assert_eq!(Verdict::decode(bytes), None);
        }
    }
}
