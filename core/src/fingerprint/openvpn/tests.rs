//! Bytes are from the cases in `pcaps/` that the comments name.
use super::super::testing::{SECOND, *};
use super::*;
use Confidence::{Confirmed, Likely, Possible};

const PORTS: [u16; 2] = [40_000, 1_194];
const OVPN: Protocol = Protocol::OpenVpn;

/// ovpn-udp-plain-1194, packets 3 and 4, and the heads of 5 (303 bytes), 6 (1222), 7 (whole) and 12 (whole).
const CLIENT_RESET: &str = "38fedd71acbd95fc8e0000000000";
const SERVER_RESET: &str = "40bca5293e6b60c1050100000000fedd71acbd95fc8e00000000";
const CLIENT_HELLO: &str =
    "20fedd71acbd95fc8e0100000000bca5293e6b60c1050000000116030101100100010c0303326a6766218e30220d49";
const SERVER_HELLO: &str =
    "20bca5293e6b60c1050100000001fedd71acbd95fc8e00000001160303007a0200007603032cc73b57fb8a178e5ec1";
const CLIENT_ACK: &str = "28fedd71acbd95fc8e020000000100000000bca5293e6b60c105";
const SERVER_ACK: &str = "28bca5293e6b60c105020000000200000001fedd71acbd95fc8e";

/// ovpn-udp-tlsauth-sha1, packets 4 and 5, and the head of 6 (331 bytes).
const CLIENT_RESET_SHA1: &str = "3868138e2fe480ce913c0f56f8c8656154ded189895f36e97cf0fc07c6000000016b026fa30000000000";
const SERVER_RESET_SHA1: &str =
    "409fa78d0259a1e383f221530b282d3629f1d6600223060a348fe39ae8000000016b026fa3010000000068138e2f
    e480ce9100000000";
const CLIENT_HELLO_SHA1: &str =
    "2068138e2fe480ce912a93db924896c1391e81a8ba5955da75d4ecfaeb000000026b026fa301000000009fa78d0259
    a1e38300000001160301011001";

/// ovpn-udp-tlscrypt-443, packet 4, and the heads of 5 (66 bytes), 6 (343) and 9 (66).
const CLIENT_RESET_CRYPT: &str =
    "385a3e3f32198a18ae000000016b026fbc6e05504b79a37dd2f400db4285e3da17ae9b5d2c26feff850e9507603260
    232a3b5be05191";
const SERVER_RESET_CRYPT: &str =
    "40d474b83ebf89f43f000000016b026fbc2583a7c886d4d6fd3b70e91384d5470a1086f9ad5346132e53b0cf751454
    f489cfeee93d53a94f6550f6da";
const CLIENT_HELLO_CRYPT: &str = "205a3e3f32198a18ae000000026b026fbc3879996b12e510d3e57aaf53ff390b9999a039f511a654";
const CLIENT_ACK_CRYPT: &str = "285a3e3f32198a18ae000000036b026fbc5ff0febad3fb4c3e02108aa31b5937c1007f9a99d5078a8f";

/// ovpn-udp-tlscryptv2, head and last two bytes of packet 4 (353 bytes), and heads of 5 (72) and 6 (642).
const CLIENT_RESET_CRYPT_V2: &str =
    "505c46005487b00d7a0f0000016b026fbe06127997a001dda1cd31380380d4e327827b39ceaa5cbdf0243a71";
const WRAPPED_KEY_LENGTH: u16 = 0x012b;
const SERVER_RESET_CRYPT_V2: &str =
    "407dccedebca1c2ac9000000016b026fbeb7650695402e4bc979dbf8317afbba85634ba42027a9406be62bd1";
const CLIENT_HELLO_CRYPT_V2: &str =
    "585c46005487b00d7a0f0000026b026fbeaccf566e0c5d304bc5a7d90dc6adb72611bddb816ca58cfa13709e";

const SID: u64 = 0xfedd_71ac_bd95_fc8e;
const PEER: u64 = 0xbca5_293e_6b60_c105;
/// The time in packets made here.
const NOW: u32 = (TAKEN / SECOND) as u32;

/// A control packet of any wrapping; `hmac` is what stands between session id and replay id.
fn control(opcode: u8, hmac: Option<usize>, replay: u32, time: u32, acks: &[u32], message: Option<u32>) -> Vec<u8> {
    let mut packet = vec![opcode << 3];
    packet.extend(SID.to_be_bytes());
    if let Some(hmac) = hmac {
        packet.extend(Random(u64::from(replay)).bytes(hmac));
        packet.extend(replay.to_be_bytes());
        packet.extend(time.to_be_bytes());
    }
    packet.push(acks.len() as u8);
    packet.extend(acks.iter().flat_map(|ack| ack.to_be_bytes()));
    if !acks.is_empty() {
        packet.extend(PEER.to_be_bytes());
    }
    packet.extend(message.iter().flat_map(|message| message.to_be_bytes()));
    packet
}

fn crypt_v2_reset() -> Vec<u8> {
    let mut reset = padded(CLIENT_RESET_CRYPT_V2, 353);
    reset[351..].copy_from_slice(&WRAPPED_KEY_LENGTH.to_be_bytes());
    reset
}

