//! Names of upstreams: comparing them, and finding one among a thousand.
//!
//! An index is a list in the order of the names' hashes. A search takes ten steps of a few instructions each. A hash
//! table would need a step or two, but its code alone would be a hundredth of the module. A list of a thousand takes
//! 8 KB. Operators give these names, and nobody chooses them so that they collide. A keyed hash would cost more than
//! the rest.

/// Whether two names are the same. They are a few words long, and for that length a call of the platform's comparison
/// costs more than comparing. A caller that has the breaker's own name pays for no comparison.
#[inline]
pub(crate) fn same(one: &str, other: &str) -> bool {
    if std::ptr::eq(one, other) {
        return true;
    }
    let ((words, rest), (others, other_rest)) = (one.as_bytes().as_chunks::<8>(), other.as_bytes().as_chunks::<8>());
    one.len() == other.len()
        && words.iter().zip(others).all(|(word, other)| u64::from_le_bytes(*word) == u64::from_le_bytes(*other))
        && rest.iter().zip(other_rest).all(|(byte, other)| byte == other)
}

/// Numbers by names. It knows only the hashes of the names, so its callers compare the names.
#[derive(Clone, Default)]
pub(crate) struct Index {
    /// Hash and number, in order.
    entries: Vec<(u32, u32)>,
}

impl Index {
    /// Adds a number. It moves each entry that comes after it. Circuits are few, and most stay.
    pub(crate) fn insert(&mut self, name: &str, number: u32) {
        let entry = (hash(name.as_bytes()), number);
        let place = self.entries.partition_point(|other| *other < entry);
        self.entries.insert(place, entry);
    }

    /// Takes a number out again.
    pub(crate) fn remove(&mut self, name: &str, number: u32) {
        if let Ok(place) = self.entries.binary_search(&(hash(name.as_bytes()), number)) {
            self.entries.remove(place);
        }
    }

    /// Gives each number a new one. The new numbers must be in the order of the old ones.
    pub(crate) fn renumber(&mut self, new: impl Fn(u32) -> u32) {
        self.entries.iter_mut().for_each(|(_, number)| *number = new(*number));
    }

    /// Numbers that there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The numbers that may be this name's: mostly one or none.
    pub(crate) fn candidates(&self, name: &str) -> impl Iterator<Item = u32> {
        let hash = hash(name.as_bytes());
        let first = self.entries.partition_point(|(other, _)| *other < hash);
        self.entries.iter().skip(first).take_while(move |(other, _)| *other == hash).map(|(_, number)| *number)
    }
}

/// Eight bytes at a time, rotated and multiplied, as in Firefox's and rustc's `FxHasher`. It takes the upper half,
/// which depends on all bytes.
pub(crate) fn hash(name: &[u8]) -> u32 {
    /// An odd number without a pattern: 2^64 over the golden ratio.
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = name.as_chunks::<8>();
    let hash = words.iter().fold(0, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let hash = rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
    u32::try_from(hash >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn names_are_found_by_their_hashes_and_few_others_with_them() {
        let names: Vec<String> = (0..10_000)
            .map(|number| format!("outbound|{number}||service-{number}.default.svc.cluster.local"))
            .collect();
        let mut index = Index::default();
        (0..).zip(&names).for_each(|(number, name)| index.insert(name, number));
        let found: Vec<Vec<u32>> = names.iter().map(|name| index.candidates(name).collect()).collect();
        assert!((0..).zip(&found).all(|(number, found)| found.contains(&number)));
        assert!(
            found.iter().map(Vec::len).sum::<usize>() <= 10_002,
            "a hash of 32 bits has hardly any twins among these"
        );
        assert_eq!(index.candidates("outbound|80||elsewhere").count(), 0);
    }

    #[test]
    fn names_of_one_hash_are_all_candidates() {
        let index = Index { entries: vec![(1, 0), (hash(b"a"), 3), (hash(b"a"), 5), (u32::MAX, 1)] };
        assert_eq!(index.candidates("a").collect::<Vec<_>>(), [3, 5]);
        let mut index = index;
        index.remove("a", 3);
        index.remove("a", 4);
        assert_eq!(index.candidates("a").collect::<Vec<_>>(), [5]);
    }
}
