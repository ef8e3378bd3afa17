//! Captures compressed with gzip (RFC 1952) or zstd (RFC 8878), as streams.
//!
//! Both may be several pieces one after the other: gzip members (`cat a.gz b.gz`, bgzip) and zstd frames, among
//! them skippable ones. Memory is that of one input buffer and one window, whatever the data unpacks to. Damaged
//! data still gives all that was decompressed before the damage.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::{CaptureError, Input, Plain, ReadError, Reason};

/// Compressed bytes read at once.
const BUFFER: usize = 256 << 10;

/// Largest zstd window, as a power of 2: 128 MiB, what the zstd command takes without `--long`.
const WINDOW_LOG_MAX: u32 = 27;

/// What zstd wants to see first of a frame: its magic number and a byte that tells how long its header is.
const ZSTD_START: usize = 5;

/// Length of the header before each block of a zstd frame.
const ZSTD_BLOCK_HEADER: usize = 3;

/// A kind of compression, told by its magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Gzip,
    Zstd,
}

impl Codec {
    /// Which compression begins with these bytes, if any.
    pub(super) fn sniff(head: &[u8]) -> Option<Self> {
        match head {
            // 8 is deflate, the only method there is.
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A skippable frame, with which parallel compressors begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    const fn piece(self) -> &'static str {
        match self {
            Self::Gzip => "a gzip member",
            Self::Zstd => "a zstd frame",
        }
    }

    const fn intact(self) -> &'static str {
        match self {
            Self::Gzip => "intact gzip data",
            Self::Zstd => "intact zstd data with a window of at most 128 MiB",
        }
    }
}

/// A decompressor between two calls.
enum Decompressor {
    Gzip(Decompress),
    Zstd {
        decoder: Decoder<'static>,
        /// Compressed bytes until the next block is whole, and the next block's header where there is one.
        hint: usize,
        /// The last output was filled, so there may be more without any input.
        full: bool,
    },
}

/// What one step did.
struct Step {
    /// It did not look at the input, so that to have done nothing means nothing.
    again: bool,
    consumed: usize,
    produced: usize,
    /// Whether a member or frame ended; else the decompressor's words for what is wrong.
    ended: Result<bool, String>,
}

impl Decompressor {
    fn new(codec: Codec) -> Result<Self, String> {
        match codec {
            // 15: the largest window that deflate has.
            Codec::Gzip => Ok(Self::Gzip(Decompress::new_gzip(15))),
            Codec::Zstd => {
                let mut decoder = Decoder::new().map_err(|error| error.to_string())?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(|error| error.to_string())?;
                Ok(Self::Zstd { decoder, hint: ZSTD_START, full: false })
            }
        }
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Step {
        match self {
            Self::Gzip(decompress) => {
                let before = (decompress.total_in(), decompress.total_out());
                let ended = match decompress.decompress(input, output, FlushDecompress::None) {
                    Ok(status) => Ok(status == Status::StreamEnd),
                    // The library's own words depend on how much was asked for at once.
                    Err(_) => Err("damaged data".to_owned()),
                };
                let step = Step {
                    again: false,
                    consumed: (decompress.total_in() - before.0) as usize,
                    produced: (decompress.total_out() - before.1) as usize,
                    ended,
                };
                if matches!(step.ended, Ok(true)) {
                    *decompress = Decompress::new_gzip(15);
                }
                step
            }
            Self::Zstd { decoder, hint, full } => {
                // A step that fails takes back its output, so no step may do two things of which the second can
                // fail: what is left of the last block comes first, and a block comes without the next header.
                let most = match *hint {
                    _ if *full => 0,
                    hint if hint > ZSTD_BLOCK_HEADER => hint - ZSTD_BLOCK_HEADER,
                    hint => hint,
                };
                let room = output.len();
                let mut from = InBuffer::around(&input[..input.len().min(most)]);
                let mut into = OutBuffer::around(output);
                let ended = match decoder.run(&mut from, &mut into) {
                    Ok(next) => {
                        *hint = if next == 0 { ZSTD_START } else { next };
                        Ok(next == 0)
                    }
                    Err(error) => Err(error.to_string()),
                };
                let flushing = std::mem::replace(full, into.pos() == room);
                Step { again: flushing, consumed: from.pos(), produced: into.pos(), ended }
            }
        }
    }
}

/// The decompressed bytes of a file or pipe.
pub(super) struct Compressed {
    input: Plain,
    codec: Codec,
    decompressor: Decompressor,
    buffer: Vec<u8>,
    /// What of `buffer` is still to be decompressed.
    start: usize,
    end: usize,
    /// Nothing comes after what is in `buffer`.
    exhausted: bool,
    /// Within a member or frame, so that the end of the file would be too early.
    inside: bool,
    /// What is wrong with the data after that already given.
    fault: Option<String>,
}

impl Compressed {
    /// Decompresses `input`, of which `head` has been read already.
    pub(super) fn new(input: Plain, codec: Codec, head: &[u8]) -> Result<Self, CaptureError> {
        let decompressor = Decompressor::new(codec)
            .map_err(|message| CaptureError::new(Reason::Compression, None, message, "a decompressor"))?;
        let mut buffer = vec![0; BUFFER];
        buffer[..head.len()].copy_from_slice(head);
        Ok(Self {
            input,
            codec,
            decompressor,
            buffer,
            start: 0,
            end: head.len(),
            exhausted: false,
            inside: false,
            fault: None,
        })
    }
}

impl Input for Compressed {
    /// Fills `into` unless the data ends or breaks.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ReadError> {
        let mut length = 0;
        while self.fault.is_none() && length < into.len() {
            if self.start == self.end && !self.exhausted {
                match self.input.read(&mut self.buffer) {
                    Ok(read) => (self.start, self.end, self.exhausted) = (0, read, read == 0),
                    // Comes again at the next call, when what was decompressed has been used.
                    Err(_) if length > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            if self.start == self.end && !self.inside {
                if self.exhausted {
                    break;
                }
                continue;
            }
            let step = self.decompressor.step(&self.buffer[self.start..self.end], &mut into[length..]);
            self.start += step.consumed;
            length += step.produced;
            match step.ended {
                Ok(ended) => {
                    self.inside = !ended;
                    let stuck = !ended && !step.again && step.consumed == 0 && step.produced == 0;
                    if stuck && self.start == self.end && self.exhausted {
                        self.fault = Some(format!("the end of the file inside {}", self.codec.piece()));
                    } else if stuck && self.start < self.end {
                        self.fault = Some("data that the decompressor does not take".to_owned());
                    }
                }
                Err(message) => self.fault = Some(format!("{}: {message}", self.codec.name())),
            }
        }
        match &self.fault {
            Some(fault) if length == 0 => {
                Err(ReadError::Compression { found: fault.clone(), expected: self.codec.intact().to_owned() })
            }
            _ => Ok(length),
        }
    }

    fn bytes_read(&self) -> u64 {
        self.input.bytes_read()
    }

    fn size(&self) -> Option<u64> {
        self.input.size()
    }
}
