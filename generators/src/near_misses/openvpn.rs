//! OpenVPN over UDP: openvpn-wire-protocol (OpenVPN/openvpn-rfc), ssl_pkt.h, reliable.h, packet_id.c, tls_crypt.h.

use vpn_classifier_core::fingerprint::{Confidence, Protocol};

use super::Rule;
use crate::flow::{Flow, MILLISECOND, SECOND};

const fn rule(
    name: &'static str,
    control: Confidence,
    fields: &'static [&'static str],
    generate: fn(&mut Flow),
) -> Rule {
    Rule { protocol: Protocol::OpenVpn, name, control, fields, stream: None, generate }
}

pub(super) static RULES: &[Rule] = &[
    rule(
        "openvpn.client_reset_plain",
        Confidence::Likely,
        &["opcode", "key id", "length", "session id zero", "acknowledgments", "message id"],
        client_reset_plain,
    ),
    rule(
        "openvpn.server_reset_plain",
        Confidence::Confirmed,
        &[
            "opcode",
            "key id",
            "length",
            "session id zero",
            "acknowledgments",
            "acknowledged id",
            "peer's session id zero",
            "message id",
        ],
        server_reset_plain,
    ),
    rule(
        "openvpn.client_reset_tls_auth",
        Confidence::Confirmed,
        &["opcode", "key id", "length", "session id zero", "replay id", "time", "acknowledgments", "message id"],
        client_reset_tls_auth,
    ),
    rule(
        "openvpn.server_reset_tls_auth",
        Confidence::Confirmed,
        &[
            "opcode",
            "key id",
            "length",
            "session id zero",
            "replay id",
            "time",
            "acknowledgments",
            "acknowledged id",
            "peer's session id zero",
            "message id",
        ],
        server_reset_tls_auth,
    ),
    rule(
        "openvpn.reset_tls_crypt_pair",
        Confidence::Confirmed,
        &[
            "opcode",
            "key id",
            "length",
            "session id zero",
            "session id changes",
            "replay id",
            "replay id constant",
            "time changes",
        ],
        reset_tls_crypt_pair,
    ),
    rule(
        "openvpn.reset_tls_crypt_v2",
        Confidence::Confirmed,
        &["opcode", "key id", "length", "length at the end", "session id zero", "replay id", "time"],
        reset_tls_crypt_v2,
    ),
    rule(
        "openvpn.control_pair_plain",
        Confidence::Confirmed,
        &[
            "opcode",
            "session id zero",
            "session id changes",
            "no acknowledgments",
            "acknowledgments",
            "acknowledged id",
            "peer's session id zero",
            "peer's session id changes",
            "message id",
            "the same again",
            "cut short",
        ],
        control_pair_plain,
    ),
    rule(
        "openvpn.control_pair_tls_auth",
        Confidence::Confirmed,
        &[
            "opcode",
            "session id zero",
            "session id changes",
            "replay id",
            "replay id constant",
            "replay id jumps",
            "replay id falls",
            "time",
            "time changes",
            "acknowledgments",
            "acknowledged id",
            "message id",
        ],
        control_pair_tls_auth,
    ),
    rule(
        "openvpn.control_pair_tls_crypt",
        Confidence::Confirmed,
        &[
            "opcode",
            "session id zero",
            "session id changes",
            "replay id",
            "replay id constant",
            "replay id jumps",
            "replay id falls",
            "time",
            "time changes",
            "cut short",
        ],
        control_pair_tls_crypt,
    ),
    rule(
        "openvpn.acknowledgments_plain",
        Confidence::Confirmed,
        &[
            "opcode",
            "length",
            "session id zero",
            "session id changes",
            "acknowledgments",
            "acknowledged id",
            "peer's session id zero",
            "peer's session id changes",
            "the same again",
        ],
        acknowledgments_plain,
    ),
    rule(
        "openvpn.session_echo",
        Confidence::Confirmed,
        &["peer's session id", "acknowledged id", "message id"],
        session_echo,
    ),
    rule(
        "openvpn.data_v2_run",
        Confidence::Confirmed,
        &[
            "opcode",
            "peer id changes",
            "packet id constant",
            "packet id jumps",
            "packet id falls",
            "packet id too high",
            "one length",
            "too short",
            "TURN's length",
            "too few",
        ],
        data_v2_run,
    ),
    rule(
        "openvpn.data_epoch_run",
        Confidence::Confirmed,
        &[
            "opcode",
            "peer id changes",
            "epoch 0",
            "epoch changes",
            "packet id constant",
            "packet id jumps",
            "packet id falls",
            "one length",
            "too short",
            "too few",
        ],
        data_epoch_run,
    ),
    rule(
        "openvpn.data_v1_run",
        Confidence::Confirmed,
        &[
            "opcode",
            "key id changes",
            "packet id constant",
            "packet id jumps",
            "packet id falls",
            "packet id too high",
            "one length",
            "no keepalive",
            "GTP-U",
            "too few",
        ],
        data_v1_run,
    ),
    rule(
        "openvpn.data_v1_run_soft_reset",
        Confidence::Confirmed,
        &["opcode", "key id", "length", "session id zero", "acknowledgments", "message id"],
        data_v1_run_soft_reset,
    ),
    rule(
        "openvpn.data_cbc_run",
        Confidence::Likely,
        &["opcode", "peer id changes", "length in blocks", "one length", "nothing drawn", "too few"],
        data_cbc_run,
    ),
    rule("openvpn.data_after_control", Confidence::Likely, &["time", "length", "too short"], data_after_control),
];

