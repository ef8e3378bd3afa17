//! Cisco's HDLC (RFC 1547, 4.3.1; pcap link type 104).
//!
//! ```text
//! | address 0f or 8f | control 00 | EtherType (2) | ...
//! ```

use super::{Cause, Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let header = cursor.peek::<4>(Layer::CHdlc)?;
    if !matches!(header[0], 0x0f | 0x8f) {
        return Err(cursor.error(Layer::CHdlc, Cause::Malformed));
    }
    packet.path.push(EncapLayer::CHdlc);
    cursor.skip(4);
    Ok(Next::Ethertype(u16::from_be_bytes([header[2], header[3]])))
}
