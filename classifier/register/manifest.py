"""Who issued a feed, which issue it is, until when it is current: register.toml.

A CSV register has its manifest beside it (same name, `.toml`). A feed that is imported may have one too, or
say the same in its map, or have it said by options. rules/README.md explains every key.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final

from classifier.errors import ConfigError, Fault
from classifier.register.snapshot import Source
from classifier.toml_file import Table, TomlFile, instant_ns, zone_of

__all__ = ["WHEN", "Manifest", "beside", "instant", "read_manifest", "serial_number", "source_name"]

WHEN: Final = "a time with its offset, like 2026-11-20T08:00:00Z"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What register.toml says."""

    source: str
    serial: int
    issued_at_ns: int
    next_update_ns: int | None
    first_record_ns: int | None
    zone: tzinfo
    sources: tuple[Source, ...] = ()
    """Of a register that was exported from a store: the feeds that went into it."""


def read_manifest(path: Path) -> tuple[Manifest | None, list[Fault]]:
    """The manifest, and every fault in it; None when there is nothing to read."""
    try:
        file = TomlFile(path)
    except ConfigError as error:
        return None, list(error.faults)
    table = file.root
    if _is_other(table) and ("columns" in table or "constants" in table):
        table.fault("", "a map of a feed", f"a manifest (source, serial ...); the map by --map {path.name}")
        return None, file.faults
    zone = table.need("time_zone", zone_of, UTC, "the IANA name of the time zone of bare dates")
    manifest = Manifest(
        source=table.need("source", _joined_sources, "", "a short name of who issued the register"),
        serial=table.need("serial", serial_number, 0, "a whole number that rises with each issue"),
        issued_at_ns=table.need("issued_at", instant, 0, WHEN),
        next_update_ns=table.need("next_update", instant, 0, WHEN),
        first_record_ns=table.get("first_record", instant, None),
        zone=zone,
        sources=tuple(_read_source(each) for each in table.tables("feed")),
    )
    table.finish()
    assert manifest.next_update_ns is not None
    if not file.faults and manifest.next_update_ns <= manifest.issued_at_ns:
        table.fault("next_update", "a time that is not after issued_at", "the time of the next issue")
    return manifest, file.faults


def _read_source(table: Table) -> Source:
    source = Source(
        name=table.need("source", source_name, "", "a short name of who issued the feed"),
        serial=table.need("serial", serial_number, 0, "a whole number that rises with each issue"),
        issued_at_ns=table.need("issued_at", instant, 0, WHEN),
        next_update_ns=table.get("next_update", instant, None),
        sha256=table.get("sha256", _sha256, ""),
        imported_at_ns=table.get("imported_at", instant, None),
    )
    table.finish()
    return source


def beside(path: Path, map_path: Path | None) -> Path | None:
    """The manifest beside a feed that a map translates, if there is one: a map may have the same name."""
    manifest = path.with_suffix(".toml")
    if not manifest.exists() or (map_path is not None and _is_map(manifest)):
        return None
    return manifest


def _is_map(path: Path) -> bool:
    """Whether the file is feed.toml by another name, and no manifest."""
    try:
        return _is_other(TomlFile(path).root)
    except ConfigError:
        return False  # whoever reads it as a manifest says what is wrong


def _is_other(table: Table) -> bool:
    return not any(key in table for key in ("source", "serial", "issued_at", "next_update"))


def source_name(value: object) -> str:
    """A short name; ValueError says what was expected."""
    if isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value):
        return value
    raise ValueError("a short name in small letters, digits, '.', '_' and '-'")


def _joined_sources(value: object) -> str:
    if isinstance(value, str) and "+" in value:
        return "+".join(source_name(part) for part in value.split("+"))
    return source_name(value)


def serial_number(value: object) -> int:
    """A serial; ValueError says what was expected."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63:
        return value
    raise ValueError("a whole number from 1")


def instant(value: object) -> int:
    """A TOML time with its offset; ValueError says what was expected."""
    if not isinstance(value, datetime):
        raise ValueError(WHEN)
    return instant_ns(value, UTC)


def _sha256(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}|", value):
        return value
    raise ValueError("64 hexadecimal digits")