const SOFT_RESET: u8 = 3;
const CONTROL: u8 = 4;
const ACK: u8 = 5;
const DATA_V1: u8 = 6;
const CLIENT_RESET_V2: u8 = 7;
const SERVER_RESET_V2: u8 = 8;
const DATA_V2: u8 = 9;
const CLIENT_RESET_V3: u8 = 10;
/// Opcodes that no packet has: 0, the obsolete ones, and those above the highest.
const NO_OPCODES: [u8; 8] = [0, 1, 2, 12, 13, 20, 28, 31];

/// How control packets are wrapped.
#[derive(Clone, Copy)]
enum Wrapping {
    Plain,
    /// With the HMAC's size.
    TlsAuth(usize),
    TlsCrypt,
}

/// MD5, SHA1, SHA224, SHA256, SHA384, SHA512.
const DIGESTS: [usize; 6] = [16, 20, 28, 32, 48, 64];

/// A control packet's fields.
#[derive(Clone)]
struct Control {
    opcode: u8,
    key_id: u8,
    session: u64,
    wrapping: Wrapping,
    replay: u32,
    time: u32,
    /// What the count of acknowledgments says, if not the truth.
    claimed: Option<u8>,
    acknowledged: Vec<u32>,
    peer: u64,
    message: u32,
    /// Bytes of TLS.
    rest: usize,
}

impl Control {
    fn new(flow: &mut Flow, opcode: u8, wrapping: Wrapping) -> Self {
        Self {
            opcode,
            key_id: 0,
            session: flow.random.word() | 1,
            wrapping,
            replay: 1,
            time: (flow.time / SECOND) as u32,
            claimed: None,
            acknowledged: Vec::new(),
            peer: flow.random.word() | 1,
            message: 0,
            rest: 0,
        }
    }

    /// Breaks the fields that every control packet has.
    fn break_fields(&mut self, flow: &mut Flow) {
        if flow.breaks("opcode") {
            self.opcode = flow.random.pick(&NO_OPCODES);
        }
        if flow.breaks("key id") {
            self.key_id = flow.random.between(1, 7) as u8;
        }
        if flow.breaks("session id zero") {
            self.session = 0;
        }
        if flow.breaks("session id changes") {
            self.session = flow.random.word() | 1;
        }
        if flow.breaks("acknowledged id") {
            let id = flow.random.between(256, u32::MAX.into()) as u32;
            if let Some(first) = self.acknowledged.first_mut() {
                *first = id;
            }
        }
        if flow.breaks("peer's session id zero") {
            self.peer = 0;
        }
        if flow.breaks("peer's session id changes") {
            self.peer = flow.random.word() | 1;
        }
        if flow.breaks("message id") {
            self.message = flow.random.between(256, u32::MAX.into()) as u32;
        }
        if flow.breaks("time changes") {
            // Another one with each replay id.
            let away = 1 + self.replay % 0x1000 * 60 + flow.random.between(0, 59) as u32;
            self.time = self.time.wrapping_sub(away);
        }
    }

