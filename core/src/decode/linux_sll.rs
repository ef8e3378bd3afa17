//! Linux cooked capture, v1 and v2 (pcap link types 113 and 276).
//!
//! ```text
//! v1 | packet type (2) | ARPHRD (2) | address length (2) | address (8) | protocol (2) | ...
//! v2 | protocol (2) | reserved (2) | interface (4) | ARPHRD (2) | packet type (1) | length (1) | address (8) | ...
//! ```

use super::{Cursor, DecodeError, Decoded, EncapLayer, Layer, Next, NoFlow, Packet};

/// ARPHRD_NETLINK: the protocol field is a netlink family, not an EtherType.
const ARPHRD_NETLINK: u16 = 824;

pub(super) fn decode_v1(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let header = cursor.take::<16>(Layer::LinuxSll)?;
    packet.path.push(EncapLayer::LinuxSll);
    Ok(next(u16::from_be_bytes([header[2], header[3]]), u16::from_be_bytes([header[14], header[15]])))
}

pub(super) fn decode_v2(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let header = cursor.take::<20>(Layer::LinuxSll)?;
    packet.path.push(EncapLayer::LinuxSll2);
    Ok(next(u16::from_be_bytes([header[8], header[9]]), u16::from_be_bytes([header[0], header[1]])))
}

fn next(hardware: u16, protocol: u16) -> Next {
    if hardware == ARPHRD_NETLINK || protocol < 0x0600 {
        Next::Done(Decoded::NoFlow(NoFlow::OtherEthertype))
    } else {
        Next::Ethertype(protocol)
    }
}
