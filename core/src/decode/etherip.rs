//! Ethernet in IP (RFC 3378).
//!
//! ```text
//! | version 3, reserved 0 (2) | Ethernet ...
//! ```

use super::{Cause, Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    if cursor.take::<2>(Layer::Ethernet)? != &[0x30, 0x00] {
        return Err(cursor.error(Layer::Ethernet, Cause::Malformed));
    }
    packet.path.push(EncapLayer::EtherIp);
    Ok(Next::Ethernet)
}
