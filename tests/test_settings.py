"""`watch --config`, `--dump-config`, `--check-config`."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pcap_cases import repository

from classifier import cli
from classifier.cli.settings import KEYS
from classifier.cli.watch import command

RULES = str(repository() / "rules")
NO_SETTINGS = {"context", "_config", "check_config", "dump_config"}


def watch(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["watch", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def dumped(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a dump, and where each line says that it comes from."""
    assert watch("--dump-config", *arguments) == 0
    text = capfd.readouterr().out
    origins = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "  # " in line:
            key = line.removeprefix("# ").split(" = ")[0].split(" is ")[0]
            origins[f"{section}.{key}"] = line.rpartition("  # ")[2]
    return tomllib.loads(text), origins


def save(folder: Path, text: str) -> str:
    path = folder / "watch.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_option_is_a_setting() -> None:
    assert set(inspect.signature(command).parameters) - NO_SETTINGS == set(KEYS)
    assert len(set(KEYS.values())) == len(KEYS)


def test_a_dump_holds_every_setting_with_its_origin(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = save(
        tmp_path,
        '[capture]\ninterfaces = ["eth1", "eth2"]\nfilter = "udp or esp"\nring_size = 128\n'
        '[events]\noutput = "from the file.jsonl"\nrotate_every = "1d"\nkeep = "all"\n'
        '[log]\nformat = "journal"\n',
    )
    values, origins = dumped(
        capfd, "--config", file, "--ring-size", "32", "--no-promiscuous", "-o", 'a "b"\\c\x7f'
    )
    assert set(origins) == set(KEYS.values())
    assert values["capture"] == {
        "interfaces": ["eth1", "eth2"],
        "filter": "udp or esp",
        "outgoing": False,
        "promiscuous": False,
        "threads": 1,
        "ring_size": 32,
        "block_size": 256,
        "snap_length": 262_144,
    }
    assert (values["events"]["output"], values["events"]["keep"]) == ('a "b"\\c\x7f', "all")
    assert {key for key, origin in origins.items() if origin == "command line"} == {
        "capture.ring_size",
        "capture.promiscuous",
        "events.output",
    }
    assert {key for key, origin in origins.items() if origin == "file"} == {
        "capture.interfaces",
        "capture.filter",
        "events.rotate_every",
        "events.keep",
        "log.format",
    }
    assert set(origins.values()) == {"command line", "file", "default"}


def test_a_dump_is_a_file_that_gives_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "-i",
        "eth1",
        "-i",
        "eth2",
        "--rules",
        "r",
        "--retain",
        "90d",
        "--remove-duplicates",
        "udp",
        "or",
        "ah",
    ]
    first, _ = dumped(capfd, *arguments)
    watch("--dump-config", *arguments)
    file = save(tmp_path, capfd.readouterr().out)
    second, origins = dumped(capfd, "--config", file)
    assert second == first
    assert set(origins.values()) == {"file", "default"}
    # A file and no option, and the other way round.
    third, _ = dumped(capfd, "--config", file, "--no-remove-duplicates", "-i", "eth3", "esp")
    assert third["flows"]["remove_duplicates"] is False
    assert (third["capture"]["interfaces"], third["capture"]["filter"]) == (["eth3"], "esp")


def test_the_defaults_are_a_file_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, origins = dumped(capfd)
    assert set(origins.values()) == {"default"}
    second, _ = dumped(capfd, "--config", save(tmp_path, "\n"))
    assert first == second


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "[capture]\ninterface = []\n",
            ":2: capture.interface: found an unknown key; expected the key 'interfaces'",
        ),
        ("[evnts]\n", ":1: evnts: found an unknown key; expected the key 'events'"),
        ("[capture]\nring_size = 0\n", ":2: capture.ring_size: found 0; expected 0 is not in the range"),
        ('[capture]\nring_size = "64"\n', ":2: capture.ring_size: found '64'; expected a whole number"),
        ("[capture]\nring_size = true\n", ":2: capture.ring_size: found true; expected a whole number"),
        ("[capture]\noutgoing = 1\n", ":2: capture.outgoing: found 1; expected true or false"),
        (
            '[capture]\ninterfaces = "eth1"\n',
            ":2: capture.interfaces: found 'eth1'; expected an array of texts",
        ),
        (
            "[capture]\ninterfaces = [1]\n",
            ":2: capture.interfaces: found an array; expected an array of texts",
        ),
        ("[capture]\nfilter = 5\n", ":2: capture.filter: found 5; expected text"),
        ('[events]\nkeep = "some"\n', ":2: events.keep: found 'some'; expected 'some' is not one of"),
        (
            '[events]\nretain = "soon"\n',
            ":2: events.retain: found 'soon'; expected 'soon': expected a duration",
        ),
        ("capture = 3\n", ":1: capture: found 3; expected a table"),
        ("[capture\n", ":1: found "),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, fault: str
) -> None:
    file = save(tmp_path, text)
    assert watch("--config", file, "-i", "lo") == 1
    captured = capfd.readouterr()
    assert captured.err.startswith(f"vpn-classifier: {file}{fault}")
    assert captured.out == ""


