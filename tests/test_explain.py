"""Explanations in words, and event files that cannot be understood."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from fake_engine import SECOND, T0
from test_pipeline import DAY, NEW, WITH_LOCAL, entry, register, run, vpn

from classifier import _core
from classifier.event_file import EventFileError
from classifier.events import rfc3339
from classifier.explain import FLAG, Wanted, explain


def save(path: Path, events: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return str(path)


@pytest.fixture
def known() -> _core.EvidenceKind:
    """A kind of evidence as this version knows it."""
    return _core.EVIDENCE[0]


def text(path: Path, events: list[dict[str, Any]], **wanted: Any) -> str:
    return " ".join("\n".join(explain(save(path, events), Wanted(**wanted))).split())


def test_it_says_what_was_seen_where_and_what_it_amounts_to(
    tmp_path: Path, known: _core.EvidenceKind
) -> None:
    names = ("id", "bits", "packet", "time", "direction", "length", "count")
    evidence = [
        (known.id, 161, 1_234, rfc3339(T0), "to_server", 148, 1),
        ("wireguard.unheard_of", 32, 1_240, rfc3339(T0 + SECOND), "to_client", 92, 5),
    ]
    told = run([[NEW, NEW.then("ended")]])
    for event in vpn(told):
        event["vpn"]["evidence"] = [dict(zip(names, item, strict=True)) for item in evidence]
        event["vpn"]["ruled_out"] = ["dns_query"]
    words = text(tmp_path / "e", told)
    for part in (
        "wireguard (standard), 192.0.2.10:51820 to 198.51.100.20:51820, UDP",
        "in x.pcap, 2026-03-01T12:00:00.000000000Z to",
        "10 packets (1,000 bytes) to the responder, 9 (900 bytes) back; ended: idle timeout",
        f"161 bits {known.id}: {' '.join(known.fact.split())} [{known.source}]",
        "first in packet 1,234 at 2026-03-01T12:00:00.000000000Z, to the responder, 148 bytes",
        "32 bits wireguard.unheard_of: (a fact this version does not know)",
        "to the initiator, 92 bytes, 5 times in all",
        "Together 193 bits against uniformly random payload.",
        "ruled out: dns query",
        "Confidence confirmed: 64 bits and more",
        "Phase established:",
        "Verdict unregistered: No registration matched 192.0.2.10",
        "No entry covers either end.",
        "Register serial 7.",
        "Action flag, by rule unregistered-established:",
        FLAG,
    ):
        assert part in words


def test_a_level_that_bits_alone_do_not_give_is_said(tmp_path: Path) -> None:
    row = replace(NEW, confidence="likely", packets_to_client=0, midflow=True)
    words = text(tmp_path / "e", run([[row]]))
    assert "which alone would be confirmed: for this protocol and phase a number of packets" in words
    assert "Packets of one direction only were seen; the other is unseen by the sensor." in words
    assert "The first packets seen were not the flow's opening." in words


def test_entries_and_changes_of_judgement(tmp_path: Path) -> None:
    rows = [NEW, NEW.then("update", 1_800), NEW.then("update", 2 * DAY), NEW.then("ended", 2 * DAY + 9)]
    events = run([rows], with_register=register(entry("192.0.2.0/24")), policy=WITH_LOCAL)
    words = text(tmp_path / "e", events)
    assert (
        "Entry R-1: vpn_registration, bank, filed as approved, at that time expired; "
        "192.0.2.0/24 covers the source 192.0.2.10"
    ) in words
    assert (
        "At 2026-03-03T12:00:00.000000000Z it changed from registered (pass, rule registered) "
        "to expired (flag, rule unregistered-established)."
    ) in words
    assert "(direction: outbound)" in words


def test_flows_that_pass_are_explained_without_talk_of_flags(tmp_path: Path) -> None:
    words = text(tmp_path / "e", run([[NEW]], with_register=register(entry())))
    assert "Entry R-1: vpn_registration, bank, approved; 192.0.2.10/32 covers the source" in words
    assert "Action pass, by rule registered: nothing is to be done." in words
    assert FLAG not in words


def test_flows_are_chosen_by_id_or_either_address(tmp_path: Path) -> None:
    rows = [
        NEW,
        replace(NEW, flow_id=2, source_ip="2001:db8::1", destination_ip="2001:db8::2"),
        replace(NEW, flow_id=3, destination_ip="203.0.113.3"),
    ]
    path = save(tmp_path / "e", run([rows, [row.then("ended") for row in rows]]))

    def ids(**wanted: Any) -> list[int]:
        found = explain(path, Wanted(**wanted))
        return [int(words.split(":")[0].removeprefix("Flow ")) for words in found if words.startswith("Flow")]

    assert ids() == [1, 2, 3]
    assert ids(flow_id=3) == [3]
    assert ids(address=ip_network("192.0.2.10")) == [1, 3]
    assert ids(address=ip_network("203.0.113.3")) == [3]
    assert ids(address=ip_network("2001:DB8:0::2")) == [2]
    assert ids(address=ip_network("2001:db8::/64")) == [2]
    assert ids(address=ip_network("192.0.2.10"), flow_id=2) == []


GOOD = run([[NEW]])


def broken(line: int, change: str) -> bytes:
    lines = [json.dumps(event).encode() for event in GOOD]
    event = json.loads(lines[line - 1])
    match change:
        case "cut":
            lines[line - 1] = lines[line - 1][:100]
        case "deep":
            lines[line - 1] = b"[" * 100_000
        case "latin":
            lines[line - 1] = b'"\xff"'
        case "type":
            event["vpn"]["evidence"][0]["bits"] = "many"
        case "missing":
            del event["policy"]["verdict"]
        case "list":
            event = []
    if change in ("type", "missing", "list"):
        lines[line - 1] = json.dumps(event).encode()
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cut", "line 2, column 101: not JSON"),
        ("deep", "line 2, column 1"),
        ("latin", "line 2, column 1: not JSON"),
        ("type", "line 2: vpn.evidence[0].bits: expected integer, found string"),
        ("missing", "line 2: policy.verdict: missing"),
        ("list", "line 2: expected an object, found array"),
    ],
)
def test_a_bad_event_file_is_named_with_line_and_field(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(broken(2, change))
    with pytest.raises(EventFileError) as caught:
        list(explain(str(path)))
    assert str(caught.value).startswith(f"{path}, {message}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EventFileError, match="cannot be read: No such file"):
        list(explain(str(tmp_path / "missing")))


def test_what_a_good_file_holds_is_explained_to_the_last_flow(tmp_path: Path) -> None:
    assert len(vpn(GOOD)) == len(list(explain(save(tmp_path / "e", GOOD)))) == 1


def test_flows_of_two_captures_that_share_an_id_are_kept_apart(tmp_path: Path) -> None:
    other = replace(NEW, destination_ip="203.0.113.3")
    events = run({"a/x.pcap": [[NEW]], "b/x.pcap": [[other]]})
    assert {event["flow_id"] for event in vpn(events)} == {1}
    found = list(explain(save(tmp_path / "e", events)))
    assert [" ".join(words.split()).split(" in ")[1].split(",")[0] for words in found] == [
        "a/x.pcap",
        "b/x.pcap",
    ]


@pytest.mark.parametrize("kept", [1, 2])
def test_a_file_that_lacks_its_last_line_is_said_to_be_incomplete(tmp_path: Path, kept: int) -> None:
    warnings: list[str] = []
    path = save(tmp_path / "e", GOOD)
    list(explain(path, on_warning=warnings.append))
    assert warnings == []
    path = save(tmp_path / "e", GOOD[:kept])
    assert len(list(explain(path, on_warning=warnings.append))) == kept - 1
    assert warnings == [
        f"{path}: not complete: its last line is not the `stats` event `ended`, so events may be missing"
    ]


def test_an_empty_file_is_no_event_file(tmp_path: Path) -> None:
    with pytest.raises(EventFileError, match=r"e: empty; expected an event a line, as `vpn-classifier"):
        list(explain(save(tmp_path / "e", [])))


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(EventFileError, match="-: cannot be read: standard input is closed"):
        list(explain("-"))


def flows(path: Path, rows: list[Any], **wanted: Any) -> list[str]:
    saved = save(path, run([rows, [row.then("ended", 60) for row in rows]]))
    return list(explain(saved, Wanted(address=ip_network("192.0.2.10"), **wanted)))


def starting(seconds: int, number: int) -> Any:
    return replace(NEW, flow_id=number, time_ns=T0 + seconds * SECOND, start_ns=T0 + seconds * SECOND)


def test_flows_of_an_address_come_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    found = flows(tmp_path / "e", [starting(9, 1), starting(0, 2), starting(5, 3)])
    assert found[0] == "3 flows with 192.0.2.10: 3 unregistered (flag).\n"
    assert [words.split(":")[0] for words in found[1:]] == ["Flow 2", "Flow 3", "Flow 1"]


def test_flows_that_went_on_between_two_times(tmp_path: Path) -> None:
    rows = [starting(0, 1), starting(100, 2), starting(300, 3)]

    def between(first: int, last: int) -> list[str]:
        found = flows(tmp_path / "e", rows, from_ns=T0 + first * SECOND, until_ns=T0 + last * SECOND)
        return [words.split(":")[0].removeprefix("Flow ") for words in found[1:]]

    # Each lasts for 60 s.
    assert between(0, 400) == ["1", "2", "3"]
    assert between(60, 99) == ["1"]
    assert between(61, 99) == []
    assert between(120, 130) == ["2"]
    assert between(160, 300) == ["2", "3"]


def test_of_very_many_flows_the_latest_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier.explain.MAX_FLOWS", 2)
    found = flows(tmp_path / "e", [starting(number, number) for number in (1, 2, 3, 4)])
    assert found[0].startswith("4 flows with 192.0.2.10: 4 unregistered (flag). Only the latest 2 follow:")
    assert [words.split(":")[0] for words in found[1:]] == ["Flow 3", "Flow 4"]


def test_it_ends_with_what_would_change_the_verdict(tmp_path: Path) -> None:
    words = text(tmp_path / "e", run([[NEW.then("ended")]], policy=WITH_LOCAL))
    _, _, change = words.partition("What would change this ")
    assert change.startswith(
        "An entry for the subject: a prefix that holds 192.0.2.10, side subscriber or not"
    )
    assert "endpoints with 198.51.100.20:51820 or none filed" in change
    assert "in date at 2026-03-01T12:00:01.000000000Z" in change
