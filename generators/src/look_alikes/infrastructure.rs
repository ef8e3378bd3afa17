//! Names, time, management, tunnels, industry: protocols of servers and devices.

use super::{Count, LookAlike, look_alike, send_maybe_twice};
use crate::flow::{Flow, SECOND};

pub(super) static LOOK_ALIKES: &[LookAlike] = &[
    look_alike("dns", "ids that look like types and opcodes, repeated queries; counts and labels follow", dns),
    look_alike("llmnr", "no flags, so more zeros than DNS", llmnr),
    look_alike("memcached-udp", "request id, zeros, then text", memcached),
    look_alike("modbus-udp", "transaction id, zeros, a short length", modbus),
    look_alike("onc-rpc", "a counting xid, then zeros and small numbers", onc_rpc),
    look_alike("ssdp", "text", ssdp),
    look_alike("sip", "text that is sent again", sip),
    look_alike("ws-discovery", "text", ws_discovery),
    look_alike("snmp", "BER with a counting request id", snmp),
    look_alike("cldap", "BER with a counting message id", cldap),
    look_alike("ntp", "48 bytes; constant fields and fractions of seconds", ntp),
    look_alike("radius", "codes 1 to 5 and 40 to 45, its length at 2", radius),
    look_alike("capwap-dtls", "01 000000, then a DTLS record", capwap_dtls),
    look_alike("dtls-1.2", "opcodes 2 and 3, a record's version at 1", dtls_12),
    look_alike("dtls-1.3", "opcodes 4 to 7, a constant connection id, encrypted numbers", dtls_13),
    look_alike("coap", "48 01, a counting message id, a constant token", coap),
    look_alike("gtp-v2-c", "48 and a constant tunnel id, its length at 2", gtp_v2_c),
    look_alike("gtp-u", "30 ff, its length at 2, a constant tunnel id", gtp_u),
    look_alike("vxlan", "constant eight bytes, then Ethernet", vxlan),
    look_alike("teredo", "0000 and 0001 heads, and IPv6", teredo),
    look_alike("l2tp-control", "c802, Ns and Nr", l2tp_control),
    look_alike("l2tp-data", "constant tunnel and session, Ns when sequenced", l2tp_data),
    look_alike("amt", "types 1 to 7 and zeros, short or an IP packet", amt),
    look_alike("hart-ip", "version 1 and small numbers, its length at 6", hart_ip),
    look_alike("roughtime", "a little-endian count of tags", roughtime),
    look_alike("ubiquiti-discovery", "01 000000 and the length, tagged values", ubiquiti),
    look_alike("iso-8583", "digits and bitmaps, with or without a length", iso_8583),
    look_alike("warp", "WireGuard's messages with a client id in the reserved bytes", warp),
    look_alike("tunnelbear", "WireGuard's handshake in other lengths", tunnelbear),
];

