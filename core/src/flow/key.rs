//! The direction-free flow key and the shard it belongs to.

use std::hint::select_unpredictable;

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

/// A flow's key as it is hashed and compared: addresses as words, and the rest of the five-tuple. The lower end comes first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KeyWords {
    /// Address of the lower (address, port).
    pub low: [u64; 2],
    /// Address of the other one.
    pub high: [u64; 2],
    /// Port of `low` above that of `high`.
    pub ports: u32,
    /// Transport protocol (bits 0 and 1), IP version 6 (bit 2), and bit 3, which every key has: zero is none.
    pub kind: u8,
}

/// Of a [`KeyWords::kind`]: bits in use.
pub const KIND: u8 = 0x0f;
const IS_IPV6: u8 = 4;
const IS_KEY: u8 = 8;

#[inline]
fn kind(transport: Transport, ip_version: u8) -> u8 {
    let transport = match transport {
        Transport::Tcp => 0,
        Transport::Udp => 1,
        Transport::Esp => 2,
        Transport::Ah => 3,
    };
    transport | if ip_version == 4 { IS_KEY } else { IS_KEY | IS_IPV6 }
}

/// The halves of an address, of which the second is zero with IPv4.
#[inline]
fn words(address: &[u8; 16]) -> [u64; 2] {
    let word = u128::from_le_bytes(*address);
    [word as u64, (word >> 64) as u64]
}

fn address(words: [u64; 2]) -> [u8; 16] {
    (u128::from(words[0]) | u128::from(words[1]) << 64).to_le_bytes()
}

impl KeyWords {
    /// The packet's key, and whether its source is `low`.
    #[inline(always)]
    pub fn of(packet: &Packet) -> (Self, bool) {
        let (source, destination) = (words(&packet.source), words(&packet.destination));
        let (from, to) = (u64::from(packet.source_port), u64::from(packet.destination_port));
        let kind = kind(packet.transport, packet.ip_version);
        // Chosen without a branch: half of all packets go either way.
        let from_low = if packet.ip_version == 4 {
            // Behind an IPv4 address there are zeros.
            let number = |words: [u64; 2], port| u64::from((words[0] as u32).swap_bytes()) << 16 | port;
            number(source, from) <= number(destination, to)
        } else {
            let number = |words: [u64; 2]| u128::from(words[0].swap_bytes()) << 64 | u128::from(words[1].swap_bytes());
            let (one, other) = (number(source), number(destination));
            (one < other) | ((one == other) & (from <= to))
        };
        let choose = |one, other| select_unpredictable(from_low, one, other);
        let (low, high) = if packet.ip_version == 4 {
            ([choose(source[0], destination[0]), 0], [choose(destination[0], source[0]), 0])
        } else {
            let swap = u64::from(from_low).wrapping_sub(1);
            let differ = [(source[0] ^ destination[0]) & swap, (source[1] ^ destination[1]) & swap];
            let low = [source[0] ^ differ[0], source[1] ^ differ[1]];
            (low, [destination[0] ^ differ[0], destination[1] ^ differ[1]])
        };
        let ports = choose(from << 16 | to, to << 16 | from) as u32;
        (Self { low, high, ports, kind }, from_low)
    }

    /// [`Self::pair_hash`] of what goes between two IPv4 addresses.
    #[inline(always)]
    pub fn pair_of_ipv4(source: [u8; 4], destination: [u8; 4]) -> u64 {
        let is_low = u32::from_be_bytes(source) <= u32::from_be_bytes(destination);
        let [source, destination] = [source, destination].map(|address| u64::from(u32::from_le_bytes(address)));
        let low = select_unpredictable(is_low, source, destination);
        let high = select_unpredictable(is_low, destination, source);
        Self { low: [low, 0], high: [high, 0], ports: 0, kind: IS_KEY }.pair_hash()
    }

    /// The same of two IPv6 addresses.
    #[inline(always)]
    pub fn pair_of_ipv6(source: [u8; 16], destination: [u8; 16]) -> u64 {
        let is_low = u128::from_be_bytes(source) <= u128::from_be_bytes(destination);
        let (low, high) = if is_low { (source, destination) } else { (destination, source) };
        Self { low: words(&low), high: words(&high), ports: 0, kind: IS_KEY | IS_IPV6 }.pair_hash()
    }

    /// TCP.
    #[inline]
    pub fn is_stream(&self) -> bool {
        self.kind & 3 == 0
    }

    fn transport(&self) -> Transport {
        match self.kind & 3 {
            0 => Transport::Tcp,
            1 => Transport::Udp,
            2 => Transport::Esp,
            _ => Transport::Ah,
        }
    }

    #[inline]
    fn ip_version(&self) -> u8 {
        if self.kind & IS_IPV6 == 0 { 4 } else { 6 }
    }

