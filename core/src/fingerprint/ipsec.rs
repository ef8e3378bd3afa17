//! IPsec: IKE over UDP, ESP in UDP, both in TCP, ESP and AH as IP protocols. References: RFC 7296 (IKEv2), RFC 2408
//! and 2409 (IKEv1), RFC 3948 (UDP encapsulation), RFC 9329 (TCP encapsulation), RFC 4303 (ESP), RFC 4302 (AH).
//!
//! ```text
//!   IKE  | SPI initiator 8 | SPI responder 8 | next payload | version | exchange | flags | message id 4 | length 4 |
//!   body | next payload | critical, reserved | length 2 | ...   in clear a chain that ends at the length;
//!        encrypted, IKEv2: one SK (46) or SKF (53) payload; IKEv1: flag E, a multiple of eight bytes
//!   UDP 4500 | 00000000 (non-ESP marker) | IKE ...      or | SPI 4 (not zero) | sequence 4 | ...   or | ff |
//!   TCP  "IKETCP" once, from who opens; then | length 2, itself included | 00000000 IKE, or ESP, or ff | ...
//!   ESP  | SPI 4 | sequence 4 | ...
//!   AH   | next header | payload length | reserved 2 | SPI 4 | sequence 4 | ICV ...
//! ```
//!
//! The IKE length is that of the UDP datagram (without the marker), whatever was captured of it. Between port 500
//! and any other, some daemons send no marker, so both readings are tried on every port.
//!
//! Look-alikes: WireGuard data (its type word as an SPI), OpenVPN data, TURN channel data carrying RTP, game
//! protocols with one magic word and a counter in both directions. ESP in UDP away from port 4500 therefore needs
//! the zero checksum that RFC 3948, 2.1 asks for, and IKE or both directions to be confirmed.

use super::stream::{Cursor, Framing, Record, chain_closes};
use super::{
    Confidence, EvidenceKind, EvidenceSet, Finding, Fingerprint, FlowPacket, LookAlike, Outcome, Phase, Protocol,
    Transport, Variant,
};

const NAT_TRAVERSAL_PORT: u16 = 4500;
const IKE_PORT: u16 = 500;
const HEADER: usize = 28;
/// SPIs 1 to 255 are reserved by IANA (RFC 4303, 2.1).
const SMALLEST_SPI: u32 = 256;
/// Loss and reordering that a sequence number may show and still count as following.
const SEQUENCE_WINDOW: i64 = 64;
/// Security associations of one direction that are told apart.
const ASSOCIATIONS: usize = 4;
/// ESP with NULL encryption and a 96-bit ICV: SPI, sequence, two bytes of trailer padded to four, ICV.
const SMALLEST_ESP: u32 = 24;
/// Message ids count from 0 for each originator; a larger one than this is no count.
const MOST_MESSAGES: u32 = 1 << 20;

const fn kind(
    id: &'static str,
    bits: u16,
    fact: &'static str,
    source: &'static str,
    rules_out: &'static str,
) -> EvidenceKind {
    EvidenceKind { id, protocol: Protocol::Ipsec, bits, fact, source, rules_out }
}

static IKEV2_CLEAR: EvidenceKind = kind(
    "ipsec.ikev2_clear",
    100,
    "IKEv2 message in clear: SPIs, version, exchange, flags and message id fit each other, payloads end at the length",
    "RFC 7296 3.1, 3.2; RFC 5723",
    "random bytes and texts behind four zeros; a chain that misses the length by one byte",
);
static IKEV2_ENCRYPTED: EvidenceKind = kind(
    "ipsec.ikev2_encrypted",
    89,
    "IKEv2 message encrypted: header and its one SK or SKF payload fit the length, a small message id",
    "RFC 7296 3.1, 3.14; RFC 7383 2.5",
    "random bytes and texts behind four zeros; a payload that misses the length by one byte",
);
static IKEV1_CLEAR: EvidenceKind = kind(
    "ipsec.ikev1_clear",
    90,
    "IKEv1 message in clear: version, exchange, flags and message id fit each other, payloads end at the length",
    "RFC 2408 3.1, 3.2",
    "random bytes and texts behind four zeros; a chain that misses the length by one byte",
);
static IKEV1_ENCRYPTED: EvidenceKind = kind(
    "ipsec.ikev1_encrypted",
    58,
    "IKEv1 message encrypted: the header fits the length, the body is a multiple of eight bytes",
    "RFC 2408 3.1; RFC 2409 appendix B",
    "random bytes; off port 500 and 4500 not by itself",
);
static SPI_PAIR: EvidenceKind = kind(
    "ipsec.spi_pair",
    64,
    "Another IKE message of the same initiator's SPI",
    "RFC 7296 2.6; RFC 2408 2.5.3",
    "coincidences of a single packet",
);
static NON_ESP_MARKER: EvidenceKind = kind(
    "ipsec.non_esp_marker",
    32,
    "Four zero bytes before an IKE header",
    "RFC 3948 2.2",
    "ESP, whose SPI is never zero",
);
static TCP_PREFIX: EvidenceKind = kind(
    "ipsec.tcp_prefix",
    36,
    "A stream begins with IKETCP",
    "RFC 9329 4",
    "other streams; not somebody who sends only that",
);
static ESP_IN_TCP_RUN: EvidenceKind = kind(
    "ipsec.esp_in_tcp_run",
    72,
    "A record of ESP in TCP: its length leads to the next one, the same SPI again, the sequence number a little higher",
    "RFC 9329 3; RFC 4303 2.2",
    "streams whose lengths do not lead from one record to the next; not other protocols with a session number and a counter",
);
static NAT_KEEPALIVE: EvidenceKind =
    kind("ipsec.nat_keepalive", 8, "A datagram of the single byte ff", "RFC 3948 2.3", "nothing by itself");
