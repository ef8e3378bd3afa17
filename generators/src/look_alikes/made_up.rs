//! Protocols that nobody has written yet, as far as we know: what random numbers, zeros, magic words and counters
//! of every width can look like. And our own protocols, each of which must not be taken for another.

use vpn_classifier_core::fingerprint::Protocol;

use super::{Count, LookAlike, look_alike, send_maybe_twice};
use crate::flow::Flow;

pub(super) static LOOK_ALIKES: &[LookAlike] = &[
    look_alike("random", "random bytes of random lengths", random),
    look_alike("random-wireguard-sizes", "a type word, WireGuard's lengths, random bytes", random_wireguard_sizes),
    look_alike("random-opcodes", "OpenVPN's opcodes and lengths, random bytes", random_opcodes),
    look_alike("random-ike-sizes", "IKE's length at 24, random bytes", random_ike_sizes),
    look_alike("zero-padded", "messages padded with zeros to WireGuard's and OpenVPN's lengths", zero_padded),
    look_alike("zeros", "heartbeats of zeros with little else", zeros),
    look_alike("magic-and-counters", "one magic word both ways and counters of every width, place and step", magic),
    look_alike("counters-only", "counters of every width, place and step", counters_only),
    look_alike("echo", "what was received is sent back", echo),
    LookAlike {
        name: "openvpn-data-as-esp",
        differs: "OpenVPN data: a constant word and a counter, also on 4500",
        truth: Some(Protocol::OpenVpn),
        generate: openvpn_data,
    },
    LookAlike {
        name: "esp-as-openvpn-data",
        differs: "ESP in UDP whose SPIs begin with a data opcode",
        truth: Some(Protocol::Ipsec),
        generate: esp_in_udp,
    },
    LookAlike {
        name: "wireguard-data-as-esp",
        differs: "WireGuard data: its type word as an SPI, also on 4500",
        truth: Some(Protocol::WireGuard),
        generate: wireguard_data,
    },
];

fn random(flow: &mut Flow) {
    flow.socket(&[443, 40_000]);
    for _ in 0..flow.count() {
        let length = flow.random.size(0, 1_472);
        flow.fill(length);
        let direction = flow.either();
        send_maybe_twice(flow, direction, 8);
    }
}

fn random_wireguard_sizes(flow: &mut Flow) {
    flow.socket(&[51_820]);
    let kind = flow.random.between(1, 4) as u8;
    for _ in 0..flow.count() {
        let own = if flow.random.one_in(2) { kind } else { flow.random.between(1, 4) as u8 };
        let length = match own {
            1 => 148,
            2 => 92,
            3 => 64,
            _ => 32 + 16 * flow.random.size(0, 80),
        };
        flow.fill(length);
        flow.put(0, &[own, 0, 0, 0]);
        let direction = flow.either();
        flow.send(direction);
    }
}

fn random_opcodes(flow: &mut Flow) {
    flow.socket(&[1_194]);
    let opcode = flow.random.between(3, 11) as u8;
    let session = flow.random.word();
    let fixed = flow.random.one_in(2);
    for _ in 0..flow.count() {
        let length = flow.random.pick(&[14, 22, 26, 42, 50, 54, 62, 66, 72, 86, 94, 98, 114, 353]);
        flow.fill(length);
        flow.put(0, &[opcode << 3]);
        if fixed {
            flow.put64(1, session);
        }
        if flow.random.one_in(2) {
            flow.put(9, &[0]);
        }
        let direction = flow.either();
        send_maybe_twice(flow, direction, 4);
    }
}

fn random_ike_sizes(flow: &mut Flow) {
    flow.socket(&[500, 4_500]);
    let cookie = flow.random.word();
    for _ in 0..flow.count() {
        let length = flow.random.size(32, 600);
        let marker = if flow.random.one_in(2) { 4 } else { 0 };
        flow.fill(length);
        flow.put32(0, 0);
        flow.put64(marker, cookie);
        flow.put32(marker + 24, (length - marker) as u32);
        let direction = flow.either();
        flow.send(direction);
    }
}

