//! WireGuard over UDP. Reference: the WireGuard whitepaper (Donenfeld, NDSS 2017), 5.4.2 to 5.4.7; integers
//! are little-endian.
//!
//! ```text
//!   0      1               4               8
//!   +------+---------------+---------------+-- ...
//!   | type | zero (3)      | index (4)     |
//!   +------+---------------+---------------+-- ...
//!   type 1 initiation, 148 bytes: sender at 4, ephemeral at 8, mac1 at 116, mac2 at 132
//!   type 2 response,    92 bytes: sender at 4, receiver at 8, ephemeral at 12, mac1 at 60, mac2 at 76
//!   type 3 cookie reply, 64 bytes: receiver at 4
//!   type 4 data, at least 32 bytes: receiver at 4, counter (8) at 8
//! ```
//!
//! mac2 is zero unless the peer asked for a cookie within two minutes, so a handshake message shows 128 zero
//! bits where a random payload would not. Indices tie the messages of a session together.
//!
//! Look-alikes: DNS with an id of 0x0100 to 0x0400 and no flags (its first label stands where the counter's
//! upper half must be zero); messages padded with zeros to a handshake's length (their mac1 is zero too); games and conferencing with a little-endian type word, whose next word changes
//! with each packet where an index stays. Not recognised: vendors' variants that change type, length or the
//! reserved bytes.

use super::{
    Confidence, EvidenceKind, EvidenceSet, Finding, Fingerprint, FlowPacket, LookAlike, Outcome, Phase, Protocol,
    Transport, Variant,
};

const INITIATION_LENGTH: u32 = 148;
const RESPONSE_LENGTH: u32 = 92;
const COOKIE_REPLY_LENGTH: u32 = 64;
const SMALLEST_DATA_LENGTH: u32 = 32;
/// How far the counter may move within a run.
const COUNTER_WINDOW: u64 = 1 << 13;
/// A retry comes 5 s after its predecessor (whitepaper 6.4), less some clock error.
const RETRY_NANOSECONDS: i64 = 4_000_000_000;
/// Indices are random (whitepaper 5.4.2): a smaller one is as rare as one in 2^16, and what games count.
const SMALLEST_RANDOM_INDEX: u32 = 1 << 16;

const fn kind(id: &'static str, bits: u16, fact: &'static str, source: &'static str) -> EvidenceKind {
    EvidenceKind { id, protocol: Protocol::WireGuard, bits, fact, source }
}

static INITIATION: EvidenceKind = kind(
    "wireguard.initiation",
    33,
    "Handshake initiation: type 1, reserved bytes zero, exactly 148 bytes, an X25519 public value",
    "WireGuard whitepaper 5.4.2",
);
static RESPONSE: EvidenceKind = kind(
    "wireguard.response",
    33,
    "Handshake response: type 2, reserved bytes zero, exactly 92 bytes, an X25519 public value",
    "WireGuard whitepaper 5.4.3",
);
static MAC2_ZERO: EvidenceKind = kind(
    "wireguard.mac2_zero",
    128,
    "The second MAC of a handshake message is zero, as it is while the peer asks for no cookie",
    "WireGuard whitepaper 5.4.4",
);
static COOKIE_REPLY: EvidenceKind = kind(
    "wireguard.cookie_reply",
    32,
    "Cookie reply: type 3, reserved bytes zero, exactly 64 bytes",
    "WireGuard whitepaper 5.4.7",
);
static PAIRED_INDEX: EvidenceKind = kind(
    "wireguard.paired_index",
    32,
    "A message is addressed to the index that a handshake message of this flow introduced",
    "WireGuard whitepaper 5.4.3, 5.4.6, 5.4.7",
);
static NEW_INDEX: EvidenceKind = kind(
    "wireguard.new_index",
    33,
    "A second initiation, at least four seconds later, has a new index",
    "WireGuard whitepaper 6.4",
);
static DATA: EvidenceKind = kind(
    "wireguard.data",
    64,
    "Transport data: type 4, reserved bytes zero, the upper half of the counter zero",
    "WireGuard whitepaper 5.4.6",
);
static COUNTER_RISES: EvidenceKind = kind(
    "wireguard.counter_rises",
    83,
    "Transport data for the same index whose counter has risen a little",
    "WireGuard whitepaper 5.4.6",
);

/// A message, as far as it is in clear.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Message {
    Initiation { sender: u32, mac2_zero: Option<bool> },
    Response { sender: u32, receiver: u32, mac2_zero: Option<bool> },
    CookieReply { receiver: u32 },
    Data { receiver: u32, counter: u64 },
}

impl Message {
    fn parse(packet: &FlowPacket<'_>) -> Option<Self> {
        let index = |at| packet.array(at).map(u32::from_le_bytes);
        // X25519 public values are below 2^255 (RFC 7748, 5): the top bit of the last byte is clear.
        let public_value = |last: usize| packet.payload.get(last).is_none_or(|byte| byte & 0x80 == 0);
        let mac2_zero = |at| packet.array::<16>(at).map(|mac| mac == [0; 16]);
        // A message padded with zeros to this length has a zero mac2 too, and shows it before: mac1 is never zero.
        let mac1_set = |last_word: usize| packet.array(last_word) != Some([0; 4]);
        match (packet.array::<4>(0)?, packet.length) {
            ([1, 0, 0, 0], INITIATION_LENGTH) if public_value(39) && mac1_set(128) => {
                Some(Self::Initiation { sender: index(4)?, mac2_zero: mac2_zero(132) })
            }
            ([2, 0, 0, 0], RESPONSE_LENGTH) if public_value(43) && mac1_set(72) => {
                Some(Self::Response { sender: index(4)?, receiver: index(8)?, mac2_zero: mac2_zero(76) })
            }
            ([3, 0, 0, 0], COOKIE_REPLY_LENGTH) => Some(Self::CookieReply { receiver: index(4)? }),
            ([4, 0, 0, 0], SMALLEST_DATA_LENGTH..) => {
                // Keys live three minutes, so the counter stays far below 2^32 (whitepaper 6.2).
                let counter = packet.array(8).map(u64::from_le_bytes).filter(|counter| counter >> 32 == 0)?;
                let receiver = index(4).filter(|&receiver| receiver >= SMALLEST_RANDOM_INDEX)?;
                Some(Self::Data { receiver, counter })
            }
            _ => None,
        }
    }
}

/// What was seen in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Index that this side's latest handshake message introduced, and the one before.
    sender: [Option<u32>; 2],
    /// Time of the latest initiation.
    initiation_time: i64,
    /// Index that this side's latest response was addressed to: the peer's data will come from a session whose
    /// own index it is, and this side's data goes to it.
    answered: Option<u32>,
    /// Index and highest counter of this side's data.
    data: Option<(u32, u64)>,
    /// Data packets in the current run.
    run: u16,
}

/// State of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct WireGuard {
    sides: [Side; 2],
    initiator: Option<u8>,
    confidence: Option<Confidence>,
    initiated: bool,
    responded: bool,
    established: bool,
    midflow: bool,
}

