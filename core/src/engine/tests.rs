//! The engine over captures that are written here, byte by byte.

use super::*;
use crate::capture::{FrameBatch, open_file_in_blocks, open_reader};
use crate::fingerprint::testing::{Random, hex, padded};
use crate::flow::{EndReason, Report};
use std::collections::BTreeMap;

pub(super) const START: u64 = 1_795_322_142;

/// A classic pcap with microseconds, Ethernet.
pub(super) fn capture(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut data = hex("d4c3b2a1 0200 0400 00000000 00000000 ffff0000 01000000");
    for (microseconds, frame) in frames {
        for field in [(microseconds / 1_000_000) as u32, (microseconds % 1_000_000) as u32] {
            data.extend(field.to_le_bytes());
        }
        for length in [frame.len() as u32, frame.len() as u32] {
            data.extend(length.to_le_bytes());
        }
        data.extend(frame);
    }
    data
}

/// Ethernet, IPv4 and whatever comes then.
fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = hex("020000000001 020000000002 0800 4500");
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(payload);
    frame
}

pub(super) fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = source.1.to_be_bytes().to_vec();
    datagram.extend(destination.1.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0x12, 0x34]);
    datagram.extend(payload);
    ipv4(source.0, destination.0, 17, 0, &datagram)
}

fn wireguard(kind: u8, index: u32, counter: u64, length: usize) -> Vec<u8> {
    let mut payload = padded(&format!("{kind:02x}000000"), length);
    payload[4..8].copy_from_slice(&index.to_le_bytes());
    match kind {
        1 => {
            payload[39] &= 0x7f;
            payload[132..].fill(0);
        }
        _ => payload[8..16].copy_from_slice(&counter.to_le_bytes()),
    }
    payload
}

/// 400 flows, all kinds, in a random order that is always the same: what each packet of a flow is goes by how many the
/// flow has had. In between, what makes no flow or cannot be decoded.
pub(super) fn mixed(packets: usize) -> Vec<(u64, Vec<u8>)> {
    let mut random = Random(7);
    let mut sent = vec![0_u32; 400];
    let (mut frames, mut time) = (Vec::new(), START * 1_000_000);
    for _ in 0..packets {
        // Seconds now and then, so that flows time out in the middle.
        time += if random.below(50) == 0 { random.below(40_000_000) } else { random.below(2_000) };
        let flow = random.below(sent.len() as u64) as usize;
        let number = sent[flow];
        sent[flow] += 1;
        let client = [100, 64, (flow / 50) as u8, (flow % 50) as u8];
        let server = [203, 0, 113, (flow % 7) as u8];
        let (here, there) = ((client, 40_000 + flow as u16), (server, 51_820));
        let length = 48 + 16 * random.below(20) as usize;
        frames.push(match flow % 8 {
            0 if number == 0 => (time, udp(here, there, &wireguard(1, flow as u32 + 70_000, 0, 148))),
            0 => (time, udp(here, there, &wireguard(4, flow as u32 + 90_000, u64::from(number) - 1, length))),
            1 if number.is_multiple_of(2) => {
                (time, udp(here, there, &wireguard(4, 0x0909_0909, u64::from(number) + 1, length)))
            }
            1 => (time, udp(there, here, &wireguard(4, 0x0a0a_0a0a, u64::from(number), length))),
            // An opening and nothing more: attempts.
            2 => (time, udp(here, there, &wireguard(1, 0x1111_1111 + number, 0, 148))),
            3 if number.is_multiple_of(3) => (time, udp(here, there, &hex("38fedd71acbd95fc8e0000000000"))),
            3 => (time, udp(there, here, &hex("40bca5293e6b60c1050100000000fedd71acbd95fc8e00000000"))),
            4 => {
                let mut esp = hex("c04221bf");
                esp.extend((number + 1).to_be_bytes());
                esp.resize(length.next_multiple_of(4), 0x5a);
                (time, ipv4(client, server, 50, 0, &esp))
            }
            5 => (time, udp((client, 4_500), (server, 4_500), &padded(AUTH_REQUEST, 308))),
            6 => (time, udp(here, (server, 53), &random.bytes(length))),
            _ => match random.below(6) {
                0 => (time, hex("ffffffffffff 020000000002 0806 0001080006040001")),
                1 => (time, ipv4(client, server, 1, 0, &random.bytes(20))),
                2 => (time, ipv4(client, server, 17, 185, &random.bytes(200))),
                3 => (time, ipv4(client, server, 6, 0, &random.bytes(10))),
                4 => (time, hex("020000000001 020000000002 0800 45")),
                _ => (time, ipv4(client, server, 89, 0, &random.bytes(30))),
            },
        });
    }
    frames
}

/// ikev2-cookie, packet 7.
const AUTH_REQUEST: &str = "00000000e4253abab1db136d74ec6740d142e46f2e202308000000010000013023000114d44098a3d9bc2b2d";

pub(super) fn settings(workers: usize) -> Settings {
    Settings {
        workers,
        update_interval: 30,
        packet_milestones: vec![4, 16],
        duration_milestones: vec![SECOND, 60 * SECOND],
        ..Settings::default()
    }
}

