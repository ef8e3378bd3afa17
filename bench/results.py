"""What a run of the benchmarks found: rows with their limits, as a file and as the tables of bench/README.md.

A file is JSON lines: first what was measured on and with, then one row a line. Tables and plots are made
from the file alone (`tests/test_bench.py` makes those of the newest one again and compares).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
MET, MISSED = "✓", "✗"
PLOTS = {
    "flows.svg": "CPU time per packet by number of flows",
    "sizes.svg": "Packets per second by the size of a packet",
}
COLUMNS = ("floor", "ndpiReader", "nfstream", "dpkt")


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many of another column's figure, or of the unit itself (`of` is empty)."""

    most: float
    of: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured. Lower is better, whatever the unit."""

    section: str
    name: str
    unit: str
    ours: float
    others: Mapping[str, float] = field(default_factory=dict)
    limits: Sequence[Limit] = ()
    detail: Mapping[str, float] = field(default_factory=dict)

    def ratio(self, other: str) -> float | None:
        return self.ours / self.others[other] if other in self.others else None

    def met(self, limit: Limit) -> bool | None:
        """None when what it is compared with was not measured."""
        figure = self.ratio(limit.of) if limit.of else self.ours
        return None if figure is None else figure <= limit.most


@dataclass(frozen=True, slots=True)
class Result:
    """A run."""

    about: Mapping[str, str]
    rows: Sequence[Row]

    def of(self, *sections: str) -> list[Row]:
        return [row for row in self.rows if row.section in sections]


def save(result: Result, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = [dict(result.about), *(_rounded(asdict(row)) for row in result.rows)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def load(path: Path) -> Result:
    first, *rest = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    rows = [Row(**row | {"limits": tuple(Limit(**limit) for limit in row["limits"])}) for row in rest]
    return Result(first, rows)


def newest() -> Path | None:
    """The file whose name comes last: names begin with the time."""
    return max(RESULTS.glob("*.jsonl"), default=None)


def _rounded(value: object) -> object:
    """Five digits: more are not measured."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def tables(result: Result) -> str:
    """All tables, as Markdown."""
    about = result.about
    line = f"{about['processor']}, {about['cores']} cores, {about['memory']}, kernel {about['kernel']}; "
    rest = [f"{name} {text}" for name, text in about.items() if name not in _SAID]
    parts = [
        f"{about['date']}, {line}{', '.join(rest)}.",
        *(part for part in about["peers"].split("\n") if part),
        *(
            ["Quick: a tenth of each load, where starting weighs ten times; the limits are about the whole."]
            if about["mode"] == "quick"
            else []
        ),
        "CPU nanoseconds per packet, start-up subtracted; in brackets the limit.",
        _speed(result.of("speed")),
        "The flows of the mix, and the octets of a frame (10,000 flows):",
        _speed(result.of("flows", "sizes")),
        _single(result.of("compressed", "workers", "many", "memory", "start", "python")),
    ]
    missed = [row.name for row in result.rows for limit in row.limits if row.met(limit) is False]
    parts.append(f"Not met: {'; '.join(dict.fromkeys(missed))}." if missed else "Every limit is met.")
    return "\n\n".join(parts)


def shown(result: Result, name: str) -> str:
    """What README.md shows of the result in a file of this name."""
    plots = "\n\n".join(f"![{title}](results/{plot})" for plot, title in PLOTS.items())
    return f"[results/{name}](results/{name})\n\n{tables(result)}\n\n{plots}"


_SAID = ("date", "processor", "cores", "memory", "kernel", "peers", "mode")


def _speed(rows: Sequence[Row]) -> str:
    """Ours beside the floor and the peers, one load a line."""
    others = [name for name in COLUMNS if any(name in row.others for row in rows)]
    heads = ["load", "ours"]
    for name in others:
        heads += [name, "ours / floor" if name == "floor" else "times faster"]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row in rows:
        cells = [row.name, number(row.ours)]
        for name in others:
            ratio = row.ratio(name)
            if ratio is None:
                cells += ["", ""]
                continue
            limit = next((limit for limit in row.limits if limit.of == name), None)
            shown = ratio if name == "floor" else 1 / ratio
            text = f"{shown:.2f}" if name == "floor" else f"{shown:,.1f}"
            if limit is not None:
                bound = limit.most if name == "floor" else 1 / limit.most
                text += f" ({bound:.3g}) {MET if row.met(limit) else MISSED}"
            cells += [number(row.others[name]), text]
        lines.append(cells)
    return _markdown(lines)


def _single(rows: Sequence[Row]) -> str:
    """Everything else: one figure, what it is compared with, its limit."""
    lines = [["what", "unit", "ours", "beside", "limit", ""], ["---", "---", "---:", "---:", "---:", "---"]]
    for row in rows:
        beside = ", ".join(f"{name} {number(value)}" for name, value in row.others.items())
        bounds, marks = [], []
        for limit in row.limits:
            bounds.append(f"{limit.most:g} of {limit.of}" if limit.of else number(limit.most))
            met = row.met(limit)
            ratio = row.ratio(limit.of) if limit.of else None
            marks.append(
                ("" if ratio is None else f"{ratio:.2f} ") + ("" if met is None else MET if met else MISSED)
            )
        lines.append([row.name, row.unit, number(row.ours), beside, "; ".join(bounds), "; ".join(marks)])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float) -> str:
    """Three digits at least, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
