//! The direction-free flow key and the shard it belongs to.

use super::hash::{SEED, mix};
use super::shard::SHARDS;
use crate::decode::{Packet, Path, Transport, Vlans};

/// What beside the innermost five-tuple tells flows apart: the setting `flow.key`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyMode {
    /// The innermost five-tuple alone.
    #[default]
    FiveTuple,
    /// And the VLAN ids, for networks whose address plans overlap.
    Vlan,
    /// And every layer above the IP header.
    Path,
}

impl KeyMode {
    /// Reads the setting's value.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "five-tuple" => Some(Self::FiveTuple),
            "+vlan" => Some(Self::Vlan),
            "+path" => Some(Self::Path),
            _ => None,
        }
    }

    /// What it makes of a packet's layers.
    pub fn scope(self, vlans: Vlans, path: Path) -> u32 {
        match self {
            Self::FiveTuple => 0,
            Self::Vlan => mix(0, vlans.0) as u32,
            Self::Path => mix(vlans.0, path.0) as u32,
        }
    }
}

/// Hash of the pair of a packet's hosts.
#[inline]
pub fn pair(packet: &Packet) -> u64 {
    let (source, destination) = (&packet.source, &packet.destination);
    let (low, high) = if source_is_low(packet) { (source, destination) } else { (destination, source) };
    pair_hash(low, high, packet.ip_version)
}

/// Of a packet's flow: hash of the pair, hash of the key, and whether the source is the key's `low`.
#[inline]
pub fn hashes(packet: &Packet, scope: u32) -> (u64, u64, bool) {
    let from_low = source_is_low(packet);
    let (source, destination) = (&packet.source, &packet.destination);
    let (low, high) = if from_low { (source, destination) } else { (destination, source) };
    let ports = (packet.source_port, packet.destination_port);
    let ports = if from_low { ports } else { (ports.1, ports.0) };
    let pair = pair_hash(low, high, packet.ip_version);
    (pair, hash(pair, scope, ports, packet.transport, packet.ip_version), from_low)
}

/// `low` and `high` are ordered by (address, port), so equal pairs come in one order unless the addresses are equal, and
/// then the order does not matter.
#[inline]
fn pair_hash(low: &[u8; 16], high: &[u8; 16], ip_version: u8) -> u64 {
    let first = |bytes: &[u8; 16]| u128::from_le_bytes(*bytes) as u64;
    let last = |bytes: &[u8; 16]| (u128::from_le_bytes(*bytes) >> 64) as u64;
    let hash = mix(mix(SEED, first(low)), first(high));
    if ip_version == 4 { hash } else { mix(mix(hash, last(low)), last(high)) }
}

#[inline]
fn hash(pair: u64, scope: u32, (low_port, high_port): (u16, u16), transport: Transport, ip_version: u8) -> u64 {
    let ports =
        u64::from(low_port) << 48 | u64::from(high_port) << 32 | (transport as u64) << 8 | u64::from(ip_version);
    mix(pair ^ u64::from(scope) << 16, ports)
}

/// Whether the source is not above the destination by (address, port).
#[inline]
fn source_is_low(packet: &Packet) -> bool {
    let (source, destination) = (packet.source_port, packet.destination_port);
    if packet.ip_version == 4 {
        // As one number each: address, then port.
        let end = |address: &[u8; 16], port: u16| {
            u64::from(u32::from_be_bytes([address[0], address[1], address[2], address[3]])) << 16 | u64::from(port)
        };
        end(&packet.source, source) <= end(&packet.destination, destination)
    } else {
        (u128::from_be_bytes(packet.source), source) <= (u128::from_be_bytes(packet.destination), destination)
    }
}

/// The innermost five-tuple without direction. ESP and AH have no ports: their key is the address pair and
/// the protocol, since an SPI belongs to one direction and changes with every rekeying.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowKey {
    /// The smaller (address, port).
    pub low: [u8; 16],
    /// The other one.
    pub high: [u8; 16],
    /// Port of `low`.
    pub low_port: u16,
    /// Port of `high`.
    pub high_port: u16,
    /// Transport protocol.
    pub transport: Transport,
    /// 4 or 6.
    pub ip_version: u8,
    /// VLAN ids or path, by [`KeyMode`]; 0 otherwise.
    pub scope: u32,
}

