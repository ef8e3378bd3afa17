//! What lies above a flow's IP header, kept once for all flows that have it in common: most of a capture have one of a
//! few, so a flow keeps two bytes instead of sixteen.

use std::collections::BTreeMap;

use crate::decode::{Path, Vlans};

/// Where a flow's layers are kept.
pub type LayersId = u16;
/// Of flows for whose layers there was no room: more than 65,535 different ones at a time.
const UNKNOWN: LayersId = LayersId::MAX;

/// The layers of one shard's flows.
#[derive(Debug, Default)]
pub struct Layers {
    kept: Vec<Kept>,
    known: BTreeMap<(u64, u64), LayersId>,
    free: Vec<LayersId>,
    /// The one asked for last: most often it is asked for again.
    latest: LayersId,
}

#[derive(Debug)]
struct Kept {
    vlans: Vlans,
    path: Path,
    flows: u32,
}

impl Layers {
    /// Keeps the layers of one more flow.
    pub fn keep(&mut self, vlans: Vlans, path: Path) -> LayersId {
        if let Some(kept) = self.kept.get_mut(usize::from(self.latest))
            && kept.flows > 0
            && (kept.vlans, kept.path) == (vlans, path)
        {
            kept.flows += 1;
            return self.latest;
        }
        let name = (vlans.0, path.0);
        if let Some(&id) = self.known.get(&name) {
            self.latest = id;
            self.kept[usize::from(id)].flows += 1;
            return id;
        }
        let kept = Kept { vlans, path, flows: 1 };
        let id = match self.free.pop() {
            Some(id) => {
                self.kept[usize::from(id)] = kept;
                id
            }
            None if self.kept.len() < usize::from(UNKNOWN) => {
                self.kept.push(kept);
                (self.kept.len() - 1) as LayersId
            }
            None => return UNKNOWN,
        };
        self.known.insert(name, id);
        self.latest = id;
        id
    }

    /// One flow that kept them has gone.
    pub fn release(&mut self, id: LayersId) {
        let Some(kept) = self.kept.get_mut(usize::from(id)) else { return };
        kept.flows = kept.flows.saturating_sub(1);
        if kept.flows == 0 {
            self.known.remove(&(kept.vlans.0, kept.path.0));
            self.free.push(id);
        }
    }

    /// What is kept; nothing where there was no room.
    #[inline]
    pub fn get(&self, id: LayersId) -> (Vlans, Path) {
        self.kept.get(usize::from(id)).map(|kept| (kept.vlans, kept.path)).unwrap_or_default()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.known.clear();
        self.free.clear();
        self.latest = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_kept_is_found_and_what_nobody_has_goes(steps in proptest::collection::vec((0_u64..9, any::<bool>()), 1..200)) {
            let (mut layers, mut flows) = (Layers::default(), Vec::new());
            for (name, comes) in steps {
                if comes || flows.is_empty() {
                    flows.push((name, layers.keep(Vlans(name % 3), Path(name))));
                } else {
                    let (_, id) = flows.remove(name as usize % flows.len());
                    layers.release(id);
                }
                for &(name, id) in &flows {
                    prop_assert_eq!(layers.get(id), (Vlans(name % 3), Path(name)));
                }
                let mut ids: Vec<_> = flows.iter().map(|&(_, id)| id).collect();
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), layers.known.len());
                prop_assert!(layers.kept.len() <= 9);
            }
        }
    }

    #[test]
    fn too_many_are_not_known() {
        let mut layers = Layers::default();
        for name in 0..u64::from(UNKNOWN) {
            assert_eq!(u64::from(layers.keep(Vlans(name), Path(0))), name);
        }
        let id = layers.keep(Vlans(1 << 40), Path(0));
        assert_eq!((id, layers.get(id)), (UNKNOWN, (Vlans(0), Path(0))));
        layers.release(id);
        layers.release(7);
        assert_eq!(layers.keep(Vlans(1 << 40), Path(0)), 7);
    }
}
