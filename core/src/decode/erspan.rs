//! ERSPAN types I to III: a mirrored Ethernet frame in GRE (draft-foschiano-erspan).
//!
//! ```text
//! type I, GRE without sequence number | Ethernet ...
//! type II  | version 1, VLAN (2) | ... (6) | Ethernet ...
//! type III | version 2, VLAN (2) | ... (9) | flags, O (1) | 8 more if O | Ethernet ...
//! ```

use super::{Cause, Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet, has_sequence: bool) -> Result<Next, DecodeError> {
    packet.path.push(EncapLayer::Erspan);
    if has_sequence && cursor.take::<8>(Layer::Gre)?[0] >> 4 != 1 {
        return Err(cursor.error(Layer::Gre, Cause::Unsupported));
    }
    Ok(Next::Ethernet)
}

pub(super) fn decode_type_3(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    packet.path.push(EncapLayer::Erspan);
    let header = cursor.take::<12>(Layer::Gre)?;
    if header[0] >> 4 != 2 {
        return Err(cursor.error(Layer::Gre, Cause::Unsupported));
    }
    if header[11] & 1 != 0 {
        cursor.skip(8);
    }
    Ok(Next::Ethernet)
}
