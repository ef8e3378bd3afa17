"""The metrics of a run: the contract, the balance, every kind of loss, and what is counted of verdicts."""

from __future__ import annotations

import random
import re
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from fake_engine import SECOND, T0, FakeEngine, Row, inputs
from hypothesis import given
from hypothesis import strategies as st
from laboratory import until
from metric_table import page
from pcap_cases import repository
from prometheus_client.exposition import generate_latest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scrape import Numbers, balances, names_of, numbers, total
from test_pipeline import DAY, GOOD, NEW, POLICY, WITH_LOCAL, entry, register, scan

from classifier import _core, pipeline
from classifier.answers import Said
from classifier.cli import main
from classifier.errors import OutputError
from classifier.inputs import find
from classifier.metrics.collector import RunCollector, registry_of
from classifier.metrics.distinct import STANDARD_ERROR, WINDOW_NS, WINDOWS, Distinct, estimate
from classifier.metrics.meter import Meter
from classifier.metrics.names import METRICS, PREFIX, SINKS, Type, Where
from classifier.metrics.tally import Tally
from classifier.metrics.textfile import FileWriter, write
from classifier.pipeline import Figures, Replay, Settings
from classifier.policy import Policy
from classifier.register import Register
from classifier.sinks import SinkCounters

MACS = "02:00:00:00:00:01", "02:00:00:00:00:02"
ETHERNET = Ether(src=MACS[0], dst=MACS[1])
RULES = str(repository() / "rules")
MOST_SERIES = 500
ROOM = 64  # of a table, one flow for each shard


def text_of(run: Replay, tally: Tally, where: Where = Where.REPLAY) -> str:
    return generate_latest(registry_of(RunCollector(Meter(run, tally), where), process=False)).decode()


def replayed(*paths: str, engine: _core.Engine | None = None, rules: str | None = RULES) -> Numbers:
    """The metrics of a replay, which balance at any time."""
    tally = Tally(windowed=False)
    run = Replay(find(paths), *pipeline.load_rules(rules, None, None), None, engine, tally)
    for _ in run.lines(lambda: balances(numbers(text_of(run, tally)))):
        pass
    found = numbers(text_of(run, tally))
    balances(found)
    return found


def told(*batches: Sequence[Row], with_register: Register | None = None, policy: Policy = POLICY) -> Numbers:
    """The metrics of rows that an engine gives."""
    tally = Tally(windowed=False)
    fake = cast(_core.Engine, FakeEngine({"x.pcap": list(batches)}))
    run = Replay(inputs("x.pcap"), with_register or register(entry()), policy, None, fake, tally)
    list(run.lines())
    return numbers(text_of(run, tally))


