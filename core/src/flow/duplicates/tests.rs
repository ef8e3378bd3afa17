//! What is a copy, and what is not.

use super::*;
use crate::decode::Packet;

fn routed(change: impl Fn(&mut Packet)) -> Routed {
    let mut packet = Packet {
        transport: Transport::Tcp,
        ip_version: 4,
        ip_length: 100,
        payload_length: 60,
        identification: 7,
        checksum: 9,
        tcp_sequence: 1_000,
        ..Packet::default()
    };
    change(&mut packet);
    Routed { packet, hash: 1, from_low: true, number: 1, ..Routed::default() }
}

fn seen(recent: &mut Recent, packet: &Routed, payload: &[u8]) -> bool {
    recent.has_seen(packet, || payload)
}

#[test]
fn a_copy_is_the_same_in_all_that_a_router_leaves_as_it_is() {
    let payload = [5; 60];
    let first = routed(|_| ());
    let copied = |second: &Routed, payload: &[u8]| {
        let mut recent = Recent::default();
        assert!(!seen(&mut recent, &first, &[5; 60]));
        seen(&mut recent, second, payload)
    };
    assert!(copied(&first, &payload));
    // Another VLAN and another MAC: neither is looked at.
    assert!(copied(&routed(|packet| packet.vlans = crate::decode::Vlans(9)), &payload));
    for (what, other) in [
        ("identification", routed(|packet| packet.identification = 8)),
        ("checksum", routed(|packet| packet.checksum = 10)),
        ("length", routed(|packet| packet.ip_length = 101)),
        ("sequence", routed(|packet| packet.tcp_sequence = 1_001)),
        ("direction", Routed { from_low: false, ..first }),
        ("flow", Routed { hash: 2, ..first }),
        ("too late", Routed { now: 11_000_000, ..first }),
        ("part", routed(|packet| packet.fragment = Some(crate::decode::Fragment { offset: 8, ..Default::default() }))),
    ] {
        assert!(!copied(&other, &payload), "{what}");
    }
    assert!(copied(&Routed { now: 9_900_000, ..first }, &payload), "a little later");
    // Without a checksum the payload speaks for itself.
    let bare = routed(|packet| packet.checksum = 0);
    for (second, expected) in [([5; 60], true), ([6; 60], false)] {
        let mut recent = Recent::default();
        assert!(!seen(&mut recent, &bare, &payload));
        assert_eq!(seen(&mut recent, &bare, &second), expected);
    }
}

#[test]
fn acknowledgments_without_identification_may_be_sent_twice_in_earnest() {
    let mut recent = Recent::default();
    let bare = |length| routed(|packet| (packet.identification, packet.payload_length) = (0, length));
    assert!(!seen(&mut recent, &bare(0), &[]) && !seen(&mut recent, &bare(0), &[]));
    assert!(!seen(&mut recent, &bare(1), &[1]) && seen(&mut recent, &bare(1), &[1]));
}

#[test]
fn copies_that_come_after_some_other_packets_are_seen() {
    let packets: Vec<_> = (0..40).map(|number| routed(|packet| packet.tcp_sequence = number * 1_448)).collect();
    let mut recent = Recent::default();
    assert!(!packets.iter().any(|packet| seen(&mut recent, packet, &[])));
    let later = packets.iter().map(|packet| Routed { now: 1_000_000, ..*packet });
    assert_eq!(later.filter(|packet| seen(&mut recent, packet, &[])).count(), 40);
}

#[test]
fn what_is_remembered_is_bounded_and_can_be_forgotten() {
    let mut recent = Recent::default();
    let packets: Vec<_> =
        (1..20 * (SETS * WAYS) as u64).map(|hash| Routed { hash: hash * 77, ..routed(|_| ()) }).collect();
    assert!(!packets.iter().any(|packet| seen(&mut recent, packet, &[])));
    assert!(seen(&mut recent, packets.last().unwrap(), &[]));
    assert!(packets.iter().filter(|packet| seen(&mut recent, packet, &[])).count() <= (SETS * WAYS));
    recent.clear();
    assert!(!seen(&mut recent, packets.last().unwrap(), &[]));
}
