"""`vpn-classifier register export`: the register as a CSV with its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from classifier.cli.common import DONE, guarded, printable

HELP = """Write the register as a CSV of our own columns with its manifest beside it.

What is written is the same register to whatever takes one (--register, register check). A few columns and
keys tell what only a store knows: the feed of each entry, since when its feed has lacked it, why an exception
was made.

\b
Examples:
  vpn-classifier register export --db register.db -o register.csv
      register.csv and register.toml
  vpn-classifier register export --db register.db --serial 40 -o then.csv
      as it was after that change

\b
Exit codes: 0 done, 1 no such store or serial, or nothing could be written, 2 usage.
"""


def command(
    db: Annotated[Path, typer.Option(metavar="PATH", help="The store.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.csv", help="Where to.", show_default=False)
    ],
    serial: Annotated[int | None, typer.Option(min=1, help="Of a past state.")] = None,
) -> None:
    from classifier.register.exporting import write_register
    from classifier.register.snapshot import Register

    def run() -> int:
        register = Register.load(db, serial)
        write_register(register, output, keep=db)
        manifest = output.with_suffix(".toml")
        print(
            f"{len(register.entries):,} rows of serial {register.serial}: "
            f"{printable(str(output))}, {printable(str(manifest))}"
        )
        return DONE

    raise typer.Exit(guarded(run))
