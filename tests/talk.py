"""Datagrams of many lengths, and their answers, through whatever lies between: `talk.py serve` answers.

`talk.py ask SERVER COUNT` sends until COUNT of them have been answered, and fails when that takes too long;
COUNT 0 goes on until it is stopped. A program of its own, since its ends run in network namespaces.
"""

import os
import random
import socket
import sys
import time

PORT = 7
LENGTHS = range(100, 1000)
PATIENCE_S = 20.0


def main(what: str, *arguments: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        if what == "serve":
            end.bind(("0.0.0.0", PORT))
            while True:
                data, sender = end.recvfrom(LENGTHS.stop)
                end.sendto(data, sender)
        server, count = arguments
        _ask(end, server, int(count))


def _ask(end: socket.socket, server: str, count: int) -> None:
    answered, deadline = 0, time.monotonic() + PATIENCE_S
    while not count or answered < count:
        data = os.urandom(random.choice(LENGTHS))
        end.settimeout(0.2)
        try:
            end.sendto(data, (server, PORT))
            while end.recv(LENGTHS.stop) != data:
                pass
            answered += 1
        except OSError:  # lost, or the tunnel is not there yet
            pass
        if not count:
            time.sleep(0.2)
        elif time.monotonic() > deadline:
            sys.exit(f"{answered} of {count} answered by {server} in {PATIENCE_S:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
