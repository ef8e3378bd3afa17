"""Real packets in other people's hands: captures of pcaps/ with other addresses, at other times.

A case is taken as it is, so that all that a protocol shows is there, and only who talks, when, and how fast
is changed. Checksums are kept right. Entries and registers for such scenes beside them.
"""

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pcap_cases import repository

from classifier import _core
from classifier.policy import Policy
from classifier.register import Category, Entry, Kind, Prefix, Register, Side, Status

Frame = tuple[int, bytes]
"""Time in nanoseconds, and a whole Ethernet frame."""

ETHERNET = 14
LINKTYPE = 1


def take(
    case: str,
    swap: Mapping[str, str],
    start_ns: int,
    *,
    stretch: float = 1,
    first: int | None = None,
    only_from: str | None = None,
) -> list[Frame]:
    """The packets between the two addresses that `swap` replaces; the first of them is sent at `start_ns`.

    `stretch` makes pauses longer, `first` keeps only so many packets, `only_from` those of one new address.
    """
    new = {ipaddress.ip_address(old).packed: ipaddress.ip_address(text).packed for old, text in swap.items()}
    wanted = None if only_from is None else ipaddress.ip_address(only_from).packed
    taken: list[Frame] = []
    began_ns = None
    for time_ns, frame in _read(repository() / "pcaps" / case / "capture.pcap"):
        size = {b"\x08\x00": 4, b"\x86\xdd": 16}.get(frame[12:14])
        if size is None:
            continue
        place = ETHERNET + (12 if size == 4 else 8)
        ends = frame[place : place + size], frame[place + size : place + 2 * size]
        if ends[0] not in new or ends[1] not in new or wanted not in (None, new[ends[0]]):
            continue
        if began_ns is None:
            began_ns = time_ns
        swapped = _readdressed(frame, place, size, new[ends[0]] + new[ends[1]])
        taken.append((start_ns + int((time_ns - began_ns) * stretch), swapped))
        if len(taken) == first:
            break
    assert taken, f"{case} has no packet between {' and '.join(swap)}"
    return taken


def ordinary(start_ns: int, end_ns: int, size: int = 4_000_000) -> list[Frame]:
    """So many bytes of web traffic in between: the engine reads a capture in blocks of a megabyte."""
    ends = ("192.0.2.181", "203.0.113.251")
    frames = take("neg-https-443", {address: address for address in ends}, start_ns)
    frames *= size // sum(len(frame) for _, frame in frames) + 1
    step = (end_ns - start_ns) // len(frames)
    return [(start_ns + number * step, frame) for number, (_, frame) in enumerate(frames)]


class OneBlockAPoll:
    """The real engine, whose polls end as soon as they may, so that something can be done in between."""

    def __init__(self, policy: Policy, workers: int = 1) -> None:
        self._engine = _core.Engine(
            workers=workers,
            packet_milestones=policy.packet_milestones,
            duration_milestones_s=policy.duration_milestones_s,
        )

    def poll(self, _max_ms: int = 100) -> _core.FlowBatch | None:
        return self._engine.poll(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def write(path: Path, *parts: Iterable[Frame]) -> Path:
    """A capture of all these frames, in the order of their times."""
    frames = sorted(frame for part in parts for frame in part)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, LINKTYPE))
        for time_ns, frame in frames:
            seconds, rest = divmod(time_ns, 1_000_000_000)
            file.write(struct.pack("<IIII", seconds, rest, len(frame), len(frame)) + frame)
    return path


def _read(path: Path) -> Iterable[Frame]:
    content = path.read_bytes()
    magic, *_, linktype = struct.unpack_from("<IHHiIII", content)
    assert (magic, linktype) == (0xA1B2C3D4, LINKTYPE), f"{path}: not microseconds on Ethernet"
    place = 24
    while place < len(content):
        seconds, micros, captured, original = struct.unpack_from("<IIII", content, place)
        assert captured == original
        place += 16
        yield (seconds * 1_000_000 + micros) * 1_000, content[place : place + captured]
        place += captured


def _readdressed(frame: bytes, place: int, size: int, ends: bytes) -> bytes:
    """With other addresses, in the header and in the checksums that cover them."""
    old = frame[place : place + 2 * size]
    changed = bytearray(frame)
    changed[place : place + 2 * size] = ends
    if size == 4:
        header, protocol = ETHERNET + (frame[ETHERNET] & 15) * 4, frame[ETHERNET + 9]
        _correct(changed, ETHERNET + 10, old, ends)
    else:
        header, protocol = ETHERNET + 40, frame[ETHERNET + 6]
    checksum = {6: 16, 17: 6}.get(protocol)
    if checksum is not None and changed[header + checksum : header + checksum + 2] != b"\x00\x00":
        _correct(changed, header + checksum, old, ends)
    return bytes(changed)


def _correct(frame: bytearray, place: int, old: bytes, new: bytes) -> None:
    """RFC 1624: a checksum after some of what it covers has changed."""
    total = ~struct.unpack_from(">H", frame, place)[0] & 0xFFFF
    total += sum(struct.unpack(f">{len(new) // 2}H", new))
    total += sum(~word & 0xFFFF for word in struct.unpack(f">{len(old) // 2}H", old))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", frame, place, ~total & 0xFFFF or 0xFFFF)


def filed(prefix: str, since_ns: int, **fields: object) -> Entry:
    """An approved registration without an end, since then, but for what is given."""
    usual: dict[str, object] = {
        "entry_id": "R-1",
        "kind": Kind.VPN_REGISTRATION,
        "category": Category.OTHER,
        "prefix": Prefix.parse(prefix),
        "side": Side.EITHER,
        "endpoints": (),
        "protocols": (),
        "valid_from_ns": since_ns,
        "valid_until_ns": None,
        "status": Status.APPROVED,
        "status_since_ns": since_ns,
    }
    return Entry(**(usual | fields))  # type: ignore[arg-type]


def issue(*entries: Entry, serial: int, issued_ns: int, next_ns: int) -> Register:
    """A register with these entries that knows about any time before it."""
    return Register.build(
        entries,
        source="regulator",
        serial=serial,
        issued_at_ns=issued_ns,
        next_update_ns=next_ns,
        first_record_ns=0,
        sha256=f"{serial:064x}",
    )
