"""docs/install.md as it says: its commands in a machine of their own, then the service in trouble.

    make bundle && sudo python3 tests/try_service.py dist/vpn-classifier-*.tar.gz

The machine is namespaces in which systemd is the first process, over a layer of its own above the root file
system of this host: nothing here is changed. It has no network but a veth pair, of which one end plays the
mirror port. Needs root, and systemd, iproute2, util-linux and python3-venv; `.ci/run` calls it. Ends with
status 1 at the first thing that is not as it should be, with the journal.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
UNIT = "vpn-classifier"
EVENTS = "/var/log/vpn-classifier/events.jsonl"
SYSTEM = "/lib/systemd/systemd"
SECURITY_OK = 2.0
"""Exposure, from 0 to 10, that is not to be exceeded; "OK" ends at 5."""
CAP_NET_RAW = 1 << 13
PTRACE_SEIZE, PTRACE_INTERRUPT, WAIT_ALL = 0x4206, 0x4207, 0x4000_0000  # linux/ptrace.h, linux/wait.h
DEADLINE_S = 90.0

BOOT = r"""
set -eu
place=$1
mount --make-rprivate /
mkdir "$place/cgroup" "$place/layers" "$place/root"
mount -t cgroup2 none "$place/cgroup"
mkdir "$place/cgroup/$2"
echo 0 > "$place/cgroup/$2/cgroup.procs"
mount -t tmpfs none "$place/layers"
mkdir "$place/layers/upper" "$place/layers/work"
root=$place/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$place/layers/upper,workdir=$place/layers/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
  touch "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
