"""The command line: arguments, exit codes and what people see. A command is a file, and calls one function.

stdout is data, stderr is everything else. What only some runs need (Rich for tables and the progress
bar, the pipeline for `replay`) is imported by those, and of the commands only the one that is given: to build
them all takes a quarter of the time that a run has to start.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer

from classifier import _core

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

_COMMANDS: Final = {
    "replay": "Find the VPN flows in captures; say what they amount to.",
    "watch": "Listen on network interfaces until told to stop; write events.",
    "interfaces": "List what `watch` could listen on.",
    "explain": "Say in words why flows got their verdicts.",
    "recheck": "Judge the flows of events again: corrections.",
}
"""Each is a file with a `command`, by its name."""
_GROUPS: Final = ("register", "policy")
"""Each has an `app` of its own."""


def app(arguments: Sequence[str]) -> typer.Typer:
    """The command that is given, or all of them for who asks which there are."""
    found = typer.Typer(
        help=_HELP,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    found.callback()(_root)
    names = [*_COMMANDS, *_GROUPS]
    given = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name in [given] if given in names else names:
        module = import_module(f"classifier.cli.{name}")
        if name in _COMMANDS:
            found.command(name, help=module.HELP, short_help=_COMMANDS[name])(module.command)
        else:
            found.add_typer(module.app, name=name)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; always ends with SystemExit."""
    # Hardly anything here makes garbage that counting references does not find: with the usual 700, a run
    # would look through what it holds again and again.
    gc.set_threshold(50_000)
    # Nor is it looked through once more when the process ends: a tenth of the time of a short run.
    atexit.register(gc.freeze)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115, open as long as the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    given = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(app(given)(given, prog_name="vpn-classifier"))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vpn-classifier {_core.version}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
