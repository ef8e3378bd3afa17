//! Protocols of TCP whose messages have a length before them, at its front or near it: what OpenVPN over TCP and
//! RFC 9329 look like. Each writes its own framing; how it is cut and what of it is seen is the stream's.

use super::{Count, LookAlike, look_alike};
use crate::flow::{Flow, MILLISECOND};

pub(super) static LOOK_ALIKES: &[LookAlike] = &[
    look_alike("dns-tcp", "length 2, id, flags, counts (RFC 1035 4.2.2)", dns),
    look_alike("rtp-tcp", "length 2, then RTP (RFC 4571)", rtp),
    look_alike("ice-tcp", "length 2, then STUN, DTLS, SRTP (RFC 6544)", ice),
    look_alike("turn-tcp", "channel 0x4000 to 0x4fff, length 2 (RFC 8656 12.4)", turn),
    look_alike("wireguard-in-tcp", "length 2, then WireGuard's own messages", wireguard),
    look_alike("soupbin-tcp", "length 2, a letter, texts and binary messages with counters", soup_bin),
    look_alike("onc-rpc", "record mark 4, xid, call or reply (RFC 5531 11)", onc_rpc),
    look_alike("pptp-control", "length 2, type, magic cookie (RFC 2637 2)", pptp),
    look_alike("tls", "type, version, length 2 at 3 (RFC 8446 5.1)", tls),
    look_alike("postgresql", "type, length 4", postgresql),
    look_alike("mysql", "length 3 little-endian, sequence number 1", mysql),
    look_alike("mongodb", "length 4 little-endian, request ids, opcode", mongodb),
    look_alike("redis", "lengths in text", redis),
    look_alike("tds", "type, status, length 2 at 2 (MS-TDS 2.2.3)", tds),
    look_alike("kafka", "length 4, api key, correlation id", kafka),
    look_alike("amqp", "type, channel, length 4, end mark 0xce", amqp),
    look_alike("cassandra", "version, flags, stream 2, opcode, length 4", cassandra),
    look_alike("smpp", "length 4, command, status, sequence number", smpp),
    look_alike("diameter", "version 1, length 3, ids that count (RFC 6733 3)", diameter),
    look_alike("bgp", "marker of 16 ones, length 2 (RFC 4271 4.1)", bgp),
    look_alike("ldp", "version 1, length 2, LSR id (RFC 5036 3.5)", ldp),
    look_alike("smb", "0, length 3, then SMB2 with its message id", smb),
    look_alike("tpkt", "3, 0, length 2, itself included (RFC 1006 6)", tpkt),
    look_alike("dicom", "type, 0, length 4", dicom),
    look_alike("fix", "lengths in text, sequence numbers", fix),
    look_alike("http2", "length 3, type, flags, stream 4 (RFC 9113 4.1)", http2),
    look_alike("websocket", "opcode, length 1 or 3, mask (RFC 6455 5.2)", websocket),
    look_alike("mqtt", "type, length of one to four bytes", mqtt),
    look_alike("ssh", "length 4, padding, ciphertext (RFC 4253 6)", ssh),
    look_alike("x11", "opcode, length 2 in fours, events with sequence numbers", x11),
    look_alike("openflow", "version, type, length 2 at 2, xid", openflow),
    look_alike("tacacs", "version 0xc0, sequence 1, session id 4, length 4", tacacs),
    look_alike("radius-tcp", "code, id, length 2 at 2 (RFC 6613)", radius),
    look_alike("modbus-tcp", "transaction id, 0, length 2 at 4", modbus),
    look_alike("iec-104", "0x68, length 1, counters", iec_104),
    look_alike("bittorrent", "length 4, id, index", bittorrent),
    look_alike("rtsp-interleaved", "$, channel, length 2, RTP (RFC 2326 10.12)", rtsp),
    look_alike("http", "texts and bodies", http),
    look_alike("random-stream", "random bytes", random),
    look_alike("constant-stream", "one byte, or one word, over and over", constant),
    look_alike("length-opcode-counter", "length 2 of any habit, one byte, counters of any width and step", made_up),
    look_alike("length-opcode-session", "length 2, an opcode of OpenVPN's, a constant session id, counters", session),
    look_alike("length-magic-counter", "length 2, itself included, a magic word and a counter, in fours", magic),
    look_alike("iketcp-wrong-prefix", "another prefix, then records in ESP's form", wrong_prefix),
    look_alike("iketcp-other-content", "IKETCP, then records of something else", other_content),
];

