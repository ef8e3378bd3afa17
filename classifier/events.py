"""The event record: what one line of output says.

`event.schema.json`, beside this file, is the contract: every field with its type, its unit and when it
is absent (`docs/events.md` is the same as a table). The functions here build events of that shape; the
types give the same names to a type checker. Nothing in an event depends on the clock, the name or the
number of workers of the machine.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from classifier import _core

SCHEMA_VERSION = "1.0"
NANOSECONDS = 1_000_000_000
MAX_FAULTS = 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CASE_ID_DIGITS = 16


class EvidenceItem(TypedDict):
    """One kind of fact that was seen."""

    id: str
    bits: int
    packet: int
    time: str
    direction: str
    length: int
    count: int


class Vpn(TypedDict):
    """What was recognised, and from what."""

    protocol: str
    variant: str
    confidence: str
    phase: str
    oneway: bool
    midflow: bool
    via_proxy: bool
    evidence: list[EvidenceItem]
    ruled_out: list[str]


class EntryItem(TypedDict):
    """One register entry behind a verdict."""

    entry_id: str
    kind: str
    category: str
    status: str
    standing: str
    end: str
    prefix: str


class Was(TypedDict):
    """The judgement last reported for the flow."""

    verdict: str
    action: str
    rule: str
    register_serial: NotRequired[int | None]
    policy_hash: NotRequired[str]


class PolicyItem(TypedDict):
    """What register and policy say about a flow."""

    verdict: str
    action: str
    rule: str
    direction: str
    subject: str
    first: bool
    case_id: str
    entries: list[EntryItem]
    register_serial: int | None
    policy_hash: str
    was: NotRequired[Was]
    why: str


class FlowCounters(TypedDict):
    """A flow's counters since its first packet."""

    pkts_toserver: int
    pkts_toclient: int
    bytes_toserver: int
    bytes_toclient: int
    start: str
    end: str
    reason: NotRequired[str]


class VpnEvent(TypedDict):
    """A flow: recognised, changed, going on, or ended."""

    timestamp: str
    schema: str
    sensor: str
    event_type: Literal["vpn"]
    event: str
    flow_id: int
    community_id: str
    pcap_filename: NotRequired[str]
    in_iface: NotRequired[str]
    vlan: list[int]
    encap: list[str]
    src_ip: str
    src_port: NotRequired[int]
    dest_ip: str
    dest_port: NotRequired[int]
    proto: str
    ip_v: int
    vpn: Vpn
    policy: PolicyItem
    flow: FlowCounters
    version: str


class AttemptsItem(TypedDict):
    """Openings without an answer that were counted instead of announced."""

    source_prefix: str
    protocol: str
    count: int
    first: str
    last: str
    destinations: int
    destinations_capped: bool
    prefixes: NotRequired[int]


class AttemptsEvent(TypedDict):
    """A summary of openings that nobody answered."""

    timestamp: str
    schema: str
    sensor: str
    event_type: Literal["attempts"]
    pcap_filename: NotRequired[str]
    in_iface: NotRequired[str]
    attempts: AttemptsItem
    version: str


class Judged(TypedDict):
    """One judgement of a flow, for comparison with another one."""

    verdict: str
    action: str
    rule: str
    subject: str
    case_id: str
    register_serial: int | None
    policy_hash: str


class CorrectionItem(TypedDict):
    """What a flow, or a case, was said to be and what it is by now."""

    scope: Literal["flow", "case"]
    case_id: str
    protocol: str
    flows: int
    was: Judged
    now: Judged
    entries: list[EntryItem]
    why: str


class CorrectionEvent(TypedDict):
    """A verdict that changes when it is given again."""

    timestamp: str
    schema: str
    sensor: str
    event_type: Literal["correction"]
    flow_id: NotRequired[int]
    community_id: NotRequired[str]
    pcap_filename: NotRequired[str]
    in_iface: NotRequired[str]
    src_ip: NotRequired[str]
    src_port: NotRequired[int]
    dest_ip: NotRequired[str]
    dest_port: NotRequired[int]
    correction: CorrectionItem
    version: str


class RegisterItem(TypedDict):
    """The register snapshot that was asked."""

    source: str
    serial: int
    issued_at: str
    next_update: str | None
    sha256: str
    entries: int


class Before(TypedDict):
    """The register and policy in force before."""

    register_serial: int | None
    policy_hash: str


class RegisterEvent(TypedDict):
    """A register or policy that was to be loaded while the run was on."""

    timestamp: str
    schema: str
    sensor: str
    event_type: Literal["register"]
    event: str
    register: RegisterItem | None
    policy_hash: str
    was: Before
    faults: NotRequired[list[str]]
    faults_found: NotRequired[int]
    version: str


class LinkTypeItem(TypedDict):
    """Frames of one link type."""

    number: int
    name: str
    frames: int
    decoded: bool


class UnreadableItem(TypedDict):
    """An input that could not be read, or not to its end."""

    pcap_filename: str
    reason: str
    offset: int | None
    found: str
    expected: str


