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
