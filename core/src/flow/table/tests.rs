//! The table against a plain map.

use super::*;
use crate::decode::{Fragment, Packet};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECOND: i64 = 1_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    /// Adds a flow that ends after so many seconds, or sees it again.
    See(u16, i64),
    Remove(u16),
    Wait(i64),
    Close(u16),
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_u16..60, 1_i64..4_000).prop_map(|(name, seconds)| Step::See(name, seconds)),
        2 => (0_u16..60).prop_map(Step::Remove),
        4 => prop_oneof![1_i64..30, 30_i64..5_000].prop_map(Step::Wait),
        1 => (0_u16..60).prop_map(Step::Close),
        1 => Just(Step::Clear),
    ];
    proptest::collection::vec(step, 1..200)
}

/// A packet of a flow between a host and itself: few, so that many flows are of one pair.
fn routed(name: u16, seen: i64) -> Routed {
    let packet = Packet { source_port: name, destination_port: 9, ip_version: 4, ..Packet::default() };
    let mut routed = Routed { packet, number: 1, now: seen, time: seen, ..Routed::default() };
    routed.route(KeyMode::FiveTuple);
    routed
}

fn key(routed: &Routed) -> FlowKey {
    FlowKey::new(&routed.key, routed.scope)
}

/// Adds a flow that a fingerprint keeps state for, and which the wheel times out.
fn add(table: &mut Table, name: u16, pool: Pool, packets: u32, seen: i64) -> u32 {
    let slot = table.insert(&routed(name, seen)).expect("a slot");
    count(table, slot, &routed(name, seen), u64::from(packets), 1);
    table.flow_mut(slot).set_pool(pool);
    if pool != Pool::Undecided {
        let (flow, details) = table.whole_mut(slot);
        flow.note_tracked();
        details.tracked = Some(Box::new(Tracked::new(1)));
        table.schedule(slot, seen);
    }
    slot
}

fn count(table: &mut Table, slot: u32, routed: &Routed, packets: u64, octets: u64) -> bool {
    let (flow, details) = table.whole_mut(slot);
    flow.count(details, routed, packets, octets)
}

fn settle(table: &mut Table, slot: u32) {
    let (flow, details) = table.whole_mut(slot);
    flow.settle(details, 3);
}

proptest! {
    #[test]
    fn as_a_plain_map(steps in steps()) {
        let mut table = Table::new(KeyMode::FiveTuple, &Memory::default());
        // When each flow ends, in seconds, and whether the wheel says so.
        let mut model: BTreeMap<u16, (i64, bool)> = BTreeMap::new();
        let (mut now, mut due) = (1_000, Vec::new());
        table.advance(now * SECOND, &mut due);
        for step in steps {
            match step {
                Step::See(name, seconds) => match table.find(&routed(name, 0)) {
                    // As a packet does it: the wheel is left alone.
                    Some(slot) => {
                        let flow = table.flow_mut(slot);
                        flow.seen = flow.seen.max((now + seconds) * SECOND);
                        let end = model.get_mut(&name).expect("a flow that the model has");
                        end.0 = end.0.max(now + seconds);
                    }
                    None => {
                        prop_assert!(model.insert(name, (now + seconds, name % 2 == 0)).is_none());
                        let pool = if name % 2 == 0 { Pool::Recognised } else { Pool::Undecided };
                        add(&mut table, name, pool, 1, (now + seconds) * SECOND);
                    }
                },
                Step::Remove(name) => {
                    let slot = table.find(&routed(name, 0));
                    prop_assert_eq!(slot.is_some(), model.remove(&name).is_some());
                    if let Some(slot) = slot {
                        prop_assert_eq!(table.key(slot), key(&routed(name, 0)));
                        prop_assert_eq!(table.remove(slot).is_some(), name % 2 == 0);
                    }
                }
                // As a closed stream: it ends sooner than the wheel was told.
                Step::Close(name) => if let Some(slot) = table.find(&routed(name, 0)) {
                    table.flow_mut(slot).seen = (now + 10) * SECOND;
                    table.schedule(slot, (now + 10) * SECOND);
                    model.insert(name, (now + 10, name % 2 == 0));
                },
                Step::Wait(seconds) => {
                    now += seconds;
                    due.clear();
                    table.advance(now * SECOND, &mut due);
                    for &slot in &due {
                        let (end, pool, key) = (table.flow(slot).seen, table.flow(slot).pool(), table.key(slot));
                        if end < now * SECOND {
                            table.remove(slot);
                            // Nobody knows when an undecided flow is swept; that it was over, the model knows.
                            if pool == Pool::Undecided {
                                let known = model.remove(&(key.low_port ^ key.high_port ^ 9));
                                prop_assert!(known.is_some_and(|(at, _)| at < now));
                            }
                        } else if pool != Pool::Undecided {
                            table.schedule(slot, end);
                        }
                    }
                    model.retain(|_, &mut (end, by_wheel)| !by_wheel || end >= now);
                }
                Step::Clear => {
                    table.clear();
                    model.clear();
                    table.advance(now * SECOND, &mut due);
                }
            }
            for name in 0..60 {
                let slot = table.find(&routed(name, 0));
                let found = slot.map(|slot| (table.key(slot), table.flow(slot).is_tracked()));
                prop_assert_eq!(found, model.contains_key(&name).then(|| (key(&routed(name, 0)), name % 2 == 0)));
            }
            let victim = table.undecided_victim();
            prop_assert_eq!(victim.is_some(), model.keys().any(|name| name % 2 == 1));
            prop_assert!(victim.is_none_or(|slot| table.get_mut(slot).is_some()));
        }
    }
}