class LostItem(TypedDict):
    """Lines that a file lacks."""

    lines: int
    first: str
    last: str


class Stats(TypedDict):
    """What judged the flows and, in the last event, what was counted."""

    keep: str
    min_confidence: str
    flow_key: str
    peel: str
    remove_duplicates: bool
    filter: NotRequired[str]
    as_of: str | None
    register: RegisterItem | None
    policy_hash: str
    counters: NotRequired[dict[str, int]]
    link_types: NotRequired[list[LinkTypeItem]]
    unreadable: NotRequired[list[UnreadableItem]]
    interrupted: NotRequired[bool]
    lost: NotRequired[LostItem]


class StatsEvent(TypedDict):
    """First and last line of a run or a file, and gaps in it."""

    timestamp: str
    schema: str
    sensor: str
    event_type: Literal["stats"]
    event: str
    stats: Stats
    version: str


class LedgerItem(TypedDict):
    """What was seen of one entry, with one protocol, on one day."""

    day: str
    protocol: str
    entry_id: str | None
    kind: NotRequired[str]
    category: NotRequired[str]
    standing: NotRequired[str]
    beside: NotRequired[bool]
    verdict: NotRequired[str]
    flows: int
    bytes: int
    first: str
    last: str


class LedgerEvent(TypedDict):
    """A line of a daily ledger; it is in a file of its own."""

    timestamp: str
    schema: str
    sensor: str
    event_type: Literal["ledger"]
    ledger: LedgerItem
    version: str


Event = VpnEvent | AttemptsEvent | CorrectionEvent | RegisterEvent | StatsEvent
Place = Literal["pcap_filename", "in_iface"]
"""Which field says where an event's packets come from."""


class Counted(NamedTuple):
    """What a flow is counted by."""

    protocol: str
    verdict: str
    action: str


class VpnLine(NamedTuple):
    """A `VpnEvent` as the line that it is written as; beside it what every reader asks for, so that few
    lines are read again."""

    line: bytes
    """With its newline."""
    flow_id: int
    ended: bool
    counted: Counted

    def event(self) -> VpnEvent:
        """The event that the line holds."""
        import orjson

        event: VpnEvent = orjson.loads(self.line)
        return event


@dataclass(frozen=True, slots=True)
class VpnLines:
    """Several of them, in order: a capture has millions, and few are looked at one by one.

    All but `text` have an item for each line."""

    text: bytes
    ends: Sequence[int]
    """Where in `text` each line ends, its newline included."""
    cases: Sequence[int]
    """Where in `text` the id of its case begins."""
    flow_ids: Sequence[int]
    ended: Sequence[bool]
    counted: Sequence[Counted]

    def lines(self) -> Iterator[VpnLine]:
        """One by one."""
        start = 0
        columns = zip(self.ends, self.flow_ids, self.ended, self.counted, strict=True)
        for end, flow_id, ended, counted in columns:
            yield VpnLine(self.text[start:end], flow_id, ended, counted)
            start = end


def place(event: Mapping[str, Any]) -> tuple[Place, str]:
    """Where an event's packets come from: the field that says so, and what it says; KeyError without one."""
    if "in_iface" in event:
        return "in_iface", event["in_iface"]
    return "pcap_filename", event["pcap_filename"]


def attempts_event(
    time_ns: int, sensor: str, field: Place, capture: str, attempts: AttemptsItem
) -> AttemptsEvent:
    """A summary for one window of one source prefix."""
    event: AttemptsEvent = {
        "timestamp": rfc3339(time_ns),
        "schema": SCHEMA_VERSION,
        "sensor": sensor,
        "event_type": "attempts",
        "attempts": attempts,
        "version": _core.version,
    }
    event[field] = capture
    return event


def register_event(
    time_ns: int,
    sensor: str,
    event: Literal["loaded", "refused"],
    register: RegisterItem | None,
    policy_hash: str,
    was: Before,
    faults: Sequence[str] = (),
) -> RegisterEvent:
    """What is in force from here on; `faults` say why it is what was in force before."""
    made: RegisterEvent = {
        "timestamp": rfc3339(time_ns),
        "schema": SCHEMA_VERSION,
        "sensor": sensor,
        "event_type": "register",
        "event": event,
        "register": register,
        "policy_hash": policy_hash,
        "was": was,
        "version": _core.version,
    }
    if faults:
        made["faults"] = list(faults[:MAX_FAULTS])
        made["faults_found"] = len(faults)
    return made


def stats_event(time_ns: int, sensor: str, event: str, stats: Stats) -> StatsEvent:
    """The first or the last line of a run or a file, or a gap in it."""
    return {
        "timestamp": rfc3339(time_ns),
        "schema": SCHEMA_VERSION,
        "sensor": sensor,
        "event_type": "stats",
        "event": event,
        "stats": stats,
        "version": _core.version,
    }


