"""An independent decoder, for comparison with the core: captures in, packets and five-tuples out.

IP headers and what is above them are read by dpkt; what dpkt does not do (the record loop with original
lengths, several interfaces in a pcapng, link types, tags and tunnels down to the innermost IP packet) is
written here from the formats' own specifications and shares nothing with the core. `read_capture` gives
every frame's fate; nothing is classified.
"""

import gzip
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import dpkt
import zstandard


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One end of a flow; the port is None for ESP and AH."""

    address: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One record of a capture."""

    number: int
    time_ns: int
    linktype: int
    original_length: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Datagram:
    """What the fragments of one datagram have in common (RFC 791, 3.2; RFC 8200, 4.5)."""

    source: str
    destination: str
    protocol: int
    identification: int


@dataclass(frozen=True, slots=True)
class LaterFragment:
    """A fragment that is not the first of its datagram: it has no ports."""

    number: int
    time_ns: int
    datagram: Datagram
    octets: int  # of the IP packet


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of a flow."""

    number: int
    time_ns: int
    transport: str
    source: Endpoint
    destination: Endpoint
    octets: int  # of the IP packet: total length, or 40 + payload length
    payload: bytes  # above UDP or TCP, as far as captured; ESP and AH: from SPI on
    payload_length: int  # what the headers say, whatever was captured
    sequence: int | None = None  # TCP sequence number of the first payload byte (of a SYN: its own)
    path: tuple[str, ...] = ()  # layers from the link type to the one above the innermost IP header
    datagram: Datagram | None = None  # when it is a first fragment


@dataclass(frozen=True, slots=True)
class FlowKey:
    """A five-tuple without direction: the smaller endpoint first."""

    transport: str
    low: Endpoint
    high: Endpoint

    @classmethod
    def of(cls, transport: str, one: Endpoint, other: Endpoint) -> "FlowKey":
        def order(end: Endpoint) -> tuple[bytes, int]:
            return ip_address(end.address).packed, end.port or 0

        low, high = sorted((one, other), key=order)
        return cls(transport, low, high)


@dataclass(slots=True)
class Flow:
    """All packets of one five-tuple."""

    key: FlowKey
    packets: list[Packet] = field(default_factory=list)
    later: list[LaterFragment] = field(default_factory=list)

    @property
    def first_packet(self) -> Packet:
        return self.packets[0]

    def count(self, sender: Endpoint) -> tuple[int, int]:
        """Packets and octets that `sender` sent."""
        octets = [packet.octets for packet in self.packets if packet.source == sender]
        octets += [part.octets for part in self.later if part.datagram.source == sender.address]
        return len(octets), sum(octets)

    @property
    def end_ns(self) -> int:
        times = [packet.time_ns for packet in self.packets] + [part.time_ns for part in self.later]
        return max(times)


class CutCapture(Exception):
    """The capture ends inside a record."""


@dataclass(slots=True)
class Capture:
    """What became of every frame of a capture."""

    frames: int = 0
    octets: int = 0  # original lengths of all frames
    captured_octets: int = 0
    cut: bool = False  # ends inside a record
    flow_packets: int = 0
    no_flow: Counter[str] = field(default_factory=Counter)
    undecoded: Counter[str] = field(default_factory=Counter)
    flows: dict[FlowKey, Flow] = field(default_factory=dict)
    datagrams: dict[Datagram, Flow] = field(default_factory=dict)  # of those in fragments
    waiting: list[LaterFragment] = field(default_factory=list)  # no first fragment has been seen

    def add(self, frame: Frame) -> None:
        """Count a frame, and its packet to its flow."""
        self.frames += 1
        self.octets += frame.original_length
        self.captured_octets += len(frame.data)
        result = decode(frame)
        if isinstance(result, Packet):
            self.flow_packets += 1
            key = FlowKey.of(result.transport, result.source, result.destination)
            flow = self.flows.setdefault(key, Flow(key))
            flow.packets.append(result)
            if result.datagram is not None:
                self.datagrams[result.datagram] = flow
                waiting, self.waiting = self.waiting, []
                for part in waiting:
                    self.add_later(part)
        elif isinstance(result, LaterFragment):
            self.add_later(result)
        elif result.startswith("undecoded."):
            self.undecoded[result.removeprefix("undecoded.")] += 1
        else:
            self.no_flow[result] += 1

    def add_later(self, part: LaterFragment) -> None:
        """Count a fragment to the flow of its datagram."""
        flow = self.datagrams.get(part.datagram)
        if flow is None:
            self.waiting.append(part)
        else:
            self.flow_packets += 1
            flow.later.append(part)


def read_capture(path: Path) -> Capture:
    """Decode a whole capture."""
    capture = Capture()
    try:
        for frame in read_frames(path):
            capture.add(frame)
    except CutCapture:
        capture.cut = True
    return capture


def read_bytes(path: Path) -> bytes:
    """The capture's bytes, decompressed."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def read_frames(path: Path) -> Iterator[Frame]:
    """All records of a pcap or pcapng, numbered from 1."""
    data = read_bytes(path)
    return read_pcapng(data) if data.startswith(b"\x0a\x0d\x0d\x0a") else read_pcap(data)


