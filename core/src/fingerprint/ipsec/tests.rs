//! Bytes are from the cases in `pcaps/` that the comments name.
use super::super::testing::*;
use super::*;
use Confidence::{Confirmed, Likely, Possible};

const IKE_PORTS: [u16; 2] = [500, 500];
const NATT_PORTS: [u16; 2] = [4_500, 4_500];
const OTHER_PORTS: [u16; 2] = [40_000, 1_194];
const IPSEC: Protocol = Protocol::Ipsec;

/// ikev2-no-proposal, packets 3 (an SA_INIT request of 240 bytes) and 4 (its refusal).
const SA_INIT: &str = "1bea86622f7f853e00000000000000002120220800000000000000f0220000300000002c010100040300000c0100000c
    800e0080030000080300000c0300000802000005000000080400001f28000028001f0000092f556f50df34f5bf1e8a55f26f6a288a05ed9f
    a311d07fb1142e42eb69d404290000242e6002091b905eb57bba9f1a48dd90b59e4996a450b5e02d3f48a9dcc126ff272900001c00004004
    f12a50fd7c6c43e3614ad06029fd43460d9ab0272900001c0000400512a1a97a95b9035c40243c27cde8b9f28af1ce51290000080000402e
    290000100000402f00020003000400050000000800004016";
const NO_PROPOSAL: &str = "1bea86622f7f853e0000000000000000292022200000000000000024000000080000000e";
/// ikev2-cookie, packet 4: a cookie of 24 bytes in a notification.
const COOKIE: &str =
    "e4253abab1db136d000000000000000029202220000000000000003c00000020000040061e0d0000c66f2d0b9df060e2430e66fdb
    d89b867fc36fee8";
/// ikev2-cookie, packets 7 (308 bytes) and 8 (244): AUTH on port 4500, behind the marker.
const AUTH_REQUEST: &str = "00000000e4253abab1db136d74ec6740d142e46f2e202308000000010000013023000114d44098a3d9bc2b2d";
const AUTH_RESPONSE: &str = "00000000e4253abab1db136d74ec6740d142e46f2e20232000000001000000f0240000d4b1a6c4cf8d8c9e68";
/// ikev2-nat-keepalive-wan, packets 24 and 25 (84 bytes): INFORMATIONAL.
const INFORMATIONAL: &str = "00000000386e086dbe759c2360ddf62d3080632b2e20250800000002000000502a000034";
/// ikev1-unanswered, packet 3 (180 bytes): main mode.
const MAIN_MODE: &str = "34297c8bfb3a45eb00000000000000000110020000000000000000b40d00003800000001000000010000002c010100
    01000000240101000080010007800e0100800200048004000e80030001800b0001800c3de00d00000c09002689dfd6b7120d000014afcad7
    1368a1f1c96b8696fc775701000d0000184048b7d56ebce88525e7de7f00d6c2d3800000000d0000144a131c81070358455c5728f20e9545
    2f0000001490cb80913ebb696e086381b5ec427b1f";
/// ikev1-main-psk, packets 7 (112 bytes: phase 1, encrypted), 9 (192: quick mode) on port 4500.
const MAIN_ENCRYPTED: &str =
    "00000000f0adf6a46296fe505a20e0898ab1048d05100201000000000000006cde6ecd0ef2f6601958047c4cd41acda0";
const QUICK_MODE: &str =
    "00000000f0adf6a46296fe505a20e0898ab1048d0810200190e1f8e4000000bc0d5bfb98d29a997cf5a4a3568a5b76a6";

fn without_marker(payload: &[u8]) -> Vec<u8> {
    payload[4..].to_vec()
}

fn auth_request() -> Vec<u8> {
    padded(AUTH_REQUEST, 308)
}

/// Writes the header's length, and SK's behind it.
fn with_lengths(mut payload: Vec<u8>, start: usize) -> Vec<u8> {
    let length = (payload.len() - start) as u32;
    payload[start + 24..start + 28].copy_from_slice(&length.to_be_bytes());
    if payload.len() >= start + 32 {
        payload[start + 30..start + 32].copy_from_slice(&(length as u16 - 28).to_be_bytes());
    }
    payload
}

fn level(ports: [u16; 2], payload: &[u8]) -> Option<Confidence> {
    alone(ports, payload, payload.len() as u32).map(|(protocol, finding)| {
        assert_eq!(protocol, IPSEC);
        finding.confidence
    })
}

/// ESP of `length` bytes.
fn esp(spi: u32, sequence: u32, length: usize) -> Vec<u8> {
    let mut packet = spi.to_be_bytes().to_vec();
    packet.extend(sequence.to_be_bytes());
    packet.extend(Random(u64::from(spi) ^ u64::from(sequence)).bytes(length - 8));
    packet
}

