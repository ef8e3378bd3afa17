//! Encapsulating Security Payload as an IP protocol (RFC 4303): the payload begins at the SPI.
//!
//! ```text
//! | SPI (4) | sequence number (4) | encrypted ...
//! ```

use super::{Cursor, DecodeError, Layer, Packet, Transport};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet, ip_end: usize) -> Result<(), DecodeError> {
    cursor.peek::<8>(Layer::Esp)?;
    packet.transport = Transport::Esp;
    packet.set_payload(cursor, ip_end);
    Ok(())
}
