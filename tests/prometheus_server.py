"""A real Prometheus for a test: started with a place and a port of its own, asked by its API, ended.

Needs prometheus and promtool (Debian's package `prometheus`) and setpriv (util-linux); a test fails where
they are missing. It listens on the loopback of the test's host or, with the `enter` of a
`laboratory.Laboratory`, on that of a network namespace (`ip link set lo up` there first), from within which
it is asked. It takes a free port by itself, writes only below the directory that it is given, and is ended
by its process id. Any thread may ask.

The rule a reader would get wrong: an alert's `for` and the windows of its expression pass in real time. To
wait for one, load `compressed` rules, whose durations are a fixed part of what the file says.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import pytest

__all__ = ["Alert", "Prometheus", "Rule", "Sample", "compressed", "promtool", "shortened"]

DEADLINE_S: Final = 60.0
_POLL_S: Final = 0.05
_LOADED: Final = "Completed loading of configuration file"
_PROGRAMS: Final = ("prometheus", "promtool", "setpriv")
_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# `for: 5m`, `[5m]`, `[1h:1m]`, `offset 1d`: where a rule file has durations.
_DURATION: Final = re.compile(
    r"(?P<before>(?:\b|_)for: |\boffset |\[|(?<=[0-9a-z]):)(?P<number>\d+)(?P<unit>ms|s|m|h|d)\b"
)
# Asks from within the namespace: a path a line in, the length of the answer and the answer out.
_ASKER: Final = """
import sys
from http.client import HTTPConnection
for path in sys.stdin:
    connection = HTTPConnection(sys.argv[1], timeout=30)
    connection.request("GET", path.strip())
    answer = connection.getresponse().read()
    connection.close()
    sys.stdout.buffer.write(b"%d\\n%b" % (len(answer), answer))
    sys.stdout.flush()
"""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an answer."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Alert:
    """One that is pending or firing."""

    name: str
    state: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that was loaded."""

    name: str
    kind: str
    """`alerting` or `recording`."""
    expression: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    health: str
    """`ok`, `err`, or `unknown` when it was never evaluated."""
    error: str


def promtool(*arguments: str | Path) -> str:
    """What `promtool` says; a test fails when it finds a fault."""
    _need_programs()
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compressed(
    rules: Path, place: Path, by: float = 300, at_least_s: float = 3, at_most_s: float = 10
) -> Path:
    """A copy of a rule file in `place` for which time passes faster; nothing else of it changes."""
    copy = place / rules.name
    copy.write_text(shortened(rules.read_text(), by, at_least_s, at_most_s))
    return copy


def shortened(text: str, by: float = 300, at_least_s: float = 3, at_most_s: float = 10) -> str:
    """With each duration (`for`, windows, offsets) divided by `by`, and kept between two bounds.

    By default 5m become 3 s, in which there are six scrapes, and a day 10 s, for which a test can wait.
    """

    def shorter(found: re.Match[str]) -> str:
        milliseconds = int(int(found["number"]) * _UNITS[found["unit"]] / by)
        return f"{found['before']}{int(min(max(milliseconds, at_least_s * 1000), at_most_s * 1000))}ms"

    return _DURATION.sub(shorter, text)


