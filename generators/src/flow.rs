//! One flow at a time: what a generator writes goes, datagram by datagram or segment by segment, the way that packets
//! of a capture go behind the decoder, through a [`Shard`] of the product.

use vpn_classifier_core::decode::{Packet, Transport, tcp_flags};
use vpn_classifier_core::fingerprint::{Confidence, Protocol};
use vpn_classifier_core::flow::shard::Routed;
use vpn_classifier_core::flow::{KeyMode, Limits, Memory, Shard};

use crate::random::Random;
use crate::stream::{Framing, Stream, Tap};

/// Nanoseconds.
pub const SECOND: i64 = 1_000_000_000;
/// A millisecond in nanoseconds.
pub const MILLISECOND: i64 = 1_000_000;
/// When flows begin, about: some day in 2026, since OpenVPN's session times are compared with the packets'.
const BEGINNING: i64 = 1_790_000_000 * SECOND;
/// The longest payload.
const LONGEST: usize = 2_048;
/// Random bytes of which payloads are cut; their heads are drawn anew each time.
const STOCK: usize = 1 << 16;
/// Bytes at a payload's head that are drawn anew.
const FRESH: usize = 64;
/// Flows after which the table is emptied.
const FLOWS_OF_A_TABLE: u32 = 512;
/// UDP and IPv4 headers.
const HEADERS: u32 = 28;
/// TCP and IPv4 headers.
const STREAM_HEADERS: u32 = 40;

/// Ports that VPN protocols use: look-alikes are sent there too.
pub const VPN_PORTS: [u16; 8] = [500, 4_500, 1_194, 51_820, 1_701, 2_408, 443, 53];

/// What the classifier made of a flow.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The highest confidence by protocol, in the order of [`Protocol::ALL`].
    pub confidence: [Option<Confidence>; 3],
    /// Evidence of the last report with the highest confidence.
    pub evidence: [Vec<&'static str>; 3],
}

/// How what a generator sends travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// Each payload as a datagram, or as the packet of another transport.
    Datagrams,
    /// As messages of a TCP stream.
    Stream {
        /// What stands before each message.
        framing: Framing,
        /// What the tap sees of it.
        tap: Tap,
    },
}

/// A datagram or segment as it was sent, for tests that look at generators.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    /// Time since the flow began.
    pub time: i64,
    /// Direction.
    pub direction: u8,
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Its UDP checksum is zero.
    pub checksum_zero: bool,
    /// TCP's sequence number, 0 for others.
    pub sequence: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The flow that a generator is writing.
pub struct Flow {
    /// Random numbers of this flow.
    pub random: Random,
    /// Ports of the sender of the first packet and of the other end.
    pub ports: [u16; 2],
    /// 4 or 6.
    pub ip_version: u8,
    /// UDP checksums are zero.
    pub checksum_zero: bool,
    /// UDP, ESP or AH; TCP where the form is a stream.
    pub transport: Transport,
    /// Time of the next packet.
    pub time: i64,
    /// The field that a near miss is to break.
    broken: &'static str,
    form: Form,
    stream: Stream,
    beginning: i64,
    hosts: [[u8; 16]; 2],
    number: u64,
    buffer: Vec<u8>,
    length: usize,
    stock: Vec<u8>,
    shard: Shard,
    flows: u32,
    datagrams: u64,
    recorded: Option<Vec<Sent>>,
}

impl Default for Flow {
    fn default() -> Self {
        Self::new()
    }
}

impl Flow {
    /// An empty table.
    pub fn new() -> Self {
        let limits = Limits {
            key_mode: KeyMode::FiveTuple,
            min_confidence: Confidence::Possible,
            undecided: 1 << 16,
            attempts: 1 << 16,
            recognised: 1 << 16,
            fragmented: 1 << 10,
            remove_duplicates: false,
            update_interval: i64::MAX,
            packet_milestones: Vec::new(),
            duration_milestones: Vec::new(),
        };
        let mut stock = vec![0; STOCK + LONGEST];
        Random::new(0x570c).fill(&mut stock);
        Self {
            random: Random::new(0),
            ports: [0; 2],
            ip_version: 4,
            checksum_zero: false,
            transport: Transport::Udp,
            time: BEGINNING,
            broken: "",
            form: Form::Datagrams,
            stream: Stream::default(),
            beginning: BEGINNING,
            hosts: [[0; 16]; 2],
            number: 0,
            buffer: vec![0; LONGEST],
            length: 0,
            stock,
            shard: Shard::new(0, limits, &Memory::default()),
            flows: 0,
            datagrams: 0,
            recorded: None,
        }
    }

