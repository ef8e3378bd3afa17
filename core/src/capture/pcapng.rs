//! pcapng. Reference: draft-ietf-opsawg-pcapng; integers in the order that each section's header shows.
//!
//! ```text
//!   0      4        8                    length-4   length
//!   +------+--------+-- ... ------------+----------+
//!   | type | length | body              | length   |   a block; length is a multiple of 4
//!   +------+--------+-- ... ------------+----------+
//!   section header      byte-order magic, major (2), minor (2), section length (8), options
//!   interface (1)       linktype (2), zero (2), snaplen, options
//!   packet (2, old)     interface (2), drops (2), time high, time low, captured, original, data, options
//!   simple packet (3)   original, data
//!   enhanced packet (6) interface, time high, time low, captured, original, data, options
//! ```
//!
//! Packets name an interface of their section by its number; its options if_tsresol and if_tsoffset say what
//! their time means. A simple packet belongs to interface 0 and has no time: it gets that of the packet before
//! it in the section, or 0. Other blocks are passed over once both their lengths agree.

use super::{ByteOrder, CaptureError, Format, FrameRef, LinkType, MAX_RECORD, Parsed};

/// Type of the section header block: the same in both byte orders.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Type and both lengths.
const EMPTY_BLOCK: usize = 12;
/// A section header without options.
const SHORTEST_SECTION: usize = 28;

const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

/// Interfaces that one section may have. More than any machine has, and few enough to hold.
const MAX_INTERFACES: usize = 65_536;

/// Whether these bytes are the byte-order magic, in either order.
pub(super) fn is_byte_order_magic(bytes: &[u8]) -> bool {
    byte_order(bytes).is_some()
}

fn byte_order(bytes: &[u8]) -> Option<ByteOrder> {
    if bytes == BYTE_ORDER_MAGIC.to_be_bytes() {
        Some(ByteOrder::Big)
    } else if bytes == BYTE_ORDER_MAGIC.to_le_bytes() {
        Some(ByteOrder::Little)
    } else {
        None
    }
}

/// State of reading one pcapng file: that of its current section.
pub(super) struct PcapNg {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    /// Time of the packet before, for simple packets.
    last_time: i64,
}

#[derive(Clone, Copy)]
struct Interface {
    linktype: LinkType,
    /// 0 means no limit.
    snaplen: u32,
    resolution: Resolution,
    /// Nanoseconds to be added.
    time_offset: i128,
}

/// What one unit of an interface's time is.
#[derive(Clone, Copy)]
enum Resolution {
    /// So many nanoseconds.
    Multiply(u64),
    /// A nanosecond has so many; 0 when it has more than fit.
    Divide(u64),
    /// A second has two to the power of this.
    BinaryFraction(u8),
}

impl Resolution {
    /// From the octet of if_tsresol: a negative power of 10, or of 2 when the highest bit is set.
    const fn from_option(octet: u8) -> Self {
        match octet {
            0..=9 => Self::Multiply(10_u64.pow(9 - octet as u32)),
            // 10 to the 19 is the last that fits; with more, 64 bits of time are less than a nanosecond.
            10..=28 => Self::Divide(10_u64.pow(octet as u32 - 9)),
            29..=127 => Self::Divide(0),
            128.. => Self::BinaryFraction(octet & 0x7f),
        }
    }

    fn nanoseconds(self, time: u64) -> i128 {
        match self {
            Self::Multiply(unit) => i128::from(time) * i128::from(unit),
            Self::Divide(units) => i128::from(time.checked_div(units).unwrap_or(0)),
            Self::BinaryFraction(bits) => (i128::from(time) * 1_000_000_000) >> bits,
        }
    }
}

impl Interface {
    fn time(&self, high: u32, low: u32) -> i64 {
        let units = u64::from(high) << 32 | u64::from(low);
        let time = self.resolution.nanoseconds(units) + self.time_offset;
        i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
    }
}

/// A whole block whose lengths agree.
struct Block<'a> {
    /// Where in the capture it begins.
    offset: u64,
    /// Where in the batch its body begins.
    body_at: usize,
    body: &'a [u8],
}

