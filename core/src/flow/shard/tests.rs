//! One shard, packet by packet.

use super::*;
use crate::fingerprint::Variant;
use crate::fingerprint::testing::{hex, padded};
use crate::flow::KeyMode;

const START: i64 = 1_795_322_142 * SECOND;
const CLIENT: [u8; 4] = [100, 64, 7, 22];
const SERVER: [u8; 4] = [203, 0, 113, 10];

type End = ([u8; 4], u16);

fn limits() -> Limits {
    Limits {
        key_mode: KeyMode::FiveTuple,
        min_confidence: Confidence::Likely,
        undecided: 64,
        attempts: 64,
        recognised: 64,
        fragmented: 64,
        remove_duplicates: false,
        update_interval: 1_800 * SECOND,
        packet_milestones: Vec::new(),
        duration_milestones: Vec::new(),
    }
}

struct Bench {
    shard: Shard,
    number: u64,
    now: i64,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let mut shard = Shard::new(5, limits, &Memory::default());
        shard.begin(1);
        shard.tick(1, START);
        Self { shard, number: 0, now: START }
    }

    /// Moves the clock on, as frames of other shards do.
    fn wait(&mut self, nanoseconds: i64) {
        let before = self.now.div_euclid(SECOND);
        self.now += nanoseconds;
        if self.now.div_euclid(SECOND) != before {
            self.shard.tick(self.number, self.now);
        }
    }

    fn send(&mut self, transport: Transport, from: End, to: End, flags: u8, sequence: u32, payload: &[u8]) {
        self.number += 1;
        let mut packet = Packet {
            ip_version: 4,
            transport,
            source_port: from.1,
            destination_port: to.1,
            ip_length: 28 + payload.len() as u32,
            payload_captured: payload.len() as u32,
            payload_length: payload.len() as u32,
            tcp_flags: flags,
            tcp_sequence: sequence,
            ..Packet::default()
        };
        packet.source[..4].copy_from_slice(&from.0);
        packet.destination[..4].copy_from_slice(&to.0);
        let (number, now) = (self.number, self.now);
        let mut routed = Routed { packet, number, time: now, now, ..Routed::default() };
        routed.route(KeyMode::FiveTuple);
        let hint = self.shard.guess(&routed);
        self.shard.packet(&routed, || payload, hint);
    }

    fn udp(&mut self, from: End, to: End, payload: &[u8]) {
        self.send(Transport::Udp, from, to, 0, 0, payload);
    }

    fn tcp(&mut self, from: End, to: End, flags: u8, sequence: u32, payload: &[u8]) {
        self.send(Transport::Tcp, from, to, flags, sequence, payload);
    }

    /// What was reported since the last call: why, phase, reason of the end.
    fn said(&mut self) -> Vec<(Report, Phase, Option<EndReason>)> {
        self.shard.take_reports().iter().map(|row| (row.report, row.finding.phase, row.end_reason)).collect()
    }

    fn active(&self) -> [u64; 3] {
        self.shard.counters().active
    }

    fn created(&self) -> u64 {
        self.shard.counters().created
    }
}

/// Nothing that a fingerprint knows.
const NOTHING: [u8; 20] = [0xf3; 20];

/// A WireGuard initiation (wg-plain-51820, packet 3), its mac2 zero.
fn initiation(index: u32) -> Vec<u8> {
    let mut payload = padded("01000000aa117f24907ec84e2dbe6b65", 148);
    payload[4..8].copy_from_slice(&index.to_le_bytes());
    payload[39] &= 0x7f;
    payload[132..].fill(0);
    payload
}

/// WireGuard data as in wg-midflow-51820.
fn wireguard_data(counter: u64) -> Vec<u8> {
    let mut payload = padded("040000007537304d", 464);
    payload[8..16].copy_from_slice(&counter.to_le_bytes());
    payload
}

