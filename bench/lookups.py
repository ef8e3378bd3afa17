"""Look-ups of both ends of a flow, and judging it, beside the bare prefix trees that both are built on.

A look-up gives all entries that cover an address; a compiled one gives a number for its longest prefix, which
stands for the same entries, asked from Python here and by the core in a replay (`events.py --prefixes N`).
Judging gives the verdict, the rule that decided, and all
entries that cover either end with how each stands; the policy is the shipped one. The bare trees, of the
same prefixes, say no more than whether there is one.
"""

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from socket import AF_INET, AF_INET6
from typing import Any

import pytricia

from bench.measure import ROOT
from classifier.policy import FlowFacts, Policy
from classifier.register import Category, Entry, Kind, Prefix, Register, Side, Status

FLOWS = 200_000
SIZES = (1_000, 30_000, 1_000_000)
JUDGED_LIMIT = 200_000
"""Flows that must be judged per second of CPU time, with 30,000 prefixes."""
NOW_NS = 1_795_400_000_000_000_000
Pair = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Lookups:
    """Per second of CPU time, with so many prefixes."""

    prefixes: int
    register: float
    """Million addresses looked up."""
    pytricia: float
    """The same in the bare trees."""
    compiled: float
    """The same in the compiled map."""
    judged: float
    """Flows judged: verdict, rule, and the entries of both ends."""
    build_s: float
    compile_s: float


def measure(size: int, runs: int) -> Lookups:
    generator = random.Random(size)
    networks = make_networks(generator, size)
    pairs = make_pairs(generator, networks)
    entries = [make_entry(number, network) for number, network in enumerate(networks)]
    began = time.process_time()
    register = Register.build(
        entries,
        source="bench",
        serial=1,
        issued_at_ns=0,
        next_update_ns=2 * NOW_NS,
        first_record_ns=0,
        sha256="0" * 64,
    )
    build_s = time.process_time() - began
    began = time.process_time()
    number = register.compiled().prefixes.number
    compile_s = time.process_time() - began
    trees: dict[int, Any] = {4: pytricia.PyTricia(32, AF_INET), 16: pytricia.PyTricia(128, AF_INET6)}
    for network in networks:
        trees[len(network.address)].insert(network.address, network.length, True)
    by_family = [(tree.get, [p for p in pairs if len(p[0]) == length]) for length, tree in trees.items()]

    policy = Policy.load(ROOT / "rules" / "policy.toml")
    flows = [make_flow(source, destination) for source, destination in pairs]

    gc.collect()
    gc.disable()
    ours, bare, compiled, judged = [], [], [], []
    try:
        for _ in range(runs):
            ours.append(seconds(register.covering, pairs))
            compiled.append(seconds(number, pairs))
            bare.append(sum(seconds(get, own) for get, own in by_family))
            judged.append(seconds_judged(policy, register, flows))
    finally:
        gc.enable()
    millions = 2 * FLOWS / 1e6
    return Lookups(
        prefixes=len(networks),
        register=millions / statistics.median(ours),
        pytricia=millions / statistics.median(bare),
        compiled=millions / statistics.median(compiled),
        judged=FLOWS / statistics.median(judged),
        build_s=build_s,
        compile_s=compile_s,
    )


def seconds(look_up: Callable[[bytes], object], pairs: Sequence[Pair]) -> float:
    began = time.process_time()
    for source, destination in pairs:
        look_up(source)
        look_up(destination)
    return time.process_time() - began


def seconds_judged(policy: Policy, register: Register, flows: Sequence[FlowFacts]) -> float:
    judge = policy.judge
    began = time.process_time()
    for flow in flows:
        judgement = judge(flow, register, NOW_NS)
        judgement.verdict, judgement.rule, judgement.entries  # noqa: B018 (the entries are put together here)
    return time.process_time() - began


def make_flow(source: bytes, destination: bytes) -> FlowFacts:
    """A tunnel that is up, so that every rule has to be looked at."""
    return FlowFacts(
        protocol="wireguard",
        variant="standard",
        confidence="confirmed",
        phase="established",
        transport="UDP",
        source=source,
        destination=destination,
        source_port=40_000,
        destination_port=51_820,
        packets_to_server=20,
        packets_to_client=20,
        start_ns=NOW_NS - 10**9,
        end_ns=NOW_NS,
    )


def make_networks(generator: random.Random, size: int) -> list[Prefix]:
    """85 % IPv4 hosts, 5 % IPv4 networks, 10 % IPv6 networks; no two alike."""
    networks: dict[Prefix, None] = {}
    while len(networks) < size:
        share = generator.random()
        if share < 0.85:
            network: IPv4Network | IPv6Network = IPv4Network((generator.getrandbits(32), 32))
        elif share < 0.90:
            network = IPv4Network((generator.getrandbits(32), generator.randrange(16, 30)), strict=False)
        else:
            address = 0x20 << 120 | generator.getrandbits(120)
            network = IPv6Network((address, generator.choice((48, 56, 64, 128))), strict=False)
        networks[Prefix(network.network_address.packed, network.prefixlen)] = None
    return list(networks)


def make_pairs(generator: random.Random, networks: Sequence[Prefix]) -> list[Pair]:
    """Both ends of flows: every second source lies in the register, destinations are anywhere."""
    pairs = []
    for number in range(FLOWS):
        source = generator.choice(networks).address if number % 2 else None
        if source is None:
            source = (
                generator.randbytes(4) if generator.random() < 0.85 else b"\x20" + generator.randbytes(15)
            )
        rest = generator.randbytes(len(source) - 1)
        pairs.append((source, (b"\x20" if len(source) == 16 else b"\x50") + rest))
    return pairs


def make_entry(number: int, prefix: Prefix) -> Entry:
    return Entry(
        entry_id=f"E-{number}",
        kind=Kind.VPN_REGISTRATION,
        category=Category.OTHER,
        prefix=prefix,
        side=Side.EITHER,
        endpoints=(),
        protocols=(),
        valid_from_ns=0,
        valid_until_ns=None,
        status=Status.APPROVED,
        status_since_ns=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lookups", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="prefixes (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (%(default)s)")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        print(measure(size, arguments.runs))


if __name__ == "__main__":
    main()
