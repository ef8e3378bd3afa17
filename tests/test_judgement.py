"""What a judgement says of a flow, in words."""

from __future__ import annotations

import pytest
from judging import DAY, NOW, OURS, SOURCE, entry, judge, named
from test_standing import ONE_END


def test_a_missing_entry_is_said_to_be_missing() -> None:
    why = judge(OURS, entry(missing_since_ns=NOW - DAY)).why
    assert (
        why
        == "The registration of 198.51.100.7 is missing from newer feeds and is still in grace (entry R-1)."
    )


def test_a_rejected_application_is_named() -> None:
    result = judge(OURS, named("rejected"))
    assert result.verdict == "unregistered"
    assert result.why == (
        "No registration matched 198.51.100.7; an application was rejected (entry R-rejected-1)."
    )
    assert [(match.standing, match.decisive) for match in result.entries] == [("rejected", False)]


@pytest.mark.parametrize("what", sorted({what for row in ONE_END for what in row[0]}))
def test_the_reason_is_one_neutral_sentence_that_names_entry_and_address(what: str) -> None:
    why = judge(OURS, named(what)).why
    assert why[0].isupper() or why[0].isdigit()
    assert why.endswith(".")
    assert SOURCE in why
    assert f"R-{what}-1" in why
    assert "illegal" not in why


def test_at_most_three_entries_are_named() -> None:
    entries = [entry(entry_id=f"R-{number}") for number in range(5)]
    assert "(entries R-0, R-1, R-2 and 2 more)" in judge(OURS, *entries).why