/// P_DATA_V2 of `length` bytes for peer 0.
fn data_v2(packet_id: u32, length: usize) -> Vec<u8> {
    let mut packet = padded("48000000", length);
    packet[4..8].copy_from_slice(&packet_id.to_be_bytes());
    Random(u64::from(packet_id)).bytes(length - 8).iter().zip(&mut packet[8..]).for_each(|(from, to)| *to = *from);
    packet
}

fn data_v1(packet_id: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0x30];
    packet.extend(packet_id.to_be_bytes());
    packet.extend(Random(u64::from(packet_id)).bytes(length - 5));
    packet
}

fn data_epoch(counter: u64, length: usize) -> Vec<u8> {
    let mut packet = hex("48000000 0001");
    packet.extend(&counter.to_be_bytes()[2..]);
    packet.extend(Random(counter).bytes(length - 12));
    packet
}

/// Lengths as in ovpn-udp-midflow, odd ones among them.
const LENGTHS: [usize; 8] = [264, 264, 264, 264, 84, 84, 76, 157];

/// The number of datagrams after which each level was first reached, by `make(number, length)`.
fn thresholds(lengths: &[usize], packets: usize, make: impl Fn(usize, usize) -> Vec<u8>) -> [Option<usize>; 3] {
    let mut flow = Conversation::udp(PORTS);
    let mut reached = [None; 3];
    for number in 1..=packets {
        flow.send(0, &make(number, lengths[number % lengths.len()]));
        if let Some((protocol, finding)) = flow.best() {
            assert_eq!((protocol, finding.variant, finding.phase), (OVPN, Variant::Data, Phase::DataOnly));
            assert!(finding.midflow);
            reached[finding.confidence as usize].get_or_insert(number);
        }
    }
    reached
}

fn variant(flow: &Conversation) -> Option<Variant> {
    flow.best().map(|(_, finding)| finding.variant)
}

fn initiator(flow: &Conversation) -> Option<u8> {
    flow.best().and_then(|(_, finding)| finding.initiator)
}

#[test]
fn each_opening_alone() {
    let all = [
        (hex(CLIENT_RESET), Possible, Variant::Plain, 0),
        (hex(SERVER_RESET), Confirmed, Variant::Plain, 1),
        (hex(CLIENT_RESET_SHA1), Confirmed, Variant::TlsAuth, 0),
        (hex(SERVER_RESET_SHA1), Confirmed, Variant::TlsAuth, 1),
        (hex(CLIENT_RESET_CRYPT), Likely, Variant::TlsCrypt, 0),
        (padded(SERVER_RESET_CRYPT, 66), Likely, Variant::TlsCrypt, 1),
        (crypt_v2_reset(), Confirmed, Variant::TlsCryptV2, 0),
        (padded(SERVER_RESET_CRYPT_V2, 72), Likely, Variant::TlsCryptV2, 1),
    ];
    for (payload, confidence, expected, opener) in all {
        let mut flow = Conversation::udp(PORTS);
        flow.send(0, &payload);
        // A server's reset answers, and shows who opened.
        let phase = if opener == 0 { Phase::Attempt } else { Phase::Handshake };
        assert_eq!(flow.state(), Some((OVPN, confidence, phase)), "{payload:02x?}");
        assert_eq!((variant(&flow), initiator(&flow)), (Some(expected), Some(opener)));
        assert_eq!(flow.best().map(|(_, finding)| finding.midflow), Some(false));
    }
}

#[test]
fn tls_auth_with_every_digest() {
    for hmac in [16, 20, 28, 32, 48, 64] {
        let client = control(CLIENT_RESET_V2, Some(hmac), 1, NOW, &[], Some(0));
        let server = control(SERVER_RESET_V2, Some(hmac), 1, NOW, &[0], Some(0));
        assert_eq!((client.len(), server.len()), (22 + hmac, 34 + hmac));
        for (packet, opener) in [(&client, 0), (&server, 1)] {
            let mut flow = Conversation::udp(PORTS);
            flow.send(0, packet);
            assert_eq!((flow.confidence(), variant(&flow)), (Some(Confirmed), Some(Variant::TlsAuth)), "{hmac}");
            assert_eq!(initiator(&flow), Some(opener));
            // A clock that is wrong by more than a day costs a level; by a day it does not.
            for (seconds, expected) in [(86_000, Confirmed), (87_000, Likely)] {
                for time in [NOW - seconds, NOW + seconds] {
                    let mut changed = packet.clone();
                    changed[13 + hmac..17 + hmac].copy_from_slice(&time.to_be_bytes());
                    assert_eq!(alone(PORTS, &changed, changed.len() as u32).map(|(_, f)| f.confidence), Some(expected));
                }
            }
        }
        // The 16th retry still opens, the 17th replay id is no opening's.
        let late = |replay| control(CLIENT_RESET_V2, Some(hmac), replay, NOW, &[], Some(0));
        assert!(alone(PORTS, &late(16), late(16).len() as u32).is_some());
        assert_eq!(alone(PORTS, &late(17), late(17).len() as u32), None);
    }
}

#[test]
fn fifty_four_bytes_are_tls_crypt_or_tls_auth_with_sha256() {
    // ovpn-fail-udp-tlsauth, packet 3, has this length too.
    let sha256 = control(CLIENT_RESET_V2, Some(32), 1, NOW, &[], Some(0));
    let crypt = hex(CLIENT_RESET_CRYPT);
    assert_eq!((sha256.len(), crypt.len()), (54, 54));
    assert_eq!(alone(PORTS, &sha256, 54).map(|(_, finding)| finding.variant), Some(Variant::TlsAuth));
    // This one would pass as plain, too, if that were tried first.
    assert_eq!(alone(PORTS, &crypt, 54).map(|(_, finding)| finding.variant), Some(Variant::TlsCrypt));
}

