"""From the core to event lines: what a recognised flow costs on the Python side.

The capture holds a million WireGuard tunnels between distinct hosts, half of their initiators in a register
of 30,000 prefixes; every second one goes on to the number of packets at which the shipped rules judge it
anew. A run is the pipeline with the sinks of `vpn-classifier replay -o`, in a process of its own; beside it
the engine alone reads the same capture and its reports are thrown away. The difference, per event line and
per flow, is what Python costs.

`--flood N` measures N forged initiations instead, from random sources, with some tunnels among them: memory
must not grow with the flood (`tests/test_flood.py`: and each tunnel be reported).
"""

import argparse
import json
import random
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.loads import LOADS, PCAP_HEADER
from bench.lookups import make_entry, make_networks
from bench.measure import ROOT, BenchError, alternate
from classifier import _core
from classifier.events import VpnLine, VpnLines
from classifier.inputs import find
from classifier.pipeline import Replay
from classifier.policy import Policy
from classifier.register import Prefix, Register
from classifier.sinks.jsonl import JsonLines
from classifier.sinks.report import Report

FLOWS = 1_000_000
PREFIXES = 30_000
LINE_LIMIT_US = 8.0
"""Most CPU time from the core to one event line, in microseconds."""
COMMAND = (sys.executable, "-m", "bench.events")
START_S = 1_798_000_000
FLOWS_PER_S = 330  # flows end 600 s after their last packet: no more run at once than their pool holds
FLOOD_PER_S = 10_000
FLOOD_TUNNELS = 100
FLOODED = bytes([203, 0, 113])
TUNNEL = b'"src_ip":"10.9.'
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_UDP = struct.Struct(">HHHH")
_ETHERNET = bytes.fromhex("0200000000010200000000020800")
_KEYS = (
    bytes(byte | 0x81 for byte in random.Random(0).randbytes(31)) + b"\x41"
)  # below 2^255, as X25519's are
_DRAWN = bytes(byte | 0x81 for byte in random.Random(1).randbytes(92))


@dataclass(frozen=True, slots=True)
class Events:
    """Medians over the runs, in CPU microseconds; start-up and the reading of the register are left out."""

    flows: int
    lines: int
    line_us: float
    flow_us: float
    engine_flow_us: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Flood:
    """Forged openings: CPU microseconds each, and memory, which must not depend on how many they are."""

    openings: int
    tunnels: int
    """Among them, each reported as established to its end."""
    summarised: int
    """Openings that are in summaries."""
    cpu_us: float
    memory_mb: float
    memory_of_a_fifth_mb: float


def measure(flows: int, runs: int, prefixes: int = PREFIXES) -> Events:
    capture = build(flows)
    results = alternate(
        {
            name: [*COMMAND, "--prefixes", str(prefixes), "--once", name, str(capture)]
            for name in ("whole", "engine")
        },
        runs,
    )
    said = {name: [json.loads(run.output) for run in of] for name, of in results.items()}
    whole, engine = (statistics.median(one["cpu_s"] for one in said[name]) for name in ("whole", "engine"))
    counters = said["whole"][0]
    if counters["flows"] != flows:
        raise BenchError(f"{counters['flows']:,} of {flows:,} flows were recognised")
    return Events(
        flows=flows,
        lines=counters["lines"],
        line_us=(whole - engine) / counters["lines"] * 1e6,
        flow_us=(whole - engine) / flows * 1e6,
        engine_flow_us=engine / flows * 1e6,
        memory_mb=max(run.memory_mb for run in results["whole"]),
    )


def once(what: str, capture: Path, prefixes: int) -> dict[str, float]:
    """One run: CPU seconds behind the start, and what came of it."""
    register, policy = rules(prefixes)
    began = time.process_time()
    found = read(capture, policy) if what == "engine" else write(capture, register, policy)
    return found | {"cpu_s": time.process_time() - began}


