//! Records in a TCP stream: a u16 length before each packet (OpenVPN over TCP; IKE and ESP in TCP, RFC 9329).
//!
//! Kept of a direction is a cursor and at most the head of one record, never a stream. Loss inside the body
//! of a record costs nothing; loss of a record's head ends the chain until a segment begins a new one.

use super::Resync;

/// Bytes at the head of a record that fingerprints may look at: the longest reset (98 bytes) and some.
const HEAD: usize = 112;
/// Bytes of the length field.
const PREFIX: usize = 2;
/// Segments of a direction in which a chain is looked for in mid-stream.
const TRIES: u8 = 16;
/// Largest record believed when a chain is entered in mid-stream: a packet of a 1,500-byte tunnel and some.
const LARGEST_MIDSTREAM: u32 = 2_048;
/// Largest record believed in a chain that began at the stream's start (jumbo tunnels).
const LARGEST: u32 = 16_384;

/// The head of a record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its first bytes, behind the length.
    pub head: &'a [u8],
    /// Its length, without the length field.
    pub length: u32,
    /// Its place in the chain, from 1.
    pub place: u32,
}

/// What a protocol's records look like.
pub trait Framing {
    /// Bytes behind the length field of a record, by what the field says.
    fn body(&self, field: u16) -> u32 {
        u32::from(field)
    }

    /// Whether a record may have a body of this length, which begins with this byte.
    fn is_legal(&self, length: u32, first: Option<u8>) -> bool;
}

/// A length field that does not count itself.
impl<F: Fn(u32, Option<u8>) -> bool> Framing for F {
    fn is_legal(&self, length: u32, first: Option<u8>) -> bool {
        self(length, first)
    }
}

/// Where one direction of a stream stands.
#[derive(Debug, Default)]
pub struct Cursor {
    /// In a chain.
    synchronised: bool,
    from_start: bool,
    /// Sequence number of the next byte.
    next: u32,
    /// Bytes of the record under way that are still to come and need no look.
    skip: u32,
    /// Records of the chain so far.
    records: u32,
    tries: u8,
    held_length: u8,
    /// What most streams never need.
    rare: Option<Box<Rare>>,
}

#[derive(Debug)]
struct Rare {
    /// The length and the head of a record that is cut by a segment's end.
    held: [u8; HEAD],
    /// Where the chain is looked for when it was lost.
    resync: Resync,
}

impl Default for Rare {
    fn default() -> Self {
        Self { held: [0; HEAD], resync: Resync::default() }
    }
}

impl Cursor {
    /// The chain begins at this sequence number.
    pub fn begin(&mut self, sequence: u32) {
        *self = Self { synchronised: true, from_start: true, next: sequence, ..Self::default() };
    }

    /// A record begins at this sequence number, in mid-stream.
    pub fn join(&mut self, sequence: u32) {
        if !self.synchronised {
            *self = Self { synchronised: true, next: sequence, tries: self.tries, ..Self::default() };
        }
    }

