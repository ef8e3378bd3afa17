"""Send frames: `send_frames.py FRAMES FROM:TO...`, in turn. FRAMES is what `laboratory.write_frames` wrote.

FROM and TO are the ends of a virtual wire. What is sent is counted where it arrives, and only a few frames
are under way at a time: a virtual wire drops what the receiving side has no time for, and nobody is told.
A program of its own, since it runs in a network namespace of its own.
"""

import socket
import sys
from pathlib import Path

ALL_PROTOCOLS = 3
UNDER_WAY = 32
PATIENCE_S = 30


def main(file: str, *wires: str) -> None:
    data, at = Path(file).read_bytes(), 0
    ends = [tuple(map(_bound, wire.split(":"))) for wire in wires]
    sent, arrived = [0] * len(ends), [0] * len(ends)
    number = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4])
        turn = number % len(ends)
        ends[turn][0].send(data[at + 4 : end])
        sent[turn] += 1
        while sent[turn] - arrived[turn] >= UNDER_WAY:
            arrived[turn] += _count(ends[turn][1])
        at, number = end, number + 1
    for turn, (_, receiver) in enumerate(ends):
        while arrived[turn] < sent[turn]:
            arrived[turn] += _count(receiver)


def _bound(name: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    end.bind((name, ALL_PROTOCOLS))
    end.settimeout(PATIENCE_S)
    return end


def _count(receiver: socket.socket) -> int:
    _, (*_, kind, _, _) = receiver.recvfrom(1)
    return int(kind != socket.PACKET_OUTGOING)


if __name__ == "__main__":
    main(*sys.argv[1:])
