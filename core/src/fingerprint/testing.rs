//! Helpers for the tests: one flow, fed as the table feeds it.

use super::*;

pub const SECOND: i64 = 1_000_000_000;
/// About when the captures in `pcaps/` were taken: their session times must be within a day of it.
pub const TAKEN: i64 = 1_795_322_142 * SECOND;
/// As in the table: payloads of a TCP direction that are looked at.
const SEGMENTS_LOOKED_AT: u8 = 16;

/// Bytes from hexadecimal digits; blanks between them are for the reader.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("a digit") as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A payload of `length` bytes whose head is that of a real one; what follows was encrypted and matters to nobody.
pub fn padded(head: &str, length: usize) -> Vec<u8> {
    let mut payload = hex(head);
    assert!(payload.len() <= length);
    let mut random = Random(length as u64);
    payload.resize_with(length, || random.next() as u8 | 1);
    payload
}

/// SplitMix64: the same random numbers everywhere and always.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A flow and what fingerprints make of it.
pub struct Conversation {
    pub transport: Transport,
    pub ip_version: u8,
    /// Ports of the sender of the first packet and of the other end.
    pub ports: [u16; 2],
    pub checksum_zero: bool,
    /// Time of the next packet, which moves on by 10 ms with each.
    pub time: i64,
    number: u64,
    runs: [Run; 2],
    candidate: Option<Candidate>,
    /// TCP: sequence numbers of the first byte and of the next one.
    pub start: [u32; 2],
    pub next: [u32; 2],
    looked: [u8; 2],
    /// Strangers are shown to the screens as well.
    pub knows_strangers: bool,
}

impl Conversation {
    fn new(transport: Transport, ports: [u16; 2]) -> Self {
        // Sequence numbers wrap early, which must not matter.
        let start = [0xffff_fff0, 77];
        Self {
            transport,
            ip_version: 4,
            ports,
            checksum_zero: false,
            time: TAKEN,
            number: 0,
            runs: [Run::default(); 2],
            candidate: None,
            start,
            next: start,
            looked: [0; 2],
            knows_strangers: false,
        }
    }

    pub fn udp(ports: [u16; 2]) -> Self {
        Self::new(Transport::Udp, ports)
    }

    pub fn tcp() -> Self {
        Self::new(Transport::Tcp, [40_000, 1_194])
    }

    pub fn ip(transport: Transport) -> Self {
        Self::new(transport, [0, 0])
    }

    /// A datagram, wholly captured.
    pub fn send(&mut self, direction: u8, payload: &[u8]) -> Option<(Protocol, Finding)> {
        self.send_cut(direction, payload, payload.len() as u32)
    }

    /// A datagram of `length` bytes of which `payload` was captured.
    pub fn send_cut(&mut self, direction: u8, payload: &[u8], length: u32) -> Option<(Protocol, Finding)> {
        if self.transport == Transport::Udp {
            let run = &mut self.runs[usize::from(direction)];
            run.update(payload, length, self.checksum_zero);
            if self.candidate.is_none() && !self.knows_strangers && is_strange(payload, length, run) {
                return None;
            }
        }
        self.take(direction, payload, length, 0, false)
    }

    /// The next bytes of a direction's stream, in a segment of their own.
    pub fn stream(&mut self, direction: u8, payload: &[u8]) -> Option<(Protocol, Finding)> {
        self.segment(direction, self.next[usize::from(direction)], payload)
    }

    /// A segment.
    pub fn segment(&mut self, direction: u8, sequence: u32, payload: &[u8]) -> Option<(Protocol, Finding)> {
        let own = usize::from(direction);
        self.next[own] = sequence.wrapping_add(payload.len() as u32);
        self.looked[own] = self.looked[own].saturating_add(1);
        self.take(direction, payload, payload.len() as u32, sequence, sequence == self.start[own])
    }

    fn take(
        &mut self,
        direction: u8,
        payload: &[u8],
        length: u32,
        sequence: u32,
        stream_start: bool,
    ) -> Option<(Protocol, Finding)> {
        let own = usize::from(direction);
        self.number += 1;
        self.time += SECOND / 100;
        let packet = FlowPacket {
            payload,
            length,
            number: self.number,
            time: self.time,
            direction,
            transport: self.transport,
            ip_version: self.ip_version,
            source_port: self.ports[own],
            destination_port: self.ports[own ^ 1],
            checksum_zero: self.checksum_zero,
            sequence,
            stream_start,
            record_start: false,
            runs: &self.runs,
        };
        if self.candidate.is_none() && (self.looked[own] > SEGMENTS_LOOKED_AT || !screen(&packet)) {
            return None;
        }
        self.candidate.get_or_insert_default().observe(&packet)
    }

