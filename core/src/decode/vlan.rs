//! IEEE 802.1Q and 802.1ad tags, stacked to any order.
//!
//! ```text
//! | priority, DEI, VLAN id (2) | EtherType (2) | ...
//! ```

use super::{Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet, kind: u16) -> Result<Next, DecodeError> {
    let tag = cursor.take::<4>(Layer::Vlan)?;
    packet.path.push(if kind == 0x8100 { EncapLayer::Dot1q } else { EncapLayer::Dot1ad });
    packet.vlans.push(u16::from_be_bytes([tag[0], tag[1]]));
    Ok(Next::Ethertype(u16::from_be_bytes([tag[2], tag[3]])))
}