    /// Generates one flow and says what the classifier made of it, and how many datagrams or segments it had. `broken`
    /// names the field that a near miss breaks.
    pub fn run(&mut self, random: Random, broken: &'static str, form: Form, generate: fn(&mut Self)) -> (Verdict, u64) {
        if self.flows.is_multiple_of(FLOWS_OF_A_TABLE) {
            self.shard.begin(u64::from(self.flows));
        }
        self.flows = self.flows.wrapping_add(1);
        self.random = random;
        self.broken = broken;
        self.datagrams = 0;
        self.transport = Transport::Udp;
        self.ip_version = if self.random.one_in(8) { 6 } else { 4 };
        self.checksum_zero = false;
        let mut hosts = [[0; 16]; 2];
        for host in &mut hosts {
            self.random.fill(if self.ip_version == 4 { &mut host[..4] } else { &mut host[..] });
        }
        self.hosts = hosts;
        self.ports = [self.random.between(1_024, 65_535) as u16, self.random.between(1_024, 65_535) as u16];
        // Flows of one table come one after the other, as the packet clock has it.
        self.beginning = self.time.max(BEGINNING) + self.random.between(0, SECOND as u64) as i64;
        if self.beginning > BEGINNING + 365 * 86_400 * SECOND {
            self.beginning = BEGINNING;
            self.shard.begin(u64::from(self.flows));
        }
        self.time = self.beginning;
        self.form = form;
        match form {
            Form::Datagrams => generate(self),
            Form::Stream { tap, .. } => {
                // Drawn first, so that a near miss and its control are cut alike.
                let mut cuts = Random::new(self.random.word());
                self.stream.clear();
                generate(self);
                self.send_stream(&mut cuts, tap);
            }
        }
        if self.recorded.is_some() {
            // The last report has the evidence that came after the level was reached.
            self.shard.finish(self.number, self.time);
        }
        let mut verdict = Verdict::default();
        for report in self.shard.take_reports() {
            let place = report.protocol as usize;
            if verdict.confidence[place] <= Some(report.finding.confidence) {
                verdict.confidence[place] = Some(report.finding.confidence);
                verdict.evidence[place] = report.evidence.items().iter().map(|item| item.kind.id).collect();
            }
        }
        (verdict, self.datagrams)
    }

    /// Like [`Self::run`]; gives what was sent as well.
    pub fn record(
        &mut self,
        random: Random,
        broken: &'static str,
        form: Form,
        generate: fn(&mut Self),
    ) -> (Verdict, Vec<Sent>) {
        self.recorded = Some(Vec::new());
        let (verdict, _) = self.run(random, broken, form, generate);
        (verdict, self.recorded.take().unwrap_or_default())
    }

    /// Whether the flow is to break this field.
    pub fn breaks(&self, field: &str) -> bool {
        self.broken == field
    }

    /// How many datagrams a flow shall have: from 1 to 64, short ones as often as long ones.
    pub fn count(&mut self) -> usize {
        let most = self.random.pick(&[2, 6, 16, 64]);
        self.random.size(1, most)
    }

    /// Chooses ports, IP version and checksums for a protocol whose servers listen at one of `servers`.
    pub fn socket(&mut self, servers: &[u16]) {
        let server = match self.random.between(0, 7) {
            0 | 1 => self.random.pick(&VPN_PORTS),
            2 => self.ports[1],
            _ => self.random.pick(servers),
        };
        let client = if self.random.one_in(4) { server } else { self.ports[0] };
        self.ports = if self.random.one_in(4) { [server, client] } else { [client, server] };
        // Some stacks and tunnels leave the checksum out; over IPv6 that is exceptional (RFC 6935).
        self.checksum_zero = self.random.one_in(if self.ip_version == 4 { 8 } else { 64 });
    }

    /// Lets time pass, from nothing to twice `mean`.
    pub fn wait(&mut self, mean: i64) {
        self.time += self.random.between(0, 2 * mean as u64) as i64;
    }

    /// Either direction.
    pub fn either(&mut self) -> u8 {
        self.random.between(0, 1) as u8
    }

    /// Begins a payload of random bytes.
    pub fn fill(&mut self, length: usize) {
        self.length = length.min(LONGEST);
        let from = self.random.size(0, STOCK);
        self.buffer[..self.length].copy_from_slice(&self.stock[from..from + self.length]);
        let fresh = self.length.min(FRESH);
        self.random.fill(&mut self.buffer[..fresh]);
    }

    /// Begins a payload of random bytes all of which are drawn anew, at least the first `fresh`.
    pub fn fill_fresh(&mut self, length: usize, fresh: usize) {
        self.fill(length);
        let fresh = self.length.min(fresh);
        self.random.fill(&mut self.buffer[..fresh]);
    }

    /// Begins a payload of one byte over and over.
    pub fn fill_with(&mut self, byte: u8, length: usize) {
        self.length = length.min(LONGEST);
        self.buffer[..self.length].fill(byte);
    }

