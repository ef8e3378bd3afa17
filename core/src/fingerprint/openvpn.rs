//! OpenVPN over UDP and TCP. Reference: openvpn-wire-protocol (OpenVPN/openvpn-rfc) and OpenVPN's ssl_pkt.h,
//! packet_id.c, tls_crypt.h, reliable.h; integers are in network order.
//!
//! ```text
//!   byte 0: opcode << 3 | key id; over TCP, a u16 length (excluding itself) stands before each packet
//!   3 SOFT_RESET   4 CONTROL   5 ACK   6 DATA_V1   7 HARD_RESET_CLIENT_V2   8 HARD_RESET_SERVER_V2
//!   9 DATA_V2     10 HARD_RESET_CLIENT_V3   11 CONTROL_WKC
//!
//!   control, plain      | op | session id 8 | A(n) | message id 4 | TLS ...
//!   control, tls-auth   | op | session id 8 | HMAC | replay id 4 | time 4 | A(n) | message id 4 | TLS ...
//!   control, tls-crypt  | op | session id 8 | replay id 4 | time 4 | tag 32 | encrypted A(n), message id, TLS ...
//!   A(n): count 1, n message ids of 4, and the peer's session id 8 when n > 0. ACK has no message id.
//!   data V2 AEAD        | op | peer id 3 | packet id 4 | tag 16 | ...
//!   data V2 epoch (2.7) | op | peer id 3 | epoch 2 | counter 6 | ... | tag 16
//!   data V1 AEAD        | op | packet id 4 | tag 16 | ...
//!   data CBC            | op | V2: peer id 3 | HMAC | IV | whole blocks
//! ```
//!
//! tls-crypt parses as plain too (no acknowledgments, a small "message id"), so the layouts are tried in the
//! order tls-crypt, tls-auth, plain. A session id that stays is worth nothing without the structure around
//! it: QUIC connection ids do that.
//!
//! Look-alikes: DNS (any opcode, by its id), QUIC 1-RTT, TURN channel data, GTP-U, DTLS 1.3, ESP in UDP whose
//! SPI begins with a data opcode. Not recognised: static key mode, and anything wrapped or scrambled.

use super::stream::{Cursor, Record, chain_closes};
use super::{
    Confidence, EvidenceKind, EvidenceSet, Finding, Fingerprint, FlowPacket, LookAlike, Outcome, Phase, Protocol, Run,
    Transport, Variant,
};

const SOFT_RESET: u8 = 3;
const CONTROL: u8 = 4;
const ACK: u8 = 5;
const DATA_V1: u8 = 6;
const CLIENT_RESET_V2: u8 = 7;
const SERVER_RESET_V2: u8 = 8;
const DATA_V2: u8 = 9;
const CLIENT_RESET_V3: u8 = 10;
const CONTROL_WKC: u8 = 11;

/// HMAC sizes of `--auth`: SHA1 (the default), SHA256, SHA512, MD5, SHA224, SHA384.
const HMAC_SIZES: [u8; 6] = [20, 32, 64, 16, 28, 48];
/// The wrapped client key that ends a tls-crypt-v2 opening: its length, itself included.
const WRAPPED_KEY: std::ops::RangeInclusive<u32> = 290..=1024;
/// A session's first packets carry replay ids from 1 (each retry counts).
const FIRST_REPLAY: u32 = 16;
/// How far a replay id may move between two packets that are said to belong together.
const REPLAY_WINDOW: i32 = 64;
/// Acknowledgments in one packet (reliable.h: 8 in ACK, 4 in others; since 2.6 old ones are repeated).
const MOST_ACKS: u8 = 8;
/// By how much message ids of one moment may differ: twelve packets are under way (reliable.h), and some were lost.
const ACK_WINDOW: u32 = 32;
/// Message ids count from 0 per key; a handshake needs some dozens.
const MOST_MESSAGES: u32 = 256;
/// A client's clock may be wrong by this much and still count as right, in seconds.
const DAY: i64 = 86_400;
/// Sessions that began so long ago may still be renegotiating.
const LONGEST_SESSION: i64 = 90 * DAY;
/// The shortest data packet: opcode, peer id, packet id, tag and one byte.
const SMALLEST_DATA: u32 = 20;
/// Packet ids count from 1 per key, and a key lives an hour: this is 149,000 packets a second.
const LARGEST_PACKET_ID: u32 = 1 << 29;
const SECOND: i64 = 1_000_000_000;

const fn kind(
    id: &'static str,
    bits: u16,
    fact: &'static str,
    source: &'static str,
    rules_out: &'static str,
) -> EvidenceKind {
    EvidenceKind { id, protocol: Protocol::OpenVpn, bits, fact, source, rules_out }
}

