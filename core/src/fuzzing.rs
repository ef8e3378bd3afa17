//! What the fuzz targets call. Beside them, `tests/fuzz_corpus.rs` runs their corpus through the same functions,
//! so that what a fuzzer once found stays found.
//!
//! No part of the library's interface.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::Duration;

use crate::capture::{BLOCK, CaptureError, FrameBatch, FrameRef, LinkType, open_reader};
use crate::decode::{Transport, link_type_is_supported};
use crate::engine::{Engine, Settings};
use crate::fingerprint::stream::{self, Record};
use crate::fingerprint::{self, Candidate, Confidence, FlowPacket, Protocol, Run};
use crate::flow::{FlowReport, Report};

/// Where [`capture`] stops: a small input can unpack to very much.
const ENOUGH: usize = 32 << 20;

/// A frame and its bytes.
pub type Frame = (FrameRef, Vec<u8>);

/// Reads the capture that `data` is, in blocks of `block` bytes: all its frames, and how it ended. `offset` of
/// each frame is set to 0, since it depends on the blocks.
pub fn read_capture(data: &[u8], block: usize) -> (Vec<Frame>, Result<(), CaptureError>) {
    let mut frames = Vec::new();
    let ended = drain(data, block, |frame, bytes| {
        frames.push((FrameRef { offset: 0, ..*frame }, bytes.to_vec()));
        true
    });
    (frames, ended)
}

/// Reads the capture that `data` is, in large blocks and in small ones, and compares.
///
/// # Panics
/// When what is read depends on the blocks.
pub fn capture(data: &[u8]) {
    assert_eq!(summary(data, BLOCK), summary(data, 61));
}

/// Number of frames, a sum over all of them that depends on their order, and how the capture ended.
fn summary(data: &[u8], block: usize) -> (u64, u64, Result<(), CaptureError>) {
    let (mut frames, mut sum, mut bytes_seen) = (0_u64, 0_u64, 0_usize);
    let ended = drain(data, block, |frame, bytes| {
        assert_eq!(bytes.len(), frame.captured as usize);
        assert!(frame.captured <= frame.original);
        frames += 1;
        let fields =
            [frame.time as u64, u64::from(frame.captured), u64::from(frame.original), u64::from(frame.linktype.0)];
        for value in fields.into_iter().chain(bytes.iter().copied().map(u64::from)) {
            sum = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(value + 1);
        }
        bytes_seen += bytes.len() + 16;
        bytes_seen < ENOUGH
    });
    (frames, sum, ended)
}

/// Gives each frame to `take`, until that returns false.
fn drain(data: &[u8], block: usize, mut take: impl FnMut(&FrameRef, &[u8]) -> bool) -> Result<(), CaptureError> {
    let reader = Box::new(Cursor::new(data.to_vec()));
    let mut source = open_reader(reader, Some(data.len() as u64), block)?;
    let mut batch = FrameBatch::new();
    loop {
        let more = source.fill(&mut batch);
        for frame in batch.frames() {
            if !take(frame, batch.bytes(frame)) {
                return Ok(());
            }
        }
        if !more? {
            return Ok(());
        }
    }
}

/// Takes an input apart, front to back; what is missing is zero or empty.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How times move on, by the low bits of a step: hardly, by seconds, past each timeout, back, and to the ends of time.
fn later(time: i64, step: u8) -> i64 {
    const SECOND: i64 = 1_000_000_000;
    let by = i64::from(step >> 3) + 1;
    match step & 7 {
        0..=2 => time.saturating_add(by * 1_000_000),
        3 => time.saturating_add(by * SECOND),
        4 => time.saturating_add(by * 60 * SECOND),
        5 => time.saturating_add(by * 3_600 * SECOND),
        6 => time.saturating_sub(by * SECOND),
        _ if step >> 3 == 0 => i64::MAX,
        _ if step >> 3 == 1 => i64::MIN,
        _ => time,
    }
}

/// Whole frames through decode, flows and fingerprints. `data`: the link type (2), then for each frame its captured
/// length (2), by how much it was longer, how time moved on, and its bytes. Bounds are as small as they may be.
///
/// # Panics
/// When counters do not add up, or reports come out of order.
pub fn frame(data: &[u8]) {
    let mut input = Input(data);
    let link = input.u16();
    let (mut capture, mut frames, mut time) = (pcap_header(link), 0_u64, 1_795_322_142_000_000_000_i64);
    while !input.is_empty() {
        let length = usize::from(input.u16() & 0x0fff);
        let (cut, step) = (u32::from(input.byte()), input.byte());
        let bytes = input.take(length);
        time = later(time, step);
        push_record(&mut capture, time, bytes, cut);
        frames += 1;
    }
    check_replay(&capture, frames, LinkType(link));
}

