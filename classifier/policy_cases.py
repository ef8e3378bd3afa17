"""Cases beside a policy: a flow in; verdict, action and rule out.

Takes a policy and a file of cases (policy.test.toml; rules/README.md explains its keys) and gives a `Result`
for each. The flow is judged by the same code as in a replay. One rule a reader would get wrong: a case with
entries of its own is judged against these alone, by a register that is issued at its time, and a case
without them against those of the file's `register` (none: an empty one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from classifier.errors import ConfigError
from classifier.judgement import ACTIONS
from classifier.policy import Confidence, FlowFacts, Phase, Policy
from classifier.policy_file import duration_ns
from classifier.register import Category, Endpoint, Entry, Kind, Prefix, Protocol, Register, Side, Status
from classifier.standing import VERDICTS
from classifier.toml_file import NS_PER_S, Table, TomlFile, instant_ns, nearest

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Case", "Result", "print_results", "read_cases", "run"]

Named = TypeVar("Named", Kind, Category, Side, Status, Protocol, Confidence, Phase)
DAY_NS = 86_400 * NS_PER_S
TRANSPORTS = ("UDP", "TCP", "ESP", "AH")


@dataclass(frozen=True, slots=True)
class Case:
    """One flow, and what must be said of it; "" where nothing is asked for."""

    name: str
    line: int | None
    flow: FlowFacts
    at_ns: int
    register: Register | None
    verdict: str
    action: str
    rule: str


class Result(NamedTuple):
    """What came out of a case."""

    case: Case
    verdict: str
    action: str
    rule: str
    why: str

    @property
    def differences(self) -> list[str]:
        """Each field that is not as expected; empty when the case passed."""
        return [
            f"{field}: expected {expected}, found {found}"
            for field, expected, found in (
                ("verdict", self.case.verdict, self.verdict),
                ("action", self.case.action, self.action),
                ("rule", self.case.rule, self.rule),
            )
            if expected and expected != found
        ]


def run(policy: Policy, cases: list[Case]) -> list[Result]:
    """Judge every case."""
    results = []
    for case in cases:
        judgement = policy.judge(case.flow, case.register, case.at_ns)
        words = str(judgement.verdict), str(judgement.action), judgement.rule
        results.append(Result(case, *words, judgement.why))
    return results


def read_cases(path: Path, policy: Policy) -> list[Case]:
    """The cases of a file, dates in the policy's zone; ConfigError lists every fault."""
    file = TomlFile(path)
    root = file.root
    zone = policy.time_zone
    at_ns = root.get("at", _moment(zone), None)
    name = root.get("register", _text, None)
    tables = root.tables("case")
    if not tables:
        root.fault("case", "no case", "at least one [[case]]")
    root.finish()
    register = None
    if name is not None:
        register = Register.load(path.parent / name)
    cases = [_case(table, zone, at_ns, register) for table in tables]
    names = [case.name for case in cases]
    for table, case in zip(tables, cases, strict=True):
        if case.name and names.count(case.name) > 1:
            table.fault("name", "the name of another case", "a name of its own")
    if file.faults:
        raise ConfigError(file.faults)
    return cases


def _case(table: Table, zone: tzinfo, default_ns: int | None, register: Register | None) -> Case:
    nobody = Endpoint(Prefix(bytes(4), 32), None)  # where a fault keeps the case from being run
    name = table.need("name", _text, "", "what the case is about, in a few words")
    at_ns = table.get("at", _moment(zone), default_ns)
    if at_ns is None:
        table.fault("at", "no such key", "a time, here or at the top of the file")
        at_ns = 0
    protocol = table.need("protocol", _named(Protocol), Protocol.WIREGUARD, "one of " + ", ".join(Protocol))
    source = table.need("source", _end, nobody, "an address, or address:port")
    target = table.need("destination", _end, nobody, "an address, or address:port")
    if len(source.prefix.address) != len(target.prefix.address):
        table.fault("destination", "an address of the other family", "both IPv4 or both IPv6")
    sent, answered = table.get("packets", _packets, (100, 100))
    duration = table.get("duration", duration_ns, 60 * NS_PER_S)
    flow = FlowFacts(
        protocol=str(protocol),
        variant=table.get("variant", _text, str(protocol)),
        confidence=str(table.get("confidence", _named(Confidence), Confidence.CONFIRMED)),
        phase=str(table.get("phase", _named(Phase), Phase.ESTABLISHED)),
        transport=table.get("transport", _one_of(TRANSPORTS), "UDP"),
        source=source.prefix.address,
        destination=target.prefix.address,
        source_port=source.port,
        destination_port=target.port,
        packets_to_server=sent,
        packets_to_client=answered,
        start_ns=at_ns - duration,
        end_ns=at_ns,
    )
    own = table.tables("entry")
    entries = [_entry(entry, zone) for entry in own]
    issued_at_ns = table.get("issued_at", _moment(zone), None)
    next_update_ns = table.get("next_update", _moment(zone), None)
    first_record_ns = table.get("first_record", _moment(zone), None)
    no_register = table.get("no_register", _true, False)
    if own or register is None or (issued_at_ns, next_update_ns, first_record_ns) != (None, None, None):
        register = Register.build(
            entries if own or register is None else register.entries,
            source="case",
            serial=1,
            issued_at_ns=at_ns if issued_at_ns is None else issued_at_ns,
            next_update_ns=at_ns + 7 * DAY_NS if next_update_ns is None else next_update_ns,
            first_record_ns=0 if first_record_ns is None else first_record_ns,
        )
    verdict = table.get("verdict", _one_of(tuple(map(str, VERDICTS))), "")
    action = table.get("action", _one_of(tuple(map(str, ACTIONS))), "")
    rule = table.get("rule", _text, "")
    if not any(key in table for key in ("verdict", "action", "rule")):
        table.fault("verdict", "nothing that is expected", "verdict, action, rule, or some of them")
    table.finish()
    line = table.file.line(table.where)
    return Case(name, line, flow, at_ns, None if no_register else register, verdict, action, rule)