static ESP_IN_UDP: EvidenceKind = kind(
    "ipsec.esp_in_udp",
    2,
    "ESP in UDP beside IKE on the same five-tuple: an SPI that is neither zero nor reserved, a length in fours",
    "RFC 3948 2.1; RFC 4303 2.4",
    "nothing by itself",
);
static ESP_IN_UDP_RUN: EvidenceKind = kind(
    "ipsec.esp_in_udp_run",
    58,
    "ESP in UDP: the same SPI again, the sequence number a little higher",
    "RFC 3948 2.1; RFC 4303 2.2",
    "QUIC, DTLS, RTP: their first word changes; TURN channel data, L2TP and DNS by their fields; magic numbers by the other direction",
);
static ESP_PROTOCOL: EvidenceKind =
    kind("ipsec.esp_protocol", 40, "IP protocol 50 with an SPI", "RFC 4303 2.1", "everything of other IP protocols");
static ESP_SEQUENCE: EvidenceKind = kind(
    "ipsec.esp_sequence",
    58,
    "ESP: the same SPI again, the sequence number a little higher",
    "RFC 4303 2.2",
    "random payload under IP protocol 50",
);
static AH_PROTOCOL: EvidenceKind = kind(
    "ipsec.ah_protocol",
    56,
    "IP protocol 51, reserved bits zero, the header's length within the packet",
    "RFC 4302 2",
    "everything of other IP protocols; malformed headers",
);
static AH_SEQUENCE: EvidenceKind = kind(
    "ipsec.ah_sequence",
    58,
    "AH: the same SPI again, the sequence number a little higher",
    "RFC 4302 2.5",
    "random payload under IP protocol 51",
);
static L2TP_POSSIBLE: EvidenceKind = kind(
    "ipsec.l2tp_possible",
    0,
    "IKEv1 with the vendor id of a client that uses it for L2TP alone: IPsec, L2TP possible",
    "RFC 3193; MD5 of \"MS NT5 ISAKMPOAKLEY\"",
    "nothing: a hint",
);
/// Found by the table, not by a packet of the flow.
pub(super) static SAME_HOSTS: EvidenceKind = kind(
    "ipsec.same_hosts",
    0,
    "Another flow between the same two hosts has finished an IKE handshake",
    "RFC 7296 2.23; RFC 4301 4.4",
    "nothing by itself",
);

/// What kind of IKE message it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Body {
    Clear,
    Encrypted,
    /// Not enough captured to see the body.
    Cut,
}

/// An IKE message, as far as it is in clear.
#[derive(Clone, Copy, Debug)]
struct Ike {
    spi_initiator: u64,
    spi_responder: u64,
    next_payload: u8,
    version: u8,
    exchange: u8,
    flags: u8,
    body: Body,
    marker: bool,
}

mod exchange {
    //! Exchange types (IANA, ISAKMP and IKEv2 registries).
    pub const BASE: u8 = 1;
    pub const MAIN: u8 = 2;
    pub const AUTHENTICATION_ONLY: u8 = 3;
    pub const AGGRESSIVE: u8 = 4;
    pub const INFORMATIONAL_V1: u8 = 5;
    pub const TRANSACTION: u8 = 6;
    pub const QUICK: u8 = 32;
    pub const NEW_GROUP: u8 = 33;
    pub const SA_INIT: u8 = 34;
    pub const AUTH: u8 = 35;
    pub const CREATE_CHILD_SA: u8 = 36;
    pub const INFORMATIONAL: u8 = 37;
    pub const SESSION_RESUME: u8 = 38;
    pub const GROUP_FIRST: u8 = 39;
    pub const GROUP_LAST: u8 = 41;
    pub const INTERMEDIATE: u8 = 43;
    pub const FOLLOWUP_KE: u8 = 44;
}

