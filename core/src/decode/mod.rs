//! From a frame to the innermost five-tuple and its payload.
//!
//! One header is one file: `decode(cursor, packet)` reads its header at the cursor, moves the cursor behind
//! it and says what comes next. Lengths come from the IP and UDP headers; what was captured only bounds what
//! may be read, so a packet cut by the snap length keeps its true lengths.

mod ah;
mod c_hdlc;
mod error;
mod erspan;
mod esp;
mod etherip;
mod ethernet;
mod geneve;
mod gre;
mod gtp_u;
mod ipv4;
mod ipv6;
mod linux_sll;
mod mpls;
mod null;
mod peel;
mod ppp;
mod pppoe;
mod raw;
mod tags;
mod tcp;
mod udp;
mod vlan;
mod vxlan;

pub use error::{Cause, DecodeError, Layer};
pub use peel::{Peel, PeelMode};
pub use tcp::flags as tcp_flags;

use crate::capture::LinkType;

/// Labels, extension headers and the like followed in one header; more is malformed (or an attack on the decoder).
const MAX_DEPTH: usize = 16;
/// Steps from header to header in one frame; some headers take two.
const MAX_STEPS: usize = 32;

/// Transport protocols that make flows.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Transport {
    /// Transmission Control Protocol, IP protocol 6.
    Tcp = 6,
    /// User Datagram Protocol, IP protocol 17.
    #[default]
    Udp = 17,
    /// Encapsulating Security Payload, IP protocol 50 (RFC 4303).
    Esp = 50,
    /// Authentication Header, IP protocol 51 (RFC 4302); what it carries belongs to the AH flow.
    Ah = 51,
}

impl Transport {
    /// All of them, in the order of their names in events.
    pub const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Esp, Self::Ah];

    /// Name used in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Esp => "ESP",
            Self::Ah => "AH",
        }
    }
}