#[test]
fn a_reset_sent_again() {
    // ovpn-fail-udp-tlsauth and ovpn-unanswered-tlscryptv2: retries stay an attempt.
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &hex(CLIENT_RESET));
    // A copy by the mirror port is no retry.
    flow.send(0, &hex(CLIENT_RESET));
    assert_eq!(flow.state(), Some((OVPN, Possible, Phase::Attempt)));
    flow.time += 2 * SECOND;
    flow.send(0, &hex(CLIENT_RESET));
    assert_eq!(flow.state(), Some((OVPN, Likely, Phase::Attempt)));
    assert_eq!(flow.count("openvpn.reset_repeated"), 1);
    flow.time += 4 * SECOND;
    flow.send(0, &hex(CLIENT_RESET));
    assert_eq!(flow.state(), Some((OVPN, Likely, Phase::Attempt)));

    // With another session id it is another attempt.
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &hex(CLIENT_RESET));
    flow.time += 2 * SECOND;
    flow.send(0, &hex("387126020f2760fc5b0000000000"));
    assert_eq!(flow.confidence(), Some(Possible));

    // Wrapped, a retry has the next replay id: two packets of one session.
    let mut flow = Conversation::udp(PORTS);
    let mut reset = hex(CLIENT_RESET_CRYPT);
    flow.send(0, &reset);
    assert_eq!(flow.confidence(), Some(Likely));
    flow.time += 2 * SECOND;
    reset[12] = 2;
    flow.send(0, &reset);
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Attempt)));
}

#[test]
fn a_wrapped_client_key_ends_with_its_length() {
    let whole = crypt_v2_reset();
    assert_eq!(alone(PORTS, &whole, 353).map(|(_, finding)| finding.confidence), Some(Confirmed));
    for length in [0, 1, WRAPPED_KEY_LENGTH - 1, WRAPPED_KEY_LENGTH + 1, 0xffff] {
        let mut changed = whole.clone();
        changed[351..].copy_from_slice(&length.to_be_bytes());
        assert_eq!(alone(PORTS, &changed, 353), None, "{length}");
    }
    // Not captured, it cannot be judged.
    assert_eq!(alone(PORTS, &whole[..100], 353).map(|(_, finding)| finding.confidence), Some(Likely));
    // 290 and 1,024 bytes are the bounds (tls_crypt.h).
    for (key, fits) in [(289_u16, false), (290, true), (1_024, true), (1_025, false)] {
        let mut sized = padded(CLIENT_RESET_CRYPT_V2, 54 + usize::from(key));
        let end = sized.len() - 2;
        sized[end..].copy_from_slice(&key.to_be_bytes());
        assert_eq!(alone(PORTS, &sized, sized.len() as u32).is_some(), fits, "{key}");
    }
    // Opcode 11 alone, from the middle of a handshake: packet 6.
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &padded(CLIENT_HELLO_CRYPT_V2, 642));
    assert_eq!((flow.confidence(), variant(&flow)), (Some(Possible), Some(Variant::TlsCryptV2)));
}

#[test]
fn two_control_packets_of_a_session_confirm_it() {
    // Each wrapping, from one direction alone, without its opening.
    let plain = [padded(CLIENT_HELLO, 303), hex(CLIENT_ACK)];
    let crypt = [padded(CLIENT_HELLO_CRYPT, 343), padded(CLIENT_ACK_CRYPT, 66)];
    let auth = [padded(CLIENT_HELLO_SHA1, 331), control_sha1_ack()];
    for (packets, expected) in [(plain, Variant::Plain), (crypt, Variant::TlsCrypt), (auth, Variant::TlsAuth)] {
        let mut flow = Conversation::udp(PORTS);
        flow.send(0, &packets[0]);
        assert_eq!(flow.confidence(), Some(Possible), "{expected:?}");
        // Sent twice, it is still one packet.
        flow.send(0, &packets[0]);
        assert_eq!(flow.confidence(), Some(Possible), "{expected:?}");
        flow.send(0, &packets[1]);
        assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Handshake)), "{expected:?}");
        assert_eq!(variant(&flow), Some(expected));
        assert_eq!(flow.best().map(|(_, finding)| finding.midflow), Some(true));
        assert_eq!(flow.count("openvpn.control_pair"), 1);
    }
}

/// ovpn-udp-tlsauth-sha1, packet 8.
fn control_sha1_ack() -> Vec<u8> {
    hex("2868138e2fe480ce91c8f1e18b074a1404f918217513c6f50a26e143a1000000036b026fa30200000001000000009fa78d0259a1e383")
}

#[test]
fn a_pair_needs_the_same_time_and_a_small_step() {
    for (replay, time, expected) in [
        (2, 0x6b02_6fbc, Confirmed),
        (65, 0x6b02_6fbc, Confirmed),
        (66, 0x6b02_6fbc, Likely),
        (2, 0x6b02_6fbd, Likely),
        (1, 0x6b02_6fbc, Likely),
    ] {
        let mut next = padded(CLIENT_HELLO_CRYPT, 343);
        next[9..13].copy_from_slice(&u32::to_be_bytes(replay));
        next[13..17].copy_from_slice(&u32::to_be_bytes(time));
        let mut flow = Conversation::udp(PORTS);
        flow.send(0, &hex(CLIENT_RESET_CRYPT));
        flow.send(0, &next);
        assert_eq!(flow.confidence(), Some(expected), "{replay} {time:x}");
    }
}

