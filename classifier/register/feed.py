"""Reads a register from a CSV file and its manifest: all of it, or every fault in it.

The CSV has one row for each prefix of each entry, the columns of `COLUMNS` in any order, UTF-8. The
manifest beside it (same name, `.toml`) says who issued the register, which one it is, until when it is
current, and in which time zone its bare dates are. rules/README.md explains every column and key.

One rule a reader would get wrong: a faulty value is repeated in a message only when its form shows that it
is no more than a prefix, a date or a slip of the pen in a known word. Anything else could be a name or a
telephone number that got into the wrong column.
"""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from classifier.errors import ConfigError, Fault, RegisterError
from classifier.register.entry import Category, Endpoint, Entry, Kind, Protocol, Side, Status
from classifier.register.prefixes import Prefix
from classifier.toml_file import TomlFile, instant_ns, nearest, zone_of

__all__ = ["COLUMNS", "Manifest", "read_csv_register"]

T = TypeVar("T")
Named = TypeVar("Named", bound=StrEnum)

COLUMNS: Final = (
    "entry_id",
    "kind",
    "category",
    "prefix",
    "side",
    "endpoints",
    "protocols",
    "valid_from",
    "valid_until",
    "status",
    "status_since",
)
# Columns that would hold something about a person, whatever the rest of their name.
PERSONAL_COLUMN: Final = re.compile(
    r"(^|[^a-z])(name|surname|person|applicant|owner|contact|phone|telephone|mobile|msisdn|cell|fax|e?-?mail|"
    r"cnic|nic|nid|ssn|passport|identity|birth|dob|gender|father|street|postal|imsi|imei)([^a-z]|$)"
    r"|(name|phone|email|cnic|passport|msisdn)$"
)
# Ten and more digits, with the separators people use, and no more than a sign around them.
TELEPHONE_OR_IDENTITY: Final = re.compile(r"\+?(?:[\s().-]*\d){10,}[\s().-]*$")
OPAQUE_ID: Final = re.compile(r"(?=.*\d)[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$", re.ASCII)
LIKE_PREFIX: Final = re.compile(
    r"\d{1,3}(\.\d{1,3}){2,4}(/[\d.-]{0,8})?(:\d{0,6})?$|[0-9A-Fa-f.\[/]*:[0-9A-Fa-f:./\]]*$"
)
LIKE_DATE: Final = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ][0-9:.]*(Z|[+-][0-9:]*)?)?$")
NOT_SHOWN: Final = "a value that is not shown"
YEARS: Final = range(1970, 2201)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What register.toml says."""

    source: str
    serial: int
    issued_at_ns: int
    next_update_ns: int
    first_record_ns: int | None
    zone: tzinfo


def read_csv_register(path: Path) -> tuple[Manifest, tuple[Entry, ...], str]:
    """Manifest, entries in the order of the file, SHA-256 of the CSV; RegisterError lists every fault."""
    manifest, faults = _read_manifest(path.with_suffix(".toml"))
    try:
        content = path.read_bytes()
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
        expected = f"a CSV register (columns {', '.join(COLUMNS)})"
        raise RegisterError([*faults, Fault(str(path), None, None, found, expected)]) from None
    reader = _Rows(str(path), manifest.zone if manifest else UTC)
    entries = reader.read(content)
    faults += reader.faults
    if faults or manifest is None:
        raise RegisterError(faults)
    return manifest, entries, hashlib.sha256(content).hexdigest()


def _read_manifest(path: Path) -> tuple[Manifest | None, list[Fault]]:
    try:
        file = TomlFile(path)
    except ConfigError as error:
        return None, list(error.faults)
    table = file.root
    when = "a time with its offset, like 2026-11-20T08:00:00Z"
    zone = table.need("time_zone", zone_of, UTC, "the IANA name of the time zone of bare dates")
    manifest = Manifest(
        source=table.need("source", _source, "", "a short name of who issued the register"),
        serial=table.need("serial", _serial, 0, "a whole number that rises with each issue"),
        issued_at_ns=table.need("issued_at", _instant, 0, when),
        next_update_ns=table.need("next_update", _instant, 0, when),
        first_record_ns=table.get("first_record", _instant, None),
        zone=zone,
    )
    table.finish()
    if not file.faults and manifest.next_update_ns <= manifest.issued_at_ns:
        table.fault("next_update", "a time that is not after issued_at", "the time of the next issue")
    return manifest, file.faults


def _source(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value):
        return value
    raise ValueError("a short name in small letters, digits, '.', '_' and '-'")


def _serial(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63:
        return value
    raise ValueError("a whole number from 1")


def _instant(value: object) -> int:
    if not isinstance(value, datetime):
        raise ValueError("a time with its offset, like 2026-11-20T08:00:00Z")
    return instant_ns(value, UTC)


class _Rows:
    """One pass over a CSV text. Values that come back in many rows are converted once."""

    def __init__(self, name: str, zone: tzinfo) -> None:
        self.name = name
        self.zone = zone
        self.faults: list[Fault] = []
        self._line = 1
        self._column = ""
        self._places: tuple[int, ...] = ()
        self._converted: dict[str, dict[str, object]] = {column: {} for column in COLUMNS}
        self._row_is_faulty = False

    def read(self, content: bytes) -> tuple[Entry, ...]:
        """The entries of all rows without a fault; `faults` says whether they may be used."""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._line = content.count(b"\n", 0, error.start) + 1
            self._fault(None, "bytes that are not UTF-8", "a CSV file in UTF-8")
            return ()
        rows = self._rows(text)
        header = next(rows, None)
        if header is None:
            self._fault(None, "an empty file", "a header with the columns " + ", ".join(COLUMNS))
            return ()
        if not self._take_header(header):
            return ()
        entries: list[Entry] = []
        first_of_id: dict[str, tuple[int, Entry]] = {}
        seen: dict[tuple[str, Prefix], int] = {}
        for row in rows:
            entry = self._entry(row, len(header))
            if entry is None:
                continue
            line = seen.setdefault((entry.entry_id, entry.prefix), self._line)
            first_line, first = first_of_id.setdefault(entry.entry_id, (self._line, entry))
            if first is not entry:
                self._compare(entry, first, first_line)
            if line != self._line and not self._row_is_faulty:
                self._fault("prefix", f"the same entry_id and prefix as in line {line}", "each row once")
            entries.append(entry)
        return tuple(entries)

    def _rows(self, text: str) -> Iterator[list[str]]:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        while True:
            self._line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._fault(None, f"text that is no CSV ({error})", "quotes in pairs, doubled inside a value")
                continue
            if row:
                yield row

    def _take_header(self, header: list[str]) -> bool:
        """Find the columns; the order is free. False when the rows cannot be read by it."""
        names = [name.strip() for name in header]
        known = [name for name in names if name in COLUMNS]
        if not known:
            self._fault(
                None, "a first line without a known column", "a header with the columns " + ", ".join(COLUMNS)
            )
            return False
        for name in names:
            if name in COLUMNS:
                continue
            if PERSONAL_COLUMN.search(name.lower()):
                self._fault(name, "a column that looks personal", "a feed without anything about a person")
            elif not re.fullmatch(r"[A-Za-z][A-Za-z0-9_ -]{0,31}", name):
                self._fault(None, "a column whose name is not shown", "only " + ", ".join(COLUMNS))
            else:
                close = nearest(name, list(COLUMNS))
                expected = f"the column {close!r}" if close else "only " + ", ".join(COLUMNS)
                self._fault(name, "an unknown column", expected)
        for name in sorted({name for name in known if known.count(name) > 1}):
            self._fault(name, "the column twice", "each column once")
        for name in COLUMNS:
            if name not in known:
                self._fault(name, "no such column", f"a header with the columns {', '.join(COLUMNS)}")
        self._places = tuple(names.index(name) if name in names else -1 for name in COLUMNS)
        return True

    def _entry(self, row: list[str], width: int) -> Entry | None:
        self._row_is_faulty = False
        if len(row) != width:
            self._fault(None, f"{len(row)} values", f"{width}, as many as the header has columns")
            return None
        cells = [row[place].strip() if place >= 0 else None for place in self._places]
        entry_id, kind, category, prefix, side, endpoints, protocols, start, end, status, since = cells
        values = (
            self._value("entry_id", entry_id, _entry_id),
            self._value("kind", kind, _kind),
            self._value("category", category, _category),
            self._value("prefix", prefix, Prefix.parse),
            self._value("side", side, _side),
            self._value("endpoints", endpoints, _endpoints),
            self._value("protocols", protocols, _protocols),
            self._value("valid_from", start, self._start),
            self._value("valid_until", end, self._end),
            self._value("status", status, _status),
            self._value("status_since", since, self._start),
        )
        if self._row_is_faulty or -1 in self._places:
            return None
        entry = Entry(*values)  # type: ignore[arg-type]  # all were converted, none is faulty
        if entry.valid_until_ns is None:
            if entry.kind is Kind.EXCEPTION:
                self._fault("valid_until", "an exception without an end", "the last day of the exception")
        elif entry.valid_until_ns <= entry.valid_from_ns:
            self._fault("valid_until", "an end before valid_from", "valid_from or a later day")
        return None if self._row_is_faulty else entry

    def _value(self, column: str, text: str | None, convert: Callable[[str], T]) -> T | None:
        """The converted cell; None (and a fault) when it cannot be."""
        if text is None:
            return None
        converted = self._converted[column]
        try:
            return converted[text]  # type: ignore[return-value]
        except KeyError:
            pass
        try:
            value = convert(text)
        except ValueError as error:
            self._fault(column, _shown(column, text), str(error))
            return None
        if column not in ("entry_id", "prefix"):
            converted[text] = value
        return value

    def _start(self, text: str) -> int:
        return self._instant(text, end_of_day=False)

    def _end(self, text: str) -> int | None:
        return self._instant(text, end_of_day=True) if text else None

    def _instant(self, text: str, *, end_of_day: bool) -> int:
        expected = "a date that exists, like 2026-11-20, or a time with its offset, like 2026-11-20T08:00:00Z"
        try:
            # The length keeps out the other forms of ISO 8601 (weeks, no hyphens).
            value = date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(expected) from None
        if len(text) < 10 or text[4] != "-" or text[7] != "-":
            raise ValueError(expected)
        if value.year not in YEARS:
            raise ValueError(f"a year from {YEARS.start} to {YEARS.stop - 1}")
        return instant_ns(value, self.zone, end_of_day=end_of_day)

    def _compare(self, entry: Entry, first: Entry, first_line: int) -> None:
        for column, attribute in (
            ("kind", "kind"),
            ("category", "category"),
            ("side", "side"),
            ("endpoints", "endpoints"),
            ("protocols", "protocols"),
            ("valid_from", "valid_from_ns"),
            ("valid_until", "valid_until_ns"),
            ("status", "status"),
            ("status_since", "status_since_ns"),
        ):
            if getattr(entry, attribute) != getattr(first, attribute):
                self._fault(
                    column,
                    f"another value than in line {first_line} of the same entry_id",
                    "rows of one entry_id that differ in nothing but the prefix",
                )

    def _fault(self, column: str | None, found: str, expected: str) -> None:
        self._row_is_faulty = True
        self.faults.append(Fault(self.name, self._line, column, found, expected))


def _entry_id(text: str) -> str:
    if TELEPHONE_OR_IDENTITY.match(text) or not OPAQUE_ID.match(text):
        raise ValueError(
            "an opaque id: letters, digits, '.', '_', ':', '/', '-', at least one digit; "
            "no name, no number of a telephone or an identity card"
        )
    return text


def _one_of(names: type[Named], text: str) -> Named:
    try:
        return names(text)
    except ValueError:
        close = nearest(text, [str(name) for name in names])
        raise ValueError(f"{close!r}" if close else "one of " + ", ".join(names)) from None


def _kind(text: str) -> Kind:
    return _one_of(Kind, text)


def _category(text: str) -> Category:
    return _one_of(Category, text)


def _side(text: str) -> Side:
    return _one_of(Side, text) if text else Side.EITHER


def _status(text: str) -> Status:
    return _one_of(Status, text)


def _protocols(text: str) -> tuple[Protocol, ...]:
    filed = {_one_of(Protocol, part.strip()) for part in text.split(";")} if text else set()
    return tuple(protocol for protocol in Protocol if protocol in filed)


def _endpoints(text: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint.parse(part.strip()) for part in text.split(";")) if text else ()


def _shown(column: str, text: str) -> str:
    """A faulty value as a message may repeat it."""
    if not text:
        return "nothing"
    harmless = False
    if column == "prefix":
        harmless = LIKE_PREFIX.match(text) is not None
    elif column == "endpoints":
        harmless = all(LIKE_PREFIX.match(part.strip()) for part in text.split(";"))
    elif column in ("valid_from", "valid_until", "status_since"):
        harmless = LIKE_DATE.match(text) is not None
    elif column != "entry_id":
        known = {"kind": Kind, "category": Category, "side": Side, "status": Status, "protocols": Protocol}
        words = [str(name) for name in known[column]]
        parts = text.split(";") if column == "protocols" else [text]
        harmless = all(nearest(part.strip(), words) for part in parts)
    return repr(text) if harmless and len(text) <= 80 else NOT_SHOWN