/// Begins a stream: its ports.
fn connect(flow: &mut Flow, servers: &[u16]) {
    let client = flow.ports[0];
    flow.socket(servers);
    // Clients of TCP have ports of their own.
    let server = if flow.ports[0] == client { flow.ports[1] } else { flow.ports[0] };
    flow.ports = [client, server];
}

/// A message of random bytes, of text, or of small numbers, as protocols have; room for a head of `head` bytes.
fn content(flow: &mut Flow, head: usize, most: usize) -> usize {
    let length = head + flow.random.size(0, most);
    match flow.random.between(0, 3) {
        0 => flow.fill_text(length),
        1 => {
            flow.fill(length);
            for word in flow.payload().chunks_exact_mut(4) {
                word[..3].fill(0);
            }
        }
        _ => flow.fill(length),
    }
    length
}

/// Messages in turns: from the client, an answer, or some more of one side.
fn talk(flow: &mut Flow, mut message: impl FnMut(&mut Flow, u8)) {
    let habit = flow.random.between(0, 2);
    for turn in 0..flow.count() {
        let direction = match habit {
            0 => (turn % 2) as u8,
            1 => flow.either(),
            _ => u8::from(turn > 0),
        };
        message(flow, direction);
        flow.send(direction);
    }
}

fn dns(flow: &mut Flow) {
    connect(flow, &[53]);
    let mut id = flow.random.u16();
    let consecutive = flow.random.one_in(2);
    talk(flow, |flow, direction| {
        if direction == 0 {
            id = if consecutive { id.wrapping_add(1) } else { flow.random.u16() };
        }
        let answers = if direction == 0 { 0 } else { flow.random.between(0, 12) as u16 };
        let length = 2 + 12 + flow.random.size(5, 60) + 16 * usize::from(answers);
        flow.fill_text(length);
        flow.put16(0, length as u16 - 2);
        flow.put16(2, id);
        let flags = if direction == 0 { [0x0100, 0x0120, 0x0000] } else { [0x8180, 0x8580, 0x81a0] };
        let flags = flow.random.pick(&flags);
        flow.put16(4, flags);
        let counts = [[0, 1], answers.to_be_bytes(), [0, 0], [0, u8::from(direction == 0)]];
        flow.put(6, counts.as_flattened());
        flow.put(14, &[3]);
    });
}

/// An RTP header at `at`.
fn put_rtp(flow: &mut Flow, at: usize, kind: u8, sequence: u16, source: u32) {
    flow.put(at, &[0x80, kind]);
    flow.put16(at + 2, sequence);
    flow.put32(at + 4, u32::from(sequence).wrapping_mul(960));
    flow.put32(at + 8, source);
}

fn rtp(flow: &mut Flow) {
    connect(flow, &[5_004, 554, 10_000]);
    let source = flow.random.u32();
    let kind = flow.random.pick(&[0, 8, 33, 96, 97, 111]);
    let mut sequence = flow.random.u16();
    let constant = flow.random.one_in(2).then_some(172);
    talk(flow, |flow, _| {
        let length = constant.unwrap_or_else(|| flow.random.size(20, 1_200));
        flow.fill(2 + length);
        flow.put16(0, length as u16);
        put_rtp(flow, 2, kind, sequence, source);
        sequence = sequence.wrapping_add(1);
    });
}

fn ice(flow: &mut Flow) {
    connect(flow, &[443, 3_478]);
    let (source, transaction) = (flow.random.u32(), flow.random.word());
    let mut sequence = flow.random.u16();
    talk(flow, |flow, direction| {
        let length = flow.random.size(7, 300) * 4;
        flow.fill(2 + length);
        flow.put16(0, length as u16);
        match flow.random.between(0, 2) {
            0 => {
                flow.put16(2, if direction == 0 { 1 } else { 0x0101 });
                flow.put16(4, length as u16 - 20);
                flow.put32(6, 0x2112_a442);
                flow.put64(10, transaction);
            }
            1 => {
                flow.put(2, &[23, 0xfe, 0xfd, 0, 1]);
                flow.put(7, &u64::from(sequence).to_be_bytes()[2..]);
                flow.put16(13, length as u16 - 13);
            }
            _ => put_rtp(flow, 2, 96, sequence, source),
        }
        sequence = sequence.wrapping_add(1);
    });
}

