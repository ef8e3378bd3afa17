"""The command line: arguments, exit codes and what people see. Each command calls one function.

stdout is data, stderr is everything else. What only some runs need (Rich for tables and the progress
bar, the pipeline for `replay`) is imported by those.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from classifier import _core
from classifier.errors import ClassifierError

if TYPE_CHECKING:
    from rich.console import Console

    from classifier.pipeline import Replay

DONE, FAILED, USAGE, FLAGGED, UNREADABLE = range(5)
_WIDTH = 180  # of a table that goes to a file or a pipe
_PROGRESS_S = 0.2

_HELP = """Recognise VPN flows in captures and check both ends against a register of who may run a VPN.

It is passive. A flag says that no registration matched: a question, not a finding against a person.

\b
Exit codes:
  0    done
  1    failed: a register, policy or event file that cannot be used, an output that cannot be written
  2    usage
  3    flows were flagged, and --fail-on flagged was given (comes before 4)
  4    some input could not be read; what could be read was
  130  stopped by Ctrl-C (143 by SIGTERM): the events so far are whole
"""

_REPLAY_HELP = """Replay captures: find the VPN flows and say what register and policy make of them.

FILE is a capture (pcap or pcapng, plain, gzip or zstd), a directory of captures, a glob in quotes, or - for
standard input. Each capture stands for itself.

Without -o only a table and a summary are printed. With -o FILE.jsonl all events are written there too; with
-o - events go to standard output and the summary to standard error.

\b
Examples:
  vpn-classifier replay capture.pcap
      which VPN flows are in there? (no register: every verdict is not_evaluated)
  vpn-classifier replay captures/ --rules rules/ -o events.jsonl
      all captures below a directory against rules/register.csv and rules/policy.toml
  vpn-classifier replay 'day-*.pcapng.zst' --rules rules/ -o - | jq 'select(.policy.first)'
      the first flag of every case
  zstdcat huge.pcap.zst | vpn-classifier replay - --rules rules/ --fail-on flagged
      exit code 3 when something was flagged
  vpn-classifier replay old.pcap --rules rules/ --as-of 2026-03-01
      what would the register say at that time?

\b
Exit codes: 0 done, 1 failed, 2 usage, 3 flagged (with --fail-on flagged), 4 some input could not be read.
"""

_EXPLAIN_HELP = """Say in words why flows got their verdicts.

EVENTS is a file that replay -o wrote, or - for standard input. Of each flow: which evidence was seen in
which packet, what it adds up to and what was ruled out, then which register entries and which rule gave the
verdict.

\b
Examples:
  vpn-classifier explain events.jsonl --address 192.0.2.10
  vpn-classifier explain events.jsonl --flow 4611686018427387904

\b
Exit codes: 0 done, 1 the file cannot be understood or no flow fits, 2 usage.
"""


class Confidence(StrEnum):
    """Choices of --min-confidence."""

    POSSIBLE = "possible"
    LIKELY = "likely"
    CONFIRMED = "confirmed"


class FlowKey(StrEnum):
    """Choices of --flow-key."""

    FIVE_TUPLE = "five-tuple"
    VLAN = "+vlan"
    PATH = "+path"


class FailOn(StrEnum):
    """Choices of --fail-on."""

    FLAGGED = "flagged"


app = typer.Typer(
    help=_HELP,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; always ends with SystemExit."""
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


def _as_of(text: str | None) -> str | None:
    from classifier.events import parse_time

    try:
        if text is not None:
            parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def _ip(text: str | None) -> str | None:
    import ipaddress

    try:
        if text is not None:
            ipaddress.ip_address(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected an IPv4 or IPv6 address") from None
    return text


@app.command(
    "replay", help=_REPLAY_HELP, short_help="Find the VPN flows in captures; say what they amount to."
)
def _replay_command(
    files: Annotated[list[str], typer.Argument(metavar="FILE", show_default=False)],
    rules: Annotated[
        str | None, typer.Option(metavar="DIR", help="Directory with register.csv and policy.toml.")
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Register, with its manifest beside it; instead of that in --rules."
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="FILE", help="Policy; instead of that in --rules.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="EVENTS", help="Write events here; - is stdout.")
    ] = None,
    min_confidence: Annotated[
        Confidence, typer.Option(help="Weakest confidence that is reported.")
    ] = Confidence.LIKELY,
    fail_on: Annotated[
        FailOn | None, typer.Option(help="Exit with 3 when a flow ends flagged.", show_default=False)
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            callback=_as_of,
            help="Judge every flow by this time instead of its packets', such as 2026-03-01T12:00:00Z.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Threads that read; changes no byte of output.")
    ] = 1,
    flow_key: Annotated[
        FlowKey,
        typer.Option(help="What tells flows apart: also VLANs, or the whole path of encapsulations."),
    ] = FlowKey.FIVE_TUPLE,
    sensor: Annotated[str, typer.Option(help="Name of the observation point, for the events.")] = "replay",
) -> None:
    from classifier.events import parse_time
    from classifier.inputs import find
    from classifier.pipeline import Replay, Settings, load_rules

    def run() -> int:
        settings = Settings(
            min_confidence=min_confidence.value,
            flow_key=flow_key.value,
            as_of_ns=None if as_of is None else parse_time(as_of),
            workers=workers,
            sensor=sensor,
        )
        inputs = find(files)
        if output is not None and output != "-":
            _keep_inputs(output, inputs.paths)
        known, judge = load_rules(rules, register, policy)
        if known is None:
            _say_unused(policy is not None, fail_on is not None)
        code, flagged = _replay(Replay(inputs, known, judge, settings), output)
        if code in (DONE, UNREADABLE) and fail_on is FailOn.FLAGGED and flagged:
            return FLAGGED
        return code

    raise typer.Exit(_guarded(run))


