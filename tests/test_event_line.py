"""The event line that the core writes is what the columns of its batches say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_engine import event_line
from pcap_cases import Case, all_cases, run

from classifier._core import Engine, FlowBatch

METHODS = {"parts", "event_line"}
COLUMNS = [name for name in vars(FlowBatch) if not name.startswith("_") and name not in METHODS]
PARTS = (b'"head":1', b'"capture":"x"', b'{"policy":[]}', b'"tail":null')


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_a_line_says_what_the_columns_say(case: Case) -> None:
    for batch in run(Engine(min_confidence="possible", packet_milestones=(2, 10)), case, []):
        columns = {name: getattr(batch, name) for name in COLUMNS}
        for place in range(len(batch)):
            row = SimpleNamespace(**{name: column[place] for name, column in columns.items()})
            assert batch.event_line(place, *PARTS) == event_line(row, *PARTS)


def test_parts_are_the_batch_again() -> None:
    case = next(case for case in all_cases() if case.name == "wg-plain-51820")
    (*_, batch) = run(Engine(packet_milestones=range(2, 60)), case, [])
    for size in (1, 7, len(batch), 10_000):
        parts = batch.parts(size)
        assert all(0 < len(part) <= size for part in parts)
        assert [number for part in parts for number in part.number] == batch.number
        assert b"".join(
            part.event_line(place, *PARTS) for part in parts for place in range(len(part))
        ) == b"".join(batch.event_line(place, *PARTS) for place in range(len(batch)))
        with pytest.raises(IndexError):
            parts[0].event_line(len(parts[0]), *PARTS)
    with pytest.raises(ValueError, match="zero"):
        batch.parts(0)
