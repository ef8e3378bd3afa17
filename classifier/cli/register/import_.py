"""`vpn-classifier register import`: a feed goes into the store."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from classifier.cli.common import DONE, console, guarded, printable, say, valid_time

if TYPE_CHECKING:
    from classifier.register.importing import Imported, Request

HELP = """Take a feed into the store, all of it or nothing.

FILE is a CSV or JSON Lines file that --map translates (several files are one feed), or a CSV of our own
columns. Only the entries of --source are touched. With --complete, what is missing from the feed goes into
grace; without it, nothing is taken away. serial, issued_at and next_update come from the options, from a
manifest beside the feed (same name, .toml), or from the map.

Nothing changes when the feed has a fault, is older than the last one of its source, or loses too much: more
than 10 % of a kind and category, or anything at all of a licensed_provider, carrier_service or
operator_infrastructure. --set-aside leaves faulty rows out: every row of those entries stays as it was.
The same feed again does nothing.

\b
Examples:
  vpn-classifier register import feed.csv --source regulator --map feed.toml --complete --db register.db \\
      --serial 48 --issued-at 2026-11-27T13:00:00Z --next-update 2026-12-04T13:00:00Z
  vpn-classifier register import feed.csv --source regulator --map feed.toml --complete --db register.db \\
      --set-aside FAULTS.csv --max-faults 0.5%
  vpn-classifier register import providers.csv --source licences --map licences.toml --db register.db \\
      --accept-shrink licensed_provider

\b
Exit codes: 0 done (or done before), 1 refused: nothing was changed, 2 usage.
"""


def _most(text: str) -> int | float:
    """ "1%" is a share, "20" a number of rows."""
    found = re.fullmatch(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)%", text)
    if found is None or (found[2] and float(found[2]) > 100):
        raise typer.BadParameter(f"{text!r}: expected a share like 1%, or a number of rows")
    return int(found[1]) if found[1] else float(found[2]) / 100


def _kinds(names: list[str]) -> frozenset[str]:
    from classifier.register.entry import Kind

    for name in names:
        if name not in list(Kind):
            raise typer.BadParameter(
                f"{name!r}: expected one of {', '.join(Kind)}", param_hint="--accept-shrink"
            )
    return frozenset(names)


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    source: Annotated[str, typer.Option(metavar="NAME", help="Whose feed it is.", show_default=False)],
    db: Annotated[
        Path, typer.Option(metavar="PATH", help="The store; made when it is missing.", show_default=False)
    ],
    map_path: Annotated[
        Path | None,
        typer.Option("--map", metavar="FEED.toml", help="What the feed's columns and words mean."),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="The feed is all there is: what it lacks goes into grace.")
    ] = False,
    serial: Annotated[int | None, typer.Option(min=1, help="Number of the issue.")] = None,
    issued_at: Annotated[
        str | None, typer.Option(metavar="TIME", callback=valid_time, help="When it was issued (UTC).")
    ] = None,
    next_update: Annotated[
        str | None, typer.Option(metavar="TIME", callback=valid_time, help="When the next one is due (UTC).")
    ] = None,
    set_aside: Annotated[
        Path | None, typer.Option(metavar="FAULTS.csv", help="Leave faulty rows out and list them there.")
    ] = None,
    max_faults: Annotated[
        str, typer.Option(metavar="SHARE", help="Most rows that may be set aside: 1%, or a number.")
    ] = "1%",
    accept_shrink: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="A kind that may shrink; can be repeated.")
    ] = None,
) -> None:
    from classifier.events import parse_time
    from classifier.register.entry import Kind
    from classifier.register.importing import Request, import_feed

    request = Request(
        files=tuple(files),
        source=source,
        map_path=map_path,
        is_complete=complete,
        serial=serial,
        issued_at_ns=None if issued_at is None else parse_time(issued_at),
        next_update_ns=None if next_update is None else parse_time(next_update),
        set_aside=set_aside,
        max_faults=_most(max_faults),
        accepted=frozenset(map(Kind, _kinds(accept_shrink or []))),
    )

    def run() -> int:
        done = import_feed(request, db)
        if done.is_repeated:
            print(
                f"{source} {done.manifest.serial} is in {printable(str(db))} already (serial {done.serial})."
            )
        else:
            show(done, request, f"is serial {done.serial} of {printable(str(db))}")
        return DONE

    raise typer.Exit(guarded(run))


def show(done: Imported, request: Request, what: str) -> None:
    """The summary: what changes, by kind and category."""

    from rich import box
    from rich.table import Table

    from classifier.events import rfc3339
    from classifier.register.changes import COUNTS
    from classifier.words import number

    manifest, feed, changes = done.manifest, done.feed, done.changes
    issued = rfc3339(manifest.issued_at_ns)[:19] + "Z"
    print(f"{manifest.source} {manifest.serial}, issued {issued}, {feed.rows:,} rows: {what}")
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("kind", "category", *(name.replace("_", " ") for name in COUNTS)):
        table.add_column(heading, justify="left" if heading in ("kind", "category") else "right")
    for (kind, category), counter in sorted(changes.counts.items()):
        table.add_row(kind, category, *(f"{counter[name]:,}" if counter[name] else "" for name in COUNTS))
    if changes.counts:
        table.add_section()
        table.add_row("all", "", *(f"{changes.total(name):,}" for name in COUNTS))
        console(sys.stdout.isatty()).print(table)
    for (kind, was, now), rows in sorted(changes.statuses.items()):
        print(f"{kind}: {number(rows, 'row')} {was} -> {now}")
    if feed.faulty_rows:
        print(
            f"{number(feed.faulty_rows, 'faulty row')} left out; what the store had of their "
            f"{number(len(feed.faulty_ids), 'entry', 'entries')} stays as it was: "
            f"{printable(str(request.set_aside))}"
        )
    if feed.unnamed_rows and request.is_complete:
        say(
            f"warning: faulty rows that do not say whose they are: {feed.unnamed_rows:,}; so nothing was "
            "marked as missing, since what seems to be might be theirs"
        )
    if changes.backdated:
        say(
            f"warning: rows with another state, but the status_since that they had: {changes.backdated:,}; "
            "flows of the past will be judged as if it had been so then"
        )
    if done.contradictions:
        say(
            f"warning: prefixes that are approved for two registrants at once: {done.contradictions:,}; "
            "`register check` lists them"
        )
    if done.very_short:
        say(
            f"warning: very short prefixes: {done.very_short:,}; is each meant for so many addresses? "
            "`register check` lists them"
        )
    if done.is_early:
        say(
            "warning: issued_at is still to come by this host's clock: is it right? Until long after it the "
            "register will not count as too old"
        )
    if done.is_older:
        say("warning: issued_at is earlier than that of the former issue")
