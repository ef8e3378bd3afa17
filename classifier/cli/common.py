"""What the commands share: exit codes, guarded runs, what people see on stderr, values of options."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import typer

from classifier.errors import ClassifierError
from classifier.logs import printable as printable

if TYPE_CHECKING:
    from rich.console import Console

    from classifier.event_file import EventFiles

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


def keep_inputs(output: str, paths: Iterable[str], what: str) -> None:
    """Refuse to write over what is to be read."""
    written = Path(output)
    if output == "-" or not written.exists():
        return
    status = written.stat()
    if stat.S_ISCHR(status.st_mode):  # keeps nothing that could be lost
        return
    for path in paths:
        if path == "-":
            continue
        try:
            is_same = os.path.samestat(os.stat(path), status)  # noqa: PTH116, a Path of each of thousands costs more
        except OSError:  # whoever reads it says so
            continue
        if is_same:
            raise typer.BadParameter(f"{output} is one of the {what} to be read", param_hint="-o")


@contextmanager
def signals(
    stop: Callable[[], None], others: Mapping[signal.Signals, Callable[[], None]]
) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM call `stop`; a second one ends the process. `others`: what other signals call.

    Gives the list of those that stopped it.
    """
    received: list[int] = []

    def on_stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        stop()
        signal.signal(number, signal.SIG_DFL)

    def on_other(number: int, _frame: FrameType | None) -> None:
        others[signal.Signals(number)]()

    before = {number: signal.signal(number, on_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    before |= {number: signal.signal(number, on_other) for number in others}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_of(files: EventFiles) -> Iterator[None]:
    """A bar over the bytes of event files; nothing unless stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(True, stderr=True), transient=True) as progress:
        task = progress.add_task("", total=files.size)
        files.on_tick = lambda: progress.update(task, completed=files.read)
        yield


def console(terminal: bool, *, stderr: bool = False) -> Console:
    from rich.console import Console

    width = None if terminal or "COLUMNS" in os.environ else WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def say(text: str) -> None:
    for line in text.splitlines():
        print(f"vpn-classifier: {printable(line)}", file=sys.stderr)


def valid_time(text: str | None) -> str | None:
    from classifier.events import parse_time

    try:
        if text is not None:
            parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def valid_times(texts: tuple[str, str] | None) -> tuple[str, str] | None:
    """Two times, the earlier first."""
    from classifier.events import parse_time

    if texts is not None:
        first, last = (valid_time(text) or "" for text in texts)
        if parse_time(first) > parse_time(last):
            raise typer.BadParameter(f"{first} is later than {last}")
    return texts


def valid_prefix(text: str | None) -> str | None:
    import ipaddress

    try:
        if text is not None:
            ipaddress.ip_network(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: expected an IPv4 or IPv6 address, or a prefix without host bits"
        ) from None
    return text


def valid_duration(text: str) -> str:
    from classifier.policy_file import duration_ns

    try:
        duration_ns(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: expected {error}") from None
    return text


def valid_address(text: str | None) -> str | None:
    import ipaddress

    try:
        if text is not None:
            ipaddress.ip_address(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected an IPv4 or IPv6 address") from None
    return text


def valid_listen_address(text: str | None) -> str | None:
    try:
        if text is not None:
            from classifier.metrics.server import parse_address

            parse_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: expected {error}") from None
    return text