macro_rules! layers {
    ($($(#[$doc:meta])* $layer:ident = $name:literal,)*) => {
        /// Layers above the innermost IP header, as the event's `encap` names them.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u8)]
        pub enum EncapLayer { $($(#[$doc])* $layer,)* }

        impl EncapLayer {
            /// All of them; the place + 1 is the code in [`Path`].
            pub const ALL: &'static [Self] = &[$(Self::$layer,)*];

            /// Name used in events.
            pub fn name(self) -> &'static str {
                match self { $(Self::$layer => $name,)* }
            }
        }
    };
}

// A new encapsulation is a file, its line here, and its place in `follow` or in `tunnel_in_udp`.
layers! {
    /// Ethernet.
    Ethernet = "ethernet",
    /// IEEE 802.1Q tag.
    Dot1q = "802.1q",
    /// IEEE 802.1ad service tag, and its older EtherTypes 0x9100, 0x9200 and 0x9300.
    Dot1ad = "802.1ad",
    /// A tag that is no VLAN: VN-Tag, E-TAG, R-TAG.
    Tag = "tag",
    /// A provider backbone's I-TAG (802.1ah).
    Pbb = "pbb",
    /// IP at once, as in link types 12, 14, 101, 228 and 229.
    Raw = "raw",
    /// BSD null or loop.
    Null = "null",
    /// Linux cooked capture v1.
    LinuxSll = "linux_sll",
    /// Linux cooked capture v2.
    LinuxSll2 = "linux_sll2",
    /// MPLS label stack.
    Mpls = "mpls",
    /// PPP over Ethernet.
    Pppoe = "pppoe",
    /// PPP.
    Ppp = "ppp",
    /// Cisco's HDLC.
    CHdlc = "c_hdlc",
    /// An outer IPv4 header.
    Ipv4 = "ipv4",
    /// An outer IPv6 header.
    Ipv6 = "ipv6",
    /// Generic Routing Encapsulation.
    Gre = "gre",
    /// ERSPAN, any type.
    Erspan = "erspan",
    /// Ethernet in IP.
    EtherIp = "etherip",
    /// GPRS tunnelling, user plane.
    GtpU = "gtp-u",
    /// VXLAN, and its generic protocol extension.
    Vxlan = "vxlan",
    /// Geneve.
    Geneve = "geneve",
}

/// The layers from the link type to the one above the innermost IP header: up to twelve, five bits each.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Path(pub u64);

const LAYER_BITS: u32 = 5;
const DEEPEST: u32 = 12;
const _: () = assert!(EncapLayer::ALL.len() < 1 << LAYER_BITS);

impl Path {
    fn push(&mut self, layer: EncapLayer) {
        if self.0 >> ((DEEPEST - 1) * LAYER_BITS) == 0 {
            self.0 = self.0 << LAYER_BITS | (layer as u64 + 1);
        }
    }

    /// Outermost first.
    pub fn layers(self) -> impl Iterator<Item = EncapLayer> {
        (0..DEEPEST).rev().filter_map(move |place| {
            let code = (self.0 >> (place * LAYER_BITS)) as usize & ((1 << LAYER_BITS) - 1);
            EncapLayer::ALL.get(code.checked_sub(1)?).copied()
        })
    }
}

/// VLAN ids, outermost first: up to four, 16 bits each, stored plus one so that id 0 shows.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Vlans(pub u64);

impl Vlans {
    fn push(&mut self, id: u16) {
        if self.0 >> 48 == 0 {
            self.0 = (self.0 << 16) | (u64::from(id & 0x0fff) + 1);
        }
    }

    /// Outermost first.
    pub fn ids(self) -> impl Iterator<Item = u16> {
        [48, 32, 16, 0].into_iter().filter_map(move |shift| (((self.0 >> shift) & 0xffff) as u16).checked_sub(1))
    }
}

/// Why a decoded packet belongs to no flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum NoFlow {
    /// ARP.
    Arp,
    /// ICMP (also when it quotes a VPN packet).
    Icmp,
    /// ICMPv6.
    Icmp6,
    /// Any other IP protocol.
    OtherIpProtocol,
    /// Anything that is not IP.
    OtherEthertype,
    /// A tunnel over IP that is not opened (see [`Peel`]).
    Tunnel,
}

impl NoFlow {
    /// Number of variants: the size of a table of counters.
    pub const KINDS: usize = 6;

    /// Counter names in the order of the variants.
    pub const NAMES: [&'static str; Self::KINDS] = [
        "no_flow.arp",
        "no_flow.icmp",
        "no_flow.icmp6",
        "no_flow.other_ip",
        "no_flow.other_ethertype",
        "no_flow.tunnel",
    ];
}

/// What a frame decoded to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decoded {
    /// A packet of a flow.
    Flow,
    /// A fragment other than the first: it has no ports, so its flow goes by [`Packet::fragment`].
    LaterFragment,
    /// A packet of none.
    NoFlow(NoFlow),
}

/// What an IP header says of a fragment (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fragment {
    /// Identification: of one source, destination and protocol it names one datagram.
    pub id: u32,
    /// Octets of the datagram before this fragment; 0 is the first one.
    pub offset: u32,
    /// Octets of the datagram in this fragment, as the IP header says.
    pub length: u32,
    /// Protocol of the datagram.
    pub protocol: u8,
    /// Others come behind it.
    pub more: bool,
}

/// The innermost packet of a frame. Offsets are into the frame's captured bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet {
    /// Source address, IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// 4 or 6.
    pub ip_version: u8,
    /// Transport protocol.
    pub transport: Transport,
    /// 0 for ESP and AH.
    pub source_port: u16,
    /// 0 for ESP and AH.
    pub destination_port: u16,
    /// Octets of the innermost IP packet, headers included, as its header says.
    pub ip_length: u32,
    /// Where the payload begins: behind UDP and TCP headers, at the ESP or AH header.
    pub payload_offset: u32,
    /// Captured bytes of the payload.
    pub payload_captured: u32,
    /// Its length as the IP and UDP headers say; at least `payload_captured`.
    pub payload_length: u32,
    /// TCP sequence number.
    pub tcp_sequence: u32,
    /// TCP flags (low byte).
    pub tcp_flags: u8,
    /// Checksum field of UDP or TCP; zero in UDP means none.
    pub checksum: u16,
    /// IPv4 identification, 0 for IPv6.
    pub identification: u16,
    /// A part of a datagram: the payload goes on elsewhere.
    pub fragment: Option<Fragment>,
    /// VLAN ids.
    pub vlans: Vlans,
    /// Layers above the IP header.
    pub path: Path,
}

