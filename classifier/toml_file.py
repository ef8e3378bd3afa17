"""TOML files that people write: checked reads that remember what was asked for.

A table hands out values by key; every wrong type, missing key and unknown key becomes a `Fault` with its
file, line and dotted key, and all of them are reported together. The standard parser gives no lines for
keys, so they are looked up in the text; inside a multi-line string that search may miss, and the line is
then left out.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Final, TypeVar

from classifier.errors import ConfigError, Fault

__all__ = ["Table", "TomlFile", "duration_ns", "instant_ns", "nearest", "zone_of"]

T = TypeVar("T")
Default = TypeVar("Default")

NS_PER_S: Final = 1_000_000_000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def nearest(word: str, known: list[str], likeness: float = 0.6) -> str | None:
    """The known word that `word` was probably meant to be; `likeness` goes from 0 to 1."""
    from difflib import get_close_matches  # only on the way to an error

    close = get_close_matches(word.lower().replace("-", "_").replace(" ", "_"), known, n=1, cutoff=likeness)
    return close[0] if close else None


def instant_ns(value: object, zone: tzinfo, *, end_of_day: bool = False) -> int:
    """A TOML date or time as nanoseconds since 1970; ValueError says what was expected.

    A bare date is the start of its day in `zone`, with `end_of_day` the start of the next one.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time with its offset, like 2026-11-20T08:00:00Z")
        moment = value
    elif isinstance(value, date):
        try:
            day = value + timedelta(days=1) if end_of_day else value
        except OverflowError:
            raise ValueError("a date that exists") from None
        moment = datetime.combine(day, time(), zone)
    else:
        raise ValueError("a date, or a time with its offset, like 2026-11-20T08:00:00Z")
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * NS_PER_S + since.microseconds * 1_000


def zone_of(value: object) -> tzinfo:
    """A time zone by its IANA name; ValueError says what was expected."""
    if value == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        if isinstance(value, str):
            return ZoneInfo(value)
    except (ValueError, OSError, KeyError):  # a bad form; a directory's name; unknown (ZoneInfoNotFoundError)
        pass
    raise ValueError("the IANA name of a time zone, like Asia/Karachi (is the package tzdata installed?)")


def duration_ns(value: object) -> int:
    if isinstance(value, str) and (parts := re.fullmatch(r"(\d{1,6})(s|m|h|d)", value, re.ASCII)):
        return int(parts.group(1)) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[parts.group(2)] * NS_PER_S
    raise ValueError('a duration: a whole number with s, m, h or d, like "14d"')


class TomlFile:
    """A parsed file, its text for line numbers, and the faults found in it so far."""

    def __init__(self, path: Path) -> None:
        """Read and parse; ConfigError when there is nothing to parse."""
        self.name = str(path)
        self.faults: list[Fault] = []
        try:
            content = path.read_bytes()
        except OSError as error:
            found = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
            raise ConfigError([Fault(self.name, None, None, found, "a readable TOML file")]) from None
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigError([Fault(self.name, line, None, "bytes that are not UTF-8", "UTF-8")]) from None
        try:
            self.root = Table(self, tomllib.loads(text), "")
        except tomllib.TOMLDecodeError as error:
            place = re.search(r" \(at line (\d+), column (\d+)\)", str(error))
            line_number = int(place.group(1)) if place else text.count("\n") + 1
            found = str(error).split(" (at ")[0]
            raise ConfigError([Fault(self.name, line_number, None, found, "valid TOML")]) from None
        self._lines = self._index(text)

    @staticmethod
    def _index(text: str) -> dict[str, int]:
        """Line of each dotted key; a table in an array is `name[0]`, `name[1]`, ..."""
        lines: dict[str, int] = {}
        counts: dict[str, int] = {}
        where = ""
        for number, line in enumerate(text.splitlines(), 1):
            if array := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
                outer, dot, name = array.group(1).rpartition(".")
                name = f"{outer}[{counts[outer] - 1}]{dot}{name}" if outer in counts else array.group(1)
                where = f"{name}[{counts.get(name, 0)}]"
                counts[name] = counts.get(name, 0) + 1
                lines.setdefault(where, number)
            elif table := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
                where = table.group(1)
                lines.setdefault(where, number)
            elif key := re.match(r"\s*(?:([\w.-]+)|\"([^\"]*)\"|'([^']*)')\s*=", line):
                name = next(group for group in key.groups() if group is not None)
                lines.setdefault(f"{where}.{name}" if where else name, number)
        return lines

    def line(self, key: str) -> int | None:
        """Where a dotted key stands, or the table that it is in."""
        line = self._lines.get(key)
        return self._lines.get(key.rpartition(".")[0]) if line is None and "." in key else line

    def fault(self, key: str, found: str, expected: str) -> None:
        """Remember that `key` holds `found`."""
        self.faults.append(Fault(self.name, self.line(key), key or None, found, expected))


class Table:
    """One table of a file. Ask for every key that may stand in it, then `finish`."""

    def __init__(self, file: TomlFile, values: dict[str, object], where: str) -> None:
        self.file = file
        self.where = where
        self._values = values
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        """Every key that is set, where keys are the file's own words."""
        return iter(self._values)

    def is_empty(self) -> bool:
        """No key is set."""
        return not self._values

    def fault(self, key: str, found: str, expected: str) -> None:
        """Remember that `key` of this table holds `found`; an empty key stands for the table."""
        self.file.fault(f"{self.where}.{key}".strip("."), found, expected)

    def get(self, key: str, convert: Callable[[object], T], default: Default) -> T | Default:
        """The converted value, or `default` when it is absent or faulty (the fault is then remembered).

        `convert` raises ValueError with what it expects.
        """
        self._asked.append(key)
        if key not in self._values:
            return default
        value = self._values[key]
        try:
            return convert(value)
        except ValueError as error:
            self.fault(key, _shown(value), str(error))
            return default

    def need(self, key: str, convert: Callable[[object], T], default: Default, expected: str) -> T | Default:
        """Like `get`, but a missing key is a fault; `default` only lets the reading go on."""
        if key not in self._values:
            self.fault(key, "no such key", expected)
        return self.get(key, convert, default)

    def table(self, key: str) -> "Table":
        """The table under `key`; an empty one when there is none."""
        self._asked.append(key)
        value = self._values.get(key, {})
        where = f"{self.where}.{key}".strip(".")
        if not isinstance(value, dict):
            self.fault(key, _shown(value), f"a table: [{where}]")
            value = {}
        return Table(self.file, value, where)

    def tables(self, key: str) -> list["Table"]:
        """The array of tables under `key`."""
        self._asked.append(key)
        value = self._values.get(key, [])
        where = f"{self.where}.{key}".strip(".")
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fault(key, _shown(value), f"tables, each under its own [[{where}]]")
            return []
        return [Table(self.file, item, f"{where}[{index}]") for index, item in enumerate(value)]

    def finish(self) -> None:
        """Report every key that nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                close = nearest(key, self._asked)
                expected = f"the key {close!r}" if close else "one of the keys " + ", ".join(self._asked)
                self.fault(key, "an unknown key", expected)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:79] + "…")
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    return str(value).lower() if isinstance(value, bool) else str(value)
