//! Bytes are from the cases in `pcaps/` that the comments name.
use super::super::testing::*;
use super::*;
use Confidence::{Confirmed, Likely, Possible};

const PORTS: [u16; 2] = [40_440, 51_820];
const WG: Protocol = Protocol::WireGuard;

/// wg-plain-51820, packet 3.
const INITIATION: &str =
    "01000000aa117f24907ec84e2dbe6b657ebd34bee404303a2271400110752bf240a0599ba70b2f2217e9deb8b48f6485
    201cfee520548a30f58fc2e8b77300b7b87ce01da7ecf219bb5be1b9ad787914a49553d9e35921b035152dc2b44d5164a87be86f0d561298
    2b5d33e47f047c0e8023eca65508f91671226db37378aff75ff170e400000000000000000000000000000000";
/// wg-plain-51820, packet 4.
const RESPONSE: &str =
    "020000008da04f46aa117f242541acd562b0bf02dec2a2d807b22ea55513b2f850d4c8d01f8da86e97bb60495bb93434
    f5d3e3ef3af0227c965046c11db961ff53ff483764ca07101336c20d00000000000000000000000000000000";
/// wg-plain-51820, packets 5 and 6, 128 bytes each.
const DATA_TO_RESPONDER: &str = "040000008da04f46000000000000000018920b43ae261f25";
const DATA_TO_INITIATOR: &str = "04000000aa117f240000000000000000097fdcf3b4844319";
/// wg-cookie-reply-b, packets 1, 2, 5 and 6.
const COOKIE_INITIATION: &str =
    "010000007a5d20fc7a1034a9265e44ce5c5372e098f77061e0a169d084195bfe3d3373ee944287277ae1fa7a
    fcda0be693269df8c1acdc2b910999505861fa2b7a8a48e5f8bc41a2db1406b573013795cccc1a9627c1f3ff27119e57692112f11dc18755
    5ffc57de03c07c893eddf19d0ce61a91262af28d38a7c25ad2c9a4d6171b6f4000000000000000000000000000000000";
const COOKIE_REPLY: &str =
    "030000007a5d20fcbe3df800e65b9c6d03a3ca25c52c99170dd0daecbed84da258982a9e9bc0218dcc751bf8c5d94
    a896475078103855f84855657be17460013";
const INITIATION_WITH_MAC2: &str =
    "010000002a0dde71c54f58d0a3440dac11c6f82be93455ce62d7547520bf0021394dc08c3f47ce366b135
    7ee3e1a498ca6438c4650c9afd983ddddfc15e6128bf239d4933fa61414923f1317df7e7d459c79c194c7f134c92dcb2817e1bdfb243f867
    86f5d6f74b3f1607ddebc20d3be05d38e5940e2fdd9be24777d12d9a88e17a167d1343127c0e98b77dccae6e7886ff0f12f";
const RESPONSE_TO_MAC2: &str =
    "02000000689909e72a0dde71c2b68124cb16e183c80ad0357405bb80433df0c6f73bc3ae2d52f9cc27a6c633f
    0296f96d388b36b6bceb799bba8073ce043d3dbabba68f60dc70bbb306ec48b00000000000000000000000000000000";

/// Transport data of `length` bytes.
fn data(index: u32, counter: u64, length: usize) -> Vec<u8> {
    let mut payload = padded("04000000", length);
    payload[4..8].copy_from_slice(&index.to_le_bytes());
    payload[8..16].copy_from_slice(&counter.to_le_bytes());
    payload
}

/// The mid-flow case's indices: wg-midflow-51820, packets 1 (464 bytes) and 2.
const TO_RESPONDER: u32 = u32::from_le_bytes([0x75, 0x37, 0x30, 0x4d]);
const TO_INITIATOR: u32 = u32::from_le_bytes([0xe5, 0xb9, 0xab, 0xb4]);