    fn write(&self, flow: &mut Flow) {
        let head = match self.wrapping {
            Wrapping::Plain => 9,
            Wrapping::TlsAuth(hmac) => 9 + hmac + 8,
            Wrapping::TlsCrypt => 49,
        };
        let list = 1 + if self.acknowledged.is_empty() { 0 } else { 4 * self.acknowledged.len() + 8 };
        let message = if self.opcode == ACK { 0 } else { 4 };
        flow.fill_fresh(head + list + message + self.rest, head + list + message + 8);
        flow.put(0, &[self.opcode << 3 | self.key_id]);
        flow.put64(1, self.session);
        match self.wrapping {
            Wrapping::Plain => {}
            Wrapping::TlsAuth(hmac) => {
                flow.put32(9 + hmac, self.replay);
                flow.put32(9 + hmac + 4, self.time);
            }
            Wrapping::TlsCrypt => {
                flow.put32(9, self.replay);
                flow.put32(13, self.time);
                return;
            }
        }
        flow.put(head, &[self.claimed.unwrap_or(self.acknowledged.len() as u8)]);
        let mut at = head + 1;
        for &id in &self.acknowledged {
            flow.put32(at, id);
            at += 4;
        }
        if !self.acknowledged.is_empty() {
            flow.put64(at, self.peer);
            at += 8;
        }
        if message > 0 {
            flow.put32(at, self.message);
        }
    }
}

/// A replay id that no opening carries.
fn wrong_replay(flow: &mut Flow) -> u32 {
    match flow.random.between(0, 3) {
        0 => 0,
        1 => flow.random.between(17, 0xffff) as u32,
        2 => flow.random.between(0x0001_0001, 0x09ff_ffff) as u32,
        _ => flow.random.between(0x1000_0000, 0xffff_ffff) as u32,
    }
}

/// A time more than a day before or behind the capture's.
fn wrong_time(flow: &mut Flow) -> u32 {
    let now = (flow.time / SECOND) as u32;
    let away = 86_400 * 2 + flow.random.between(0, 1 << 29) as u32;
    if flow.random.one_in(2) { now.wrapping_add(away) } else { now.wrapping_sub(away) }
}

/// A client's resets, each of a session of its own.
fn client_resets(flow: &mut Flow, wrapping: Wrapping) {
    for _ in 0..flow.random.between(1, 4) {
        let mut control = Control::new(flow, CLIENT_RESET_V2, wrapping);
        control.replay = flow.random.between(1, 6) as u32;
        send_reset(flow, control);
        flow.time += 2 * SECOND;
    }
}

/// A server's resets, each of a session of its own.
fn server_resets(flow: &mut Flow, wrapping: Wrapping) {
    for _ in 0..flow.random.between(1, 4) {
        let mut control = Control::new(flow, SERVER_RESET_V2, wrapping);
        control.replay = flow.random.between(1, 6) as u32;
        control.acknowledged = vec![0];
        send_reset(flow, control);
        flow.time += 2 * SECOND;
    }
}

fn send_reset(flow: &mut Flow, mut control: Control) {
    control.break_fields(flow);
    if flow.breaks("message id") {
        control.message = flow.random.between(1, u32::MAX.into()) as u32;
    }
    if flow.breaks("acknowledged id")
        && let Some(first) = control.acknowledged.first_mut()
    {
        *first = flow.random.between(1, u32::MAX.into()) as u32;
    }
    if flow.breaks("acknowledgments") {
        // The count alone is wrong, or there is one more, or one less.
        match (flow.random.between(0, 2), control.acknowledged.is_empty()) {
            (0, true) => control.claimed = Some(flow.random.between(1, 255) as u8),
            (0, false) => control.claimed = Some(flow.random.pick(&[0, 2, 3, 8, 9, 255])),
            (1, false) => control.acknowledged.clear(),
            _ => control.acknowledged.push(0),
        }
    }
    if flow.breaks("replay id") {
        control.replay = wrong_replay(flow);
    }
    if flow.breaks("time") {
        control.time = wrong_time(flow);
    }
    control.write(flow);
    if flow.breaks("length") {
        flow.wrong_length();
    }
    flow.send(0);
}