    /// The best finding so far.
    pub fn best(&self) -> Option<(Protocol, Finding)> {
        self.candidate.as_ref().and_then(Candidate::best)
    }

    /// A fingerprint keeps state for it.
    pub fn is_kept(&self) -> bool {
        self.candidate.is_some()
    }

    /// The best confidence so far.
    pub fn confidence(&self) -> Option<Confidence> {
        self.best().map(|(_, finding)| finding.confidence)
    }

    /// How far the session has come.
    pub fn phase(&self) -> Option<Phase> {
        self.best().map(|(_, finding)| finding.phase)
    }

    /// Ids of the evidence for the best protocol, with how often each was found.
    pub fn evidence(&self) -> Vec<(&'static str, u32)> {
        let Some(candidate) = &self.candidate else { return Vec::new() };
        candidate.evidence().items().iter().map(|item| (item.kind.id, item.count)).collect()
    }

    /// How often this kind of evidence was found.
    pub fn count(&self, id: &str) -> u32 {
        self.evidence().iter().find(|(known, _)| *known == id).map_or(0, |(_, count)| *count)
    }

    /// Look-alikes that were ruled out for the best protocol.
    pub fn ruled_out(&self) -> Vec<LookAlike> {
        let Some(candidate) = &self.candidate else { return Vec::new() };
        candidate.evidence().ruled_out().collect()
    }

    /// The fingerprints' state, once one of them wants it.
    pub fn candidate(&mut self) -> &mut Candidate {
        self.candidate.as_mut().expect("state for this flow")
    }

    /// Protocol, confidence and phase, for one assertion.
    pub fn state(&self) -> Option<(Protocol, Confidence, Phase)> {
        self.best().map(|(protocol, finding)| (protocol, finding.confidence, finding.phase))
    }
}

/// What one datagram alone gives, with its true length.
pub fn alone(ports: [u16; 2], payload: &[u8], length: u32) -> Option<(Protocol, Finding)> {
    Conversation::udp(ports).send_cut(0, payload, length)
}

/// Offsets of a field, from the end when negative, and the values that are allowed there.
pub type Field = (std::ops::Range<isize>, fn(u8) -> bool);

/// That a datagram is confirmed by itself, and no longer is once a byte of the fields named has a value that they
/// do not allow.
pub fn assert_fields_decide(ports: [u16; 2], payload: &[u8], fields: &[Field]) {
    let confidence =
        |payload: &[u8]| alone(ports, payload, payload.len() as u32).map(|(_, finding)| finding.confidence);
    assert_eq!(confidence(payload), Some(Confidence::Confirmed));
    for (range, allowed) in fields {
        for offset in range.clone() {
            let at = offset.rem_euclid(payload.len() as isize) as usize;
            for value in (0..=255).filter(|value| *value != payload[at] && !allowed(*value)) {
                let mut changed = payload.to_vec();
                changed[at] = value;
                assert!(confidence(&changed) < Some(Confidence::Confirmed), "byte {at} as {value:#04x}");
            }
        }
    }
    for length in [payload.len() - 1, payload.len() + 1] {
        let mut changed = payload.to_vec();
        changed.resize(length, 0x55);
        assert!(confidence(&changed) < Some(Confidence::Confirmed), "{length} bytes");
    }
}

/// That no truncation of a datagram says more than the whole, whether it was sent short or captured short.
pub fn assert_truncations_say_less(ports: [u16; 2], payload: &[u8]) {
    let level = |captured: usize, length: u32| {
        alone(ports, &payload[..captured], length).map(|(_, finding)| finding.confidence)
    };
    let whole = payload.len();
    let (mut captured_before, full) = (None, level(whole, whole as u32));
    for captured in 0..whole {
        assert!(level(captured, captured as u32) <= full, "{captured} of {whole} bytes sent");
        let now = level(captured, whole as u32);
        assert!(captured_before <= now && now <= full, "{captured} of {whole} bytes captured");
        captured_before = now;
    }
}
