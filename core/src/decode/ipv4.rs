//! IPv4 (RFC 791).
//!
//! ```text
//!  0 | version, IHL | TOS | total length (2) | id (2) | flags, fragment offset (2) |
//!  8 | TTL | protocol | checksum (2) | source (4) | destination (4) | options ...
//! ```

use super::{Cause, Cursor, DecodeError, IpPayload, Layer, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<IpPayload, DecodeError> {
    let start = cursor.offset;
    let header = cursor.peek::<20>(Layer::Ipv4)?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let mut total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if total == 0 {
        // Segmentation offload on the capturing host leaves the field empty: take the frame's word for it.
        total = cursor.original.saturating_sub(start);
    }
    if header_length < 20 || total < header_length {
        return Err(cursor.error(Layer::Ipv4, Cause::Malformed));
    }
    packet.ip_version = 4;
    packet.ip_length = total as u32;
    packet.source[..4].copy_from_slice(&header[12..16]);
    packet.destination[..4].copy_from_slice(&header[16..20]);
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    packet.first_fragment = fragment & 0x3fff == 0x2000;
    cursor.skip(header_length);
    Ok(IpPayload { protocol: header[9], end: start + total, later_fragment: fragment & 0x1fff != 0 })
}