#[test]
fn the_peers_session_id_comes_back() {
    // Packets 7 and 12: an acknowledgment from each side.
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &hex(CLIENT_ACK));
    assert_eq!(flow.confidence(), Some(Possible));
    flow.send(1, &hex(SERVER_ACK));
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Handshake)));
    assert_eq!(flow.count("openvpn.session_echo"), 1);
    // Acknowledging another session says nothing.
    let mut other = hex(SERVER_ACK);
    other[25] ^= 1;
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &hex(CLIENT_ACK));
    flow.send(1, &other);
    assert_eq!(flow.confidence(), Some(Possible));
}

#[test]
fn acknowledgments_have_their_lengths() {
    for acks in 0..=10_u32 {
        let ids: Vec<u32> = (0..acks).collect();
        let packet = control(ACK, None, 0, 0, &ids, None);
        let fits = (1..=8).contains(&acks);
        assert_eq!(packet.len() as u32, if acks == 0 { 10 } else { 18 + 4 * acks });
        assert_eq!(alone(PORTS, &packet, packet.len() as u32).is_some(), fits, "{acks}");
        let mut longer = packet.clone();
        longer.push(0);
        assert_eq!(alone(PORTS, &longer, longer.len() as u32), None, "{acks} and a byte");
        // tls-auth, SHA1: 50 + 4n.
        let packet = control(ACK, Some(20), 3, NOW, &ids, None);
        assert_eq!(alone(PORTS, &packet, packet.len() as u32).is_some(), fits, "{acks}, tls-auth");
    }
    // tls-crypt: 58 + 4n.
    for length in 54..100 {
        let fits = (62..=90).contains(&length) && (length - 58) % 4 == 0;
        let packet = padded(CLIENT_ACK_CRYPT, length);
        assert_eq!(alone(PORTS, &packet, length as u32).is_some(), fits, "{length}");
    }
}

#[test]
fn a_handshake_from_both_sides_and_its_data() {
    let mut flow = Conversation::udp(PORTS);
    for (direction, payload, confidence, phase) in [
        (0, hex(CLIENT_RESET), Possible, Phase::Attempt),
        (1, hex(SERVER_RESET), Confirmed, Phase::Handshake),
        (0, padded(CLIENT_HELLO, 303), Confirmed, Phase::Handshake),
        (1, padded(SERVER_HELLO, 1_222), Confirmed, Phase::Handshake),
        (0, hex(CLIENT_ACK), Confirmed, Phase::Handshake),
        (0, data_v2(1, 40), Confirmed, Phase::Established),
    ] {
        flow.send(direction, &payload);
        assert_eq!(flow.state(), Some((OVPN, confidence, phase)));
    }
    assert_eq!((variant(&flow), initiator(&flow)), (Some(Variant::Plain), Some(0)));
    for (id, count) in [
        ("openvpn.client_reset_plain", 1),
        ("openvpn.server_reset_plain", 1),
        ("openvpn.session_echo", 4),
        ("openvpn.data_after_control", 1),
    ] {
        assert_eq!(flow.count(id), count, "{id}");
    }
}

#[test]
fn phases_in_one_direction() {
    // From the client: its next control packet can only follow an answer.
    let mut client = Conversation::udp(PORTS);
    client.send(0, &hex(CLIENT_RESET));
    assert_eq!(client.phase(), Some(Phase::Attempt));
    client.send(0, &padded(CLIENT_HELLO, 303));
    assert_eq!(client.state(), Some((OVPN, Confirmed, Phase::Handshake)));
    client.send(0, &data_v1(1, 89));
    assert_eq!(client.phase(), Some(Phase::Established));
    // From the server: ovpn-udp-tlsauth-oneway-s2c.
    let mut server = Conversation::udp(PORTS);
    server.send(0, &hex(SERVER_RESET_SHA1));
    assert_eq!(server.state(), Some((OVPN, Confirmed, Phase::Handshake)));
    server.send(0, &data_v2(1, 100));
    assert_eq!(server.state(), Some((OVPN, Confirmed, Phase::Established)));
    assert_eq!(initiator(&server), Some(1));
    // tls-crypt-v2, both openings: the server's does not show the version, the client's does.
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &crypt_v2_reset());
    flow.send(1, &padded(SERVER_RESET_CRYPT_V2, 72));
    flow.send(0, &padded(CLIENT_HELLO_CRYPT_V2, 642));
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Handshake)));
    assert_eq!(variant(&flow), Some(Variant::TlsCryptV2));
}

