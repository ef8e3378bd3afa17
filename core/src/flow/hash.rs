//! The hash of flow keys: folded 64-bit multiplication, as in wyhash, with a seed.
//!
//! It must be the same on every machine and in every version, since flow ids are made of it: so it is
//! written out here and its values are fixed by a test.

/// A replay hashes with a fixed seed, so that the same input gives the same shards.
pub const SEED: u64 = 0;
/// Odd, with as many ones as zeros and no pattern in them.
pub const K0: u64 = 0xa076_1d64_78bd_642f;
/// Another one.
pub const K1: u64 = 0xe703_7ed1_a0b4_28db;

/// Both halves of the 128-bit product, exclusive-or'ed.
#[inline]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// Mixes a value into a running hash.
#[inline]
pub fn mix(hash: u64, value: u64) -> u64 {
    fold(hash ^ K0, value ^ K1)
}

/// Hashes bytes of any length; used where speed does not matter.
pub fn bytes(seed: u64, data: &[u8]) -> u64 {
    let mut hash = mix(seed, data.len() as u64);
    for chunk in data.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed apart from this code, by Python's integers.
    #[test]
    fn values_never_change() {
        assert_eq!(mix(0, 0), 0x1ff5_c292_3a78_8d2c);
        assert_eq!(mix(1, 2), 0xf785_8b38_a849_9be9);
        assert_eq!(mix(u64::MAX, u64::MAX), 0x1fe1_8d02_a367_6d4f);
        assert_eq!(bytes(0, b"a"), 0x3eac_6bc5_16ef_165d);
        assert_eq!(bytes(7, b"vpn-classifier"), 0x0529_608a_52d1_52a4);
        assert_ne!(bytes(0, b"a"), bytes(0, b"a\0"));
    }
}
