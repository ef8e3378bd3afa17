"""What another register or policy would change, counted and named before anyone is flagged."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from event_files import RULES, pcap_events, save
from fake_engine import SECOND, T0, Row
from test_pipeline import DAY, NEW, POLICY, WITH_LOCAL, entry, register, run

from classifier import cli
from classifier.event_file import EventFiles
from classifier.judgement import Action
from classifier.plan import NEEDS_ALL, Plan
from classifier.policy import Policy, Rule
from classifier.register import Entry, Kind, Register
from classifier.rejudge import Flows, Rejudge
from classifier.standing import Verdict

HASH = "1" * 64


def issued(*entries: Entry, at_s: int = 3_600) -> Register:
    """Another register than the one that judged, issued so long after T0."""
    return Register.build(
        entries,
        source="authority",
        serial=8,
        issued_at_ns=T0 + at_s * SECOND,
        next_update_ns=T0 + 365 * DAY * SECOND,
        first_record_ns=0,
        sha256=HASH,
    )


def ended(rows: list[Row]) -> list[list[Row]]:
    return [rows, [row.then("ended", 60) for row in rows]]


def plan(
    path: Path,
    rows: list[Row],
    old: Register,
    new: Register,
    policy: Policy = WITH_LOCAL,
    as_of_ns: int | None = None,
) -> Plan:
    events = run(ended(rows), with_register=old, policy=WITH_LOCAL)
    against = Rejudge(new, policy)
    made = Plan(Flows(EventFiles([save(path, events)]), against, all_needed=NEEDS_ALL), against, as_of_ns)
    made.run()
    return made


def changes(made: Plan) -> list[tuple[str, ...]]:
    return [(change.was, change.now, change.reason) for change in made.changes]


FLOWS = [replace(NEW, flow_id=number, source_port=4_000 + number) for number in (1, 2)]


def test_what_is_gone_is_flagged_and_named_first(tmp_path: Path) -> None:
    made = plan(tmp_path / "e", FLOWS, register(entry(until_s=None)), issued())
    assert changes(made) == [("registered", "unregistered", "entry gone")]
    assert made.newly_flagged.item() == {"flows": 2, "cases": 1, "entries": 1}
    (case,) = made.flagged.values()
    assert (case.entry_id, case.flow_id, case.flows) == ("R-1", 1, 2)
    lines = list(made.lines(20))
    assert "Newly flagged: 2 flows, 1 case, 1 entry" in lines
    assert lines.index("Newly flagged: 2 flows, 1 case, 1 entry") < lines.index(
        "No longer flagged: 0 flows, 0 cases, 0 entries"
    )


def test_what_is_added_is_no_longer_flagged(tmp_path: Path) -> None:
    made = plan(tmp_path / "e", FLOWS, register(), issued(entry(until_s=None)))
    assert changes(made) == [("unregistered", "registered", "entry added")]
    assert made.no_longer_flagged.item() == {"flows": 2, "cases": 1, "entries": 1}
    assert made.newly_flagged.flows == 0
    (change,) = made.changes
    assert (change.kind, change.category) == ("vpn_registration", "bank")


def test_what_a_complete_feed_lacks_goes_to_grace_and_is_flagged_after_it(tmp_path: Path) -> None:
    """By the flow's own time nothing would change: the entry is missing only from the new issue on."""
    missing = entry(until_s=None)._replace(missing_since_ns=T0 + 3_600 * SECOND)
    policy = replace(WITH_LOCAL, grace_ns=DAY * SECOND)
    made = plan(tmp_path / "e", FLOWS, register(entry(until_s=None)), issued(missing), policy)
    assert changes(made) == [("registered", "expired_in_grace", "entry missing from the feed")]
    assert made.newly_flagged.flows == 0
    assert made.after_grace.item() == {"flows": 2, "cases": 1, "entries": 1}
    assert "Flagged when the grace of what is missing is over: 2 flows, 1 case, 1 entry" in list(
        made.lines(20)
    )


