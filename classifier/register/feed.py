"""Reads feeds, CSV or JSON Lines: every row of them, and every fault.

A register of our own form (the columns of `COLUMNS`, UTF-8, a manifest beside it) and a feed that a map
translates are read by the same code; so `register check` finds what an import would. rules/README.md
explains every column and key.

One rule a reader would get wrong: only the fault of a row can be set aside. After any other (a header, text
that is no CSV, bytes that are no text) nobody knows which rows there are, and the feed is not whole.
"""

import csv
import hashlib
import io
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from pathlib import Path
from typing import IO, Final, TypeVar

from classifier.errors import Fault, RegisterError
from classifier.register.cells import Cells
from classifier.register.entry import Entry, Kind
from classifier.register.feed_map import ALL_COLUMNS, COLUMNS, OPTIONAL, FeedMap, tidy, tidy_word
from classifier.register.manifest import read_manifest
from classifier.register.prefixes import Prefix
from classifier.register.snapshot import Register
from classifier.toml_file import nearest

__all__ = ["Feed", "read_csv_register", "read_feed"]

Named = TypeVar("Named", bound=StrEnum)

# Columns that would hold something about a person, whatever the rest of their name.
PERSONAL_COLUMN: Final = re.compile(
    r"(^|[^a-z])(name|surname|person|applicant|owner|contact|phone|telephone|mobile|msisdn|cell|fax|e?-?mail|"
    r"cnic|nic|nid|ssn|passport|identity|birth|dob|gender|father|street|postal|imsi|imei)([^a-z]|$)"
    r"|(name|phone|email|cnic|passport|msisdn)$"
)
# No digits in a row, no address of a person: what a column's name may have, but hardly a value.
SHOWABLE_COLUMN: Final = re.compile(r"(?!.*\d{5})[^\W\d_][\w .,:()/&'#°-]{0,47}")
SPREADSHEETS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
MAX_FAULTS: Final = 100_000
MAX_LINE: Final = 1 << 20  # characters
MAX_KEPT: Final = 100_000  # converted values of one column
UNREAD: Final = object()


@dataclass(frozen=True, slots=True)
class Feed:
    """What one or several files of a feed say."""

    entries: tuple[Entry, ...]
    """Of all rows without a fault, in their order."""
    faults: tuple[Fault, ...]
    rows: int
    faulty_rows: int
    faulty_ids: frozenset[str]
    """Ids with a faulty row."""
    unnamed_rows: int
    """Faulty rows that do not say whose they are."""
    is_whole: bool
    """All rows could be told apart: there is no fault but in rows."""
    sha256: str
    names: Mapping[str, str]
    """Our columns, as the feed calls them."""
    lines: Sequence[int]
    """Of each entry."""
    files: tuple[tuple[int, str], ...]
    """Index of the first entry of each file, and its name."""

    def place(self, index: int) -> tuple[str, int]:
        """File and line of an entry."""
        name = next(name for start, name in reversed(self.files) if start <= index)
        return name, self.lines[index]


def read_csv_register(path: Path) -> Register:
    """A CSV of our own form with its manifest; RegisterError lists every fault of both."""
    manifest, faults = read_manifest(path.with_suffix(".toml"))
    form = FeedMap(zone=manifest.zone if manifest else UTC)
    feed = read_feed([path], form, source=manifest.source if manifest else "")
    faults += feed.faults
    if faults or manifest is None:
        raise RegisterError(faults)
    assert manifest.next_update_ns is not None
    return Register.build(
        feed.entries,
        source=manifest.source,
        serial=manifest.serial,
        issued_at_ns=manifest.issued_at_ns,
        next_update_ns=manifest.next_update_ns,
        first_record_ns=manifest.first_record_ns,
        sha256=feed.sha256,
        sources=manifest.sources,
    )