touch "$root/dev/console"
mount --bind "$place/console" "$root/dev/console"
# Nothing of this host is to be started there, nor its parameters of the kernel to be set.
rm -rf "$root"/etc/systemd/system/* "$root"/{usr/,}lib/systemd/system/*.wants "$root/var/log/journal"
rm -rf "$root"/etc/systemd/system.control "$root"/{etc,usr/lib}/modules-load.d
: > "$root/etc/fstab"
printf '[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service\n' \
  > "$root/etc/systemd/system/try.target"
if [ -n "$3" ]; then
  mkdir -p "$root/opt/python"
  mount --bind "$3" "$root/opt/python"
  # Its shared library, for those who may not look where it was.
  echo /opt/python/lib > "$root/etc/ld.so.conf.d/000-python.conf"
  chroot "$root" /sbin/ldconfig
fi
ip link set lo up
ip link add eth1 type veth peer name gen1
ip link set gen1 addrgenmode none up
cd "$root"
mkdir .host
exec unshare --cgroup sh -c '
  mount -t cgroup2 none sys/fs/cgroup
  pivot_root . .host
  umount --lazy /.host
  exec env -i container=try PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=try.target --show-status=false
'
"""


IMPATIENT = f"""
mkdir -p /etc/systemd/system/{UNIT}.service.d
printf '[Service]\nWatchdogSec=3s\nTimeoutAbortSec=2s\n' > /etc/systemd/system/{UNIT}.service.d/try.conf
systemctl daemon-reload
systemctl restart {UNIT}
"""


WHERE = "import classifier; print(classifier.__file__)"


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not done():
        expect(time.monotonic() < end, f"waited {DEADLINE_S:.0f} s for {what}")
        time.sleep(0.1)


class Machine:
    """Namespaces with a systemd of their own."""

    def __init__(self, place: Path) -> None:
        (place / "console").touch()
        self._group = f"vpn-classifier-try-{os.getpid()}"
        # Homes are hidden from the service, so an interpreter that lives in one gets another place.
        base = Path(sys.base_prefix).resolve()
        is_hidden = base.parts[1:2] in (("root",), ("home",))
        self._path = (
            "/opt/python/bin:" if is_hidden else ""
        ) + "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._process = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"),
                *("bash", "-c", BOOT, "boot", str(place), self._group, str(base) if is_hidden else ""),
            ],
            stdin=subprocess.DEVNULL,
        )
        self._enter: list[str] = []
        until(self._has_booted, "systemd")

    def _has_booted(self) -> bool:
        expect(self._process.poll() is None, "the machine did not start")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children or SYSTEM not in Path(f"/proc/{children[0]}/cmdline").read_text():
            return False
        kinds = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--root")
        self._enter = ["nsenter", "--target", children[0], *kinds]
        return self.try_("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def try_(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": self._path, "HOME": "/root", "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
        return subprocess.run(
            [
                *self._enter,
                "env",
                "--chdir=/",
                "-i",
                *(f"{name}={value}" for name, value in environment.items()),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run(self, *command: str) -> str:
        done = self.try_(*command)
        expect(done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def shown(self, name: str) -> str:
        """A property of the service."""
        return self.run("systemctl", "show", "--value", "--property", name, UNIT).strip()

    def process(self) -> Path:
        """The service's, as this host sees it."""
        first = Path(self._enter[2])
        (group,) = (
            Path(f"/proc/{first}/root/sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs")
            .read_text()
            .split()
        )
        return Path("/proc", group)

    def events(self) -> list[dict[str, Any]]:
        lines = self.try_("cat", EVENTS).stdout.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def journal(self) -> str:
        return self.try_("journalctl", "--no-pager", "--output", "cat", "--unit", f"{UNIT}*").stdout

    def send(self, case: str) -> None:
        """The frames of a case, to the mirror port."""
        sender = (
            "import socket, sys\n"
            "out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
            "out.bind(('gen1', 0))\n"
            "data = open(sys.argv[1], 'rb').read()\n"
            "at = 24\n"
            "while at < len(data):\n"
            "    length = int.from_bytes(data[at + 8:at + 12], 'little')\n"
            "    out.send(data[at + 16:at + 16 + length])\n"
            "    at += 16 + length\n"
        )
        self.run("python3", "-c", sender, str(ROOT / "pcaps" / case / "capture.pcap"))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        # Its processes are on their way out; a group goes when none is left in it.
        removed = 'until find "$1/$2" -depth -type d -exec rmdir {} +; do sleep 0.1; done'
        with tempfile.TemporaryDirectory() as place:
            command = [
                "unshare",
                "--mount",
                "sh",
                "-c",
                f'mount -t cgroup2 none "$1"; {removed}',
                "sh",
                place,
                self._group,
            ]
            subprocess.run(command, stderr=subprocess.DEVNULL, timeout=DEADLINE_S, check=False)


def commands() -> list[str]:
    """The blocks of docs/install.md that are to be pasted."""
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def installed(machine: Machine, archive: Path) -> None:
    """Everything that the page says."""
    machine.run("mkdir", "/root/install")
    machine.run("cp", str(archive), "/root/install/")
    for block in commands():
        print("$ " + block.rstrip().replace("\n", "\n$ "), flush=True)
        if "systemctl enable --now vpn-classifier\n" in block:
            # So that the first event is there when the page comes to it.
            first, rest = block.split("\n", 1)
            print(machine.run("bash", "-euo", "pipefail", "-c", first), end="")
            machine.send("wg-plain-51820")
            until(lambda: any(event["event_type"] == "vpn" for event in machine.events()), "the first event")
            block = rest
        print(machine.run("bash", "-euo", "pipefail", "-c", f"cd /root/install\n{block}"), end="", flush=True)


def installed_whole(machine: Machine) -> None:
    """The program works there, where there is no network and nothing of this repository on its path."""
    case = str(ROOT / "pcaps" / "ovpn-tcp-plain-443")
    rules = machine.run("sh", "-c", "echo /root/install/vpn-classifier-*/rules").strip()
    expect("unregistered" in machine.run(UNIT, "replay", case, "--rules", rules), "a replay")
    expect("AmbientCapabilities" in machine.run(UNIT, "watch", "--help"), "watch --help")
    expect(
        "/opt/vpn-classifier/" in machine.run("/opt/vpn-classifier/bin/python", "-c", WHERE), "another one"
    )
    said = machine.try_("systemd-analyze", "verify", f"{UNIT}.service", f"{UNIT}-port@eth1.service")
    expect((said.returncode, said.stdout + said.stderr) == (0, ""), f"systemd-analyze verify: {said.stderr}")