/// espudp-midflow-4500: the SPIs of its two directions; lengths 136 and 312.
const SPI_OUT: u32 = 0x9ec7_b4c3;
const SPI_IN: u32 = 0x2722_d587;

#[test]
fn ikev2_openings_and_refusals() {
    for (payload, phase, initiator, variant) in [
        (hex(SA_INIT), Phase::Attempt, 0, Variant::IkeV2),
        (hex(NO_PROPOSAL), Phase::Handshake, 1, Variant::IkeV2),
        (hex(COOKIE), Phase::Handshake, 1, Variant::IkeV2),
        (hex(MAIN_MODE), Phase::Attempt, 0, Variant::IkeV1),
    ] {
        for ports in [IKE_PORTS, OTHER_PORTS] {
            let mut flow = Conversation::udp(ports);
            flow.send(0, &payload);
            assert_eq!(flow.state(), Some((IPSEC, Confirmed, phase)));
            let finding = flow.best().map(|(_, finding)| (finding.initiator, finding.variant, finding.midflow));
            assert_eq!(finding, Some((Some(initiator), variant, false)));
        }
    }
    // A request sent again, as ikev2-unanswered-v6 does, stays an attempt.
    let mut flow = Conversation::udp(IKE_PORTS);
    for _ in 0..5 {
        flow.send(0, &hex(SA_INIT));
        assert_eq!(flow.phase(), Some(Phase::Attempt));
        flow.time += 4 * SECOND;
    }
    assert_eq!(flow.count("ipsec.spi_pair"), 4);
    flow.send(1, &hex(NO_PROPOSAL));
    assert_eq!(flow.phase(), Some(Phase::Handshake));
}

#[test]
fn an_ikev2_session_on_port_4500() {
    let mut flow = Conversation::udp(NATT_PORTS);
    flow.send(0, &auth_request());
    assert_eq!(flow.state(), Some((IPSEC, Confirmed, Phase::Handshake)));
    // The peers moved here from port 500: no joining in the middle.
    assert_eq!(flow.best().map(|(_, finding)| (finding.initiator, finding.midflow)), Some((Some(0), false)));
    flow.send(1, &padded(AUTH_RESPONSE, 244));
    assert_eq!((flow.count("ipsec.ikev2_encrypted"), flow.count("ipsec.non_esp_marker")), (2, 2));
    assert_eq!(flow.count("ipsec.spi_pair"), 1);
    assert_eq!(flow.best().map(|(_, finding)| finding.variant), Some(Variant::IkeV2));
    // Packet 9: ESP, 136 bytes.
    flow.send(0, &padded("795ab50c000000011e74e0fae844e5b1", 136));
    assert_eq!(flow.state(), Some((IPSEC, Confirmed, Phase::Established)));
    assert_eq!(flow.best().map(|(_, finding)| finding.variant), Some(Variant::IkeV2Esp));
    flow.send(0, &[0xff]);
    assert_eq!((flow.count("ipsec.esp_in_udp"), flow.count("ipsec.nat_keepalive")), (1, 1));

    // The responder's side alone: its flag says that it is not the initiator.
    let mut flow = Conversation::udp(NATT_PORTS);
    flow.send(0, &padded(AUTH_RESPONSE, 244));
    assert_eq!(flow.best().map(|(_, finding)| finding.initiator), Some(Some(1)));
    // What only comes later, alone: an exchange within an SA.
    let mut flow = Conversation::udp(NATT_PORTS);
    flow.send(0, &padded(INFORMATIONAL, 84));
    assert_eq!(flow.state(), Some((IPSEC, Confirmed, Phase::Established)));
    assert_eq!(flow.best().map(|(_, finding)| finding.midflow), Some(true));
}

#[test]
fn the_marker_is_optional_on_any_port() {
    let marked = auth_request();
    for ports in [IKE_PORTS, NATT_PORTS, OTHER_PORTS] {
        assert_eq!(level(ports, &marked), Some(Confirmed));
        assert_eq!(level(ports, &without_marker(&marked)), Some(Confirmed));
        // ikev2-port-1194 opens behind the marker.
        assert_eq!(level(ports, &[&[0; 4], &hex(SA_INIT)[..]].concat()), Some(Confirmed));
        // Four other bytes before a header are none: the lengths no longer fit.
        assert_eq!(level(ports, &[&[0, 0, 0, 1], &hex(SA_INIT)[..]].concat()), None);
        assert_eq!(level(ports, &[&[0; 8], &hex(SA_INIT)[..]].concat()), None);
    }
}