fn client_reset_plain(flow: &mut Flow) {
    flow.socket(&[1_194]);
    let control = Control::new(flow, CLIENT_RESET_V2, Wrapping::Plain);
    // Sent again after 2, 4, 8 seconds (reliable.c).
    for retry in 1..flow.random.between(3, 5) {
        send_reset(flow, control.clone());
        flow.time += SECOND << retry;
    }
}

fn server_reset_plain(flow: &mut Flow) {
    flow.socket(&[1_194]);
    server_resets(flow, Wrapping::Plain);
}

fn client_reset_tls_auth(flow: &mut Flow) {
    flow.socket(&[1_194]);
    let digest = flow.random.pick(&DIGESTS);
    client_resets(flow, Wrapping::TlsAuth(digest));
}

fn server_reset_tls_auth(flow: &mut Flow) {
    flow.socket(&[1_194]);
    let digest = flow.random.pick(&DIGESTS);
    server_resets(flow, Wrapping::TlsAuth(digest));
}

fn reset_tls_crypt_pair(flow: &mut Flow) {
    flow.socket(&[1_194]);
    let server = flow.random.one_in(2);
    let opcode = if server { SERVER_RESET_V2 } else { CLIENT_RESET_V2 };
    let mut control = Control::new(flow, opcode, Wrapping::TlsCrypt);
    control.acknowledged = vec![0; server.into()];
    if server && flow.random.one_in(2) {
        // The flags of early negotiation.
        control.rest = 6;
    }
    for retry in 1..flow.random.between(3, 5) {
        send_reset(flow, control.clone());
        if !flow.breaks("replay id constant") {
            control.replay += 1;
        }
        flow.time += SECOND << retry;
    }
}

fn reset_tls_crypt_v2(flow: &mut Flow) {
    flow.socket(&[1_194]);
    for _ in 0..flow.random.between(1, 4) {
        let mut control = Control::new(flow, CLIENT_RESET_V3, Wrapping::TlsCrypt);
        control.replay = 0x0f00_0000 + flow.random.between(1, 6) as u32;
        control.break_fields(flow);
        if flow.breaks("replay id") {
            control.replay = wrong_replay(flow);
        }
        if flow.breaks("time") {
            control.time = wrong_time(flow);
        }
        let key = flow.random.size(290, 1_024);
        control.rest = key;
        control.write(flow);
        let mut claimed = key as u16;
        if flow.breaks("length at the end") {
            claimed =
                flow.random.pick(&[0, 1, 290, 299, claimed ^ 1, claimed + 16, claimed - 16, claimed.swap_bytes()]);
            if claimed == key as u16 {
                claimed += 1;
            }
        }
        flow.put16(54 + key - 2, claimed);
        if flow.breaks("length") {
            flow.wrong_length();
            // What is now at the end must not happen to fit.
            let end = flow.length() - 2;
            flow.put16(end, key as u16);
        }
        flow.send(0);
        flow.time += 2 * SECOND;
    }
}

