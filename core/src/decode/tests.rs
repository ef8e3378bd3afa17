//! Facts about decode that do not need a capture: every truncation, and lengths that lie.
//! What real captures decode to is compared with dpkt in `tests/test_decode_oracle.py`.

use super::*;
use crate::fingerprint::testing::hex;

/// Ethernet, IPv4, UDP 40440 > 51820, eight payload bytes.
fn frame() -> Vec<u8> {
    let mut frame = vec![0x02; 12];
    frame.extend([0x08, 0x00]);
    frame.extend([0x45, 0, 0, 36, 0, 1, 0, 0, 64, 17, 0, 0, 100, 64, 7, 22, 203, 0, 113, 10]);
    frame.extend([0x9d, 0xf8, 0xca, 0x6c, 0, 16, 0x12, 0x34]);
    frame.extend([4, 0, 0, 0, 1, 2, 3, 4]);
    frame
}

fn decoded(bytes: &[u8], original: u32, link: u16) -> (Result<Decoded, DecodeError>, Packet) {
    let mut packet = Packet::default();
    (decode(bytes, original, LinkType(link), &Peel::default(), &mut packet), packet)
}

#[test]
fn udp_over_ipv4() {
    let frame = frame();
    let (result, packet) = decoded(&frame, frame.len() as u32, 1);
    assert_eq!(result, Ok(Decoded::Flow));
    assert_eq!((packet.source_port, packet.destination_port), (40440, 51820));
    assert_eq!(packet.source[..4], [100, 64, 7, 22]);
    assert_eq!((packet.ip_length, packet.payload_length, packet.payload_captured), (36, 8, 8));
    assert_eq!(packet.path.layers().map(EncapLayer::name).collect::<Vec<_>>(), ["ethernet"]);
}

#[test]
fn every_truncation_is_an_error_or_keeps_the_true_lengths() {
    let whole = frame();
    for cut in 0..whole.len() {
        let (result, packet) = decoded(&whole[..cut], whole.len() as u32, 1);
        if cut < 42 {
            assert_eq!(result.map_err(|error| error.cause), Err(Cause::Truncated), "cut at {cut}");
        } else {
            assert_eq!(result, Ok(Decoded::Flow));
            assert_eq!((packet.payload_length, packet.payload_captured), (8, cut as u32 - 42));
        }
        // The same bytes as a frame that claims to be whole: a lie, not a cut.
        let (result, _) = decoded(&whole[..cut], cut as u32, 1);
        if cut < 42 {
            assert_eq!(result.map_err(|error| error.cause), Err(Cause::Malformed), "cut at {cut}");
        }
    }
}

#[test]
fn ethernet_padding_is_no_payload() {
    let mut frame = frame();
    frame.extend([0; 10]);
    let (_, packet) = decoded(&frame, frame.len() as u32, 1);
    assert_eq!((packet.payload_length, packet.payload_captured), (8, 8));
}

#[test]
fn a_udp_length_behind_the_ip_packet_is_bounded_by_it_but_not_in_a_first_fragment() {
    let mut frame = frame();
    frame[38..40].copy_from_slice(&1000_u16.to_be_bytes());
    assert_eq!(decoded(&frame, 50, 1).1.payload_length, 8);
    frame[20] = 0x20; // more fragments
    assert_eq!(decoded(&frame, 50, 1).1.payload_length, 992);
    frame[21] = 1; // offset 8
    assert_eq!(decoded(&frame, 50, 1).0, Ok(Decoded::LaterFragment));
}

#[test]
fn a_udp_length_below_its_header_is_malformed() {
    let mut frame = frame();
    frame[39] = 7;
    assert_eq!(decoded(&frame, 50, 1).0, Err(DecodeError { layer: Layer::Udp, cause: Cause::Malformed, offset: 34 }));
}

#[test]
fn vlan_stacks_are_peeled_and_bounded() {
    let plain = frame();
    let mut tagged = plain[..12].to_vec();
    tagged.extend([0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x20, 0x00]);
    tagged.extend(&plain[12..]);
    let (result, packet) = decoded(&tagged, tagged.len() as u32, 1);
    assert_eq!(result, Ok(Decoded::Flow));
    assert_eq!(packet.vlans.ids().collect::<Vec<_>>(), [100, 0]);
    assert_eq!(packet.path.layers().map(EncapLayer::name).collect::<Vec<_>>(), ["ethernet", "802.1ad", "802.1q"]);

    let mut endless = plain[..12].to_vec();
    endless.extend([0x81, 0x00, 0x00, 0x01].repeat(1000));
    assert_eq!(decoded(&endless, 4012, 1).0.map_err(|error| error.cause), Err(Cause::Malformed));
}

