//! Calls, games, transfers: what counts and repeats on purpose.

use super::{Count, LookAlike, look_alike, send_maybe_twice};
use crate::flow::{Flow, MILLISECOND, SECOND};

pub(super) static LOOK_ALIKES: &[LookAlike] = &[
    look_alike("zoom", "a little-endian type word, then a counter", type_word),
    look_alike(
        "lol-wild-rift",
        "a little-endian type word, a counter, an acknowledgment",
        type_word_and_acknowledgment,
    ),
    look_alike("teamviewer", "a little-endian word that counts on", counting_word),
    look_alike("webex", "a type word, a constant stream id, a counter in network order, a time", type_word_and_stream),
    look_alike("raknet", "pings with a 64-bit time and a magic of 16 bytes", raknet),
    look_alike("turn-channel-rtp", "a constant word and a counter at equal frames", turn_channel),
    look_alike("webrtc", "STUN, DTLS, SRTP and channel data on one socket", webrtc),
    look_alike("rtp", "80, counters, a constant source", rtp),
    look_alike("rtcp", "80 c8, its length, a constant source", rtcp),
    look_alike("stun", "0001, its length, the magic cookie", stun),
    look_alike("utp", "a constant connection id and microseconds", utp),
    look_alike("bittorrent-dht", "bencoded text", dht),
    look_alike("quic-1rtt", "a constant connection id of 8 bytes or fewer", quic_1rtt),
    look_alike("quic-long", "long headers, constant connection ids", quic_long),
    look_alike("nintendo-pia", "a magic word and a counter, lengths in fours", nintendo_pia),
    look_alike("iperf3", "seconds, microseconds, a packet number", iperf3),
    look_alike("kcp", "a little-endian conversation id, windows, milliseconds and numbers", kcp),
    look_alike("source-engine", "ffffffff queries; little-endian numbers that acknowledge each other", source_engine),
];

/// A type from 1 to 4 in little-endian order, constant or by message, and what follows it.
fn typed(flow: &mut Flow, length: usize, one: Option<u32>) {
    flow.fill(length);
    let kind = one.unwrap_or(flow.random.between(1, 4) as u32);
    flow.put32_le(0, kind);
}

/// Lengths that a protocol of our look-alikes may have, handshakes' among them.
fn any_length(flow: &mut Flow) -> usize {
    match flow.random.between(0, 3) {
        0 => flow.random.pick(&[32, 64, 92, 148]),
        1 => 32 + 16 * flow.random.size(0, 70),
        _ => flow.random.size(24, 1_300),
    }
}

fn one_kind(flow: &mut Flow) -> Option<u32> {
    flow.random.one_in(2).then(|| flow.random.between(1, 4) as u32)
}

fn type_word(flow: &mut Flow) {
    flow.socket(&[8_801]);
    let kind = one_kind(flow);
    let (mut count, mut time) = (Count::new(flow), Count::new(flow));
    let one_length = flow.random.one_in(3).then(|| any_length(flow));
    for _ in 0..flow.count() {
        let length = one_length.unwrap_or_else(|| any_length(flow));
        let (number, stamp) = (count.next(flow), time.next(flow));
        typed(flow, length, kind);
        flow.put32_le(4, number as u32);
        flow.put32_le(8, stamp as u32);
        let direction = flow.either();
        send_maybe_twice(flow, direction, 8);
    }
}

fn type_word_and_acknowledgment(flow: &mut Flow) {
    flow.socket(&[5_100, 7_086]);
    let kind = one_kind(flow);
    let mut numbers = [1_u32; 2];
    for _ in 0..flow.count() {
        let direction = flow.either();
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        let length = any_length(flow);
        typed(flow, length, kind);
        flow.put32_le(4, numbers[own]);
        flow.put32_le(8, numbers[other]);
        send_maybe_twice(flow, direction, 6);
        numbers[own] += 1;
    }
}

fn counting_word(flow: &mut Flow) {
    flow.socket(&[5_938]);
    let (mut counts, stream) = ([0_u32; 2], flow.random.u32());
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        counts[own] += 1;
        let (length, second) = (any_length(flow), flow.random.one_in(2));
        flow.fill(length);
        flow.put32_le(0, counts[own]);
        flow.put32(4, stream);
        if second {
            flow.put64_le(8, u64::from(counts[own]));
        }
        send_maybe_twice(flow, direction, 6);
    }
}