/// Control packets of one session that follow each other.
fn control_packets(flow: &mut Flow, wrapping: Wrapping) {
    let mut control = Control::new(flow, CONTROL, wrapping);
    control.message = flow.random.between(1, 4) as u32;
    control.replay = flow.random.between(2, 9) as u32;
    let began = flow.random.between(0, 600) as u32;
    control.time -= began;
    if flow.breaks("replay id falls") {
        control.replay = 0xf00;
    }
    if flow.breaks("time") {
        // In the future, or longer ago than sessions last.
        let now = (flow.time / SECOND) as u32;
        control.time = if flow.random.one_in(2) {
            now + 86_400 * 2 + flow.random.between(0, 1 << 28) as u32
        } else {
            now - 86_400 * 100 - flow.random.between(0, 1 << 28) as u32
        };
    }
    let count = flow.random.between(2, 24);
    for _ in 0..count {
        control.rest = flow.random.size(1, 1_150);
        let most = flow.random.between(1, 4) as u32;
        control.acknowledged =
            if flow.breaks("no acknowledgments") { Vec::new() } else { (0..most.min(control.message)).collect() };
        let mut packet = control.clone();
        packet.break_fields(flow);
        if flow.breaks("acknowledgments") {
            // More than there can be, or a list that runs over the end.
            if flow.random.one_in(2) {
                packet.claimed = Some(flow.random.between(9, 255) as u8);
            } else {
                packet.claimed = Some(8);
                packet.rest = 0;
            }
        }
        if flow.breaks("replay id") {
            // Of no session that was seen: the upper half, or too large for a handshake.
            packet.replay = match flow.random.between(0, 1) {
                0 => packet.replay | (flow.random.between(1, 0x9ff) as u32) << 16,
                _ => packet.replay | 0x8000_0000 | flow.random.u32() << 16,
            };
        }
        packet.write(flow);
        if flow.breaks("cut short") {
            let least = if matches!(wrapping, Wrapping::TlsCrypt) { 17 } else { 9 };
            let most = least + 3 + 4 * packet.acknowledged.len();
            let length = flow.random.size(least, most);
            flow.resize(length);
        }
        flow.send(0);
        if flow.breaks("the same again") {
            for _ in 0..count {
                flow.wait(SECOND);
                flow.send(0);
            }
            return;
        }
        control.message += 1;
        if flow.breaks("replay id jumps") {
            control.replay += 65 + flow.random.between(0, 90) as u32;
        } else if flow.breaks("replay id falls") {
            control.replay -= 1;
        } else if !flow.breaks("replay id constant") {
            control.replay += 1;
        }
    }
}

fn control_pair_plain(flow: &mut Flow) {
    flow.socket(&[1_194]);
    control_packets(flow, Wrapping::Plain);
}

fn control_pair_tls_auth(flow: &mut Flow) {
    flow.socket(&[1_194]);
    let digest = flow.random.pick(&DIGESTS);
    control_packets(flow, Wrapping::TlsAuth(digest));
}

fn control_pair_tls_crypt(flow: &mut Flow) {
    flow.socket(&[1_194]);
    control_packets(flow, Wrapping::TlsCrypt);
}

fn acknowledgments_plain(flow: &mut Flow) {
    flow.socket(&[1_194]);
    let mut control = Control::new(flow, ACK, Wrapping::Plain);
    for count in 1..flow.random.between(3, 9) {
        control.acknowledged = (0..count.min(8) as u32).rev().collect();
        let mut packet = control.clone();
        packet.break_fields(flow);
        if flow.breaks("acknowledgments") {
            packet.claimed =
                Some((packet.acknowledged.len() as u8).wrapping_add(flow.random.pick(&[1, 2, 5, 100, 255])));
        }
        packet.write(flow);
        if flow.breaks("length") {
            flow.wrong_length();
        }
        flow.send(0);
        if flow.breaks("the same again") {
            for _ in 0..count {
                flow.send(0);
            }
            return;
        }
    }
}

fn session_echo(flow: &mut Flow) {
    flow.socket(&[1_194]);
    let mut client = Control::new(flow, CONTROL, Wrapping::Plain);
    client.message = flow.random.between(1, 9) as u32;
    client.rest = flow.random.size(1, 1_150);
    client.write(flow);
    flow.send(0);
    let opcode = if flow.random.one_in(2) { ACK } else { CONTROL };
    let mut server = Control::new(flow, opcode, Wrapping::Plain);
    server.acknowledged = vec![client.message];
    server.message = flow.random.between(1, 9) as u32;
    server.peer = if flow.breaks("peer's session id") { flow.random.word() | 1 } else { client.session };
    server.break_fields(flow);
    if flow.breaks("message id") {
        // An ACK has none.
        server.opcode = CONTROL;
    }
    server.rest = if server.opcode == ACK { 0 } else { flow.random.size(1, 1_150) };
    server.write(flow);
    flow.send(1);
}

