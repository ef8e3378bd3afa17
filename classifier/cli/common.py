"""What the commands share: exit codes, guarded runs, what people see on stderr, values of options."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import typer

from classifier.errors import ClassifierError

if TYPE_CHECKING:
    from rich.console import Console

DONE, FAILED, USAGE, FLAGGED, UNREADABLE = range(5)
WIDTH: Final = 180  # of a table that goes to a file or a pipe


def guarded(run: Callable[[], int]) -> int:
    """The exit code of a command; what goes wrong is said in words."""
    try:
        code = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ClassifierError as error:
        say(str(error))
        return FAILED
    except OSError as error:
        say(f"failed: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        # What could not be written must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def console(terminal: bool, *, stderr: bool = False) -> Console:
    from rich.console import Console

    width = None if terminal or "COLUMNS" in os.environ else WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def say(text: str) -> None:
    for line in text.splitlines():
        print(f"vpn-classifier: {printable(line)}", file=sys.stderr)


def printable(text: str) -> str:
    """File names may hold anything, also what a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def valid_time(text: str | None) -> str | None:
    from classifier.events import parse_time

    try:
        if text is not None:
            parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def valid_address(text: str | None) -> str | None:
    import ipaddress

    try:
        if text is not None:
            ipaddress.ip_address(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected an IPv4 or IPv6 address") from None
    return text
