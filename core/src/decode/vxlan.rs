//! VXLAN (RFC 7348) and its generic protocol extension (draft-ietf-nvo3-vxlan-gpe).
//!
//! ```text
//! | flags, I set | reserved (3) | VNI (3) | reserved | Ethernet ...
//! | flags, I and P set | reserved (2) | next protocol | VNI (3) | reserved | ...
//! ```

use super::{Cause, Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

const VNI_PRESENT: u8 = 0x08;
const NEXT_PROTOCOL_PRESENT: u8 = 0x04;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    // Bits beside I are reserved, or of extensions that do not change the layout.
    if cursor.take::<8>(Layer::Tunnel)?[0] & VNI_PRESENT == 0 {
        return Err(cursor.error(Layer::Tunnel, Cause::Malformed));
    }
    packet.path.push(EncapLayer::Vxlan);
    Ok(Next::Ethernet)
}

pub(super) fn decode_gpe(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let header = cursor.take::<8>(Layer::Tunnel)?;
    // The version is zero.
    if header[0] & 0x30 != 0 {
        return Err(cursor.error(Layer::Tunnel, Cause::Malformed));
    }
    packet.path.push(EncapLayer::Vxlan);
    if header[0] & NEXT_PROTOCOL_PRESENT == 0 {
        // Then it is VXLAN as it was (draft-ietf-nvo3-vxlan-gpe, 3.1).
        return Ok(Next::Ethernet);
    }
    match header[3] {
        1 | 2 => Ok(Next::Ip),
        3 => Ok(Next::Ethernet),
        5 => Ok(Next::Mpls),
        _ => Err(cursor.error(Layer::Tunnel, Cause::Unsupported)),
    }
}
