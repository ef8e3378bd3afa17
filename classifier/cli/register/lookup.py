"""`vpn-classifier register lookup`: what the register says about an address."""

from __future__ import annotations

from typing import Annotated

import typer

from classifier.cli.common import DONE, guarded, valid_address, valid_time
from classifier.cli.options import PolicyFile, RegisterPath, RulesDirectory

HELP = """Say what the register knows about an address, and what a VPN flow there would get.

Every entry that covers the address with its state at that time, then the verdict and the action for a flow of
each protocol: with the address as the subscriber's line that dials out, and as the endpoint that is dialled;
for any other end, and for the ends that an entry has filed. --remote asks for one other end.

\b
Examples:
  vpn-classifier register lookup 198.51.100.20 --rules rules/
  vpn-classifier register lookup 198.51.100.20 --at 2026-11-20T09:30:00+05:00 --rules rules/
      what was true when the flow was seen?
  vpn-classifier register lookup 198.51.100.20 --remote 203.0.113.200:1194 --register r.db --policy p.toml
  vpn-classifier register lookup 2001:db8:53::1 --serial 46 --register r.db --policy p.toml --json
      what did the register of that serial say?

\b
Exit codes: 0 done (also when no entry covers it), 1 failed, 2 usage.
"""


def command(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", callback=valid_address, show_default=False)],
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", callback=valid_time, help="Judge by this time (UTC unless it says), not by now."
        ),
    ] = None,
    serial: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="A past state: of this serial of the store.")
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(metavar="END", help="The other end: an address, with a port if it matters."),
    ] = None,
    register: RegisterPath = None,
    policy: PolicyFile = None,
    rules: RulesDirectory = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    import time

    from classifier.events import parse_time
    from classifier.lookup import look_up
    from classifier.register import Endpoint
    from classifier.rejudge import load_both, packed

    try:
        other = None if remote is None else Endpoint.parse(remote)
    except ValueError as error:
        raise typer.BadParameter(f"{remote!r}: expected {error}", param_hint="--remote") from None

    def run() -> int:
        known, judge = load_both(rules, register, policy, serial)
        at_ns = time.time_ns() if at is None else parse_time(at)
        found = look_up(packed(address), known, judge, at_ns, other)
        if as_json:
            import orjson

            print(orjson.dumps(found.item(), option=orjson.OPT_INDENT_2).decode())
        else:
            print(found.text(judge.time_zone), end="")
        return DONE

    raise typer.Exit(guarded(run))