mod flag {
    //! Header flags of both versions.
    pub const ENCRYPTION_V1: u8 = 0x01;
    pub const INITIATOR: u8 = 0x08;
    pub const RESPONSE: u8 = 0x20;
}

const IKEV1: u8 = 0x10;
const IKEV2: u8 = 0x20;
const PAYLOAD_SA_V1: u8 = 1;
/// What Windows sends first: it has IKEv1 for L2TP alone. Inside, L2TP cannot be seen (RFC 3193).
const VENDOR_WINDOWS: [u8; 16] =
    [0x1e, 0x2b, 0x51, 0x69, 0x05, 0x99, 0x1c, 0x7d, 0x7c, 0x96, 0xfc, 0xbf, 0xb5, 0x87, 0xe4, 0x61];
const PAYLOAD_SK: u8 = 46;
const PAYLOAD_SKF: u8 = 53;

impl Ike {
    /// Reads a datagram as IKE, with the non-ESP marker or without.
    fn parse(packet: &FlowPacket<'_>) -> Option<Self> {
        if packet.u32(0)? == 0 { Self::parse_at(packet, 4) } else { Self::parse_at(packet, 0) }
    }

    fn parse_at(packet: &FlowPacket<'_>, start: usize) -> Option<Self> {
        let length = packet.u32(start + 24)?;
        if length != packet.length.checked_sub(start as u32)? || length < HEADER as u32 {
            return None;
        }
        let [next_payload, version, exchange, flags] = packet.array(start + 16)?;
        let message = packet.u32(start + 20)?;
        let mut ike = Self {
            spi_initiator: packet.u64(start)?,
            spi_responder: packet.u64(start + 8)?,
            next_payload,
            version,
            exchange,
            flags,
            body: Body::Cut,
            marker: start == 4,
        };
        if ike.spi_initiator == 0 {
            return None;
        }
        let body = packet.payload.get(start + HEADER..).unwrap_or_default();
        let body_length = length as usize - HEADER;
        ike.body = match version {
            IKEV2 => ike.body_v2(next_payload, message, body, body_length)?,
            IKEV1 => ike.body_v1(next_payload, message, body, body_length)?,
            _ => return None,
        };
        Some(ike)
    }

    fn body_v2(&self, next_payload: u8, message: u32, body: &[u8], length: usize) -> Option<Body> {
        // Only initiator (0x08), version (0x10) and response (0x20) may be set (RFC 7296, 3.1). Some daemons have set
        // IKEv1's encryption bit where the body is encrypted, and a receiver must not mind.
        let tolerated = if matches!(next_payload, PAYLOAD_SK | PAYLOAD_SKF) { flag::ENCRYPTION_V1 } else { 0 };
        if self.flags & !(flag::INITIATOR | 0x10 | flag::RESPONSE | tolerated) != 0 || message >= MOST_MESSAGES {
            return None;
        }
        match self.exchange {
            exchange::SA_INIT | exchange::SESSION_RESUME => {
                let request = self.flags & flag::RESPONSE == 0;
                // The first request has no responder's SPI, not even when it repeats a cookie.
                let spis_fit = !request || (self.spi_responder == 0 && self.flags & flag::INITIATOR != 0);
                // SA, N or V, or any of the payloads that may come first in an answer.
                let first_fits = (33..=54).contains(&next_payload) && next_payload != PAYLOAD_SK;
                if message != 0 || !spis_fit || !first_fits {
                    return None;
                }
                chain(next_payload, body, length, |kind| (33..=60).contains(&kind))
            }
            exchange::AUTH
            | exchange::CREATE_CHILD_SA
            | exchange::INFORMATIONAL
            | exchange::GROUP_FIRST..=exchange::GROUP_LAST
            | exchange::INTERMEDIATE
            | exchange::FOLLOWUP_KE => {
                if self.spi_responder == 0 {
                    return None;
                }
                if !matches!(next_payload, PAYLOAD_SK | PAYLOAD_SKF) {
                    // An unprotected notification about an unknown SPI (RFC 7296, 2.21.4).
                    let notified = self.exchange == exchange::INFORMATIONAL && next_payload == 41;
                    return notified.then(|| chain(next_payload, body, length, |kind| (33..=60).contains(&kind)))?;
                }
                // SK is the only payload: its length runs to the end (RFC 7296, 3.14). It holds an IV and an ICV.
                let Some(&[_, reserved, high, low]) = body.first_chunk::<4>() else {
                    return (length >= 4).then_some(Body::Cut);
                };
                let payload = usize::from(u16::from_be_bytes([high, low]));
                (payload == length && payload >= 16 && reserved & 0x7f == 0).then_some(Body::Encrypted)
            }
            _ => None,
        }
    }

