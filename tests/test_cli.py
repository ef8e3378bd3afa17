"""The command: options, what goes to stdout and stderr, exit codes, and stopping."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fake_engine import FakeEngine, Row, Step, capture_error
from test_pipeline import NEW

from classifier import _core, cli, events

VALIDATOR = jsonschema.Draft202012Validator(events.schema())
ROOT = Path(__file__).parents[1]
POLICY = """\
enforce_from = 2020-01-01

[[rule]]
id = "unregistered"
action = "flag"
verdict = "unregistered"
"""
MANIFEST = """\
source = "authority"
serial = 7
issued_at = 2026-02-01T00:00:00Z
next_update = 2026-12-01T00:00:00Z
time_zone = "UTC"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two captures (the fake engine never looks into them) and rules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("a.pcap", "b.pcap"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "policy.toml").write_text(POLICY)
    return tmp_path


def use(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> FakeEngine:
    monkeypatch.setattr(_core, "Engine", engine)
    return engine


@pytest.fixture
def fake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """One flow in a.pcap, another in b.pcap."""
    assert folder.is_dir()
    two = replace(NEW, flow_id=2, destination_ip="203.0.113.9")
    return use(
        monkeypatch,
        FakeEngine({"a.pcap": [[NEW], [NEW.then("ended")]], "b.pcap": [[two], [two.then("ended")]]}),
    )


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def lines(text: str) -> list[dict[str, Any]]:
    loaded = [json.loads(line) for line in text.splitlines()]
    for event in loaded:
        VALIDATOR.validate(event)
    return loaded


@pytest.mark.usefixtures("fake")
def test_a_table_and_a_summary(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("replay", "a.pcap", "b.pcap") == 0
    out, err = capfd.readouterr()
    assert "198.51.100.20:51820" in out
    assert "203.0.113.9:51820" in out
    assert "not_evaluated" in out
    assert "2 captures, 4 packets" in out
    assert err == ""


@pytest.mark.usefixtures("fake")
def test_events_go_to_a_file_and_the_table_stays(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("replay", "a.pcap", "-o", "events.jsonl") == 0
    found = lines((folder / "events.jsonl").read_text())
    assert [event["event"] for event in found] == ["started", "recognised", "ended", "ended"]
    assert "VPN flows" in capfd.readouterr().out


@pytest.mark.usefixtures("fake")
def test_events_on_stdout_are_alone_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("replay", "a.pcap", "-o", "-") == 0
    out, err = capfd.readouterr()
    assert len(lines(out)) == 4
    assert "1 capture, 2 packets" in err
    assert "VPN flows" not in err


def test_options_reach_the_engine_and_the_events(fake: FakeEngine, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--min-confidence", "possible", "--workers", "3", "--flow-key", "+vlan", "--sensor", "edge-1"]
    assert run("replay", "a.pcap", "-o", "-", "--as-of", "2026-04-01", *options) == 0
    assert (fake.settings["workers"], fake.settings["min_confidence"]) == (3, "possible")
    assert fake.settings["flow_key"] == "+vlan"
    found = lines(capfd.readouterr().out)
    assert {event["sensor"] for event in found} == {"edge-1"}
    assert found[0]["stats"]["as_of"] == "2026-04-01T00:00:00.000000000Z"
    assert "workers" not in json.dumps(found)


def with_register(folder: Path) -> None:
    """A register without entries: every flow is unregistered."""
    header = (
        "entry_id,kind,category,prefix,side,endpoints,protocols,valid_from,valid_until,status,status_since"
    )
    (folder / "rules" / "register.csv").write_text(header + "\n")
    (folder / "rules" / "register.toml").write_text(MANIFEST)


@pytest.mark.usefixtures("fake")
def test_fail_on_flagged(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with_register(folder)
    assert run("replay", "a.pcap", "--rules", "rules", "--fail-on", "flagged") == 3, capfd.readouterr().err
    assert "unregistered" in capfd.readouterr().out
    assert run("replay", "a.pcap", "--rules", "rules") == 0
    assert run("replay", "a.pcap", "--policy", "rules/policy.toml", "--fail-on", "flagged") == 0
    assert run("replay", "missing", "a.pcap", "--rules", "rules", "--fail-on", "flagged") == 3


@pytest.mark.usefixtures("fake")
def test_register_and_policy_can_be_named_one_by_one(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with_register(folder)
    names = ["--register", "rules/register.csv", "--policy", "rules/policy.toml"]
    assert run("replay", "a.pcap", *names) == 0
    assert "unregistered" in capfd.readouterr().out
    assert run("replay", "a.pcap", *names[:2]) == 1
    assert "a register needs a policy" in capfd.readouterr().err


def test_input_that_cannot_be_read_gives_4_and_the_rest_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: dict[str, Sequence[Step] | Exception] = {
        "a.pcap": capture_error("not_a_capture", "a.pcap", 0),
        "b.pcap": [[NEW], capture_error("truncated", "b.pcap", 77), [NEW.then("ended")]],
    }
    use(monkeypatch, FakeEngine(steps))
    assert (folder / "a.pcap").exists()
    assert run("replay", "a.pcap", "none.pcap", "b.pcap") == 4
    out, err = capfd.readouterr()
    assert "198.51.100.20" in out
    assert "Inputs not read, or not to their end: 3" in out
    assert err.splitlines() == [
        "vpn-classifier: none.pcap: not found: no such file; expected a capture, a directory, a glob or '-'",
        "vpn-classifier: a.pcap: not a capture at byte 0: something; expected something else",
        "vpn-classifier: b.pcap: truncated at byte 77: something; expected something else",
    ]


@pytest.mark.usefixtures("fake")
def test_a_file_name_cannot_speak_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("replay", "\x1b[31mred.pcap") == 4
    assert "\\x1b[31mred.pcap: not found" in capfd.readouterr().err


@pytest.mark.usefixtures("fake")
def test_an_output_that_cannot_be_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("replay", "a.pcap", "-o", "missing/events.jsonl") == 1
    assert capfd.readouterr().err == (
        "vpn-classifier: missing/events.jsonl: cannot be written: No such file or directory\n"
    )
    assert run("replay", "a.pcap", "-o", "/dev/full") == 1
    assert capfd.readouterr().err == (
        "vpn-classifier: /dev/full: cannot be written: No space left on device\n"
    )
    assert not (folder / "missing").exists()


@pytest.mark.usefixtures("fake")
def test_a_capture_is_never_written_over(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "a.pcap").write_bytes(b"precious")
    (folder / "link").symlink_to("a.pcap")
    for output in ("a.pcap", "./a.pcap", "link"):
        assert run("replay", "a.pcap", "b.pcap", "-o", output) == 2
        assert "is one of the captures to be read" in " ".join(capfd.readouterr().err.split())
    assert (folder / "a.pcap").read_bytes() == b"precious"


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay"], "FILE"),
        (["replay", "a.pcap", "--as-of", "tomorrow"], "'tomorrow': expected a time such as"),
        (["replay", "a.pcap", "--workers", "0"], "--workers"),
        (["replay", "a.pcap", "--flow-key", "vlan"], "--flow-key"),
        (["replay", "a.pcap", "--unheard-of"], "--unheard-of"),
        (["explain", "e.jsonl", "--address", "here"], "'here': expected an IPv4 or IPv6 address"),
        (["unheard-of"], "unheard-of"),
    ],
)
def test_usage(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert message in " ".join(capfd.readouterr().err.split())


@pytest.mark.usefixtures("fake")
def test_options_that_do_nothing_without_a_register_are_said(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    why = "without a register (--register or --rules): nothing is looked up: every verdict is not_evaluated"
    policy, fail_on = ["--policy", "rules/policy.toml"], ["--fail-on", "flagged"]
    for options, named in (
        (policy, "--policy"),
        (fail_on, "--fail-on flagged"),
        (policy + fail_on, "--policy and --fail-on flagged"),
    ):
        assert run("replay", "a.pcap", *options) == 0
        assert capfd.readouterr().err == f"vpn-classifier: {named} {why}\n"
    with_register(folder)
    assert run("replay", "a.pcap", "--rules", "rules", *policy, *fail_on) == 3
    assert capfd.readouterr().err == ""


class Signalled(FakeEngine):
    """The signal arrives while the engine is at work, before its second batch."""

    def __init__(self, captures: dict[str, Sequence[Step] | Exception], number: signal.Signals) -> None:
        super().__init__(captures)
        self._number = number
        self._polls = 0

    def poll(self, max_ms: int = 100) -> _core.FlowBatch | None:
        self._polls += 1
        if self._polls == 2:
            signal.raise_signal(self._number)
        return super().poll(max_ms)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_events_cleanly(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    more: list[Row] = [replace(NEW, flow_id=n) for n in range(2, 50)]
    steps: dict[str, Sequence[Step] | Exception] = {
        "a.pcap": [[NEW], more, more, [NEW.then("ended", end_reason="forced_end")]],
        "b.pcap": [[NEW]],
    }
    use(monkeypatch, Signalled(steps, number))
    before = signal.getsignal(number)
    assert run("replay", "a.pcap", "b.pcap", "-o", "events.jsonl") == 128 + number
    assert signal.getsignal(number) is before
    data = (folder / "events.jsonl").read_text()
    assert data.endswith("\n")
    found = lines(data)
    assert found[-2]["flow"]["reason"] == "forced_end"
    assert found[-1]["stats"]["interrupted"] is True
    assert found[-1]["stats"]["counters"]["captures"] == 1
    out, err = capfd.readouterr()
    assert "Stopped before the end of the input" in out
    assert err == ""


@pytest.mark.usefixtures("fake")
def test_explain(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("replay", "a.pcap", "b.pcap", "-o", "events.jsonl")
    capfd.readouterr()
    assert run("explain", "events.jsonl") == 0
    assert re.findall(r"^Flow (\d+)", capfd.readouterr().out, re.MULTILINE) == ["1", "2"]
    assert run("explain", "events.jsonl", "--flow", "2") == 0
    assert re.findall(r"^Flow (\d+)", capfd.readouterr().out, re.MULTILINE) == ["2"]
    assert run("explain", "events.jsonl", "--address", "198.51.100.20") == 0
    assert re.findall(r"^Flow (\d+)", capfd.readouterr().out, re.MULTILINE) == ["1"]
    assert run("explain", "events.jsonl", "--flow", "3") == 1
    assert capfd.readouterr().err == "vpn-classifier: events.jsonl: no flow fits\n"
    (folder / "broken.jsonl").write_text('{"event_type": "vpn"}\n')
    assert run("explain", "broken.jsonl") == 1
    assert capfd.readouterr().err == "vpn-classifier: broken.jsonl, line 1: timestamp: missing\n"


@pytest.mark.usefixtures("fake")
def test_explain_says_when_the_events_are_not_complete(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("replay", "a.pcap", "-o", "events.jsonl")
    whole = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    (folder / "events.jsonl").write_text("".join(whole[:-1]))
    capfd.readouterr()
    assert run("explain", "events.jsonl") == 0
    out, err = capfd.readouterr()
    assert out.startswith("Flow 1: ")
    assert err.startswith("vpn-classifier: events.jsonl: not complete: ")
    assert err.count("\n") == 1
    (folder / "events.jsonl").write_text("")
    assert run("explain", "events.jsonl") == 1
    assert capfd.readouterr().err == (
        "vpn-classifier: events.jsonl: empty; expected an event a line, as `vpn-classifier replay -o` "
        "writes them\n"
    )


@pytest.mark.usefixtures("fake")
def test_a_progress_bar_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("classifier.cli.replay._PROGRESS_S", 0.0)
    assert run("replay", "a.pcap", "-o", "-") == 0
    out, err = capfd.readouterr()
    assert len(lines(out)) == 4
    assert "packets/s" in err
    assert "a.pcap" in err
    monkeypatch.undo()


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "classifier", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        **options,
    )


def test_version() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"vpn-classifier {_core.version}\n")


def test_help_teaches_with_examples_and_exit_codes() -> None:
    root = command("--help").stdout
    for code in ("0", "1", "2", "3", "4", "130"):
        assert re.search(rf"^ +{code} +\w", root, re.MULTILINE), code
    for name in ("replay", "explain"):
        text = command(name, "--help").stdout
        assert "Exit codes:" in text
        examples = re.findall(r"^ +(?:\S+ \S+ \| )?vpn-classifier (\w+) ", text, re.MULTILINE)
        assert len(examples) >= 2
        assert set(examples) == {name}


def test_examples_of_the_help_are_good_usage() -> None:
    known: dict[str, set[str]] = {}
    for name in ("replay", "explain"):
        text = command(name, "--help").stdout
        known[name] = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", text, re.MULTILINE)) | {"-o"}
        for example in re.findall(r"vpn-classifier \w+ (.*)", text):
            used = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", example.split("|")[0]))
            assert used <= known[name], example


def test_what_a_first_glance_needs_does_not_load_what_only_tables_need() -> None:
    code = (
        "import sys; from classifier import cli, pipeline\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'rich', 'pydantic', 'jsonschema'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_closed_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "classifier", "replay", "no-such-file", "-o", "-"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr
    assert done.returncode == 0


def test_a_full_disk_behind_stdout_is_said_in_one_line() -> None:
    for arguments in (["-o", "-"], []):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "classifier", "replay", "no-such-file", *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "No space left on device" in done.stderr.splitlines()[-1]


def test_events_for_a_closed_stdout_are_an_error() -> None:
    capture = ROOT / "pcaps" / "wg-plain-51820" / "capture.pcap"
    script = 'exec "$0" -m classifier replay "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, str(capture), "-o", "-"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stderr == "vpn-classifier: -: cannot be written: standard output is closed\n"
    assert done.returncode == 1


@pytest.mark.parametrize("sent", ["nothing", "capture"])
def test_ctrl_c_while_standard_input_is_silent(sent: str) -> None:
    capture = ROOT / "pcaps" / "wg-plain-51820" / "capture.pcap"
    with subprocess.Popen(
        [sys.executable, "-m", "classifier", "replay", "-", "-o", "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if sent == "capture":
                process.stdin.write(capture.read_bytes())
                process.stdin.flush()
                # What has been found is told although the pipe stays open and silent.
                assert process.stdout.readline().startswith(b"{")
            else:
                # The interpreter handles SIGINT by itself from early on, SIGTERM only once the command runs.
                wait_for_handler(process.pid, signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130, errors.decode()
    assert output.endswith(b"}\n")
    assert all(isinstance(json.loads(line), dict) for line in output.splitlines())


def wait_for_handler(pid: int, number: signal.Signals) -> None:
    """Until the process has a handler of its own for the signal (Linux: the mask in /proc/PID/status)."""
    for _ in range(1000):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (number - 1) & 1:
            return
        time.sleep(0.01)
    raise AssertionError("the process never got a handler")
