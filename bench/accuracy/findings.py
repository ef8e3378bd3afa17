"""What a program says about captures, in one shape for all programs, and what ours says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import classifier
from bench.accuracy.truth import FlowKey
from classifier._core import CONFIDENCES


@dataclass(frozen=True, slots=True)
class Finding:
    """One protocol found on one flow. Programs without levels of confidence say "confirmed"."""

    file: str
    key: FlowKey
    protocol: str
    confidence: str = "confirmed"
    variant: str = ""
    packets: int = 0
    evidence: tuple[tuple[str, int], ...] = ()  # id, bits of all observations together

    @property
    def bits(self) -> int:
        return sum(bits for _, bits in self.evidence)

    def at_least(self, confidence: str) -> bool:
        return CONFIDENCES.index(self.confidence) >= CONFIDENCES.index(confidence)


Findings = dict[tuple[str, FlowKey], dict[str, Finding]]


def gather(findings: Iterable[Finding]) -> Findings:
    """By flow and protocol. A flow that timed out and came back is one here, with its strongest finding."""
    gathered: Findings = {}
    for finding in findings:
        of_flow = gathered.setdefault((finding.file, finding.key), {})
        before = of_flow.get(finding.protocol)
        if before is None:
            of_flow[finding.protocol] = finding
            continue
        strongest = finding if finding.at_least(before.confidence) else before
        of_flow[finding.protocol] = replace(strongest, packets=before.packets + finding.packets)
    return gathered


def ours(captures: Mapping[str, Path]) -> Findings:
    """What `classifier.replay` finds, at any confidence."""
    files = {str(path): file for file, path in captures.items()}
    found = []
    try:
        for event in classifier.replay(list(files), min_confidence="possible"):
            if event["event_type"] != "vpn":
                continue
            vpn, flow = event["vpn"], event["flow"]
            ended = event["event"] == "ended"
            ends = event["src_ip"], event.get("src_port"), event["dest_ip"], event.get("dest_port")
            found.append(
                Finding(
                    files[event["pcap_filename"]],
                    FlowKey.of(event["proto"], *ends),
                    vpn["protocol"],
                    vpn["confidence"],
                    vpn["variant"],
                    flow["pkts_toserver"] + flow["pkts_toclient"] if ended else 0,
                    tuple((item["id"], item["bits"]) for item in vpn["evidence"]),
                )
            )
    except classifier.InputError:
        pass  # some captures are broken on purpose; what could be read has been
    return gather(found)