def capture(path: Path, *frames: Packet | bytes, link: int = 1, kept: Sequence[int] = ()) -> str:
    """A capture of these frames; of each only so many bytes, where that is said."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, link))
        for number, frame in enumerate(frames):
            data = bytes(frame)
            here = data[: kept[number]] if kept else data
            when = 1_772_366_400 + number // 1000, number % 1000 * 1000
            file.write(struct.pack("<IIII", *when, len(here), len(data)) + here)
    return str(path)


def udp(payload: bytes = b"\x17" * 40, port: int = 999, source: str = "192.0.2.1") -> Packet:
    return ETHERNET / IP(src=source, dst="198.51.100.7") / UDP(sport=port, dport=5353) / Raw(payload)


# ---- the contract


def test_the_page_is_up_to_date() -> None:
    written = (repository() / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert written == page(), "run python tests/metric_table.py > docs/metrics.md and read the difference"


def test_names_follow_the_practice() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
        assert (metric.type is Type.COUNTER) == metric.name.endswith("_total"), metric.name
        assert not re.search(r"(milli|micro|nano)seconds|minutes|hours|kilo|_ms|_ns", metric.name)
        assert metric.meaning.endswith(".")
        known = metric.series or ()
        width = len(metric.labels) - metric.by_interface
        assert len(set(known)) == len(known)
        assert all(len(values) == width and all(values) for values in known), metric.name
        assert metric.counted is None or len(metric.counted.keys) == len(known)


class Everything:
    """A run that has one of everything, as far as a contract without a bound could show it."""

    def __init__(self, interfaces: int, workers: int) -> None:
        self.interfaces = [Tap(f"eth{number}") for number in range(interfaces)]
        self.workers = workers

    def figures(self) -> Figures:
        loaded, judge = pipeline.load_rules(RULES, None, None)
        taps = cast(Sequence[_core.Interface], self.interfaces)
        return Figures(
            {"frames": 7, "decoded": 7, "flow_packets": 7}, taps, loaded, judge, T0, T0, True, False
        )


class Tap:
    received, delivered, dropped, outgoing, freezes, downs, up, ring_bytes, lag_ns = (
        5,
        3,
        1,
        1,
        0,
        0,
        True,
        9,
        0,
    )

    def __init__(self, name: str) -> None:
        self.name = name


class FullSink:
    def __init__(self, name: str) -> None:
        self.name = name

    def counters(self) -> SinkCounters:
        return SinkCounters(self.name, taken_lines=3, written_lines=1, lost_lines=1, queued_lines=1)


def live_text(run: Any, workers: Sequence[str] = ()) -> str:
    tally = Tally()
    hostile = random.Random(7)
    for _ in range(3000):
        protocol, confidence, phase, verdict = (
            hostile.choice(known)
            for known in (_core.PROTOCOLS, _core.CONFIDENCES, _core.PHASES, ("unregistered", "registered"))
        )
        said = Said(verdict, "flag", "no-entry", 1, "", confidence, phase)
        tally.told(protocol, hostile.randbytes(4), NEW.time_ns, None, said, True)
    collector = RunCollector(Meter(run, tally, [FullSink(name) for name in SINKS]), Where.WATCH)
    collector.add(lambda: {"thread_cpu_seconds_total": {(name,): 1.0 for name in (*THREADS, *workers)}})
    return generate_latest(registry_of(collector, process=True)).decode()


THREADS = (
    *("run", "others", *(f"sink-{name}" for name in SINKS)),
    *(f"{kind}-{number}" for kind in ("worker", "capture") for number in range(16)),
)


def test_there_are_few_series_whatever_the_traffic() -> None:
    one, two = (numbers(live_text(Everything(count, 64))) for count in (1, 2))
    assert len(one) < MOST_SERIES
    assert len(two) - len(one) < 20  # of one interface more
    closed = {metric.name: metric for metric in METRICS}
    for name, labels in two:
        if name.startswith("process_"):
            assert not labels
            continue
        metric = closed.get(name) or closed[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert metric.where is not Where.REPLAY
        given = dict(labels)
        if metric.by_interface:
            assert given["interface"] in ("eth0", "eth1")
        if name != metric.name:  # of a histogram
            assert set(given) <= {"le"}
            continue
        assert set(given) == set(metric.labels)
        values = tuple(given[label] for label in metric.labels if label != "interface")
        if metric.series is not None:
            assert values in metric.series
        else:
            assert name in ("build_info", "thread_cpu_seconds_total")
    # Every series of every closed list, with or without an event behind it.
    for metric in METRICS:
        if metric.where is Where.REPLAY or metric.series is None or metric.type is Type.HISTOGRAM:
            continue
        found = [name for name, _ in two if name == metric.name]
        assert len(found) == len(metric.series) * (2 if metric.by_interface else 1), metric.name


def test_no_address_port_or_entry_is_in_a_label() -> None:
    run = Replay(
        find([str(repository() / "pcaps")]), *pipeline.load_rules(RULES, None, None), tally=(tally := Tally())
    )
    list(run.lines())
    text = text_of(run, tally)
    values = {value for _, labels in numbers(text) for _, value in labels}
    assert values
    for value in values - {_core.version, f"3.{sys.version_info.minor}"}:
        assert re.fullmatch(r"[a-z][a-z0-9_-]*|\+Inf|[0-9.e-]+", value), value
        assert not re.search(r"\d+\.\d+\.\d+|::|/|R-\d|\.pcap", value)


def test_all_that_a_run_counts_is_in_a_metric() -> None:
    run = Replay(find([str(repository() / "pcaps")]), *pipeline.load_rules(RULES, None, None))
    *_, ended = run.events()
    shown = {key for metric in METRICS if metric.counted for key in metric.counted.keys}
    counted = set(cast(Any, ended)["stats"]["counters"])
    assert counted - shown == set()
    # Others are of some runs only.
    missing = {key for key in shown - counted if not key.startswith(("undecoded.", "ignored."))}
    assert missing == {"refused", "events.left_out"}


def test_promtool_has_nothing_to_say() -> None:
    for text in (live_text(Everything(1, 1)), text_of(Replay(find([str(repository() / "pcaps")])), Tally())):
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- each kind of loss, found in its counter


LOSSES: dict[str, tuple[list[Packet | bytes], str, dict[str, str], int]] = {
    "malformed": (
        [ETHERNET / IP(ihl=1) / bytes(30)],
        "packets_undecoded_total",
        {"reason": "ipv4_malformed"},
        1,
    ),
    "ethertype": (
        [Ether(src=MACS[0], dst=MACS[1], type=0x88B5) / bytes(46)],
        "packets_without_flow_total",
        {"reason": "other_ethertype"},
        1,
    ),
    "arp": (
        [ETHERNET / ARP(), ETHERNET / Dot1Q(vlan=7) / ARP()],
        "packets_without_flow_total",
        {"reason": "arp"},
        2,
    ),
    "ip protocol": (
        [ETHERNET / IP(proto=132) / bytes(30)],
        "packets_without_flow_total",
        {"reason": "other_ip"},
        1,
    ),
    "fragments": (
        [
            ETHERNET / IP(src="192.0.2.1", frag=10, flags=1, id=number, proto=17) / bytes(64)
            for number in range(5)
        ],
        "fragments_unmatched_total",
        {},
        5,
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_frame_that_is_of_no_use_is_in_its_counter(tmp_path: Path, loss: str) -> None:
    frames, name, labels, count = LOSSES[loss]
    found = replayed(capture(tmp_path / "x.pcap", udp(), *frames, udp()))
    assert total(found, "packets_total") == len(frames) + 2
    assert total(found, "packets_in_flows_total") == 2
    assert total(found, name, **labels) == count


def test_a_frame_that_the_capture_cut(tmp_path: Path) -> None:
    frames = [bytes(udp())] * 4
    path = capture(tmp_path / "x.pcap", *frames, kept=(len(frames[0]), 30, 20, 10))
    found = replayed(path)
    reasons = ("ipv4_truncated", "ethernet_truncated")
    assert [total(found, "packets_undecoded_total", reason=reason) for reason in reasons] == [2, 1]
    assert total(found, "packets_undecoded_total") == 3


def test_a_link_type_that_nobody_reads(tmp_path: Path) -> None:
    found = replayed(capture(tmp_path / "x.pcap", *[bytes(60)] * 9, link=147))
    assert total(found, "packets_undecoded_total", reason="link_type_unsupported") == 9
    assert total(found, "packets_decoded_total") == 0


def test_what_a_full_table_pushes_out(tmp_path: Path) -> None:
    engine = _core.Engine(max_undecided=ROOM, max_attempts=ROOM, max_recognised=ROOM)
    path = capture(tmp_path / "x.pcap", *(udp(port=1024 + number) for number in range(3000)))
    found = replayed(path, engine=engine)
    evicted = total(found, "evictions_total", table="undecided")
    assert evicted > 0
    assert total(found, "flows_created_total") == 3000
    assert total(found, "packets_in_flows_total") == 3000
    assert total(found, "flows_active") == 0  # the capture is over


def test_packets_that_come_twice(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.pcap", *[packet for n in range(20) for packet in [udp(bytes([n]) * 30)] * 2])
    seen = replayed(path)
    assert total(seen, "packets_duplicate_total") == 20
    assert total(seen, "packets_ignored_total", reason="duplicate") == 0
    removed = replayed(path, engine=_core.Engine(remove_duplicates=True))
    assert total(removed, "packets_ignored_total", reason="duplicate") == 20
    assert total(removed, "packets_in_flows_total") == 20


def test_packets_that_were_not_asked_for(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.pcap", *[udp()] * 5, *[ETHERNET / IP() / TCP()] * 7)
    tally = Tally()
    run = Replay(find([path]), settings=Settings(filter="udp"), tally=tally)
    list(run.lines())
    found = numbers(text_of(run, tally))
    balances(found)
    assert total(found, "packets_ignored_total", reason="filtered") == 7


def test_captures_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.pcap").write_bytes(b"no capture at all, but some bytes of text")
    capture(tmp_path / "good.pcap", udp())
    found = replayed(str(tmp_path))
    assert total(found, "captures_total", outcome="read") == 1
    assert total(found, "captures_total", outcome="unreadable") == 1


@given(
    st.lists(st.binary(min_size=1, max_size=90), min_size=1, max_size=40), st.sampled_from([1, 101, 113, 276])
)
def test_the_balance_holds_of_any_bytes(frames: list[bytes], link: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "x.pcap")
        found = replayed(capture(path, *frames, link=link), rules=None)
    assert total(found, "packets_total") == len(frames)
    assert total(found, "bytes_total") == sum(map(len, frames))


def test_the_captures_of_the_project() -> None:
    found = replayed(str(repository() / "pcaps"))
    assert total(found, "packets_total") > 10_000
    assert total(found, "flows_total", phase="established") > 50


# ---- flows and verdicts


def test_a_flow_counts_in_each_state_that_it_reaches() -> None:
    states = [("likely", "attempt"), ("likely", "handshake"), ("confirmed", "handshake")]
    states += [("confirmed", "established")] * 3
    rows = [
        replace(
            NEW,
            report="recognised" if number == 0 else "update" if number > 3 else "changed",
            confidence=confidence,
            phase=phase,
            number=number + 1,
            time_ns=T0 + number * SECOND,
        )
        for number, (confidence, phase) in enumerate(states)
    ]
    for cuts in (rows,), tuple([row] for row in rows):
        found = told(*cuts)
        for confidence, phase in set(states):
            given = total(found, "flows_total", protocol="wireguard", confidence=confidence, phase=phase)
            assert given == 1, (confidence, phase)
        assert total(found, "flows_total") == 4
        # Judged as an attempt, but not counted then.
        assert total(found, "verdicts_total") == 1
        assert total(found, "verdicts_total", protocol="wireguard", verdict="registered", action="pass") == 1


def test_a_verdict_that_changes_counts_again() -> None:
    rows = [[NEW], [NEW.then("update", 2 * DAY)], [NEW.then("update", 3 * DAY)]]
    found = told(*rows, policy=WITH_LOCAL)
    assert total(found, "verdicts_total", verdict="registered") == 1
    assert total(found, "verdicts_total", verdict="expired") == 1
    assert total(found, "cases_flagged_total", verdict="expired") == 1
    assert total(found, "subscribers", verdict="expired") == 1


def test_attempts_are_flows_but_no_verdicts() -> None:
    found = told(scan(250))
    assert total(found, "flows_total", phase="attempt") == 250
    assert total(found, "verdicts_total") == 0
    assert total(found, "subscribers") == 0
    assert total(found, "attempts_summarised_total") == 240


def test_flagged_cases_are_counted_once_a_day() -> None:
    rows = [replace(NEW, source_ip="192.0.2.99", flow_id=n, time_ns=T0 + n, number=n) for n in range(1, 8)]
    found = told(rows)
    assert total(found, "verdicts_total", verdict="unregistered", action="flag") == 7
    assert (
        total(found, "cases_flagged_total")
        == total(found, "cases_flagged_total", verdict="unregistered")
        == 1
    )
    assert total(found, "subscribers", verdict="unregistered") == 1


def test_one_look_up_in_64_is_timed() -> None:
    found = told([replace(NEW, flow_id=n, number=n) for n in range(1, 1001)])
    assert total(found, "lookup_duration_seconds_count") == 16
    assert total(found, "lookup_duration_seconds_bucket", le="+Inf") == 16
    assert 0 < total(found, "lookup_duration_seconds_sum") < 60


def test_why_nothing_can_be_flagged() -> None:
    def suspended(with_register: Register | None, policy: Policy) -> list[str]:
        tally = Tally()
        run = Replay(inputs(), with_register, policy, Settings(as_of_ns=T0), None, tally)
        found = numbers(text_of(run, tally))
        reasons = [
            dict(labels)["reason"]
            for (name, labels), value in found.items()
            if name == "flagging_suspended" and value
        ]
        assert total(found, "flagging_active") == (not reasons)
        return sorted(reasons)

    known = register(entry())
    old = replace(known, next_update_ns=T0 - POLICY.stale_after_ns - 1)
    assert suspended(known, POLICY) == []
    assert suspended(None, POLICY) == ["no_register"]
    assert suspended(old, POLICY) == ["stale"]
    assert suspended(replace(old, next_update_ns=T0 - POLICY.stale_after_ns), POLICY) == []
    assert suspended(known, replace(POLICY, enforce_from_ns=None)) == ["before_enforcement"]
    assert suspended(old, replace(POLICY, enforce_from_ns=T0 + 1)) == ["before_enforcement", "stale"]


def test_the_register_in_force() -> None:
    tally = Tally()
    fake = FakeEngine({"x.pcap": [[NEW]]})
    run = Replay(inputs("x.pcap"), register(entry()), POLICY, None, cast(_core.Engine, fake), tally)
    collector = RunCollector(meter := Meter(run, tally), Where.REPLAY)

    def look() -> Numbers:
        meter.take()
        return numbers(generate_latest(registry_of(collector, process=False)).decode())

    began = look()
    assert total(began, "register_entries") == 1
    assert total(began, "reload_last_successful") == 1
    seen: list[Numbers] = []
    stream = run.lines()
    next(stream)
    for step in range(3):
        if step == 1:
            run.refuse(["a fault"])
        if step == 2:
            two = replace(register(entry(), entry("192.0.2.11", until_s=-DAY)), serial=48)
            run.reload(two)
        next(stream, None)
        seen.append(look())
    list(stream)
    end = look()
    refused = next(found for found in seen if total(found, "reloads_total", outcome="refused"))
    assert total(refused, "reload_last_successful") == 0
    assert total(end, "reload_last_successful") == 1
    assert total(end, "reloads_total", outcome="loaded") == 1
    assert total(end, "register_serial") == 48
    assert total(end, "register_entries", kind="vpn_registration", state="approved") == 1
    assert total(end, "register_entries", kind="vpn_registration", state="expired") == 1
    since = [total(found, "reload_last_success_timestamp_seconds") for found in (began, end)]
    assert since[0] < since[1]
    assert total(end, "register_stale_timestamp_seconds") > total(
        end, "register_next_update_timestamp_seconds"
    )


def test_without_a_register_nothing_is_said_of_one() -> None:
    found = replayed(str(repository() / "pcaps" / "wg-plain-51820"), rules=None)
    assert not {name for name in names_of(found) if name.startswith("register_")} - {"register_entries"}
    assert total(found, "register_entries") == 0
    assert total(found, "verdicts_total", verdict="not_evaluated", action="observe") > 0


# ---- about how many


@given(st.integers(0, 20_000), st.integers(0, 2**32))
def test_an_estimate_is_near(count: int, seed: int) -> None:
    distinct = Distinct()
    things = [(seed + number).to_bytes(8) for number in range(count)]
    for thing in things + things[: count // 2]:
        distinct.add("a", thing)
    found = estimate(distinct.sketches()).get("a", 0.0)
    # Six standard errors are chance once in 10^9; few things are told apart by their places.
    assert abs(found - count) <= max(3.0, 6 * STANDARD_ERROR * count)


def test_what_was_seen_in_two_windows_counts_once_and_goes() -> None:
    distinct = Distinct()
    for window in range(2 * WINDOWS):
        for number in range(100):
            distinct.add("a", (window // 2 * 50 + number).to_bytes(4), window * WINDOW_NS)
    now = 2 * WINDOWS - 1
    everything = estimate(distinct.sketches(now * WINDOW_NS))["a"]
    assert everything == pytest.approx(200, rel=0.15)  # of three pairs of windows, each 50 further
    later = estimate(distinct.sketches((now + WINDOWS - 1) * WINDOW_NS))["a"]
    assert later == pytest.approx(100, rel=0.15)
    assert estimate(distinct.sketches((now + WINDOWS) * WINDOW_NS)) == {}
    assert len(distinct._windows) <= WINDOWS


def test_sketches_are_bounded() -> None:
    distinct = Distinct()
    for number in range(50_000):
        distinct.add(str(number % 18), number, number % 7 * WINDOW_NS)
    assert sum(len(sketch) for every in distinct.sketches(6 * WINDOW_NS).values() for sketch in every) <= (
        18 * WINDOWS * 2048
    )


# ---- the file


def test_a_file_for_node_exporter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vpn.prom"
    path.write_text("what was there before")
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(repository() / "pcaps" / "wg-plain-51820"), "--metrics-file", str(path)])
    assert ended.value.code == 0
    capsys.readouterr()
    found = numbers(path.read_text())
    balances(found)
    assert total(found, "run_success") == 1
    assert total(found, "run_end_timestamp_seconds") >= total(found, "run_progress_timestamp_seconds")
    # node_exporter has these of its own, and fails on a second.
    assert not [name for name in names_of(found) if name.startswith(("process_", "python_"))]
    assert all(
        name.startswith(PREFIX) for name in re.findall(r"^# TYPE (\S+)", path.read_text(), re.MULTILINE)
    )
    # Another user reads it.
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_after_unreadable_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.pcap").write_bytes(b"no capture at all, but some bytes of text")
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(tmp_path / "broken.pcap"), "--metrics-file", str(tmp_path / "vpn.prom")])
    assert ended.value.code == 4
    capsys.readouterr()
    found = numbers((tmp_path / "vpn.prom").read_text())
    assert total(found, "run_success") == 0
    assert total(found, "captures_total", outcome="unreadable") == 1


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("replay", str(repository() / "pcaps" / "wg-plain-51820")),
                *("--metrics-file", str(tmp_path / "nowhere" / "vpn.prom")),
            ]
        )
    assert ended.value.code == 1
    assert "nowhere/vpn.prom: cannot be written: No such file or directory" in capsys.readouterr().err


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "vpn.prom"
    path.mkdir()  # nothing can be renamed to it
    registry = registry_of(RunCollector(Meter(Replay(inputs()), Tally()), Where.REPLAY), process=False)
    with pytest.raises(OutputError):
        write(str(path), registry)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_file_is_said_once_and_counted(tmp_path: Path) -> None:
    said: list[str] = []
    place = tmp_path / "metrics"
    registry = registry_of(RunCollector(Meter(Replay(inputs()), Tally()), Where.REPLAY), process=False)
    writer = FileWriter(str(place / "vpn.prom"), registry, said.append, every_s=0.01)
    writer.start()

    def failures() -> float:
        return writer.numbers()["metrics_file_failures_total"][()]

    until(lambda: failures() > 2, "it to fail")
    place.mkdir()
    until((place / "vpn.prom").exists, "it to succeed")
    writer.close()
    assert len(said) == 1
    assert said[0].startswith("--metrics-file: ")
    assert GOOD not in (place / "vpn.prom").read_text()
