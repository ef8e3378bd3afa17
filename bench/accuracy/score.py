"""Findings against labels: what was found, missed, and found wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from bench.accuracy.findings import Finding, Findings
from bench.accuracy.truth import PROTOCOLS, Collection, Label

MANY_PACKETS = 20
"""From so many packets on, a found flow should be `confirmed`."""

NEEDED = {
    ("openvpn", "UDP", "data"): 16,
    ("openvpn", "TCP", "data"): 4,
    ("openvpn", "UDP", ""): 2,
    ("openvpn", "UDP", "plain"): 2,
    ("ipsec", "UDP", "esp-in-udp"): 2,
}
"""Packets that `likely` needs, by protocol, transport and variant, where it is more than one: CBC data,
chained records, a plain opening and its retry, ESP in UDP on port 4500. docs/accuracy.md says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """One label and what was said about its flow."""

    label: Label
    said: dict[str, Finding]

    @property
    def right(self) -> Finding | None:
        """The finding of the label's protocol, at whatever confidence."""
        return self.said.get(self.label.protocol)

    def found(self, confidence: str) -> bool:
        return self.right is not None and self.right.at_least(confidence)

    @property
    def variant_named(self) -> bool:
        """Whether the labelled variant is the one that was named."""
        return self.right is not None and self.right.variant.partition("+")[0] == self.label.variant

    @property
    def reason(self) -> str:
        """Why it may have been missed: a category, told from the label alone."""
        label = self.label
        needed = NEEDED.get((label.protocol, label.key.transport, label.variant), 1)
        if label.packets < needed:
            return f"shorter than the evidence model needs ({needed} packets)"
        return "other"


@dataclass(frozen=True, slots=True)
class Count:
    """Flows found, missed, and found wrongly."""

    found: int
    missed: int
    false: int

    @property
    def recall(self) -> float | None:
        return self.found / (self.found + self.missed) if self.found + self.missed else None


@dataclass(frozen=True, slots=True)
class Score:
    """One program on one collection."""

    collection: Collection
    results: tuple[Result, ...]
    wrong: tuple[Finding, ...]  # of flows that are no VPN, or another one; at any confidence

    def false(self, confidence: str) -> list[Finding]:
        return [finding for finding in self.wrong if finding.at_least(confidence)]

    def missed(self, confidence: str) -> list[Result]:
        return [result for result in self.results if not result.found(confidence)]

    def unconfirmed(self) -> list[Result]:
        """Flows of many packets that are found but not confirmed."""
        return [
            result
            for result in self.results
            if result.label.packets >= MANY_PACKETS
            and result.found("likely")
            and not result.found("confirmed")
        ]

    def count(self, protocol: str | None, confidence: str) -> Count:
        """Of one protocol; None: of all."""
        results = [result for result in self.results if protocol in (None, result.label.protocol)]
        found = sum(result.found(confidence) for result in results)
        false = sum(protocol in (None, finding.protocol) for finding in self.false(confidence))
        return Count(found, len(results) - found, false)

    def confusion(self, confidence: str) -> Counter[tuple[str, str]]:
        """How often a flow of one protocol was called another, ("none", x) when it is no VPN, (x, "none")
        when nothing was said."""
        table: Counter[tuple[str, str]] = Counter()
        labelled = {(result.label.file, result.label.key) for result in self.results}
        for result in self.results:
            said = [name for name, finding in result.said.items() if finding.at_least(confidence)]
            for name in said or ["none"]:
                table[result.label.protocol, name] += 1
        for finding in self.false(confidence):
            if (finding.file, finding.key) not in labelled:
                table["none", finding.protocol] += 1
        return table

    def grouped(self, by: Callable[[Label], str]) -> dict[str, list[Result]]:
        groups: dict[str, list[Result]] = {}
        for result in self.results:
            groups.setdefault(by(result.label), []).append(result)
        return groups


def score(collection: Collection, findings: Findings) -> Score:
    labels = {
        (label.file, label.key): label
        for label in collection.labels
        if label.file not in collection.malformed
    }
    results = tuple(Result(label, findings.get(flow, {})) for flow, label in labels.items())
    wrong = [
        finding
        for flow, said in findings.items()
        if flow[0] not in collection.malformed and flow not in collection.left_out
        for protocol, finding in said.items()
        if protocol in PROTOCOLS and (flow not in labels or labels[flow].protocol != protocol)
    ]
    wrong.sort(key=lambda finding: (finding.file, str(finding.key)))
    return Score(collection, results, tuple(wrong))
