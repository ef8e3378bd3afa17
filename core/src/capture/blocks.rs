//! A plain file, whose blocks can be read side by side: most of the time that a capture takes to read is the copy out of
//! the page cache, of which each core makes its own.
//!
//! A block is read into a batch by anybody ([`Blocks::read`]), and its frames are found in order ([`super::Source::take`]), since
//! where a record begins is known only when the one before it has been seen. What the last block left of a record goes in
//! front of it, for which there is room.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::FrameBatch;

/// Room in front of a block for a cut record. A longer one is moved.
pub(super) const HEADROOM: usize = 1 << 16;

/// The file.
#[derive(Clone, Debug)]
pub struct Blocks {
    file: Arc<File>,
    /// Where reading begins.
    first: u64,
    block: u64,
}

/// A block in a batch, behind its headroom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Where in the file it begins.
    pub start: u64,
    /// How long it is.
    pub length: usize,
}

impl Blocks {
    pub(super) fn new(file: Arc<File>, first: u64, block: usize) -> Self {
        Self { file, first, block: block.max(1) as u64 }
    }

    /// Reads the block of a number, from 0, into a batch, which is then for [`super::Source::take`]. What cannot be read,
    /// that will say.
    pub fn read(&self, number: u64, batch: &mut FrameBatch) {
        batch.clear();
        let before = (self.first / self.block).saturating_add(number).saturating_mul(self.block);
        batch.block = self.read_from(before.max(self.first), batch).ok();
    }

    /// Reads from a place to the end of the block that it is in.
    pub(super) fn read_from(&self, start: u64, batch: &mut FrameBatch) -> io::Result<Block> {
        // Reads end at multiples of the block size, which the page cache likes.
        let room = (self.block - start % self.block) as usize;
        batch.reserve(HEADROOM + room);
        let mut length = 0;
        while let Some(into) = batch.data.get_mut(HEADROOM + length..HEADROOM + room).filter(|into| !into.is_empty()) {
            match self.file.read_at(into, start + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What came before it is whole.
                Err(_) if length > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Block { start, length })
    }
}
