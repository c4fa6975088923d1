//! Chance that can be repeated. Each part of the soak draws from a stream of its own, so that none disturbs another
//! one's.

use std::time::Duration;

/// A stream of random numbers (SplitMix64): one seed, one stream.
#[derive(Clone, Debug)]
pub struct Chance(u64);

/// The step of SplitMix64: the golden ratio in 64 bits.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Chance {
    /// The stream of `part`, under the seed of the whole run.
    #[must_use]
    pub fn of(seed: u64, part: &str) -> Chance {
        // FNV-1a: equal parts have equal streams, others do not.
        let hash = part
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        let mut chance = Chance(seed ^ hash);
        chance.draw();
        chance
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.draw() % (most.saturating_sub(least) + 1)
    }

    /// So many milliseconds.
    pub fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }

    /// Whether an event happens that comes in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    /// One of these.
    ///
    /// # Panics
    /// There are none.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.between(0, all.len() as u64 - 1)).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_stream_and_parts_have_streams_of_their_own() {
        let draws = |seed, part| {
            let mut chance = Chance::of(seed, part);
            [chance.draw(), chance.draw(), chance.draw()]
        };
        assert_eq!(draws(7, "u1"), draws(7, "u1"));
        assert_ne!(draws(7, "u1"), draws(7, "u2"));
        assert_ne!(draws(7, "u1"), draws(8, "u1"));
    }

    #[test]
    fn a_number_lies_between_its_bounds_and_reaches_both() {
        let mut chance = Chance::of(1, "bounds");
        let drawn: Vec<u64> = (0..1000).map(|_| chance.between(3, 5)).collect();
        assert!(drawn.iter().all(|number| (3..=5).contains(number)));
        assert!((3..=5).all(|number| drawn.contains(&number)));
        let often = (0..10_000).filter(|_| chance.percent(30)).count();
        assert!((2500..3500).contains(&often), "{often} of 10000");
    }
}
