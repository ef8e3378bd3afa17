"""`vpn-classifier interfaces`: what `watch` could listen on."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from classifier.cli.common import DONE, console, guarded

HELP = """List the network interfaces of this host: state, kind of link, speed, and whether something joins or
splits packets before they can be seen (offloads), with the command that switches it off.

\b
Examples:
  vpn-classifier interfaces
  vpn-classifier interfaces --outgoing
      also what concerns frames that this host sends itself (watch --outgoing)

\b
Exit codes: 0 done, 1 failed, 2 usage.
"""


def command(
    outgoing: Annotated[
        bool, typer.Option("--outgoing", help="Frames that this host sends are to be looked at, too.")
    ] = False,
) -> None:
    def run() -> int:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        from classifier.interfaces import interfaces

        found = interfaces()
        out = console(sys.stdout.isatty())
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("interface", "state", "link", "speed", "offloads"):
            table.add_column(name, overflow="fold")
        for one in found:
            speed = "" if one.speed_mbps is None else f"{one.speed_mbps:,} Mbit/s"
            link = one.link_type if one.is_supported else f"{one.link_type}: not read"
            table.add_row(*map(Text, (one.name, one.state, link, speed, " ".join(one.offloads))))
        out.print(table)
        commands = [line for one in found if (line := one.remedy(outgoing=outgoing)) is not None]
        if commands:
            out.print(
                "For lengths as they are on the wire, on the interface that you listen on:", markup=False
            )
            for line in commands:
                out.print(f"  {line}", markup=False, soft_wrap=True)
        return DONE

    raise typer.Exit(guarded(run))
