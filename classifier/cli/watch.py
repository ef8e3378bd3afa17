"""`vpn-classifier watch`: network interfaces in, events out, until told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from classifier.cli.common import DONE, FAILED, guarded, say, signals
from classifier.cli.options import (
    Confidence,
    FlowKey,
    FlowKeyOption,
    MinConfidence,
    Peel,
    PolicyFile,
    RegisterPath,
    RemoveDuplicates,
    RulesDirectory,
)

if TYPE_CHECKING:
    from classifier.reload import Reloader
    from classifier.watch import Watch

KIB, MIB = 1 << 10, 1 << 20

HELP = """Listen on network interfaces until told to stop: find the VPN flows and say what register and policy
make of them. It sends nothing and blocks nothing.

Events go to standard output or, with -o FILE.jsonl, behind what is in the file. By default only those of
flows that are flagged, or whose verdict changes while they run, are kept (--keep).

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
  vpn-classifier watch -i eth1 --rules rules/ udp or esp or vlan and udp
      only these packets
  vpn-classifier watch -i eth1 --keep all | jq -c '[.event, .src_ip, .dest_ip, .vpn.protocol]'
      which VPN flows are there? (no register: every verdict is not_evaluated)
  sudo setpriv --reuid $(id -u) --regid $(id -g) --init-groups --inh-caps +net_raw --ambient-caps +net_raw \\
      vpn-classifier watch -i eth1 --rules rules/
      as the user that you are, with the one capability

\b
Signals:
  HUP    read --rules, --register and --policy again, and judge running flows anew. Faulty files are refused:
         all stays as it was, and a `register` event says so
  USR2   open the file of -o anew, after it has been moved away
  TERM   (or Ctrl-C) take what has arrived, end the running flows, write their events, stop; a second one
         stops at once, and lines that were written are whole

\b
Sizing: the ring of an interface is memory that is never swapped out. It bridges pauses of this process of its
size divided by the rate (64 MiB: 0.5 s at 1 Gbit/s, 0.05 s at 10 Gbit/s), but no longer than 10 ms for each
of its blocks: the kernel hands one over when it is full or that old. `kernel.dropped` in the last event, and
a line on standard error, tell when it was too small. Leave --snap-length as it is unless copying costs too
much: what lies beyond it is not seen, such as the end of a long handshake. docs/live.md has more.

Standard error says once when the traffic looks one-way, sampled, duplicated or stripped (cut or blank), when
an interface goes or comes back, and which offload joins packets before they are seen.

BPF is an expression of libpcap (man 7 pcap-filter) that selects packets. The kernel leaves the others out and
does not count them. It means the same as `replay --filter` of a file: VLAN tags are in the packets, so `vlan`
has to be said. Names of hosts are looked up in the network: give addresses.

Not yet there: threads for each ring, metrics.

\b
Exit codes: 0 stopped when told, 1 failed, 2 usage.
"""


class Keep(StrEnum):
    """Choices of --keep."""

    FLAGGED = "flagged"
    ALL = "all"


def command(
    interface: Annotated[
        list[str],
        typer.Option(
            "-i", "--interface", metavar="IFACE", show_default=False, help="Listen here; several times."
        ),
    ],
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
            "--outgoing",
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
    ring_size: Annotated[int, typer.Option(min=1, max=4096, help="Ring of each interface, in MiB.")] = 64,
    block_size: Annotated[
        int, typer.Option(min=64, max=16384, help="Block of a ring, in KiB: a power of two.")
    ] = 256,
    snap_length: Annotated[
        int, typer.Option(min=64, max=262_144, help="Bytes of a frame that are looked at.")
    ] = 262_144,
    sensor: Annotated[str, typer.Option(help="Name of the observation point, for the events.")] = "watch",
) -> None:
    from classifier.pipeline import Settings, load_rules
    from classifier.reload import Reloader
    from classifier.watch import Capture, Watch

    def run() -> int:
        known, judge = load_rules(rules, register, policy)
        settings = Settings(
            min_confidence=min_confidence.value,
            flow_key=flow_key.value,
            workers=workers,
            sensor=sensor,
            peel=peel.value,
            remove_duplicates=remove_duplicates,
            filter=" ".join(expression or ()),
        )
        watch = Watch(interface, known, judge, settings, keep.value)
        watch.open(
            Capture(
                snap_length=snap_length,
                block_size=block_size * KIB,
                ring_size=ring_size * MIB,
                outgoing=outgoing,
                promiscuous=promiscuous,
            )
        )
        if known is None and keep is Keep.FLAGGED:
            say("without --register or --rules nothing is flagged: no flow is written without --keep all")
        reloader = None if known is None and judge is None else Reloader(watch, rules, register, policy)
        return _watch(watch, reloader, output, interface, outgoing)

    raise typer.Exit(guarded(run))


def _watch(watch: Watch, reloader: Reloader | None, output: str, names: list[str], outgoing: bool) -> int:
    from classifier.events import VpnLine
    from classifier.interfaces import InterfaceLog, advice
    from classifier.mirror import MirrorLog
    from classifier.reload import reload_text
    from classifier.sinks.jsonl import JsonLines
    from classifier.watch import LossLog

    for line in advice(names, outgoing):
        say(line)
    losses = LossLog(watch, say)
    states = InterfaceLog(names, outgoing, watch.listens, say)
    mirror = MirrorLog(watch.counters, watch.settings, say)
    wanted: set[int] = set()
    handlers = {number: _setter(wanted, number) for number in (signal.SIGHUP, signal.SIGUSR2)}
    sink = JsonLines(output, append=True)
    try:
        with signals(watch.stop, handlers):

            def on_poll() -> None:
                sink.flush()
                losses.tick()
                states.tick()
                mirror.tick()
                if signal.SIGUSR2 in wanted:
                    wanted.discard(signal.SIGUSR2)
                    if output != "-":
                        sink.reopen()
                        sink.write(watch.started())
                if signal.SIGHUP in wanted:
                    wanted.discard(signal.SIGHUP)
                    if reloader is None:
                        say("reload: nothing to read again: no --rules, --register or --policy")
                    else:
                        reloader.request()
                if reloader is not None:
                    reloader.tick()

            for event in watch.lines(on_poll):
                sink.write(event)
                if isinstance(event, VpnLine):
                    continue
                if event["event_type"] == "register":
                    say(reload_text(event))
                elif event["event_type"] == "stats" and event["event"] == "started":
                    sink.flush()  # who waits for the capture to begin sees that it has
                    say(f"listening on {', '.join(names)}")
    finally:
        sink.close()
    losses.tick(last=True)
    mirror.tick(last=True)
    for fault in watch.faults:
        say(str(fault))
    return FAILED if watch.faults else DONE


def _setter(wanted: set[int], number: int) -> Callable[[], None]:
    return lambda: wanted.add(number)
