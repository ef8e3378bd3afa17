//! Tags between Ethernet and what it carries that are no VLANs: VN-Tag, 802.1BR E-TAG, 802.1CB R-TAG, and the I-TAG of
//! provider backbones (802.1ah).
//!
//! ```text
//! VN-Tag | 4 | EtherType (2) | ...     R-TAG | reserved (2), sequence (2) | EtherType (2) | ...
//! E-TAG  | 6 | EtherType (2) | ...     I-TAG | flags, I-SID (4) | Ethernet ...
//! ```

use super::{Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

pub(super) const VN_TAG: u16 = 0x8926;
pub(super) const E_TAG: u16 = 0x893f;
pub(super) const R_TAG: u16 = 0xf1c1;
pub(super) const I_TAG: u16 = 0x88e7;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet, kind: u16) -> Result<Next, DecodeError> {
    packet.path.push(match kind {
        I_TAG => EncapLayer::Pbb,
        _ => EncapLayer::Tag,
    });
    cursor.skip(if kind == E_TAG { 6 } else { 4 });
    if kind == I_TAG {
        return Ok(Next::Ethernet);
    }
    Ok(Next::Ethertype(u16::from_be_bytes(*cursor.take::<2>(Layer::Vlan)?)))
}
