"""The metrics of live capture, scraped as a Prometheus would: what is lost is counted, and all adds up."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from laboratory import Laboratory, stop, until, write_frames
from scrape import Numbers, balances, interfaces, numbers, total
from test_watch import RULES, frames_of, rules

ROOM = 4096  # of a disk that is full
PAGE = "127.0.0.1:9469"
OF_NO_FLOW = bytes(12) + b"\x88\xb5" + bytes(1400)


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    made = Laboratory()
    try:
        made.run("ip", "link", "set", "lo", "up")
        made.pair("tap0", "gen0")
        yield made
    finally:
        made.close()


def fetch(laboratory: Laboratory, path: str) -> tuple[int, str]:
    """Status and text, asked for inside of the laboratory."""
    program = str(Path(__file__).with_name("fetch.py"))
    status, _, text = laboratory.run(sys.executable, program, f"http://{PAGE}{path}").partition("\n")
    return int(status), text


def scrape(laboratory: Laboratory) -> Numbers:
    status, text = fetch(laboratory, "/metrics")
    assert status == 200, text
    found = numbers(text)
    balances(found)
    return found


def send(laboratory: Laboratory, place: Path, frames: list[bytes], *wires: str) -> None:
    write_frames(place / "frames", frames)
    laboratory.send(place / "frames", *wires)


def watch(laboratory: Laboratory, place: Path, *options: str) -> subprocess.Popen[bytes]:
    return laboratory.watch(
        *("-o", str(place / "events.jsonl"), "--metrics", PAGE, *options), stderr=place / "watch.stderr"
    )


def test_what_a_tunnel_leaves_in_the_metrics(laboratory: Laboratory, tmp_path: Path) -> None:
    program = watch(laboratory, tmp_path, "-i", "tap0", "--rules", RULES, "--workers", "2")
    empty = scrape(laboratory)
    assert total(empty, "packets_total") == 0
    assert fetch(laboratory, "/-/ready")[0] == fetch(laboratory, "/-/healthy")[0] == 200
    frames = frames_of("wg-plain-51820")
    send(laboratory, tmp_path, frames, "gen0:tap0")
    until(lambda: total(scrape(laboratory), "packets_total") == len(frames), "the frames")
    found = scrape(laboratory)
    # What can only be said afterwards was there before, as 0.
    assert set(found) == set(empty)
    assert total(found, "bytes_total") == sum(map(len, frames))
    established = {"protocol": "wireguard", "confidence": "confirmed", "phase": "established"}
    assert total(found, "flows_total", **established) == 1
    assert total(found, "flows_active", state="recognised") == 1
    assert total(found, "verdicts_total") == total(found, "verdicts_total", verdict="registered") == 1
    assert total(found, "subscribers", verdict="registered") == 1
    assert total(found, "register_serial") == 47
    assert total(found, "capture_received_packets_total", interface="tap0") == len(frames)
    assert total(found, "capture_lag_seconds", interface="tap0") > 0
    assert total(found, "capture_ring_bytes", interface="tap0") == 64 << 20
    for thread in ("run", "worker-0", "worker-1", "others"):
        assert total(found, "thread_cpu_seconds_total", thread=thread) >= 0
    assert total(found, "process_resident_memory_bytes") > 0
    assert stop(program) == 0


def test_a_ring_that_is_full_and_a_run_that_hangs(laboratory: Laboratory, tmp_path: Path) -> None:
    program = watch(laboratory, tmp_path, "-i", "tap0", "--ring-size", "1", "--block-size", "64")
    program.send_signal(signal.SIGSTOP)
    frames = [OF_NO_FLOW] * 2000
    send(laboratory, tmp_path, frames, "gen0:tap0")
    program.send_signal(signal.SIGCONT)

    def is_over() -> bool:
        found = scrape(laboratory)  # balances all the time
        seen = total(found, "packets_total") + total(found, "capture_dropped_packets_total")
        return seen == len(frames)

    until(is_over, "all frames to be counted")
    found = scrape(laboratory)
    assert total(found, "capture_dropped_packets_total", interface="tap0") > 0
    assert total(found, "capture_ring_full_total", interface="tap0") > 0
    assert total(found, "capture_waiting_packets") == 0
    assert total(found, "packets_without_flow_total", reason="other_ethertype") == total(
        found, "packets_total"
    )
    assert stop(program) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_balance_under_overload(laboratory: Laboratory, tmp_path: Path, workers: str) -> None:
    program = watch(
        *(laboratory, tmp_path, "-i", "tap0", "-i", "gen0", "--keep", "all", "--workers", workers),
        *("--ring-size", "1", "--block-size", "64", "--remove-duplicates"),
    )
    tunnels = frames_of("wg-plain-51820") + frames_of("ovpn-udp-plain-1194") + frames_of("ikev2-psk-natt")
    fragment = bytes(12) + b"\x08\0\x45\0\0\x54" + bytes(2) + b"\0\x0a\x40\x11" + bytes(2) + bytes(72)
    bad = bytes(12) + b"\x08\0\x41" + bytes(60)
    write_frames(tmp_path / "frames", (tunnels + [OF_NO_FLOW, fragment, bad] * 50 + tunnels) * 10)
    flood = laboratory.start(
        *(sys.executable, str(Path(__file__).with_name("send_frames.py"))),
        *(str(tmp_path / "frames"), "gen0:tap0"),
        stderr=tmp_path / "flood.stderr",
    )
    scrapes = [scrape(laboratory)]
    while flood.poll() is None:
        scrapes.append(scrape(laboratory))
    assert flood.returncode == 0, (tmp_path / "flood.stderr").read_text()
    scrapes.append(scrape(laboratory))
    assert interfaces(scrapes[-1]) == {"tap0", "gen0"}
    assert total(scrapes[-1], "packets_total") > 1000
    assert total(scrapes[-1], "packets_ignored_total", reason="outgoing") > 0
    assert total(scrapes[-1], "packets_undecoded_total") > 0
    for before, after in pairwise(scrapes):
        for (name, labels), value in before.items():
            if name.endswith(("_total", "_count", "_bucket")):
                assert after[name, labels] >= value, (name, labels)
    assert stop(program) == 0


def test_own_frames_and_an_interface_that_goes(laboratory: Laboratory, tmp_path: Path) -> None:
    program = watch(laboratory, tmp_path, "-i", "tap0")
    frames = frames_of("wg-plain-51820")
    send(laboratory, tmp_path, frames, "tap0:gen0")
    until(
        lambda: total(scrape(laboratory), "packets_ignored_total", reason="outgoing") == len(frames),
        "its own frames",
    )
    assert total(scrape(laboratory), "capture_ignored_packets_total", interface="tap0") == len(frames)
    laboratory.run("ip", "link", "delete", "tap0")
    until(lambda: total(scrape(laboratory), "interface_up", interface="tap0") == 0, "it to be down")
    assert fetch(laboratory, "/-/ready")[0] == 503
    assert fetch(laboratory, "/-/healthy")[0] == 200
    laboratory.pair("tap0", "gen0")
    until(lambda: total(scrape(laboratory), "interface_up", interface="tap0") == 1, "it to be back")
    assert fetch(laboratory, "/-/ready")[0] == 200
    send(laboratory, tmp_path, frames, "gen0:tap0")
    until(lambda: total(scrape(laboratory), "packets_total") == 2 * len(frames), "the frames")
    found = scrape(laboratory)
    assert total(found, "interface_downs_total", interface="tap0") == 1
    assert total(found, "capture_received_packets_total") == 2 * len(frames)
    assert stop(program) == 0


def test_reloads(laboratory: Laboratory, tmp_path: Path) -> None:
    place = tmp_path / "rules"
    place.mkdir()
    rules(place, 1, "198.51.100.99")
    program = watch(laboratory, tmp_path, "-i", "tap0", "--rules", str(place))
    send(laboratory, tmp_path, frames_of("ovpn-tcp-plain-443"), "gen0:tap0")
    until(lambda: total(scrape(laboratory), "cases_flagged_total") == 1, "a flag")
    (place / "register.csv").write_text("no register\n")
    program.send_signal(signal.SIGHUP)
    until(lambda: total(scrape(laboratory), "reloads_total", outcome="refused") == 1, "a refusal")
    found = scrape(laboratory)
    assert (total(found, "reload_last_successful"), total(found, "register_serial")) == (0, 1)
    assert total(found, "flagging_active") == 1
    rules(place, 2, "198.51.100.23")
    program.send_signal(signal.SIGHUP)
    until(lambda: total(scrape(laboratory), "reloads_total", outcome="loaded") == 1, "a reload")
    until(lambda: total(scrape(laboratory), "verdicts_total", verdict="registered") == 1, "another verdict")
    found = scrape(laboratory)
    assert (total(found, "reload_last_successful"), total(found, "register_serial")) == (1, 2)
    assert total(found, "verdicts_total", verdict="unregistered", action="flag") == 1
    assert total(found, "register_entries", kind="vpn_registration", state="approved") == 1
    assert stop(program) == 0


def test_a_sink_that_fails(laboratory: Laboratory, tmp_path: Path) -> None:
    program = watch(laboratory, tmp_path, "-i", "tap0", "--keep", "all", "--ledger", str(tmp_path / "days"))
    assert total(scrape(laboratory), "sink_queue_limit_bytes", sink="events") > 0
    resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))
    flows = ("wg-plain-51820", "ovpn-tcp-plain-443", "ikev2-psk-natt")
    send(laboratory, tmp_path, [frame for name in flows for frame in frames_of(name)], "gen0:tap0")
    until(lambda: total(scrape(laboratory), "sink_failing", sink="events") == 1, "it to fail")
    failing = scrape(laboratory)  # balances meanwhile
    assert total(failing, "sink_failures_total", sink="events") > 0
    assert total(failing, "sink_queue_lines", sink="events") > 0
    resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: total(scrape(laboratory), "sink_queue_lines", sink="events") == 0, "all to be written")
    found = scrape(laboratory)
    assert total(found, "sink_failing", sink="events") == 0
    taken = total(found, "sink_taken_lines_total", sink="events")
    assert total(found, "sink_written_lines_total", sink="events") == taken > 3
    assert total(found, "thread_cpu_seconds_total", thread="sink-events") >= 0
    assert total(found, "thread_cpu_seconds_total", thread="sink-ledger") >= 0
    assert stop(program) == 0


def test_the_file_of_a_live_run(laboratory: Laboratory, tmp_path: Path) -> None:
    path = tmp_path / "vpn.prom"
    program = watch(laboratory, tmp_path, "-i", "tap0", "--metrics-file", str(path))
    until(path.exists, "the first file")
    frames = frames_of("wg-plain-51820")
    send(laboratory, tmp_path, frames, "gen0:tap0")
    assert stop(program) == 0
    found = numbers(path.read_text())
    balances(found)
    assert total(found, "packets_total") == len(frames)
    assert total(found, "flows_active") == 0
    assert {name for name, _ in found if name.startswith("process_")} == set()
    assert [file.name for file in tmp_path.iterdir() if ".prom" in file.name] == ["vpn.prom"]


def test_nothing_listens_that_was_not_asked_for(laboratory: Laboratory, tmp_path: Path) -> None:
    program = laboratory.watch(
        "-i", "tap0", "-o", str(tmp_path / "events.jsonl"), stderr=tmp_path / "watch.stderr"
    )
    assert laboratory.run("cat", "/proc/net/tcp", "/proc/net/tcp6").count(": ") == 0
    assert stop(program) == 0
