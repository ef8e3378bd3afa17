//! Ethernet II, and 802.3 with SNAP (RFC 1042).
//!
//! ```text
//! | destination (6) | source (6) | EtherType (2) | ...
//! | destination (6) | source (6) | length (2) | aa aa 03 | 00 00 00 | EtherType (2) | ...
//! ```

use super::{Cursor, DecodeError, Decoded, EncapLayer, Layer, Next, NoFlow, Packet};

/// Values below are lengths of an 802.3 frame (IEEE 802.3, 3.2.6).
const SMALLEST_ETHERTYPE: u16 = 0x0600;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let header = cursor.take::<14>(Layer::Ethernet)?;
    packet.path.push(EncapLayer::Ethernet);
    let kind = u16::from_be_bytes([header[12], header[13]]);
    if kind >= SMALLEST_ETHERTYPE {
        return Ok(Next::Ethertype(kind));
    }
    Ok(match cursor.peek::<8>(Layer::Ethernet) {
        Ok(&[0xaa, 0xaa, 3, 0, 0, 0, high, low]) => {
            cursor.skip(8);
            Next::Ethertype(u16::from_be_bytes([high, low]))
        }
        _ => Next::Done(Decoded::NoFlow(NoFlow::OtherEthertype)),
    })
}