fn begin(engine: &mut Engine, data: &[u8], block: usize) {
    let source = open_reader(Box::new(std::io::Cursor::new(data.to_vec())), Some(data.len() as u64), block);
    engine.begin(source.expect("a capture"), "directory/name.pcap");
}

/// Everything that a replay reports, and how many polls it took.
fn replay(engine: &mut Engine, data: &[u8], block: usize, longest: Duration) -> (Vec<FlowReport>, usize) {
    begin(engine, data, block);
    let (mut reports, mut polls) = (Vec::new(), 0);
    while let Some(mut some) = engine.poll(longest).expect("a whole capture") {
        reports.append(&mut some);
        polls += 1;
    }
    assert!(!engine.is_busy());
    (reports, polls)
}

fn as_text(reports: &[FlowReport]) -> Vec<String> {
    reports.iter().map(|report| format!("{report:?}")).collect()
}

pub(super) fn stats(engine: &mut Engine) -> BTreeMap<String, u64> {
    engine.stats().into_iter().collect()
}

/// Frames are decoded or not; decoded ones are packets of flows, of none, or later fragments; flows are or were.
pub(super) fn assert_balanced(stats: &BTreeMap<String, u64>) {
    let sum = |prefix: &str| -> u64 {
        stats.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    };
    assert_eq!(stats["frames"], stats["decoded"] + sum("undecoded.") + sum("ignored."));
    let unmatched = stats["fragments_unmatched"] + stats["fragments_waiting"];
    assert_eq!(stats["decoded"], stats["flow_packets"] + sum("no_flow.") + unmatched);
}

#[test]
fn workers_blocks_and_pauses_change_nothing() {
    let data = capture(&mixed(6_000));
    let mut expected = None;
    for workers in [1, 2, 7, 64] {
        for (block, longest) in [(1 << 20, Duration::from_secs(60)), (3_000, Duration::ZERO)] {
            let mut engine = Engine::new(settings(workers)).expect("settings within their ranges");
            let (reports, polls) = replay(&mut engine, &data, block, longest);
            assert!(polls > 50 || block > 3_000);
            assert_ordered(&reports);
            let (text, stats) = (as_text(&reports), stats(&mut engine));
            assert_balanced(&stats);
            let (known, known_stats) = expected.get_or_insert_with(|| (text.clone(), stats.clone()));
            assert!(*known == text, "{workers} workers, blocks of {block}: {} and {}", known.len(), text.len());
            assert_eq!(*known_stats, stats);
        }
    }
}

/// By number and flow id; what the end of the capture ended comes last.
fn assert_ordered(reports: &[FlowReport]) {
    let last = reports.last().map_or(0, |report| report.number);
    let by_end = |report: &FlowReport| report.number == last && report.report == Report::Ended;
    assert!(reports.is_sorted_by_key(|report| (report.number, by_end(report), report.flow_id)));
}

/// Found by fuzzing: when the last frame brought about a report, a pause behind it changed the order.
#[test]
fn a_pause_before_the_end_changes_nothing() {
    let frames = mixed(400);
    for length in 300..400 {
        let data = capture(&frames[..length]);
        let mut engine = Engine::new(settings(1 + length % 2)).expect("settings within their ranges");
        let (at_once, _) = replay(&mut engine, &data, 1 << 20, Duration::from_secs(60));
        let mut engine = Engine::new(settings(1)).expect("settings within their ranges");
        let (paused, _) = replay(&mut engine, &data, 1 << 20, Duration::ZERO);
        assert_ordered(&paused);
        assert!(as_text(&at_once) == as_text(&paused), "{length} frames");
    }
}

#[test]
fn every_kind_of_frame_is_counted_once() {
    let frames = mixed(6_000);
    let mut engine = Engine::new(settings(1)).expect("settings within their ranges");
    let (reports, _) = replay(&mut engine, &capture(&frames), 1 << 20, Duration::from_secs(60));
    let stats = stats(&mut engine);
    assert_balanced(&stats);
    assert_eq!(stats["frames"], 6_000);
    assert_eq!(stats["bytes"], frames.iter().map(|(_, frame)| frame.len() as u64).sum::<u64>());
    for name in [
        "no_flow.arp",
        "no_flow.icmp",
        "no_flow.other_ip",
        "fragments_unmatched",
        "undecoded.tcp_malformed",
        "undecoded.ipv4_malformed",
    ] {
        let what: fn(&[u8]) -> bool = match name {
            "no_flow.arp" => |frame| frame[12..14] == [8, 6],
            "undecoded.ipv4_malformed" => |frame| frame.len() < 34 && frame[12..14] == [8, 0],
            "fragments_unmatched" => |frame| frame.len() > 34 && frame[21] == 185,
            "no_flow.icmp" => |frame| frame.len() > 34 && frame[23] == 1,
            "undecoded.tcp_malformed" => |frame| frame.len() > 34 && frame[23] == 6,
            _ => |frame| frame.len() > 34 && frame[23] == 89,
        };
        assert_eq!(stats[name], frames.iter().filter(|(_, frame)| what(frame)).count() as u64, "{name}");
    }
    // Each flow is reported first, then otherwise, last as ended, and its counters never fall.
    let mut flows: BTreeMap<u64, Vec<&FlowReport>> = BTreeMap::new();
    for report in &reports {
        flows.entry(report.flow_id).or_default().push(report);
    }
    assert_eq!(flows.len() as u64, stats["flows.recognised"]);
    assert_eq!(stats["flows.active.undecided"] + stats["flows.active.attempt"] + stats["flows.active.recognised"], 0);
    for rows in flows.values() {
        let kinds: Vec<_> = rows.iter().map(|row| row.report).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == Report::Recognised).count(), 1);
        assert_eq!((kinds[0], kinds[kinds.len() - 1]), (Report::Recognised, Report::Ended));
        assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind != Report::Ended));
        assert!(rows.is_sorted_by_key(|row| (row.packets[0] + row.packets[1], row.bytes[0] + row.bytes[1])));
        assert!(rows.iter().all(|row| row.end_reason.is_some() == (row.report == Report::Ended)));
        assert!(rows.is_sorted_by_key(|row| row.finding.confidence));
    }
}