impl Block<'_> {
    fn too_short(&self, what: &str) -> CaptureError {
        let found = format!("{what} with a body of {} bytes", self.body.len());
        CaptureError::malformed(self.offset, found, "room for its fields")
    }
}

impl PcapNg {
    pub(super) const fn new() -> Self {
        Self { order: ByteOrder::Little, interfaces: Vec::new(), last_time: 0 }
    }

    /// Begins a section: what the one before said about interfaces no longer holds.
    fn section(&mut self, block: &Block<'_>) -> Result<(), CaptureError> {
        let Some(&[_, _, _, _, m0, m1, n0, n1]) = block.body.first_chunk() else {
            return Err(block.too_short("a section header"));
        };
        let (major, minor) = (self.order.u16([m0, m1]), self.order.u16([n0, n1]));
        if major != 1 {
            return Err(CaptureError::malformed(block.offset, format!("pcapng version {major}.{minor}"), "version 1"));
        }
        self.interfaces.clear();
        self.last_time = 0;
        Ok(())
    }

    fn interface(&mut self, block: &Block<'_>) -> Result<(), CaptureError> {
        let Some((&[l0, l1, _, _, s0, s1, s2, s3], options)) = block.body.split_first_chunk() else {
            return Err(block.too_short("an interface block"));
        };
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(CaptureError::malformed(
                block.offset,
                format!("interface number {MAX_INTERFACES} of a section"),
                format!("at most {MAX_INTERFACES} interfaces"),
            ));
        }
        let mut interface = Interface {
            linktype: LinkType(self.order.u16([l0, l1])),
            snaplen: self.order.u32([s0, s1, s2, s3]),
            resolution: Resolution::from_option(6),
            time_offset: 0,
        };
        let mut rest = options;
        // Each turn takes four bytes at least.
        while let Some((&[c0, c1, n0, n1], after)) = rest.split_first_chunk() {
            let code = self.order.u16([c0, c1]);
            let length = usize::from(self.order.u16([n0, n1]));
            if code == 0 {
                break;
            }
            let fault = |found: String| CaptureError::malformed(block.offset, found, "options that fit");
            let Some(value) = after.get(..length) else {
                let found = format!("interface option {code} of {length} bytes in {}", after.len());
                return Err(fault(found));
            };
            match (code, value) {
                (OPTION_TIME_RESOLUTION, &[octet]) => interface.resolution = Resolution::from_option(octet),
                (OPTION_TIME_OFFSET, &[a, b, c, d, e, f, g, h]) => {
                    let seconds = self.order.i64([a, b, c, d, e, f, g, h]);
                    interface.time_offset = i128::from(seconds) * 1_000_000_000;
                }
                (OPTION_TIME_RESOLUTION | OPTION_TIME_OFFSET, _) => {
                    return Err(fault(format!("interface option {code} of {length} bytes")));
                }
                _ => {}
            }
            rest = after.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        self.interfaces.push(interface);
        Ok(())
    }

    /// The enhanced packet block, and the old packet block: same places, but a shorter interface number.
    fn packet(&mut self, block: &Block<'_>, old: bool) -> Result<FrameRef, CaptureError> {
        let Some((fields, data)) = block.body.split_first_chunk::<20>() else {
            return Err(block.too_short("a packet block"));
        };
        let [i0, i1, i2, i3, h0, h1, h2, h3, t0, t1, t2, t3, c0, c1, c2, c3, o0, o1, o2, o3] = *fields;
        let number = if old { u32::from(self.order.u16([i0, i1])) } else { self.order.u32([i0, i1, i2, i3]) };
        let interface = self.interface_of(number, block)?;
        let captured = self.order.u32([c0, c1, c2, c3]);
        if captured as usize > data.len() {
            return Err(CaptureError::malformed(
                block.offset,
                format!("a packet block that claims {captured} captured bytes"),
                format!("at most the {} that it has room for", data.len()),
            ));
        }
        let high = self.order.u32([h0, h1, h2, h3]);
        let low = self.order.u32([t0, t1, t2, t3]);
        self.last_time = interface.time(high, low);
        Ok(FrameRef {
            time: self.last_time,
            offset: (block.body_at + fields.len()) as u32,
            captured,
            original: self.order.u32([o0, o1, o2, o3]).max(captured),
            linktype: interface.linktype,
        })
    }

