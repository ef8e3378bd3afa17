//! IPv4 (RFC 791).
//!
//! ```text
//!  0 | version, IHL | TOS | total length (2) | id (2) | flags, fragment offset (2) |
//!  8 | TTL | protocol | checksum (2) | source (4) | destination (4) | options ...
//! ```

use super::{Cause, Cursor, DecodeError, Fragment, IpPayload, Layer, Packet};

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
    packet.identification = u16::from_be_bytes([header[4], header[5]]);
    let field = u16::from_be_bytes([header[6], header[7]]);
    if field & 0x3fff != 0 {
        packet.fragment = Some(Fragment {
            id: u32::from(packet.identification),
            offset: u32::from(field & 0x1fff) * 8,
            length: (total - header_length) as u32,
            protocol: header[9],
            more: field & 0x2000 != 0,
        });
    }
    cursor.skip(header_length);
    Ok(IpPayload { protocol: header[9], end: start + total })
}