static CLIENT_RESET_PLAIN: EvidenceKind = kind(
    "openvpn.client_reset_plain",
    48,
    "Client's hard reset without wrapping: 14 bytes, key id 0, no acknowledgments, message id 0",
    "openvpn-wire-protocol, control channel packets; ssl_pkt.h",
    "DNS (a query is longer), ONC-RPC; not scanners' probes",
);
static SERVER_RESET_PLAIN: EvidenceKind = kind(
    "openvpn.server_reset_plain",
    80,
    "Server's hard reset without wrapping: 26 bytes, key id 0, acknowledges message 0, message id 0",
    "openvpn-wire-protocol, control channel packets; ssl_pkt.h",
    "TURN channel data and QUIC, which share its first byte",
);
static RESET_TLS_AUTH: EvidenceKind = kind(
    "openvpn.reset_tls_auth",
    75,
    "Hard reset with an HMAC: exactly the length for its digest, a first replay id, the acknowledgments of an opening",
    "openvpn-wire-protocol, HMAC authentication; ssl_pkt.c",
    "ciphertext behind an opcode: replay id, acknowledgments and message id are in clear",
);
static RESET_TLS_CRYPT: EvidenceKind = kind(
    "openvpn.reset_tls_crypt",
    44,
    "Hard reset wrapped by tls-crypt: exactly its length, key id 0, a first replay id",
    "openvpn-wire-protocol, control channel packet encryption; tls_crypt.h",
    "ciphertext behind an opcode: the replay id is in clear",
);
static RESET_TLS_CRYPT_V2: EvidenceKind = kind(
    "openvpn.reset_tls_crypt_v2",
    56,
    "Client's hard reset with its wrapped key: the length at its end fits, a first replay id",
    "openvpn-wire-protocol, client-specific encryption keys; tls_crypt.h",
    "ciphertext behind an opcode: replay id and the key's length are in clear",
);
static SESSION_TIME: EvidenceKind = kind(
    "openvpn.session_time",
    15,
    "The wrapped packet's time is within a day of the capture's",
    "packet_id.c",
    "texts and names where the time stands",
);
static RESET_REPEATED: EvidenceKind = kind(
    "openvpn.reset_repeated",
    8,
    "The hard reset was sent again, a second or more later, with the same session id",
    "reliable.c",
    "single probes; copies of a wrapped datagram, whose replay id would have moved",
);
static CONTROL_PACKET: EvidenceKind = kind(
    "openvpn.control",
    36,
    "A control packet: acknowledgments, message id, replay id and time where its wrapping has them",
    "openvpn-wire-protocol, control channel packets",
    "most datagrams that begin like an opcode; little by itself",
);
static CONTROL_PAIR: EvidenceKind = kind(
    "openvpn.control_pair",
    64,
    "Another control packet of the same session id, its replay id or message id and acknowledgments moved on",
    "openvpn-wire-protocol, reliability layer; packet_id.c",
    "DNS queries sent twice, QUIC connection ids: nothing moves on in them",
);
static SESSION_ECHO: EvidenceKind = kind(
    "openvpn.session_echo",
    64,
    "A packet acknowledges the session id that the other side sent",
    "openvpn-wire-protocol, reliability layer",
    "everything that does not send back eight drawn bytes at their place",
);
static SOFT_RESET_SEEN: EvidenceKind = kind(
    "openvpn.soft_reset",
    8,
    "Renegotiation: a soft reset with a new key id",
    "openvpn-wire-protocol, key renegotiation; ssl_pkt.h",
    "nothing by itself",
);
static DATA_AFTER_CONTROL: EvidenceKind = kind(
    "openvpn.data_after_control",
    5,
    "A data packet on the five-tuple of the control channel",
    "openvpn-wire-protocol, data channel packets",
    "nothing by itself",
);
static DATA_V2_RUN: EvidenceKind = kind(
    "openvpn.data_v2_run",
    58,
    "P_DATA_V2: the same opcode, key id and peer id again, the packet id a little higher",
    "openvpn-wire-protocol, AEAD data packets",
    "QUIC (its first byte changes), CoAP, TURN channel data, echo servers; not ESP, which needs the tie-breaks",
);
static DATA_EPOCH_RUN: EvidenceKind = kind(
    "openvpn.data_epoch_run",
    74,
    "P_DATA_V2 in the epoch format: the same epoch again, its 48-bit counter a little higher",
    "openvpn-wire-protocol, AEAD with extended packet id and epoch keys",
    "as openvpn.data_v2_run; protocols that count in 16 or 32 bits",
);
static DATA_V1_RUN: EvidenceKind = kind(
    "openvpn.data_v1_run",
    34,
    "P_DATA_V1: the same opcode and key id again, the packet id a little higher",
    "openvpn-wire-protocol, AEAD data packets",
    "GTP-U, SNMP; magic numbers with a counter whose neighbour stands still",
);
static DATA_CBC_RUN: EvidenceKind = kind(
    "openvpn.data_cbc_run",
    11,
    "A data opcode with the same key id (V2: and peer id) again, drawn bytes behind it, lengths in whole cipher blocks",
    "openvpn-wire-protocol, CBC data packets",
    "protocols that count, name themselves or send text behind their first byte; not other block ciphers",
);
static PING_LENGTH: EvidenceKind =
    kind("openvpn.ping_length", 4, "A packet of a keepalive's length among the data", "ping.c", "nothing by itself");