    fn simple_packet(&self, block: &Block<'_>) -> Result<FrameRef, CaptureError> {
        let Some((&fields, data)) = block.body.split_first_chunk::<4>() else {
            return Err(block.too_short("a simple packet block"));
        };
        let interface = self.interface_of(0, block)?;
        let original = self.order.u32(fields);
        let captured = match interface.snaplen {
            0 => original,
            snaplen => original.min(snaplen),
        };
        if captured as usize > data.len() {
            return Err(CaptureError::malformed(
                block.offset,
                format!("a simple packet block for {captured} captured bytes"),
                format!("at most the {} that it has room for", data.len()),
            ));
        }
        Ok(FrameRef {
            time: self.last_time,
            offset: (block.body_at + fields.len()) as u32,
            captured,
            original,
            linktype: interface.linktype,
        })
    }

    fn interface_of(&self, number: u32, block: &Block<'_>) -> Result<Interface, CaptureError> {
        self.interfaces.get(number as usize).copied().ok_or_else(|| {
            CaptureError::malformed(
                block.offset,
                format!("a packet of interface {number}"),
                match self.interfaces.len() {
                    0 => "an interface block before it".to_owned(),
                    defined => {
                        format!("one of the {defined} interfaces of its section, from 0")
                    }
                },
            )
        })
    }
}

impl Format for PcapNg {
    fn parse(&mut self, data: &[u8], offset: u64, frames: &mut Vec<FrameRef>) -> Result<Parsed, CaptureError> {
        let mut at = 0;
        let wanted = loop {
            let rest = &data[at..];
            let offset = offset + at as u64;
            let Some(&[k0, k1, k2, k3, l0, l1, l2, l3]) = rest.first_chunk() else {
                break EMPTY_BLOCK;
            };
            let kind = self.order.u32([k0, k1, k2, k3]);
            let mut shortest = EMPTY_BLOCK;
            if kind == SECTION_HEADER {
                let Some(magic) = rest.get(8..12) else {
                    break SHORTEST_SECTION;
                };
                let Some(order) = byte_order(magic) else {
                    return Err(CaptureError::malformed(
                        offset,
                        "a section header without a byte-order magic",
                        "1a 2b 3c 4d or 4d 3c 2b 1a eight bytes into it",
                    ));
                };
                self.order = order;
                shortest = SHORTEST_SECTION;
            }
            let claimed = self.order.u32([l0, l1, l2, l3]);
            let length = claimed as usize;
            if length < shortest || claimed > MAX_RECORD || !claimed.is_multiple_of(4) {
                return Err(CaptureError::malformed(
                    offset,
                    format!("a block of type {kind:#x} and length {claimed}"),
                    format!("a multiple of 4 from {shortest} to {MAX_RECORD}"),
                ));
            }
            let Some((body, repeated)) = rest.get(8..length).and_then(<[u8]>::split_last_chunk) else {
                break length;
            };
            let repeated = self.order.u32(*repeated);
            if repeated != claimed {
                return Err(CaptureError::malformed(
                    offset,
                    format!("a block of type {kind:#x} that begins with length {claimed} and ends with {repeated}"),
                    "the same length at both ends",
                ));
            }
            let block = Block { offset, body_at: at + 8, body };
            match kind {
                SECTION_HEADER => self.section(&block)?,
                INTERFACE => self.interface(&block)?,
                ENHANCED_PACKET => frames.push(self.packet(&block, false)?),
                PACKET => frames.push(self.packet(&block, true)?),
                SIMPLE_PACKET => frames.push(self.simple_packet(&block)?),
                _ => {}
            }
            at += length;
        };
        Ok(Parsed { consumed: at, wanted, what: "a block" })
    }
}