#[test]
fn encrypted_exchanges_of_ikev2() {
    let make = |exchange: u8, first: u8| {
        let mut message = without_marker(&auth_request());
        (message[16], message[18]) = (first, exchange);
        message
    };
    // SK (46) and SKF (53, RFC 7383) in AUTH, CREATE_CHILD_SA, INFORMATIONAL, group keying, INTERMEDIATE, FOLLOWUP_KE.
    for exchange in (0..=255_u8).filter(|exchange| *exchange != 34 && *exchange != 38) {
        let known = matches!(exchange, 35..=37 | 39..=41 | 43 | 44);
        for first in [46, 53] {
            assert_eq!(level(OTHER_PORTS, &make(exchange, first)).is_some(), known, "{exchange} {first}");
        }
        assert_eq!(level(OTHER_PORTS, &make(exchange, 45)), None);
    }
    // An unprotected INVALID_IKE_SPI notification (RFC 7296, 2.21.4) is the one thing in clear.
    let mut notified = hex(NO_PROPOSAL);
    notified[8..16].fill(9);
    notified[18] = 37;
    assert_eq!(level(OTHER_PORTS, &notified), Some(Confirmed));
    let mut flow = Conversation::udp(OTHER_PORTS);
    flow.send(0, &notified);
    assert_eq!(flow.phase(), Some(Phase::Handshake));
}

#[test]
fn wrong_lengths_flags_and_chains_are_no_ike() {
    let request = hex(SA_INIT);
    for length in [0, 1, 27, 28, 239, 241, 0xffff_ffff_u32] {
        let mut changed = request.clone();
        changed[24..28].copy_from_slice(&length.to_be_bytes());
        assert_eq!(level(IKE_PORTS, &changed), None, "length {length}");
    }
    // Reserved flag bits; a request without the initiator's flag; an answer is not without one.
    for flags in [0x00, 0x02, 0x04, 0x09, 0x40, 0x80, 0x88] {
        let mut changed = request.clone();
        changed[19] = flags;
        assert_eq!(level(IKE_PORTS, &changed), None, "flags {flags:02x}");
    }
    // Each payload of the chain, longer or shorter than it is, or with reserved bits.
    for at in [28, 76, 116, 152, 180, 208, 216, 232] {
        for (offset, value) in [(1, 0x01), (1, 0x40), (2, 0x10), (3, 0xff), (3, 0x03), (3, 0x00)] {
            let mut changed = request.clone();
            changed[at + offset] = value;
            assert_eq!(level(IKE_PORTS, &changed), None, "byte {} as {value:02x}", at + offset);
        }
        // Critical is a bit that may be set.
        let mut changed = request.clone();
        changed[at + 1] = 0x80;
        assert_eq!(level(IKE_PORTS, &changed), Some(Confirmed));
    }
    // A chain that goes on behind its end, and one that ends before it.
    let mut changed = request.clone();
    changed[232] = 41;
    assert_eq!(level(IKE_PORTS, &changed), None);
    changed[232] = 0;
    changed[180] = 0;
    assert_eq!(level(IKE_PORTS, &changed), None);
    // No SPI; a responder's SPI in a request; versions 1.1, 2.1 and 3.0.
    for (range, value) in [(0..8, 0), (8..16, 1), (17..18, 0x11), (17..18, 0x21), (17..18, 0x30)] {
        let mut changed = request.clone();
        changed[range.clone()].fill(value);
        assert_eq!(level(IKE_PORTS, &changed), None, "{range:?} as {value:02x}");
    }
    // Encrypted: SK's length runs to the end, and there is room for an IV and a checksum.
    let auth = without_marker(&auth_request());
    for payload in [0, 15, 275, 277, 0xffff_u16] {
        let mut changed = auth.clone();
        changed[30..32].copy_from_slice(&payload.to_be_bytes());
        assert_eq!(level(OTHER_PORTS, &changed), None, "SK of {payload}");
    }
    for (length, fits) in [(28, false), (32, false), (43, false), (44, true), (300, true)] {
        assert_eq!(level(OTHER_PORTS, &with_lengths(auth[..length].to_vec(), 0)).is_some(), fits, "{length}");
    }
    // IKEv1's encryption bit, which some set, is minded in clear only.
    let mut changed = auth;
    changed[19] |= 0x01;
    assert_eq!(level(OTHER_PORTS, &changed), Some(Confirmed));
}

