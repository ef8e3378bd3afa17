"""`vpn-classifier policy ...`: check a policy, and run the cases written beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from classifier.cli.common import DONE, FAILED, guarded, printable, valid_time

HELP = """Check a policy, and test it on cases, before it counts.

\b
A policy, from a change until it counts:
  vpn-classifier policy check policy.toml
  vpn-classifier policy test policy.toml
  vpn-classifier register plan --policy policy.toml --register register.db --events events.jsonl
"""

CHECK_HELP = """Find every fault of a policy, and what its author may not have meant.

Faults keep a policy from loading. Warnings are about rules that are never reached or can never hold, flags
that come early (before a grace is over, on openings, after one packet), a trial without end, networks that
overlap. With --register, also: kinds that nobody has, infrastructure over a pool of subscribers, a register
that is out of date.

\b
Examples:
  vpn-classifier policy check rules/policy.toml
  vpn-classifier policy check rules/policy.toml --register rules/register.csv --strict

\b
Exit codes: 0 no fault, 1 faults (with --strict also warnings), 2 usage.
"""

TEST_HELP = """Run the cases beside a policy: a flow in; verdict, action and rule out.

The cases of policy.toml are in policy.test.toml; rules/README.md explains their keys. Each is judged by the
same code as in a replay.

\b
Examples:
  vpn-classifier policy test rules/policy.toml
  vpn-classifier policy test new-policy.toml --cases rules/policy.test.toml
      does a new policy still keep what the old one's cases ask for?

\b
Exit codes: 0 all cases passed, 1 some did not, or a file cannot be used, 2 usage.
"""

app = typer.Typer(
    help=HELP,
    short_help="Check a policy, and test it on cases.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("check", help=CHECK_HELP, short_help="Find faults, and what was probably not meant.")
def check_file(
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    register: Annotated[
        str | None, typer.Option(metavar="PATH", help="Compare with this register, too.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", callback=valid_time, help="Check for this time, not for now."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there is a warning.")] = False,
) -> None:
    import time
    from pathlib import Path

    from classifier.events import parse_time
    from classifier.policy import Policy
    from classifier.policy_check import remarks
    from classifier.register import Register
    from classifier.words import number

    def run() -> int:
        policy = Policy.load(Path(file))
        known = None if register is None else Register.load(Path(register))
        found = remarks(policy, time.time_ns() if at is None else parse_time(at), known)
        for remark in found:
            print(printable(f"{file}: {remark}"))
        warnings = sum(remark.level == "warning" for remark in found)
        print(f"{number(len(policy.rules), 'rule')}, no fault, {number(warnings, 'warning')}")
        return FAILED if strict and warnings else DONE

    raise typer.Exit(guarded(run))


@app.command("test", help=TEST_HELP, short_help="Run the cases that are written beside a policy.")
def run_cases(
    file: Annotated[str, typer.Argument(metavar="[POLICY]", show_default=True)] = "policy.toml",
    cases: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The cases, if not POLICY with the ending .test.toml."),
    ] = None,
) -> None:
    import sys
    from pathlib import Path

    from classifier.cli.common import console
    from classifier.policy import Policy
    from classifier.policy_cases import print_results, read_cases, run

    def go() -> int:
        policy = Policy.load(Path(file))
        results = run(policy, read_cases(Path(cases or Path(file).with_suffix(".test.toml")), policy))
        print_results(results, console(sys.stdout.isatty()))
        return FAILED if any(result.differences for result in results) else DONE

    raise typer.Exit(guarded(go))