    /// Hash of the unordered address pair: flows between two hosts share it, whatever their ports. Where the addresses
    /// are equal, their order does not matter.
    #[inline]
    pub fn pair_hash(&self) -> u64 {
        let hash = mix(mix(SEED, self.low[0]), self.high[0]);
        if self.kind & IS_IPV6 == 0 { hash } else { mix(mix(hash, self.low[1]), self.high[1]) }
    }

    /// Hash of the whole key, from its [`Self::pair_hash`].
    #[inline]
    pub fn hash(&self, pair_hash: u64, scope: u32) -> u64 {
        const PROTOCOLS: [u64; 4] =
            [Transport::Tcp as u64, Transport::Udp as u64, Transport::Esp as u64, Transport::Ah as u64];
        let protocol = PROTOCOLS[usize::from(self.kind & 3)];
        let ports = u64::from(self.ports) << 32 | protocol << 8 | u64::from(self.ip_version());
        mix(pair_hash ^ u64::from(scope) << 16, ports)
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
    /// Of these words; `scope` is not in them.
    pub fn new(words: &KeyWords, scope: u32) -> Self {
        Self {
            low: address(words.low),
            high: address(words.high),
            low_port: (words.ports >> 16) as u16,
            high_port: words.ports as u16,
            transport: words.transport(),
            ip_version: words.ip_version(),
            scope,
        }
    }

    fn words(&self) -> KeyWords {
        KeyWords {
            low: words(&self.low),
            high: words(&self.high),
            ports: u32::from(self.low_port) << 16 | u32::from(self.high_port),
            kind: kind(self.transport, self.ip_version),
        }
    }

    /// See [`KeyWords::pair_hash`].
    pub fn pair_hash(&self) -> u64 {
        self.words().pair_hash()
    }

    /// Hash of the whole key, from its [`Self::pair_hash`].
    pub fn hash(&self, pair_hash: u64) -> u64 {
        self.words().hash(pair_hash, self.scope)
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

    fn key_of(packet: &Packet) -> (FlowKey, bool) {
        let (words, from_low) = KeyWords::of(packet);
        let key = FlowKey::new(&words, 0);
        assert_eq!(key.words(), words);
        (key, from_low)
    }

    proptest! {
        #[test]
        fn both_directions_have_one_key_and_the_ports_do_not_choose_the_shard(
            a: u8, b: u8, ap: u16, bp: u16, other: u16,
        ) {
            let (there, low_there) = key_of(&packet(a, ap, b, bp));
            let (back, low_back) = key_of(&packet(b, bp, a, ap));
            prop_assert_eq!(there, back);
            prop_assert!((a, ap) == (b, bp) || low_there != low_back);
            let (beside, _) = key_of(&packet(b, other, a, ap));
            prop_assert_eq!(there.pair_hash(), beside.pair_hash());
            let one = packet(a, ap, b, bp);
            for (source, destination) in [(one.source, one.destination), (one.destination, one.source)] {
                let [short, other] = [source, destination].map(|address| [address[0], 0, 0, 0]);
                prop_assert_eq!(KeyWords::pair_of_ipv4(short, other), there.pair_hash());
                let mut six = Packet { source, destination, ip_version: 6, ..Packet::default() };
                six.source[15] = b;
                prop_assert_eq!(KeyWords::pair_of_ipv6(six.source, six.destination), key_of(&six).0.pair_hash());
            }
        }
    }

    /// The same flow has the same shard and id on every machine; computed apart from this code, by Python's integers.
    #[test]
    fn hashes_never_change() {
        let mut packet = Packet { source_port: 40_440, destination_port: 51_820, ip_version: 4, ..Packet::default() };
        packet.source[..4].copy_from_slice(&[100, 64, 7, 22]);
        packet.destination[..4].copy_from_slice(&[203, 0, 113, 10]);
        let (key, from_low) = key_of(&packet);
        let pair = key.pair_hash();
        assert!(from_low);
        assert_eq!((pair, FlowKey::shard(pair)), (0x7ba2_200a_968c_a4c1, 10));
        assert_eq!(key.hash(pair), 0xdbb1_d863_d28e_093e);
    }

    #[test]
    fn transports_versions_and_the_ends_of_ipv6_addresses_tell_flows_apart() {
        let base = packet(1, 2, 3, 4);
        let (key, _) = key_of(&base);
        let mut last_octet = base;
        last_octet.ip_version = 6;
        let (six, _) = key_of(&last_octet);
        last_octet.source[15] = 1;
        let (other, _) = key_of(&last_octet);
        assert!(key != six && six != other);
        assert_ne!(six.pair_hash(), other.pair_hash());
        let (tcp, _) = key_of(&Packet { transport: Transport::Tcp, ..base });
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
                (FlowKey::new(&routed.key, routed.scope), routed.hash, routed.pair)
            };
            let (plain, tagged) = (routed(packet(1, 2, 3, 4)), routed(tagged));
            assert_eq!((plain.0 == tagged.0, plain.1 == tagged.1), (equal, equal), "{mode:?}");
            assert_eq!((plain.2, plain.0.hash(plain.2)), (tagged.2, plain.1));
        }
    }
}