#[test]
fn ikev1_modes() {
    let mut aggressive = hex(MAIN_MODE);
    aggressive[18] = 4;
    assert_eq!(level(OTHER_PORTS, &aggressive), Some(Confirmed));
    // Encrypted and alone, the header has 58 bits: confirmed on IKE's ports or by a second message.
    for head in [(MAIN_ENCRYPTED, 112), (QUICK_MODE, 192)] {
        let marked = padded(head.0, head.1);
        assert_eq!(level(NATT_PORTS, &marked), Some(Confirmed));
        assert_eq!(level(IKE_PORTS, &without_marker(&marked)), Some(Confirmed));
        assert_eq!(level(OTHER_PORTS, &marked), Some(Likely));
        let mut flow = Conversation::udp(OTHER_PORTS);
        flow.send(0, &marked);
        flow.send(1, &marked);
        assert_eq!(flow.confidence(), Some(Confirmed));
        // Bodies are whole cipher blocks.
        assert_eq!(level(NATT_PORTS, &with_length_v1(marked[..head.1 - 4].to_vec())), None);
    }
    // Another SA's message is no second one.
    let (first, mut second) = (padded(QUICK_MODE, 192), padded(QUICK_MODE, 192));
    second[4] ^= 1;
    let mut flow = Conversation::udp(OTHER_PORTS);
    flow.send(0, &first);
    flow.send(0, &second);
    assert_eq!(flow.confidence(), Some(Likely));
    // XAUTH (transaction, 6), informational (5) and new group (33) within a session.
    for (exchange, known) in [(5, true), (6, true), (33, true), (7, false), (31, false), (34, false)] {
        let mut changed = padded(QUICK_MODE, 192);
        changed[4 + 18] = exchange;
        assert_eq!(level(NATT_PORTS, &changed).is_some(), known, "exchange {exchange}");
    }
    // Message ids: zero in phase 1, drawn afterwards.
    let mut changed = padded(QUICK_MODE, 192);
    changed[24..28].fill(0);
    assert_eq!(level(NATT_PORTS, &changed), None);
    let mut changed = hex(MAIN_MODE);
    changed[23] = 1;
    assert_eq!(level(IKE_PORTS, &changed), None);
    // What opens proposes an SA; what is not known to be a payload does not come first.
    for first in [0, 2, 14, 22, 33, 132] {
        let mut changed = hex(MAIN_MODE);
        changed[16] = first;
        assert_eq!(level(IKE_PORTS, &changed), None, "payload {first}");
    }
}

/// Writes an IKEv1 header's length, behind the marker.
fn with_length_v1(mut payload: Vec<u8>) -> Vec<u8> {
    let length = payload.len() as u32 - 4;
    payload[28..32].copy_from_slice(&length.to_be_bytes());
    payload
}

#[test]
fn an_ikev1_session() {
    let mut flow = Conversation::udp(NATT_PORTS);
    flow.send(0, &padded(MAIN_ENCRYPTED, 112));
    assert_eq!(flow.state(), Some((IPSEC, Confirmed, Phase::Handshake)));
    flow.send(0, &padded(QUICK_MODE, 192));
    assert_eq!(flow.state(), Some((IPSEC, Confirmed, Phase::Established)));
    // ikev1-main-psk, packet 12.
    flow.send(0, &padded("d8c1c4d500000001dbb94171d3f2426f", 132));
    assert_eq!(flow.best().map(|(_, finding)| finding.variant), Some(Variant::IkeV1Esp));
    // The responder's first message alone (packet 4, 160 bytes): an answer, and it shows who opened.
    let mut answer = hex(MAIN_MODE);
    answer[8..16].copy_from_slice(&hex("5a20e0898ab1048d"));
    let mut flow = Conversation::udp(IKE_PORTS);
    flow.send(0, &answer);
    assert_eq!(flow.state(), Some((IPSEC, Confirmed, Phase::Handshake)));
    assert_eq!(flow.best().map(|(_, finding)| finding.initiator), Some(Some(1)));
}

#[test]
fn a_nat_keepalive_alone_is_nothing() {
    let mut flow = Conversation::udp(NATT_PORTS);
    for _ in 0..100 {
        assert_eq!(flow.send(0, &[0xff]), None);
    }
}

