"""Writes docs/evidence.md from the core's evidence table and the captures: `python -m bench.evidence`.

What an id stands for, its bits and its source are the core's (`classifier._core.EVIDENCE`); which captures
show it and which look-alikes come near it is what the engine says of `pcaps/` at `possible` and above.
tests/test_evidence_docs.py fails when the page is not what this gives.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from classifier._core import EVIDENCE, PROTOCOLS, RULED_OUT, CaptureError, Engine, EvidenceKind

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
TITLES = {"wireguard": "WireGuard", "openvpn": "OpenVPN", "ipsec": "IPsec"}

INTRODUCTION = """\
# Evidence

Every fact that a verdict can stand on, one by one. An event names them by id in `vpn.evidence`, with the
packet that showed the fact first and how often it was seen; ids are stable. This page is written by `python
-m bench.evidence` from the table that the code uses and from the captures in [pcaps/](../pcaps/README.md):
do not edit it.

**Bits** say what one observation is worth against uniformly random payload: random bytes show the fact once
in 2^bits tries. `possible` is less than 40 bits, `likely` 40 to 63 or a look-alike not ruled out,
`confirmed` 64 and more with every look-alike ruled out; where a protocol's rule names a number of packets
for a level, that number decides. Real protocols are not random, so bits say nothing about look-alikes: each
has a rule of its own, and [accuracy.md](accuracy.md) says how often they pass.

**Shown by** lists the captures in which the fact was seen, **Near** those without a VPN that show it all
the same: they stay at `possible`. *crafted*: written by a script, not sent by a VPN's own program.
**Rules out** says from what the fact tells the protocol, and from what it does not. **Look-alikes ruled
out** are those that were tested for, and excluded, on flows that show the fact.
"""


@dataclass(slots=True)
class Seen:
    """Where one kind of evidence was seen."""

    shown_by: set[str] = field(default_factory=set)
    near: set[str] = field(default_factory=set)
    ruled_out: set[str] = field(default_factory=set)


def seen_in(captures: Iterable[Path], without_vpn: frozenset[str]) -> dict[str, Seen]:
    """Every id of the core's table, with the cases that show it."""
    seen = {kind.id: Seen() for kind in EVIDENCE}
    for capture in captures:
        case = capture.parent.name
        engine = Engine(min_confidence="possible")
        engine.open(str(capture), case)
        while True:
            try:
                batch = engine.poll()
            except CaptureError:
                continue  # a capture that ends inside a record; what was whole is reported
            if batch is None:
                break
            for items, ruled_out in zip(batch.evidence, batch.ruled_out, strict=True):
                for name, *_ in items:
                    (seen[name].near if case in without_vpn else seen[name].shown_by).add(case)
                    seen[name].ruled_out.update(ruled_out)
    return seen


def page(folder: Path) -> str:
    """The whole page."""
    without_vpn = cases(folder / "truth.csv", "protocol", "none")
    crafted = cases(folder / "manifest.csv", "real_or_crafted", "crafted")
    seen = seen_in(sorted(folder.glob("*/capture.*")), without_vpn)
    parts = [INTRODUCTION]
    for protocol in PROTOCOLS:
        kinds = [kind for kind in EVIDENCE if kind.protocol == protocol]
        parts += [f"## {TITLES[protocol]}\n", table(kinds)]
        parts += [entry(kind, seen[kind.id], crafted) for kind in kinds]
    parts.append(look_alikes(seen))
    return "\n".join(parts)


def cases(table: Path, column: str, value: str) -> frozenset[str]:
    """The cases that a table gives this value."""
    with table.open(newline="", encoding="utf-8") as file:
        return frozenset(row["case"] for row in csv.DictReader(file) if row[column] == value)


def table(kinds: Iterable[EvidenceKind]) -> str:
    rows = "".join(f"| [`{kind.id}`](#{anchor(kind.id)}) | {kind.bits} |\n" for kind in kinds)
    return f"| id | bits |\n| --- | ---: |\n{rows}"


def anchor(name: str) -> str:
    """As GitHub makes it from a heading: letters, digits, `-` and `_` stay."""
    return name.replace(".", "")


def entry(kind: EvidenceKind, seen: Seen, crafted: frozenset[str]) -> str:
    lines = [
        f"### {kind.id}\n",
        f"{kind.fact}.\n",
        f"- **Bits:** {kind.bits}",
        f"- **Source:** {kind.source}",
        f"- **Shown by:** {names(seen.shown_by, crafted) or 'no capture'}",
    ]
    if seen.near:
        lines.append(f"- **Near:** {names(seen.near, crafted)}")
    ruled_out = [name for name in RULED_OUT if name in seen.ruled_out]
    lines.append(f"- **Rules out:** {kind.rules_out}")
    lines.append(f"- **Look-alikes ruled out:** {', '.join(ruled_out) or 'none was tested for'}")
    return "\n".join(lines) + "\n"


def names(cases: Iterable[str], crafted: frozenset[str]) -> str:
    return ", ".join(f"`{case}`{' (crafted)' if case in crafted else ''}" for case in sorted(cases))


def look_alikes(seen: dict[str, Seen]) -> str:
    rows = []
    for name in RULED_OUT:
        beside = [f"`{identifier}`" for identifier, where in seen.items() if name in where.ruled_out]
        rows.append(f"| {name} | {', '.join(beside) or 'no capture'} |\n")
    heading = (
        "## Look-alikes\n\nThe names that `vpn.ruled_out` uses, and the evidence beside which they occur.\n"
    )
    return f"{heading}\n| look-alike | evidence |\n| --- | --- |\n{''.join(rows)}"


def main() -> None:
    PAGE.write_text(page(ROOT / "pcaps"), encoding="utf-8")


if __name__ == "__main__":
    main()