fn turn(flow: &mut Flow) {
    connect(flow, &[3_478, 443]);
    let channel = 0x4000 | flow.random.between(0, 0x0fff) as u16;
    let source = flow.random.u32();
    let mut sequence = flow.random.u16();
    talk(flow, |flow, _| {
        let length = flow.random.size(12, 1_200);
        // Padded to four over streams.
        flow.fill(4 + length.next_multiple_of(4));
        flow.put16(0, channel);
        flow.put16(2, length as u16);
        put_rtp(flow, 4, 111, sequence, source);
        sequence = sequence.wrapping_add(1);
    });
}

fn wireguard(flow: &mut Flow) {
    connect(flow, &[443, 51_820, 80]);
    let indices = [flow.random.u32(), flow.random.u32()];
    let mut counters = [0_u64; 2];
    let mut opening = 0;
    talk(flow, |flow, direction| {
        let own = usize::from(direction);
        opening += 1;
        match (opening, direction) {
            (1, 0) => {
                flow.fill(2 + 148);
                flow.put(2, &[1, 0, 0, 0]);
                flow.put32(6, indices[0]);
            }
            (2, 1) => {
                flow.fill(2 + 92);
                flow.put(2, &[2, 0, 0, 0]);
                flow.put32(6, indices[1]);
                flow.put32(10, indices[0]);
            }
            _ => {
                let length = 32 + 16 * flow.random.size(0, 88);
                flow.fill(2 + length);
                flow.put(2, &[4, 0, 0, 0]);
                flow.put32(6, indices[own ^ 1]);
                flow.put64_le(10, counters[own]);
                counters[own] += 1;
            }
        }
        let length = flow.length() as u16 - 2;
        flow.put16(0, length);
    });
}

fn soup_bin(flow: &mut Flow) {
    connect(flow, &[4_001, 9_000, 15_000]);
    let kinds: &[u8] = if flow.random.one_in(2) { b"SHSSSS" } else { b"+AJSHZLORUD" };
    let mut count = Count::new(flow);
    let order = flow.random.one_in(3);
    talk(flow, |flow, direction| {
        // ITCH's messages: type, locate, tracking number, a time in 48 bits, reference numbers.
        let length = flow.random.pick(&[1, 12, 20, 25, 31, 36, 40, 44, 47, 50]);
        if flow.random.one_in(2) {
            flow.fill_text(2 + length)
        } else {
            flow.fill(2 + length)
        };
        let number = count.next(flow);
        let kind = if direction == 0 { flow.random.pick(b"LRUO") } else { flow.random.pick(kinds) };
        flow.put16(0, length as u16);
        flow.put(2, &[kind]);
        if order {
            flow.put(3, b"A");
        }
        flow.put64(4, number);
        flow.put16(6, 0);
    });
}

fn onc_rpc(flow: &mut Flow) {
    connect(flow, &[2_049, 111]);
    let mut xid = flow.random.u32();
    talk(flow, |flow, direction| {
        if direction == 0 {
            xid = xid.wrapping_add(1);
        }
        let length = 4 * flow.random.size(10, 300);
        content(flow, 0, 0);
        flow.resize(4 + length);
        let last = if flow.random.one_in(8) { 0 } else { 0x8000_0000 };
        flow.put32(0, last | length as u32);
        flow.put32(4, xid);
        flow.put32(8, direction.into());
        if direction == 0 {
            flow.put32(12, 2);
            flow.put32(16, 100_003);
            flow.put32(20, 3);
        } else {
            flow.put64(12, 0);
        }
    });
}

fn pptp(flow: &mut Flow) {
    connect(flow, &[1_723]);
    talk(flow, |flow, direction| {
        let (kind, length) = flow.random.pick(&[(1, 156), (5, 16), (6, 20), (7, 168), (8, 32), (15, 24)]);
        flow.fill_with(0, length);
        flow.put16(0, length as u16);
        flow.put16(2, 1);
        flow.put32(4, 0x1a2b_3c4d);
        flow.put16(8, kind + u16::from(direction));
        let call = flow.random.u16();
        flow.put16(12, call);
    });
}

fn tls(flow: &mut Flow) {
    connect(flow, &[443, 993, 8_443, 1_194]);
    let mut turn = 0;
    talk(flow, |flow, direction| {
        turn += 1;
        let length = flow.random.size(20, 1_400);
        flow.fill(5 + length);
        let kind = if turn <= 2 { 22 } else { flow.random.pick(&[23, 23, 23, 23, 21, 20]) };
        flow.put(0, &[kind, 3, if turn == 1 { 1 } else { 3 }]);
        flow.put16(3, length as u16);
        if turn <= 2 {
            flow.put32(5, (1 + u32::from(direction)) << 24 | (length as u32 - 4));
            flow.put16(9, 0x0303);
        }
    });
}