#[test]
fn esp_in_udp_on_its_port() {
    // One packet, two, four: without checksums they are confirmed, with them the other direction must speak, too.
    for (zero, last) in [(true, Confirmed), (false, Likely)] {
        let mut flow = Conversation::udp(NATT_PORTS);
        flow.checksum_zero = zero;
        let levels: Vec<_> = (2..6)
            .map(|sequence| {
                flow.send(0, &esp(SPI_OUT, sequence, if sequence == 2 { 136 } else { 312 }));
                flow.confidence()
            })
            .collect();
        assert_eq!(levels, [None, Some(Likely), Some(Likely), Some(last)]);
        assert_eq!(flow.phase(), Some(Phase::DataOnly));
        let finding = flow.best().map(|(_, finding)| (finding.variant, finding.midflow, finding.initiator));
        assert_eq!(finding, Some((Variant::EspInUdp, true, None)));
        for sequence in 2..7 {
            flow.send(1, &esp(SPI_IN, sequence, 136));
        }
        assert_eq!(flow.confidence(), Some(Confirmed));
    }
    // A length that is not in fours, an SPI that is reserved, a counter that jumps.
    for (spi, lengths, step) in [(SPI_OUT, [313, 311], 1), (255, [312, 136], 1), (SPI_OUT, [312, 136], 65)] {
        let mut flow = Conversation::udp(NATT_PORTS);
        flow.checksum_zero = true;
        for number in 1..40 {
            flow.send(0, &esp(spi, number * step, lengths[number as usize % 2]));
        }
        assert_eq!(flow.best(), None, "{spi:08x} {lengths:?} {step}");
    }
    // Both ways, and one of them never counts by one: no ESP counts so.
    for steps in [[1, 64], [64, 1], [2, 2]] {
        let mut flow = Conversation::udp(NATT_PORTS);
        flow.checksum_zero = true;
        for number in 1..40 {
            flow.send(0, &esp(SPI_OUT, number * steps[0], 312));
            flow.send(1, &esp(SPI_IN, number * steps[1], 136));
        }
        assert_eq!(flow.confidence(), Some(Likely), "{steps:?}");
    }
    // 256 is the first that may be given away.
    let mut flow = Conversation::udp(NATT_PORTS);
    flow.checksum_zero = true;
    for number in 1..=4 {
        flow.send(0, &esp(256, number, 312));
    }
    assert_eq!(flow.confidence(), Some(Confirmed));
}

#[test]
fn esp_in_udp_on_another_port() {
    let run = |packets: u32, zero: bool, spis: [u32; 2], ip_version: u8, steps: [u32; 2]| {
        let mut flow = Conversation::udp([40_001, 10_000]);
        (flow.checksum_zero, flow.ip_version) = (zero, ip_version);
        for number in 1..=packets {
            for direction in [0, 1] {
                let (spi, step) = (spis[usize::from(direction)], steps[usize::from(direction)]);
                if spi != 0 {
                    flow.send(direction, &esp(spi, number * step, if number % 2 == 0 { 136 } else { 312 }));
                }
            }
        }
        flow.confidence()
    };
    // The checksum makes it likely, both directions confirm it.
    for (packets, zero, spis, ip_version, expected) in [
        (3, true, [SPI_OUT, 0], 4, None),
        (4, true, [SPI_OUT, 0], 4, Some(Possible)),
        (7, true, [SPI_OUT, 0], 4, Some(Possible)),
        (8, true, [SPI_OUT, 0], 4, Some(Likely)),
        (100, true, [SPI_OUT, 0], 4, Some(Likely)),
        (100, false, [SPI_OUT, 0], 4, Some(Possible)),
        (7, true, [SPI_OUT, SPI_IN], 4, Some(Possible)),
        (8, true, [SPI_OUT, SPI_IN], 4, Some(Likely)),
        (31, true, [SPI_OUT, SPI_IN], 4, Some(Likely)),
        (32, true, [SPI_OUT, SPI_IN], 4, Some(Confirmed)),
        (100, false, [SPI_OUT, SPI_IN], 4, Some(Possible)),
        // A zero checksum means something else over IPv6.
        (100, true, [SPI_OUT, SPI_IN], 6, Some(Possible)),
        // A magic word and a counter in both directions (Nintendo Pia's 32ab9864).
        (100, false, [0x32ab_9864, 0x32ab_9864], 4, None),
        (100, true, [0x32ab_9864, 0x32ab_9864], 4, None),
        // WireGuard's type words are SPIs too.
        (100, true, [0x0400_0000, 0x0100_0000], 4, None),
    ] {
        let found = run(packets, zero, spis, ip_version, [1, 1]);
        // The first packet of a magic word is in one direction only.
        let bound = expected.or((spis[0] == spis[1]).then_some(Possible));
        assert!(found >= expected && found <= bound, "{packets} {zero} {spis:08x?} IPv{ip_version}: {found:?}");
    }
    // Counters that go by other steps than one are somebody else's.
    for steps in [[1, 2], [64, 1], [7, 7]] {
        assert_eq!(run(100, true, [SPI_OUT, SPI_IN], 4, steps), Some(Likely), "{steps:?}");
    }
}

