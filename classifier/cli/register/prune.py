"""`vpn-classifier register prune`: history that is no longer needed is forgotten."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from classifier.cli.common import DONE, guarded, printable, valid_time

HELP = """Forget history before a time or serial.

What the register was at that time is the oldest state that can still be asked for. What it is now stays as it
is.

\b
Examples:
  vpn-classifier register prune --before 2026-01-01 --db register.db
  vpn-classifier register prune --before 40 --db register.db

\b
Exit codes: 0 done, 1 no such store or serial, 2 usage.
"""


def command(
    before: Annotated[
        str, typer.Option(metavar="TIME|SERIAL", show_default=False, help="From when on to keep.")
    ],
    db: Annotated[Path, typer.Option(metavar="PATH", help="The store.", show_default=False)],
) -> None:
    from classifier.register.history import prune
    from classifier.words import number

    wanted: int | str = int(before) if re.fullmatch(r"[1-9]\d{0,8}", before) else valid_time(before) or before

    def run() -> int:
        serial, gone = prune(db, wanted)
        print(f"{number(gone, 'row version')} gone; the oldest state of {printable(str(db))} is {serial}.")
        return DONE

    raise typer.Exit(guarded(run))
