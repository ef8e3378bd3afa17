"""The summary a person reads: a table of flows, then counts.

Takes events like any sink and holds little: at most `rows` flows of each action, and counts. A flow is
counted when it ends, and all have ended when a run has. Printing is separate, so that the table can go where
it should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import orjson

from classifier.events import CASE_ID_DIGITS, Counted, Event, Stats, VpnEvent, VpnLines
from classifier.screen import Cell, Screen

_STYLES = {"flag": "bold red", "observe": "yellow", "pass": "green"}  # flagged rows come first
_WIDE = 140  # columns from which a flow fits on one line
_WIDE_COLUMNS = (
    *("protocol", "variant", "confidence", "phase", "source", "destination"),
    *("verdict", "action", "entry or rule"),
)
_NARROW_COLUMNS = ("protocol", "source, destination", "verdict, entry or rule")
_NO_ENTRY = frozenset({"unregistered", "shared_address", "out_of_scope", "indeterminate", "not_evaluated"})
_MAX_CASES = 262_144
_MANY_DUPLICATES = 0.02  # more than networks and senders make by themselves
_LOST = {
    "undecoded": "Not decoded",
    "fragments_unmatched": "Fragments without their first",
    "refused": "Refused by a full table",
    "flows.evicted": "Flows evicted from a full table",
}


@dataclass(frozen=True, slots=True)
class Row:
    """The last state of one flow, as the table shows it."""

    protocol: str
    variant: str
    confidence: str
    phase: str
    source: str
    destination: str
    verdict: str
    action: str
    by: str
    """The register entry behind the verdict; the rule where there is none."""


@dataclass(slots=True)
class _Tally:
    flows: int = 0
    cases: set[bytes] = field(default_factory=set)


class Report:
    """Gathers what the table and the summary say."""

    def __init__(self, rows: int = 50) -> None:
        self._limit = rows
        self._shown: dict[str, list[Row]] = {action: [] for action in _STYLES}
        self._left_out: Counter[str] = Counter()
        self._tallies: dict[Counted, _Tally] = {}
        self._cases = 0
        self._attempts = 0
        self._stats: Stats | None = None
        self.flagged = 0
        """Flows whose last state is flagged."""

    def write(self, event: Event | VpnLines) -> None:
        """Take one event, or several."""
        if isinstance(event, VpnLines):
            self._lines(event)
        elif event["event_type"] == "vpn":
            vpn, policy = event["vpn"], event["policy"]
            counted = Counted(vpn["protocol"], policy["verdict"], policy["action"])
            if event["event"] == "ended" and self._count(counted, policy["case_id"].encode()):
                self._show(counted, event)
        elif event["event_type"] == "attempts":
            self._attempts += event["attempts"]["count"]
        elif event["event_type"] == "stats" and event["event"] == "ended":
            self._stats = event["stats"]

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""

    def _lines(self, lines: VpnLines) -> None:
        text, start = lines.text, 0
        columns = zip(lines.ends, lines.cases, lines.ended, lines.counted, strict=True)
        for end, case, ended, counted in columns:
            if ended and self._count(counted, text[case : case + CASE_ID_DIGITS]):
                self._show(counted, orjson.loads(text[start:end]))
            start = end

    def _count(self, counted: Counted, case_id: bytes) -> bool:
        """A flow has ended; whether it is to be shown."""
        if counted.action == "flag":
            self.flagged += 1
        tally = self._tallies.get(counted)
        if tally is None:
            tally = self._tallies[counted] = _Tally()
        tally.flows += 1
        if self._cases < _MAX_CASES and case_id not in tally.cases:
            tally.cases.add(case_id)
            self._cases += 1
        if len(self._shown[counted.action]) < self._limit:
            return True
        self._left_out[counted.action] += 1
        return False

    def _show(self, counted: Counted, event: VpnEvent) -> None:
        self._shown[counted.action].append(_row(event))

    def print_flows(self, screen: Screen) -> None:
        """The table of flows: flagged first, at most `rows` of them."""
        rows = [row for action in _STYLES for row in self._shown[action]]
        if not rows and not self._left_out:
            screen.print("No VPN flow was found.")
            return
        left_out = Counter(row.action for row in rows[self._limit :]) + self._left_out
        wide = screen.width >= _WIDE
        cells = [_wide(row) if wide else _narrow(row) for row in rows[: self._limit]]
        screen.table("VPN flows", _WIDE_COLUMNS if wide else _NARROW_COLUMNS, cells)
        if left_out:
            screen.print(
                f"{left_out.total():,} more flows are not shown ("
                + ", ".join(f"{left_out[action]:,} {action}" for action in _STYLES if left_out[action])
                + "); the event file has them all."
            )

    def print_summary(self, screen: Screen, seconds: float) -> None:
        """The counts, over all captures; `seconds` of wall time give the rate."""
        counters: Mapping[str, int] = self._stats.get("counters", {}) if self._stats is not None else {}
        frames = counters.get("frames", 0)
        rate = f"{frames / seconds:,.0f} packets/s" if seconds > 0 and frames else "no packets"
        screen.print(
            f"{_count(counters.get('captures', 0), 'capture')}, {_count(frames, 'packet')}, "
            f"{_count(counters.get('bytes', 0), 'byte')}, {rate}"
        )
        if self._tallies:
            rows = [
                [
                    Cell(protocol),
                    Cell(verdict, _STYLES[action], len(verdict)),
                    Cell(action),
                    Cell(f"{tally.flows:,}"),
                    Cell(f"{len(tally.cases):,}"),
                ]
                for (protocol, verdict, action), tally in sorted(self._tallies.items())
            ]
            heads = ("protocol", "verdict", "action", "flows", "cases")
            screen.table("Flows and cases", heads, rows, right=("flows", "cases"))
        for line in self._notes(counters):
            screen.print(line)

    def _notes(self, counters: Mapping[str, int]) -> Iterator[str]:
        if self._cases >= _MAX_CASES:
            yield f"Cases were counted up to {_MAX_CASES:,}: there are more."
        if self._attempts:
            yield (
                f"Summarised by prefix: {self._attempts:,} openings that nobody answered, "
                "beyond the rate at which they are announced one by one."
            )
        seen = counters.get("duplicates", 0)
        if seen > _MANY_DUPLICATES * counters.get("flow_packets", 0):
            removed = counters.get("ignored.duplicate", 0)
            share = seen / max(1, counters.get("flow_packets", 0) + removed)
            yield (
                f"Packets that came twice within 10 ms: {seen:,} ({share:.0%}), "
                + ("counted once." if removed else "counted twice: the mirror copies more than one way")
                + ("" if removed else " (--remove-duplicates counts them once).")
            )
        for kind, words in _LOST.items():
            for name, count in counters.items():
                if count and (name == kind or name.startswith(f"{kind}.")):
                    reason = name.removeprefix(kind).removeprefix(".").replace("_", " ")
                    yield f"{words}{reason and f', {reason}'}: {count:,}"
        if self._stats is None:
            return
        for link in self._stats.get("link_types", []):
            if not link["decoded"]:
                name = f"{link['name']} ({link['number']})"
                yield f"Link type {name} is not decoded: {link['frames']:,} packets"
        if self._stats.get("unreadable"):
            yield f"Inputs not read, or not to their end: {len(self._stats['unreadable']):,}"
        if self._stats.get("interrupted"):
            yield "Stopped before the end of the input: the counts are of what was read."


def _row(event: VpnEvent) -> Row:
    vpn, policy = event["vpn"], event["policy"]
    # Decisive entries come first; these verdicts rest on none.
    by = policy["entries"][0]["entry_id"] if policy["entries"] and policy["verdict"] not in _NO_ENTRY else ""
    return Row(
        protocol=vpn["protocol"],
        variant=vpn["variant"],
        confidence=vpn["confidence"],
        phase=vpn["phase"],
        source=endpoint(event["src_ip"], event.get("src_port")),
        destination=endpoint(event["dest_ip"], event.get("dest_port")),
        verdict=policy["verdict"],
        action=policy["action"],
        by=by or f"rule {policy['rule']}",
    )


def endpoint(address: str, port: int | None) -> str:
    """Address and port as people write them."""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _wide(row: Row) -> list[Cell]:
    seen = (row.protocol, row.variant, row.confidence, row.phase, row.source, row.destination)
    verdict = Cell(row.verdict, _STYLES[row.action], len(row.verdict))
    return [*map(Cell, seen), verdict, Cell(row.action), Cell(row.by)]


def _narrow(row: Row) -> list[Cell]:
    variant = "" if row.variant == row.protocol else f" {row.variant}"
    return [
        Cell(f"{row.protocol}{variant}\n{row.confidence}, {row.phase}"),
        Cell(f"{row.source}\n{row.destination}"),
        Cell(f"{row.verdict}, {row.action}\n{row.by}", _STYLES[row.action], len(row.verdict)),
    ]
