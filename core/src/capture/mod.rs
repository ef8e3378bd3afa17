//! Captures in, batches of frames out.
//!
//! ```text
//! file or stdin --> Input (plain, gzip, zstd) --> Format (pcap, pcapng) --> FrameBatch
//! interfaces    --> rings of blocks (af_packet) --> threads (live) ---------> FrameBatch
//! ```
//!
//! [`open`] looks at the first bytes to find out what it has, never at the file's name. A [`Source`] reads
//! about one block of file data into a [`FrameBatch`] and says where in it the frames are: nothing is copied
//! but the cut record at the end of a block, which moves to the front of the next one. A compressed capture is
//! streamed, so memory stays the same however far it unpacks.
//!
//! The rule a reader would get wrong: an error does not take back what came before it. Frames that are in the
//! batch when [`Source::fill`] fails were whole, and are to be used first.

pub mod af_packet;
mod blocks;
pub mod bpf;
mod compressed;
mod fanout;
mod linktype;
pub mod live;
mod pcap;
mod pcapng;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use blocks::{Block, HEADROOM};

pub use blocks::Blocks;
pub use linktype::LinkType;

/// How much is asked of the operating system at once. Larger blocks fall out of the second-level cache before
/// their frames are looked at, smaller ones cost more system calls.
pub(crate) const BLOCK: usize = 1 << 18;

/// The longest captured length that is believed without the file's snaplen asking for more: libpcap's
/// MAXIMUM_SNAPLEN. A longer record is far more often a damaged length than a frame.
pub(crate) const MAX_CAPTURED: u32 = 262_144;

/// The longest record or block that is believed at all; Wireshark draws the line for pcapng at the same length.
pub(crate) const MAX_RECORD: u32 = 16 << 20;

/// Bytes looked at to tell formats apart: the magic number, for pcapng also the byte-order magic at 8. Fewer
/// than any format's first header has, so that these bytes alone never hold anything whole.
const HEAD: usize = 12;

/// What `expected` says when a file is of no format that is read here.
const SUPPORTED: &str = "a pcap or pcapng capture, plain or compressed with gzip or zstd";

/// One captured frame inside a batch: where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Capture time in nanoseconds since 1970-01-01T00:00Z; saturates.
    pub time: i64,
    /// Where in the batch the frame's bytes begin.
    pub offset: u32,
    /// Captured length: bytes kept.
    pub captured: u32,
    /// Original length: bytes on the wire. Never below `captured`: a record that says so keeps its bytes, and
    /// its original length is raised, since those bytes were there.
    pub original: u32,
    /// What the frame starts with.
    pub linktype: LinkType,
}

/// A block of file data and the frames in it. Reused between fills: no allocation per frame once warm.
#[derive(Debug, Default)]
pub struct FrameBatch {
    /// Its length is what was ever needed; how much of it is in use is known to `frames` alone.
    data: Vec<u8>,
    frames: Vec<FrameRef>,
    /// What [`Blocks::read`] put into it, until [`Source::take`].
    block: Option<Block>,
}

impl FrameBatch {
    /// An empty batch; it takes its memory at the first fill.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The frames, in the order of the capture.
    #[must_use]
    pub fn frames(&self) -> &[FrameRef] {
        &self.frames
    }

    /// The captured bytes of one of this batch's frames; empty for a frame of another batch that does not fit.
    #[must_use]
    #[inline]
    pub fn bytes(&self, frame: &FrameRef) -> &[u8] {
        let start = frame.offset as usize;
        start.checked_add(frame.captured as usize).and_then(|end| self.data.get(start..end)).unwrap_or_default()
    }

    /// Bytes of this batch's data; none where there are not as many.
    #[inline]
    pub(crate) fn at(&self, start: usize, length: usize) -> &[u8] {
        self.data.get(start..).and_then(|rest| rest.get(..length)).unwrap_or_default()
    }

    /// Forgets the frames and keeps the memory.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.block = None;
    }

    /// Makes room for `length` bytes. Grows with the data that has arrived, not with what a header claims.
    fn reserve(&mut self, length: usize) {
        if self.data.len() < length {
            self.data.resize(length, 0);
        }
    }
}

