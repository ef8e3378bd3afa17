//! MPLS (RFC 3032), with or without a control word (RFC 4385).
//!
//! ```text
//! | label (20 bits) | TC (3) | S | TTL (8) | ... until S is set
//! ```
//!
//! No field says what follows. Labels 0 and 2 do; otherwise a first nibble of 4 or 6 is a guess, since a pseudowire
//! without control word may begin with a MAC address like that (RFC 8469): an IP header is believed when its lengths
//! and its checksum hold, and else the frame is Ethernet. A first nibble of 0 is a control word before Ethernet, or
//! Ethernet at once to a MAC address like that, as most are: what stands where the EtherType would be decides.

use super::{Cause, Cursor, DecodeError, Decoded, EncapLayer, Layer, MAX_DEPTH, Next, NoFlow, Packet};

const IPV4_EXPLICIT_NULL: u32 = 0;
const IPV6_EXPLICIT_NULL: u32 = 2;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    packet.path.push(EncapLayer::Mpls);
    for _ in 0..MAX_DEPTH {
        let entry = u32::from_be_bytes(*cursor.take::<4>(Layer::Mpls)?);
        if entry & 0x100 == 0 {
            continue;
        }
        let label = entry >> 12;
        if label == IPV4_EXPLICIT_NULL || label == IPV6_EXPLICIT_NULL {
            return Ok(Next::Ip);
        }
        return Ok(match cursor.peek::<1>(Layer::Mpls)?[0] >> 4 {
            4 if is_ipv4(cursor) => Next::Ip,
            6 if is_ipv6(cursor) => Next::Ip,
            0 if !is_ethernet(cursor) => {
                cursor.skip(4);
                Next::Ethernet
            }
            // An associated channel (RFC 4385, 5): operation and maintenance.
            1 => Next::Done(Decoded::NoFlow(NoFlow::OtherEthertype)),
            _ => Next::Ethernet,
        });
    }
    Err(cursor.error(Layer::Mpls, Cause::Malformed))
}

/// Whether an Ethernet header stands at once: its EtherType is one that goes with what follows. Behind a control word the
/// bytes of a MAC address stand there.
fn is_ethernet(cursor: &Cursor<'_>) -> bool {
    cursor.peek::<15>(Layer::Ethernet).is_ok_and(|header| match u16::from_be_bytes([header[12], header[13]]) {
        0x0800 => header[14] >> 4 == 4,
        0x86dd => header[14] >> 4 == 6,
        0x0806 | 0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 | 0x88e7 | 0x8847 | 0x8848 | 0x8863 | 0x8864 => true,
        _ => false,
    })
}

fn is_ipv4(cursor: &Cursor<'_>) -> bool {
    let Ok(header) = cursor.peek::<20>(Layer::Ipv4) else { return true };
    let length = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let Some(whole) = cursor.bytes.get(cursor.offset..cursor.offset + length) else { return length >= 20 };
    let sum: u32 = whole.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    length >= 20 && total >= length && total <= cursor.claimed() && (folded & 0xffff) + (folded >> 16) == 0xffff
}

fn is_ipv6(cursor: &Cursor<'_>) -> bool {
    let Ok(header) = cursor.peek::<40>(Layer::Ipv6) else { return true };
    40 + usize::from(u16::from_be_bytes([header[4], header[5]])) <= cursor.claimed()
}
