"""Takes a feed into the store: read, compare, refuse or commit.

All or nothing, in one transaction. What is refused: faults (unless they are set aside), an older issue than
the last one of the source, and a loss that nobody asked for. The same feed again does nothing.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Final

from classifier.errors import Fault, OutputError, RegisterError
from classifier.register.changes import COUNTS, IRREPLACEABLE, Changes, Loss, changes_of
from classifier.register.checks import contradictions, is_very_short
from classifier.register.entry import Entry, Kind
from classifier.register.feed import Feed, read_feed
from classifier.register.feed_map import FeedMap
from classifier.register.manifest import Manifest, beside, read_manifest
from classifier.register.snapshot import Register
from classifier.register.store import OPERATOR, Change, database, host_time_ns

__all__ = ["Imported", "Request", "import_feed", "preview", "write_faults"]

CLOCKS_DIFFER_NS: Final = 3_600 * 1_000_000_000
SHOWN: Final = 50  # faults of a feed that is refused


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of an import."""

    files: tuple[Path, ...]
    source: str
    map_path: Path | None = None
    """None: the files have our own columns."""
    is_complete: bool = False
    """What is not in the feed is missing from now on."""
    serial: int | None = None
    issued_at_ns: int | None = None
    next_update_ns: int | None = None
    """Before what manifest and map say."""
    set_aside: Path | None = None
    """Leave faulty rows out and list their faults here; None: refuse the feed."""
    max_faults: int | float = 0.01
    """How many rows may be set aside, or which share of them."""
    accepted: frozenset[Kind] = frozenset()
    """Kinds that may shrink."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, or would do."""

    manifest: Manifest
    feed: Feed
    changes: Changes
    serial: int
    """Of the store. That of the former import, if this one changes nothing since it was done before."""
    is_repeated: bool = False
    contradictions: int = 0
    """How many prefixes the feed has approved for two registrants at once."""
    very_short: int = 0
    """How many rows it has for more addresses than most registrants have."""
    is_early: bool = False
    """Issued, as it says, after now."""
    is_older: bool = False
    """Issued, as it says, before the former issue of its source."""


def import_feed(request: Request, db: Path, now_ns: int | None = None) -> Imported:
    """Read the feed and commit it; RegisterError and ConfigError say why nothing was changed."""
    form, feed, manifest = _read(request)
    options = _options(request, form, manifest)
    now_ns = host_time_ns() if now_ns is None else now_ns
    # Also when there is no fault: a list of last week's would look like this week's.
    if request.set_aside is not None:
        write_faults(request.set_aside, feed.faults, _inputs(request, db))
    with database().writing(db) as store:
        last = store.last_change(request.source)
        if last is not None and (last.sha256, last.options_sha256) == (feed.sha256, options):
            return Imported(manifest, feed, Changes(), last.serial, is_repeated=True)
        _refuse_older(request, manifest, last)
        changes = _changes(request, feed, manifest, store.rows_of(request.source))
        losses = [loss for loss in changes.losses() if loss.kind not in request.accepted]
        if losses:
            raise RegisterError([_refused(request, loss) for loss in losses])
        change = _change(request, feed, manifest, changes, options, now_ns)
        serial = store.commit(change, changes.rows, _set_aside(request, feed))
    count = sum(1 for _ in contradictions(feed.entries, feed.place, ()))
    return Imported(
        manifest,
        feed,
        changes,
        serial,
        contradictions=count,
        very_short=sum(is_very_short(entry.prefix) for entry in feed.entries),
        is_early=manifest.issued_at_ns > now_ns + CLOCKS_DIFFER_NS,
        is_older=last is not None and manifest.issued_at_ns < last.issued_at_ns,
    )


