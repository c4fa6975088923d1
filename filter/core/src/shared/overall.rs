//! The overall health: whether the upstreams of a proxy are well as a whole, as all its workers say, in shared data.
//!
//! Circuits open and close within seconds, and whoever sends users elsewhere by the overall health must not follow each of
//! these changes. So it turns only after its condition has held for a while, which is longer on the way back.

use crate::clock::SECOND;

/// This version's layout. What has an unknown layout is begun anew.
const LAYOUT: u8 = 1;

/// A look that is younger than this need not be written down again: each write is one of shared data.
const FRESH: u64 = SECOND;

/// Time that passes without a look for longer than this does not count: nobody knows how the circuits were. Workers look
/// twice a second. The clock may have leapt, the process may have been stopped, or a new module meets its circuits first.
const UNSEEN: u64 = 3 * SECOND;

/// What nobody has looked at for so long is forgotten. The endpoint was taken away and has come back.
const FORGOTTEN: u64 = 60 * SECOND;

/// The overall health, and what it will turn by. Times are nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overall {
    pub(crate) healthy: bool,
    /// So many circuits are cut off that it is to be unhealthy.
    sick: bool,
    /// Since when that is so, or not so.
    since: u64,
    /// When somebody looked last.
    looked: u64,
}

impl Overall {
    /// All is well.
    pub(crate) fn well(now: u64) -> Overall {
        Overall { healthy: true, sick: false, since: now, looked: now }
    }

    /// What it is now, as far as the looks so far tell. `after` and `recover_after`: nanoseconds until it turns.
    pub(crate) fn at(self, now: u64, after: u64, recover_after: u64) -> Overall {
        if now.saturating_sub(self.looked) >= FORGOTTEN {
            return Overall::well(now);
        }
        let held = now.min(self.looked.saturating_add(UNSEEN)).saturating_sub(self.since);
        let healthy = if self.sick { self.healthy && held < after } else { self.healthy || held >= recover_after };
        Overall { healthy, ..self }
    }

    /// What it is after a look at the circuits.
    pub(crate) fn seen(self, sick: bool, now: u64, after: u64, recover_after: u64) -> Overall {
        let unseen = now.saturating_sub(self.looked);
        let stood_still = if unseen > UNSEEN { unseen } else { 0 };
        let known = Overall { since: self.since.saturating_add(stood_still), ..self };
        // What the time until now has made of it, where somebody looked.
        let so_far = if stood_still > 0 {
            self.at(self.looked, after, recover_after)
        } else {
            known.at(now, after, recover_after)
        };
        let so_far = if unseen >= FORGOTTEN { Overall::well(now) } else { so_far };
        // A clock that stepped back would else hold it for as long as the step.
        let goes_on = sick == so_far.sick && known.since <= now && self.looked <= now && unseen < FORGOTTEN;
        let since = if goes_on { known.since } else { now };
        Overall { sick, since, looked: now, ..so_far }.at(now, after, recover_after)
    }

    /// Whether `next` must be written in its place.
    pub(crate) fn is_outdated_by(self, next: Overall) -> bool {
        Overall { looked: 0, ..self } != Overall { looked: 0, ..next } || next.looked.abs_diff(self.looked) >= FRESH
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Overall> {
        let (head, rest) = bytes.split_first_chunk::<3>()?;
        let [LAYOUT, healthy, sick] = *head else { return None };
        let (since, looked) = rest.split_first_chunk()?;
        let (since, looked) = (u64::from_le_bytes(*since), u64::from_le_bytes(*looked.first_chunk()?));
        Some(Overall { healthy: healthy != 0, sick: sick != 0, since, looked })
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![LAYOUT, u8::from(self.healthy), u8::from(self.sick)];
        bytes.extend_from_slice(&self.since.to_le_bytes());
        bytes.extend_from_slice(&self.looked.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::unwrap_used)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const AFTER: u64 = 10 * SECOND;
    const RECOVER: u64 = 30 * SECOND;

    /// Looks twice a second, `until` a second.
    fn looks(overall: &mut Overall, sick: bool, now: &mut u64, until: u64) -> bool {
        while *now < until * SECOND {
            *now += SECOND / 2;
            *overall = overall.seen(sick, *now, AFTER, RECOVER);
        }
        overall.healthy
    }

    fn begun() -> (Overall, u64) {
        (Overall::well(100 * SECOND), 100 * SECOND)
    }

    #[test]
    fn it_turns_after_a_while_and_back_after_a_longer_one() {
        let (mut overall, mut now) = begun();
        let mut healthy = |sick, until| looks(&mut overall, sick, &mut now, until);
        assert!(healthy(true, 109));
        assert!(healthy(false, 110) && healthy(true, 120), "a moment without it begins the time anew");
        assert!(!healthy(true, 121) && !healthy(false, 149));
        assert!(!healthy(true, 150) && !healthy(false, 179), "a moment of it begins the time anew");
        assert!(healthy(false, 181));
    }

    #[test]
    fn time_turns_it_between_two_looks() {
        let (mut overall, mut now) = begun();
        assert!(looks(&mut overall, true, &mut now, 110));
        assert!(!overall.at(now + SECOND, AFTER, RECOVER).healthy);
    }

    #[test]
    fn time_in_which_nobody_looks_does_not_count() {
        for (sick, before) in [(true, 105), (false, 115)] {
            let (mut overall, mut now) = begun();
            looks(&mut overall, true, &mut now, if sick { 102 } else { 112 });
            looks(&mut overall, sick, &mut now, before);
            let healthy = overall.healthy;
            now += 50 * SECOND;
            assert_eq!(overall.at(now, AFTER, RECOVER).healthy, healthy, "an answer before the next look");
            let later = now / SECOND;
            assert_eq!(looks(&mut overall, sick, &mut now, later + 1), healthy);
            assert_eq!(looks(&mut overall, sick, &mut now, later + 31), !sick, "it goes on from there");
        }
    }

    #[test]
    fn what_nobody_has_looked_at_for_long_is_forgotten() {
        let (mut overall, mut now) = begun();
        assert!(!looks(&mut overall, true, &mut now, 120));
        now += 3600 * SECOND;
        assert!(overall.at(now, AFTER, RECOVER).healthy);
        assert!(overall.seen(true, now, AFTER, RECOVER).healthy);
        assert!(overall.seen(false, now, AFTER, RECOVER).healthy);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_hold_it() {
        let (mut overall, mut now) = begun();
        looks(&mut overall, true, &mut now, 105);
        now = 10 * SECOND;
        assert!(looks(&mut overall, true, &mut now, 19) && !looks(&mut overall, true, &mut now, 21));
    }

    #[test]
    fn a_look_is_written_down_once_a_second_or_where_it_says_something_else() {
        let (overall, now) = begun();
        assert!(!overall.is_outdated_by(overall.seen(false, now + SECOND / 2, AFTER, RECOVER)));
        assert!(overall.is_outdated_by(overall.seen(true, now + SECOND / 2, AFTER, RECOVER)));
        assert!(overall.is_outdated_by(overall.seen(false, now + SECOND, AFTER, RECOVER)));
    }

    #[test]
    fn its_bytes_are_read_back() {
        for overall in [Overall::well(7), Overall { healthy: false, sick: true, since: u64::MAX, looked: 3 }] {
            assert_eq!(Overall::decode(&overall.encode()), Some(overall));
        }
        for bytes in [&b""[..], b"\x01\x01", &[1; 11], &[9; 19]] {
            assert_eq!(Overall::decode(bytes), None);
        }
    }
}
