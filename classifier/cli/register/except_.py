"""`vpn-classifier register except`: the operator's own exceptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from classifier.cli.common import DONE, guarded, printable, say, valid_time

T = TypeVar("T")

HELP = """Make an exception for a prefix, or withdraw one.

For what cannot wait for the next feed: an approval that is on its way, a provider's new server, a wrong row.
An exception has an end and a reason from a list, and gets an id of its own; it takes effect when the register
is loaded next. A withdrawn one ends now (and is in grace from then on, like any entry that has ended).

\b
Reasons: approval_in_progress, feed_error, address_change, licensed_server, carrier_gateway,
false_detection, emergency, other.

\b
Examples:
  vpn-classifier register except 203.0.113.7 --until 2026-12-15 --reason approval_in_progress --db register.db
  vpn-classifier register except 2001:db8:7::/48 --until 2026-12-01T12:00:00Z --reason licensed_server \\
      --protocol wireguard --side endpoint --db register.db
  vpn-classifier register except --withdraw EX-12 --db register.db

\b
Exit codes: 0 done, 1 refused: nothing was changed, 2 usage.
"""


def command(
    db: Annotated[Path, typer.Option(metavar="PATH", help="The store.", show_default=False)],
    prefix: Annotated[str | None, typer.Argument(metavar="PREFIX", show_default=False)] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", callback=valid_time, help="Its end; a bare day (UTC) is included."),
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="CODE", help="Why: see above.")] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", callback=valid_time, help="Its start; now, unless given."),
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this protocol; can be repeated.")
    ] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(metavar="PREFIX[:PORT]", help="Only this other end; can be repeated.")
    ] = None,
    side: Annotated[str, typer.Option(metavar="NAME", help="subscriber, endpoint or either.")] = "either",
    withdraw: Annotated[str | None, typer.Option(metavar="ID", help="End this exception now.")] = None,
) -> None:
    from classifier.events import parse_end, parse_time, rfc3339
    from classifier.register.checks import is_very_short
    from classifier.register.entry import Endpoint, Protocol, Reason, Side
    from classifier.register.exceptions import Decision, make_exception, withdraw_exception
    from classifier.register.prefixes import Prefix
    from classifier.register.store import host_time_ns

    if withdraw is not None:
        if prefix is not None or until is not None or reason is not None:
            raise typer.BadParameter(
                "an id alone, without PREFIX, --until and --reason", param_hint="--withdraw"
            )

        def run_withdraw() -> int:
            serial = withdraw_exception(withdraw, db)
            print(f"{withdraw} has ended: serial {serial} of {printable(str(db))}.")
            return DONE

        raise typer.Exit(guarded(run_withdraw))
    if prefix is None or until is None or reason is None:
        raise typer.BadParameter("PREFIX, --until and --reason, or --withdraw ID", param_hint="expected")
    decision = Decision(
        prefix=_read("PREFIX", Prefix.parse, prefix),
        until_ns=parse_end(until),
        reason=_read("--reason", Reason, reason, tuple(Reason)),
        from_ns=host_time_ns() if start is None else parse_time(start),
        side=_read("--side", Side, side, tuple(Side)),
        endpoints=tuple(_read("--endpoint", Endpoint.parse, text) for text in endpoint or ()),
        protocols=tuple(
            name
            for name in Protocol
            if name in {_read("--protocol", Protocol, text, tuple(Protocol)) for text in protocol or ()}
        ),
    )

    def run() -> int:
        is_new = not db.exists()
        entry_id, serial = make_exception(decision, db)
        print(
            f"{entry_id}: {decision.prefix} until {rfc3339(decision.until_ns)[:19]}Z, {decision.reason}; "
            f"serial {serial} of {printable(str(db))}. It counts from the next load of the register."
        )
        if is_new:
            say(f"warning: {db} was made just now, and holds nothing else: is it the store that is used?")
        if is_very_short(decision.prefix):
            say(f"warning: {decision.prefix} is a very short prefix: whoever has an address in it passes")
        return DONE

    raise typer.Exit(guarded(run))


def _read(option: str, convert: Callable[[str], T], text: str, known: Sequence[str] = ()) -> T:
    try:
        return convert(text)
    except ValueError as error:
        expected = "one of " + ", ".join(known) if known else str(error)
        raise typer.BadParameter(f"{text!r}: expected {expected}", param_hint=option) from None
