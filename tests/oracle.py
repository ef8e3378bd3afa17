"""An independent decoder, for comparison with the core: captures in, packets and five-tuples out.

Headers are read by dpkt; what dpkt does not do (the record loop with original lengths, several interfaces
in a pcapng, the choice of a header by link type) is written here from the formats' own specifications and
shares nothing with the core. `read_capture` gives every frame's fate; nothing is classified.
"""

import gzip
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
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

    @property
    def first_packet(self) -> Packet:
        return self.packets[0]

    def count(self, sender: Endpoint) -> tuple[int, int]:
        """Packets and octets that `sender` sent."""
        octets = [packet.octets for packet in self.packets if packet.source == sender]
        return len(octets), sum(octets)


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
    later_fragments: int = 0
    flows: dict[FlowKey, Flow] = field(default_factory=dict)

    def add(self, frame: Frame) -> None:
        """Count a frame, and its packet to its flow."""
        self.frames += 1
        self.octets += frame.original_length
        self.captured_octets += len(frame.data)
        result = decode(frame)
        if isinstance(result, Packet):
            self.flow_packets += 1
            key = FlowKey.of(result.transport, result.source, result.destination)
            self.flows.setdefault(key, Flow(key)).packets.append(result)
        elif result == "later_fragment":
            self.later_fragments += 1
        elif result.startswith("undecoded."):
            self.undecoded[result.removeprefix("undecoded.")] += 1
        else:
            self.no_flow[result] += 1


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
        yield Frame(number, time_ns, file_header.linktype, header.len, data[offset : offset + header.caplen])
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


def decode(frame: Frame) -> Packet | str:
    """The flow packet in a frame, or in a word why there is none."""
    try:
        ip = network_layer(frame)
    except (dpkt.UnpackError, IndexError):
        return "undecoded.link"
    if isinstance(ip, str):
        return ip
    if isinstance(ip, dpkt.ip.IP):
        if ip.offset:
            return "later_fragment"
        length = ip.len - ip.hl * 4
        return transport_layer(frame, ip, ip.p, ip.data, length, ip.len)
    length = ip.plen
    for extension in ip.all_extension_headers:
        # dpkt takes ESP and AH over IPv6 for extension headers; to us they are transports.
        if isinstance(extension, dpkt.ip6.IP6ESPHeader):
            return transport_layer(frame, ip, 50, extension, length, 40 + ip.plen)
        if isinstance(extension, dpkt.ip6.IP6AHHeader):
            return transport_layer(frame, ip, 51, extension, length, 40 + ip.plen)
        length -= extension.length
        if isinstance(extension, dpkt.ip6.IP6FragmentHeader) and extension.frag_off:
            return "later_fragment"
    return transport_layer(frame, ip, ip.p, ip.data, length, 40 + ip.plen)


def network_layer(frame: Frame) -> dpkt.ip.IP | dpkt.ip6.IP6 | str:
    """The IP packet in a frame, or in a word why there is none."""
    data = frame.data
    match frame.linktype:
        case 1:
            layer = dpkt.ethernet.Ethernet(data).data
        case 0 | 108:
            layer = dpkt.loopback.Loopback(data).data
        case 12 | 14 | 101 | 228 | 229:
            layer = dpkt.ip.IP(data) if data[0] >> 4 == 4 else dpkt.ip6.IP6(data)
        case 113:
            layer = dpkt.sll.SLL(data).data
        case 276:
            layer = dpkt.sll2.SLL2(data).data
        case _:
            return "undecoded.link_type"
    if isinstance(layer, (dpkt.ip.IP, dpkt.ip6.IP6)):
        return layer
    return "arp" if isinstance(layer, dpkt.arp.ARP) else "other"


def transport_layer(
    frame: Frame, ip: dpkt.ip.IP | dpkt.ip6.IP6, protocol: int, header: object, length: int, octets: int
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
        frame.number, frame.time_ns, transport, source, destination, octets, payload, length, sequence
    )
