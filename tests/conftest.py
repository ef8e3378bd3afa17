"""Options and fixtures that several test files share."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A property holds or it does not: how long an example takes on a busy machine says nothing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite pcaps/*/expected.jsonl")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 64 KiB, made in a mount namespace of its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = f"mount -t tmpfs -o size=64k,mode=777 tmpfs '{tmp_path}' && echo ready && exec cat"
    holder = subprocess.Popen(
        ["unshare", *user, "--mount", "sh", "-c", mount],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert holder.stdout is not None
    if holder.stdout.readline() != b"ready\n":
        pytest.fail(f"a small disk cannot be mounted: {holder.communicate()[1].decode().strip()}")
    try:
        # The same directory, as that process sees it.
        yield Path(f"/proc/{holder.pid}/root{tmp_path}")
    finally:
        holder.communicate()
