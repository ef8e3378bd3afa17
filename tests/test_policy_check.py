"""Remarks on policies: each on a policy made for it; reachability against flows that are tried one by one."""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from event_files import RULES
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import DAY, NOW, named

from classifier import cli
from classifier.judgement import Action, Direction
from classifier.policy import Confidence, FlowFacts, Phase, Policy, Rule, UnregisteredAfter
from classifier.policy_check import Remark, remarks
from classifier.register import Kind, Prefix, Protocol, Register
from classifier.standing import Verdict

V, C, P, D = Verdict, Confidence, Phase, Direction
LOCAL = (Prefix.parse("198.51.100.0/24"),)
SHARED = (Prefix.parse("198.51.100.128/25"),)
GOOD = Rule(
    "good",
    Action.PASS,
    verdicts=frozenset(
        {V.REGISTERED, V.LICENSED_PROVIDER, V.CARRIER_SERVICE, V.OPERATOR_INFRASTRUCTURE, V.EXCEPTED}
        | {V.IP_WHITELISTED}
    ),
)
FLAG = Rule(
    "flag",
    Action.FLAG,
    verdicts=frozenset({V.UNREGISTERED}),
    confidences=frozenset({C.CONFIRMED}),
    phases=frozenset({P.ESTABLISHED, P.DATA_ONLY}),
    min_packets=10,
    min_subject_packets=1,
)
REST = Rule("rest", Action.OBSERVE)


def policy(*rules: Rule, **fields: Any) -> Policy:
    set_here: dict[str, Any] = {"enforce_from_ns": NOW - DAY, "local": LOCAL, "shared": SHARED}
    return Policy("hash", rules, **(set_here | fields))


def warnings(made: Policy, register: Register | None = None) -> dict[str, str]:
    """By where they are; several of one place in one text."""
    found: dict[str, str] = {}
    for remark in remarks(made, NOW, register):
        if remark.level == "warning":
            found[remark.where] = f"{found.get(remark.where, '')}{remark.text}\n"
    return found


def test_the_shipped_policy_has_no_warning() -> None:
    made = Policy.load(RULES / "policy.toml")
    register = Register.load(RULES / "register.csv")
    found = remarks(made, register.issued_at_ns, register)
    assert [remark for remark in found if remark.level == "warning"] == []


def test_a_sound_policy_has_none() -> None:
    assert warnings(policy(GOOD, FLAG, REST)) == {}


@pytest.mark.parametrize(
    ("rules", "rule", "text"),
    [
        ((replace(FLAG, rule_id="same"), FLAG), "flag", "is never reached: before it stands same"),
        ((replace(FLAG, rule_id="x", min_packets=5), FLAG), "flag", "before it stands x"),
        # Two rules take all of it between them.
        (
            (
                replace(FLAG, rule_id="a", phases=frozenset({P.ESTABLISHED})),
                replace(FLAG, rule_id="b", phases=frozenset({P.DATA_ONLY})),
                FLAG,
            ),
            "flag",
            "is never reached: before it stands a and b",
        ),
        (
            (
                Rule("a", Action.PASS, kinds=frozenset({Kind.LICENSED_PROVIDER})),
                Rule("b", Action.PASS, verdicts=frozenset({V.LICENSED_PROVIDER})),
            ),
            "b",
            "is never reached: before it stands a",
        ),
        (
            (Rule("a", Action.PASS, prefixes=LOCAL), Rule("b", Action.PASS, prefixes=SHARED)),
            "b",
            "is never reached: before it stands a",
        ),
        (
            (Rule("x", Action.PASS, frozenset({V.UNREGISTERED}), kinds=frozenset({Kind.EXCEPTION})),),
            "x",
            "can never hold: no verdict of its list can rest on an entry of this kind or category",
        ),
        (
            (Rule("x", Action.PASS, frozenset({V.REGISTERED}), kinds=frozenset({Kind.EXCEPTION})),),
            "x",
            "can never hold",
        ),
        ((Rule("x", Action.OBSERVE, frozenset({V.NOT_EVALUATED})),), "x", "without a register no rule"),
        (
            (Rule("x", Action.OBSERVE, directions=frozenset({D.UNKNOWN})),),
            "x",
            "networks.local is set, so the direction is known",
        ),
        (
            (Rule("x", Action.OBSERVE, frozenset({V.EXPIRED}), directions=frozenset({D.TRANSIT})),),
            "x",
            "its verdicts do not occur in its directions",
        ),
        ((replace(FLAG, min_packets=0),), "flag", "one spoofed packet is enough"),
        ((replace(FLAG, min_subject_packets=0),), "flag", "the subject need not have sent anything"),
        ((replace(FLAG, phases=frozenset()),), "flag", "openings that nobody answered"),
        ((replace(FLAG, confidences=frozenset()),), "flag", "not confirmed"),
        (
            (replace(FLAG, verdicts=frozenset({V.PENDING, V.UNREGISTERED})),),
            "flag",
            "flags flows that are pending: before a grace",
        ),
        ((Rule("x", Action.OBSERVE, frozenset({V.REGISTERED})), FLAG), "x", "registered: no pass"),
        ((Rule("x", Action.PASS, frozenset({V.UNREGISTERED})), FLAG), "x", "passes flows that are unreg"),
        ((replace(FLAG, until_ns=NOW),), "flag", "holds no more"),
    ],
)
def test_rules(rules: tuple[Rule, ...], rule: str, text: str) -> None:
    found = [str(remark) for remark in remarks(policy(*rules), NOW)]
    assert any(remark.startswith(f"warning: rule {rule}: ") and text in remark for remark in found), found


