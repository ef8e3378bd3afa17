"""The event line that the core writes is what the columns of its batches say."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import orjson
import pytest
from fake_engine import event_line
from pcap_cases import Case, all_cases, run

from classifier._core import HOLES, Engine, FlowBatch

METHODS = {"parts", "row", "of_ends", "of_state", "event_lines"}
COLUMNS = [name for name in vars(FlowBatch) if not name.startswith("_") and name not in METHODS]
HEAD, CAPTURE, TAIL = b'"head":1', b'"capture":"x"', b'"tail":null'
POLICY = orjson.dumps(dict.fromkeys(HOLES, "x")).replace(b'"x"', b'["%b","-%b"]') % tuple(
    hole for hole in HOLES.values() for _ in range(2)
)


def written(batch: FlowBatch) -> list[bytes]:
    size = len(batch)
    policy = POLICY[:7], b"", POLICY[7:]
    text, ends = batch.event_lines(range(size), [HEAD] * size, [policy] * size, CAPTURE, TAIL)
    return [text[start:end] for start, end in pairwise([0, *ends])]


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_a_line_says_what_the_columns_say(case: Case) -> None:
    for batch in run(Engine(min_confidence="possible", packet_milestones=(2, 10)), case, []):
        columns = {name: getattr(batch, name) for name in COLUMNS}
        for place, line in enumerate(written(batch)):
            row = SimpleNamespace(**{name: column[place] for name, column in columns.items()})
            assert line == event_line(row, HEAD, CAPTURE, POLICY, TAIL)


def test_parts_are_the_batch_again() -> None:
    case = next(case for case in all_cases() if case.name == "wg-plain-51820")
    (*_, batch) = run(Engine(packet_milestones=range(2, 60)), case, [])
    for size in (1, 7, len(batch), 10_000):
        parts = batch.parts(size)
        assert all(0 < len(part) <= size for part in parts)
        assert [number for part in parts for number in part.number] == batch.number
        assert [line for part in parts for line in written(part)] == written(batch)
        rows = [part.row(place) for part in parts for place in range(len(part))]
        assert [line for row in rows for line in written(row)] == written(batch)
        with pytest.raises(IndexError):
            batch.row(len(batch))
        with pytest.raises(IndexError):
            batch.event_lines([len(batch)], [HEAD], [(POLICY,)], CAPTURE, TAIL)
        with pytest.raises(ValueError, match="as many"):
            batch.event_lines([0], [HEAD], [], CAPTURE, TAIL)
    with pytest.raises(ValueError, match="zero"):
        batch.parts(0)