/// A length of data: now and then that of a keepalive.
fn data_length(flow: &mut Flow, keepalive: usize) -> usize {
    if flow.breaks("one length") {
        return 120;
    }
    if flow.breaks("too short") {
        return flow.random.size(12, 19);
    }
    if flow.random.one_in(4) && !flow.breaks("no keepalive") { keepalive } else { flow.random.size(60, 1_440) }
}

/// The packet id that comes next.
fn next_packet_id(flow: &mut Flow, id: u64) -> u64 {
    let step = flow.random.pick(&[1, 1, 1, 1, 1, 2, 3, 9]);
    if flow.breaks("packet id constant") {
        id
    } else if flow.breaks("packet id falls") {
        id - step
    } else if flow.breaks("packet id jumps") {
        id + flow.random.between(65, 100_000)
    } else {
        id + step
    }
}

/// How many data packets: enough for the level, or too few for it.
fn packets(flow: &mut Flow, enough: usize) -> usize {
    if flow.breaks("too few") { flow.random.size(1, enough - 1) } else { flow.random.size(enough + 4, 64) }
}

/// A port that tells nothing: on 4500 ESP's rules hold instead.
fn data_socket(flow: &mut Flow) {
    flow.socket(&[1_194, 443, 53, 1_195]);
    for port in &mut flow.ports {
        if *port == 4_500 {
            *port = 1_194;
        }
    }
    // ESP's form is a look-alike of its own.
    flow.checksum_zero = false;
}

/// Packet ids begin at 1 with each key, and keys are renewed every hour (2^28 in an hour are 75,000 a second).
fn first_packet_id(flow: &mut Flow) -> u64 {
    if flow.breaks("packet id too high") {
        flow.random.between(1 << 30, (1 << 32) - 4_096)
    } else if flow.random.one_in(2) && !flow.breaks("packet id falls") {
        flow.random.between(1, 9)
    } else {
        flow.random.between(100_000, 1 << 28)
    }
}

fn opcode_or_none(flow: &mut Flow, opcode: u8) -> u8 {
    if flow.breaks("opcode") {
        let other = flow.random.pick(&[0, 1, 2, SOFT_RESET, CONTROL, ACK, CLIENT_RESET_V2, 12, 24, 31]);
        other << 3
    } else {
        opcode << 3
    }
}

fn data_v2_run(flow: &mut Flow) {
    data_socket(flow);
    let head = u32::from(opcode_or_none(flow, DATA_V2)) << 24;
    let mut peer = flow.random.between(0, 4_000) as u32;
    let mut id = first_packet_id(flow);
    for _ in 0..packets(flow, 12) {
        let mut length = data_length(flow, 40);
        if flow.breaks("TURN's length") {
            // Channel data says its length, and may be padded to four bytes.
            peer = 0x1f4;
            length = 4 + 0x1f4 + flow.random.size(0, 3);
        }
        flow.fill(length);
        flow.put32(0, head | peer);
        flow.put32(4, id as u32);
        flow.send(0);
        id = next_packet_id(flow, id);
        if flow.breaks("peer id changes") {
            peer = (peer + flow.random.between(1, 4_000) as u32) & 0x00ff_ffff;
        }
    }
}

fn data_epoch_run(flow: &mut Flow) {
    data_socket(flow);
    let head = u32::from(opcode_or_none(flow, DATA_V2)) << 24;
    let mut peer = flow.random.between(0, 4_000) as u32;
    let mut epoch = if flow.breaks("epoch 0") { 0 } else { flow.random.between(1, 40) as u16 };
    let mut id = first_packet_id(flow);
    for _ in 0..packets(flow, 12) {
        let length = data_length(flow, 44);
        flow.fill(length);
        flow.put32(0, head | peer);
        flow.put64(4, u64::from(epoch) << 48 | id);
        flow.send(0);
        id = next_packet_id(flow, id);
        if flow.breaks("peer id changes") {
            peer = (peer + flow.random.between(1, 4_000) as u32) & 0x00ff_ffff;
        }
        if flow.breaks("epoch changes") {
            epoch = epoch.wrapping_add(flow.random.between(1, 9) as u16);
        }
    }
}