#[test]
fn a_capture_that_is_cut_gives_what_was_whole_then_the_error_then_the_ends() {
    let frames = mixed(3_000);
    let mut data = capture(&frames);
    let whole = data.len();
    data.extend(&[0; 7]);
    for workers in [1, 7] {
        for block in [3_000, 1 << 20] {
            let mut engine = Engine::new(settings(workers)).expect("settings within their ranges");
            let (complete, _) = replay(&mut engine, &data[..whole], block, Duration::ZERO);
            let mut engine = Engine::new(settings(workers)).expect("settings within their ranges");
            begin(&mut engine, &data, block);
            let (mut reports, mut errors) = (Vec::new(), Vec::new());
            loop {
                match engine.poll(Duration::ZERO) {
                    Ok(Some(mut some)) => reports.append(&mut some),
                    Ok(None) => break,
                    Err(error) => errors.push(error),
                }
            }
            assert_eq!(errors.len(), 1);
            assert_eq!((errors[0].reason, errors[0].offset), (Reason::Truncated, Some(whole as u64)));
            // Nothing of what was whole is missing.
            assert!(as_text(&reports) == as_text(&complete));
            assert!(reports.iter().any(|report| report.end_reason == Some(EndReason::ForcedEnd)));
            assert_eq!(engine.poll(Duration::ZERO).expect("no second error").map(|reports| reports.len()), None);
        }
    }
}

#[test]
fn tags_are_in_every_later_report() {
    for workers in [1, 7] {
        let mut engine = Engine::new(settings(workers)).expect("settings within their ranges");
        begin(&mut engine, &capture(&mixed(3_000)), 3_000);
        let (mut tags, mut ended) = (BTreeMap::new(), 0);
        while let Some(reports) = engine.poll(Duration::ZERO).expect("a whole capture") {
            let mut new = Vec::new();
            for report in reports {
                let tag = report.flow_id as u32 | 1;
                // Rows of the poll that brings the first one do not have it yet.
                if let Some(known) = tags.get(&report.flow_id) {
                    assert_eq!(report.tag, *known);
                    ended += usize::from(report.report == Report::Ended);
                } else if report.report != Report::Ended {
                    new.push((report.flow_id, report.handle, tag));
                }
            }
            tags.extend(new.iter().map(|(flow, _, tag)| (*flow, *tag)));
            engine.set_tags(new.iter().map(|(_, handle, tag)| (*handle, *tag)).collect()).expect("running workers");
        }
        assert!(ended > 200);
    }
}

#[test]
fn reading_can_be_stopped_and_another_capture_begun() {
    for workers in [1, 2] {
        let data = capture(&mixed(3_000));
        let mut engine = Engine::new(settings(workers)).expect("settings within their ranges");
        begin(&mut engine, &data, 3_000);
        for _ in 0..20 {
            assert!(engine.poll(Duration::ZERO).expect("a whole capture").is_some());
        }
        engine.finish();
        let last = engine.poll(Duration::ZERO).expect("a whole capture").expect("the ends");
        // Several workers have read on, and what that brought about comes first.
        let is_end = |row: &FlowReport| row.end_reason == Some(EndReason::ForcedEnd);
        let first = last.iter().position(is_end).expect("flows that were running");
        assert!(workers > 1 || first == 0);
        assert!(last[first..].iter().all(is_end));
        assert!(engine.poll(Duration::ZERO).expect("nothing").is_none());

        // One that is not finished is forgotten, also when the next one has no frame at all.
        begin(&mut engine, &data, 3_000);
        for _ in 0..20 {
            assert!(engine.poll(Duration::ZERO).expect("a whole capture").is_some());
        }
        let (reports, _) = replay(&mut engine, &capture(&[]), 3_000, Duration::ZERO);
        assert_eq!(reports.len(), 0);
        assert_eq!(stats(&mut engine)["flows.active.recognised"], 0);

        // The same capture after another one gives what it gives alone.
        let (after, _) = replay(&mut engine, &data, 3_000, Duration::ZERO);
        let mut fresh = Engine::new(settings(workers)).expect("settings within their ranges");
        let (alone, _) = replay(&mut fresh, &data, 1 << 20, Duration::from_secs(60));
        let without_handles = |reports: &[FlowReport]| -> Vec<String> {
            let rows = reports.iter().map(|row| FlowReport { handle: 0, ..row.clone() });
            rows.map(|row| format!("{row:?}")).collect()
        };
        assert!(without_handles(&after) == without_handles(&alone));
        assert_balanced(&stats(&mut engine));
        assert_eq!(stats(&mut engine)["captures"], 4);
    }
}