static RECORD_CHAIN: EvidenceKind = kind(
    "openvpn.record_chain",
    13,
    "TCP: a record whose length leads to the next one, with a legal opcode",
    "openvpn-wire-protocol, TCP; socket.c",
    "streams whose lengths do not lead from one record to the next: TLS, SSH, HTTP",
);

/// How a control packet is wrapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wrapping {
    Plain,
    /// With the HMAC's size.
    TlsAuth(u8),
    TlsCrypt,
}

/// A control packet, as far as it is in clear.
#[derive(Clone, Copy, Debug)]
struct Control {
    opcode: u8,
    session: u64,
    wrapping: Wrapping,
    /// 0 when plain.
    replay: u32,
    /// 0 when plain.
    time: u32,
    /// 0 when encrypted.
    acks: u8,
    /// Session id of the peer in the acknowledgments.
    peer: Option<u64>,
    /// `None` in an ACK, and when encrypted.
    message: Option<u8>,
    /// All fields of an opening hold.
    opening: bool,
    /// The opening ends with a wrapped client key.
    wrapped_key: bool,
    /// Only tls-crypt-v2 sends it.
    second_version: bool,
    /// `time` is plausible.
    timely: bool,
}

fn is_hard_reset(opcode: u8) -> bool {
    matches!(opcode, CLIENT_RESET_V2 | SERVER_RESET_V2 | CLIENT_RESET_V3)
}

/// Whether a control packet of this opcode can have this key id.
#[inline(always)]
fn key_fits(opcode: u8, key_id: u8) -> bool {
    match opcode {
        CLIENT_RESET_V2 | SERVER_RESET_V2 | CLIENT_RESET_V3 | CONTROL_WKC => key_id == 0,
        // The first session has key id 0, later ones 1 to 7 (ssl_pkt.h).
        SOFT_RESET => key_id > 0,
        CONTROL | ACK => true,
        _ => false,
    }
}

impl Control {
    /// Reads a control packet. `known` is the wrapping of the session, when an earlier packet showed it.
    fn parse(payload: &[u8], length: u32, time: i64, known: Option<Wrapping>) -> Option<Self> {
        let &first = payload.first()?;
        let opcode = first >> 3;
        let session = u64_at(payload, 1)?;
        if !key_fits(opcode, first & 7) || session == 0 {
            return None;
        }
        let read = Reader { payload, length, opcode, session, seconds: time / SECOND };
        match known {
            Some(Wrapping::Plain) => read.plain().or_else(|| read.tls_crypt()),
            Some(Wrapping::TlsAuth(hmac)) => read.tls_auth(hmac).or_else(|| read.tls_crypt()),
            Some(Wrapping::TlsCrypt) => read.tls_crypt(),
            None => read
                .tls_crypt()
                .or_else(|| HMAC_SIZES.iter().find_map(|&hmac| read.tls_auth(hmac)))
                .or_else(|| read.plain()),
        }
    }
}

/// A payload whose opcode, key id and session id have been read.
struct Reader<'a> {
    payload: &'a [u8],
    length: u32,
    opcode: u8,
    session: u64,
    seconds: i64,
}

