"""The event record: times, the schema, and what the schema says against its three other descriptions."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from event_table import page
from hypothesis import given
from hypothesis import strategies as st

from classifier import _core, events
from classifier.judgement import ACTIONS, DIRECTIONS
from classifier.register import Category, Kind, Status
from classifier.standing import VERDICTS, Standing

SCHEMA = events.schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TIME = "2026-03-01T12:00:00.000000000Z"
STATS: dict[str, Any] = {
    "timestamp": TIME,
    "schema": "1.0",
    "sensor": "replay",
    "event_type": "stats",
    "event": "ended",
    "stats": {
        "keep": "all",
        "min_confidence": "likely",
        "flow_key": "+vlan",
        "peel": "operator",
        "remove_duplicates": False,
        "as_of": None,
        "register": None,
        "policy_hash": "",
        "counters": {"frames": 1},
        "link_types": [{"number": 1, "name": "ETHERNET", "frames": 1, "decoded": True}],
        "unreadable": [
            {"pcap_filename": "x", "reason": "io", "offset": None, "found": "", "expected": ""},
        ],
        "interrupted": False,
    },
    "version": "0.1.0",
}
VPN: dict[str, Any] = {
    "timestamp": TIME,
    "schema": "1.0",
    "sensor": "replay",
    "event_type": "vpn",
    "event": "changed",
    "flow_id": 2**63 - 1,
    "community_id": "1:AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "pcap_filename": "x.pcap",
    "vlan": [7],
    "encap": ["ethernet", "ipv4"],
    "src_ip": "192.0.2.1",
    "dest_ip": "192.0.2.2",
    "proto": "ESP",
    "ip_v": 4,
    "vpn": {
        "protocol": "ipsec",
        "variant": "esp",
        "confidence": "confirmed",
        "phase": "data_only",
        "oneway": True,
        "midflow": True,
        "via_proxy": False,
        "evidence": [
            {
                "id": "ipsec.esp",
                "bits": 64,
                "packet": 1,
                "time": TIME,
                "direction": "to_server",
                "length": 100,
                "count": 3,
            }
        ],
        "ruled_out": [],
    },
    "policy": {
        "verdict": "expired",
        "action": "flag",
        "rule": "unregistered",
        "direction": "unknown",
        "subject": "192.0.2.1",
        "first": True,
        "case_id": "0123456789abcdef",
        "entries": [
            {
                "entry_id": "A-1",
                "kind": "vpn_registration",
                "category": "other",
                "status": "approved",
                "standing": "expired",
                "end": "source",
                "prefix": "192.0.2.0/24",
            }
        ],
        "register_serial": 3,
        "policy_hash": "ab",
        "was": {"verdict": "registered", "action": "pass", "rule": "good"},
        "why": "The registration has ended.",
    },
    "flow": {
        "pkts_toserver": 3,
        "pkts_toclient": 0,
        "bytes_toserver": 300,
        "bytes_toclient": 0,
        "start": TIME,
        "end": TIME,
    },
    "version": "0.1.0",
}


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*place, key)
        yield from places(inner, (*place, key))


def copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: copy(inner) for key, inner in value.items()}
    return [copy(inner) for inner in value] if isinstance(value, list) else value


CORRECTION: dict[str, Any] = {
    "timestamp": TIME,
    "schema": "1.0",
    "sensor": "replay",
    "event_type": "correction",
    "flow_id": 7,
    "community_id": "1:AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "pcap_filename": "x.pcap",
    "src_ip": "192.0.2.1",
    "src_port": 1,
    "dest_ip": "192.0.2.2",
    "dest_port": 2,
    "correction": {
        "scope": "flow",
        "case_id": "0123456789abcdef",
        "protocol": "wireguard",
        "flows": 1,
        "was": {
            "verdict": "unregistered",
            "action": "flag",
            "rule": "no-entry",
            "subject": "192.0.2.1",
            "case_id": "0123456789abcdef",
            "register_serial": 47,
            "policy_hash": "ab",
        },
        "now": {
            "verdict": "registered",
            "action": "pass",
            "rule": "good-entry",
            "subject": "192.0.2.1",
            "case_id": "0123456789abcdef",
            "register_serial": 48,
            "policy_hash": "ab",
        },
        "entries": [],
        "why": "192.0.2.1 is registered.",
    },
    "version": "0.1.0",
}
BROKEN: list[Any] = [None, True, -1, 1 << 70, 1.5, "", "nonsense", [], {}, [{}], {"x": 1}]


@given(st.sampled_from([STATS, VPN, CORRECTION]), st.data())
def test_faults_agrees_with_a_validator(good: dict[str, Any], data: st.DataObject) -> None:
    event = copy(good)
    *path, last = data.draw(st.sampled_from(list(places(event))))
    holder = event
    for key in path:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = data.draw(st.sampled_from(BROKEN))
    elif isinstance(holder, dict) and data.draw(st.booleans()):
        del holder[last]
    elif isinstance(holder, dict):
        holder["unheard_of"] = 1
    found = list(events.faults(event, SCHEMA))
    assert (not found) == VALIDATOR.is_valid(event), found


def test_faults_name_the_field() -> None:
    event = copy(VPN)
    event["vpn"]["evidence"][0]["bits"] = "many"
    assert list(events.faults(event, SCHEMA)) == ["vpn.evidence[0].bits: expected integer, found string"]
    assert list(events.faults([], SCHEMA)) == ["expected an object, found array"]
    assert list(events.faults({"event_type": "new"}, SCHEMA)) == [
        "event_type: expected one of vpn, attempts, register, correction, stats, ledger, found 'new'"
    ]
    del event["flow"]
    assert "flow: missing" in list(events.faults(event, SCHEMA))
    live = copy(VPN)
    live["in_iface"] = live.pop("pcap_filename")
    assert list(events.faults(live, SCHEMA)) == []
    del live["in_iface"]
    assert list(events.faults(live, SCHEMA)) == ["pcap_filename: missing"]


def test_the_schema_is_one_and_describes_every_field() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name, definition in SCHEMA["$defs"].items():
        assert definition["additionalProperties"] is False, name
        assert definition["description"], name
        for field, rule in definition["properties"].items():
            assert "$ref" in rule or rule["description"].endswith("."), f"{name}.{field}"


def test_the_page_for_people_is_made_from_the_schema() -> None:
    written = Path(__file__).parents[1].joinpath("docs", "events.md").read_text(encoding="utf-8")
    assert written == page(), "run: python tests/event_table.py > docs/events.md"


TYPES = {
    "vpn_event": events.VpnEvent,
    "vpn": events.Vpn,
    "evidence": events.EvidenceItem,
    "policy": events.PolicyItem,
    "entry": events.EntryItem,
    "was": events.Was,
    "flow": events.FlowCounters,
    "attempts_event": events.AttemptsEvent,
    "attempts": events.AttemptsItem,
    "register_event": events.RegisterEvent,
    "before": events.Before,
    "correction_event": events.CorrectionEvent,
    "correction": events.CorrectionItem,
    "judged": events.Judged,
    "stats_event": events.StatsEvent,
    "stats": events.Stats,
    "ledger_event": events.LedgerEvent,
    "ledger": events.LedgerItem,
    "lost": events.LostItem,
    "register": events.RegisterItem,
    "link_type": events.LinkTypeItem,
    "unreadable": events.UnreadableItem,
}


def test_types_for_a_type_checker_have_the_same_fields() -> None:
    assert TYPES.keys() == SCHEMA["$defs"].keys()
    for name, shape in TYPES.items():
        definition = SCHEMA["$defs"][name]
        hints = typing.get_type_hints(shape, include_extras=True)
        required = {key for key, hint in hints.items() if typing.get_origin(hint) is not typing.NotRequired}
        assert list(hints) == list(definition["properties"]), name
        assert required == set(definition["required"]), name


def test_closed_lists_are_those_of_core_and_policy() -> None:
    definitions = SCHEMA["$defs"]

    def listed(definition: str, field: str) -> tuple[str, ...]:
        return tuple(definitions[definition]["properties"][field]["enum"])

    assert listed("vpn", "protocol") == listed("attempts", "protocol") == _core.PROTOCOLS
    assert listed("vpn", "confidence") == listed("stats", "min_confidence") == _core.CONFIDENCES
    assert listed("vpn", "phase") == _core.PHASES
    assert listed("vpn_event", "proto") == _core.TRANSPORTS
    assert listed("flow", "reason") == _core.END_REASONS
    assert set(listed("vpn_event", "event")) == set(_core.REPORTS) - {"milestone"}
    assert listed("policy", "verdict") == listed("was", "verdict") == VERDICTS
    assert listed("policy", "action") == listed("was", "action") == ACTIONS
    assert listed("policy", "direction") == DIRECTIONS
    assert listed("entry", "standing") == tuple(Standing)
    assert all(status in definitions["entry"]["properties"]["status"]["description"] for status in Status)
    assert VPN["policy"]["entries"][0]["kind"] in tuple(Kind)
    assert VPN["policy"]["entries"][0]["category"] in tuple(Category)


@given(st.integers(0, 2**63 - 1))
def test_times_are_exact_and_read_back(time_ns: int) -> None:
    text = events.rfc3339(time_ns)
    assert len(text) == 30
    assert events.parse_time(text) == time_ns
    moment = datetime.fromisoformat(text[:26] + "+00:00")
    assert events.nanoseconds(moment) == time_ns // 1000 * 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01", 0),
        ("1970-01-02T00:00:00", 86_400 * 10**9),
        ("1970-01-01T05:00:00+05:00", 0),
        ("1970-01-01t00:00:00.5z", 5 * 10**8),
        ("1970-01-01 00:00:00.000000001Z", 1),
    ],
)
def test_times_as_people_write_them(text: str, expected: int) -> None:
    assert events.parse_time(text) == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "2026-02-30T00:00:00Z", "2026-03-01T25:00:00Z", "20260301", "1e9"]
)
def test_other_times_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=repr(text)):
        events.parse_time(text)


def test_dates_and_datetimes() -> None:
    assert events.nanoseconds(date(1970, 1, 2)) == 86_400 * 10**9
    assert events.nanoseconds(datetime(1970, 1, 1, 0, 0, 1)) == 10**9
    east = timezone(timedelta(hours=1))
    assert events.nanoseconds(datetime(1970, 1, 1, 1, tzinfo=east)) == 0
    assert events.nanoseconds(datetime(1970, 1, 1, 0, 0, 0, 7, UTC)) == 7_000


def test_readers_are_told_that_flow_ids_may_not_fit_a_double() -> None:
    rule = events.schema()["$defs"]["vpn_event"]["properties"]["flow_id"]
    assert int(float(rule["maximum"])) != rule["maximum"]
    assert "Can exceed 2^53" in rule["description"]