/// What [`plain`] packets are decoded into.
pub trait Target {
    /// The packet.
    fn packet(&mut self) -> &mut Packet;

    /// It is whole, and here is what follows from it: compiled for each IP version apart, with all that was read at hand.
    fn complete(&mut self);
}

impl Target for Packet {
    fn packet(&mut self) -> &mut Packet {
        self
    }

    fn complete(&mut self) {}
}

/// Bytes of a frame with a position; every read is checked.
struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
    /// Original length of the frame: tells a cut header from one that lies.
    original: usize,
    /// Where the packet around it ends, as its header says: behind the frame's end in the first of its fragments.
    end: usize,
}

impl<'a> Cursor<'a> {
    /// The next `N` bytes, without moving.
    fn peek<const N: usize>(&self, layer: Layer) -> Result<&'a [u8; N], DecodeError> {
        self.bytes.get(self.offset..).and_then(|rest| rest.first_chunk::<N>()).ok_or_else(|| self.short(N, layer))
    }

    /// The next `N` bytes, moving behind them.
    fn take<const N: usize>(&mut self, layer: Layer) -> Result<&'a [u8; N], DecodeError> {
        let header = self.peek::<N>(layer)?;
        self.offset += N;
        Ok(header)
    }

    /// Moves on by `count` bytes, which need not have been captured.
    fn skip(&mut self, count: usize) {
        self.offset = self.offset.saturating_add(count);
    }

    /// The same place in a frame that ends at `end`, as the header around it says.
    fn up_to(&self, end: usize) -> Self {
        let original = end.min(self.original);
        Self { bytes: &self.bytes[..self.bytes.len().min(end)], offset: self.offset, original, end }
    }

    /// Bytes from here to the end of the packet around, as its header says.
    fn claimed(&self) -> usize {
        self.end.saturating_sub(self.offset)
    }

    fn short(&self, needed: usize, layer: Layer) -> DecodeError {
        let cut = self.original >= self.offset.saturating_add(needed);
        self.error(layer, if cut { Cause::Truncated } else { Cause::Malformed })
    }

    fn error(&self, layer: Layer, cause: Cause) -> DecodeError {
        DecodeError { layer, cause, offset: self.offset }
    }
}

/// What a header says comes next.
enum Next {
    Ethertype(u16),
    Ethernet,
    Ppp,
    Mpls,
    Ip,
    /// An IP protocol, up to this offset in the frame.
    IpPayload(IpPayload),
    Done(Decoded),
}

/// Decodes one frame into `packet`, whatever that was. `original` is the frame's length on the wire; `peel` says
/// which tunnels are opened.
#[inline]
pub fn decode(
    bytes: &[u8],
    original: u32,
    link: LinkType,
    peel: &Peel,
    packet: &mut Packet,
) -> Result<Decoded, DecodeError> {
    if plain(bytes, link, packet) { Ok(Decoded::Flow) } else { decode_layers(bytes, original, link, peel, packet) }
}

