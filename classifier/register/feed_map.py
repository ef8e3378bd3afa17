"""How somebody else's feed becomes rows of ours: feed.toml.

In: the map file. Out: an immutable `FeedMap`, by which `feed` reads CSV and JSON Lines. rules/README.md
explains every key.

One rule a reader would get wrong: only a map makes the reading tidy (spaces of all kinds, capitals, what
spreadsheets add). A register of our own form is read as it stands.
"""

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from classifier.errors import ConfigError
from classifier.register.entry import Category, Kind, Protocol, Side, Status
from classifier.register.manifest import instant, serial_number
from classifier.toml_file import Table, TomlFile, duration_ns, nearest, zone_of

__all__ = [
    "ALL_COLUMNS",
    "COLUMNS",
    "OPTIONAL",
    "STORE_COLUMNS",
    "WORDS",
    "FeedManifest",
    "FeedMap",
    "tidy",
    "tidy_word",
]

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
# A register that was exported from a store has these as well.
STORE_COLUMNS: Final = ("source", "missing_since", "reason")
ALL_COLUMNS: Final = COLUMNS + STORE_COLUMNS
OPTIONAL: Final = frozenset({"side", "endpoints", "protocols", "valid_until"})
WORDS: Final[Mapping[str, type[StrEnum]]] = MappingProxyType(
    {"kind": Kind, "category": Category, "side": Side, "status": Status, "protocols": Protocol}
)
# What spreadsheets and web pages put where a space belongs, and marks that nobody sees.
SPACES: Final = dict.fromkeys(map(ord, "\u00a0\u2007\u202f\u2009\u3000\t"), " ") | dict.fromkeys(
    map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"), ""
)
FORMATS: Final = ("csv", "json_lines")
ANYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class FeedManifest:
    """What the map says of the feed itself; None is for a manifest or an option to say."""

    serial: int | None = None
    issued_at_ns: int | None = None
    next_update_ns: int | None = None
    update_every_ns: int | None = None
    """Time from one issue to the next, where no next_update is given."""
    first_record_ns: int | None = None


