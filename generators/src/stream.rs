//! A TCP stream as a tap sees it: what both ends write, cut into segments of any size, several writes in one, joined
//! after its beginning, in one direction only, reordered, sent again, with gaps.

use crate::random::Random;

/// What stands before each message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// Nothing: the generator writes its own framing.
    Own,
    /// Its length in 16 bits (OpenVPN; DNS, RFC 1035 4.2.2; RFC 4571).
    Length,
    /// Its length in 16 bits, these included; the stream begins with `IKETCP` (RFC 9329).
    IkeTcp,
}

/// How much of a stream a tap sees, and how it is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tap {
    /// All of it, cut in any way.
    FromStart,
    /// What follows some message's beginning; each message in segments of its own, as most programs write them.
    MidFlow,
    /// The same of a transfer that fills its segments: messages begin anywhere in them.
    Bulk,
    /// Less: joined anywhere, one direction, gaps, out of order.
    Harsh,
}

/// Segments of one stream at the most.
const MOST_SEGMENTS: usize = 256;
/// Bytes of a segment at the most (an MTU of 1,500 bytes).
const LARGEST_SEGMENT: usize = 1_460;

/// Something that one end wrote at once.
#[derive(Clone, Copy, Debug)]
struct Write {
    direction: u8,
    /// Where it ends in its direction's bytes.
    end: usize,
    time: i64,
}

/// What goes over the wire at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// 0 from the client.
    pub direction: u8,
    /// Place of its first byte in its direction's bytes.
    pub from: usize,
    /// Place behind its last byte.
    pub to: usize,
    /// When it was written.
    pub time: i64,
}

/// Both directions of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    bytes: [Vec<u8>; 2],
    writes: Vec<Write>,
}

impl Stream {
    /// Begins another stream.
    pub fn clear(&mut self) {
        self.bytes.iter_mut().for_each(Vec::clear);
        self.writes.clear();
    }

    /// Whether this direction has said nothing yet.
    pub fn is_silent(&self, direction: u8) -> bool {
        self.bytes[usize::from(direction & 1)].is_empty()
    }

    /// Takes what one end writes at once.
    pub fn write(&mut self, direction: u8, time: i64, parts: &[&[u8]]) {
        let bytes = &mut self.bytes[usize::from(direction & 1)];
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        self.writes.push(Write { direction: direction & 1, end: bytes.len(), time });
    }

    /// Bytes of a segment.
    pub fn payload(&self, segment: &Segment) -> &[u8] {
        &self.bytes[usize::from(segment.direction)][segment.from..segment.to]
    }

    /// The stream in segments, in the order of the writes.
    fn cut(&self, random: &mut Random, tap: Tap) -> Vec<Segment> {
        let small = [1_448, 1_380, 1_220, 536, 200, 64, 20];
        let any = if random.one_in(4) { LARGEST_SEGMENT } else { random.pick(&small) };
        // Each write in segments of its own; or as much as fits (Nagle); or at random.
        let (most, habit) = match tap {
            Tap::MidFlow => (LARGEST_SEGMENT, 0),
            Tap::Bulk => (LARGEST_SEGMENT, 1),
            Tap::FromStart | Tap::Harsh => (any, random.between(0, 2)),
        };
        let mut segments = Vec::new();
        let mut sent = [0; 2];
        for (place, write) in self.writes.iter().enumerate() {
            let own = usize::from(write.direction);
            let turns = self.writes.get(place + 1).is_none_or(|next| next.direction != write.direction);
            let waits = habit == 1 || (habit == 2 && random.one_in(2));
            while sent[own] < write.end && (turns || !waits || write.end - sent[own] >= most) {
                let size = if habit == 2 { random.size(1, most) } else { most };
                let to = write.end.min(sent[own] + size);
                segments.push(Segment { direction: write.direction, from: sent[own], to, time: write.time });
                sent[own] = to;
            }
        }
        segments
    }

