//! GTP-U, user plane packets (TS 29.281, 5).
//!
//! ```text
//! | version 1, PT 1, E, S, PN | type 255 | length (2), without these eight | TEID (4) |
//! | sequence (2) | N-PDU (1) | next extension (1) | if E, S or PN; extensions: | length / 4 | ... | next |
//! ```

use super::{Cause, Cursor, DecodeError, EncapLayer, Layer, MAX_DEPTH, Next, Packet};

/// G-PDU: a packet of the user's.
const USER_PACKET: u8 = 255;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let malformed = |cursor: &Cursor<'_>| cursor.error(Layer::Tunnel, Cause::Malformed);
    let rest = cursor.claimed();
    let header = cursor.take::<8>(Layer::Tunnel)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] & 0xf0 != 0x30 || header[1] != USER_PACKET || length + 8 != rest {
        return Err(malformed(cursor));
    }
    packet.path.push(EncapLayer::GtpU);
    if header[0] & 0x07 != 0 {
        let mut extension = cursor.take::<4>(Layer::Tunnel)?[3];
        if header[0] & 0x04 == 0 {
            extension = 0;
        }
        for _ in 0..MAX_DEPTH {
            if extension == 0 {
                break;
            }
            let words = usize::from(cursor.peek::<1>(Layer::Tunnel)?[0]);
            if words == 0 {
                return Err(malformed(cursor));
            }
            cursor.skip(words * 4 - 1);
            extension = cursor.take::<1>(Layer::Tunnel)?[0];
        }
        if extension != 0 {
            return Err(malformed(cursor));
        }
    }
    Ok(Next::Ip)
}
