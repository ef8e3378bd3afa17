"""Every encapsulation, pair of encapsulations and link type by construction: what is found in a case of
pcaps/ when it is wrapped is what is found in it bare, with the same evidence at the same packets.

tests/encapsulations.py builds the headers with scapy. Which cases a pair is tried with is drawn from a seed:
each pair occurs with several cases, and each run is the same.
"""

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from encapsulations import IP_PACKETS, IPV4, IPV6, Encapsulation, Link, Outward, encapsulations, links
from oracle import read_capture, read_frames
from pcap_cases import Case, all_cases, run
from scapy.layers.inet import IP, fragment

from classifier._core import Engine, FlowBatch

PACKETS = 40  # of each case: enough for every level of confidence
CASES_OF_A_PAIR = 3
LAYERS_SHOWN = 8  # at least so many of a path

Facts = tuple[object, ...]
Capture = list[Outward]


@dataclass(frozen=True, slots=True)
class Bare:
    """The IP packets of a case, with the time and direction of each."""

    case: Case
    packets: tuple[Outward, ...]
    times: tuple[int, ...]
    upwards: tuple[bool, ...]


@cache
def bare(case: Case) -> Bare:
    packets: list[Outward] = []
    times: list[int] = []
    upwards: list[bool] = []
    first_sender = b""
    for frame in read_frames(case.capture):
        kind = int.from_bytes(frame.data[12:14], "big")
        data = frame.data[14:]
        if kind not in IP_PACKETS or len(packets) == PACKETS:
            continue
        # What is behind the packet is Ethernet's padding.
        length = int.from_bytes(data[2:4], "big") if kind == IPV4 else 40 + int.from_bytes(data[4:6], "big")
        sender = data[12:16] if kind == IPV4 else data[8:24]
        first_sender = first_sender or sender
        packets.append(Outward(kind, data[:length], length))
        times.append(frame.time_ns)
        upwards.append(sender == first_sender)
    return Bare(case, tuple(packets), tuple(times), tuple(upwards))


@cache
def cases() -> tuple[Bare, ...]:
    """Cases whose frames are Ethernet with IP at once."""
    found = []
    for case in all_cases():
        if case.name.startswith("enc-") or case.name.startswith("fmt-"):
            continue
        frame = next(read_frames(case.capture))
        if frame.linktype == 1 and bare(case).packets:
            found.append(bare(case))
    return tuple(found)


def named(*, ipv6: bool) -> tuple[Bare, ...]:
    return tuple(found for found in cases() if (found.packets[0].kind == IPV6) == ipv6)


def wrapped(found: Bare, layers: Sequence[Encapsulation], link: Link) -> Capture:
    """The packets of a case in `layers`, the innermost first."""
    capture = []
    for packet, upwards in zip(found.packets, found.upwards, strict=True):
        for layer in layers:
            packet = layer.wrap(packet, upwards)
        capture.append(link.frame(packet, upwards))
    return capture


def cut(found: Bare, snaplen: int) -> Bare:
    """The case as if at most so many bytes of each IP packet had been captured."""
    return replace(found, packets=tuple(replace(p, data=p.data[:snaplen]) for p in found.packets))