/// Something that frames can be read from.
pub trait Source: Send {
    /// Fills the batch with whole frames of about one block of file data.
    ///
    /// `Ok(false)` is the clean end, with nothing in the batch. `Ok(true)` may come with an empty batch: the
    /// block held no frame, or a signal interrupted the wait for data, which gives the caller a chance to look
    /// at it.
    ///
    /// # Errors
    /// The capture cannot be read any further. Frames already put into the batch are valid and must be used
    /// first; every later call gives `Ok(false)`.
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError>;

    /// A file whose blocks may be read side by side, each then to be taken in order of their numbers; `None` where what
    /// comes next is not known before it has come.
    fn blocks(&self) -> Option<Blocks> {
        None
    }

    /// As [`Self::fill`], from the block that [`Blocks::read`] put into the batch.
    ///
    /// # Errors
    /// As [`Self::fill`].
    fn take(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        self.fill(batch)
    }

    /// Bytes read so far, as they are stored (compressed), for progress.
    fn bytes_read(&self) -> u64;

    /// Bytes there are in all, as they are stored; `None` for a pipe and for an interface.
    fn size(&self) -> Option<u64>;

    /// Of a live capture while nothing comes: the time of the host (nanoseconds since 1970) up to which all frames
    /// have been delivered. `None` for a file, which has no time of its own.
    fn delivered_until(&self) -> Option<i64> {
        None
    }

    /// What a live capture counts beside its frames; `None` for a file.
    fn live_counters(&self) -> Option<LiveCounters> {
        None
    }

    /// How often this has been asked for frames, and how often each thread that captures has looked for some: one that
    /// hangs stops counting, one to which nothing comes does not. Empty for a file.
    fn turns(&self) -> Vec<u64> {
        Vec::new()
    }

    /// What each interface of a live capture counts, the kernel's numbers of this moment; nothing for a file.
    fn interfaces(&mut self) -> Vec<InterfaceCounters> {
        Vec::new()
    }

    /// Asks for the end; whether frames that have arrived already are still to come, until `fill` gives `Ok(false)`.
    fn stop(&mut self) -> bool {
        false
    }
}

/// Counters of a live capture, over all its interfaces. Frames received are delivered, ignored as outgoing, dropped, or
/// still in a ring or a batch; the kernel's numbers are of the last second's look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveCounters {
    /// Frames that this host sent itself: not delivered.
    pub outgoing: u64,
    /// Frames that the kernel had for us, dropped ones included.
    pub received: u64,
    /// Frames for which no ring had room.
    pub dropped: u64,
    /// How often a ring was full.
    pub freezes: u64,
    /// How often an interface went down or away.
    pub downs: u64,
    /// Interfaces that are down or gone now.
    pub down: u64,
}

/// Counters of one interface, over all its rings. Frames received are delivered, ignored as outgoing, dropped, or still
/// in a ring or in a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Its name.
    pub name: String,
    /// Frames that the kernel had for us, dropped ones included.
    pub received: u64,
    /// Frames taken out of its rings and handed on.
    pub delivered: u64,
    /// Of these, those that came through each ring.
    pub by_ring: Vec<u64>,
    /// Frames for which a ring had no room.
    pub dropped: u64,
    /// Frames that this host sent itself: not handed on.
    pub outgoing: u64,
    /// How often a ring became full.
    pub freezes: u64,
    /// How often it went down or away.
    pub downs: u64,
    /// It is there, and up.
    pub up: bool,
    /// Size of its rings together.
    pub ring_bytes: u64,
    /// Nanoseconds that a frame had waited when it was handed on: the longest of the last second or two.
    pub lag: u64,
}

/// Why a capture could not be read, or not any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There is no such file.
    NotFound,
    /// The file may not be read.
    Permission,
    /// The operating system failed to read.
    Io,
    /// There is not one byte in it.
    Empty,
    /// It is of no format that is read here.
    NotACapture,
    /// It ends inside a record.
    Truncated,
    /// It breaks its format.
    Malformed,
    /// The compressed data is damaged, cut short or needs too much memory.
    Compression,
    /// There is no such network interface.
    NoInterface,
    /// The process may not capture.
    NoCapability,
    /// An interface cannot be captured from, or not like this.
    Interface,
}