@app.command("explain", help=_EXPLAIN_HELP, short_help="Say in words why flows got their verdicts.")
def _explain_command(
    events: Annotated[str, typer.Argument(metavar="EVENTS", show_default=False)],
    flow: Annotated[int | None, typer.Option(metavar="ID", help="Only this flow_id.")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="A", callback=_ip, help="Only flows with this address at an end.")
    ] = None,
) -> None:
    from classifier.explain import explain

    def run() -> int:
        found = False
        for text in explain(events, flow_id=flow, address=address, on_warning=_say):
            print(("\n" if found else "") + text, end="")
            found = True
        if not found:
            _say(f"{events}: no flow fits" if flow is not None or address else f"{events}: no VPN flow")
            return FAILED if flow is not None or address else DONE
        return DONE

    raise typer.Exit(_guarded(run))


def _guarded(run: Callable[[], int]) -> int:
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
        _say(str(error))
        return FAILED
    except OSError as error:
        _say(f"failed: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        # What could not be written must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _replay(run: Replay, output: str | None) -> tuple[int, int]:
    """Exit code and number of flagged flows."""
    from classifier.sinks import Sink
    from classifier.sinks.report import Report

    report = Report()
    sinks: list[Sink] = [report]
    if output is not None:
        from classifier.sinks.jsonl import JsonLines

        sinks.append(JsonLines(output))
    began = time.perf_counter()
    said = 0
    try:
        with _signals(run) as received, _progress(run) as tick:

            def on_poll() -> None:
                nonlocal said
                if output == "-":
                    sinks[-1].flush()
                said = _say_faults(run, said)
                tick()

            for event in run.events(on_poll):
                for sink in sinks:
                    sink.write(event)
    finally:
        for sink in sinks:
            sink.close()
    seconds = time.perf_counter() - began
    _say_faults(run, said)
    if output != "-":
        report.print_flows(_console(sys.stdout.isatty()))
    report.print_summary(
        _console(sys.stderr.isatty(), stderr=True) if output == "-" else _console(sys.stdout.isatty()),
        seconds,
    )
    if run.interrupted:
        return 128 + received[0], report.flagged
    return (UNREADABLE if run.faults else DONE), report.flagged


@contextmanager
def _signals(run: Replay) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM stop the run cleanly; a second one ends the process."""
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        run.stop()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(run: Replay) -> Iterator[Callable[[], None]]:
    """A bar with bytes, packets a second and time left; nothing unless stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(True, stderr=True), transient=True) as progress:
        began = time.perf_counter()
        task = progress.add_task("", total=run.progress()[1], rate="")
        shown = 0.0

        def tick() -> None:
            nonlocal shown
            now = time.perf_counter()
            if now - shown < _PROGRESS_S:
                return
            shown = now
            done, _, frames = run.progress()
            rate = f"{frames / (now - began):,.0f} packets/s"
            name = _printable(Path(run.current or "").name)
            progress.update(task, completed=done, rate=rate, description=name)

        yield tick


def _console(terminal: bool, *, stderr: bool = False) -> Console:
    from rich.console import Console

    width = None if terminal or "COLUMNS" in os.environ else _WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def _keep_inputs(output: str, paths: Sequence[str]) -> None:
    """Refuse to write over what is to be read."""
    if not Path(output).exists():
        return
    for path in paths:
        if path != "-" and Path(path).samefile(output):
            raise typer.BadParameter(f"{output} is one of the captures to be read", param_hint="-o")


def _say_faults(run: Replay, said: int) -> int:
    for fault in run.faults[said:]:
        _say(str(fault))
    return len(run.faults)


def _say_unused(policy: bool, fail_on: bool) -> None:
    """Warn of options that can do nothing without a register."""
    given = [name for name, here in (("--policy", policy), ("--fail-on flagged", fail_on)) if here]
    if given:
        _say(
            f"{' and '.join(given)} without a register (--register or --rules): nothing is looked up: "
            "every verdict is not_evaluated"
        )


def _say(text: str) -> None:
    for line in text.splitlines():
        print(f"vpn-classifier: {_printable(line)}", file=sys.stderr)


def _printable(text: str) -> str:
    """File names may hold anything, also what a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