/// A plain server reset (ovpn-udp-plain-1194, packet 4) as a record of a stream.
const SERVER_RESET_RECORD: &str = "001a 40bca5293e6b60c1050100000000fedd71acbd95fc8e00000000";
/// A plain client reset as a record of a stream.
const CLIENT_RESET_RECORD: &str = "000e 38fedd71acbd95fc8e0000000000";
/// ikev2-cookie, packets 7 and 8, and ikev2-no-proposal, packet 3, cut behind the header that names its length.
const AUTH_REQUEST: &str = "00000000e4253abab1db136d74ec6740d142e46f2e202308000000010000013023000114d44098a3d9bc2b2d";
const SA_INIT: &str = "e4253abab1db136d00000000000000002920220800000000000000 24 000000080000400e";

/// The shortest message of a kind that is reported, by transport: what the idle timeout goes by.
fn classes() -> Vec<(&'static str, Transport, u16, Vec<u8>, i64)> {
    let mut esp = hex("c04221bf00000001");
    esp.resize(136, 0x5a);
    let mut ah = hex("04050000c7166a8300000001");
    ah.resize(112, 0x5a);
    vec![
        ("undecided", Transport::Udp, 443, NOTHING.to_vec(), 60),
        ("WireGuard", Transport::Udp, 51_820, wireguard_data(1), 600),
        ("WireGuard, attempt", Transport::Udp, 51_820, initiation(7), 600),
        ("IKE", Transport::Udp, 4_500, padded(AUTH_REQUEST, 308), 3_600),
        ("ESP", Transport::Esp, 0, esp, 3_600),
        ("AH", Transport::Ah, 0, ah, 3_600),
    ]
}

#[test]
fn idle_timeouts_at_their_boundary() {
    for (name, transport, port, payload, seconds) in classes() {
        let (client, server) = ((CLIENT, port), (SERVER, port));
        // A packet exactly then still belongs to the flow; one a nanosecond later begins another.
        for (wait, created) in [(seconds * SECOND, 1), (seconds * SECOND + 1, 2)] {
            let mut bench = Bench::new(limits());
            bench.wait(SECOND / 3);
            bench.send(transport, client, server, 0, 0, &payload);
            bench.wait(wait);
            bench.send(transport, client, server, 0, 0, &payload);
            assert_eq!(bench.created(), created, "{name} after {wait}");
        }
        // Without another packet the clock ends it, at the first second after.
        let mut bench = Bench::new(limits());
        bench.send(transport, client, server, 0, 0, &payload);
        let reported = usize::from(seconds != 60);
        assert_eq!(bench.said().len(), reported);
        for _ in 0..seconds {
            bench.wait(SECOND);
        }
        assert_eq!(bench.active().iter().sum::<u64>(), 1, "{name}");
        bench.wait(SECOND);
        assert_eq!(bench.active(), [0; 3], "{name}");
        let ends: Vec<_> = bench.said().iter().map(|(report, _, reason)| (*report, *reason)).collect();
        assert_eq!(ends, vec![(Report::Ended, Some(EndReason::IdleTimeout)); reported], "{name}");
    }
}

/// An OpenVPN stream, its handshake as far as both resets.
fn opened_stream(bench: &mut Bench) -> (End, End) {
    let (client, server) = ((CLIENT, 40_000), (SERVER, 1_194));
    bench.tcp(client, server, tcp_flags::SYN, 99, &[]);
    bench.tcp(server, client, tcp_flags::SYN | tcp_flags::ACK, 499, &[]);
    bench.tcp(client, server, tcp_flags::ACK, 100, &hex(CLIENT_RESET_RECORD));
    bench.tcp(server, client, tcp_flags::ACK, 500, &hex(SERVER_RESET_RECORD));
    assert_eq!(bench.said(), [(Report::Recognised, Phase::Handshake, None)]);
    (client, server)
}