#[test]
fn a_plain_session_renegotiates_wrapped_by_tls_crypt() {
    // ovpn-reneg-udp-plain, packets 3, 4, 88, 90, 91 and 92.
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &hex("386bef2fd95c4c52b80000000000"));
    flow.send(1, &hex("40dbbb8a25b74c568801000000006bef2fd95c4c52b800000000"));
    assert_eq!(flow.phase(), Some(Phase::Handshake));
    flow.time += 20 * SECOND;
    flow.send(1, &padded("19dbbb8a25b74c5688000000016b027132e0f67ec5f3b1561788c221b7c0", 54));
    assert_eq!(flow.phase(), Some(Phase::Established));
    flow.send(0, &padded("196bef2fd95c4c52b8000000016b027132200f78f4928a870885f66065c6", 66));
    flow.send(1, &padded("29dbbb8a25b74c5688000000026b0271327fa1b304324633b62863f543e0", 62));
    flow.send(0, &padded("216bef2fd95c4c52b8000000026b02713274afe8b801fe7fc638e5d02fa9", 343));
    assert_eq!(flow.count("openvpn.soft_reset"), 2);
    assert_eq!(flow.count("openvpn.control"), 4);
    assert_eq!(variant(&flow), Some(Variant::Plain));

    // Mid-flow and from one direction, the renegotiation confirms by itself.
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &padded("196bef2fd95c4c52b8000000016b027132200f78f4928a870885f66065c6", 66));
    assert_eq!(flow.confidence(), Some(Possible));
    flow.send(0, &padded("216bef2fd95c4c52b8000000026b02713274afe8b801fe7fc638e5d02fa9", 343));
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Established)));
}

#[test]
fn mid_flow_data_at_the_thresholds() {
    let id = |number: usize| number as u32 + 0x75;
    assert_eq!(thresholds(&LENGTHS, 40, |n, length| data_v2(id(n), length)), [Some(2), Some(6), Some(12)]);
    assert_eq!(
        thresholds(&LENGTHS, 40, |n, length| data_epoch(n as u64, length)),
        [Some(2), Some(6), Some(12)],
        "epoch"
    );
    // V1 needs a keepalive of 37 bytes among its 16.
    let with_ping = [105, 89, 37, 108, 92];
    assert_eq!(thresholds(&with_ping, 40, |n, length| data_v1(id(n), length)), [Some(4), Some(8), Some(16)], "V1");
    assert_eq!(thresholds(&[105, 89], 40, |n, length| data_v1(id(n), length)), [Some(4), Some(8), None]);
    // All of one length may be anything that counts.
    assert_eq!(thresholds(&[265], 100, |n, length| data_v2(id(n), length)), [Some(2), Some(6), None]);
    // A counter that stands still, or jumps, is none.
    assert_eq!(thresholds(&LENGTHS, 40, |_, length| data_v2(7, length)), [None; 3]);
    assert_eq!(thresholds(&LENGTHS, 40, |n, length| data_v2(id(n) * 65, length)), [None; 3]);
    // One that never rises by one is not OpenVPN's.
    assert_eq!(thresholds(&LENGTHS, 40, |n, length| data_v2(id(n * 2), length)), [Some(2), Some(6), None]);
    // Shorter than opcode, peer, packet id, tag and a byte.
    assert_eq!(thresholds(&[19, 18], 40, |n, length| data_v2(id(n), length)), [None; 3]);
}

/// A data packet whose HMAC and IV are random.
fn data_cbc(head: &str, number: usize, length: usize) -> Vec<u8> {
    let mut packet = hex(head);
    packet.extend(Random(number as u64 * 7 + 1).bytes(length - packet.len()));
    packet
}

#[test]
fn mid_flow_data_without_a_counter_is_likely_at_most() {
    // SHA1 and AES: V1 leaves 5 by sixteen, V2 8; with SHA256 1 and 4; BF-CBC 5 by eight.
    for (head, lengths) in [
        ("30", [85, 101, 133, 85]),
        ("48000001", [72, 104, 136, 72]),
        ("30", [97, 81, 145, 81]),
        ("48000001", [84, 100, 132, 84]),
        ("30", [69, 77, 93, 85]),
    ] {
        let reached = thresholds(&lengths, 255, |number, length| data_cbc(head, number, length));
        let [possible, likely, confirmed] = reached.map(|number| number.unwrap_or(usize::MAX));
        // A word drawn at random may come close to its predecessor, once in 128 packets.
        assert!((8..12).contains(&possible) && (16..20).contains(&likely), "{head} {lengths:?}: {reached:?}");
        assert_eq!(confirmed, usize::MAX, "only a control packet confirms it");
    }
    // Lengths that no block cipher leaves, or that are all the same; an opcode that changes; nothing random.
    let none = |lengths: &[usize], make: &dyn Fn(usize, usize) -> Vec<u8>| {
        assert_eq!(thresholds(lengths, 255, make)[1], None, "{lengths:?}");
    };
    none(&[86, 102, 134], &|number, length| data_cbc("30", number, length));
    none(&[85, 102, 134], &|number, length| data_cbc("30", number, length));
    none(&[85], &|number, length| data_cbc("30", number, length));
    none(&[73, 105, 137], &|number, length| data_cbc("48000001", number, length));
    none(&[85, 101, 133], &|number, length| data_cbc(["30", "31"][number % 2], number, length));
    none(&[85, 101, 133], &|_, length| padded("30a1b2c3d4", length));
    // With a control packet: confirmed, and the data is what establishes it.
    let mut flow = Conversation::udp(PORTS);
    for number in 1..=20 {
        flow.send(0, &data_cbc("30", number, 85 + 16 * (number % 3)));
    }
    assert_eq!(flow.confidence(), Some(Likely));
    flow.send(0, &hex(CLIENT_ACK));
    flow.send(1, &hex(SERVER_ACK));
    assert_eq!(flow.confidence(), Some(Confirmed));
    flow.send(0, &data_cbc("30", 99, 85));
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Established)));
}

