//! IPsec: IKE (RFC 7296, RFC 2408), UDP encapsulation (RFC 3948), ESP (RFC 4303) and AH (RFC 4302).

use vpn_classifier_core::decode::Transport;
use vpn_classifier_core::fingerprint::{Confidence, Protocol};

use super::Rule;
use crate::flow::{Flow, SECOND};

const fn rule(
    name: &'static str,
    control: Confidence,
    fields: &'static [&'static str],
    generate: fn(&mut Flow),
) -> Rule {
    Rule { protocol: Protocol::Ipsec, name, control, fields, stream: None, generate }
}

pub(super) static RULES: &[Rule] = &[
    rule("ipsec.ikev2_request", Confidence::Confirmed, IKEV2_CLEAR, ikev2_request),
    rule("ipsec.ikev2_response", Confidence::Confirmed, IKEV2_CLEAR, ikev2_response),
    rule("ipsec.ikev2_request_behind_marker", Confidence::Confirmed, MARKED, ikev2_request_behind_marker),
    rule(
        "ipsec.ikev2_encrypted",
        Confidence::Confirmed,
        &[
            "initiator's SPI zero",
            "responder's SPI zero",
            "next payload",
            "version",
            "exchange",
            "flags",
            "message id",
            "length",
            "SK length",
            "SK reserved",
        ],
        ikev2_encrypted,
    ),
    rule(
        "ipsec.ikev1_clear",
        Confidence::Confirmed,
        &[
            "initiator's SPI zero",
            "next payload",
            "version",
            "exchange",
            "flags",
            "message id",
            "length",
            "chain short",
            "chain long",
            "payload length",
            "payload reserved",
            "payload type",
        ],
        ikev1_clear,
    ),
    rule(
        "ipsec.ikev1_encrypted",
        Confidence::Confirmed,
        &[
            "initiator's SPI zero",
            "responder's SPI zero",
            "next payload",
            "version",
            "exchange",
            "flags",
            "message id",
            "length",
            "length in eights",
        ],
        ikev1_encrypted,
    ),
    rule(
        "ipsec.ikev1_encrypted_off_port",
        Confidence::Confirmed,
        &["initiator's SPI changes"],
        ikev1_encrypted_off_port,
    ),
    rule("ipsec.esp_beside_ike", Confidence::Likely, &["SPI reserved", "length in fours", "too short"], esp_beside_ike),
    rule(
        "ipsec.esp_in_udp",
        Confidence::Confirmed,
        &[
            "SPI zero",
            "SPI reserved",
            "SPI changes",
            "sequence constant",
            "sequence jumps",
            "sequence falls",
            "length in fours",
            "too short",
            "same SPI both ways",
            "one way, checksummed",
        ],
        esp_in_udp,
    ),
    rule(
        "ipsec.esp_in_udp_off_port",
        Confidence::Confirmed,
        &[
            "SPI zero",
            "SPI reserved",
            "SPI changes",
            "sequence constant",
            "sequence jumps",
            "sequence falls",
            "length in fours",
            "too short",
            "same SPI both ways",
            "one way",
            "checksum",
            "too few",
        ],
        esp_in_udp_off_port,
    ),
    rule(
        "ipsec.esp",
        Confidence::Confirmed,
        &["SPI zero", "SPI changes", "sequence constant", "sequence jumps", "sequence falls", "too short"],
        esp,
    ),
    rule(
        "ipsec.ah",
        Confidence::Confirmed,
        &["SPI zero", "SPI changes", "sequence constant", "sequence jumps", "sequence falls", "reserved", "length"],
        ah,
    ),
];

const IKEV2_CLEAR: &[&str] = &[
    "initiator's SPI zero",
    "responder's SPI",
    "next payload",
    "version",
    "exchange",
    "flags",
    "message id",
    "length",
    "chain short",
    "chain long",
    "payload length",
    "payload reserved",
    "payload type",
];

const MARKED: &[&str] = &["marker", "length counts the marker", "length"];

/// An IKE header's fields.
struct Header {
    initiator: u64,
    responder: u64,
    next: u8,
    version: u8,
    exchange: u8,
    flags: u8,
    message: u32,
}

