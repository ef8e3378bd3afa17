"""Event files for tests: those of all captures of pcaps/, and small ones that are written by hand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pcap_cases import all_cases, repository

import classifier
from classifier.inputs import InputError

RULES = repository() / "rules"


@cache
def _pcap_lines(as_of: str | None) -> tuple[str, ...]:
    lines = []
    captures = [str(case.capture) for case in all_cases()]
    with contextlib.suppress(InputError):  # one capture ends inside a record
        for event in classifier.replay(captures, rules=RULES, as_of=as_of):
            lines.append(json.dumps(event))
    return tuple(lines)


def pcap_events(as_of: str | None = None) -> list[dict[str, Any]]:
    """The events of all captures, judged by rules/; made once in a run of the tests."""
    return [json.loads(line) for line in _pcap_lines(as_of)]


def save(path: Path, events: Iterable[Any]) -> str:
    """Write events as a file; its name."""
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return str(path)


def last_of_flows(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last event of each flow, found the plain way."""
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for event in events:
        if event["event_type"] == "vpn":
            last[event["pcap_filename"], event["flow_id"]] = event
    return list(last.values())
