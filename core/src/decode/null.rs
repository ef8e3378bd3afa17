//! BSD null (the writer's byte order) and loop (network byte order).
//!
//! ```text
//! | address family (4) | IP ...
//! ```

use super::{Cursor, DecodeError, Decoded, EncapLayer, Layer, Next, NoFlow, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet, host_order: bool) -> Result<Next, DecodeError> {
    let header = cursor.take::<4>(Layer::Null)?;
    packet.path.push(EncapLayer::Null);
    let mut family = u32::from_be_bytes(*header);
    // Null is in the order of the machine that wrote it: address families are small numbers, so a large
    // one is a small one swapped.
    if host_order && family > 0xffff {
        family = family.swap_bytes();
    }
    // AF_INET is 2 everywhere; AF_INET6 is 24 (NetBSD, OpenBSD), 28 (FreeBSD), 30 (Darwin) or 10 (Linux).
    Ok(match family {
        2 | 10 | 24 | 28 | 30 => Next::Ip,
        _ => Next::Done(Decoded::NoFlow(NoFlow::OtherEthertype)),
    })
}