def preview(request: Request, db: Path) -> tuple[Register, Imported]:
    """The register as it would be after that import; nothing is written, and a loss does not stop it."""
    form, feed, manifest = _read(request)
    with database().copied(db) as store:
        _refuse_older(request, manifest, store.last_change(request.source))
        changes = _changes(request, feed, manifest, store.rows_of(request.source))
        change = _change(request, feed, manifest, changes, _options(request, form, manifest), host_time_ns())
        serial = store.commit(change, changes.rows, _set_aside(request, feed))
        return store.register(), Imported(manifest, feed, changes, serial)


def write_faults(path: Path, faults: Sequence[Fault], keep: Sequence[Path] = ()) -> None:
    """A CSV of faults for whoever mends the feed; no value in it that a message would not show.

    `keep` are files that it must not replace.
    """
    if any(path.exists() and other.exists() and path.samefile(other) for other in keep):
        raise OutputError(str(path), "it is one of the files that are read")
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "line", "column", "found", "expected"))
            for fault in faults:
                writer.writerow(
                    (fault.file, fault.line or "", fault.column or "", fault.found, fault.expected)
                )
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(str(path), str(error.strerror or error)) from None


def _read(request: Request) -> tuple[FeedMap, Feed, Manifest]:
    """Everything that stands in files; RegisterError lists all that is wrong there."""
    if request.source == OPERATOR:
        found, expected = f"the source {OPERATOR!r}", "another name: this one is for `register except`"
        raise RegisterError([Fault(_names(request), None, None, found, expected)])
    form = FeedMap.load(request.map_path) if request.map_path is not None else FeedMap()
    manifest, zone_form, faults = _manifest(request, form)
    feed = read_feed(request.files, zone_form, source=request.source)
    if not feed.is_whole or (feed.faults and request.set_aside is None):
        faults += feed.faults[:SHOWN]
        if len(feed.faults) > SHOWN:
            found = f"{len(feed.faults) - SHOWN:,} faults more"
            faults.append(Fault(_names(request), None, None, found, "none; `register check` lists them all"))
    elif feed.faulty_rows > _allowed(request, feed):
        found = f"{feed.faulty_rows:,} faulty rows of {feed.rows:,}"
        expected = f"at most {_allowed(request, feed):,} (--max-faults); `register check` lists them all"
        faults.append(Fault(_names(request), None, None, found, expected))
    foreign = next((n for n, entry in enumerate(feed.entries) if entry.source != request.source), None)
    if foreign is not None:
        found = f"an entry of {feed.entries[foreign].source!r}"
        expected = f"entries of {request.source!r} alone (--source)"
        faults.append(Fault(*feed.place(foreign), "source", found, expected))
    if faults:
        raise RegisterError(faults)
    return form, feed, manifest


def _allowed(request: Request, feed: Feed) -> int:
    most = request.max_faults
    return most if isinstance(most, int) else int(feed.rows * most)