/// Confidence after each of these counters in one direction.
fn levels(counters: &[u64]) -> Vec<Option<Confidence>> {
    let mut flow = Conversation::udp(PORTS);
    counters
        .iter()
        .map(|&counter| {
            flow.send(0, &data(TO_RESPONDER, counter, 464));
            flow.confidence()
        })
        .collect()
}

#[test]
fn each_message_alone() {
    let all = [
        (hex(INITIATION), Some((WG, Confirmed, Phase::Attempt)), Some(0), false),
        (hex(RESPONSE), Some((WG, Confirmed, Phase::Handshake)), Some(1), false),
        (hex(COOKIE_REPLY), Some((WG, Possible, Phase::Handshake)), Some(1), false),
        (hex(INITIATION_WITH_MAC2), Some((WG, Possible, Phase::Attempt)), Some(0), false),
        (padded("040000007537304d0100000000000000f562fbec", 464), Some((WG, Likely, Phase::DataOnly)), None, true),
    ];
    for (payload, state, initiator, midflow) in all {
        let mut flow = Conversation::udp(PORTS);
        flow.send(0, &payload);
        assert_eq!(flow.state(), state);
        assert_eq!(flow.best().map(|(_, finding)| (finding.initiator, finding.midflow)), Some((initiator, midflow)));
    }
    // The first packet of a session, without the session: its counter has not counted.
    assert_eq!(alone(PORTS, &padded(DATA_TO_RESPONDER, 128), 128), None);
}

#[test]
fn a_whole_session() {
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &hex(INITIATION));
    flow.send(1, &hex(RESPONSE));
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::Handshake)));
    flow.send(0, &padded(DATA_TO_RESPONDER, 128));
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::Established)));
    flow.send(1, &padded(DATA_TO_INITIATOR, 128));
    let expected = [
        ("wireguard.initiation", 1),
        ("wireguard.mac2_zero", 2),
        ("wireguard.response", 1),
        ("wireguard.paired_index", 3),
        ("wireguard.data", 2),
    ];
    assert_eq!(flow.evidence(), expected);
    assert_eq!(flow.best().map(|(_, finding)| finding.initiator), Some(Some(0)));
}

#[test]
fn what_is_no_public_value_says_nothing_and_what_follows_speaks_for_itself() {
    let with_top_bit = |message: &str, last: usize| {
        let mut message = hex(message);
        message[last] |= 0x80;
        message
    };
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &with_top_bit(INITIATION, 39));
    flow.send(1, &with_top_bit(RESPONSE, 43));
    assert_eq!(flow.best(), None);
    for counter in 0..3 {
        flow.send(0, &data(TO_RESPONDER, counter, 464));
        flow.send(1, &data(TO_INITIATOR, counter, 464));
    }
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::DataOnly)));
    // Handshakes that come after it are as little as it is: a retry with another index, what two type words may be.
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &with_top_bit(INITIATION, 39));
    flow.send(0, &hex(INITIATION));
    flow.time += 5 * SECOND;
    flow.send(0, &hex(COOKIE_INITIATION));
    assert_eq!(flow.confidence(), Some(Possible));
    // Beside a text in a message's place, the same stays possible.
    let mut text = hex(INITIATION);
    text[8..132].fill(b'a');
    let mut flow = Conversation::udp(PORTS);
    flow.send(0, &text);
    for counter in 0..3 {
        flow.send(0, &data(TO_RESPONDER, counter, 464));
        flow.send(1, &data(TO_INITIATOR, counter, 464));
    }
    assert_eq!(flow.confidence(), Some(Possible));
}

#[test]
fn one_direction_of_a_session_shows_that_it_is_established() {
    let mut from_initiator = Conversation::udp(PORTS);
    from_initiator.send(0, &hex(INITIATION));
    from_initiator.send(0, &padded(DATA_TO_RESPONDER, 128));
    assert_eq!(from_initiator.state(), Some((WG, Confirmed, Phase::Established)));

    let mut from_responder = Conversation::udp(PORTS);
    from_responder.send(0, &hex(RESPONSE));
    from_responder.send(0, &padded(DATA_TO_INITIATOR, 128));
    assert_eq!(from_responder.state(), Some((WG, Confirmed, Phase::Established)));
    assert_eq!(from_responder.count("wireguard.paired_index"), 1);
    assert_eq!(from_responder.best().map(|(_, finding)| finding.initiator), Some(Some(1)));
}

