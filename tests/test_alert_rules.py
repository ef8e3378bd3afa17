"""The rules of `deploy/prometheus/`: what promtool finds in them, and that the runbook belongs to them."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_server import Prometheus, Rule, promtool
from test_readme import OPTION, options

from classifier.metrics.names import METRICS, PREFIX

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "prometheus" / "vpn-classifier.rules.yml"
UNIT_TESTS = sorted((DEPLOY / "prometheus").glob("*.test.yml"))
DAYS = RULES.with_name("vpn-classifier-days.test.yml")
# What an operator finds below each alert of the runbook.
PARTS = ("**What it means.**", "**What to look at.**", "**What to do.**", "**When to ignore it.**", "```")
LOADED_WORDS = re.compile(r"illegal|offen[cd]|violat|suspect|culprit|\bdropped\b|blocked", re.IGNORECASE)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Rule]]:
    """The rules as Prometheus understands them."""
    with Prometheus(tmp_path_factory.mktemp("prometheus"), {}, rules=[RULES]) as prometheus:
        yield prometheus.rules()


@pytest.fixture(scope="module")
def alerts(loaded: list[Rule]) -> list[Rule]:
    found = [rule for rule in loaded if rule.kind == "alerting"]
    assert len(found) > 20
    return found


def runbook() -> dict[str, str]:
    """Its sections, by the anchor that a heading gets."""
    _, *sections = re.split(r"^## (.*)\n", (DEPLOY / "RUNBOOK.md").read_text(), flags=re.MULTILINE)
    return {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-"): text
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }


def test_promtool_finds_no_fault() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)


def test_each_alert_fires_and_stays_quiet_as_its_unit_test_says() -> None:
    assert promtool("test", "rules", *UNIT_TESTS).count("SUCCESS") == len(UNIT_TESTS) == 2


def test_unit_tests_notice_a_threshold_that_is_gone(tmp_path: Path) -> None:
    """That is, they could fail: without its condition on counts, the share of a single flow fires."""
    shutil.copy(DAYS, tmp_path)
    text = RULES.read_text()
    assert text.count(" >= 100\n") == 2
    (tmp_path / RULES.name).write_text(text.replace(" >= 100\n", " >= 1\n"))
    with pytest.raises(AssertionError, match="VpnClassifierUnregisteredShareChanged"):
        promtool("test", "rules", tmp_path / DAYS.name)


def test_each_alert_has_a_unit_test_in_which_it_fires(alerts: list[Rule]) -> None:
    text = "".join(file.read_text() for file in UNIT_TESTS)
    named = re.compile(r"alertname(?:=\"|: )(\w+)")
    expected = {
        (name, severity)
        for line in text.splitlines()
        if "exp_" not in line
        for name in named.findall(line)
        for severity in re.findall(r'severity="(\w+)"', line)
    }
    for block in text.split("- alertname: ")[1:]:
        for severity in re.findall(r"severity: (\w+)", block.split("- name:")[0]):
            expected.add((block.split()[0], severity))
    assert {(rule.name, rule.labels["severity"]) for rule in alerts} == expected


def test_each_alert_says_what_a_person_needs(alerts: list[Rule]) -> None:
    sections = runbook()
    for rule in alerts:
        assert rule.labels.keys() == {"severity"}, rule.name
        assert rule.labels["severity"] in ("critical", "warning"), rule.name
        assert rule.annotations.keys() == {"summary", "description", "runbook_url"}, rule.name
        assert "instance" in rule.annotations["summary"] or rule.name == "VpnClassifierNotScraped"
        page, anchor = rule.annotations["runbook_url"].split("#")
        assert page == "deploy/RUNBOOK.md"
        assert anchor == rule.name.lower()
        assert anchor in sections
        for part in PARTS:
            assert part in sections[anchor], (rule.name, part)
    anchors = {rule.name.lower() for rule in alerts}
    assert {anchor for anchor in sections if anchor.startswith("vpnclassifier")} == anchors


def test_every_metric_is_of_the_contract() -> None:
    """In the rules, in what they say, in their unit tests, and in the runbook."""
    known = {PREFIX + metric.name for metric in METRICS}
    for file in (RULES, *UNIT_TESTS, DEPLOY / "RUNBOOK.md"):
        asked = set(re.findall(rf"(?<![:\w]){PREFIX}[a-z0-9_]+[a-z0-9](?![\w:])", file.read_text()))
        assert len(asked) > 10, file
        assert asked <= known, file


def test_commands_of_the_runbook_exist() -> None:
    text = (DEPLOY / "RUNBOOK.md").read_text().replace("\\\n", " ")
    uses = re.findall(r"^vpn-classifier ((?:register |policy )?[a-z]\w*)(.*)", text, re.MULTILINE)
    assert len(uses) > 5
    for command, rest in uses:
        given = rest.partition("|")[0]
        assert set(OPTION.findall(given)) <= options(*command.split()), (command, rest)


def test_words_are_neutral(alerts: list[Rule]) -> None:
    for text in (*(str(rule.annotations) for rule in alerts), *runbook().values()):
        # Names of metrics, in backquotes or as a rule, are what they are.
        found = LOADED_WORDS.findall(re.sub(r"\b\w*_\w*\b", "", text))
        assert not found, (found, text)
