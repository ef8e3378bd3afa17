//! Fingerprints: what tells a VPN protocol from everything else, one protocol a file.
//!
//! Each module looks at the packets of one flow and answers [`Outcome`]; facts it establishes on the way go
//! into an [`EvidenceSet`]. Confidence follows the evidence model: below 40 bits `possible`, 40 to 63
//! `likely`, 64 and more with every look-alike ruled out `confirmed`; where the modules name a number of
//! packets for a level, that number decides. A new protocol is one file here, and its
//! name in [`Protocol`], `State` and the lists of screens and evidence below.

mod evidence;
pub mod ipsec;
pub mod openvpn;
mod resync;
mod run;
pub(crate) mod stream;
pub mod wireguard;

pub use evidence::{Evidence, EvidenceKind, EvidenceSet};
pub use resync::Resync;
pub use run::Run;
pub use stream::is_proxied;

use crate::decode::Transport;
pub use ipsec::PairFacts;

use ipsec::Ipsec;
use openvpn::OpenVpn;
use wireguard::WireGuard;

/// A VPN protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// WireGuard.
    WireGuard,
    /// OpenVPN.
    OpenVpn,
    /// IKE, ESP, AH.
    Ipsec,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WireGuard, Self::OpenVpn, Self::Ipsec];

    /// Name used in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::WireGuard => "wireguard",
            Self::OpenVpn => "openvpn",
            Self::Ipsec => "ipsec",
        }
    }
}

/// How sure the evidence makes us.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Confidence {
    /// Below 40 bits.
    Possible,
    /// 40 to 63 bits, or a look-alike not ruled out.
    Likely,
    /// 64 bits and more, every look-alike ruled out.
    Confirmed,
}

impl Confidence {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::Possible, Self::Likely, Self::Confirmed];

    /// Name used in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Confirmed => "confirmed",
        }
    }
}

/// How far the session has come, as far as was seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Nothing seen that can only follow an answer.
    Attempt,
    /// Both sides' opening messages.
    Handshake,
    /// Something that only follows a finished handshake, also when just one direction is seen.
    Established,
    /// Joined mid-flow.
    DataOnly,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Attempt, Self::Handshake, Self::Established, Self::DataOnly];

    /// Name used in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Handshake => "handshake",
            Self::Established => "established",
            Self::DataOnly => "data_only",
        }
    }
}

macro_rules! variants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Which form of the protocol.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Variant { $($(#[$doc])* $variant,)* }

        impl Variant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name used in events.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

variants! {
    /// WireGuard as published.
    WireGuard = "standard",
    /// OpenVPN control channel in plain TLS.
    Plain = "plain",
    /// OpenVPN control channel with an HMAC.
    TlsAuth = "tls-auth",
    /// OpenVPN control channel encrypted with a key that all clients share.
    TlsCrypt = "tls-crypt",
    /// OpenVPN control channel encrypted with a key of each client.
    TlsCryptV2 = "tls-crypt-v2",
    /// OpenVPN data: how the control channel was wrapped was not seen.
    Data = "data",
    /// IKE version 1.
    IkeV1 = "ikev1",
    /// IKE version 2.
    IkeV2 = "ikev2",
    /// IKE version 1 and ESP in UDP on one five-tuple.
    IkeV1Esp = "ikev1+esp-in-udp",
    /// IKE version 2 and ESP in UDP on one five-tuple.
    IkeV2Esp = "ikev2+esp-in-udp",
    /// ESP in UDP (RFC 3948), IKE not seen on its five-tuple.
    EspInUdp = "esp-in-udp",
    /// IKE and ESP in TCP (RFC 9329).
    IkeInTcp = "ike-in-tcp",
    /// ESP as an IP protocol.
    Esp = "esp",
    /// AH as an IP protocol.
    Ah = "ah",
}

macro_rules! look_alikes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A protocol that resembles one of ours, tested for and ruled out.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u8)]
        pub enum LookAlike { $($(#[$doc])* $variant,)* }

        impl LookAlike {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name used in events.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

look_alikes! {
    /// A DNS message whose id and flags look like a type: the first label stands where zeros must.
    Dns = "dns",
    /// Games and conferencing with a little-endian type word: their "index" changes with every packet.
    TypeWord = "little-endian-type-word",
    /// TURN channel data (RFC 8656): its length field would have to match.
    TurnChannel = "turn-channel-data",
    /// GTP-U (TS 29.281).
    GtpU = "gtp-u",
    /// QUIC 1-RTT: the first byte changes, and nothing counts in clear.
    Quic = "quic",
    /// ESP in UDP, when the flow is OpenVPN data.
    EspInUdp = "esp-in-udp",
    /// OpenVPN data, when the flow is ESP in UDP.
    OpenVpnData = "openvpn-data",
    /// One magic word and a counter in both directions (game protocols).
    MagicWord = "magic-word-and-counter",
}

/// What a fingerprint holds of a flow, when it holds it to be its protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Finding {
    /// How sure.
    pub confidence: Confidence,
    /// How far.
    pub phase: Phase,
    /// Which form.
    pub variant: Variant,
    /// Direction of the initiator's packets (see [`FlowPacket::direction`]), where a handshake shows it.
    pub initiator: Option<u8>,
    /// The first packets seen were not the opening.
    pub midflow: bool,
}

/// A fingerprint's answer about a flow so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Nothing that counts yet.
    Undecided,
    /// This protocol, as far as the finding says.
    Match(Finding),
}

/// One packet, as fingerprints see it.
#[derive(Clone, Copy, Debug)]
pub struct FlowPacket<'a> {
    /// Captured bytes of the payload.
    pub payload: &'a [u8],
    /// Its true length, at least that of `payload`.
    pub length: u32,
    /// Number of the frame.
    pub number: u64,
    /// The packet's own time, nanoseconds since 1970.
    pub time: i64,
    /// 0 from the sender of the flow's first packet, 1 from the other end.
    pub direction: u8,
    /// Transport protocol.
    pub transport: Transport,
    /// 4 or 6.
    pub ip_version: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// UDP checksum field is zero.
    pub checksum_zero: bool,
    /// TCP sequence number of the payload's first byte.
    pub sequence: u32,
    /// TCP: the payload begins right behind the sender's SYN.
    pub stream_start: bool,
    /// TCP: the payload begins with a record, to which a chain of others led.
    pub record_start: bool,
    /// UDP: words and counters of both directions, this packet included.
    pub runs: &'a [Run; 2],
}

impl FlowPacket<'_> {
    /// Payload bytes from `at`, if captured.
    pub fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.payload.get(at..)?.first_chunk::<N>().copied()
    }

    /// Big-endian 16 bits at `at`.
    pub fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    /// Big-endian 32 bits at `at`.
    pub fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    /// Big-endian 64 bits at `at`.
    pub fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_be_bytes)
    }

    /// Either port is this one.
    pub fn on_port(&self, port: u16) -> bool {
        self.source_port == port || self.destination_port == port
    }

    /// This direction's run.
    pub fn run(&self) -> &Run {
        &self.runs[usize::from(self.direction & 1)]
    }

    /// The other direction's run.
    pub fn other_run(&self) -> &Run {
        &self.runs[usize::from(self.direction & 1 ^ 1)]
    }
}

