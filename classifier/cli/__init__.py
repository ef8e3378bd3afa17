"""The command line: arguments, exit codes and what people see. A command is a file, and calls one function.

stdout is data, stderr is everything else. What only some runs need (Rich for tables and the progress
bar, the pipeline for `replay`) is imported by those.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from classifier import _core
from classifier.cli import explain, interfaces, policy, recheck, register, replay, watch

_HELP = """Recognise VPN flows in captures and check both ends against a register of who may run a VPN.

It is passive. A flag says that no registration matched: a question, not a finding against a person.

\b
Exit codes:
  0    done
  1    failed: a register, policy or event file that cannot be used, an output that cannot be written
  2    usage
  3    flows were flagged, and --fail-on flagged was given (comes before 4)
  4    some input could not be read; what could be read was
  130  stopped by Ctrl-C (143 by SIGTERM): the events so far are whole. `watch` ends with 0 then
"""


app = typer.Typer(
    help=_HELP,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; always ends with SystemExit."""
    # Hardly anything here makes garbage that counting references does not find: with the usual 700, a run
    # would look through what it holds again and again.
    gc.set_threshold(50_000)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115, open as long as the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    sys.exit(app(list(arguments) if arguments is not None else None, prog_name="vpn-classifier"))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vpn-classifier {_core.version}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command(
    "replay", help=replay.HELP, short_help="Find the VPN flows in captures; say what they amount to."
)(replay.command)
app.command(
    "watch", help=watch.HELP, short_help="Listen on network interfaces until told to stop; write events."
)(watch.command)
app.command("interfaces", help=interfaces.HELP, short_help="List what `watch` could listen on.")(
    interfaces.command
)
app.command("explain", help=explain.HELP, short_help="Say in words why flows got their verdicts.")(
    explain.command
)
app.command("recheck", help=recheck.HELP, short_help="Judge the flows of events again: corrections.")(
    recheck.command
)
app.add_typer(register.app, name="register")
app.add_typer(policy.app, name="policy")