#[test]
fn ipv6_extension_headers_are_followed_and_ah_is_not_one() {
    let mut packet = vec![0x60, 0, 0, 0, 0, 40, 0, 64];
    packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(2));
    packet.extend([60, 0, 1, 4, 0, 0, 0, 0]); // hop by hop
    packet.extend([17, 0, 1, 4, 0, 0, 0, 0]); // destination options
    packet.extend([0x12, 0x34, 0x56, 0x78, 0, 24, 0, 0]);
    packet.extend([0; 16]);
    let (result, found) = decoded(&packet, packet.len() as u32, 229);
    assert_eq!(result, Ok(Decoded::Flow));
    assert_eq!((found.source_port, found.payload_length, found.ip_length), (0x1234, 16, 80));
    assert!(found.has_no_checksum());
    packet[40] = 51;
    packet[49] = 4;
    let (result, found) = decoded(&packet, packet.len() as u32, 101);
    assert_eq!((result, found.transport, found.payload_length), (Ok(Decoded::Flow), Transport::Ah, 32));
}

#[test]
fn null_in_both_byte_orders() {
    let ip = frame()[14..].to_vec();
    for family in [[2, 0, 0, 0], [0, 0, 0, 2]] {
        let frame: Vec<u8> = family.iter().chain(&ip).copied().collect();
        assert_eq!(decoded(&frame, frame.len() as u32, 0).0, Ok(Decoded::Flow));
    }
    let swapped: Vec<u8> = [2, 0, 0, 0].iter().chain(&ip).copied().collect();
    assert_eq!(decoded(&swapped, swapped.len() as u32, 108).0, Ok(Decoded::NoFlow(NoFlow::OtherEthertype)));
}

#[test]
fn an_unknown_link_type_is_named() {
    let error = decoded(&frame(), 50, 147).0.unwrap_err();
    assert_eq!(error.to_string(), "link_type_unsupported at offset 0");
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic_and_no_payload_leaves_the_frame(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        link in proptest::sample::select(vec![0_u16, 1, 12, 14, 101, 108, 113, 228, 229, 276, 9]),
        original in 0_u32..70_000,
    ) {
        let (result, packet) = decoded(&bytes, original, link);
        if result == Ok(Decoded::Flow) {
            let end = packet.payload_offset as usize + packet.payload_captured as usize;
            proptest::prop_assert!(packet.payload_captured == 0 || end <= bytes.len());
            proptest::prop_assert!(packet.payload_captured <= packet.payload_length);
        }
    }
}

/// Plain frames behind the headers that are given in hexadecimal, each with its path.
#[test]
fn rarer_headers_lead_to_the_same_packet() {
    let plain = frame();
    let (addresses, ip) = (&plain[..12], &plain[14..]);
    let udp = |port: u16, inner: &[u8]| {
        let mut outer = hex("4500 0000 0000 0000 4011 0000 c0000201 c0000202 c000");
        outer.extend(port.to_be_bytes());
        outer.extend((8 + inner.len() as u16).to_be_bytes());
        outer.extend([0, 0]);
        outer.extend(inner);
        let total = outer.len() as u16;
        outer[2..4].copy_from_slice(&total.to_be_bytes());
        outer
    };
    let gre = |head: &str| {
        let inner = [&hex(head), ip].concat();
        let mut outer = hex("4500 0000 0000 0000 402f 0000 c0000201 c0000202");
        outer.extend(inner);
        let total = outer.len() as u16;
        outer[2..4].copy_from_slice(&total.to_be_bytes());
        [addresses, &[8, 0], &outer].concat()
    };
    let label = hex("0001f140");
    for (link, bytes, path) in [
        (1, [addresses, &hex("0030 aaaa03 000000 0800"), ip].concat(), "ethernet"),
        (1, [addresses, &hex("9300 0007 0800"), ip].concat(), "ethernet 802.1ad"),
        (1, [addresses, &hex("8926 80010002 0800"), ip].concat(), "ethernet tag"),
        (1, [addresses, &hex("893f 000100020003 0800"), ip].concat(), "ethernet tag"),
        (1, [addresses, &hex("f1c1 00000007 0800"), ip].concat(), "ethernet tag"),
        (1, [addresses, &hex("88e7 00012345"), &plain].concat(), "ethernet pbb ethernet"),
        (1, [addresses, &[8, 0], &udp(4754, &[&hex("00000800"), ip].concat())].concat(), "ethernet ipv4 gre"),
        (1, [addresses, &[8, 0], &udp(6635, &[&hex("00000140"), ip].concat())].concat(), "ethernet ipv4 mpls"),
        (
            1,
            [addresses, &[8, 0], &udp(4790, &[&hex("0800000000000700"), &plain[..]].concat())].concat(),
            "ethernet ipv4 vxlan ethernet",
        ),
        (1, gre("0000883e 00000001"), "ethernet ipv4 gre"),
        (1, gre("0000883e"), "ethernet ipv4 gre"),
        (1, gre("40000800 00000000 00010004 01020304 00000000"), "ethernet ipv4 gre"),
        (104, [&hex("0f00 0800"), ip].concat(), "c_hdlc"),
        (166, [&hex("0103 0021"), ip].concat(), "ppp"),
        (204, [&hex("01 ff03 0021"), ip].concat(), "ppp"),
        // A pseudowire with a control word, and one without to an address that looks like one.
        (1, [addresses, &hex("8847"), &label, &hex("00000000"), &plain].concat(), "ethernet mpls ethernet"),
        (
            1,
            [addresses, &hex("8847"), &label, &hex("001b21020304 020000000002 0800"), ip].concat(),
            "ethernet mpls ethernet",
        ),
    ] {
        let (result, packet) = decoded(&bytes, bytes.len() as u32, link);
        assert_eq!(result, Ok(Decoded::Flow), "{path}");
        let layers: Vec<_> = packet.path.layers().map(EncapLayer::name).collect();
        assert_eq!(layers.join(" "), path);
        let start = packet.payload_offset as usize;
        assert_eq!(&bytes[start..start + packet.payload_captured as usize], &plain[42..], "{path}");
    }
}