#[test]
fn only_undecided_flows_are_pushed_out_and_of_those_the_least() {
    let mut table = Table::new(KeyMode::FiveTuple, &Memory::default());
    assert_eq!(table.undecided_victim(), None);
    add(&mut table, 1, Pool::Recognised, 1, 0);
    add(&mut table, 2, Pool::Attempt, 1, 0);
    assert_eq!(table.undecided_victim(), None);
    let busy = add(&mut table, 3, Pool::Undecided, 9, 1);
    let busier = add(&mut table, 4, Pool::Undecided, 9, 5);
    assert_eq!(table.undecided_victim(), Some(busy));
    let single = add(&mut table, 5, Pool::Undecided, 1, 100);
    let later = add(&mut table, 6, Pool::Undecided, 1, 200);
    assert_eq!(table.undecided_victim(), Some(single));
    table.remove(single);
    assert_eq!(table.undecided_victim(), Some(later));
    table.remove(later);
    table.remove(busy);
    assert_eq!(table.undecided_victim(), Some(busier));
    // A slot that was given back is nobody's.
    assert!(table.get_mut(busy).is_none() && table.get_mut(1_000_000).is_none());
}

/// What a flow costs: in the table, and once a fingerprint keeps state for it (evidence items come on top, 40 bytes
/// each, at most 16).
#[test]
fn flows_are_small() {
    assert_eq!(size_of::<Flow>(), 64);
    assert!(size_of::<Details>() <= 96, "{}", size_of::<Details>());
    assert!(size_of::<Tracked>() <= 440, "{}", size_of::<Tracked>());
}

#[test]
fn every_undecided_flow_is_looked_at_within_some_seconds() {
    let mut table = Table::new(KeyMode::FiveTuple, &Memory::default());
    let slots: Vec<u32> = (0..1000).map(|name| add(&mut table, name, Pool::Undecided, 1, -90 * SECOND)).collect();
    let (mut seen, mut most) = (Vec::new(), 0);
    for second in 1..=SWEEP_SECONDS as i64 {
        let before = seen.len();
        table.advance(second * SECOND, &mut seen);
        most = most.max(seen.len() - before);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, slots);
    assert!(most <= 1000 / SWEEP_SECONDS + 1, "{most}");
}

#[test]
fn packets_beyond_32_bits_are_counted_once_a_fingerprint_keeps_state() {
    let mut table = Table::new(KeyMode::FiveTuple, &Memory::default());
    let (undecided, recognised) =
        (add(&mut table, 1, Pool::Undecided, 1, 0), add(&mut table, 2, Pool::Recognised, 1, 0));
    let reply = |name: u16| {
        let packet = routed(name, 0).packet;
        let ports = (packet.destination_port, packet.source_port);
        let mut routed =
            Routed { packet: Packet { source_port: ports.0, destination_port: ports.1, ..packet }, ..routed(name, 0) };
        routed.route(KeyMode::FiveTuple);
        routed
    };
    for (name, slot) in [(1, undecided), (2, recognised)] {
        for _ in 0..3 {
            assert!(!count(&mut table, slot, &routed(name, 0), u64::from(u32::MAX), 3 << 31));
        }
        assert!(count(&mut table, slot, &reply(name), 7, 1));
        assert_eq!(table.octets(slot), [1 + 9 * (1 << 31), 1]);
    }
    assert_eq!(table.packets(undecided), [u64::from(u32::MAX), 7]);
    assert_eq!(table.packets(recognised), [1 + 3 * u64::from(u32::MAX), 7]);
}

#[test]
fn flows_that_differ_in_one_thing_are_apart() {
    for mode in [KeyMode::FiveTuple, KeyMode::Vlan, KeyMode::Path] {
        let mut table = Table::new(mode, &Memory::default());
        let plain = routed(7, 1).packet;
        let packets = [
            plain,
            Packet { transport: crate::decode::Transport::Tcp, ..plain },
            Packet { ip_version: 6, ..plain },
            Packet { destination_port: 10, ..plain },
            Packet { source: [1; 16], ..plain },
            Packet { destination: [1; 16], ..plain },
            Packet { vlans: Vlans(3), ..plain },
        ];
        let all: Vec<Routed> = packets
            .iter()
            .map(|&packet| {
                let mut routed = Routed { packet, number: 1, ..Routed::default() };
                routed.route(mode);
                routed
            })
            .collect();
        let slots: Vec<u32> = all
            .iter()
            .map(|routed| table.find(routed).unwrap_or_else(|| table.insert(routed).expect("a slot")))
            .collect();
        let tagged = if mode == KeyMode::FiveTuple { 0 } else { 6 };
        assert_eq!(slots, [0, 1, 2, 3, 4, 5, tagged], "{mode:?}");
        assert!(all.iter().zip(&slots).all(|(routed, &slot)| table.is_at(slot, routed)));
        assert_eq!(table.key(1), key(&all[1]));
        assert_eq!(table.layers(slots[0]), (Vlans(0), Path(0)));
    }
}

