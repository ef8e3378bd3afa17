//! Ethernet II (and 802.3, which carries no IP that we read).
//!
//! ```text
//! | destination (6) | source (6) | EtherType (2) | ...
//! ```

use super::{Cursor, DecodeError, Decoded, EncapLayer, Layer, Next, NoFlow, Packet};

/// Values below are lengths of an 802.3 frame (IEEE 802.3, 3.2.6).
const SMALLEST_ETHERTYPE: u16 = 0x0600;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let header = cursor.take::<14>(Layer::Ethernet)?;
    packet.path.push(EncapLayer::Ethernet);
    let kind = u16::from_be_bytes([header[12], header[13]]);
    Ok(if kind < SMALLEST_ETHERTYPE {
        Next::Done(Decoded::NoFlow(NoFlow::OtherEthertype))
    } else {
        Next::Ethertype(kind)
    })
}
