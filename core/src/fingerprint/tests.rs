//! What holds for all fingerprints together.
use super::testing::*;
use super::*;
use proptest::prelude::*;

#[test]
fn evidence_ids_are_unique_and_named_after_their_protocol() {
    let ids: Vec<_> = evidence_kinds().map(|kind| kind.id).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len());
    for kind in evidence_kinds() {
        assert!(kind.id.starts_with(kind.protocol.name()), "{}", kind.id);
    }
}

#[test]
fn names_are_unique() {
    fn assert_unique(names: impl Iterator<Item = &'static str>) {
        let mut names: Vec<_> = names.collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
    assert_unique(Variant::ALL.iter().map(|variant| variant.name()));
    assert_unique(LookAlike::ALL.iter().map(|look_alike| look_alike.name()));
    assert_unique(Phase::ALL.iter().map(|phase| phase.name()));
    assert_unique(Protocol::ALL.iter().map(|protocol| protocol.name()));
}

/// Random payloads of random lengths in flows of 1 to 64 datagrams: 20,000 flows, the same ones at every run.
#[test]
fn random_datagrams_are_never_likely() {
    let mut random = Random(0x5eed);
    for flow in 0..20_000 {
        let ports = match random.below(4) {
            0 => [40_000, 4_500],
            1 => [500, 500],
            2 => [51_820, 1_194],
            _ => [random.next() as u16, random.next() as u16],
        };
        let mut conversation = Conversation::udp(ports);
        conversation.checksum_zero = random.below(2) == 0;
        for _ in 0..random.below(64) + 1 {
            let direction = random.below(2) as u8;
            // What fingerprints read is in the first 200 bytes; the rest only has a length.
            let length = random.below(1_472) as usize;
            let payload = random.bytes(length.min(200));
            conversation.send_cut(direction, &payload, length as u32);
        }
        assert!(conversation.confidence() < Some(Confidence::Likely), "flow {flow}: {:?}", conversation.best());
    }
}

/// The same with a first byte that stays, as many protocols have one: an opcode, a type word's first byte, nothing.
#[test]
fn random_datagrams_behind_a_constant_byte_are_never_likely() {
    let mut random = Random(0xb17e);
    for first in 0..=255_u8 {
        for flow in 0..16 {
            let mut conversation = Conversation::udp([random.next() as u16, random.next() as u16]);
            conversation.checksum_zero = flow % 2 == 0;
            for _ in 0..64 {
                let length = 1 + random.below(1_400) as usize;
                let mut payload = random.bytes(length.min(200));
                payload[0] = first;
                conversation.send_cut(random.below(2) as u8, &payload, length as u32);
            }
            assert!(conversation.confidence() < Some(Confidence::Likely), "{first:02x}: {:?}", conversation.best());
        }
    }
}

/// The same for segments of a stream, from its start and in the middle.
#[test]
fn random_streams_are_never_likely() {
    let mut random = Random(0x7c9);
    for flow in 0..4_000 {
        let mut conversation = Conversation::tcp();
        if random.below(2) == 0 {
            conversation.next = [random.next() as u32, random.next() as u32];
        }
        for _ in 0..random.below(64) + 1 {
            let direction = random.below(2) as u8;
            let length = random.below(300) as usize;
            conversation.stream(direction, &random.bytes(length));
        }
        assert!(conversation.confidence() < Some(Confidence::Likely), "flow {flow}: {:?}", conversation.best());
    }
}

proptest! {
    /// Whatever comes after it, a flow's confidence never falls.
    #[test]
    fn confidence_never_falls(seed: u64, kinds in proptest::collection::vec(0_u8..12, 1..80)) {
        let mut random = Random(seed);
        let mut conversation = Conversation::udp([40_000, 4_500]);
        let mut before = None;
        for kind in kinds {
            let length = random.below(200) as usize;
            let mut payload = random.bytes(length);
            // Something that looks like a beginning, often enough.
            let head: &[u8] = match kind {
                0 => &[1, 0, 0, 0],
                1 => &[2, 0, 0, 0],
                2 => &[4, 0, 0, 0, 9, 9, 9, 9, 1, 0, 0, 0, 0, 0, 0, 0],
                3 => &[0x38, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0],
                4 => &[0x48, 0, 0, 1, 0, 0, 0],
                5 => &[0xc0, 1, 2, 3, 0, 0, 0],
                6 => &[0, 0, 0, 0],
                7 => &[0x30, 0, 0, 0],
                8 => &[0x20, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0, 0],
                _ => &[],
            };
            let taken = head.len().min(payload.len());
            payload[..taken].copy_from_slice(&head[..taken]);
            conversation.send(random.below(2) as u8, &payload);
            prop_assert!(conversation.confidence() >= before);
            before = conversation.confidence();
        }
    }
}

/// What the issue *Datagrams* allows: 64 bytes of a flow that nothing is known of, 192 of one that is. Evidence items
/// are kept beside it, and only where there are some.
#[test]
fn state_is_small() {
    assert!(size_of::<[Run; 2]>() <= 64, "{}", size_of::<[Run; 2]>());
    assert!(size_of::<State>() <= 192, "{}", size_of::<State>());
}

proptest! {
    /// Whatever begins no protocol is one that none wants to keep state for. The first bytes are those that matter to one.
    #[test]
    fn strangers_pass_no_screen(
        first in prop_oneof![any::<u8>(), 0_u8..5, 0x18_u8..0x60],
        second in prop_oneof![3 => Just([0_u8; 3]), 2 => any::<[u8; 3]>()],
        rest in proptest::collection::vec(any::<u8>(), 12..80),
        length in 16_u32..1_500,
        said in prop_oneof![Just(None), (24_usize..=28, 0_u32..5).prop_map(Some)],
        ports in prop_oneof![Just([500, 500]), Just([4_500, 4_500]), Just([1_701, 1_701]), any::<[u16; 2]>()],
    ) {
        let mut payload = [&[first][..], &second, &rest].concat();
        if let Some((at, less)) = said
            && let Some(word) = payload.get_mut(at..at + 4)
        {
            word.copy_from_slice(&length.saturating_sub(less).to_be_bytes());
        }
        payload.truncate(length as usize);
        let mut run = Run::default();
        run.update(&payload, length, false);
        if is_strange(&payload, length, &run) {
            let mut conversation = Conversation::udp(ports);
            conversation.knows_strangers = true;
            conversation.send_cut(0, &payload, length);
            prop_assert!(!conversation.is_kept());
        }
    }
}