def test_who_dials_a_server_that_the_feed_lacks_is_told_of_its_grace_too(tmp_path: Path) -> None:
    """The verdict is `unregistered` at once; a rule observes it for as long as the other end is in grace."""
    server = entry("198.51.100.20/32", until_s=None)._replace(kind=Kind.LICENSED_PROVIDER)
    missing = server._replace(missing_since_ns=T0 + 3_600 * SECOND)
    spared = Rule("spared", Action.OBSERVE, other_ends=frozenset({Verdict.EXPIRED_IN_GRACE}))
    policy = replace(WITH_LOCAL, grace_ns=DAY * SECOND, rules=(spared, *WITH_LOCAL.rules))
    made = plan(tmp_path / "e", FLOWS, register(server), issued(missing), policy)
    assert changes(made) == [("licensed_provider", "unregistered", "entry missing from the feed")]
    assert made.newly_flagged.flows == 0
    assert made.after_grace.item() == {"flows": 2, "cases": 1, "entries": 1}


def test_an_end_that_passes_meanwhile_is_told_from_a_change_of_the_entry(tmp_path: Path) -> None:
    same = entry(until_s=1_000)
    made = plan(tmp_path / "e", FLOWS, register(same), issued(same))
    assert changes(made) == [("registered", "expired", "time passed")]
    moved = entry(until_s=-10)
    made = plan(tmp_path / "e", FLOWS, register(same), issued(moved))
    assert changes(made) == [("registered", "expired", "entry changed")]


def test_another_policy_with_the_same_register_keeps_the_time_of_the_flows(tmp_path: Path) -> None:
    same = register(entry(until_s=120))
    stricter = replace(WITH_LOCAL, rules=WITH_LOCAL.rules[:1], sha256="q" * 64)
    made = plan(tmp_path / "e", FLOWS, same, same, stricter)
    assert made.from_ns is None
    assert changes(made) == [], "a good entry passes without a rule, too"
    softer = replace(WITH_LOCAL, rules=(), sha256="q" * 64)
    made = plan(tmp_path / "e", FLOWS, register(), register(), softer)
    assert changes(made) == [("unregistered", "unregistered", "policy")]
    assert made.no_longer_flagged.flows == 2


def test_a_time_can_be_given(tmp_path: Path) -> None:
    same = register(entry(until_s=DAY))
    made = plan(tmp_path / "e", FLOWS, same, same, as_of_ns=T0 + 2 * DAY * SECOND)
    assert changes(made) == [("registered", "expired", "time passed")]


def test_nothing_changes_with_the_same_register_and_policy_in_any_capture(tmp_path: Path) -> None:
    against = Rejudge.load(str(RULES), None, None)
    flows = Flows(EventFiles([save(tmp_path / "e", pcap_events())]), against, all_needed=NEEDS_ALL)
    made = Plan(flows, against)
    made.run()
    assert made.flows > 80
    assert made.changes == {}
    assert list(made.lines(5))[-1] == "No verdict changes."


def test_a_trial_is_said(tmp_path: Path) -> None:
    trial = replace(WITH_LOCAL, enforce_from_ns=None)
    made = plan(tmp_path / "e", FLOWS, register(), register(), trial)
    assert any(line.startswith("The policy is on trial without an end") for line in made.lines(5))
    assert not any("trial" in line for line in plan(tmp_path / "e", FLOWS, register(), register()).lines(5))


def test_policy_of_the_tests_is_not_on_trial() -> None:
    assert POLICY.enforce_from_ns == 0


