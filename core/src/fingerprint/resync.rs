//! Joins a stream of records in the middle, where no segment begins with one.
//!
//! A bulk transfer fills every segment, so a record begins anywhere in it. What can be told without its beginning:
//! a place where a length stands before a head with a small counter, whose length leads to another such head with the
//! same first bytes and the counter a little higher, and that one to a third. Random bytes do this once in 2^60
//! places. Nothing is concluded from it but where the records are; what they are, the fingerprints say.
//!
//! Kept of a direction are four places where the next head would be.

/// Segments that are searched for a first head; the chain may then go on.
const SEARCHED: u8 = 4;
const TENTATIVE: usize = 4;
/// Heads in a row that prove a chain.
const PROOF: u8 = 3;
/// The length, and the longest head: word, epoch and counter.
const HEAD: usize = 2 + 12;
/// Bodies of data packets: a keepalive and the largest packet of a 1,500-byte tunnel and some.
const BODY: std::ops::RangeInclusive<u32> = 20..=2_048;
/// Places that are looked at together, and how far the look goes beyond them.
const TOGETHER: usize = 32;
const NEEDED: usize = 6;
/// By how much a counter may rise from one record to the next of another association between them.
const STEP: u64 = 64;

/// The head of a record, as far as it goes on in the next one.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// Octets from this head to the next one.
    record: u32,
    /// What is constant.
    word: u32,
    /// What rises.
    counter: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// OpenVPN's P_DATA_V1: opcode and key, then the packet id.
    DataV1,
    /// OpenVPN's P_DATA_V2: opcode, key and peer id, then the packet id or epoch and packet id.
    DataV2,
    /// ESP in TCP (RFC 9329): SPI and sequence number, and the length counts itself.
    Esp,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[high, low, first, ..] = bytes.first_chunk::<HEAD>()?;
        let field = u32::from(u16::from_be_bytes([high, low]));
        let at = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes);
        let (word, low_counter) = (at(2)?, at(10)?);
        let (record, word, counter, kind) = match first >> 3 {
            6 => (field + 2, u32::from(first), u64::from(at(3)?) << 32, Kind::DataV1),
            9 => (field + 2, word, u64::from(at(6)?) << 32 | u64::from(low_counter), Kind::DataV2),
            _ => (field, word, u64::from(at(6)?) << 32, Kind::Esp),
        };
        let body = record.checked_sub(2)?;
        let legal = BODY.contains(&body)
            && match kind {
                Kind::DataV1 | Kind::DataV2 => counter >> 61 == 0,
                Kind::Esp => word > 255 && counter >> 56 == 0 && body.is_multiple_of(4),
            };
        legal.then_some(Self { record, word, counter, kind })
    }

    fn goes_on_in(&self, next: &Self) -> bool {
        let steps = |from: u64, to: u64| (1..=STEP).contains(&to.wrapping_sub(from));
        self.kind == next.kind
            && self.word == next.word
            && (steps(self.counter >> 32, next.counter >> 32)
                || (self.kind == Kind::DataV2 && steps(self.counter, next.counter)))
    }
}

/// A chain that may be one.
#[derive(Clone, Copy, Debug)]
struct Tentative {
    /// Sequence number of the next head.
    next: u32,
    head: Head,
    heads: u8,
}

/// The search in one direction of a stream.
#[derive(Debug, Default)]
pub struct Resync {
    searched: u8,
    tentative: [Option<Tentative>; TENTATIVE],
}

impl Resync {
    /// Takes a segment; the offset in it of a head that a proven chain led to.
    pub fn feed(&mut self, sequence: u32, payload: &[u8], length: u32) -> Option<usize> {
        for place in &mut self.tentative {
            if let Some(tentative) = place.take() {
                match follow(tentative, sequence, payload, length) {
                    Ok(left) => *place = left,
                    Err(proven) => return Some(proven),
                }
            }
        }
        if self.searched >= SEARCHED {
            return None;
        }
        self.searched += 1;
        for first in (0..payload.len()).step_by(TOGETHER) {
            let here = payload.get(first..).unwrap_or_default();
            // Most places fail here. At the end of a segment there are too few octets to look at together.
            let candidates = here.first_chunk().map_or([true; TOGETHER], may_be_heads);
            if candidates == [false; TOGETHER] {
                continue;
            }
            for (offset, _) in (first..).zip(candidates).filter(|&(_, may_be)| may_be) {
                let Some(head) = payload.get(offset..).and_then(Head::read) else { continue };
                let next = sequence.wrapping_add(offset as u32).wrapping_add(head.record);
                if self.tentative.iter().flatten().any(|known| known.next == next) {
                    continue;
                }
                let place = self.tentative.iter_mut().find(|place| place.is_none())?;
                match follow(Tentative { next, head, heads: 1 }, sequence, payload, length) {
                    Ok(left) => *place = left,
                    Err(proven) => return Some(proven),
                }
            }
        }
        None
    }
}

