"""The page for a subscriber: one page, nothing of anybody else, and where it stays silent."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from event_files import RULES, last_of_flows, pcap_events, save
from fake_engine import SECOND, T0, Row
from test_pipeline import NEW, WITH_LOCAL, entry, register, run

from classifier import cli
from classifier.explain import Wanted, letter_for
from classifier.policy import Policy
from classifier.register import Register

ZONE = Policy.load(RULES / "policy.toml").time_zone


def page(path: Path, address: str, events: list[dict[str, Any]]) -> str | None:
    return letter_for(save(path, events), Wanted(address=ip_network(address)), ZONE)


def made(path: Path, rows: list[Row], address: str = "192.0.2.10", **options: Any) -> str:
    ended = [row.then("ended", 60) for row in rows]
    text = page(path, address, run([rows, ended], policy=WITH_LOCAL, **options))
    assert text is not None
    return text


def test_it_says_what_was_seen_by_which_register_and_how_to_correct_it(tmp_path: Path) -> None:
    text = made(tmp_path / "e", [NEW])
    words = " ".join(text.split())
    for part in (
        "About VPN connections of the address 192.0.2.10",
        "No entry matched; this does not mean that anything unlawful was done.",
        "What was seen (times of Asia/Karachi)",
        "2026-03-01 17:00:00 PKT to 2026-03-01 17:01:00 PKT WireGuard, 1 connection, reference 1",
        "other end: 198.51.100.20:51820",
        "The register of authority, serial 7, of 2026-03-01 17:00:00 PKT.",
        "How to correct it",
        "If you have applied: send us the date of the application.",
        "What saw them only looks on: it blocks nothing.",
    ):
        assert part in words


def test_every_letter_of_all_captures_is_one_page_without_anybody_else(tmp_path: Path) -> None:
    """Whatever is in the events: only the subscriber's address, and addresses that they dialled outside."""
    events = pcap_events()
    path = save(tmp_path / "e", events)
    flows = last_of_flows(events)
    ids = {known.entry_id for known in Register.load(RULES / "register.csv").entries}
    letters = 0
    for subject in sorted({event["policy"]["subject"] for event in flows}):
        text = letter_for(path, Wanted(address=ip_network(subject)), ZONE)
        assert text is not None
        lines = text.splitlines()
        assert len(lines) <= 60
        assert max(map(len, lines)) <= 80
        assert text.isascii()
        letters += "How to correct it" in text
        dialled = {
            event["dest_ip"]
            for event in flows
            if event["policy"]["subject"] == subject
            and event["policy"]["direction"] == "outbound"
            and event["policy"]["action"] == "flag"
        }
        for event in flows:
            for address in (event["src_ip"], event["dest_ip"]):
                if address not in dialled and address != subject:
                    assert not re.search(rf"(?<![\w.:]){re.escape(address)}(?![\w.])", text), subject
            assert event["policy"]["case_id"] not in text
        assert not any(name in text for name in ids)
    assert letters > 5


def test_who_dialled_the_subscriber_is_not_named(tmp_path: Path) -> None:
    inbound = replace(NEW, source_ip="203.0.113.9", destination_ip="192.0.2.10")
    text = made(tmp_path / "e", [inbound])
    assert "203.0.113.9" not in text
    assert "other end: an address that is not named here" in text


def test_another_subscriber_is_not_named(tmp_path: Path) -> None:
    internal = replace(NEW, destination_ip="192.0.2.77")
    text = made(tmp_path / "e", [internal])
    assert "192.0.2.77" not in text


def test_of_an_entry_that_has_ended_nothing_is_told(tmp_path: Path) -> None:
    """It may be the former holder's."""
    text = made(tmp_path / "e", [NEW], with_register=register(entry(until_s=-60)))
    assert "R-1" not in text
    assert "ended" not in text
    assert "No entry in force matched" in text


def test_flows_in_which_the_address_is_the_other_end_of_somebody_elses_case_are_left_out(
    tmp_path: Path,
) -> None:
    events = run([[NEW]], policy=WITH_LOCAL)
    assert page(tmp_path / "e", "198.51.100.20", events) is None


def test_who_was_not_flagged_is_asked_nothing(tmp_path: Path) -> None:
    text = made(tmp_path / "e", [NEW], with_register=register(entry()))
    assert " ".join(text.split()).endswith("nothing is asked of you. You need not do anything.")
    assert "How to correct it" not in text


def test_of_an_address_that_many_share_nothing_is_told(tmp_path: Path) -> None:
    shared = replace(WITH_LOCAL, shared=WITH_LOCAL.local)
    text = page(tmp_path / "e", "192.0.2.10", run([[NEW]], policy=shared))
    assert text is not None
    assert "Many subscribers share this address" in text
    assert not re.search(r"1 VPN|WireGuard|198\.51", text)


def test_the_operators_exceptions_are_no_issuer(tmp_path: Path) -> None:
    known = replace(register(), source="authority+operator")
    assert "The register of authority, serial" in made(tmp_path / "e", [NEW], with_register=known)


def test_many_connections_stay_on_one_page(tmp_path: Path) -> None:
    rows = [
        replace(
            NEW,
            flow_id=number,
            destination_ip=f"203.0.113.{number}",
            time_ns=T0 + number * SECOND,
            start_ns=T0 + number * SECOND,
        )
        for number in range(1, 60)
    ]
    lines = made(tmp_path / "e", rows).splitlines()
    assert len(lines) <= 60
    assert "  and connections to 51 more" in lines


def test_the_addresses_of_one_ipv6_line_are_one_subscriber(tmp_path: Path) -> None:
    rows = [
        replace(NEW, flow_id=number, source_ip=f"2001:db8:1:1::{number}", destination_ip="2001:db9::1")
        for number in (1, 2)
    ]
    path = save(tmp_path / "e", run([rows], policy=replace(WITH_LOCAL, local=())))
    text = letter_for(path, Wanted(address=ip_network("2001:db8:1:1::1")), ZONE)
    assert text is not None
    assert "WireGuard, 2 connections" in text


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["explain", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "e", pcap_events())
    options = [path, "--address", "198.51.100.23", "--letter"]
    assert command(*options, "--policy", str(RULES / "policy.toml")) == 0
    told = capfd.readouterr()
    assert "PKT" in told.out
    assert "whoever had the address then" in told.err
    assert command(*options, "--between", "2026-11-21", "2026-11-22") == 0  # the last day is included
    assert capfd.readouterr().err == ""
    assert command(*options, "--between", "2026-11-20", "2026-11-21") == 1
    assert command(*options) == 0
    assert "times of UTC" in capfd.readouterr().out
    assert command(*options, "--between", "2026-01-01", "2026-01-02") == 1
    assert "no flow fits" in capfd.readouterr().err
    assert command(path, "--letter") == 2
    assert command(path, "--letter", "--address", "198.51.100.0/24") == 2
    assert command(path, "--between", "2026-01-03", "2026-01-02") == 2
    assert "is later than" in " ".join(capfd.readouterr().err.split())
