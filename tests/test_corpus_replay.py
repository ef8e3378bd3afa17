"""`make corpus-replay`: what it counts, and that it says so when something does not add up."""

from pathlib import Path

import pytest
from pcap_cases import all_cases, repository

from bench.corpus_replay import Result, faults, main


def test_the_captures_of_the_repository_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(repository() / "pcaps")])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    files = [path for path in (repository() / "pcaps").rglob("*") if path.is_file()]
    assert said.startswith(f"{len(files)} files, ")
    assert f"{len(files) - len(all_cases())} not_a_capture" in said
    assert "2 truncated" in said
    assert "wrong" not in said


def test_an_imbalance_is_said() -> None:
    balanced = {"frames": 9, "decoded": 6, "undecoded.ipv4_malformed": 2, "ignored.duplicate": 1}
    balanced |= {"flow_packets": 3, "no_flow.arp": 1, "fragments_unmatched": 1, "fragments_waiting": 1}
    assert Result(balanced).faults() == []
    for name in balanced:
        assert Result(balanced | {name: balanced[name] + 1}).faults() != [], name


def test_files_that_are_no_captures_are_counted_by_their_reason(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no capture")
    (tmp_path / "empty").write_bytes(b"")
    found = {path.name: faults(path) for path in tmp_path.iterdir()}
    assert {name: (result.errors, wrong) for name, (result, wrong) in found.items()} == {
        "text": (["not_a_capture"], []),
        "empty": (["empty"], []),
    }


def test_a_directory_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="name a directory of captures"):
        main([str(tmp_path)])
