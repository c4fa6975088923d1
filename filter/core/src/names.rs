//! A map from upstreams' names that looks at a name once a request.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// Names of upstreams, which an operator gives: nobody chooses them so that they collide, and a keyed hash would cost a
/// request more than the rest of its look-up.
pub(crate) type Names<T> = HashMap<Rc<str>, T, BuildHasherDefault<Multiplied>>;

/// Whether two names are the same. They are of a few words' length, where calling the platform's comparison costs more
/// than comparing.
#[inline]
pub(crate) fn same(one: &str, other: &str) -> bool {
    let ((words, rest), (others, other_rest)) = (one.as_bytes().as_chunks::<8>(), other.as_bytes().as_chunks::<8>());
    one.len() == other.len()
        && words.iter().zip(others).all(|(word, other)| u64::from_le_bytes(*word) == u64::from_le_bytes(*other))
        && rest.iter().zip(other_rest).all(|(byte, other)| byte == other)
}

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
    fn names_are_the_same_only_byte_for_byte() {
        let name = "outbound|80||a.default.svc";
        for length in 0..=name.len() {
            assert!(same(&name[..length], &name.to_owned()[..length]));
            assert!(length == name.len() || !same(name, &name[..length]) && !same(&name[..length], name));
            for at in 0..length {
                let mut other = name.as_bytes()[..length].to_vec();
                other[at] ^= 1;
                assert!(!same(&name[..length], std::str::from_utf8(&other).unwrap()), "byte {at} of {length}");
            }
        }
    }

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
