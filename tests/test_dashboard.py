"""The dashboard of `deploy/grafana/`: that it can be imported, and that each panel says what it shows.

What it asks Prometheus is asked in `test_alerts_fire`, where sensors run.
"""

import re

from grafana_dashboard import dashboard, expressions, panels

from classifier.metrics.names import METRICS, PREFIX

QUESTIONS = ["Does it see everything?", "What is out there?", "What changed?"]
UNITS = {"none", "short", "pps", "ops", "s", "percentunit", "bytes"}


def test_its_rows_are_three_questions() -> None:
    assert [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"] == QUESTIONS


def test_it_can_be_told_which_prometheus_sensor_and_interface() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert variables.keys() == {"datasource", "instance", "interface"}
    assert variables["datasource"]["type"] == "datasource"
    for name in ("instance", "interface"):
        assert (variables[name]["multi"], variables[name]["includeAll"]) == (True, True)
    for panel in panels():
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        for target in panel["targets"]:
            assert "$instance" in target["expr"], target["expr"]


def test_every_panel_says_what_it_shows() -> None:
    shown = panels()
    titles = [panel["title"] for panel in shown]
    assert len(set(titles)) == len(titles) > 30
    for panel in shown:
        assert panel["description"].endswith("."), panel["title"]
        settings = panel["fieldConfig"]["defaults"]
        assert settings["unit"] in UNITS, panel["title"]
        levels = [step["value"] for step in settings["thresholds"]["steps"]]
        assert levels[0] is None, panel["title"]
        assert levels[1:] == sorted(levels[1:]), panel["title"]


def test_panels_have_ids_and_places_of_their_own() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        grid = panel["gridPos"]
        place = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        assert not place & taken, panel["title"]
        taken |= place


def test_loads_of_a_register_are_marked() -> None:
    named = {annotation["name"]: annotation["expr"] for annotation in dashboard()["annotations"]["list"]}
    assert "reload_last_success_timestamp_seconds" in named["Register or policy loaded"]


def test_every_metric_is_of_the_contract() -> None:
    known = {PREFIX + metric.name for metric in METRICS} | {
        PREFIX + metric.name + part for metric in METRICS for part in ("_bucket", "_count", "_sum")
    }
    asked = {name for text in expressions() for name in re.findall(rf"(?<![:\w]){PREFIX}\w+", text)}
    assert len(asked) > 30
    assert asked <= known