/// Fragments, datagrams and segments between two hosts, as IP packets of both versions. `data`: for each its kind, a
/// place (2: fragment offset in eights, or sequence number), its length (2), its identification, how time moved on,
/// and its payload.
///
/// # Panics
/// As [`frame`].
pub fn fragments(data: &[u8]) {
    let mut input = Input(data);
    let (mut capture, mut frames, mut time) = (pcap_header(101), 0, 1_795_322_142_000_000_000_i64);
    while !input.is_empty() {
        let (kind, place, length) = (input.byte(), input.u16(), input.u16() & 0x07ff);
        let (id, step) = (input.byte() & 3, input.byte());
        let payload = input.take(usize::from(length));
        time = later(time, step);
        let packet = ip_packet(kind, place, id, payload);
        push_record(&mut capture, time, &packet, 0);
        frames += 1;
    }
    check_replay(&capture, frames, LinkType(101));
}

/// An IP packet of a `kind`: bit 0 its direction, 1 its version, 2 and 3 what it is (a datagram, the first fragment
/// of one, a later fragment, a segment), 4 whether more fragments come, 5 and 6 its ports.
fn ip_packet(kind: u8, place: u16, id: u8, payload: &[u8]) -> Vec<u8> {
    const PORTS: [[u16; 2]; 4] = [[500, 500], [4_500, 4_500], [40_000, 51_820], [40_000, 1_194]];
    let (what, own) = (kind >> 2 & 3, usize::from(kind & 1));
    let ports = PORTS[usize::from(kind >> 5 & 3)];
    let mut body = Vec::new();
    if what != 2 {
        body.extend([ports[own].to_be_bytes(), ports[own ^ 1].to_be_bytes()].concat());
    }
    match what {
        // The length of the whole datagram, which a first fragment does not have.
        0 => body.extend([(8 + payload.len() as u16).to_be_bytes(), [0, 0]].concat()),
        1 => body.extend([place.to_be_bytes(), [0x12, 0x34]].concat()),
        3 => {
            body.extend([0, 0, place.to_be_bytes()[0], place.to_be_bytes()[1], 0, 0, 0, 0]);
            body.extend([0x50, if place == 0 { 0x02 } else { 0x10 }, 0xff, 0xff, 0x12, 0x34, 0, 0]);
        }
        _ => {}
    }
    body.extend(payload);
    let more = kind & 16 != 0;
    let offset = if what == 2 { place & 0x1fff } else { 0 };
    let is_fragment = what == 1 || what == 2;
    let protocol = if what == 3 { 6 } else { 17 };
    let mut packet = Vec::new();
    if kind & 2 == 0 {
        let field = if is_fragment { offset | if more { 0x2000 } else { 0 } } else { 0 };
        packet.extend([0x45, 0]);
        packet.extend((20 + body.len() as u16).to_be_bytes());
        packet.extend([0, id]);
        packet.extend(field.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend([[192, 0, 2, 1 + own as u8], [192, 0, 2, 2 - own as u8]].concat());
    } else {
        let extension = if is_fragment { 8 } else { 0 };
        packet.extend([0x60, 0, 0, 0]);
        packet.extend((extension + body.len() as u16).to_be_bytes());
        packet.extend([if is_fragment { 44 } else { protocol }, 64]);
        for last in [1 + own as u8, 2 - own as u8] {
            packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        if is_fragment {
            packet.extend([protocol, 0]);
            packet.extend((offset << 3 | u16::from(more)).to_be_bytes());
            packet.extend([0, 0, 0, id]);
        }
    }
    packet.extend(body);
    packet
}

/// Byte order and version of a pcap with nanoseconds, its zone, accuracy and snaplen, and its link type.
fn pcap_header(link: u16) -> Vec<u8> {
    let mut capture = vec![0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    capture.extend(u32::from(link).to_le_bytes());
    capture
}

/// A frame that was `cut` octets longer on the wire.
fn push_record(capture: &mut Vec<u8>, time: i64, bytes: &[u8], cut: u32) {
    let fields = [
        time.div_euclid(1_000_000_000) as u32,
        time.rem_euclid(1_000_000_000) as u32,
        bytes.len() as u32,
        bytes.len() as u32 + cut,
    ];
    capture.extend(fields.into_iter().flat_map(u32::to_le_bytes));
    capture.extend(bytes);
}

/// Replays a capture in several ways: counters add up, reports come in order, and pauses change nothing.
fn check_replay(capture: &[u8], frames: u64, link: LinkType) {
    let (reports, stats) = replay(capture, BLOCK, Duration::from_secs(60));
    let (paused, paused_stats) = replay(capture, 61, Duration::ZERO);
    assert_eq!(stats, paused_stats);
    let row = |report: &FlowReport| (report.number, report.flow_id, report.report, report.finding, report.packets);
    assert!(reports.iter().map(row).eq(paused.iter().map(row)), "pauses change what is reported");

    let sum = |prefix: &str| stats.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum();
    let (undecoded, no_flow): (u64, u64) = (sum("undecoded."), sum("no_flow."));
    assert_eq!(stats["frames"], frames);
    assert_eq!(frames, stats["decoded"] + undecoded);
    assert_eq!(stats["fragments_waiting"], 0, "the capture is over");
    assert_eq!(stats["decoded"], stats["flow_packets"] + no_flow + stats["fragments_unmatched"]);
    assert!(stats["decoded"] == 0 || link_type_is_supported(link));
    let active: u64 = sum("flows.active.");
    assert_eq!(active, 0, "flows that have not ended");
    assert!(reports.is_sorted_by_key(|report| report.number));
    let mut running = BTreeMap::new();
    for report in &reports {
        let before = match report.report {
            Report::Recognised => running.insert(report.flow_id, report),
            Report::Ended => running.remove(&report.flow_id),
            _ => running.insert(report.flow_id, report),
        };
        assert_eq!(before.is_none(), report.report == Report::Recognised);
        if let Some(before) = before {
            assert!(before.finding.confidence <= report.finding.confidence);
            assert!(before.packets <= report.packets && before.bytes <= report.bytes);
        }
        assert!(report.start <= report.end && !report.evidence.items().is_empty());
    }
    assert!(running.is_empty(), "a flow without an end");
}

/// All reports and counters of a capture, read in blocks of `block` bytes with a pause after each `longest`.
fn replay(capture: &[u8], block: usize, longest: Duration) -> (Vec<FlowReport>, BTreeMap<String, u64>) {
    let settings = Settings {
        min_confidence: Confidence::Possible,
        max_undecided: 64,
        max_attempts: 64,
        max_recognised: 64,
        update_interval: 1,
        packet_milestones: vec![2, 3],
        duration_milestones: vec![1_000_000, 1_000_000_000],
        ..Settings::default()
    };
    let (Ok(mut engine), Ok(source)) =
        (Engine::new(settings), open_reader(Box::new(Cursor::new(capture.to_vec())), None, block))
    else {
        unreachable!("an engine and a capture within their bounds");
    };
    engine.begin(source, "frame");
    let mut reports = Vec::new();
    while let Ok(Some(mut some)) = engine.poll(longest) {
        reports.append(&mut some);
    }
    (reports, engine.stats().into_iter().collect())
}

/// The packets of one flow through the fingerprints. `data`: ports, then for each packet its kind, its captured length
/// (2), by how much it was longer, how time moved on, and its bytes.
///
/// # Panics
/// When confidence falls, or a finding has no evidence.
pub fn datagrams(data: &[u8]) {
    const PORTS: [[u16; 2]; 4] = [[40_000, 51_820], [500, 500], [4_500, 4_500], [40_000, 1_194]];
    let mut input = Input(data);
    let kind = input.byte();
    let ports = PORTS[usize::from(kind & 3)];
    let transport = match kind >> 2 & 3 {
        1 => Transport::Esp,
        2 => Transport::Ah,
        _ => Transport::Udp,
    };
    let (mut flow, mut watch) = (Flow::new(), Watch::default());
    while !input.is_empty() {
        let (kind, length) = (input.byte(), usize::from(input.u16() & 0x0fff));
        let (cut, step) = (u32::from(input.byte()), input.byte());
        let payload = input.take(length);
        let own = usize::from(kind & 1);
        let checksum_zero = kind & 2 != 0;
        flow.time = later(flow.time, step);
        flow.number += 1;
        let length = payload.len() as u32 + cut;
        if transport == Transport::Udp {
            flow.runs[own].update(payload, length, checksum_zero);
        }
        let packet = FlowPacket {
            length,
            transport,
            ip_version: if kind & 4 == 0 { 4 } else { 6 },
            source_port: ports[own],
            destination_port: ports[own ^ 1],
            checksum_zero,
            ..flow.packet(payload, kind & 1)
        };
        watch.take(&packet);
    }
}

/// The segments of one flow through the TCP cursor and the fingerprints. `data`: for each segment its kind, its
/// sequence number relative to where the direction stands (2, signed), its captured length (2), by how much it was
/// longer, how time moved on, and its bytes.
///
/// # Panics
/// When a record is longer than it says or out of place, confidence falls, or a finding has no evidence.
pub fn segments(data: &[u8]) {
    let mut input = Input(data);
    let (mut flow, mut watch) = (Flow::new(), Watch::default());
    // Sequence numbers wrap early.
    let starts = [0xffff_ff00_u32, 7];
    let (mut next, mut cursors) = (starts, [stream::Cursor::default(), stream::Cursor::default()]);
    while !input.is_empty() {
        let (kind, relative, length) = (input.byte(), input.u16() as i16, usize::from(input.u16() & 0x0fff));
        let (cut, step) = (u32::from(input.byte()), input.byte());
        let payload = input.take(length);
        let own = usize::from(kind & 1);
        flow.time = later(flow.time, step);
        flow.number += 1;
        let sequence = next[own].wrapping_add_signed(i32::from(relative));
        let length = payload.len() as u32 + cut;
        next[own] = sequence.wrapping_add(length);
        let stream_start = kind & 2 != 0 || sequence == starts[own];
        let mut place = 0;
        cursors[own].feed(
            sequence,
            payload,
            length,
            stream_start,
            &|length: u32, first: Option<u8>| length < 1_000 && first != Some(0xff),
            |Record { head, length, place: now }| {
                assert!(head.len() <= length as usize && (1..1_000).contains(&length));
                assert!(place == 0 || now == place + 1);
                place = now;
            },
        );
        let packet = FlowPacket {
            length,
            transport: Transport::Tcp,
            ip_version: 4,
            source_port: 40_000,
            destination_port: 1_194,
            sequence,
            stream_start,
            record_start: kind & 4 != 0,
            ..flow.packet(payload, kind & 1)
        };
        watch.take(&packet);
    }
}

/// What a flow's packets share.
struct Flow {
    time: i64,
    number: u64,
    runs: [Run; 2],
}

impl Flow {
    fn new() -> Self {
        Self { time: 1_795_322_142_000_000_000, number: 0, runs: [Run::default(); 2] }
    }

    /// A packet; the caller changes what its transport has.
    fn packet<'a>(&'a self, payload: &'a [u8], direction: u8) -> FlowPacket<'a> {
        FlowPacket {
            payload,
            length: payload.len() as u32,
            number: self.number,
            time: self.time,
            direction,
            transport: Transport::Udp,
            ip_version: 4,
            source_port: 0,
            destination_port: 0,
            checksum_zero: false,
            sequence: 0,
            stream_start: false,
            record_start: false,
            runs: &self.runs,
        }
    }
}

/// The fingerprints of a flow, as the table keeps them, and what they said before.
#[derive(Default)]
struct Watch {
    candidate: Option<Candidate>,
    before: Option<Confidence>,
}

impl Watch {
    fn take(&mut self, packet: &FlowPacket<'_>) {
        let is_strange =
            packet.transport == Transport::Udp && fingerprint::is_strange(packet.payload, packet.length, packet.run());
        let is_wanted = fingerprint::screen(packet);
        assert!(!(is_strange && is_wanted), "a stranger that is wanted");
        if self.candidate.is_none() && !is_wanted {
            return;
        }
        let candidate = self.candidate.get_or_insert_default();
        let found = candidate.observe(packet);
        let confidence = found.map(|(_, finding)| finding.confidence);
        assert!(self.before <= confidence, "{:?}, then {confidence:?}", self.before);
        self.before = confidence;
        if let Some((protocol, finding)) = found {
            assert!(!candidate.evidence().items().is_empty());
            assert!(finding.initiator.is_none_or(|direction| direction <= 1));
            assert_eq!(candidate.pair_facts().is_some(), protocol == Protocol::Ipsec);
        }
    }
}