    fn body_v1(&self, next_payload: u8, message: u32, body: &[u8], length: usize) -> Option<Body> {
        // Encryption, commit and authentication only (RFC 2408, 3.1).
        if self.flags & !0x07 != 0 {
            return None;
        }
        let phase_1 = matches!(
            self.exchange,
            exchange::BASE | exchange::MAIN | exchange::AUTHENTICATION_ONLY | exchange::AGGRESSIVE
        );
        let later = matches!(
            self.exchange,
            exchange::INFORMATIONAL_V1 | exchange::TRANSACTION | exchange::QUICK | exchange::NEW_GROUP
        );
        let opening = self.spi_responder == 0;
        // Message ids are zero in phase 1 and drawn afterwards (an informational of phase 1 may have either).
        let message_fits = (message == 0) == phase_1 || self.exchange == exchange::INFORMATIONAL_V1;
        if !(phase_1 || later) || !message_fits {
            return None;
        }
        let first_fits = matches!(next_payload, 1..=13 | 20 | 21 | 130 | 131);
        if next_payload == 0 {
            // A header alone, within a session.
            return (length == 0 && !opening && phase_1).then_some(Body::Clear);
        }
        if self.flags & flag::ENCRYPTION_V1 != 0 {
            let fits = first_fits && !opening && length >= 8 && length.is_multiple_of(8);
            return fits.then_some(Body::Encrypted);
        }
        // What opens phase 1 proposes an SA; quick mode and its kin are never in clear.
        if !first_fits
            || (opening && phase_1 && next_payload != PAYLOAD_SA_V1)
            || (later && self.exchange != exchange::INFORMATIONAL_V1)
        {
            return None;
        }
        chain(next_payload, body, length, |kind| matches!(kind, 1..=22 | 128..=255))
    }

    /// What may come first on a five-tuple: an opening, or what follows it when the peers have moved from port 500
    /// to 4500.
    fn begins(&self) -> bool {
        self.spi_responder == 0
            || matches!(self.exchange, exchange::AUTH | exchange::INTERMEDIATE | exchange::MAIN | exchange::AGGRESSIVE)
    }

    fn is_request(&self) -> bool {
        self.flags & flag::RESPONSE == 0
    }
}

/// The prefix, or the head of an answer, cut short.
pub(super) fn needs_more(start: &[u8]) -> bool {
    STREAM_PREFIX.starts_with(start)
        || (start.len() < ANSWER_HEAD && start.get(2..).is_some_and(|body| body.iter().take(4).all(|&byte| byte == 0)))
}

/// A first fragment of IKE whose payloads go on in the others.
pub(super) fn needs_all(packet: &FlowPacket<'_>) -> bool {
    Ike::parse(packet).is_some_and(|ike| ike.body == Body::Cut)
}

/// Walks a chain of generic payload headers that must end exactly at `length`; `legal` names their types.
fn chain(first: u8, body: &[u8], length: usize, legal: impl Fn(u8) -> bool) -> Option<Body> {
    let (mut next, mut at) = (first, 0);
    while next != 0 {
        if !legal(next) {
            return None;
        }
        let Some(&[following, reserved, high, low]) = body.get(at..).and_then(|rest| rest.first_chunk::<4>()) else {
            // The rest was not captured, or it was and is too short.
            return (body.len() < length && at + 4 <= length).then_some(Body::Cut);
        };
        let payload = usize::from(u16::from_be_bytes([high, low]));
        // The critical bit is IKEv2's; the other bits are reserved in both versions.
        if payload < 4 || reserved & 0x7f != 0 {
            return None;
        }
        at += payload;
        if at > length {
            return None;
        }
        next = following;
    }
    (at == length && at > 0).then_some(Body::Clear)
}

/// Whether a chain of payloads in clear carries this vendor id (IKEv1, payload 13).
fn carries_vendor_id(first: u8, body: &[u8], vendor_id: &[u8]) -> bool {
    let (mut next, mut rest) = (first, body);
    while next != 0 {
        let Some(&[following, _, high, low]) = rest.first_chunk::<4>() else { return false };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if next == 13 && rest.get(4..length).is_some_and(|content| content.starts_with(vendor_id)) {
            return true;
        }
        let Some(behind) = rest.get(length.max(4)..) else { return false };
        (next, rest) = (following, behind);
    }
    false
}

/// SPIs and sequence numbers of one direction, by IP protocol.
#[derive(Clone, Copy, Debug, Default)]
struct Association {
    spi: u32,
    highest: u32,
    packets: u16,
}

