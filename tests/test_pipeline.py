"""From rows to events: what is announced when, whatever the batches; judged by real rules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from fake_engine import SECOND, T0, FakeEngine, Row, Step, capture_error, engine, inputs
from hypothesis import given
from hypothesis import strategies as st
from test_community_id import community_id

from classifier import _core, events
from classifier.errors import ClassifierError
from classifier.judgement import Action
from classifier.pipeline import Replay, Settings, load_rules, replay
from classifier.policy import Confidence, Phase, Policy, Rule
from classifier.register import Category, Entry, Kind, Prefix, Register, Side, Status
from classifier.standing import Verdict

VALIDATOR = jsonschema.Draft202012Validator(events.schema())
DAY = 86_400
GOOD = "192.0.2.10"  # registered until a day after T0
RULES = (
    Rule(
        "unregistered-established",
        Action.FLAG,
        verdicts=frozenset({Verdict.UNREGISTERED, Verdict.EXPIRED}),
        confidences=frozenset({Confidence.CONFIRMED}),
        phases=frozenset({Phase.ESTABLISHED, Phase.DATA_ONLY}),
        min_packets=10,
    ),
    Rule("registered", Action.PASS, verdicts=frozenset({Verdict.REGISTERED})),
)
POLICY = Policy(sha256="p" * 64, rules=RULES, enforce_from_ns=0, grace_ns=0)
WITH_LOCAL = replace(POLICY, local=(Prefix.parse("192.0.2.0/24"),))


def entry(prefix: str = GOOD, until_s: int | None = DAY) -> Entry:
    return Entry(
        entry_id="R-1",
        kind=Kind.VPN_REGISTRATION,
        category=Category.BANK,
        prefix=Prefix.parse(prefix),
        side=Side.EITHER,
        endpoints=(),
        protocols=(),
        valid_from_ns=0,
        valid_until_ns=None if until_s is None else T0 + until_s * SECOND,
        status=Status.APPROVED,
        status_since_ns=0,
    )


def register(*entries: Entry, first_record_ns: int = 0) -> Register:
    return Register.build(
        entries,
        source="authority",
        serial=7,
        issued_at_ns=T0,
        next_update_ns=T0 + 365 * DAY * SECOND,
        first_record_ns=first_record_ns,
        sha256="0" * 64,
    )


def run(
    captures: dict[str, Sequence[Step] | Exception] | Sequence[Step],
    *,
    with_register: Register | None = None,
    policy: Policy | None = POLICY,
    settings: Settings | None = None,
) -> list[dict[str, Any]]:
    """All events, each checked against the schema."""
    if not isinstance(captures, dict):
        captures = {"x.pcap": captures}
    one = Replay(inputs(*captures), with_register or register(), policy, settings, engine(captures))
    return list(checked(one.events()))


def checked(stream: Iterator[events.Event]) -> Iterator[dict[str, Any]]:
    for event in stream:
        loaded = json.loads(json.dumps(event))
        VALIDATOR.validate(loaded)
        yield loaded


def vpn(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in stream if event["event_type"] == "vpn"]


def kinds(stream: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in vpn(stream)]


NEW = Row()


def test_an_event_says_what_the_row_and_the_judgement_say() -> None:
    (event,) = vpn(run([[NEW]]))
    policy = event.pop("policy")
    assert event == {
        "timestamp": "2026-03-01T12:00:00.000000000Z",
        "schema": "1.0",
        "sensor": "replay",
        "event_type": "vpn",
        "event": "recognised",
        "flow_id": 1,
        "community_id": community_id(17, NEW.source_ip, NEW.destination_ip, (51820, 51820)),
        "pcap_filename": "x.pcap",
        "vlan": [],
        "encap": ["ethernet", "ipv4"],
        "src_ip": "192.0.2.10",
        "src_port": 51820,
        "dest_ip": "198.51.100.20",
        "dest_port": 51820,
        "proto": "UDP",
        "ip_v": 4,
        "vpn": {
            "protocol": "wireguard",
            "variant": "standard",
            "confidence": "confirmed",
            "phase": "established",
            "oneway": False,
            "midflow": False,
            "via_proxy": False,
            "evidence": [
                {
                    "id": "wireguard.mac2_zero",
                    "bits": 128,
                    "packet": 1,
                    "time": "2026-03-01T12:00:00.000000000Z",
                    "direction": "to_server",
                    "length": 148,
                    "count": 1,
                }
            ],
            "ruled_out": [],
        },
        "flow": {
            "pkts_toserver": 10,
            "pkts_toclient": 9,
            "bytes_toserver": 1000,
            "bytes_toclient": 900,
            "start": "2026-03-01T12:00:00.000000000Z",
            "end": "2026-03-01T12:00:01.000000000Z",
        },
        "version": _core.version,
    }
    assert policy.pop("why").startswith("No registration matched 192.0.2.10")
    assert policy == {
        "verdict": "unregistered",
        "action": "flag",
        "rule": "unregistered-established",
        "direction": "unknown",
        "subject": "192.0.2.10",
        "first": True,
        "case_id": policy["case_id"],
        "entries": [],
        "register_serial": 7,
        "policy_hash": "p" * 64,
    }


def test_entries_behind_a_verdict() -> None:
    (event,) = vpn(run([[NEW]], with_register=register(entry("192.0.2.0/24"))))
    assert event["policy"]["verdict"] == "registered"
    assert event["policy"]["entries"] == [
        {
            "entry_id": "R-1",
            "kind": "vpn_registration",
            "category": "bank",
            "status": "approved",
            "standing": "approved",
            "end": "source",
            "prefix": "192.0.2.0/24",
        }
    ]


def test_at_most_16_entries_go_into_an_event() -> None:
    many = register(*(entry()._replace(entry_id=f"R-{number}") for number in range(40)))
    (event,) = vpn(run([[NEW]], with_register=many))
    assert len(event["policy"]["entries"]) == 16


def test_esp_has_no_ports_and_ipv6_subjects_are_a_64() -> None:
    row = replace(
        NEW,
        source_ip="2001:db8:1:2::3",
        destination_ip="2001:db8::1",
        source_port=None,
        destination_port=None,
        transport="ESP",
        protocol="ipsec",
    )
    (event,) = vpn(run([[row]]))
    assert "src_port" not in event
    assert "dest_port" not in event
    assert (event["ip_v"], event["policy"]["subject"]) == (6, "2001:db8:1:2::/64")


def test_the_subject_may_be_the_destination() -> None:
    policy = replace(POLICY, local=(Prefix.parse("198.51.100.0/24"),))
    (event,) = vpn(run([[NEW]], policy=policy))
    assert (event["policy"]["direction"], event["policy"]["subject"]) == ("inbound", "198.51.100.20")


def test_the_life_of_a_flow() -> None:
    stream = run(
        [
            [NEW],
            [NEW.then("changed", confidence="confirmed")],
            [NEW.then("milestone", 2)],
            [NEW.then("update", 1_800)],
            [NEW.then("ended", 2_000)],
        ]
    )
    assert kinds(stream) == ["recognised", "changed", "update", "ended"]
    assert [event["policy"]["first"] for event in vpn(stream)] == [True, False, False, False]
    assert all("was" not in event["policy"] for event in vpn(stream))
    assert [event["flow"].get("reason") for event in vpn(stream)] == [None, None, None, "idle_timeout"]


def test_a_milestone_that_changes_the_judgement_is_an_event() -> None:
    few = replace(NEW, packets_to_server=2, packets_to_client=1)
    stream = run([[few], [few.then("milestone", packets_to_server=9)]])
    assert kinds(stream) == ["recognised", "changed"]
    first, second = (event["policy"] for event in vpn(stream))
    assert (first["action"], first["first"]) == ("observe", False)
    assert (second["action"], second["first"]) == ("flag", True)
    assert second["was"] == {"verdict": "unregistered", "action": "observe", "rule": "default"}


def test_an_update_that_changes_the_judgement_is_a_change() -> None:
    rows = [[NEW], [NEW.then("update", 2 * DAY)]]
    stream = run(rows, with_register=register(entry()), policy=WITH_LOCAL)
    assert kinds(stream) == ["recognised", "changed"]
    assert [event["policy"]["verdict"] for event in vpn(stream)] == ["registered", "expired"]
    assert vpn(stream)[1]["policy"]["was"] == {
        "verdict": "registered",
        "action": "pass",
        "rule": "registered",
    }


def test_an_end_is_judged_at_the_last_packet_not_when_the_timeout_ran_out() -> None:
    ended = NEW.then("ended", 2 * DAY, end_ns=T0 + 5 * SECOND)
    stream = run([[NEW, ended]], with_register=register(entry()))
    assert [event["policy"]["verdict"] for event in vpn(stream)] == ["registered", "registered"]
    assert vpn(stream)[1]["timestamp"] == "2026-03-03T12:00:00.000000000Z"


def test_as_of_stands_in_for_the_time_of_packets() -> None:
    settings = Settings(as_of_ns=T0 + 3 * DAY * SECOND)
    stream = run([[NEW]], with_register=register(entry()), policy=WITH_LOCAL, settings=settings)
    assert vpn(stream)[0]["policy"]["verdict"] == "expired"
    assert vpn(stream)[0]["timestamp"] == "2026-03-01T12:00:00.000000000Z"
    assert stream[0]["stats"]["as_of"] == "2026-03-04T12:00:00.000000000Z"


def test_as_of_also_stands_in_for_the_age_of_the_flow() -> None:
    older = register(first_record_ns=T0 + DAY * SECOND)
    for as_of_ns, verdict in ((None, "indeterminate"), (T0 + 2 * DAY * SECOND, "unregistered")):
        stream = run([[NEW]], with_register=older, policy=WITH_LOCAL, settings=Settings(as_of_ns=as_of_ns))
        assert vpn(stream)[0]["policy"]["verdict"] == verdict


def test_without_a_register_nothing_is_evaluated() -> None:
    for policy in (None, POLICY):
        captures: dict[str, Sequence[Step] | Exception] = {"x.pcap": [[NEW]]}
        one = Replay(inputs("x.pcap"), None, policy, None, engine(captures))
        stream = list(checked(one.events()))
        (event,) = vpn(stream)
        assert (event["policy"]["verdict"], event["policy"]["action"]) == ("not_evaluated", "observe")
        assert event["policy"]["register_serial"] is None
        assert event["policy"]["policy_hash"] == ("" if policy is None else "p" * 64)
        assert stream[0]["stats"]["register"] is None


def test_a_case_is_first_once_a_day_and_anew_in_each_capture() -> None:
    other = replace(NEW, flow_id=2, source_port=4)
    elsewhere = replace(NEW, flow_id=3, destination_ip="198.51.100.99")
    late = replace(NEW, flow_id=4, time_ns=T0 + DAY * SECOND)
    stream = run({"a.pcap": [[NEW, other, elsewhere], [late]], "b.pcap": [[NEW]]})
    assert [event["policy"]["first"] for event in vpn(stream)] == [True, False, True, True, True]
    assert len({event["policy"]["case_id"] for event in vpn(stream)}) == 2


ATTEMPT = replace(NEW, phase="attempt", packets_to_client=0)


def scan(count: int) -> list[Row]:
    return [
        replace(ATTEMPT, flow_id=n, number=n, destination_ip=f"198.51.100.{n}", time_ns=T0 + n)
        for n in range(1, count + 1)
    ]


def test_attempts_beyond_the_rate_are_summarised() -> None:
    rows = scan(25)
    ends = [row.then("ended", 70) for row in rows]
    stream = run([rows, ends])
    assert [event["event_type"] for event in stream] == [
        "stats",
        *["vpn"] * 10,
        "attempts",
        *["vpn"] * 10,
        "stats",
    ]
    assert kinds(stream) == ["recognised"] * 10 + ["ended"] * 10
    summary = next(event for event in stream if event["event_type"] == "attempts")
    assert summary["attempts"]["count"] == 15
    assert summary["timestamp"] == events.rfc3339(T0 + 1 + 60 * SECOND)
    assert stream[-1]["stats"]["counters"]["attempts.summarised"] == 15


def test_a_summarised_attempt_that_is_answered_is_recognised_then() -> None:
    rows = scan(12)
    answered = rows[11].then("changed", phase="established", packets_to_client=9)
    still_attempt = rows[10].then("update", 2)
    stream = run([rows, [answered, still_attempt], [answered.then("ended", 100)]])
    assert kinds(stream)[10:] == ["recognised", "ended"]
    assert vpn(stream)[10]["flow_id"] == 12
    assert vpn(stream)[10]["policy"]["first"]


def test_summaries_still_open_are_given_when_the_capture_ends() -> None:
    stream = run({"a.pcap": [scan(11)], "b.pcap": [scan(1)]})
    assert [event["event_type"] for event in stream[10:]] == ["vpn", "attempts", "vpn", "stats"]
    assert stream[11]["pcap_filename"] == "a.pcap"


def history() -> list[Row]:
    """Rows of several flows, mixed, with changes of every kind."""
    few = replace(NEW, flow_id=50, packets_to_server=1, packets_to_client=1, destination_ip="203.0.113.9")
    rows = [*scan(14), NEW, few, few.then("milestone", 2, packets_to_server=20), NEW.then("changed", 3)]
    rows += [few.then("update", 1_800, packets_to_server=30), few.then("ended", 2_000, packets_to_server=40)]
    rows += [replace(scan(14)[12], phase="established").then("changed", 2_100)]
    rows += [NEW.then("update", 2 * DAY), NEW.then("ended", 2 * DAY + 5)]
    return rows


@given(st.sets(st.integers(1, len(history()) - 1)))
def test_where_batches_end_carries_no_meaning(cuts: set[int]) -> None:
    rows = history()
    edges = [0, *sorted(cuts), len(rows)]
    batches = [rows[start:end] for start, end in pairwise(edges)]
    assert run(batches, with_register=register(entry())) == run([rows], with_register=register(entry()))


def test_tags_are_small_and_shared() -> None:
    fake = FakeEngine({"x.pcap": [[replace(NEW, flow_id=n) for n in range(1, 500)]]})
    one = Replay(inputs("x.pcap"), register(), POLICY, None, cast(_core.Engine, fake))
    assert len(vpn(list(checked(one.events())))) == 499
    assert set(fake.tags.values()) == {1}
    assert len(fake.tags) == 499


def test_first_and_last_line() -> None:
    stream = run([[NEW]], with_register=register(entry()))
    first, last = stream[0], stream[-1]
    assert (first["event"], last["event"]) == ("started", "ended")
    assert first["timestamp"] == last["timestamp"] == "2026-03-01T12:00:00.000000000Z"
    assert first["stats"] == {
        "keep": "all",
        "min_confidence": "likely",
        "flow_key": "five-tuple",
        "peel": "operator",
        "remove_duplicates": False,
        "as_of": None,
        "register": {
            "source": "authority",
            "serial": 7,
            "issued_at": "2026-03-01T12:00:00.000000000Z",
            "next_update": "2027-03-01T12:00:00.000000000Z",
            "sha256": "0" * 64,
            "entries": 1,
        },
        "policy_hash": "p" * 64,
    }
    counters = last["stats"]["counters"]
    assert counters["frames"] == 1
    assert counters["events.vpn"] == 1
    assert counters["captures"] == 1
    assert last["stats"]["interrupted"] is False


def test_nothing_found_gives_two_lines() -> None:
    stream = run([])
    assert [event["event"] for event in stream] == ["started", "ended"]
    assert stream[0]["timestamp"] == "1970-01-01T00:00:00.000000000Z"


def test_what_cannot_be_read_is_named_and_the_rest_goes_on() -> None:
    captures: dict[str, Sequence[Step] | Exception] = {
        "none.pcap": capture_error("not_a_capture", "none.pcap", 0),
        "cut.pcap": [[NEW], capture_error("truncated", "cut.pcap", 1234), [NEW.then("ended")]],
        "good.pcap": [[replace(NEW, flow_id=9)]],
    }
    one = Replay(inputs(*captures), register(), POLICY, None, engine(captures))
    stream = list(checked(one.events()))
    assert kinds(stream) == ["recognised", "ended", "recognised"]
    assert [(fault.path, fault.reason, fault.offset) for fault in one.faults] == [
        ("none.pcap", "not_a_capture", 0),
        ("cut.pcap", "truncated", 1234),
    ]
    ended = stream[-1]["stats"]
    assert [item["pcap_filename"] for item in ended["unreadable"]] == ["none.pcap", "cut.pcap"]
    assert (ended["counters"]["captures"], ended["counters"]["captures.unreadable"]) == (2, 2)
    assert ended["link_types"][1] == {"number": 147, "name": "USER0", "frames": 4, "decoded": False}


def test_stop_ends_the_running_flows_and_reads_no_more() -> None:
    fake = FakeEngine({"a.pcap": [[NEW], [replace(NEW, flow_id=2)], [NEW.then("ended")]], "b.pcap": [[NEW]]})
    one = Replay(inputs("a.pcap", "b.pcap"), register(), POLICY, None, cast(_core.Engine, fake))
    stream: list[dict[str, Any]] = []
    for event in checked(one.events()):
        stream.append(event)
        if event["event_type"] == "vpn":
            one.stop()
    assert kinds(stream) == ["recognised", "ended"]
    assert one.interrupted
    assert stream[-1]["stats"]["interrupted"] is True
    assert stream[-1]["stats"]["counters"]["captures"] == 1


def test_progress_adds_captures_up() -> None:
    captures: dict[str, Sequence[Step] | Exception] = {"a.pcap": [[NEW]], "b.pcap": [[NEW]]}
    one = Replay(inputs(*captures), None, None, None, engine(captures))
    seen = []
    list(one.events(lambda: seen.append((one.current, *one.progress()))))
    assert seen == [("a.pcap", 100, 200, 1), ("b.pcap", 200, 200, 2)]
    assert one.progress() == (200, 200, 2)


def test_the_engine_is_told_what_the_policy_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeEngine({})
    monkeypatch.setattr(_core, "Engine", fake)
    settings = Settings(workers=3, flow_key="+path", peel="all", remove_duplicates=True)
    Replay(inputs(), register(), replace(POLICY, shared=(Prefix.parse("100.64.0.0/10"),)), settings)
    assert fake.settings == {
        "workers": 3,
        "min_confidence": "likely",
        "flow_key": "+path",
        "packet_milestones": (10,),
        "duration_milestones_s": (),
        "remove_duplicates": True,
        "peel": "all",
        "subscribers": [(bytes([100, 64, 0, 0]), 10)],
        "filter": (),
    }


def test_a_register_needs_a_policy(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="a register needs a policy"):
        load_rules(None, tmp_path / "register.csv", None)
    assert load_rules(None, None, None) == (None, None)


def test_replay_raises_what_could_not_be_read_at_the_end(tmp_path: Path) -> None:
    from classifier.inputs import InputError

    stream = replay(tmp_path / "missing.pcap")
    assert [next(stream)["event_type"] for _ in range(2)] == ["stats", "stats"]
    with pytest.raises(InputError, match="no such file") as caught:
        next(stream)
    assert [fault.reason for fault in caught.value.faults] == ["not_found"]


def test_replay_refuses_wrong_arguments_at_once() -> None:
    with pytest.raises(ValueError, match="tomorrow"):
        replay([], as_of="tomorrow")
    with pytest.raises(ClassifierError, match="policy"):
        replay([], register="register.csv")