#[test]
fn small_bounds_hold_whatever_the_number_of_workers() {
    let data = capture(&mixed(6_000));
    let mut expected = None;
    for workers in [1, 7] {
        let small = Settings { max_undecided: 64, max_attempts: 64, max_recognised: 64, ..settings(workers) };
        let mut engine = Engine::new(small).expect("settings within their ranges");
        let (reports, _) = replay(&mut engine, &data, 1 << 20, Duration::ZERO);
        let stats = stats(&mut engine);
        assert!(stats["flows.evicted.undecided"] > 0 && stats["flows.evicted.attempt"] > 0);
        assert!(stats["flows.unreported"] > 0);
        assert_balanced(&stats);
        let found = (as_text(&reports), stats);
        assert!(*expected.get_or_insert_with(|| found.clone()) == found);
    }
}

#[test]
fn settings_out_of_their_ranges_are_named() {
    type Change = fn(&mut Settings);
    let cases: [(&str, Change); 7] = [
        ("workers", |settings| settings.workers = 0),
        ("workers", |settings| settings.workers = 65),
        ("max_undecided", |settings| settings.max_undecided = 63),
        ("max_attempts", |settings| settings.max_attempts = (1 << 26) + 1),
        ("max_recognised", |settings| settings.max_recognised = 0),
        ("update_interval_s", |settings| settings.update_interval = 0),
        ("duration_milestones_s", |settings| settings.duration_milestones = vec![1; 65]),
    ];
    for (name, change) in cases {
        let mut settings = Settings::default();
        change(&mut settings);
        assert_eq!(Engine::new(settings).err().map(|error| error.setting), Some(name));
    }
}

#[test]
fn link_types_are_listed_with_their_frames() {
    let mut engine = Engine::new(settings(1)).expect("settings within their ranges");
    let mut data = capture(&mixed(10));
    // 147: USER0, which nothing here decodes.
    data[20] = 147;
    replay(&mut engine, &data, 1 << 20, Duration::ZERO);
    assert_eq!(engine.link_types(), [(LinkType(147), 10)]);
    assert_eq!(stats(&mut engine)["undecoded.link_type_unsupported"], 10);
    assert_eq!(engine.progress(), (data.len() as u64, Some(data.len() as u64)));
}

/// Handles count on from capture to capture.
pub(super) fn without_handles(reports: &[FlowReport]) -> Vec<String> {
    as_text(&reports.iter().map(|report| FlowReport { handle: 0, ..report.clone() }).collect::<Vec<_>>())
}

/// Of every flow that runs when an instant passes there is one more report, at the first frame of that second, whatever
/// the workers and the blocks.
#[test]
fn running_flows_are_reported_when_an_instant_passes() {
    let data = capture(&mixed(4_000));
    let instants = [1_u64, 40, 90].map(|seconds| ((START + seconds) * 1_000_000_000) as i64);
    let mut plain = Engine::new(settings(1)).unwrap();
    let (without, _) = replay(&mut plain, &data, 1 << 16, Duration::from_secs(9));
    let with = |workers, block, longest| {
        let mut engine = Engine::new(settings(workers)).unwrap();
        engine.review_at(vec![instants[2], instants[0], instants[1], instants[0]]);
        let (first, _) = replay(&mut engine, &data, block, longest);
        let (second, _) = replay(&mut engine, &data, block, longest);
        assert!(without_handles(&first) == without_handles(&second), "they hold for the next capture too");
        first
    };
    let reports = with(1, 1 << 16, Duration::from_secs(9));
    assert!(as_text(&reports) == as_text(&with(3, 1 << 12, Duration::ZERO)));
    let known = as_text(&without);
    let reviews: Vec<_> = reports.iter().filter(|report| !known.contains(&format!("{report:?}"))).collect();
    for instant in instants {
        let first = reviews.iter().find(|review| review.time >= instant).expect("flows run at each");
        let here: Vec<_> = reviews.iter().filter(|review| review.number == first.number).collect();
        assert!(here.len() > 5 && here.iter().all(|review| review.report == Report::Milestone));
        let runs = |id| {
            let of_flow: Vec<_> = without.iter().filter(|report| report.flow_id == id).collect();
            of_flow.first().is_some_and(|report| report.number <= first.number)
                && of_flow.last().is_some_and(|report| report.number >= first.number)
        };
        assert!(here.iter().all(|review| runs(review.flow_id)));
    }
    assert_eq!(reports.len(), without.len() + reviews.len());
}

