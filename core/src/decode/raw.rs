//! Raw IP: link types 12, 14 (BSDs' DLT_RAW), 101, 228 (IPv4) and 229 (IPv6). The version nibble decides.

use super::{EncapLayer, Next, Packet};

pub(super) fn decode(packet: &mut Packet) -> Next {
    packet.path.push(EncapLayer::Raw);
    Next::Ip
}