    /// Takes a segment's payload (`length` bytes on the wire) and gives each record whose head it completes.
    pub fn feed(
        &mut self,
        sequence: u32,
        payload: &[u8],
        length: u32,
        at_start: bool,
        framing: &impl Framing,
        mut each: impl FnMut(Record<'_>),
    ) {
        if length == 0 {
            return;
        }
        if at_start && !self.synchronised && self.tries == 0 {
            self.begin(sequence);
        }
        let (mut payload, mut length) = (payload, length);
        if self.synchronised {
            let ahead = sequence.wrapping_sub(self.next) as i32;
            if ahead < 0 {
                // Sent again: only what lies behind the cursor is new.
                let known = ahead.unsigned_abs();
                if known >= length {
                    return;
                }
                payload = payload.get(known as usize..).unwrap_or_default();
                length -= known;
            } else if ahead > 0 {
                let missing = ahead.unsigned_abs();
                if missing <= self.skip {
                    self.skip -= missing;
                } else {
                    self.lose();
                }
                self.next = sequence;
            }
        }
        if !self.synchronised {
            if self.tries >= TRIES {
                return;
            }
            self.tries += 1;
            let mut offset = 0;
            if !chain_closes(payload, length, framing) {
                let resync = &mut self.rare.get_or_insert_default().resync;
                let Some(found) = resync.feed(sequence, payload, length) else { return };
                offset = found;
            }
            payload = payload.get(offset..).unwrap_or_default();
            length -= offset as u32;
            self.join(sequence.wrapping_add(offset as u32));
        }
        self.next = self.next.wrapping_add(length);
        self.walk(payload, length, framing, &mut each);
    }

    fn walk(&mut self, mut payload: &[u8], mut length: u32, framing: &impl Framing, each: &mut impl FnMut(Record<'_>)) {
        let largest = if self.from_start { LARGEST } else { LARGEST_MIDSTREAM };
        while length > 0 {
            if self.skip > 0 {
                let skipped = self.skip.min(length);
                self.skip -= skipped;
                length -= skipped;
                payload = payload.get(skipped as usize..).unwrap_or_default();
                continue;
            }
            // The head of a record: its length, then as much of it as fingerprints look at. It lies in this segment as
            // a rule; what another segment holds of it is kept.
            let held = usize::from(self.held_length);
            if held == 0
                && let Some((record, head)) = whole_head(payload, length, framing)
            {
                if !(1..=largest).contains(&record) || !framing.is_legal(record, head.first().copied()) {
                    return self.lose();
                }
                self.emit(record, head, each);
                self.skip = PREFIX as u32 + record;
                continue;
            }
            let buffer = &mut self.rare.get_or_insert_default().held;
            let record_length = |buffer: &[u8; HEAD]| framing.body(u16::from_be_bytes([buffer[0], buffer[1]]));
            let wanted = match held {
                ..PREFIX => PREFIX,
                _ => PREFIX + (record_length(buffer) as usize).min(HEAD - PREFIX),
            };
            let take = (wanted - held).min(length as usize);
            let captured = take.min(payload.len());
            buffer[held..held + captured].copy_from_slice(&payload[..captured]);
            let held = held + captured;
            self.held_length = held as u8;
            payload = payload.get(take..).unwrap_or_default();
            length -= take as u32;
            let cut = captured < take;
            if held < PREFIX {
                if cut {
                    return self.lose();
                }
                continue;
            }
            let record = record_length(buffer);
            let head = buffer[PREFIX..held].to_vec();
            if !(1..=largest).contains(&record) || !framing.is_legal(record, head.first().copied()) {
                return self.lose();
            }
            if held < PREFIX + (record as usize).min(HEAD - PREFIX) && !cut {
                continue;
            }
            self.emit(record, &head, each);
            self.skip = (PREFIX as u32 + record).saturating_sub((held + take - captured) as u32);
            (self.rare, self.held_length) = (None, 0);
        }
    }

    fn emit(&mut self, length: u32, head: &[u8], each: &mut impl FnMut(Record<'_>)) {
        self.records = self.records.saturating_add(1);
        each(Record { head, length, place: self.records });
    }

    fn lose(&mut self) {
        *self = Self { tries: self.tries, next: self.next, ..Self::default() };
    }
}

/// Length and head of the record at the front of a segment, if all of the head is there, or all that was captured of a
/// segment that has it.
fn whole_head<'a>(payload: &'a [u8], length: u32, framing: &impl Framing) -> Option<(u32, &'a [u8])> {
    let (prefix, rest) = payload.split_first_chunk::<PREFIX>()?;
    let record = framing.body(u16::from_be_bytes(*prefix));
    let wanted = (record as usize).min(HEAD - PREFIX);
    if (length as usize) < PREFIX + wanted {
        return None;
    }
    Some((record, &rest[..rest.len().min(wanted)]))
}

/// Whether a segment is a whole number of legal records.
pub fn chain_closes(payload: &[u8], length: u32, framing: &impl Framing) -> bool {
    let mut at = 0_u32;
    // A segment has room for many small records, but a chain this long has been proven.
    for _ in 0..64 {
        let Some(&[high, low, first]) = payload.get(at as usize..).and_then(|rest| rest.first_chunk::<3>()) else {
            return false;
        };
        let record = framing.body(u16::from_be_bytes([high, low]));
        if !(1..=LARGEST_MIDSTREAM).contains(&record) || !framing.is_legal(record, Some(first)) {
            return false;
        }
        at += PREFIX as u32 + record;
        if at == length {
            return true;
        }
        if at > length {
            return false;
        }
    }
    true
}

/// What asks a proxy for a stream to somebody else, or is its answer: HTTP CONNECT (RFC 9110, 9.3.6; 407 asks for a
/// password first) and, at the beginning of a stream, SOCKS 5 (RFC 1928) and SOCKS 4.
pub fn is_proxied(payload: &[u8], is_start: bool) -> bool {
    match *payload {
        [b'C', ..] => payload.starts_with(b"CONNECT "),
        [b'H', ..] => payload
            .strip_prefix(b"HTTP/1.")
            .and_then(|line| line.get(1..5))
            .is_some_and(|status| matches!(status, b" 200" | b" 407")),
        _ if !is_start => false,
        // A greeting, whole; the choice of a method, and the answer behind it.
        [5, methods, ..] if payload.len() == 2 + usize::from(methods) => (1..=9).contains(&methods),
        [5, 0 | 2, 5, 0, 0, 1 | 3 | 4, ..] => true,
        // A user id, and a zero at its end and nowhere else.
        [4, 1, _, _, _, _, _, _, ref user @ ..] => {
            (1..=64).contains(&user.len()) && user.iter().position(|&byte| byte == 0) == user.len().checked_sub(1)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(cursor: &mut Cursor, sequence: u32, bytes: &[u8], start: bool) -> Vec<(u32, Vec<u8>)> {
        let mut records = Vec::new();
        cursor.feed(sequence, bytes, bytes.len() as u32, start, &|_: u32, _: Option<u8>| true, |record| {
            records.push((record.length, record.head.to_vec()));
        });
        records
    }

    proptest! {
        /// However a stream is cut into segments, in order or sent twice, its records are the same.
        #[test]
        fn segmentation_does_not_matter(
            lengths in proptest::collection::vec(1_usize..400, 1..20),
            cuts in proptest::collection::vec(1_usize..600, 1..40),
            again: bool,
        ) {
            let mut stream = Vec::new();
            for (number, &length) in lengths.iter().enumerate() {
                stream.extend((length as u16).to_be_bytes());
                stream.extend(vec![number as u8; length]);
            }
            let mut cursor = Cursor::default();
            let (mut at, mut found, mut cuts) = (0, Vec::new(), cuts.into_iter().cycle());
            while at < stream.len() {
                let end = (at + cuts.next().unwrap_or(1)).min(stream.len());
                found.extend(collect(&mut cursor, at as u32, &stream[at..end], at == 0));
                if again {
                    prop_assert!(collect(&mut cursor, at as u32, &stream[at..end], at == 0).is_empty());
                }
                at = end;
            }
            let expected: Vec<_> = lengths
                .iter()
                .enumerate()
                .map(|(number, &length)| (length as u32, vec![number as u8; length.min(HEAD - PREFIX)]))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_gap_inside_a_body_costs_nothing_and_one_over_a_head_waits_for_a_new_chain() {
        let record = |byte: u8| [&300_u16.to_be_bytes()[..], &[byte; 300]].concat();
        let stream: Vec<u8> = (0..5).flat_map(record).collect();
        let mut cursor = Cursor::default();
        assert_eq!(collect(&mut cursor, 0, &stream[..150], true).len(), 1);
        assert_eq!(collect(&mut cursor, 200, &stream[200..604], false).len(), 1);
        // 604 to 700 missing: the third head is lost. The fourth begins at 906.
        assert_eq!(collect(&mut cursor, 700, &stream[700..906], false).len(), 0);
        assert_eq!(collect(&mut cursor, 906, &stream[906..], false).len(), 2);
    }

    #[test]
    fn requests_to_proxies_and_their_answers() {
        for start in [
            &b"CONNECT vpn.example:443 HTTP/1.1\r\n"[..],
            b"HTTP/1.0 200 Connection established\r\n\r\n",
            b"HTTP/1.1 407 Proxy Authentication Required\r\n",
            &[5, 1, 0],
            &[5, 3, 0, 1, 2],
            &[5, 0, 5, 0, 0, 1, 192, 0, 2, 1, 4, 0],
            &[4, 1, 1, 187, 203, 0, 113, 1, 0],
        ] {
            assert!(is_proxied(start, true), "{start:?}");
            assert_eq!(is_proxied(start, false), start[0] > 5, "{start:?}");
        }
        for start in [
            &b"GET / HTTP/1.1"[..],
            b"HTTP/1.1 404 Not Found",
            b"HTTP/1.1 30",
            &[],
            &[5],
            &[5, 1],
            &[0, 14, 0x38],
            &[4, 1, 0],
            &[4, 1, 1, 187, 203, 0, 113, 1, 0, 7, 0],
            &[4, 1, 1, 187, 203, 0, 113, 1],
        ] {
            assert!(!is_proxied(start, true), "{start:?}");
        }
    }
}