#[test]
fn a_stream_ends_by_fin_or_reset_and_lingers() {
    let endings: [&[(bool, u8)]; 3] =
        [&[(true, tcp_flags::FIN), (false, tcp_flags::FIN)], &[(true, tcp_flags::RST)], &[(false, tcp_flags::RST)]];
    for ending in endings {
        let mut bench = Bench::new(limits());
        let (client, server) = opened_stream(&mut bench);
        for &(from_client, flags) in ending {
            let (from, to) = if from_client { (client, server) } else { (server, client) };
            bench.tcp(from, to, flags | tcp_flags::ACK, 116, &[]);
        }
        // Ten seconds for what is on its way; each packet counts.
        bench.wait(10 * SECOND);
        bench.tcp(client, server, tcp_flags::ACK, 117, &[]);
        assert_eq!(bench.created(), 1);
        bench.wait(10 * SECOND);
        assert_eq!(bench.said(), []);
        bench.wait(SECOND);
        assert_eq!(bench.said(), [(Report::Ended, Phase::Handshake, Some(EndReason::EndOfFlow))]);
        assert_eq!(bench.active(), [0; 3]);
    }
    // One FIN is no end: half an hour.
    let mut bench = Bench::new(limits());
    let (client, server) = opened_stream(&mut bench);
    bench.tcp(client, server, tcp_flags::FIN | tcp_flags::ACK, 116, &[]);
    bench.wait(1_800 * SECOND);
    assert_eq!(bench.said(), []);
    bench.wait(SECOND);
    assert_eq!(bench.said(), [(Report::Ended, Phase::Handshake, Some(EndReason::IdleTimeout))]);
}

#[test]
fn a_syn_opens_a_closed_stream_again() {
    let mut bench = Bench::new(limits());
    let (client, server) = opened_stream(&mut bench);
    // Sent twice, a SYN of an open stream is none.
    bench.tcp(client, server, tcp_flags::SYN, 99, &[]);
    assert_eq!(bench.created(), 1);
    bench.tcp(server, client, tcp_flags::RST, 500, &[]);
    // An answer to a SYN is not one.
    bench.tcp(server, client, tcp_flags::SYN | tcp_flags::ACK, 500, &[]);
    assert_eq!(bench.created(), 1);
    bench.tcp(client, server, tcp_flags::SYN, 99, &[]);
    assert_eq!(bench.created(), 2);
    assert_eq!(bench.said(), [(Report::Ended, Phase::Handshake, Some(EndReason::EndOfFlow))]);
    assert_eq!(bench.active(), [1, 0, 0]);
}

#[test]
fn a_full_pool_of_undecided_flows_pushes_out_one_of_them() {
    let mut bench = Bench::new(Limits { undecided: 4, ..limits() });
    bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(1));
    bench.udp((CLIENT, 2), (SERVER, 51_820), &initiation(1));
    // A flow of two packets is worth more than those of one.
    for _ in 0..2 {
        bench.udp((CLIENT, 3), (SERVER, 443), &NOTHING);
    }
    for port in 100..200 {
        bench.udp((CLIENT, port), (SERVER, 443), &NOTHING);
        assert!(bench.active()[0] <= 4);
    }
    assert_eq!(bench.active(), [4, 1, 1]);
    let counters = bench.shard.counters();
    assert_eq!((counters.created, counters.evicted_undecided, counters.evicted_attempts), (103, 97, 0));
    bench.udp((CLIENT, 3), (SERVER, 443), &NOTHING);
    assert_eq!(bench.created(), 103);
    let said: Vec<_> = bench.said().iter().map(|row| row.0).collect();
    assert_eq!(said, [Report::Recognised, Report::Recognised]);
}

