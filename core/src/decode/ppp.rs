//! PPP (RFC 1661), with HDLC's address and control bytes or without (RFC 1662).
//!
//! ```text
//! | ff 03, if there | protocol (1 when its low bit is set, else 2) | ...
//! ```

use super::{Cursor, DecodeError, Decoded, EncapLayer, Layer, Next, NoFlow, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    packet.path.push(EncapLayer::Ppp);
    if cursor.peek::<2>(Layer::Ppp)? == &[0xff, 0x03] {
        cursor.skip(2);
    }
    let first = cursor.take::<1>(Layer::Ppp)?[0];
    let protocol =
        if first & 1 == 1 { u16::from(first) } else { u16::from_be_bytes([first, cursor.take::<1>(Layer::Ppp)?[0]]) };
    Ok(match protocol {
        0x0021 | 0x0057 => Next::Ip,
        0x0281 | 0x0283 => Next::Mpls,
        _ => Next::Done(Decoded::NoFlow(NoFlow::OtherEthertype)),
    })
}

/// PPP behind an octet that says which way it went (pcap link type 204).
pub(super) fn decode_with_direction(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    cursor.take::<1>(Layer::Ppp)?;
    decode(cursor, packet)
}

/// As pppd writes it: the direction stands in the place of HDLC's address, before the control byte (166).
pub(super) fn decode_pppd(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    cursor.take::<2>(Layer::Ppp)?;
    decode(cursor, packet)
}