#[test]
fn data_in_both_directions_has_one_peer_id() {
    // ovpn-udp-midflow: whole words in fours and no checksum would be ESP in UDP, but for the same word both ways.
    let mut flow = Conversation::udp([4_500, 4_500]);
    flow.checksum_zero = true;
    for number in 1..=12 {
        flow.send(1, &data_v2(number + 0x6c, 264));
        flow.send(0, &data_v2(number + 0x75, if number % 2 == 0 { 264 } else { 84 }));
    }
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::DataOnly)));
    assert!(flow.ruled_out().contains(&LookAlike::EspInUdp) && flow.ruled_out().contains(&LookAlike::TurnChannel));
}

#[test]
fn what_counts_like_data_and_is_none() {
    let likely = |flow: &Conversation| flow.best().is_some_and(|(p, f)| p == OVPN && f.confidence >= Likely);
    // TURN channel data with RTP of one frame size: a constant word, then a sequence number.
    for channel in [0x4800_u16, 0x4bcd, 0x4fff] {
        for padding in 0..=3 {
            let mut flow = Conversation::udp([50_000, 3_478]);
            for sequence in 1..=100_u16 {
                let mut packet = channel.to_be_bytes().to_vec();
                packet.extend(172_u16.to_be_bytes());
                packet.extend([0x80, 0x00]);
                packet.extend(sequence.to_be_bytes());
                packet.extend(Random(u64::from(sequence)).bytes(168 + padding));
                flow.send(0, &packet);
                flow.send(1, &packet);
            }
            assert!(flow.confidence() < Some(Likely), "{channel:04x}, {padding} bytes of padding: {:?}", flow.best());
        }
    }
    // GTP-U whose lengths and tunnel ids happen to count.
    let mut flow = Conversation::udp([2_152, 2_152]);
    for number in 0..100_u8 {
        let mut packet = vec![0x30, 0xff, 0, 92, number, 1, 2, 3];
        packet.extend(Random(u64::from(number)).bytes(92));
        flow.send(0, &packet);
    }
    assert!(!likely(&flow));
    // ESP in UDP whose SPI begins with 0x48, on its port or in its form.
    for (ports, zero) in [([4_500, 4_500], true), ([4_500, 4_500], false), ([40_000, 10_000], true)] {
        let mut flow = Conversation::udp(ports);
        flow.checksum_zero = zero;
        for number in 1..=40_u32 {
            for (direction, spi) in [(0, 0x48a1_b2c3_u32), (1, 0x4c0f_1e2d)] {
                let mut packet = spi.to_be_bytes().to_vec();
                packet.extend(number.to_be_bytes());
                packet.extend(Random(u64::from(number)).bytes(if number % 3 == 0 { 80 } else { 128 }));
                flow.send(direction, &packet);
            }
        }
        assert!(!likely(&flow), "{ports:?}");
        assert_eq!(flow.best().map(|(protocol, _)| protocol), Some(Protocol::Ipsec));
    }
    // QUIC 1-RTT with an eight-byte connection id: the "session id" stays, nothing counts.
    let mut random = Random(9);
    let mut flow = Conversation::udp([50_000, 443]);
    for number in 0..200 {
        let mut packet = vec![0x40 | random.below(32) as u8];
        packet.extend(SID.to_be_bytes());
        packet.extend(random.bytes(30 + number));
        flow.send((number % 2) as u8, &packet);
    }
    assert!(!likely(&flow));
}

#[test]
fn dns_queries_sent_twice_stay_below_likely() {
    for id in 0..=0xff_u8 {
        for flags in [[0x01, 0x00], [0x00, 0x00]] {
            let mut query = vec![id, 0x17];
            query.extend(flags);
            query.extend(hex("0001 0000 0000 0000 03777777 076578616d706c65 036f7267 00 0001 0001"));
            let mut answer = query.clone();
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend(hex("c00c 0001 0001 0000012c 0004 cb007107"));
            let mut flow = Conversation::udp([50_000, 53]);
            for (direction, packet) in [(0, &query), (0, &query), (1, &answer), (1, &answer)] {
                flow.time += 5 * SECOND;
                flow.send(direction, packet);
            }
            assert!(flow.confidence() < Some(Likely), "{id:02x}: {:?}", flow.best());
        }
    }
    // neg-ovpnish-text-9000, packet 3.
    let text = padded("386c6f67696e6c6f67696e6c6f67696e6c6f67696e6c6f67696e6c6f67696e", 142);
    assert_eq!(alone([38_277, 9_000], &text, 142), None);
    // ONC-RPC begins like a reset and is longer.
    assert_eq!(alone(PORTS, &padded("38fedd71acbd95fc8e0000000000", 40), 40), None);
    // Obsolete resets (opcodes 1 and 2), resets with a key id, a session id of zeros.
    for head in ["08", "10", "39", "3f", "41"] {
        let packet = hex(&CLIENT_RESET.replacen("38", head, 1));
        assert_eq!(alone(PORTS, &packet, 14), None, "{head}");
    }
    assert_eq!(alone(PORTS, &hex("3800000000000000000000000000"), 14), None);
}

