//! PPP over Ethernet, session stage (RFC 2516). Its length decides, not the frame's end: that may be padding.
//!
//! ```text
//! | version 1, type 1 | code 0 | session (2) | length (2) | PPP ...
//! ```

use super::{Cause, Cursor, DecodeError, EncapLayer, Layer, Next, Packet};

pub(super) fn decode(cursor: &mut Cursor<'_>, packet: &mut Packet) -> Result<Next, DecodeError> {
    let start = cursor.offset;
    let header = cursor.take::<6>(Layer::Ppp)?;
    if header[..2] != [0x11, 0x00] {
        return Err(DecodeError { layer: Layer::Ppp, cause: Cause::Malformed, offset: start });
    }
    packet.path.push(EncapLayer::Pppoe);
    *cursor = cursor.up_to(start + 6 + usize::from(u16::from_be_bytes([header[4], header[5]])));
    Ok(Next::Ppp)
}
