"""A flood of forged openings: bounded, summarised, and every real tunnel in it is reported.

`python -m bench.events --flood 1000000` measures time and memory of ten times as many.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.events import write_flood
from classifier import _core, pipeline
from classifier.events import VpnLine
from classifier.inputs import find
from classifier.pipeline import Replay

OPENINGS, TUNNELS = 100_000, 25
POOL = 8_192


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flood") / "flood.pcap"
    write_flood(path, OPENINGS, TUNNELS)
    return path


def test_a_flood_of_openings_hides_no_tunnel(capture: Path) -> None:
    engine = _core.Engine(max_attempts=POOL)
    replay = Replay(find([str(capture)]), *pipeline.load_rules("rules/", None, None), None, engine)
    tunnels = announced = summarised = held = 0
    prefixes: list[str] = []
    counters: dict[str, int] = {}

    def look() -> None:
        nonlocal held
        held = max(held, engine.stats()["flows.active.attempt"])

    for event in replay.lines(look):
        if isinstance(event, VpnLine):
            flow = event.event()
            real = flow["src_ip"].startswith("10.9.")
            announced += flow["event"] == "recognised" and not real
            if event.ended and real:
                assert (flow["vpn"]["confidence"], flow["vpn"]["phase"]) == ("confirmed", "established")
                assert (flow["flow"]["pkts_toserver"], flow["flow"]["pkts_toclient"]) == (6, 6)
                tunnels += 1
        elif event["event_type"] == "attempts":
            item = event["attempts"]
            summarised += item["count"]
            prefixes.append(item["source_prefix"])
        elif event["event_type"] == "stats" and event["event"] == "ended":
            counters = event["stats"]["counters"]

    assert tunnels == TUNNELS
    assert 0 < held <= POOL
    assert counters["flows.evicted.attempt"] >= OPENINGS - POOL
    assert counters["flows.unreported"] == 0
    assert counters["attempts.summarised"] == summarised
    # Ten seconds are one window; forged sources are many prefixes with an opening or two, counted together.
    assert prefixes.count("0.0.0.0/0") == 1
    assert len(prefixes) < 100
    # Those of the tunnels themselves are openings, too, before they are answered.
    assert OPENINGS <= announced + summarised <= OPENINGS + TUNNELS