impl Reason {
    /// The reason as one lower-case word, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Permission => "permission",
            Self::Io => "io",
            Self::Empty => "empty",
            Self::NotACapture => "not_a_capture",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Compression => "compression",
            Self::NoInterface => "no_interface",
            Self::NoCapability => "no_capability",
            Self::Interface => "interface",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::NotFound => "no such file",
            Self::Permission => "not permitted to read",
            Self::Io => "reading failed",
            Self::Empty => "empty capture",
            Self::NotACapture => "not a capture",
            Self::Truncated => "capture cut short",
            Self::Malformed => "malformed capture",
            Self::Compression => "compressed data cannot be read",
            Self::NoInterface => "no such network interface",
            Self::NoCapability => "not permitted to capture",
            Self::Interface => "cannot capture",
        }
    }
}

/// Where and why reading stopped. Names no file: who opened it knows its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureError {
    /// The kind of fault.
    pub reason: Reason,
    /// Where in the (decompressed) capture the unreadable header, record or byte begins.
    pub offset: Option<u64>,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
}

impl CaptureError {
    fn new(reason: Reason, offset: Option<u64>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { reason, offset, found: found.into(), expected: expected.into() }
    }

    fn malformed(offset: u64, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::new(Reason::Malformed, Some(offset), found, expected)
    }

    fn from_io(error: &io::Error, offset: Option<u64>) -> Self {
        let (reason, found, expected) = match error.kind() {
            ErrorKind::NotFound => (Reason::NotFound, "nothing of that name".to_owned(), "a file"),
            ErrorKind::PermissionDenied => (Reason::Permission, error.to_string(), "a file that may be read"),
            _ => (Reason::Io, error.to_string(), "a readable file"),
        };
        Self::new(reason, offset, found, expected)
    }
}

impl fmt::Display for CaptureError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason.words())?;
        if let Some(offset) = self.offset {
            write!(formatter, " at offset {offset}")?;
        }
        write!(formatter, ": found {}, expected {}", self.found, self.expected)
    }
}

impl std::error::Error for CaptureError {}

/// Opens a capture; "-" reads standard input, whose first bytes are looked at when they come.
///
/// # Errors
/// There is no such file, it cannot be read, it is empty, or its first bytes are of no supported format. Standard
/// input says so at the first fill.
pub fn open(path: &Path) -> Result<Box<dyn Source>, CaptureError> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(StandardInput { source: None, done: false }));
    }
    open_file(File::open(path))
}

fn open_file(opened: io::Result<File>) -> Result<Box<dyn Source>, CaptureError> {
    let file = opened.map_err(|error| CaptureError::from_io(&error, None))?;
    let metadata = file.metadata().map_err(|error| CaptureError::from_io(&error, None))?;
    if metadata.is_dir() {
        return Err(CaptureError::new(Reason::NotACapture, None, "a directory", "a file"));
    }
    if metadata.is_file() {
        open_file_in_blocks(file, BLOCK)
    } else {
        open_reader(Box::new(Patient(file)), None, BLOCK)
    }
}

/// Standard input, which may be silent for a long time before its first byte.
struct StandardInput {
    source: Option<Box<dyn Source>>,
    done: bool,
}

impl Source for StandardInput {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        if let Some(source) = &mut self.source {
            return source.fill(batch);
        }
        if self.done {
            return Ok(false);
        }
        let stdin = io::stdin();
        if is_readable(stdin.as_fd()).unwrap_or(true) {
            // The handle of the standard library has a buffer of its own, which would be one copy more.
            let opened = open_file(stdin.as_fd().try_clone_to_owned().map(File::from));
            self.done = opened.is_err();
            self.source = Some(opened?);
        }
        Ok(true)
    }

    fn bytes_read(&self) -> u64 {
        self.source.as_ref().map_or(0, |source| source.bytes_read())
    }

    fn size(&self) -> Option<u64> {
        self.source.as_ref()?.size()
    }
}

/// How long a read of something that may be silent waits.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Whether there is something to read (or the end), after waiting for a moment.
fn is_readable(file: impl AsFd) -> io::Result<bool> {
    let mut waiting = [PollFd::new(&file, PollFlags::IN)];
    Ok(poll(&mut waiting, Some(&PATIENCE))? > 0)
}

/// A pipe, a terminal or a device: a read gives up after a moment with [`ErrorKind::Interrupted`], so that whoever
/// reads can look after signals, and after what has been found so far.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if is_readable(&self.0)? { self.0.read(into) } else { Err(ErrorKind::Interrupted.into()) }
    }
}

