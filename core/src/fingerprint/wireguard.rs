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
const COUNTER_WINDOW: i64 = 1 << 13;
/// A retry comes 5 s after its predecessor (whitepaper 6.4), less some clock error.
const RETRY_NANOSECONDS: i64 = 4_000_000_000;
/// Indices are random (whitepaper 5.4.2): a smaller one is as rare as one in 2^16, and what games count.
const SMALLEST_RANDOM_INDEX: u32 = 1 << 16;

const fn kind(
    id: &'static str,
    bits: u16,
    fact: &'static str,
    source: &'static str,
    rules_out: &'static str,
) -> EvidenceKind {
    EvidenceKind { id, protocol: Protocol::WireGuard, bits, fact, source, rules_out }
}

static INITIATION: EvidenceKind = kind(
    "wireguard.initiation",
    33,
    "Handshake initiation: type 1, reserved bytes zero, exactly 148 bytes, an X25519 public value",
    "WireGuard whitepaper 5.4.2",
    "datagrams of other lengths; texts and zero-padded records (keys and MACs look drawn)",
);
static RESPONSE: EvidenceKind = kind(
    "wireguard.response",
    33,
    "Handshake response: type 2, reserved bytes zero, exactly 92 bytes, an X25519 public value",
    "WireGuard whitepaper 5.4.3",
    "datagrams of other lengths; a sender and a receiver index that are one number",
);
static MAC2_ZERO: EvidenceKind = kind(
    "wireguard.mac2_zero",
    128,
    "The second MAC of a handshake message is zero, as it is while the peer asks for no cookie",
    "WireGuard whitepaper 5.4.4",
    "anything that is random or text in its last 16 bytes",
);
static COOKIE_REPLY: EvidenceKind = kind(
    "wireguard.cookie_reply",
    32,
    "Cookie reply: type 3, reserved bytes zero, exactly 64 bytes",
    "WireGuard whitepaper 5.4.7",
    "datagrams of other lengths; little by itself",
);
static PAIRED_INDEX: EvidenceKind = kind(
    "wireguard.paired_index",
    32,
    "A message is addressed to the index that a handshake message of this flow introduced",
    "WireGuard whitepaper 5.4.3, 5.4.6, 5.4.7",
    "protocols with a little-endian type word: their session number is the same for both ends",
);
static NEW_INDEX: EvidenceKind = kind(
    "wireguard.new_index",
    33,
    "A second initiation, at least four seconds later, has a new index",
    "WireGuard whitepaper 6.4",
    "messages that are sent again as they were",
);
static DATA: EvidenceKind = kind(
    "wireguard.data",
    64,
    "Transport data: type 4, reserved bytes zero, the upper half of the counter zero",
    "WireGuard whitepaper 5.4.6",
    "DNS and other protocols whose ids look like the type: the counter's upper half is zero nowhere else",
);
static COUNTER_RISES: EvidenceKind = kind(
    "wireguard.counter_rises",
    83,
    "Transport data for the same index whose counter has risen a little",
    "WireGuard whitepaper 5.4.6",
    "type words whose next word changes with each packet, or whose counter is elsewhere",
);

/// A message, as far as it is in clear.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Message {
    Initiation { sender: u32, mac2_zero: Option<bool> },
    Response { sender: u32, receiver: u32, mac2_zero: Option<bool> },
    CookieReply { receiver: u32 },
    Data { receiver: u32, counter: u32 },
}

