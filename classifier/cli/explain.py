"""`vpn-classifier explain`: why flows got their verdicts, in words."""

from __future__ import annotations

from typing import Annotated

import typer

from classifier.cli.common import DONE, FAILED, guarded, say, valid_address

HELP = """Say in words why flows got their verdicts.

EVENTS is a file that replay -o wrote, or - for standard input. Of each flow: which evidence was seen in
which packet, what it adds up to and what was ruled out, then which register entries and which rule gave the
verdict.

\b
Examples:
  vpn-classifier explain events.jsonl --address 192.0.2.10
  vpn-classifier explain events.jsonl --flow 4611686018427387904

\b
Exit codes: 0 done, 1 the file cannot be understood or no flow fits, 2 usage.
"""


def command(
    events: Annotated[str, typer.Argument(metavar="EVENTS", show_default=False)],
    flow: Annotated[int | None, typer.Option(metavar="ID", help="Only this flow_id.")] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="A", callback=valid_address, help="Only flows with this address at an end."),
    ] = None,
) -> None:
    from classifier.explain import explain

    def run() -> int:
        found = False
        for text in explain(events, flow_id=flow, address=address, on_warning=say):
            print(("\n" if found else "") + text, end="")
            found = True
        if not found:
            say(f"{events}: no flow fits" if flow is not None or address else f"{events}: no VPN flow")
            return FAILED if flow is not None or address else DONE
        return DONE

    raise typer.Exit(guarded(run))