fn dns_message(flow: &mut Flow, id: u16, flags: u16, answers: u16) {
    let labels = flow.random.size(1, 4);
    let mut name = Vec::with_capacity(64);
    for _ in 0..labels {
        let length = flow.random.size(1, 14);
        name.push(length as u8);
        for _ in 0..length {
            name.push(b'a' + flow.random.between(0, 25) as u8);
        }
    }
    name.push(0);
    let additional = flow.random.one_in(2);
    let rest = usize::from(answers) * 16 + if additional { 11 } else { 0 };
    flow.fill(12 + name.len() + 4 + rest);
    for (at, value) in [(0, id), (2, flags), (4, 1), (6, answers), (8, 0), (10, additional.into())] {
        flow.put16(at, value);
    }
    flow.put(12, &name);
    let mut at = 12 + name.len();
    flow.put16(at, 1);
    flow.put16(at + 2, 1);
    at += 4;
    for _ in 0..answers {
        flow.put(at, &[0xc0, 12, 0, 1, 0, 1, 0, 0]);
        flow.put(at + 10, &[0, 4]);
        at += 16;
    }
    if additional {
        flow.put(at, &[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    }
}

/// An id whose first byte is a type of WireGuard's or an opcode of OpenVPN's, often enough.
fn dns_id(flow: &mut Flow) -> u16 {
    match flow.random.between(0, 3) {
        0 => flow.random.between(1, 4) as u16 * 256,
        1 => (flow.random.between(3, 11) as u16) << 11 | flow.random.between(0, 3) as u16,
        _ => flow.random.u16(),
    }
}

fn names(flow: &mut Flow, flags: &[u16]) {
    let mut id = dns_id(flow);
    for _ in 0..flow.count() {
        let query = flow.random.pick(flags);
        dns_message(flow, id, query, 0);
        send_maybe_twice(flow, 0, 3);
        if !flow.random.one_in(3) {
            let answers = flow.random.between(0, 6) as u16;
            dns_message(flow, id, query | 0x8000, answers);
            send_maybe_twice(flow, 1, 8);
        }
        id = match flow.random.between(0, 3) {
            0 => id,
            1 => id.wrapping_add(1),
            _ => dns_id(flow),
        };
        flow.wait(SECOND);
    }
}

fn dns(flow: &mut Flow) {
    flow.socket(&[53, 5_353]);
    names(flow, &[0x0100, 0x0100, 0x0000, 0x0120, 0x0110]);
}

fn llmnr(flow: &mut Flow) {
    flow.socket(&[5_355, 137]);
    names(flow, &[0x0000]);
}

fn memcached(flow: &mut Flow) {
    flow.socket(&[11_211]);
    let mut id = Count::by_ones(flow);
    if flow.random.one_in(2) {
        id.value = flow.random.between(1, 4) * 256;
    }
    let total = flow.random.between(1, 3) as u16;
    for _ in 0..flow.count() {
        let request = id.next(flow) as u16;
        let direction = flow.either();
        for sequence in 0..if direction == 0 { 1 } else { total } {
            let length = 8 + flow.random.size(4, 1_390);
            flow.fill_text(length);
            flow.put16(0, request);
            flow.put16(2, sequence);
            flow.put16(4, total);
            flow.put16(6, 0);
            flow.put(8, if direction == 0 { b"get " } else { b"VALUE " });
            flow.send(direction);
        }
    }
}

fn modbus(flow: &mut Flow) {
    flow.socket(&[502]);
    let mut id = Count::by_ones(flow);
    if flow.random.one_in(2) {
        id.value = flow.random.between(1, 4) * 256;
    }
    let registers = flow.random.size(1, 60);
    for _ in 0..flow.count() {
        let transaction = id.next(flow) as u16;
        for direction in 0..2 {
            let length = if direction == 0 { 12 } else { 9 + 2 * registers };
            let zeros = flow.random.one_in(2);
            flow.fill(length);
            if zeros {
                flow.pad(9, 0);
            }
            flow.put16(0, transaction);
            flow.put16(2, 0);
            flow.put16(4, length as u16 - 6);
            flow.put(6, &[1, 3]);
            flow.send(direction);
        }
        flow.wait(SECOND);
    }
}

fn onc_rpc(flow: &mut Flow) {
    flow.socket(&[2_049, 111, 1_021]);
    let first = flow.random.pick(&[0x38, 0x40, 0x20, 0x28, 0x48, 0x30, 0x01, 0xc0]);
    let mut xid = flow.random.u32() & 0x00ff_ffff | first << 24;
    let program = flow.random.pick(&[100_000_u32, 100_003, 100_005]);
    for _ in 0..flow.count() {
        let body = 4 * flow.random.size(0, 120);
        flow.fill(40 + body);
        for (at, value) in [(0, xid), (4, 0), (8, 2), (12, program), (16, 3), (20, 1)] {
            flow.put32(at, value);
        }
        flow.put(24, &[0; 16]);
        send_maybe_twice(flow, 0, 4);
        if !flow.random.one_in(4) {
            let body = 4 * flow.random.size(0, 300);
            flow.fill(24 + body);
            flow.put32(0, xid);
            flow.put32(4, 1);
            flow.put(8, &[0; 16]);
            if flow.random.one_in(4) {
                flow.pad(24, 0);
            }
            flow.send(1);
        }
        xid = xid.wrapping_add(flow.random.pick(&[1, 1, 1, 0x0100_0000, 0]));
    }
}

fn text(flow: &mut Flow, heads: &[&[u8]], again: u64) {
    let length = flow.random.size(80, 1_200);
    for _ in 0..flow.count() {
        let head = flow.random.pick(heads);
        let varied = length + flow.random.size(0, 8);
        flow.fill_text(varied);
        flow.put(0, head);
        let direction = flow.either();
        send_maybe_twice(flow, direction, again);
        flow.wait(SECOND);
    }
}

fn ssdp(flow: &mut Flow) {
    flow.socket(&[1_900]);
    text(flow, &[b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255", b"HTTP/1.1 200 OK\r\n", b"NOTIFY * HTTP/1.1\r\n"], 3);
}

fn sip(flow: &mut Flow) {
    flow.socket(&[5_060]);
    text(
        flow,
        &[b"INVITE sip:alice@example.net SIP/2.0", b"SIP/2.0 200 OK\r\n", b"OPTIONS sip:", b"REGISTER sip:", b"NOTIFY"],
        2,
    );
}

fn ws_discovery(flow: &mut Flow) {
    flow.socket(&[3_702]);
    text(flow, &[b"<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope"], 2);
}

fn snmp(flow: &mut Flow) {
    flow.socket(&[161, 162]);
    let mut id = Count::by_ones(flow);
    id.value |= flow.random.between(0, 0x7fff) << 16;
    for _ in 0..flow.count() {
        let request = id.next(flow) as u32;
        for direction in 0..2 {
            let length = flow.random.size(38, 127);
            flow.fill(length);
            flow.put(0, &[0x30, length as u8 - 2, 2, 1, 1, 4, 6]);
            flow.put(7, b"public");
            flow.put(13, &[0xa0 + 2 * direction, length as u8 - 15, 2, 4]);
            flow.put32(17, request);
            flow.put(21, &[2, 1, 0, 2, 1, 0, 0x30]);
            send_maybe_twice(flow, direction, 8);
        }
    }
}

fn cldap(flow: &mut Flow) {
    flow.socket(&[389]);
    let mut id = Count::by_ones(flow);
    for _ in 0..flow.count() {
        let message = id.next(flow);
        for direction in 0..2 {
            let length = flow.random.size(60, 220);
            flow.fill(length);
            flow.put(0, &[0x30, 0x84, 0, 0, 0, length as u8 - 6, 2, 1, message as u8, 0x63 + direction, 0x84, 0, 0, 0]);
            send_maybe_twice(flow, direction, 8);
        }
    }
}

fn ntp(flow: &mut Flow) {
    flow.socket(&[123]);
    let client = flow.random.pick(&[0x23, 0x1b, 0xe3, 0x21, 0x25]);
    let server = flow.random.pick(&[0x24, 0x1c, 0x22, 0x64]);
    let reference = flow.random.u32();
    let (zeros, mut dispersion) = (flow.random.one_in(2), flow.random.between(0, 0x1fff) as u32);
    for _ in 0..flow.count() {
        let seconds = (flow.time / SECOND) as u32;
        flow.fill(48);
        if zeros {
            flow.pad(0, 0);
        }
        flow.put(0, &[client, if zeros { 0 } else { 3 }, 6, 0xec]);
        if !zeros {
            flow.put32(4, 0x0000_05a2);
            flow.put32(8, dispersion);
            flow.put32(12, reference);
            flow.put32(16, seconds.wrapping_add(2_208_988_800) & !0x3ff);
        }
        let fraction = flow.random.u32();
        flow.put32(40, seconds.wrapping_add(2_208_988_800));
        flow.put32(44, fraction);
        flow.send(0);
        flow.fill(48);
        flow.put(0, &[server, 2, 6, 0xe9]);
        flow.put32(4, 0x0000_0312);
        flow.put32(8, dispersion >> 3);
        flow.put32(12, reference);
        flow.put32(40, seconds.wrapping_add(2_208_988_800));
        flow.send(1);
        dispersion += flow.random.between(0, 64) as u32;
        flow.time += flow.random.pick(&[1, 2, 16, 64]) * SECOND;
    }
}

fn radius(flow: &mut Flow) {
    flow.socket(&[1_812, 1_813, 3_799]);
    let code = flow.random.pick(&[1, 2, 3, 4, 5, 40, 41, 43, 44]);
    let mut id = Count::by_ones(flow);
    for _ in 0..flow.count() {
        let request = id.next(flow) as u8;
        for direction in 0..2 {
            let length = flow.random.pick(&[20, 26, 64, 92, 148]) + flow.random.size(0, 1) * flow.random.size(0, 200);
            flow.fill(length);
            flow.put(0, &[code + direction, request]);
            flow.put16(2, length as u16);
            send_maybe_twice(flow, direction, 4);
        }
    }
}

/// DTLS 1.2 records from `at` of the payload (RFC 6347, 4.1).
fn dtls_record(flow: &mut Flow, at: usize, kind: u8, epoch: u16, sequence: u64) {
    let length = flow.length() as u16;
    flow.put(at, &[kind, 0xfe, if kind == 22 && sequence == 0 { 0xff } else { 0xfd }]);
    flow.put64(at + 3, u64::from(epoch) << 48 | sequence);
    flow.put16(at + 11, length.saturating_sub(at as u16 + 13));
}

fn dtls(flow: &mut Flow, at: usize) {
    let mut sequences = [0; 2];
    let handshake = flow.random.between(0, 8);
    let frame = flow.random.size(60, 1_200);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let sequence = sequences[usize::from(direction)];
        let (kind, epoch) = if sequence < handshake { (22, 0) } else { (flow.random.pick(&[23, 23, 23, 20, 21]), 1) };
        let length = match flow.random.between(0, 3) {
            0 => 148,
            1 => flow.random.size(at + 14, 1_400),
            _ => frame,
        };
        flow.fill(length);
        if at > 0 {
            flow.put(0, &[1, 0, 0, 0]);
        }
        dtls_record(flow, at, kind, epoch, sequence);
        if kind == 22 {
            flow.put(at + 13, &[1, 0, 0]);
            flow.put(at + 17, &[0, sequence as u8, 0, 0, 0]);
        }
        send_maybe_twice(flow, direction, 6);
        sequences[usize::from(direction)] += 1;
    }
}

fn capwap_dtls(flow: &mut Flow) {
    flow.socket(&[5_246, 5_247]);
    dtls(flow, 4);
}

fn dtls_12(flow: &mut Flow) {
    flow.socket(&[4_433, 443, 5_684]);
    dtls(flow, 0);
}

fn dtls_13(flow: &mut Flow) {
    flow.socket(&[4_433, 443, 5_684]);
    // 001 C S L EE (RFC 9147, 4): connection id, 16-bit number, length, two bits of the epoch.
    let (with_id, long, with_length) = (flow.random.one_in(2), flow.random.one_in(2), flow.random.one_in(2));
    let id_length = flow.random.pick(&[1, 4, 8, 8, 16]);
    let mut ids = [[0; 16]; 2];
    for id in &mut ids {
        flow.random.fill(id);
    }
    let first = 0x20 | u8::from(with_id) << 4 | u8::from(long) << 3 | u8::from(with_length) << 2;
    let epoch = flow.random.between(2, 3) as u8;
    for _ in 0..flow.count() {
        let direction = flow.either();
        let length = flow.random.size(30, 1_300);
        flow.fill(length);
        flow.put(0, &[first | epoch]);
        let mut at = 1;
        if with_id {
            flow.put(1, &ids[usize::from(direction)][..id_length]);
            at += id_length;
        }
        // The number itself is encrypted.
        at += if long { 2 } else { 1 };
        if with_length {
            flow.put16(at, (length - at - 2) as u16);
        }
        flow.send(direction);
    }
}

fn coap(flow: &mut Flow) {
    flow.socket(&[5_683]);
    let token_length = flow.random.pick(&[0, 1, 2, 4, 8, 8, 8]);
    let mut token = Count::new(flow);
    let mut id = Count::by_ones(flow);
    let kind = flow.random.pick(&[0x40, 0x50]) | token_length as u8;
    let observe = flow.random.one_in(2);
    let token_of_all = token.next(flow);
    for _ in 0..flow.count() {
        let message = id.next(flow) as u16;
        let value = if observe { token_of_all } else { token.next(flow) };
        for direction in 0..2 {
            let length = 4 + token_length + flow.random.size(1, 120);
            flow.fill(length);
            let code = if direction == 0 { 1 } else { 0x45 };
            flow.put(0, &[if direction == 0 { kind } else { kind + 0x20 }, code]);
            flow.put16(2, message);
            flow.put(4, &value.to_be_bytes()[..token_length]);
            send_maybe_twice(flow, direction, 4);
        }
        flow.wait(SECOND);
    }
}

fn gtp_v2_c(flow: &mut Flow) {
    flow.socket(&[2_123]);
    let with_tunnel = !flow.random.one_in(4);
    let tunnel = [flow.random.u32(), flow.random.u32()];
    let mut sequence = Count::by_ones(flow);
    let kind = flow.random.pick(&[1, 32, 34, 36, 170]);
    let frame = flow.random.size(12, 300);
    for _ in 0..flow.count() {
        let number = sequence.next(flow) as u32 & 0x00ff_ffff;
        for direction in 0..2 {
            let length = if flow.random.one_in(2) { frame } else { flow.random.size(12, 300) };
            flow.fill(length);
            flow.put(0, &[if with_tunnel { 0x48 } else { 0x40 }, kind + direction]);
            flow.put16(2, length as u16 - 4);
            if with_tunnel {
                flow.put32(4, tunnel[usize::from(direction)]);
                flow.put32(8, number << 8);
            } else {
                flow.put32(4, number << 8);
            }
            send_maybe_twice(flow, direction, 4);
        }
    }
}

/// The head of an IPv4 packet with a counting id.
fn inner_ip(flow: &mut Flow, at: usize, id: u16) {
    let length = flow.length().saturating_sub(at) as u16;
    flow.put(at, &[0x45, 0]);
    flow.put16(at + 2, length);
    flow.put16(at + 4, id);
    flow.put(at + 6, &[0x40, 0, 64, 17]);
}

fn gtp_u(flow: &mut Flow) {
    flow.socket(&[2_152]);
    let first = flow.random.pick(&[0x30, 0x30, 0x32, 0x34, 0x36]);
    let head = if first == 0x30 { 8 } else { 12 };
    let tunnels = [flow.random.u32() >> flow.random.pick(&[0, 8, 16, 24]), flow.random.u32()];
    let mut counts = [Count::by_ones(flow), Count::by_ones(flow)];
    let codec = flow.random.one_in(2);
    let frame = flow.random.size(60, 1_400);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let length = if codec { frame } else { flow.random.size(60, 1_400) };
        let number = counts[own].next(flow) as u16;
        flow.fill(length);
        flow.put(0, &[first, 0xff]);
        flow.put16(2, length as u16 - 8);
        flow.put32(4, tunnels[own]);
        if head == 12 {
            flow.put16(8, number);
            flow.put16(10, 0);
        }
        inner_ip(flow, head, number);
        flow.send(direction);
    }
}

fn vxlan(flow: &mut Flow) {
    flow.socket(&[4_789, 8_472, 6_081]);
    let network = flow.random.u32() & 0xffff_ff00;
    let mut id = Count::by_ones(flow);
    for _ in 0..flow.count() {
        let length = flow.random.size(50, 1_450);
        let number = id.next(flow) as u16;
        flow.fill(length);
        flow.put(0, &[8, 0, 0, 0]);
        flow.put32(4, network);
        flow.put(8, &[2, 0x42, 0x0a, 0, 0, 1, 2, 0x42, 0x0a, 0, 0, 2, 8, 0]);
        inner_ip(flow, 22, number);
        let direction = flow.either();
        flow.send(direction);
    }
}

fn teredo(flow: &mut Flow) {
    flow.socket(&[3_544]);
    let form = flow.random.between(0, 2);
    let nonce = flow.random.word();
    for _ in 0..flow.count() {
        let length = flow.random.size(61, 1_300);
        flow.fill(length);
        match form {
            0 => flow.put(0, &[0x60, 0, 0, 0]),
            1 => {
                flow.put(0, &[0, 1, 0, 0]);
                flow.put64(4, nonce);
                flow.put(12, &[0, 0x60, 0, 0, 0]);
            }
            _ => flow.put(0, &[0, 0, 0x63, 0xbf, 0x3f, 0x57, 0xfe, 0x9f, 0x60, 0, 0, 0]),
        }
        if flow.random.one_in(3) {
            // A bubble: no next header, link-local addresses full of zeros.
            flow.pad(4, 0);
            flow.put(6, &[59, 255, 0xfe, 0x80]);
        }
        let direction = flow.either();
        flow.send(direction);
    }
}

fn l2tp_control(flow: &mut Flow) {
    flow.socket(&[1_701]);
    let tunnels = [flow.random.u16(), flow.random.u16()];
    let mut sent = [0_u16; 2];
    for _ in 0..flow.count() {
        let direction = flow.either();
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        let length = if flow.random.one_in(3) { 12 } else { flow.random.size(20, 150) };
        flow.fill(length);
        flow.put16(0, 0xc802);
        flow.put16(2, length as u16);
        flow.put16(4, tunnels[other]);
        flow.put16(6, 0);
        flow.put16(8, sent[own]);
        flow.put16(10, sent[other]);
        flow.put(12, &[0x80, 8, 0, 0, 0, 0, 0, 6]);
        send_maybe_twice(flow, direction, 6);
        sent[own] += u16::from(length > 12);
    }
}

fn l2tp_data(flow: &mut Flow) {
    flow.socket(&[1_701]);
    let with_length = flow.random.one_in(2);
    let sequenced = flow.random.one_in(2);
    let first = 2 | u16::from(with_length) << 14 | u16::from(sequenced) << 11;
    let sessions = [flow.random.u32(), flow.random.u32()];
    let mut sent = [flow.random.u16(), flow.random.u16()];
    let one_length = flow.random.one_in(2);
    let frame = 4 * flow.random.size(5, 300);
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let length = if one_length { frame } else { flow.random.size(20, 1_400) };
        flow.fill(length);
        flow.put16(0, first);
        let mut at = 2;
        if with_length {
            flow.put16(2, length as u16);
            at = 4;
        }
        flow.put32(at, sessions[own]);
        if sequenced {
            flow.put16(at + 4, sent[own]);
            flow.put16(at + 6, 0);
            at += 4;
            sent[own] = sent[own].wrapping_add(1);
        }
        flow.put(at + 4, &[0xff, 0x03, 0x00, 0x21]);
        flow.send(direction);
    }
}

fn amt(flow: &mut Flow) {
    flow.socket(&[2_268]);
    let nonce = flow.random.u32();
    let data = flow.random.one_in(2);
    let mut id = Count::by_ones(flow);
    for _ in 0..flow.count() {
        let kind = if data { 6 } else { flow.random.between(1, 7) as u8 };
        let length = match kind {
            1 | 3 => 8,
            2 => flow.random.pick(&[12, 24]),
            4 | 5 => flow.random.size(40, 92),
            _ => flow.random.size(40, 1_400),
        };
        let number = id.next(flow) as u16;
        flow.fill(length);
        flow.put(0, &[kind, 0, 0, 0]);
        if kind < 4 {
            flow.put32(4, nonce);
        } else {
            // Response MAC and nonce, or the packet at once.
            inner_ip(flow, if kind == 6 { 2 } else { 12 }, number);
        }
        let direction = flow.either();
        send_maybe_twice(flow, direction, 6);
    }
}

fn hart_ip(flow: &mut Flow) {
    flow.socket(&[5_094]);
    let mut sequence = Count::by_ones(flow);
    for _ in 0..flow.count() {
        let number = sequence.next(flow) as u16;
        let kind = flow.random.pick(&[0, 1, 2, 0x0f]);
        for direction in 0..2 {
            let length = flow.random.pick(&[13, 17, 20, 32, 48, 64, 92, 148]);
            let zeros = flow.random.one_in(2);
            flow.fill(length);
            if zeros {
                let mut from = flow.random.size(8, length);
                // What ends just before a second MAC would be WireGuard's in every field.
                if (129..=132).contains(&from) || (73..=76).contains(&from) {
                    from = 40;
                }
                flow.pad(from, 0);
            }
            // Version, type of message, id, status.
            flow.put(0, &[1, if direction == 0 { 0 } else { kind }, 0, 0]);
            flow.put16(4, number);
            flow.put16(6, length as u16);
            send_maybe_twice(flow, direction, 8);
        }
    }
}

fn roughtime(flow: &mut Flow) {
    flow.socket(&[2_002]);
    for _ in 0..flow.count() {
        let tags = flow.random.between(1, 7) as u32;
        let reply = tags > 4;
        let length = if reply { 4 * flow.random.size(80, 110) } else { flow.random.pick(&[1_024, 1_280, 64, 92, 148]) };
        flow.fill_with(0, length);
        flow.put32_le(0, tags);
        let mut at = 4;
        for tag in 1..tags {
            flow.put32_le(at, tag * 64);
            at += 4;
        }
        for tag in [b"NONC", b"PAD\xff", b"SIG\0", b"PATH", b"SREP", b"CERT", b"INDX"].into_iter().take(tags as usize) {
            flow.put(at, tag);
            at += 4;
        }
        let mut nonce = [0; 64];
        flow.random.fill(&mut nonce);
        flow.put(at, &nonce);
        flow.send(u8::from(reply));
    }
}

fn ubiquiti(flow: &mut Flow) {
    flow.socket(&[10_001]);
    for _ in 0..flow.count() {
        let version = flow.random.between(1, 2) as u8;
        if flow.random.one_in(2) {
            flow.fill_with(0, 4);
            flow.put(0, &[version, 0, 0, 0]);
            send_maybe_twice(flow, 0, 2);
            continue;
        }
        let length = flow.random.pick(&[92, 128, 148, 160]) + flow.random.size(0, 1) * flow.random.size(0, 40);
        flow.fill_text(length);
        flow.put(0, &[version, 0]);
        flow.put16(2, length as u16 - 4);
        flow.put(4, &[2, 0, 10, 0x78, 0x8a, 0x20]);
        flow.put(17, &[1, 0, 6, 0x78, 0x8a, 0x20]);
        send_maybe_twice(flow, 1, 2);
    }
}

fn iso_8583(flow: &mut Flow) {
    flow.socket(&[5_000, 8_583]);
    let prefixed = flow.random.one_in(2);
    let binary = flow.random.one_in(2);
    let mut trace = Count::by_ones(flow);
    let bitmap = flow.random.word() & 0x7fff_ffff_ffff_ffff;
    let frame = flow.random.size(60, 400);
    for _ in 0..flow.count() {
        let number = trace.next(flow) % 1_000_000;
        let length = if flow.random.one_in(2) { frame } else { flow.random.size(60, 400) };
        let direction = flow.either();
        flow.fill_text(length);
        let mut at = 0;
        if prefixed {
            flow.put16(0, length as u16 - 2);
            at = 2;
        }
        // Message type, bitmap, and the trace number that counts.
        if binary {
            flow.put(at, &[2, 16 * direction]);
            flow.put64(at + 2, bitmap);
            flow.put32(at + 10, number as u32);
        } else {
            flow.put(at, if direction == 0 { b"0200" } else { b"0210" });
            flow.put(at + 4, format!("{bitmap:016X}").as_bytes());
            flow.put(at + 20, format!("{number:06}").as_bytes());
        }
        flow.send(direction);
    }
}

fn warp(flow: &mut Flow) {
    flow.socket(&[2_408, 500, 1_701, 4_500]);
    let client = [flow.random.u8() | 1, flow.random.u8(), flow.random.u8()];
    let variant = flow.random.one_in(2);
    let indices = [flow.random.u32(), flow.random.u32()];
    let mut counters = [0; 2];
    for _ in 0..flow.count() {
        let direction = flow.either();
        let own = usize::from(direction);
        let kind = if counters[own] == 0 { flow.random.pick(&[1, 2, 4]) } else { 4_u8 };
        let length = match kind {
            1 => 148,
            2 => 92,
            _ => 32 + 16 * flow.random.size(0, 80),
        };
        flow.fill(length);
        flow.put(0, &[if variant { kind | 0xc0 } else { kind }]);
        flow.put(1, &client);
        flow.put32_le(4, indices[own]);
        match kind {
            1 => flow.pad(132, 0),
            2 => flow.pad(76, 0),
            _ => flow.put64_le(8, counters[own]),
        }
        flow.send(direction);
        counters[own] += 1;
    }
}

fn tunnelbear(flow: &mut Flow) {
    flow.socket(&[51_820]);
    for _ in 0..flow.random.between(1, 6) {
        let direction = flow.either();
        let length = if direction == 0 { 204 } else { 100 };
        flow.fill(length);
        flow.put(0, &[direction + 1, 0, 0, 0]);
        flow.pad(length - 16, 0);
        flow.send(direction);
        flow.wait(5 * SECOND);
    }
}
