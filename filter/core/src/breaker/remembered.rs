//! The metrics of upstreams whose circuits have ended.
//!
//! Envoy takes memory for each definition of a metric, and gives it back only with the VM. An upstream with traffic
//! every few hours has a new circuit each time, which must not cost new definitions each time.
//!
//! Ten thousand circuits may end at one tick, so keeping one must not look at all others.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::breaker::view::Known;
use crate::names::{Index, same};

#[derive(Clone)]
pub(super) struct Remembered<T = Known> {
    /// The metrics that were kept, first those of the circuit that ended longest ago. `None`: the upstream has a
    /// circuit again.
    upstreams: VecDeque<Option<(Rc<str>, T)>>,
    /// The number of each: its place, plus how many were forgotten before it.
    numbers: Index,
    forgotten: u32,
}

impl<T> Default for Remembered<T> {
    fn default() -> Remembered<T> {
        Remembered { upstreams: VecDeque::new(), numbers: Index::default(), forgotten: 0 }
    }
}

impl<T> Remembered<T> {
    /// Keeps what is known of an upstream. It keeps at most `most` upstreams.
    pub(super) fn keep(&mut self, name: Rc<str>, known: T, most: u32) {
        self.take(&name);
        let place = u32::try_from(self.upstreams.len()).unwrap_or(u32::MAX);
        self.numbers.insert(&name, self.forgotten.wrapping_add(place));
        self.upstreams.push_back(Some((name, known)));
        if self.upstreams.len() > super::index(most) {
            self.pack();
        }
        while self.upstreams.len() > super::index(most) {
            self.forget();
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<T> {
        let is_its = |number: &u32| self.at(*number).is_some_and(|(own, _)| same(own, name));
        let number = self.numbers.candidates(name).find(is_its)?;
        self.numbers.remove(name, number);
        let place = super::index(number.wrapping_sub(self.forgotten));
        self.upstreams.get_mut(place)?.take().map(|(_, known)| known)
    }

    fn at(&self, number: u32) -> Option<&(Rc<str>, T)> {
        self.upstreams.get(super::index(number.wrapping_sub(self.forgotten)))?.as_ref()
    }

    /// Gives up the places of upstreams that have circuits again.
    fn pack(&mut self) {
        if self.numbers.len() == self.upstreams.len() {
            return;
        }
        let mut places = Vec::with_capacity(self.upstreams.len());
        let mut place = 0_u32;
        for upstream in &self.upstreams {
            places.push(place);
            place = place.saturating_add(u32::from(upstream.is_some()));
        }
        let first = std::mem::take(&mut self.forgotten);
        let packed = |number: u32| places.get(super::index(number.wrapping_sub(first))).copied().unwrap_or_default();
        self.numbers.renumber(packed);
        self.upstreams.retain(Option::is_some);
    }

    /// Forgets the one that ended longest ago.
    fn forget(&mut self) {
        if let Some((name, _)) = self.upstreams.pop_front().flatten() {
            self.numbers.remove(&name, self.forgotten);
        }
        self.forgotten = self.forgotten.wrapping_add(1);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn keep(remembered: &mut Remembered<u32>, name: u32, most: u32) {
        remembered.keep(name.to_string().into(), name, most);
    }

    #[test]
    fn the_one_that_ended_longest_ago_is_forgotten_first() {
        let mut remembered = Remembered::default();
        for name in [1, 2, 3, 1, 4] {
            keep(&mut remembered, name, 3);
        }
        assert_eq!(["1", "2", "3", "4"].map(|name| remembered.take(name)), [Some(1), None, Some(3), Some(4)]);
        assert_eq!(remembered.take("1"), None, "it has a circuit again");
        (5..9).for_each(|name| keep(&mut remembered, name, 3));
        keep(&mut remembered, 9, 2);
        assert_eq!(["7", "8", "9"].map(|name| remembered.take(name)), [None, Some(8), Some(9)]);
    }

    #[test]
    fn one_that_comes_and_goes_for_ever_pushes_nobody_out_and_takes_no_room() {
        let mut remembered = Remembered::default();
        (0..8).for_each(|name| keep(&mut remembered, name, 10));
        for _ in 0..1000 {
            assert_eq!(remembered.take("5"), Some(5));
            keep(&mut remembered, 5, 10);
        }
        assert!(remembered.upstreams.len() <= 10);
        assert!((0..8).all(|name| remembered.take(&name.to_string()) == Some(name)));
    }

    /// It took two hundred milliseconds when each of ten thousand was compared with all others.
    #[cfg(not(target_arch = "wasm32"))]
    #[test]
    fn a_hundred_thousand_that_end_at_once_are_kept_within_seconds() {
        let mut remembered = Remembered::default();
        let began = std::time::Instant::now();
        (0..100_000).for_each(|name| keep(&mut remembered, name, 50_000));
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
        assert_eq!((remembered.take("0"), remembered.take("99999")), (None, Some(99_999)));
    }
}
