//! Which ring of an interface gets a frame, when there are several: a classic BPF program that the kernel asks
//! (PACKET_FANOUT_CBPF), whose answer it divides by the number of rings.
//!
//! Both directions of a pair of addresses get the same ring, IPv4 and IPv6, behind a tag in the ring's header and
//! [`TAGS`] more in the frame. Anything else gets ring 0. So the packets of a flow, its fragments and its tunnel stay in
//! their order.
//!
//! The rule a reader would get wrong: the program does not see the frame as it was on the wire. A frame that comes in
//! begins behind its Ethernet header and its first tag, whose EtherType is the kernel's to tell; one that goes out begins
//! with its Ethernet header. A load from beyond the frame answers 0, as everywhere in classic BPF.

use super::bpf::Instruction;

/// VLAN tags in a frame behind which addresses are found.
const TAGS: u32 = 2;
/// EtherTypes of tags: 802.1Q, 802.1ad, and what came before it.
const TAG_TYPES: [u32; 3] = [0x8100, 0x88a8, 0x9100];
/// EtherType, place of the addresses in the header, and words of 32 bits that they have together.
const NETWORKS: [(u32, u32, u32); 2] = [(0x0800, 12, 2), (0x86dd, 8, 8)];
/// 2 to the power of 32, divided by the golden ratio: spreads what differs in its lowest bits (Knuth, 6.4).
const GOLDEN: u32 = 0x9e37_79b9;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const ADD_X: u16 = (libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X) as u16;
const MULTIPLY: u16 = (libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K) as u16;
const SHIFT_RIGHT: u16 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K) as u16;
const TO_X: u16 = (libc::BPF_MISC | libc::BPF_TAX) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const ANSWER_A: u16 = (libc::BPF_RET | libc::BPF_A) as u16;
/// What the kernel knows of a frame.
const PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32;
const KIND: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;

/// The program for an interface whose frames have so many bytes before their network header.
pub(super) fn program(link_header: u32) -> Vec<Instruction> {
    let (incoming, outgoing) = (addresses(0), addresses(link_header));
    let mut code =
        vec![one(LOAD_WORD, KIND), if_equal(libc::PACKET_OUTGOING.into(), 0, 1), one(JUMP, incoming.len() as u32)];
    code.extend(incoming);
    code.extend(outgoing);
    code
}

/// Answers with a hash of the addresses of a packet whose header is here, or behind tags that are.
fn addresses(start: u32) -> Vec<Instruction> {
    let mut code = vec![one(LOAD_WORD, PROTOCOL)];
    for tags in 0..=TAGS {
        let at = start + 4 * tags;
        for (ethertype, place, words) in NETWORKS {
            let sum = sum(at + place, words);
            code.push(if_equal(ethertype, 0, sum.len() as u8));
            code.extend(sum);
        }
        if tags < TAGS {
            for (place, tag) in TAG_TYPES.into_iter().enumerate() {
                code.push(if_equal(tag, (TAG_TYPES.len() - place) as u8, 0));
            }
            code.extend([one(ANSWER, 0), one(LOAD_HALF, at + 2)]);
        }
    }
    code.push(one(ANSWER, 0));
    code
}

/// Answers with a hash of the sum of these words, in which both directions are one.
fn sum(at: u32, words: u32) -> Vec<Instruction> {
    let mut code = vec![one(LOAD_WORD, at)];
    for word in 1..words {
        code.extend([one(TO_X, 0), one(LOAD_WORD, at + 4 * word), one(ADD_X, 0)]);
    }
    // The upper half: the lowest bits of a product depend on those of its factors alone.
    code.extend([one(MULTIPLY, GOLDEN), one(SHIFT_RIGHT, 16), one(ANSWER_A, 0)]);
    code
}