def test_rules_that_only_look_like_that_are_left_alone() -> None:
    narrower = replace(FLAG, rule_id="narrow", min_packets=100)
    assert warnings(policy(narrower, FLAG)) == {}
    timed = replace(FLAG, rule_id="timed", from_ns=NOW + DAY)
    assert warnings(policy(timed, FLAG)) == {}
    exempt = Rule("exempt", Action.PASS, frozenset({V.UNREGISTERED}), prefixes=SHARED)
    assert warnings(policy(exempt, FLAG)) == {}
    assert warnings(policy(replace(FLAG, min_subject_packets=0), one_way=True)) == {}


@pytest.mark.parametrize(
    ("fields", "where", "text"),
    [
        ({"enforce_from_ns": None}, "enforce_from", "a trial without end"),
        ({"grace_ns": 0}, "grace", "on the day it ends"),
        ({"local": (Prefix.parse("0.0.0.0/0"),), "shared": ()}, "networks.local", "every address ours"),
        ({"local": (*LOCAL, *SHARED)}, "networks.local", "198.51.100.128/25 lies in 198.51.100.0/24"),
        ({"local": LOCAL * 2, "shared": ()}, "networks.local", "is named twice"),
        ({"shared": LOCAL}, "networks.shared", "nobody there is ever flagged"),
        ({"local": (Prefix.parse("100.64.0.0/12"),), "shared": ()}, "networks.local", "carrier-grade NAT"),
    ],
)
def test_settings(fields: dict[str, Any], where: str, text: str) -> None:
    flag = replace(FLAG, verdicts=frozenset({V.UNREGISTERED, V.EXPIRED}))
    assert text in warnings(policy(flag, **fields))[where]


def test_a_policy_that_flags_nothing() -> None:
    assert warnings(policy(GOOD)) == {"rule": "no rule flags anything\n"}


def test_a_start_that_is_to_come_is_a_note() -> None:
    notes = remarks(policy(FLAG, enforce_from_ns=NOW + DAY), NOW)
    assert [(note.level, note.where) for note in notes] == [
        ("note", "enforce_from"),
        ("note", "unregistered_after"),
    ]
    assert notes[0].text.startswith("is to come: nothing is flagged before 2024-")
    patient = policy(FLAG, unregistered_after=UnregisteredAfter.NEXT_REGISTER)
    assert [note.where for note in remarks(patient, NOW)] == ["enforce_from"]


def registered(*entries: Any, next_update_ns: int = NOW + DAY) -> Register:
    return Register.build(
        entries, source="s", serial=1, issued_at_ns=NOW - DAY, next_update_ns=next_update_ns
    )