def _manifest(request: Request, form: FeedMap) -> tuple[Manifest, FeedMap, list[Fault]]:
    """What options, manifests and map say of the feed, in this order; the map with the zone to read by."""
    faults: list[Fault] = []
    stated: Manifest | None = None
    for file in request.files:
        path = beside(file, request.map_path)
        if path is None:
            continue
        manifest, found = read_manifest(path)
        faults += found
        if manifest is None or found:
            continue
        if manifest.source != request.source:
            found_text = f"the source {manifest.source!r}"
            faults.append(Fault(str(path), None, "source", found_text, f"{request.source!r} (--source)"))
        elif stated is not None and manifest != stated:
            expected = "manifests of one issue, that say the same"
            faults.append(Fault(str(path), None, None, "another manifest than of the first file", expected))
        stated = stated or manifest
    said = form.manifest
    serial = request.serial or (stated.serial if stated else said.serial)
    issued_at_ns = request.issued_at_ns
    if issued_at_ns is None:
        issued_at_ns = stated.issued_at_ns if stated else said.issued_at_ns
    next_update_ns = request.next_update_ns
    if next_update_ns is None:
        next_update_ns = stated.next_update_ns if stated else said.next_update_ns
    if next_update_ns is None and said.update_every_ns is not None and issued_at_ns is not None:
        next_update_ns = issued_at_ns + said.update_every_ns
    zone = form.zone or (stated.zone if stated else UTC)
    if not faults:
        for key, value, option in (
            ("serial", serial, "--serial"),
            ("issued_at", issued_at_ns, "--issued-at"),
            ("next_update", next_update_ns, "--next-update"),
        ):
            if value is None:
                more = ", update_every there" if key == "next_update" else ""
                expected = f"{option}, a manifest beside the feed, or {key} under [manifest] of the map{more}"
                faults.append(Fault(_names(request), None, key, "nothing that says it", expected))
        if issued_at_ns is not None and next_update_ns is not None and next_update_ns <= issued_at_ns:
            found_text = "a time that is not after issued_at"
            faults.append(
                Fault(_names(request), None, "next_update", found_text, "the time of the next issue")
            )
    manifest = Manifest(
        source=request.source,
        serial=serial or 0,
        issued_at_ns=issued_at_ns or 0,
        next_update_ns=next_update_ns,
        first_record_ns=stated.first_record_ns if stated else said.first_record_ns,
        zone=zone,
    )
    return manifest, replace(form, zone=zone), faults


def _refused(request: Request, loss: Loss) -> Fault:
    most = "none" if loss.kind in IRREPLACEABLE else "at most 10 %"
    return Fault(
        _names(request), None, None, str(loss), f"{most}; if it is meant, --accept-shrink {loss.kind}"
    )


def _options(request: Request, form: FeedMap, manifest: Manifest) -> str:
    """All that decides what the files amount to, beside the files."""
    parts = (
        form.sha256,
        manifest.serial,
        manifest.issued_at_ns,
        manifest.next_update_ns,
        manifest.first_record_ns,
        manifest.zone,
        request.is_complete,
        request.set_aside is not None,
    )
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _refuse_older(request: Request, manifest: Manifest, last: Change | None) -> None:
    if last is None or manifest.serial >= last.source_serial:
        return
    raise RegisterError(
        [
            Fault(
                _names(request),
                None,
                "serial",
                f"serial {manifest.serial} of {request.source!r}",
                f"{last.source_serial} or later, since that is in the store; to go back to an older issue, "
                f"import it under a new serial (--serial {last.source_serial + 1})",
            )
        ]
    )


def _set_aside(request: Request, feed: Feed) -> frozenset[str]:
    return feed.faulty_ids if request.set_aside is not None else frozenset()


def _change(
    request: Request, feed: Feed, manifest: Manifest, changes: Changes, options: str, now_ns: int
) -> Change:
    return Change(
        action="import",
        source=request.source,
        source_serial=manifest.serial,
        issued_at_ns=manifest.issued_at_ns,
        next_update_ns=manifest.next_update_ns,
        first_record_ns=manifest.first_record_ns,
        sha256=feed.sha256,
        options_sha256=options,
        at_ns=now_ns,
        counts={name: changes.total(name) for name in COUNTS} | {"faulty_rows": feed.faulty_rows},
    )


def _changes(request: Request, feed: Feed, manifest: Manifest, former: Iterable[Entry]) -> Changes:
    set_aside = _set_aside(request, feed)
    return changes_of(
        former,
        [entry for entry in feed.entries if entry.entry_id not in set_aside] if set_aside else feed.entries,
        at_ns=manifest.issued_at_ns,
        # A faulty row that does not say whose it is may be of any entry that seems to be missing.
        is_complete=request.is_complete and not feed.unnamed_rows,
        set_aside=set_aside,
    )


def _inputs(request: Request, db: Path) -> tuple[Path, ...]:
    """What a list of faults must not replace."""
    return (*request.files, db, *([request.map_path] if request.map_path is not None else []))


def _names(request: Request) -> str:
    return ", ".join(map(str, request.files))