/// A segment of one stream.
fn segment(from_low: bool, flags: u8, length: u32, time: i64, now: i64) -> Routed {
    let (low, high) = ([1; 16], [2; 16]);
    let (source, destination) = if from_low { (low, high) } else { (high, low) };
    let packet = Packet {
        source,
        destination,
        ip_version: 6,
        transport: crate::decode::Transport::Tcp,
        tcp_flags: flags,
        payload_length: length,
        ip_length: length + 60,
        ..Packet::default()
    };
    let mut routed = Routed { packet, number: 1, time, now, ..Routed::default() };
    routed.route(KeyMode::FiveTuple);
    routed
}

proptest! {
    /// Segments that pass leave what those leave that are looked at one by one.
    #[test]
    fn what_passes_is_counted_as_what_does_not(
        steps in proptest::collection::vec(
            (any::<bool>(), prop_oneof![4 => Just(16_u8), 1 => Just(1)], 0_u32..1500, 0_i64..90, -2_i64..2),
            1..60,
        ),
    ) {
        let mut table = Table::new(KeyMode::FiveTuple, &Memory::default());
        let mut now = 1_000;
        let slot = table.insert(&segment(true, 2, 0, now * SECOND, now * SECOND)).expect("a slot");
        let (mut packets, mut octets, mut end) = ([0_u64; 2], [0_u64; 2], now * SECOND);
        let mut looked = [0_u8; 2];
        for (from_low, flags, length, wait, late) in steps {
            now += wait;
            let routed = segment(from_low, flags, length, (now - late) * SECOND, now * SECOND);
            let own = usize::from(!from_low);
            let (place, seen) = (table.guess(&routed), table.flow(slot).seen);
            let met = table.pass(place, &routed);
            let is_busy = now * SECOND - seen <= SHORTEST_TIMEOUT;
            if met == Met::Passed {
                prop_assert!(flags & 7 == 0 && late == 0 && is_busy);
                prop_assert!(length == 0 || looked[own] > 3);
            } else {
                prop_assert_eq!(met, if is_busy { Met::Flow(slot) } else { Met::Unknown });
                count(&mut table, slot, &routed, 1, u64::from(routed.packet.ip_length));
                looked[own] = looked[own].saturating_add(u8::from(length > 0));
                table.whole_mut(slot).1.track = Track::Stream(Segments { looked, ..Segments::default() });
                settle(&mut table, slot);
            }
            packets[own] += 1;
            octets[own] += u64::from(routed.packet.ip_length);
            end = end.max(routed.time);
            prop_assert_eq!((table.packets(slot), table.octets(slot), table.end(slot)), (packets, octets, end));
            prop_assert_eq!(table.flow(slot).seen, now * SECOND);
        }
    }
}

#[test]
fn segments_of_a_stream_that_is_settled_pass_until_it_ends_or_a_fingerprint_wants_it() {
    let mut table = Table::new(KeyMode::FiveTuple, &Memory::default());
    let routed = |flags, length| segment(true, flags, length, SECOND, SECOND);
    let slot = table.insert(&routed(2, 0)).expect("a slot");
    let passes = |table: &mut Table, routed: &Routed| table.pass(table.guess(routed), routed) == Met::Passed;
    assert!(!passes(&mut table, &routed(16, 0)), "nothing is known yet");
    settle(&mut table, slot);
    assert!(passes(&mut table, &routed(16, 0)) && !passes(&mut table, &routed(16, 5)));
    table.whole_mut(slot).1.track = Track::Stream(Segments { looked: [4, 0], ..Segments::default() });
    settle(&mut table, slot);
    assert!(passes(&mut table, &routed(16, 5)) && !passes(&mut table, &segment(false, 16, 5, SECOND, SECOND)));
    assert!([1, 2, 4].iter().all(|&ends| !passes(&mut table, &routed(ends, 5))));
    assert!(!passes(&mut table, &segment(true, 16, 5, 0, SECOND)), "it came late");
    table.flow_mut(slot).note_closing(1);
    settle(&mut table, slot);
    assert_eq!(table.pass(table.guess(&routed(16, 5)), &routed(16, 5)), Met::Unknown, "one end has closed it");
    let fragment = Some(Fragment { id: 1, offset: 0, length: 25, protocol: 6, more: true });
    let mut first = segment(true, 16, 5, SECOND, SECOND);
    first.packet.fragment = fragment;
    assert_eq!(table.pass(table.guess(&first), &first), Met::Unknown, "its datagram is in fragments");
}
