"""`make lab`: what it says can be pasted, and does what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import jsonschema
from laboratory import DEADLINE_S, until, until_it_says

from classifier import events as event_schema

VALIDATOR = jsonschema.Draft202012Validator(event_schema.schema())
SCRIPT = Path(__file__).with_name("make_lab.py")
FASTER = "300"
# What is pulled away: the alert, and the sink that it must be about.
ALERTS = {
    "the interface": ("VpnClassifierInterfaceDown", None),
    "the register": ("VpnClassifierReloadFailed", None),
    "the permissions": ("VpnClassifierReloadFailed", None),
    "the disk": ("VpnClassifierSinkFailing", "events"),
    "the process": ("VpnClassifierDown", None),
}


@contextmanager
def laboratory(place: Path) -> Iterator[str]:
    """It runs; what it says."""
    said = place / "said"
    with said.open("wb") as output:
        program = subprocess.Popen(
            [sys.executable, SCRIPT, FASTER],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until_it_says("Pull things away", said, program)
        yield said.read_text()
    finally:
        program.send_signal(signal.SIGINT)
        assert program.wait(DEADLINE_S) == 0, said.read_text()


def paste(command: str, place: Path) -> str:
    """In a shell there; what is printed."""
    # What it starts in the background must not keep this from ending.
    with (place / "pasted").open("wb+") as output:
        done = subprocess.run(
            ["bash", "-c", command], cwd=place, stdout=output, stderr=output, timeout=DEADLINE_S, check=False
        )
        output.seek(0)
        printed = output.read().decode()
    assert done.returncode == 0, (command, printed)
    return printed


def sections(text: str) -> dict[str, str]:
    """By first line, what is indented under it, with joined lines joined."""
    parts = text.replace("\\\n", "").split("\n\n")
    return {head: body for head, _, body in (part.strip("\n").partition("\n") for part in parts)}


def until_alert(port: str, name: str, sink: str | None, *, fires: bool) -> None:
    """Wait until an alert fires, or does not any more."""

    def does() -> bool:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=DEADLINE_S) as answer:
            alerts = json.load(answer)["data"]["alerts"]
        wanted = {"alertname": name} | ({"sink": sink} if sink else {})
        found = [alert["state"] for alert in alerts if wanted.items() <= alert["labels"].items()]
        return ("firing" in found) == fires

    until(does, f"{name} to {'fire' if fires else 'end'}")


def test_what_it_says_can_be_pasted(tmp_path: Path) -> None:
    events = tmp_path / ".make/lab/events.jsonl"
    with laboratory(tmp_path) as text:
        said = sections(text)
        explain, _, metrics, *_ = said["In another terminal, in this directory: look at it"].splitlines()
        assert "no-entry" in paste(explain, tmp_path)
        assert "vpn_classifier_interface_up" in paste(metrics, tmp_path)
        port = text.partition("http://127.0.0.1:")[2].partition("/")[0]

        paste(said["Register 198.51.100.13, and see its verdict change"], tmp_path)
        until(lambda: '"register_serial":2' in events.read_text(), "a verdict by the new register")

        pulling = said["Pull things away, see what is said and which alert fires, and give them back"]
        names = [line[:20].strip() for line in pulling.splitlines()]
        commands = [line[20:] for line in pulling.splitlines()]
        assert set(names[::2]) == set(ALERTS)
        for name, away, back in zip(names[::2], commands[::2], commands[1::2], strict=True):
            paste(away, tmp_path)
            until_alert(port, *ALERTS[name], fires=True)
            paste(back, tmp_path)
            until_alert(port, *ALERTS[name], fires=False)
    assert not running(tmp_path)
    for line in events.read_text().splitlines():
        VALIDATOR.validate(json.loads(line))


def running(place: Path) -> list[str]:
    """Command lines of what still runs there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(place) in line and process.name != str(os.getpid()):
            found.append(line)
    return found
