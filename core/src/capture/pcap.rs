//! Classic pcap. Reference: draft-ietf-opsawg-pcap; integers in the order of the machine that wrote the file.
//!
//! ```text
//!   file header, 24 bytes                                 record header, 16 bytes
//!   0        4       6       8           16       20       0         4           8          12
//!   +--------+-------+-------+-----------+---------+------+ +---------+-----------+----------+----------+
//!   | magic  | major | minor | zero (8)  | snaplen | link | | seconds | subsecond | captured | original |
//!   +--------+-------+-------+-----------+---------+------+ +---------+-----------+----------+----------+
//!   magic a1b2c3d4: subseconds are microseconds           then `captured` bytes
//!   magic a1b23c4d: subseconds are nanoseconds
//! ```
//!
//! Of `link` the lower 16 bits are the link type; the others tell the length of the frame check sequence, which
//! needs no care here, because lengths come from the IP header.
//!
//! Not read: the variants with longer record headers (magic a1b2cd34), which [`super::open`] names.

use super::{ByteOrder, CaptureError, Format, FrameRef, LinkType, MAX_CAPTURED, MAX_RECORD, Parsed};

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// State of reading one pcap file.
pub(super) struct Pcap {
    order: ByteOrder,
    /// Nanoseconds in one unit of the subsecond field.
    unit: i64,
    /// Known once the file header was read.
    header: Option<Header>,
}

#[derive(Clone, Copy)]
struct Header {
    linktype: LinkType,
    /// The longest captured length that is believed.
    limit: u32,
    lengths: Lengths,
}

/// Order of the two length fields: libpcap swapped them in version 2.3 of the format, and some writers of 2.3
/// had not noticed.
#[derive(Clone, Copy)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    LowerIsCaptured,
}

impl Pcap {
    /// The reader for a file that begins with these bytes, if they are of this format.
    pub(super) const fn from_magic(magic: [u8; 4]) -> Option<Self> {
        let (order, unit) = match magic {
            [0xa1, 0xb2, 0xc3, 0xd4] => (ByteOrder::Big, 1_000),
            [0xd4, 0xc3, 0xb2, 0xa1] => (ByteOrder::Little, 1_000),
            [0xa1, 0xb2, 0x3c, 0x4d] => (ByteOrder::Big, 1),
            [0x4d, 0x3c, 0xb2, 0xa1] => (ByteOrder::Little, 1),
            _ => return None,
        };
        Some(Self { order, unit, header: None })
    }

    fn file_header(&self, bytes: &[u8; FILE_HEADER]) -> Result<Header, CaptureError> {
        let [_, _, _, _, a, b, c, d, _, _, _, _, _, _, _, _, s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        let lengths = match (self.order.u16([a, b]), self.order.u16([c, d])) {
            (2, 0..=2) => Lengths::OriginalFirst,
            (2, 3) => Lengths::LowerIsCaptured,
            // 543.0 is what one maker of radio test equipment writes; libpcap reads it as well.
            (2, _) | (543, 0) => Lengths::CapturedFirst,
            (major, minor) => {
                return Err(CaptureError::malformed(4, format!("pcap version {major}.{minor}"), "version 2.4"));
            }
        };
        let snaplen = self.order.u32([s0, s1, s2, s3]);
        let link = self.order.u32([l0, l1, l2, l3]);
        Ok(Header {
            linktype: LinkType((link & 0xffff) as u16),
            limit: snaplen.clamp(MAX_CAPTURED, MAX_RECORD),
            lengths,
        })
    }
}

impl Format for Pcap {
    fn parse(&mut self, data: &[u8], offset: u64, frames: &mut Vec<FrameRef>) -> Result<Parsed, CaptureError> {
        let mut at = 0;
        let header = match (self.header, data.first_chunk()) {
            (Some(header), _) => header,
            (None, Some(bytes)) => {
                at = FILE_HEADER;
                *self.header.insert(self.file_header(bytes)?)
            }
            (None, None) => {
                return Ok(Parsed { consumed: 0, wanted: FILE_HEADER, what: "a pcap file header" });
            }
        };
        // One loop for what nearly all files are, without a question about their kind for each record.
        let parsed = match (self.order, header.lengths) {
            (ByteOrder::Little, Lengths::CapturedFirst) => {
                records(data, at, self.unit, header, |words| words.map(u32::from_le_bytes), frames)
            }
            (order, lengths) => {
                let read = |words: [[u8; 4]; 4]| {
                    let [seconds, subsecond, first, second] = words.map(|word| order.u32(word));
                    let (captured, original) = match lengths {
                        Lengths::CapturedFirst => (first, second),
                        Lengths::OriginalFirst => (second, first),
                        Lengths::LowerIsCaptured => (first.min(second), first.max(second)),
                    };
                    [seconds, subsecond, captured, original]
                };
                records(data, at, self.unit, header, read, frames)
            }
        };
        let (consumed, wanted) = parsed.map_err(|(at, captured)| {
            CaptureError::malformed(
                offset + at as u64,
                format!("a record of {captured} captured bytes"),
                format!("at most {}", header.limit),
            )
        })?;
        Ok(Parsed { consumed, wanted, what: "a record" })
    }
}

/// Puts whole records from `at` on into `frames`; where the next one begins, and its length as far as it is known. Fails where
/// one claims more captured bytes than are believed, and with how many.
#[inline(always)]
fn records(
    data: &[u8],
    mut at: usize,
    unit: i64,
    header: Header,
    read: impl Fn([[u8; 4]; 4]) -> [u32; 4],
    frames: &mut Vec<FrameRef>,
) -> Result<(usize, usize), (usize, u32)> {
    let mut rest = data.get(at..).unwrap_or_default();
    loop {
        let Some((bytes, behind)) = rest.split_first_chunk::<RECORD_HEADER>() else {
            return Ok((at, RECORD_HEADER));
        };
        let [s0, s1, s2, s3, f0, f1, f2, f3, c0, c1, c2, c3, o0, o1, o2, o3] = *bytes;
        let words = [[s0, s1, s2, s3], [f0, f1, f2, f3], [c0, c1, c2, c3], [o0, o1, o2, o3]];
        let [seconds, subsecond, captured, original] = read(words);
        if captured > header.limit {
            return Err((at, captured));
        }
        let Some((_, next)) = behind.split_at_checked(captured as usize) else {
            return Ok((at, RECORD_HEADER + captured as usize));
        };
        rest = next;
        frames.push(FrameRef {
            // A subsecond field of more than a second is carried over, as every reader does.
            time: i64::from(seconds) * 1_000_000_000 + i64::from(subsecond) * unit,
            offset: (at + RECORD_HEADER) as u32,
            captured,
            original: original.max(captured),
            linktype: header.linktype,
        });
        at += RECORD_HEADER + captured as usize;
    }
}
