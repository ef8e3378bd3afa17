//! Datagrams cut at random, in random order, with losses and copies.

use super::*;
use crate::decode::{Fragment, Packet};
use proptest::prelude::*;

const SECOND: i64 = 1_000_000_000;
const FLOW: FlowOfDatagram = (3, 17);

/// One part of a datagram with a UDP header of eight zeros.
fn part(id: u32, datagram: &[u8], start: usize, end: usize, now: i64) -> (Routed, Vec<u8>) {
    let fragment =
        Fragment { id, offset: start as u32, length: (end - start) as u32, protocol: 17, more: end < datagram.len() };
    let from = if start == 0 { 8 } else { start };
    let packet = Packet {
        transport: Transport::Udp,
        ip_version: 4,
        ip_length: 20 + fragment.length,
        payload_captured: (end - from) as u32,
        payload_length: if start == 0 { datagram.len() as u32 - 8 } else { fragment.length },
        fragment: Some(fragment),
        ..Packet::default()
    };
    let routed = Routed { packet, from_low: true, number: 1, time: now, now, ..Routed::default() };
    (routed, datagram[from..end].to_vec())
}

fn feed(
    fragments: &mut Fragments,
    (routed, bytes): &(Routed, Vec<u8>),
    given_up: &mut Vec<Message>,
) -> (u64, Option<Message>) {
    if routed.packet.fragment.is_some_and(|fragment| fragment.offset == 0) {
        let first = fragments.first(routed, FLOW, Some((8, bytes)), given_up);
        (1 + first.waiting.0, first.whole)
    } else {
        let (flow, whole) = fragments.later(routed, bytes, given_up);
        assert!(flow.is_none_or(|flow| flow == FLOW));
        (u64::from(flow.is_some()), whole)
    }
}

proptest! {
    /// In whatever order and however often its parts come, a datagram becomes whole when all are there, and is what
    /// it was; every part is counted to the flow, is waiting or is unmatched.
    #[test]
    fn a_datagram_is_the_same_however_its_parts_come(
        length in 40_usize..6_000,
        cuts in proptest::collection::btree_set(1_usize..750, 1..12),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 1..40),
        lost in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let datagram: Vec<u8> = (0..8).map(|_| 0).chain((8..length).map(|at| (at * 7 + at / 256) as u8)).collect();
        let mut edges: Vec<usize> = cuts.into_iter().map(|cut| cut * 8).filter(|&cut| cut < length && cut > 8).collect();
        edges.insert(0, 0);
        edges.push(length);
        let parts: Vec<_> = edges.windows(2).map(|edge| part(9, &datagram, edge[0], edge[1], SECOND)).collect();
        prop_assume!(parts.len() > 1);
        let lost = lost.map(|lost| lost.index(parts.len()));
        let mut sent: Vec<usize> = order.iter().map(|index| index.index(parts.len())).collect();
        sent.extend(0..parts.len());
        sent.retain(|&index| Some(index) != lost);
        let mut fragments = Fragments::new(8);
        let (mut given_up, mut whole, mut counted, mut seen) = (Vec::new(), 0, 0, 0);
        for &index in &sent {
            let (packets, message) = feed(&mut fragments, &parts[index], &mut given_up);
            counted += packets;
            seen += 1;
            if let Some(message) = message {
                prop_assert!(message.payload == datagram[8..]);
                whole += 1;
            }
            prop_assert_eq!(counted + fragments.counters.waiting, seen);
            prop_assert!(fragments.held <= MOST_HELD);
        }
        prop_assert_eq!(fragments.counters.overlapping, 0);
        prop_assert_eq!(whole > 0, lost.is_none());
        prop_assert!(given_up.is_empty());
        fragments.tick(40 * SECOND, &mut given_up);
        prop_assert_eq!(counted + fragments.counters.unmatched, seen);
        prop_assert_eq!((fragments.counters.waiting, fragments.held, fragments.datagrams.len()), (0, 0, 0));
        // What was held comes back as its first fragment.
        for message in &given_up {
            prop_assert!(message.payload == parts[0].1);
        }
    }

    /// Any parts at all: bounded, balanced, and never a message out of parts that overlap.
    #[test]
    fn any_parts_are_counted_and_bounded(
        parts in proptest::collection::vec((0_u32..5, 0_usize..40, 1_usize..60, any::<bool>(), 0_i64..20), 1..200),
    ) {
        let datagram = vec![1; 2_000];
        let mut fragments = Fragments::new(3);
        let (mut given_up, mut counted, mut now) = (Vec::new(), 0, 0);
        for (number, &(id, start, length, more, step)) in parts.iter().enumerate() {
            now += step * SECOND;
            fragments.tick(now, &mut given_up);
            let start = start * 8;
            let end = if more { start + length.max(2) * 8 } else { start + length + 8 };
            let mut part = part(id, &datagram, start, end, now);
            part.0.packet.fragment.as_mut().unwrap().more = more;
            counted += feed(&mut fragments, &part, &mut given_up).0;
            let counters = fragments.counters;
            prop_assert_eq!(counted + counters.waiting + counters.unmatched, number as u64 + 1);
            prop_assert!(fragments.datagrams.len() <= 3 && fragments.order.len() == fragments.datagrams.len());
            prop_assert_eq!(fragments.held, fragments.datagrams.values().map(Datagram::octets).sum::<usize>());
        }
        fragments.finish(&mut given_up);
        prop_assert_eq!((fragments.counters.waiting, fragments.held), (0, 0));
    }
}

