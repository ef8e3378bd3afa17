//! Where a flow lies: an open-addressing table from the hash of a key to a slot, four bytes an entry.
//!
//! ```text
//! | 6 bits of the hash | 4 bits: how far from where the hash points | 22 bits: slot |
//! ```
//!
//! Of the flows that are not meant one in 64 is looked at in vain. Entries lie as near to where their hashes point as they
//! can (linear probing); one that goes is filled by those behind it, so nothing has to be swept, and their distances say
//! without a look at their flows how far they may move up. The few that lie further than that can tell are asked for.

use super::prefetch::prefetch;

/// No entry.
const FREE: u32 = u32::MAX;
const SLOT_BITS: u32 = 22;
const SLOTS: u32 = (1 << SLOT_BITS) - 1;
const DISTANCE: u32 = 15 << SLOT_BITS;
const TAG: u32 = !(SLOTS | DISTANCE);
/// Distances from here on are not told.
const FAR: usize = 15;
/// Far more than a window, which must not reach over the end.
const SMALLEST: usize = 64;
/// Entries that are looked at together.
const WINDOW: usize = 4;
/// Slots that can be told.
pub const MOST_SLOTS: usize = SLOTS as usize;

/// Where a slot may be, by the hash alone: the first that is like it, or [`NOWHERE`].
#[derive(Clone, Copy, Debug)]
pub struct Guess(u32);

/// Nothing is like it: it is nowhere. What is free says so, too.
const NOWHERE: u32 = FREE & SLOTS;

impl Default for Guess {
    fn default() -> Self {
        Self(NOWHERE)
    }
}

impl Guess {
    /// The slot, or a number that is none.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.0
    }
}

/// The index of one table.
#[derive(Debug, Default)]
pub struct Index {
    /// A power of two, or none at all.
    entries: Box<[u32]>,
    used: usize,
}

impl Index {
    /// Asks for the memory that [`Self::guess`] and [`Self::find`] look at first.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.entries.get(hash as usize & self.entries.len().wrapping_sub(1)));
    }

    /// Where the slot of a hash is, by the hash alone.
    #[inline(always)]
    pub fn guess(&self, hash: u64) -> Guess {
        let (home, like) = (hash as usize & self.entries.len().wrapping_sub(1), (hash >> 32) as u32);
        // Of the first few the one that is likest to it, chosen without asking each whether to go on: which one it is nobody
        // could predict.
        let Some(window) = self.window(home) else { return self.guess_by_one(hash) };
        let likest = window.iter().fold(u32::MAX, |likest, &entry| likest.min(entry ^ like));
        let slot = (likest ^ like) & SLOTS;
        if (likest & TAG == 0) & (slot != NOWHERE) {
            return Guess(slot);
        }
        // What is free is like hashes of its tag.
        if has_room(window) && like & TAG != FREE & TAG { Guess(NOWHERE) } else { self.guess_by_one(hash) }
    }

    /// The same, one by one.
    #[inline(never)]
    fn guess_by_one(&self, hash: u64) -> Guess {
        let like_it = self.probe(hash).find(|entry| (entry ^ tag(hash)) & TAG == 0);
        Guess(like_it.map_or(NOWHERE, |entry| entry & SLOTS))
    }

    /// The first few entries from where a hash points to, unless the table ends before.
    #[inline(always)]
    fn window(&self, home: usize) -> Option<&[u32; WINDOW]> {
        self.entries.get(home..home + WINDOW)?.first_chunk()
    }

    /// The slot of a hash for which `is_it` holds.
    #[inline(always)]
    pub fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.resolve(self.guess(hash), hash, is_it)
    }

    /// The same, from what was guessed. The index has not changed since.
    #[inline(always)]
    pub fn resolve(&self, guess: Guess, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        match guess.0 {
            NOWHERE => None,
            slot if is_it(slot) => Some(slot),
            _ => self.find_by_one(hash, is_it),
        }
    }

    /// The same, one by one.
    #[inline(never)]
    fn find_by_one(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let like_it = self.probe(hash).filter(|entry| (entry ^ tag(hash)) & TAG == 0);
        like_it.map(|entry| entry & SLOTS).find(|&slot| is_it(slot))
    }

    /// The entries from where a hash points to up to one that is free.
    #[inline]
    fn probe(&self, hash: u64) -> impl Iterator<Item = u32> {
        let home = hash as usize & self.entries.len().wrapping_sub(1);
        let (before, behind) = self.entries.split_at_checked(home).unwrap_or_default();
        behind.iter().chain(before).copied().take_while(|&entry| entry != FREE)
    }

    /// Adds a slot that is not in it. `all` tells the hashes and slots that are, when it grows.
    #[inline]
    pub fn insert<All: Iterator<Item = (u64, u32)>>(&mut self, hash: u64, slot: u32, all: impl FnOnce() -> All) {
        // At most five eighths full, so that nearly all lie within a window.
        if (self.used + 1) * 8 > self.entries.len() * 5 {
            self.grow(all());
        }
        self.put(hash, slot);
        self.used += 1;
    }

    /// Doubles it. In the order of the slots, in which the flows lie in memory.
    #[cold]
    fn grow(&mut self, all: impl Iterator<Item = (u64, u32)>) {
        let size = (self.used * 2).next_power_of_two().max(SMALLEST);
        // Not while the former ones take up memory.
        self.entries = Box::default();
        self.entries = vec![FREE; size].into_boxed_slice();
        for (hash, slot) in all {
            self.put(hash, slot);
        }
    }

    fn put(&mut self, hash: u64, slot: u32) {
        let mask = self.entries.len() - 1;
        let home = hash as usize & mask;
        let mut at = home;
        if let Some(window) = self.window(home) {
            // The first free one, or the one behind.
            let free = window.iter().rev().fold(0_u32, |free, &entry| free << 1 | u32::from(entry == FREE));
            at = (home + (free | 1 << WINDOW).trailing_zeros() as usize) & mask;
        }
        while self.entries[at] != FREE {
            at = (at + 1) & mask;
        }
        self.entries[at] = entry(hash, at.wrapping_sub(home) & mask, slot);
    }

    /// Takes a slot out.
    pub fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let mask = self.entries.len().wrapping_sub(1);
        let mut hole = hash as usize & mask;
        loop {
            match self.entries.get(hole) {
                None | Some(&FREE) => return,
                Some(entry) if entry & SLOTS == slot => break,
                Some(_) => hole = (hole + 1) & mask,
            }
        }
        self.used -= 1;
        // Those behind move up, but for such as would come before where their hashes point.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let moved = self.entries[at];
            if moved == FREE {
                break;
            }
            let mut distance = (moved & DISTANCE) as usize >> SLOT_BITS;
            if distance == FAR {
                distance = at.wrapping_sub(hash_of(moved & SLOTS) as usize) & mask;
            }
            let way = at.wrapping_sub(hole) & mask;
            if distance >= way {
                self.entries[hole] = moved & !DISTANCE | told(distance - way);
                hole = at;
            }
        }
        self.entries[hole] = FREE;
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        if self.used > 0 {
            self.entries.fill(FREE);
            self.used = 0;
        }
    }
}