#[test]
fn a_flood_of_attempts_pushes_out_attempts_alone() {
    let mut bench = Bench::new(Limits { attempts: 3, ..limits() });
    bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(1));
    // An attempt that was answered has left their pool.
    bench.udp((CLIENT, 2), (SERVER, 51_820), &initiation(0x2222_2222));
    let mut response = padded("020000008da04f4622222222", 92);
    response[43] &= 0x7f;
    response[76..].fill(0);
    bench.udp((SERVER, 51_820), (CLIENT, 2), &response);
    assert_eq!(bench.active(), [0, 0, 2]);
    bench.said();
    for port in 100..300 {
        bench.udp((CLIENT, port), (SERVER, 51_820), &initiation(0x3333_3333 + u32::from(port)));
        assert!(bench.active()[1] <= 3);
    }
    let reports = bench.shard.take_reports();
    let ended: Vec<_> = reports.iter().filter(|row| row.report == Report::Ended).collect();
    // The oldest first.
    for (row, port) in ended.iter().zip(100..) {
        assert_eq!(row.ends(), [(&CLIENT[..], port), (&SERVER[..], 51_820)]);
        assert_eq!(row.end_reason, Some(EndReason::LackOfResources));
    }
    assert_eq!((ended.len(), bench.shard.counters().evicted_attempts), (197, 197));
    assert_eq!(bench.active(), [0, 3, 2]);
}

#[test]
fn flows_that_find_their_pool_full_are_counted_once_each() {
    let mut bench = Bench::new(Limits { recognised: 2, ..limits() });
    for port in 1..=3 {
        for counter in 1..=5 {
            bench.udp((CLIENT, port), (SERVER, 51_820), &wireguard_data(counter));
        }
    }
    assert_eq!(bench.active(), [1, 0, 2]);
    let counters = bench.shard.counters();
    assert_eq!((counters.recognised, counters.unreported), (2, 1));
    let ports: Vec<_> = bench.shard.take_reports().iter().map(|row| row.ends()[0].1).collect();
    assert_eq!(ports, [1, 1, 2, 2]);
    // Once there is room, it is reported after all. It has been kept as an undecided flow.
    for _ in 0..11 {
        bench.wait(55 * SECOND);
        bench.udp((CLIENT, 3), (SERVER, 51_820), &wireguard_data(6));
    }
    assert_eq!(bench.active(), [0, 0, 1]);
    let said: Vec<_> = bench.said().iter().map(|row| row.0).collect();
    assert_eq!(said, [Report::Ended, Report::Ended, Report::Recognised]);
}

#[test]
fn only_what_reaches_the_least_confidence_is_reported() {
    for (least, expected) in [
        (Confidence::Possible, vec![Confidence::Likely, Confidence::Confirmed]),
        (Confidence::Likely, vec![Confidence::Likely, Confidence::Confirmed]),
        (Confidence::Confirmed, vec![Confidence::Confirmed]),
    ] {
        let mut bench = Bench::new(Limits { min_confidence: least, ..limits() });
        for counter in 1..=9 {
            bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(counter));
        }
        let found: Vec<_> = bench.shard.take_reports().iter().map(|row| row.finding.confidence).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn milestones_in_packets() {
    let mut bench = Bench::new(Limits { packet_milestones: vec![5, 10, 3], ..limits() });
    for counter in 1..=12 {
        bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(counter));
    }
    // At three it was confirmed, which is the milestone's report too.
    let said: Vec<_> = bench.shard.take_reports().iter().map(|row| (row.report, row.packets[0])).collect();
    let expected = [(Report::Recognised, 1), (Report::Changed, 3), (Report::Milestone, 5), (Report::Milestone, 10)];
    assert_eq!(said, expected);
    // The first packet of the other direction is one, since a rule may ask for it.
    bench.udp((SERVER, 51_820), (CLIENT, 1), &NOTHING);
    bench.udp((SERVER, 51_820), (CLIENT, 1), &NOTHING);
    let said: Vec<_> = bench.shard.take_reports().iter().map(|row| (row.report, row.packets)).collect();
    assert_eq!(said, [(Report::Milestone, [12, 1])]);
}

