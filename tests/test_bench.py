"""bench/: README shows the newest result, limits are judged rightly, callgrind is read rightly."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from bench.instructions import FIGURES, PAGE, compare, parse
from bench.measure import BenchError, between, run
from bench.peers import lean
from bench.plots import draw
from bench.results import PLOTS, README, RESULTS, Limit, Result, Row, load, newest, save, tables
from bench.results import shown as shown_of

KEPT = sorted(RESULTS.glob("*.jsonl"))


def test_the_readme_shows_the_newest_result() -> None:
    kept = newest()
    page = README.read_text(encoding="utf-8")
    shown = page.partition("<!-- results: begin")[2].partition("<!-- results: end -->")[0]
    if kept is None:
        assert "No run has been kept yet" in shown
        assert ".svg" not in page
        return
    assert shown_of(load(kept), kept.name) in shown, "run python -m bench --render"
    for plot in PLOTS:
        assert f"Result {kept.name}" in (RESULTS / plot).read_text(encoding="utf-8"), plot


def test_plots_have_a_line_for_each_program_that_was_measured(tmp_path: Path) -> None:
    rows = [
        Row(section, f"{at}", "ns", at / 10, {"floor": at / 20, "ndpiReader": at}, (), {by: at})
        for section, by in (("flows", "flows"), ("sizes", "octets"))
        for at in (50.0, 1_000.0, 1_500.0)
    ]
    draw(Result({}, rows), "one.jsonl", tmp_path)
    for plot in PLOTS:
        text = (tmp_path / plot).read_text(encoding="utf-8")
        assert "Result one.jsonl" in text
        assert "vpn-classifier" in text
        assert "floor: reads" in text
        assert "ndpiReader" in text
        assert "nfstream" not in text
        assert "1,500" in text
    first = (tmp_path / "flows.svg").read_bytes()
    draw(Result({}, rows), "one.jsonl", tmp_path)
    assert (tmp_path / "flows.svg").read_bytes() == first


def test_a_result_says_what_it_was_measured_on_and_nothing_of_the_host() -> None:
    for path in KEPT:
        _check_result(path)


def _check_result(path: Path) -> None:
    result = load(path)
    for name in ("date", "processor", "cores", "memory", "kernel", "commit", "rustc", "python", "peers"):
        assert result.about[name], name
    assert result.about["mode"] == "full"
    assert path.stem == result.about["date"].replace(":", "")
    assert not re.search(r"host|/home|/root|/tmp", path.read_text(encoding="utf-8"))
    names = [row.name for row in result.rows if row.section != "flows"]
    assert len(names) == len(set(names))


def row(ours: float, limits: tuple[Limit, ...], **others: float) -> Row:
    return Row("speed", "load", "ns", ours, others, limits)


def test_limits_are_met_missed_or_not_to_be_told() -> None:
    floor, peer, own = Limit(1.5, "floor"), Limit(1 / 10, "ndpiReader"), Limit(200)
    fast = row(150, (floor, peer, own), floor=100, ndpiReader=1_500)
    assert [fast.met(limit) for limit in fast.limits] == [True, True, True]
    slow = row(201, (floor, peer, own), floor=100, ndpiReader=2_000)
    assert [slow.met(limit) for limit in slow.limits] == [False, False, False]
    alone = row(150, (floor, peer))
    assert [alone.met(limit) for limit in alone.limits] == [None, None]


def test_a_result_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    about = dict.fromkeys(("date", "processor", "cores", "memory", "kernel", "mode", "commit"), "x") | {
        "peers": "ndpiReader 1 (lean).\nnfstream is missing."
    }
    rows = [
        row(160, (Limit(1.5, "floor"), Limit(1 / 10, "ndpiReader")), floor=100, ndpiReader=2_400),
        Row("memory", "peak", "MB", 240.0, {}, (Limit(250),), {"held": 7}),
    ]
    save(Result(about, rows), tmp_path / "one.jsonl")
    back = load(tmp_path / "one.jsonl")
    assert back == Result(about, rows)
    for line in (tmp_path / "one.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)
    text = tables(back)
    assert "| load | 160 | 100 | 1.60 (1.5) ✗ | 2,400 | 15.0 (10) ✓ |" in text
    assert "| peak | MB | 240 |  | 250 | ✓ |" in text
    assert "Not met: load." in text
    assert "nfstream is missing." in text


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = "a\n<!-- x: begin (make y) -->\nold\n<!-- x: end -->\nb\n"
    assert between(page, "x", "new\n") == "a\n<!-- x: begin (make y) -->\nnew\n<!-- x: end -->\nb\n"
    with pytest.raises(BenchError, match="no place for z"):
        between(page, "z", "new")


def test_protocols_are_switched_off_where_ndpireader_can() -> None:
    old = "  -b <num bin clusters>     | Number of bin clusters\n  1 FTP_CONTROL  TCP  Unsafe  Download\n"
    assert lean(old)[0] == ["-q", "-d"]
    new = (
        "  -B all|proto|num[,...]    | Disable such protocol(s). By defaul all protocols are enabled\n"
        " Id Userd-id Protocol   Layer_4\n  0        0 Unknown    TCP\n  1        1 FTP_CONTROL TCP\n"
        " 79       79 IPSec      UDP\n159      159 OpenVPN    TCP/UDP\n206      206 WireGuard  UDP\n"
        "207      207 SMPP       TCP\n"
    )
    assert lean(new)[0] == ["-q", "-d", "-B", "1,207"]


def test_the_page_shows_the_committed_counts() -> None:
    figures = tomllib.loads(FIGURES.read_text(encoding="utf-8"))["instructions-per-packet"]
    shown = PAGE.read_text(encoding="utf-8").partition("<!-- instructions: begin")[2]
    total = "| **all** | " + " | ".join(f"**{figure:.0f}**" for figure in figures.values()) + " |"
    assert "| source file | " + " | ".join(figures) + " |" in shown
    assert total in shown, "run make instructions UPDATE=1"


CALLGRIND = """\
ob=/bin/engine
fn=engine::replay
0x100 39 5
0x104 40 2
cob=/lib/libc.so.6
cfn=memcpy
calls=3 0x900 1
0x108 41 300
0x10c 41 1