impl Message {
    fn parse(packet: &FlowPacket<'_>) -> Option<Self> {
        let index = |at| packet.array(at).map(u32::from_le_bytes);
        let mac2_zero = |at| packet.array::<16>(at).map(|mac| mac == [0; 16]);
        match (packet.array::<4>(0)?, packet.length) {
            ([1, 0, 0, 0], INITIATION_LENGTH) if is_public_value(packet, 39) && is_drawn(packet, 8, 132) => {
                Some(Self::Initiation { sender: index(4)?, mac2_zero: mac2_zero(132) })
            }
            ([2, 0, 0, 0], RESPONSE_LENGTH) if is_public_value(packet, 43) && is_drawn(packet, 12, 76) => {
                // Both ends draw their index.
                let (sender, receiver) = (index(4)?, index(8)?);
                (sender != receiver).then_some(Self::Response { sender, receiver, mac2_zero: mac2_zero(76) })
            }
            ([3, 0, 0, 0], COOKIE_REPLY_LENGTH) => Some(Self::CookieReply { receiver: index(4)? }),
            ([4, 0, 0, 0], SMALLEST_DATA_LENGTH..) => {
                // Keys live three minutes, so the counter stays far below 2^32 (whitepaper 6.2).
                let counter =
                    packet.array(8).map(u64::from_le_bytes).and_then(|counter| u32::try_from(counter).ok())?;
                let receiver = index(4).filter(|&receiver| receiver >= SMALLEST_RANDOM_INDEX)?;
                // What follows is encrypted: no word of zeros (one in 2^30), and no text, which has hardly a byte of
                // 0x80 and more among sixteen (one in 480: such a packet says nothing).
                let behind = packet.payload.get(16..packet.payload.len().min(32))?;
                let is_text = behind.len() == 16 && behind.iter().filter(|&&byte| byte >= 0x80).count() < 3;
                let encrypted = !is_text && behind.chunks_exact(4).all(|word| word != [0; 4]);
                encrypted.then_some(Self::Data { receiver, counter })
            }
            _ => None,
        }
    }

    /// Whether a datagram has a message's type and reserved bytes, and cannot be one: neither WireGuard nor what shares
    /// its socket sends that. One that only [`is_unkeyed`] is another matter.
    fn is_contradicted(packet: &FlowPacket<'_>) -> bool {
        let Some([kind @ 1..=4, 0, 0, 0]) = packet.array::<4>(0) else { return false };
        match (kind, packet.length) {
            (1, INITIATION_LENGTH) => !is_drawn(packet, 8, 132),
            (2, RESPONSE_LENGTH) => !is_drawn(packet, 12, 76) || packet.array::<4>(4) == packet.array::<4>(8),
            (3, COOKIE_REPLY_LENGTH) => false,
            (4, SMALLEST_DATA_LENGTH..) => packet.array::<4>(12).is_some_and(|upper| upper != [0; 4]),
            _ => true,
        }
    }
}

/// Whether a datagram is a handshake message but for its public value, which has its top bit set. No end sends it, but any
/// takes it, since X25519 masks that bit (RFC 7748, 5).
fn is_unkeyed(packet: &FlowPacket<'_>) -> bool {
    match (packet.array::<4>(0), packet.length) {
        (Some([1, 0, 0, 0]), INITIATION_LENGTH) => !is_public_value(packet, 39),
        (Some([2, 0, 0, 0]), RESPONSE_LENGTH) => !is_public_value(packet, 43),
        _ => false,
    }
}

/// Whether an X25519 public value ends at `last`, as far as it was captured: it is below 2^255 (RFC 7748, 5), so the top
/// bit of its last byte is clear.
fn is_public_value(packet: &FlowPacket<'_>, last: usize) -> bool {
    packet.payload.get(last).is_none_or(|byte| byte & 0x80 == 0)
}

/// Whether bytes `from` to `to` of a handshake message, as far as they were captured, can be keys, ciphertext and a MAC.
/// A text, or records padded with zeros to a message's length, cannot: random bytes fail here less often than once in
/// 2^20.
fn is_drawn(packet: &FlowPacket<'_>, from: usize, to: usize) -> bool {
    let Some(bytes) = packet.payload.get(from..to) else { return true };
    // mac1 stands last, and is never zero: padding that begins within it shows.
    if bytes.ends_with(&[0; 4]) {
        return false;
    }
    let high = bytes.iter().filter(|&&byte| byte >= 0x80).count();
    let zero = bytes.iter().filter(|&&byte| byte == 0).count();
    high >= bytes.len() / 6 && zero <= 8
}

/// What was seen in one direction. An index of 0 stands for none: one in 2^32 is drawn.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Index that this side's latest handshake message introduced, and the one before.
    sender: [u32; 2],
    /// Index and time of this side's latest initiation.
    initiation: u32,
    initiation_time: i64,
    /// Index that this side's latest response was addressed to: this side's data goes to it.
    answered: u32,
    /// Index and highest counter of this side's data.
    data_index: u32,
    data_counter: u32,
    /// Data packets in the current run.
    run: u8,
    /// Data lengths that are not padded to 16: the largest of them is the tunnel's MTU (5.4.6 caps the padding there),
    /// and how many others there were.
    capped: u16,
    unpadded: u8,
}

