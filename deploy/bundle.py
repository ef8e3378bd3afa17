"""One archive with all that a machine without a network needs: `make bundle` calls this.

In: a directory with wheels (vpn-classifier's own and those of what it needs), and where the archive is to go.
Out: the archive, whose only directory holds the wheels, `requirements.txt` with every version and hash, and
copies of deploy/, rules/ and the page that says how to install from it. The same wheels give the same bytes.

The rule a reader would get wrong: some of the wheels are for one version of Python and one kind of processor,
those of where the archive was made; its name says which.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN = "vpn_classifier"
COPIED = ("deploy", "rules", "docs/install.md", "LICENSE")


def requirements(wheels: list[Path]) -> str:
    """What pip is to install, and nothing else (pip install --require-hashes)."""
    lines = []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(lines)


def platform(wheels: list[Path]) -> str:
    """Of the wheels, what the narrowest ones ask for: Python and processor."""
    (own,) = (wheel for wheel in wheels if wheel.name.startswith(f"{OWN}-"))
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{own.stem.split('-')[-1]}"


def copied() -> Iterator[Path]:
    for name in COPIED:
        path = ROOT / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def main(source: Path, target: Path) -> None:
    wheels = sorted(source.glob("*.whl"))
    (version,) = (wheel.name.split("-")[1] for wheel in wheels if wheel.name.startswith(f"{OWN}-"))
    name = f"vpn-classifier-{version}-{platform(wheels)}"
    listed = source / "requirements.txt"
    listed.write_text(requirements(wheels), encoding="utf-8")
    contents = [(file, file.name) for file in (listed, *wheels)]
    contents += [(file, file.relative_to(ROOT).as_posix()) for file in copied()]

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.mode & 0o100 else 0o644
        return member

    target.mkdir(exist_ok=True)
    archive = target / f"{name}.tar.gz"
    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path, place in contents:
            tar.add(path, f"{name}/{place}", filter=plain)
    print(f"{archive}  {hashlib.sha256(archive.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