impl Reader<'_> {
    fn control(&self, wrapping: Wrapping) -> Control {
        Control {
            opcode: self.opcode,
            session: self.session,
            wrapping,
            replay: 0,
            time: 0,
            acks: 0,
            peer: None,
            message: None,
            opening: false,
            wrapped_key: false,
            second_version: matches!(self.opcode, CLIENT_RESET_V3 | CONTROL_WKC),
            timely: false,
        }
    }

    /// Replay id and time at `at`, if they can be those of a session. A hard reset without a plausible time may
    /// come from a device whose clock is wrong; any other packet must have one.
    fn replay(&self, at: usize, control: &mut Control) -> Option<()> {
        control.replay = u32_at(self.payload, at)?;
        control.time = u32_at(self.payload, at + 4)?;
        let age = self.seconds - i64::from(control.time);
        // Low 16 bits count; tls-crypt-v2 clients begin at 0x0f000001 (ssl.c, EARLY_NEG_START), and 0x0a01....
        // was seen: one more reason to trust only a few top halves.
        let count = control.replay & 0xffff;
        let base_fits = matches!(control.replay >> 16, 0 | 0x0f00 | 0x0a00 | 0x0a01);
        let hard_reset = is_hard_reset(self.opcode);
        control.timely = if hard_reset { age.abs() <= DAY } else { (-DAY..=LONGEST_SESSION).contains(&age) };
        let most = if hard_reset { FIRST_REPLAY } else { 0x0fff };
        (base_fits && (1..=most).contains(&count) && (hard_reset || control.timely)).then_some(())
    }

    fn tls_crypt(&self) -> Option<Control> {
        let mut control = self.control(Wrapping::TlsCrypt);
        self.replay(9, &mut control)?;
        match self.opcode {
            CLIENT_RESET_V2 if self.length == 54 => control.opening = true,
            // With the early-negotiation flags (6 bytes, which answer a wrapped key) or without.
            SERVER_RESET_V2 if matches!(self.length, 66 | 72) => {
                control.opening = true;
                control.second_version = self.length == 72;
            }
            CLIENT_RESET_V3 if WRAPPED_KEY.contains(&self.length.checked_sub(54)?) => {
                control.opening = true;
                match u16_at(self.payload, self.length as usize - 2) {
                    Some(length) if u32::from(length) == self.length - 54 => control.wrapped_key = true,
                    Some(_) => return None,
                    // Cut by the snap length, or longer than the record head that is kept.
                    None => {}
                }
            }
            // Over renegotiation: client 54, server 66, as the hard resets.
            SOFT_RESET if matches!(self.length, 54 | 66 | 70 | 74 | 78) => {}
            CONTROL | CONTROL_WKC if self.length >= 54 => {}
            // n acknowledgments and the peer's session id, encrypted.
            ACK if (62..=90).contains(&self.length) && (self.length - 58).is_multiple_of(4) => {}
            _ => return None,
        }
        Some(control)
    }

    fn tls_auth(&self, hmac: u8) -> Option<Control> {
        let mut control = self.control(Wrapping::TlsAuth(hmac));
        let at = 9 + usize::from(hmac);
        self.replay(at, &mut control)?;
        self.acknowledgments(at + 8, &mut control)?;
        Some(control)
    }

    fn plain(&self) -> Option<Control> {
        if !is_drawn(self.session) {
            return None;
        }
        let mut control = self.control(Wrapping::Plain);
        self.acknowledgments(9, &mut control)?;
        Some(control)
    }

    /// A(n) and the message id at `at`.
    fn acknowledgments(&self, at: usize, control: &mut Control) -> Option<()> {
        let acks = *self.payload.get(at)?;
        control.acks = acks;
        let mut at = at + 1;
        if acks > MOST_ACKS {
            return None;
        }
        let (mut highest, mut lowest, mut ids) = (0, u32::MAX, 0_u64);
        for _ in 0..acks {
            let id = u32_at(self.payload, at)?;
            (highest, lowest) = (highest.max(id), lowest.min(id));
            ids |= 1 << (id % 64);
            at += 4;
        }
        // Of one window, and each once (reliable.h: twelve packets are under way).
        if acks > 0 && (highest - lowest >= ACK_WINDOW || ids.count_ones() < u32::from(acks)) {
            return None;
        }
        if acks > 0 {
            control.peer = Some(u64_at(self.payload, at)?).filter(|&peer| is_drawn(peer));
            control.peer?;
            at += 8;
        }
        if self.opcode == ACK {
            return (acks > 0 && at as u32 == self.length && highest < MOST_MESSAGES).then_some(());
        }
        let message = u32_at(self.payload, at)?;
        at += 4;
        control.message = u8::try_from(message).ok();
        let ends_here = at as u32 == self.length;
        match self.opcode {
            CLIENT_RESET_V2 => control.opening = acks == 0 && message == 0 && ends_here,
            SERVER_RESET_V2 => control.opening = acks == 1 && highest == 0 && message == 0 && ends_here,
            // tls-crypt-v2 alone has V3 and WKC.
            CLIENT_RESET_V3 | CONTROL_WKC => return None,
            SOFT_RESET => return (message == 0 && ends_here).then_some(()),
            _ => return (message < MOST_MESSAGES && highest < MOST_MESSAGES && at as u32 <= self.length).then_some(()),
        }
        control.opening.then_some(())
    }
}

/// Whether a run of P_DATA_V2 can be nothing else: ESP whose SPI begins with 0x48 to 0x4f shows the same, in fours and
/// with another word in the other direction. A peer id that a server chose is small; `vpn` and all ones stand for none;
/// one that two peers drew, without a server, is as good as any magic number.
fn is_surely_data(opcode: u8, run: &Run, other: &Run) -> bool {
    let peer_id = run.first_word() & 0x00ff_ffff;
    let same_word = other.word > 0 && other.first_word() == run.first_word();
    let chosen = peer_id < 1 << 16 || peer_id == 0x0076_706e || peer_id == 0x00ff_ffff;
    let another_word = other.word > 1 && !same_word && other.first_word() >> 27 == u32::from(DATA_V2);
    opcode != DATA_V2 || (chosen && (same_word || (run.odd_length() && !another_word)))
}

/// Session ids are drawn: four zeros among the eight bytes are padding or numbers (one in 60 million is not).
fn is_drawn(session: u64) -> bool {
    session.to_be_bytes().iter().filter(|&&byte| byte == 0).count() < 4
}

/// A session id in 32 bits, never 0.
fn fold(session: u64) -> u32 {
    ((session ^ session >> 32) as u32).max(1)
}