def read(capture: Path, policy: Policy) -> dict[str, float]:
    """The engine alone."""
    engine = _core.Engine(
        packet_milestones=policy.packet_milestones, duration_milestones_s=policy.duration_milestones_s
    )
    engine.open(str(capture), str(capture))
    while engine.poll(100) is not None:
        pass
    return {"flows": engine.stats()["flows.recognised"]}


def write(capture: Path, register: Register, policy: Policy) -> dict[str, float]:
    """Everything, as `vpn-classifier replay -o` does it; how many lines, flows, and tunnels of a flood."""
    sinks = Report(), JsonLines("/dev/null")
    has_tunnels = capture.name.startswith("flood")  # to look for them costs as much as all that sinks do
    replay = Replay(find([str(capture)]), register, policy)
    counters: dict[str, int] = {}
    lines = tunnels = 0
    for event in replay.blocks():
        if isinstance(event, VpnLines):
            lines += len(event.ends)
            if has_tunnels and TUNNEL in event.text:
                tunnels += sum(map(is_tunnel_that_ended, event.lines()))
        else:
            lines += 1
        for sink in sinks:
            sink.write(event)
        if not isinstance(event, VpnLines) and event["event_type"] == "stats":
            counters = event["stats"].get("counters", {})
    for sink in sinks:
        sink.close()
    return {
        "flows": counters["flows.recognised"],
        "lines": lines,
        "tunnels": tunnels,
        "summarised": counters["attempts.summarised"],
    }


def is_tunnel_that_ended(line: VpnLine) -> bool:
    return line.ended and TUNNEL in line.line and b'"phase":"established"' in line.line


def rules(prefixes: int = PREFIXES) -> tuple[Register, Policy]:
    """So many prefixes, all registered; the shipped policy, without networks of its own."""
    entries = (make_entry(number, prefix) for number, prefix in enumerate(networks(prefixes)))
    register = Register.build(
        entries,
        source="bench",
        serial=1,
        issued_at_ns=(START_S + 86_400) * 10**9,
        next_update_ns=(START_S + 7 * 86_400) * 10**9,
        first_record_ns=0,
    )
    return register, replace(Policy.load(ROOT / "rules" / "policy.toml"), local=())


def networks(size: int = PREFIXES) -> list[Prefix]:
    """Of those that the capture is made for the first, or all and others beside them."""
    return make_networks(random.Random(PREFIXES), size)


def build(flows: int) -> Path:
    """The capture of so many tunnels; what an earlier run wrote is taken as it is."""
    path = LOADS / f"events-{flows}.pcap"
    if path.exists():
        return path
    LOADS.mkdir(exist_ok=True)
    generator = random.Random(flows)
    registered = [prefix.address for prefix in networks() if len(prefix.address) == 4]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as capture:
        capture.write(PCAP_HEADER)
        for number in range(flows):
            source = generator.choice(registered) if number % 2 else generator.randbytes(4)
            destination = bytes([80 + number % 8]) + number.to_bytes(3, "big")
            frames = tunnel(generator, source, destination, 10 if number % 4 < 2 else 2)
            capture.write(records(frames, number / FLOWS_PER_S))
    partial.rename(path)
    return path


def records(frames: Iterator[bytes], after_s: float) -> bytes:
    """Frames as records of a capture, a millisecond apart."""
    parts = []
    for number, frame in enumerate(frames):
        seconds, microseconds = divmod(int(after_s * 1e6) + number, 1_000_000)
        parts.append(struct.pack("<IIII", START_S + seconds, microseconds, len(frame), len(frame)) + frame)
    return b"".join(parts)