/// What one flow says about its two hosts: IKE, ESP and port 4500 are flows of their own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PairFacts {
    /// SPI of the IKE SA's initiator, 0 when no IKE was seen. It is the same on every port (RFC 7296, 2.6).
    pub spi: u64,
    /// Direction of the initiator's packets, where IKE shows it.
    pub initiator: Option<u8>,
    /// IKE has come to encrypted messages.
    pub encrypted_ike: bool,
    /// ESP or AH was seen, in UDP or not.
    pub esp: bool,
    /// A handshake was finished.
    pub finished: bool,
}

/// State of one flow.
#[derive(Debug, Default)]
pub struct Ipsec {
    spi_initiator: u64,
    version: u8,
    initiator: Option<u8>,
    answered: bool,
    encrypted: bool,
    finished: bool,
    confidence: Option<Confidence>,
    esp_in_udp: bool,
    /// The other end sent back what it got: no ESP does.
    echoed: bool,
    /// By direction, the latest associations: a rekeyed one drains, and two hosts may have several.
    associations: [[Association; ASSOCIATIONS]; 2],
    streams: [Cursor; 2],
    transport: Option<Transport>,
    midflow: Option<bool>,
}

/// What opens a stream (RFC 9329, 4); who answers sends none.
const STREAM_PREFIX: [u8; 6] = *b"IKETCP";
/// The length, the marker, and IKE up to its version and exchange.
const ANSWER_HEAD: usize = 2 + 4 + 19;
/// Records in a row of one SPI whose sequence numbers rise, in a stream that was joined in the middle. They are no more
/// than possible: a session number and a counter behind a length are what many protocols send. IKE confirms.
const RECORDS_MIDSTREAM: u16 = 12;

/// Records in TCP: the length field counts itself.
struct TcpFraming;

impl Framing for TcpFraming {
    fn body(&self, field: u16) -> u32 {
        u32::from(field).saturating_sub(2)
    }

    fn is_legal(&self, length: u32, first: Option<u8>) -> bool {
        // IKE behind its marker, ESP in fours, or the keepalive that Linux accepts; before the first byte, any of them.
        (first.is_none_or(|byte| byte == 0) && length >= 4 + HEADER as u32)
            || (length >= SMALLEST_ESP && length.is_multiple_of(4))
            || (length == 1 && first.is_none_or(|byte| byte == 0xff))
    }
}

impl Fingerprint for Ipsec {
    const PROTOCOL: Protocol = Protocol::Ipsec;
    const EVIDENCE: &'static [&'static EvidenceKind] = &[
        &IKEV2_CLEAR,
        &IKEV2_ENCRYPTED,
        &IKEV1_CLEAR,
        &IKEV1_ENCRYPTED,
        &SPI_PAIR,
        &NON_ESP_MARKER,
        &TCP_PREFIX,
        &ESP_IN_TCP_RUN,
        &NAT_KEEPALIVE,
        &ESP_IN_UDP,
        &ESP_IN_UDP_RUN,
        &ESP_PROTOCOL,
        &ESP_SEQUENCE,
        &AH_PROTOCOL,
        &AH_SEQUENCE,
        &L2TP_POSSIBLE,
        &SAME_HOSTS,
    ];

    fn screen(packet: &FlowPacket<'_>) -> bool {
        match packet.transport {
            Transport::Udp => {
                let run = packet.run().word;
                (if packet.on_port(NAT_TRAVERSAL_PORT) { run >= 2 } else { run >= 4 }) || Ike::parse(packet).is_some()
            }
            Transport::Esp | Transport::Ah => true,
            Transport::Tcp => {
                if packet.stream_start {
                    // The prefix, or an answer: a record of IKE, to its version.
                    packet.payload.starts_with(&STREAM_PREFIX)
                        || (packet.u16(0).is_some_and(|length| length >= 2 + 4 + HEADER as u16)
                            && packet.u32(2) == Some(0)
                            && matches!(packet.array::<2>(22), Some([_, IKEV1 | IKEV2])))
                } else {
                    packet.record_start || chain_closes(packet.payload, packet.length, &TcpFraming)
                }
            }
        }
    }

    #[inline(always)]
    fn can_begin(payload: &[u8], length: u32) -> bool {
        // IKE says how long it is, behind the non-ESP marker if there is one.
        let before = if payload.starts_with(&[0; 4]) { 4 } else { 0 };
        let said = payload.get(24 + before..).and_then(|rest| rest.first_chunk().copied()).map(u32::from_be_bytes);
        said.is_some_and(|said| said.checked_add(before as u32) == Some(length))
    }

    fn observe(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) -> Outcome {
        self.transport = Some(packet.transport);
        match packet.transport {
            Transport::Udp => self.datagram(packet, found),
            Transport::Esp => self.esp(packet, found),
            Transport::Ah => self.ah(packet, found),
            Transport::Tcp => self.stream(packet, found),
        }
        self.outcome()
    }

    /// ESP behind IKE that has come to keys is taken for what it is.
    fn reads_runs(&self) -> bool {
        self.version == 0 || !(self.answered && self.encrypted)
    }
}

