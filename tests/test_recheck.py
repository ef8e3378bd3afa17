"""Corrections: what a changed register or policy withdraws and adds, against events of real captures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from event_files import RULES, last_of_flows, pcap_events, save
from fake_engine import SECOND, T0
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pipeline import DAY, NEW, POLICY, entry, register, run

from classifier import cli, events
from classifier.event_file import EventFiles
from classifier.policy import Policy, UnregisteredAfter
from classifier.recheck import Recheck
from classifier.register import Entry, Prefix, Register, Side, Status
from classifier.rejudge import Flows, Rejudge

VALIDATOR = jsonschema.Draft202012Validator(events.schema())


def recheck(path: str, against: Rejudge, **options: Any) -> list[dict[str, Any]]:
    """All events of a recheck, each checked against the schema."""
    found = []
    for event in Recheck(Flows(EventFiles([path]), against), against, **options).events():
        found.append(json.loads(json.dumps(event)))
        VALIDATOR.validate(found[-1])
    assert [found[0]["event"], found[-1]["event"]] == ["started", "ended"]
    assert all(event["event_type"] == "correction" for event in found[1:-1])
    return found


def corrections(found: list[dict[str, Any]], scope: str) -> list[dict[str, Any]]:
    return [event for event in found[1:-1] if event["correction"]["scope"] == scope]


def rules(change: Callable[[Entry], Entry | None] = lambda entry: entry) -> Rejudge:
    """The register and policy of rules/, with entries changed or left out."""
    known = Register.load(RULES / "register.csv")
    changed = Register.build(
        filter(None, map(change, known.entries)),
        source=known.source,
        serial=known.serial + 1,
        issued_at_ns=known.issued_at_ns,
        next_update_ns=known.next_update_ns,
        first_record_ns=known.first_record_ns,
        sha256="0" * 64,
    )
    return Rejudge(changed, Policy.load(RULES / "policy.toml"))


@pytest.mark.parametrize("as_of", [None, "2026-12-20"])
def test_the_same_register_and_policy_correct_nothing_in_any_capture(
    tmp_path: Path, as_of: str | None
) -> None:
    found = recheck(save(tmp_path / "e", pcap_events(as_of)), Rejudge.load(str(RULES), None, None))
    assert len(found) == 2
    assert found[0]["stats"]["keep"] == "corrections"
    assert found[1]["stats"]["counters"]["corrections.flows"] == len(last_of_flows(pcap_events(as_of)))


def test_an_approval_that_came_late_withdraws_the_flag_of_its_case(tmp_path: Path) -> None:
    """198.51.100.23 was flagged; the register that comes next has it, approved since a week before."""
    approved = (
        Register.load(RULES / "register.csv")
        .entries[0]
        ._replace(
            entry_id="R-2026-00999",
            prefix=Prefix.parse("198.51.100.23/32"),
            side=Side.SUBSCRIBER,
            protocols=(),
        )
    )
    against = rules()
    against = replace(
        against, register=replace_entries(against.register, (*against.register.entries, approved))
    )
    events_ = pcap_events()
    found = recheck(save(tmp_path / "e", events_), against)
    flagged = [
        event
        for event in last_of_flows(events_)
        if event["policy"]["subject"] == "198.51.100.23" and event["policy"]["action"] == "flag"
    ]
    assert flagged
    flows, cases = corrections(found, "flow"), corrections(found, "case")
    withdrawn = [event for event in flows if event["correction"]["was"]["action"] == "flag"]
    assert {event["flow_id"] for event in withdrawn} == {event["flow_id"] for event in flagged}
    assert {event["correction"]["case_id"] for event in cases} == {
        event["policy"]["case_id"] for event in flagged
    }
    for event in withdrawn:
        correction = event["correction"]
        assert (correction["now"]["verdict"], correction["now"]["action"]) == ("registered", "pass")
        assert correction["entries"][0]["entry_id"] == "R-2026-00999"
        assert (correction["was"]["register_serial"], correction["now"]["register_serial"]) == (47, 48)
        assert (
            "Before, by register serial 47, it was unregistered (flag, rule no-entry)." in correction["why"]
        )


def replace_entries(known: Register, entries: tuple[Entry, ...]) -> Register:
    return Register.build(
        entries,
        source=known.source,
        serial=known.serial,
        issued_at_ns=known.issued_at_ns,
        next_update_ns=known.next_update_ns,
        first_record_ns=known.first_record_ns,
        sha256="0" * 64,
    )


def test_a_revocation_flags_what_passed(tmp_path: Path) -> None:
    def revoked(entry: Entry) -> Entry:
        if entry.entry_id != "R-2026-00118":
            return entry
        return entry._replace(status=Status.REVOKED, status_since_ns=entry.valid_from_ns)

    found = recheck(save(tmp_path / "e", pcap_events()), rules(revoked))
    flows = corrections(found, "flow")
    assert flows
    assert {event["correction"]["was"]["verdict"] for event in flows} == {"registered"}
    flagged = [event for event in flows if event["correction"]["now"]["action"] == "flag"]
    cases = corrections(found, "case")
    assert {event["correction"]["now"]["case_id"] for event in flagged} == {
        event["correction"]["case_id"] for event in cases
    }
    assert {event["correction"]["now"]["verdict"] for event in cases} == {"revoked"}
    counters = found[-1]["stats"]["counters"]
    assert counters["corrections.flags_new"] == len(flagged)
    assert counters["corrections.cases_flagged"] == len(cases) > 0
    assert counters["corrections.flags_withdrawn"] == counters["corrections.cases_withdrawn"] == 0


def test_a_case_is_withdrawn_only_when_none_of_its_flows_is_flagged_any_more(tmp_path: Path) -> None:
    rows = [NEW, replace(NEW, flow_id=2, time_ns=NEW.time_ns + 1)]
    later = [row.then("ended", end_ns=row.end_ns) for row in rows]
    path = save(tmp_path / "e", run([rows, later]))
    # Long flows only: neither flow is flagged by it, then one of them.
    quiet = replace(POLICY, rules=(replace(POLICY.rules[0], min_packets=100), *POLICY.rules[1:]))
    found = recheck(path, Rejudge(register(), quiet))
    assert len(corrections(found, "flow")) == 2
    (case,) = corrections(found, "case")
    assert case["correction"]["flows"] == 2
    assert "and another policy" not in case["correction"]["why"]  # the hash is the same in this test
    long = [rows[0], replace(rows[1], packets_to_server=200)]
    path = save(tmp_path / "e", run([long, [row.then("ended", end_ns=row.end_ns) for row in long]]))
    found = recheck(path, Rejudge(register(), quiet))
    assert len(corrections(found, "flow")) == 1
    assert corrections(found, "case") == []


def test_cases_beyond_the_limit_are_counted_and_their_flows_corrected(tmp_path: Path) -> None:
    rows = [replace(NEW, flow_id=number, destination_ip=f"203.0.113.{number}") for number in range(1, 6)]
    path = save(tmp_path / "e", run([rows]))
    found = recheck(path, Rejudge(register(entry()), POLICY), cases=2)
    assert len(corrections(found, "flow")) == 5
    assert len(corrections(found, "case")) == 2
    assert found[-1]["stats"]["counters"]["corrections.flows_of_cases_not_followed"] == 3


@settings(max_examples=100)
@given(st.data())
def test_it_says_what_a_replay_against_the_new_register_would_have_said(data: st.DataObject) -> None:
    """An oracle: replay with one register and recheck with another, or replay with the other at once."""
    addresses = ["192.0.2.10", "198.51.100.20", "203.0.113.9"]
    starts = [data.draw(st.integers(0, 9)) for _ in range(data.draw(st.integers(1, 5)))]
    rows = [
        replace(
            NEW,
            flow_id=number,
            time_ns=T0 + start * SECOND,
            start_ns=T0 + start * SECOND,
            end_ns=T0 + start * SECOND,
            source_ip=data.draw(st.sampled_from(addresses)),
            destination_ip=data.draw(st.sampled_from(addresses)),
            packets_to_server=data.draw(st.sampled_from([1, 50])),
            confidence=data.draw(st.sampled_from(["likely", "confirmed"])),
        )
        for number, start in enumerate(sorted(starts), 1)
    ]
    ends = [row.then("ended", data.draw(st.integers(10, 30))) for row in rows]
    batches = [rows, sorted(ends, key=lambda row: row.time_ns)]
    policy = replace(POLICY, unregistered_after=data.draw(st.sampled_from(UnregisteredAfter)))

    def drawn() -> Register:
        entries = [
            entry(address, data.draw(st.sampled_from([None, -5, 5, 100])))
            for address in addresses
            if data.draw(st.booleans())
        ]
        return Register.build(
            entries,
            source="authority",
            serial=7,
            issued_at_ns=T0 + data.draw(st.integers(-1, 10)) * SECOND,
            next_update_ns=T0 + 365 * DAY * SECOND,
            first_record_ns=0,
            sha256="0" * 64,
        )

    old, new = drawn(), drawn()
    before = last_of_flows(run(batches, with_register=old, policy=policy))
    later = last_of_flows(run(batches, with_register=new, policy=policy))
    after = {event["flow_id"]: event["policy"] for event in later}
    expected = {
        event["flow_id"]: after[event["flow_id"]]["verdict"]
        for event in before
        if (event["policy"]["verdict"], event["policy"]["action"])
        != (after[event["flow_id"]]["verdict"], after[event["flow_id"]]["action"])
    }
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder, "e"), run(batches, with_register=old, policy=policy))
        found = corrections(recheck(path, Rejudge(new, policy)), "flow")
    assert {event["flow_id"]: event["correction"]["now"]["verdict"] for event in found} == expected


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["recheck", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_writes_a_file_and_a_summary(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "e.jsonl", pcap_events())
    output = tmp_path / "c.jsonl"
    assert command(path, "--rules", str(RULES), "-o", str(output)) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "flows judged again by register serial 47: 0 change; flags withdrawn 0, new 0" in err
    assert len(output.read_text().splitlines()) == 2
    assert command(path, "--rules", str(RULES)) == 0
    assert capfd.readouterr().out == output.read_text()


def test_the_command_does_not_write_over_what_it_reads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "e.jsonl", run([[NEW]]))
    before = Path(path).read_bytes()
    assert command(path, "--rules", str(RULES), "-o", path) == 2
    assert Path(path).read_bytes() == before
    assert "is one of the event files to be read" in capfd.readouterr().err


def test_the_command_asks_for_a_register(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("e.jsonl") == 2
    assert "--register PATH, or --rules DIR" in capfd.readouterr().err
