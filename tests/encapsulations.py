"""Encapsulations of an ISP's edge, put around packets of a capture: every header is scapy's.

A packet on its way outwards is its EtherType and its bytes, beginning with the IP packet. An `Encapsulation`
puts headers before it and says what it is then; 0x6558 stands for an Ethernet frame. A `Link` puts the last
header before it. scapy is too slow to build headers for every packet: it builds them once for each direction.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III, ERSPAN_PlatformSpecific
from scapy.contrib.etherip import EtherIP
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer
from scapy.contrib.mpls import MPLS, EoMCW
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import HBHOptUnknown, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import GRE, GRE_PPTP, CookedLinux, CookedLinuxV2, Dot1AH, Dot1Q, Ether, GRErouting
from scapy.layers.ppp import HDLC, PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

IPV4, IPV6, FRAME, MPLS_UNICAST, PPPOE_SESSION = 0x0800, 0x86DD, 0x6558, 0x8847, 0x8864
BACKBONE = 0x88E7
VLAN_TAGS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
IP_PACKETS = frozenset({IPV4, IPV6})
LABELLED = frozenset({*IP_PACKETS, MPLS_UNICAST})
FRAMES = frozenset({FRAME})
TAGGABLE = frozenset({*IP_PACKETS, MPLS_UNICAST, PPPOE_SESSION, BACKBONE, *VLAN_TAGS})

Headers = Callable[[int, bool], Packet]


@dataclass(frozen=True, slots=True)
class Outward:
    """A packet on its way outwards."""

    kind: int  # EtherType; 0x6558 for an Ethernet frame
    data: bytes  # as far as captured
    length: int  # on the wire
    path: tuple[str, ...] = ()  # layers around the innermost packet, outermost first


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """What `headers(EtherType inside, towards the server)` puts before a packet."""

    name: str
    takes: frozenset[int]
    gives: int
    path: tuple[str, ...]
    headers: Headers

    def wrap(self, inside: Outward, upwards: bool) -> Outward:
        """The packet with these headers before it; an Ethernet header first where only a frame fits."""
        if inside.kind not in self.takes and self.takes == FRAMES:
            inside = ETHERNET.wrap(inside, upwards)
        assert inside.kind in self.takes, f"{self.name} takes no {inside.kind:04x}"
        header = header_bytes(self.headers, inside.kind, upwards, inside.length)
        length = len(header) + inside.length
        return Outward(self.gives, header + inside.data, length, self.path + inside.path)

    def fits(self, kind: int) -> bool:
        """Whether it can carry this."""
        return kind in self.takes or (self.takes == FRAMES and kind in TAGGABLE)


@dataclass(frozen=True, slots=True)
class Template:
    """Headers as scapy builds them before 300 bytes, and where lengths and an IPv4 checksum stand in them."""

    data: bytes
    lengths: tuple[int, ...]

    def before(self, length: int) -> bytes:
        """The headers before so many bytes."""
        header = bytearray(self.data)
        for place in self.lengths:
            (value,) = struct.unpack_from(">H", header, place)
            struct.pack_into(">H", header, place, value + length - 300)
        if self.lengths and header[0] >> 4 == 4:
            struct.pack_into(">H", header, 10, 0)
            total = sum(struct.unpack_from(f">{(header[0] & 15) * 2}H", header))
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            struct.pack_into(">H", header, 10, 0xFFFF ^ total)
        return bytes(header)


@cache
def template(headers: Headers, kind: int, upwards: bool) -> Template:
    """The places are where scapy's headers grow with what they carry; scapy has the last word."""

    def build(length: int) -> bytes:
        return bytes(headers(kind, upwards) / Raw(bytes(length)))[:-length]

    shorter, longer = build(300), build(1000)
    lengths = [
        place
        for place in range(len(shorter) - 1)
        if int.from_bytes(longer[place : place + 2], "big")
        - int.from_bytes(shorter[place : place + 2], "big")
        == 700
    ]
    found = Template(shorter, tuple(lengths))
    assert all(found.before(length) == build(length) for length in (1, 1000, 1337))
    return found


