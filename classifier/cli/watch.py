"""`vpn-classifier watch`: network interfaces in, events out, until told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from classifier.cli.common import (
    DONE,
    FAILED,
    guarded,
    say,
    signals,
    valid_duration,
    valid_listen_address,
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
from classifier.cli.settings import dump, expression_of, read
from classifier.errors import ClassifierError
from classifier.logs import Form, Level, Log

if TYPE_CHECKING:
    from classifier.ledger import LedgerWriter
    from classifier.metrics.offering import Offering, Wanted
    from classifier.preflight import Preflight
    from classifier.reload import Reloader
    from classifier.sinks.queued import QueuedLines
    from classifier.watch import Capture, Watch

KIB, MIB = 1 << 10, 1 << 20

HELP = """Listen on network interfaces until told to stop: find the VPN flows and say what register and policy
make of them. It sends nothing and blocks nothing.

Events go to standard output or, with -o FILE.jsonl, behind what is in the file. By default only those of
flows that are flagged, or whose verdict changes while they run, are kept (--keep). Beside them FILE-ledger/
gets a small file a day: which entries of the register were seen, with what and how much, without addresses.
`register health` reads both.

It needs the capability CAP_NET_RAW, for which nobody has to be root: see the examples, or say
AmbientCapabilities=CAP_NET_RAW in a systemd unit.

\b
Examples:
  vpn-classifier interfaces
      what is there to listen on?
  vpn-classifier watch -i eth1 --rules rules/ -o events.jsonl
      a mirror port, against rules/register.csv and rules/policy.toml
  vpn-classifier watch -i eth1 -i eth2 --register REGISTER.db --policy policy.toml -o events.jsonl
      a tap with one port for each direction
  vpn-classifier watch -i eth1 --rules rules/ -o events.jsonl --metrics 127.0.0.1:9469
      with a page for Prometheus: /metrics, /-/healthy, /-/ready
  vpn-classifier watch -i eth1 --rules rules/ udp or esp or vlan and udp
      only these packets
  vpn-classifier watch -i eth1 --keep all | jq -c '[.event, .src_ip, .dest_ip, .vpn.protocol]'
      which VPN flows are there? (no register: every verdict is not_evaluated)
  vpn-classifier watch -i eth1 --rules rules/ -o events.jsonl --rotate-every 1d --retain 90d
      a new file each day; what was rotated 90 days ago is deleted
  vpn-classifier watch -i eth1 --rules rules/ -o events.jsonl --dump-config > watch.toml
  vpn-classifier watch --config watch.toml --check-config
  vpn-classifier watch --config watch.toml
      the same settings, and all others, from a file; what would not work is said before it begins
  sudo setpriv --reuid $(id -u) --regid $(id -g) --init-groups --inh-caps +net_raw --ambient-caps +net_raw \\
      vpn-classifier watch -i eth1 --rules rules/
      as the user that you are, with the one capability

\b
Signals:
  HUP    read --rules, --register and --policy again, and judge running flows anew. Faulty files are refused:
         all stays as it was, and a `register` event says so
  USR2   open the file of -o anew, after it has been moved away (logrotate)
  TERM   (or Ctrl-C) take what has arrived, end the running flows, write their events, stop; a second one
         stops at once. What a killed process left of a line, the next one cuts off

Files: the current file keeps its name; a rotated one has the time of its rotation in it (UTC), as in
events-20261123T000000.012Z.jsonl, so that `events*.jsonl` is in order. Each begins with a `stats` event.
What cannot be written, since the disk is full or nobody reads, waits in memory (--queue-size) and is tried
again for as long as it takes; what that has no room for is counted, and a `gap` event says what is missing.

\b
Sizing: a ring is memory that is never swapped out. It bridges pauses of this process of its size divided by
the rate (64 MiB: 0.5 s at 1 Gbit/s, 0.05 s at 10 Gbit/s), but no longer than 10 ms for each of its blocks:
the kernel hands one over when it is full or that old. `kernel.dropped` in the last event, and a line on
standard error, tell when it was too small. With --threads N an interface has N rings, and each thread one of
every interface: all packets of a pair of addresses come through one of them. Leave --snap-length as it is
unless copying costs too much: what lies beyond it is not seen, such as the end of a long handshake.
docs/live.md has more.