/// One protocol's recogniser: the state that it keeps for a flow, and what it makes of the next packet.
pub trait Fingerprint: Default {
    /// Protocol that it recognises.
    const PROTOCOL: Protocol;
    /// Every kind of evidence that it can find.
    const EVIDENCE: &'static [&'static EvidenceKind];

    /// Whether a flow's packet is worth keeping state for. Called for every packet of an undecided flow, so
    /// it must be cheap; it keeps nothing.
    fn screen(packet: &FlowPacket<'_>) -> bool;

    /// Whether a datagram can pass [`Self::screen`] by what it begins with and its length, if it continues no run.
    fn can_begin(payload: &[u8], length: u32) -> bool;

    /// Takes note of a packet. Facts go into `found`.
    fn observe(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) -> Outcome;

    /// Whether [`FlowPacket::runs`] still matter once the flow is confirmed. Where they do not, they stay as they are.
    fn reads_runs(&self) -> bool;
}

/// Every kind of evidence, in the order of the protocols.
pub fn evidence_kinds() -> impl Iterator<Item = &'static EvidenceKind> {
    [WireGuard::EVIDENCE, OpenVpn::EVIDENCE, Ipsec::EVIDENCE].into_iter().flatten().copied()
}

/// Whether a datagram, of which its direction's run has taken note, can be of none of these protocols. Asked first of every
/// datagram of an undecided flow: most are strangers, and most of these are told by what they begin with.
#[inline(always)]
pub fn is_strange(payload: &[u8], length: u32, run: &Run) -> bool {
    let can_begin = || {
        WireGuard::can_begin(payload, length) | Ipsec::can_begin(payload, length) | OpenVpn::can_begin(payload, length)
    };
    // Of those too short for a run it has taken no note.
    payload.len() >= run::HEAD && run.is_new() && !can_begin()
}

/// Whether any protocol wants state for the flow of this packet.
pub fn screen(packet: &FlowPacket<'_>) -> bool {
    WireGuard::screen(packet) || Ipsec::screen(packet) || OpenVpn::screen(packet)
}

/// Whether what a stream begins with is too short to tell what it is: a record or a request cut in its first bytes.
pub fn needs_more(start: &[u8]) -> bool {
    start.len() < 3
        || [&b"CONNECT "[..], b"HTTP/1.1 200"].iter().any(|word| word.starts_with(start))
        || ipsec::needs_more(start)
}

