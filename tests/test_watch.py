"""Live capture: the same truth as from a file, and what happens to a run that goes on for long."""

from __future__ import annotations

import gzip
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import zstandard
from laboratory import Laboratory, stop, until, write_frames
from pcap_cases import Case, all_cases, read_truth, repository
from scapy.utils import RawPcapReader

import classifier
from classifier import events
from classifier.interfaces import Interface
from classifier.watch import Capture

VALIDATOR = jsonschema.Draft202012Validator(events.schema())
RULES = str(repository() / "rules")
FILE_HEADER, RECORD_HEADER = 24, 16
ETHERNET, SHORTEST_FRAME = 1, 14


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    made = Laboratory()
    try:
        yield made
    finally:
        made.close()


def whole_frames(case: Case) -> list[bytes]:
    """The frames of a case that can be sent again: of Ethernet, all of them whole; else none."""
    data = case.capture.read_bytes()
    if case.capture.suffix == ".gz":
        data = gzip.decompress(data)
    if case.capture.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    frames = []
    with RawPcapReader(io.BytesIO(data)) as reader:  # type: ignore[arg-type]
        if getattr(reader, "linktype", ETHERNET) != ETHERNET:
            return []
        for frame, metadata in reader:
            is_whole = metadata.wirelen == len(frame) >= SHORTEST_FRAME
            if getattr(metadata, "linktype", ETHERNET) != ETHERNET or not is_whole:
                return []
            frames.append(bytes(frame))
    return frames


def frames_of(name: str) -> list[bytes]:
    (found,) = (whole_frames(case) for case in all_cases() if case.name == name)
    return found


def ids(case: Case) -> set[str]:
    """The flows of a case, as its golden file names them."""
    lines = map(json.loads, case.golden.read_text().splitlines())
    return {event["community_id"] for event in lines if event["event_type"] == "vpn"}


def groups() -> list[dict[str, list[bytes]]]:
    """All cases that can be sent, in groups in which no flow is that of another case."""
    made: list[tuple[set[str], dict[str, list[bytes]]]] = []
    for case in all_cases():
        frames = whole_frames(case)
        if not frames:
            continue
        flows = ids(case)
        group = next((group for group in made if not group[0] & flows), None)
        if group is None:
            made.append(group := (set(), {}))
        group[0].update(flows)
        group[1][case.name] = frames
    return [group for _, group in made]


def read(file: Path) -> list[dict[str, Any]]:
    loaded = [json.loads(line) for line in file.read_text().splitlines()]
    for event in loaded:
        VALIDATOR.validate(event)
    return loaded


def compared(stream: Sequence[Any]) -> list[str]:
    """What must be the same of flows: all but names, and the time of the end, which live is the host's."""
    kept = []
    for event in json.loads(json.dumps(stream)):
        if event["event_type"] not in ("vpn", "attempts"):
            continue
        for field in ("flow_id", "sensor", "pcap_filename", "in_iface"):
            event.pop(field, None)
        if event.get("event") == "ended" or event["event_type"] == "attempts":
            del event["timestamp"]
        kept.append(json.dumps(event, sort_keys=True))
    return sorted(kept)


def counters(stream: Sequence[dict[str, Any]]) -> dict[str, int]:
    assert (stream[-1]["event_type"], stream[-1]["event"]) == ("stats", "ended")
    counted: dict[str, int] = stream[-1]["stats"]["counters"]
    lost = sum(count for name, count in counted.items() if name.startswith(("undecoded.", "ignored.")))
    assert counted["frames"] == counted["decoded"] + lost
    if "kernel.received" in counted:
        assert counted["kernel.received"] == counted["frames"] + counted["kernel.dropped"]
    return counted


