//! GRE version 0 (RFC 2784, 2890) and version 1 (PPTP, RFC 2637).
//!
//! ```text
//! | C R K S s recursion A flags version (2) | protocol (2) | checksum, offset (4) if C | key (4) if K | sequence (4) if S |
//! version 1: | acknowledgment (4) if A |
//! ```

use super::{Cause, Cursor, DecodeError, Decoded, EncapLayer, Layer, Next, NoFlow, Packet, erspan};

const CHECKSUM: u16 = 0x8000;
const ROUTING: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
const ACKNOWLEDGMENT: u16 = 0x0080;

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let start = cursor.offset;
    let header = cursor.take::<4>(Layer::Gre)?;
    let flags = u16::from_be_bytes([header[0], header[1]]);
    let protocol = u16::from_be_bytes([header[2], header[3]]);
    let version = flags & 7;
    // Source routes were taken out of the protocol with RFC 2784.
    if flags & ROUTING != 0 || version > 1 || (version == 1) != (protocol == 0x880b) {
        return Err(DecodeError { layer: Layer::Gre, cause: Cause::Unsupported, offset: start });
    }
    packet.path.push(EncapLayer::Gre);
    let present = |flag: u16| if flags & flag != 0 { 4 } else { 0 };
    cursor.skip(present(CHECKSUM) + present(KEY) + present(SEQUENCE));
    if version == 1 {
        cursor.skip(present(ACKNOWLEDGMENT));
        return Ok(Next::Ppp);
    }
    match protocol {
        0x6558 => Ok(Next::Ethernet),
        0x88be => erspan::decode(cursor, packet, flags & SEQUENCE != 0),
        0x22eb => erspan::decode_type_3(cursor, packet),
        // A keepalive has protocol 0.
        0 => Ok(Next::Done(Decoded::NoFlow(NoFlow::OtherIpProtocol))),
        kind => Ok(Next::Ethertype(kind)),
    }
}