/// Whether the first fragment of a datagram says too little without the others.
pub fn needs_all(packet: &FlowPacket<'_>) -> bool {
    ipsec::needs_all(packet)
}

/// The state of the protocol that holds a flow.
enum State {
    WireGuard(WireGuard),
    OpenVpn(OpenVpn),
    Ipsec(Ipsec),
}

impl State {
    fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::WireGuard => Self::WireGuard(WireGuard::default()),
            Protocol::OpenVpn => Self::OpenVpn(OpenVpn::default()),
            Protocol::Ipsec => Self::Ipsec(Ipsec::default()),
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            Self::WireGuard(_) => Protocol::WireGuard,
            Self::OpenVpn(_) => Protocol::OpenVpn,
            Self::Ipsec(_) => Protocol::Ipsec,
        }
    }

    fn reads_runs(&self) -> bool {
        match self {
            Self::WireGuard(state) => state.reads_runs(),
            Self::OpenVpn(state) => state.reads_runs(),
            Self::Ipsec(state) => state.reads_runs(),
        }
    }

    fn observe(&mut self, packet: &FlowPacket<'_>, found: &mut EvidenceSet) -> Option<Finding> {
        let outcome = match self {
            Self::WireGuard(state) => state.observe(packet, found),
            Self::OpenVpn(state) => state.observe(packet, found),
            Self::Ipsec(state) => state.observe(packet, found),
        };
        match outcome {
            Outcome::Match(finding) => Some(finding),
            Outcome::Undecided => None,
        }
    }
}

/// What is kept of a flow that passed [`screen`]: the state of one protocol, since what one wants to keep state
/// for is hardly ever another's. Until it is confirmed another one may take its place with a better finding.
#[derive(Default)]
pub struct Candidate {
    state: Option<State>,
    finding: Option<Finding>,
    found: EvidenceSet,
}

impl Candidate {
    /// Takes note of a packet; the best finding so far.
    pub fn observe(&mut self, packet: &FlowPacket<'_>) -> Option<(Protocol, Finding)> {
        if let Some(state) = &mut self.state
            && let Some(finding) = state.observe(packet, &mut self.found)
        {
            self.finding = Some(finding);
        }
        let confidence = self.finding.map(|finding| finding.confidence);
        if confidence != Some(Confidence::Confirmed) {
            let screens = [
                (Protocol::WireGuard, WireGuard::screen as fn(&FlowPacket<'_>) -> bool),
                (Protocol::Ipsec, Ipsec::screen),
                (Protocol::OpenVpn, OpenVpn::screen),
            ];
            for (protocol, screen) in screens {
                if self.state.as_ref().is_none_or(|state| state.protocol() != protocol) && screen(packet) {
                    self.challenge(protocol, packet);
                }
            }
        }
        self.best()
    }

    /// Whether the runs of the flow still matter to anyone.
    #[inline]
    pub fn reads_runs(&self) -> bool {
        let confirmed = self.finding.is_some_and(|finding| finding.confidence == Confidence::Confirmed);
        !confirmed || self.state.as_ref().is_none_or(State::reads_runs)
    }

    /// Lets another protocol begin with this packet, and keeps the better one of the two.
    fn challenge(&mut self, protocol: Protocol, packet: &FlowPacket<'_>) {
        let (mut state, mut found) = (State::new(protocol), EvidenceSet::default());
        let finding = state.observe(packet, &mut found);
        let level = |finding: &Option<Finding>| finding.map(|finding| finding.confidence);
        if level(&finding) > level(&self.finding) || self.finding.is_none() {
            *self = Self { state: Some(state), finding, found };
        }
    }

    /// The best finding so far.
    pub fn best(&self) -> Option<(Protocol, Finding)> {
        Some((self.state.as_ref()?.protocol(), self.finding?))
    }

    /// Evidence for the best finding.
    pub fn evidence(&self) -> &EvidenceSet {
        &self.found
    }

    /// What an IPsec flow says about its two hosts.
    pub fn pair_facts(&self) -> Option<PairFacts> {
        match &self.state {
            Some(State::Ipsec(state)) if self.finding.is_some() => Some(state.pair_facts()),
            _ => None,
        }
    }

    /// Another flow between the same two hosts (IKE on port 500 or 4500, ESP) shows who initiated, or that a handshake
    /// was finished; `same_session`: on this flow's IKE SA. Says whether that changed anything.
    pub fn raise_by_pair(
        &mut self,
        number: u64,
        time: i64,
        finished: bool,
        same_session: bool,
        initiator: Option<u8>,
    ) -> bool {
        let (Some(State::Ipsec(state)), Some(before)) = (&mut self.state, self.finding) else { return false };
        let Outcome::Match(after) = state.raise(finished, same_session, initiator) else { return false };
        if after.phase != before.phase {
            self.found.add(&ipsec::SAME_HOSTS, number, time, 0, 0);
        }
        self.finding = Some(after);
        after != before
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
