"""`make lab`: the laboratory of the tests, kept running, and what to look at and to pull away, to be pasted.

Register, policy, events, logs and scripts are in a directory of its own, `.make/lab`, which is made anew. All
that runs in it ends with it, also what was started there by hand.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab import LATE, LEAST, METRICS, OTHER_PROTOCOL, REGISTERED, UNREGISTERED, Lab
from laboratory import Laboratory, until, until_it_says
from prometheus_server import Prometheus, compressed

RULES = Path(__file__).resolve().parents[1] / "deploy/prometheus/vpn-classifier.rules.yml"
PLACE = Path(".make/lab")
PORT = 9090
# A minute of the alerts' time is a second here; `make_lab.py 300`: less.
FASTER = 60

TEXT = """
Real VPN programs on both sides of an edge router, and a sensor on a mirror of what passes there. All of it
is in network namespaces, and goes when you press Ctrl-C.

  198.51.100.11  WireGuard                     registered
  198.51.100.12  OpenVPN over UDP, tls-crypt   not registered
  198.51.100.13  IPsec, IKEv2                  not registered
  198.51.100.14  OpenVPN over TCP              registered, for WireGuard

In another terminal, in this directory: look at it
  {cli} explain {place}/events.jsonl --address 198.51.100.12
  tail -f {place}/events.jsonl {place}/watch.log
  {place}/in-sensor curl -s {metrics}/metrics | grep -v '^#' | grep -v ' 0.0$'
  http://127.0.0.1:{port}/alerts, or: promtool query instant http://127.0.0.1:{port} ALERTS
      (alerts come {faster} times as fast here)

Register 198.51.100.13, and see its verdict change
  {cli} register import {place}/feed-2.csv --source laboratory --complete --db {place}/register.db \\
      --serial 2 --issued-at $(date -u +%FT%TZ) --next-update $(date -u -d '+7 days' +%FT%TZ)
  kill -HUP $(cat {place}/watch.pid)

Pull things away, see what is said and which alert fires, and give them back
  the interface     {place}/in-sensor ip link delete tap0
                    {place}/mirror
  the register      mv {place}/register.db {place}/aside.db; kill -HUP $(cat {place}/watch.pid)
                    mv {place}/aside.db {place}/register.db; kill -HUP $(cat {place}/watch.pid)
  the permissions   chmod 0 {place}/register.db; kill -HUP $(cat {place}/watch.pid)
                    chmod 640 {place}/register.db; kill -HUP $(cat {place}/watch.pid)
  the disk          prlimit --pid $(cat {place}/watch.pid) --fsize=1:; kill -HUP $(cat {place}/watch.pid)
                    prlimit --pid $(cat {place}/watch.pid) --fsize=unlimited
  the process       kill -9 $(cat {place}/watch.pid)
                    {place}/watch &
"""


def main() -> None:
    # Shells start what runs in their background without it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    try:
        with ExitStack() as ending:
            _run(ending, int(sys.argv[1]) if len(sys.argv) > 1 else FASTER)
    except KeyboardInterrupt:
        print()
    except (AssertionError, pytest.fail.Exception) as error:
        sys.exit(f"make lab: {error}")


def _run(ending: ExitStack, faster: int) -> None:
    PLACE.parent.mkdir(exist_ok=True)
    lock = ending.enter_context(PLACE.with_suffix(".lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"make lab: it already runs in {PLACE}")
    if PLACE.exists():
        shutil.rmtree(PLACE)
    PLACE.mkdir()
    sensor = Laboratory()
    ending.callback(sensor.close)
    lab = Lab(sensor, PLACE.resolve())
    ending.callback(lab.close)
    lab.feed("feed-2.csv", {REGISTERED: "", OTHER_PROTOCOL: "wireguard", LATE: ""})
    _write_scripts(lab)
    ending.callback(_end_watch, sensor)
    watch = subprocess.Popen([PLACE / "watch"], stdin=subprocess.DEVNULL, process_group=0)
    until_it_says("listening on", PLACE / "watch.log", watch)
    prometheus = Prometheus(
        PLACE.resolve() / "prometheus",
        {"vpn-classifier": [METRICS]},
        rules=[
            compressed(RULES, PLACE.resolve(), by=faster, at_least_s=240 / faster, at_most_s=3600 / faster)
        ],
        interval=f"{max(200, 12_000 // faster)}ms",
        enter=sensor.enter,
    )
    ending.enter_context(prometheus)
    port = _relay(sensor, prometheus.address)
    lab.open_tunnels(REGISTERED, UNREGISTERED, LATE, OTHER_PROTOCOL)
    for tunnel in lab.tunnels.values():
        lab.network.keep_talking(tunnel)
    cli = os.path.relpath(Path(sys.executable).with_name("vpn-classifier"))
    print(TEXT.format(place=PLACE, port=port, metrics=METRICS, cli=cli, faster=faster), flush=True)
    signal.pause()


def _write_scripts(lab: Lab) -> None:
    """What the text names."""
    sensor = shlex.join(lab.network.sensor.enter)
    watch = shlex.join([*LEAST, sys.executable, "-m", "classifier", "watch", *lab.watched()])
    pid, log = (shlex.quote(str(lab.place / name)) for name in ("watch.pid", "watch.log"))
    for name, lines in (
        ("in-sensor", [f'exec {sensor} "$@"']),
        ("mirror", map(shlex.join, lab.network.mirror_commands())),
        ("watch", [f"echo $$ > {pid}", f"exec {sensor} {watch} 2>> {log}"]),
    ):
        script = lab.place / name
        script.write_text("\n".join(["#!/bin/sh -e", *lines, ""]))
        script.chmod(0o755)


def _relay(sensor: Laboratory, address: str) -> int:
    """Let Prometheus be reached from this host, too; the port."""
    try:
        listening = socket.create_server(("127.0.0.1", PORT))
    except OSError:  # somebody else has it
        listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        relay = str(Path(__file__).with_name("relay.py"))
        sensor.start(
            *(sys.executable, relay, str(listening.fileno()), address),
            stderr=PLACE / "relay.stderr",
            keep=[listening.fileno()],
        )
        port: int = listening.getsockname()[1]
    return port


def _end_watch(sensor: Laboratory) -> None:
    """The one that runs: it may have been started by hand."""
    number = (PLACE / "watch.pid").read_text().strip()
    here = Path(f"/proc/{sensor.pid}/ns/net").readlink()

    def has_ended() -> bool:
        try:
            return Path(f"/proc/{number}/ns/net").readlink() != here
        except OSError:
            return True

    if not has_ended():
        os.kill(int(number), signal.SIGTERM)
    until(has_ended, "watch to end")


if __name__ == "__main__":
    main()