impl Fingerprint for WireGuard {
    const PROTOCOL: Protocol = Protocol::WireGuard;
    const EVIDENCE: &'static [&'static EvidenceKind] =
        &[&INITIATION, &RESPONSE, &MAC2_ZERO, &COOKIE_REPLY, &PAIRED_INDEX, &NEW_INDEX, &DATA, &COUNTER_RISES];

    fn screen(packet: &FlowPacket<'_>) -> bool {
        packet.transport == Transport::Udp && Message::parse(packet).is_some()
    }

    fn observe(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) -> Outcome {
        if packet.transport != Transport::Udp {
            return Outcome::Undecided;
        }
        // One socket may carry other protocols beside it (STUN, path discovery): a foreign datagram decides nothing.
        let Some(message) = Message::parse(packet) else { return self.outcome() };
        let direction = packet.direction & 1;
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        let mut add = |kind| found.observe(kind, packet);
        let first = self.confidence.is_none();
        match message {
            Message::Initiation { sender, mac2_zero } => {
                add(&INITIATION);
                self.raise(Confidence::Possible);
                if mac2_zero == Some(true) {
                    add(&MAC2_ZERO);
                    self.raise(Confidence::Confirmed);
                }
                let side = &mut self.sides[own];
                let retried = side.sender[0].is_some_and(|known| known != sender)
                    && packet.time.saturating_sub(side.initiation_time) >= RETRY_NANOSECONDS;
                if side.sender[0] != Some(sender) {
                    side.sender = [Some(sender), side.sender[0]];
                }
                side.initiation_time = packet.time;
                if retried {
                    add(&NEW_INDEX);
                    self.raise(Confidence::Confirmed);
                }
                self.initiated = true;
                self.initiator.get_or_insert(direction);
            }
            Message::Response { sender, receiver, mac2_zero } => {
                add(&RESPONSE);
                self.raise(Confidence::Possible);
                if mac2_zero == Some(true) {
                    add(&MAC2_ZERO);
                    self.raise(Confidence::Confirmed);
                }
                if self.sides[other].sender.contains(&Some(receiver)) {
                    add(&PAIRED_INDEX);
                    self.raise(Confidence::Confirmed);
                }
                let side = &mut self.sides[own];
                if side.sender[0] != Some(sender) {
                    side.sender = [Some(sender), side.sender[0]];
                }
                side.answered = Some(receiver);
                self.responded = true;
                self.initiator.get_or_insert(direction ^ 1);
            }
            Message::CookieReply { receiver } => {
                add(&COOKIE_REPLY);
                self.raise(Confidence::Possible);
                if self.sides[other].sender.contains(&Some(receiver)) {
                    add(&PAIRED_INDEX);
                    self.raise(Confidence::Confirmed);
                }
                self.responded = true;
                self.initiator.get_or_insert(direction ^ 1);
            }
            Message::Data { receiver, counter } => {
                let paired =
                    self.sides[other].sender.contains(&Some(receiver)) || self.sides[own].answered == Some(receiver);
                let side = &mut self.sides[own];
                let goes_on = side.data.is_some_and(|(index, highest)| {
                    index == receiver && counter != highest && counter.abs_diff(highest) <= COUNTER_WINDOW
                });
                let repeated = side.data == Some((receiver, counter));
                if !repeated {
                    side.run = if goes_on { side.run.saturating_add(1) } else { 1 };
                    let highest =
                        if goes_on { counter.max(side.data.map_or(0, |(_, highest)| highest)) } else { counter };
                    side.data = Some((receiver, highest));
                }
                // One packet of an unseen session is likely only when nothing in it speaks against it: padded to
                // 16 bytes (whitepaper 5.4.6), a counter that has counted.
                let plain = packet.length.is_multiple_of(16) && counter > 0;
                let own_side = self.sides[own];
                let runs = [self.sides[0].run, self.sides[1].run];
                if paired {
                    add(&DATA);
                    add(&PAIRED_INDEX);
                    self.raise(Confidence::Confirmed);
                    // Data for an index of this flow's handshake only follows its end; the initiator's first data
                    // is what ends it (whitepaper 5.4.6), also when the response went another way.
                    self.established = true;
                } else if goes_on {
                    add(&DATA);
                    add(&COUNTER_RISES);
                    found.rule_out(LookAlike::TypeWord);
                    let enough = own_side.run >= 3 || (runs[0] >= 2 && runs[1] >= 2);
                    self.raise(if enough { Confidence::Confirmed } else { Confidence::Likely });
                    // One direction only: after one's own initiation, data to an index that the (unseen) answer
                    // introduced proves that answer.
                    self.established |= self.initiated || self.responded;
                } else if !repeated && (plain || self.confidence >= Some(Confidence::Likely)) {
                    add(&DATA);
                    found.rule_out(LookAlike::Dns);
                    if plain {
                        self.raise(Confidence::Likely);
                    }
                    self.established |=
                        self.initiated && counter == 0 && self.confidence == Some(Confidence::Confirmed);
                } else {
                    return self.outcome();
                }
            }
        }
        if first && matches!(message, Message::Data { .. }) {
            self.midflow = true;
        }
        self.outcome()
    }
}

impl WireGuard {
    fn raise(&mut self, confidence: Confidence) {
        self.confidence = self.confidence.max(Some(confidence));
    }

    fn outcome(&self) -> Outcome {
        let Some(confidence) = self.confidence else { return Outcome::Undecided };
        let phase = if self.established {
            Phase::Established
        } else if self.midflow {
            Phase::DataOnly
        } else if self.responded {
            Phase::Handshake
        } else {
            Phase::Attempt
        };
        Outcome::Match(Finding {
            confidence,
            phase,
            variant: Variant::WireGuard,
            initiator: self.initiator,
            midflow: self.midflow,
        })
    }
}

#[cfg(test)]
mod tests;