/// Rules out what shows a constant word and a counter as data does.
fn looks_like_another(packet: &FlowPacket<'_>, opcode: u8, run: &Run, other: &Run, found: &mut EvidenceSet) -> bool {
    let claimed = packet.u16(2).map_or(0, u32::from);
    if opcode == DATA_V2 {
        // TURN channel data (RFC 8656, 12.4): a length in bytes 2 and 3, the rest padded to four at most.
        if (claimed..=claimed + 3).contains(&(packet.length - 4)) {
            return true;
        }
        found.rule_out(LookAlike::TurnChannel);
        // ESP in UDP whose SPI begins with 0x48 to 0x4f: on its port, without checksums, in fours, and with
        // another word in the other direction.
        let esp_form = !run.odd_length() && !run.checksummed() && packet.ip_version == 4;
        let same_word = other.word > 0 && other.first_word() == run.first_word();
        if (esp_form || packet.on_port(4500)) && !same_word {
            return true;
        }
        found.rule_out(LookAlike::EspInUdp);
        found.rule_out(LookAlike::Quic);
    } else {
        // GTP-U (TS 29.281, 5.1): version 1, message type 255, and the length behind the header.
        if packet.payload.get(1) == Some(&0xff) && claimed + 8 == packet.length {
            return true;
        }
        found.rule_out(LookAlike::GtpU);
    }
    false
}

fn u16_at(payload: &[u8], at: usize) -> Option<u16> {
    payload.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn u32_at(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

fn u64_at(payload: &[u8], at: usize) -> Option<u64> {
    payload.get(at..)?.first_chunk().copied().map(u64::from_be_bytes)
}

/// Whether a TCP record may begin like this.
fn record_is_legal(length: u32, first: Option<u8>) -> bool {
    first.is_none_or(|byte| match byte >> 3 {
        SOFT_RESET | CONTROL | ACK | CONTROL_WKC => length >= 14,
        CLIENT_RESET_V2 | SERVER_RESET_V2 | CLIENT_RESET_V3 => byte & 7 == 0 && length >= 14,
        DATA_V1 | DATA_V2 => length >= SMALLEST_DATA,
        _ => false,
    })
}

/// A run of data packets of one format, and how many of them each level needs.
struct DataRun {
    kind: &'static EvidenceKind,
    count: u8,
    possible: u8,
    likely: u8,
    /// None: only something else can confirm it.
    confirmed: Option<u8>,
}

impl DataRun {
    /// What the latest packets of one direction are a run of.
    fn of(run: &Run, opcode: u8, in_stream: bool) -> Option<Self> {
        // In a stream each record's length leads to the next one, which counts beside the counter.
        let levels = |kind, count, [possible, likely, confirmed]: [u8; 3]| {
            let [possible, likely, confirmed] = if in_stream { [2, 4, 8] } else { [possible, likely, confirmed] };
            Some(Self { kind, count, possible, likely, confirmed: Some(confirmed) })
        };
        let (packet_id_v2, packet_id_v1) = run.counters();
        // What stands behind the counter is a tag or ciphertext.
        let scrambled = run.is_scrambled();
        match opcode {
            DATA_V2 if scrambled && run.epoch > 1 && run.epoch >= run.word && run.is_early_epoch() => {
                levels(&DATA_EPOCH_RUN, run.epoch, [2, 6, 12])
            }
            DATA_V2 if scrambled && run.word > 1 && packet_id_v2 < LARGEST_PACKET_ID => {
                // Packet ids count by one, and what is lost leaves some steps whole.
                let by_one = |found: Self| Self { confirmed: found.confirmed.filter(|_| run.counts_by_one()), ..found };
                levels(&DATA_V2_RUN, run.word, [2, 6, 12]).map(by_one)
            }
            DATA_V1 if scrambled && run.byte > 1 && packet_id_v1 < LARGEST_PACKET_ID => {
                levels(&DATA_V1_RUN, run.byte, [4, 8, 16])
            }
            _ if is_cbc_run(run, opcode) => {
                let [possible, likely] = if in_stream { [4, 8] } else { [8, 16] };
                Some(Self { kind: &DATA_CBC_RUN, count: run.random, possible, likely, confirmed: None })
            }
            _ => None,
        }
    }
}

/// Whether lengths leave what a block cipher leaves: opcode (V2: and peer id), HMAC, IV and whole blocks. By eight,
/// since BF-CBC has such blocks: 1 or 5 behind V1's one byte, 0 or 4 behind V2's four.
fn is_cbc_run(run: &Run, opcode: u8) -> bool {
    let first = if opcode == DATA_V2 { 0 } else { 1 };
    run.random > 1 && run.lengths_differ() && (run.remainder() == first || run.remainder() == first + 4)
}

/// What was seen in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    session: u64,
    wrapping: Option<Wrapping>,
    replay: u32,
    time: u32,
    message: Option<u8>,
    acks: u8,
    /// The peer's session id as this side acknowledges it, folded; 0 for none yet.
    peer: u32,
    /// Time of the latest reset, nanoseconds.
    reset_time: i64,
    /// Opcode of the latest hard reset, 0 for none, and whether its time was plausible (or it has none).
    reset: u8,
    reset_timely: bool,
    /// Any control packet but a reset.
    beyond_reset: bool,
}

/// State of one flow.
#[derive(Debug, Default)]
pub struct OpenVpn {
    sides: [Side; 2],
    streams: [Cursor; 2],
    /// Runs of TCP records; those of datagrams come with the packet.
    runs: [Run; 2],
    initiator: Option<u8>,
    confidence: Option<Confidence>,
    variant: Option<Variant>,
    soft_reset: bool,
    /// The other end sent back what it got: no OpenVPN does.
    echoed: bool,
    data: bool,
    /// The first thing seen was no opening.
    midflow: Option<bool>,
    ping: bool,
}

impl Fingerprint for OpenVpn {
    const PROTOCOL: Protocol = Protocol::OpenVpn;
    const EVIDENCE: &'static [&'static EvidenceKind] = &[
        &CLIENT_RESET_PLAIN,
        &SERVER_RESET_PLAIN,
        &RESET_TLS_AUTH,
        &RESET_TLS_CRYPT,
        &RESET_TLS_CRYPT_V2,
        &SESSION_TIME,
        &RESET_REPEATED,
        &CONTROL_PACKET,
        &CONTROL_PAIR,
        &SESSION_ECHO,
        &SOFT_RESET_SEEN,
        &DATA_AFTER_CONTROL,
        &DATA_V2_RUN,
        &DATA_EPOCH_RUN,
        &DATA_V1_RUN,
        &DATA_CBC_RUN,
        &PING_LENGTH,
        &RECORD_CHAIN,
    ];

    fn screen(packet: &FlowPacket<'_>) -> bool {
        match packet.transport {
            Transport::Udp => {
                let run = packet.run();
                match packet.payload.first().map(|byte| byte >> 3) {
                    Some(opcode @ (DATA_V1 | DATA_V2)) => {
                        DataRun::of(run, opcode, false).is_some_and(|format| format.count >= format.possible)
                    }
                    Some(SOFT_RESET..=CONTROL_WKC) => {
                        Control::parse(packet.payload, packet.length, packet.time, None).is_some()
                    }
                    _ => false,
                }
            }
            Transport::Tcp => match packet.payload.first_chunk::<3>() {
                Some(&[high, low, first]) => {
                    let record = u32::from(u16::from_be_bytes([high, low]));
                    if packet.record_start {
                        record_is_legal(record, Some(first))
                    } else if packet.stream_start {
                        // A stream whose beginning is seen begins with an opening.
                        is_hard_reset(first >> 3)
                            && record_is_legal(record, Some(first))
                            && record <= 54 + *WRAPPED_KEY.end()
                    } else {
                        chain_closes(packet.payload, packet.length, &record_is_legal)
                    }
                }
                None => false,
            },
            _ => false,
        }
    }

    #[inline(always)]
    fn can_begin(payload: &[u8], _length: u32) -> bool {
        // Data is told by its run.
        payload.first().is_some_and(|first| key_fits(first >> 3, first & 7))
    }

    fn observe(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) -> Outcome {
        match packet.transport {
            Transport::Udp => self.message(packet, packet.payload, packet.length, None, found),
            Transport::Tcp => {
                let direction = usize::from(packet.direction & 1);
                let mut stream = std::mem::take(&mut self.streams[direction]);
                if packet.record_start {
                    stream.join(packet.sequence);
                }
                stream.feed(
                    packet.sequence,
                    packet.payload,
                    packet.length,
                    packet.stream_start,
                    &record_is_legal,
                    |record| self.message(packet, record.head, record.length, Some(record), found),
                );
                self.streams[direction] = stream;
            }
            _ => {}
        }
        self.outcome()
    }

    /// Data behind an opening that was answered is taken for what it is.
    fn reads_runs(&self) -> bool {
        self.sides.iter().all(|side| side.session == 0) || !self.is_answered()
    }
}

