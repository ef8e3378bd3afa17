"""Writes a register as a CSV of our own columns with its manifest: what `Register.load` reads back.

Both files are written beside their place and then put there, the manifest last, so that a run that ends
early leaves no half of either.
"""

import csv
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from classifier.errors import OutputError
from classifier.register.entry import Entry
from classifier.register.feed_map import COLUMNS, STORE_COLUMNS
from classifier.register.snapshot import Register

__all__ = ["write_register"]


def write_register(register: Register, path: Path, keep: Path | None = None) -> None:
    """Write `path` and the manifest beside it, never over `keep`; OutputError says why not."""
    if keep is not None and path.exists() and keep.exists() and path.samefile(keep):
        raise OutputError(str(path), "it is the register that is read")
    if path.suffix == ".toml":
        raise OutputError(str(path), "its manifest would have the same name: name the CSV")

    def write_rows(file: IO[str]) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, *STORE_COLUMNS))
        writer.writerows(map(_row, register.entries))

    _write(path, write_rows)
    _write(path.with_suffix(".toml"), lambda file: print(_manifest(register), file=file))


def _write(path: Path, write: Callable[[IO[str]], None]) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with os.fdopen(
            os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640),
            "w",
            encoding="utf-8",
            newline="",
        ) as file:
            write(file)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(str(path), str(error.strerror or error)) from None


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.entry_id,
        entry.kind,
        entry.category,
        str(entry.prefix),
        entry.side,
        ";".join(map(str, entry.endpoints)),
        ";".join(entry.protocols),
        _time(entry.valid_from_ns),
        "" if entry.valid_until_ns is None else _time(entry.valid_until_ns),
        entry.status,
        _time(entry.status_since_ns),
        entry.source,
        "" if entry.missing_since_ns is None else _time(entry.missing_since_ns),
        entry.reason or "",
    )


def _manifest(register: Register) -> str:
    lines = [
        "# Written by `vpn-classifier register export`.",
        f'source = "{register.source}"',
        f"serial = {register.serial}",
        f"issued_at = {_time(register.issued_at_ns)}",
        f"next_update = {_time(register.next_update_ns)}",
        'time_zone = "UTC"',
        f"first_record = {_time(register.first_record_ns)}",
    ]
    for source in register.sources:
        lines += [
            "",
            "[[feed]]",
            f'source = "{source.name}"',
            f"serial = {source.serial}",
            f"issued_at = {_time(source.issued_at_ns)}",
        ]
        if source.next_update_ns is not None:
            lines.append(f"next_update = {_time(source.next_update_ns)}")
        lines.append(f'sha256 = "{source.sha256}"')
        if source.imported_at_ns is not None:
            lines.append(f"imported_at = {_time(source.imported_at_ns)}")
    return "\n".join(lines)


def _time(time_ns: int) -> str:
    """Exact to the microsecond, which is what dates and the host's clock are kept to."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1_000)
    return moment.isoformat().replace("+00:00", "Z")