@dataclass(frozen=True, slots=True)
class FeedMap:
    """How a feed is written, and what its columns and words mean."""

    is_tidy: bool = False
    """Read with the tolerance that spreadsheets need."""
    sha256: str = ""
    format: str | None = None
    """One of `FORMATS`; None: by the name of the file."""
    encoding: str = "utf-8"
    delimiter: str = ","
    quote: str = '"'
    """Around values; empty: no value is quoted."""
    escape: str = ""
    """Before a quote inside a value; empty: the quote is doubled."""
    skip_lines: int = 0
    """Lines before the header."""
    skip_rows: frozenset[str] = frozenset()
    """First values of rows that are none, as of totals; tidied."""
    separator: str = ";"
    """Between several endpoints, protocols or prefixes in one cell."""
    zone: tzinfo | None = None
    """Of bare dates; None: the manifest's."""
    date_formats: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name -> the feed's; ours that are missing here are looked for by their own name."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Our name -> what it is in every row."""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Our name -> the feed's word, tidied -> ours."""
    ignore: frozenset[str] = frozenset()
    """Columns of the feed that are never looked at, tidied."""
    manifest: FeedManifest = FeedManifest()

    @classmethod
    def load(cls, path: Path) -> "FeedMap":
        """Read feed.toml; ConfigError lists every fault."""
        file = TomlFile(path)
        table = file.root
        form = table.get("format", _one_of(FORMATS), None)
        encoding = table.get("encoding", _encoding, "utf-8")
        delimiter = table.get("delimiter", _character, ",")
        quote = table.get("quote", _character_or_none, '"')
        escape = table.get("escape", _character_or_none, "")
        skip_lines = table.get("skip_lines", _count, 0)
        skip_rows = table.get("skip_rows", _texts, ())
        separator = table.get("separator", _separator, ";")
        zone = table.get("time_zone", zone_of, None)
        date_formats = table.get("date_formats", _date_formats, ())
        ignore = table.get("ignore", _texts, ())
        columns = _column_table(table, "columns")
        constants = _column_table(table, "constants")
        for name in sorted(columns.keys() & constants.keys()):
            table.fault(f"constants.{name}", "a constant for a column that [columns] maps", "one of the two")
        for name in columns:
            if tidy_word(columns[name]) in {tidy_word(other) for other in ignore}:
                table.fault(f"columns.{name}", "a column that is also in ignore", "one of the two")
        values = _value_tables(table)
        manifest = _manifest(table)
        table.finish()
        if file.faults:
            raise ConfigError(file.faults)
        return cls(
            is_tidy=True,
            sha256=file.sha256,
            format=form,
            encoding=encoding,
            delimiter=delimiter,
            quote=quote,
            escape=escape,
            skip_lines=skip_lines,
            skip_rows=frozenset(map(tidy_word, skip_rows)),
            separator=separator,
            zone=zone,
            date_formats=date_formats,
            columns=columns,
            constants=constants,
            values=values,
            ignore=frozenset(map(tidy_word, ignore)),
            manifest=manifest,
        )


def tidy(text: str) -> str:
    """A cell without what a spreadsheet adds: odd spaces, invisible marks, ="..." around it."""
    if not text.isascii():
        text = text.translate(SPACES)
    text = text.strip()
    if text.startswith('="') and text.endswith('"') and len(text) > 2:
        text = text[2:-1].strip()
    return text


def tidy_word(text: str) -> str:
    """A word or column name as words are compared: without regard to capitals and to how much space."""
    return " ".join(tidy(text).casefold().split())


def _column_table(table: Table, key: str) -> dict[str, str]:
    """A table whose keys are columns of ours."""
    inner = table.table(key)
    found = {name: inner.get(name, _text, None) for name in COLUMNS}
    inner.finish()
    return {name: text for name, text in found.items() if text is not None}


def _value_tables(table: Table) -> dict[str, dict[str, str]]:
    outer = table.table("values")
    values: dict[str, dict[str, str]] = {}
    for name, words in WORDS.items():
        inner = outer.table(name)
        known = [str(word) for word in words]
        own: dict[str, str] = {}
        for theirs in inner:
            ours = inner.get(theirs, _one_of(known), None)
            if ours is None:
                continue
            if own.setdefault(tidy_word(theirs), ours) != ours:
                inner.fault(theirs, "a word that has another meaning above", "each word once")
        inner.finish()
        if own:
            values[name] = own
    outer.finish()
    return values


def _manifest(table: Table) -> FeedManifest:
    inner = table.table("manifest")
    manifest = FeedManifest(
        serial=inner.get("serial", serial_number, None),
        issued_at_ns=inner.get("issued_at", instant, None),
        next_update_ns=inner.get("next_update", instant, None),
        update_every_ns=inner.get("update_every", duration_ns, None),
        first_record_ns=inner.get("first_record", instant, None),
    )
    inner.finish()
    return manifest


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("text in quotes")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError('a list of names, like ["Applicant", "Telephone"]')


def _character(value: object) -> str:
    if isinstance(value, str) and len(value) == 1 and value not in "\r\n\0":
        return value
    raise ValueError("one character")


def _character_or_none(value: object) -> str:
    return "" if value == "" else _character(value)


def _separator(value: object) -> str:
    # Spreadsheets break lines inside a cell.
    return "\n" if value == "\n" else _character(value)


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000:
        return value
    raise ValueError("a whole number up to 1000")


def _one_of(known: "list[str] | tuple[str, ...]") -> Callable[[object], str]:
    def convert(value: object) -> str:
        if value in known:
            return str(value)
        close = nearest(value, list(known)) if isinstance(value, str) else None
        raise ValueError(repr(close) if close else "one of " + ", ".join(known))

    return convert


def _encoding(value: object) -> str:
    expected = "the name of a text encoding, like utf-8, utf-16, windows-1252 or windows-1256"
    try:
        if isinstance(value, str) and codecs.lookup(value)._is_text_encoding:
            return value
    except (LookupError, ValueError):
        pass
    raise ValueError(expected)


def _date_formats(value: object) -> tuple[str, ...]:
    formats = _texts(value)
    # A day on which a mix-up of day and month shows.
    day = datetime(2026, 11, 23, 17, 45, 56, tzinfo=UTC)
    for text in formats:
        try:
            read = datetime.strptime(day.strftime(text), text)
        except ValueError:
            read = None
        if read is None or (read.year, read.month, read.day) != (2026, 11, 23):
            raise ValueError('formats with day, month and year, like "%d/%m/%Y" or "%d-%b-%y"')
    return formats
