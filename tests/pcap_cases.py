"""The cases of pcaps/: where each capture is, and what must be found in it."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import classifier
from classifier._core import CaptureError, Engine, FlowBatch
from classifier.inputs import InputError


@dataclass(frozen=True, slots=True)
class Case:
    """One directory of pcaps/."""

    name: str
    capture: Path

    @property
    def golden(self) -> Path:
        return self.capture.parent / "expected.jsonl"


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """What is said of one flow; what must be said when it comes from truth.csv."""

    source: str
    source_port: int | None
    destination: str
    destination_port: int | None
    transport: str
    protocol: str
    variant: str
    phase: str
    packets_to_server: int
    packets_to_client: int
    bytes_to_server: int
    bytes_to_client: int


@dataclass(frozen=True, slots=True)
class Truth:
    """One row of truth.csv."""

    found: Found
    confidence: str
    first_packet: int


def repository() -> Path:
    return Path(__file__).resolve().parent.parent


def all_cases() -> list[Case]:
    """Every case, in the order of their names."""
    captures = sorted(repository().glob("pcaps/*/capture.*"))
    return [Case(capture.parent.name, capture) for capture in captures]


def read_truth() -> dict[str, list[Truth]]:
    """truth.csv by case; an empty list where nothing may be found."""
    with (repository() / "pcaps" / "truth.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    truth: dict[str, list[Truth]] = {row["case"]: [] for row in rows}
    for row in rows:
        if row["protocol"] == "none":
            continue
        found = Found(
            row["initiator"],
            int(row["initiator_port"]) if row["initiator_port"] else None,
            row["responder"],
            int(row["responder_port"]) if row["responder_port"] else None,
            row["transport"],
            row["protocol"],
            row["variant"],
            row["phase"],
            int(row["packets_to_server"]),
            int(row["packets_to_client"]),
            int(row["bytes_to_server"]),
            int(row["bytes_to_client"]),
        )
        truth[row["case"]].append(Truth(found, row["confidence"], int(row["first_packet"])))
    return truth


def run(engine: Engine, case: Case, errors: list[CaptureError]) -> Iterator[FlowBatch]:
    """Replay one case; where reading stops early, the error goes into `errors`."""
    engine.open(str(case.capture), case.name)
    while True:
        try:
            batch = engine.poll()
        except CaptureError as error:
            errors.append(error)
            continue
        if batch is None:
            return
        yield batch


def replay(case: Case) -> list[dict[str, Any]]:
    """The events of a case as JSON reads them; of a capture that ends inside a record those before it.

    Call it in the repository's folder: a capture's name is part of its flow ids.
    """
    events: list[dict[str, Any]] = []
    try:
        for event in classifier.replay(str(case.capture.relative_to(repository())), rules="rules/"):
            events.append(json.loads(json.dumps(event)))
    except InputError as error:
        if [fault.reason for fault in error.faults] != ["truncated"]:
            raise
    return events