#[inline]
fn entry(hash: u64, distance: usize, slot: u32) -> u32 {
    tag(hash) | told(distance) | slot & SLOTS
}

#[inline]
fn told(distance: usize) -> u32 {
    (distance.min(FAR) as u32) << SLOT_BITS
}

/// Whether an entry is free.
#[inline(always)]
fn has_room(window: &[u32; WINDOW]) -> bool {
    window.iter().fold(false, |is_free, &entry| is_free | (entry == FREE))
}

/// From the end of the hash that says nothing about the place.
#[inline]
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 & TAG
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a map; hashes that collide in their place, their tag, or both, the tag of what is free among them, and a
        /// table that grows and wraps.
        #[test]
        fn as_a_plain_map(
            steps in proptest::collection::vec((0_u32..80, 0_u8..4), 1..400),
            places in 1_u64..90,
        ) {
            let hash = |slot: u32| {
                (u64::from(57 + slot % 7) << 58) | (u64::from(slot % 3 * 0x1ff_ffff) << 32) | (u64::from(slot) % places * 13)
            };
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for (slot, step) in steps {
                match step {
                    0 => {
                        index.remove(hash(slot), slot, hash);
                        model.remove(&slot);
                    }
                    1 if slot == 1 => {
                        index.clear();
                        model.clear();
                    }
                    _ => {
                        let known: Vec<_> = model.keys().map(|&slot| (hash(slot), slot)).collect();
                        if model.insert(slot, ()).is_none() {
                            index.insert(hash(slot), slot, || known.into_iter());
                        }
                    }
                }
                for other in 0..80 {
                    let found = index.find(hash(other), |slot| slot == other);
                    prop_assert_eq!(found.is_some(), model.contains_key(&other));
                }
            }
        }
    }

    #[test]
    fn the_last_slot_is_told() {
        let mut index = Index::default();
        let last = MOST_SLOTS as u32 - 1;
        assert_eq!(index.find(0, |_| true), None);
        index.remove(0, last, |_| 0);
        index.insert(u64::MAX, last, std::iter::empty::<(u64, u32)>);
        assert_eq!(index.find(u64::MAX, |slot| slot == last), Some(last));
        assert_eq!(index.find(0, |_| true), None);
    }
}
