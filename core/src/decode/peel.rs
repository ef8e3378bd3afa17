//! Which tunnels over IP are opened: an operator's, and not a customer's own.
//!
//! VLAN, MPLS, PPPoE and the like belong to the link and are always taken off. A tunnel over IP (GRE, IP in IP,
//! EtherIP, GTP-U, VXLAN, Geneve) may be the operator's, and then the flows inside are what the edge carries; or
//! a subscriber's own, and then it is that subscriber's flow, and the addresses inside are nobody else's business.
//! What tells them apart is who the outer ends are. ERSPAN is made by switches for mirror ports alone.

use super::Packet;

/// The setting `peel`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PeelMode {
    /// Tunnels between two hosts neither of which is a subscriber; all where subscribers are not known.
    #[default]
    Operator,
    /// All tunnels.
    All,
    /// None.
    None,
}

impl PeelMode {
    /// Reads the setting's value.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "operator" => Some(Self::Operator),
            "all" => Some(Self::All),
            "none" => Some(Self::None),
            _ => None,
        }
    }
}

/// The setting, and the addresses of subscribers.
#[derive(Clone, Debug, Default)]
pub struct Peel {
    mode: PeelMode,
    /// First and last address of each range, ascending, without overlaps.
    ipv4: Vec<(u128, u128)>,
    ipv6: Vec<(u128, u128)>,
}

impl Peel {
    /// `subscribers`: prefixes as packed addresses (4 or 16 bytes) and lengths. `None` when one is none.
    pub fn new(mode: PeelMode, subscribers: &[(Vec<u8>, u8)]) -> Option<Self> {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (address, length) in subscribers {
            let (bits, ranges) = match address.len() {
                4 => (32, &mut ipv4),
                16 => (128, &mut ipv6),
                _ => return None,
            };
            let spare = u32::checked_sub(bits, u32::from(*length))?;
            let last_bits = u128::MAX.checked_shr(128 - spare).unwrap_or(0);
            let first = number(address) & !last_bits;
            ranges.push((first, first | last_bits));
        }
        Some(Self { mode, ipv4: merged(ipv4), ipv6: merged(ipv6) })
    }

    /// The setting.
    pub fn mode(&self) -> PeelMode {
        self.mode
    }

    /// Whether a tunnel whose outer header is in `packet` is opened.
    pub(super) fn opens(&self, packet: &Packet) -> bool {
        match self.mode {
            PeelMode::All => true,
            PeelMode::None => false,
            PeelMode::Operator => {
                !self.is_subscriber(packet, packet.source) && !self.is_subscriber(packet, packet.destination)
            }
        }
    }

    /// Whether ERSPAN is opened.
    pub(super) fn opens_mirrors(&self) -> bool {
        self.mode != PeelMode::None
    }

    fn is_subscriber(&self, packet: &Packet, address: [u8; 16]) -> bool {
        let (address, ranges) = match packet.ip_version {
            4 => (number(&address[..4]), &self.ipv4),
            _ => (number(&address), &self.ipv6),
        };
        let after = ranges.partition_point(|&(first, _)| first <= address);
        after.checked_sub(1).and_then(|index| ranges.get(index)).is_some_and(|&(_, last)| address <= last)
    }
}

fn number(address: &[u8]) -> u128 {
    address.iter().fold(0, |sum, &byte| sum << 8 | u128::from(byte))
}

fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn between(source: u32, destination: u32) -> Packet {
        let mut packet = Packet { ip_version: 4, ..Packet::default() };
        packet.source[..4].copy_from_slice(&source.to_be_bytes());
        packet.destination[..4].copy_from_slice(&destination.to_be_bytes());
        packet
    }

    proptest! {
        /// Ranges answer as each prefix does by itself.
        #[test]
        fn a_subscriber_lies_in_one_of_the_prefixes(
            prefixes in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            near in proptest::collection::vec((any::<prop::sample::Index>(), 0_u32..3), 8),
            other: u32,
        ) {
            let packed: Vec<_> = prefixes.iter().map(|&(address, length)| (address.to_be_bytes().to_vec(), length)).collect();
            let peel = Peel::new(PeelMode::Operator, &packed).unwrap();
            let near = near.iter().filter(|_| !prefixes.is_empty()).map(|(index, step)| {
                let (address, length) = *index.get(&prefixes);
                let last = address | u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                last.wrapping_add(*step).wrapping_sub(1)
            });
            for address in near.chain([other]) {
                let expected = prefixes.iter().any(|&(prefix, length)| {
                    length == 0 || (address ^ prefix) >> (32 - u32::from(length)) == 0
                });
                prop_assert_eq!(peel.opens(&between(address, address)), !expected);
            }
        }
    }

    #[test]
    fn both_ends_count_families_do_not_mix_and_what_is_no_prefix_is_refused() {
        let ours = [(vec![192, 0, 2, 0], 24), (vec![0x20; 16], 128)];
        let peel = Peel::new(PeelMode::Operator, &ours).unwrap();
        let (inside, outside) = (0xc000_0207, 0xcb00_7101);
        assert!(peel.opens(&between(outside, outside)));
        assert!(!peel.opens(&between(inside, outside)) && !peel.opens(&between(outside, inside)));
        let six = Packet { ip_version: 6, source: [0x20; 16], ..Packet::default() };
        assert!(!peel.opens(&six) && peel.opens(&Packet { source: [0x21; 16], ..six }));
        assert!(Peel::new(PeelMode::All, &ours).unwrap().opens(&between(inside, inside)));
        assert!(!Peel::new(PeelMode::None, &[]).unwrap().opens(&between(outside, outside)));
        assert!(Peel::default().opens(&between(inside, inside)), "no subscribers are known");
        for wrong in [(vec![192, 0, 2], 24), (vec![192, 0, 2, 0], 33), (vec![0; 16], 129)] {
            assert!(Peel::new(PeelMode::All, &[wrong]).is_none());
        }
    }
}