proptest::proptest! {
    /// One look at a plain frame gives what its headers give one by one, whatever is wrong in it.
    #[test]
    fn a_plain_frame_in_one_look_is_as_its_headers_say(
        changes in proptest::collection::vec((0_usize..62, proptest::num::u8::ANY), 0..6),
        is_tcp: bool,
        is_tagged: bool,
        is_ipv6: bool,
        ports: (u16, u16),
        port in proptest::option::of(proptest::sample::select(vec![2152_u16, 4789, 4790, 6081, 8472, 4754, 6635])),
        length in 0_usize..62,
        extra in 0_u32..9,
    ) {
        let mut bytes = frame();
        bytes.extend([0x50, 0x18, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
        if is_tcp {
            bytes[23] = 6;
            bytes[17] = 48;
            bytes[46] = 0x50;
        }
        bytes[34..36].copy_from_slice(&ports.0.to_be_bytes());
        bytes[36..38].copy_from_slice(&port.unwrap_or(ports.1).to_be_bytes());
        if is_ipv6 {
            let length = (bytes.len() - 34) as u8;
            let mut header = vec![0x60, 0, 0, 0, 0, length, bytes[23], 64];
            header.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(2));
            bytes.splice(14..34, header);
            bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
        }
        if is_tagged {
            bytes.splice(12..12, [0x81, 0x00, 0x20, 0x07]);
        }
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(length.max(bytes.len() - 20));
        let original = bytes.len() + extra as usize;
        // What a packet held before must not show.
        let old = Packet {
            source: [7; 16],
            destination: [7; 16],
            tcp_sequence: 7,
            tcp_flags: 7,
            identification: 7,
            fragment: Some(Fragment::default()),
            vlans: Vlans(7),
            ..Packet::default()
        };
        let (mut one_look, mut decoded, mut packet) = (old, old, Packet::default());
        let is_plain = plain(&bytes, LinkType(1), &mut one_look);
        let mut cursor = Cursor { bytes: &bytes, offset: 0, original, end: original };
        let slow = follow(&mut cursor, &mut packet, Next::Ethernet, &Peel::default(), MAX_DEPTH);
        if is_plain {
            proptest::prop_assert_eq!(Ok(Decoded::Flow), slow);
            proptest::prop_assert_eq!(format!("{one_look:?}"), format!("{packet:?}"));
        }
        let padded = |address: [u8; 4]| u128::from(u32::from_le_bytes(address)).to_le_bytes();
        let (ipv4, ipv6) = (|one, other| (padded(one), padded(other), 4), |one, other| (one, other, 6));
        let addresses = plain_addresses(&bytes, LinkType(1), ipv4, ipv6);
        if let (Some(addresses), Ok(Decoded::Flow | Decoded::LaterFragment)) = (addresses, slow) {
            proptest::prop_assert_eq!(addresses, (packet.source, packet.destination, packet.ip_version));
        }
        proptest::prop_assert!(!is_plain || addresses.is_some());
        let whole = decode(&bytes, original as u32, LinkType(1), &Peel::default(), &mut decoded);
        proptest::prop_assert_eq!(whole, slow);
        if slow.is_ok() {
            proptest::prop_assert_eq!(format!("{decoded:?}"), format!("{packet:?}"));
        }
    }
}