#[test]
fn milestones_in_seconds_and_updates() {
    let seconds = [30 * SECOND, 60 * SECOND, 90 * SECOND];
    let mut bench =
        Bench::new(Limits { duration_milestones: seconds.to_vec(), update_interval: 100 * SECOND, ..limits() });
    for counter in 1..=3 {
        bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(counter));
    }
    bench.said();
    let mut said = Vec::new();
    // 29 and 30 s; a gap over two milestones gives one report; updates count from the last one.
    for (wait, counter) in [(29, 4), (1, 5), (65, 6), (1, 7), (4, 8), (99, 9), (1, 10), (150, 11)] {
        bench.wait(wait * SECOND);
        bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(counter));
        said.extend(bench.said().iter().map(|row| ((bench.now - START) / SECOND, row.0)));
    }
    let expected = [
        (30, Report::Milestone),
        (95, Report::Milestone),
        (100, Report::Update),
        (200, Report::Update),
        (350, Report::Update),
    ];
    assert_eq!(said, expected);
}

#[test]
fn flows_of_two_hosts_raise_each_other() {
    let mut bench = Bench::new(limits());
    let esp = |sequence: u32| {
        let mut payload = hex("c04221bf00000000");
        payload[4..8].copy_from_slice(&sequence.to_be_bytes());
        payload.resize(136, 0x5a);
        payload
    };
    // Native ESP from the responder first: joined in the middle, for all that is known.
    bench.send(Transport::Esp, (SERVER, 0), (CLIENT, 0), 0, 0, &esp(1));
    assert_eq!(bench.said(), [(Report::Recognised, Phase::DataOnly, None)]);
    // An opening of IKE on port 500 proves nothing about it.
    bench.udp((CLIENT, 500), (SERVER, 500), &hex(SA_INIT));
    let rows = bench.shard.take_reports();
    assert_eq!(bench.active(), [0, 1, 1]);
    assert!(rows.iter().all(|row| row.finding.phase != Phase::Established));
    // AUTH of the same SA on port 4500 does, and beside ESP it stands for a finished handshake of all three.
    bench.udp((CLIENT, 4_500), (SERVER, 4_500), &padded(AUTH_REQUEST, 308));
    let mut latest = BTreeMap::new();
    for row in bench.shard.take_reports() {
        latest.insert(row.flow_id, row);
    }
    let mut found: Vec<_> =
        latest.values().map(|row| (row.finding.variant.name(), row.finding.phase, row.ends()[0].0[0])).collect();
    found.sort_by_key(|row| row.0);
    // The initiator is the client in each, also in the ESP flow whose first packet came from the server.
    let client = CLIENT[0];
    assert_eq!(
        found,
        [
            (Variant::Esp.name(), Phase::Established, client),
            (Variant::IkeV2.name(), Phase::Established, client),
            (Variant::IkeV2.name(), Phase::Established, client),
        ]
    );
    // What is past its attempt counts as such: a flood of attempts cannot push it out.
    assert_eq!(bench.active(), [0, 0, 3]);
    // Other hosts are not concerned.
    bench.send(Transport::Esp, ([198, 51, 100, 7], 0), (CLIENT, 0), 0, 0, &esp(1));
    assert_eq!(bench.said(), [(Report::Recognised, Phase::DataOnly, None)]);
}

#[test]
fn a_pair_is_forgotten_with_its_flows() {
    let mut bench = Bench::new(limits());
    bench.udp((CLIENT, 4_500), (SERVER, 4_500), &padded(AUTH_REQUEST, 308));
    bench.wait(3_601 * SECOND);
    assert!(bench.shard.pairs.is_empty());
    let mut esp = hex("c04221bf00000001");
    esp.resize(136, 0x5a);
    bench.said();
    bench.send(Transport::Esp, (CLIENT, 0), (SERVER, 0), 0, 0, &esp);
    assert_eq!(bench.said(), [(Report::Recognised, Phase::DataOnly, None)]);
}