#[test]
fn truncations_say_less() {
    for payload in [
        hex(CLIENT_RESET),
        hex(SERVER_RESET),
        hex(CLIENT_RESET_SHA1),
        hex(SERVER_RESET_SHA1),
        hex(CLIENT_RESET_CRYPT),
        padded(SERVER_RESET_CRYPT, 66),
        hex(CLIENT_ACK),
        padded(CLIENT_HELLO, 303),
        padded(CLIENT_HELLO_SHA1, 331),
        padded(CLIENT_HELLO_CRYPT, 343),
    ] {
        assert_truncations_say_less(PORTS, &payload);
    }
    // The wrapped key's length is the one thing that only the whole packet shows.
    assert_truncations_say_less(PORTS, &crypt_v2_reset());
}

#[test]
fn every_named_field_decides() {
    let none = |_| false;
    // Opcode and key id; one acknowledgment, of message 0; message 0.
    assert_fields_decide(PORTS, &hex(SERVER_RESET), &[(0..1, none), (9..14, none), (22..26, none)]);
    // The replay id's upper half is one of four, its lower half 1 to 16.
    let replay_high = |value| matches!(value, 0x0a | 0x0f);
    let replay_low = |value| (1..=16).contains(&value);
    for (payload, at) in [(hex(CLIENT_RESET_SHA1), 29), (hex(SERVER_RESET_SHA1), 29)] {
        assert_fields_decide(
            PORTS,
            &payload,
            &[
                (0..1, none),
                (at..at + 1, replay_high),
                (at + 1..at + 2, none),
                (at + 2..at + 3, none),
                (at + 3..at + 4, replay_low),
                (at + 4..at + 5, none),
                (at + 8..at + 9, none),
                (-4..0, none),
            ],
        );
    }
    assert_fields_decide(
        PORTS,
        &crypt_v2_reset(),
        &[
            (0..1, none),
            (9..10, |value| matches!(value, 0 | 0x0a)),
            (11..12, none),
            (12..13, replay_low),
            (13..14, none),
            (-2..0, none),
        ],
    );
}

/// A record: its length, then the packet.
fn record(packet: &[u8]) -> Vec<u8> {
    [&(packet.len() as u16).to_be_bytes()[..], packet].concat()
}

/// ovpn-idle-tcp-tlsauth, packets 7, 9, 11 (333 bytes) and 13.
const TCP_CLIENT_RESET: &str =
    "002a38a32e88baa857e54a3a3b5d2a9e39b522c9c5d4aa09fa2bc4e9f6c635000000016b026f670000000000";
const TCP_SERVER_RESET: &str =
    "0036405f8279c1fbe1fee608c663558102c2e1f8a7dab2289992ebfb8f25ce000000016b026f670100000000a32e88baa8
    57e54a00000000";
const TCP_CLIENT_HELLO: &str =
    "014b20a32e88baa857e54a10293f7525ca42022679141c17973c23fc940cfd000000026b026f6701000000005f8279c1fb
    e1fee60000000116030101";
const TCP_CLIENT_ACK: &str =
    "003628a32e88baa857e54a194fcd219ab79fa48aa4f2e8248e99cc9a673497000000036b026f670200000001000000005f8279
    c1fbe1fee6";

fn tcp_client_stream() -> Vec<u8> {
    let mut stream = [hex(TCP_CLIENT_RESET), padded(TCP_CLIENT_HELLO, 333), hex(TCP_CLIENT_ACK)].concat();
    for id in 1..=20 {
        stream.extend(record(&data_v2(id, 60 + id as usize)));
    }
    stream
}

#[test]
fn a_stream_from_its_start() {
    let mut flow = Conversation::tcp();
    flow.stream(0, &hex(TCP_CLIENT_RESET));
    // A lone record could be any length-prefixed protocol's; over UDP this one would be confirmed.
    assert_eq!(flow.state(), Some((OVPN, Likely, Phase::Attempt)));
    flow.stream(1, &hex(TCP_SERVER_RESET));
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Handshake)));
    flow.stream(0, &padded(TCP_CLIENT_HELLO, 333));
    flow.stream(0, &hex(TCP_CLIENT_ACK));
    flow.stream(0, &record(&data_v2(1, 80)));
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Established)));
    assert_eq!((variant(&flow), initiator(&flow)), (Some(Variant::TlsAuth), Some(0)));
    assert_eq!(flow.count("openvpn.record_chain"), 3);

    // One direction alone: the second record confirms.
    let mut client = Conversation::tcp();
    client.stream(0, &hex(TCP_CLIENT_RESET));
    client.stream(0, &padded(TCP_CLIENT_HELLO, 333));
    assert_eq!(client.state(), Some((OVPN, Confirmed, Phase::Handshake)));

    // ovpn-tcp-tlscrypt-8080, packets 7 and 9.
    let mut crypt = Conversation::tcp();
    crypt.stream(0, &padded("00363885a81f4789de5e77000000016b026fd125ee88c059cac0eefa109f4b506e", 56));
    assert_eq!(crypt.state(), Some((OVPN, Likely, Phase::Attempt)));
    crypt.stream(1, &padded("004240292cea15f16bc05c000000016b026fd1de77030d103e5c49ff75550984f1", 68));
    assert_eq!(crypt.state(), Some((OVPN, Confirmed, Phase::Handshake)));
}

