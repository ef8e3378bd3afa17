//! The table against a plain map.

use super::*;
use crate::decode::Packet;
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

/// Adds a flow that a fingerprint keeps state for, and which the wheel times out.
fn add(table: &mut Table, name: u16, pool: Pool, packets: u32, seen: i64) -> u32 {
    let slot = table.insert(&routed(name, seen)).expect("a slot");
    table.flow_mut(slot).count(0, packets, 1);
    table.flow_mut(slot).set_pool(pool);
    if pool != Pool::Undecided {
        table.flow_mut(slot).tracked = Some(Box::new(Tracked {
            candidate: Candidate::default(),
            reported: None,
            said_to_pair: None,
            unreported: false,
            tag: 0,
            generation: 1,
            next_update: 0,
            durations: 0,
            links: Links::default(),
            more_packets: [0; 2],
        }));
        table.schedule(slot, seen);
    }
    slot
}

proptest! {
    #[test]
    fn as_a_plain_map(steps in steps()) {
        let mut table = Table::new(KeyMode::FiveTuple);
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
                        prop_assert_eq!(table.key(slot), routed(name, 0).key());
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
                let found = table.find(&routed(name, 0)).map(|slot| table.key(slot));
                prop_assert_eq!(found, model.contains_key(&name).then(|| routed(name, 0).key()));
            }
            let names = model.keys().filter(|&name| name % 2 == 0).count();
            prop_assert_eq!(table.tracked().len(), names);
            let victim = table.undecided_victim();
            prop_assert_eq!(victim.is_some(), model.keys().any(|name| name % 2 == 1));
            prop_assert!(victim.is_none_or(|slot| table.get_mut(slot).is_some()));
        }
    }
}

#[test]
fn only_undecided_flows_are_pushed_out_and_of_those_the_least() {
    let mut table = Table::new(KeyMode::FiveTuple);
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
    assert!(size_of::<Flow>() <= 160, "{}", size_of::<Flow>());
    assert!(size_of::<Tracked>() <= 440, "{}", size_of::<Tracked>());
}

#[test]
fn every_undecided_flow_is_looked_at_within_some_seconds() {
    let mut table = Table::new(KeyMode::FiveTuple);
    let slots: Vec<u32> = (0..1000).map(|name| add(&mut table, name, Pool::Undecided, 1, 0)).collect();
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
    let mut table = Table::new(KeyMode::FiveTuple);
    let (undecided, recognised) =
        (add(&mut table, 1, Pool::Undecided, 1, 0), add(&mut table, 2, Pool::Recognised, 1, 0));
    for slot in [undecided, recognised] {
        for _ in 0..3 {
            assert!(!table.flow_mut(slot).count(0, u32::MAX, 1));
        }
        assert!(table.flow_mut(slot).count(1, 7, 1));
    }
    assert_eq!(table.flow(undecided).packets(), [u64::from(u32::MAX), 7]);
    assert_eq!(table.flow(recognised).packets(), [1 + 3 * u64::from(u32::MAX), 7]);
}

#[test]
fn flows_that_differ_in_one_thing_are_apart() {
    for mode in [KeyMode::FiveTuple, KeyMode::Vlan, KeyMode::Path] {
        let mut table = Table::new(mode);
        let plain = routed(7, 1).packet;
        let packets = [
            plain,
            Packet { transport: Transport::Tcp, ..plain },
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
        assert_eq!(table.key(1), all[1].key());
        assert_eq!(table.layers(slots[0]), (Vlans(0), Path(0)));
    }
}