fn zero_padded(flow: &mut Flow) {
    flow.socket(&[51_820, 1_194]);
    let length = flow.random.pick(&[14, 26, 32, 48, 54, 64, 80, 92, 96, 128, 148, 512]);
    let first = flow.random.pick(&[1, 2, 3, 4, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48]);
    let session = flow.random.u32();
    let with_session = flow.random.one_in(2);
    let mut count = Count::new(flow);
    let form = flow.random.between(0, 2);
    for _ in 0..flow.count() {
        let mut content = flow.random.size(4, length);
        let number = count.next(flow) as u32;
        match form {
            0 => flow.fill_text(length),
            1 => {
                // A record of small numbers.
                flow.fill(length);
                for word in flow.payload().chunks_exact_mut(4) {
                    word[2..].fill(0);
                }
            }
            _ => {
                flow.fill_fresh(length, length);
                // Random content that ends where a first MAC does is a message of WireGuard's in every field.
                if (length == 148 && (129..=132).contains(&content)) || (length == 92 && (73..=76).contains(&content)) {
                    content = 40;
                }
            }
        }
        flow.put(0, &[first, 0, 0, 0]);
        if with_session {
            flow.put32(4, session);
            flow.put32_le(8, number);
        } else {
            flow.put32_le(4, number);
        }
        flow.pad(content, 0);
        let direction = flow.either();
        send_maybe_twice(flow, direction, 6);
    }
}

fn zeros(flow: &mut Flow) {
    flow.socket(&[51_820, 1_194, 500]);
    let length = flow.random.size(1, 160);
    let first = flow.random.u8();
    let mut count = Count::new(flow);
    let at = flow.random.size(1, 16);
    for _ in 0..flow.count() {
        let number = count.next(flow);
        flow.fill_with(0, length);
        flow.put(0, &[first]);
        if flow.random.one_in(2) {
            flow.put(at, &number.to_be_bytes()[4..]);
        }
        let direction = flow.either();
        flow.send(direction);
    }
}

/// Writes a counter of some width and order.
fn put_count(flow: &mut Flow, at: usize, width: usize, little: bool, value: u64) {
    if little {
        flow.put(at, &value.to_le_bytes()[..width]);
    } else {
        flow.put(at, &value.to_be_bytes()[8 - width..]);
    }
}

fn magic(flow: &mut Flow) {
    flow.socket(&[7_777, 30_000]);
    // On port 4500 and without checksums, a word and a counter in fours are ESP in UDP in every field.
    flow.checksum_zero &= !flow.ports.contains(&4_500);
    let magic = match flow.random.between(0, 4) {
        0 => (flow.random.between(1, 9) as u32).swap_bytes(),
        1 => flow.random.between(256, 0xffff) as u32,
        2 => 0x4800_0000 | flow.random.between(0, 0x00ff_ffff) as u32,
        3 => 0x3000_0000 | flow.random.between(0, 0x00ff_ffff) as u32,
        _ => flow.random.u32(),
    };
    let second = flow.random.u32();
    let places: [usize; 2] = [flow.random.pick(&[1, 2, 3, 4, 4, 4, 5, 6, 8]), flow.random.pick(&[8, 10, 12, 16])];
    let widths: [usize; 2] = [flow.random.pick(&[1, 2, 3, 4, 4, 6, 8]), flow.random.pick(&[2, 4, 8])];
    let little = [flow.random.one_in(2), flow.random.one_in(2)];
    let in_fours = flow.random.one_in(2);
    let one_length = flow.random.one_in(4).then(|| flow.random.size(12, 1_200));
    let one_way = flow.random.one_in(3);
    let mut counts = [[Count::new(flow), Count::new(flow)], [Count::new(flow), Count::new(flow)]];
    // With random bytes behind the counter, this would be OpenVPN's or WireGuard's data in every field: text or zeros
    // are there.
    let data = matches!(magic >> 27, 6 | 9) || magic == 0x0400_0000;
    let zeros = flow.random.one_in(2);
    for _ in 0..flow.count() {
        let direction = if one_way { 0 } else { flow.either() };
        let own = usize::from(direction);
        let any = flow.random.size(12, 1_200);
        let length = one_length.unwrap_or(if in_fours { any & !3 } else { any });
        let values = [counts[own][0].next(flow), counts[own][1].next(flow)];
        match (data, zeros) {
            (false, _) => flow.fill(length),
            (true, false) => flow.fill_text(length),
            (true, true) => flow.fill_with(0, length),
        }
        flow.put32(4, second);
        for place in 0..2 {
            put_count(flow, places[place], widths[place], little[place], values[place]);
        }
        flow.put32(0, magic);
        if places[0] < 4 {
            // The word is shorter, and the counter begins within it.
            put_count(flow, places[0], widths[0], little[0], values[0]);
        }
        send_maybe_twice(flow, direction, 12);
    }
}