@cache
def header_bytes(headers: Headers, kind: int, upwards: bool, length: int) -> bytes:
    """Headers before `length` bytes."""
    return template(headers, kind, upwards).before(length)


@dataclass(frozen=True, slots=True)
class Link:
    """A link type of pcap."""

    linktype: int
    takes: frozenset[int]
    path: tuple[str, ...]
    headers: Headers

    def frame(self, inside: Outward, upwards: bool) -> Outward:
        """The frame as a capture holds it."""
        if inside.kind == FRAME and self.linktype == 1:
            return inside
        header = header_bytes(self.headers, inside.kind, upwards, inside.length)
        return Outward(-1, header + inside.data, len(header) + inside.length, self.path + inside.path)

    def fits(self, kind: int) -> bool:
        return kind in self.takes or (self.linktype == 1 and kind == FRAME)


def ethernet(kind: int, upwards: bool, first: str = "02") -> Packet:
    near, far = "02:00:5e:00:53:0a", f"{first}:00:5e:00:53:0b"
    return Ether(src=near, dst=far, type=kind) if upwards else Ether(src=far, dst=far, type=kind)


def ipv4(protocol: int, upwards: bool) -> Packet:
    ends = ("192.0.2.201", "198.51.100.201")
    source, destination = ends if upwards else ends[::-1]
    return IP(src=source, dst=destination, proto=protocol, ttl=60)


def ipv6(protocol: int, upwards: bool) -> Packet:
    ends = ("2001:db8:ffff::1", "2001:db8:ffff::2")
    source, destination = ends if upwards else ends[::-1]
    return IPv6(src=source, dst=destination, nh=protocol, hlim=60)


def udp(port: int, upwards: bool, source: int | None = None) -> Packet:
    """In IPv4, without checksum."""
    return ipv4(17, upwards) / UDP(sport=source or 50_201, dport=port, chksum=0)


def inner_protocol(kind: int) -> int:
    """IP protocol number of what a tunnel over IP carries."""
    return {IPV4: 4, IPV6: 41, MPLS_UNICAST: 137, FRAME: 97}[kind]


def ppp(kind: int) -> Packet:
    return PPP(proto={IPV4: 0x0021, IPV6: 0x0057, MPLS_UNICAST: 0x0281}[kind])


def tag(kind: int, _upwards: bool) -> Packet:
    return Dot1Q(vlan=201, prio=3, type=kind)


def labels(_kind: int, _upwards: bool) -> Packet:
    return MPLS(label=16_001, s=0, ttl=62) / MPLS(label=24_005, s=1, ttl=62)


def explicit_null(kind: int, _upwards: bool) -> Packet:
    return MPLS(label=16_001, s=0, ttl=62) / MPLS(label=0 if kind == IPV4 else 2, s=1, ttl=62)


def pseudowire(_kind: int, _upwards: bool) -> Packet:
    return MPLS(label=24_006, s=1, ttl=62) / EoMCW(seq=7)


def pseudowire_without_control_word(first: str) -> Headers:
    """An Ethernet frame at once: its first nibble may be that of an IP version (RFC 4928)."""
    return lambda kind, upwards: MPLS(label=24_007, s=1, ttl=62) / ethernet(kind, upwards, first)


def gre(kind: int, upwards: bool) -> Packet:
    return ipv4(47, upwards) / GRE(proto=kind)


def gre_with_options(kind: int, upwards: bool) -> Packet:
    header = GRE(
        chksum_present=1, key_present=1, key=0xC0FFEE, seqnum_present=1, sequence_number=7, proto=kind
    )
    return ipv4(47, upwards) / header


def gre_with_routes(kind: int, upwards: bool) -> Packet:
    """RFC 1701: two source routes, then the empty one that ends them."""
    header = GRE(routing_present=1, key_present=1, key=9, proto=kind)
    routes = [(0x0800, bytes(4)), (0x0800, bytes(8))]
    for family, route in routes:
        header /= GRErouting(address_family=family, SRE_len=len(route), routing_info=route)
    return ipv4(47, upwards) / header / GRErouting(address_family=0, SRE_len=0)


