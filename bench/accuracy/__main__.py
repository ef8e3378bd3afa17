"""`make accuracy`: scores the captures, prints the tables and writes docs/accuracy.md.

Without `../shared/lab` and `../shared/corpus` only `pcaps/` is scored, and the page stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.accuracy.findings import ours
from bench.accuracy.peers import all_peers
from bench.accuracy.report import compared_table, full_report, update_page
from bench.accuracy.score import Score, score
from bench.accuracy.truth import ROOT, Collection, collections, missing_collections
from bench.measure import versions

PAGE = ROOT / "docs" / "accuracy.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.accuracy", description="Accuracy of vpn-classifier; see docs/accuracy.md"
    )
    parser.add_argument(
        "--peers", action="store_true", help="also ndpiReader and tshark, where they are installed"
    )
    parser.add_argument(
        "--generators", type=Path, metavar="FILE", help="the generators' table, to be put into the page"
    )
    parser.add_argument("--no-write", action="store_true", help="leave docs/accuracy.md as it is")
    arguments = parser.parse_args()

    read = list(collections())
    scores = [score(collection, ours(collection.captures)) for collection in read]
    report = full_report(scores)
    print(report)
    own = "vpn-classifier"
    programs = [(own, scores), *(peer_scores(read) if arguments.peers else [])]
    compared = compared_table(programs)
    print(f"For README: found at `likely` or above\n\n{compared}")
    parts = {"scores": f"{about()}\n\n{report}"}
    if arguments.peers:
        parts["peers"] = f"{date()}; " + ", ".join(name for name, _ in programs[1:]) + f"\n\n{compared}"
    if arguments.generators is not None:
        table = arguments.generators.read_text(encoding="utf-8")
        print(f"Generated flows\n\n{table}")
        parts["generators"] = f"{about()}\n\n{table}"

    missing = missing_collections()
    if missing:
        say(f"{' and '.join(missing)} not there: {PAGE.relative_to(ROOT)} stays as it is")
    elif not arguments.no_write:
        update_page(PAGE, parts)
        say(f"{PAGE.relative_to(ROOT)} written")


def peer_scores(read: list[Collection]) -> list[tuple[str, list[Score]]]:
    """Every peer that is installed, with its version; it takes some minutes."""
    programs = []
    for peer in all_peers():
        version = peer.version
        if version is None:
            say(peer.what_to_install)
            continue
        say(f"{peer.name} {version} ...")
        scores = [score(collection, peer.find(collection.captures)) for collection in read]
        programs.append((f"{peer.name} {version}", scores))
    return programs


def date() -> str:
    return datetime.now(UTC).date().isoformat()


def about() -> str:
    """When, and with what."""
    names = ("vpn-classifier", "commit", "rustc", "python", "dpkt")
    found = versions()
    return f"{date()}; " + ", ".join(f"{name} {found[name]}" for name in names)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