/// Opens what `reader` gives, in blocks of `block` bytes (which changes nothing but speed).
pub(crate) fn open_reader(
    reader: Box<dyn Read + Send>,
    size: Option<u64>,
    block: usize,
) -> Result<Box<dyn Source>, CaptureError> {
    Ok(Box::new(new_reader(reader, size, block)?))
}

fn new_reader(reader: Box<dyn Read + Send>, size: Option<u64>, block: usize) -> Result<Reader, CaptureError> {
    let mut plain = Plain { reader, bytes_read: 0, size };
    let head = read_head(&mut plain)?;
    let (input, head, compression): (Box<dyn Input>, _, _) = match compressed::Codec::sniff(&head) {
        None => (Box::new(plain), head, None),
        Some(codec) => {
            let name = codec.name();
            let mut input = compressed::Compressed::new(plain, codec, &head)?;
            let head = read_head(&mut input)?;
            (Box::new(input), head, Some(name))
        }
    };
    let format = sniff(&head, compression)?;
    Ok(Reader {
        input,
        format,
        is_plain: compression.is_none(),
        blocks: None,
        block: block.max(1),
        position: head.len() as u64,
        rest: head,
        done: false,
    })
}

/// Opens a file that lies still, in blocks of `block` bytes.
pub(crate) fn open_file_in_blocks(file: File, block: usize) -> Result<Box<dyn Source>, CaptureError> {
    let error = |error| CaptureError::from_io(&error, None);
    let (size, file) = (file.metadata().map_err(error)?.len(), Arc::new(file));
    let reader = new_reader(Box::new(Arc::clone(&file)), Some(size), block)?;
    // What is compressed has blocks of its own.
    let blocks = reader.is_plain.then(|| Blocks::new(file, reader.position, block));
    Ok(Box::new(Reader { blocks, ..reader }))
}

/// The first [`HEAD`] bytes, fewer if there are no more.
fn read_head(input: &mut dyn Input) -> Result<Vec<u8>, CaptureError> {
    // A writer that stalls within its first few bytes is given ten seconds.
    const MAX_PAUSES: usize = 200;
    let mut head = vec![0; HEAD];
    let (mut length, mut pauses) = (0, 0);
    while let Some(room) = head.get_mut(length..).filter(|room| !room.is_empty()) {
        match input.read(room) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(ReadError::Io(error)) if error.kind() == ErrorKind::Interrupted && pauses < MAX_PAUSES => pauses += 1,
            Err(error) => return Err(error.at(length as u64)),
        }
    }
    head.truncate(length);
    Ok(head)
}

/// Which format begins with these bytes. Shows four of them at most: what is no capture may be anything.
fn sniff(head: &[u8], compression: Option<&'static str>) -> Result<Box<dyn Format>, CaptureError> {
    let within = compression.map_or(String::new(), |name| format!(" inside {name}"));
    let Some((magic, rest)) = head.split_first_chunk::<4>() else {
        let found = format!("{} bytes{within}", head.len());
        let (reason, offset) = match head.len() {
            0 => (Reason::Empty, None),
            _ => (Reason::NotACapture, Some(0)),
        };
        return Err(CaptureError::new(reason, offset, found, SUPPORTED));
    };
    if let Some(pcap) = pcap::Pcap::from_magic(*magic) {
        return Ok(Box::new(pcap));
    }
    let [a, b, c, d] = magic;
    let mut found = format!("first bytes {a:02x} {b:02x} {c:02x} {d:02x}{within}");
    let mut expected = SUPPORTED;
    if *magic == pcapng::SECTION_HEADER.to_be_bytes() {
        match rest.get(4..8) {
            Some(order) if !pcapng::is_byte_order_magic(order) => {
                found.push_str(" without a byte-order magic");
                expected = "1a 2b 3c 4d or 4d 3c 2b 1a at offset 8 of a pcapng capture";
            }
            _ => return Ok(Box::new(pcapng::PcapNg::new())),
        }
    } else if let Some(name) = unsupported(*magic) {
        found.push_str(&format!(", which is {name}"));
    }
    Err(CaptureError::new(Reason::NotACapture, Some(0), found, expected))
}

