//! What the fuzz targets call. Beside them, `tests/fuzz_corpus.rs` runs their corpus through the same functions,
//! so that what a fuzzer once found stays found.
//!
//! No part of the library's interface.

use std::io::Cursor;

use crate::capture::{BLOCK, CaptureError, FrameBatch, FrameRef, open_reader};

/// Where [`capture`] stops: a small input can unpack to very much.
const ENOUGH: usize = 32 << 20;

/// A frame and its bytes.
pub type Frame = (FrameRef, Vec<u8>);

/// Reads the capture that `data` is, in blocks of `block` bytes: all its frames, and how it ended. `offset` of
/// each frame is set to 0, since it depends on the blocks.
pub fn read_capture(data: &[u8], block: usize) -> (Vec<Frame>, Result<(), CaptureError>) {
    let mut frames = Vec::new();
    let ended = drain(data, block, |frame, bytes| {
        frames.push((FrameRef { offset: 0, ..*frame }, bytes.to_vec()));
        true
    });
    (frames, ended)
}

/// Reads the capture that `data` is, in large blocks and in small ones, and compares.
///
/// # Panics
/// When what is read depends on the blocks.
pub fn capture(data: &[u8]) {
    assert_eq!(summary(data, BLOCK), summary(data, 61));
}

/// Number of frames, a sum over all of them that depends on their order, and how the capture ended.
fn summary(data: &[u8], block: usize) -> (u64, u64, Result<(), CaptureError>) {
    let (mut frames, mut sum, mut bytes_seen) = (0_u64, 0_u64, 0_usize);
    let ended = drain(data, block, |frame, bytes| {
        assert_eq!(bytes.len(), frame.captured as usize);
        assert!(frame.captured <= frame.original);
        frames += 1;
        let fields =
            [frame.time as u64, u64::from(frame.captured), u64::from(frame.original), u64::from(frame.linktype.0)];
        for value in fields.into_iter().chain(bytes.iter().copied().map(u64::from)) {
            sum = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(value + 1);
        }
        bytes_seen += bytes.len() + 16;
        bytes_seen < ENOUGH
    });
    (frames, sum, ended)
}

/// Gives each frame to `take`, until that returns false.
fn drain(data: &[u8], block: usize, mut take: impl FnMut(&FrameRef, &[u8]) -> bool) -> Result<(), CaptureError> {
    let reader = Box::new(Cursor::new(data.to_vec()));
    let mut source = open_reader(reader, Some(data.len() as u64), block)?;
    let mut batch = FrameBatch::new();
    loop {
        let more = source.fill(&mut batch);
        for frame in batch.frames() {
            if !take(frame, batch.bytes(frame)) {
                return Ok(());
            }
        }
        if !more? {
            return Ok(());
        }
    }
}
