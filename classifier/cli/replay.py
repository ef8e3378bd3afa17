"""`vpn-classifier replay`: captures in, a table and events out."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from classifier.cli.common import (
    DONE,
    FLAGGED,
    UNREADABLE,
    console,
    guarded,
    keep_inputs,
    printable,
    say,
    signals,
    valid_time,
)
from classifier.cli.options import (
    Confidence,
    FlowKey,
    FlowKeyOption,
    MetricsFile,
    MinConfidence,
    Peel,
    PolicyFile,
    RegisterPath,
    RemoveDuplicates,
    RulesDirectory,
)

if TYPE_CHECKING:
    from classifier.pipeline import Replay
    from classifier.reload import Reloader

_PROGRESS_S = 0.2

HELP = """Replay captures: find the VPN flows and say what register and policy make of them.

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
  vpn-classifier replay captures/ --rules rules/ --metrics-file /var/lib/prometheus/node-exporter/vpn.prom
      leave the counts to the textfile collector of node_exporter
  kill -HUP $PID
      while it runs: read --rules, --register and --policy again, and judge running flows anew; what changes
      gives `changed` events. Faulty files are refused: all stays as it was, and a `register` event says so

\b
Exit codes: 0 done, 1 failed, 2 usage, 3 flagged (with --fail-on flagged), 4 some input could not be read.
"""


class FailOn(StrEnum):
    """Choices of --fail-on."""

    FLAGGED = "flagged"


def command(
    files: Annotated[list[str], typer.Argument(metavar="FILE", show_default=False)],
    rules: RulesDirectory = None,
    register: RegisterPath = None,
    policy: PolicyFile = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="EVENTS", help="Write events here; - is stdout.")
    ] = None,
    min_confidence: MinConfidence = Confidence.LIKELY,
    fail_on: Annotated[
        FailOn | None, typer.Option(help="Exit with 3 when a flow ends flagged.", show_default=False)
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            callback=valid_time,
            help="Judge every flow by this time instead of its packets', such as 2026-03-01T12:00:00Z.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Threads that read; changes no byte of output.")
    ] = 1,
    flow_key: FlowKeyOption = FlowKey.FIVE_TUPLE,
    peel: Annotated[
        Peel,
        typer.Option(
            help="Tunnels over IP (GRE, IP in IP, GTP-U, VXLAN ...) that are opened: the operator's, which "
            "have no end in the policy's [networks]; all; or none."
        ),
    ] = Peel.OPERATOR,
    remove_duplicates: RemoveDuplicates = False,
    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="BPF",
            show_default=False,
            help="Look only at packets that this expression of libpcap selects, such as 'udp port 51820'.",
        ),
    ] = "",
    sensor: Annotated[str, typer.Option(help="Name of the observation point, for the events.")] = "replay",
    metrics_file: MetricsFile = None,
) -> None:
    from classifier.events import parse_time
    from classifier.inputs import find
    from classifier.pipeline import Replay, Settings, load_rules
    from classifier.reload import Reloader

    def run() -> int:
        settings = Settings(
            min_confidence=min_confidence.value,
            flow_key=flow_key.value,
            as_of_ns=None if as_of is None else parse_time(as_of),
            workers=workers,
            sensor=sensor,
            peel=peel.value,
            remove_duplicates=remove_duplicates,
            filter=filter_,
        )
        inputs = find(files)
        if output is not None:
            keep_inputs(output, inputs.paths, "captures")
        known, judge = load_rules(rules, register, policy)
        if known is None:
            _say_unused(policy is not None, fail_on is not None)
        tally = None
        if metrics_file is not None:
            from classifier.metrics.tally import Tally

            tally = Tally(windowed=False)
        replay = Replay(inputs, known, judge, settings, tally=tally)
        reloader = None if known is None else Reloader(replay, rules, register, policy)
        began = time.perf_counter()
        code, flagged = _replay(replay, reloader, output)
        if metrics_file is not None and tally is not None:
            from classifier.metrics.offering import write_replay

            write_replay(metrics_file, replay, tally, time.perf_counter() - began)
        if code in (DONE, UNREADABLE) and fail_on is FailOn.FLAGGED and flagged:
            return FLAGGED
        return code

    raise typer.Exit(guarded(run))


def _replay(run: Replay, reloader: Reloader | None, output: str | None) -> tuple[int, int]:
    """Exit code and number of flagged flows."""
    from classifier.events import VpnLines
    from classifier.reload import reload_text
    from classifier.screen import Screen
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
        reload = {} if reloader is None else {signal.SIGHUP: reloader.request}
        with signals(run.stop, reload) as received, _progress(run) as tick:

            def on_poll() -> None:
                nonlocal said
                if output == "-":
                    sinks[-1].flush()
                said = _say_faults(run, said)
                if reloader is not None:
                    reloader.tick()
                tick()

            for event in run.blocks(on_poll):
                if not isinstance(event, VpnLines) and event["event_type"] == "register":
                    say(reload_text(event))
                for sink in sinks:
                    sink.write(event)
    finally:
        for sink in sinks:
            sink.close()
    seconds = time.perf_counter() - began
    _say_faults(run, said)
    if output != "-":
        report.print_flows(Screen.of(sys.stdout))
    report.print_summary(Screen.of(sys.stderr if output == "-" else sys.stdout), seconds)
    if run.interrupted:
        return 128 + received[0], report.flagged
    return (UNREADABLE if run.faults else DONE), report.flagged


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
    with Progress(*columns, console=console(True, stderr=True), transient=True) as progress:
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
            name = printable(Path(run.current or "").name)
            progress.update(task, completed=done, rate=rate, description=name)

        yield tick


def _say_faults(run: Replay, said: int) -> int:
    for fault in run.faults[said:]:
        say(str(fault))
    return len(run.faults)


def _say_unused(policy: bool, fail_on: bool) -> None:
    """Warn of options that can do nothing without a register."""
    given = [name for name, here in (("--policy", policy), ("--fail-on flagged", fail_on)) if here]
    if given:
        say(
            f"{' and '.join(given)} without a register (--register or --rules): nothing is looked up: "
            "every verdict is not_evaluated"
        )