impl Ipsec {
    /// What this flow says about the pair of hosts.
    pub(super) fn pair_facts(&self) -> PairFacts {
        PairFacts {
            spi: self.spi_initiator,
            initiator: self.initiator,
            encrypted_ike: self.encrypted,
            esp: self.esp_in_udp || matches!(self.transport, Some(Transport::Esp | Transport::Ah)),
            finished: self.finished,
        }
    }

    /// Another flow between the same hosts shows who initiated, or that a finished handshake stands behind this one.
    /// An unanswered opening is raised only by its own IKE SA: beside a tunnel, a scanner's stays an attempt.
    pub(super) fn raise(&mut self, finished: bool, same_session: bool, initiator: Option<u8>) -> Outcome {
        self.initiator = self.initiator.or(initiator);
        if finished && (same_session || self.version == 0 || self.answered) {
            self.finished = true;
        }
        self.outcome()
    }

    fn datagram(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) {
        if let Some(ike) = Ike::parse(packet) {
            return self.ike(packet, &ike, found);
        }
        if packet.length == 1 && packet.payload == [0xff] {
            if self.confidence.is_some() {
                found.observe(&NAT_KEEPALIVE, packet);
            }
            return;
        }
        self.esp_in_udp(packet, found);
    }

    fn ike(&mut self, packet: &FlowPacket<'_>, ike: &Ike, found: &mut EvidenceSet) {
        let direction = packet.direction & 1;
        let same = self.spi_initiator == ike.spi_initiator;
        if ike.marker {
            found.observe(&NON_ESP_MARKER, packet);
        }
        let level = match (ike.version, ike.body) {
            (IKEV2, Body::Encrypted) => {
                found.observe(&IKEV2_ENCRYPTED, packet);
                Confidence::Confirmed
            }
            (IKEV2, _) => {
                // Cut short of its body, the header still shows version, exchange, flags, a zero or small message
                // id and the datagram's own length: more than 64 bits.
                found.observe(&IKEV2_CLEAR, packet);
                Confidence::Confirmed
            }
            (_, Body::Encrypted) => {
                found.observe(&IKEV1_ENCRYPTED, packet);
                let on_port = packet.on_port(IKE_PORT) || packet.on_port(NAT_TRAVERSAL_PORT);
                if on_port || (same && self.version == IKEV1) { Confidence::Confirmed } else { Confidence::Likely }
            }
            (_, _) => {
                found.observe(&IKEV1_CLEAR, packet);
                let body = packet.payload.get(if ike.marker { 4 } else { 0 } + HEADER..).unwrap_or_default();
                if carries_vendor_id(ike.next_payload, body, &VENDOR_WINDOWS) {
                    found.observe(&L2TP_POSSIBLE, packet);
                }
                Confidence::Confirmed
            }
        };
        if same {
            found.observe(&SPI_PAIR, packet);
        }
        let opening = ike.spi_responder == 0;
        self.midflow.get_or_insert(!ike.begins());
        self.encrypted |= ike.body == Body::Encrypted;
        self.spi_initiator = ike.spi_initiator;
        self.version = ike.version;
        match ike.version {
            IKEV2 => {
                // The original initiator sets its flag in requests and responses alike, and keeps it for the
                // life of the SA.
                let initiator = if ike.flags & flag::INITIATOR != 0 { direction } else { direction ^ 1 };
                self.initiator.get_or_insert(initiator);
                self.answered |= match ike.exchange {
                    exchange::SA_INIT | exchange::SESSION_RESUME => !ike.is_request(),
                    _ => true,
                };
                self.finished |=
                    matches!(ike.exchange, exchange::CREATE_CHILD_SA | exchange::INFORMATIONAL | exchange::FOLLOWUP_KE)
                        && matches!(ike.next_payload, PAYLOAD_SK | PAYLOAD_SKF);
            }
            _ => {
                // Only the first two messages propose an SA first; later ones do not show who sends them.
                if opening {
                    self.initiator.get_or_insert(direction);
                } else if ike.body == Body::Clear && ike.next_payload == PAYLOAD_SA_V1 {
                    self.initiator.get_or_insert(direction ^ 1);
                }
                self.answered |= !opening;
                // Quick mode needs the keys of phase 1.
                self.finished |= matches!(ike.exchange, exchange::QUICK | exchange::NEW_GROUP);
            }
        }
        self.raise_to(level);
    }