#[test]
fn a_review_now_reports_what_runs_and_new_milestones_count_from_then() {
    let flow = |number: u64, microseconds| {
        let payload = wireguard(4, 0x0909_0909, number, 128);
        (START * 1_000_000 + microseconds, udp(([192, 0, 2, 1], 40_000), ([203, 0, 113, 1], 51_820), &payload))
    };
    let frames: Vec<_> = (0..400).map(|number| flow(number, number * 20_000)).collect();
    let mut engine = Engine::new(Settings::default()).unwrap();
    assert!(engine.review().is_ok(), "nothing runs");
    begin(&mut engine, &capture(&frames), 1 << 12);
    let mut reports = engine.poll(Duration::ZERO).unwrap().unwrap();
    while reports.is_empty() {
        reports = engine.poll(Duration::ZERO).unwrap().unwrap();
    }
    engine.review().unwrap();
    engine.set_milestones(vec![200, 300], vec![7 * SECOND]).unwrap();
    assert!(engine.set_milestones(Vec::new(), vec![SECOND; 65]).is_err());
    let mut rest = Vec::new();
    while let Some(mut some) = engine.poll(Duration::ZERO).unwrap() {
        rest.append(&mut some);
    }
    assert_eq!((rest[0].report, rest[0].flow_id), (Report::Milestone, reports[0].flow_id));
    let packets: Vec<_> = rest[1..].iter().map(|report| (report.report, report.packets[0])).collect();
    assert_eq!(
        packets,
        [(Report::Milestone, 200), (Report::Milestone, 300), (Report::Milestone, 351), (Report::Ended, 400)]
    );
}

/// An IKE_SA_INIT request as long as those with many proposals are; `miss` is added to the length of its last payload.
fn long_sa_init(miss: i32) -> Vec<u8> {
    let mut random = Random(11);
    let mut message = random.bytes(8);
    message.extend([0; 8]);
    // SA, then KE, nonce and a vendor id to the end.
    message.extend(hex("21202208 00000000 00000000"));
    for (next, length) in [(34_u8, 1_200_usize), (40, 520), (43, 36), (0, 1_400)] {
        let said = length as i32 + if next == 0 { miss } else { 0 };
        message.extend([next, 0]);
        message.extend((said as u16).to_be_bytes());
        message.extend(random.bytes(length - 4));
    }
    let length = message.len() as u32;
    message[24..28].copy_from_slice(&length.to_be_bytes());
    message
}

/// A datagram from port 500 to port 500 in IPv4 fragments of at most `size` octets each.
fn in_fragments(id: u16, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut datagram = hex("01f4 01f4");
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0x12, 0x34]);
    datagram.extend(payload);
    let parts: Vec<_> = datagram.chunks(size).collect();
    let last = parts.len() - 1;
    let cut = parts.iter().enumerate().map(|(place, part)| {
        let field = (place * size / 8) as u16 | if place < last { 0x2000 } else { 0 };
        let mut frame = ipv4([192, 0, 2, 1], [203, 0, 113, 1], 17, field, part);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        frame
    });
    cut.collect()
}

fn replay_all(frames: &[Vec<u8>], settings: Settings) -> (Vec<FlowReport>, BTreeMap<String, u64>) {
    let timed: Vec<_> = (0..).zip(frames).map(|(n, frame)| (START * 1_000_000 + n * 300, frame.clone())).collect();
    let mut engine = Engine::new(settings).expect("settings within their ranges");
    let (reports, _) = replay(&mut engine, &capture(&timed), 1 << 20, Duration::from_secs(60));
    let stats = stats(&mut engine);
    assert_balanced(&stats);
    (reports, stats)
}

#[test]
fn ike_in_fragments_is_judged_as_a_whole_in_any_order() {
    let parts = in_fragments(9, &long_sa_init(0), 1_480);
    assert_eq!(parts.len(), 3);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let frames: Vec<_> = order.iter().map(|&place| parts[place].clone()).collect();
        let (reports, stats) = replay_all(&frames, Settings::default());
        assert_eq!((reports.len(), stats["fragments.reassembled"], stats["flow_packets"]), (2, 1, 3), "{order:?}");
        // Reported with the part that made it whole; the evidence is the first part's.
        let number = order.iter().position(|&place| place == 0).unwrap() as u64 + 1;
        assert_eq!((reports[0].number, reports[0].evidence.items()[0].packet), (3, number));
        assert_eq!(reports[1].bytes, [3 * 20 + 8 + long_sa_init(0).len() as u64, 0]);
        assert_eq!(reports[1].finding.confidence, Confidence::Confirmed);
    }
    // The head of it is as it should be; the end shows that it is something else.
    for miss in [-1, 1] {
        let (reports, stats) = replay_all(&in_fragments(9, &long_sa_init(miss), 1_480), Settings::default());
        assert_eq!((reports.len(), stats["fragments.reassembled"], stats["flow_packets"]), (0, 1, 3));
    }
}