impl OpenVpn {
    /// A datagram, or a record of a TCP stream.
    fn message(
        &mut self,
        packet: &FlowPacket<'_>,
        payload: &[u8],
        length: u32,
        record: Option<Record<'_>>,
        found: &mut EvidenceSet,
    ) {
        let own = usize::from(packet.direction & 1);
        let Some(&first) = payload.first() else { return };
        if let Some(record) = record {
            self.runs[own].update(payload, length, false);
            if record.place > 1 {
                found.observe(&RECORD_CHAIN, packet);
            }
        }
        match first >> 3 {
            DATA_V1 | DATA_V2 => {
                let own_runs = self.runs;
                let runs = if record.is_some() { &own_runs } else { packet.runs };
                self.data(packet, first >> 3, length, runs, record, found);
            }
            SOFT_RESET..=CONTROL_WKC => {
                let known = self.sides[own].wrapping.or(self.sides[own ^ 1].wrapping);
                if let Some(control) = Control::parse(payload, length, packet.time, known) {
                    self.control(packet, &control, record, found);
                }
            }
            _ => {}
        }
    }

    fn control(
        &mut self,
        packet: &FlowPacket<'_>,
        control: &Control,
        record: Option<Record<'_>>,
        found: &mut EvidenceSet,
    ) {
        let direction = packet.direction & 1;
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        let same_session = self.sides[own].session == control.session;
        let hard_reset = is_hard_reset(control.opcode);
        if hard_reset && !control.opening {
            return;
        }
        if !same_session && self.sides[own].session != 0 && !hard_reset {
            // Of another session, and no beginning of one: a coincidence, or a packet that came very late.
            return;
        }

        let mut level = Confidence::Possible;
        if hard_reset {
            // Each transmission has a replay id of its own (packet_id.c): the same datagram again is somebody else's.
            let sent_again = control.wrapping == Wrapping::Plain || control.replay != self.sides[own].replay;
            let repeated =
                same_session && sent_again && packet.time.saturating_sub(self.sides[own].reset_time) >= SECOND;
            level = self.opening_level(packet, control, repeated, found);
            if !same_session {
                self.sides[own] = Side::default();
            }
            self.sides[own].reset = control.opcode;
            self.sides[own].reset_timely = control.timely || control.wrapping == Wrapping::Plain;
            self.sides[own].reset_time = packet.time;
            let initiator = if control.opcode == SERVER_RESET_V2 { direction ^ 1 } else { direction };
            self.initiator.get_or_insert(initiator);
        } else {
            found.observe(&CONTROL_PACKET, packet);
            self.sides[own].beyond_reset = true;
        }
        if control.opcode == SOFT_RESET {
            found.observe(&SOFT_RESET_SEEN, packet);
            self.soft_reset = true;
        }
        // Two resets are little: their time must be that of the packet, and a stream has no need to send one again.
        let is_telling = !hard_reset || (control.timely && record.is_none());
        if same_session && is_telling && self.moves_on(own, control) {
            found.observe(&CONTROL_PAIR, packet);
            found.rule_out(LookAlike::Dns);
            level = Confidence::Confirmed;
        }
        if control.peer.is_some_and(|peer| peer == self.sides[other].session) {
            found.observe(&SESSION_ECHO, packet);
            level = Confidence::Confirmed;
        }
        // A client's opening and a server's, of one wrapping: more than 100 bits.
        let (mine, peers) = (&self.sides[own], &self.sides[other]);
        let client_and_server = (mine.reset == SERVER_RESET_V2) != (peers.reset == SERVER_RESET_V2) && peers.reset != 0;
        if hard_reset
            && client_and_server
            && mine.reset_timely
            && peers.reset_timely
            && peers.wrapping == Some(control.wrapping)
        {
            level = Confidence::Confirmed;
        }
        // A stream needs its second record: what looks like an opening may be any length-prefixed protocol's. And it
        // has one opening in each direction: another is no second record.
        if record.is_some_and(|record| record.place < 2 || hard_reset) && self.sides[other].reset == 0 {
            level = level.min(Confidence::Likely);
        }
        let side = &mut self.sides[own];
        side.session = control.session;
        // A renegotiation is wrapped by tls-crypt whatever the session is (OpenVPN 2.6).
        if side.wrapping.is_none() {
            side.wrapping = Some(control.wrapping);
        }
        if let Some(peer) = control.peer
            && side.peer == 0
        {
            side.peer = fold(peer);
        }
        if side.wrapping == Some(control.wrapping)
            && (control.wrapping == Wrapping::Plain
                || control.time != side.time
                || control.replay.wrapping_sub(side.replay) as i32 > 0)
        {
            side.replay = control.replay;
            side.time = control.time;
            side.message = control.message;
            side.acks = control.acks;
        }
        if self.variant.is_none_or(|variant| variant == Variant::Data) && (hard_reset || level > Confidence::Possible) {
            self.variant = Some(match control.wrapping {
                Wrapping::Plain => Variant::Plain,
                Wrapping::TlsAuth(_) => Variant::TlsAuth,
                Wrapping::TlsCrypt => Variant::TlsCrypt,
            });
        }
        // Only tls-crypt-v2 clients begin their replay ids at 0x0f000001.
        if control.second_version || control.replay >> 24 == 0x0f {
            self.variant = Some(Variant::TlsCryptV2);
        }
        self.midflow.get_or_insert(!hard_reset);
        self.raise(level);
    }

