"""`vpn-classifier recheck`: what was said about flows, against another register; corrections out."""

from __future__ import annotations

from typing import Annotated

import typer

from classifier.cli.common import DONE, guarded, keep_inputs, progress_of, say
from classifier.cli.options import RulesDirectory

HELP = """Judge the flows of an event file again, and write a correction for each verdict that changes.

EVENTS are files that replay -o wrote, or - for standard input. Each flow is judged as it would have been
then, by the register and the policy that are named now: a corrected register also says better what was true
in the past. A `correction` event has what was said, what is said now, and why, for each flow whose verdict
or action changes and for each case whose flag is withdrawn or new, so that whatever consumed a flag can
withdraw it.

A recheck stands against the events themselves: what the latest one does not name is as its events say.
Without --policy, policy.toml beside the register is taken if it is the one that judged the events (they hold
its hash).

\b
Examples:
  vpn-classifier recheck events.jsonl --register register.db --policy policy.toml -o corrections.jsonl
      after an import: which flags are to be withdrawn?
  vpn-classifier recheck events.jsonl --rules rules/ | jq 'select(.correction.scope == "case")'
      only the cases that stop or begin to be flagged

\b
Exit codes: 0 done (also when nothing changes), 1 failed, 2 usage.
"""


def command(
    events: Annotated[list[str], typer.Argument(metavar="EVENTS", show_default=False)],
    register: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Register to judge by: a CSV with its manifest, or a store."),
    ] = None,
    policy: Annotated[str | None, typer.Option(metavar="FILE", help="Policy to judge by.")] = None,
    rules: RulesDirectory = None,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Write corrections here; - is stdout.")
    ] = "-",
) -> None:
    if register is None and rules is None:
        raise typer.BadParameter("name the register to judge by: --register PATH, or --rules DIR")
    keep_inputs(output, events, "event files")
    from classifier.event_file import EventFiles
    from classifier.recheck import Recheck
    from classifier.rejudge import Flows, Rejudge
    from classifier.sinks.jsonl import JsonLines

    def run() -> int:
        files = EventFiles(events, say)
        against = Rejudge.load(rules, register, policy)
        recheck = Recheck(Flows(files, against), against)
        with progress_of(files):
            sink = JsonLines(output)
            try:
                for event in recheck.events():
                    sink.write(event)
            finally:
                sink.close()
        for line in recheck.summary():
            say(line)
        return DONE

    raise typer.Exit(guarded(run))
