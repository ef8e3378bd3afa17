"""`vpn-classifier register check`: every fault of a feed, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from classifier.cli.common import DONE, FAILED, guarded, printable

HELP = """Find every fault of a feed or register, before it counts.

FILE is a feed that --map translates (CSV or JSON Lines; several files are one feed), a CSV of our own columns
with its manifest beside it, or a store. Each fault is a line with file, line, column, what was found, what
was expected; warnings are what may be meant and deserves a look. A value that could tell something about a
person is never shown. Nothing is changed.

\b
Examples:
  vpn-classifier register check feed.csv --map feed.toml --policy policy.toml
      with --policy also: infrastructure that covers a network of our subscribers
  vpn-classifier register check feed.csv --map feed.toml --faults FAULTS.csv --no-warnings
      the faults as a CSV for whoever mends the feed
  vpn-classifier register check register.db
      a store: what contradicts itself, and whether the file is whole

\b
Exit codes: 0 no fault (warnings or not), 1 faults or nothing to check, 2 usage.
"""


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    map_path: Annotated[
        Path | None,
        typer.Option("--map", metavar="FEED.toml", help="What the feed's columns and words mean."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy, for its local and shared networks.")
    ] = None,
    faults: Annotated[
        Path | None, typer.Option(metavar="FAULTS.csv", help="Write the faults there as well.")
    ] = None,
    warnings: Annotated[bool, typer.Option(help="Show warnings, too.")] = True,
) -> None:
    from classifier.register.checks import check
    from classifier.register.importing import write_faults
    from classifier.register.prefixes import Prefix

    def run() -> int:
        local: tuple[Prefix, ...] = ()
        if policy is not None:
            from classifier.policy import Policy

            known = Policy.load(policy)
            local = known.local + known.shared
        found = check(files, map_path, local)
        if faults is not None:
            write_faults(faults, found.faults, keep=(*files, *([map_path] if map_path else [])))
        for fault in found.faults:
            print(printable(str(fault)))
        if warnings:
            for warning in found.warnings:
                print("warning:", printable(str(warning)))
        print(
            f"{found.rows:,} rows, {found.entries:,} entries without a fault: "
            f"{len(found.faults):,} faults, {len(found.warnings):,} warnings"
        )
        return FAILED if found.faults else DONE

    raise typer.Exit(guarded(run))
