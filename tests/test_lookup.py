"""The answer for one address: every covering entry, and the verdicts that the policy itself gives."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest
from event_files import RULES
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier import cli
from classifier.events import parse_time
from classifier.lookup import Lookup, look_up
from classifier.policy import Policy
from classifier.register import Endpoint, Protocol, Register
from classifier.register.snapshot import Source

AT = parse_time("2026-11-22T12:00:00Z")
REGISTER = Register.load(RULES / "register.csv")
POLICY = Policy.load(RULES / "policy.toml")


def ask(address: str, at_ns: int = AT, remote: str | None = None) -> Lookup:
    other = None if remote is None else Endpoint.parse(remote)
    return look_up(ip_address(address).packed, REGISTER, POLICY, at_ns, other)


def verdicts(found: Lookup, part: str, remote: str) -> dict[str, tuple[str, str]]:
    return {
        flow.protocol: (str(flow.judgement.verdict), str(flow.judgement.action))
        for flow in found.flows
        if (flow.part, flow.remote) == (part, remote)
    }


def test_an_address_without_an_entry() -> None:
    found = ask("198.51.100.23")
    assert found.entries == ()
    assert set(verdicts(found, "subscriber", "anywhere").values()) == {("unregistered", "flag")}
    assert set(verdicts(found, "endpoint", "anywhere").values()) == {("unregistered", "flag")}
    text = found.text()
    assert "No entry covers it" in text
    assert "Networks of the policy that hold it: local" in text
    assert "240.0.0.1" not in text, "the made-up other end is nobody's business"


def test_an_address_whose_holder_changed_names_both_and_the_new_one_counts() -> None:
    found = ask("198.51.100.12")
    assert [(entry.entry_id, standing) for entry, standing in found.entries] == [
        ("R-2026-00152", "approved"),
        ("R-2025-00871", "revoked"),
    ]
    assert verdicts(found, "subscriber", "anywhere")["openvpn"] == ("endpoint_mismatch", "observe")
    assert verdicts(found, "subscriber", "anywhere")["ipsec"] == ("protocol_mismatch", "observe")
    filed = verdicts(found, "subscriber", "203.0.113.194:1194, as filed")
    assert filed["openvpn"] == ("registered", "pass")


def test_another_end_can_be_asked_for() -> None:
    found = ask("198.51.100.23", remote="203.0.113.50:1194")
    assert verdicts(found, "subscriber", "203.0.113.50:1194, as asked") == {
        "wireguard": ("licensed_provider", "pass"),
        "openvpn": ("licensed_provider", "pass"),
        "ipsec": ("unregistered", "flag"),
    }


def test_an_endpoint_outside_is_dialled_by_a_subscriber_without_an_entry() -> None:
    found = ask("203.0.113.50")
    who = "a subscriber of ours without an entry"
    assert verdicts(found, "endpoint", who)["wireguard"] == ("licensed_provider", "pass")
    assert verdicts(found, "endpoint", who)["ipsec"] == ("unregistered", "flag")
    (ipsec,) = [flow for flow in found.flows if (flow.remote, flow.protocol) == (who, "ipsec")]
    assert ipsec.why == "No registration matched that subscriber."


def test_the_issues_of_the_feeds_in_a_store_are_named() -> None:
    sources = (
        Source("licences", 3, AT - 10**9, AT, "", AT),
        Source("operator", 9, AT, None, "", AT),
        Source("regulator", 51, AT - 2 * 10**9, AT, "", AT),
    )
    store = Register.merge(REGISTER.entries, sources, serial=8, first_record_ns=0, sha256="")
    found = look_up(ip_address("198.51.100.23").packed, store, POLICY, AT)
    assert "    with regulator 51, issued 2026-11-22 11:59:58 UTC\n" in found.text()
    assert [feed["serial"] for feed in found.item()["register"]["feeds"]] == [3, 51]
    assert ask("198.51.100.23").item()["register"]["feeds"] == []


def test_time_decides() -> None:
    before = parse_time("2026-08-19T00:00:00Z")
    assert {entry.entry_id: standing for entry, standing in ask("198.51.100.12", before).entries} == {
        "R-2026-00152": "pending",
        "R-2025-00871": "approved",
    }


@settings(max_examples=200)
@given(st.data())
def test_every_covering_entry_is_named_and_no_other(data: st.DataObject) -> None:
    """Against a plain scan over all rows."""
    entry = data.draw(st.sampled_from(REGISTER.entries))
    size = len(entry.prefix.address)
    spare = size * 8 - entry.prefix.length
    offset = data.draw(st.integers(-2, min(1 << spare, 1 << 20) + 1))
    number = (int.from_bytes(entry.prefix.address, "big") + offset) % (1 << size * 8)
    address = number.to_bytes(size, "big")
    found = look_up(address, REGISTER, POLICY, AT)
    expected = [known for known in REGISTER.entries if known.prefix.holds(address)]
    assert sorted(known for known, _ in found.entries) == sorted(expected)
    lengths = [known.prefix.length for known, _ in found.entries]
    assert lengths == sorted(lengths, reverse=True)
    assert {flow.protocol for flow in found.flows} == {str(protocol) for protocol in Protocol}
    assert {flow.part for flow in found.flows} == {"subscriber", "endpoint"}
    assert max(map(len, found.text().splitlines())) <= 120


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["register", "lookup", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_answers_in_words_and_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--rules", str(RULES), "--at", "2026-11-22T12:00:00Z"]
    assert command("2001:db8:60::1", *options) == 0
    text = capfd.readouterr().out
    assert "2001:db8:60::1 at 2026-11-22 17:00:00 PKT" in text, "in the policy's zone"
    assert "R-2026-00131: vpn_registration, bank, 2001:db8:60::/48" in text
    assert "valid from 2026-03-01, until 2028-02-29" in text
    assert command("2001:db8:60::1", *options, "--json") == 0
    item: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert item["entries"][0]["entry_id"] == "R-2026-00131"
    assert item["register"]["serial"] == 47
    assert {"part", "remote", "protocol", "verdict", "action", "rule", "why", "direction"} == set(
        item["flows"][0]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["198.51.100.300", "--rules", str(RULES)], 2, "expected an IPv4 or IPv6 address"),
        (["198.51.100.3", "--rules", str(RULES), "--remote", "x"], 2, "expected an IPv4 or IPv6 prefix"),
        (["198.51.100.3"], 1, "a register and a policy are needed"),
        (["198.51.100.3", "--rules", str(RULES), "--serial", "3"], 1, "keeps no history"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == code
    assert message in " ".join(capfd.readouterr().err.replace("│", " ").split())
