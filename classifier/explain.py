"""Why a flow got its verdict, in words.

Reads an event file line by line and tells, of each flow asked for, what its last event says: which
evidence was seen in which packet and where that is specified, what it adds up to, what was ruled out,
then which entries and which rule gave the verdict. Only flows that have not ended are held in memory.
"""

from __future__ import annotations

import ipaddress
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from classifier import _core
from classifier.errors import ClassifierError
from classifier.events import EntryItem, PolicyItem, VpnEvent, Was, faults, schema
from classifier.policy import DEFAULT_RULE, NO_REGISTER_RULE
from classifier.sinks.report import endpoint

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


class EventFileError(ClassifierError):
    """An event file cannot be understood: which line, which field."""


def explain(
    path: str,
    *,
    flow_id: int | None = None,
    address: str | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """One explanation for each flow of the event file at `path` ("-" is standard input) that fits.

    `address` is either end's, in any spelling. EventFileError names the line and the field. `on_warning` is
    told, at the end, when the file is not complete.
    """
    wanted = None if address is None else ipaddress.ip_address(address)
    # Flow ids of two captures may coincide: only the last part of a capture's name goes into them.
    events: dict[tuple[str, int], list[VpnEvent]] = {}
    for event in _read(path, on_warning):
        if flow_id is not None and event["flow_id"] != flow_id:
            continue
        if wanted is not None and wanted not in (_address(event["src_ip"]), _address(event["dest_ip"])):
            continue
        key = event["pcap_filename"], event["flow_id"]
        story = events.setdefault(key, [])
        # Of the events before, only those that changed the judgement have something to tell.
        if story and "was" not in story[-1]["policy"] and len(story) > 1:
            story.pop()
        story.append(event)
        if event["event"] == "ended":
            yield describe(events.pop(key))
    for story in events.values():
        yield describe(story)


def _read(path: str, on_warning: Callable[[str], None] | None) -> Iterator[VpnEvent]:
    document = schema()
    event: Any = None
    for number, line in enumerate(_lines(path), 1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8, or nested too deep"
            raise EventFileError(
                f"{path}, line {number}{where}: not JSON ({reason}); expected an event a line, "
                "as `vpn-classifier replay -o` writes them"
            ) from None
        found = next(faults(event, document), None)
        if found is not None:
            raise EventFileError(f"{path}, line {number}: {found}")
        if event["event_type"] == "vpn":
            yield cast(VpnEvent, event)
    if event is None:
        raise EventFileError(
            f"{path}: empty; expected an event a line, as `vpn-classifier replay -o` writes them"
        )
    if on_warning is not None and (event["event_type"], event.get("event")) != ("stats", "ended"):
        on_warning(
            f"{path}: not complete: its last line is not the `stats` event `ended`, so events may be missing"
        )


def _lines(path: str) -> Iterator[bytes]:
    if path == "-":
        if sys.stdin is None:  # closed by the caller (<&-)
            raise EventFileError(f"{path}: cannot be read: standard input is closed")
        yield from sys.stdin.buffer
        return
    try:
        with Path(path).open("rb") as file:
            yield from file
    except OSError as error:
        raise EventFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


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
        f"  in {event['pcap_filename']}, {flow['start']} to {flow['end']}",
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
