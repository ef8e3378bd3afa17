//! The hash of keys that no sender of packets can choose: handles and classes. Others have the standard library's, which
//! nobody can make collide.

use std::hash::{BuildHasherDefault, Hasher};

use crate::flow::{SEED, hash_bytes, mix};

/// For `HashMap`.
pub type Mixing = BuildHasherDefault<Mixed>;

/// A running hash.
#[derive(Clone, Copy, Debug)]
pub struct Mixed(u64);

impl Default for Mixed {
    fn default() -> Self {
        Self(SEED)
    }
}

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash_bytes(self.0, bytes);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    fn hash(key: impl Hash) -> u64 {
        Mixing::default().hash_one(key)
    }

    /// Handles are numbers of shards and slots. A map takes its place from the low bits, and tells what is there apart
    /// by the high ones.
    #[test]
    fn handles_spread_over_the_bits_that_maps_look_at() {
        for step in [0, 6, 16, 32, 48] {
            let hashes: Vec<_> = (0..1_u64 << 12).map(|number| hash(number << step)).collect();
            for (part, places) in [
                ("low", hashes.iter().map(|hash| hash % 1_024).collect::<Vec<_>>()),
                ("high", hashes.iter().map(|hash| hash >> 57).collect()),
            ] {
                let different = places.iter().collect::<HashSet<_>>().len();
                // Thrown at random, 4,096 leave 2 in 100 of 1,024 places free, and none of 128.
                assert!(different >= if part == "low" { 900 } else { 128 }, "{step} {part}: {different}");
            }
            assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), hashes.len());
        }
    }

    #[test]
    fn classes_that_differ_in_one_bit_differ() {
        let mut found = HashSet::from([hash([0_u8; 23])]);
        for bit in 0..23 * 8 {
            let mut class = [0_u8; 23];
            class[bit / 8] = 1 << (bit % 8);
            assert!(found.insert(hash(class)), "bit {bit}");
        }
    }

    #[test]
    fn parts_of_a_key_count_in_their_order_and_none_is_lost() {
        assert_ne!(hash((1_u32, 2_u32)), hash((2_u32, 1_u32)));
        assert_ne!(hash((7_u32, false)), hash((7_u32, true)));
        assert_ne!(hash(0_u32), hash((0_u32, 0_u32)));
        assert_ne!(hash(1_usize), hash(1_usize << 32));
        assert_eq!(hash(9_u32), hash(9_u64));
    }
}
