"""Real VPN programs across an edge router, `watch` on a mirror there, and what becomes known of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lab import LATE, METRICS, OTHER_PROTOCOL, REGISTERED, UNREGISTERED, Lab, command
from laboratory import Laboratory, stop, until
from pcap_cases import repository
from prometheus_server import Prometheus, compressed

from classifier import events

VALIDATOR = jsonschema.Draft202012Validator(events.schema())
# By subscriber: protocol, variants, verdict, action.
EXPECTED = {
    REGISTERED: ("wireguard", {"standard"}, "registered", "pass"),
    UNREGISTERED: ("openvpn", {"tls-crypt"}, "unregistered", "flag"),
    LATE: ("ipsec", {"ikev2", "ikev2+esp-in-udp"}, "unregistered", "flag"),
    OTHER_PROTOCOL: ("openvpn", {"plain"}, "protocol_mismatch", "observe"),
}
FLAGGED = ("confirmed", "established")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    sensor = Laboratory()
    made = None
    try:
        made = Lab(sensor, tmp_path)
        yield made
    finally:
        if made is not None:
            made.close()
        sensor.close()


def read(file: Path) -> list[dict[str, Any]]:
    """The events in it, whole lines as far as it goes."""
    loaded = [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    for event in loaded:
        VALIDATOR.validate(event)
    return loaded


def flows(lab: Lab, number: int, event: str | None = None) -> list[dict[str, Any]]:
    """The events of a subscriber."""
    address = f"198.51.100.{number}"
    return [
        line
        for line in read(lab.events)
        if line["event_type"] == "vpn" and line["src_ip"] == address and event in (None, line["event"])
    ]


def judged(lab: Lab, number: int) -> Callable[[], bool]:
    """Whether an established flow of the subscriber has the action that is expected."""

    def is_judged() -> bool:
        return any(
            (event["vpn"]["phase"], event["policy"]["action"]) == ("established", EXPECTED[number][3])
            for event in flows(lab, number)
        )

    return is_judged


@pytest.fixture
def prometheus(lab: Lab, tmp_path: Path) -> Iterator[Prometheus]:
    rules = compressed(repository() / "deploy/prometheus/vpn-classifier.rules.yml", tmp_path)
    targets = {"vpn-classifier": [METRICS]}
    with Prometheus(
        tmp_path / "prometheus", targets, rules=[rules], enter=lab.network.sensor.enter
    ) as server:
        yield server


def test_registered_unregistered_and_corrected(lab: Lab, prometheus: Prometheus, tmp_path: Path) -> None:
    watch = lab.watch()
    lab.open_tunnels(*EXPECTED)
    for number, (protocol, variants, verdict, action) in EXPECTED.items():
        until(judged(lab, number), f"an established flow of 198.51.100.{number} with action {action}")
        seen = flows(lab, number)
        assert {event["vpn"]["protocol"] for event in seen} == {protocol}
        assert {event["vpn"]["variant"] for event in seen} == variants
        assert {event["policy"]["verdict"] for event in seen} == {verdict}
        assert {event["policy"]["direction"] for event in seen} == {"outbound"}
        assert {event["dest_ip"] for event in seen} == {f"203.0.113.{number}"}
        assert not seen[-1]["vpn"]["midflow"]
        assert {event["policy"]["action"] for event in seen if event["vpn"]["phase"] == "attempt"} <= {
            "pass" if action == "pass" else "observe"
        }
    firsts = [event for event in read(lab.events) if event.get("policy", {}).get("first")]
    assert [event["src_ip"] for event in firsts] == [
        f"198.51.100.{number}" for number in (UNREGISTERED, LATE)
    ]
    assert all((event["vpn"]["confidence"], event["vpn"]["phase"]) == FLAGGED for event in firsts)
    before = tmp_path / "before.jsonl"
    before.write_bytes(lab.events.read_bytes())
    prometheus.until(f"vpn_classifier_packets_total >= {received(lab)}")
    assert counted(prometheus, "flows_total", 'confidence="confirmed",phase="established"', "protocol") == {
        ("ipsec",): 2,
        ("openvpn",): 2,
        ("wireguard",): 1,
    }
    assert counted(prometheus, "verdicts_total", 'action!="observe"', "protocol", "verdict", "action") == {
        ("ipsec", "unregistered", "flag"): 1,
        ("openvpn", "unregistered", "flag"): 1,
        ("wireguard", "registered", "pass"): 1,
    }
    assert counted(prometheus, "cases_flagged_total", "", "verdict") == {("unregistered",): 2}
    assert counted(prometheus, "subscribers", "", "verdict") == {
        ("protocol_mismatch",): 1,
        ("registered",): 1,
        ("unregistered",): 2,
    }
    assert counted(prometheus, "register_entries", "", "state") == {("approved",): 2}
    assert prometheus.firing("VpnClassifierReloadFailed") == []

    # Somebody mistypes the policy while the register is on its way.
    policy = lab.policy.read_text()
    lab.policy.write_text(policy.replace("enforce_from", "enforce_form"))
    watch.send_signal(signal.SIGHUP)
    alert = prometheus.until_firing("VpnClassifierReloadFailed")
    assert "Serial 1 stays in force" in alert.annotations["description"]
    lab.policy.write_text(policy)
    lab.register(LATE, "ipsec")
    watch.send_signal(signal.SIGHUP)
    until(lambda: len(rejudged(lab)) == 2, "the verdicts of two flows to change")
    prometheus.until_quiet("VpnClassifierReloadFailed")
    assert counted(prometheus, "reloads_total", "", "outcome") == {("loaded",): 1, ("refused",): 1}
    assert counted(prometheus, "register_serial", "") == {(): 2}
    for number in EXPECTED:
        lab.talk(number)
    lab.network.cut()
    copied = received(lab)
    prometheus.until(f'vpn_classifier_capture_received_packets_total{{interface="tap0"}} == {copied}')
    assert counted(prometheus, "capture_dropped_packets_total", "", "interface") == {}
    assert prometheus.value("instance:vpn_classifier_packets_unaccounted:difference") == 0
    assert counted(prometheus, "verdicts_total", 'protocol="ipsec",action="pass"', "verdict") == {
        ("registered",): 2
    }
    assert stop(watch) == 0

    assert {event["src_ip"] for event in rejudged(lab)} == {f"198.51.100.{LATE}"}
    (corrected,) = (event for event in rejudged(lab) if event["policy"]["was"]["action"] == "flag")
    assert corrected["policy"]["was"] == {
        "verdict": "unregistered",
        "action": "flag",
        "rule": "no-entry",
        "register_serial": 1,
        "policy_hash": corrected["policy"]["policy_hash"],
    }
    assert (corrected["policy"]["verdict"], corrected["policy"]["action"]) == ("registered", "pass")
    assert [entry["entry_id"] for entry in corrected["policy"]["entries"]] == [f"R-{LATE}"]
    after = dict(EXPECTED) | {LATE: ("ipsec", EXPECTED[LATE][1], "registered", "pass")}
    for number, (_, variants, verdict, action) in after.items():
        ended = flows(lab, number, "ended")
        assert {event["vpn"]["variant"] for event in ended} == variants
        assert {(event["policy"]["verdict"], event["policy"]["action"]) for event in ended} == {
            (verdict, action)
        }
        # Twice ten datagrams went each way, and came through.
        assert max(event["flow"]["pkts_toserver"] for event in ended) >= 20
        assert max(event["flow"]["pkts_toclient"] for event in ended) >= 20
    counters = read(lab.events)[-1]["stats"]["counters"]
    assert counters["kernel.dropped"] == 0
    assert counters["frames"] == copied

    # Whoever took the flag from what was written before is told that it is withdrawn; the rest says so.
    corrections = recheck(lab, before)
    assert {event["correction"]["now"]["verdict"] for event in corrections} == {"registered"}
    assert {
        event["correction"]["case_id"] for event in corrections if event["correction"]["scope"] == "case"
    } == {corrected["policy"]["case_id"]}
    assert recheck(lab, lab.events) == []


def test_the_interface_is_taken_away_and_comes_back(lab: Lab, prometheus: Prometheus) -> None:
    watch = lab.watch()
    lab.open_tunnels(REGISTERED, UNREGISTERED)
    until(judged(lab, UNREGISTERED), "a flag")
    lab.network.sensor.run("ip", "link", "delete", "tap0")
    prometheus.until("vpn_classifier_interface_up == 0")
    lab.talk(REGISTERED, 200)  # unseen by the sensor
    lab.network.mirror()
    prometheus.until("vpn_classifier_interface_up == 1")
    lab.talk(UNREGISTERED)
    assert stop(watch) == 0
    counters = read(lab.events)[-1]["stats"]["counters"]
    assert (counters["interfaces.downs"], counters["interfaces.down"]) == (1, 0)
    for number, seen in ((REGISTERED, 10), (UNREGISTERED, 20)):
        # The flow is the one that it was.
        (ended,) = flows(lab, number, "ended")
        assert ended["policy"]["action"] == EXPECTED[number][3]
        assert seen <= ended["flow"]["pkts_toclient"] < 200
        assert len({event["flow_id"] for event in flows(lab, number)}) == 1


@pytest.mark.parametrize("fault", ["broken", "unreadable", "gone"])
def test_the_register_is_taken_away_and_comes_back(lab: Lab, tmp_path: Path, fault: str) -> None:
    watch = lab.watch()
    lab.open_tunnels(UNREGISTERED)
    until(judged(lab, UNREGISTERED), "a flag")
    lab.register(UNREGISTERED)
    aside = lab.db.rename(tmp_path / "aside.db")
    if fault == "broken":
        lab.db.write_bytes(aside.read_bytes()[:5000])
    elif fault == "unreadable":
        lab.db.write_bytes(aside.read_bytes())
        lab.db.chmod(0)
    watch.send_signal(signal.SIGHUP)
    until(lambda: reloads(lab) == ["refused"], "the register to be refused")
    lab.open_tunnels(REGISTERED)
    until(judged(lab, REGISTERED), "the register that is in force to pass a flow")
    (refused,) = (event for event in read(lab.events) if event["event_type"] == "register")
    assert refused["register"]["serial"] == 1
    assert str(lab.db) in refused["faults"][0]
    assert rejudged(lab) == []

    aside.replace(lab.db)
    watch.send_signal(signal.SIGHUP)
    until(lambda: reloads(lab) == ["refused", "loaded"], "the register to be loaded")
    until(lambda: bool(rejudged(lab)), "a verdict that changes")
    assert stop(watch) == 0
    assert {event["policy"]["verdict"] for event in rejudged(lab)} == {"registered"}


def test_the_process_is_killed_and_started_again(lab: Lab) -> None:
    watch = lab.watch()
    lab.open_tunnels(*EXPECTED)
    until(judged(lab, OTHER_PROTOCOL), "the last of them to be judged")
    assert stop(watch, signal.SIGKILL) == -signal.SIGKILL
    assert lab.events.read_bytes().endswith(b"\n")
    before = read(lab.events)

    watch = lab.watch()
    for number in EXPECTED:
        lab.talk(number)
        lab.talk(number)
    assert stop(watch) == 0
    both = read(lab.events)
    assert both[: len(before)] == before
    started, *_, ended = both[len(before) :]
    assert (started["event"], ended["event"]) == ("started", "ended")
    # Joined in the middle, each is what it was.
    for number, (protocol, _, verdict, action) in EXPECTED.items():
        (flow,) = flows(lab, number, "ended")
        assert (flow["vpn"]["protocol"], flow["vpn"]["phase"], flow["vpn"]["midflow"]) == (
            protocol,
            "data_only",
            True,
        ), flow["vpn"]
        assert (flow["policy"]["verdict"], flow["policy"]["action"]) == (verdict, action), flow


def reloads(lab: Lab) -> list[str]:
    """What became of each register that was to be loaded."""
    return [event["event"] for event in read(lab.events) if event["event_type"] == "register"]


def rejudged(lab: Lab) -> list[dict[str, Any]]:
    """The events of verdicts that another register changed."""
    return [
        event
        for event in read(lab.events)
        if event["event_type"] == "vpn" and "register_serial" in event["policy"].get("was", {})
    ]


def recheck(lab: Lab, written: Path) -> list[dict[str, Any]]:
    """The corrections by the register that is in force now."""
    said = command("recheck", str(written), "--register", str(lab.db), "--policy", str(lab.policy))
    return [event for event in map(json.loads, said.splitlines()) if event["event_type"] == "correction"]


def counted(prometheus: Prometheus, name: str, labels: str, *by: str) -> dict[tuple[str, ...], float]:
    """What a metric was when it was scraped last, summed by these labels; series that are 0 are left out."""
    samples = prometheus.query(f"sum by ({','.join(by)}) (vpn_classifier_{name}{{{labels}}}) != 0")
    return {tuple(sample.labels[label] for label in by): sample.value for sample in samples}


def received(lab: Lab) -> int:
    """Frames that came to the sensor's interface, as the kernel counts them."""
    (link,) = json.loads(lab.network.sensor.run("ip", "-json", "-statistics", "link", "show", "tap0"))
    count: int = link["stats64"]["rx"]["packets"]
    return count
