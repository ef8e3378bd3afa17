//! GRE version 0 (RFC 1701, 2784, 2890) and version 1 (PPTP, RFC 2637).
//!
//! ```text
//! | C R K S s recursion A flags version (2) | protocol (2) | checksum, offset (4) if C or R | key (4) if K |
//! | sequence (4) if S | source routes if R |
//! version 1: | acknowledgment (4) if A |
//! ```

use super::{Cause, Cursor, DecodeError, Decoded, EncapLayer, Layer, MAX_DEPTH, Next, NoFlow, Packet, erspan};

const CHECKSUM: u16 = 0x8000;
const ROUTING: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
const ACKNOWLEDGMENT: u16 = 0x0080;

const ERSPAN: u16 = 0x88be;
const ERSPAN_TYPE_3: u16 = 0x22eb;
const WCCP: u16 = 0x883e;

/// Whether the header at the cursor is followed by a mirrored frame.
pub(super) fn carries_erspan(cursor: &Cursor<'_>) -> bool {
    cursor.peek::<4>(Layer::Gre).is_ok_and(|header| {
        let protocol = u16::from_be_bytes([header[2], header[3]]);
        header[1] & 7 == 0 && matches!(protocol, ERSPAN | ERSPAN_TYPE_3)
    })
}

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let start = cursor.offset;
    let header = cursor.take::<4>(Layer::Gre)?;
    let flags = u16::from_be_bytes([header[0], header[1]]);
    let protocol = u16::from_be_bytes([header[2], header[3]]);
    let version = flags & 7;
    // Strict source route, recursion and flags have been of no use since RFC 2784; version 1 has A and call ids.
    let reserved = if version == 0 { flags & 0x0ff8 } else { flags & 0x0f78 };
    if reserved != 0 {
        return Err(DecodeError { layer: Layer::Gre, cause: Cause::Malformed, offset: start });
    }
    if version > 1 || (version == 1) != (protocol == 0x880b) {
        return Err(DecodeError { layer: Layer::Gre, cause: Cause::Unsupported, offset: start });
    }
    packet.path.push(EncapLayer::Gre);
    let present = |flag: u16| if flags & flag != 0 { 4 } else { 0 };
    // Checksum and offset are there for either flag (RFC 1701).
    cursor.skip(present(CHECKSUM | ROUTING) + present(KEY) + present(SEQUENCE));
    if flags & ROUTING != 0 {
        skip_routes(cursor)?;
    }
    if version == 1 {
        cursor.skip(present(ACKNOWLEDGMENT));
        return Ok(Next::Ppp);
    }
    match protocol {
        0x6558 => Ok(Next::Ethernet),
        ERSPAN => erspan::decode(cursor, packet, flags & SEQUENCE != 0),
        ERSPAN_TYPE_3 => erspan::decode_type_3(cursor, packet),
        // WCCP redirects IP, behind a header of four bytes (draft-mclaggan-wccp-v2rev1, 4.12) or, in its first version, at
        // once: the header's first nibble is no version of IP.
        WCCP => {
            if !matches!(cursor.peek::<1>(Layer::Gre)?[0] >> 4, 4 | 6) {
                cursor.skip(4);
            }
            Ok(Next::Ip)
        }
        // A keepalive has protocol 0.
        0 => Ok(Next::Done(Decoded::NoFlow(NoFlow::OtherIpProtocol))),
        kind => Ok(Next::Ethertype(kind)),
    }
}

/// Source routes (RFC 1701; RFC 2784 leaves them out, old routers do not): each has its family (2), an offset (1) and
/// a length (1), and one of length 0 ends them.
fn skip_routes(cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
    for _ in 0..MAX_DEPTH {
        let length = usize::from(cursor.take::<4>(Layer::Gre)?[3]);
        if length == 0 {
            return Ok(());
        }
        cursor.skip(length);
    }
    Err(cursor.error(Layer::Gre, Cause::Malformed))
}