#[test]
fn retries_are_an_attempt_however_many() {
    // wg-unanswered: five initiations, five seconds apart, each with an index of its own.
    let mut flow = Conversation::udp(PORTS);
    for index in [0x29e0_edbf_u32, 0x446b_6942, 0x9ebc_6ade, 0x53a1_7b20, 0x2ec4_e4e6] {
        let mut initiation = hex(INITIATION);
        initiation[4..8].copy_from_slice(&index.to_le_bytes());
        flow.send(0, &initiation);
        assert_eq!(flow.state(), Some((WG, Confirmed, Phase::Attempt)));
        flow.time += 5 * SECOND;
    }
    assert_eq!(flow.count("wireguard.new_index"), 4);
}

#[test]
fn under_load_the_index_decides() {
    let first = hex(INITIATION_WITH_MAC2);
    let mut second = first.clone();
    second[4] ^= 1;
    // The same message again says nothing more, at any time; another index only when a retry could have come.
    for (pause, payload, expected) in [
        (5 * SECOND, &first, Possible),
        (4 * SECOND - 1, &second, Possible),
        (4 * SECOND, &second, Confirmed),
        (6 * SECOND, &second, Confirmed),
    ] {
        let mut flow = Conversation::udp(PORTS);
        flow.send(0, &first);
        flow.time += pause - SECOND / 100;
        flow.send(0, payload);
        assert_eq!(flow.confidence(), Some(expected), "after {pause} ns");
    }
    // An answer that would be possible alone, for that index and for another one.
    let mut response = hex(RESPONSE_TO_MAC2);
    response[80] = 1;
    assert_eq!(alone(PORTS, &response, 92).map(|(_, finding)| finding.confidence), Some(Possible));
    for (index_byte, expected) in [(0x2a, Confirmed), (0x2b, Possible)] {
        response[8] = index_byte;
        let mut flow = Conversation::udp(PORTS);
        flow.send(0, &first);
        flow.send(1, &response);
        assert_eq!(flow.confidence(), Some(expected));
    }
}

#[test]
fn a_cookie_reply_is_an_answer_and_its_index_no_proof() {
    let mut flow = Conversation::udp(PORTS);
    let mut initiation = hex(COOKIE_INITIATION);
    // As if it carried a cookie already: then it proves nothing by itself.
    initiation[140] = 7;
    flow.send(0, &initiation);
    assert_eq!(flow.state(), Some((WG, Possible, Phase::Attempt)));
    flow.send(1, &hex(COOKIE_REPLY));
    assert_eq!(flow.state(), Some((WG, Likely, Phase::Handshake)));
    flow.time += 5 * SECOND;
    flow.send(0, &hex(INITIATION_WITH_MAC2));
    flow.send(1, &hex(RESPONSE_TO_MAC2));
    flow.send(0, &padded("04000000689909e70000000000000000", 128));
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::Established)));
    assert_eq!(flow.count("wireguard.cookie_reply"), 1);
}

#[test]
fn mid_flow_one_packet_is_likely_and_three_are_confirmed() {
    assert_eq!(levels(&[1, 2, 3]), [Some(Likely), Some(Likely), Some(Confirmed)]);
    // Two of each direction: packets 1 to 4 of wg-midflow-51820.
    let mut flow = Conversation::udp(PORTS);
    for (direction, index, counter, expected) in [
        (0, TO_RESPONDER, 1, Likely),
        (1, TO_INITIATOR, 1, Likely),
        (0, TO_RESPONDER, 2, Likely),
        (1, TO_INITIATOR, 2, Confirmed),
    ] {
        flow.send(direction, &data(index, counter, 464));
        assert_eq!(flow.confidence(), Some(expected));
    }
    assert_eq!(flow.phase(), Some(Phase::DataOnly));
    assert!(flow.ruled_out().contains(&LookAlike::TypeWord) && flow.ruled_out().contains(&LookAlike::Dns));
    // wg-keepalive-midflow: 32 bytes each, ten seconds apart.
    let mut flow = Conversation::udp(PORTS);
    for counter in 1..=3 {
        flow.send(0, &data(0x3147_268a, counter, 32));
        flow.time += 10 * SECOND;
    }
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::DataOnly)));
}

