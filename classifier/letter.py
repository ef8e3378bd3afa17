"""One page for a subscriber: what was seen on their line, what was looked up, and how to correct it.

Takes the last events of the flows of one address and gives plain text, at most 60 lines of at most 80
columns. It goes to a person, so it has nothing of anybody else: nothing that was seen at an address which
many share, no entry of the register (it may be the
former holder's), and of the other end nothing but an address that the subscriber's own line dialled outside
of our networks. Who dialled the subscriber is not named, nor the case id, from which that could be guessed.

One rule a reader would get wrong: whatever the verdict (none, ended, suspended, revoked), the page says that
no entry in force matched. More would tell the present holder of an address about the one before.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo

from classifier.events import RegisterItem, VpnEvent, parse_time
from classifier.register.store import OPERATOR
from classifier.sinks.report import endpoint
from classifier.standing import Verdict
from classifier.words import moment, number

__all__ = ["letter"]

_WIDTH = 80
_MAX_ROWS = 8
_UNNAMED = "an address that is not named here"
_PROTOCOLS = {"wireguard": "WireGuard", "openvpn": "OpenVPN", "ipsec": "IPsec"}


@dataclass(slots=True)
class _Seen:
    """Flagged flows of one protocol to one other end."""

    protocol: str
    remote: str
    first_ns: int
    last_ns: int
    flows: int
    reference: int
    """flow_id of the latest."""


def letter(
    address: str,
    events: Iterable[VpnEvent],
    registers: Mapping[int, RegisterItem],
    zone: tzinfo = UTC,
) -> str | None:
    """The page for `address`, or None without events.

    `events` are the last ones of its flows, `registers` what is known by serial when they have been read.
    """
    seen: dict[tuple[str, str], _Seen] = {}
    serials: set[int] = set()
    others = shared = 0
    for event in events:
        if event["policy"]["verdict"] == Verdict.SHARED_ADDRESS:
            shared += 1
            continue
        if event["policy"]["action"] != "flag":
            others += 1
            continue
        if event["policy"]["register_serial"] is not None:
            serials.add(event["policy"]["register_serial"])
        _add(seen, event)
    lines = [f"About VPN connections of the address {address}", ""]
    if not (seen or others or shared):
        return None
    if not (seen or others):
        lines += _paragraph(
            "Many subscribers share this address, each for a short time. So what was seen there is not told, "
            "since it may be somebody else's. Nothing is asked of you."
        )
        return "\n".join(lines) + "\n"
    if not seen:
        lines += _paragraph(
            f"{number(others, 'VPN connection')} of this line {'was' if others == 1 else 'were'} seen in "
            "this time, and nothing is asked of you. You need not do anything."
        )
        return "\n".join(lines) + "\n"
    lines += _paragraph(
        "On your line there were connections of a virtual private network (VPN), and they were looked up in "
        "the register of VPNs. No entry matched; this does not mean that anything unlawful was done. The "
        "register may be older than your registration, your address may have changed, or the service that "
        "you use may be registered under an address that is still missing. What saw them only looks on: it "
        "blocks nothing."
    )
    lines += ["", f"What was seen (times of {zone})"]
    rows = sorted(seen.values(), key=lambda row: row.first_ns)
    for row in rows[:_MAX_ROWS]:
        lines += _row(row, zone)
    if len(rows) > _MAX_ROWS:
        lines.append(f"  and connections to {len(rows) - _MAX_ROWS:,} more")
    lines.append("")
    lines += _paragraph(
        "They were recognised by the form, the lengths and the times of their packets. What they carried was "
        "not read and is not kept."
    )
    lines += ["", "What was looked up"]
    for serial in sorted(serials)[-3:]:
        item = registers.get(serial)
        if item is None:
            lines.append(f"  The register, serial {serial}.")
        else:
            date = moment(parse_time(item["issued_at"]), zone)
            lines += _paragraph(f"The register of {_issuers(item)}, serial {serial}, of {date}.", "  ")
    lines += _paragraph("No entry in force matched this line or the other end for these connections.", "  ")
    lines += ["", "How to correct it"]
    for text in (
        "If you are registered: send us the id of the registration and since when it has been approved. It "
        "may be under another address, or for another protocol or remote end.",
        "If you have applied: send us the date of the application.",
        "If the VPN is that of an employer, a bank or a provider: tell us which. Its registration may cover "
        "you, and then you need none of your own.",
        "If you got this address only lately, or know of no VPN: tell us since when you have had it.",
    ):
        lines += textwrap.wrap(text, _WIDTH - 2, initial_indent="  - ", subsequent_indent="    ")
    lines.append("")
    lines += _paragraph(
        "When the register is corrected, these connections are judged again, and what no longer holds is "
        "withdrawn."
    )
    return "\n".join(lines) + "\n"


def _issuers(item: RegisterItem) -> str:
    """Whose feeds it was made of; our own exceptions are no feed."""
    names = [name for name in item["source"].split("+") if name != OPERATOR]
    return " and ".join(names) or item["source"]


def _add(seen: dict[tuple[str, str], _Seen], event: VpnEvent) -> None:
    remote = _UNNAMED
    if event["policy"]["direction"] == "outbound":
        remote = endpoint(event["dest_ip"], event.get("dest_port"))
    protocol = event["vpn"]["protocol"]
    first_ns, last_ns = parse_time(event["flow"]["start"]), parse_time(event["flow"]["end"])
    row = seen.setdefault((protocol, remote), _Seen(protocol, remote, first_ns, last_ns, 0, event["flow_id"]))
    row.flows += 1
    row.first_ns = min(row.first_ns, first_ns)
    if last_ns >= row.last_ns:
        row.last_ns, row.reference = last_ns, event["flow_id"]


def _row(row: _Seen, zone: tzinfo) -> list[str]:
    when = moment(row.first_ns, zone)
    if row.last_ns // 1_000_000_000 != row.first_ns // 1_000_000_000:
        when += f" to {moment(row.last_ns, zone)}"
    return [
        f"  {when}",
        f"    {_PROTOCOLS[row.protocol]}, {number(row.flows, 'connection')}, reference {row.reference}",
        f"    other end: {row.remote}",
    ]


def _paragraph(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH - 2, initial_indent=indent, subsequent_indent=indent)