class Replayer:
    """Writes captures to one file and says what is found in them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def replay(
        self, capture: Iterable[Outward], times: Iterable[int], linktype: int, engine: Engine | None = None
    ) -> list[FlowBatch]:
        records = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, linktype)]
        for frame, time in zip(capture, times, strict=True):
            seconds, nanoseconds = divmod(time, 1_000_000_000)
            records.append(struct.pack("<IIII", seconds, nanoseconds, len(frame.data), frame.length))
            records.append(frame.data)
        self.path.unlink(missing_ok=True)  # some file systems wait for the disk where a file is overwritten
        self.path.write_bytes(b"".join(records))
        engine = engine or Engine(min_confidence="possible")
        return list(run(engine, Case("wrapped", self.path), []))

    def found(self, capture: Iterable[Outward], times: Iterable[int], linktype: int) -> list[Facts]:
        """All that is said of each flow but for its path."""
        return ended(self.replay(capture, times, linktype))


def ended(batches: Iterable[FlowBatch]) -> list[Facts]:
    return sorted(
        facts
        for batch in batches
        for facts, report in zip(all_facts(batch), batch.report, strict=True)
        if report == "ended"
    )


def all_facts(batch: FlowBatch) -> Iterable[Facts]:
    return zip(
        batch.community_id,
        batch.source_ip,
        batch.destination_ip,
        batch.transport,
        batch.protocol,
        batch.variant,
        batch.confidence,
        batch.phase,
        batch.packets_to_server,
        batch.packets_to_client,
        batch.bytes_to_server,
        batch.bytes_to_client,
        batch.oneway,
        batch.midflow,
        map(tuple, batch.evidence),
        map(tuple, batch.ruled_out),
        strict=True,
    )


@pytest.fixture
def replayer(tmp_path: Path) -> Replayer:
    return Replayer(tmp_path / "capture.pcap")


@cache
def link(linktype: int) -> Link:
    return next(link for link in links() if link.linktype == linktype)


def raw(found: Bare) -> Capture:
    return wrapped(found, (), link(101))


class Known(dict[Bare, list[Facts]]):
    """What is found in bare cases."""

    def __init__(self, replayer: Replayer) -> None:
        self.replayer = replayer

    def __missing__(self, found: Bare) -> list[Facts]:
        self[found] = self.replayer.found(raw(found), found.times, 101)
        return self[found]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return Known(Replayer(tmp_path_factory.mktemp("bare") / "capture.pcap"))


def outermost(layers: Sequence[Encapsulation], kind: int) -> int | None:
    """What a packet of this kind is in these layers; None when they do not fit."""
    for layer in layers:
        if not layer.fits(kind):
            return None
        kind = layer.gives
    return kind


def check(replayer: Replayer, known: Known, found: Bare, layers: Sequence[Encapsulation], link: Link) -> None:
    capture = wrapped(found, layers, link)
    batches = replayer.replay(capture, found.times, link.linktype)
    said = named_stack(found, layers, link)
    assert ended(batches) == known[found], said
    paths = {tuple(path) for batch in batches for path in batch.encap}
    assert paths == ({frame.path for frame in capture} if known[found] else set()), said


def named_stack(found: Bare, layers: Sequence[Encapsulation], link: Link) -> str:
    return f"{found.case.name} in {[layer.name for layer in layers]}, link type {link.linktype}"


def test_bare_cases_mean_something(known: Known) -> None:
    """Most cases hold a flow that few packets show, over either IP version and each transport."""
    found = [facts for case in cases() for facts in known[case]]
    assert len(found) > 60
    assert {facts[3] for facts in found} == {"UDP", "TCP", "ESP", "AH"}
    assert {facts[4] for facts in found} == {"wireguard", "openvpn", "ipsec"}
    assert len(named(ipv6=True)) >= 5


@pytest.mark.parametrize("layer", encapsulations(), ids=lambda layer: layer.name)
def test_each_case_in_each_encapsulation(layer: Encapsulation, replayer: Replayer, known: Known) -> None:
    tried = 0
    for found in cases():
        kind = outermost((layer,), found.packets[0].kind)
        if kind is not None:
            check(replayer, known, found, (layer,), link(1))
            tried += 1
    assert tried > 20


@pytest.mark.parametrize("inner", encapsulations(), ids=lambda layer: layer.name)
def test_pairs_of_encapsulations(inner: Encapsulation, replayer: Replayer, known: Known) -> None:
    drawn = random.Random(inner.name)
    tried = 0
    for outer in encapsulations():
        for ipv6 in (False, True):
            fits = outermost((inner, outer), IPV6 if ipv6 else IPV4) is not None
            for found in drawn.sample(named(ipv6=ipv6), 1 if ipv6 else CASES_OF_A_PAIR) if fits else ():
                check(replayer, known, found, (inner, outer), link(1))
                tried += 1
    assert tried > 30


@pytest.mark.parametrize("linktype", [link.linktype for link in links()])
def test_each_link_type_with_each_encapsulation(linktype: int, replayer: Replayer, known: Known) -> None:
    drawn = random.Random(linktype)
    tried = 0
    for layers in [(), *((layer,) for layer in encapsulations())]:
        for ipv6 in (False, True):
            kind = outermost(layers, IPV6 if ipv6 else IPV4)
            if kind is not None and link(linktype).fits(kind):
                [found] = drawn.sample(named(ipv6=ipv6), 1)
                check(replayer, known, found, layers, link(linktype))
                tried += 1
    assert tried > 10


def stacks(drawn: random.Random, count: int, deepest: int) -> list[list[Encapsulation]]:
    """Stacks of encapsulations that fit into each other and around IPv4."""
    every = list(encapsulations())
    found: list[list[Encapsulation]] = []
    while len(found) < count:
        layers = drawn.choices(every, k=drawn.randint(1, deepest))
        depth = sum(len(layer.path) for layer in layers)
        if outermost(layers, IPV4) is not None and depth <= LAYERS_SHOWN - 2:
            found.append(layers)
    return found


def test_a_snap_length_cuts_what_is_inside(replayer: Replayer, known: Known) -> None:
    """What was captured of the innermost packet decides, not how much of the frame that is."""
    drawn = random.Random("snap length")
    for layers in stacks(drawn, 60, 3):
        found = cut(drawn.choice(named(ipv6=False)), drawn.choice([48, 64, 96, 128, 200]))
        check(replayer, known, found, layers, link(1))


def test_a_frame_cut_anywhere_loses_nothing_else(replayer: Replayer, known: Known) -> None:
    """Cut inside some header: every frame is counted, and nothing is found that is not there."""
    drawn = random.Random("cut anywhere")
    for layers in stacks(drawn, 60, 3):
        found = drawn.choice(named(ipv6=False))
        snaplen = drawn.randint(1, 120)
        capture = [replace(f, data=f.data[:snaplen]) for f in wrapped(found, layers, link(1))]
        protocols = {facts[3:5] for facts in known[found]}
        engine = Engine(min_confidence="possible")
        replayer.replay(capture, found.times, 1)
        rows = [facts for batch in run(engine, Case("cut", replayer.path), []) for facts in all_facts(batch)]
        assert {facts[3:5] for facts in rows if facts[6] == "confirmed"} <= protocols
        stats = engine.stats()
        lost = {name: count for name, count in stats.items() if name.startswith("undecoded.") and count}
        assert stats["frames"] == len(capture) == stats["decoded"] + sum(lost.values())
        # Cut, and not wrong: what is missing was not captured.
        assert all(name.endswith("_truncated") for name in lost), (found.case.name, snaplen, lost)


def whose(facts: Iterable[Facts]) -> set[Facts]:
    """Flows that were found at `likely` or above, and as what; not how far they got."""
    return {(one[0], one[3], one[4]) for one in facts if one[6] != "possible"}


def counted(facts: Iterable[Facts]) -> dict[object, tuple[int, int]]:
    """Packets and octets of each flow, both directions together."""
    return {one[0]: (total(one[8], one[9]), total(one[10], one[11])) for one in facts}


def total(*numbers: object) -> int:
    return sum(number for number in numbers if isinstance(number, int))


def test_shuffled_frames_are_the_same_flows(replayer: Replayer, known: Known) -> None:
    drawn = random.Random("shuffled")
    for layers in stacks(drawn, 60, 2):
        found = drawn.choice(named(ipv6=False))
        capture = wrapped(found, layers, link(1))
        places = sorted(range(len(capture)), key=lambda place: place + drawn.uniform(0, 3))
        shuffled = replayer.found([capture[place] for place in places], found.times, 1)
        said = named_stack(found, layers, link(1))
        assert whose(shuffled) == whose(known[found]), said
        assert counted(shuffled) == counted(known[found]), said


def test_frames_that_come_twice_are_the_same_flows(replayer: Replayer, known: Known) -> None:
    drawn = random.Random("twice")
    for layers in stacks(drawn, 60, 2):
        found = drawn.choice(named(ipv6=False))
        said = named_stack(found, layers, link(1))
        capture, times = [], []
        for frame, time in zip(wrapped(found, layers, link(1)), found.times, strict=True):
            copies = drawn.choice([1, 1, 2])
            capture += [frame] * copies
            times += [time] * copies
        engine = Engine(min_confidence="possible")
        assert whose(ended(replayer.replay(capture, times, 1, engine))) == whose(known[found]), said
        # As many packets as there are frames of flows: a copy counts, and is told.
        once = Engine(min_confidence="possible")
        replayer.replay(wrapped(found, layers, link(1)), found.times, 1, once)
        more = engine.stats()["flow_packets"] - once.stats()["flow_packets"]
        assert 0 < more <= len(capture) - len(found.packets), said
        assert engine.stats()["duplicates"] - once.stats()["duplicates"] <= more, said


def split(packet: IP, size: int) -> list[IP]:
    fragments: list[IP] = fragment(packet, fragsize=size)  # type: ignore[no-untyped-call]
    return fragments


def test_copies_of_two_vlans_count_once_when_they_are_removed(replayer: Replayer, known: Known) -> None:
    """A mirror of a trunk: each frame twice, with the tags of two VLANs, a millisecond apart."""
    drawn = random.Random("copies")
    by_name = {layer.name: layer for layer in encapsulations()}
    for layers in stacks(drawn, 40, 1):
        found = drawn.choice(named(ipv6=False))
        copies = [
            wrapped(found, [*layers, by_name[tag]], link(1))
            if outermost([*layers, by_name[tag]], IPV4) is not None
            else wrapped(found, layers, link(1))
            for tag in ("vlan-8100", "vlan-88a8")
        ]
        rows = [
            (frame, time + delay)
            for frames, delay in zip(copies, (0, 1_000_000), strict=True)
            for frame, time in zip(frames, found.times, strict=True)
        ]
        rows.sort(key=lambda row: row[1])
        capture, times = zip(*rows, strict=True)
        engine = Engine(min_confidence="possible", remove_duplicates=True)
        facts = ended(replayer.replay(capture, times, 1, engine))
        once = Engine(min_confidence="possible", remove_duplicates=True)
        bare_facts = ended(replayer.replay(raw(found), found.times, 101, once))
        said = named_stack(found, layers, link(1))
        assert whose(facts) == whose(known[found]), said
        assert counted(facts) == counted(bare_facts), said
        assert engine.stats()["ignored.duplicate"] >= once.stats()["flow_packets"] > 0, said


def is_tunnel_over_ip(layer: Encapsulation) -> bool:
    return layer.gives in IP_PACKETS


@pytest.mark.parametrize("layer", encapsulations(), ids=lambda layer: layer.name)
def test_whose_tunnel_is_opened(layer: Encapsulation, replayer: Replayer, known: Known) -> None:
    """What belongs to the link is always taken off; a tunnel over IP with a subscriber at an end is that
    subscriber's and stays shut, but for a switch's mirror."""
    found = next(case for case in cases() if case.case.name == "wg-plain-51820")
    capture = wrapped(found, (layer,), link(1))
    outer = [(bytes([192, 0, 2, 0]), 24), (bytes.fromhex("20010db8ffff0000") + bytes(8), 48)]
    others = [(bytes([203, 0, 113, 0]), 24), (bytes.fromhex("20010db800010000") + bytes(8), 48)]
    settings: list[tuple[str, list[tuple[bytes, int]], bool]] = [
        ("all", outer, True),
        ("operator", others, True),
        ("operator", outer, not is_tunnel_over_ip(layer) or layer.name.startswith("erspan")),
        ("none", [], not is_tunnel_over_ip(layer)),
    ]
    for peel, subscribers, opened in settings:
        engine = Engine(min_confidence="possible", peel=peel, subscribers=subscribers)
        facts = ended(replayer.replay(capture, found.times, 1, engine))
        assert facts == (known[found] if opened else []), (peel, subscribers)
        in_udp = layer.path[-1] in ("gtp-u", "vxlan", "geneve") or layer.name.endswith("-in-udp")
        assert engine.stats()["no_flow.tunnel"] > 0 or opened or in_udp


def in_fragments(packets: Iterable[Outward], size: int) -> list[list[Outward]]:
    """Each IPv4 packet in fragments of `size` octets at the most, each datagram with an id of its own."""
    found = []
    for number, packet in enumerate(packets, 1):
        header = IP(packet.data)
        header.id, header.flags, header.chksum = number, 0, None
        parts = [bytes(part) for part in split(header, size)]
        found.append([Outward(IPV4, part, len(part), packet.path) for part in parts])
    return found


def whole_cases() -> list[Bare]:
    """IPv4 cases all of whose packets were captured whole; over TCP no sender makes fragments."""
    return [
        found
        for found in named(ipv6=False)
        if all(len(packet.data) == packet.length and packet.data[9] != 6 for packet in found.packets)
    ]


def test_fragments_inside_count_to_their_flows(replayer: Replayer, known: Known) -> None:
    """What an end has sent in fragments and the operator has wrapped: the flows of the whole packets, with
    every fragment counted; also when the fragments come out of order."""
    drawn = random.Random("inner fragments")
    later = 0
    for layers in stacks(drawn, 60, 2):
        found = drawn.choice(whole_cases())
        # By far the largest datagrams of WireGuard and IKE in clear fit into the first fragment.
        parts = in_fragments(found.packets, drawn.choice([256, 512, 1_024]))
        rows = [
            (part, time, up)
            for datagram, time, up in zip(parts, found.times, found.upwards, strict=True)
            for part in (datagram if drawn.random() < 0.7 else reversed(datagram))
        ]
        later += len(rows) - len(parts)
        packets, times, upwards = zip(*rows, strict=True)
        fragments = Bare(found.case, packets, times, upwards)
        facts = replayer.found(wrapped(fragments, layers, link(1)), times, 1)
        said = named_stack(found, layers, link(1))
        assert whose(facts) == whose(known[found]), said
        oracle = read_capture(replayer.path)
        for one in facts:
            ends = {str(ip) for ip in one[1:3]}
            mine = [f for key, f in oracle.flows.items() if {key.low.address, key.high.address} == ends]
            counts = [(len(f.packets) + len(f.later)) for f in mine if f.key.transport == one[3]]
            assert total(one[8], one[9]) in counts, said
    assert later > 500


def test_fragments_outside_hide_no_flow(replayer: Replayer, known: Known) -> None:
    """A tunnel that sends its own packets in fragments: the first one has the headers inside, and the later
    ones belong to no flow."""
    drawn = random.Random("outer fragments")
    tunnels = [layer for layer in encapsulations() if layer.gives == IPV4]
    later = 0
    for tunnel in tunnels:
        for found in drawn.sample(whole_cases(), 3):
            parts = in_fragments(wrapped(found, (tunnel,), replace(link(101), path=())), 1_024)
            rows = [(p, t) for datagram, t in zip(parts, found.times, strict=True) for p in datagram]
            capture, times = zip(*rows, strict=True)
            facts = replayer.found(capture, times, 101)
            said = named_stack(found, (tunnel,), link(101))
            assert whose(facts) == whose(known[found]), said
            assert counted(facts) == counted(known[found]), said
            later += len(rows) - len(parts)
    assert later > 100


@pytest.mark.parametrize("port", [2152, 4754, 4789, 4790, 6081, 6635, 8472])
@pytest.mark.parametrize("moved", ["source", "destination", "both"])
def test_a_vpn_on_a_tunnels_port_is_a_vpn(port: int, moved: str, replayer: Replayer, known: Known) -> None:
    """A port alone says nothing: what does not lead on as a tunnel is the datagram's own."""
    tried = 0
    for found in named(ipv6=False):
        mine = known[found]
        if len(mine) != 1 or mine[0][3] != "UDP" or mine[0][4] not in ("wireguard", "openvpn"):
            continue
        tried += 1
        packets = []
        opener = b""
        for packet in found.packets:
            data = bytearray(packet.data)
            at = (data[0] & 15) * 4
            if data[9] == 17 and not int.from_bytes(data[6:8], "big") & 0x1FFF:
                opener = opener or bytes(data[12:16] + data[at : at + 2])
                near, far = (at, at + 2) if data[12:16] + data[at : at + 2] == opener else (at + 2, at)
                for place, ends in ((near, ("source", "both")), (far, ("destination", "both"))):
                    if moved in ends:
                        data[place : place + 2] = port.to_bytes(2, "big")
            packets.append(replace(packet, data=bytes(data)))
        facts = replayer.found([replace(p, path=()) for p in packets], found.times, 101)
        assert [one[4:10] for one in facts] == [one[4:10] for one in mine], found.case.name
    assert tried > 10


