"""BPF expressions, such as `udp port 51820 and not host 192.0.2.1`: to programs, by libpcap.

libpcap is loaded when an expression is given, and only compiles: the programs are run by the kernel on what
it captures, and by the core on every frame, with its VLAN tags back in their place. So an expression selects
the same packets live and from a file, and `vlan` has to be said for tagged ones, as with tcpdump on a file.

The rule a reader would get wrong: libpcap asks the network's name service for names of hosts, and so a sensor
that is to send nothing is given addresses.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from typing import Any, Final

from classifier.errors import ClassifierError

__all__ = ["ExpressionError", "Program", "programs"]

Program = list[tuple[int, int, int, int]]
"""Instructions: code, jt, jf, k."""

_ETHERNET: Final = 1
# Link types that are decoded, with libpcap's own numbers for them on Linux (DLT_*), which differ for raw IP.
_LINK_TYPES: Final = {
    _ETHERNET: 1,
    0: 0,
    9: 9,
    50: 50,
    51: 51,
    101: 12,
    104: 104,
    108: 108,
    113: 113,
    228: 228,
    229: 229,
    276: 276,
}
_SNAP_LENGTH: Final = 262_144
_NO_NETMASK: Final = 0xFFFF_FFFF
_NOTHING: Final = [(6, 0, 0, 0)]  # return 0


class ExpressionError(ClassifierError):
    """An expression cannot be used. Usual cause: a misspelt word, or libpcap is not installed."""


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    ]


class _Program(ctypes.Structure):
    _fields_ = [
        ("length", ctypes.c_uint),
        ("instructions", ctypes.POINTER(_Instruction)),
    ]


def programs(expression: str) -> list[tuple[int, Program]]:
    """A program for each link type; ExpressionError when it is none, or without libpcap.

    What an expression asks of Ethernet and cannot be asked of another link type selects nothing there.
    """
    if "\0" in expression:
        raise ExpressionError("filter: a zero byte in the expression")
    compiled = [(_ETHERNET, _compiled(expression, _LINK_TYPES[_ETHERNET]))]
    for number, own_number in _LINK_TYPES.items():
        if number != _ETHERNET:
            try:
                compiled.append((number, _compiled(expression, own_number)))
            except ExpressionError:
                compiled.append((number, list(_NOTHING)))
    return compiled


def _compiled(expression: str, link_type: int) -> Program:
    pcap = _library()
    handle = pcap.pcap_open_dead(link_type, _SNAP_LENGTH)
    if not handle:
        raise ExpressionError(f"filter: libpcap does not know link type {link_type}")
    try:
        found = _Program()
        if pcap.pcap_compile(handle, ctypes.byref(found), expression.encode(), 1, _NO_NETMASK) != 0:
            reason = pcap.pcap_geterr(handle).decode(errors="replace")
            raise ExpressionError(f"filter {expression!r}: {reason} (man 7 pcap-filter has the syntax)")
        try:
            return [
                (one.code, one.jt, one.jf, one.k)
                for one in (found.instructions[number] for number in range(found.length))
            ]
        finally:
            pcap.pcap_freecode(ctypes.byref(found))
    finally:
        pcap.pcap_close(handle)


@cache
def _library() -> Any:
    for name in ("libpcap.so.1", "libpcap.so.0.8", ctypes.util.find_library("pcap")):
        if name is None:
            continue
        try:
            pcap = ctypes.CDLL(name)
        except OSError:
            continue
        pcap.pcap_open_dead.restype = ctypes.c_void_p
        pcap.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
        pcap.pcap_compile.argtypes = [
            *(ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint)
        ]
        pcap.pcap_geterr.restype = ctypes.c_char_p
        pcap.pcap_geterr.argtypes = [ctypes.c_void_p]
        pcap.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
        pcap.pcap_close.argtypes = [ctypes.c_void_p]
        return pcap
    raise ExpressionError("filter: BPF expressions need libpcap, which is not here (Debian: libpcap0.8)")
