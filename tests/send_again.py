"""Send frames over and over until ended: `send_again.py FRAMES INTERFACE RATE`.

FRAMES is what `laboratory.write_frames` wrote, RATE the frames a second. What the other side has no time for
is not sent again: this keeps something going on, `send_frames.py` is for what must arrive.
"""

import socket
import sys
import time
from itertools import cycle
from pathlib import Path

ALL_PROTOCOLS = 3
BATCH_S = 0.02


def main(file: str, interface: str, rate: str) -> None:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    end.bind((interface, 0))
    data, at = Path(file).read_bytes(), 0
    frames = []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        frames.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    began = time.monotonic()
    for sent, frame in enumerate(cycle(frames)):
        while sent >= (time.monotonic() - began) * float(rate):
            time.sleep(BATCH_S)
        # A link that is down, or a full queue: this frame is not sent.
        try:
            end.send(frame)
        except OSError:
            time.sleep(BATCH_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
