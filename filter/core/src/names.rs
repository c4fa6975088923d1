//! A map from upstreams' names that looks at a name once a request.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// Names of upstreams, which an operator gives: nobody chooses them so that they collide, and a keyed hash would cost a
/// request more than the rest of its look-up.
pub(crate) type Names<T> = HashMap<Rc<str>, T, BuildHasherDefault<Multiplied>>;

/// Eight bytes at a time, rotated and multiplied, as in Firefox's and rustc's `FxHasher`.
#[derive(Default)]
pub(crate) struct Multiplied(u64);

/// An odd number without a pattern: 2^64 over the golden ratio.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

impl Multiplied {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for Multiplied {
    fn finish(&self) -> u64 {
        // A product's lower bits depend on few of its factors' bits; the map takes its buckets from them.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn names_that_differ_a_little_hash_apart() {
        let hasher = BuildHasherDefault::<Multiplied>::default();
        let names = (0..10_000).map(|number| format!("outbound|{number}||service-{number}.default.svc.cluster.local"));
        let hashes: Vec<u64> = names.map(|name| hasher.hash_one(name)).collect();
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), 10_000);
        for shift in [0, 57] {
            let mut buckets = [0_u32; 128];
            hashes.iter().for_each(|hash| buckets[(hash >> shift & 127) as usize] += 1);
            assert!(buckets.iter().all(|bucket| (30..150).contains(bucket)), "{buckets:?}");
        }
    }
}