impl Side {
    /// Notes a handshake message of this side.
    fn introduce(&mut self, sender: u32) {
        if self.sender[0] != sender {
            self.sender = [sender, self.sender[0]];
        }
    }

    /// Notes the length of a data packet.
    fn note_length(&mut self, length: u32) {
        let length = length.min(u32::from(u16::MAX)) as u16;
        if length.is_multiple_of(16) || length == self.capped {
            return;
        }
        if self.capped != 0 {
            self.unpadded = self.unpadded.saturating_add(1);
        }
        self.capped = self.capped.max(length);
    }

    /// Whether this side introduced an index. What two ends draw differs: see where it is asked of both.
    fn introduced(&self, index: u32) -> bool {
        index >= SMALLEST_RANDOM_INDEX && self.sender.contains(&index)
    }
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
    /// A message was addressed to an index of this flow.
    paired: bool,
    /// A datagram was seen that WireGuard does not send, before anything was paired.
    contradicted: bool,
    /// The same of a handshake message that [`is_unkeyed`]: data has to speak for itself.
    unkeyed: bool,
}

impl Fingerprint for WireGuard {
    const PROTOCOL: Protocol = Protocol::WireGuard;
    const EVIDENCE: &'static [&'static EvidenceKind] =
        &[&INITIATION, &RESPONSE, &MAC2_ZERO, &COOKIE_REPLY, &PAIRED_INDEX, &NEW_INDEX, &DATA, &COUNTER_RISES];

    fn screen(packet: &FlowPacket<'_>) -> bool {
        packet.transport == Transport::Udp
            && (Message::parse(packet).is_some() || Message::is_contradicted(packet) || is_unkeyed(packet))
    }

    #[inline(always)]
    fn can_begin(payload: &[u8], _length: u32) -> bool {
        // The type, and reserved bytes that are zero.
        payload.first_chunk().is_some_and(|&head| u32::from_le_bytes(head).wrapping_sub(1) < 4)
    }

    fn observe(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) -> Outcome {
        if packet.transport != Transport::Udp {
            return Outcome::Undecided;
        }
        // One socket may carry other protocols beside it (STUN, path discovery): a foreign datagram decides nothing.
        let Some(message) = Message::parse(packet) else {
            self.contradicted |= !self.paired && Message::is_contradicted(packet);
            self.unkeyed |= !self.paired && is_unkeyed(packet);
            return self.outcome();
        };
        let direction = packet.direction & 1;
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        match message {
            Message::Initiation { sender, mac2_zero } => {
                self.handshake_message(&INITIATION, mac2_zero, packet, found);
                let side = &mut self.sides[own];
                let retried = side.initiation != 0
                    && side.initiation != sender
                    && packet.time.saturating_sub(side.initiation_time) >= RETRY_NANOSECONDS;
                side.introduce(sender);
                (side.initiation, side.initiation_time) = (sender, packet.time);
                if retried {
                    found.observe(&NEW_INDEX, packet);
                    self.raise_by_handshake(Confidence::Confirmed);
                }
                self.initiated = true;
                self.initiator.get_or_insert(direction);
            }
            Message::Response { sender, receiver, mac2_zero } => {
                self.handshake_message(&RESPONSE, mac2_zero, packet, found);
                self.sides[own].introduce(sender);
                self.sides[own].answered = receiver;
                self.answer(receiver, Confidence::Confirmed, packet, found);
            }
            Message::CookieReply { receiver } => {
                self.handshake_message(&COOKIE_REPLY, None, packet, found);
                // It answers a message without mac2, which is proof enough where it was seen whole.
                self.answer(receiver, Confidence::Likely, packet, found);
            }
            Message::Data { receiver, counter } => {
                let paired = (self.sides[other].introduced(receiver) || self.sides[own].answered == receiver)
                    && !self.sides[own].introduced(receiver);
                self.data(receiver, counter, paired, packet, found);
            }
        }
        self.outcome()
    }

    fn reads_runs(&self) -> bool {
        false
    }
}