    /// Begins a payload of printable text.
    pub fn fill_text(&mut self, length: usize) {
        self.fill(length);
        for byte in &mut self.buffer[..self.length] {
            *byte = 0x20 + *byte % 0x5f;
        }
    }

    /// Bytes of the payload.
    pub fn payload(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.length]
    }

    /// Length of the payload.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Overwrites bytes from `at`; what would lie behind the end is left out.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = self.length.min(at + bytes.len());
        if at < end {
            self.buffer[at..end].copy_from_slice(&bytes[..end - at]);
        }
    }

    /// Overwrites 16 bits, network order.
    pub fn put16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_be_bytes());
    }

    /// Overwrites 32 bits, network order.
    pub fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_be_bytes());
    }

    /// Overwrites 64 bits, network order.
    pub fn put64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_be_bytes());
    }

    /// Overwrites 32 bits, little-endian.
    pub fn put32_le(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    /// Overwrites 64 bits, little-endian.
    pub fn put64_le(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    /// Overwrites with the same byte from `at` to the end.
    pub fn pad(&mut self, at: usize, byte: u8) {
        let at = at.min(self.length);
        self.buffer[at..self.length].fill(byte);
    }

    /// Changes the length; what is new is random.
    pub fn resize(&mut self, length: usize) {
        let length = length.min(LONGEST);
        if length > self.length {
            let from = self.random.size(0, STOCK);
            let new = length - self.length;
            self.buffer[self.length..length].copy_from_slice(&self.stock[from..from + new]);
        }
        self.length = length;
    }

    /// Makes the length wrong, by 1 or 16 either way.
    pub fn wrong_length(&mut self) {
        let change = self.random.pick(&[-16, -1, 1, 16]);
        self.resize(self.length.saturating_add_signed(change));
    }

    /// Sends the payload; it stays, so that it can be sent again. `direction` is 0 from the first sender. In a stream it
    /// is written behind what framing there is, and travels when the flow is complete.
    pub fn send(&mut self, direction: u8) {
        match self.form {
            Form::Datagrams => self.send_datagram(direction),
            Form::Stream { framing, .. } => self.write(direction, framing),
        }
        // Whatever else a generator waits for, no two packets come at once.
        self.time += self.random.between(1, 20) as i64 * MILLISECOND;
    }

    fn send_datagram(&mut self, direction: u8) {
        let payload = std::mem::take(&mut self.buffer);
        let udp = self.transport == Transport::Udp;
        let packet = Packet {
            checksum: u16::from(!(self.checksum_zero && udp)),
            ..self.packet(direction, udp, self.length as u32, HEADERS)
        };
        self.deliver(direction, packet, &payload[..self.length]);
        self.buffer = payload;
    }

    /// Writes the payload into the stream.
    fn write(&mut self, direction: u8, framing: Framing) {
        let mut length = match framing {
            Framing::Own => return self.stream.write(direction, self.time, &[&self.buffer[..self.length]]),
            Framing::Length => self.length as u16,
            Framing::IkeTcp => self.length as u16 + 2,
        };
        if self.breaks("length prefix") {
            length = match self.random.between(0, 2) {
                0 => length.wrapping_add_signed(self.random.pick(&[-2, -1, 1, 2, 4, 16])),
                1 if length.swap_bytes() != length => length.swap_bytes(),
                _ => length ^ 0x0400,
            };
        }
        if framing == Framing::IkeTcp && direction == 0 && self.stream.is_silent(0) {
            self.stream.write(direction, self.time, &[b"IKETCP"]);
        }
        self.stream.write(direction, self.time, &[&length.to_be_bytes(), &self.buffer[..self.length]]);
    }

    /// Sends what was written, as a tap sees it.
    fn send_stream(&mut self, cuts: &mut Random, tap: Tap) {
        self.transport = Transport::Tcp;
        let end = std::mem::replace(&mut self.time, self.beginning);
        let stream = std::mem::take(&mut self.stream);
        let (segments, from_start) = stream.seen(cuts, tap);
        // Now and then a sequence number passes zero.
        let initial = [0, 1].map(|_| if cuts.one_in(8) { 0_u32.wrapping_sub(100) } else { cuts.u32() });
        let packet = |flow: &Self, direction: u8, sequence: usize, flags: u8, length: usize| Packet {
            tcp_sequence: initial[usize::from(direction)].wrapping_add(sequence as u32),
            tcp_flags: flags,
            ..flow.packet(direction, true, length as u32, STREAM_HEADERS)
        };
        if from_start {
            for (direction, flags) in [(0, tcp_flags::SYN), (1, tcp_flags::SYN | tcp_flags::ACK)] {
                let opening = packet(self, direction, 0, flags, 0);
                self.deliver(direction, opening, &[]);
            }
        }
        for segment in &segments {
            let payload = stream.payload(segment);
            let sent = packet(self, segment.direction, 1 + segment.from, tcp_flags::ACK, payload.len());
            // Its time is that of the writing; what comes late comes at once.
            self.time = self.time.max(segment.time);
            self.deliver(segment.direction, sent, payload);
        }
        (self.stream, self.time) = (stream, end);
    }

    /// A packet's headers.
    fn packet(&self, direction: u8, has_ports: bool, length: u32, headers: u32) -> Packet {
        let own = usize::from(direction & 1);
        let ports = if has_ports { [self.ports[own], self.ports[own ^ 1]] } else { [0, 0] };
        Packet {
            source: self.hosts[own],
            destination: self.hosts[own ^ 1],
            ip_version: self.ip_version,
            transport: self.transport,
            source_port: ports[0],
            destination_port: ports[1],
            ip_length: length + headers,
            payload_captured: length,
            payload_length: length,
            ..Packet::default()
        }
    }

    fn deliver(&mut self, direction: u8, packet: Packet, payload: &[u8]) {
        self.number += 1;
        self.datagrams += 1;
        let mut routed = Routed { packet, number: self.number, time: self.time, now: self.time, ..Routed::default() };
        routed.route(KeyMode::FiveTuple);
        self.shard.packet(&routed, || payload, self.shard.guess(&routed));
        if let Some(recorded) = &mut self.recorded {
            recorded.push(Sent {
                time: self.time - self.beginning,
                direction,
                ports: [packet.source_port, packet.destination_port],
                checksum_zero: packet.has_no_checksum(),
                sequence: packet.tcp_sequence,
                payload: payload.to_vec(),
            });
        }
    }
}

/// A protocol's place in [`Verdict`].
pub fn place(protocol: Protocol) -> usize {
    protocol as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams(generate: fn(&mut Flow)) -> Vec<Sent> {
        Flow::new().record(Random::new(1), "length", Form::Datagrams, generate).1
    }

    #[test]
    fn what_is_put_behind_the_end_is_left_out() {
        let sent = datagrams(|flow| {
            flow.fill_with(7, 6);
            flow.put32(4, 0x0102_0304);
            flow.put(6, &[9]);
            flow.put(100, &[9]);
            flow.pad(5, 0);
            flow.send(0);
        });
        assert_eq!(sent[0].payload, [7, 7, 7, 7, 1, 0]);
    }

    #[test]
    fn a_resized_payload_keeps_its_head() {
        let sent = datagrams(|flow| {
            flow.fill_with(7, 20);
            flow.wrong_length();
            flow.send(1);
            flow.fill_with(7, 3);
            flow.wrong_length();
            flow.send(1);
        });
        assert!([4, 19, 21, 36].contains(&sent[0].payload.len()), "{}", sent[0].payload.len());
        assert!(sent[0].payload.starts_with(&[7; 4]));
        assert!([0, 2, 4, 19].contains(&sent[1].payload.len()), "{}", sent[1].payload.len());
    }

    #[test]
    fn both_directions_are_of_one_flow() {
        let sent = datagrams(|flow| {
            flow.ports = [1_000, 2_000];
            for direction in [0, 1] {
                flow.fill(10);
                flow.send(direction);
            }
        });
        assert_eq!((sent[0].ports, sent[1].ports), ([1_000, 2_000], [2_000, 1_000]));
        assert!(sent[0].time < sent[1].time);
        assert_ne!(sent[0].payload, sent[1].payload);
    }

    /// The way is the product's: what is recognised there is recognised here, and a flow does not see the one before it.
    #[test]
    fn a_flow_goes_through_the_table() {
        fn initiation(flow: &mut Flow) {
            flow.fill_fresh(148, 148);
            flow.put(0, &[1, 0, 0, 0]);
            flow.put(39, &[1]);
            flow.put(128, &[1, 2, 3, 4]);
            flow.pad(132, 0);
            flow.send(0);
        }
        fn nothing(flow: &mut Flow) {
            flow.fill_text(50);
            flow.send(0);
        }
        let mut flow = Flow::new();
        for seed in 0..3 {
            let (verdict, sent) = flow.run(Random::new(seed), "", Form::Datagrams, initiation);
            assert_eq!(verdict.confidence[place(Protocol::WireGuard)], Some(Confidence::Confirmed));
            assert_eq!(verdict.evidence[0], ["wireguard.initiation", "wireguard.mac2_zero"]);
            assert_eq!((verdict.confidence[1], verdict.confidence[2], sent), (None, None, 1));
            assert_eq!(flow.run(Random::new(seed), "", Form::Datagrams, nothing).0.confidence, [None; 3]);
        }
    }
}