fn data_v1_run(flow: &mut Flow) {
    data_socket(flow);
    let key_id = flow.random.between(0, 7) as u8;
    let mut head = opcode_or_none(flow, DATA_V1) | key_id;
    let mut id = first_packet_id(flow);
    let length_of_gtp = flow.random.size(60, 1_400);
    for _ in 0..packets(flow, 16) {
        let length = data_length(flow, 37);
        flow.fill(length);
        flow.put(0, &[head]);
        flow.put32(1, id as u32);
        if flow.breaks("GTP-U") {
            // Its length is constant for a voice codec; the tunnel's id begins where the counter ends.
            flow.resize(length_of_gtp + 8);
            flow.put(1, &[0xff]);
            flow.put16(2, length_of_gtp as u16);
            flow.put(4, &[id as u8]);
        }
        flow.send(0);
        flow.wait(10 * MILLISECOND);
        id = next_packet_id(flow, id);
        if flow.breaks("key id changes") {
            head = head & !7 | (head + 1) & 7;
        }
    }
}

fn data_v1_run_soft_reset(flow: &mut Flow) {
    data_socket(flow);
    let mut id = first_packet_id(flow);
    let packets = flow.random.size(20, 64);
    let reset = flow.random.size(0, packets - 1);
    for turn in 0..packets {
        if turn == reset {
            let mut control = Control::new(flow, SOFT_RESET, Wrapping::Plain);
            control.break_fields(flow);
            // The first session alone has key id 0.
            control.key_id = if flow.breaks("key id") { 0 } else { 1 };
            if flow.breaks("message id") {
                control.message = flow.random.between(1, u32::MAX.into()) as u32;
            }
            if flow.breaks("acknowledgments") {
                control.claimed = Some(flow.random.between(1, 255) as u8);
            }
            control.write(flow);
            if flow.breaks("length") {
                flow.wrong_length();
            }
            flow.send(0);
        }
        let length = flow.random.size(60, 1_440);
        flow.fill(length);
        flow.put(0, &[DATA_V1 << 3]);
        flow.put32(1, id as u32);
        flow.send(0);
        id = next_packet_id(flow, id);
    }
}

fn data_after_control(flow: &mut Flow) {
    data_socket(flow);
    let mut control = Control::new(flow, CLIENT_RESET_V2, Wrapping::TlsCrypt);
    if flow.breaks("time") {
        control.time = wrong_time(flow);
    }
    control.write(flow);
    if flow.breaks("length") {
        flow.wrong_length();
    }
    flow.send(0);
    for _ in 0..flow.random.between(1, 6) {
        let length = if flow.breaks("too short") { flow.random.size(1, 19) } else { flow.random.size(40, 1_400) };
        // No run: each of a peer of its own.
        let word = flow.random.u32();
        flow.fill(length);
        flow.put32(0, u32::from(DATA_V2 << 3) << 24 | word >> 8);
        flow.send(0);
    }
}

fn data_cbc_run(flow: &mut Flow) {
    data_socket(flow);
    let v2 = flow.random.one_in(2);
    let digest = flow.random.pick(&[20, 32, 64]);
    let mut head = u32::from(opcode_or_none(flow, if v2 { DATA_V2 } else { DATA_V1 })) << 24 | 7;
    let before = if v2 { 4 } else { 1 };
    // Of random words, two that follow each other are close together now and then: more packets than the level needs.
    let count = if flow.breaks("too few") { packets(flow, 16) } else { flow.random.size(40, 64) };
    for _ in 0..count {
        // HMAC, IV and at least one block.
        let blocks = if flow.breaks("one length") { 9 } else { flow.random.size(1, 80) };
        let mut length = before + digest + 16 + 16 * blocks;
        if flow.breaks("length in blocks") {
            length += flow.random.size(0, 15);
        }
        flow.fill(length);
        flow.put(0, &head.to_be_bytes()[..before]);
        if flow.breaks("nothing drawn") {
            flow.put(before, &[7; 8]);
        }
        flow.send(0);
        if flow.breaks("peer id changes") {
            head = if v2 {
                head & 0xff00_0000 | (head + 1) & 0x00ff_ffff
            } else {
                head & 0xf8ff_ffff | (head + 0x0100_0000) & 0x0700_0000
            };
        }
    }
}
