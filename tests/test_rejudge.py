"""Stored events judged again: which event counts, by what time, and within what memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from event_files import RULES, last_of_flows, pcap_events, save
from fake_engine import SECOND, T0
from test_pipeline import DAY, NEW, WITH_LOCAL, entry, register, run

from classifier.errors import ClassifierError
from classifier.event_file import EventFileError, EventFiles
from classifier.rejudge import Flows, Rejudge, Told, differs, facts_of, judged, seen_at


def told(path: str, **options: Any) -> list[Told]:
    return list(Flows(EventFiles([path]), **options))


def test_each_flow_is_given_once_with_what_its_last_event_says(tmp_path: Path) -> None:
    events = pcap_events()
    found = told(save(tmp_path / "e", events))
    expected = {(event["pcap_filename"], event["flow_id"]): event for event in last_of_flows(events)}
    assert len(found) == len(expected) > 80
    for flow in found:
        event = expected[flow.capture, flow.flow_id]
        assert flow.timestamp == event["timestamp"]
        assert flow.judged["verdict"] == event["policy"]["verdict"]
        assert flow.facts.packets_to_server == event["flow"]["pkts_toserver"]


@pytest.mark.parametrize("as_of", [None, "2026-12-20", "2026-10-01"])
def test_the_same_register_and_policy_say_the_same_of_every_event(tmp_path: Path, as_of: str | None) -> None:
    against = Rejudge.load(str(RULES), None, None)
    found = told(save(tmp_path / "e", pcap_events(as_of)), against=against)
    verdicts = set()
    for flow in found:
        now = judged(against.judge(flow), flow.facts)
        assert not differs(flow.judged, now)
        assert now == flow.judged
        verdicts.add(now["verdict"])
    assert len(verdicts) >= 5, "too few to show anything"


def test_an_ended_flow_is_judged_by_its_last_packet(tmp_path: Path) -> None:
    rows = [NEW, NEW.then("ended", 3_600, end_ns=T0 + 5 * SECOND)]
    (flow,) = told(save(tmp_path / "e", run([rows])))
    assert flow.at_ns == T0 + 5 * SECOND
    rows = [NEW, NEW.then("update", 1_800)]
    (flow,) = told(save(tmp_path / "e", run([rows])))
    assert flow.at_ns == T0 + 1_800 * SECOND


def test_a_flow_that_runs_and_has_long_been_silent_is_not_flagged_for_a_date_since(tmp_path: Path) -> None:
    """As in the pipeline: it may be over, and what was never sent is not flagged."""
    silent = NEW.then("update", 1_800, end_ns=T0 + SECOND)
    talking = NEW.then("update", 1_800, end_ns=T0 + 1_790 * SECOND)
    until = register(entry(until_s=900))
    for row, verdict in ((silent, "registered"), (talking, "expired")):
        events = run([[NEW, row]], with_register=until, policy=WITH_LOCAL)
        (flow,) = told(save(tmp_path / "e", events))
        assert Rejudge(until, WITH_LOCAL).judge(flow).verdict == verdict
        assert flow.judged["verdict"] == verdict


def test_flows_that_run_are_held_up_to_a_limit_and_the_longest_silent_is_given(tmp_path: Path) -> None:
    new = [replace(NEW, flow_id=number) for number in (1, 2, 3)]
    rows = [new[0], new[1], new[0].then("update", 1_800), new[2]]
    flows = Flows(EventFiles([save(tmp_path / "e", run([rows]))]), limit=2)
    assert [flow.flow_id for flow in flows] == [2, 1, 3]
    assert flows.early == 1


def test_as_if_it_came_again_keeps_its_length(tmp_path: Path) -> None:
    (flow,) = told(save(tmp_path / "e", run([[NEW]])))
    later = seen_at(flow.facts, T0 + DAY * SECOND)
    assert (later.start_ns, later.end_ns) == (T0 + (DAY - 1) * SECOND, T0 + DAY * SECOND)
    against = Rejudge(register(entry(until_s=DAY // 2)), WITH_LOCAL)
    assert against.judge(flow).verdict == "registered"
    assert against.judge(flow, T0 + DAY * SECOND).verdict == "expired"


@pytest.mark.parametrize("keep", ["flagged", None])
def test_files_without_flows_that_pass_are_refused_where_they_are_needed(
    tmp_path: Path, keep: str | None
) -> None:
    events = run([[NEW]])
    if keep is None:
        del events[0]
    else:
        events[0]["stats"]["keep"] = keep
    path = save(tmp_path / "e", events)
    flows = Flows(EventFiles([path]))
    assert len(list(flows)) == 1
    assert not flows.kept_all
    with pytest.raises(ClassifierError, match="flows that pass were left out; a plan"):
        told(path, all_needed="a plan would miss some")


def test_corrections_are_not_taken_for_events(tmp_path: Path) -> None:
    events = run([[NEW]])
    events[0]["stats"]["keep"] = "corrections"
    with pytest.raises(ClassifierError, match="holds corrections"):
        told(save(tmp_path / "e", events))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("flow", "start"), "yesterday", "line 2: flow.start: expected text like"),
        (("flow", "pkts_toserver"), "ten", "line 2: flow.pkts_toserver: expected integer"),
        (("vpn", "protocol"), "telepathy", "line 2: vpn.protocol: expected one of"),
        (("policy", "verdict"), "guilty", "line 2: policy.verdict: expected one of"),
        (("src_ip",), "nowhere", "line 2: a field that cannot be used: text that is no address"),
        (("src_ip",), 7, "line 2: src_ip: expected string"),
        (("policy",), None, "line 2: policy: expected object"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    tmp_path: Path, place: tuple[str, ...], value: object, message: str
) -> None:
    events = run([[NEW]])
    inner = events[1]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(EventFileError) as caught:
        told(save(tmp_path / "e", events))
    assert str(caught.value).removeprefix(f"{tmp_path / 'e'}, ").startswith(message)


def test_facts_of_an_event_are_those_that_the_pipeline_judged() -> None:
    (event,) = [event for event in run([[NEW]]) if event["event_type"] == "vpn"]
    facts = facts_of(event)
    for name in ("protocol", "variant", "confidence", "phase", "transport", "source", "destination"):
        assert getattr(facts, name) == getattr(NEW, name)
    for name in ("source_port", "destination_port", "packets_to_server", "packets_to_client"):
        assert getattr(facts, name) == getattr(NEW, name)
    assert (facts.start_ns, facts.end_ns) == (NEW.start_ns, NEW.end_ns)


def test_a_policy_that_nobody_named_must_be_the_one_that_judged(tmp_path: Path) -> None:
    for name in ("register.csv", "register.toml", "policy.toml"):
        (tmp_path / name).write_bytes((RULES / name).read_bytes())
    path = save(tmp_path / "e", pcap_events())
    against = Rejudge.load(None, str(tmp_path / "register.csv"), None)
    for flow in told(path):
        against.accept(flow)
    text = (tmp_path / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(text.replace("min_packets = 10", "min_packets = 11"))
    against = Rejudge.load(None, str(tmp_path / "register.csv"), None)
    with pytest.raises(ClassifierError, match="not the policy that judged these events"):
        against.accept(told(path)[0])
    (tmp_path / "policy.toml").unlink()
    with pytest.raises(ClassifierError, match="needs a policy"):
        Rejudge.load(None, str(tmp_path / "register.csv"), None)
