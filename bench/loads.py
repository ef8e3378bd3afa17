"""The captures that the benchmarks read: made by `workload.rs` when they are wanted, removed when measured.

All of them together are some 12 GB; only what a part of the table needs is in bench/loads/ at a time.
"""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import ROOT
from classifier.inputs import find

LOADS = Path(__file__).parent / "loads"
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)


@dataclass(frozen=True, slots=True)
class Load:
    """One capture, classic little-endian pcap."""

    path: Path
    packets: int
    flows: int


@dataclass(frozen=True, slots=True)
class Loads:
    """Where loads come from: the generator, and the scale of everything (1 is what the table is about)."""

    generator: Path
    scale: float = 1.0
    seed: int = 1

    @contextmanager
    def made(self, shape: str, packets: int, flows: int, size: int = 64) -> Iterator[Load]:
        """A load, as long as it is wanted. Flows below a thousand are not scaled."""
        LOADS.mkdir(exist_ok=True)
        packets = max(1_000, int(packets * self.scale))
        flows = min(packets, flows if flows < 1_000 else max(1_000, int(flows * self.scale)))
        path = LOADS / f"{shape}-{packets}-{flows}-{size}.pcap"
        options = {"packets": packets, "flows": flows, "size": size, "seed": self.seed}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        try:
            subprocess.run([self.generator, shape, path, *arguments], check=True, stdout=subprocess.DEVNULL)
            read_anew(path)
            yield Load(path, packets, flows)
        finally:
            path.unlink(missing_ok=True)


def read_anew(path: Path) -> None:
    """Throw a file out of the page cache and read it in again. How it lies there decides what a copy costs,
    up to four times, and depends on how it was written; read ahead by the kernel, it lies in large folios."""
    with path.open("rb", buffering=0) as capture:
        os.fsync(capture.fileno())
        os.posix_fadvise(capture.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while capture.read(1 << 20):
            pass


@contextmanager
def one_packet() -> Iterator[Load]:
    """What a run on it costs is start-up."""
    udp = struct.pack(">HHHH", 53, 40_000, 40, 0) + bytes(32)
    internet = bytes.fromhex("4500003c00000000401177bdc0000201c0000202")
    frame = bytes.fromhex("0200000000020200000000010800") + internet + udp
    LOADS.mkdir(exist_ok=True)
    path = LOADS / "one-packet.pcap"
    try:
        path.write_bytes(PCAP_HEADER + struct.pack("<IIII", 1_700_000_000, 0, len(frame), len(frame)) + frame)
        yield Load(path, 1, 1)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def cut(load: Load, packets: int) -> Iterator[Load]:
    """The first packets of a load, for slow programs; the number of their flows is not known."""
    (path,) = parts(load, packets, 1)
    try:
        yield Load(path, min(packets, load.packets), 0)
    finally:
        path.unlink()


@contextmanager
def split(load: Load, number: int) -> Iterator[Path]:
    """A directory with the packets of a load in so many captures."""
    paths = parts(load, -(-load.packets // number), number)
    directory = LOADS / "split"
    try:
        directory.mkdir()
        for path in paths:
            path.rename(directory / path.name)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def parts(load: Load, packets: int, number: int) -> list[Path]:
    """Captures of so many packets each, beside the load; at most `number`."""
    paths = []
    with load.path.open("rb") as capture:
        capture.seek(len(PCAP_HEADER))
        for part in range(number):
            start = capture.tell()
            for _ in range(packets):
                if not (header := capture.read(16)):
                    break
                capture.seek(struct.unpack("<IIII", header)[2], 1)
            end = capture.tell()
            capture.seek(start)
            paths.append(load.path.with_suffix(f".{part:03}.pcap"))
            paths[-1].write_bytes(PCAP_HEADER + capture.read(end - start))
    return paths


@contextmanager
def many_small(number: int) -> Iterator[Path]:
    """A directory with so many captures of the laboratory: those of pcaps/ again and again."""
    captures = [Path(path) for path in find([str(ROOT / "pcaps")]).paths]
    directory = LOADS / "small"
    try:
        directory.mkdir(parents=True)
        for place in range(number):
            capture = captures[place % len(captures)]
            shutil.copyfile(capture, directory / f"{place:05}-{capture.parent.name}-{capture.name}")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