def test_flows_and_verdicts_are_those_of_a_file(laboratory: Laboratory, tmp_path: Path) -> None:
    sendable = groups()
    truth = read_truth()
    laboratory.pair("tap0", "gen0")
    expected_flows = 0
    for number, group in enumerate(sendable):
        place = tmp_path / str(number)
        place.mkdir()
        frames = [frame for case in group.values() for frame in case]
        expected_flows += sum(len(truth[name]) for name in group)
        write_frames(place / "frames", frames)
        capture, written = place / "tcpdump.pcap", place / "events.jsonl"
        size = FILE_HEADER + sum(RECORD_HEADER + len(frame) for frame in frames)
        watch = laboratory.watch(
            *("-i", "tap0", "--rules", RULES, "--keep", "all", "-o", str(written)),
            *("--workers", str(1 + number % 2)),
            stderr=place / "watch.stderr",
        )
        with laboratory.tcpdump("tap0", capture, size):
            laboratory.send(place / "frames", "gen0:tap0")
        assert stop(watch) == 0, (place / "watch.stderr").read_text()
        live = read(written)
        counted = counters(live)
        assert (counted["frames"], counted["kernel.dropped"]) == (len(frames), 0)
        assert compared(live) == compared(list(classifier.replay(str(capture), rules=RULES)))
        assert "traffic looks" not in (place / "watch.stderr").read_text()
        assert {event.get("in_iface", "tap0") for event in live} == {"tap0"}
    # Not by having found nothing in either.
    assert len(sendable) > 1
    assert expected_flows > 60
    assert sum(map(len, sendable)) > 100


def send(laboratory: Laboratory, place: Path, frames: Sequence[bytes], *wires: str) -> None:
    write_frames(place / "frames", frames)
    laboratory.send(place / "frames", *wires)