ob=/lib/libc.so.6
fn=memcpy
0x900 1 300
"""


def test_own_cost_is_counted_once_and_by_object() -> None:
    ours, others, functions = parse(CALLGRIND, Path("/bin/engine"))
    assert ours == {0x100: 5, 0x104: 2, 0x10C: 1}
    assert others == {"memcpy": 300}
    assert functions == {"engine::replay": 8, "memcpy": 300}


def test_a_gain_fails_like_a_loss_and_another_compiler_too(capsys: pytest.CaptureFixture[str]) -> None:
    committed = tomllib.loads(FIGURES.read_text(encoding="utf-8"))
    figures = committed["instructions-per-packet"]
    floors = dict.fromkeys(figures, 1.0)
    assert compare(committed["rustc"], figures, floors) == 0
    assert compare(committed["rustc"], figures | {"mix": figures["mix"] * 1.019}, floors) == 0
    for change in (1.021, 0.979):
        assert compare(committed["rustc"], figures | {"mix": figures["mix"] * change}, floors) == 1
        assert "mix: more than 2%" in capsys.readouterr().out
    assert compare("9.9.9", figures, floors) == 1
    assert "those of rustc" in capsys.readouterr().out


def test_a_run_is_measured_without_what_the_benchmarks_themselves_hold() -> None:
    held = bytearray(300 << 20)
    small = run([sys.executable, "-I", "-S", "-c", "print('out')"])
    assert small.output == "out\n"
    assert small.memory_mb < 100 < len(held) >> 20
    large = run([sys.executable, "-I", "-S", "-c", "b = b'x' * (200 << 20)"])
    assert 200 < large.memory_mb < 300
    with pytest.raises(BenchError, match="status 3"):
        run([sys.executable, "-I", "-S", "-c", "raise SystemExit(3)"])
    assert run([sys.executable, "-I", "-S", "-c", "raise SystemExit(4)"], (0, 4)).cpu_s > 0
    with pytest.raises(BenchError, match="no-such-program"):
        run(["no-such-program"])
