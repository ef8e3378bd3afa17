"""Why a flow got its verdict, in words.

Reads an event file line by line and tells, of each flow asked for, what its last event says: which
evidence was seen in which packet and where that is specified, what it adds up to, what was ruled out,
then which entries and which rule gave the verdict, and what would have led to another one. Only flows
that have not ended are held in memory and, for an address, at most `MAX_FLOWS` that have.
"""

from __future__ import annotations

import heapq
import ipaddress
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from typing import cast

from classifier import _core
from classifier.event_file import EventFiles
from classifier.events import EntryItem, PolicyItem, RegisterItem, VpnEvent, Was, parse_time, place, schema
from classifier.judgement import DEFAULT_RULE, NO_REGISTER_RULE
from classifier.letter import letter
from classifier.remedy import what_would_change
from classifier.sinks.report import endpoint
from classifier.words import number

MAX_FLOWS = 500

FLAG = (
    "A flag says that no registration matched. It is a question, not a finding against a person: look for a "
    "pending entry, ask the subscriber."
)
_CONFIDENCE = {
    "possible": "under 40 bits, too little to tell",
    "likely": "40 to 63 bits, or a look-alike that is not ruled out",
    "confirmed": "64 bits and more, and every look-alike is ruled out",
}
_LEVELS = ((64, "confirmed"), (40, "likely"), (0, "possible"))
_PHASE = {
    "attempt": "an opening; nothing was seen that can only follow an answer",
    "handshake": "both sides' opening messages were seen",
    "established": "something was seen that only follows a finished handshake",
    "data_only": "the flow was joined mid-way: data without its handshake",
}
_ACTION = {
    "pass": "nothing is to be done",
    "observe": "it is recorded, and nothing is asked of anybody",
    "flag": "somebody should look",
}
_RULE = {DEFAULT_RULE: "since no rule matched", NO_REGISTER_RULE: "since no register was given"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which flows are asked for; what is None does not matter."""

    flow_id: int | None = None
    address: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    """Holds either end."""
    from_ns: int | None = None
    until_ns: int | None = None
    """They had a packet, or were between two, from the one to the other."""

    def fits(self, event: VpnEvent) -> bool:
        """Whether an event's flow is asked for, by all that never changes about it."""
        if self.flow_id is not None and event["flow_id"] != self.flow_id:
            return False
        if (
            self.address is not None
            and not self._holds(event["src_ip"])
            and not self._holds(event["dest_ip"])
        ):
            return False
        return self.until_ns is None or parse_time(event["flow"]["start"]) <= self.until_ns

    def lasted(self, event: VpnEvent) -> bool:
        """Whether the flow went on for long enough, by its last event."""
        return self.from_ns is None or parse_time(event["flow"]["end"]) >= self.from_ns

    def _holds(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return self.address is not None and address in self.address


def explain(
    path: str, wanted: Wanted | None = None, on_warning: Callable[[str], None] | None = None
) -> Iterator[str]:
    """One explanation for each flow of the event file at `path` ("-" is standard input) that fits.

    With an address, flows come in the order in which they began, at most `MAX_FLOWS` of them, after a line
    that counts them; else in the order in which they end. EventFileError names the line and the field.
    `on_warning` is told, at the end, when the file is not complete.
    """
    wanted = wanted or Wanted()
    if wanted.address is None:
        for story in stories(path, wanted, on_warning):
            yield describe(story)
        return
    found: list[tuple[int, int, list[VpnEvent]]] = []
    counts: Counter[tuple[str, str]] = Counter()
    for story in stories(path, wanted, on_warning):
        policy = story[-1]["policy"]
        counts[policy["verdict"], policy["action"]] += 1
        # Of too many, the latest are kept.
        heapq.heappush(found, (parse_time(story[-1]["flow"]["start"]), counts.total(), story))
        if len(found) > MAX_FLOWS:
            heapq.heappop(found)
    if not found:
        return
    yield _summary(wanted, counts)
    for _, _, story in sorted(found, key=lambda item: item[:2]):
        yield describe(story)


def stories(
    path: str,
    wanted: Wanted,
    on_warning: Callable[[str], None] | None = None,
    registers: dict[int, RegisterItem] | None = None,
) -> Iterator[list[VpnEvent]]:
    """The last event of each flow that fits, after those before it that changed its judgement.

    `registers` is filled with the registers that the file names, by serial.
    """
    document = schema()
    # Flow ids of two captures may coincide: only the last part of a capture's name goes into them.
    events: dict[tuple[str, int], list[VpnEvent]] = {}
    for line in EventFiles([path], on_warning):
        line.check(document)
        if registers is not None:
            item = line.event.get("register") or line.event.get("stats", {}).get("register")
            if item is not None:
                registers[item["serial"]] = item
        if line.event["event_type"] != "vpn":
            continue
        event = cast(VpnEvent, line.event)
        if not wanted.fits(event):
            continue
        story = events.setdefault((place(event)[1], event["flow_id"]), [])
        # Of the events before, only those that changed the judgement have something to tell.
        if story and "was" not in story[-1]["policy"] and len(story) > 1:
            story.pop()
        story.append(event)
        if event["event"] == "ended":
            del events[place(event)[1], event["flow_id"]]
            if wanted.lasted(event):
                yield story
    for story in events.values():
        if wanted.lasted(story[-1]):
            yield story


def letter_for(
    path: str, wanted: Wanted, zone: tzinfo = UTC, on_warning: Callable[[str], None] | None = None
) -> str | None:
    """The page for the subscriber of `wanted.address`; None when no flow is theirs.

    One IPv6 address stands for its /64, which is what one line has.
    """
    address = wanted.address
    if isinstance(address, ipaddress.IPv6Network) and address.prefixlen > 64:
        address = address.supernet(new_prefix=64)
    registers: dict[int, RegisterItem] = {}
    events = (
        story[-1]
        for story in stories(path, replace(wanted, address=address), on_warning, registers)
        # Not those in which this address is only the other end of somebody else's case.
        if address is not None and address.overlaps(ipaddress.ip_network(story[-1]["policy"]["subject"]))
    )
    return letter(_plain(address), events, registers, zone)


def _summary(wanted: Wanted, counts: Counter[tuple[str, str]]) -> str:
    total = counts.total()
    said = ", ".join(f"{count:,} {verdict} ({action})" for (verdict, action), count in sorted(counts.items()))
    text = f"{number(total, 'flow')} with {_plain(wanted.address)}: {said}."
    if total > MAX_FLOWS:
        text += f" Only the latest {MAX_FLOWS:,} follow: --between T1 T2 asks for a shorter time."
    return "\n".join(_wrap("", text)) + "\n"


def _plain(address: ipaddress.IPv4Network | ipaddress.IPv6Network | None) -> str:
    """One address without its length."""
    if address is None:
        return "any address"
    return str(address.network_address if address.num_addresses == 1 else address)


def describe(story: list[VpnEvent]) -> str:
    """The explanation of one flow: its last event, and the changes of judgement on the way."""
    kinds = {kind.id: kind for kind in _core.EVIDENCE}
    event = story[-1]
    vpn, policy, flow = event["vpn"], event["policy"], event["flow"]
    source = endpoint(event["src_ip"], event.get("src_port"))
    destination = endpoint(event["dest_ip"], event.get("dest_port"))
    name = vpn["protocol"] if vpn["variant"] == vpn["protocol"] else f"{vpn['protocol']} ({vpn['variant']})"
    lines = [
        f"Flow {event['flow_id']}: {name}, {source} to {destination}, {event['proto']}",
        f"  in {place(event)[1]}, {flow['start']} to {flow['end']}",
        f"  {flow['pkts_toserver']:,} packets ({flow['bytes_toserver']:,} bytes) to the responder, "
        f"{flow['pkts_toclient']:,} ({flow['bytes_toclient']:,} bytes) back"
        + (f"; ended: {flow['reason'].replace('_', ' ')}" if "reason" in flow else ""),
        "",
        "What was seen",
    ]
    for item in vpn["evidence"]:
        kind = kinds.get(item["id"])
        way = "to the responder" if item["direction"] == "to_server" else "to the initiator"
        more = f", {item['count']:,} times in all" if item["count"] > 1 else ""
        fact = f"{kind.fact} [{kind.source}]" if kind is not None else "(a fact this version does not know)"
        lines += _wrap(f"{item['bits']:>5} bits  ", f"{item['id']}: {fact}")
        lines += _wrap(
            " " * 12,
            f"first in packet {item['packet']:,} at {item['time']}, {way}, {item['length']:,} bytes{more}",
        )
    lines += _sum(vpn["confidence"], sum(item["bits"] for item in vpn["evidence"]))
    if vpn["ruled_out"]:
        lines += _wrap("  ", "Tested for and ruled out: " + _words(vpn["ruled_out"]))
    lines += _wrap("  ", f"Confidence {vpn['confidence']}: {_CONFIDENCE[vpn['confidence']]}.")
    lines += _wrap("  ", f"Phase {vpn['phase']}: {_PHASE[vpn['phase']]}.")
    if vpn["oneway"]:
        lines += _wrap("  ", "Packets of one direction only were seen; the other is unseen by the sensor.")
    if vpn["midflow"] and vpn["phase"] != "data_only":
        lines += _wrap("  ", "The first packets seen were not the flow's opening.")
    if vpn["via_proxy"]:
        lines += _wrap(
            "  ",
            "The stream went through a proxy: the destination is the proxy, and what lies behind it "
            "was not seen.",
        )
    lines += ["", "What register and policy say"]
    lines += _wrap("  ", f"Verdict {policy['verdict']}: {policy['why']}")
    lines += _wrap("  ", f"It is about {policy['subject']} (direction: {policy['direction']}).")
    for entry in policy["entries"]:
        end = event["src_ip"] if entry["end"] == "source" else event["dest_ip"]
        lines += _wrap(
            "  ",
            f"Entry {entry['entry_id']}: {entry['kind']}, {entry['category']}, {_standing(entry)}; "
            f"{entry['prefix']} covers the {entry['end']} {end}",
        )
    if policy["register_serial"] is not None:
        if not policy["entries"]:
            lines += _wrap("  ", "No entry covers either end.")
        lines += _wrap("  ", f"Register serial {policy['register_serial']}.")
    rule = _RULE.get(policy["rule"], f"by rule {policy['rule']}")
    lines += _wrap("  ", f"Action {policy['action']}, {rule}: {_ACTION[policy['action']]}.")
    for earlier in story:
        if "was" in earlier["policy"]:
            was, now = _judged(earlier["policy"]["was"]), _judged(earlier["policy"])
            lines += _wrap("  ", f"At {earlier['timestamp']} it changed from {was} to {now}.")
    if policy["action"] == "flag":
        lines += _wrap("  ", FLAG)
    lines += ["", "What would change this"]
    for text in what_would_change(event):
        lines += _wrap("  ", text)
    return "\n".join(lines) + "\n"


def _sum(confidence: str, bits: int) -> Iterable[str]:
    level = next(level for least, level in _LEVELS if bits >= least)
    text = f"Together {bits:,} bits against uniformly random payload"
    if level == confidence:
        return _wrap("  ", f"{text}.")
    return _wrap(
        "  ",
        f"{text}, which alone would be {level}: for this protocol and phase a number of packets, or a "
        f"look-alike that is not ruled out, decides.",
    )


def _standing(entry: EntryItem) -> str:
    filed, stood = entry["status"], entry["standing"].replace("_", " ")
    return filed if filed == stood else f"filed as {filed}, at that time {stood}"


def _judged(judgement: Was | PolicyItem) -> str:
    return f"{judgement['verdict']} ({judgement['action']}, rule {judgement['rule'] or 'none'})"


def _words(names: Iterable[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)


def _wrap(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        width=100,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
