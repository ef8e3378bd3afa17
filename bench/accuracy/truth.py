"""What must be found: three tables of labelled flows, read into one shape.

- `pcaps/truth.csv`, in the repository: one directory per capture.
- `../shared/lab/manifest.csv`: captures of real daemons; columns in its README.
- `../shared/corpus/labels.csv`: public captures of other projects; reading rules in its SOURCES.md.

The rule that a reader would get wrong: what a table does not list is not a VPN. A flow that the tables
call `not-detectable`, `ambiguous` or `obfuscated` counts neither way, and of a file with a `malformed` flow
nothing counts.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from bench.accuracy.frames import count_frames

ROOT = Path(__file__).parents[2]
PROTOCOLS = ("wireguard", "openvpn", "ipsec")

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class FlowKey:
    """A flow without direction: (packed address, port) of both ends in order; port 0 for ESP and AH."""

    transport: str
    low: tuple[bytes, int]
    high: tuple[bytes, int]

    @classmethod
    def of(
        cls, transport: str, one: str, one_port: int | str | None, other: str, other_port: int | str | None
    ) -> FlowKey:
        name = transport.upper()
        ported = name in ("UDP", "TCP")
        ends = [
            (ip_address(address).packed, int(port) if ported and port else 0)
            for address, port in ((one, one_port), (other, other_port))
        ]
        low, high = sorted(ends)
        return cls(name, low, high)

    def __str__(self) -> str:
        ported = self.transport in ("UDP", "TCP")
        ends = []
        for packed, port in (self.low, self.high):
            address = str(ip_address(packed))
            ends.append(f"{f'[{address}]' if ':' in address else address}:{port}" if ported else address)
        return f"{self.transport} {ends[0]}, {ends[1]}"


@dataclass(frozen=True, slots=True)
class Label:
    """One flow that must be found."""

    file: str
    key: FlowKey
    protocol: str
    variant: str  # in the words of `classifier._core.VARIANTS` without "+esp-in-udp"; "" where not labelled
    opening: bool  # the handshake's opening is in the capture
    oneway: bool
    packets: int

    @property
    def situation(self) -> str:
        return f"{'handshake' if self.opening else 'mid-flow'}, {'one way' if self.oneway else 'both ways'}"


@dataclass(frozen=True, slots=True)
class Collection:
    """One table and its captures."""

    name: str
    captures: dict[str, Path]  # by the table's name of the file
    labels: tuple[Label, ...]
    left_out: frozenset[tuple[str, FlowKey]]  # flows that count neither way
    malformed: frozenset[str] = frozenset()  # files of which nothing counts
    origins: dict[str, str] = field(default_factory=dict)  # where a file is published

    @property
    def without_vpn(self) -> int:
        """Captures in which nothing may be found."""
        with_vpn = {label.file for label in self.labels} | {file for file, _ in self.left_out}
        return len(self.captures.keys() - with_vpn - self.malformed)


def collections() -> Iterator[Collection]:
    """Those that are there."""
    shared = ROOT.parent / "shared"
    yield read_pcaps(ROOT / "pcaps")
    if (shared / "lab" / "manifest.csv").exists():
        yield read_lab(shared / "lab")
    if (shared / "corpus" / "labels.csv").exists():
        yield read_corpus(shared / "corpus")


def missing_collections() -> list[str]:
    shared = ROOT.parent / "shared"
    tables = {"../shared/lab": "manifest.csv", "../shared/corpus": "labels.csv"}
    return [name for name, table in tables.items() if not (shared / Path(name).name / table).exists()]


def rows(table: Path) -> list[Row]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_pcaps(folder: Path) -> Collection:
    labels = []
    for row in rows(folder / "truth.csv"):
        if row["protocol"] == "none":
            continue
        ends = row["initiator"], row["initiator_port"], row["responder"], row["responder_port"]
        to_server, to_client = int(row["packets_to_server"]), int(row["packets_to_client"])
        labels.append(
            Label(
                row["case"],
                FlowKey.of(row["transport"], *ends),
                row["protocol"],
                row["variant"].partition("+")[0],
                opening=row["phase"] != "data_only" and row["transport"] in ("UDP", "TCP"),
                oneway=0 in (to_server, to_client),
                packets=to_server + to_client,
            )
        )
    captures = {capture.parent.name: capture for capture in sorted(folder.glob("*/capture.*"))}
    return Collection("pcaps", captures, tuple(labels), frozenset())


def read_lab(folder: Path) -> Collection:
    table = rows(folder / "manifest.csv")
    labels, left_out = [], set()
    for row in table:
        if row["expected"] == "none":
            continue
        key = FlowKey.of(row["transport"], row["client"], row["cport"], row["server"], row["sport"])
        if row["expected"] != "detect":
            left_out.add((row["file"], key))
            continue
        counted = count_frames(folder / "pcaps" / row["file"], [key])[key]
        labels.append(
            Label(
                row["file"],
                key,
                row["protocol"],
                lab_variant(row),
                opening=lab_opening(row),
                oneway=row["direction_seen"] != "both",
                packets=sum(counted),
            )
        )
    captures = {row["file"]: folder / "pcaps" / row["file"] for row in table}
    return Collection("lab", captures, tuple(labels), frozenset(left_out))


def lab_opening(row: Row) -> bool:
    """Whether an opening is there. Where it led nowhere, the manifest's `handshake_seen` says no."""
    failed = ("rejects", "no answer", "silent", "dropped", "initiations only")
    return row["handshake_seen"] == "yes" or any(word in row["subtype"] for word in failed)


