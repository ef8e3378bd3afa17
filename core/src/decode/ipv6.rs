//! IPv6 and its extension headers (RFC 8200).
//!
//! ```text
//!  0 | version, class, flow label (4) | payload length (2) | next header | hop limit |
//!  8 | source (16) | destination (16) | extension headers ...
//! ```

use super::{Cause, Cursor, DecodeError, Fragment, IpPayload, Layer, MAX_DEPTH, Packet};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<IpPayload, DecodeError> {
    let start = cursor.offset;
    let header = cursor.take::<40>(Layer::Ipv6)?;
    let mut length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if length == 0 {
        // A jumbogram (RFC 2675) or segmentation offload: take the frame's word for it.
        length = cursor.original.saturating_sub(cursor.offset);
    }
    packet.ip_version = 6;
    packet.ip_length = length as u32 + 40;
    packet.source.copy_from_slice(&header[8..24]);
    packet.destination.copy_from_slice(&header[24..40]);
    let end = start + 40 + length;
    let mut protocol = header[6];
    for _ in 0..MAX_DEPTH {
        match protocol {
            // AH (51) is no extension header to us: what it protects belongs to the AH flow.
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => {
                let extension = cursor.peek::<2>(Layer::Ipv6)?;
                protocol = extension[0];
                cursor.skip((usize::from(extension[1]) + 1) * 8);
            }
            FRAGMENT => {
                let extension = cursor.take::<8>(Layer::Ipv6)?;
                protocol = extension[0];
                let field = u16::from_be_bytes([extension[2], extension[3]]);
                // An atomic fragment is a whole packet (RFC 6946).
                if field & 0xfff9 != 0 {
                    packet.fragment = Some(Fragment {
                        id: u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]),
                        offset: u32::from(field & 0xfff8),
                        length: end.saturating_sub(cursor.offset) as u32,
                        protocol,
                        more: field & 1 != 0,
                    });
                }
                if field >> 3 != 0 {
                    return Ok(IpPayload { protocol, end });
                }
            }
            _ if cursor.offset > end => return Err(cursor.error(Layer::Ipv6, Cause::Malformed)),
            _ => return Ok(IpPayload { protocol, end }),
        }
    }
    Err(cursor.error(Layer::Ipv6, Cause::Malformed))
}