class Prometheus:
    """One server. A context manager: it is ready inside, and ended afterwards."""

    def __init__(
        self,
        place: Path,
        targets: Mapping[str, Sequence[str]],
        *,
        rules: Sequence[Path] = (),
        interval: str = "500ms",
        enter: Sequence[str] = (),
    ) -> None:
        """`targets`: addresses such as "127.0.0.1:9469", by job. `interval`: of scrapes and rules."""
        _need_programs()
        place.mkdir(parents=True, exist_ok=True)
        self._log = place / "prometheus.log"
        self._config = place / "prometheus.json"
        self._rules = [str(file.resolve()) for file in rules]
        self._interval = interval
        self._write(targets)
        self._asking = threading.Lock()
        # It does not outlive this process, however that ends.
        self._enter = (*enter, "setpriv", "--pdeathsig", "KILL")
        self._asker: subprocess.Popen[bytes] | None = None
        with self._log.open("wb") as log:
            self._program = subprocess.Popen(
                [
                    *self._enter,
                    "prometheus",
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={place / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._until(lambda: "ready to receive web requests" in self._said(), "Prometheus to be ready")
            listens = re.search(r'"Listening on" address=(\S+)', self._said())
            assert listens is not None, self._said()
            self.address = listens[1]
            self._asker = subprocess.Popen(
                [*self._enter, sys.executable, "-I", "-S", "-u", "-c", _ASKER, self.address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; its files stay."""
        if self._asker is not None:
            self._asker.communicate()
        self._program.terminate()
        try:
            self._program.wait(10)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()

    def scrape(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Scrape these from now on, instead of what was scraped before."""
        loaded = self._said().count(_LOADED)
        self._write(targets)
        self._program.send_signal(signal.SIGHUP)
        self._until(lambda: self._said().count(_LOADED) > loaded, "a new configuration")

    def query(self, expression: str) -> list[Sample]:
        """The series that an expression gives now; a test fails when it is not valid."""
        result = self._get("query", query=expression)
        if result["resultType"] == "scalar":
            return [Sample({}, float(result["result"][1]))]
        assert result["resultType"] == "vector", (expression, result["resultType"])
        return [Sample(series["metric"], float(series["value"][1])) for series in result["result"]]

    def value(self, expression: str) -> float:
        """That of an expression that gives one series."""
        samples = self.query(expression)
        assert len(samples) == 1, (expression, samples)
        return samples[0].value

    def alerts(self) -> list[Alert]:
        """All that are pending or firing now."""
        return [
            Alert(labels.pop("alertname"), alert["state"], labels, alert["annotations"])
            for alert in self._get("alerts")["alerts"]
            for labels in [dict(alert["labels"])]
        ]

    def firing(self, name: str, **labels: str) -> list[Alert]:
        """Those of one rule that fire now, and that have these labels."""
        return [
            alert
            for alert in self.alerts()
            if (alert.name, alert.state) == (name, "firing") and labels.items() <= alert.labels.items()
        ]

    def rules(self) -> list[Rule]:
        """All that were loaded, in their order."""
        return [
            Rule(
                rule["name"],
                rule["type"],
                rule["query"],
                rule.get("labels", {}),
                rule.get("annotations", {}),
                rule["health"],
                rule.get("lastError", ""),
            )
            for group in self._get("rules")["groups"]
            for rule in group["rules"]
        ]

    def until(self, expression: str) -> list[Sample]:
        """Wait until an expression gives series, and give them."""
        return self._until(lambda: self.query(expression), expression)

    def until_firing(self, name: str, **labels: str) -> Alert:
        """Wait until an alert fires, and give the first of its kind."""
        return self._until(lambda: self.firing(name, **labels), f"alert {name} {labels or ''}")[0]

    def until_quiet(self, name: str, **labels: str) -> None:
        """Wait until an alert does not fire any more."""
        self._until(lambda: not self.firing(name, **labels), f"the end of alert {name} {labels or ''}")

    def _until(self, found: Callable[[], _T], what: str) -> _T:
        """Wait for something that must come. The deadline is for failures; nothing is measured by it."""
        end = time.monotonic() + DEADLINE_S
        while not (answer := found()):
            assert self._program.poll() is None, self._said()
            assert time.monotonic() < end, f"waited {DEADLINE_S:.0f} s for {what}"
            time.sleep(_POLL_S)
        return answer

    def _get(self, question: str, **parameters: str) -> Any:
        path = f"/api/v1/{question}?{urlencode(parameters)}"
        asker = self._asker
        assert asker is not None
        assert asker.stdin is not None
        assert asker.stdout is not None
        with self._asking:
            asker.stdin.write(f"{path}\n".encode())
            asker.stdin.flush()
            size = asker.stdout.readline()
            assert size, self._said()
            text = asker.stdout.read(int(size))
        answer = json.loads(text)
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def _write(self, targets: Mapping[str, Sequence[str]]) -> None:
        # Every JSON document is a YAML document.
        self._config.write_text(
            json.dumps(
                {
                    "global": {
                        "scrape_interval": self._interval,
                        "scrape_timeout": self._interval,
                        "evaluation_interval": self._interval,
                    },
                    "rule_files": self._rules,
                    "scrape_configs": [
                        {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                        for job, addresses in targets.items()
                    ],
                }
            )
        )

    def _said(self) -> str:
        return self._log.read_text()


def _need_programs() -> None:
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.fail(f"alerts cannot be tried without {', '.join(missing)} (.ci/run installs them)")
