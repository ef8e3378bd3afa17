"""What a case is called.

A case is what people count: (subject prefix, remote address, protocol), where the prefix is the address
for IPv4 and its /64 for IPv6. Many flows of one subscriber to one endpoint are one case. Which flag is the
first of its case, and when a case was first seen, is remembered in the core (`_core.Cases`,
`_core.FirstSeen`).
"""

from __future__ import annotations

import hashlib
import socket


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