impl FlowKey {
    /// The packet's key, and whether its source is `low`.
    #[inline]
    pub fn of(packet: &Packet, scope: u32) -> (Self, bool) {
        let from_low = source_is_low(packet);
        let source = (packet.source, packet.source_port);
        let destination = (packet.destination, packet.destination_port);
        let (low, high) = if from_low { (source, destination) } else { (destination, source) };
        let key = Self {
            low: low.0,
            high: high.0,
            low_port: low.1,
            high_port: high.1,
            transport: packet.transport,
            ip_version: packet.ip_version,
            scope,
        };
        (key, from_low)
    }

    /// Hash of the unordered address pair: flows between two hosts share it, whatever their ports.
    pub fn pair_hash(&self) -> u64 {
        pair_hash(&self.low, &self.high, self.ip_version)
    }

    /// Hash of the whole key, from its [`Self::pair_hash`].
    pub fn hash(&self, pair_hash: u64) -> u64 {
        hash(pair_hash, self.scope, (self.low_port, self.high_port), self.transport, self.ip_version)
    }

    /// Which shard a [`Self::pair_hash`] belongs to.
    #[inline]
    pub fn shard(pair_hash: u64) -> usize {
        (pair_hash >> 32) as usize % SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::shard::Routed;
    use proptest::prelude::*;

    fn packet(source: u8, source_port: u16, destination: u8, destination_port: u16) -> Packet {
        let mut packet = Packet { source_port, destination_port, ip_version: 4, ..Packet::default() };
        packet.source[0] = source;
        packet.destination[0] = destination;
        packet
    }

    proptest! {
        #[test]
        fn both_directions_have_one_key_and_the_ports_do_not_choose_the_shard(
            a: u8, b: u8, ap: u16, bp: u16, other: u16,
        ) {
            let (there, low_there) = FlowKey::of(&packet(a, ap, b, bp), 0);
            let (back, low_back) = FlowKey::of(&packet(b, bp, a, ap), 0);
            prop_assert_eq!(there, back);
            prop_assert!((a, ap) == (b, bp) || low_there != low_back);
            let (beside, _) = FlowKey::of(&packet(b, other, a, ap), 0);
            prop_assert_eq!(there.pair_hash(), beside.pair_hash());
        }
    }

    /// The same flow has the same shard and id on every machine; computed apart from this code, by Python's integers.
    #[test]
    fn hashes_never_change() {
        let mut packet = Packet { source_port: 40_440, destination_port: 51_820, ip_version: 4, ..Packet::default() };
        packet.source[..4].copy_from_slice(&[100, 64, 7, 22]);
        packet.destination[..4].copy_from_slice(&[203, 0, 113, 10]);
        let (key, from_low) = FlowKey::of(&packet, 0);
        let pair = key.pair_hash();
        assert!(from_low);
        assert_eq!((pair, FlowKey::shard(pair)), (0x7ba2_200a_968c_a4c1, 10));
        assert_eq!(key.hash(pair), 0xdbb1_d863_d28e_093e);
    }

    #[test]
    fn transports_versions_and_the_ends_of_ipv6_addresses_tell_flows_apart() {
        let base = packet(1, 2, 3, 4);
        let (key, _) = FlowKey::of(&base, 0);
        let mut last_octet = base;
        last_octet.ip_version = 6;
        let (six, _) = FlowKey::of(&last_octet, 0);
        last_octet.source[15] = 1;
        let (other, _) = FlowKey::of(&last_octet, 0);
        assert!(key != six && six != other);
        assert_ne!(six.pair_hash(), other.pair_hash());
        let (tcp, _) = FlowKey::of(&Packet { transport: Transport::Tcp, ..base }, 0);
        assert!(tcp != key && tcp.hash(tcp.pair_hash()) != key.hash(key.pair_hash()));
        assert_eq!(tcp.pair_hash(), key.pair_hash());
    }

    #[test]
    fn the_mode_tells_vlans_and_paths_apart() {
        let mut tagged = packet(1, 2, 3, 4);
        tagged.vlans = crate::decode::Vlans(101);
        for (mode, equal) in [(KeyMode::FiveTuple, true), (KeyMode::Vlan, false), (KeyMode::Path, false)] {
            let routed = |packet| {
                let mut routed = Routed { packet, ..Routed::default() };
                routed.route(mode);
                (routed.key(), routed.hash, routed.pair)
            };
            let (plain, tagged) = (routed(packet(1, 2, 3, 4)), routed(tagged));
            assert_eq!((plain.0 == tagged.0, plain.1 == tagged.1), (equal, equal), "{mode:?}");
            assert_eq!((plain.2, plain.0.hash(plain.2)), (tagged.2, plain.1));
        }
    }
}