fn postgresql(flow: &mut Flow) {
    connect(flow, &[5_432]);
    let mut opening = true;
    talk(flow, |flow, direction| {
        let length = content(flow, 9, 500);
        if std::mem::take(&mut opening) {
            flow.put32(0, length as u32);
            flow.put32(4, 196_608);
            return;
        }
        let kind = flow.random.pick(if direction == 0 { b"QPBDESX" } else { b"RSKZTDC" });
        flow.put(0, &[kind]);
        flow.put32(1, length as u32 - 1);
    });
}

fn mysql(flow: &mut Flow) {
    connect(flow, &[3_306]);
    let mut number = 0_u8;
    talk(flow, |flow, direction| {
        number = if direction == 0 { 0 } else { number.wrapping_add(1) };
        let length = content(flow, 5, 600);
        flow.put32_le(0, (length - 4) as u32);
        flow.put(3, &[number, 3]);
    });
}

fn mongodb(flow: &mut Flow) {
    connect(flow, &[27_017]);
    let mut request = flow.random.between(0, 1 << 20) as u32;
    talk(flow, |flow, direction| {
        let length = content(flow, 26, 700);
        request += 1;
        flow.put32_le(0, length as u32);
        flow.put32_le(4, request);
        flow.put32_le(8, if direction == 0 { 0 } else { request - 1 });
        flow.put32_le(12, 2_013);
        flow.put(16, &[0; 5]);
    });
}

fn redis(flow: &mut Flow) {
    connect(flow, &[6_379]);
    talk(flow, |flow, direction| {
        let length = 20 + flow.random.size(0, 200);
        flow.fill_text(length);
        flow.put(0, if direction == 0 { b"*3\r\n$3\r\nSET\r\n$5\r\n" } else { b"$12\r\n" });
        flow.put(length - 2, b"\r\n");
    });
}

fn tds(flow: &mut Flow) {
    connect(flow, &[1_433]);
    let mut packet = 0_u8;
    talk(flow, |flow, direction| {
        let length = content(flow, 12, 1_200);
        packet = packet.wrapping_add(1);
        let kind = if direction == 0 { flow.random.pick(&[1, 3, 6, 14, 16, 18]) } else { 4 };
        flow.put(0, &[kind, 1]);
        flow.put16(2, length as u16);
        flow.put(4, &[0, 51, packet, 0]);
    });
}

fn kafka(flow: &mut Flow) {
    connect(flow, &[9_092]);
    let mut correlation = flow.random.between(0, 9) as u32;
    talk(flow, |flow, direction| {
        let length = content(flow, 24, 900);
        flow.put32(0, (length - 4) as u32);
        if direction == 0 {
            correlation += 1;
            let (key, version) = (flow.random.between(0, 20) as u16, flow.random.between(0, 12) as u16);
            flow.put16(4, key);
            flow.put16(6, version);
            flow.put32(8, correlation);
            flow.put16(12, 10);
            flow.put(14, b"consumer-1");
        } else {
            flow.put32(4, correlation);
        }
    });
}

fn amqp(flow: &mut Flow) {
    connect(flow, &[5_672]);
    flow.fill_with(0, 8);
    flow.put(0, b"AMQP\0\0\x09\x01");
    flow.send(0);
    talk(flow, |flow, _| {
        let length = content(flow, 12, 500);
        let kind = flow.random.pick(&[1, 2, 3, 8]);
        flow.put(0, &[kind, 0, 1]);
        flow.put32(3, length as u32 - 8);
        flow.put(length - 1, &[0xce]);
    });
}

fn cassandra(flow: &mut Flow) {
    connect(flow, &[9_042]);
    let version = flow.random.pick(&[3, 4, 5]);
    let mut stream = 0_u16;
    talk(flow, |flow, direction| {
        let length = content(flow, 13, 700);
        stream = (stream + 1) % 128;
        flow.put(0, &[version | direction << 7, 0]);
        flow.put16(2, stream);
        let opcode = flow.random.between(0, 16) as u8;
        flow.put(4, &[opcode]);
        flow.put32(5, length as u32 - 9);
    });
}