fn type_word_and_stream(flow: &mut Flow) {
    flow.socket(&[9_000]);
    let kind = one_kind(flow);
    let stream = flow.random.u32();
    let mut count = Count::by_ones(flow);
    for _ in 0..flow.count() {
        let (length, number) = (any_length(flow), count.next(flow) as u32);
        let milliseconds = (flow.time / MILLISECOND) as u32;
        typed(flow, length, kind);
        flow.put32(4, stream);
        flow.put32(8, number);
        flow.put32(12, milliseconds);
        let direction = flow.either();
        flow.send(direction);
    }
}

fn raknet(flow: &mut Flow) {
    flow.socket(&[19_132]);
    let identity = flow.random.word();
    let mut number = 0_u32;
    for _ in 0..flow.count() {
        let milliseconds = (flow.time / MILLISECOND) as u64 % 100_000_000;
        match flow.random.between(0, 3) {
            0 => {
                flow.fill(33);
                flow.put(0, &[1]);
                flow.put64(1, milliseconds);
                flow.put(9, b"\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78");
                flow.put64(25, identity);
                flow.send(0);
            }
            1 => {
                let length = flow.random.size(17, 120);
                flow.fill_text(length);
                let kind = flow.random.pick(&[3, 4]);
                flow.put(0, &[kind]);
                flow.put64(1, milliseconds);
                flow.put64(9, identity);
                flow.send(1);
            }
            _ => {
                let length = flow.random.size(12, 1_400);
                flow.fill(length);
                flow.put(0, &[0x84]);
                flow.put(1, &number.to_le_bytes()[..3]);
                let direction = flow.either();
                flow.send(direction);
                number += 1;
            }
        }
    }
}

fn turn_channel(flow: &mut Flow) {
    flow.socket(&[3_478]);
    let channels = [flow.random.between(0x4000, 0x4fff) as u16, flow.random.between(0x4000, 0x4fff) as u16];
    let same = flow.random.one_in(2);
    let mut numbers = [flow.random.u16(), flow.random.u16()];
    let one_length = flow.random.one_in(2);
    let frame = flow.random.size(60, 1_100);
    let source = flow.random.u32();
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let data = if one_length { frame } else { flow.random.size(20, 1_200) };
        // Padding to four bytes is optional over UDP.
        let padding = if flow.random.one_in(2) { (4 - data % 4) % 4 } else { 0 };
        flow.fill(4 + data + padding);
        flow.put16(0, if same { channels[0] } else { channels[own] });
        flow.put16(2, data as u16);
        flow.put(4, &[0x80, 0x6f]);
        flow.put16(6, numbers[own]);
        let stamp = u32::from(numbers[own]).wrapping_mul(960);
        flow.put32(8, stamp);
        flow.put32(12, source);
        flow.send(direction);
        numbers[own] = numbers[own].wrapping_add(1);
    }
}

fn webrtc(flow: &mut Flow) {
    flow.socket(&[3_478, 19_302, 50_000]);
    let channel = flow.random.between(0x4000, 0x4fff) as u16;
    let mut numbers = [flow.random.u16(), flow.random.u16()];
    let sources = [flow.random.u32(), flow.random.u32()];
    let mut records = [0_u64; 2];
    let frame = flow.random.size(40, 300);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let length = if flow.random.one_in(2) { frame } else { flow.random.size(40, 1_200) };
        match flow.random.between(0, 5) {
            0 => {
                let words = flow.random.size(0, 25);
                flow.fill(20 + 4 * words);
                let attributes = flow.length() as u16 - 20;
                flow.put16(0, u16::from(direction) << 8 | 1);
                flow.put16(2, attributes);
                flow.put32(4, 0x2112_a442);
            }
            1 => {
                flow.fill(length);
                flow.put(0, &[if records[own] < 4 { 22 } else { 23 }, 0xfe, 0xfd]);
                flow.put64(3, u64::from(records[own] >= 4) << 48 | records[own]);
                flow.put16(11, length as u16 - 13);
                records[own] += 1;
            }
            kind => {
                let wrapped = kind == 2;
                let at = if wrapped { 4 } else { 0 };
                flow.fill(at + length);
                if wrapped {
                    flow.put16(0, channel);
                    flow.put16(2, length as u16);
                }
                flow.put(at, &[0x90, 0x6f]);
                flow.put16(at + 2, numbers[own]);
                flow.put32(at + 4, u32::from(numbers[own]).wrapping_mul(960));
                flow.put32(at + 8, sources[own]);
                numbers[own] = numbers[own].wrapping_add(1);
            }
        }
        flow.send(direction);
    }
}

