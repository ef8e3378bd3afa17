"""Options that several commands have: their types, with the help that is said of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = [
    "Confidence",
    "FlowKey",
    "FlowKeyOption",
    "MetricsFile",
    "MinConfidence",
    "Peel",
    "PolicyFile",
    "RegisterPath",
    "RemoveDuplicates",
    "RulesDirectory",
]


class Confidence(StrEnum):
    """Choices of --min-confidence."""

    POSSIBLE = "possible"
    LIKELY = "likely"
    CONFIRMED = "confirmed"


class FlowKey(StrEnum):
    """Choices of --flow-key."""

    FIVE_TUPLE = "five-tuple"
    VLAN = "+vlan"
    PATH = "+path"


class Peel(StrEnum):
    """Choices of --peel."""

    OPERATOR = "operator"
    ALL = "all"
    NONE = "none"


RulesDirectory = Annotated[
    str | None, typer.Option(metavar="DIR", help="Directory with register.csv and policy.toml.")
]
RegisterPath = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Register: a CSV with its manifest, or a store; instead of that in --rules."
    ),
]
PolicyFile = Annotated[str | None, typer.Option(metavar="FILE", help="Policy; instead of that in --rules.")]
MinConfidence = Annotated[Confidence, typer.Option(help="Weakest confidence that is reported.")]
FlowKeyOption = Annotated[
    FlowKey,
    typer.Option(help="What tells flows apart: also VLANs, or the whole path of encapsulations."),
]
RemoveDuplicates = Annotated[
    bool,
    typer.Option(
        "--remove-duplicates/--no-remove-duplicates",
        help="Count a packet that the mirror delivers twice, within 10 ms, once.",
    ),
]
MetricsFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Write metrics there in Prometheus' text format, for the textfile collector of node_exporter "
        "(FILE.prom); it is replaced as a whole.",
    ),
]