def lab_variant(row: Row) -> str:
    """The variant in a manifest row; its `subtype` says in words what ran."""
    subtype = row["subtype"].replace("ta-", "tls-auth ")
    match row["protocol"], row["transport"]:
        case "wireguard", _:
            return "standard"
        case "openvpn", _:
            if not lab_opening(row):
                return "data"
            named = ("tls-crypt-v2", "tls-crypt", "tls-auth")
            return next((name for name in named if name in subtype), "plain")
        case _, ("esp" | "ah") as native:
            return native
        case _, "tcp":
            return "ike-in-tcp"
    return next((name for name in ("ikev1", "ikev2") if name in subtype.lower()), "esp-in-udp")


def read_corpus(folder: Path) -> Collection:
    table = rows(folder / "labels.csv")
    names = {path.name.split("__")[0]: path for path in sorted((folder / "pcaps").iterdir())}
    labels, left_out, malformed = [], set(), set()
    for row in table:
        if row["truth"] == "none":
            continue
        if row["truth"] == "malformed":
            malformed.add(row["file_id"])
            continue
        key = FlowKey.of(row["flow_proto"], row["src"], row["sport"], row["dst"], row["dport"])
        if row["truth"] not in PROTOCOLS:
            left_out.add((row["file_id"], key))
            continue
        counted = count_frames(names[row["file_id"]], [key])[key] if row["file_id"] in names else (0, 0)
        labels.append(
            Label(
                row["file_id"],
                key,
                row["truth"],
                corpus_variant(row),
                opening="data-only" not in row["subtype"] and row["flow_proto"] in ("udp", "tcp"),
                oneway=0 in counted,
                packets=int(row["packets_in_flow"]),
            )
        )
    listed = {row["file_id"] for row in table}
    return Collection(
        "corpus",
        {name: path for name, path in names.items() if name in listed},
        tuple(labels),
        frozenset(left_out),
        frozenset(malformed),
        {row["file_id"]: f"{row['repo']} {row['path']}" for row in table},
    )


def corpus_variant(row: Row) -> str:
    """The variant in a row; "" where its `subtype` does not say how the control channel is wrapped."""
    subtype = row["subtype"].removeprefix("natt-")
    if row["truth"] == "wireguard":
        return "standard"
    if row["truth"] == "openvpn":
        if "data-only" in subtype:
            return "data"
        return "tls-crypt-v2" if subtype.endswith("tls-crypt-v2") else ""
    return subtype if subtype in ("ikev1", "ikev2", "esp", "ah") else ""