#[test]
fn tags_reach_running_flows_only() {
    let mut bench = Bench::new(limits());
    bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(1));
    let row = &bench.shard.take_reports()[0];
    let (handle, flow_id) = (row.handle, row.flow_id);
    assert_eq!((row.tag, handle & 63), (0, 5));
    bench.shard.set_tag(handle, 42);
    bench.shard.set_tag(handle ^ 1 << 32, 43);
    bench.shard.set_tag(handle | 0x03ff_ffff << 6, 44);
    bench.shard.set_tag(u64::MAX, 45);
    bench.wait(601 * SECOND);
    let row = &bench.shard.take_reports()[0];
    assert_eq!((row.tag, row.flow_id, row.report), (42, flow_id, Report::Ended));
    // Another flow in the same slot is not what the handle meant.
    bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(1));
    bench.shard.set_tag(handle, 46);
    bench.shard.finish(9, bench.now);
    let rows = bench.shard.take_reports();
    assert_ne!(rows[0].flow_id, flow_id);
    assert_eq!(rows.iter().map(|row| row.tag).collect::<Vec<_>>(), [0, 0]);
    bench.shard.set_tag(handle, 47);
}

#[test]
fn counters_of_a_flow_by_direction() {
    let mut bench = Bench::new(limits());
    let (client, server) = ((CLIENT, 1), (SERVER, 51_820));
    bench.udp(server, client, &NOTHING);
    bench.wait(SECOND);
    for counter in 1..=3 {
        bench.udp(client, server, &wireguard_data(counter));
    }
    bench.wait(SECOND);
    bench.shard.finish(bench.number, bench.now);
    let rows = bench.shard.take_reports();
    let last = rows.last().expect("a report");
    assert_eq!((last.packets, last.bytes), ([1, 3], [48, 3 * 492]));
    assert_eq!((last.start, last.end), (START, START + SECOND));
    assert_eq!((last.end_reason, last.number), (Some(EndReason::ForcedEnd), 4));
    // No handshake says otherwise: the initiator sent the first packet seen.
    assert_eq!(last.ends(), [(&SERVER[..], 51_820), (&CLIENT[..], 1)]);
    assert_eq!(bench.active(), [0; 3]);
    assert_eq!(bench.shard.counters().packets, 4);
}

#[test]
fn clear_l2tp_is_counted_and_not_reported() {
    let mut bench = Bench::new(limits());
    // SCCRQ: T, L and S, version 2, its length, tunnel 0, session 0, Ns, Nr, the message type AVP.
    let sccrq = hex("c802 0014 0000 0000 0000 0000 8008 0000 0000 0001");
    bench.udp((CLIENT, 1_701), (SERVER, 1_701), &sccrq);
    for (at, value) in [(0, 0x48), (3, 0x15), (5, 1), (19, 2)] {
        let mut changed = sccrq.clone();
        changed[at] = value;
        bench.udp((CLIENT, 1_701), (SERVER, 1_701), &changed);
    }
    bench.udp((CLIENT, 1_702), (SERVER, 1_702), &sccrq);
    assert_eq!(bench.shard.counters().clear_l2tp, 1);
    assert_eq!(bench.said(), []);
}

#[test]
fn a_new_capture_begins_with_nothing() {
    let mut bench = Bench::new(limits());
    bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(1));
    let first = bench.shard.take_reports()[0].flow_id;
    bench.shard.begin(2);
    assert_eq!(bench.active(), [0; 3]);
    bench.number = 0;
    bench.shard.tick(1, START);
    bench.udp((CLIENT, 1), (SERVER, 51_820), &wireguard_data(1));
    // The same packet of another capture is another flow.
    assert_ne!(bench.shard.take_reports()[0].flow_id, first);
    bench.shard.finish(2, START);
    assert_eq!(bench.active(), [0; 3]);
}