def test_one_flow_over_two_interfaces(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    laboratory.pair("tap1", "gen1")
    written = tmp_path / "events.jsonl"
    watch = laboratory.watch(
        *("-i", "tap0", "-i", "tap1", "--keep", "all", "-o", str(written)), stderr=tmp_path / "watch.stderr"
    )
    frames = frames_of("wg-plain-51820")
    send(laboratory, tmp_path, frames, "gen0:tap0", "gen1:tap1")
    assert stop(watch) == 0
    live = read(written)
    assert counters(live)["frames"] == len(frames)
    (ended,) = (event for event in live if event.get("event") == "ended" and event["event_type"] == "vpn")
    assert (ended["in_iface"], ended["vpn"]["protocol"]) == ("tap0,tap1", "wireguard")
    (truth,) = read_truth()["wg-plain-51820"]
    seen = ended["flow"]["pkts_toserver"], ended["flow"]["pkts_toclient"]
    assert sorted(seen) == sorted((truth.found.packets_to_server, truth.found.packets_to_client))


@pytest.mark.parametrize(
    "expression", ["udp port 41194", "vlan and udp", "tcp or greater 1200", "not udp", "vlan"]
)
def test_an_expression_selects_the_same_live_and_from_a_file(
    laboratory: Laboratory, tmp_path: Path, expression: str
) -> None:
    laboratory.pair("tap0", "gen0")
    names = ("enc-vlan-wg-plain-51820", "enc-qinq-ovpn-udp-plain-1194", "wg-psk-41194", "ovpn-tcp-plain-443")
    frames = [frame for name in names for frame in frames_of(name)]
    written, capture = tmp_path / "events.jsonl", tmp_path / "tcpdump.pcap"
    watch = laboratory.watch(
        *("-i", "tap0", "--keep", "all", "-o", str(written), expression), stderr=tmp_path / "watch.stderr"
    )
    size = FILE_HEADER + sum(RECORD_HEADER + len(frame) for frame in frames)
    with laboratory.tcpdump("tap0", capture, size):
        send(laboratory, tmp_path, frames, "gen0:tap0")
    assert stop(watch) == 0
    live = read(written)
    filed = list(classifier.replay(str(capture), filter=expression))
    assert live[0]["stats"]["filter"] == expression
    # libpcap's own way with a file says how many there are.
    chosen = subprocess.run(
        ["tcpdump", "-r", str(capture), "-w", str(tmp_path / "chosen.pcap"), expression],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert chosen.returncode == 0, chosen.stderr
    with RawPcapReader(str(tmp_path / "chosen.pcap")) as reader:
        selected = list(reader)
    assert 0 < len(selected) < len(frames)
    assert selected_by(live) == selected_by(filed) == len(selected)
    assert unnumbered(live) == unnumbered(filed)


def selected_by(stream: Sequence[Any]) -> int:
    counted: dict[str, int] = stream[-1]["stats"]["counters"]
    return counted["frames"] - counted["ignored.filtered"]


def unnumbered(stream: Sequence[Any]) -> list[str]:
    """As `compared`, without the numbers of packets: live, those that the kernel left out have none."""
    return sorted(re.sub(r'"packet": \d+', "", line) for line in compared(stream))


def test_an_expression_that_is_none(laboratory: Laboratory) -> None:
    line = refused(laboratory, "-i", "lo", "udp", "prot", "1")
    assert line.startswith("vpn-classifier: filter 'udp prot 1': ")


def rules(place: Path, serial: int, registered: str) -> None:
    """A register with one line in it, issued just now."""
    now = datetime.now(UTC)
    day = timedelta(days=1)
    (place / "register.csv").write_text(
        "entry_id,kind,category,prefix,side,endpoints,protocols,valid_from,valid_until,status,status_since\n"
        f"R-1,vpn_registration,software_house,{registered}/32,either,,,"
        f"{now - 9 * day:%Y-%m-%d},{now + 99 * day:%Y-%m-%d},approved,{now - 9 * day:%Y-%m-%d}\n"
    )
    (place / "register.toml").write_text(
        f'source = "test"\nserial = {serial}\nissued_at = {now - day:%Y-%m-%dT%H:%M:%SZ}\n'
        f'next_update = {now + 7 * day:%Y-%m-%dT%H:%M:%SZ}\ntime_zone = "UTC"\n'
        "first_record = 2001-01-01T00:00:00Z\n"
    )
    (place / "policy.toml").write_text(
        'enforce_from = 2001-01-01\ntime_zone = "UTC"\n\n[networks]\nlocal = ["198.51.100.0/25"]\n\n'
        '[[rule]]\nid = "no-entry"\nverdict = "unregistered"\nmin_packets = 10\naction = "flag"\n\n'
        '[[rule]]\nid = "rest"\naction = "observe"\n'
    )


def test_a_flagged_flow_that_becomes_registered(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    rules(tmp_path, 1, "198.51.100.99")
    first, second, errors = tmp_path / "first.jsonl", tmp_path / "events.jsonl", tmp_path / "watch.stderr"
    second.write_text('{"event_type": "stats", "rest of a line that')  # of a process that was killed
    watch = laboratory.watch("-i", "tap0", "--rules", str(tmp_path), "-o", str(second), stderr=errors)
    tunnel = frames_of("ovpn-tcp-plain-443")
    send(laboratory, tmp_path, [*frames_of("wg-plain-51820"), *tunnel[:60]], "gen0:tap0")
    until(lambda: '"flag"' in second.read_text(), "a flag")

    second.rename(first)
    watch.send_signal(signal.SIGUSR2)
    until(second.exists, "a new event file")
    rules(tmp_path, 2, "198.51.100.23")
    watch.send_signal(signal.SIGHUP)
    until(lambda: '"was"' in second.read_text().partition('"register"')[2], "a verdict that changes")
    send(laboratory, tmp_path, tunnel[60:], "gen0:tap0")
    assert stop(watch) == 0, errors.read_text()

    begun, *before, rotated = read(first)
    assert (begun["event_type"], begun["event"], begun["stats"]["keep"]) == ("stats", "started", "flagged")
    assert (rotated["event_type"], rotated["event"]) == ("stats", "rotated")
    assert {event["src_ip"] for event in before} == {"198.51.100.23"}
    assert before[0]["policy"]["action"] == "flag"
    assert before[0]["policy"]["first"]
    begun, *after, ended = read(second)
    assert (begun["event"], begun["stats"]["register"]["serial"]) == ("started", 1)
    flow = [event for event in after if event["event_type"] == "vpn"]
    assert [event["event"] for event in flow] == ["changed", "ended"]
    assert flow[0]["policy"]["was"]["verdict"] == "unregistered"
    assert {event["policy"]["verdict"] for event in flow} == {"registered"}
    assert flow[1]["flow"]["pkts_toserver"] == 110
    assert ended["stats"]["register"]["serial"] == 2
    assert counters([ended])["events.left_out"] > 0
    assert ended["stats"]["interrupted"] is False
    assert "reload: register test, serial 2" in errors.read_text()


def test_what_a_full_ring_loses_is_counted(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    written, errors = tmp_path / "events.jsonl", tmp_path / "watch.stderr"
    watch = laboratory.watch(
        *("-i", "tap0", "-o", str(written), "--ring-size", "1", "--block-size", "64"), stderr=errors
    )
    frames = [bytes(12) + b"\x88\xb5" + bytes(1400)] * 2000
    watch.send_signal(signal.SIGSTOP)
    send(laboratory, tmp_path, frames, "gen0:tap0")
    watch.send_signal(signal.SIGCONT)
    assert stop(watch) == 0
    counted = counters(read(written))
    assert counted["kernel.dropped"] > 0
    assert counted["kernel.freezes"] > 0
    assert counted["frames"] + counted["kernel.dropped"] == len(frames)
    assert f"{counted['kernel.dropped']:,} packets unseen by the sensor" in errors.read_text()


def _said(errors: Path, text: str, times: int) -> Callable[[], bool]:
    return lambda: errors.read_text().count(text) == times


def test_an_interface_goes_and_comes_back(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.pair("tap0", "gen0")
    written, errors = tmp_path / "events.jsonl", tmp_path / "watch.stderr"
    watch = laboratory.watch("-i", "tap0", "--keep", "all", "-o", str(written), stderr=errors)
    frames = frames_of("wg-plain-51820")
    send(laboratory, tmp_path, frames[:50], "gen0:tap0")
    for number, (change, state) in enumerate((("set tap0 down", "down"), ("delete tap0", "gone")), 1):
        laboratory.run("ip", "link", *change.split())
        until(_said(errors, f"tap0 is {state}: waiting for it", 1), f"{state} to be said")
        if state == "gone":
            laboratory.pair("tap0", "gen0")
        else:
            laboratory.run("ip", "link", "set", "tap0", "up")
        until(_said(errors, "tap0 is up", number), "up to be said")
    laboratory.run("ip", "link", "set", "gen0", "down")
    until(_said(errors, "tap0 is no carrier", 1), "the other end's absence to be said")
    laboratory.run("ip", "link", "set", "gen0", "up")
    until(_said(errors, "tap0 is up", 3), "up to be said")
    send(laboratory, tmp_path, frames[50:], "gen0:tap0")
    assert stop(watch) == 0
    live = read(written)
    counted = counters(live)
    assert (counted["frames"], counted["interfaces.downs"], counted["interfaces.down"]) == (len(frames), 2, 0)
    assert [event["event"] for event in live if event["event_type"] == "vpn"].count("ended") == 1


@pytest.mark.parametrize("options", [[], ["--outgoing"]])
def test_own_frames_are_told_apart(laboratory: Laboratory, tmp_path: Path, options: list[str]) -> None:
    laboratory.pair("tap0", "gen0")
    written = tmp_path / "events.jsonl"
    watch = laboratory.watch("-i", "tap0", "-o", str(written), *options, stderr=tmp_path / "watch.stderr")
    frames = frames_of("wg-plain-51820")
    send(laboratory, tmp_path, frames, "tap0:gen0")
    send(laboratory, tmp_path, frames[:10], "gen0:tap0")
    assert stop(watch) == 0
    counted = counters(read(written))
    assert counted["frames"] == len(frames) + 10
    assert counted["ignored.outgoing"] == (0 if options else len(frames))


@pytest.mark.parametrize("options", [[], ["--outgoing"]])
def test_a_loopback_shows_each_frame_once(laboratory: Laboratory, tmp_path: Path, options: list[str]) -> None:
    laboratory.run("ip", "link", "set", "lo", "up")
    written = tmp_path / "events.jsonl"
    watch = laboratory.watch("-i", "lo", "-o", str(written), *options, stderr=tmp_path / "watch.stderr")
    frames = frames_of("wg-plain-51820")
    send(laboratory, tmp_path, frames, "lo:lo")
    assert stop(watch) == 0
    counted = counters(read(written))
    assert (counted["frames"], counted["ignored.outgoing"]) == (2 * len(frames), len(frames))


def refused(laboratory: Laboratory, *arguments: str, under: Sequence[str] = ()) -> str:
    """What is said of a capture that cannot begin: one line."""
    command = [*laboratory.enter, *under, sys.executable, "-m", "classifier", "watch", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_without_the_capability_one_line_says_which_and_how(laboratory: Laboratory) -> None:
    line = refused(laboratory, "-i", "lo", under=["setpriv", "--bounding-set", "-net_raw"])
    assert line.startswith(
        "vpn-classifier: lo: not permitted to capture: found a process without CAP_NET_RAW"
    )
    assert "AmbientCapabilities=CAP_NET_RAW" in line


def test_what_cannot_be_listened_on(laboratory: Laboratory, tmp_path: Path) -> None:
    written = tmp_path / "events.jsonl"
    line = refused(laboratory, "-i", "lo", "-i", "nowhere0", "-o", str(written))
    assert "no such network interface: found nowhere0" in line
    assert "vpn-classifier interfaces" in line
    assert "'a-name-that-is-too-long'" in refused(laboratory, "-i", "a-name-that-is-too-long")
    assert "lo twice" in refused(laboratory, "-i", "lo", "-i", "lo")
    assert not written.exists()


def test_interfaces_are_listed_with_what_to_do(laboratory: Laboratory) -> None:
    laboratory.pair("tap0", "gen0")
    laboratory.run("ip", "link", "set", "tap0", "down")
    listed = laboratory.run(sys.executable, "-m", "classifier", "interfaces")
    rows = {words[0]: words[1:3] for line in listed.splitlines() if len(words := line.split()) > 2}
    assert rows["lo"] == ["down", "loopback"]
    assert rows["tap0"] == ["down", "ethernet"]
    assert rows["gen0"][:2] == ["no", "carrier"]


SWITCH = """
import sys
from pyroute2.ethtool import Ethtool
ethtool = Ethtool()
features = ethtool.get_features(sys.argv[1])
features.features["rx-gro"].enable = sys.argv[2] == "on"
ethtool.set_features(sys.argv[1], features)
"""


@pytest.mark.parametrize("gro", ["on", "off"])
def test_an_offload_is_said_with_the_command(laboratory: Laboratory, tmp_path: Path, gro: str) -> None:
    laboratory.pair("tap0", "gen0")
    laboratory.run(sys.executable, "-c", SWITCH, "tap0", gro)
    errors, command = tmp_path / "watch.stderr", "ethtool -K tap0 gro off"
    assert (command in laboratory.run(sys.executable, "-m", "classifier", "interfaces")) == (gro == "on")
    assert stop(laboratory.watch("-i", "tap0", stderr=errors)) == 0
    assert (f"for true lengths: {command}\n" in errors.read_text()) == (gro == "on")


def test_only_what_falsifies_what_is_listened_to_is_switched_off() -> None:
    card = Interface("eth1", True, True, "ethernet", 10_000, ("gro", "gso", "tso", "lro"))
    assert card.remedy(outgoing=False) == "ethtool -K eth1 gro off lro off"
    assert card.remedy(outgoing=True) == "ethtool -K eth1 gro off gso off tso off lro off"
    assert Interface("eth1", True, True, "ethernet", None, ("tso",)).remedy(outgoing=False) is None
    assert Interface("lo", True, True, "loopback", None, ("gro",)).remedy(outgoing=True) is None
    assert Interface("eth1", True, False, "ethernet", None, ()).state == "no carrier"


@pytest.mark.parametrize(
    ("options", "available", "said"),
    [
        ({}, None, None),
        ({}, 1 << 30, None),
        (
            {"block_size": 100_000},
            None,
            "a block of 97 KiB: expected a power of two from 64 KiB to 16 MiB, such as 128 KiB",
        ),
        ({"block_size": 1 << 25}, None, "such as 16 MiB"),
        (
            {"ring_size": 1 << 18},
            None,
            "a ring of 256 KiB: expected two blocks of 256 KiB or more, such as 512 KiB",
        ),
        (
            {"ring_size": 5 << 20, "block_size": 1 << 22},
            None,
            "a ring of 5 MiB: expected two blocks of 4 MiB or more, such as 8 MiB",
        ),
        (
            {"ring_size": 1 << 29},
            1 << 30,
            "1,024 MiB are free; expected half of that in all, 256 MiB a ring",
        ),
    ],
)
def test_ring_settings_that_cannot_be_say_what_to_use(
    options: dict[str, int], available: int | None, said: str | None
) -> None:
    fault = Capture(**options).fault(2, available)  # type: ignore[arg-type]
    assert fault is None if said is None else said in str(fault)


def test_odd_ring_settings_are_refused(laboratory: Laboratory) -> None:
    line = refused(laboratory, "-i", "lo", "--ring-size", "5", "--block-size", "4096")
    assert line == "vpn-classifier: a ring of 5 MiB: expected two blocks of 4 MiB or more, such as 8 MiB"