#[test]
fn overlapping_parts_make_no_message() {
    let datagram = vec![7; 3_000];
    let mut fragments = Fragments::new(8);
    let mut given_up = Vec::new();
    let first = feed(&mut fragments, &part(1, &datagram, 0, 1_480, 0), &mut given_up);
    assert_eq!((first.0, first.1.is_none()), (1, true));
    // One octet group too early: what an attacker writes over the first part.
    assert!(feed(&mut fragments, &part(1, &datagram, 1_472, 2_960, 0), &mut given_up).1.is_none());
    assert!(feed(&mut fragments, &part(1, &datagram, 1_480, 2_960, 0), &mut given_up).1.is_none());
    assert!(feed(&mut fragments, &part(1, &datagram, 2_960, 3_000, 0), &mut given_up).1.is_none());
    let counters = fragments.counters;
    assert_eq!((counters.overlapping, counters.incomplete, counters.reassembled), (1, 0, 0));
    assert!(given_up.is_empty(), "nothing is concluded from it");
    // The number comes round: a new datagram is whole again.
    fragments.tick(31 * SECOND, &mut given_up);
    for (start, end, whole) in [(0, 1_480, false), (1_480, 2_960, false), (2_960, 3_000, true)] {
        let message = feed(&mut fragments, &part(1, &datagram, start, end, 31 * SECOND), &mut given_up).1;
        assert_eq!(message.is_some(), whole);
    }
}

#[test]
fn a_number_that_comes_round_begins_a_new_datagram() {
    let datagram = vec![7; 2_000];
    let mut fragments = Fragments::new(8);
    let mut given_up = Vec::new();
    for _ in 0..3 {
        for (start, end) in [(0, 1_480), (1_480, 2_000)] {
            feed(&mut fragments, &part(1, &datagram, start, end, 0), &mut given_up);
        }
    }
    // Another flow's datagram of the same number, the last part of the one before being lost: that one is looked at as
    // it is.
    feed(&mut fragments, &part(1, &datagram, 0, 1_480, 0), &mut given_up);
    assert!(given_up.is_empty());
    let other = fragments.first(&part(1, &datagram, 0, 1_480, 0).0, (4, 18), None, &mut given_up);
    assert!(!other.held && given_up.len() == 1 && given_up[0].payload.len() == 1_472);
    assert_eq!(fragments.later(&part(1, &datagram, 1_480, 2_000, 0).0, &[0; 520], &mut given_up).0, Some((4, 18)));
    assert_eq!((fragments.counters.reassembled, fragments.counters.overlapping), (3, 0));
}

#[test]
fn what_breaks_while_it_is_held_is_given_up_as_it_began() {
    let datagram = vec![7; 2_000];
    let mut fragments = Fragments::new(8);
    let mut given_up = Vec::new();
    feed(&mut fragments, &part(1, &datagram, 0, 1_480, 0), &mut given_up);
    // Cut by the snap length.
    let (routed, bytes) = part(1, &datagram, 1_480, 2_000, 0);
    assert!(fragments.later(&routed, &bytes[..40], &mut given_up).1.is_none());
    assert_eq!((given_up.len(), fragments.counters.incomplete, fragments.held), (1, 1, 0));
}

#[test]
fn what_belongs_to_no_flow_waits_for_none() {
    let mut fragments = Fragments::new(8);
    let (mut routed, bytes) = part(1, &[7; 2_000], 1_480, 2_000, 0);
    routed.packet.fragment.as_mut().unwrap().protocol = 1;
    assert_eq!(fragments.later(&routed, &bytes, &mut Vec::new()).0, None);
    assert_eq!((fragments.counters.unmatched, fragments.counters.waiting, fragments.datagrams.len()), (1, 0, 0));
}

#[test]
fn what_is_held_is_bounded() {
    let datagram = vec![7; 16_000];
    let mut fragments = Fragments::new(1_000);
    let mut given_up = Vec::new();
    for id in 0..100 {
        feed(&mut fragments, &part(id, &datagram, 0, 1_480, 0), &mut given_up);
        for start in (2_960..14_000).step_by(1_480) {
            feed(&mut fragments, &part(id + 500, &datagram, start, start + 1_480, 0), &mut given_up);
        }
        assert!(fragments.held <= MOST_HELD);
    }
    assert!(fragments.held > MOST_HELD / 2);
    assert_eq!(fragments.counters.incomplete, 100 - 4, "four of 16,000 octets find room");
}
