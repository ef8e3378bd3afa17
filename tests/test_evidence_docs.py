"""docs/evidence.md is what the core's evidence table and the captures give; no id is without a capture."""

import csv
import re
from pathlib import Path

import pytest

from bench.evidence import PAGE, page, seen_in
from classifier._core import EVIDENCE, EvidenceKind

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def written() -> str:
    return PAGE.read_text(encoding="utf-8")


def section(page_text: str, name: str) -> str:
    match = re.search(rf"^### {re.escape(name)}\n(.*?)(?=^#|\Z)", page_text, re.MULTILINE | re.DOTALL)
    assert match, f"docs/evidence.md has no section {name}"
    return match[1]


def test_the_page_is_up_to_date(written: str) -> None:
    assert written == page(ROOT / "pcaps"), "run python -m bench.evidence and read the difference"


@pytest.mark.parametrize("kind", EVIDENCE, ids=lambda kind: kind.id)
def test_every_id_has_its_fact_bits_source_and_a_capture_of_a_vpn(written: str, kind: EvidenceKind) -> None:
    text = section(written, kind.id)
    assert f"\n{kind.fact}.\n" in text
    assert f"- **Bits:** {kind.bits}\n" in text
    assert f"- **Source:** {kind.source}\n" in text
    shown = re.search(r"^- \*\*Shown by:\*\* (.*)$", text, re.MULTILINE)
    assert shown
    names = re.findall(r"`([^`]+)`", shown[1])
    assert names, f"no capture in pcaps/ produces {kind.id}: add one"
    with (ROOT / "pcaps" / "truth.csv").open(newline="", encoding="utf-8") as file:
        protocols = {(row["case"], row["protocol"]) for row in csv.DictReader(file)}
    assert all((name, kind.protocol) in protocols for name in names)


def test_the_crafted_capture_is_marked(written: str) -> None:
    assert "`ovpn-udp-epoch` (crafted)" in section(written, "openvpn.data_epoch_run")
    assert "`wg-plain-51820`," in section(written, "wireguard.initiation")


def test_look_alikes_are_kept_apart() -> None:
    capture = ROOT / "pcaps" / "wg-plain-51820" / "capture.pcap"
    assert seen_in([capture], frozenset())["wireguard.response"].shown_by == {"wg-plain-51820"}
    near = seen_in([capture], frozenset({"wg-plain-51820"}))["wireguard.response"]
    assert (near.shown_by, near.near) == (set(), {"wg-plain-51820"})