def pptp(kind: int, upwards: bool) -> Packet:
    header = GRE_PPTP(call_id=201, seqnum_present=1, sequence_number=9, acknum_present=1, ack_number=8)
    return ipv4(47, upwards) / header / HDLC() / ppp(kind)


def erspan_1(_kind: int, upwards: bool) -> Packet:
    return ipv4(47, upwards) / GRE(proto=0x88BE)


def erspan_2(_kind: int, upwards: bool) -> Packet:
    return ipv4(47, upwards) / GRE(proto=0x88BE, seqnum_present=1, sequence_number=5) / ERSPAN_II(vlan=20)


def erspan_3(_kind: int, upwards: bool) -> Packet:
    header = GRE(proto=0x22EB, seqnum_present=1, sequence_number=5)
    return ipv4(47, upwards) / header / ERSPAN_III(vlan=20, o=0)


def erspan_3_with_subheader(_kind: int, upwards: bool) -> Packet:
    header = GRE(proto=0x22EB, seqnum_present=1, sequence_number=5)
    return ipv4(47, upwards) / header / ERSPAN_III(vlan=20, o=1) / ERSPAN_PlatformSpecific()


def gtp_u(_kind: int, upwards: bool) -> Packet:
    return udp(2152, upwards, 2152) / GTP_U_Header(gtp_type=255, teid=0x201)


def gtp_u_sequence(_kind: int, upwards: bool) -> Packet:
    return udp(2152, upwards) / GTP_U_Header(gtp_type=255, teid=0x201, S=1, seq=77)


def gtp_u_extension(_kind: int, upwards: bool) -> Packet:
    header = GTP_U_Header(gtp_type=255, teid=0x201, E=1, next_ex=0x85)
    return udp(2152, upwards, 2152) / header / GTPPDUSessionContainer(type=int(upwards), QFI=9)


def gtp_u_extensions(_kind: int, upwards: bool) -> Packet:
    """A UDP port (0x40), then a PDU session container; with sequence and N-PDU numbers."""
    header = GTP_U_Header(gtp_type=255, teid=0x201, E=1, S=1, PN=1, seq=8, npdu=3, next_ex=0x40)
    port = Raw(bytes([1, 0x08, 0x68, 0x85]))
    # scapy takes what follows for the payload, so the container is written as TS 29.281 has it.
    return udp(2152, upwards, 2152) / header / port / Raw(bytes([1, 0x10, 9, 0]))


def gtp_u_in_ipv6(_kind: int, upwards: bool) -> Packet:
    header = UDP(sport=2152, dport=2152, chksum=0) / GTP_U_Header(gtp_type=255, teid=0x201)
    return ipv6(17, upwards) / header


def vxlan(port: int) -> Headers:
    return lambda _kind, upwards: udp(port, upwards) / VXLAN(flags=8, vni=201)


def vxlan_with_policy(_kind: int, upwards: bool) -> Packet:
    """The group of draft-smith-vxlan-group-policy beside the network identifier."""
    return udp(4789, upwards) / VXLAN(flags=0x88, gpid=20, vni=201)


def vxlan_in_ipv6(_kind: int, upwards: bool) -> Packet:
    return ipv6(17, upwards) / UDP(sport=50_201, dport=4789, chksum=0) / VXLAN(flags=8, vni=201)


def vxlan_gpe(kind: int, upwards: bool) -> Packet:
    following = {IPV4: 1, IPV6: 2, FRAME: 3, MPLS_UNICAST: 5}[kind]
    return udp(4790, upwards) / VXLAN(flags=0x0C, NextProtocol=following, vni=201)


def gre_behind_options(kind: int, upwards: bool) -> Packet:
    """An outer IPv4 header with an option (router alert), and nothing of GRE's but a key."""
    outer = ipv4(47, upwards)
    outer.options = [IPOption_Router_Alert()]
    return outer / GRE(key_present=1, key=201, proto=kind)


