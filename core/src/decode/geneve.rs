//! Geneve (RFC 8926).
//!
//! ```text
//! | version 0, option length / 4 | O, C | protocol (2) | VNI (3) | reserved | options ... |
//! ```

use super::{Cause, Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let header = cursor.take::<8>(Layer::Tunnel)?;
    if header[0] >> 6 != 0 {
        return Err(cursor.error(Layer::Tunnel, Cause::Unsupported));
    }
    if header[1] & 0x3f != 0 || header[7] != 0 {
        return Err(cursor.error(Layer::Tunnel, Cause::Malformed));
    }
    packet.path.push(EncapLayer::Geneve);
    cursor.skip(usize::from(header[0] & 0x3f) * 4);
    Ok(match u16::from_be_bytes([header[2], header[3]]) {
        0x6558 => Next::Ethernet,
        kind => Next::Ethertype(kind),
    })
}