const fn one(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn if_equal(k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: IF_EQUAL, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::capture::bpf::Program;

    /// Bytes of an Ethernet header.
    const ETHERNET: usize = 14;

    /// A frame on the wire: addresses, tags, EtherType, packet.
    #[derive(Clone, Debug)]
    struct Wire {
        tags: Vec<u16>,
        ethertype: u16,
        packet: Vec<u8>,
    }

    impl Wire {
        /// All that follows the two addresses.
        fn behind_addresses(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            for tag in &self.tags {
                bytes.extend(tag.to_be_bytes());
                bytes.extend([0x20, 0x07]);
            }
            bytes.extend(self.ethertype.to_be_bytes());
            bytes.extend(&self.packet);
            bytes
        }

        /// What the kernel shows of it, cut to so many bytes: EtherType, bytes.
        fn shown(&self, outgoing: bool, header_tag: bool, captured: usize) -> (u16, Vec<u8>) {
            let mut wire = self.clone();
            if header_tag && !wire.tags.is_empty() {
                wire.tags.remove(0);
            }
            let behind = wire.behind_addresses();
            let ethertype = u16::from_be_bytes([behind[0], behind[1]]);
            let mut bytes = if outgoing { vec![0xee; ETHERNET - 2] } else { Vec::new() };
            bytes.extend(if outgoing { &behind[..] } else { &behind[2..] });
            bytes.truncate(captured);
            (ethertype, bytes)
        }
    }

    /// Our own machine for such programs knows nothing of the kernel's: what that tells is put into the program.
    fn ask(ethertype: u16, outgoing: bool, bytes: &[u8]) -> u32 {
        let told = |asked: Instruction| match asked.k {
            PROTOCOL => Instruction { code: 0, k: ethertype.into(), ..asked },
            KIND => Instruction { code: 0, k: if outgoing { libc::PACKET_OUTGOING.into() } else { 3 }, ..asked },
            _ => asked,
        };
        let program = program(ETHERNET as u32).into_iter().map(told).collect();
        let program = Program::new(program);
        assert!(program.is_some(), "jumps lead forward, and it ends");
        program.and_then(|program| program.run(bytes, bytes.len() as u32)).unwrap_or(0)
    }

    /// The same, written down another way.
    fn oracle(wire: &Wire, header_tag: bool) -> u32 {
        let in_frame = wire.tags.len() - usize::from(header_tag && !wire.tags.is_empty());
        let places = match wire.ethertype {
            0x0800 => 12..20,
            0x86dd => 8..40,
            _ => return 0,
        };
        if in_frame > 2 || places.end > wire.packet.len() {
            return 0;
        }
        let words =
            wire.packet[places].chunks(4).map(|word| word.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)));
        let sum = words.fold(0_u64, |sum, word| sum + u64::from(word)) as u32;
        (u64::from(sum) * u64::from(GOLDEN)) as u32 >> 16
    }

    /// The packet that answers.
    fn answer(wire: &Wire) -> Wire {
        let mut back = wire.clone();
        let half = if wire.ethertype == 0x0800 { 12..16 } else { 8..24 };
        let size = half.len();
        if wire.packet.len() >= half.end + size {
            for place in half {
                back.packet.swap(place, place + size);
            }
        }
        back
    }

    fn wires() -> impl Strategy<Value = Wire> {
        let tag = prop::sample::select(vec![0x8100_u16, 0x88a8, 0x9100]);
        let ethertype = prop_oneof![4 => Just(0x0800), 4 => Just(0x86dd), 1 => any::<u16>()];
        (prop::collection::vec(tag, 0..4), ethertype, prop::collection::vec(any::<u8>(), 0..80))
            .prop_filter("a tag is none of the packet's", |(_, ethertype, _)| {
                !TAG_TYPES.contains(&u32::from(*ethertype))
            })
            .prop_map(|(tags, ethertype, packet)| Wire { tags, ethertype, packet })
    }

    proptest! {
        #[test]
        fn both_directions_get_the_same_ring_however_they_are_shown(
            wire in wires(), outgoing in any::<bool>(), header_tag in any::<bool>(), back_outgoing in any::<bool>()
        ) {
            let (ethertype, bytes) = wire.shown(outgoing, header_tag, usize::MAX);
            let given = ask(ethertype, outgoing, &bytes);
            prop_assert_eq!(given, oracle(&wire, header_tag));
            let (ethertype, bytes) = answer(&wire).shown(back_outgoing, header_tag, usize::MAX);
            prop_assert_eq!(given, ask(ethertype, back_outgoing, &bytes));
        }

        #[test]
        fn a_frame_too_short_for_its_addresses_gets_the_first(wire in wires(), outgoing in any::<bool>(), cut in 0_usize..100) {
            let (ethertype, whole) = wire.shown(outgoing, false, usize::MAX);
            let (_, bytes) = wire.shown(outgoing, false, cut);
            let given = ask(ethertype, outgoing, &bytes);
            prop_assert!(given == 0 || given == ask(ethertype, outgoing, &whole));
            let needed = if wire.ethertype == 0x0800 { 20 } else { 40 };
            let before = if outgoing { ETHERNET } else { 0 } + 4 * wire.tags.len();
            if bytes.len() < before + needed {
                prop_assert_eq!(given, 0);
            }
        }
    }

    #[test]
    fn neighbours_are_spread() {
        for rings in [2, 3, 4, 8] {
            let mut frames = vec![0_u32; rings];
            for host in 0..=255 {
                let mut packet = vec![0; 20];
                packet[12..].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, host]);
                frames[ask(0x0800, false, &packet) as usize % rings] += 1;
            }
            let fair = 256 / rings as u32;
            assert!(frames.iter().all(|&count| count > fair / 2 && count < fair * 2), "{frames:?}");
        }
    }
}
