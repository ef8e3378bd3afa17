//! Packets that a mirror delivers twice: a bounded, windowed test on what makes a packet itself.
//!
//! A mirror that copies ingress and egress, or two VLANs of one trunk, sends each packet twice within moments. The
//! copies differ in MAC addresses, VLAN ids, TTL and with it the IP header's checksum; the same in both are the flow,
//! the IP identification, the length, the TCP sequence number and the transport checksum, which covers all of the
//! payload; where there is none, its first bytes. A sender's own retransmission has another IPv4 identification; what has
//! none (IPv6, or RFC 6864), an acknowledgment without data, may be sent twice in earnest and is not tested.

use super::hash::{K0, K1, mix};
use super::shard::Routed;
use crate::decode::{Packet, Transport, tcp_flags as flags};

/// Two packets further apart than 10 ms are not copies: mirrors are faster, and retransmissions slower.
const WINDOW: u32 = 10_000_000 >> TICK;
/// Times are kept in units of 2^16 ns.
const TICK: u32 = 16;
/// Sets of packets that are remembered in a shard, by their identity. Few, since every packet of a capture goes through:
/// all shards together fit into a core's cache beside what else is hot.
const SETS: usize = 32;
/// Bits of an identity below those that tell the packets of a set apart.
const OTHERS: u32 = u64::BITS - SETS.ilog2() - u32::BITS;
/// Packets of a set, the latest first; the oldest goes.
const WAYS: usize = 4;

/// Packets of one identity, in part: the other part of each, and when it came. Never in two lines of the cache.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Set {
    halves: [u32; WAYS],
    times: [u32; WAYS],
}

/// The packets of one shard that came lately.
#[derive(Default)]
pub struct Recent(Box<[Set; SETS]>);

impl Recent {
    /// Whether this packet has come before, within the window.
    #[inline]
    pub fn has_seen<'a>(&mut self, routed: &Routed, payload: impl Fn() -> &'a [u8]) -> bool {
        let packet = &routed.packet;
        let ends = packet.tcp_flags & (flags::SYN | flags::FIN | flags::RST);
        // One question instead of three, whose answers nobody could predict.
        if packet.payload_length | u32::from(packet.identification) | u32::from(ends) == 0
            && packet.transport == Transport::Tcp
        {
            return false;
        }
        let mut identity = identity(routed);
        if (packet.checksum == 0) | packet.fragment.is_some() {
            identity = identity_in_full(identity, packet, payload());
        }
        let (half, now) = ((identity >> OTHERS) as u32 | 1, (routed.now >> TICK) as u32);
        let Set { halves, times } = &mut self.0[set(identity)];
        let is_known = halves.iter().fold(false, |found, &known| found | (known == half))
            && halves.iter().zip(&*times).any(|(&known, &time)| known == half && now.wrapping_sub(time) <= WINDOW);
        *halves = [half, halves[0], halves[1], halves[2]];
        *times = [now, times[0], times[1], times[2]];
        is_known
    }

    /// Another capture begins.
    pub fn clear(&mut self) {
        self.0.fill(Set::default());
    }
}

#[inline(always)]
fn set(identity: u64) -> usize {
    (identity >> (u64::BITS - SETS.ilog2())) as usize % SETS
}

/// What makes a packet itself, but for [`identity_in_full`]. Of a product the upper bits follow from all of both factors: the
/// uppermost choose the set, and those below tell its packets apart.
#[inline(always)]
fn identity(routed: &Routed) -> u64 {
    let packet = &routed.packet;
    let content =
        u64::from(packet.tcp_sequence) << 32 | u64::from(packet.identification) << 16 | u64::from(packet.checksum);
    let numbers = u64::from(packet.ip_length) << 1 | u64::from(routed.from_low);
    (routed.hash ^ content).wrapping_add(numbers.wrapping_mul(K0)).wrapping_mul(K1)
}

/// The same of a part of a datagram, and where no checksum covers the payload.
#[inline(never)]
fn identity_in_full(identity: u64, packet: &Packet, payload: &[u8]) -> u64 {
    let mut content = 0;
    if packet.checksum == 0 {
        let word = |at: usize| payload.get(at..).and_then(|rest| rest.first_chunk::<8>()).copied().unwrap_or_default();
        content = u64::from_le_bytes(word(0)) ^ u64::from_le_bytes(word(8)).rotate_left(17);
    }
    if let Some(fragment) = packet.fragment {
        content ^= u64::from(fragment.offset | fragment.id << 16);
    }
    mix(identity, content)
}

#[cfg(test)]
mod tests;