fn counters_only(flow: &mut Flow) {
    flow.socket(&[7_777, 30_000]);
    let mut counts = [Count::new(flow), Count::new(flow), Count::new(flow), Count::new(flow)];
    let width = flow.random.pick(&[1, 2, 4, 8]);
    let little = flow.random.one_in(2);
    for _ in 0..flow.count() {
        let length = flow.random.size(8, 600);
        flow.fill(length);
        let mut at = 0;
        for count in &mut counts {
            let value = count.next(flow);
            put_count(flow, at, width, little, value);
            at += width;
        }
        let direction = flow.either();
        flow.send(direction);
    }
}

fn echo(flow: &mut Flow) {
    flow.socket(&[7, 40_000]);
    let magic = flow.random.u32();
    let mut count = Count::new(flow);
    for _ in 0..flow.count() {
        let length = flow.random.size(4, 1_000);
        let number = count.next(flow);
        flow.fill(length);
        flow.put32(0, magic);
        flow.put32(4, number as u32);
        flow.send(0);
        flow.send(1);
    }
}

fn openvpn_data(flow: &mut Flow) {
    flow.socket(&[1_194, 4_500]);
    let head = 0x4800_0000 | flow.random.between(0, 300) as u32;
    let mut ids = [flow.random.between(1, 1 << 20) as u32, flow.random.between(1, 1 << 20) as u32];
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let length = flow.random.size(40, 1_400);
        flow.fill(length);
        flow.put32(0, head);
        flow.put32(4, ids[own]);
        flow.send(direction);
        ids[own] += 1;
    }
}

fn esp_in_udp(flow: &mut Flow) {
    flow.socket(&[4_500]);
    flow.checksum_zero = flow.ip_version == 4;
    let first = flow.random.pick(&[0x30, 0x33, 0x48, 0x4b, 0x4f]) << 24;
    let spis = [first | flow.random.u32() >> 8, first | flow.random.u32() >> 8];
    let mut sequences = [1_u32; 2];
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let length = 36 + 4 * flow.random.size(0, 340);
        flow.fill(length);
        flow.put32(0, spis[own]);
        flow.put32(4, sequences[own]);
        flow.send(direction);
        sequences[own] += 1;
    }
}

fn wireguard_data(flow: &mut Flow) {
    flow.socket(&[51_820, 4_500]);
    let indices = [flow.random.u32(), flow.random.u32()];
    let mut counters = [0_u64; 2];
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let length = 32 + 16 * flow.random.size(0, 88);
        flow.fill(length);
        flow.put(0, &[4, 0, 0, 0]);
        flow.put32_le(4, indices[own]);
        flow.put64_le(8, counters[own]);
        flow.send(direction);
        counters[own] += 1;
    }
}
