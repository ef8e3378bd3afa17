//! UDP (RFC 768).
//!
//! ```text
//! | source port (2) | destination port (2) | length (2) | checksum (2) | payload ...
//! ```

use super::{Cause, Cursor, DecodeError, Layer, Packet, Transport};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet, ip_end: usize) -> Result<(), DecodeError> {
    let start = cursor.offset;
    let header = cursor.take::<8>(Layer::Udp)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    packet.transport = Transport::Udp;
    packet.source_port = u16::from_be_bytes([header[0], header[1]]);
    packet.destination_port = u16::from_be_bytes([header[2], header[3]]);
    packet.checksum = u16::from_be_bytes([header[6], header[7]]);
    // A first fragment's length is that of the whole datagram, behind the end of this IP packet. Zero is a
    // jumbogram's (RFC 2675, 4). Any other length that leaves the IP packet lies: the IP header decides.
    let end = match length {
        0 => ip_end,
        1..8 => return Err(DecodeError { layer: Layer::Udp, cause: Cause::Malformed, offset: start }),
        _ if packet.fragment.is_some() => start + length,
        _ => ip_end.min(start + length),
    };
    packet.set_payload(cursor, end);
    // What stands behind a first fragment is a trailer of the frame, not the datagram's next octets.
    let within = ip_end.saturating_sub(cursor.offset) as u32;
    packet.payload_captured = packet.payload_captured.min(within);
    Ok(())
}
