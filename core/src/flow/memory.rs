//! Memory for flows: large regions in huge pages, of which the tables of a worker's shards take their parts.
//!
//! ```text
//! Memory --> region of 2 MiB:  | part | part | part | not given yet |
//! ```
//!
//! To have a page of 4 KiB from the kernel costs 75 ns for each of the 25 flows in it, and flows that lie all over such
//! pages are waited for twice: for what says where their page is, and for themselves. One huge page is 512 of them. A shard's
//! table is too small to fill any; together they do.

#![allow(unsafe_code)]

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// As large as a huge page, and aligned as one.
const REGION: usize = 2 << 20;

/// Where parts come from. Clones share their regions.
#[derive(Clone, Default)]
pub struct Memory {
    latest: Arc<Mutex<Option<Latest>>>,
}

/// The region of which parts are given, up to where it is.
struct Latest {
    region: Arc<Region>,
    given: usize,
}

impl Memory {
    /// A value in its place. Like [`Box::new`], it does not return when there is no memory.
    #[inline]
    pub fn place<T>(&self, value: impl FnOnce() -> T) -> Part<T> {
        let (place, region) = self.give(Layout::new::<T>());
        let place = place.cast::<T>();
        // SAFETY: these octets are of T's size and alignment, and nobody else's: none are given twice.
        unsafe { place.write(value()) };
        Part { place, region }
    }

    /// Octets that nobody has, and the region that keeps them.
    #[inline(never)]
    fn give(&self, layout: Layout) -> (NonNull<u8>, Arc<Region>) {
        assert!(layout.size() <= REGION && layout.align() <= REGION, "a part is no larger than a region");
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |latest: &Latest| {
            let from = latest.given.next_multiple_of(layout.align());
            (from + layout.size() <= REGION).then_some(from)
        };
        let from = latest.as_ref().and_then(fits).unwrap_or_default();
        if from == 0 {
            *latest = None;
        }
        let latest = latest.get_or_insert_with(|| Latest { region: Arc::new(Region::new()), given: 0 });
        latest.given = from + layout.size();
        // SAFETY: it ends within the region.
        (unsafe { latest.region.start.add(from) }, Arc::clone(&latest.region))
    }
}

/// What is owned and lies in a region, as a [`Box`] lies in the heap.
pub struct Part<T> {
    place: NonNull<T>,
    /// Goes back to the kernel with the last of its parts.
    #[allow(dead_code)] // Kept, not looked at.
    region: Arc<Region>,
}

impl<T> Deref for Part<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: a value was put there, nobody else has its place, and the region lives as long as this.
        unsafe { self.place.as_ref() }
    }
}

impl<T> DerefMut for Part<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.place.as_mut() }
    }
}

impl<T> Drop for Part<T> {
    fn drop(&mut self) {
        // SAFETY: as above, and it is not looked at again. The region goes after that, if at all: fields go last.
        unsafe { self.place.drop_in_place() };
    }
}

// SAFETY: a part owns its value, as a box does; the region is nothing but memory.
unsafe impl<T: Send> Send for Part<T> {}
// SAFETY: the same.
unsafe impl<T: Sync> Sync for Part<T> {}

/// Octets from the kernel, all zero at first.
struct Region {
    start: NonNull<u8>,
}

// SAFETY: it says where memory is that is there until it goes; what is in it is looked at by its parts alone.
unsafe impl Send for Region {}
// SAFETY: the same.
unsafe impl Sync for Region {}

impl Region {
    fn new() -> Self {
        let failed = || handle_alloc_error(Layout::new::<[u8; REGION]>());
        // Twice as much, since the kernel aligns to its small pages; what is before and behind goes back at once.
        // SAFETY: a new mapping of no file.
        let mapped =
            unsafe { mmap_anonymous(null_mut(), 2 * REGION, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let Ok(mapped) = mapped else { failed() };
        let before = mapped.cast::<u8>().align_offset(REGION).min(REGION);
        // SAFETY: all three are parts of what was mapped, and nobody has them yet. A kernel without huge pages, or none left,
        // gives small ones: slower, and nothing else.
        let start = unsafe {
            let start = mapped.byte_add(before);
            unmap(mapped, before);
            unmap(start.byte_add(REGION), REGION - before);
            let _ = madvise(start, REGION, Advice::LinuxHugepage);
            start
        };
        let Some(start) = NonNull::new(start.cast()) else { failed() };
        Self { start }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was mapped, and no part of it is left.
        unsafe { unmap(self.start.as_ptr().cast(), REGION) };
    }
}

/// Gives memory back.
///
/// # Safety
/// It was mapped, and nobody looks at it again.
unsafe fn unmap(start: *mut c_void, length: usize) {
    if length > 0 {
        // SAFETY: the caller's word. It fails only when a mapping would have to be split and there are too many; then it stays.
        let _ = unsafe { munmap(start, length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Parts of three sizes and alignments, through several regions: none lies over another, and each keeps its value.
    #[test]
    fn parts_do_not_overlap_and_keep_their_values() {
        #[repr(align(64))]
        struct Line([u64; 1_000]);

        let memory = Memory::default();
        let mut lines = Vec::new();
        let mut octets = Vec::new();
        for number in 0..1_000_u64 {
            lines.push(memory.place(|| Line([number; 1_000])));
            octets.push(memory.place(|| number as u8));
        }
        let mut regions: Vec<_> = lines.iter().map(|line| Arc::as_ptr(&line.region)).collect();
        regions.dedup();
        assert!(regions.len() > 3);
        for (number, (line, octet)) in lines.iter_mut().zip(&octets).enumerate() {
            assert_eq!(line.place.as_ptr() as usize % 64, 0);
            assert!(line.0.iter().all(|&value| value == number as u64) && **octet == number as u8);
            line.0.fill(u64::MAX);
        }
        assert!(octets.iter().enumerate().all(|(number, octet)| **octet == number as u8));
    }

    #[test]
    fn a_value_goes_once_and_its_region_with_the_last() {
        let memory = Memory::default();
        let witness = Arc::new(());
        let parts: Vec<_> = (0..3).map(|_| memory.place(|| Arc::clone(&witness))).collect();
        let region = Arc::downgrade(&parts[0].region);
        assert_eq!((Arc::strong_count(&witness), region.strong_count()), (4, 4));
        drop(memory);
        let moved = thread::spawn(move || parts).join().expect("it only moves");
        assert_eq!(Arc::strong_count(&witness), 4);
        drop(moved);
        assert_eq!((Arc::strong_count(&witness), region.strong_count()), (1, 0));
    }

    #[test]
    fn a_part_may_be_as_large_as_a_region() {
        let memory = Memory::default();
        let _small = memory.place(|| 1_u8);
        let (whole, region) = memory.give(Layout::new::<[u8; REGION]>());
        assert_eq!((whole, whole.as_ptr() as usize % REGION), (region.start, 0));
        let (other, _region) = memory.give(Layout::new::<u8>());
        assert_eq!(other.as_ptr() as usize % REGION, 0);
    }
}
