//! A timing wheel of one-second buckets over slots of a slab, as doubly linked lists.
//!
//! A flow is put where its timeout could first have passed; when that second comes it is looked at, and put
//! back if it has been seen since. So a packet moves nothing in the wheel: it only writes the time it was seen.

/// More than the longest timeout in seconds (3,600), and a power of two.
const BUCKETS: usize = 4096;
/// No slot.
pub const NONE: u32 = u32::MAX;
const SECOND: i64 = 1_000_000_000;

/// A slot's neighbours in its bucket.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    previous: u32,
    next: u32,
    bucket: u16,
}

impl Default for Links {
    fn default() -> Self {
        Self { previous: NONE, next: NONE, bucket: u16::MAX }
    }
}

/// A slab of things with [`Links`].
pub trait Linked {
    /// Links of what is in a slot; without them it can be in no wheel.
    fn links(&mut self, slot: u32) -> Option<&mut Links>;
}

/// The wheel: heads of the buckets and the second up to which they have been looked at.
#[derive(Debug)]
pub struct Wheel {
    heads: Vec<u32>,
    second: i64,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { heads: Vec::new(), second: i64::MIN }
    }
}

impl Wheel {
    /// Puts an unlinked slot where `deadline` (nanoseconds) will be looked at: the second after it.
    pub fn insert<T: Linked>(&mut self, slab: &mut T, slot: u32, deadline: i64) {
        if self.heads.is_empty() {
            self.heads.resize(BUCKETS, NONE);
        }
        // Not before the next tick, nor so late that the bucket would come up before its time.
        let earliest = self.second.saturating_add(1);
        let second = (deadline.div_euclid(SECOND).saturating_add(1))
            .clamp(earliest, earliest.saturating_add(BUCKETS as i64 - 2));
        let bucket = second.rem_euclid(BUCKETS as i64) as usize;
        let head = self.heads[bucket];
        let Some(links) = slab.links(slot) else { return };
        *links = Links { previous: NONE, next: head, bucket: bucket as u16 };
        self.heads[bucket] = slot;
        if head != NONE
            && let Some(links) = slab.links(head)
        {
            links.previous = slot;
        }
    }

    /// Takes a slot out, if it is linked.
    pub fn remove<T: Linked>(&mut self, slab: &mut T, slot: u32) {
        let Some(links) = slab.links(slot) else { return };
        let Links { previous, next, bucket } = std::mem::take(links);
        if previous != NONE {
            if let Some(links) = slab.links(previous) {
                links.next = next;
            }
        } else if let Some(head) = self.heads.get_mut(usize::from(bucket)) {
            *head = next;
        }
        if next != NONE
            && let Some(links) = slab.links(next)
        {
            links.previous = previous;
        }
    }

    /// Moves on to the clock's second and gives every slot whose bucket has come up, unlinked, to be ended
    /// or inserted again.
    pub fn advance<T: Linked>(&mut self, slab: &mut T, now: i64, due: &mut Vec<u32>) {
        let second = now.div_euclid(SECOND);
        if second <= self.second {
            return;
        }
        let first = self.second.saturating_add(1).max(second.saturating_sub(BUCKETS as i64 - 1));
        self.second = second;
        if self.heads.is_empty() {
            return;
        }
        for tick in first..=second {
            let head = &mut self.heads[tick.rem_euclid(BUCKETS as i64) as usize];
            let mut slot = std::mem::replace(head, NONE);
            while slot != NONE {
                due.push(slot);
                slot = slab.links(slot).map_or(NONE, |links| std::mem::take(links).next);
            }
        }
    }

    /// Forgets everything: the next capture begins. Without heads, no bucket of it is looked at until something is put in.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.second = i64::MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Linked for Vec<Links> {
        fn links(&mut self, slot: u32) -> Option<&mut Links> {
            self.get_mut(slot as usize)
        }
    }

    proptest! {
        /// Against a plain list: every slot comes up at the first tick after its deadline, once.
        #[test]
        fn as_a_plain_list(
            deadlines in proptest::collection::vec(0_i64..3_600, 1..50),
            removed in proptest::collection::vec(proptest::bool::ANY, 50),
            steps in proptest::collection::vec(1_i64..900, 1..20),
        ) {
            let mut slab = vec![Links::default(); deadlines.len()];
            let mut wheel = Wheel::default();
            let (mut now, mut due) = (0, Vec::new());
            wheel.advance(&mut slab, now, &mut due);
            for (slot, &deadline) in deadlines.iter().enumerate() {
                wheel.insert(&mut slab, slot as u32, deadline * SECOND);
            }
            let mut waiting: Vec<u32> = (0..deadlines.len() as u32).collect();
            for slot in (0..deadlines.len() as u32).filter(|&slot| removed[slot as usize]) {
                wheel.remove(&mut slab, slot);
                waiting.retain(|&other| other != slot);
            }
            for step in steps {
                now += step * SECOND;
                due.clear();
                wheel.advance(&mut slab, now, &mut due);
                due.sort_unstable();
                let expected: Vec<u32> =
                    waiting.iter().copied().filter(|&slot| deadlines[slot as usize] * SECOND < now).collect();
                prop_assert_eq!(&due, &expected);
                waiting.retain(|slot| !due.contains(slot));
            }
        }
    }
}
