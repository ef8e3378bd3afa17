"""`vpn-classifier register plan`: what a feed, a register or a policy would change, before it counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from classifier.cli.common import DONE, FLAGGED, guarded, progress_of, say, valid_time
from classifier.cli.options import RulesDirectory
from classifier.cli.register.import_ import show

HELP = """Say which verdicts another register or policy would change, before anyone is flagged.

FEED is what `register import` would take, with the same --source, --map, --complete and --db; nothing is
written. Instead of a feed, --register names a whole register (or, with --policy, the present one). EVENTS
are files that replay -o wrote, with all flows: a file without those that pass is refused.

With another register, each flow is judged as if it came again when that register is issued, so that what a
complete feed lacks is seen to go into its grace; --as-of names another time. Cases that would be flagged
come first, with their ids and that of a flow for `explain`; then all changes by verdict, reason, kind and
category.

\b
Examples:
  vpn-classifier register plan feed.csv --source regulator --map feed.toml --complete --db register.db \\
      --policy policy.toml --events events.jsonl
  vpn-classifier register plan --policy new.toml --db register.db --events events.jsonl
  vpn-classifier register plan --register new.csv --policy policy.toml --events a.jsonl --events b.jsonl
      --fail-on flagged ends with 3 when somebody would be newly flagged

\b
Exit codes: 0 done, 1 failed, 2 usage, 3 newly flagged (with --fail-on flagged).
"""


def command(
    feed: Annotated[list[str] | None, typer.Argument(metavar="[FEED]...", show_default=False)] = None,
    events: Annotated[
        list[str] | None,
        typer.Option(metavar="EVENTS", help="Event file; may be given several times.", show_default=False),
    ] = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Of a feed: whose it is.")] = None,
    map_path: Annotated[
        Path | None, typer.Option("--map", metavar="FEED.toml", help="Of a feed: what its columns mean.")
    ] = None,
    serial: Annotated[int | None, typer.Option(min=1, help="Of a feed: number of the issue.")] = None,
    issued_at: Annotated[
        str | None, typer.Option(metavar="TIME", callback=valid_time, help="Of a feed: when it was issued.")
    ] = None,
    next_update: Annotated[
        str | None,
        typer.Option(metavar="TIME", callback=valid_time, help="Of a feed: when the next one is due."),
    ] = None,
    leave_faults: Annotated[
        bool, typer.Option("--leave-faults", help="Of a feed: leave faulty rows out, as with --set-aside.")
    ] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Of a feed: what it lacks goes to grace.")
    ] = False,
    db: Annotated[
        str | None, typer.Option(metavar="PATH", help="The store that the feed would be imported into.")
    ] = None,
    register: Annotated[
        str | None, typer.Option(metavar="PATH", help="A register to judge by, instead of a feed.")
    ] = None,
    policy: Annotated[str | None, typer.Option(metavar="FILE", help="Policy to judge by.")] = None,
    rules: RulesDirectory = None,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", callback=valid_time, help="As if every flow came again at this time."),
    ] = None,
    enforced: Annotated[
        bool, typer.Option("--enforced", help="As if the policy's enforce_from had passed.")
    ] = False,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Flagged cases that are printed.")] = 20,
    fail_on: Annotated[
        str | None, typer.Option(metavar="flagged", help="Exit with 3 when a case is newly flagged.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with everything.")] = False,
) -> None:
    if fail_on not in (None, "flagged"):
        raise typer.BadParameter("expected flagged", param_hint="--fail-on")
    if not events:
        raise typer.BadParameter("name the events to try it on: --events EVENTS")
    if feed and (source is None or db is None):
        raise typer.BadParameter("a feed needs --source NAME and --db PATH, as for an import")
    if not feed and (source or map_path or complete or serial or issued_at or next_update or leave_faults):
        raise typer.BadParameter("an option that is about a feed, and no FEED")
    if feed and register is not None:
        raise typer.BadParameter("give a feed or --register, not both")
    from dataclasses import replace

    from classifier.event_file import EventFiles
    from classifier.events import parse_time
    from classifier.plan import NEEDS_ALL, Plan
    from classifier.register.importing import Request, preview
    from classifier.rejudge import Flows, Rejudge

    def run() -> int:
        files = EventFiles(events, say)
        planned = imported = None
        if feed:
            request = Request(
                files=tuple(map(Path, feed)),
                source=source or "",
                map_path=map_path,
                is_complete=complete,
                serial=serial,
                issued_at_ns=None if issued_at is None else parse_time(issued_at),
                next_update_ns=None if next_update is None else parse_time(next_update),
                set_aside=Path(os.devnull) if leave_faults else None,
                max_faults=1.0,
            )
            planned, imported = preview(request, Path(db or ""))
        against = Rejudge.load(rules, register or db, policy, planned)
        if enforced:
            against = replace(against, policy=replace(against.policy, enforce_from_ns=0))
        plan = Plan(
            Flows(files, against, all_needed=NEEDS_ALL), against, None if as_of is None else parse_time(as_of)
        )
        with progress_of(files):
            plan.run()
        if as_json:
            import orjson

            print(orjson.dumps(plan.item(), option=orjson.OPT_INDENT_2).decode())
        else:
            if imported is not None:
                show(imported, request, "would be imported")
                for loss in imported.changes.losses():
                    print(f"The import would be refused without --accept-shrink: {loss}")
                print()
            for line in plan.lines(rows):
                print(line)
        return FLAGGED if fail_on and plan.newly_flagged.flows else DONE

    raise typer.Exit(guarded(run))