#[test]
fn ike_of_which_a_fragment_is_missing_is_judged_by_its_head_when_it_has_been_waited_for() {
    let mut parts = in_fragments(9, &long_sa_init(0), 1_480);
    parts.remove(1);
    let (reports, stats) = replay_all(&parts, Settings::default());
    assert_eq!((stats["fragments.incomplete"], stats["fragments.reassembled"], stats["flow_packets"]), (1, 0, 2));
    assert_eq!((reports[0].number, reports[0].evidence.items()[0].packet), (2, 1));
    assert_eq!(reports[1].packets, [2, 0]);
    // Its end, and no more: nothing to count it to.
    let (reports, stats) = replay_all(&parts[1..], Settings::default());
    assert_eq!((reports.len(), stats["fragments_unmatched"], stats["flow_packets"]), (0, 1, 0));
}

#[test]
fn later_fragments_bring_a_flow_to_its_milestones() {
    let mut frames = vec![udp(([192, 0, 2, 1], 500), ([203, 0, 113, 1], 500), &long_sa_init(0))];
    for id in 1..6 {
        let mut parts = in_fragments(id, &long_sa_init(0), 1_480);
        // The first comes last: three packets at once.
        parts.rotate_left(1);
        frames.append(&mut parts);
    }
    let milestones = Settings { packet_milestones: vec![6, 10], ..Settings::default() };
    let (reports, _) = replay_all(&frames, milestones);
    let seen: Vec<_> = reports.iter().map(|report| (report.report, report.packets[0])).collect();
    assert_eq!(seen, [(Report::Recognised, 1), (Report::Milestone, 7), (Report::Milestone, 10), (Report::Ended, 16)]);
}

#[test]
fn copies_are_counted_always_and_left_out_when_asked_for() {
    let mut plain: Vec<Vec<u8>> = mixed(3_000).into_iter().map(|(_, frame)| frame).collect();
    for (number, frame) in plain.iter_mut().enumerate().filter(|(_, frame)| frame.len() > 34) {
        frame[18..20].copy_from_slice(&(number as u16).to_be_bytes());
    }
    let mut copied = Vec::new();
    for (number, frame) in plain.iter().enumerate() {
        copied.push(frame.clone());
        if number % 3 == 0 {
            // What left by another port: MAC, VLAN, TTL and header checksum have changed.
            let mut copy = frame.clone();
            copy[..6].copy_from_slice(&[9; 6]);
            if copy.len() > 34 && copy[12..14] == [8, 0] {
                copy[22] -= 1;
                copy[24..26].copy_from_slice(&[7, 7]);
            }
            copy.splice(12..12, hex("8100 0064"));
            copied.push(copy);
        }
    }
    let removing = Settings { remove_duplicates: true, workers: 3, ..Settings::default() };
    let (reports, without) = replay_all(&plain, Settings::default());
    let (removed, with) = replay_all(&copied, removing);
    let copies = copied.len() as u64 - 3_000;
    assert!(with["ignored.duplicate"] > copies / 2 && with["ignored.duplicate"] <= copies, "not what makes no flow");
    for name in ["flow_packets", "flows.created", "flows.recognised", "fragments_unmatched"] {
        assert_eq!(with[name], without[name], "{name}");
    }
    let essence = |reports: &[FlowReport]| {
        let ended = reports.iter().filter(|report| report.report == Report::Ended);
        ended
            .map(|report| format!("{:?}", (report.key, report.finding, report.packets, report.bytes)))
            .collect::<Vec<_>>()
    };
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts
    };
    assert!(sorted(essence(&reports)) == sorted(essence(&removed)));
    let (_, counted) = replay_all(&copied, Settings::default());
    assert_eq!((counted["duplicates"], counted["ignored.duplicate"]), (with["duplicates"], 0));
    assert_eq!(without["duplicates"], 0);
}

/// A file that goes when the test has ended.
struct Saved(std::path::PathBuf);

impl Saved {
    fn new(name: &str, data: &[u8]) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("vpn-classifier-{name}-{}.pcap", std::process::id()));
        std::fs::write(&path, data)?;
        Ok(Self(path))
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What reading comes to, and the fault that it ends with.
fn to_the_end(engine: &mut Engine) -> (Vec<String>, Option<CaptureError>) {
    let (mut reports, mut fault) = (Vec::new(), None);
    loop {
        match engine.poll(Duration::from_millis(1)) {
            Ok(Some(some)) => reports.extend(without_handles(&some)),
            Ok(None) => return (reports, fault),
            Err(error) => assert_eq!(fault.replace(error), None),
        }
    }
}