fn smpp(flow: &mut Flow) {
    connect(flow, &[2_775, 3_550]);
    let mut number = 0;
    talk(flow, |flow, direction| {
        let length = content(flow, 16, 200);
        number += u32::from(direction == 0);
        let command = flow.random.pick(&[4, 5, 9, 0x15]);
        flow.put32(0, length as u32);
        flow.put32(4, command | u32::from(direction) << 31);
        flow.put32(8, 0);
        flow.put32(12, number);
    });
}

fn diameter(flow: &mut Flow) {
    connect(flow, &[3_868]);
    let (mut hop, mut end) = (flow.random.u32(), flow.random.u32());
    talk(flow, |flow, direction| {
        let length = 20 + 4 * flow.random.size(2, 200);
        flow.fill(length);
        if direction == 0 {
            (hop, end) = (hop.wrapping_add(1), end.wrapping_add(1));
        }
        flow.put32(0, 1 << 24 | length as u32);
        flow.put32(4, u32::from(direction ^ 1) << 31 | 0x4000_0110);
        flow.put32(8, 0x0100_0023);
        flow.put32(12, hop);
        flow.put32(16, end);
    });
}

fn bgp(flow: &mut Flow) {
    connect(flow, &[179]);
    talk(flow, |flow, _| {
        let length = if flow.random.one_in(2) { 19 } else { 23 + flow.random.size(0, 300) };
        flow.fill(length);
        flow.put(0, &[0xff; 16]);
        flow.put16(16, length as u16);
        flow.put(18, &[if length == 19 { 4 } else { 2 }]);
    });
}

fn ldp(flow: &mut Flow) {
    connect(flow, &[646]);
    let router = flow.random.u32();
    let mut message = 0;
    talk(flow, |flow, direction| {
        let length = 18 + 4 * flow.random.size(0, 60);
        flow.fill(length);
        message += 1;
        flow.put16(0, 1);
        flow.put16(2, length as u16 - 4);
        flow.put32(4, router ^ u32::from(direction));
        flow.put16(8, 0);
        flow.put16(10, 0x0201);
        flow.put16(12, length as u16 - 14);
        flow.put32(14, message);
    });
}

fn smb(flow: &mut Flow) {
    connect(flow, &[445, 139]);
    let session = flow.random.word();
    let mut message = 0;
    talk(flow, |flow, direction| {
        let length = content(flow, 68, 900);
        message += u64::from(direction == 0);
        flow.put32(0, length as u32 - 4);
        flow.put(4, b"\xfeSMB\x40\0");
        flow.put64_le(28, message);
        flow.put64_le(44, session);
    });
}

fn tpkt(flow: &mut Flow) {
    connect(flow, &[3_389, 102, 1_720]);
    talk(flow, |flow, _| {
        let length = content(flow, 12, 900);
        flow.put(0, &[3, 0]);
        flow.put16(2, length as u16);
        flow.put(4, &[2, 0xf0, 0x80]);
    });
}

fn dicom(flow: &mut Flow) {
    connect(flow, &[104, 11_112]);
    let mut turn = 0_u8;
    talk(flow, |flow, _| {
        turn += 1;
        let length = content(flow, 14, 900);
        flow.put(0, &[turn.min(4), 0]);
        flow.put32(2, length as u32 - 6);
        flow.put32(6, length as u32 - 10);
    });
}

fn fix(flow: &mut Flow) {
    connect(flow, &[9_876, 5_001]);
    let mut number = [1_u32; 2];
    talk(flow, |flow, direction| {
        let length = 60 + flow.random.size(0, 200);
        flow.fill_text(length);
        let head = format!("8=FIX.4.4\x019={}\x0135=D\x0134={}\x01", length - 20, number[usize::from(direction)]);
        number[usize::from(direction)] += 1;
        flow.put(0, head.as_bytes());
        flow.put(length - 7, b"\x0110=123\x01");
    });
}

