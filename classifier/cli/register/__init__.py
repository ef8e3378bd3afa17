"""`vpn-classifier register ...`: the commands that fill, question and correct the register.

One file for each; a new one is one line here.
"""

from __future__ import annotations

import typer

from classifier.cli.register import check, except_, export, health, history, import_, lookup, plan, prune

HELP = """Fill, question and correct the register of who may run a VPN.

\b
A feed, from its arrival until it counts:
  vpn-classifier register check feed.csv --map feed.toml
  vpn-classifier register import feed.csv --source regulator --map feed.toml --complete --db register.db
  vpn-classifier replay capture.pcap --register register.db --policy policy.toml
"""

app = typer.Typer(
    help=HELP,
    short_help="Fill, question and correct the register.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("check", help=check.HELP, short_help="Find every fault of a feed or register.")(check.command)
app.command("import", help=import_.HELP, short_help="Take a feed into the store.")(import_.command)
app.command("except", help=except_.HELP, short_help="Make or withdraw an exception of the operator's.")(
    except_.command
)
app.command("history", help=history.HELP, short_help="What an entry was, import by import.")(history.command)
app.command("export", help=export.HELP, short_help="Write the register as a CSV with its manifest.")(
    export.command
)
app.command("health", help=health.HELP, short_help="Where the register needs care.")(health.command)
app.command("lookup", help=lookup.HELP, short_help="What the register says about an address.")(lookup.command)
app.command("plan", help=plan.HELP, short_help="What a feed or policy would change, before it counts.")(
    plan.command
)
app.command("prune", help=prune.HELP, short_help="Forget history before a time or serial.")(prune.command)