#[test]
fn however_the_stream_is_cut() {
    let stream = tcp_client_stream();
    let mut whole = Conversation::tcp();
    whole.stream(0, &stream);
    let expected = (whole.best(), whole.evidence());
    assert_eq!(whole.state(), Some((OVPN, Confirmed, Phase::Established)));
    assert_eq!(whole.count("openvpn.data_after_control"), 20);
    // In two segments: from the third byte on, with which a direction is first looked at.
    for cut in 3..stream.len() {
        let mut flow = Conversation::tcp();
        flow.stream(0, &stream[..cut]);
        flow.stream(0, &stream[cut..]);
        assert_eq!((flow.best(), flow.evidence()), expected, "cut at {cut}");
    }
    // In many, of one size each, every one of them sent twice.
    for size in (3..70).chain([500, 1_448]) {
        let mut flow = Conversation::tcp();
        for (number, part) in stream.chunks(size).enumerate() {
            let sequence = flow.start[0].wrapping_add((number * size) as u32);
            flow.segment(0, sequence, part);
            flow.segment(0, sequence, part);
        }
        assert_eq!(flow.best(), expected.0, "{size}");
        assert_eq!(flow.evidence(), expected.1, "{size}");
    }
}

#[test]
fn a_stream_joined_in_the_middle() {
    // ovpn-tcp-midflow-1194: one record of 431 bytes a segment, later 84, 84, 76 and 157.
    let lengths = [431, 431, 431, 431, 431, 84, 84, 76, 157];
    let mut flow = Conversation::tcp();
    flow.next[0] = 629_559_123;
    let mut reached = [None; 3];
    for (number, &length) in lengths.iter().enumerate() {
        flow.stream(0, &record(&data_v2(0x3e + number as u32, length)));
        if let Some(confidence) = flow.confidence() {
            reached[confidence as usize].get_or_insert(number + 1);
        }
    }
    assert_eq!(reached, [Some(2), Some(4), Some(8)]);
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::DataOnly)));
    // From within a record: the first segment that begins one is where the chain begins.
    let mut flow = Conversation::tcp();
    flow.next[0] = 1;
    flow.stream(0, &[0xee; 300]);
    for number in 0..8 {
        flow.stream(0, &record(&data_v2(number, 90 + number as usize)));
    }
    assert_eq!(flow.confidence(), Some(Confirmed));
    // Behind one whole record, the ends of the others are missing: bodies cost nothing.
    let mut flow = Conversation::tcp();
    flow.next[0] = 1;
    flow.stream(0, &record(&data_v2(1, 90)));
    for number in 2..10 {
        let next = record(&data_v2(number, 190 + number as usize));
        let at = flow.next[0];
        flow.segment(0, at, &next[..120]);
        flow.next[0] = at.wrapping_add(next.len() as u32);
    }
    assert_eq!(flow.confidence(), Some(Confirmed));
}

#[test]
fn other_streams_are_never_likely() {
    let tls = [
        // neg-https-443, packets 6, 8 and 10.
        (0, padded("1603010200010001fc030310cd9798fa4b0edea31ecbdc31ea0044e32638", 517)),
        (1, padded("160303007a02000076030353db63045e0174a27f97ac5291ff7e0434027e", 1_430)),
        (0, padded("14030300010117030300457a2c042b105292b32e9f122120e6e7c084ce5d", 80)),
    ];
    let ssh = [
        // neg-ssh-22, packets 6, 8 and 10.
        (0, hex("5353482d322e302d4f70656e5353485f392e3270312044656269616e2d322b646562313275360d0a")),
        (1, hex("5353482d322e302d706172616d696b6f5f352e312e300d0a")),
        (0, padded("0000061408148f5217701c8c92bd8bb739bb3736368a00000148736e747275703736317832353531", 1_448)),
    ];
    let http = [
        (0, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec()),
        (1, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
    ];
    for packets in [&tls[..], &ssh[..], &http[..]] {
        for start in [true, false] {
            let mut flow = Conversation::tcp();
            if !start {
                flow.next = [5, 5];
            }
            for _ in 0..20 {
                for (direction, payload) in packets {
                    flow.stream(*direction, payload);
                }
            }
            assert!(flow.confidence() < Some(Likely), "{:?}", flow.best());
        }
    }
    // neg-dnstcp-1194, packets 6 and 8, with every id: the id is where the opcode would be.
    for id in 0..=0xff_u8 {
        let mut flow = Conversation::tcp();
        for _ in 0..10 {
            let mut query = hex("002c 0964 0100 0001 0000 0000 0001 03777777 076578616d706c65 03636f6d 00 0001 0001");
            query.resize(46, 0);
            query[2] = id;
            let mut answer = query.clone();
            answer[4] |= 0x80;
            answer.resize(62, 7);
            answer[1] = 60;
            flow.stream(0, &query);
            flow.stream(1, &answer);
        }
        assert!(flow.confidence() < Some(Likely), "{id:02x}: {:?}", flow.best());
    }
}

/// An opening that nobody answered, and anything behind it on the same ports: no tunnel.
#[test]
fn text_behind_an_unanswered_opening_is_no_data() {
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &hex(CLIENT_RESET_SHA1));
    assert_eq!(flow.state(), Some((OVPN, Confirmed, Phase::Attempt)));
    for number in 0..12 {
        flow.send(0, format!("HEAD /{number:04} HTTP/1.0\r\nHost: a.example\r\n\r\n").as_bytes());
    }
    assert_eq!(flow.phase(), Some(Phase::Attempt));
}