impl Header {
    /// Writes the header at `at` of a payload whose body is there, with the length that is true or broken.
    fn write(mut self, flow: &mut Flow, at: usize) {
        if flow.breaks("initiator's SPI zero") {
            self.initiator = 0;
        }
        if flow.breaks("responder's SPI zero") {
            self.responder = 0;
        }
        if flow.breaks("responder's SPI") {
            // A request has none yet, and a response has one unless it refuses (RFC 7296, 1.2, 2.6): here only the
            // request is wrong for sure.
            self.responder = flow.random.word() | 1;
            self.flags = 0x08;
        }
        if flow.breaks("version") {
            self.version = flow.random.pick(&[0x00, 0x01, 0x02, 0x11, 0x12, 0x21, 0x30, 0xff]);
        }
        if flow.breaks("exchange") {
            self.exchange = flow.random.pick(&[0, 7, 31, 42, 45, 99, 239, 255]);
        }
        if flow.breaks("flags") {
            self.flags |= flow.random.pick(&[0x40, 0x80, 0xc0]);
        }
        if flow.breaks("message id") {
            self.message = match self.exchange {
                34..=38 if self.message == 0 => flow.random.between(1, 0xffff_ffff) as u32,
                34..=44 => flow.random.between(1 << 20, 0xffff_ffff) as u32,
                // IKEv1: zero in phase 1 and never afterwards.
                _ if self.message == 0 => flow.random.between(1, 0xffff_ffff) as u32,
                _ => 0,
            };
        }
        let mut length = (flow.length() - at) as u32;
        if flow.breaks("length") {
            length = length.wrapping_add_signed(flow.random.pick(&[-16, -1, 1, 4, 16, 65_536]));
        }
        if flow.breaks("length counts the marker") {
            length += 4;
        }
        flow.put64(at, self.initiator);
        flow.put64(at + 8, self.responder);
        flow.put(at + 16, &[self.next, self.version, self.exchange, self.flags]);
        flow.put32(at + 20, self.message);
        flow.put32(at + 24, length);
    }
}

/// Writes a chain of payloads behind a header at `at`; the type of the first.
fn chain(flow: &mut Flow, at: usize, kinds: &[u8], others: &[u8]) -> u8 {
    let count = flow.random.size(1, 6);
    let lengths: Vec<usize> = (0..count).map(|_| 8 + flow.random.size(0, 60)).collect();
    let body: usize = lengths.iter().sum();
    let mut total = at + 28 + body;
    // A chain that ends before the message does, or behind it.
    if flow.breaks("chain short") {
        total += flow.random.pick(&[1, 4, 16]);
    }
    if flow.breaks("chain long") {
        total -= flow.random.pick(&[1, 4, 7]);
    }
    flow.fill_fresh(total, total);
    let first = if flow.breaks("next payload") { flow.random.pick(others) } else { kinds[0] };
    let (mut here, mut kind) = (at + 28, first);
    let spoilt = flow.random.size(0, count - 1);
    for (place, length) in lengths.iter().enumerate() {
        let mut next = if place + 1 < count { flow.random.pick(kinds) } else { 0 };
        let (mut reserved, mut claimed) = (0, *length as u16);
        if place == spoilt {
            if flow.breaks("payload reserved") {
                reserved = flow.random.between(1, 127) as u8;
            }
            if flow.breaks("payload length") {
                // Shorter than its own head, or beyond the end; one that is only longer might meet another head.
                claimed = flow.random.pick(&[0, 1, 2, 3, 2_000, 65_535]);
            }
            if flow.breaks("payload type") {
                next = flow.random.pick(others);
            }
        }
        flow.put(here, &[next, reserved]);
        flow.put16(here + 2, claimed);
        if kind == VENDOR_V1 && *length >= 24 && flow.random.one_in(4) {
            flow.put(here + 4, &WINDOWS);
        }
        (here, kind) = (here + length, next);
    }
    first
}

