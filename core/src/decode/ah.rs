//! Authentication Header (RFC 4302): the payload begins at the header, and nothing under it is peeled.
//!
//! ```text
//! | next header | payload length | reserved (2) | SPI (4) | sequence number (4) | ICV ...
//! ```

use super::{Cursor, DecodeError, Layer, Packet, Transport};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet, ip_end: usize) -> Result<(), DecodeError> {
    cursor.peek::<12>(Layer::Ah)?;
    packet.transport = Transport::Ah;
    packet.set_payload(cursor, ip_end);
    Ok(())
}
