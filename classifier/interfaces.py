"""The network interfaces of this host, as far as listening on them goes: what there is, what becomes of it.

Asks the kernel through pyroute2 (netlink, ethtool), in the network namespace of this process, and needs no
privilege. The rule a reader would get wrong: an offload loses no packets, it joins or splits them before they
are seen (GRO and LRO what arrives, GSO and TSO what this host sends), so lengths and counts are not those of
the wire. Nothing is switched here: what others do with the interface is not known, so the command is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pyroute2 import IPRoute
    from pyroute2.ethtool import Ethtool

__all__ = ["Interface", "InterfaceLog", "advice", "interfaces"]

_IFF_UP: Final = 0x1  # linux/if.h
_IFF_RUNNING: Final = 0x40
_LINK_TYPES: Final = {1: "ethernet", 772: "loopback", 65534: "ip", 519: "ip", 512: "ppp"}  # linux/if_arp.h
# net/ethtool/common.c names a feature, ethtool -K its short form where there is one.
_RECEIVING: Final = {
    "rx-gro": "gro",
    "rx-lro": "lro",
    "rx-gro-hw": "rx-gro-hw",
    "rx-gro-list": "rx-gro-list",
    "rx-udp-gro-forwarding": "rx-udp-gro-forwarding",
}
_SENDING: Final = {
    "tx-generic-segmentation": "gso",
    "tx-tcp-segmentation": "tso",
    "tx-udp-segmentation": "tx-udp-segmentation",
}
_UNKNOWN_SPEED: Final = 0x7FFF_FFFF
_LOOK_S: Final = 1.0
_LOOK_AT_OFFLOADS_S: Final = 60.0


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
    """Those switched on that join or split packets, as ethtool -K names them."""

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
        names = [name for name in self.offloads if outgoing or name not in _SENDING.values()]
        # On a loopback interface everything is sent by this host, and some of it cannot be switched off.
        if not names or self.link_type == "loopback":
            return None
        return f"ethtool -K {self.name} " + " ".join(f"{name} off" for name in names)


def interfaces() -> list[Interface]:
    """All of them, in the order of the kernel's numbers."""
    from pyroute2 import IPRoute
    from pyroute2.ethtool import Ethtool

    with IPRoute() as route:
        ethtool = Ethtool()
        try:
            return [_interface(link, ethtool) for link in sorted(route.get_links(), key=_number)]
        finally:
            ethtool.close()


def advice(names: Iterable[str], outgoing: bool) -> Iterator[str]:
    """What the owner of these interfaces should know before a capture, a line each."""
    wanted = set(names)
    for found in interfaces():
        if found.name not in wanted:
            continue
        if found.state != "up":
            yield f"{found.name} is {found.state}: waiting for it"
        if (line := _about_offloads(found, outgoing)) is not None:
            yield line


class InterfaceLog:
    """Says when an interface that is listened on goes and comes back, and when packets begin to be joined."""

    def __init__(
        self,
        names: Sequence[str],
        outgoing: bool,
        listens: Callable[[], set[str]],
        say: Callable[[str], None],
    ) -> None:
        self._outgoing = outgoing
        self._listens = listens
        """Those that the capture takes frames from."""
        self._say = say
        self._said = {found.name: (found.state, found.remedy(outgoing=outgoing)) for found in interfaces()}
        self._said = {name: self._said.get(name, ("gone", None)) for name in names}
        self._look_at = self._look_at_offloads = 0.0

    def tick(self) -> None:
        """Look, if it is time to."""
        from pyroute2 import IPRoute
        from pyroute2.ethtool import Ethtool

        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        listens = self._listens()
        ethtool: Ethtool | None = None
        if now >= self._look_at_offloads:
            self._look_at_offloads = now + _LOOK_AT_OFFLOADS_S
            ethtool = Ethtool()
        with IPRoute() as route:
            for name, (said, remedy) in self._said.items():
                found = _found(route, name, ethtool)
                state = "gone" if found is None else found.state
                if state in ("up", "no carrier") and name not in listens:
                    continue  # the capture has yet to find that it is back
                if state != said:
                    self._say(f"{name} is {state}" + ("" if state == "up" else ": waiting for it"))
                if found is not None and ethtool is not None:
                    line = _about_offloads(found, self._outgoing)
                    if line is not None and remedy is None:
                        self._say(line)
                    remedy = found.remedy(outgoing=self._outgoing)
                self._said[name] = (state, remedy)
        if ethtool is not None:
            ethtool.close()


def _about_offloads(found: Interface, outgoing: bool) -> str | None:
    command = found.remedy(outgoing=outgoing)
    if command is None:
        return None
    return f"{found.name} joins or splits packets before they are seen; for true lengths: {command}"


def _found(route: IPRoute, name: str, ethtool: Ethtool | None) -> Interface | None:
    """The interface of this name; None when there is none."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        (link,) = route.link("get", ifname=name)
    except NetlinkError:
        return None
    return _interface(link, ethtool)


def _number(link: Any) -> int:
    return int(link["index"])


def _interface(link: Any, ethtool: Ethtool | None) -> Interface:
    name: str = link.get("ifname")
    flags, hardware = int(link["flags"]), int(link["ifi_type"])
    return Interface(
        name,
        bool(flags & _IFF_UP),
        bool(flags & _IFF_RUNNING),
        _LINK_TYPES.get(hardware, f"type {hardware}"),
        None if ethtool is None else _speed(ethtool, name),
        () if ethtool is None else tuple(_offloads(ethtool, name)),
    )


def _speed(ethtool: Ethtool, name: str) -> int | None:
    try:
        speed = ethtool.get_link_mode(name).speed
    except _refusals():
        return None
    return int(speed) if speed and 0 < speed < _UNKNOWN_SPEED else None


def _offloads(ethtool: Ethtool, name: str) -> Iterator[str]:
    try:
        features = ethtool.get_features(name).features
    except _refusals():
        return
    for feature, short in (_RECEIVING | _SENDING).items():
        if feature in features and features[feature].enable:
            yield short


def _refusals() -> tuple[type[Exception], ...]:
    """A driver that does not know the question, or an interface that has just gone."""
    from pyroute2.ethtool.ioctl import EthtoolError
    from pyroute2.netlink.exceptions import NetlinkError

    return OSError, NetlinkError, EthtoolError