const PAYLOADS_V2: [u8; 6] = [33, 34, 40, 41, 43, 41];
/// Not assigned in IKEv2's range for what stands in clear, or IKEv1's.
const NO_PAYLOADS_V2: [u8; 8] = [1, 4, 13, 20, 32, 61, 100, 200];

fn ikev2(flow: &mut Flow, at: usize, response: bool) {
    let next = chain(flow, at, &PAYLOADS_V2, &NO_PAYLOADS_V2);
    let header = Header {
        initiator: flow.random.word() | 1,
        responder: if response { flow.random.word() | 1 } else { 0 },
        next,
        version: 0x20,
        exchange: 34,
        flags: if response { 0x20 } else { 0x08 },
        message: 0,
    };
    header.write(flow, at);
}

fn ikev2_request(flow: &mut Flow) {
    flow.socket(&[500]);
    for _ in 0..flow.random.between(1, 4) {
        ikev2(flow, 0, false);
        flow.send(0);
        flow.wait(4 * SECOND);
    }
}

fn ikev2_response(flow: &mut Flow) {
    flow.socket(&[500]);
    for _ in 0..flow.random.between(1, 4) {
        ikev2(flow, 0, true);
        flow.send(0);
        flow.wait(4 * SECOND);
    }
}

fn ikev2_request_behind_marker(flow: &mut Flow) {
    flow.socket(&[4_500]);
    for _ in 0..flow.random.between(1, 4) {
        ikev2(flow, 4, false);
        let marker = if flow.breaks("marker") { flow.random.between(1, 0xffff_ffff) as u32 } else { 0 };
        flow.put32(0, marker);
        flow.send(0);
        flow.wait(4 * SECOND);
    }
}

fn ikev2_encrypted(flow: &mut Flow) {
    flow.socket(&[500, 4_500]);
    let (initiator, responder) = (flow.random.word() | 1, flow.random.word() | 1);
    let first = flow.random.between(1, 9) as u32;
    for message in first..=first + flow.random.between(0, 5) as u32 {
        let marked = if flow.ports.contains(&4_500) { 4 } else { 0 };
        let length = flow.random.size(40, 400);
        flow.fill_fresh(marked + 28 + length, marked + 44);
        flow.put32(0, 0);
        let mut next = flow.random.pick(&[46, 46, 46, 53]);
        if flow.breaks("next payload") {
            next = flow.random.pick(&[0, 1, 8, 13, 32, 33, 44, 47, 61, 128]);
        }
        let mut claimed = length as u16;
        if flow.breaks("SK length") {
            claimed = claimed.wrapping_add_signed(flow.random.pick(&[-16, -4, -1, 1, 4, 28]));
        }
        let reserved = if flow.breaks("SK reserved") { flow.random.between(1, 127) as u8 } else { 0 };
        let inner = flow.random.pick(&[0, 33, 35, 36, 41, 47]);
        flow.put(marked + 28, &[inner, reserved]);
        flow.put16(marked + 30, claimed);
        let header = Header {
            initiator,
            responder,
            next,
            version: 0x20,
            exchange: flow.random.pick(&[35, 36, 37, 43, 44]),
            flags: flow.random.pick(&[0x08, 0x00, 0x20, 0x28]),
            message,
        };
        header.write(flow, marked);
        flow.send(0);
    }
}

/// IKEv1's vendor id payload.
const VENDOR_V1: u8 = 13;
/// The vendor id of Windows: MD5 of "MS NT5 ISAKMPOAKLEY".
const WINDOWS: [u8; 16] =
    [0x1e, 0x2b, 0x51, 0x69, 0x05, 0x99, 0x1c, 0x7d, 0x7c, 0x96, 0xfc, 0xbf, 0xb5, 0x87, 0xe4, 0x61];

const PAYLOADS_V1: [u8; 6] = [1, 13, 4, 10, 20, 13];
const NO_PAYLOADS_V1: [u8; 6] = [23, 33, 46, 53, 100, 127];