fn http2(flow: &mut Flow) {
    connect(flow, &[80, 8_080, 50_051]);
    flow.fill_with(0, 24);
    flow.put(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    flow.send(0);
    let mut stream = 1;
    talk(flow, |flow, direction| {
        let length = content(flow, 9, 900);
        let kind = flow.random.pick(&[0, 0, 1, 4, 6, 8]);
        flow.put32(0, ((length - 9) as u32) << 8 | kind);
        let flags = flow.random.pick(&[0, 1, 4, 5]);
        flow.put(4, &[flags]);
        flow.put32(5, if matches!(kind, 4 | 6) { 0 } else { stream });
        stream += 2 * u32::from(direction == 0);
    });
}

fn websocket(flow: &mut Flow) {
    connect(flow, &[80, 8_080]);
    for (direction, head) in [(0, &b"GET /chat HTTP/1.1\r\n"[..]), (1, b"HTTP/1.1 101 Switching Protocols\r\n")] {
        flow.fill_text(180);
        flow.put(0, head);
        flow.put(176, b"\r\n\r\n");
        flow.send(direction);
    }
    talk(flow, |flow, direction| {
        let length = flow.random.size(1, 600);
        flow.fill(4 + length);
        let opcode = flow.random.pick(&[0x81, 0x82, 0x82, 0x89]);
        flow.put(0, &[opcode]);
        flow.put(1, &[(direction ^ 1) << 7 | length.min(126) as u8]);
        if length >= 126 {
            flow.put16(2, length as u16);
        }
    });
}

fn mqtt(flow: &mut Flow) {
    connect(flow, &[1_883]);
    let mut id = 0;
    talk(flow, |flow, direction| {
        let length = flow.random.size(2, 120);
        flow.fill_text(2 + length);
        id += 1;
        let kind = if direction == 0 { flow.random.pick(&[0x30, 0x32, 0x82, 0xc0]) } else { 0x40 };
        flow.put(0, &[kind, length as u8]);
        flow.put16(2, if kind == 0x40 { id } else { 12 });
    });
}

fn ssh(flow: &mut Flow) {
    connect(flow, &[22]);
    for direction in [0, 1] {
        flow.fill_text(24);
        flow.put(0, b"SSH-2.0-");
        flow.put(22, b"\r\n");
        flow.send(direction);
    }
    let clear = flow.random.one_in(2);
    talk(flow, |flow, _| {
        let length = 4 + 8 * flow.random.size(2, 100);
        flow.fill(length);
        if clear {
            flow.put32(0, length as u32 - 4);
        }
    });
}

fn x11(flow: &mut Flow) {
    connect(flow, &[6_000]);
    let mut number = 0;
    talk(flow, |flow, direction| {
        number += 1;
        let words = if direction == 0 { flow.random.size(1, 200) } else { 8 };
        flow.fill(4 * words);
        let opcode = if direction == 0 { flow.random.between(1, 127) as u8 } else { flow.random.between(0, 34) as u8 };
        flow.put(0, &[opcode, 0]);
        flow.put16(2, if direction == 0 { words as u16 } else { number });
    });
}

fn openflow(flow: &mut Flow) {
    connect(flow, &[6_653]);
    let mut xid = flow.random.between(0, 99) as u32;
    talk(flow, |flow, _| {
        let length = content(flow, 8, 300);
        xid += 1;
        let kind = flow.random.between(0, 20) as u8;
        flow.put(0, &[4, kind]);
        flow.put16(2, length as u16);
        flow.put32(4, xid);
    });
}

fn tacacs(flow: &mut Flow) {
    connect(flow, &[49]);
    let session = flow.random.u32();
    let mut number = 0_u8;
    talk(flow, |flow, _| {
        let length = content(flow, 16, 120);
        number += 1;
        flow.put(0, &[0xc0, 1, number, 0]);
        flow.put32(4, session);
        flow.put32(8, length as u32 - 12);
    });
}

fn radius(flow: &mut Flow) {
    connect(flow, &[1_812]);
    let mut id = 0_u8;
    talk(flow, |flow, direction| {
        let length = content(flow, 26, 300);
        id = id.wrapping_add(1 - direction);
        flow.put(0, &[1 + direction, id]);
        flow.put16(2, length as u16);
    });
}

fn modbus(flow: &mut Flow) {
    connect(flow, &[502]);
    let mut transaction = flow.random.between(0, 9) as u16;
    talk(flow, |flow, direction| {
        let length = if direction == 0 { 12 } else { 9 + flow.random.size(0, 120) * 2 };
        flow.fill(length);
        transaction = transaction.wrapping_add(1 - u16::from(direction));
        flow.put16(0, transaction);
        flow.put16(2, 0);
        flow.put16(4, length as u16 - 6);
        flow.put(6, &[1, 3]);
    });
}

fn iec_104(flow: &mut Flow) {
    connect(flow, &[2_404]);
    let mut numbers = [0_u16; 2];
    talk(flow, |flow, direction| {
        let own = usize::from(direction);
        let length = 6 + flow.random.size(0, 60);
        flow.fill(length);
        numbers[own] += 1;
        flow.put(0, &[0x68, length as u8 - 2]);
        flow.put(2, &(numbers[own] << 1).to_le_bytes());
        flow.put(4, &(numbers[own ^ 1] << 1).to_le_bytes());
    });
}

fn bittorrent(flow: &mut Flow) {
    connect(flow, &[6_881, 51_413]);
    for direction in [0, 1] {
        flow.fill(68);
        flow.put(0, b"\x13BitTorrent protocol");
        flow.send(direction);
    }
    let mut begin = 0;
    talk(flow, |flow, direction| {
        let length = if direction == 0 { 17 } else { 13 + flow.random.size(0, 1_400) };
        flow.fill(length);
        begin += 0x4000;
        flow.put32(0, length as u32 - 4);
        flow.put(4, &[if direction == 0 { 6 } else { 7 }]);
        flow.put32(5, 3);
        flow.put32(9, begin);
    });
}

fn rtsp(flow: &mut Flow) {
    connect(flow, &[554]);
    let source = flow.random.u32();
    let mut sequence = flow.random.u16();
    talk(flow, |flow, _| {
        let length = flow.random.size(20, 1_300);
        flow.fill(4 + length);
        flow.put(0, b"$\0");
        flow.put16(2, length as u16);
        put_rtp(flow, 4, 96, sequence, source);
        sequence = sequence.wrapping_add(1);
    });
}

fn http(flow: &mut Flow) {
    connect(flow, &[80, 8_080]);
    talk(flow, |flow, direction| {
        let length = 120 + flow.random.size(0, 1_300);
        if direction == 0 || flow.random.one_in(3) {
            flow.fill_text(length)
        } else {
            flow.fill(length)
        };
        if flow.random.one_in(2) {
            flow.put(0, if direction == 0 { b"GET / HTTP/1.1\r\n" } else { b"HTTP/1.1 200 OK\r\n" });
        }
    });
}

fn random(flow: &mut Flow) {
    connect(flow, &[443, 8_388]);
    talk(flow, |flow, _| {
        let length = flow.random.size(1, 1_460);
        flow.fill(length);
    });
}

fn constant(flow: &mut Flow) {
    connect(flow, &[443, 9_000]);
    let word = match flow.random.between(0, 3) {
        0 => 0x0100_0100 * flow.random.between(0, 255) as u32,
        1 => u32::from(flow.random.u8()) * 0x0101_0101,
        _ => flow.random.u32(),
    };
    talk(flow, |flow, _| {
        let length = flow.random.size(1, 1_460);
        flow.fill_with(0, length);
        for chunk in flow.payload().chunks_exact_mut(4) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
    });
}

/// A length in 16 bits of any habit before what is there from byte 2 on: true, itself included, with more of a head
/// counted or not, little-endian.
fn put_length(flow: &mut Flow, habit: u64) {
    let length = flow.length() as u16;
    match habit {
        0..=3 => flow.put16(0, length - 2),
        4 | 5 => flow.put16(0, length),
        6 => flow.put16(0, length.wrapping_sub(3)),
        7 => flow.put16(0, length.wrapping_sub(4)),
        8 => flow.put16(0, (length - 2).swap_bytes()),
        _ => flow.put16(0, length.swap_bytes()),
    }
}

fn made_up(flow: &mut Flow) {
    connect(flow, &[7_777, 30_000]);
    let habit = flow.random.between(0, 9);
    // Any first byte, or those that OpenVPN's data has.
    let opcode =
        if flow.random.one_in(2) { flow.random.u8() } else { flow.random.pick(&[0x30, 0x48, 0x20, 0x28, 0x38, 0x40]) };
    let at: usize = flow.random.pick(&[3, 3, 4, 5, 6, 6, 8, 10]);
    let width: usize = flow.random.pick(&[1, 2, 4, 4, 4, 8]);
    let varies = flow.random.one_in(4);
    let (text, little) = (flow.random.one_in(2), flow.random.one_in(2));
    // Where a counter ends where a packet id of OpenVPN's does, text or zeros are behind it: random bytes there would
    // be OpenVPN's data in every field.
    let low = if little { at } else { at + width - 1 };
    let data = matches!((opcode >> 3, low), (6, 3..=6) | (9, 6..=13));
    let words = flow.random.u32();
    let one_length = flow.random.one_in(4).then(|| flow.random.size(12, 400));
    let mut counts = [Count::new(flow), Count::new(flow)];
    talk(flow, |flow, direction| {
        let length = one_length.unwrap_or_else(|| flow.random.size(8, 900)) + 2;
        match (data, text) {
            (_, true) => flow.fill_text(length),
            (true, false) => flow.fill_with(0, length),
            (false, false) => flow.fill(length),
        }
        put_length(flow, habit);
        flow.put32(3, words);
        let value = counts[usize::from(direction)].next(flow);
        let bytes = if little { value.to_le_bytes() } else { value.to_be_bytes() };
        flow.put(at, if little { &bytes[..width] } else { &bytes[8 - width..] });
        let own = if varies { opcode ^ flow.random.between(0, 7) as u8 } else { opcode };
        flow.put(2, &[own]);
    });
}

fn session(flow: &mut Flow) {
    connect(flow, &[1_194, 443, 7_777]);
    let sessions = [flow.random.word(), flow.random.word()];
    let opcodes = [flow.random.between(3, 11) as u8, flow.random.between(3, 11) as u8];
    let same = flow.random.one_in(2);
    let lengths = [14, 22, 26, 42, 50, 54, 62, 66, 72, 86, 94, 98, 114, 353];
    let mut counts = [Count::new(flow), Count::new(flow)];
    let at = flow.random.pick(&[10, 11, 12, 13, 15, 19]);
    talk(flow, |flow, direction| {
        let own = usize::from(direction);
        let length = if flow.random.one_in(2) { flow.random.pick(&lengths) } else { flow.random.size(24, 900) };
        content(flow, 2 + length, 0);
        flow.put16(0, length as u16);
        let opcode = if same { opcodes[own] } else { flow.random.between(3, 11) as u8 };
        flow.put(2, &[opcode << 3]);
        flow.put64(3, sessions[own]);
        let number = counts[own].next(flow) as u32;
        flow.put32(at, number);
    });
}

fn magic(flow: &mut Flow) {
    connect(flow, &[4_500, 7_777, 9_999]);
    let words = [flow.random.u32(), flow.random.u32()];
    let one_word = flow.random.one_in(2);
    let habit = flow.random.pick(&[0, 4, 4, 4]);
    let mut counts = [Count::by_ones(flow), Count::by_ones(flow)];
    talk(flow, |flow, direction| {
        let own = usize::from(direction);
        let length = 2 + 4 * flow.random.size(6, 250);
        content(flow, length, 0);
        put_length(flow, habit);
        flow.put32(2, words[if one_word { 0 } else { own }]);
        let number = counts[own].next(flow) as u32;
        flow.put32(6, number);
    });
}

/// Records in ESP's form (RFC 9329, 3).
fn esp_records(flow: &mut Flow) {
    let words = [flow.random.u32() | 256, flow.random.u32() | 256];
    let mut numbers = [1_u32; 2];
    talk(flow, |flow, direction| {
        let own = usize::from(direction);
        let length = 2 + 4 * flow.random.size(6, 250);
        flow.fill(length);
        flow.put16(0, length as u16);
        flow.put32(2, words[own]);
        flow.put32(6, numbers[own]);
        numbers[own] += 1;
        flow.wait(10 * MILLISECOND);
    });
}

fn wrong_prefix(flow: &mut Flow) {
    connect(flow, &[4_500, 443]);
    flow.fill_with(0, 6);
    let prefix = flow.random.pick(&[*b"IKEUDP", *b"iketcp", *b"IKETCQ", *b"IKE\0\0\0", *b"TCPIKE", [0; 6]]);
    flow.put(0, &prefix);
    flow.send(0);
    esp_records(flow);
}

fn other_content(flow: &mut Flow) {
    connect(flow, &[4_500, 443]);
    flow.fill_with(0, 6);
    flow.put(0, b"IKETCP");
    flow.send(0);
    match flow.random.between(0, 3) {
        0 => esp_records(flow),
        1 => talk(flow, |flow, _| {
            content(flow, 34, 400);
            put_length(flow, 4);
            flow.put32(2, 0);
        }),
        2 => talk(flow, |flow, _| {
            // Zeros where the marker is, and IKE's length at its place, but nothing else of it.
            let length = content(flow, 34, 400) as u32;
            put_length(flow, 4);
            flow.put32(2, 0);
            flow.put32(30, length - 6);
        }),
        _ => talk(flow, |flow, _| {
            content(flow, 4, 400);
        }),
    }
}