    /// What one opening is worth by itself.
    fn opening_level(
        &self,
        packet: &FlowPacket<'_>,
        control: &Control,
        repeated: bool,
        found: &mut EvidenceSet,
    ) -> Confidence {
        let (kind, timely, untimely) = match control.wrapping {
            Wrapping::Plain if control.opcode == SERVER_RESET_V2 => {
                (&SERVER_RESET_PLAIN, Confidence::Confirmed, Confidence::Confirmed)
            }
            // Also the commonest probe of scanners, and short enough to occur by design elsewhere.
            Wrapping::Plain => (&CLIENT_RESET_PLAIN, Confidence::Possible, Confidence::Possible),
            Wrapping::TlsAuth(_) => (&RESET_TLS_AUTH, Confidence::Confirmed, Confidence::Likely),
            Wrapping::TlsCrypt if control.opcode == CLIENT_RESET_V3 => (
                &RESET_TLS_CRYPT_V2,
                if control.wrapped_key { Confidence::Confirmed } else { Confidence::Likely },
                if control.wrapped_key { Confidence::Likely } else { Confidence::Possible },
            ),
            Wrapping::TlsCrypt => (&RESET_TLS_CRYPT, Confidence::Likely, Confidence::Possible),
        };
        found.observe(kind, packet);
        let mut level = untimely;
        if control.timely {
            found.observe(&SESSION_TIME, packet);
            level = timely;
        }
        if repeated {
            found.observe(&RESET_REPEATED, packet);
            level = level.max(Confidence::Likely);
        }
        level
    }