/// OpenVPN over TCP behind a request to a proxy, however the request is cut; and without one.
#[test]
fn a_stream_behind_a_proxy_is_found_and_says_so() {
    // ovpn-udp-plain-1194, the first two packets, as records of a stream.
    let client = hex("000e 38fedd71acbd95fc8e0000000000");
    let server = hex("001a 40bca5293e6b60c1050100000000fedd71acbd95fc8e00000000");
    let connect = b"CONNECT a.example:1194 HTTP/1.1\r\n\r\n".to_vec();
    let granted = b"HTTP/1.1 200 OK\r\nVia: 1\r\n\r\n".to_vec();
    let socks = [hex("050100"), hex("050100 01 cb007101 04aa")].concat();
    let socks_granted = hex("0500 05000001 cb007101 04aa");
    for (asked, answered, is_proxied) in
        [(connect, granted, true), (socks, socks_granted, true), (Vec::new(), Vec::new(), false)]
    {
        // Smaller ones cut the records, and nothing says where one begins.
        for size in [30, 1_460] {
            let mut bench = Bench::new(limits());
            let (from, to) = ((CLIENT, 40_440), (SERVER, 8_080));
            bench.tcp(from, to, tcp_flags::SYN, 99, &[]);
            bench.tcp(to, from, tcp_flags::SYN | tcp_flags::ACK, 499, &[]);
            let mut next = [100, 500];
            // SOCKS has a greeting of its own before the request.
            let cut = if asked.starts_with(&[5]) { 3 } else { asked.len() };
            for (own, part) in [(0, &asked[..cut]), (1, &answered[..]), (0, &asked[cut..]), (0, &client), (1, &server)]
            {
                for piece in part.chunks(size) {
                    let (source, destination) = if own == 0 { (from, to) } else { (to, from) };
                    bench.tcp(source, destination, tcp_flags::ACK, next[own], piece);
                    next[own] += piece.len() as u32;
                }
            }
            bench.shard.finish(bench.number, bench.now);
            let reports = bench.shard.take_reports();
            let last = reports.last().map(|report| (report.finding.phase, report.via_proxy));
            assert_eq!(last, Some((Phase::Handshake, is_proxied)), "{size} {is_proxied}");
        }
    }
}

/// Bytes that look drawn at random, the same for the same number.
fn noise(number: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|place| (mix(number, place) >> 56) as u8).collect()
}

/// A confirmed flow whose handshake was not seen is still judged by what its datagrams count: those that count nothing are no
/// evidence.
#[test]
fn runs_are_followed_as_long_as_they_decide() {
    let esp = |number: u32| [&[0xc0, 0x42, 0x21, 0xbf][..], &number.to_be_bytes(), &noise(number.into(), 96)].concat();
    let openvpn = |number: u32| {
        [&[0x48, 0, 0, 7][..], &number.to_be_bytes(), &noise(number.into(), 61 + number as usize % 5)].concat()
    };
    let other_esp = |number: u32| noise(number.into(), 104);
    let other_openvpn = |number: u32| [vec![0x48], noise(number.into(), 80)].concat();
    type Datagram<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let cases: [(&str, u16, Datagram<'_>, Datagram<'_>); 2] =
        [("ipsec.esp_in_udp_run", 4_500, &esp, &other_esp), ("openvpn.data_v2_run", 1_194, &openvpn, &other_openvpn)];
    for (id, port, datagram, other) in cases {
        let mut bench = Bench::new(limits());
        let count = |bench: &mut Bench| {
            bench.shard.review(bench.number, bench.now);
            let reports = bench.shard.take_reports();
            let report = reports.last().unwrap();
            let items = report.evidence.items();
            (report.finding.confidence, items.iter().find(|item| item.kind.id == id).map_or(0, |item| item.count))
        };
        for number in 1..200 {
            bench.udp((CLIENT, 40_000), (SERVER, port), &datagram(number));
        }
        let (confidence, counted) = count(&mut bench);
        assert_eq!((confidence, counted > 100), (Confidence::Confirmed, true), "{id}");
        for number in 1_000..1_100 {
            bench.udp((CLIENT, 40_000), (SERVER, port), &other(number));
        }
        assert_eq!(count(&mut bench).1, counted, "{id}");
    }
}
