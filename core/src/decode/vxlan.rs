//! VXLAN (RFC 7348) and its generic protocol extension (draft-ietf-nvo3-vxlan-gpe).
//!
//! ```text
//! | flags, I set | reserved (3) | VNI (3) | reserved | Ethernet ...
//! | flags, I and P set | reserved (2) | next protocol | VNI (3) | reserved | ...
//! ```

use super::{Cause, Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

const VNI_PRESENT: u8 = 0x08;
const GROUP_POLICY: u8 = 0x80;
const NEXT_PROTOCOL_PRESENT: u8 = 0x04;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    // All but the VNI is reserved and zero, but for a group policy (draft-smith-vxlan-group-policy).
    let header = cursor.take::<8>(Layer::Tunnel)?;
    let reserved = if header[0] & GROUP_POLICY == 0 { [header[1], header[2], header[3]] } else { [0; 3] };
    if header[0] & !GROUP_POLICY != VNI_PRESENT || reserved != [0; 3] || header[7] != 0 {
        return Err(cursor.error(Layer::Tunnel, Cause::Malformed));
    }
    packet.path.push(EncapLayer::Vxlan);
    Ok(Next::Ethernet)
}

pub(super) fn decode_gpe(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let header = cursor.take::<8>(Layer::Tunnel)?;
    // The version is zero, and so is what is reserved.
    if header[0] & 0xf0 != 0 || header[0] & VNI_PRESENT == 0 || header[1..3] != [0; 2] || header[7] != 0 {
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
