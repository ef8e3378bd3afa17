"""What a long run logs: three forms, bounded by kind, without addresses, and without waiting for a reader."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable

import pytest

from classifier.logs import Form, Level, Log


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def said(form: Form = Form.TEXT, level: Level = Level.INFO, *, say: Callable[[Log], None]) -> str:
    text = io.StringIO()
    say(Log(form, level, text))
    return text.getvalue()


def every_level(log: Log) -> None:
    for method in (log.debug, log.info, log.warning, log.error):
        method("kind", method.__name__)


def test_forms() -> None:
    assert said(say=every_level) == "".join(
        f"vpn-classifier: {word}\n" for word in ("info", "warning", "error")
    )
    assert said(Form.JOURNAL, Level.DEBUG, say=every_level) == "<7>debug\n<6>info\n<4>warning\n<3>error\n"
    items = [json.loads(line) for line in said(Form.JSON, say=every_level).splitlines()]
    assert [(item["level"], item["kind"], item["message"]) for item in items] == [
        (word, "kind", word) for word in ("info", "warning", "error")
    ]
    assert items[0]["time"].endswith("Z")


@pytest.mark.parametrize("level", list(Level))
def test_the_level_is_the_least_that_is_said(level: Level) -> None:
    words = said(Form.JOURNAL, level, say=every_level).splitlines()
    assert [word[3:] for word in words] == list(Level)[list(Level).index(level) :]


def test_every_line_of_a_message_is_one_and_does_nothing_to_a_terminal() -> None:
    text = "first\nsecond \x1b[31m <3>"
    assert said(Form.JOURNAL, say=lambda log: log.info("kind", text)) == "<6>first\n<6>second \\x1b[31m <3>\n"
    items = said(Form.JSON, say=lambda log: log.info("kind", text)).splitlines()
    assert [json.loads(item)["message"] for item in items] == ["first", "second \\x1b[31m <3>"]


@pytest.mark.parametrize("form", list(Form))
def test_a_long_message_is_cut_and_stays_what_it_is(form: Form) -> None:
    text = said(form, say=lambda log: log.info("kind", 'é"' * 100_000))
    assert text.endswith("\n")
    assert 2_000 < len(text.encode()) <= 4_096
    if form is Form.JSON:
        assert json.loads(text)["message"].startswith('é"é"')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.0.2.7: found 192.0.2.0/24.", "(address): found (address)/24."),
        ("to [2001:db8::1]:500, ::1, 2001:db8:0:0:0:0:0:1", "to [(address)]:500, (address), (address)"),
        ("::ffff:192.0.2.1 and fe80::1%eth0", "(address) and (address)%eth0"),
        ("2001:db8::1: not there", "(address): not there"),
        ("at 12:34:56 and 2026-11-23T09:30:00.5Z", "at 12:34:56 and 2026-11-23T09:30:00.5Z"),
        (
            "rules.csv:12: column 3: 1.2.3 and 1.2.3.4.5 and v0.1.0",
            "rules.csv:12: column 3: 1.2.3 and 1.2.3.4.5 and v0.1.0",
        ),
        ("policy a1:b2: std::string", "policy a1:b2: std::string"),
    ],
)
def test_addresses_are_said_only_when_debugging(text: str, shown: str) -> None:
    assert said(say=lambda log: log.error("kind", text)) == f"vpn-classifier: {shown}\n"
    assert said(level=Level.DEBUG, say=lambda log: log.error("kind", text)) == f"vpn-classifier: {text}\n"


def test_a_kind_is_said_ten_times_a_minute_and_the_rest_is_counted() -> None:
    clock, text = Clock(), io.StringIO()
    log = Log(Form.JSON, stream=text, clock=clock)
    for number in range(1_000):
        log.warning("loss", f"{number}")
        clock.now += 0.05
    log.info("other", "is not held back")
    clock.now += 30
    log.tick()
    items = [json.loads(line) for line in text.getvalue().splitlines()]
    assert [item["message"] for item in items if item["kind"] == "loss"] == [
        *map(str, range(10)),
        "and 990 more about loss, not said",
    ]
    assert items[-1]["suppressed"] == 990
    assert [item["message"] for item in items if item["kind"] == "other"] == ["is not held back"]
    log.warning("loss", "again")
    assert json.loads(text.getvalue().splitlines()[-1])["message"] == "again"


def test_what_was_not_said_is_counted_at_the_end() -> None:
    text = io.StringIO()
    log = Log(stream=text)
    for _ in range(13):
        log.info("kind", "word")
    log.tick()
    assert text.getvalue().count("\n") == 10
    log.tick(last=True)
    assert text.getvalue().splitlines()[-1] == "vpn-classifier: and 3 more about kind, not said"


def test_nobody_waits_for_who_reads_it() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        log = Log(stream=stream)
        # More than a pipe holds, of kinds enough.

        def say() -> None:
            for number in range(100):
                log.info(f"kind {number}", "x" * 4_000)

        done = threading.Thread(target=say, daemon=True)
        done.start()
        done.join(30)
        assert not done.is_alive()
        taken = os.read(reading, 1 << 20)
        assert 0 < taken.count(b"\n") < 100
        assert taken.endswith(b"\n")
        log.tick(last=True)
        told = os.read(reading, 1 << 20).decode().splitlines()
        assert len(told) == 100 - taken.count(b"\n")
        assert all("and 1 more about kind" in line for line in told)
        os.close(reading)
        log.error("kind", "nobody is there any more")


def test_a_closed_standard_error_is_nothing_to_fail_for() -> None:
    stream = io.StringIO()
    log = Log(stream=stream)
    stream.close()
    log.error("kind", "word")
    log.tick(last=True)