/// Decodes one frame header by header.
#[inline(never)]
pub fn decode_layers(
    bytes: &[u8],
    original: u32,
    link: LinkType,
    peel: &Peel,
    packet: &mut Packet,
) -> Result<Decoded, DecodeError> {
    *packet = Packet::default();
    let original = (original as usize).max(bytes.len());
    let mut cursor = Cursor { bytes, offset: 0, original, end: original };
    let next = match link.0 {
        1 => Next::Ethernet,
        0 | 108 => null::decode(&mut cursor, packet, link.0 == 0)?,
        9 | 50 => Next::Ppp,
        104 => c_hdlc::decode(&mut cursor, packet)?,
        166 => ppp::decode_pppd(&mut cursor, packet)?,
        204 => ppp::decode_with_direction(&mut cursor, packet)?,
        51 => pppoe::decode(&mut cursor, packet)?,
        12 | 14 | 101 | 228 | 229 => raw::decode(packet),
        113 => linux_sll::decode_v1(&mut cursor, packet)?,
        276 => linux_sll::decode_v2(&mut cursor, packet)?,
        _ => return Err(cursor.error(Layer::LinkType, Cause::Unsupported)),
    };
    follow(&mut cursor, packet, next, peel, MAX_STEPS)
}

/// Follows headers from the cursor down to the innermost packet.
fn follow(
    cursor: &mut Cursor<'_>,
    packet: &mut Packet,
    mut next: Next,
    peel: &Peel,
    depth: usize,
) -> Result<Decoded, DecodeError> {
    for left in (0..depth).rev() {
        next = match next {
            Next::Done(decoded) => return Ok(decoded),
            Next::Ethernet => ethernet::decode(cursor, packet)?,
            Next::Ethertype(kind) => match kind {
                0x0800 | 0x86dd => Next::Ip,
                0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => vlan::decode(cursor, packet, kind)?,
                tags::VN_TAG | tags::E_TAG | tags::R_TAG | tags::I_TAG => tags::decode(cursor, packet, kind)?,
                0x8847 | 0x8848 => Next::Mpls,
                0x8864 => pppoe::decode(cursor, packet)?,
                0x0806 | 0x8035 => Next::Done(Decoded::NoFlow(NoFlow::Arp)),
                _ => Next::Done(Decoded::NoFlow(NoFlow::OtherEthertype)),
            },
            Next::Ppp => ppp::decode(cursor, packet)?,
            Next::Mpls => mpls::decode(cursor, packet)?,
            Next::Ip => {
                let payload = match cursor.peek::<1>(Layer::Ipv4)?[0] >> 4 {
                    4 => ipv4::decode(cursor, packet)?,
                    6 => ipv6::decode(cursor, packet)?,
                    _ => return Err(cursor.error(Layer::Ipv4, Cause::Malformed)),
                };
                if packet.fragment.is_some_and(|fragment| fragment.offset > 0) {
                    packet.set_payload(cursor, payload.end);
                    return Ok(Decoded::LaterFragment);
                }
                Next::IpPayload(payload)
            }
            Next::IpPayload(payload) => match payload.protocol {
                6 => {
                    tcp::decode(cursor, packet, payload.end)?;
                    Next::Done(Decoded::Flow)
                }
                17 => {
                    udp::decode(cursor, packet, payload.end)?;
                    return Ok(tunnel_in_udp(cursor, packet, peel, left).unwrap_or(Decoded::Flow));
                }
                50 => {
                    esp::decode(cursor, packet, payload.end)?;
                    Next::Done(Decoded::Flow)
                }
                51 => {
                    ah::decode(cursor, packet, payload.end)?;
                    Next::Done(Decoded::Flow)
                }
                1 => Next::Done(Decoded::NoFlow(NoFlow::Icmp)),
                58 => Next::Done(Decoded::NoFlow(NoFlow::Icmp6)),
                4 | 41 | 47 | 97 | 137 => {
                    return Ok(tunnel_in_ip(cursor, packet, payload, peel, left)
                        .unwrap_or(Decoded::NoFlow(NoFlow::OtherIpProtocol)));
                }
                _ => Next::Done(Decoded::NoFlow(NoFlow::OtherIpProtocol)),
            },
        };
    }
    Err(cursor.error(Layer::LinkType, Cause::Malformed))
}