def confined(machine: Machine) -> None:
    """It runs as its own user, with one capability and its sandbox; what it writes is nobody else's."""
    status = dict(
        line.split(":\t", 1)
        for line in (machine.process() / "status").read_text().splitlines()
        if ":\t" in line
    )
    for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        expect(int(status[kind], 16) == CAP_NET_RAW, f"{kind} {status[kind]}")
    user = machine.run("id", "-u", UNIT).strip()
    expect(set(status["Uid"].split()) == {user} != {"0"}, f"Uid {status['Uid']}")
    expect((status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), "no sandbox")
    expect(
        machine.run("stat", "-c", "%U %G %a", EVENTS).strip() == f"{UNIT} {UNIT} 640",
        "the event file's owner",
    )
    expect("promiscuity 1" in machine.run("ip", "-d", "link", "show", "eth1"), "not promiscuous")
    judged = machine.run("systemd-analyze", "security", "--no-pager", UNIT)
    found = re.search(r"exposure level.*: ([\d.]+)", judged)
    expect(found is not None and float(found[1]) <= SECURITY_OK, judged[-200:])
    print(judged.splitlines()[-1])


def reloaded(machine: Machine) -> None:
    machine.run("systemctl", "reload", UNIT)
    until(lambda: "register" in {event["event_type"] for event in machine.events()}, "a reload")
    until(lambda: machine.shown("ActiveState") == "active", "the reload's end")
    until(lambda: "register serial 1" in machine.shown("StatusText"), "the status line")
    print("status:", machine.shown("StatusText"))


def restarted(machine: Machine, reason: str, harm: Callable[[Path], object]) -> None:
    """What is done to the process has the manager start another one, which works."""
    before, restarts = machine.process(), int(machine.shown("NRestarts"))
    harm(before)
    until(lambda: int(machine.shown("NRestarts")) > restarts, f"a restart: {reason}")
    until(lambda: machine.shown("ActiveState") == "active", "the next process")
    expect(machine.process() != before, "the process is the same")
    seen = len(machine.events())
    machine.send("wg-plain-51820")
    until(lambda: len(machine.events()) > seen, "an event of the next process")
    print("restarted:", reason)


def hang(process: Path) -> None:
    """A thread that captures stops, as a bug or a driver would stop it: the others go on."""
    threads = {int(task.name): (task / "comm").read_text().strip() for task in (process / "task").iterdir()}
    captures = [number for number, name in threads.items() if name.startswith("vpn-capture")]
    held = captures[0] if captures else int(process.name)
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        expect(ptrace(request, held, None, None) == 0, os.strerror(ctypes.get_errno()))
    os.waitpid(held, WAIT_ALL)
    # Who holds a thread is told of its end before anybody else is.
    threading.Thread(target=os.waitpid, args=(held, WAIT_ALL), daemon=True).start()


def stopped(machine: Machine) -> None:
    machine.run("systemctl", "stop", UNIT)
    expect(machine.shown("Result") == "success", machine.shown("Result"))
    last = machine.events()[-1]
    expect((last["event_type"], last["event"]) == ("stats", "ended"), "no last event")


def main(archive: Path) -> int:
    place = Path(tempfile.mkdtemp(prefix="vpn-classifier-try-"))
    machine = None
    try:
        machine = Machine(place)
        installed(machine, archive)
        installed_whole(machine)
        confined(machine)
        reloaded(machine)
        restarted(machine, "it was killed", lambda process: os.kill(int(process.name), signal.SIGKILL))
        machine.run("sh", "-c", IMPATIENT)
        restarted(machine, "a thread that captures hung", hang)
        expect("Watchdog timeout" in machine.journal(), "the watchdog did not bark")
        stopped(machine)
    except AssertionError as fault:
        print(f"\n{fault}\n", file=sys.stderr)
        if machine is not None:
            print(machine.journal()[-5000:], file=sys.stderr)
        return 1
    finally:
        if machine is not None:
            machine.close()
        shutil.rmtree(place, ignore_errors=True)
    print("The service does what docs/install.md says.")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
