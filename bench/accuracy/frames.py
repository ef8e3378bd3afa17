"""How many frames of a capture carry a flow, whatever it is wrapped in.

No decoder: a frame counts when source and destination address stand in it one after the other, as in an
IP header, and the ports behind them. So a flow that no program has found can be counted too. IP fragments
after the first have no ports and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dpkt

if TYPE_CHECKING:
    from bench.accuracy.truth import FlowKey

PROTOCOL_NUMBERS = {"TCP": 6, "UDP": 17, "ESP": 50, "AH": 51}


def count_frames(capture: Path, keys: Sequence[FlowKey]) -> dict[FlowKey, tuple[int, int]]:
    """Frames of each flow from its lower end and from its higher end; of an unreadable capture none."""
    counted = dict.fromkeys(keys, (0, 0))
    for frame in frames(capture):
        for key, (low, high) in counted.items():
            if carries(frame, key.transport, key.low, key.high):
                counted[key] = (low + 1, high)
            elif carries(frame, key.transport, key.high, key.low):
                counted[key] = (low, high + 1)
    return counted


def carries(frame: bytes, transport: str, source: tuple[bytes, int], destination: tuple[bytes, int]) -> bool:
    """Whether a packet from `source` to `destination` stands in the frame."""
    addresses = source[0] + destination[0]
    at = frame.find(addresses)
    if at < 0:
        return False
    if transport in ("UDP", "TCP"):
        # Not necessarily at once: IPv4 options or IPv6 extension headers may stand between.
        return frame.find(source[1].to_bytes(2) + destination[1].to_bytes(2), at + len(addresses)) >= 0
    number = PROTOCOL_NUMBERS[transport]
    if len(source[0]) == 4:
        return at >= 3 and frame[at - 3] == number
    # The next header of IPv6 may be an extension header before ESP or AH.
    return at >= 2 and frame[at - 2] in (number, 0, 43, 44, 60)


def frames(capture: Path) -> Iterable[bytes]:
    with capture.open("rb") as file:
        try:
            for _, frame in dpkt.pcap.UniversalReader(file):
                yield bytes(frame)
        except (ValueError, dpkt.UnpackError):  # no capture that dpkt can read (any further)
            return
