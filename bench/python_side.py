"""Rows of what Python costs: events, forged openings, look-ups and judging (events.py, lookups.py)."""

from collections.abc import Iterator

from bench import events, lookups
from bench.results import Limit, Row

FLOOD = 1_000_000


def measure(runs: int, scale: float) -> Iterator[Row]:
    few = max(1, runs // 2)
    lines = events.measure(int(events.FLOWS * scale), few)
    yield Row(
        "python",
        f"an event line, {lines.flows:,} recognised flows, {events.PREFIXES:,} prefixes",
        "CPU µs from the core on",
        lines.line_us,
        {},
        (Limit(events.LINE_LIMIT_US),),
        {"flow_us": lines.flow_us, "engine_flow_us": lines.engine_flow_us, "memory_mb": lines.memory_mb},
    )
    flood = events.flood(int(FLOOD * scale), few)
    yield Row(
        "python",
        f"memory, {flood.openings:,} forged initiations",
        "MB at most",
        flood.memory_mb,
        {"a fifth of them": flood.memory_of_a_fifth_mb},
        (Limit(1.1, "a fifth of them"),),
        {"opening_us": flood.cpu_us},
    )
    for size in lookups.SIZES:
        found = lookups.measure(max(1_000, int(size * scale)), runs)
        detail = {"prefixes": found.prefixes, "build_s": found.build_s, "compile_s": found.compile_s}
        bare = {"bare pytricia": 1e3 / found.pytricia, "compiled": 1e3 / found.compiled}
        name = f"a look-up, {found.prefixes:,} prefixes"
        yield Row("python", name, "CPU ns", 1e3 / found.register, bare, (), detail)
        judged = 1e6 / found.judged
        limits = (Limit(1e6 / lookups.JUDGED_LIMIT),) if size == events.PREFIXES else ()
        yield Row(
            "python",
            f"a flow judged, both ends, {found.prefixes:,} prefixes",
            "CPU µs",
            judged,
            {},
            limits,
            detail,
        )
