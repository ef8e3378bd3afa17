//! Evidence: named facts about a flow, each worth some bits against random payload.

use super::{FlowPacket, LookAlike, Protocol};

/// Items kept of one flow; more kinds than this cannot be found of one protocol.
pub const MAX_ITEMS: usize = 16;

/// What an evidence id stands for.
#[derive(Debug, Eq, PartialEq)]
pub struct EvidenceKind {
    /// Stable id, `protocol.fact`.
    pub id: &'static str,
    /// Protocol that it speaks for.
    pub protocol: Protocol,
    /// Bits that one observation is worth against uniformly random payload.
    pub bits: u16,
    /// What was seen, as a sentence without its full stop.
    pub fact: &'static str,
    /// Specification and section.
    pub source: &'static str,
    /// What it tells the protocol from, and what it does not.
    pub rules_out: &'static str,
}

/// A kind of evidence found in a flow: where first, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// What was found.
    pub kind: &'static EvidenceKind,
    /// Number of the frame in which it was found first.
    pub packet: u64,
    /// That packet's time.
    pub time: i64,
    /// That packet's direction, see [`super::FlowPacket::direction`].
    pub direction: u8,
    /// Its payload length.
    pub length: u32,
    /// How often it was found.
    pub count: u32,
}

impl Evidence {
    /// Bits of all observations together.
    pub fn bits(&self) -> u32 {
        u32::from(self.kind.bits).saturating_mul(self.count)
    }
}

/// The evidence of one protocol in one flow.
#[derive(Clone, Debug, Default)]
pub struct EvidenceSet {
    items: Vec<Evidence>,
    ruled_out: u32,
}

impl EvidenceSet {
    /// Adds an observation made in this packet.
    pub fn observe(&mut self, kind: &'static EvidenceKind, packet: &FlowPacket<'_>) {
        self.add(kind, packet.number, packet.time, packet.direction, packet.length);
    }

    /// Adds an observation.
    pub fn add(&mut self, kind: &'static EvidenceKind, packet: u64, time: i64, direction: u8, length: u32) {
        if let Some(item) = self.items.iter_mut().find(|item| std::ptr::eq(item.kind, kind)) {
            item.count = item.count.saturating_add(1);
        } else if self.items.len() < MAX_ITEMS {
            self.items.push(Evidence { kind, packet, time, direction, length, count: 1 });
        }
    }

    /// Notes that a look-alike was tested for and ruled out.
    pub fn rule_out(&mut self, look_alike: LookAlike) {
        self.ruled_out |= 1 << look_alike as u8;
    }

    /// Items in the order of first sight.
    pub fn items(&self) -> &[Evidence] {
        &self.items
    }

    /// Look-alikes ruled out.
    pub fn ruled_out(&self) -> impl Iterator<Item = LookAlike> + '_ {
        LookAlike::ALL.iter().copied().filter(|look_alike| self.ruled_out & 1 << *look_alike as u8 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::evidence_kinds;
    use super::*;

    #[test]
    fn items_count_and_keep_where_they_were_first_seen() {
        let kinds: Vec<_> = evidence_kinds().collect();
        let mut found = EvidenceSet::default();
        found.add(kinds[1], 7, 70, 1, 92);
        found.add(kinds[0], 8, 80, 0, 148);
        found.add(kinds[1], 9, 90, 0, 93);
        let items: Vec<_> =
            found.items().iter().map(|item| (item.kind.id, item.packet, item.time, item.count)).collect();
        assert_eq!(items, [(kinds[1].id, 7, 70, 2), (kinds[0].id, 8, 80, 1)]);
        assert_eq!((found.items()[0].direction, found.items()[0].length), (1, 92));
        assert_eq!(found.items()[0].bits(), 2 * u32::from(kinds[1].bits));
    }

    #[test]
    fn a_set_is_bounded_and_its_sums_do_not_overflow() {
        let mut found = EvidenceSet::default();
        for kind in evidence_kinds() {
            found.add(kind, 1, 1, 0, 1);
        }
        assert_eq!(found.items().len(), MAX_ITEMS);
        let kind = evidence_kinds().max_by_key(|kind| kind.bits);
        let most = kind.map(|kind| Evidence { kind, packet: 1, time: 1, direction: 0, length: 1, count: u32::MAX });
        assert_eq!(most.map(|item| item.bits()), Some(u32::MAX));
    }

    #[test]
    fn look_alikes_are_named_in_their_order() {
        let mut found = EvidenceSet::default();
        assert_eq!(found.ruled_out().count(), 0);
        for look_alike in LookAlike::ALL.iter().rev() {
            found.rule_out(*look_alike);
            found.rule_out(*look_alike);
        }
        assert_eq!(found.ruled_out().collect::<Vec<_>>(), LookAlike::ALL);
    }
}
