"""A laboratory to try it in: an edge router with real VPN programs on both sides, and a sensor on a mirror.

Four tunnels, each of a subscriber of its own: one registered, one registered for another protocol, two not
registered. Tests run it, and `make lab` keeps it running and says what can be done with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemons import openvpn, strongswan, wireguard
from laboratory import DEADLINE_S, Laboratory, Network, Tunnel

RULES = Path(__file__).resolve().parents[1] / "rules"
REGISTERED, UNREGISTERED, LATE, OTHER_PROTOCOL = 11, 12, 13, 14
# Root, but with the one capability that listening needs: nothing is read or written in spite of its mode.
LEAST = ("setpriv", "--bounding-set", "-all,+net_raw", "--no-new-privs")
TOOLS = ("tc", *wireguard.TOOLS, *openvpn.TOOLS, *strongswan.TOOLS)
METRICS = "127.0.0.1:9469"  # in the sensor's namespace


def missing() -> list[str]:
    """What it needs of this host and is not there."""
    tools = [tool for tool in TOOLS if shutil.which(tool) is None and not Path(tool).exists()]
    device = Path("/dev/net/tun")
    return tools if os.access(device, os.R_OK | os.W_OK) else [*tools, f"the right to open {device}"]


class Lab:
    """All of it, and the register and policy that belong to it."""

    def __init__(self, sensor: Laboratory, place: Path) -> None:
        lacking = missing()
        assert not lacking, f"missing: {', '.join(lacking)} (.ci/run installs what tests need)"
        self.place = place
        self.db, self.policy = place / "register.db", place / "policy.toml"
        self.events = place / "events.jsonl"
        # The shipped policy, which waits with a flag for the next register; here there may be none.
        shipped = (RULES / "policy.toml").read_text()
        immediately = shipped.replace(
            'unregistered_after = "next_register"', 'unregistered_after = "immediately"'
        )
        assert immediately != shipped
        self.policy.write_text(immediately)
        self._serial = 0
        self._filed = {OTHER_PROTOCOL: "wireguard"}
        self.register(REGISTERED)
        self.network = Network(sensor, place)
        sensor.run("ip", "link", "set", "lo", "up")
        self.tunnels: dict[int, Tunnel] = {}

    def register(self, number: int, protocols: str = "") -> None:
        """Import a complete feed that also has this subscriber."""
        self._filed[number] = protocols
        self._serial += 1
        now = datetime.now(UTC)
        command(
            *("register", "import", str(self.feed("feed.csv", self._filed)), "--source", "laboratory"),
            *("--complete", "--db", str(self.db), "--serial", str(self._serial)),
            *("--issued-at", f"{now:%Y-%m-%dT%H:%M:%SZ}"),
            *("--next-update", f"{now + timedelta(days=7):%Y-%m-%dT%H:%M:%SZ}"),
        )

    def feed(self, name: str, filed: Mapping[int, str]) -> Path:
        """A file with these subscribers, and the protocols that each filed."""
        file = self.place / name
        file.write_text(
            "entry_id,kind,category,prefix,side,endpoints,protocols,valid_from,valid_until,status,status_since\n"
            + "".join(
                f"R-{number},vpn_registration,software_house,198.51.100.{number}/32,subscriber,,{protocols},"
                "2026-01-01,,approved,2026-01-01\n"
                for number, protocols in filed.items()
            )
        )
        return file

    def watch(self) -> subprocess.Popen[bytes]:
        """`vpn-classifier watch` on the mirror."""
        return self.network.sensor.watch(*self.watched(), stderr=self.place / "watch.log", under=LEAST)

    def watched(self) -> tuple[str, ...]:
        """What it is told."""
        return (
            *("-i", "tap0", "--register", str(self.db), "--policy", str(self.policy)),
            *("--keep", "all", "-o", str(self.events), "--metrics", METRICS),
        )

    def open_tunnels(self, *numbers: int) -> None:
        """Those of these subscribers, and something in each."""
        for number in numbers:
            if number == REGISTERED:
                tunnel = self.network.tunnel("wireguard", number)
                wireguard.open_tunnel(tunnel, self.place)
            elif number == LATE:
                tunnel = self.network.tunnel("ikev2", number)
                strongswan.open_tunnel(tunnel, self.place)
            else:
                proto = "udp" if number == UNREGISTERED else "tcp"
                tunnel = self.network.tunnel(f"ovpn-{proto}", number)
                openvpn.open_tunnel(tunnel, self.place, proto)
            self.tunnels[number] = tunnel
            self.talk(number)

    def talk(self, number: int, count: int = 10) -> None:
        """So many datagrams through the tunnel of a subscriber, and as many answers."""
        self.network.talk(self.tunnels[number], count)

    def log(self) -> str:
        """What `watch` has said."""
        return (self.place / "watch.log").read_text()

    def close(self) -> None:
        """End what runs in it, but for the sensor."""
        self.network.close()


def command(*arguments: str) -> str:
    """A command of `vpn-classifier` that ends by itself; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "classifier", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout
