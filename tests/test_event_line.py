"""The event line that the core writes is what the columns of its batches say."""

from __future__ import annotations

import pytest
from pcap_cases import Case, all_cases, run
from plain_reporter import COLUMNS, PlainReporter
from test_answers import written

from classifier._core import Engine, FlowBatch
from classifier.pipeline import Settings
from classifier.policy import Policy
from classifier.reporter import Reporter


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_a_line_says_what_the_columns_say(case: Case) -> None:
    how = Settings(min_confidence="possible")
    judging = None, Policy("", ())
    lines, counts = written(Reporter, case.capture, how, judging)
    assert (lines, counts) == written(PlainReporter, case.capture, how, judging)


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_rows_that_are_written_down_are_those_rows(case: Case) -> None:
    for batch in run(Engine(min_confidence="possible", packet_milestones=(2, 10)), case, []):
        columns = [getattr(batch, name) for name in COLUMNS]
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
        again = FlowBatch(rows)
        assert [getattr(again, name) for name in COLUMNS] == columns


def test_what_is_no_row_is_named() -> None:
    (case,) = (case for case in all_cases() if case.name == "wg-plain-51820")
    (batch, *_) = filter(len, run(Engine(), case, []))
    row = {name: getattr(batch, name)[0] for name in COLUMNS}
    assert len(FlowBatch([row, row])) == 2
    with pytest.raises(KeyError, match="transport"):
        FlowBatch([{name: value for name, value in row.items() if name != "transport"}])
    for wrong in ({"protocol": "carrier pigeon"}, {"source": b"123"}, {"end_reason": "boredom"}):
        with pytest.raises(ValueError, match="FlowBatch"):
            FlowBatch([row | wrong])
