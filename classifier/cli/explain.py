"""`vpn-classifier explain`: why flows got their verdicts, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from classifier.cli.common import DONE, FAILED, guarded, say, valid_prefix, valid_times

if TYPE_CHECKING:
    from datetime import tzinfo

HELP = """Say in words why flows got their verdicts, and what would change them.

EVENTS is a file that replay -o wrote, or - for standard input. Of each flow: which evidence was seen in
which packet, what it adds up to and what was ruled out, then which register entries and which rule gave the
verdict, and which registration or correction would have led to another one.

With --address the flows come in the order in which they began, after a line that counts them. --letter
prints one page for the subscriber of that address instead, in plain text and without anybody else's data:
what was seen, the register that was asked, and how to correct it; times are those of the policy's zone.
Name with --between since when the address has been theirs: what was seen before is the former holder's.
Times without an offset are UTC, and so are bare days, the last of which is included.

\b
Examples:
  vpn-classifier explain events.jsonl --address 192.0.2.10
  vpn-classifier explain events.jsonl --address 192.0.2.10 --between 2026-11-20 2026-11-21T12:00:00+05:00
      a caller asks about yesterday
  vpn-classifier explain events.jsonl --flow 4611686018427387904
  vpn-classifier explain events.jsonl --address 192.0.2.10 --letter --policy rules/policy.toml \\
      --between 2026-11-20 2026-11-27 > letter.txt

\b
Exit codes: 0 done, 1 the file cannot be understood or no flow fits, 2 usage.
"""


def command(
    events: Annotated[str, typer.Argument(metavar="EVENTS", show_default=False)],
    flow: Annotated[int | None, typer.Option(metavar="ID", help="Only this flow_id.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="A", callback=valid_prefix, help="Only flows with this address (or prefix) at an end."
        ),
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="T1 T2", callback=valid_times, help="Only flows that went on in this time."),
    ] = None,
    letter: Annotated[
        bool, typer.Option("--letter", help="One page for the subscriber of --address.")
    ] = False,
    policy: Annotated[
        str | None, typer.Option(metavar="FILE", help="Policy whose zone the times of --letter are in.")
    ] = None,
) -> None:
    import ipaddress

    from classifier.events import parse_end, parse_time
    from classifier.explain import Wanted, explain, letter_for

    network = None if address is None else ipaddress.ip_network(address)
    wanted = Wanted(flow, network)
    if between is not None:
        wanted = Wanted(flow, network, parse_time(between[0]), parse_end(between[1]))
    if letter and (network is None or network.prefixlen < (32 if network.version == 4 else 64)):
        raise typer.BadParameter("a letter is for one line: --address with one address (or an IPv6 /64)")

    def run() -> int:
        if letter:
            if between is None:
                say(
                    "without --between this is about all the time of the events, whoever had the address then"
                )
            text = letter_for(events, wanted, _zone(policy), say)
            if text is not None:
                print(text, end="")
            found = text is not None
        else:
            found = False
            for text in explain(events, wanted, say):
                print(("\n" if found else "") + text, end="")
                found = True
        if not found:
            asked = wanted != Wanted()
            say(f"{events}: no flow fits" if asked else f"{events}: no VPN flow")
            return FAILED if asked else DONE
        return DONE

    raise typer.Exit(guarded(run))


def _zone(policy: str | None) -> tzinfo:
    from datetime import UTC
    from pathlib import Path

    from classifier.policy import Policy

    return UTC if policy is None else Policy.load(Path(policy)).time_zone