def gre_behind_extensions(kind: int, upwards: bool) -> Packet:
    """An outer IPv6 header with extension headers; as RFC 2473 puts a limit before tunnels."""
    outer = ipv6(60, upwards)
    limit = IPv6ExtHdrDestOpt(nh=47, options=[HBHOptUnknown(otype=4, optdata=b"\x04")])
    return outer / limit / GRE(seqnum_present=1, sequence_number=3, proto=kind)


def geneve(kind: int, upwards: bool) -> Packet:
    return udp(6081, upwards) / GENEVE(vni=201, proto=kind)


def geneve_with_options(kind: int, upwards: bool) -> Packet:
    options = [GeneveOptions(classid=0x0102, type=0x80, data=bytes(size)) for size in (4, 8)]
    return udp(6081, upwards) / GENEVE(vni=201, proto=kind, options=options)


ETHERNET = Encapsulation("ethernet", TAGGABLE, FRAME, ("ethernet",), ethernet)


@cache
def encapsulations() -> tuple[Encapsulation, ...]:
    """Every encapsulation."""
    return tuple(make_encapsulations())


def make_encapsulations() -> Iterator[Encapsulation]:
    for kind, name in zip(VLAN_TAGS, ("802.1q", *["802.1ad"] * 4), strict=True):
        yield Encapsulation(f"vlan-{kind:04x}", TAGGABLE, kind, (name,), tag)
    yield Encapsulation("pbb", FRAMES, BACKBONE, ("pbb",), lambda _kind, _up: Dot1AH(isid=201))

    label = ("mpls",)
    yield Encapsulation("mpls", IP_PACKETS, MPLS_UNICAST, label, labels)
    yield Encapsulation("mpls-explicit-null", IP_PACKETS, MPLS_UNICAST, label, explicit_null)
    yield Encapsulation("mpls-pw", FRAMES, MPLS_UNICAST, label, pseudowire)
    for first in ("a4", "45", "60", "00"):
        headers = pseudowire_without_control_word(first)
        path = (*label, "ethernet")
        yield Encapsulation(f"mpls-pw-plain-{first}", TAGGABLE, MPLS_UNICAST, path, headers)
    path = ("pppoe", "ppp")
    yield Encapsulation(
        "pppoe-compressed",
        IP_PACKETS,
        PPPOE_SESSION,
        path,
        lambda kind, _: PPPoE(sessionid=201) / Raw(bytes([0x21 if kind == IPV4 else 0x57])),
    )
    yield Encapsulation(
        "pppoe", LABELLED, PPPOE_SESSION, path, lambda kind, _: PPPoE(sessionid=201) / ppp(kind)
    )

    for version, outer, kind in (("ipv4", ipv4, IPV4), ("ipv6", ipv6, IPV6)):
        yield Encapsulation(f"ip-in-{version}", LABELLED, kind, (version,), over(outer))
        yield Encapsulation(f"etherip-{version}", FRAMES, kind, (version, "etherip"), over(outer, EtherIP()))
    path = ("ipv4", "gre")
    for suffix, headers in (
        ("", gre),
        ("-options", gre_with_options),
        ("-routes", gre_with_routes),
        ("-behind-options", gre_behind_options),
    ):
        yield Encapsulation(f"gre{suffix}", LABELLED, IPV4, path, headers)
    yield Encapsulation("gre-ethernet", FRAMES, IPV4, path, gre)
    yield Encapsulation(
        "gre-ipv6", LABELLED, IPV6, ("ipv6", "gre"), lambda kind, up: ipv6(47, up) / GRE(proto=kind)
    )
    yield Encapsulation("gre-behind-extensions", LABELLED, IPV6, ("ipv6", "gre"), gre_behind_extensions)
    yield Encapsulation("pptp", IP_PACKETS, IPV4, (*path, "ppp"), pptp)
    for suffix, headers in (
        ("1", erspan_1),
        ("2", erspan_2),
        ("3", erspan_3),
        ("3o", erspan_3_with_subheader),
    ):
        yield Encapsulation(f"erspan-{suffix}", FRAMES, IPV4, (*path, "erspan"), headers)

    path = ("ipv4", "gtp-u")
    for suffix, headers in (
        ("", gtp_u),
        ("-sequence", gtp_u_sequence),
        ("-extension", gtp_u_extension),
        ("-extensions", gtp_u_extensions),
    ):
        yield Encapsulation(f"gtp-u{suffix}", IP_PACKETS, IPV4, path, headers)
    yield Encapsulation("gtp-u-ipv6", IP_PACKETS, IPV6, ("ipv6", "gtp-u"), gtp_u_in_ipv6)
    path = ("ipv4", "vxlan")
    for port in (4789, 8472):
        yield Encapsulation(f"vxlan-{port}", FRAMES, IPV4, path, vxlan(port))
    yield Encapsulation("vxlan-policy", FRAMES, IPV4, path, vxlan_with_policy)
    yield Encapsulation("vxlan-ipv6", FRAMES, IPV6, ("ipv6", "vxlan"), vxlan_in_ipv6)
    yield Encapsulation("vxlan-gpe", LABELLED | FRAMES, IPV4, path, vxlan_gpe)
    yield Encapsulation("vxlan-gpe-plain", FRAMES, IPV4, path, vxlan(4790))
    yield Encapsulation(
        "gre-in-udp", LABELLED, IPV4, ("ipv4", "gre"), lambda kind, up: udp(4754, up) / GRE(proto=kind)
    )
    yield Encapsulation(
        "mpls-in-udp", IP_PACKETS, IPV4, ("ipv4", "mpls"), lambda kind, up: udp(6635, up) / labels(kind, up)
    )
    path = ("ipv4", "geneve")
    yield Encapsulation("geneve", IP_PACKETS | FRAMES, IPV4, path, geneve)
    yield Encapsulation("geneve-options", FRAMES, IPV4, path, geneve_with_options)