fn rtp(flow: &mut Flow) {
    flow.socket(&[16_384, 50_000]);
    let first = flow.random.pick(&[0x80, 0x90, 0xa0]);
    let kind = flow.random.pick(&[0, 8, 96, 111, 0xe0]);
    let sources = [flow.random.u32(), flow.random.u32()];
    let mut numbers = [flow.random.u16(), flow.random.u16()];
    let step = flow.random.pick(&[0, 20, 160, 960, 3_000]);
    let frame = flow.random.size(20, 1_200);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let length = if flow.random.one_in(2) { frame } else { flow.random.size(13, 1_200) };
        flow.fill(length);
        flow.put(0, &[first, kind]);
        flow.put16(2, numbers[own]);
        flow.put32(4, u32::from(numbers[own]).wrapping_mul(step));
        flow.put32(8, sources[own]);
        flow.send(direction);
        numbers[own] = numbers[own].wrapping_add(1);
    }
}

fn rtcp(flow: &mut Flow) {
    flow.socket(&[16_385, 50_001]);
    let sources = [flow.random.u32(), flow.random.u32()];
    let kind = flow.random.pick(&[200, 201, 205, 206]);
    let first = flow.random.between(0x80, 0x8f) as u8;
    for _ in 0..flow.count() {
        let direction = flow.either();
        let words = flow.random.size(1, 18);
        flow.fill(4 * words + 4);
        flow.put(0, &[first, kind]);
        flow.put16(2, words as u16);
        flow.put32(4, sources[usize::from(direction)]);
        flow.send(direction);
        flow.wait(SECOND);
    }
}

fn stun(flow: &mut Flow) {
    flow.socket(&[3_478, 19_302]);
    for _ in 0..flow.count() {
        let attributes = 4 * flow.random.size(0, 30);
        let method = flow.random.pick(&[1, 3, 8, 9]);
        flow.fill(20 + attributes);
        flow.put16(0, method);
        flow.put16(2, attributes as u16);
        flow.put32(4, 0x2112_a442);
        send_maybe_twice(flow, 0, 3);
        // The response carries the request's transaction id.
        flow.put16(0, method | 0x0100);
        flow.send(1);
    }
}

fn utp(flow: &mut Flow) {
    flow.socket(&[6_881, 51_413]);
    let connection = flow.random.u16();
    let mut numbers = [flow.random.u16(), flow.random.u16()];
    let mut microseconds = flow.random.u32();
    let burst = flow.random.one_in(4);
    let frame = flow.random.size(20, 1_400);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        let kind = flow.random.pick(&[0x01, 0x01, 0x21, 0x41]);
        let length = if kind == 1 { frame } else { flow.random.pick(&[20, 26, 30]) };
        // Packets of a burst leave within microseconds of each other.
        microseconds = microseconds.wrapping_add(flow.random.between(1, if burst { 90 } else { 40_000 }) as u32);
        let delay = flow.random.between(0, 80_000) as u32;
        flow.fill(length);
        flow.put(0, &[kind, if length > 20 && kind != 1 { 1 } else { 0 }]);
        flow.put16(2, connection.wrapping_add(own as u16));
        flow.put32(4, microseconds);
        flow.put32(8, delay);
        flow.put32(12, 0x0010_0000);
        flow.put16(16, numbers[own]);
        flow.put16(18, numbers[other]);
        flow.send(direction);
        numbers[own] = numbers[own].wrapping_add(u16::from(kind == 1));
    }
}

fn dht(flow: &mut Flow) {
    flow.socket(&[6_881]);
    for _ in 0..flow.count() {
        let length = flow.random.size(60, 400);
        let head: &[u8] = flow.random.pick(&[b"d1:ad2:id20:", b"d1:rd2:id20:", b"d2:ip6:"]);
        flow.fill(length);
        flow.put(0, head);
        let direction = flow.either();
        send_maybe_twice(flow, direction, 4);
    }
}

fn quic_1rtt(flow: &mut Flow) {
    flow.socket(&[443, 853]);
    let id_length = flow.random.pick(&[8, 8, 8, 4, 16, 20, 5]);
    let mut ids = [[0; 20]; 2];
    for id in &mut ids {
        flow.random.fill(id);
    }
    // Some servers put a counter or zeros into their ids.
    if flow.random.one_in(4) {
        ids[1][..6].fill(0);
    }
    let none = flow.random.one_in(2);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let length = flow.random.size(22, 1_350);
        flow.fill(length);
        // Fixed bit and spin bit stay, the lower five are protected.
        let first = 0x40 | flow.random.u8() & 0x1f;
        flow.put(0, &[first]);
        if direction == 0 || !none {
            flow.put(1, &ids[usize::from(direction)][..id_length]);
        }
        flow.send(direction);
    }
}

