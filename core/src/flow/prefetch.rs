//! Asks for memory before it is needed: the one hint to the processor that safe Rust has no word for.
//!
//! A flow lies somewhere in many megabytes. What a load of it waits for, others can be asked for in the meantime, but only
//! as far ahead as a processor looks; this reaches over a whole batch of packets.

/// Asks for the line of the cache in which a value begins.
#[inline(always)]
pub fn prefetch<T>(value: Option<&T>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = value {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(unsafe_code)] // A hint: it reads and writes nothing, and the address is that of a reference.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