def test_all_faults_of_a_file_are_told_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path, "[capture]\nring_size = 0\nworkers = 2\n[log]\nlevel = 3\n")
    assert watch("--config", file) == 1
    assert len(capfd.readouterr().err.splitlines()) == 3
    assert watch("--config", str(tmp_path / "missing.toml")) == 1
    assert "missing.toml: found no such file" in capfd.readouterr().err


def test_without_an_interface(capfd: pytest.CaptureFixture[str]) -> None:
    assert watch() == 2
    assert "name an interface to listen on" in capfd.readouterr().err.replace("\n", " ")


def test_a_configuration_that_would_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "events.jsonl"
    assert watch("--check-config", "-i", "lo", "--rules", RULES, "-o", str(output), "udp", "or", "esp") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    (line,) = captured.out.splitlines()
    assert line.startswith("ready: lo; register regulator, serial 47, ")
    assert line.endswith(f"rules; events to {output}; ledger in {tmp_path / 'events-ledger'}")
    assert list(tmp_path.iterdir()) == []
    assert watch("--check-config", "-i", "lo") == 0
    assert capfd.readouterr().out == "ready: lo; no register; events to standard output; no ledger\n"


def test_everything_that_would_not_work_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "register.csv").write_text("entry_id\n")
    (tmp_path / "policy.toml").write_text("grace = 1\n")
    (tmp_path / "file").write_text("")
    missing = tmp_path / "missing" / "events.jsonl"
    broken = ["-i", "nowhere0", "-i", "lo", "-i", "lo", "--rules", str(tmp_path), "-o", str(missing)]
    assert watch("--check-config", *broken, "--ledger", str(tmp_path / "file"), "no", "such") == 1
    lines = capfd.readouterr().err.splitlines()
    for fault in (
        f"{tmp_path / 'register.csv'}:1:",
        "nowhere0: no such network interface; there are ",
        "lo: named more than once",
        "filter 'no such': ",
        f"{missing}: cannot be written: {missing.parent} is no directory",
        f"{tmp_path / 'file'}: cannot be written: {tmp_path / 'file'} is not a directory",
    ):
        assert [line for line in lines if line.startswith(f"vpn-classifier: {fault}")], fault
    (tmp_path / "register.csv").unlink()
    assert (
        watch("--check-config", "-i", "lo", "--register", str(tmp_path / "gone.db"), "--policy", RULES) == 1
    )
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"vpn-classifier: {tmp_path / 'gone.db'}: cannot be read: No such file or directory"
    assert watch("--check-config", "-i", "lo", "-o", str(tmp_path)) == 1
    assert capfd.readouterr().err == f"vpn-classifier: {tmp_path}: cannot be written: Is a directory\n"


def test_metrics_that_could_not_be_offered_are_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def check(*options: str) -> tuple[int, str]:
        status = watch("--check-config", "-i", "lo", *options)
        return status, capfd.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        # The service itself may run.
        assert check("--metrics", f"127.0.0.1:{taken.getsockname()[1]}") == (0, "")
    status, said = check("--metrics", "203.0.113.1:9469")
    assert (status, said.partition("; ")[2]) == (
        1,
        "expected an address of this host and a port that nobody else listens on\n",
    )
    gone = str(tmp_path / "gone.pem")
    status, said = check("--metrics", "127.0.0.1:0", "--metrics-cert", gone, "--metrics-key", gone)
    assert (status, f"--metrics-cert {gone}" in said) == (1, True)
    file = tmp_path / "gone" / "metrics.prom"
    assert check("--metrics-file", str(file)) == (
        1,
        f"vpn-classifier: {file}: cannot be written: {file.parent} is no directory\n",
    )


CHECK_AS_NOBODY = """
import contextlib, io, os, sys
from classifier import cli
# Imports happen where they are needed, and others may not read where Python is.
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    cli.main(["watch", "--check-config", "-i", "lo", "-o", os.devnull])
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
cli.main(["watch", "--check-config", "-i", "lo", "-o", sys.argv[1]])
"""


def test_permissions_are_those_of_who_checks(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 1)  # pytest's own are closed to others
    place = tmp_path / "place"
    place.mkdir(mode=0o555)
    done = subprocess.run(
        [sys.executable, "-c", CHECK_AS_NOBODY, str(place / "events.jsonl")],
        cwd=repository(),
        env=os.environ | {"PYTHONPATH": str(repository())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"events.jsonl: cannot be written: no permission to write in {place}" in done.stderr
    assert f"events-ledger: cannot be written: no permission to write in {place}" in done.stderr
