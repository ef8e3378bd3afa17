"""`vpn-classifier register history`: what an entry was, import by import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from classifier.cli.common import DONE, guarded, printable

HELP = """Show what an entry was, import by import; or all changes of the store.

ENTRY is an id, or an address: then all entries that ever covered it. Of each change: the store's serial,
when it was made, by which issue of which feed, and what differed. Without ENTRY a line for each change: the
serial to ask for when somebody wants to know what the register said on Monday (lookup --serial). Times
are UTC.

\b
Examples:
  vpn-classifier register history --db register.db
  vpn-classifier register history R-2026-00107 --db register.db
  vpn-classifier register history 203.0.113.10 --db register.db

\b
Exit codes: 0 done, 1 no such entry or store, 2 usage.
"""


def command(
    db: Annotated[Path, typer.Option(metavar="PATH", help="The store.", show_default=False)],
    entry: Annotated[str | None, typer.Argument(metavar="[ENTRY]", show_default=False)] = None,
) -> None:
    from classifier.register.history import changes, history

    def run() -> int:
        for line in changes(db) if entry is None else history(db, entry):
            print(printable(line))
        return DONE

    raise typer.Exit(guarded(run))
