"""What deploy/ ships fits together. tests/try_service.py (`.ci/run`) follows docs/install.md itself."""

from __future__ import annotations

import configparser
import hashlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from pcap_cases import repository

DEPLOY = repository() / "deploy"
PAGE = (repository() / "docs" / "install.md").read_text(encoding="utf-8")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "classifier", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def unit() -> dict[str, str]:
    """The service's settings; of those that come twice, the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "systemd" / "vpn-classifier.service")
    return dict(parser["Service"])


def test_the_settings_are_taken() -> None:
    dumped = run("watch", "--config", str(DEPLOY / "config" / "watch.toml"), "--dump-config")
    assert dumped.returncode == 0, dumped.stderr
    assert 'interfaces = ["eth1"]  # file' in dumped.stdout
    assert 'listen = "127.0.0.1:9469"  # file' in dumped.stdout
    assert "rotate_size = 256  # file" in dumped.stdout


def test_the_policy_is_a_trial() -> None:
    checked = run("policy", "check", str(DEPLOY / "config" / "policy.toml"))
    assert checked.returncode == 0, checked.stderr
    assert "a trial" in checked.stdout + checked.stderr


def test_page_settings_and_unit_name_the_same_places() -> None:
    settings = (DEPLOY / "config" / "watch.toml").read_text(encoding="utf-8")
    assert unit()["ExecStart"].endswith("watch --config /etc/vpn-classifier/watch.toml")
    assert unit()["ExecStart"].split()[0] in PAGE
    places = re.findall(r'"(/(?:var|etc)/[^"]+)"', settings)
    assert len(places) == 4
    directories = {"/etc/vpn-classifier", "/var/lib/vpn-classifier", "/var/log/vpn-classifier"}
    assert {str(Path(place).parent) for place in places} == directories
    assert (unit()["StateDirectory"], unit()["LogsDirectory"]) == ("vpn-classifier", "vpn-classifier")


def test_the_service_has_one_capability() -> None:
    assert (unit()["AmbientCapabilities"], unit()["CapabilityBoundingSet"]) == ("CAP_NET_RAW", "CAP_NET_RAW")


def test_the_files_of_the_page_are_in_the_archive() -> None:
    named = set(re.findall(r"(?:systemd|config)/vpn-classifier[\w@.-]*|config/\w+\.toml", PAGE))
    assert len(named) >= 6
    assert [name for name in sorted(named) if not (DEPLOY / name).exists()] == []


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    made = tmp_path / "wheels"
    made.mkdir()
    for name in ("vpn_classifier-0.1.0-cp311-abi3-manylinux_2_34_x86_64.whl", "rich-15.0.0-py3-none-any.whl"):
        (made / name).write_text(name)
    return made


def bundle(wheels: Path, target: Path) -> Path:
    command = [sys.executable, str(DEPLOY / "bundle.py"), str(wheels), str(target)]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    (archive,) = target.iterdir()
    return archive


def test_the_archive_has_every_wheel_with_its_hash(wheels: Path, tmp_path: Path) -> None:
    archive = bundle(wheels, tmp_path / "out")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    name = f"vpn-classifier-0.1.0-{python}-manylinux_2_34_x86_64"
    assert archive.name == f"{name}.tar.gz"
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
        listed = tar.extractfile(f"{name}/requirements.txt")
        assert listed is not None
        requirements = listed.read().decode().splitlines()
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in wheels.glob("*.whl")}
    assert requirements == [
        f"{file.split('-')[0]}=={file.split('-')[1]} --hash=sha256:{hashes[file]}" for file in sorted(hashes)
    ]
    assert {f"{name}/{file}" for file in hashes} < names
    assert {f"{name}/docs/install.md", f"{name}/deploy/systemd/vpn-classifier.service"} < names
    assert not any("__pycache__" in file for file in names)


def test_the_same_wheels_give_the_same_archive(wheels: Path, tmp_path: Path) -> None:
    first, second = bundle(wheels, tmp_path / "first"), bundle(wheels, tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()
