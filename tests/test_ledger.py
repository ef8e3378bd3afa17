"""The daily ledger: what is in it, what is not, and what becomes of it when something fails."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from event_files import RULES, pcap_events, save
from laboratory import until

from classifier import cli, events, ledger
from classifier.errors import OutputError
from classifier.events import Counted, VpnLine
from classifier.ledger import Ledger, LedgerWriter, ledger_place
from classifier.logs import Log
from classifier.policy import Policy
from classifier.register import Register
from classifier.register.health import Health, What, noted_of, sighting_of
from classifier.rejudge import facts_of

VALIDATOR = jsonschema.Draft202012Validator(events.schema())
SOON = 0.01


def lines(stream: Iterable[dict[str, Any]]) -> Iterator[VpnLine]:
    """The events of flows, as a run hands them on."""
    for event in stream:
        if event["event_type"] == "vpn":
            policy = event["policy"]
            counted = Counted(event["vpn"]["protocol"], policy["verdict"], policy["action"])
            line = json.dumps(event).encode() + b"\n"
            yield VpnLine(line, event["flow_id"], event["event"] == "ended", counted)


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of each day."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        stream = [json.loads(line) for line in path.read_bytes().splitlines()]
        for event in stream:
            VALIDATOR.validate(event)
            assert event["ledger"]["day"] == path.stem
        found[path.stem] = [event["ledger"] for event in stream]
    return found


Make = Callable[..., LedgerWriter]


@pytest.fixture
def make() -> Iterator[Make]:
    writers: list[LedgerWriter] = []

    def made(folder: Path, **options: Any) -> LedgerWriter:
        writers.append(LedgerWriter(str(folder), "test", **({"every_s": SOON} | options)))
        return writers[-1]

    yield made
    for writer in writers:
        writer.close(1)


def flow(
    number: int = 1,
    entries: Iterable[dict[str, Any]] = (),
    *,
    name: str = "ended",
    start: str = "2026-11-22T10:00:00.000000000Z",
    end: str = "2026-11-22T11:00:00.000000000Z",
    size: int = 100,
    phase: str = "established",
    verdict: str = "unregistered",
) -> VpnLine:
    """An event with what a ledger looks at, and addresses that it must not."""
    event = {
        "event": name,
        "src_ip": "192.0.2.77",
        "dest_ip": "203.0.113.99",
        "vpn": {"protocol": "wireguard", "phase": phase},
        "policy": {"verdict": verdict, "entries": list(entries)},
        "flow": {"bytes_toserver": size, "bytes_toclient": 0, "start": start, "end": end},
    }
    counted = Counted("wireguard", verdict, "flag")
    return VpnLine(json.dumps(event).encode(), number, name == "ended", counted)


def entry(entry_id: str, standing: str = "approved", end: str = "source") -> dict[str, Any]:
    return {
        "entry_id": entry_id,
        "kind": "vpn_registration",
        "category": "bank",
        "status": "approved",
        "standing": standing,
        "end": end,
        "prefix": "192.0.2.77/32",
    }


def counts(rows: Iterable[dict[str, Any]]) -> dict[Any, tuple[int, int]]:
    return {row["entry_id"] or row.get("verdict"): (row["flows"], row["bytes"]) for row in rows}


def test_all_captures_by_entry_as_counted_from_the_events(tmp_path: Path, make: Make) -> None:
    stream = pcap_events()
    writer = make(tmp_path)
    for line in lines(stream):
        writer.take(line)
    writer.close()
    flows: Counter[tuple[Any, ...]] = Counter()
    size: Counter[tuple[Any, ...]] = Counter()
    for event in stream:
        if event["event_type"] != "vpn" or event["event"] != "ended" or event["vpn"]["phase"] == "attempt":
            continue
        day, protocol, verdict = (
            event["flow"]["end"][:10],
            event["vpn"]["protocol"],
            event["policy"]["verdict"],
        )
        keys = {(day, protocol, each["entry_id"], each["standing"]) for each in event["policy"]["entries"]}
        for key in keys or {(day, protocol, None, verdict)}:
            flows[key] += 1
            size[key] += event["flow"]["bytes_toserver"] + event["flow"]["bytes_toclient"]
    found_flows: Counter[tuple[Any, ...]] = Counter()
    found_size: Counter[tuple[Any, ...]] = Counter()
    for day, rows in read(tmp_path).items():
        for row in rows:
            key = day, row["protocol"], row["entry_id"], row.get("standing") or row["verdict"]
            found_flows[key] += row["flows"]
            found_size[key] += row["bytes"]
    assert sum(flows.values()) > 100
    # A flow whose verdict or entries changed counts with each; none of these captures is longer than a day.
    assert found_size == size
    assert {key: count for key, count in found_flows.items() if flows[key]} == flows
    counted = writer.counters()
    assert counted.taken_lines == counted.written_lines > 100
    assert (counted.lost_lines, counted.queued_lines, counted.failures) == (0, 0, 0)


def test_no_address_is_in_it(tmp_path: Path, make: Make) -> None:
    writer = make(tmp_path)
    for line in lines(pcap_events()):
        writer.take(line)
    writer.close()
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    addresses = {event[end] for event in pcap_events() if "src_ip" in event for end in ("src_ip", "dest_ip")}
    assert len(addresses) > 10
    assert not [address for address in addresses if address in text]


def test_health_finds_the_same_in_ledgers_as_in_events_but_gaps(tmp_path: Path, make: Make) -> None:
    stream = pcap_events()
    writer = make(tmp_path)
    for line in lines(stream):
        writer.take(line)
    writer.close()
    at_ns = events.parse_time("2026-11-23")
    register = Register.load(RULES / "register.csv")
    policy = Policy.load(RULES / "policy.toml")
    by_events, by_ledger = (Health(register, policy) for _ in range(2))
    for event in stream:
        if event["event_type"] == "vpn" and event["event"] == "ended":
            sighting = sighting_of(facts_of(event))
            if sighting is not None:
                by_events.take(sighting)
    for rows in read(tmp_path).values():
        for row in rows:
            by_ledger.note(noted_of(row))
    found = [
        {(one.what, one.entry_id, one.text) for one in health.findings(at_ns) if one.what is not What.GAP}
        for health in (by_events, by_ledger)
    ]
    assert found[0] == found[1]
    assert {what for what, _, _ in found[0]} >= {What.EXPIRED_SEEN, What.NEVER_SEEN, What.OTHER_PROTOCOL}


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_commands_on_ledgers(tmp_path: Path, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    writer = make(tmp_path / "ledger")
    for line in lines(pcap_events()):
        writer.take(line)
    writer.close()
    ledgers = [str(path) for path in sorted((tmp_path / "ledger").iterdir())]
    options = ["--rules", str(RULES), "--at", "2026-11-23"]
    assert command("register", "health", *ledgers, *options) == 0
    captured = capfd.readouterr()
    assert "R-2025-00388: vpn_registration, software_house; last seen 2026-11-22" in captured.out
    assert re.search(r"^Seen: 0 flows, \d+ flows in ledgers, from ", captured.out, re.MULTILINE)
    assert captured.err == ""
    whole = save(tmp_path / "events.jsonl", pcap_events())
    assert command("register", "health", whole, *ledgers, *options, "--json") == 0
    assert json.loads(capfd.readouterr().out)["noted"] > 100
    assert command("recheck", ledgers[0], "--rules", str(RULES)) == 1
    assert "is a ledger, which has counts and no flows" in capfd.readouterr().err
    Path(ledgers[0]).write_text('{"event_type": "ledger", "ledger": {}}\n')
    assert command("register", "health", ledgers[0], *options) == 1
    assert f"{ledgers[0]}, line 1: " in capfd.readouterr().err


def test_a_flow_that_goes_on_counts_on_each_day_and_its_bytes_once() -> None:
    day = Ledger()
    known = [entry("R-1")]
    parts = [
        ("recognised", "2026-11-22T10:00:01.000000000Z", 10),
        ("update", "2026-11-22T23:50:00.000000000Z", 500),
        ("changed", "2026-11-22T23:55:00.000000000Z", 600),
        ("update", "2026-11-23T00:20:00.000000000Z", 700),
        ("ended", "2026-11-24T12:00:00.000000000Z", 1_000),
    ]
    for name, end, size in parts:
        day.take(flow(1, known, name=name, end=end, size=size))
    found = {
        name: [(row.flows, row.size, row.first[:13], row.last[:16]) for row in counted.rows.values()]
        for name, counted in day.days().items()
    }
    assert found == {
        "2026-11-22": [(1, 600, "2026-11-22T10", "2026-11-22T23:55")],
        "2026-11-23": [(1, 100, "2026-11-23T00", "2026-11-23T00:20")],
        "2026-11-24": [(1, 300, "2026-11-24T00", "2026-11-24T12:00")],
    }


def test_openings_that_nobody_answered_are_not_in_it() -> None:
    day = Ledger()
    assert not day.take(flow(phase="attempt"))
    assert day.days() == {}


def test_an_entry_counts_with_what_stands_beside_it() -> None:
    day = Ledger()
    day.take(flow(1, [entry("OLD", "expired"), entry("NEW", "approved")]))
    day.take(flow(2, [entry("OLD", "expired"), entry("THERE", "approved", "destination")]))
    day.take(flow(3, [entry("ONE", "protocol_mismatch"), entry("TWO", "protocol_mismatch")]))
    day.take(flow(4, [entry("BOTH"), entry("BOTH", end="destination")]))
    (counted,) = day.days().values()
    found = {(key.entry_id, key.beside): row.flows for key, row in counted.rows.items()}
    assert found == {
        ("OLD", True): 1,
        ("NEW", False): 1,
        ("OLD", False): 1,
        ("THERE", False): 1,
        ("ONE", False): 1,
        ("TWO", False): 1,
        ("BOTH", False): 1,
    }


def test_a_run_goes_on_where_the_one_before_it_ended(tmp_path: Path, make: Make) -> None:
    for number in (1, 2):
        writer = make(tmp_path)
        writer.take(flow(number, [entry("R-1")]))
        writer.take(flow(number + 10))
        writer.close()
    (rows,) = read(tmp_path).values()
    assert counts(rows) == {"R-1": (2, 200), "unregistered": (2, 200)}


def test_two_runs_may_keep_one(tmp_path: Path, make: Make) -> None:
    writers = [make(tmp_path), make(tmp_path)]
    for number in range(200):
        writers[number % 2].take(flow(number, [entry(f"R-{number % 7}")]))
    for writer in writers:
        writer.close()
    (rows,) = read(tmp_path).values()
    assert sum(row["flows"] for row in rows) == 200


def test_it_is_written_while_the_run_goes_on(tmp_path: Path, make: Make) -> None:
    writer = make(tmp_path)
    writer.take(flow(1))
    until(lambda: writer.counters().written_lines == 1, "the first")
    writer.take(flow(2))
    until(lambda: writer.counters().written_lines == 2, "the second")
    (rows,) = read(tmp_path).values()
    assert counts(rows) == {"unregistered": (2, 200)}
    assert [path.name for path in tmp_path.iterdir()] == ["2026-11-22.jsonl"]


def test_a_file_that_is_no_ledger_is_put_aside(tmp_path: Path, make: Make) -> None:
    (tmp_path / "2026-11-22.jsonl").write_bytes(b'{"half')
    text = io.StringIO()
    writer = make(tmp_path, log=Log(stream=text))
    writer.take(flow())
    writer.close()
    (rows,) = read(tmp_path).values()
    assert counts(rows) == {"unregistered": (1, 100)}
    (aside,) = tmp_path.glob("*.faulty")
    assert aside.read_bytes() == b'{"half'
    assert "no ledger" in text.getvalue()


def test_a_full_disk_is_waited_for(small_disk: Path, make: Make) -> None:
    text = io.StringIO()
    writer = make(small_disk / "ledger", log=Log(stream=text))
    writer.take(flow(1))
    until(lambda: writer.counters().written_lines == 1, "the first")
    before = read(small_disk / "ledger")
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(1 << 20))
    for number in range(2, 102):
        writer.take(flow(number, [entry(f"R-{number}")]))
    until(lambda: writer.counters().failures > 1, "failures")
    counted = writer.counters()
    assert (counted.failing, counted.queued_lines, counted.lost_lines) == (True, 100, 0)
    assert read(small_disk / "ledger") == before
    assert not list((small_disk / "ledger").glob("*.new"))
    (small_disk / "filler").unlink()
    until(lambda: writer.counters().queued_lines == 0, "recovery")
    (rows,) = read(small_disk / "ledger").values()
    assert sum(row["flows"] for row in rows) == 101
    assert "No space left on device; tried again" in text.getvalue()
    assert "written to again" in text.getvalue()


def test_what_waits_is_bounded_by_days(tmp_path: Path, make: Make) -> None:
    folder = tmp_path / "ledger"
    writer = make(folder)
    folder.rmdir()
    for day in range(1, 8):
        moment = f"2026-11-{day:02}T10:00:00.000000000Z"
        writer.take(flow(day, start=moment, end=moment))
    until(lambda: writer.counters().lost_lines == 4, "four days to be dropped")
    folder.mkdir()
    until(lambda: writer.counters().queued_lines == 0, "recovery")
    assert list(read(folder)) == ["2026-11-05", "2026-11-06", "2026-11-07"]
    writer.close()
    assert (writer.counters().written_lines, writer.counters().lost_lines) == (3, 4)


def test_lines_are_bounded_and_what_is_beyond_is_counted_together(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_MAX_ROWS", 5)
    for _ in range(2):
        writer = make(tmp_path)
        for number in range(20):
            writer.take(flow(number, [entry(f"R-{number:02}")]))
        writer.close()
    (rows,) = read(tmp_path).values()
    assert len(rows) <= 7
    assert sum(row["flows"] for row in rows) == 40
    assert sum(row["flows"] for row in rows if row["entry_id"] is None) >= 30


def test_running_flows_are_bounded_and_counted_at_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_MAX_RUNNING", 2)
    day = Ledger()
    for name in ("recognised", "ended"):
        for number in range(5):
            day.take(flow(number, name=name, size=10 if name == "recognised" else 100))
    (counted,) = day.days().values()
    assert [(row.flows, row.size) for row in counted.rows.values()] == [(5, 500)]


def test_old_ledgers_are_deleted_and_nothing_else(tmp_path: Path, make: Make) -> None:
    for name in (
        "2020-01-01.jsonl",
        "2999-01-01.jsonl",
        "2020-01-01.jsonl.gz",
        "events.jsonl",
        "202x-01-01.jsonl",
    ):
        (tmp_path / name).write_bytes(b"")
    writer = make(tmp_path, retain_ns=400 * 86_400 * 1_000_000_000)
    until(lambda: writer.counters().deleted_files == 1, "it to be deleted")
    assert not (tmp_path / "2020-01-01.jsonl").exists()
    assert len(list(tmp_path.iterdir())) == 4


def test_where_it_is_kept(tmp_path: Path) -> None:
    assert ledger_place("-", None) is None
    assert ledger_place("-", "here") == "here"
    assert ledger_place("/dev/null", None) is None
    assert ledger_place(str(tmp_path / "events.jsonl"), None) == str(tmp_path / "events-ledger")
    assert ledger_place(str(tmp_path / "events.jsonl"), "there") == "there"


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot be written: (File exists|Not a directory)"):
        LedgerWriter(str(tmp_path / "file"), "test")