/// IP in IP, GRE, Ethernet in IP, MPLS in IP. `None` when what is inside does not decode: then the outer packet
/// is one of another IP protocol.
fn tunnel_in_ip(
    cursor: &Cursor<'_>,
    packet: &mut Packet,
    payload: IpPayload,
    peel: &Peel,
    depth: usize,
) -> Option<Decoded> {
    let is_mirror = payload.protocol == 47 && gre::carries_erspan(cursor);
    if !(peel.opens(packet) || is_mirror && peel.opens_mirrors()) {
        return Some(Decoded::NoFlow(NoFlow::Tunnel));
    }
    let mut inner = cursor.up_to(payload.end);
    if packet.fragment.is_some() {
        // Where its datagram ends is not known.
        inner.end = usize::MAX;
    }
    let mut found = packet.inside();
    let next = match payload.protocol {
        4 | 41 => Next::Ip,
        47 => gre::decode(&mut inner, &mut found).ok()?,
        97 => etherip::decode(&mut inner, &mut found).ok()?,
        _ => Next::Mpls,
    };
    let decoded = follow(&mut inner, &mut found, next, peel, depth).ok()?;
    *packet = found;
    Some(decoded)
}

/// What a tunnel's header is read by.
type Decoder = fn(&mut Cursor<'_>, &mut Packet) -> Result<Next, DecodeError>;

/// GTP-U, VXLAN, Geneve, GRE, MPLS, each on its port.
fn udp_tunnel(source_port: u16, destination_port: u16) -> Option<Decoder> {
    Some(match destination_port {
        2152 => gtp_u::decode,
        // Linux began with 8472.
        4789 | 8472 => vxlan::decode,
        4790 => vxlan::decode_gpe,
        6081 => geneve::decode,
        // RFC 8086 and RFC 7510.
        4754 => gre::decode,
        6635 => mpls_at_once,
        _ if source_port == 2152 => gtp_u::decode,
        _ => return None,
    })
}

/// Whether [`udp_tunnel`] knows a tunnel on one of these ports.
#[inline]
fn is_tunnel_port(source_port: u16, destination_port: u16) -> bool {
    let ports = [2152, 4754, 4789, 4790, 6081, 6635, 8472];
    ports.iter().fold(source_port == 2152, |is_one, &port| is_one | (destination_port == port))
}

/// A tunnel by its port and by its header: a port alone says nothing. `None` when there is none, or when what is
/// inside does not decode: then the packet is the datagram's.
fn tunnel_in_udp(cursor: &Cursor<'_>, packet: &mut Packet, peel: &Peel, depth: usize) -> Option<Decoded> {
    let decode = udp_tunnel(packet.source_port, packet.destination_port)?;
    if !peel.opens(packet) {
        return None;
    }
    let mut inner = cursor.up_to(cursor.offset + packet.payload_length as usize);
    let mut found = packet.inside();
    let next = decode(&mut inner, &mut found).ok()?;
    let decoded = follow(&mut inner, &mut found, next, peel, depth).ok()?;
    // A port says nothing, and most of these headers say little: what leads to nothing that is known is no proof of them.
    if matches!(decoded, Decoded::NoFlow(NoFlow::OtherEthertype | NoFlow::OtherIpProtocol)) {
        return None;
    }
    *packet = found;
    Some(decoded)
}

/// Ethernet with at most one 802.1Q tag, IPv4 without options and in one piece or IPv6 without extension headers, UDP or
/// TCP: most frames, in one look, as [`decode_layers`] decodes them. False, with `packet` in disorder, where their headers
/// have to be followed one by one; a test compares the two.
#[inline(always)]
pub fn plain(bytes: &[u8], link: LinkType, target: &mut impl Target) -> bool {
    link.0 == 1 && plain_ethernet(bytes, target).is_some()
}

/// What one of these makes of the addresses of a frame's flow, the source's first, if that is so plain that they can be read
/// at once. Less is looked at than by [`plain`]: where that or [`decode_layers`] finds a flow, it is one between these.
#[inline(always)]
pub fn plain_addresses<Found>(
    bytes: &[u8],
    link: LinkType,
    ipv4: impl FnOnce([u8; 4], [u8; 4]) -> Found,
    ipv6: impl FnOnce([u8; 16], [u8; 16]) -> Found,
) -> Option<Found> {
    let link = bytes.first_chunk::<18>().filter(|_| link.0 == 1)?;
    let (kind, ip) = match [link[12], link[13]] {
        [0x81, 0x00] => ([link[16], link[17]], 18),
        kind => (kind, 14),
    };
    let rest = bytes.get(ip..)?;
    let is_plain = |protocol: u8, ports: &[u8; 4]| {
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        (protocol == 6) | ((protocol == 17) & !is_tunnel_port(port(0), port(2)))
    };
    match kind {
        [0x08, 0x00] => {
            let head = rest.first_chunk::<24>().filter(|head| head[0] == 0x45)?;
            let address = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
            is_plain(head[9], head.last_chunk()?).then(|| ipv4(address(12), address(16)))
        }
        [0x86, 0xdd] => {
            let head = rest.first_chunk::<44>().filter(|head| head[0] >> 4 == 6)?;
            let address = |at: usize| head[at..].first_chunk().copied().unwrap_or_default();
            is_plain(head[6], head.last_chunk()?).then(|| ipv6(address(8), address(24)))
        }
        _ => None,
    }
}

/// What is read is written at once, in whole words: few values are under way at a time, and a processor that reads again
/// what was written in parts waits.
#[inline(always)]
fn plain_ethernet(bytes: &[u8], target: &mut impl Target) -> Option<()> {
    const ETHERNET: Path = Path(EncapLayer::Ethernet as u64 + 1);
    const TAGGED: Path = Path(ETHERNET.0 << LAYER_BITS | (EncapLayer::Dot1q as u64 + 1));
    let link = bytes.first_chunk::<18>()?;
    let mut kind = u16::from_be_bytes([link[12], link[13]]);
    let mut ip = 14;
    let packet = target.packet();
    (packet.vlans, packet.path, packet.fragment) = (Vlans(0), ETHERNET, None);
    if kind == 0x8100 {
        kind = u16::from_be_bytes([link[16], link[17]]);
        ip = 18;
        packet.vlans = Vlans(u64::from(u16::from_be_bytes([link[14], link[15]]) & 0x0fff) + 1);
        packet.path = TAGGED;
    }
    let rest = bytes.get(ip..)?;
    match kind {
        0x0800 => plain_ipv4(rest, ip, target),
        0x86dd => plain_ipv6(rest, ip, target),
        _ => None,
    }
}

/// IPv4 and what it carries, at an offset in the frame.
#[inline(never)]
fn plain_ipv4(rest: &[u8], offset: usize, target: &mut impl Target) -> Option<()> {
    let packet = target.packet();
    let head = rest.first_chunk::<28>()?;
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    if (head[0] != 0x45) | (half(6) & 0x3fff != 0) {
        return None;
    }
    let address = |at: usize| u128::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    packet.source = address(12).to_le_bytes();
    packet.destination = address(16).to_le_bytes();
    packet.ip_version = 4;
    packet.identification = half(4);
    plain_transport::<20>(rest, offset, head[9], usize::from(half(2)), packet)?;
    target.complete();
    Some(())
}

#[inline(never)]
fn plain_ipv6(rest: &[u8], offset: usize, target: &mut impl Target) -> Option<()> {
    let packet = target.packet();
    let head = rest.first_chunk::<48>()?;
    let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if (head[0] >> 4 != 6) | (length == 0) {
        return None;
    }
    let address = |at: usize| head[at..].first_chunk().map_or(0, |address| u128::from_le_bytes(*address));
    packet.source = address(8).to_le_bytes();
    packet.destination = address(24).to_le_bytes();
    packet.ip_version = 6;
    packet.identification = 0;
    plain_transport::<40>(rest, offset, head[6], 40 + length, packet)?;
    target.complete();
    Some(())
}

/// TCP or UDP behind an IP header of `BEFORE` octets; `total` is the length of the IP packet, and `ip` what was captured of it.
#[inline(always)]
fn plain_transport<const BEFORE: usize>(
    ip: &[u8],
    offset: usize,
    protocol: u8,
    total: usize,
    packet: &mut Packet,
) -> Option<()> {
    packet.ip_length = total as u32;
    let transport = ip.get(BEFORE..)?;
    let udp = transport.first_chunk::<8>()?;
    let half = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    packet.source_port = half(0);
    packet.destination_port = half(2);
    let (header, end) = if protocol == 6 {
        let transport = transport.first_chunk::<20>()?;
        packet.transport = Transport::Tcp;
        packet.tcp_sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        packet.tcp_flags = transport[13];
        packet.checksum = u16::from_be_bytes([transport[16], transport[17]]);
        let header = usize::from(transport[12] >> 4) * 4;
        if (header < 20) | (total < BEFORE) {
            return None;
        }
        (header, total)
    } else {
        packet.transport = Transport::Udp;
        packet.tcp_sequence = 0;
        packet.tcp_flags = 0;
        packet.checksum = half(6);
        let length = usize::from(half(4));
        let is_tunnel = is_tunnel_port(packet.source_port, packet.destination_port);
        if (protocol != 17) | (length < 8) | (total < BEFORE + 8) | is_tunnel {
            return None;
        }
        (8, total.min(BEFORE + length))
    };
    // Within the IP packet, of which the offsets are small.
    let start = BEFORE + header;
    let length = end.saturating_sub(start);
    packet.payload_offset = (offset + start) as u32;
    packet.payload_captured = ip.len().saturating_sub(start).min(length) as u32;
    packet.payload_length = length as u32;
    Some(())
}

fn mpls_at_once(_: &mut Cursor<'_>, _: &mut Packet) -> Result<Next, DecodeError> {
    Ok(Next::Mpls)
}

/// Whether frames of this link type can be decoded.
pub fn link_type_is_supported(link: LinkType) -> bool {
    matches!(link.0, 0 | 1 | 9 | 12 | 14 | 50 | 51 | 101 | 104 | 108 | 113 | 166 | 204 | 228 | 229 | 276)
}

/// What an IP header says about its payload.
#[derive(Clone, Copy)]
struct IpPayload {
    /// Protocol of what the cursor stands on.
    protocol: u8,
    /// Offset in the frame at which the IP packet ends, as its header says (may lie behind what was captured).
    end: usize,
}

impl Packet {
    /// A packet that this one carries: the layers so far, and its IP header as one of them.
    fn inside(&self) -> Self {
        let mut inside = Self { vlans: self.vlans, path: self.path, ..Self::default() };
        inside.path.push(if self.ip_version == 4 { EncapLayer::Ipv4 } else { EncapLayer::Ipv6 });
        inside
    }

    /// UDP without a checksum.
    pub fn has_no_checksum(&self) -> bool {
        self.transport == Transport::Udp && self.checksum == 0
    }

    /// Notes a payload from the cursor to `end` (both offsets in the frame).
    fn set_payload(&mut self, cursor: &Cursor<'_>, end: usize) {
        let length = end.saturating_sub(cursor.offset);
        let captured = cursor.bytes.len().saturating_sub(cursor.offset).min(length);
        self.payload_offset = cursor.offset as u32;
        self.payload_captured = captured as u32;
        self.payload_length = length as u32;
    }
}

#[cfg(test)]
mod tests;
