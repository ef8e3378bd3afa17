"""Which part of ours an address of a program belongs to: the source file of the innermost function of ours.

The programs are built with one codegen unit and inlining across crates, so a symbol says little. What the
compiler put inline from the standard library or another crate belongs to the function of ours that called it.
"""

import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from bench.measure import ROOT, BenchError

CORE = ROOT / "core" / "src"
OTHER = "other crates and the start of the program"


def stages(program: Path, addresses: Collection[int]) -> Mapping[int, str]:
    """For each address in a program with line tables, a file below core/src (or bench/).

    BenchError when none is: the tables are of another directory."""
    wanted = sorted(addresses)
    done = subprocess.run(
        ["addr2line", "--addresses", "--inlines", "-e", program],
        input="".join(f"{address:#x}\n" for address in wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"addr2line: {done.stderr.strip()}")
    found: dict[int, str] = {}
    address = 0
    for line in done.stdout.splitlines():
        if line.startswith("0x"):
            address = int(line, 16)
            continue
        file = Path(line.rpartition(":")[0])
        if address not in found and file.is_relative_to(ROOT):
            found[address] = str(file.relative_to(CORE if file.is_relative_to(CORE) else ROOT))
    if wanted and not found:
        raise BenchError(f"{program}: expected a program built in {ROOT}; none of its lines is below that")
    return {address: found.get(address, OTHER) for address in wanted}
