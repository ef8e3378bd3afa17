"""`vpn-classifier register health`: where the register and what is seen drift apart."""

from __future__ import annotations

from typing import Annotated

import typer

from classifier.cli.common import DONE, guarded, progress_of, say, valid_duration, valid_time
from classifier.cli.options import PolicyFile, RegisterPath, RulesDirectory

HELP = """Say where the register needs care, before that becomes a flag.

Without EVENTS: what is about to end, has been pending for longer than pending_term (policy.toml), or is
missing from the last complete feed. With EVENTS, files that replay or watch wrote, also: what has ended and
is still seen, is never seen, is seen with a protocol that was not filed, and endpoints without an entry that
many subscribers use (a new server of a licensed provider, a carrier's gateway). The daily ledgers of watch do
as well, for months, but for the endpoints, which they do not name. Counts come first.

\b
Examples:
  vpn-classifier register health --rules rules/
  vpn-classifier register health events.jsonl --register register.db --policy policy.toml --within 30d
  vpn-classifier register health events-ledger/2026-1*.jsonl --rules rules/
  vpn-classifier register health events.jsonl --rules rules/ --json | jq '.findings[].entry_id'

\b
Exit codes: 0 done (also when there is something to look at), 1 failed, 2 usage.
"""


def command(
    events: Annotated[list[str] | None, typer.Argument(metavar="[EVENTS]...", show_default=False)] = None,
    register: RegisterPath = None,
    policy: PolicyFile = None,
    rules: RulesDirectory = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", callback=valid_time, help="Judge by this time (UTC unless it says), not by now."
        ),
    ] = None,
    within: Annotated[
        str,
        typer.Option(metavar="DURATION", callback=valid_duration, help="How soon an end is about to come."),
    ] = "14d",
    subscribers: Annotated[
        int, typer.Option(metavar="N", min=1, help="So many subscribers at an endpoint are a likely gap.")
    ] = 5,
    rows: Annotated[
        int, typer.Option(metavar="N", min=1, help="Findings of each kind that are printed.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with all findings.")] = False,
) -> None:
    import time

    from classifier.event_file import EventFiles
    from classifier.events import parse_time, rfc3339
    from classifier.policy_file import duration_ns
    from classifier.register.health import Health, noted_of, page, sighting_of, summary
    from classifier.rejudge import Flows, load_both
    from classifier.words import moment

    def run() -> int:
        known, judge = load_both(rules, register, policy)
        health = Health(known, judge)
        files = EventFiles(events or (), say)
        with progress_of(files):
            flows = Flows(files, on_ledger=lambda line: health.note(noted_of(line.event["ledger"])))
            for told in flows:
                if (sighting := sighting_of(told.facts)) is not None:
                    health.take(sighting)
        if not flows.kept_all and not health.noted:
            say("flows that pass may have been left out of these events: `never_seen` says too much")
        at_ns = time.time_ns() if at is None else parse_time(at)
        zone = judge.time_zone
        found = list(health.findings(at_ns, duration_ns(within), subscribers, zone))
        if as_json:
            import orjson

            counts = [
                {"finding": what, "kind": kind, "category": category, "count": count}
                for what, kind, category, count in summary(found)
            ]
            item = {
                "at": rfc3339(at_ns),
                "register": {"source": known.source, "serial": known.serial},
                "flows": health.flows,
                "noted": health.noted,
                "counts": counts,
                "findings": [finding.item() for finding in found],
            }
            print(orjson.dumps(item, option=orjson.OPT_INDENT_2).decode())
            return DONE
        issued = moment(known.issued_at_ns, zone)
        print(f"Register: {known.source}, serial {known.serial}, issued {issued}; at {moment(at_ns, zone)}")
        for line in page(health, found, rows, zone):
            print(line)
        return DONE

    raise typer.Exit(guarded(run))