def ledger_event(timestamp: str, sensor: str, ledger: LedgerItem) -> LedgerEvent:
    """A line of a daily ledger."""
    return {
        "timestamp": timestamp,
        "schema": SCHEMA_VERSION,
        "sensor": sensor,
        "event_type": "ledger",
        "ledger": ledger,
        "version": _core.version,
    }


def rfc3339(time_ns: int) -> str:
    """The time in UTC, exact to the nanosecond."""
    if time_ns < NANOSECONDS:
        seconds, rest = divmod(time_ns, NANOSECONDS)
        return f"{_second(str(seconds))}{rest:09d}Z"
    # The same by cutting digits, since most of an event's cost is in its times.
    digits = str(time_ns)
    return f"{_second(digits[:-9])}{digits[-9:]}Z"


@lru_cache(maxsize=1024)  # an event has several times, mostly close together
def _second(second: str) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(int(second)))


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time or a date (its first moment); UTC unless it says otherwise.

    Raises ValueError that says what is expected.
    """
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)?)?", text
    )
    if found is None:
        raise ValueError(
            f"{text!r}: expected a time such as 2026-03-01T12:00:00Z or a date such as 2026-03-01"
        )
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}{(zone or 'Z').upper()}")
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return nanoseconds(moment) + int((fraction or "0").ljust(9, "0"))


def parse_end(text: str) -> int:
    """Like `parse_time`, for an end: the first instant after it, of a date the end of its day."""
    day_ns = 86_400 * 1_000_000_000
    return parse_time(text) + (day_ns if len(text) == len("2026-03-01") else 0)


def nanoseconds(moment: date) -> int:
    """Nanoseconds since 1970 of a datetime (UTC when it has no zone) or of the first moment of a date."""
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every event keeps."""
    text = Path(__file__).with_name("event.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def faults(event: object, document: Mapping[str, Any]) -> Iterator[str]:
    """What breaks the schema, as "field: what was expected, what was found"; nothing for a good event.

    Knows the keywords that `event.schema.json` uses and no others, so that reading event files needs no
    validator at run time; the tests compare it with one.
    """
    if not isinstance(event, dict):
        yield f"expected an object, found {_name(event)}"
        return
    kinds = document["properties"]["event_type"]["enum"]
    kind = event.get("event_type")
    if kind not in kinds:
        yield f"event_type: expected one of {', '.join(kinds)}, found {kind!r}"
        return
    definition = document["$defs"].get(f"{kind}_event")
    if definition is not None:
        yield from _faults(event, definition, "", document["$defs"])


def _faults(value: Any, rule: Mapping[str, Any], place: str, definitions: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in rule:
        yield from _faults(value, definitions[rule["$ref"].removeprefix("#/$defs/")], place, definitions)
        return
    if "oneOf" in rule:
        options = [option for option in rule["oneOf"] if option != {"type": "null"}]
        if value is not None or len(options) == len(rule["oneOf"]):
            yield from _faults(value, options[0], place, definitions)
        return
    where = place or "event"
    if "const" in rule and value != rule["const"]:
        yield f"{where}: expected {rule['const']!r}, found {value!r}"
        return
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, kind) for kind in types):
        yield f"{where}: expected {' or '.join(types)}, found {_name(value)}"
        return
    if "enum" in rule and value not in rule["enum"]:
        yield f"{where}: expected one of {', '.join(map(str, rule['enum']))}, found {value!r}"
    if isinstance(value, str) and "pattern" in rule and re.search(rule["pattern"], value) is None:
        yield f"{where}: expected text like {rule['pattern']}, found {value!r}"
    if _is(value, "integer"):
        if "minimum" in rule and value < rule["minimum"]:
            yield f"{where}: expected {rule['minimum']} or more, found {value}"
        if "maximum" in rule and value > rule["maximum"]:
            yield f"{where}: expected {rule['maximum']} or less, found {value}"
    if isinstance(value, list):
        if "maxItems" in rule and len(value) > rule["maxItems"]:
            yield f"{where}: expected at most {rule['maxItems']} items, found {len(value)}"
        for number, item in enumerate(value):
            yield from _faults(item, rule.get("items", {}), f"{place}[{number}]", definitions)
    if isinstance(value, dict):
        properties = rule.get("properties", {})
        extra = rule.get("additionalProperties", True)
        for name in rule.get("required", ()):
            if name not in value:
                yield f"{f'{place}.{name}'.lstrip('.')}: missing"
        # Used for nothing but fields of which one must be there.
        names = [name for option in rule.get("anyOf", ()) for name in option["required"]]
        if names and not any(name in value for name in names):
            yield f"{f'{place}.{names[0]}'.lstrip('.')}: missing"
        for name, item in value.items():
            inner = f"{place}.{name}".lstrip(".")
            if name in properties:
                yield from _faults(item, properties[name], inner, definitions)
            elif extra is False:
                yield f"{inner}: unknown field"
            elif isinstance(extra, dict):
                yield from _faults(item, extra, inner, definitions)


def _is(value: object, kind: str) -> bool:
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    names = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}
    return isinstance(value, names[kind])


def _name(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)