#[test]
fn loss_reordering_and_repetition() {
    // What comes late neither counts nor ends the run; what only falls is no counter.
    assert_eq!(levels(&[7, 5, 8, 6, 9]).last(), Some(&Some(Confirmed)));
    assert_eq!(levels(&[70, 69, 68, 67, 66, 65]).last(), Some(&Some(Likely)));
    assert_eq!(levels(&[7, 7, 7, 7]).last(), Some(&Some(Likely)));
    assert_eq!(levels(&[7, 7, 8, 8]).last(), Some(&Some(Likely)));
    assert_eq!(levels(&[7, 7, 8, 8, 9]).last(), Some(&Some(Confirmed)));
    assert_eq!(levels(&[1, 8_193, 16_385]).last(), Some(&Some(Confirmed)));
    assert_eq!(levels(&[1, 8_194, 16_387]).last(), Some(&Some(Likely)));
}

#[test]
fn the_counter_restarts_with_each_key() {
    let mut flow = Conversation::udp(PORTS);
    for (index, counter, expected) in [
        (TO_RESPONDER, 5_000, Likely),
        (TO_RESPONDER, 5_001, Likely),
        // A new key after two minutes: the run begins again and loses nothing.
        (TO_RESPONDER ^ 0x0101, 0, Likely),
        (TO_RESPONDER ^ 0x0101, 1, Likely),
        (TO_RESPONDER ^ 0x0101, 2, Confirmed),
        (TO_RESPONDER ^ 0x0202, 0, Confirmed),
    ] {
        flow.send(0, &data(index, counter, 464));
        assert_eq!(flow.confidence(), Some(expected), "{index:08x} {counter}");
    }
    // With its handshake: the index of the new one pairs.
    flow.send(0, &hex(INITIATION));
    flow.send(1, &hex(RESPONSE));
    flow.send(0, &padded(DATA_TO_RESPONDER, 128));
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::Established)));
    // It was joined mid-flow, whatever came later.
    assert_eq!(flow.best().map(|(_, finding)| finding.midflow), Some(true));
}

#[test]
fn a_snap_length_of_96_hides_mac2_and_leaves_the_indices() {
    // wg-snap96, packets 3 to 6: 54 bytes captured of each payload.
    let mut flow = Conversation::udp([37_902, 51_820]);
    flow.send_cut(
        0,
        &padded("01000000dd0852ab6c79f535e46432800fd2c57a4e264ad78a7a73ea487facad69bbb238930fa55a", 54),
        148,
    );
    assert_eq!(flow.state(), Some((WG, Possible, Phase::Attempt)));
    flow.send_cut(
        1,
        &padded("0200000043ae6f75dd0852ab5170ab0b7cd29e1434a81fba8adc4e3b93e6900e87f1184bdaf2bbafa701d464", 54),
        92,
    );
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::Handshake)));
    flow.send_cut(0, &padded("0400000043ae6f750000000000000000a52529ba", 54), 128);
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::Established)));
}

#[test]
fn foreign_datagrams_on_the_socket_decide_nothing() {
    // neg-stun-3478, packet 3.
    let stun = padded("000100142112a4422a932a1875a225e713fccdac00060008616263643a656667002400046e7f1eff", 40);
    let mut flow = Conversation::udp(PORTS);
    for _ in 0..50 {
        assert_eq!(flow.send(0, &stun), None);
    }
    flow.send(0, &hex(INITIATION));
    for _ in 0..50 {
        flow.send(1, &stun);
    }
    flow.send(1, &hex(RESPONSE));
    flow.send(0, &stun);
    flow.send(0, &padded(DATA_TO_RESPONDER, 128));
    assert_eq!(flow.state(), Some((WG, Confirmed, Phase::Established)));
}

