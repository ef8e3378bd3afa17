"""`policy test`: the shipped cases pass, a difference is shown, and a faulty case is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from event_files import RULES

from classifier import cli
from classifier.errors import ConfigError
from classifier.policy import Policy
from classifier.policy_cases import read_cases, run
from classifier.standing import VERDICTS

POLICY = RULES / "policy.toml"
CASES = RULES / "policy.test.toml"


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["policy", "test", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_shipped_cases_pass_and_ask_for_every_verdict() -> None:
    policy = Policy.load(POLICY)
    results = run(policy, read_cases(CASES, policy))
    assert [(result.case.name, result.differences) for result in results if result.differences] == []
    assert {result.case.verdict for result in results} == set(map(str, VERDICTS))
    assert {result.rule for result in results} >= {rule.rule_id for rule in policy.rules}


def test_the_command_prints_every_case(capfd: pytest.CaptureFixture[str]) -> None:
    assert command(str(POLICY)) == 0
    out = capfd.readouterr().out
    assert "a phone on Wi-Fi calling" in out
    assert out.count("passed") == len(read_cases(CASES, Policy.load(POLICY))) + 1
    assert "0 failed" in out


def test_a_difference_is_shown_with_its_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changed = tmp_path / "policy.toml"
    changed.write_text(POLICY.read_text().replace("min_subject_packets = 1\n", "", 1))
    assert command(str(changed), "--cases", str(CASES)) == 1
    out = capfd.readouterr().out
    assert "a subscriber who never answers a stranger (line" in out
    assert "  action: expected observe, found flag" in out
    assert "  No registration matched 198.51.100.23." in out
    assert "1 failed" in out


def cases(folder: Path, text: str) -> str:
    """What is wrong with the cases in `text`."""
    path = folder / "policy.test.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_cases(path, Policy.load(POLICY))
    return str(caught.value).replace(f"{path}:", "")


GOOD = """\
at = 2026-11-22

[[case]]
name = "one"
protocol = "wireguard"
source = "198.51.100.23:1"
destination = "203.0.113.9:1"
verdict = "unregistered"
"""


def test_cases_need_nothing_but_themselves(tmp_path: Path) -> None:
    path = tmp_path / "policy.test.toml"
    path.write_text(
        GOOD
        + '\n[[case.entry]]\nprefix = "203.0.113.9"\n\n'
        + GOOD.partition("\n\n")[2].replace("one", "two")
    )
    policy = Policy.load(POLICY)
    one, two = run(policy, read_cases(path, policy))
    assert one.differences == ["verdict: expected unregistered, found registered"]
    assert two.differences == [], "the entries of a case are its own"


@pytest.mark.parametrize(
    ("was", "now", "fault"),
    [
        ("at = 2026-11-22", "", "3: case[0].at: found no such key"),
        ('"wireguard"', '"wiregard"', "5: case[0].protocol: found 'wiregard'; expected 'wireguard'"),
        (
            "198.51.100.23:1",
            "198.51.100.0/24",
            "6: case[0].source: found '198.51.100.0/24'; expected an address",
        ),
        ("203.0.113.9:1", "[2001:db8::1]:1", "7: case[0].destination: found an address of the other family"),
        ('verdict = "unregistered"', "", "3: case[0].verdict: found nothing that is expected"),
        ('"unregistered"', '"illegal"', "8: case[0].verdict: found 'illegal'; expected one of registered"),
        ("verdict =", "verdit =", "8: case[0].verdit: found an unknown key; expected the key 'verdict'"),
        ('name = "one"', 'name = ""', "4: case[0].name: found ''; expected some text"),
    ],
)
def test_a_faulty_case_is_named_with_its_line(tmp_path: Path, was: str, now: str, fault: str) -> None:
    assert fault in cases(tmp_path, GOOD.replace(was, now))


def test_a_faulty_entry_of_the_second_case_is_named_with_its_line(tmp_path: Path) -> None:
    second = GOOD.partition("\n\n")[2].replace("one", "two")
    text = GOOD + "\n" + second + '[[case.entry]]\nprefix = "203.0.113.9/24"\n'
    assert "17: case[1].entry[0].prefix: found '203.0.113.9/24'; expected no host bits" in cases(
        tmp_path, text
    )
    assert "10: case[1].name: found the name of another case" in cases(
        tmp_path, GOOD + second.replace("two", "one")
    )


def test_a_file_without_cases(tmp_path: Path) -> None:
    assert "case: found no case; expected at least one [[case]]" in cases(tmp_path, "")
