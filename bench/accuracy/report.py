"""Scores as Markdown: what the terminal shows, what docs/accuracy.md keeps, the short table for README."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.accuracy.findings import Finding
from bench.accuracy.score import MANY_PACKETS, Result, Score
from bench.accuracy.truth import PROTOCOLS, Label

LEVELS = ("likely", "confirmed")
SITUATIONS = (
    "handshake, both ways",
    "handshake, one way",
    "mid-flow, both ways",
    "mid-flow, one way",
)
TRANSPORTS = ("UDP", "TCP", "ESP", "AH")
VARIANTS = {
    "wireguard": ("standard",),
    "openvpn": ("plain", "tls-auth", "tls-crypt", "tls-crypt-v2", "data", ""),
    "ipsec": ("ikev1", "ikev2", "esp-in-udp", "esp", "ah", "ike-in-tcp", ""),
}


class PageError(Exception):
    """docs/accuracy.md has not the markers that are needed."""


def markdown(headings: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A table; the first `left` columns are text, the others numbers. Padded, to be read as it is too."""
    cells = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(headings))]
    lines = []
    for row in cells:
        padded = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"| {' | '.join(padded)} |")
    rule = ("-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths))
    lines.insert(1, f"| {' | '.join(rule)} |")
    return "\n".join(lines) + "\n"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def full_report(scores: Sequence[Score]) -> str:
    parts = [
        "**Found, missed, false.** Rows: what a flow is; columns: what was said of it at `likely` or above,",
        "then at `confirmed`. *none*: flows that are no VPN; only those of which something was said can be",
        "counted.\n",
        *(confusion_table(score) for score in scores),
        "**By variant.** Found at `likely` or above (of them `confirmed`) of all. *named*: of the found",
        "flows whose variant is labelled, those that were given it.\n",
        variant_table(scores),
        "**By situation.** Found at `likely` or above (of them `confirmed`) of all.\n",
        situation_table(scores),
        "**Missed at `likely`.**\n",
        missed_table(scores),
        "**False at `likely`.**\n",
        false_table(scores, "likely"),
        "**False at `possible`**, which gives no event unless it is asked for.\n",
        false_table(scores, "possible"),
        f"**Found with at least {MANY_PACKETS} packets, but not `confirmed`.**\n",
        unconfirmed_table(scores),
    ]
    return "\n".join(parts)


def confusion_table(score: Score) -> str:
    said, columns = (*PROTOCOLS, "none"), (*PROTOCOLS, "missed")
    tables = {level: score.confusion(level) for level in LEVELS}
    name = score.collection.name
    headings = [
        f"{name}: {len(score.results)} flows",
        *(
            f"{level}: {PROTOCOLS[0]}" if word == PROTOCOLS[0] else word
            for level in LEVELS
            for word in columns
        ),
    ]
    rows: list[list[object]] = []
    for truth in PROTOCOLS:
        rows.append([truth, *(tables[level][truth, word] for level in LEVELS for word in said)])
    without = f"none ({score.collection.without_vpn:,} captures without)"
    false = [[*(tables[level]["none", word] for word in PROTOCOLS), ""] for level in LEVELS]
    rows.append([without, *false[0], *false[1]])
    return markdown(headings, rows)


def cell(results: Sequence[Result]) -> str:
    """Found, of them confirmed, of all."""
    if not results:
        return ""
    found = sum(result.found("likely") for result in results)
    confirmed = sum(result.found("confirmed") for result in results)
    return f"{found} ({confirmed}) of {len(results)}"


def variant_table(scores: Sequence[Score]) -> str:
    def group(label: Label) -> str:
        return f"{label.protocol} {label.variant}"

    groups = [score.grouped(group) for score in scores]
    rows = []
    for protocol, variants in VARIANTS.items():
        for variant in variants:
            parts = [grouped.get(f"{protocol} {variant}", []) for grouped in groups]
            if not any(parts):
                continue
            row = [protocol, variant or "not labelled"]
            for part in parts:
                found = [result for result in part if result.found("likely")]
                named = f"{sum(result.variant_named for result in found)} of {len(found)}"
                row += [cell(part), named if found and variant else ""]
            rows.append(row)
    headings = [heading for score in scores for heading in (score.collection.name, "named")]
    return markdown(["protocol", "variant", *headings], rows, left=2)


def situation_table(scores: Sequence[Score]) -> str:
    def group(label: Label) -> str:
        return f"{label.key.transport} {label.situation}"

    groups = [score.grouped(group) for score in scores]
    rows = []
    for transport in TRANSPORTS:
        for situation in SITUATIONS:
            parts = [grouped.get(f"{transport} {situation}", []) for grouped in groups]
            if any(parts):
                rows.append([transport, situation, *map(cell, parts)])
    return markdown(["transport", "situation", *(score.collection.name for score in scores)], rows, left=2)


def evidence(finding: Finding | None) -> str:
    if finding is None:
        return "none"
    ids = ", ".join(f"{name} {bits}" for name, bits in finding.evidence)
    return f"{finding.protocol} {finding.confidence}, {finding.bits} bits: {ids}"


def place(score: Score, file: str) -> str:
    origin = score.collection.origins.get(file)
    return f"{file} ({origin})" if origin else file


def result_row(score: Score, result: Result) -> list[object]:
    label = result.label
    strongest = result.right or next(iter(result.said.values()), None)
    kind = f"{label.protocol} {label.variant}".strip()
    where = place(score, label.file)
    return [where, label.key, f"{kind}, {label.situation}", label.packets, evidence(strongest)]


def listed(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown(headings, rows, left=len(headings)) if rows else "None.\n"


RESULT_HEADINGS = ("capture", "flow", "what it is", "packets", "evidence found")


def missed_table(scores: Sequence[Score]) -> str:
    rows = [
        [*result_row(score, result), result.reason] for score in scores for result in score.missed("likely")
    ]
    reasons = Counter(str(row[-1]).partition(":")[0] for row in rows)
    counted = "".join(f"- {number} {reason}\n" for reason, number in reasons.most_common())
    return f"{counted}\n{listed((*RESULT_HEADINGS, 'why'), rows)}" if rows else "None.\n"


def unconfirmed_table(scores: Sequence[Score]) -> str:
    rows = [result_row(score, result) for score in scores for result in score.unconfirmed()]
    return listed(RESULT_HEADINGS, rows)


def false_table(scores: Sequence[Score], level: str) -> str:
    rows = [
        [place(score, finding.file), finding.key, finding.packets, evidence(finding)]
        for score in scores
        for finding in score.false(level)
    ]
    return listed(("capture", "flow", "packets", "evidence found"), rows)


def compared_table(programs: Sequence[tuple[str, Sequence[Score]]]) -> str:
    """One row per program and collection, at `likely`: the table that README shows too."""
    rows = []
    for number in range(len(programs[0][1])):
        for program, scores in programs:
            score = scores[number]
            total = score.count(None, "likely")
            flows = total.found + total.missed
            row = [f"{score.collection.name}, {flows} flows", program]
            for protocol in PROTOCOLS:
                count = score.count(protocol, "likely")
                row.append(f"{count.found} of {count.found + count.missed}")
            rows.append([*row, f"{total.found} of {flows}", percent(total.recall), str(total.false)])
    headings = ["captures", "program", *PROTOCOLS, "all found", "recall", "false"]
    return markdown(headings, rows, left=2)


def replace_part(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of the generated part `name`."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise PageError(f"expected one line {begin.strip()!r} and after it one {end.strip()!r}")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text.strip()}\n\n{end}{rest.partition(end)[2]}"


def update_page(path: Path, parts: dict[str, str]) -> None:
    page = path.read_text(encoding="utf-8")
    for name, text in parts.items():
        try:
            page = replace_part(page, name, text)
        except PageError as error:
            raise PageError(f"{path.name}: {error}; put them where the part belongs") from None
    path.write_text(page, encoding="utf-8")
