//! The table against a plain map.

use super::*;
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

fn key(name: u16) -> FlowKey {
    FlowKey { low_port: name, ip_version: 4, ..FlowKey::default() }
}

/// Few values, so that most keys collide.
fn hash(name: u16) -> u64 {
    u64::from(name % 3) << 60
}

proptest! {
    #[test]
    fn as_a_plain_map(steps in steps()) {
        let mut table = Table::default();
        // When each flow ends, in seconds.
        let mut model: BTreeMap<u16, i64> = BTreeMap::new();
        let (mut now, mut due) = (1_000, Vec::new());
        table.advance(now * SECOND, &mut due);
        for step in steps {
            match step {
                Step::See(name, seconds) => match table.find(hash(name), &key(name)) {
                    // As a packet does it: the wheel is left alone.
                    Some(slot) => {
                        let flow = table.flow_mut(slot);
                        flow.seen = flow.seen.max((now + seconds) * SECOND);
                        let end = model.get_mut(&name).expect("a flow that the model has");
                        *end = (*end).max(now + seconds);
                    }
                    None => {
                        prop_assert!(model.insert(name, now + seconds).is_none());
                        let end = (now + seconds) * SECOND;
                        let flow = Flow {
                            key: key(name), hash: hash(name), first_number: 1, seen: end, ..Flow::default()
                        };
                        table.insert(flow, end);
                    }
                },
                Step::Remove(name) => {
                    let slot = table.find(hash(name), &key(name));
                    prop_assert_eq!(slot.is_some(), model.remove(&name).is_some());
                    if let Some(slot) = slot {
                        prop_assert_eq!(table.remove(slot, true).key, key(name));
                    }
                }
                // As a closed stream: it ends sooner than the wheel was told.
                Step::Close(name) => if let Some(slot) = table.find(hash(name), &key(name)) {
                    table.flow_mut(slot).seen = (now + 10) * SECOND;
                    table.reschedule(slot, (now + 10) * SECOND);
                    model.insert(name, now + 10);
                },
                Step::Wait(seconds) => {
                    now += seconds;
                    due.clear();
                    table.advance(now * SECOND, &mut due);
                    for &slot in &due {
                        let end = table.flow(slot).seen;
                        if end < now * SECOND { table.remove(slot, false); } else { table.put_back(slot, end); }
                    }
                    model.retain(|_, end| *end >= now);
                }
                Step::Clear => {
                    table.clear();
                    model.clear();
                    table.advance(now * SECOND, &mut due);
                }
            }
            let mut names: Vec<u16> = table.slots().iter().map(|&slot| table.flow(slot).key.low_port).collect();
            names.sort_unstable();
            prop_assert_eq!(names, model.keys().copied().collect::<Vec<_>>());
            for name in 0..60 {
                let found = table.find(hash(name), &key(name)).map(|slot| table.flow(slot).key);
                prop_assert_eq!(found, model.contains_key(&name).then(|| key(name)));
            }
            let victim = table.undecided_victim();
            prop_assert_eq!(victim.is_some(), !model.is_empty());
            prop_assert!(victim.is_none_or(|slot| table.get_mut(slot).is_some()));
        }
    }
}

#[test]
fn only_undecided_flows_are_pushed_out_and_of_those_the_least() {
    let mut table = Table::default();
    let add = |table: &mut Table, name, pool, packets, seen| {
        let flow = Flow {
            key: key(name),
            hash: hash(name),
            first_number: 1,
            pool,
            packets: [packets, 0],
            seen,
            ..Flow::default()
        };
        table.insert(flow, 0)
    };
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
    table.remove(single, true);
    assert_eq!(table.undecided_victim(), Some(later));
    table.remove(later, true);
    table.remove(busy, true);
    assert_eq!(table.undecided_victim(), Some(busier));
    // A slot that was given back is nobody's.
    assert!(table.get_mut(busy).is_none() && table.get_mut(1_000_000).is_none());
}

/// What a flow costs: in the table, and once a fingerprint keeps state for it (evidence items come on top, 40 bytes
/// each, at most 16).
#[test]
fn flows_are_small() {
    assert!(size_of::<Flow>() <= 240, "{}", size_of::<Flow>());
    assert!(size_of::<Tracked>() <= 400, "{}", size_of::<Tracked>());
}