    fn esp_in_udp(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) {
        let Some(spi) = packet.u32(0) else { return };
        if spi < SMALLEST_SPI || packet.length < SMALLEST_ESP {
            return;
        }
        let on_port = packet.on_port(NAT_TRAVERSAL_PORT);
        if self.version != 0 && self.confidence >= Some(Confidence::Likely) {
            // IKE was seen on the five-tuple. From port 500 no ESP comes; behind an opening that nobody was seen to
            // answer, one datagram may be anything, and a second one must count on.
            let keyed = self.answered && self.encrypted;
            let run = packet.run();
            let counts = || run.word >= 2 && !run.odd_length() && !run.is_echo_of(packet.other_run());
            if packet.length.is_multiple_of(4) && !packet.on_port(IKE_PORT) && (keyed || counts()) {
                found.observe(&ESP_IN_UDP, packet);
                self.esp_in_udp = true;
                self.finished = true;
                self.answered = true;
            }
            return;
        }
        let (run, other) = (packet.run(), packet.other_run());
        self.echoed |= run.is_echo_of(other);
        if run.word < 2 || run.odd_length() || self.echoed {
            return;
        }
        // WireGuard's type words are SPIs too; TURN channel data (RFC 8656, 12.4) shows its length.
        let claimed = packet.u16(2).map_or(0, u32::from);
        if matches!(spi.swap_bytes(), 1..=4) || (claimed..=claimed + 3).contains(&(packet.length - 4)) {
            return;
        }
        found.rule_out(LookAlike::TurnChannel);
        // A DNS message counts one question, some answers, no authority, and begins with a label (RFC 1035, 4.1).
        if packet.u16(4) == Some(1)
            && packet.u16(8) == Some(0)
            && packet.payload.get(12).is_some_and(|&label| label < 64)
        {
            return;
        }
        found.rule_out(LookAlike::Dns);
        // An SPI belongs to one direction: the same word in both is a protocol's magic number or OpenVPN's peer id.
        // Two hosts draw their SPIs: words side by side (one pair in 2^23), or whose lower halves are (one in 2^14), are a
        // connection's two ids, as uTP's behind their types.
        let side_by_side =
            other.first_word().abs_diff(spi) < 256 || (other.first_word() as u16).abs_diff(spi as u16) <= 1;
        // One byte and three zeros (one SPI in 2^24) is a type.
        if other.word > 0 && side_by_side || spi & 0x00ff_ffff == 0 {
            return;
        }
        if other.word > 0 {
            found.rule_out(LookAlike::MagicWord);
            found.rule_out(LookAlike::OpenVpnData);
        }
        let zero_checksums = packet.ip_version == 4 && !run.checksummed();
        // A word near the time of day is somebody's time stamp (one SPI in 2^15); flags and version of an L2TP data
        // header (RFC 2661, 3.1) stand before its tunnel, session and Ns (one SPI in 2^12).
        let stamped = (packet.time / 1_000_000_000 - i64::from(spi)).abs() <= 86_400;
        let like_l2tp = (spi >> 16) & 0xb4ff == 0x0002;
        let both_ways = other.word >= 4 && !other.odd_length() && other.first_word() >= SMALLEST_SPI;
        // A word that begins as OpenVPN's data does is in fours by chance at first.
        let enough = if spi >> 27 == 9 && !both_ways { 12 } else { 4 };
        // Who sends ESP counts by one (RFC 4303, 3.3.3), and what is lost leaves some steps whole.
        let by_one = run.counts_by_one() && (other.word < 2 || other.counts_by_one());
        let level = if stamped || like_l2tp {
            Confidence::Possible
        } else if on_port {
            // Where the port is right, one more thing must be.
            if run.word >= enough && by_one && (zero_checksums || both_ways) {
                Confidence::Confirmed
            } else {
                Confidence::Likely
            }
        } else if run.word >= 32
            && other.word >= 32
            && zero_checksums
            && !other.checksummed()
            && !other.odd_length()
            && by_one
        {
            Confidence::Confirmed
        } else if run.word >= 8 && zero_checksums {
            Confidence::Likely
        } else if run.word >= 4 {
            Confidence::Possible
        } else {
            return;
        };
        found.observe(&ESP_IN_UDP_RUN, packet);
        self.esp_in_udp = true;
        self.midflow.get_or_insert(true);
        self.raise_to(level);
    }

    fn stream(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) {
        let own = usize::from(packet.direction & 1);
        let mut stream = std::mem::take(&mut self.streams[own]);
        let (mut payload, mut sequence, mut length) = (packet.payload, packet.sequence, packet.length);
        let mut at_start = packet.stream_start;
        if at_start && let Some(rest) = payload.strip_prefix(&STREAM_PREFIX) {
            found.observe(&TCP_PREFIX, packet);
            self.midflow.get_or_insert(false);
            self.initiator.get_or_insert(packet.direction & 1);
            self.raise_to(Confidence::Possible);
            // The prefix is a segment of its own with some.
            sequence = sequence.wrapping_add(STREAM_PREFIX.len() as u32);
            (payload, length, at_start) = (rest, length - STREAM_PREFIX.len() as u32, false);
            stream.begin(sequence);
        }
        if packet.record_start {
            stream.join(sequence);
        }
        stream.feed(sequence, payload, length, at_start, &TcpFraming, |record| self.record(packet, record, found));
        self.streams[own] = stream;
    }