/// Names formats that people mistake for a supported one. ERF and others without a magic number cannot be told.
const fn unsupported(magic: [u8; 4]) -> Option<&'static str> {
    Some(match &magic {
        b"snoo" => "a snoop capture",
        b"btsn" => "a Bluetooth snoop capture",
        [0xa1, 0xb2, 0xcd, 0x34] | [0x34, 0xcd, 0xb2, 0xa1] => "a pcap variant by Alexey Kuznetsov",
        [0xa1, 0xe2, 0xcb, 0x12] | [0x12, 0xcb, 0xe2, 0xa1] => "a pcap variant by Alexey Kuznetsov",
        [0x1c, 0x00, 0x01, 0xab | 0xac] | [0xab | 0xac, 0x01, 0x00, 0x1c] => "an IXIA lcap capture",
        b"GMBU" | b"RTSS" => "a Microsoft Network Monitor capture",
        b"TRSN" | b"XCP\0" => "a Sniffer capture",
        b"PK\x03\x04" => "a zip archive",
        [0xfd, b'7', b'z', b'X'] => "xz data",
        [b'B', b'Z', b'h', _] => "bzip2 data",
        [0x04, 0x22, 0x4d, 0x18] => "lz4 data",
        [b'7', b'z', 0xbc, 0xaf] => "a 7z archive",
        [0x1f, 0x9d, _, _] => "data of compress",
        [0x1f, 0x8b, _, _] => "gzip data",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd data",
        _ => return None,
    })
}

/// Bytes of a capture, decompressed.
trait Input: Send {
    /// Puts at least one byte at the front of `into`; 0 at the end.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ReadError>;
    /// Bytes read so far, as they are stored.
    fn bytes_read(&self) -> u64;
    /// Bytes there are in all, as they are stored.
    fn size(&self) -> Option<u64>;
}

/// Why an [`Input`] gave nothing.
enum ReadError {
    Io(io::Error),
    Compression { found: String, expected: String },
}

impl ReadError {
    fn at(self, offset: u64) -> CaptureError {
        match self {
            Self::Io(error) => CaptureError::from_io(&error, Some(offset)),
            Self::Compression { found, expected } => {
                CaptureError::new(Reason::Compression, Some(offset), found, expected)
            }
        }
    }
}

/// A file or pipe as it is.
struct Plain {
    reader: Box<dyn Read + Send>,
    bytes_read: u64,
    size: Option<u64>,
}

impl Input for Plain {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ReadError> {
        let read = self.reader.read(into).map_err(ReadError::Io)?;
        self.bytes_read += read as u64;
        Ok(read)
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn size(&self) -> Option<u64> {
        self.size
    }
}

/// A capture format: finds the whole records in a piece of a capture. Knows nothing of files and blocks.
trait Format: Send {
    /// Puts a reference for each whole packet record at the front of `data` into `frames`.
    ///
    /// `data` begins with a record, at `offset` of the capture. When an error is returned, `frames` holds what
    /// came before it.
    fn parse(&mut self, data: &[u8], offset: u64, frames: &mut Vec<FrameRef>) -> Result<Parsed, CaptureError>;
}

/// What [`Format::parse`] made of a piece of a capture.
struct Parsed {
    /// Bytes of whole records (or headers).
    consumed: usize,
    /// How long the record after them is, as far as its bytes tell.
    wanted: usize,
    /// What that record is.
    what: &'static str,
}

/// Joins an [`Input`] and a [`Format`]: the only place that knows of blocks.
struct Reader {
    input: Box<dyn Input>,
    format: Box<dyn Format>,
    is_plain: bool,
    /// The file, if its blocks may be read by others.
    blocks: Option<Blocks>,
    /// Bytes asked for at once.
    block: usize,
    /// Bytes of the capture that came out of `input`.
    position: u64,
    /// The last of them: a record whose end had not been read.
    rest: Vec<u8>,
    done: bool,
}

impl Reader {
    fn next(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let mut filled = self.rest.len();
        batch.reserve(filled + self.block);
        batch.data[..filled].copy_from_slice(&self.rest);
        // Ends with the first whole record, of which MAX_RECORD bounds the length.
        loop {
            // Reads end at multiples of the block size, which the page cache likes.
            let room = self.block - (self.position % self.block as u64) as usize;
            batch.reserve(filled + room);
            let read = match self.input.read(&mut batch.data[filled..filled + room]) {
                Ok(read) => read,
                Err(ReadError::Io(error)) if error.kind() == ErrorKind::Interrupted => {
                    self.keep(&batch.data[..filled]);
                    return Ok(true);
                }
                Err(error) => return Err(error.at(self.position)),
            };
            filled += read;
            self.position += read as u64;
            let offset = self.position - filled as u64;
            let data = &batch.data[..filled];
            let parsed = self.format.parse(data, offset, &mut batch.frames)?;
            if parsed.consumed > 0 {
                self.keep(&data[parsed.consumed..]);
                return Ok(true);
            }
            if read == 0 && filled == 0 {
                return Ok(false);
            }
            if read == 0 {
                return Err(cut_short(filled, &parsed, offset));
            }
        }
    }

