"""One state of the register, immutable: what a look-up is answered from.

A new state is a new `Register`; whoever holds the old one goes on undisturbed. Built from rows by `build`,
whatever they were read from; `load` reads a CSV file with its manifest, or a store.
"""

import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import Fault, RegisterError
from classifier.register.entry import IKE_PORTS, Entry
from classifier.register.prefixes import PrefixTable

if TYPE_CHECKING:
    from classifier._core import PrefixMap

__all__ = ["Compiled", "Register", "Source"]

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """One feed of the register, as it was imported last."""

    name: str
    serial: int
    """The issuer's; rises."""
    issued_at_ns: int
    next_update_ns: int | None
    """When the next issue is due; None for the operator's own exceptions."""
    sha256: str
    """Of the file or files it was read from."""
    imported_at_ns: int | None
    """By the host's clock; None when it came straight from a file."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The prefixes that a flow's ends are compared with, and the ports; see `_core.Classes`."""

    prefixes: "PrefixMap"
    ports: tuple[int, ...]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Compiled":
        """Of all prefixes and filed endpoints."""
        from classifier._core import PrefixMap

        filed = {endpoint for entry in entries if entry.endpoints for endpoint in entry.endpoints}
        prefixes = [entry.prefix for entry in entries]
        prefixes += {endpoint.prefix for endpoint in filed}
        ports = {endpoint.port for endpoint in filed if endpoint.port is not None}
        if not ports.isdisjoint(IKE_PORTS):
            ports.update(IKE_PORTS)
        return cls(PrefixMap(prefixes, range(1, len(prefixes) + 1)), tuple(sorted(ports)))


@dataclass(frozen=True, slots=True)
class Register:
    """All entries of one state, and the trees over their prefixes."""

    source: str
    """Who issued it; names of several sources are joined by "+"."""
    serial: int
    """Of the store, or of the only source; rises."""
    issued_at_ns: int
    """When the latest of its feeds was issued."""
    next_update_ns: int
    """When the next issue of any source is due."""
    first_record_ns: int
    """Nothing is known about any time before this."""
    sha256: str
    """Of the file it was read from; of a store, of everything that went into it up to this state."""
    entries: tuple[Entry, ...] = field(repr=False)
    """One for each row: in the order of the file, of a store in the order of prefixes."""
    sources: tuple[Source, ...]
    _prefixes: PrefixTable[Entry] = field(repr=False, compare=False)
    _compiled: "Compiled | None" = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, path: Path, serial: int | None = None) -> "Register":
        """Read `path`: a store, or a CSV and the manifest beside it (same name, `.toml`).

        `serial` asks a store for a past state. RegisterError lists every fault; then nothing is loaded.
        """
        from classifier.register.store import database, is_store

        path = Path(path)
        try:
            path.open("rb").close()
        except OSError as error:  # not to be taken for a CSV, whose manifest is missing as well
            found = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
            expected = (
                "a register: a store that `register import` wrote, or a CSV with its manifest beside it"
            )
            raise RegisterError([Fault(str(path), None, None, found, expected)]) from None
        # Nothing of what a load makes is garbage: looking for some would take a third of its time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            if is_store(path):
                with database().reading(path) as store:
                    return store.register(serial)
            if serial is not None:
                found = "a file that keeps no history"
                expected = "a store that `register import` wrote, to ask for a serial"
                raise RegisterError([Fault(str(path), None, None, found, expected)])
            from classifier.register.feed import read_csv_register

            return read_csv_register(path)
        finally:
            if collecting:
                gc.enable()

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
        sources: tuple[Source, ...] = (),
    ) -> "Register":
        """A snapshot of `entries`; without `first_record_ns` their earliest time stands for it."""
        rows = tuple(entries)
        if first_record_ns is None:
            starts = min(map(attrgetter("valid_from_ns"), rows), default=issued_at_ns)
            first_record_ns = min(starts, min(map(attrgetter("status_since_ns"), rows), default=starts))
        if not sources:
            sources = (Source(source, serial, issued_at_ns, next_update_ns, sha256, None),)
        return cls(
            source=source,
            serial=serial,
            issued_at_ns=issued_at_ns,
            next_update_ns=next_update_ns,
            first_record_ns=first_record_ns,
            sha256=sha256,
            entries=rows,
            sources=sources,
            _prefixes=PrefixTable((entry.prefix, entry) for entry in rows),
        )

    @classmethod
    def merge(
        cls,
        entries: Iterable[Entry],
        sources: tuple[Source, ...],
        *,
        serial: int,
        first_record_ns: int | None,
        sha256: str,
    ) -> "Register":
        """A snapshot of what several sources say.

        It is as new as its latest feed, and due when the first of them is. The operator's exceptions are no
        feed: alone they are due at once, since nobody can be told from them to be unregistered.
        """
        feeds = [source for source in sources if source.next_update_ns is not None]
        issued_at_ns = max((source.issued_at_ns for source in feeds or sources), default=0)
        due = [source.next_update_ns for source in sources if source.next_update_ns is not None]
        return cls.build(
            entries,
            source="+".join(sorted(source.name for source in sources)),
            serial=serial,
            issued_at_ns=issued_at_ns,
            next_update_ns=min(due, default=issued_at_ns + NS_PER_S),
            first_record_ns=first_record_ns,
            sha256=sha256,
            sources=sources,
        )

    def compiled(self) -> "Compiled":
        """What a flow's ends are compared with, for the core; made once."""
        if self._compiled is None:
            object.__setattr__(self, "_compiled", Compiled.of(self.entries))
        assert self._compiled is not None
        return self._compiled

    def covering(self, address: bytes) -> tuple[Entry, ...]:
        """Every entry whose prefix holds the packed address, the most specific prefix first.

        Entries of one prefix come in the order of `entries`. ValueError for anything but 4 or 16 bytes.
        """
        return self._prefixes.covering(address)