#[test]
fn look_alikes_stay_below_likely() {
    // An index that a game would count: drawn ones are hardly ever so small.
    assert_eq!(alone(PORTS, &data(0xffff, 1, 464), 464), None);
    assert!(alone(PORTS, &data(0x1_0000, 1, 464), 464).is_some());

    // neg-game-148-92-51820, packets 3 to 8: the sizes of a handshake, padded with zeros, and counted messages.
    let mut hello = padded("01000000590df062636c69656e742d68656c6c6f20763220eca89d0d01681a76", 148);
    hello[39] &= 0x7f;
    hello[115..].fill(0);
    let mut welcome = padded("0200000001000000000000000000000000000000de81de82", 92);
    welcome[43] &= 0x7f;
    let mut flow = Conversation::udp([57_570, 51_820]);
    flow.send(0, &hello);
    flow.send(1, &welcome);
    for number in 1..100 {
        flow.send(0, &data(number, 0, 93));
        flow.send(1, &data(number + 1, 0, 60));
    }
    assert!(flow.confidence() < Some(Likely));

    // neg-game-le4, packets 3 to 6: a type word, then fields that are no counter below 2^32.
    let mut flow = Conversation::udp([38_054, 27_015]);
    for (direction, head, length) in [
        (0, "04000000785634120200000072e69e24", 60),
        (1, "04000000010000003c001000f80c35e7", 147),
        (0, "040000007856341201002000c8ad7626", 72),
        (1, "04000000020000004800100097f67c9b", 51),
    ] {
        flow.send(direction, &padded(head, length));
    }
    assert!(flow.confidence() < Some(Likely));

    // DNS queries whose id and flags make a type; sent twice, and answered.
    for kind in 1..=4_u8 {
        for name in ["\u{3}www\u{7}example\u{3}org", "\u{1}a\u{2}io", "\u{3f}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"] {
            let mut query = vec![kind, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            query.extend(name.as_bytes());
            query.extend([0, 0, 1, 0, 1]);
            let mut flow = Conversation::udp([50_123, 53]);
            for direction in [0, 0, 1, 1] {
                flow.send(direction, &query);
            }
            assert_eq!(flow.best(), None, "{kind}");
            query.resize(if kind == 1 { 148 } else { 92 }, 0);
            assert!(alone(PORTS, &query, query.len() as u32).is_none_or(|(_, found)| found.confidence < Likely));
        }
    }
}

#[test]
fn truncations_say_less() {
    for message in [INITIATION, RESPONSE, COOKIE_REPLY, INITIATION_WITH_MAC2] {
        let message = hex(message);
        assert_truncations_say_less(PORTS, &message);
        // Their lengths are exact.
        for length in (0..message.len()).chain([message.len() + 1]) {
            let mut changed = message.clone();
            changed.resize(length, 0x55);
            assert_eq!(alone(PORTS, &changed, length as u32), None, "{length} bytes");
        }
    }
    assert_truncations_say_less(PORTS, &data(TO_RESPONDER, 1, 464));
    assert_eq!(alone(PORTS, &data(TO_RESPONDER, 1, 31), 31), None);
}

#[test]
fn every_named_field_decides() {
    // Type and reserved bytes, the top bit of the public value, mac2 (from the end).
    let none = |_| false;
    assert_fields_decide(PORTS, &hex(INITIATION), &[(0..4, none), (39..40, |value| value & 0x80 == 0), (-16..0, none)]);
    assert_fields_decide(PORTS, &hex(RESPONSE), &[(0..4, none), (43..44, |value| value & 0x80 == 0), (-16..0, none)]);
}