impl WireGuard {
    /// An initiation, a response or a cookie reply.
    fn handshake_message(
        &mut self,
        kind: &'static EvidenceKind,
        mac2_zero: Option<bool>,
        packet: &FlowPacket<'_>,
        found: &mut EvidenceSet,
    ) {
        found.observe(kind, packet);
        self.raise(Confidence::Possible);
        if mac2_zero == Some(true) {
            found.observe(&MAC2_ZERO, packet);
            self.raise_by_handshake(Confidence::Confirmed);
        }
    }

    /// A response or a cookie reply is addressed to the index of an initiation.
    fn answer(&mut self, receiver: u32, level: Confidence, packet: &FlowPacket<'_>, found: &mut EvidenceSet) {
        let direction = packet.direction & 1;
        let (own, other) = (usize::from(direction), usize::from(direction ^ 1));
        if self.sides[other].introduced(receiver) && !self.sides[own].introduced(receiver) {
            found.observe(&PAIRED_INDEX, packet);
            self.paired |= level == Confidence::Confirmed;
            self.raise_by_handshake(level);
        }
        self.responded = true;
        self.initiator.get_or_insert(direction ^ 1);
    }

    /// Data; `paired`: for an index of this flow's handshake.
    fn data(&mut self, receiver: u32, counter: u32, paired: bool, packet: &FlowPacket<'_>, found: &mut EvidenceSet) {
        let (own, other) = (usize::from(packet.direction & 1), usize::from(packet.direction & 1 ^ 1));
        // Each end is addressed by the index that it drew: one number for both, or halves that are the same (one pair in
        // 2^15), is a session number.
        let difference = self.sides[other].data_index ^ receiver;
        if self.sides[other].run > 0 && !self.paired && (difference >> 16 == 0 || difference & 0xffff == 0) {
            self.contradicted = true;
        }
        let side = &mut self.sides[own];
        let same_index = side.run > 0 && side.data_index == receiver;
        let step = i64::from(counter) - i64::from(side.data_counter);
        let goes_on = same_index && (1..=COUNTER_WINDOW).contains(&step);
        // What comes late, or twice, says nothing: nothing that counts only falls.
        let late = same_index && (-COUNTER_WINDOW..=0).contains(&step);
        if !late {
            side.run = if goes_on { side.run.saturating_add(1) } else { 1 };
            (side.data_index, side.data_counter) = (receiver, counter);
            side.note_length(packet.length);
        } else if !paired {
            return;
        }
        let (run, runs) = (side.run, [self.sides[0].run, self.sides[1].run]);
        // One packet of an unseen session is likely only when nothing in it speaks against it: padded to 16 bytes
        // (whitepaper 5.4.6), a counter that has counted.
        let plain = packet.length.is_multiple_of(16) && counter > 0;
        if self.confidence.is_none() && !goes_on && !plain {
            return;
        }
        self.midflow |= self.confidence.is_none();
        found.observe(&DATA, packet);
        found.rule_out(LookAlike::Dns);
        if paired {
            found.observe(&PAIRED_INDEX, packet);
            self.paired = true;
            self.raise(Confidence::Confirmed);
        } else if goes_on {
            found.observe(&COUNTER_RISES, packet);
            found.rule_out(LookAlike::TypeWord);
            // Most implementations pad; from one that does not, more must be seen.
            let padded = self.sides.iter().all(|side| side.unpadded == 0);
            let enough =
                if padded { run >= 3 || (runs[0] >= 2 && runs[1] >= 2) } else { runs[0] >= 64 && runs[1] >= 64 };
            self.raise(if enough { Confidence::Confirmed } else { Confidence::Likely });
        } else if plain {
            self.raise(Confidence::Likely);
        }
        // Data only follows a finished handshake: for an index of this flow's own, or, where one direction is seen,
        // after one's own initiation to the index that the unseen answer introduced.
        let after_own = (self.initiated || self.responded) && (goes_on || counter == 0);
        self.established |= paired || (after_own && self.confidence == Some(Confidence::Confirmed));
    }

    fn raise_by_handshake(&mut self, confidence: Confidence) {
        self.raise(if self.unkeyed { Confidence::Possible } else { confidence });
    }

    fn raise(&mut self, confidence: Confidence) {
        // What was contradicted before anything was paired stays possible.
        let bound = if self.contradicted { Confidence::Possible } else { Confidence::Confirmed };
        self.confidence = self.confidence.max(Some(confidence.min(bound)));
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
