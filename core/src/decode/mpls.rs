//! MPLS (RFC 3032), with or without a control word (RFC 4385).
//!
//! ```text
//! | label (20 bits) | TC (3) | S | TTL (8) | ... until S is set
//! ```
//!
//! No field says what follows. Labels 0 and 2 do; otherwise a first nibble of 4 or 6 is a guess, since a pseudowire
//! without control word may begin with a MAC address like that (RFC 8469): an IP header is believed when its lengths
//! and its checksum hold. A first nibble of 0 is a control word before Ethernet, or Ethernet at once to a MAC address
//! like that, as most are; one of 1 an associated channel, or again an address. Which reading leads on decides.

use super::{Cause, Cursor, DecodeError, Decoded, EncapLayer, Layer, MAX_DEPTH, Next, NoFlow, Packet, tags};

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
        return payload(cursor);
    }
    Err(cursor.error(Layer::Mpls, Cause::Malformed))
}

/// What stands behind the labels, by what each reading leads to.
fn payload(cursor: &mut Cursor<'_>) -> Result<Next, DecodeError> {
    let nibble = cursor.peek::<1>(Layer::Mpls)?[0] >> 4;
    if nibble == 4 && is_ipv4(cursor, true) {
        return Ok(Next::Ip);
    }
    let at_once = ethernet_leads_on(cursor, 0);
    let behind_control_word = nibble == 0 && ethernet_leads_on(cursor, 4);
    // Where both lead on, one EtherType is read behind a tag or without: most control words are zero, no MAC address is.
    let has_zeros = cursor.peek::<4>(Layer::Mpls).is_ok_and(|first| *first == [0; 4]);
    Ok(match nibble {
        6 if is_ipv6(cursor) && !at_once => Next::Ip,
        0 if behind_control_word && (has_zeros || !at_once) => {
            cursor.skip(4);
            Next::Ethernet
        }
        _ if at_once => Next::Ethernet,
        0 => {
            cursor.skip(4);
            Next::Ethernet
        }
        // An associated channel (RFC 4385, 5): operation and maintenance.
        1 => Next::Done(Decoded::NoFlow(NoFlow::OtherEthertype)),
        // Offload on the capturing host leaves the checksum to the hardware.
        4 if is_ipv4(cursor, false) => Next::Ip,
        _ => Next::Ethernet,
    })
}

/// Whether an Ethernet header may stand so many bytes on: its EtherType goes with what follows, behind its tags.
fn ethernet_leads_on(cursor: &Cursor<'_>, ahead: usize) -> bool {
    let Some(mut rest) = cursor.bytes.get(cursor.offset + ahead + 12..) else { return false };
    for _ in 0..MAX_DEPTH {
        let Some(&[high, low, first, second]) = rest.first_chunk::<4>() else { return false };
        let skipped = match u16::from_be_bytes([high, low]) {
            0x0800 => return first >> 4 == 4 && first & 0x0f >= 5,
            0x86dd => return first >> 4 == 6,
            0x0806 => return [first, second] == [0, 1],
            0x8847 | 0x8848 => return true,
            0x8863 | 0x8864 => return first == 0x11,
            0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => 4,
            tags::VN_TAG | tags::R_TAG => 6,
            tags::E_TAG => 8,
            tags::I_TAG => return true,
            // 802.3 with SNAP.
            ..0x0600 => return [first, second] == [0xaa, 0xaa],
            _ => return false,
        };
        rest = rest.get(skipped..).unwrap_or_default();
    }
    false
}

/// `checked`: by its checksum, too; otherwise only one that was never filled in will do.
fn is_ipv4(cursor: &Cursor<'_>, checked: bool) -> bool {
    let Ok(header) = cursor.peek::<20>(Layer::Ipv4) else { return true };
    let length = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let Some(whole) = cursor.bytes.get(cursor.offset..cursor.offset + length) else { return false };
    // In words of 32 bits, whose sum leaves the same when divided by 2^16 - 1 (RFC 1071, 2).
    let sum: u64 = whole.as_chunks::<4>().0.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let sum_fits = if checked { (sum != 0) & sum.is_multiple_of(0xffff) } else { header[10..12] == [0, 0] };
    length >= 20 && total >= length && total <= cursor.claimed() && sum_fits
}

fn is_ipv6(cursor: &Cursor<'_>) -> bool {
    let Ok(header) = cursor.peek::<40>(Layer::Ipv6) else { return true };
    let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    // What may follow an IPv6 header that anybody sends; behind the packet there is padding at most.
    let known = matches!(header[6], 0 | 4 | 6 | 17 | 41 | 43 | 44 | 46 | 47 | 50 | 51 | 58..=60 | 89 | 97 | 103 | 112 | 132 | 135..=137 | 139 | 140);
    known && length <= cursor.claimed()
}