#[test]
fn turn_channel_data_is_no_esp() {
    for padding in 0..=3 {
        for ports in [NATT_PORTS, OTHER_PORTS] {
            let mut flow = Conversation::udp(ports);
            flow.checksum_zero = true;
            for sequence in 1..=60_u16 {
                for (direction, channel) in [(0, 0x4001_u16), (1, 0x4002)] {
                    let mut packet = channel.to_be_bytes().to_vec();
                    packet.extend((172_u16 - padding).to_be_bytes());
                    packet.extend([0x80, 0x00]);
                    packet.extend(sequence.to_be_bytes());
                    packet.resize(176, 0x5a);
                    flow.send(direction, &packet);
                }
            }
            assert_eq!(flow.best(), None, "{padding} {ports:?}");
        }
    }
}

#[test]
fn look_alikes_on_the_ports_are_nothing() {
    let mut junk = Random(4_500);
    let mut flow = Conversation::udp(NATT_PORTS);
    for number in 0..200_u32 {
        // neg-zero-json-4500, packet 3: a marker, and no header behind it.
        let json = format!("{{\"seq\": {number}, \"op\": \"state\", \"v\": [0.31, 0.88, 0.12, 0.55]}}");
        flow.send(0, &[&[0; 4], json.as_bytes()].concat());
        // neg-junk-4500.
        let length = 20 + junk.below(1_200) as usize;
        flow.send(1, &junk.bytes(length));
    }
    assert_eq!(flow.best(), None);
    // neg-dns-500, neg-rtp-pcmu.
    for ports in [IKE_PORTS, OTHER_PORTS] {
        let mut flow = Conversation::udp(ports);
        for sequence in 0..200_u16 {
            flow.send(0, &padded("bffb01000001000000000001046d61696c076578616d706c65036f7267", 45));
            let mut rtp = hex("8000 0000 00000000 1e6afd0b");
            rtp[2..4].copy_from_slice(&sequence.to_be_bytes());
            rtp[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
            rtp.resize(172, 0x55);
            flow.send(1, &rtp);
        }
        assert_eq!(flow.best(), None);
    }
}

#[test]
fn esp_by_protocol() {
    // esp4-cbc-sha256, packets 3 to 6: 136 and 184 bytes.
    let mut flow = Conversation::ip(Transport::Esp);
    for (direction, spi, sequence, length, expected) in [
        (0, 0xc042_21bf, 1, 136, Likely),
        (1, 0x59a5_47cb, 1, 136, Likely),
        (0, 0xc042_21bf, 2, 184, Likely),
        (0, 0xc042_21bf, 3, 184, Confirmed),
    ] {
        flow.send(direction, &esp(spi, sequence, length));
        assert_eq!(flow.state(), Some((IPSEC, expected, Phase::DataOnly)));
    }
    assert_eq!((flow.count("ipsec.esp_protocol"), flow.count("ipsec.esp_sequence")), (2, 2));
    assert_eq!(flow.best().map(|(_, finding)| (finding.variant, finding.midflow)), Some((Variant::Esp, false)));

    let confidence = |packets: &[(u32, u32)]| {
        let mut flow = Conversation::ip(Transport::Esp);
        for &(spi, sequence) in packets {
            flow.send(0, &esp(spi, sequence, 84));
        }
        flow.confidence()
    };
    // SPI 0 never leaves a host.
    assert_eq!(confidence(&[(0, 1), (0, 2), (0, 3)]), None);
    // Rekeying: the old association drains while the new one begins.
    assert_eq!(confidence(&[(7_000, 900), (7_000, 901), (8_000, 1), (7_000, 902)]), Some(Confirmed));
    assert_eq!(confidence(&[(7_000, 900), (8_000, 1), (7_000, 901), (8_000, 2), (8_000, 3)]), Some(Confirmed));
    assert_eq!(confidence(&[(7_000, 900), (8_000, 1), (9_000, 5)]), Some(Likely));
    // Copies, jumps and what comes late are not following; wrapping is.
    assert_eq!(confidence(&[(7_000, 9), (7_000, 9), (7_000, 9), (7_000, 9)]), Some(Likely));
    assert_eq!(confidence(&[(7_000, 9), (7_000, 1_009), (7_000, 2_009)]), Some(Likely));
    assert_eq!(confidence(&[(7_000, 9), (7_000, 8), (7_000, 10)]), Some(Likely));
    assert_eq!(confidence(&[(7_000, 9), (7_000, 8), (7_000, 10), (7_000, 11)]), Some(Confirmed));
    let falling: Vec<_> = (0..64).map(|number| (7_000, 1_000 - number)).collect();
    assert_eq!(confidence(&falling), Some(Likely));
    // Several associations of two hosts in turn.
    let several: Vec<_> = (0..12).map(|number| (7_000 + number % 4, 1 + number / 4)).collect();
    assert_eq!(confidence(&several), Some(Confirmed));
    assert_eq!(confidence(&[(7_000, u32::MAX), (7_000, 0), (7_000, 1)]), Some(Confirmed));
    // First seen with a sequence number above one: joined in the middle.
    let mut flow = Conversation::ip(Transport::Esp);
    flow.send(0, &esp(0xc042_21bf, 2, 184));
    assert_eq!(flow.best().map(|(_, finding)| finding.midflow), Some(true));
    // Too short to be ESP, however it is cut.
    for length in 8..20 {
        let mut flow = Conversation::ip(Transport::Esp);
        flow.send(0, &esp(7_000, 1, length));
        assert_eq!(flow.best(), None, "{length}");
    }
}

#[test]
fn ah_by_protocol() {
    // ah4-tunnel-sha256, packets 3 and 5: 112 and 160 bytes; ah6-transport-sha256, packets 10 and 12: 354.
    for (first, second, lengths) in [
        (
            "04050000c7166a830000000123ff7ff624a88e4b98d7c1f73a97f039",
            "04050000c7166a83000000024fd505eb7f4ec0f9106556f3",
            [112, 160],
        ),
        (
            "11060000c7166a830000000123ff7ff624a88e4b98d7c1f73a97f039",
            "11060000c7166a83000000024fd505eb7f4ec0f9106556f3",
            [354, 354],
        ),
    ] {
        let mut flow = Conversation::ip(Transport::Ah);
        flow.send(0, &padded(first, lengths[0]));
        assert_eq!(flow.state(), Some((IPSEC, Likely, Phase::DataOnly)));
        flow.send(0, &padded(second, lengths[1]));
        assert_eq!(flow.state(), Some((IPSEC, Confirmed, Phase::DataOnly)));
        assert_eq!(flow.best().map(|(_, finding)| finding.variant), Some(Variant::Ah));
    }
    let found = |at: usize, value: u8, length: usize| {
        let mut packet = padded("04050000c7166a830000000123ff7ff624a88e4b98d7c1f73a97f039", length);
        packet[at] = value;
        let mut flow = Conversation::ip(Transport::Ah);
        flow.send(0, &packet);
        flow.best().is_some()
    };
    // Reserved bits; a header longer than the packet, or shorter than its own fields and an ICV of 64 bits.
    assert!(found(1, 5, 112));
    assert!(!found(2, 1, 112) && !found(3, 0x80, 112));
    assert!(found(1, 26, 112) && !found(1, 27, 112) && !found(1, 255, 112));
    assert!(found(1, 3, 112) && !found(1, 2, 112) && !found(1, 0, 112));
    let mut flow = Conversation::ip(Transport::Ah);
    flow.send(0, &padded("0405000000000000", 112));
    assert_eq!(flow.best(), None, "SPI 0");
}

#[test]
fn facts_about_the_pair_of_hosts() {
    let facts = |flow: &mut Conversation| flow.candidate().pair_facts();
    let mut ike = Conversation::udp(IKE_PORTS);
    ike.send(0, &hex(SA_INIT));
    let opened = PairFacts { spi: 0x1bea_8662_2f7f_853e, initiator: Some(0), ..PairFacts::default() };
    assert_eq!(facts(&mut ike), Some(opened));
    let mut auth = Conversation::udp(NATT_PORTS);
    auth.send(0, &padded(AUTH_RESPONSE, 244));
    let answered =
        PairFacts { spi: 0xe425_3aba_b1db_136d, initiator: Some(1), encrypted_ike: true, ..PairFacts::default() };
    assert_eq!(facts(&mut auth), Some(answered));
    auth.send(0, &esp(7_000, 1, 84));
    assert_eq!(facts(&mut auth), Some(PairFacts { esp: true, finished: true, ..answered }));
    let mut native = Conversation::ip(Transport::Esp);
    native.send(0, &esp(7_000, 1, 84));
    assert_eq!(facts(&mut native), Some(PairFacts { esp: true, ..PairFacts::default() }));
    // Flows of other protocols have no such facts.
    let mut other = Conversation::udp(OTHER_PORTS);
    other.send(0, &hex("38fedd71acbd95fc8e0000000000"));
    assert_eq!(facts(&mut other), None);
    assert!(!other.candidate().raise_by_pair(1, 1, true, true, Some(1)));
}

#[test]
fn a_flow_is_raised_by_what_its_pair_knows() {
    let mut native = Conversation::ip(Transport::Esp);
    native.send(0, &esp(7_000, 1, 84));
    // Who initiated is news, and no evidence of a handshake.
    assert!(native.candidate().raise_by_pair(7, 8, false, false, Some(1)));
    assert_eq!(native.best().map(|(_, found)| (found.phase, found.initiator)), Some((Phase::DataOnly, Some(1))));
    assert_eq!(native.count("ipsec.same_hosts"), 0);
    assert!(native.candidate().raise_by_pair(7, 8, true, false, Some(0)));
    assert_eq!(native.best().map(|(_, found)| (found.phase, found.initiator)), Some((Phase::Established, Some(1))));
    assert_eq!(native.count("ipsec.same_hosts"), 1);
    // Once: what comes later changes nothing and takes nothing back.
    assert!(!native.candidate().raise_by_pair(7, 8, true, false, Some(0)));
    native.send(0, &esp(7_000, 2, 84));
    assert_eq!(native.phase(), Some(Phase::Established));

    // An unanswered opening beside a tunnel stays an attempt; that of the tunnel's own IKE SA does not, nor an answer.
    for (answer, same_session, expected) in
        [(false, false, Phase::Attempt), (false, true, Phase::Established), (true, false, Phase::Established)]
    {
        let mut ike = Conversation::udp(IKE_PORTS);
        ike.send(0, &hex(SA_INIT));
        if answer {
            ike.send(1, &hex(NO_PROPOSAL));
        }
        assert_eq!(ike.candidate().raise_by_pair(7, 8, true, same_session, None), expected == Phase::Established);
        assert_eq!(ike.phase(), Some(expected));
    }
}

#[test]
fn truncations_say_less() {
    for payload in
        [hex(SA_INIT), hex(NO_PROPOSAL), hex(COOKIE), hex(MAIN_MODE), auth_request(), padded(QUICK_MODE, 192)]
    {
        for ports in [IKE_PORTS, NATT_PORTS, OTHER_PORTS] {
            assert_truncations_say_less(ports, &payload);
        }
    }
    // Captured to the end of its header, an opening is one already.
    assert_eq!(alone(IKE_PORTS, &hex(SA_INIT)[..28], 240).map(|(_, finding)| finding.confidence), Some(Confirmed));
    assert_eq!(alone(IKE_PORTS, &hex(SA_INIT)[..27], 240), None);
}

#[test]
fn every_named_field_decides() {
    let none = |_| false;
    // The responder's SPI, first payload, version, flags, message id, length; reserved bits of the first payload.
    assert_fields_decide(
        IKE_PORTS,
        &hex(SA_INIT),
        &[
            (8..16, none),
            (16..17, |value| (33..=54).contains(&value) && value != 46),
            (17..18, none),
            // 38 is SESSION_RESUME (RFC 5723).
            (18..19, |value| value == 38),
            (19..20, |value| matches!(value, 0x08 | 0x18 | 0x20 | 0x28 | 0x30 | 0x38)),
            (20..28, none),
            (29..30, |value| value == 0x80),
            // A length may also end where a later payload begins: the chain closes all the same.
            (30..31, none),
            (31..32, |value| matches!(value, 0x58 | 0x7c | 0x98 | 0xb4 | 0xbc | 0xcc)),
        ],
    );
    assert_fields_decide(
        OTHER_PORTS,
        &without_marker(&auth_request()),
        &[
            (16..17, |value| value == 53),
            (17..18, none),
            (18..19, |value| matches!(value, 35..=37 | 39..=41 | 43 | 44)),
            (19..20, |value| value & !0x39 == 0),
            // Message ids below 2^20.
            (20..21, none),
            (21..22, |value| value < 0x10),
            (24..28, none),
            (29..30, |value| value == 0x80),
            (30..32, none),
        ],
    );
    assert_fields_decide(
        IKE_PORTS,
        &hex(MAIN_MODE),
        &[
            (16..17, none),
            (17..18, none),
            (18..19, |value| matches!(value, 1..=5)),
            (19..20, |value| value & !0x06 == 0),
            (20..28, none),
            (29..30, |value| value == 0x80),
            (30..31, none),
            (31..32, |value| matches!(value, 0x44 | 0x58 | 0x70 | 0x84)),
        ],
    );
}

/// An opening that nobody answered, and anything behind it on the same ports: no tunnel.
#[test]
fn text_behind_an_unanswered_opening_is_no_esp() {
    for (opening, ports) in [(hex(SA_INIT), NATT_PORTS), (hex(SA_INIT), OTHER_PORTS)] {
        let mut flow = Conversation::udp(ports);
        flow.send(0, &opening);
        assert_eq!(flow.phase(), Some(Phase::Attempt));
        for number in 0..12 {
            flow.send(0, format!("GET /{number:04} HTTP/1.0\r\nHost: a.example\r\n\r\n").as_bytes());
        }
        assert_eq!(flow.phase(), Some(Phase::Attempt));
    }
}