    /// The frames of a block that has been read.
    fn next_block(&mut self, blocks: &Blocks, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        // One that does not begin where the last one ended is read again: the file has grown, or could not be read.
        let block = match batch.block.take() {
            Some(block) if block.start == self.position => block,
            _ => blocks
                .read_from(self.position, batch)
                .map_err(|error| CaptureError::from_io(&error, Some(self.position)))?,
        };
        self.position += block.length as u64;
        let is_long = self.rest.len() > HEADROOM;
        let range = if is_long {
            // All of it goes behind the record that does not end, and back again if that goes on.
            self.rest.extend_from_slice(&batch.data[HEADROOM..HEADROOM + block.length]);
            std::mem::swap(&mut self.rest, &mut batch.data);
            0..batch.data.len()
        } else {
            let start = HEADROOM - self.rest.len();
            batch.data[start..HEADROOM].copy_from_slice(&self.rest);
            start..HEADROOM + block.length
        };
        let (data, start) = (&batch.data[range.clone()], range.start);
        let offset = self.position - data.len() as u64;
        let parsed = self.format.parse(data, offset, &mut batch.frames);
        for frame in &mut batch.frames {
            frame.offset += start as u32;
        }
        let parsed = parsed?;
        if block.length == 0 && parsed.consumed == 0 {
            return if data.is_empty() { Ok(false) } else { Err(cut_short(data.len(), &parsed, offset)) };
        }
        if is_long && parsed.consumed == 0 {
            std::mem::swap(&mut self.rest, &mut batch.data);
        } else {
            self.keep(&batch.data[range.start + parsed.consumed..range.end]);
        }
        Ok(true)
    }

    fn keep(&mut self, rest: &[u8]) {
        self.rest.clear();
        self.rest.extend_from_slice(rest);
    }
}

/// The capture ends within a record.
fn cut_short(length: usize, parsed: &Parsed, offset: u64) -> CaptureError {
    let found = format!("{length} bytes before the end");
    let expected = format!("{} of {} bytes", parsed.what, parsed.wanted);
    CaptureError::new(Reason::Truncated, Some(offset), found, expected)
}

impl Source for Reader {
    fn blocks(&self) -> Option<Blocks> {
        self.blocks.clone()
    }

    fn take(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        let Some(blocks) = self.blocks.clone() else { return self.fill(batch) };
        if self.done {
            batch.clear();
            return Ok(false);
        }
        let more = self.next_block(&blocks, batch);
        self.done = !matches!(more, Ok(true));
        more
    }

    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        batch.clear();
        if self.done {
            return Ok(false);
        }
        let more = self.next(batch);
        self.done = !matches!(more, Ok(true));
        more
    }

    fn bytes_read(&self) -> u64 {
        if self.is_plain { self.position } else { self.input.bytes_read() }
    }

    fn size(&self) -> Option<u64> {
        self.input.size()
    }
}

/// Order of the bytes in a capture's headers: that of the machine which wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByteOrder {
    Big,
    Little,
}

impl ByteOrder {
    #[inline]
    const fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Big => u16::from_be_bytes(bytes),
            Self::Little => u16::from_le_bytes(bytes),
        }
    }

    #[inline]
    const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }

    const fn i64(self, bytes: [u8; 8]) -> i64 {
        match self {
            Self::Big => i64::from_be_bytes(bytes),
            Self::Little => i64::from_le_bytes(bytes),
        }
    }
}
