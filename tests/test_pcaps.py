"""What is found in each capture of pcaps/ against truth.csv, which no run of ours has written."""

import csv
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from oracle import CutCapture, Frame, read_frames
from pcap_cases import Case, Found, all_cases, read_truth, replay, repository, run

from classifier._core import EVIDENCE, PHASES, PROTOCOLS, TRANSPORTS, VARIANTS, Engine

every_case = pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository())


def found(event: dict[str, Any]) -> Found:
    vpn, flow = event["vpn"], event["flow"]
    return Found(
        event["src_ip"],
        event.get("src_port"),
        event["dest_ip"],
        event.get("dest_port"),
        event["proto"],
        vpn["protocol"],
        vpn["variant"],
        vpn["phase"],
        flow["pkts_toserver"],
        flow["pkts_toclient"],
        flow["bytes_toserver"],
        flow["bytes_toclient"],
    )


def whole_frames(capture: Path) -> Iterator[Frame]:
    with suppress(CutCapture):
        yield from read_frames(capture)


def test_there_are_enough_cases() -> None:
    cases = {case.name for case in all_cases()}
    with (repository() / "pcaps" / "manifest.csv").open(newline="") as file:
        listed = {row["case"] for row in csv.DictReader(file)}
    assert cases == listed == set(read_truth())
    readme = (repository() / "pcaps" / "README.md").read_text(encoding="utf-8")
    assert {name for name in cases if f"`{name}`" not in readme} == set()
    assert f"{len(cases)} small captures" in readme
    assert len(cases) >= 50
    assert sum(case.capture.stat().st_size for case in all_cases()) < 8_000_000
    assert {"".join(case.capture.suffixes) for case in all_cases()} == {
        ".pcap",
        ".pcap.gz",
        ".pcap.zst",
        ".pcapng",
    }


def test_truth_uses_the_words_of_the_core() -> None:
    rows = [row.found for rows in read_truth().values() for row in rows]
    assert {row.protocol for row in rows} == set(PROTOCOLS)
    assert {row.variant for row in rows} <= set(VARIANTS)
    assert {row.phase for row in rows} == set(PHASES)
    assert {row.transport for row in rows} == set(TRANSPORTS)


@every_case
def test_found_flows_are_the_true_ones(case: Case) -> None:
    last = {event["flow_id"]: event for event in replay(case) if event["event_type"] == "vpn"}
    truth = read_truth()[case.name]
    assert sorted((found(event) for event in last.values()), key=repr) == sorted(
        (row.found for row in truth), key=repr
    )
    times = {frame.number: frame.time_ns for frame in whole_frames(case.capture)}
    by_facts = {found(event): event for event in last.values()}
    for row in truth:
        event = by_facts[row.found]
        allowed = {"confirmed"} if row.confidence == "confirmed" else {"likely", "confirmed"}
        assert event["vpn"]["confidence"] in allowed
        start = datetime.fromisoformat(event["flow"]["start"])  # keeps microseconds
        assert (start - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) == (
            times[row.first_packet] // 1000
        )


@every_case
def test_first_event_of_a_flow_recognises_and_last_ends(case: Case) -> None:
    kinds: dict[int, list[str]] = {}
    for event in replay(case):
        if event["event_type"] == "vpn":
            kinds.setdefault(event["flow_id"], []).append(event["event"])
    for kind in kinds.values():
        assert kind[0] == "recognised"
        assert kind[-1] == "ended"
        assert kind.count("recognised") == kind.count("ended") == 1


def test_every_kind_of_evidence_occurs() -> None:
    """A kind that no capture produces would be a rule that nothing tests on whole captures."""
    seen = {
        item[0]
        for case in all_cases()
        for batch in run(Engine(min_confidence="possible"), case, [])
        for evidence in batch.evidence
        for item in evidence
    }
    assert {kind.id for kind in EVIDENCE} == seen