def test_a_pseudowire_is_read_whatever_the_addresses(replayer: Replayer, known: Known) -> None:
    """Nothing behind MPLS labels says what follows; any MAC address may be that of the next router."""
    drawn = random.Random("addresses")
    by_name = {layer.name: layer for layer in encapsulations()}
    first = [f"{octet:02x}" for octet in range(0, 256, 2)]
    for number in range(400):
        found = drawn.choice(cases())
        destination = bytes.fromhex(drawn.choice(first)) + drawn.randbytes(5)
        if number % 3 == 0:
            destination = (
                bytes.fromhex(drawn.choice(["10", "1c", "60", "6c", "45", "00"])) + bytes(3) + b"\0\x10"
            )
        ends = destination + bytes.fromhex("02") + drawn.randbytes(5)
        tags = [by_name[tag] for tag in ("vlan-8100", "vlan-88a8")[: drawn.randrange(3)]]
        has_control_word = drawn.random() < 0.5
        packets = []
        for packet, up in zip(found.packets, found.upwards, strict=True):
            for tag in tags:
                packet = tag.wrap(packet, up)
            frame = ends + packet.kind.to_bytes(2, "big") + packet.data
            label = bytes.fromhex("8847 0001f140") + (bytes(4) if has_control_word else b"")
            outer = bytes.fromhex("020000000001020000000002") + label
            length = packet.length + len(outer) + 14
            packets.append(Outward(-1, outer + frame, length))
        facts = replayer.found(packets, found.times, 1)
        said = (found.case.name, destination.hex(), [tag.name for tag in tags], has_control_word)
        assert facts == known[found], said