def tunnel(generator: random.Random, source: bytes, destination: bytes, data: int) -> Iterator[bytes]:
    """WireGuard's handshake, then so many packets of data in turns; what is encrypted never changes."""
    here, there = (
        generator.randbytes(3) + b"\x7f",
        generator.randbytes(3) + b"\x7e",
    )  # small ones are not drawn
    port = generator.randrange(1_024, 51_820)
    yield initiation(here, source, destination, port)
    response = b"\2\0\0\0" + there + here + _KEYS + _DRAWN[:32] + bytes(16)
    yield datagram(destination, source, 51_820, port, response)
    for number in range(data):
        message = b"\4\0\0\0%b" + (number // 2).to_bytes(8, "little") + _DRAWN[:16]
        if number % 2:
            yield datagram(destination, source, 51_820, port, message.replace(b"%b", here))
        else:
            yield datagram(source, destination, port, 51_820, message.replace(b"%b", there))


def initiation(index: bytes, source: bytes, destination: bytes, port: int) -> bytes:
    return datagram(source, destination, port, 51_820, b"\1\0\0\0" + index + _KEYS + _DRAWN + bytes(16))


def datagram(source: bytes, destination: bytes, port: int, to_port: int, payload: bytes) -> bytes:
    """UDP over IPv4 over Ethernet; checksums are left out."""
    length = 28 + len(payload)
    header = _IPV4.pack(0x45, 0, length, 0, 0x4000, 64, 17, 0, source, destination)
    return _ETHERNET + header + _UDP.pack(port, to_port, length - 20, 0) + payload


def write_flood(path: Path, openings: int, tunnels: int) -> None:
    """Forged initiations from random sources to one network, and tunnels evenly among them."""
    generator = random.Random(openings)
    every = openings // tunnels
    with path.open("wb") as capture:
        capture.write(PCAP_HEADER)
        for number in range(openings):
            forged = initiation(
                generator.randbytes(4), generator.randbytes(4), FLOODED + generator.randbytes(1), 40_000
            )
            capture.write(records(iter([forged]), number / FLOOD_PER_S))
            if number % every == every // 2:
                client = bytes([10, 9]) + (number // every).to_bytes(2, "big")
                frames = tunnel(generator, client, FLOODED + bytes([1]), 10)
                capture.write(records(frames, number / FLOOD_PER_S))


def flood(openings: int, runs: int) -> Flood:
    """Medians of runs over the flood, with the memory of a flood of a fifth beside it."""
    said: dict[int, list[dict[str, float]]] = {}
    memory = {}
    for size in (openings // 5, openings):
        path = LOADS / f"flood-{size}.pcap"
        if not path.exists():
            LOADS.mkdir(exist_ok=True)
            partial = path.with_suffix(".partial")
            write_flood(partial, size, FLOOD_TUNNELS)
            partial.rename(path)
        command = [*COMMAND, "--once", "whole", str(path)]
        results = alternate({"whole": command}, runs)["whole"]
        said[size] = [json.loads(run.output) for run in results]
        memory[size] = statistics.median(run.memory_mb for run in results)
    for size, runs_of in said.items():
        if any(one["tunnels"] != FLOOD_TUNNELS for one in runs_of):
            raise BenchError(f"of {FLOOD_TUNNELS} tunnels among {size:,} openings some were not reported")
    return Flood(
        openings=openings,
        tunnels=FLOOD_TUNNELS,
        summarised=int(said[openings][0]["summarised"]),
        cpu_us=statistics.median(one["cpu_s"] for one in said[openings]) / openings * 1e6,
        memory_mb=memory[openings],
        memory_of_a_fifth_mb=memory[openings // 5],
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.events", description=__doc__)
    parser.add_argument("--flows", type=int, default=FLOWS, help="tunnels in the capture (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (%(default)s)")
    parser.add_argument("--prefixes", type=int, default=PREFIXES, help="in the register (%(default)s)")
    parser.add_argument("--flood", type=int, metavar="N", help="N forged initiations instead")
    parser.add_argument("--once", nargs=2, metavar=("WHAT", "CAPTURE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(once(arguments.once[0], Path(arguments.once[1]), arguments.prefixes)))
        return
    print(
        flood(arguments.flood, arguments.runs)
        if arguments.flood
        else measure(arguments.flows, arguments.runs, arguments.prefixes)
    )


if __name__ == "__main__":
    main()