fn ikev1_clear(flow: &mut Flow) {
    flow.socket(&[500]);
    for _ in 0..flow.random.between(1, 4) {
        let next = chain(flow, 0, &PAYLOADS_V1, &NO_PAYLOADS_V1);
        let answered = flow.random.one_in(2);
        let header = Header {
            initiator: flow.random.word() | 1,
            responder: if answered { flow.random.word() | 1 } else { 0 },
            next,
            version: 0x10,
            exchange: flow.random.pick(&[2, 4]),
            flags: if flow.breaks("flags") { 0x08 } else { 0 },
            message: 0,
        };
        header.write(flow, 0);
        flow.send(0);
        flow.wait(4 * SECOND);
    }
}

fn write_ikev1_encrypted(flow: &mut Flow, initiator: u64, responder: u64) {
    let mut length = 8 * flow.random.size(5, 40);
    if flow.breaks("length in eights") {
        length += flow.random.size(1, 7);
    }
    flow.fill_fresh(28 + length, 44);
    let exchange = flow.random.pick(&[2, 6, 32]);
    let mut next = flow.random.pick(&[5, 8, 8, 8]);
    if flow.breaks("next payload") {
        next = flow.random.pick(&[0, 14, 22, 33, 46, 100, 127]);
    }
    let header = Header {
        initiator,
        responder,
        next,
        version: 0x10,
        exchange,
        flags: if flow.breaks("flags") { 0x09 } else { 0x01 },
        message: if exchange == 2 { 0 } else { flow.random.u32() | 1 },
    };
    header.write(flow, 0);
    flow.send(0);
}

fn ikev1_encrypted(flow: &mut Flow) {
    flow.ports[1] = 500;
    let (initiator, responder) = (flow.random.word() | 1, flow.random.word() | 1);
    for _ in 0..flow.random.between(1, 6) {
        write_ikev1_encrypted(flow, initiator, responder);
    }
}

fn ikev1_encrypted_off_port(flow: &mut Flow) {
    flow.ports = [flow.random.between(5_000, 65_535) as u16, flow.random.between(5_000, 65_535) as u16];
    let (mut initiator, responder) = (flow.random.word() | 1, flow.random.word() | 1);
    for _ in 0..flow.random.between(2, 6) {
        write_ikev1_encrypted(flow, initiator, responder);
        if flow.breaks("initiator's SPI changes") {
            initiator = flow.random.word() | 1;
        }
    }
}

/// Off its port one encrypted IKEv1 message is likely, and what is beside it does not change that.
fn esp_beside_ike(flow: &mut Flow) {
    flow.ports = [flow.random.between(5_000, 65_535) as u16, flow.random.between(5_000, 65_535) as u16];
    let (initiator, responder) = (flow.random.word() | 1, flow.random.word() | 1);
    // The length of the IKE message is not what is broken.
    flow.fill(28 + 64);
    flow.put64(0, initiator);
    flow.put64(8, responder);
    flow.put(16, &[8, 0x10, 32, 1]);
    let message = flow.random.u32() | 1;
    flow.put32(20, message);
    flow.put32(24, 28 + 64);
    flow.send(0);
    for _ in 0..flow.random.between(1, 6) {
        let mut association = Association::new(flow);
        association.send(flow, 0);
        flow.fill_with(0xff, 1);
        flow.send(0);
    }
}

/// One direction's ESP.
struct Association {
    spi: u32,
    sequence: u32,
}

impl Association {
    fn new(flow: &mut Flow) -> Self {
        let spi = spi(flow);
        // Also mid-flow, and high enough to fall.
        let first = if flow.random.one_in(2) && !flow.breaks("sequence falls") { 1 } else { 100_000 };
        Self { spi, sequence: flow.random.between(first, first + 1_000_000) as u32 }
    }

    fn step(&mut self, flow: &mut Flow) {
        if flow.breaks("SPI changes") {
            self.spi = spi(flow);
        }
        let step = flow.random.pick(&[1, 1, 1, 1, 1, 2, 3, 9]);
        if flow.breaks("sequence falls") {
            self.sequence -= step;
        } else if flow.breaks("sequence jumps") {
            self.sequence = self.sequence.wrapping_add(flow.random.between(65, 1 << 24) as u32);
        } else if !flow.breaks("sequence constant") {
            self.sequence = self.sequence.wrapping_add(step);
        }
    }

