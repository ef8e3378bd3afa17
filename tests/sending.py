"""The benchmarks' sender of frames, built where it is needed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from pcap_cases import repository

PATIENCE_S = 600


def sender() -> Path:
    """Its program. A debug build: it is fast enough, and cargo has its parts from the tests in Rust."""
    built = subprocess.run(
        [
            *("cargo", "build", "--locked", "--package", "vpn-classifier-bench", "--bin", "sender"),
            *("--message-format", "json"),
        ],
        cwd=repository(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    artifacts = map(json.loads, built.stdout.splitlines())
    (program,) = (found["executable"] for found in artifacts if found.get("executable"))
    return Path(program)