    /// What a tap sees of it, and whether the opening (SYN) is among that. Segments come twice now and then.
    pub fn seen(&self, random: &mut Random, tap: Tap) -> (Vec<Segment>, bool) {
        let mut segments = self.cut(random, tap);
        let mut from_start = matches!(tap, Tap::FromStart | Tap::Harsh);
        if random.one_in(6) {
            send_again(&mut segments, random);
        }
        if tap == Tap::Harsh {
            if random.one_in(3) {
                from_start = false;
                self.join_late(&mut segments, random);
            }
            if random.one_in(5) {
                let seen = random.between(0, 1) as u8;
                segments.retain(|segment| segment.direction == seen);
            }
            if random.one_in(5) {
                let rate = random.pick(&[4, 10, 40]);
                segments.retain(|_| !random.one_in(rate));
            }
            if random.one_in(5) {
                for place in 1..segments.len() {
                    if random.one_in(6) {
                        segments.swap(place - 1, place);
                    }
                }
            }
        }
        segments.truncate(MOST_SEGMENTS);
        (segments, from_start)
    }

    /// Leaves out what was before some write, or before some byte of it.
    fn join_late(&self, segments: &mut Vec<Segment>, random: &mut Random) {
        if self.writes.is_empty() {
            return;
        }
        let place = random.size(0, self.writes.len() - 1);
        let mut begin = [0; 2];
        for write in &self.writes[..place] {
            begin[usize::from(write.direction)] = write.end;
        }
        if random.one_in(3) {
            begin.iter_mut().for_each(|begin| *begin += random.size(0, 40));
        }
        segments.retain_mut(|segment| {
            segment.from = segment.from.max(begin[usize::from(segment.direction)]);
            segment.from < segment.to
        });
    }
}

/// Sends some segments again, as they were or with what follows them.
fn send_again(segments: &mut Vec<Segment>, random: &mut Random) {
    let mut place = 0;
    while place < segments.len() {
        if random.one_in(8) {
            let mut again = segments[place];
            if let Some(next) = segments.get(place + 1)
                && next.direction == again.direction
                && next.from == again.to
                && next.to - again.from <= LARGEST_SEGMENT
            {
                again.to = next.to;
            }
            place += 1;
            segments.insert(place, again);
        }
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAPS: [Tap; 4] = [Tap::FromStart, Tap::MidFlow, Tap::Bulk, Tap::Harsh];

    fn stream(random: &mut Random) -> Stream {
        let mut stream = Stream::default();
        for number in 0..random.between(1, 30) {
            let length = random.size(1, 3_000);
            stream.write(random.between(0, 1) as u8, number as i64, &[&vec![number as u8; length], &[0xff]]);
        }
        stream
    }

    /// However it is cut, each byte goes once and in order.
    #[test]
    fn segments_are_the_stream() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let stream = stream(&mut random);
            for tap in TAPS {
                let segments = stream.cut(&mut random, tap);
                for direction in [0, 1] {
                    let own = segments.iter().filter(|segment| segment.direction == direction);
                    let bytes: Vec<u8> = own.flat_map(|segment| stream.payload(segment).to_vec()).collect();
                    assert_eq!(bytes, stream.bytes[usize::from(direction)]);
                }
                assert!(segments.iter().all(|segment| (1..=LARGEST_SEGMENT).contains(&(segment.to - segment.from))));
                assert!(segments.is_sorted_by_key(|segment| segment.time));
            }
        }
    }

    #[test]
    fn only_a_harsh_tap_misses_something() {
        let mut missed = 0;
        for seed in 0..400 {
            let mut random = Random::new(seed);
            let stream = stream(&mut random);
            for tap in TAPS {
                let (segments, _) = stream.seen(&mut random, tap);
                let mut seen = stream.bytes.each_ref().map(|bytes| vec![false; bytes.len()]);
                for segment in &segments {
                    seen[usize::from(segment.direction)][segment.from..segment.to].fill(true);
                }
                let whole = seen.iter().flatten().all(|seen| *seen) || segments.len() == MOST_SEGMENTS;
                assert!(whole || tap == Tap::Harsh, "seed {seed}");
                missed += u32::from(!whole);
            }
        }
        assert!(missed > 60);
    }
}