    fn record(&mut self, packet: &FlowPacket<'_>, record: Record<'_>, found: &mut EvidenceSet) {
        let inner = FlowPacket { payload: record.head, length: record.length, ..*packet };
        if let Some(ike) = Ike::parse(&inner) {
            if ike.marker {
                self.ike(&inner, &ike, found);
            }
            return;
        }
        let (Some(spi), Some(sequence)) = (inner.u32(0), inner.u32(4)) else { return };
        if spi < SMALLEST_SPI {
            return;
        }
        let packets = self.follow(packet.direction, spi, sequence, || found.observe(&ESP_IN_TCP_RUN, &inner));
        self.esp_in_udp |= packets > 1;
        if self.version != 0 {
            self.finished = true;
        } else if packets >= RECORDS_MIDSTREAM {
            self.raise_to(Confidence::Possible);
        }
    }

    fn esp(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) {
        let (Some(spi), Some(sequence)) = (packet.u32(0), packet.u32(4)) else { return };
        // SPI 0 never leaves a host (RFC 4303, 2.1).
        if spi == 0 || packet.length < SMALLEST_ESP - 4 {
            return;
        }
        let packets = self.follow(packet.direction, spi, sequence, || found.observe(&ESP_SEQUENCE, packet));
        if packets == 1 {
            found.observe(&ESP_PROTOCOL, packet);
        }
        self.raise_to(if packets >= 3 { Confidence::Confirmed } else { Confidence::Likely });
    }

    fn ah(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) {
        let Some([_, words, reserved @ .., reserved_low]) = packet.array::<4>(0) else { return };
        let (Some(spi), Some(sequence)) = (packet.u32(4), packet.u32(8)) else { return };
        let header = (u32::from(words) + 2) * 4;
        // 12 bytes and an ICV of 96 bits at the least (RFC 4302, 2.2).
        if reserved != [0] || reserved_low != 0 || spi == 0 || header < 20 || header > packet.length {
            return;
        }
        let packets = self.follow(packet.direction, spi, sequence, || found.observe(&AH_SEQUENCE, packet));
        if packets == 1 {
            found.observe(&AH_PROTOCOL, packet);
        }
        self.raise_to(if packets >= 2 { Confidence::Confirmed } else { Confidence::Likely });
    }

    /// Packets of this packet's association so far; `followed` is called when there was one before.
    fn follow(&mut self, direction: u8, spi: u32, sequence: u32, followed: impl FnOnce()) -> u16 {
        self.midflow.get_or_insert(sequence > 1);
        let associations = &mut self.associations[usize::from(direction & 1)];
        if let Some(known) = associations.iter_mut().find(|known| known.packets > 0 && known.spi == spi) {
            match i64::from(sequence.wrapping_sub(known.highest) as i32) {
                1..=SEQUENCE_WINDOW => {
                    known.packets = known.packets.saturating_add(1);
                    known.highest = sequence;
                    followed();
                }
                // What comes late, or twice, says nothing: nothing that counts only falls.
                step if (-SEQUENCE_WINDOW..=0).contains(&step) => {}
                _ => *known = Association { spi, highest: sequence, packets: 1 },
            }
            return known.packets;
        }
        associations.rotate_right(1);
        associations[0] = Association { spi, highest: sequence, packets: 1 };
        1
    }

    fn raise_to(&mut self, confidence: Confidence) {
        self.confidence = self.confidence.max(Some(confidence));
    }

    fn outcome(&self) -> Outcome {
        let Some(confidence) = self.confidence else { return Outcome::Undecided };
        let phase = if self.finished {
            Phase::Established
        } else if self.version == 0 {
            Phase::DataOnly
        } else if self.answered {
            Phase::Handshake
        } else {
            Phase::Attempt
        };
        let variant = match (self.transport, self.version, self.esp_in_udp) {
            (Some(Transport::Esp), ..) => Variant::Esp,
            (Some(Transport::Ah), ..) => Variant::Ah,
            (Some(Transport::Tcp), ..) => Variant::IkeInTcp,
            (_, IKEV1, false) => Variant::IkeV1,
            (_, IKEV1, true) => Variant::IkeV1Esp,
            (_, IKEV2, false) => Variant::IkeV2,
            (_, IKEV2, true) => Variant::IkeV2Esp,
            _ => Variant::EspInUdp,
        };
        Outcome::Match(Finding {
            confidence,
            phase,
            variant,
            initiator: self.initiator,
            midflow: self.midflow.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests;
