"""Which captures are meant by the names that a person gave.

A file is itself, "-" is standard input, a directory stands for the captures below it (any depth, in the
order of their paths), and a name that does not exist but has `*`, `?` or `[` in it is a glob. In a
directory a file is a capture when its name says so (`.pcap`, `.pcapng`, `.cap`, `.dmp`, also with a
number or `.gz`, `.zst`) or its first bytes do, those inside of gzip included; any zstd file counts, since
the standard library cannot look inside. What cannot be read, or not be told, is reported, not left out.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from classifier.errors import ClassifierError

_NAME = re.compile(r"\.(pcap|pcapng|cap|dmp)\d*(\.(gz|zst))?$", re.IGNORECASE)
_MAGICS = (
    b"\xd4\xc3\xb2\xa1",  # pcap, microseconds, little-endian
    b"\xa1\xb2\xc3\xd4",
    b"\x4d\x3c\xb2\xa1",  # pcap, nanoseconds, little-endian
    b"\xa1\xb2\x3c\x4d",
    b"\x0a\x0d\x0d\x0a",  # pcapng section header
)
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_HEAD = 1 << 16  # bytes of a gzip file that are looked at: its header may hold a long name and comment


@dataclass(frozen=True, slots=True)
class InputFault:
    """Why an input could not be read, or not to its end."""

    path: str
    reason: str  # a stable word, as in `_core.CaptureError.reason`
    found: str
    expected: str
    offset: int | None = None

    def __str__(self) -> str:
        place = "" if self.offset is None else f" at byte {self.offset}"
        expected = f"; expected {self.expected}" if self.expected else ""
        return f"{self.path}: {self.reason.replace('_', ' ')}{place}: {self.found}{expected}"


class InputError(ClassifierError):
    """Some input could not be read. What could be read has been."""

    def __init__(self, faults: tuple[InputFault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Inputs:
    """What to read, in order, and what cannot be."""

    paths: tuple[str, ...]
    faults: tuple[InputFault, ...]
    size: int | None
    """Bytes on disk of all of them; None when that of one is unknown, such as standard input."""


_Found: TypeAlias = tuple[str, os.stat_result | None]
"""A name of a capture, and what is known of the file; nothing of standard input."""


def find(names: Iterable[str]) -> Inputs:
    """The captures that these names stand for, each once: under the first of its names."""
    found: dict[object, tuple[str, int | None]] = {}
    faults: list[InputFault] = []
    for name in names:
        for item in _one(name):
            if isinstance(item, InputFault):
                faults.append(item)
            else:
                path, status = item
                if status is not None and stat.S_ISREG(status.st_mode):
                    found.setdefault((status.st_dev, status.st_ino), (path, status.st_size))
                else:
                    found.setdefault(path, (path, None))
    known = [size for _, size in found.values() if size is not None]
    return Inputs(
        tuple(path for path, _ in found.values()),
        tuple(faults),
        sum(known) if len(known) == len(found) else None,
    )


def _one(name: str, *, pattern: bool = True) -> Iterator[_Found | InputFault]:
    if name == "-":
        yield name, None
        return
    try:
        status = Path(name).stat()
    except (OSError, ValueError) as error:  # ValueError: a null character
        if pattern and glob.has_magic(name):
            yield from _matches(name)
        elif isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError):
            yield _fault(name, error, "a file that can be read")
        else:
            yield InputFault(
                _shown(name), "not_found", "no such file", "a capture, a directory, a glob or '-'"
            )
        return
    if not stat.S_ISDIR(status.st_mode):
        yield _readable((name, status))
        return
    items = sorted(_below(name), key=lambda item: item.path if isinstance(item, InputFault) else item[0])
    if not items:
        yield InputFault(
            _shown(name), "no_captures", "no file below this directory is a capture", "pcap or pcapng files"
        )
    for item in items:
        yield item if isinstance(item, InputFault) else _readable(item)


def _matches(pattern: str) -> Iterator[_Found | InputFault]:
    try:
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, names stay as given
    except (OSError, ValueError):
        matches = []
    if not matches:
        yield InputFault(_shown(pattern), "not_found", "no file matches", "a pattern that matches captures")
    for match in matches:
        yield from _one(match, pattern=False)


def _readable(found: _Found) -> _Found | InputFault:
    name = found[0]
    try:
        name.encode()
    except UnicodeEncodeError:
        expected = "a name in UTF-8, or the file at '-'"
        return InputFault(_shown(name), "file_name", "the name is not UTF-8", expected)
    return found


def _shown(name: str) -> str:
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # no file can have this name
        return name.encode("utf-8", "backslashreplace").decode()


def _fault(name: str, error: OSError, expected: str) -> InputFault:
    reason = "io"
    if isinstance(error, FileNotFoundError):
        reason = "not_found"
    elif isinstance(error, PermissionError):
        reason = "permission"
    return InputFault(_shown(name), reason, error.strerror or str(error), expected)


def _below(directory: str) -> Iterator[_Found | InputFault]:
    pending = [directory]
    while pending:  # not os.walk, which recurses: directories may be nested deeper than Python's stack
        folder = pending.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            yield _fault(folder, error, "a directory that can be read")
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    if not entry.is_symlink():  # it may lead round in circles
                        pending.append(entry.path)
                elif not entry.name.startswith(".") and _is_capture(entry):
                    yield entry.path, entry.stat()
            except OSError as error:
                yield _fault(entry.path, error, "a file that can be read")


def _is_capture(entry: os.DirEntry[str]) -> bool:
    """OSError when that cannot be told."""
    named = _NAME.search(entry.name) is not None
    try:
        regular = stat.S_ISREG(entry.stat().st_mode)
    except FileNotFoundError:
        if named:
            raise
        return False  # a link that leads nowhere
    return regular and (named or _begins_as_capture(Path(entry.path)))


def _begins_as_capture(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
        if head.startswith(_GZIP):
            return _holds_capture(head + file.read(_HEAD))
    return head in (*_MAGICS, _ZSTD)


def _holds_capture(data: bytes) -> bool:
    """Whether gzip data hold a capture, or what they hold cannot be told: the engine will say why."""
    inside = b""
    while data.startswith(_GZIP):  # members may be empty, the first bytes are those of all in a row
        member = zlib.decompressobj(wbits=31)
        try:
            inside += member.decompress(data, 4 - len(inside))
        except zlib.error:
            return True
        if len(inside) == 4:
            return inside in _MAGICS
        if not member.eof:
            return True
        data = member.unused_data
    return False