    /// Whether a control packet of the known session differs from the latest one as the next one would.
    fn moves_on(&self, own: usize, control: &Control) -> bool {
        let side = &self.sides[own];
        if side.wrapping != Some(control.wrapping) {
            return false;
        }
        if control.wrapping == Wrapping::Plain {
            // A DNS query sent twice is the same "session id" twice: demand acknowledgments and a difference.
            // The peer's session id is one, too.
            let differs = (control.message, control.acks) != (side.message, side.acks);
            let same_peer = side.peer == 0 || control.peer.is_none_or(|peer| fold(peer) == side.peer);
            // Messages are counted, and few are under way.
            let close = |(now, before): (u8, u8)| u32::from(now.abs_diff(before)) < ACK_WINDOW;
            let follows = control.message.zip(side.message).is_none_or(close);
            return differs && same_peer && follows && control.acks + side.acks > 0;
        }
        let step = control.replay.wrapping_sub(side.replay) as i32;
        control.time == side.time && (1..=REPLAY_WINDOW).contains(&step)
    }

    fn data(
        &mut self,
        packet: &FlowPacket<'_>,
        opcode: u8,
        length: u32,
        runs: &[Run; 2],
        record: Option<Record<'_>>,
        found: &mut EvidenceSet,
    ) {
        let own = usize::from(packet.direction & 1);
        if length < SMALLEST_DATA {
            return;
        }
        if self.confidence >= Some(Confidence::Likely) && self.sides.iter().any(|side| side.session != 0) {
            // Behind an opening that nobody was seen to answer, one datagram may be anything: it must count on.
            if self.is_answered() || DataRun::of(&runs[own], opcode, record.is_some()).is_some() {
                found.observe(&DATA_AFTER_CONTROL, packet);
                self.data = true;
            }
            if self.confidence == Some(Confidence::Confirmed) {
                return;
            }
        }
        let run = &runs[own];
        self.echoed |= run.is_echo_of(&runs[own ^ 1]);
        let Some(format) = DataRun::of(run, opcode, record.is_some()).filter(|_| !self.echoed) else { return };
        if record.is_none() && looks_like_another(packet, opcode, run, &runs[own ^ 1], found) {
            return;
        }
        found.observe(format.kind, packet);
        if run.ping_length() && !self.ping {
            found.observe(&PING_LENGTH, packet);
            self.ping = true;
        }
        // One clear byte before the counter is little: a keepalive or a renegotiation must speak for it.
        let enough_in_clear = opcode == DATA_V2 || self.ping || self.soft_reset;
        let is_sure = enough_in_clear && run.lengths_differ() && is_surely_data(opcode, run, &runs[own ^ 1])
            // Of a stream the lengths say less: any protocol with a length, a magic word and a counter has them.
            && (record.is_none() || run.odd_length() || self.ping);
        let level = if is_sure && format.confirmed.is_some_and(|least| format.count >= least) {
            Confidence::Confirmed
        } else if format.count >= format.likely {
            Confidence::Likely
        } else if format.count >= format.possible {
            Confidence::Possible
        } else {
            return;
        };
        self.midflow.get_or_insert(true);
        self.variant.get_or_insert(Variant::Data);
        self.raise(level);
    }

    fn raise(&mut self, confidence: Confidence) {
        self.confidence = self.confidence.max(Some(confidence));
    }

    /// Something was seen that only follows an answer to the opening, or no opening at all.
    fn is_answered(&self) -> bool {
        self.initiator.is_none_or(|initiator| {
            let (client, server) = (&self.sides[usize::from(initiator)], &self.sides[usize::from(initiator ^ 1)]);
            server.session != 0 || client.beyond_reset
        })
    }

    fn outcome(&self) -> Outcome {
        let Some(confidence) = self.confidence else { return Outcome::Undecided };
        let control = self.sides.iter().any(|side| side.session != 0);
        let phase = if !control {
            Phase::DataOnly
        } else if self.data || self.soft_reset {
            Phase::Established
        } else if self.is_answered() {
            Phase::Handshake
        } else {
            Phase::Attempt
        };
        Outcome::Match(Finding {
            confidence,
            phase,
            variant: self.variant.unwrap_or(Variant::Data),
            initiator: self.initiator,
            midflow: self.midflow.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests;