def _entry(table: Table, zone: tzinfo) -> Entry:
    nothing = Prefix(bytes(4), 32)
    entry = Entry(
        entry_id=table.get("entry_id", _text, "E-1"),
        kind=table.get("kind", _named(Kind), Kind.VPN_REGISTRATION),
        category=table.get("category", _named(Category), Category.OTHER),
        prefix=table.need("prefix", _prefix, nothing, "a prefix like 203.0.113.0/24"),
        side=table.get("side", _named(Side), Side.EITHER),
        endpoints=table.get("endpoints", _endpoints, ()),
        protocols=table.get("protocols", _protocols, ()),
        valid_from_ns=table.get("valid_from", _moment(zone), 0),
        valid_until_ns=table.get("valid_until", _moment(zone, end_of_day=True), None),
        status=table.get("status", _named(Status), Status.APPROVED),
        status_since_ns=table.get("status_since", _moment(zone), 0),
    )
    table.finish()
    return entry


def _text(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError("some text")


def _moment(zone: tzinfo, *, end_of_day: bool = False) -> Callable[[object], int]:
    return lambda value: instant_ns(value, zone, end_of_day=end_of_day)


def _named(names: type[Named]) -> Callable[[object], Named]:
    def convert(value: object) -> Named:
        return names(_one_of(tuple(map(str, names)))(value))

    return convert


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def convert(value: object) -> str:
        if value in words:
            return str(value)
        close = nearest(value, list(words)) if isinstance(value, str) else None
        raise ValueError(repr(close) if close else "one of " + ", ".join(words))

    return convert


def _end(value: object) -> Endpoint:
    if isinstance(value, str):
        end = Endpoint.parse(value)
        if end.prefix.length == len(end.prefix.address) * 8:
            return end
    raise ValueError("an address, 203.0.113.10:51820 or [2001:db8::1]:51820 with a port")


def _packets(value: object) -> tuple[int, int]:
    match value:
        case [int(sent), int(answered)] if sent >= 0 and answered >= 0:
            return sent, answered
    raise ValueError("two numbers: [packets to the responder, packets back]")


def _prefix(value: object) -> Prefix:
    if isinstance(value, str):
        return Prefix.parse(value)
    raise ValueError("a prefix like 203.0.113.0/24")


def _endpoints(value: object) -> tuple[Endpoint, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(map(Endpoint.parse, value))
    raise ValueError("an array of remote ends like 203.0.113.10:51820")


def _protocols(value: object) -> tuple[Protocol, ...]:
    if isinstance(value, list):
        return tuple(map(_named(Protocol), value))
    raise ValueError("an array of " + ", ".join(Protocol))


def _true(value: object) -> bool:
    if value is True:
        return True
    raise ValueError("true, or no such key")


def print_results(results: list[Result], console: Console) -> None:
    """A table of all cases, then each difference with the sentence that explains what was found."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "case", "verdict", "action", "rule"):
        grid.add_column(name, overflow="fold")
    for result in results:
        passed = not result.differences
        mark = Text("passed", style="green") if passed else Text("FAILED", style="bold red")
        grid.add_row(mark, *map(Text, (result.case.name, result.verdict, result.action, result.rule)))
    console.print(grid)
    failed = [result for result in results if result.differences]
    for result in failed:
        where = "" if result.case.line is None else f" (line {result.case.line})"
        console.print(Text(f"{result.case.name}{where}"))
        for difference in result.differences:
            console.print(Text(f"  {difference}"))
        console.print(Text(f"  {result.why}"))
    console.print(f"{len(results) - len(failed):,} passed, {len(failed):,} failed", highlight=False)
