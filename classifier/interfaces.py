"""The network interfaces of this host, as far as listening on them goes.

Asks the kernel (ioctl), in the network namespace of this process, and needs no privilege. The rule a reader
would get wrong: an offload loses no packets, it joins or splits them before they are seen (GRO and LRO what
arrives, GSO and TSO what this host sends), so lengths and counts are not those of the wire.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Interface", "advice", "interfaces"]

# linux/sockios.h, linux/ethtool.h, linux/if.h
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFHWADDR: Final = 0x8927
_SIOCETHTOOL: Final = 0x8946
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_GET_SETTINGS: Final = 0x1
_GET_FLAGS: Final = 0x25
_FLAG_LRO: Final = 1 << 15
_UNKNOWN_SPEED: Final = (0, 0xFFFF, 0xFFFF_FFFF)
_OFFLOADS: Final = {"gro": 0x2B, "gso": 0x23, "tso": 0x1E}
_SENDING: Final = frozenset({"gso", "tso"})
_LINK_TYPES: Final = {1: "ethernet", 772: "loopback", 65534: "ip", 519: "ip", 512: "ppp"}  # linux/if_arp.h


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface."""

    name: str
    is_up: bool
    has_carrier: bool
    link_type: str
    """ "ethernet", "loopback", "ip" or "ppp"; "type" and its number where capturing is not possible."""
    speed_mbps: int | None
    """None when it has none, or it is not known."""
    offloads: tuple[str, ...]
    """Those switched on, as ethtool -K names them."""

    @property
    def is_supported(self) -> bool:
        return not self.link_type.startswith("type ")

    @property
    def state(self) -> str:
        if not self.is_up:
            return "down"
        return "up" if self.has_carrier else "no carrier"

    def remedy(self, *, outgoing: bool) -> str | None:
        """The command that switches off what falsifies lengths; None when nothing does."""
        names = [name for name in self.offloads if outgoing or name not in _SENDING]
        # On a loopback interface everything is sent by this host, and some of it cannot be switched off.
        if not names or self.link_type == "loopback":
            return None
        return f"ethtool -K {self.name} " + " ".join(f"{name} off" for name in names)


def interfaces() -> list[Interface]:
    """All of them, in the order of the kernel's numbers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        return [found for _, name in sorted(socket.if_nameindex()) for found in _interface(asked, name)]


def advice(names: Iterable[str], outgoing: bool) -> Iterator[str]:
    """What the owner of these interfaces should know before a capture, a line each."""
    wanted = set(names)
    for found in interfaces():
        if found.name not in wanted:
            continue
        if found.state != "up":
            yield f"{found.name} is {found.state}: waiting for it"
        command = found.remedy(outgoing=outgoing)
        if command is not None:
            yield f"{found.name} joins or splits packets before they are seen; for true lengths: {command}"


def _interface(asked: socket.socket, name: str) -> Iterator[Interface]:
    try:
        flags: int = struct.unpack_from("H", _request(asked, _SIOCGIFFLAGS, name), 16)[0]
        hardware: int = struct.unpack_from("H", _request(asked, _SIOCGIFHWADDR, name), 16)[0]
    except OSError:
        return  # it has just gone
    yield Interface(
        name,
        bool(flags & _IFF_UP),
        bool(flags & _IFF_RUNNING),
        _LINK_TYPES.get(hardware, f"type {hardware}"),
        _speed(asked, name),
        tuple(_offloads(asked, name)),
    )


def _speed(asked: socket.socket, name: str) -> int | None:
    # struct ethtool_cmd: the low half of the speed at 12, the high one at 28.
    told = _ethtool(asked, name, _GET_SETTINGS, 44)
    if told is None:
        return None
    speed = struct.unpack_from("H", told, 12)[0] | struct.unpack_from("H", told, 28)[0] << 16
    return None if speed in _UNKNOWN_SPEED else int(speed)


def _offloads(asked: socket.socket, name: str) -> Iterator[str]:
    for offload, command in _OFFLOADS.items():
        told = _ethtool(asked, name, command, 8)
        if told is not None and struct.unpack_from("I", told, 4)[0]:
            yield offload
    told = _ethtool(asked, name, _GET_FLAGS, 8)
    if told is not None and struct.unpack_from("I", told, 4)[0] & _FLAG_LRO:
        yield "lro"


def _ethtool(asked: socket.socket, name: str, command: int, length: int) -> bytes | None:
    """What a driver answers; None when it does not know the question."""
    answer = ctypes.create_string_buffer(struct.pack("I", command), length)
    try:
        _request(asked, _SIOCETHTOOL, name, struct.pack("P", ctypes.addressof(answer)))
    except OSError:
        return None
    return answer.raw


def _request(asked: socket.socket, request: int, name: str, data: bytes = b"") -> bytes:
    # struct ifreq: a name in 16 bytes, and 24 for what is asked.
    return fcntl.ioctl(asked, request, struct.pack("16s24s", name.encode(), data))
