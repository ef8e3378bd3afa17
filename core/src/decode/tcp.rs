//! TCP (RFC 9293).
//!
//! ```text
//!  0 | source port (2) | destination port (2) | sequence number (4) | acknowledgment number (4) |
//! 12 | data offset, reserved | flags | window (2) | checksum (2) | urgent (2) | options ...
//! ```

use super::{Cause, Cursor, DecodeError, Layer, Packet, Transport};

/// Flag bits (RFC 9293, 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
}

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet, ip_end: usize) -> Result<(), DecodeError> {
    let header = cursor.peek::<20>(Layer::Tcp)?;
    let header_length = usize::from(header[12] >> 4) * 4;
    if header_length < 20 {
        return Err(cursor.error(Layer::Tcp, Cause::Malformed));
    }
    packet.transport = Transport::Tcp;
    packet.source_port = u16::from_be_bytes([header[0], header[1]]);
    packet.destination_port = u16::from_be_bytes([header[2], header[3]]);
    packet.tcp_sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    packet.tcp_flags = header[13];
    packet.checksum = u16::from_be_bytes([header[16], header[17]]);
    cursor.skip(header_length);
    packet.set_payload(cursor, ip_end);
    Ok(())
}
