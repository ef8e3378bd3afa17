"""The programs beside which `vpn-classifier replay` is measured, each in the leanest setting that it offers.

A program that is not installed is named as missing; nothing else changes.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
VPN = ("OpenVPN", "IPsec", "IPSec", "WireGuard")
"""What stays on where a program can switch protocols off, as it spells them."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another program: what it is, and how it is called on a capture."""

    name: str
    version: str
    setting: str
    command: Callable[[Path], Sequence[str]]


def peers() -> tuple[list[Peer], list[str]]:
    """Those that are installed, and of each other one what to install."""
    found = [ndpi(), nfstream()]
    missing = []
    if found[0] is None:
        missing.append("ndpiReader is missing, so it is not compared: apt-get install libndpi-bin")
    if found[1] is None:
        missing.append("nfstream is missing, so it is not compared: .venv/bin/python -m pip install nfstream")
    return [peer for peer in found if peer], missing


def ndpi() -> Peer | None:
    program = shutil.which("ndpiReader")
    if program is None:
        return None
    text = subprocess.run([program, "-H"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"nDPI (\d\S*)", text)
    options, setting = lean(text)

    def command(capture: Path) -> Sequence[str]:
        return [program, "-i", str(capture), *options]

    return Peer("ndpiReader", match[1] if match else "unknown", setting, command)


def lean(help_text: str) -> tuple[list[str], str]:
    """Options of ndpiReader and what they mean: no guess by port; only VPN protocols where it has -B."""
    options = ["-q", "-d"]
    if not re.search(r"^\s*-B all\|proto", help_text, re.MULTILINE):
        return options, "-q -d: no guess by port; this version cannot switch protocols off, so all are on"
    listed = re.findall(r"^\s*(\d+)\s+(?:\d+\s+)?([A-Za-z]\S*)\s", help_text, re.MULTILINE)
    others = [number for number, name in listed if name not in VPN and number != "0"]
    return [*options, "-B", ",".join(others)], "-q -d -B: only OpenVPN, IPsec and WireGuard, no guess by port"


def nfstream() -> Peer | None:
    if importlib.util.find_spec("nfstream") is None:
        return None

    def command(capture: Path) -> Sequence[str]:
        return [sys.executable, str(HERE / "nfstream_loop.py"), str(capture)]

    return Peer("nfstream", version("nfstream"), "one meter, no statistics; all protocols", command)