def read_feed(paths: Sequence[Path], form: FeedMap, *, source: str) -> Feed:
    """Read all files as one feed. Never raises for what is in them: `faults` says what is wrong."""
    reader = _Reader(form, source)
    digests = []
    for path in paths:
        try:
            with path.open("rb") as file:
                if file.read(4) in SPREADSHEETS:
                    reader.refuse(Fault(str(path), None, None, "a spreadsheet", "its sheet, saved as CSV"))
                    continue
                file.seek(0)
                digests.append(hashlib.file_digest(file, "sha256"))
                file.seek(0)
                reader.read(path, file)
        except OSError as error:
            found = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
            expected = f"a CSV register (columns {', '.join(COLUMNS)})"
            reader.refuse(Fault(str(path), None, None, found, "a feed" if form.is_tidy else expected))
        except _TooManyFaultsError:
            break
    together = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(d.digest() for d in digests))
    return reader.feed(together.hexdigest())


class _TooManyFaultsError(Exception):
    pass


class _Reader:
    """One pass over the files of a feed. Values that come back in many rows are converted once."""

    def __init__(self, form: FeedMap, source: str) -> None:
        self._form = form
        self._source = source
        self._entries: list[Entry] = []
        self._faults: list[Fault] = []
        self._rows = 0
        self._faulty_rows = 0
        self._faulty_ids: set[str] = set()
        self._unnamed_rows = 0
        self._is_whole = True
        self._lines = array("L")
        self._files: list[tuple[int, str]] = []
        self._first: dict[str, int] = {}
        self._of_id: dict[str, dict[Prefix, int]] = {}
        self._file = ""
        self._line = 1
        self._is_row_faulty = False
        self._names = {column: form.columns.get(column, column) for column in ALL_COLUMNS}
        self._read_columns = [
            column for column in (COLUMNS if form.is_tidy else ALL_COLUMNS) if column not in form.constants
        ]
        self._cells = Cells(form)
        self._converted: list[dict[str, object]] = [{} for _ in ALL_COLUMNS]
        self._fixed: list[object] = [UNREAD] * len(COLUMNS) + [source, None, None]
        for index, column in enumerate(COLUMNS):
            if column in form.constants or (form.is_tidy and column in OPTIONAL):
                self._fixed[index] = self._constant(index, form.constants.get(column))

    def feed(self, sha256: str) -> Feed:
        return Feed(
            entries=tuple(self._entries),
            faults=tuple(self._faults),
            rows=self._rows,
            faulty_rows=self._faulty_rows,
            faulty_ids=frozenset(self._faulty_ids),
            unnamed_rows=self._unnamed_rows,
            is_whole=self._is_whole,
            sha256=sha256,
            names=self._names,
            lines=self._lines,
            files=tuple(self._files),
        )

    def refuse(self, fault: Fault) -> None:
        """Remember a fault that is not one row's: nothing can be told from the rest."""
        self._is_whole = False
        self._faults.append(fault)

    def read(self, path: Path, file: IO[bytes]) -> None:
        """All rows of one file."""
        self._file = str(path)
        self._line = 1
        self._files.append((len(self._entries), self._file))
        encoding = "utf-8-sig" if self._form.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else ""
        text = io.TextIOWrapper(file, encoding=encoding or self._form.encoding, newline="")
        try:
            if self._is_json(path):
                self._read_json(text)
            else:
                self._read_csv(text)
        except UnicodeError:  # not always a UnicodeDecodeError: UTF-16 without its mark is none
            self._line = _undecodable_line(file, text.encoding)
            name = "UTF-8" if encoding else self._form.encoding
            more = ", or another `encoding` in the map" if self._form.is_tidy else ""
            self._refuse(None, f"bytes that are not {name}", f"a file in {name}{more}")
        finally:
            text.detach()

    def _is_json(self, path: Path) -> bool:
        if self._form.format is not None:
            return self._form.format == "json_lines"
        return self._form.is_tidy and path.suffix.lower() in (".jsonl", ".ndjson", ".json")

    # -- CSV

    def _read_csv(self, text: io.TextIOWrapper) -> None:
        form = self._form
        lines = self._lines_of(text)
        skipped = sum(1 for _ in zip(range(form.skip_lines), lines, strict=False))
        delimiter = form.delimiter
        first = next(lines, None)
        if first is None:
            self._refuse(None, "an empty file", self._header_expected())
            return
        if form.is_tidy and re.fullmatch(r'"?sep=.\r?"?[\r\n]*', first):
            delimiter = first.strip('"\r\n')[4]
            skipped += 1
            first = next(lines, "")
        rows = self._csv_rows(_chain(first, lines), delimiter, skipped)
        header = next(rows, None)
        if header is None:
            self._refuse(None, "an empty file", self._header_expected())
            return
        places = self._take_header(header)
        if places is None:
            return
        width, spare = len(header), [n for n, name in enumerate(header) if not name.strip()]
        skip_rows = form.skip_rows
        for row in rows:
            if form.is_tidy and (row == header or (skip_rows and _first_word(row) in skip_rows)):
                continue
            self._is_row_faulty = False
            self._rows += 1
            if len(row) != width and not self._make_fit(row, header):
                self._row_fault(None, f"{len(row)} values", f"{width}, as many as the header has columns")
                self._count_fault(None)
                continue
            if spare and any(row[n].strip() for n in spare):
                self._row_fault(None, "a value in a column without a name", "a name for it, or nothing in it")
            self._take([row[place] if place >= 0 else None for place in places])

    def _csv_rows(self, lines: Iterator[str], delimiter: str, skipped: int) -> Iterator[list[str]]:
        form = self._form
        reader = csv.reader(
            lines,
            delimiter=delimiter,
            quotechar=form.quote or None,
            escapechar=form.escape or None,
            doublequote=not form.escape,
            quoting=csv.QUOTE_MINIMAL if form.quote else csv.QUOTE_NONE,
            strict=True,
        )
        while True:
            self._line = reader.line_num + 1 + skipped
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._refuse(
                    None, f"text that is no CSV ({error})", "quotes in pairs, doubled inside a value"
                )
                continue
            if row and not (form.is_tidy and not any(map(tidy, row))):
                yield row

    def _make_fit(self, row: list[str], header: list[str]) -> bool:
        """Spreadsheets cut off and add empty values at the end of a row; nothing else may differ."""
        if not self._form.is_tidy:
            return False
        while len(row) > len(header) and not tidy(row[-1]):
            row.pop()
        missing = header[len(row) :]
        if all(tidy_word(name) in ("", *self._form.ignore) for name in missing):
            row.extend("" for _ in missing)
        return len(row) == len(header)

    def _take_header(self, header: list[str]) -> list[int] | None:
        """Where each column of ours stands; None when the rows cannot be read by this header."""
        form = self._form
        same = tidy_word if form.is_tidy else str.strip
        names = [same(name) for name in header]
        wanted = {same(self._names[column]): column for column in self._read_columns}
        if not any(name in wanted for name in names):
            self._refuse(None, "a first line without a known column", self._header_expected(len(names)))
            return None
        for number, name in enumerate(names):
            if name not in wanted and not (form.is_tidy and (not name or name in form.ignore)):
                self._unknown_column(tidy(header[number]), wanted, f" (column {number + 1})")
        for name in sorted({name for name in names if name in wanted and names.count(name) > 1}):
            self._refuse(name, "the column twice", "each column once")
        places = []
        for index, column in enumerate(ALL_COLUMNS):
            theirs = same(self._names[column])
            place = names.index(theirs) if wanted.get(theirs) and theirs in names else -1
            if place < 0 and (self._fixed[index] is UNREAD or column in form.columns):
                self._no_column(column)
            places.append(-1 if column in form.constants else place)
        return places

    def _no_column(self, column: str) -> None:
        if not self._form.is_tidy:
            expected = f"a header with the columns {', '.join(COLUMNS)}"
        elif column in self._form.columns:
            expected = f"the column that the map names for {column}"
        else:
            expected = f"a line for {column} in the map: its column under [columns], or [constants]"
        self._refuse(self._names[column], "no such column", expected)

    def _unknown_column(self, name: str, wanted: Mapping[str, object], place: str) -> None:
        """A column that neither we nor the map know."""
        is_tidy = self._form.is_tidy
        shown = name if SHOWABLE_COLUMN.fullmatch(name) else None
        if PERSONAL_COLUMN.search(name.lower()):
            found, expected = "a column that looks personal", "a feed without anything about a person"
            if is_tidy:
                expected += ", or the column's name in `ignore` of the map"
        elif shown is None:
            found = "a column whose name is not shown"
            expected = "a column that the map knows" if is_tidy else "only " + ", ".join(COLUMNS)
        else:
            found, close = "an unknown column", nearest(name, list(wanted))
            expected = f"the column {close!r}" if close else "only " + ", ".join(COLUMNS)
            if is_tidy:
                expected = (f"{expected}, or " if close else "") + "its name in the map: [columns] or ignore"
        self._refuse(shown, found, expected if shown else expected + place)

    def _header_expected(self, values: int | None = None) -> str:
        names = [self._names[column] for column in COLUMNS if column not in self._form.constants]
        expected = "a header with the columns " + ", ".join(dict.fromkeys(names))
        if values is not None and self._form.is_tidy:
            number = f"{values} values, {self._form.delimiter!r} between them"
            expected += f"; here are {number}: are delimiter and skip_lines of the map right?"
        return expected

    # -- JSON Lines

    def _read_json(self, text: io.TextIOWrapper) -> None:
        import orjson

        form = self._form
        wanted: dict[str, list[int]] = {}
        for column in self._read_columns:
            wanted.setdefault(tidy_word(self._names[column]), []).append(ALL_COLUMNS.index(column))
        places: dict[str, list[int]] = {}  # of each key that was met
        for number, line in enumerate(self._lines_of(text), 1):
            self._line = number
            if not line.strip():
                continue
            self._is_row_faulty = False
            self._rows += 1
            try:
                row = orjson.loads(line.removeprefix("\ufeff"))
            except orjson.JSONDecodeError as error:
                self._row_fault(None, f"text that is no JSON (column {error.colno})", "one object a line")
                self._count_fault(None)
                continue
            if not isinstance(row, dict):
                self._row_fault(None, "JSON that is no object", "one object a line")
                self._count_fault(None)
                continue
            cells: list[str | None] = [None] * len(ALL_COLUMNS)
            for key, value in row.items():
                if key not in places:
                    places[key] = wanted.get(tidy_word(key), [])
                    if not places[key] and tidy_word(key) not in form.ignore:
                        self._unknown_column(key, wanted, "")
                if not places[key]:
                    continue
                cell = self._json_text(value)
                if cell is None:
                    self._row_fault(places[key][0], "neither text nor number", "text, a number or a list")
                for index in places[key]:
                    cells[index] = cell
            for index, column in enumerate(ALL_COLUMNS):
                if self._fixed[index] is UNREAD and not any(index in places[key] for key in row):
                    self._row_fault(index, "no such key", f"{self._names[column]} in every object")
            self._take(cells)

    def _json_text(self, value: object) -> str | None:
        if isinstance(value, list):
            parts = [self._json_text(part) for part in value]
            return None if None in parts else self._form.separator.join(map(str, parts))
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else None

    # -- rows

    def _lines_of(self, text: io.TextIOWrapper) -> Iterator[str]:
        """Lines, none of them longer than memory has room for."""
        number = 0
        while line := text.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                self._line = number
                self._refuse(None, f"a line of more than {MAX_LINE:,} characters", "a CSV or JSON Lines file")
                return
            yield line

    def _take(self, cells: list[str | None]) -> None:
        """One row: entries of it, or faults."""
        values: list[object] = []
        for index, text in enumerate(cells):
            if text is None:
                values.append(self._fixed[index])
                continue
            value = self._converted[index].get(text, UNREAD)
            values.append(self._convert(index, text) if value is UNREAD else value)
        entry_id, kind, valid_from, valid_until = values[0], values[1], values[7], values[8]
        if not self._is_row_faulty and UNREAD not in values:
            if valid_until is None:
                if kind is Kind.EXCEPTION:
                    self._row_fault(8, "an exception without an end", "the last day of the exception")
            elif valid_until <= valid_from:  # type: ignore[operator]  # both are nanoseconds
                self._row_fault(8, "an end before valid_from", "valid_from or a later day")
        if not self._is_row_faulty and UNREAD not in values:
            prefixes = values[3]
            for prefix in prefixes if type(prefixes) is list else (prefixes,):
                values[3] = prefix
                self._add(Entry(*values))  # type: ignore[arg-type]  # none is faulty
        if self._is_row_faulty:
            self._count_fault(entry_id)

    def _add(self, entry: Entry) -> None:
        # Two sources may use the same id; a feed has but one.
        entry_id = entry.entry_id if entry.source == self._source else f"{entry.source}\n{entry.entry_id}"
        first_index = self._first.setdefault(entry_id, len(self._entries))
        if first_index != len(self._entries):
            first = self._entries[first_index]
            if entry[1:3] != first[1:3] or entry[4:11] != first[4:11]:
                self._compare(entry, first, first_index)
            prefixes = self._of_id.setdefault(entry_id, {first.prefix: first_index})
            index = prefixes.setdefault(entry.prefix, len(self._entries))
            if index != len(self._entries) and not self._is_row_faulty:
                self._row_fault(
                    3, f"the same entry_id and prefix as in {self._line_of(index)}", "each row once"
                )
        self._entries.append(entry)
        self._lines.append(self._line)

    def _convert(self, index: int, text: str) -> object:
        """The converted cell; `UNREAD` (and a fault) when it cannot be."""
        stripped = tidy(text) if self._form.is_tidy else text.strip()
        try:
            value = self._cells.converters[index](stripped)
        except ValueError as error:
            self._row_fault(index, self._cells.shown(ALL_COLUMNS[index], stripped), str(error))
            return UNREAD
        if index not in (0, 3):
            converted = self._converted[index]
            if len(converted) >= MAX_KEPT:
                converted.clear()
            converted[text] = value
        return value

    def _constant(self, index: int, text: str | None) -> object:
        """What a column without a cell is in every row."""
        try:
            return self._cells.converters[index](tidy(text or ""))
        except ValueError as error:
            column = COLUMNS[index]
            found = self._cells.shown(column, text or "")
            self.refuse(Fault("the map", None, f"constants.{column}", found, str(error)))
            return UNREAD

    def _compare(self, entry: Entry, first: Entry, first_index: int) -> None:
        for index, column in enumerate(COLUMNS):
            if column not in ("entry_id", "prefix") and entry[index] != first[index]:
                self._row_fault(
                    index,
                    f"another value than in {self._line_of(first_index)} of the same entry_id",
                    "rows of one entry_id that differ in nothing but the prefix",
                )

    def _line_of(self, index: int) -> str:
        start, name = next(file for file in reversed(self._files) if file[0] <= index)
        here = start == self._files[-1][0]
        return f"line {self._lines[index]}" + ("" if here else f" of {name}")

    def _count_fault(self, entry_id: object) -> None:
        self._faulty_rows += 1
        if isinstance(entry_id, str):
            self._faulty_ids.add(entry_id)
        else:
            self._unnamed_rows += 1

    def _row_fault(self, index: int | None, found: str, expected: str) -> None:
        self._is_row_faulty = True
        self._fault(None if index is None else self._names[ALL_COLUMNS[index]], found, expected)

    def _refuse(self, column: str | None, found: str, expected: str) -> None:
        self._is_whole = False
        self._fault(column, found, expected)

    def _fault(self, column: str | None, found: str, expected: str) -> None:
        self._faults.append(Fault(self._file, self._line, column, found, expected))
        if len(self._faults) >= MAX_FAULTS:
            self._is_whole = False
            expected = "a feed that is meant by this map" if self._form.is_tidy else "a register"
            self._faults.append(Fault(self._file, None, None, f"more than {MAX_FAULTS:,} faults", expected))
            raise _TooManyFaultsError


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _first_word(row: list[str]) -> str:
    return next((word for word in map(tidy_word, row) if word), "")


def _undecodable_line(file: IO[bytes], encoding: str) -> int:
    """The line with the first bytes that are no text."""
    file.seek(0)
    text = io.TextIOWrapper(file, encoding=encoding, errors="replace", newline="")
    try:
        return next((number for number, line in enumerate(text, 1) if "\ufffd" in line), 1)
    except UnicodeError:
        return 1
    finally:
        text.detach()
