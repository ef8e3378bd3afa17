//! Packets that a mirror delivers twice: a bounded, windowed test on what makes a packet itself.
//!
//! A mirror that copies ingress and egress, or two VLANs of one trunk, sends each packet twice within moments. The
//! copies differ in MAC addresses, VLAN ids, TTL and with it the IP header's checksum; the same in both are the flow,
//! the IP identification, the lengths, the transport checksum (which covers all of the payload), the TCP sequence
//! number and the first bytes of the payload. A sender's own retransmission has another IPv4 identification; what has
//! none, an IPv6 acknowledgment without data, may be sent twice in earnest and is not tested.

use super::hash::mix;
use super::shard::Routed;
use crate::decode::Transport;

/// Two packets further apart are not copies: mirrors are faster, and retransmissions slower.
const WINDOW: i64 = 10_000_000;
/// Packets of a shard that are remembered; a newer one takes the place of an older one.
const REMEMBERED: usize = 256;

/// The packets of one shard that came lately.
pub struct Recent(Box<[(u64, i64); REMEMBERED]>);

impl Default for Recent {
    fn default() -> Self {
        Self(Box::new([(0, i64::MIN); REMEMBERED]))
    }
}

impl Recent {
    /// Whether this packet has come before, within the window.
    pub fn has_seen(&mut self, routed: &Routed, payload: &[u8]) -> bool {
        let packet = &routed.packet;
        if packet.transport == Transport::Tcp && packet.ip_version == 6 && packet.payload_length == 0 {
            return false;
        }
        let identity = identity(routed, payload);
        let place = &mut self.0[identity as usize % REMEMBERED];
        let before = std::mem::replace(place, (identity, routed.now));
        before.0 == identity && routed.now.saturating_sub(before.1) <= WINDOW
    }

    /// Another capture begins.
    pub fn clear(&mut self) {
        self.0.fill((0, i64::MIN));
    }
}

fn identity(routed: &Routed, payload: &[u8]) -> u64 {
    let packet = &routed.packet;
    let word = |at: usize| {
        let bytes = payload.get(at..).and_then(|rest| rest.first_chunk::<8>());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let part = packet.fragment.map_or(0, |fragment| fragment.offset | fragment.id << 16);
    let numbers = u64::from(packet.identification) << 48
        | u64::from(packet.checksum) << 32
        | u64::from(packet.ip_length as u16) << 16
        | u64::from(routed.from_low);
    let place = u64::from(packet.tcp_sequence) << 32 | u64::from(part);
    mix(mix(routed.hash ^ place, numbers), word(0) ^ word(8).rotate_left(17))
}

#[cfg(test)]
mod tests;