def over(outer: Headers, header: Packet | None = None) -> Headers:
    """An IP header with the protocol number of what it carries, and a header behind it."""

    def headers(kind: int, upwards: bool) -> Packet:
        found = outer(inner_protocol(kind), upwards)
        return found if header is None else found / header.copy()

    return headers


@cache
def links() -> tuple[Link, ...]:
    """Every link type."""
    return tuple(make_links())


def make_links() -> Iterator[Link]:
    yield Link(1, TAGGABLE, ("ethernet",), ethernet)
    for linktype in (12, 14, 101, 228, 229):
        takes = {228: frozenset({IPV4}), 229: frozenset({IPV6})}.get(linktype, IP_PACKETS)
        yield Link(linktype, takes, ("raw",), lambda _kind, _up: Raw(b""))
    yield Link(0, IP_PACKETS, ("null",), family("little"))
    yield Link(108, IP_PACKETS, ("null",), family("big"))
    yield Link(9, LABELLED, ("ppp",), lambda kind, _: HDLC() / ppp(kind))
    yield Link(50, LABELLED, ("ppp",), lambda kind, _: ppp(kind))
    yield Link(51, LABELLED, ("pppoe", "ppp"), lambda kind, _: PPPoE(sessionid=3) / ppp(kind))
    yield Link(166, LABELLED, ("ppp",), lambda kind, _: Raw(b"\x01\x03") / ppp(kind))
    yield Link(204, LABELLED, ("ppp",), lambda kind, _: Raw(b"\x00") / HDLC() / ppp(kind))
    yield Link(104, TAGGABLE, ("c_hdlc",), lambda kind, _: Raw(b"\x0f\x00" + kind.to_bytes(2, "big")))
    yield Link(113, TAGGABLE, ("linux_sll",), lambda kind, _: CookedLinux(proto=kind, lladdrlen=6))
    yield Link(276, TAGGABLE, ("linux_sll2",), lambda kind, _: CookedLinuxV2(proto=kind, lladdrlen=6))


def family(order: str) -> Headers:
    """BSD's address families, in the byte order of the link type. (scapy's Loopback knows one order only.)"""

    def headers(kind: int, _upwards: bool) -> Packet:
        number = 2 if kind == IPV4 else 30
        return Raw(number.to_bytes(4, "little" if order == "little" else "big"))

    return headers