/// At which places a head may begin: what [`Head::read`] asks of single octets. Without a branch, so that the compiler has
/// the processor look at many places at once; one in 450 of random octets is left.
#[inline]
fn may_be_heads(octets: &[u8; TOGETHER + NEEDED]) -> [bool; TOGETHER] {
    let mut found = [false; TOGETHER];
    for (place, found) in found.iter_mut().enumerate() {
        let at = |ahead: usize| octets[place + ahead];
        let is_length = at(0) <= (*BODY.end() >> 8) as u8;
        let is_data = (at(2) >> 3 == 6) | (at(2) >> 3 == 9);
        // The first octet of the sequence number, and a length that counts itself and four octets at a time.
        let is_esp = (at(6) == 0) & (at(1) & 3 == 2);
        *found = is_length & (is_data | is_esp);
    }
    found
}

/// Follows a chain through a segment: `Err` with the offset of a head that proves it, else what is left of it.
fn follow(mut tentative: Tentative, sequence: u32, payload: &[u8], length: u32) -> Result<Option<Tentative>, usize> {
    loop {
        let ahead = tentative.next.wrapping_sub(sequence) as i32;
        if ahead < 0 {
            // Sent again, or past it: a copy of a former segment changes nothing.
            return Ok(Some(tentative).filter(|_| ahead.unsigned_abs() >= length));
        }
        if ahead.unsigned_abs() >= length {
            return Ok(Some(tentative));
        }
        let offset = ahead as usize;
        let Some(head) = payload.get(offset..).and_then(Head::read).filter(|head| tentative.head.goes_on_in(head))
        else {
            return Ok(None);
        };
        tentative = Tentative { next: tentative.next.wrapping_add(head.record), head, heads: tentative.heads + 1 };
        if tentative.heads >= PROOF {
            return Err(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;
    use proptest::prelude::*;

    fn stream(kind: Kind, lengths: &[usize]) -> Vec<u8> {
        let mut random = Random(3);
        let mut stream = Vec::new();
        for (counter, &length) in (1_000_u32..).zip(lengths) {
            let head = match kind {
                Kind::DataV1 => [&[0x30], &counter.to_be_bytes()[..]].concat(),
                Kind::DataV2 => [&[0x48, 0, 0, 1], &counter.to_be_bytes()[..]].concat(),
                Kind::Esp => [&[0xc0, 1, 2, 3], &counter.to_be_bytes()[..]].concat(),
            };
            let length = if kind == Kind::Esp { length / 4 * 4 } else { length };
            stream.extend((length as u16 + if kind == Kind::Esp { 2 } else { 0 }).to_be_bytes());
            let body = random.bytes(length - head.len());
            stream.extend(head);
            stream.extend(body);
        }
        stream
    }

    proptest! {
        /// Wherever the tap joins, a chain of data packets is found, at a head.
        #[test]
        fn a_bulk_transfer_is_joined_at_a_head(
            kind in prop::sample::select(vec![Kind::DataV1, Kind::DataV2, Kind::Esp]),
            lengths in proptest::collection::vec(1_200_usize..1_480, 20),
            joined in 0_usize..3_000,
        ) {
            let stream = stream(kind, &lengths);
            let mut resync = Resync::default();
            let mut found = None;
            for (number, segment) in stream[joined..].chunks(1_460).enumerate() {
                let sequence = (joined + number * 1_460) as u32;
                found = resync.feed(sequence, segment, segment.len() as u32).map(|offset| sequence as usize + offset);
                if found.is_some() {
                    break;
                }
            }
            let mut heads = vec![0];
            for length in &lengths {
                let length = if kind == Kind::Esp { length / 4 * 4 } else { *length };
                heads.push(heads[heads.len() - 1] + 2 + length);
            }
            // A head that a segment's end cuts is lost, and the chain with it; four segments are searched.
            prop_assert!(found.is_none_or(|at| heads.contains(&at)));
            let cut = heads.iter().filter(|&&head| {
                let into = head.saturating_sub(joined) % 1_460;
                head >= joined && into > 1_460 - HEAD
            });
            prop_assert!(found.is_some() || cut.count() > 0);
        }

        /// No head is passed by, whatever the octets are: each place by itself says the same.
        #[test]
        fn all_heads_may_be_heads(
            mut octets in proptest::collection::vec(any::<u8>(), TOGETHER + NEEDED),
            length in (0_u8..10, any::<u8>()),
            first in prop_oneof![0x30_u8..0x38, 0x48_u8..0x50, any::<u8>()],
            counter in prop_oneof![Just(0), any::<u8>()],
            place in 0..TOGETHER - 2,
        ) {
            octets[place..place + 3].copy_from_slice(&[length.0, length.1, first]);
            octets[place + 6] = counter;
            let found = may_be_heads(octets.first_chunk().unwrap());
            octets.extend([0; HEAD]);
            for (place, may_be) in found.into_iter().enumerate() {
                prop_assert!(may_be || Head::read(&octets[place..]).is_none(), "{place}");
            }
        }

        #[test]
        fn random_bytes_are_no_chain(seed: u64, length in 100_usize..1_460) {
            let mut random = Random(seed);
            for _ in 0..10 {
                // Those that are searched, and two in which a chain would go on.
                let mut resync = Resync::default();
                for number in 0..usize::from(SEARCHED) + 2 {
                    let segment = random.bytes(length);
                    prop_assert_eq!(resync.feed((number * length) as u32, &segment, length as u32), None);
                }
            }
        }
    }
}