def read_pcap(data: bytes) -> Iterator[Frame]:
    """Classic pcap. dpkt's own reader does not give original lengths, so only its headers are used."""
    magic = data[:4]
    little = magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
    assert little or magic in (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d"), f"no capture: {magic.hex()}"
    scale = 1 if magic in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1000
    file_header = (dpkt.pcap.LEFileHdr if little else dpkt.pcap.FileHdr)(data[:24])
    offset, number = 24, 0
    while offset < len(data):
        if len(data) - offset < 16:
            raise CutCapture
        header = (dpkt.pcap.LEPktHdr if little else dpkt.pcap.PktHdr)(data[offset : offset + 16])
        offset += 16
        if len(data) - offset < header.caplen:
            raise CutCapture
        number += 1
        time_ns = header.tv_sec * 1_000_000_000 + header.tv_usec * scale
        # Above 16 bits stands the length of a frame check sequence (draft-ietf-opsawg-pcap, 4).
        linktype = file_header.linktype & 0xFFFF
        yield Frame(number, time_ns, linktype, header.len, data[offset : offset + header.caplen])
        offset += header.caplen


def read_pcapng(data: bytes) -> Iterator[Frame]:
    """pcapng with any number of interfaces; dpkt's own reader applies the first one's link type to all."""
    order, offset, number = "<", 0, 0
    interfaces: list[tuple[int, int]] = []  # link type, units per second
    while offset < len(data):
        if data[offset : offset + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[offset + 8 : offset + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        if (
            len(data) - offset < 12
            or len(data) - offset < struct.unpack_from(order + "I", data, offset + 4)[0]
        ):
            raise CutCapture
        block_type, length = struct.unpack_from(order + "II", data, offset)
        block, offset = data[offset : offset + length], offset + length
        if block_type == 1:
            kind = dpkt.pcapng.InterfaceDescriptionBlockLE
            description = (kind if order == "<" else dpkt.pcapng.InterfaceDescriptionBlock)(block)
            units = 1_000_000
            for option in description.opts:
                if option.code == 9:  # if_tsresol: a power of ten, or of two with the high bit set
                    base, exponent = (
                        (2, option.data[0] & 0x7F) if option.data[0] & 0x80 else (10, option.data[0])
                    )
                    units = base**exponent
            interfaces.append((description.linktype, units))
        elif block_type == 6:
            interface, high, low, captured, original = struct.unpack_from(order + "IIIII", block, 8)
            linktype, units = interfaces[interface]
            number += 1
            time_ns = (high << 32 | low) * 1_000_000_000 // units
            yield Frame(number, time_ns, linktype, original, block[28 : 28 + captured])
        elif block_type == 3:
            (original,) = struct.unpack_from(order + "I", block, 8)
            number += 1
            yield Frame(number, 0, interfaces[0][0], original, block[12 : 12 + min(original, length - 16)])


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes from some header on: what was captured, and how many there were on the wire."""

    data: bytes
    length: int
    path: tuple[str, ...] = ()

    def skip(self, count: int, *layers: str) -> "Bytes":
        """What is behind `count` bytes, which were read as `layers`."""
        return Bytes(self.data[count:], max(self.length - count, 0), self.path + layers)

    def within(self, length: int) -> "Bytes":
        """The same, ending after `length` bytes at the latest."""
        return Bytes(self.data[:length], min(self.length, length), self.path)

    def integer(self, offset: int, size: int) -> int:
        field = self.data[offset : offset + size]
        if len(field) < size:
            raise dpkt.NeedData(f"{size} bytes at {offset}")
        return int.from_bytes(field, "big")


# A packet of a flow, a part of one, or in a word why there is neither.
Fate = Packet | LaterFragment | str


def decode(frame: Frame) -> Fate:
    """The innermost packet of a frame."""
    rest = Bytes(frame.data, frame.original_length)
    try:
        match frame.linktype:
            case 1:
                return ethernet(frame, rest)
            case 0 | 108:
                return null(frame, rest)
            case 9 | 50:
                return ppp(frame, rest)
            case 51:
                return pppoe(frame, rest)
            case 104:
                return ethertype(frame, rest.skip(4, "c_hdlc"), rest.integer(2, 2))
            case 166:  # the direction in the place of the address, then the control byte
                return ppp(frame, rest.skip(2))
            case 204:
                return ppp(frame, rest.skip(1))
            case 12 | 14 | 101 | 228 | 229:
                return network_layer(frame, rest.skip(0, "raw"))
            case 113:
                return ethertype(frame, rest.skip(16, "linux_sll"), rest.integer(14, 2))
            case 276:
                return ethertype(frame, rest.skip(20, "linux_sll2"), rest.integer(0, 2))
    except (dpkt.UnpackError, IndexError):
        return "undecoded.link"
    return "undecoded.link_type"


def ethernet(frame: Frame, rest: Bytes) -> Fate:
    inside, kind = rest.skip(14, "ethernet"), rest.integer(12, 2)
    if kind < 0x0600 and inside.data[:6] == b"\xaa\xaa\x03\0\0\0":  # 802.3 with SNAP
        return ethertype(frame, inside.skip(8), inside.integer(6, 2))
    return ethertype(frame, inside, kind)


def ethertype(frame: Frame, rest: Bytes, kind: int) -> Fate:
    match kind:
        case 0x0800 | 0x86DD:
            return network_layer(frame, rest)
        case 0x8926 | 0xF1C1:  # VN-Tag, 802.1CB
            return ethertype(frame, rest.skip(6, "tag"), rest.integer(4, 2))
        case 0x893F:  # 802.1BR
            return ethertype(frame, rest.skip(8, "tag"), rest.integer(6, 2))
        case 0x88E7:  # 802.1ah
            return ethernet(frame, rest.skip(4, "pbb"))
        case 0x8100 | 0x88A8 | 0x9100 | 0x9200 | 0x9300:
            tag = "802.1q" if kind == 0x8100 else "802.1ad"
            return ethertype(frame, rest.skip(4, tag), rest.integer(2, 2))
        case 0x8847 | 0x8848:
            return mpls(frame, rest)
        case 0x8864:
            return pppoe(frame, rest)
        case 0x0806 | 0x8035:
            return "arp"
    return "other"


def null(frame: Frame, rest: Bytes) -> Fate:
    """Four bytes of an address family: of the writing machine (0) or big-endian (108)."""
    orders = ("big", "little") if frame.linktype == 0 else ("big",)
    families = {int.from_bytes(rest.data[:4], order) for order in orders}  # type: ignore[arg-type]
    inside = rest.skip(4, "null")
    return network_layer(frame, inside) if families & {2, 10, 24, 28, 30} else "other"


def mpls(frame: Frame, rest: Bytes) -> Fate:
    """RFC 3032, 4385, 4928: nothing says what is inside, so an IP header must prove itself."""
    labels = rest.skip(0, "mpls")
    while not labels.integer(2, 1) & 1:
        labels = labels.skip(4)
    label, inside = labels.integer(0, 3) >> 4, labels.skip(4)
    if label in (0, 2) or is_ipv4(inside) or is_ipv6(inside):
        return network_layer(frame, inside)
    match inside.integer(0, 1) >> 4:
        case 0:
            # A control word, unless a packet is found without one: MAC addresses often begin so.
            at_once = ethernet(frame, inside)
            return ethernet(frame, inside.skip(4)) if isinstance(at_once, str) else at_once
        case 1:
            return "other"
    return ethernet(frame, inside)


def is_ipv4(rest: Bytes) -> bool:
    size = (rest.integer(0, 1) & 15) * 4
    if rest.integer(0, 1) >> 4 != 4 or size < 20 or not size <= rest.integer(2, 2) <= rest.length:
        return False
    total: int = sum(struct.unpack(f">{size // 2}H", rest.data[:size]))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


def is_ipv6(rest: Bytes) -> bool:
    return rest.integer(0, 1) >> 4 == 6 and 40 + rest.integer(4, 2) <= rest.length


def pppoe(frame: Frame, rest: Bytes) -> Fate:
    """RFC 2516, session stage; its length ends it."""
    if rest.integer(0, 2) != 0x1100:
        raise dpkt.UnpackError("PPPoE")
    return ppp(frame, rest.skip(6, "pppoe").within(rest.integer(4, 2)))


def ppp(frame: Frame, rest: Bytes) -> Fate:
    """RFC 1661, 1662: address and control may be left out, and so may the protocol's first byte."""
    inside = rest.skip(0, "ppp")
    if inside.data[:2] == b"\xff\x03":
        inside = inside.skip(2)
    size = 1 if inside.integer(0, 1) & 1 else 2
    protocol, inside = inside.integer(0, size), inside.skip(size)
    match protocol:
        case 0x21 | 0x57:
            return network_layer(frame, inside)
        case 0x281 | 0x283:
            return mpls(frame, inside)
    return "other"


def gre(frame: Frame, rest: Bytes) -> Fate:
    """RFC 1701, 2784, 2890; version 1 is PPTP's (RFC 2637)."""
    flags, protocol = rest.integer(0, 2), rest.integer(2, 2)
    has_checksum, has_routes, has_key, has_sequence = (flags >> bit & 1 for bit in (15, 14, 13, 12))
    version = flags & 7
    inside = rest.skip(4 + 4 * (has_checksum | has_routes) + 4 * has_key + 4 * has_sequence, "gre")
    if version == 1 and protocol == 0x880B:
        return ppp(frame, inside.skip(4 * (flags >> 7 & 1)))
    if version or protocol == 0x880B:
        raise dpkt.UnpackError("GRE")
    while has_routes:
        has_routes = inside.integer(3, 1)
        inside = inside.skip(4 + has_routes)
    if protocol == 0x88BE and has_sequence:
        if inside.integer(0, 1) >> 4 != 1:
            raise dpkt.UnpackError("ERSPAN II")
        inside = inside.skip(8)
    if protocol == 0x22EB:
        if inside.integer(0, 1) >> 4 != 2:
            raise dpkt.UnpackError("ERSPAN III")
        inside = inside.skip(12 + 8 * (inside.integer(11, 1) & 1))
    if protocol in (0x88BE, 0x22EB):
        return ethernet(frame, inside.skip(0, "erspan"))
    if protocol == 0x883E:  # WCCP: a header of four bytes, or none
        return network_layer(frame, inside if inside.integer(0, 1) >> 4 in (4, 6) else inside.skip(4))
    return ethernet(frame, inside) if protocol == 0x6558 else ethertype(frame, inside, protocol)


def ether_ip(frame: Frame, rest: Bytes) -> Fate:
    """RFC 3378: version 3, then zeros."""
    if rest.integer(0, 2) != 0x3000:
        raise dpkt.UnpackError("EtherIP")
    return ethernet(frame, rest.skip(2, "etherip"))


def gtp_u(frame: Frame, rest: Bytes) -> Fate:
    """TS 29.281, 5: version 1, a user's packet; extension headers count in fours and name the next one."""
    flags = rest.integer(0, 1)
    if flags >> 4 != 3 or rest.integer(1, 1) != 255 or rest.integer(2, 2) + 8 != rest.length:
        raise dpkt.UnpackError("GTP-U")
    inside, following = rest.skip(8, "gtp-u"), 0
    if flags & 7:
        following, inside = (inside.integer(3, 1) if flags & 4 else 0), inside.skip(4)
    while following:
        size = 4 * inside.integer(0, 1)
        if not size:
            raise dpkt.UnpackError("GTP-U extension")
        following, inside = inside.integer(size - 1, 1), inside.skip(size)
    return network_layer(frame, inside)


def vxlan(frame: Frame, rest: Bytes) -> Fate:
    """RFC 7348."""
    if not rest.integer(0, 1) & 0x08:
        raise dpkt.UnpackError("VXLAN")
    return ethernet(frame, rest.skip(8, "vxlan"))


def vxlan_gpe(frame: Frame, rest: Bytes) -> Fate:
    """draft-ietf-nvo3-vxlan-gpe, 3: version 0, and a next protocol where bit P says so, else Ethernet."""
    if rest.integer(0, 1) & 0x30:
        raise dpkt.UnpackError("VXLAN-GPE")
    inside = rest.skip(8, "vxlan")
    if not rest.integer(0, 1) & 0x04:
        return ethernet(frame, inside)
    match rest.integer(3, 1):
        case 1 | 2:
            return network_layer(frame, inside)
        case 3:
            return ethernet(frame, inside)
        case 5:
            return mpls(frame, inside)
    raise dpkt.UnpackError("VXLAN-GPE")


def geneve(frame: Frame, rest: Bytes) -> Fate:
    """RFC 8926."""
    if rest.integer(0, 1) >> 6:
        raise dpkt.UnpackError("Geneve")
    inside = rest.skip(8 + 4 * (rest.integer(0, 1) & 0x3F), "geneve")
    protocol = rest.integer(2, 2)
    return ethernet(frame, inside) if protocol == 0x6558 else ethertype(frame, inside, protocol)


def network_layer(frame: Frame, rest: Bytes) -> Fate:
    """An IP packet: a flow's, or a tunnel's and then that of what is inside, where that can be read."""
    datagram = None
    version = rest.integer(0, 1) >> 4
    if version not in (4, 6):
        raise dpkt.UnpackError("IP version")
    if version == 4:
        ip = dpkt.ip.IP(rest.data)
        header, total, protocol, payload = ip.hl * 4, ip.len or rest.length, ip.p, ip.data
        if ip.mf or ip.offset:
            datagram = fragmented(ip, ip.p, ip.id)
        later = ip.offset > 0
    else:
        ip = dpkt.ip6.IP6(rest.data)
        header, total, later = 40, 40 + (ip.plen or rest.length - 40), False
        for extension in ip.all_extension_headers:
            # dpkt takes ESP and AH over IPv6 for extension headers; to us they are transports.
            if isinstance(extension, (dpkt.ip6.IP6ESPHeader, dpkt.ip6.IP6AHHeader)):
                protocol = 50 if isinstance(extension, dpkt.ip6.IP6ESPHeader) else 51
                payload = extension
                break
            header += extension.length
            if isinstance(extension, dpkt.ip6.IP6FragmentHeader) and (extension.m_flag or extension.frag_off):
                datagram = fragmented(ip, extension.nxt, extension.id)
                later = extension.frag_off > 0
                if later:
                    break
        else:
            protocol, payload = ip.p, ip.data
    if later and datagram is not None:
        return LaterFragment(frame.number, frame.time_ns, datagram, total)
    found = transport_layer(frame, ip, protocol, payload, total - header, total, rest.path)
    if isinstance(found, Packet):
        found = replace(found, datagram=datagram)
    inside = rest.within(total).skip(header, f"ipv{ip.v}")
    try:
        tunnelled = tunnel(frame, inside, protocol, found)
    except (dpkt.UnpackError, IndexError):
        return found
    if tunnelled is None or (isinstance(tunnelled, str) and tunnelled.startswith("undecoded.")):
        return found
    return tunnelled


def fragmented(ip: dpkt.ip.IP | dpkt.ip6.IP6, protocol: int, identification: int) -> Datagram:
    return Datagram(str(ip_address(ip.src)), str(ip_address(ip.dst)), protocol, identification)


def tunnel(frame: Frame, inside: Bytes, protocol: int, found: Packet | str) -> Fate | None:
    """What a tunnel over IP carries; None when there is none."""
    match protocol:
        case 4 | 41:
            return network_layer(frame, inside)
        case 47:
            return gre(frame, inside)
        case 97:
            return ether_ip(frame, inside)
        case 137:
            return mpls(frame, inside)
    if not isinstance(found, Packet) or found.transport != "UDP":
        return None
    payload = Bytes(found.payload, found.payload_length, inside.path)
    match found.destination.port:
        case 4789 | 8472:
            return vxlan(frame, payload)
        case 4790:
            return vxlan_gpe(frame, payload)
        case 6081:
            return geneve(frame, payload)
        case 4754:
            return gre(frame, payload)
        case 6635:
            return mpls(frame, payload)
    return gtp_u(frame, payload) if 2152 in (found.source.port, found.destination.port) else None


def transport_layer(
    frame: Frame,
    ip: dpkt.ip.IP | dpkt.ip6.IP6,
    protocol: int,
    header: object,
    length: int,
    octets: int,
    path: tuple[str, ...],
) -> Packet | str:
    """The flow packet whose transport `header` dpkt has read, or in a word why there is none."""
    ports: tuple[int | None, int | None] = (None, None)
    sequence = None
    if isinstance(header, dpkt.udp.UDP):
        ports, payload, length = (header.sport, header.dport), header.data, header.ulen - 8
    elif isinstance(header, dpkt.tcp.TCP):
        ports, payload, length = (header.sport, header.dport), header.data, length - header.off * 4
        sequence = header.seq
    elif isinstance(header, (dpkt.esp.ESP, dpkt.ah.AH, dpkt.ip6.IP6ESPHeader, dpkt.ip6.IP6AHHeader)):
        payload = struct.pack(">II", header.spi, header.seq)
    elif protocol in (6, 17, 50, 51):
        return "undecoded.transport"
    elif protocol in (1, 58):
        return "icmp"
    else:
        return "other"
    source = Endpoint(str(ip_address(ip.src)), ports[0])
    destination = Endpoint(str(ip_address(ip.dst)), ports[1])
    transport = {6: "TCP", 17: "UDP", 50: "ESP", 51: "AH"}[protocol]
    return Packet(
        frame.number, frame.time_ns, transport, source, destination, octets, payload, length, sequence, path
    )