    fn send(&mut self, flow: &mut Flow, direction: u8) {
        let mut length = 36 + 4 * flow.random.size(0, 350);
        if flow.breaks("length in fours") {
            length += flow.random.size(1, 3);
        }
        if flow.breaks("too short") {
            length = 4 * flow.random.size(2, 4);
        }
        flow.fill(length);
        flow.put32(0, self.spi);
        flow.put32(4, self.sequence);
        flow.send(direction);
        self.step(flow);
    }
}

/// An SPI that begins like nothing else here: no type word of WireGuard's, no opcode of OpenVPN's data.
fn spi(flow: &mut Flow) -> u32 {
    if flow.breaks("SPI zero") {
        0
    } else if flow.breaks("SPI reserved") {
        flow.random.between(1, 255) as u32
    } else {
        flow.random.between(0xc000_0000, 0xcfff_ffff) as u32
    }
}

fn esp_in_udp(flow: &mut Flow) {
    flow.ports[1] = 4_500;
    if flow.random.one_in(2) {
        flow.ports[0] = 4_500;
    }
    let mut there = Association::new(flow);
    let mut back = Association::new(flow);
    // Senders should leave the checksum out (RFC 3948, 2.1). Those that do not show it in both directions.
    flow.checksum_zero = flow.ip_version == 4 && !flow.random.one_in(4);
    let mut both = !flow.checksum_zero || flow.random.one_in(2) || flow.breaks("same SPI both ways");
    if flow.breaks("one way, checksummed") {
        (flow.checksum_zero, both) = (false, false);
    }
    if flow.breaks("same SPI both ways") {
        back.spi = there.spi;
        // From the first packet on each side knows what the other sends.
        back.send(flow, 1);
    }
    for turn in 0..flow.random.between(10, 64) {
        if both && turn % 2 == 1 {
            back.send(flow, 1);
        } else {
            there.send(flow, 0);
        }
    }
}

fn esp_in_udp_off_port(flow: &mut Flow) {
    flow.ports = [flow.random.between(5_000, 65_535) as u16, flow.random.between(5_000, 65_535) as u16];
    flow.ip_version = 4;
    flow.checksum_zero = !flow.breaks("checksum");
    let mut there = Association::new(flow);
    let mut back = Association::new(flow);
    if flow.breaks("same SPI both ways") {
        back.spi = there.spi;
    }
    let packets = if flow.breaks("too few") { flow.random.between(2, 60) } else { flow.random.between(68, 90) };
    for turn in 0..packets {
        if turn % 2 == 1 && !flow.breaks("one way") {
            back.send(flow, 1);
        } else {
            there.send(flow, 0);
        }
    }
}

fn esp(flow: &mut Flow) {
    flow.transport = Transport::Esp;
    let mut association = Association::new(flow);
    for _ in 0..flow.random.between(3, 40) {
        association.send(flow, 0);
    }
}

fn ah(flow: &mut Flow) {
    flow.transport = Transport::Ah;
    let mut association = Association::new(flow);
    for _ in 0..flow.random.between(2, 40) {
        let header = flow.random.pick(&[24, 28, 32]);
        let rest = flow.random.size(8, 1_000);
        flow.fill(header + rest);
        let mut words = (header / 4 - 2) as u8;
        if flow.breaks("length") {
            // Below an ICV of 96 bits, or beyond the packet.
            words = if flow.random.one_in(2) { flow.random.between(0, 2) as u8 } else { 255 };
            let length = flow.random.size(12, 1_000);
            flow.resize(length);
        }
        let inner = flow.random.pick(&[4, 6, 17, 41, 50]);
        let reserved = if flow.breaks("reserved") { flow.random.between(1, 0xffff) as u16 } else { 0 };
        flow.put(0, &[inner, words]);
        flow.put16(2, reserved);
        flow.put32(4, association.spi);
        flow.put32(8, association.sequence);
        flow.send(0);
        association.step(flow);
    }
}