fn quic_long(flow: &mut Flow) {
    flow.socket(&[443, 853]);
    let mut ids = [0; 20];
    flow.random.fill(&mut ids);
    let version: &[u8] =
        flow.random.pick(&[b"\x00\x00\x00\x01", b"\x6b\x33\x43\xcf", b"\xff\x00\x00\x1d", b"\x00\x00\x00\x00"]);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let length = flow.random.pick(&[1_200, 1_252, 1_350, 148, 92]);
        flow.fill(length);
        let first = 0xc0 | flow.random.u8() & 0x3f;
        flow.put(0, &[first]);
        flow.put(1, version);
        flow.put(5, &[8]);
        flow.put(6, &ids[..8]);
        flow.put(14, &[0, 0]);
        send_maybe_twice(flow, direction, 8);
    }
}

fn nintendo_pia(flow: &mut Flow) {
    flow.socket(&[49_152, 10_025]);
    // A console's stack always has checksums.
    flow.checksum_zero = false;
    let mut numbers = [flow.random.between(0, 9) as u32, flow.random.between(0, 9) as u32];
    let one_way = flow.random.one_in(4);
    for _ in 0..flow.count() {
        let direction = if one_way { 0 } else { flow.either() };
        let own = usize::from(direction);
        let length = 4 * flow.random.size(8, 120);
        flow.fill(length);
        flow.put(0, &[0x32, 0xab, 0x98, 0x64]);
        flow.put32(4, numbers[own]);
        flow.send(direction);
        numbers[own] = numbers[own].wrapping_add(1);
    }
}

fn iperf3(flow: &mut Flow) {
    flow.socket(&[5_201]);
    let wide = flow.random.one_in(2);
    let length = flow.random.pick(&[1_448, 1_460, 1_470, 64, 148]);
    let (mut seconds, mut microseconds) = ((flow.time / SECOND) as u32, flow.random.between(0, 999_999) as u32);
    let gap = flow.random.pick(&[5, 12, 40, 120, 1_200, 12_000]);
    let zeros = flow.random.one_in(2);
    for number in 1..=flow.count() as u32 {
        if zeros {
            flow.fill_with(0, length);
        } else {
            flow.fill(length);
        }
        flow.put32(0, seconds);
        flow.put32(4, microseconds);
        if wide {
            flow.put64(8, number.into());
        } else {
            flow.put32(8, number);
        }
        flow.send(0);
        microseconds += flow.random.between(1, 2 * gap) as u32;
        if microseconds > 999_999 {
            (seconds, microseconds) = (seconds + 1, microseconds - 1_000_000);
        }
    }
}

fn kcp(flow: &mut Flow) {
    flow.socket(&[4_000, 29_900]);
    // Servers number conversations from 1, or draw them.
    let conversation = if flow.random.one_in(2) { flow.random.between(1, 6) as u32 } else { flow.random.u32() };
    let window = flow.random.pick(&[32_u16, 128, 256, 1_024]);
    let (mut numbers, mut acknowledged) = ([0_u32; 2], [0_u32; 2]);
    let began = flow.time;
    for _ in 0..flow.count() {
        let direction = flow.either();
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        let milliseconds = ((flow.time - began) / MILLISECOND) as u32;
        let data = if flow.random.one_in(3) { 0 } else { flow.random.size(1, 1_350) };
        // A segment that nobody acknowledged is sent again with another time.
        let again = flow.random.one_in(3) && numbers[own] > 0;
        let number = if again { numbers[own] - 1 } else { numbers[own] };
        let left = window - flow.random.between(0, 3) as u16;
        flow.fill(24 + data);
        flow.put32_le(0, conversation);
        flow.put(4, &[if data == 0 { 82 } else { 81 }, 0]);
        flow.put(6, &left.to_le_bytes());
        flow.put32_le(8, milliseconds);
        flow.put32_le(12, if data == 0 { acknowledged[other] } else { number });
        flow.put32_le(16, acknowledged[other]);
        flow.put32_le(20, data as u32);
        flow.send(direction);
        if again {
            flow.wait(200 * MILLISECOND);
        } else if data > 0 {
            numbers[own] += 1;
        }
        if !flow.random.one_in(3) {
            acknowledged[own] = numbers[own];
        }
    }
}

fn source_engine(flow: &mut Flow) {
    flow.socket(&[27_015, 27_960]);
    let mut numbers = [flow.random.between(1, 9) as u32, flow.random.between(1, 9) as u32];
    let queries = flow.random.one_in(3);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        let length = flow.random.size(16, 1_200);
        if queries {
            flow.fill_text(length);
            flow.put(0, b"\xff\xff\xff\xffTSource Engine Query\0");
        } else {
            flow.fill(length);
            flow.put32_le(0, numbers[own]);
            flow.put32_le(4, numbers[other]);
            numbers[own] += 1;
        }
        flow.send(direction);
    }
}
