"""One state of the register, immutable: what a look-up is answered from.

A new state is a new `Register`; whoever holds the old one goes on undisturbed. Built from rows by `build`,
whatever they were read from; `load` reads a CSV file with its manifest.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from classifier.register.entry import Entry
from classifier.register.prefixes import PrefixTable

__all__ = ["Register"]


@dataclass(frozen=True, slots=True)
class Register:
    """All entries of one issue, and the trees over their prefixes."""

    source: str
    """Who issued it."""
    serial: int
    """Which issue of the source it is; rises."""
    issued_at_ns: int
    next_update_ns: int
    """When the next issue is due."""
    first_record_ns: int
    """Nothing is known about any time before this."""
    sha256: str
    """Of the file it was read from."""
    entries: tuple[Entry, ...] = field(repr=False)
    """One for each row, in the order of the file."""
    _prefixes: PrefixTable[Entry] = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: Path) -> "Register":
        """Read `path`, a CSV, and the manifest beside it (same name, `.toml`).

        RegisterError lists every fault of both; then nothing is loaded.
        """
        from classifier.register.feed import read_csv_register

        manifest, entries, sha256 = read_csv_register(Path(path))
        return cls.build(
            entries,
            source=manifest.source,
            serial=manifest.serial,
            issued_at_ns=manifest.issued_at_ns,
            next_update_ns=manifest.next_update_ns,
            first_record_ns=manifest.first_record_ns,
            sha256=sha256,
        )

    @classmethod
    def build(
        cls,
        entries: Iterable[Entry],
        *,
        source: str,
        serial: int,
        issued_at_ns: int,
        next_update_ns: int,
        first_record_ns: int | None = None,
        sha256: str = "",
    ) -> "Register":
        """A snapshot of `entries`; without `first_record_ns` their earliest time stands for it."""
        rows = tuple(entries)
        if first_record_ns is None:
            times = (min(entry.valid_from_ns, entry.status_since_ns) for entry in rows)
            first_record_ns = min(times, default=issued_at_ns)
        return cls(
            source=source,
            serial=serial,
            issued_at_ns=issued_at_ns,
            next_update_ns=next_update_ns,
            first_record_ns=first_record_ns,
            sha256=sha256,
            entries=rows,
            _prefixes=PrefixTable((entry.prefix, entry) for entry in rows),
        )

    def covering(self, address: bytes) -> tuple[Entry, ...]:
        """Every entry whose prefix holds the packed address, the most specific prefix first.

        Entries of one prefix come in the order of the file. ValueError for anything but 4 or 16 bytes.
        """
        return self._prefixes.covering(address)