#[test]
fn blocks_that_are_read_side_by_side_are_those_that_are_read_in_turn() -> Result<(), Box<dyn std::error::Error>> {
    let mut frames = mixed(1_500);
    // Records longer than a block, and than what fits in front of one.
    for (place, length) in [(300, 70_000), (700, 200_000), (701, 65_536), (1_100, 5_000)] {
        let (time, mut frame) = frames[place].clone();
        frame.resize(length, 0);
        frames.insert(place, (time, frame));
    }
    let whole = capture(&frames);
    let damaged = [&whole[..whole.len() / 2], &[0xff; 40], &whole[whole.len() / 2..]].concat();
    let captures = [&whole[..], &whole[..whole.len() - 3], &whole[..24], &whole[..whole.len() / 3], &damaged];
    for (number, data) in captures.into_iter().enumerate() {
        let mut one = Engine::new(settings(1))?;
        one.begin(open_reader(Box::new(std::io::Cursor::new(data.to_vec())), None, 1 << 18)?, "directory/name.pcap");
        let expected = (to_the_end(&mut one), stats(&mut one));
        let file = Saved::new("side-by-side", data)?;
        for (workers, block) in [(2, 1 << 18), (2, 4_096), (3, 1 << 16), (5, 1_000), (2, 11)] {
            if block < 1_000 && number != 3 {
                continue;
            }
            let mut several = Engine::new(settings(workers))?;
            several.begin(open_file_in_blocks(std::fs::File::open(&file.0)?, block)?, "directory/name.pcap");
            let found = to_the_end(&mut several);
            assert_eq!(found.1, expected.0.1, "capture {number}, {workers} workers, blocks of {block}");
            assert!(found.0 == expected.0.0, "capture {number}, {workers} workers, blocks of {block}");
            assert_eq!(stats(&mut several), expected.1);
        }
    }
    Ok(())
}

#[test]
fn what_is_left_in_the_middle_shows_in_no_later_capture() -> Result<(), Box<dyn std::error::Error>> {
    let data = capture(&mixed(2_000));
    let file = Saved::new("left", &data)?;
    let open = || open_file_in_blocks(std::fs::File::open(&file.0).expect("a file"), 4_096).expect("a capture");
    let mut engine = Engine::new(settings(3))?;
    engine.begin(open(), "directory/name.pcap");
    let (expected, fault) = to_the_end(&mut engine);
    assert!(expected.len() > 100 && fault.is_none());
    for _ in 0..5 {
        engine.begin(open(), "directory/name.pcap");
        assert!(engine.poll(Duration::ZERO)?.is_some());
        engine.begin(open(), "directory/name.pcap");
        assert!(to_the_end(&mut engine).0 == expected);
    }
    Ok(())
}

#[test]
fn a_file_that_grows_while_it_is_read_is_read_on_without_a_gap() -> Result<(), Box<dyn std::error::Error>> {
    let data = capture(&mixed(2_000));
    let file = Saved::new("grows", &data[..5_000])?;
    let mut source = open_file_in_blocks(std::fs::File::open(&file.0)?, 4_096)?;
    let blocks = source.blocks().ok_or("no blocks")?;
    let (mut frames, mut batch) = (0, FrameBatch::new());
    for number in 0.. {
        blocks.read(number, &mut batch);
        if number == 1 {
            // Behind the end that the second block has seen.
            std::fs::write(&file.0, &data)?;
        }
        if !source.take(&mut batch)? {
            break;
        }
        frames += batch.frames().len();
    }
    assert_eq!((frames, source.bytes_read()), (2_000, data.len() as u64));
    Ok(())
}

/// A capture whose host's clock goes on, 30 seconds at each fill, when the frames have been delivered.
struct Live {
    frames: Box<dyn Source>,
    silent: i64,
    stopping: bool,
}

impl Source for Live {
    fn fill(&mut self, batch: &mut FrameBatch) -> Result<bool, CaptureError> {
        if !self.frames.fill(batch)? {
            self.silent += 1;
        }
        Ok(!(self.stopping && self.silent > 0))
    }

    fn bytes_read(&self) -> u64 {
        0
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn delivered_until(&self) -> Option<i64> {
        (self.silent > 0).then_some((START as i64 + 30 * self.silent) * SECOND)
    }

    fn stop(&mut self) -> bool {
        self.stopping = true;
        true
    }
}

fn live(engine: &mut Engine, frames: &[(u64, Vec<u8>)]) -> Result<(), CaptureError> {
    let frames = open_reader(Box::new(std::io::Cursor::new(capture(frames))), None, 1 << 20)?;
    engine.begin(Box::new(Live { frames, silent: 0, stopping: false }), "tap0");
    Ok(())
}

#[test]
fn live_flows_end_and_instants_pass_in_silence() -> Result<(), Box<dyn std::error::Error>> {
    let (client, server) = (([100, 64, 0, 1], 40_000), ([203, 0, 113, 1], 51_820));
    let frames: Vec<_> = (0..12)
        .map(|number| (START * 1_000_000 + number, udp(client, server, &wireguard(4, 0x0909_0909, number + 1, 80))))
        .collect();
    let mut engine = Engine::new(settings(1))?;
    engine.review_at(vec![(START as i64 + 100) * SECOND]);
    live(&mut engine, &frames)?;
    let mut seen = Vec::new();
    for _ in 0..30 {
        for report in engine.poll(Duration::ZERO)?.ok_or("ended")? {
            seen.push((report.report, (report.time / SECOND) - START as i64, report.end_reason));
        }
    }
    assert!(seen.contains(&(Report::Milestone, 120, None)), "{seen:?}");
    // 600 s after its last packet, which came some microseconds behind the first.
    assert_eq!(seen.last(), Some(&(Report::Ended, 630, Some(EndReason::IdleTimeout))));
    Ok(())
}

#[test]
fn a_live_capture_that_is_stopped_gives_what_has_arrived() -> Result<(), Box<dyn std::error::Error>> {
    let frames = mixed(2_000);
    let mut engine = Engine::new(settings(2))?;
    live(&mut engine, &frames)?;
    engine.finish();
    while engine.poll(Duration::ZERO)?.is_some() {}
    let stats = stats(&mut engine);
    assert_balanced(&stats);
    assert_eq!(stats["frames"], 2_000);
    Ok(())
}

/// A capture whose format has a fault of ours.
struct Faulty;

impl Source for Faulty {
    fn fill(&mut self, _: &mut FrameBatch) -> Result<bool, CaptureError> {
        panic!("a fault of this test")
    }