Standard error says once when the traffic looks one-way, sampled, duplicated or stripped (cut or blank), when
an interface goes or comes back, and which offload joins packets before they are seen.

BPF is an expression of libpcap (man 7 pcap-filter) that selects packets. The kernel leaves the others out and
does not count them. It means the same as `replay --filter` of a file: VLAN tags are in the packets, so `vlan`
has to be said. Names of hosts are looked up in the network: give addresses.

\b
Exit codes: 0 stopped when told, 1 failed, 2 usage.
"""


class Keep(StrEnum):
    """Choices of --keep."""

    FLAGGED = "flagged"
    ALL = "all"


def read_config(context: typer.Context, path: str | None) -> str | None:
    """The settings of a file become what options have when they are not given."""

    def run() -> int:
        context.default_map = read(context, path or "")
        return DONE

    if path is not None and (code := guarded(run)) != DONE:
        raise typer.Exit(code)
    return path


def command(
    context: typer.Context,
    interface: Annotated[
        list[str] | None,
        typer.Option(
            "-i", "--interface", metavar="IFACE", show_default=False, help="Listen here; several times."
        ),
    ] = None,
    expression: Annotated[list[str] | None, typer.Argument(metavar="[BPF]...", show_default=False)] = None,
    rules: RulesDirectory = None,
    register: RegisterPath = None,
    policy: PolicyFile = None,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="EVENTS", help="Append events here; - is stdout.")
    ] = "-",
    keep: Annotated[
        Keep, typer.Option(help="Events of flows that are flagged or change their verdict, or all.")
    ] = Keep.FLAGGED,
    min_confidence: MinConfidence = Confidence.LIKELY,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Threads that look at packets.")] = 1,
    flow_key: FlowKeyOption = FlowKey.FIVE_TUPLE,
    peel: Annotated[
        Peel, typer.Option(help="Tunnels over IP that are opened, as in `replay`.")
    ] = Peel.OPERATOR,
    remove_duplicates: RemoveDuplicates = False,
    outgoing: Annotated[
        bool,
        typer.Option(
            "--outgoing/--no-outgoing",
            help="Also look at frames that this host sends there: a router's own interface, or one that tc "
            "mirrors to. Otherwise they are counted (ignored.outgoing).",
        ),
    ] = False,
    promiscuous: Annotated[
        bool,
        typer.Option(
            "--promiscuous/--no-promiscuous", help="Have the card take frames to other stations, too."
        ),
    ] = True,
    threads: Annotated[
        int,
        typer.Option(
            min=1,
            max=16,
            help="Threads that take packets from the kernel: each has a ring of every interface.",
        ),
    ] = 1,
    ring_size: Annotated[int, typer.Option(min=1, max=4096, help="A ring, in MiB.")] = 64,
    block_size: Annotated[
        int, typer.Option(min=64, max=16384, help="Block of a ring, in KiB: a power of two.")
    ] = 256,
    snap_length: Annotated[
        int, typer.Option(min=64, max=262_144, help="Bytes of a frame that are looked at.")
    ] = 262_144,
    sensor: Annotated[str, typer.Option(help="Name of the observation point, for the events.")] = "watch",
    rotate_size: Annotated[
        int, typer.Option(metavar="MIB", min=0, help="Begin a new event file from this size on; 0: never.")
    ] = 0,
    rotate_every: Annotated[
        str,
        typer.Option(
            metavar="DURATION", callback=valid_duration, help="Begin one each period, such as 1d; 0s: never."
        ),
    ] = "0s",
    retain: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            callback=valid_duration,
            help="Delete rotated files older than that; 0s: never.",
        ),
    ] = "0s",
    retain_size: Annotated[
        int,
        typer.Option(metavar="MIB", min=0, help="Delete the oldest while all are larger together; 0: never."),
    ] = 0,
    queue_size: Annotated[
        int, typer.Option(metavar="MIB", min=1, max=4096, help="Events that may wait for the disk.")
    ] = 64,
    ledger: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Daily ledgers go here.", show_default="beside EVENTS: NAME-ledger"),
    ] = None,
    ledger_retain: Annotated[
        str,
        typer.Option(
            metavar="DURATION", callback=valid_duration, help="Delete ledgers older than that; 0s: never."
        ),
    ] = "400d",
    log_format: Annotated[Form, typer.Option(help="How standard error is written.")] = Form.TEXT,
    log_level: Annotated[
        Level, typer.Option(help="The least that is logged; addresses only with debug.")
    ] = Level.INFO,
    _config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            is_eager=True,
            callback=read_config,
            help="Settings in TOML; options come before them.",
        ),
    ] = None,
    check_config: Annotated[
        bool, typer.Option("--check-config", help="Say what would not work, and stop.")
    ] = False,
    dump_config: Annotated[
        bool, typer.Option("--dump-config", help="Write all settings as a FILE for --config, and stop.")
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            show_default=False,
            callback=valid_listen_address,
            help="Offer /metrics to Prometheus here, such as 127.0.0.1:9469 or [::1]:9469; beside it "
            "/-/healthy and /-/ready.",
        ),
    ] = None,
    metrics_cert: Annotated[
        str | None,
        typer.Option(metavar="FILE", show_default=False, help="Certificate (PEM): /metrics over TLS only."),
    ] = None,
    metrics_key: Annotated[
        str | None, typer.Option(metavar="FILE", show_default=False, help="Its key (PEM).")
    ] = None,
    metrics_client_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Issuers (PEM), of one of which a client must show a certificate.",
        ),
    ] = None,
    metrics_file: MetricsFile = None,
) -> None:
    if dump_config:
        for line in dump(context):
            print(line)
        return
    if not interface:
        raise typer.BadParameter(
            "name an interface to listen on; `vpn-classifier interfaces` lists them", param_hint="-i"
        )
    if (metrics_cert is None) != (metrics_key is None) or (metrics_client_ca and not metrics_cert):
        raise typer.BadParameter(
            "--metrics-cert and --metrics-key come together, --metrics-client-ca with both",
            param_hint="--metrics-cert",
        )
    if metrics_cert and not metrics:
        raise typer.BadParameter("needs --metrics HOST:PORT", param_hint="--metrics-cert")
    log = Log(log_format, log_level)
    filter = expression_of(context, expression)

    def capture() -> Capture:
        from classifier.watch import Capture

        return Capture(
            threads=threads,
            snap_length=snap_length,
            block_size=block_size * KIB,
            ring_size=ring_size * MIB,
            outgoing=outgoing,
            promiscuous=promiscuous,
        )

    def offered() -> Wanted:
        from classifier.metrics.offering import Wanted

        tls = None
        if metrics_cert is not None and metrics_key is not None:
            from classifier.metrics.server import Tls

            tls = Tls(metrics_cert, metrics_key, metrics_client_ca)
        return Wanted(metrics, tls, metrics_file)

    if check_config:
        from classifier.preflight import Preflight

        preflight = Preflight(
            interface, filter, rules, register, policy, output, ledger, capture(), offered()
        )
        raise typer.Exit(guarded(lambda: _report(preflight)))

    def run() -> int:
        from classifier.ledger import LedgerWriter, ledger_place
        from classifier.metrics.offering import Offering
        from classifier.pipeline import Settings, load_rules
        from classifier.policy_file import duration_ns
        from classifier.reload import Reloader
        from classifier.sinks.queued import Queue, QueuedLines
        from classifier.sinks.rotating import RotatingFile, Rotation
        from classifier.watch import Watch

        offering = Offering(offered())
        known, judge = load_rules(rules, register, policy)
        settings = Settings(
            min_confidence=min_confidence.value,
            flow_key=flow_key.value,
            workers=workers,
            sensor=sensor,
            peel=peel.value,
            remove_duplicates=remove_duplicates,
            filter=filter,
        )
        rotation = Rotation(
            rotate_size * MIB, duration_ns(rotate_every), duration_ns(retain), retain_size * MIB
        )
        watch = Watch(interface, known, judge, settings, keep.value, tally=offering.tally)
        watch.open(capture())
        if known is None and keep is Keep.FLAGGED:
            log.warning(
                "start",
                "without --register or --rules nothing is flagged: no flow is written without --keep all",
            )
        if (rotation.retain_ns or rotation.retain_size) and not (rotation.size or rotation.every_ns):
            log.warning(
                "start", "--retain deletes what --rotate-size or --rotate-every made: nothing is rotated"
            )
        reloader = None if known is None and judge is None else Reloader(watch, rules, register, policy)
        place = ledger_place(output, ledger)
        if place is None:
            log.info("ledger", "no ledger is kept: --ledger DIR keeps one")
        sink = QueuedLines(RotatingFile(output, rotation), Queue(queue_size * MIB), log)
        writer = None if place is None else LedgerWriter(place, sensor, duration_ns(ledger_retain), log)
        return _watch(watch, reloader, sink, writer, log, interface, outgoing, offering)

    def logged() -> int:
        # What keeps a run from beginning is said as the rest of its log is.
        try:
            return run()
        except ClassifierError as error:
            log.error("start", str(error))
            return FAILED

    raise typer.Exit(guarded(logged))


def _report(preflight: Preflight) -> int:
    faults = list(preflight.faults())
    for fault in faults:
        say(fault)
    if not faults:
        print(preflight.summary())
    return FAILED if faults else DONE


def _watch(
    watch: Watch,
    reloader: Reloader | None,
    sink: QueuedLines,
    ledger: LedgerWriter | None,
    log: Log,
    names: list[str],
    outgoing: bool,
    offering: Offering,
) -> int:
    from classifier.events import VpnLine
    from classifier.interfaces import InterfaceLog, advice
    from classifier.mirror import MirrorLog
    from classifier.notify import Manager
    from classifier.reload import reload_text
    from classifier.watch import LossLog

    for line in advice(names, outgoing):
        log.warning("interfaces", line)
    watch.attach(sink, ledger)
    losses = LossLog(watch, lambda text: log.warning("loss", text))
    states = InterfaceLog(names, outgoing, watch.listens, lambda text: log.warning("interface", text))
    mirror = MirrorLog(watch.counters, watch.settings, lambda text: log.warning("mirror", text))
    manager = Manager()

    def on_stop() -> None:
        manager.stopping()
        watch.stop()

    wanted: set[int] = set()
    handlers = {number: _setter(wanted, number) for number in (signal.SIGHUP, signal.SIGUSR2)}
    left = 0
    try:
        offering.begin(watch, watch.sinks, mirror.suspected, lambda text: log.warning("metrics", text))
        with signals(on_stop, handlers):

            def on_poll() -> None:
                sink.check()
                losses.tick()
                states.tick()
                mirror.tick()
                log.tick()
                manager.tick(watch.turns, watch.status)
                if signal.SIGUSR2 in wanted:
                    wanted.discard(signal.SIGUSR2)
                    sink.reopen()
                if signal.SIGHUP in wanted:
                    wanted.discard(signal.SIGHUP)
                    manager.reloading()
                    if reloader is None:
                        log.warning("reload", "nothing to read again: no --rules, --register or --policy")
                        manager.ready()
                    else:
                        reloader.request()
                if reloader is not None:
                    reloader.tick()
                offering.tick()

            for event in watch.lines(on_poll):
                sink.write(event)
                if isinstance(event, VpnLine):
                    continue
                if event["event_type"] == "register":
                    log.info("reload", reload_text(event))
                    manager.ready()
                elif event["event_type"] == "stats" and event["event"] == "started":
                    sink.flush()  # who waits for the capture to begin sees that it has
                    log.info("start", f"listening on {', '.join(names)}")
                    manager.ready()
            sink.check()
            left = _close(sink, ledger)
    finally:
        _close(sink, ledger)
        offering.close()
        states.close()
    losses.tick(last=True)
    mirror.tick(last=True)
    if left:
        log.error("stop", f"{left:,} lines could not be written, and are lost")
    for fault in watch.faults:
        log.error("stop", str(fault))
    log.tick(last=True)
    return FAILED if watch.faults or left else DONE


def _close(sink: QueuedLines, ledger: LedgerWriter | None) -> int:
    """Write what is left; how many lines could not be."""
    before = sink.counters().lost_lines
    sink.close()
    if ledger is not None:
        ledger.close()
    return sink.counters().lost_lines - before


def _setter(wanted: set[int], number: int) -> Callable[[], None]:
    return lambda: wanted.add(number)
