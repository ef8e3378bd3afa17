"""What is said to change a verdict does change it: each remedy is applied and the flow judged again."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from event_files import RULES, last_of_flows, pcap_events, save

from classifier.event_file import EventFiles
from classifier.events import VpnEvent, parse_time
from classifier.lookup import look_up
from classifier.policy import Policy
from classifier.register import Category, Endpoint, Entry, Kind, Prefix, Protocol, Register, Side, Status
from classifier.rejudge import Flows, Rejudge, Told, packed
from classifier.remedy import what_would_change

AT = "2026-11-22T06:00:00.000000000Z"
GOOD = {
    *("registered", "licensed_provider", "carrier_service", "operator_infrastructure", "excepted"),
    "ip_whitelisted",
}


def words(event: dict[str, Any]) -> list[str]:
    return list(what_would_change(cast(VpnEvent, event)))


def entry(prefix: str, **fields: Any) -> Entry:
    filed: dict[str, Any] = {
        "entry_id": "N-1",
        "kind": Kind.VPN_REGISTRATION,
        "category": Category.OTHER,
        "prefix": Prefix.parse(prefix),
        "side": Side.EITHER,
        "endpoints": (),
        "protocols": (),
        "valid_from_ns": 0,
        "valid_until_ns": None,
        "status": Status.APPROVED,
        "status_since_ns": 0,
    }
    return Entry(**(filed | fields))


def with_entries(entries: tuple[Entry, ...]) -> Rejudge:
    known = Register.load(RULES / "register.csv")
    register = Register.build(
        entries,
        source="regulator",
        serial=48,
        issued_at_ns=known.issued_at_ns,
        next_update_ns=known.next_update_ns,
        first_record_ns=known.first_record_ns,
    )
    return Rejudge(register, Policy.load(RULES / "policy.toml"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], Told]]:
    events = pcap_events()
    path = save(tmp_path_factory.mktemp("events") / "e", events)
    told = {(flow.capture, flow.flow_id): flow for flow in Flows(EventFiles([path]))}
    return [(event, told[event["pcap_filename"], event["flow_id"]]) for event in last_of_flows(events)]


def test_the_entry_that_is_proposed_for_the_subject_makes_the_flow_pass(
    judged: list[tuple[dict[str, Any], Told]],
) -> None:
    """The sentence is read, an entry is made of it to the letter, and nothing else is in the register."""
    tried = 0
    for event, flow in judged:
        for text in words(event):
            found = re.search(
                r"subject: a prefix that holds (\S+), (side subscriber or not filed, )?protocols with "
                r"(\w+) or none filed, endpoints with (\S+) or none filed",
                text,
            )
            if found is None:
                continue
            address, side, protocol, remote = found.groups()
            proposed = entry(
                address,
                side=Side.SUBSCRIBER if side else Side.EITHER,
                protocols=(Protocol(protocol),),
                endpoints=(Endpoint.parse(remote),),
            )
            assert with_entries((proposed,)).judge(flow).verdict == "registered", event
            tried += 1
    assert tried > 20


def test_the_entry_that_is_proposed_for_the_other_end_makes_the_flow_pass(
    judged: list[tuple[dict[str, Any], Told]],
) -> None:
    tried = 0
    for event, flow in judged:
        for text in words(event):
            found = re.search(
                r"the other end: .* whose prefix holds (\S+), (side endpoint or not filed, )?protocols", text
            )
            if found is None:
                continue
            proposed = entry(
                found[1],
                kind=Kind.LICENSED_PROVIDER,
                side=Side.ENDPOINT if found[2] else Side.EITHER,
                protocols=(Protocol(event["vpn"]["protocol"]),),
            )
            assert with_entries((proposed,)).judge(flow).verdict == "licensed_provider", event
            tried += 1
    assert tried > 20


def remedied(known: Entry, flow: Told, verdict: str) -> Entry:
    """What a sentence about an entry asks for."""
    match verdict:
        case "pending":
            return known._replace(status=Status.APPROVED, status_since_ns=0, valid_from_ns=0)
        case "expired" | "expired_in_grace":
            return known._replace(valid_until_ns=flow.at_ns + 1)
        case "suspended" | "revoked":
            return known._replace(status=Status.APPROVED)
        case "unregistered":  # it was rejected
            return known._replace(status=Status.APPROVED, status_since_ns=0)
        case "protocol_mismatch":
            return known._replace(protocols=(*known.protocols, Protocol(flow.facts.protocol)))
        case _:
            return known._replace(endpoints=(), side=Side.EITHER)


def test_the_change_that_is_proposed_for_an_entry_makes_the_flow_pass(
    judged: list[tuple[dict[str, Any], Told]],
) -> None:
    entries = Register.load(RULES / "register.csv").entries
    tried = set()
    for event, flow in judged:
        verdict = event["policy"]["verdict"]
        named = re.match(r"entr(?:y|ies) ([\w-]+(?:, [\w-]+)*)", words(event)[0])
        if named is None or verdict in GOOD:
            continue
        ids = set(named[1].split(", "))
        changed = tuple(
            remedied(known, flow, verdict) if known.entry_id in ids else known for known in entries
        )
        now = with_entries(changed).judge(flow).verdict
        # A second condition of the same entry may come to light: the sentence then is about that one.
        assert now in GOOD or (now != verdict and now.endswith("mismatch")), event
        tried.add(verdict)
    assert tried >= {"expired", "suspended", "revoked", "pending", "protocol_mismatch", "endpoint_mismatch"}


def test_what_passes_needs_nothing(judged: list[tuple[dict[str, Any], Told]]) -> None:
    passing = [event for event, _ in judged if event["policy"]["action"] == "pass"]
    assert passing
    for event in passing:
        ids = event["policy"]["entries"][0]["entry_id"]
        assert words(event) == [f"Nothing needs to: it passes, by entry {ids}."]


def test_the_question_that_is_proposed_is_answered_with_the_same_verdict(
    judged: list[tuple[dict[str, Any], Told]],
) -> None:
    register, policy = Register.load(RULES / "register.csv"), Policy.load(RULES / "policy.toml")
    tried = 0
    for event, _ in judged:
        found = re.search(r"register lookup (\S+) --remote (\S+) --at (\S+) ", words(event)[-1])
        if found is None or event["policy"]["direction"] not in ("outbound", "inbound"):
            continue
        subject, remote, at = found.groups()
        answer = look_up(packed(subject), register, policy, parse_time(at), Endpoint.parse(remote))
        assert event["policy"]["verdict"] in {
            flow.judgement.verdict
            for flow in answer.flows
            if flow.protocol == event["vpn"]["protocol"] and flow.remote.endswith(", as asked")
        }, event
        tried += 1
    assert tried > 20


def changed(event: dict[str, Any], **policy: Any) -> dict[str, Any]:
    return event | {"policy": event["policy"] | {"action": "observe", "entries": []} | policy}


def test_verdicts_that_no_entry_changes(judged: list[tuple[dict[str, Any], Told]]) -> None:
    event = judged[0][0]
    assert "networks.local" in words(changed(event, verdict="out_of_scope"))[0]
    assert words(changed(event, verdict="not_evaluated"))[0].startswith("A register and a policy to ask")
    current = words(changed(event, verdict="indeterminate"))[0]
    assert current.startswith("A register that is current at ")
    assert event["flow"]["start"] in current