    fn bytes_read(&self) -> u64 {
        0
    }

    fn size(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_worker_that_is_gone_is_said_and_nobody_waits_for_it() -> Result<(), SettingError> {
    let mut engine = Engine::new(settings(3))?;
    for _ in 0..3 {
        // Once for each capture, or who asks until one is done would ask for ever.
        engine.begin(Box::new(Faulty), "capture");
        let error = engine.poll(Duration::from_secs(60)).err().map(|error| error.found);
        assert_eq!(error.as_deref(), Some("a worker thread has ended"));
        assert_eq!(engine.poll(Duration::ZERO).map(|reports| reports.map(|reports| reports.len())), Ok(None));
    }
    Ok(())
}

#[test]
fn a_fault_that_was_read_ahead_is_told_after_a_stop() -> Result<(), Box<dyn std::error::Error>> {
    let mut data = capture(&mixed(3_000));
    data.truncate(data.len() - 7);
    let mut engine = Engine::new(settings(2))?;
    engine.begin(open_reader(Box::new(std::io::Cursor::new(data)), None, 1 << 20)?, "capture");
    // The first poll reads at least one block, and has what is left read behind it.
    let mut told = Vec::new();
    for number in 0..50 {
        if number == 1 {
            engine.finish();
        }
        match engine.poll(Duration::ZERO) {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => told.push(error.reason),
        }
    }
    assert_eq!(told, [Reason::Truncated]);
    Ok(())
}

#[test]
fn the_clock_jumps_alike_on_any_number_of_workers() -> Result<(), Box<dyn std::error::Error>> {
    let mut frames = mixed(3_000);
    for (number, (microseconds, _)) in frames.iter_mut().enumerate() {
        *microseconds += match number {
            // Alone, it is not believed; a hundred in a row, of several flows, are.
            500 | 700 => 7_200_000_000,
            1_500.. => 86_400_000_000,
            _ => 0,
        };
    }
    let data = capture(&frames);
    let mut seen = Vec::new();
    for workers in [1, 2, 5] {
        let mut engine = Engine::new(settings(workers))?;
        engine.begin(open_reader(Box::new(std::io::Cursor::new(data.clone())), None, 4096)?, "capture");
        let mut text = String::new();
        while let Some(reports) = engine.poll(Duration::ZERO)? {
            text.extend(reports.iter().map(|report| format!("{report:?}\n")));
        }
        let stats = stats(&mut engine);
        assert_eq!((stats["clock.jumps"], stats["clock.ahead"]), (1, 101));
        seen.push(text);
    }
    assert!(seen.iter().all(|text| *text == seen[0]) && !seen[0].is_empty());
    Ok(())
}

#[test]
fn frames_that_a_filter_leaves_out_are_counted_and_keep_their_numbers() -> Result<(), Box<dyn std::error::Error>> {
    use crate::capture::bpf::{Instruction, Program};
    let (client, server) = (([100, 64, 0, 1], 40_000), ([203, 0, 113, 1], 51_820));
    let mut frames = vec![(START * 1_000_000, udp(server, client, &[0; 300]))];
    frames.push((START * 1_000_000, udp(client, server, &wireguard(1, 7, 0, 148))));
    // len <= 200
    let only_short = [(0x80, 0, 0, 0), (0x25, 0, 1, 200), (6, 0, 0, 0), (6, 0, 0, 1)]
        .map(|(code, jt, jf, k)| Instruction { code, jt, jf, k });
    let program = Program::new(only_short.to_vec()).ok_or("refused")?;
    let filter = Filter(vec![(LinkType(1), program)]);
    let mut engine = Engine::new(Settings { filter, ..settings(1) })?;
    let (reports, _) = replay(&mut engine, &capture(&frames), 1 << 20, Duration::ZERO);
    assert_eq!(reports.first().map(|report| report.number), Some(2));
    let stats = stats(&mut engine);
    assert_balanced(&stats);
    assert_eq!((stats["frames"], stats["ignored.filtered"], stats["decoded"]), (2, 1, 1));
    Ok(())
}