# ---- the command


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["register", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Path:
    """A store with the register of rules/, its events, and a feed that lacks one entry and revokes one."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "events.jsonl", pcap_events())
    csv, toml = ((RULES / f"register.{ending}").read_text() for ending in ("csv", "toml"))
    (tmp_path / "old.csv").write_text(csv)
    (tmp_path / "old.toml").write_text(toml)
    assert command("import", "old.csv", "--source", "regulator", "--db", "r.db") == 0
    lines = [line for line in csv.splitlines() if not line.startswith("R-2026-00107")]
    revoked = [
        line.replace("approved,2026-01-15", "revoked,2026-01-16") if "R-2026-00118" in line else line
        for line in lines
    ]
    (tmp_path / "new.csv").write_text("\n".join(revoked) + "\n")
    dates = {
        "serial": "48",
        "issued_at": "2026-11-24T09:00:00+05:00",
        "next_update": "2026-12-07T09:00:00+05:00",
    }
    changed = toml
    for key, value in dates.items():
        changed, count = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", changed)
        assert count == 1
    (tmp_path / "new.toml").write_text(changed)
    capfd.readouterr()
    return tmp_path


FEED = ["plan", "new.csv", "--source", "regulator", "--complete", "--db", "r.db"]
WITH = ["--policy", str(RULES / "policy.toml"), "--events", "events.jsonl"]


def test_a_feed_is_tried_and_nothing_is_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (folder / "r.db").read_bytes()
    assert command(*FEED, *WITH) == 0
    out = capfd.readouterr().out
    assert "The import would be refused without --accept-shrink" in out
    assert "registered -> revoked" in out
    assert "entry missing from the feed" in out
    assert "Flagged when the grace of what is missing is over:" not in out, "100.64.0.0/10 is shared"
    assert (folder / "r.db").read_bytes() == before
    assert command(*FEED, *WITH, "--fail-on", "flagged") == 3
    capfd.readouterr()
    assert command(*FEED, *WITH, "--json") == 0
    item: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert item["newly_flagged"]["cases"] == len(item["flagged_cases"]) > 0
    assert {case["entry_id"] for case in item["flagged_cases"]} == {"R-2026-00118"}
    assert (
        sum(change["flows"] for change in item["changes"] if change["now_action"] == "flag")
        == (item["newly_flagged"]["flows"])
    )
    # The same feed without --complete takes nothing away.
    assert command(*[word for word in FEED if word != "--complete"], *WITH, "--json") == 0
    item = json.loads(capfd.readouterr().out)
    assert {change["reason"] for change in item["changes"]} == {"entry changed"}


@pytest.mark.usefixtures("folder")
def test_the_import_does_what_the_plan_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert command(*FEED, *WITH, "--json") == 0
    planned = json.loads(capfd.readouterr().out)
    arguments = ["import", *FEED[1:], "--accept-shrink", "vpn_registration"]
    assert command(*arguments) == 0
    capfd.readouterr()
    assert command("plan", "--register", "r.db", *WITH, "--json") == 0
    done = json.loads(capfd.readouterr().out)
    assert done["changes"] == planned["changes"]
    assert done["flagged_cases"] == planned["flagged_cases"]


@pytest.mark.usefixtures("folder")
def test_a_policy_alone_is_tried_on_the_present_register(capfd: pytest.CaptureFixture[str]) -> None:
    text = (RULES / "policy.toml").read_text()
    Path("new.policy.toml").write_text(text.replace('verdict = "unregistered"', 'verdict = "expired"'))
    arguments = ["--db", "r.db", "--policy", "new.policy.toml", "--events", "events.jsonl", "--json"]
    assert command("plan", *arguments) == 0
    item = json.loads(capfd.readouterr().out)
    assert item["no_longer_flagged"]["flows"] > 0
    assert {(change["was"], change["reason"]) for change in item["changes"]} == {("unregistered", "policy")}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan", "--register", "new.csv"], 2, "--events EVENTS"),
        (["plan", "new.csv", *WITH], 2, "a feed needs --source NAME and --db PATH"),
        (["plan", "--register", "old.csv", "--complete", *WITH], 2, "about a feed, and no FEED"),
        ([*FEED, "--register", "old.csv", *WITH], 2, "a feed or --register, not both"),
        (["plan", "--register", "r.db", "--events", "events.jsonl"], 1, "needs a policy"),
        (["plan", "--register", "r.db", *WITH[:2], "--events", "cut.jsonl"], 1, "a plan would miss those"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    events = pcap_events()
    events[0]["stats"]["keep"] = "flagged"
    save(Path("cut.jsonl"), events)
    assert command(*arguments) == code
    err = " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert message in err