def test_a_register_beside_it() -> None:
    infrastructure = named("operator_infrastructure", "198.51.100.0/24")
    found = warnings(policy(FLAG), registered(infrastructure))
    assert "covers 198.51.100.0/24 of subscribers" in found["register s, serial 1"]
    late = registered(named("approved"), next_update_ns=NOW - 30 * DAY)
    assert "was due for renewal" in warnings(policy(FLAG), late)["register s, serial 1"]
    elsewhere = registered(named("approved", "203.0.113.1/32"))
    assert "no approved entry lies in" in warnings(policy(FLAG), elsewhere)["register s, serial 1"]
    banks = Rule("kind", Action.PASS, kinds=frozenset({Kind.EXCEPTION}))
    notes = remarks(policy(banks, FLAG), NOW, registered(named("approved")))
    assert (
        Remark("note", "rule kind", "asks for a kind that no entry of the register has: exception") in notes
    )


CONDITIONS = st.builds(
    Rule,
    rule_id=st.just("x"),
    action=st.sampled_from([Action.PASS, Action.OBSERVE]),
    verdicts=st.frozensets(
        st.sampled_from([V.REGISTERED, V.LICENSED_PROVIDER, V.UNREGISTERED, V.OUT_OF_SCOPE])
    ),
    confidences=st.frozensets(st.sampled_from(list(C)), max_size=2),
    phases=st.frozensets(st.sampled_from(list(P)), max_size=3),
    directions=st.frozensets(st.sampled_from(list(D)), max_size=3),
    protocols=st.frozensets(st.sampled_from(list(Protocol)), max_size=2),
    kinds=st.frozensets(st.sampled_from([Kind.VPN_REGISTRATION, Kind.LICENSED_PROVIDER]), max_size=1),
    min_packets=st.sampled_from([0, 0, 10]),
)


@settings(max_examples=60)
@given(st.lists(CONDITIONS, min_size=1, max_size=4))
def test_a_rule_that_is_said_never_to_decide_never_does(rules: list[Rule]) -> None:
    """Every combination of some flows is judged; what is said to be out of reach must not turn up."""
    numbered = [replace(rule, rule_id=f"r{place}") for place, rule in enumerate(rules)]
    made = policy(*numbered)
    dead = {
        remark.where.removeprefix("rule ")
        for remark in remarks(made, NOW)
        if "never" in remark.text and remark.where.startswith("rule r")
    }
    register = registered(named("vpn_registration"), named("licensed_provider", "203.0.113.10/32"))
    ours, others = ["198.51.100.7", "198.51.100.8", "198.51.100.200"], ["203.0.113.10", "203.0.113.11"]
    reached = set()
    for source, destination in itertools.permutations([*ours, *others, "169.254.0.1"], 2):
        for confidence, phase, protocol, packets in itertools.product(C, P, Protocol, (1, 50)):
            flow = FlowFacts(
                protocol=str(protocol),
                variant="",
                confidence=str(confidence),
                phase=str(phase),
                transport="UDP",
                source=ipaddress.ip_address(source).packed,
                destination=ipaddress.ip_address(destination).packed,
                source_port=1,
                destination_port=1,
                packets_to_server=packets,
                packets_to_client=packets,
                start_ns=NOW - 1,
                end_ns=NOW,
            )
            reached.add(made.judge(flow, register, NOW).rule)
    assert not dead & reached


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["policy", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shipped = RULES / "policy.toml"
    options = ["--register", str(RULES / "register.csv"), "--at", "2026-11-22", "--strict"]
    assert command("check", str(shipped), *options) == 0
    assert capfd.readouterr().out.endswith("5 rules, no fault, 0 warnings\n")
    trial = tmp_path / "trial.toml"
    trial.write_text(shipped.read_text().replace("enforce_from", "# enforce_from"))
    assert command("check", str(trial)) == 0
    assert "warning: enforce_from: is not set" in capfd.readouterr().out
    assert command("check", str(trial), "--strict") == 1
    trial.write_text('grce = "1d"\n')
    assert command("check", str(trial)) == 1
    assert "expected the key 'grace'" in capfd.readouterr().err
