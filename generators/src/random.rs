//! SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the same random numbers everywhere, from a seed of 64 bits.
//!
//! Generators need many independent streams that can be named by a seed, and no more quality than this.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream that a seed names.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream that depends on all of these.
    pub fn of(seeds: &[u64]) -> Self {
        let mut mixed = Self(0);
        for seed in seeds {
            mixed.0 = mixed.word() ^ seed;
        }
        Self(mixed.word())
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// 32 random bits.
    pub fn u32(&mut self) -> u32 {
        (self.word() >> 32) as u32
    }

    /// 16 random bits.
    pub fn u16(&mut self) -> u16 {
        (self.word() >> 48) as u16
    }

    /// 8 random bits.
    pub fn u8(&mut self) -> u8 {
        (self.word() >> 56) as u8
    }

    /// From `least` to `most`, both included (by the multiplication's upper half: biased by less than 2^-32).
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        let span = u128::from(most - least) + 1;
        least + ((u128::from(self.word()) * span) >> 64) as u64
    }

    /// The same as an index or a length.
    pub fn size(&mut self, least: usize, most: usize) -> usize {
        self.between(least as u64, most as u64) as usize
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.between(1, times) == 1
    }

    /// One of these, which must not be empty.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.size(0, of.len() - 1)]
    }

    /// Fills with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test vector of SplitMix64, seed 1234567.
    #[test]
    fn values_are_those_of_the_reference() {
        let mut random = Random::new(1_234_567);
        let values: Vec<u64> = (0..5).map(|_| random.word()).collect();
        assert_eq!(
            values,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    #[test]
    fn bounds_are_included() {
        let mut random = Random::new(1);
        let mut seen = [false; 6];
        for _ in 0..1_000 {
            seen[random.size(1, 4)] = true;
        }
        assert_eq!(seen, [false, true, true, true, true, false]);
        assert_eq!((random.between(7, 7), random.one_in(1)), (7, true));
        random.between(0, u64::MAX);
    }

    #[test]
    fn streams_differ_by_each_seed() {
        let first = |seeds: &[u64]| Random::of(seeds).word();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[1, 2]), first(&[1, 3]));
    }
}
