"""Which flag is the first of its case, and when a case was first seen.

A case is what people count: (subject prefix, remote address, protocol), where the prefix is the address
for IPv4 and its /64 for IPv6. Many flows of one subscriber to one endpoint are one case. The first flag
of a case says `first`; the next to say so comes 24 hours of packet time later at the earliest. A case without
an entry is first seen when its first flow begins, however often the subscriber connects anew.
"""

from __future__ import annotations

import hashlib
import socket
from collections import OrderedDict

from classifier.events import NANOSECONDS

DAY_NS = 24 * 3600 * NANOSECONDS


class Cases:
    """The cases flagged in the last 24 hours; the longest known goes when there are more than `limit`."""

    def __init__(self, limit: int = 131_072) -> None:
        self._first: OrderedDict[bytes, int] = OrderedDict()
        self._limit = limit
        self.evicted = 0
        """Cases pushed out while still in their 24 hours: their next flag says `first` again."""

    def first(self, subject: bytes, remote: bytes, protocol: str, time_ns: int) -> bool:
        """Whether this flag is the first of its case in 24 hours; it is remembered if so."""
        self._expire(time_ns)
        case = _case(subject, remote, protocol)
        if case in self._first:
            return False
        if len(self._first) >= self._limit:
            self._first.popitem(last=False)
            self.evicted += 1
        self._first[case] = time_ns
        return True

    def clear(self) -> None:
        """Forget them all: another capture begins, with a clock of its own."""
        self._first.clear()

    def _expire(self, time_ns: int) -> None:
        while self._first:
            case, first_ns = next(iter(self._first.items()))
            if time_ns - first_ns < DAY_NS:
                return
            del self._first[case]


class FirstSeen:
    """When each case was first seen; of more than `limit`, the one not met for longest is forgotten."""

    def __init__(self, limit: int = 131_072) -> None:
        self._since: OrderedDict[bytes, int] = OrderedDict()
        self._limit = limit
        self.evicted = 0
        """Cases forgotten: they count as seen for the first time again."""

    def since(self, subject: bytes, remote: bytes, protocol: str, start_ns: int) -> int:
        """The start of the earliest flow of the case; this one, which began at `start_ns`, included."""
        case = _case(subject, remote, protocol)
        since_ns = self._since.get(case)
        if since_ns is None or since_ns > start_ns:
            since_ns = self._since[case] = start_ns
        self._since.move_to_end(case)
        if len(self._since) > self._limit:
            self._since.popitem(last=False)
            self.evicted += 1
        return since_ns

    def clear(self) -> None:
        """Forget them all: another capture begins."""
        self._since.clear()


def _case(subject: bytes, remote: bytes, protocol: str) -> bytes:
    """What a case is remembered by: one object, since of so many few are in a cache of the processor."""
    return (subject if len(subject) == 4 else subject[:8]) + remote + protocol.encode()


def subject_prefix(address: bytes) -> str:
    """The address itself for IPv4, its /64 for IPv6."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    return socket.inet_ntop(socket.AF_INET6, address[:8] + bytes(8)) + "/64"


def case_id(subject: bytes, remote: bytes, protocol: str) -> str:
    """A short stable hash of the case; the same in every capture and on every machine."""
    prefix = subject if len(subject) == 4 else subject[:8]
    data = b"|".join((prefix.hex().encode(), remote.hex().encode(), protocol.encode()))
    return hashlib.blake2b(data, digest_size=8).hexdigest()
