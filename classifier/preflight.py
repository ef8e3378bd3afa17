"""`watch --check-config`: what would keep a run from beginning, or from writing, without beginning it.

Loads register and policy as the run would, compiles the expression, looks for the interfaces and whether
files could be written. It writes nothing, and makes no file. The rule a reader would get wrong: it judges for
the user it runs as, so check as the user that the service has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import ClassifierError, FaultyFileError
from classifier.words import number

if TYPE_CHECKING:
    from classifier.metrics.offering import Wanted
    from classifier.watch import Capture

__all__ = ["Preflight"]


@dataclass(slots=True)
class Preflight:
    """Some settings of a run."""

    interfaces: Sequence[str]
    filter: str
    rules: str | None
    register: str | None
    policy: str | None
    output: str
    ledger: str | None
    capture: Capture
    metrics: Wanted
    _judged_by: str = field(default="no register", init=False)

    def faults(self) -> Iterator[str]:
        """Everything that would not work, one line each."""
        yield from self._rules()
        yield from self._capture()
        yield from self._writing()
        yield from self._metrics()

    def summary(self) -> str:
        """What was found, when nothing is wrong."""
        from classifier.ledger import ledger_place

        written = "standard output" if self.output == "-" else self.output
        ledger = ledger_place(self.output, self.ledger)
        return f"ready: {', '.join(self.interfaces)}; {self._judged_by}; events to {written}; " + (
            "no ledger" if ledger is None else f"ledger in {ledger}"
        )

    def _rules(self) -> Iterator[str]:
        from classifier.pipeline import load_rules

        for path in (self.register, self.policy, self.rules):
            if path is not None and not Path(path).exists():
                yield f"{path}: cannot be read: No such file or directory"
                return
        try:
            known, judge = load_rules(self.rules, self.register, self.policy)
        except FaultyFileError as error:
            yield from map(str, error.faults)
        except (ClassifierError, OSError) as error:
            yield str(error)
        else:
            if known is not None:
                entries = number(len(known.entries), "entry", "entries")
                self._judged_by = f"register {known.source}, serial {known.serial}, {entries}"
            if judge is not None:
                self._judged_by += f"; policy of {number(len(judge.rules), 'rule')}"

    def _capture(self) -> Iterator[str]:
        from classifier.interfaces import interfaces
        from classifier.watch import available

        known = {interface.name: interface for interface in interfaces()}
        for name in self.interfaces:
            if name not in known:
                yield f"{name}: no such network interface; there are {', '.join(sorted(known)) or 'none'}"
            elif not known[name].is_supported:
                yield f"{name}: frames of its kind ({known[name].link_type}) are not decoded"
        for name in sorted({name for name in self.interfaces if list(self.interfaces).count(name) > 1}):
            yield f"{name}: named more than once"
        fault = self.capture.fault(len(self.interfaces), available())
        if fault is not None:
            yield fault
        if self.filter:
            from classifier.bpf import programs

            try:
                programs(self.filter)
            except ClassifierError as error:
                yield str(error)

    def _writing(self) -> Iterator[str]:
        from classifier.ledger import ledger_place

        if self.output != "-":
            yield from _unwritable(Path(self.output))
        place = ledger_place(self.output, self.ledger)
        if place is not None:
            path = Path(place)
            while not path.exists() and path != path.parent:
                path = path.parent
            if not path.is_dir():
                yield f"{place}: cannot be written: {path} is not a directory"
            elif not os.access(path, os.W_OK | os.X_OK):
                yield f"{place}: cannot be written: no permission to write in {path}"

    def _metrics(self) -> Iterator[str]:
        if self.metrics.address is not None:
            from classifier.metrics.server import MetricsError, Server, parse_address

            try:
                Server.check(parse_address(self.metrics.address), self.metrics.tls)
            except MetricsError as error:
                yield str(error)
        if self.metrics.file is not None:
            yield from _unwritable(Path(self.metrics.file))


def _unwritable(path: Path) -> Iterator[str]:
    if path.is_dir():
        yield f"{path}: cannot be written: Is a directory"
    elif path.exists():
        if not os.access(path, os.W_OK):
            yield f"{path}: cannot be written: Permission denied"
    elif not path.parent.is_dir():
        yield f"{path}: cannot be written: {path.parent} is no directory"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        yield f"{path}: cannot be written: no permission to write in {path.parent}"
