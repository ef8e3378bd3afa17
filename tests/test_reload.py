"""A register or policy that arrives, and dates that pass, while flows run: what is judged again and said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from fake_engine import SECOND, T0, FakeEngine, Row, Step, inputs
from hypothesis import given
from hypothesis import strategies as st
from scenes import OneBlockAPoll, filed, issue, ordinary, take, write

from classifier import _core, events
from classifier.inputs import find
from classifier.judgement import Action
from classifier.pipeline import Replay, Settings
from classifier.policy import Policy, Rule, UnregisteredAfter
from classifier.register import Entry, Prefix, Register, Status
from classifier.reload import Reloader, reload_text
from classifier.standing import Verdict

VALIDATOR = jsonschema.Draft202012Validator(events.schema())
ROOT = Path(__file__).parents[1]
DAY = 86_400 * SECOND
NEW = Row()
FLAG = Rule("flag-it", Action.FLAG, verdicts=frozenset({Verdict.UNREGISTERED, Verdict.EXPIRED}))
POLICY = Policy("p" * 64, (FLAG,), enforce_from_ns=0, local=(Prefix.parse("192.0.2.0/24"),))


def register(*entries: Entry, serial: int = 47, issued_ns: int = T0 - DAY) -> Register:
    return issue(*entries, serial=serial, issued_ns=issued_ns, next_ns=issued_ns + 7 * DAY)


def registered(**fields: object) -> Entry:
    return filed("192.0.2.10", T0 - 100 * DAY, **fields)


class Play:
    """A run over captures that were written down; something may be done after some of the polls."""

    def __init__(
        self,
        *captures: Sequence[Step],
        known: Register | None = None,
        policy: Policy = POLICY,
        settings: Settings | None = None,
    ) -> None:
        names = [f"{number}.pcap" for number in range(len(captures))]
        self.engine = FakeEngine(dict(zip(names, captures, strict=True)))
        engine = cast(_core.Engine, self.engine)
        self.run = Replay(inputs(*names), known or register(), policy, settings, engine)

    def events(self, **after_poll: Callable[[Replay], None]) -> list[dict[str, Any]]:
        """All events, checked against the schema; `poll_2=...` is done after the second poll."""
        polls = 0

        def on_poll() -> None:
            nonlocal polls
            polls += 1
            if act := after_poll.get(f"poll_{polls}"):
                act(self.run)

        stream = [json.loads(json.dumps(event)) for event in self.run.events(on_poll)]
        for event in stream:
            VALIDATOR.validate(event)
        return stream


def vpn(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in stream if event["event_type"] == "vpn"]


def said(stream: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(event["event"], event["policy"]["verdict"], event["policy"]["action"]) for event in vpn(stream)]


def reloads(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in stream if event["event_type"] == "register"]


LATER = replace(NEW, flow_id=9, number=9, time_ns=T0 + 5 * SECOND, destination_ip="198.51.100.99")
AMONG_OTHERS: list[Step] = [[NEW], [LATER], [NEW.then("ended", 9)]]


def test_running_flows_are_judged_by_the_register_that_arrives() -> None:
    play = Play(*[AMONG_OTHERS])
    stream = play.events(poll_1=lambda run: run.reload(register(registered(), serial=48, issued_ns=T0)))
    assert said(stream) == [
        ("recognised", "unregistered", "flag"),
        ("changed", "registered", "pass"),
        ("recognised", "registered", "pass"),
        ("ended", "registered", "pass"),
    ]
    changed = vpn(stream)[1]["policy"]
    assert changed["register_serial"] == 48
    assert changed["was"] == {
        "verdict": "unregistered",
        "action": "flag",
        "rule": "flag-it",
        "register_serial": 47,
        "policy_hash": "p" * 64,
    }
    assert changed["why"] == (
        "192.0.2.10 is registered (entry R-1). Since it was judged before, the register of serial 48 took "
        "the place of serial 47."
    )
    assert "was" not in vpn(stream)[3]["policy"]


def test_a_register_event_says_what_was_loaded_when() -> None:
    play = Play(*[AMONG_OTHERS])
    stream = play.events(poll_1=lambda run: run.reload(register(registered(), serial=48, issued_ns=T0)))
    (event,) = reloads(stream)
    assert stream.index(event) == 2  # after the first line and the first flow, before what it changes
    assert event.pop("version") == _core.version
    assert event == {
        "timestamp": "2026-03-01T12:00:00.000000000Z",
        "schema": "1.0",
        "sensor": "replay",
        "event_type": "register",
        "event": "loaded",
        "register": {
            "source": "regulator",
            "serial": 48,
            "issued_at": "2026-03-01T12:00:00.000000000Z",
            "next_update": "2026-03-08T12:00:00.000000000Z",
            "sha256": f"{48:064x}",
            "entries": 1,
        },
        "policy_hash": "p" * 64,
        "was": {"register_serial": 47, "policy_hash": "p" * 64},
    }
    assert [line["stats"]["register"]["serial"] for line in (stream[0], stream[-1])] == [47, 48]
    counters = stream[-1]["stats"]["counters"]
    assert (counters["reloads.loaded"], counters["reloads.refused"]) == (1, 0)


def test_a_register_that_changes_nothing_for_a_flow_gives_it_no_event() -> None:
    play = Play(*[AMONG_OTHERS])
    stream = play.events(poll_1=lambda run: run.reload(register(serial=48)))
    assert [event for event, *_ in said(stream)] == ["recognised", "recognised", "ended"]
    # It has been judged by the new one all the same: that is what the next change is compared with.
    assert len(set(play.engine.tags.values())) == 1


def test_a_change_of_both_flow_and_register_names_the_register() -> None:
    play = Play([[NEW], [NEW.then("changed", 2, phase="data_only")], [NEW.then("ended", 9)]])
    stream = play.events(poll_1=lambda run: run.reload(register(registered(), serial=48)))
    assert said(stream)[1] == ("changed", "registered", "pass")
    assert [len(vpn(stream)), vpn(stream)[2]["event"]] == [4, "changed"]  # the core's own report follows


def test_a_policy_that_arrives_brings_its_milestones_and_dates() -> None:
    patient = replace(POLICY, sha256="q" * 64, rules=(replace(FLAG, min_packets=50, min_duration_ns=SECOND),))
    play = Play(*[AMONG_OTHERS])
    stream = play.events(poll_1=lambda run: run.reload(policy=patient))
    assert said(stream)[:2] == [
        ("recognised", "unregistered", "flag"),
        ("changed", "unregistered", "observe"),
    ]
    assert "another policy came into force" in vpn(stream)[1]["policy"]["why"]
    assert vpn(stream)[1]["policy"]["was"]["policy_hash"] == "p" * 64
    assert play.engine.milestones == ((50,), (1.0,))
    assert reloads(stream)[0]["policy_hash"] == "q" * 64
    assert reloads(stream)[0]["register"]["serial"] == 47


def test_the_same_register_again_changes_nothing() -> None:
    known = register()
    play = Play(*[AMONG_OTHERS], known=known)
    stream = play.events(poll_1=lambda run: run.reload(known, POLICY))
    assert [event for event, *_ in said(stream)] == ["recognised", "recognised", "ended"]
    assert reloads(stream)[0]["was"]["register_serial"] == 47


def test_what_is_refused_leaves_everything_as_it_was() -> None:
    play = Play(*[AMONG_OTHERS])
    stream = play.events(poll_1=lambda run: run.refuse([f"fault {n}" for n in range(20)]))
    assert said(stream) == said(Play(*[AMONG_OTHERS]).events())
    (event,) = reloads(stream)
    assert (event["event"], event["register"]["serial"], event["was"]["register_serial"]) == (
        "refused",
        47,
        47,
    )
    assert (len(event["faults"]), event["faults_found"]) == (16, 20)
    counters = stream[-1]["stats"]["counters"]
    assert (counters["reloads.loaded"], counters["reloads.refused"]) == (0, 1)
    assert reload_text(event).splitlines()[0] == (  # type: ignore[arg-type]
        "reload refused, still in force: register regulator, serial 47, 0 entries; policy pppppppppppp"
    )
    assert reload_text(event).splitlines()[-1] == "and 4 more"  # type: ignore[arg-type]


def test_a_policy_that_the_engine_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_milestones: object) -> None:
        raise ValueError("packet_milestones: expected at most 64")

    play = Play(*[AMONG_OTHERS])
    monkeypatch.setattr(play.engine, "set_milestones", refuse)
    patient = replace(POLICY, sha256="q" * 64)
    stream = play.events(poll_1=lambda run: run.reload(register(serial=48), patient))
    (event,) = reloads(stream)
    assert (event["event"], event["policy_hash"], event["register"]["serial"]) == ("refused", "p" * 64, 47)
    assert event["faults"] == ["the policy: packet_milestones: expected at most 64"]
    assert said(stream) == said(Play(*[AMONG_OTHERS]).events())


def test_a_reload_before_and_after_the_packets_is_not_lost() -> None:
    play = Play([[NEW]])
    play.run.reload(register(registered(), serial=48))
    stream = play.events(poll_1=lambda run: run.reload(register(serial=49)))
    assert [event["event_type"] for event in stream] == ["stats", "register", "vpn", "register", "stats"]
    assert stream[0]["stats"]["register"]["serial"] == 47
    assert said(stream) == [("recognised", "registered", "pass")]
    assert stream[-1]["stats"]["register"]["serial"] == 49


def test_many_threads_may_ask_at_once() -> None:
    play = Play(*[AMONG_OTHERS])
    threads = [
        threading.Thread(target=play.run.reload, args=(register(serial=number),)) for number in range(48, 58)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream = play.events()
    assert sorted(event["register"]["serial"] for event in reloads(stream)) == list(range(48, 58))
    assert stream[-1]["stats"]["register"]["serial"] == reloads(stream)[-1]["register"]["serial"]


# --- dates that pass ---------------------------------------------------------------------------------


def test_a_running_flow_is_judged_again_when_a_date_passes() -> None:
    ends = registered(valid_until_ns=T0 + 60 * SECOND)
    policy = replace(POLICY, grace_ns=120 * SECOND)
    updates = [NEW.then("changed", seconds, phase="data_only") for seconds in (30, 61, 170, 181, 200)]
    quiet: list[Step] = [[NEW], *[[replace(row, flow_id=2, source_ip="192.0.2.77")] for row in updates]]
    stream = Play(quiet, known=register(ends), policy=policy).events()
    ours = [event for event in vpn(stream) if event["src_ip"] == "192.0.2.10"]
    assert [(event["event"], event["policy"]["verdict"]) for event in ours] == [
        ("recognised", "registered"),
        ("changed", "expired_in_grace"),
    ]
    assert ours[1]["timestamp"] == events.rfc3339(T0 + 61 * SECOND)


def test_a_flow_that_fell_silent_before_the_date_is_not_flagged_for_it() -> None:
    ends = registered(valid_until_ns=T0 + 300 * SECOND)
    policy = replace(POLICY, grace_ns=0)
    other = replace(NEW, flow_id=2, source_ip="192.0.2.77", time_ns=T0 + 301 * SECOND)
    for last, expected in ((250, "expired"), (200, "registered")):
        row = replace(NEW, end_ns=T0 + last * SECOND)
        stream = Play([[row], [other]], known=register(ends), policy=policy).events()
        ours = [event for event in vpn(stream) if event["src_ip"] == "192.0.2.10"]
        assert ours[-1]["policy"]["verdict"] == expected


def test_every_date_that_matters_is_asked_for() -> None:
    rules = (replace(FLAG, from_ns=T0 + 21, until_ns=T0 + 22), Rule("rest", Action.OBSERVE))
    policy = replace(POLICY, rules=rules, enforce_from_ns=T0 + 20, grace_ns=1_000, stale_after_ns=2_000)
    known = register(
        registered(valid_from_ns=T0 + 1, valid_until_ns=T0 + 2, status_since_ns=T0 + 3),
        registered(missing_since_ns=T0 + 4, valid_from_ns=T0 + 1, status_since_ns=T0 + 3),
        issued_ns=T0,
    )
    assert policy.instants(known) == (
        *(T0 + 1, T0 + 2, T0 + 3, T0 + 4, T0 + 20, T0 + 21, T0 + 22, T0 + 1_002, T0 + 1_004),
        T0 + 7 * DAY + 2_001,
    )
    assert policy.instants(None) == ()
    assert tuple(Play(known=known, policy=policy).engine.instants) == policy.instants(known)
    fixed = Play(known=known, policy=policy, settings=Settings(as_of_ns=T0))
    assert fixed.engine.instants == []


@given(
    st.lists(st.sampled_from([T0 + n * SECOND for n in (0, 10, 20, 30)]), min_size=2, max_size=6),
    st.sampled_from(Status),
    st.integers(-5, 50),
)
def test_between_two_dates_no_answer_changes(times: list[int], status: Status, seconds: int) -> None:
    entry = registered(
        valid_from_ns=times[0],
        status_since_ns=times[1],
        valid_until_ns=times[2] if len(times) > 2 else None,
        missing_since_ns=times[3] if len(times) > 3 else None,
        status=status,
    )
    policy = replace(POLICY, grace_ns=15 * SECOND, enforce_from_ns=times[-1])
    known = register(entry)
    at_ns = T0 + seconds * SECOND
    before = max((instant for instant in policy.instants(known) if instant <= at_ns), default=T0 - DAY)
    judged = [policy.judge(NEW, known, when) for when in (before, at_ns)]
    fresh = replace(policy).judge(NEW, known, at_ns)  # remembers nothing
    assert {(one.verdict, one.action, one.entries) for one in judged} == {
        (fresh.verdict, fresh.action, fresh.entries)
    }


# --- after the next register -------------------------------------------------------------------------

WAITING = replace(POLICY, unregistered_after=UnregisteredAfter.NEXT_REGISTER)


def test_a_flow_without_an_entry_waits_for_a_register_issued_after_it_was_first_seen() -> None:
    play = Play(*[AMONG_OTHERS], policy=WAITING)
    stream = play.events(poll_1=lambda run: run.reload(register(serial=48, issued_ns=T0 + SECOND)))
    first, changed, *_ = vpn(stream)
    assert (first["policy"]["action"], first["policy"]["rule"]) == ("observe", "flag-it")
    assert first["policy"]["why"] == (
        "No registration matched 192.0.2.10. Rule flag-it would flag it, but it was first seen on "
        "2026-03-01 12:00:00 UTC, and only a register issued after that can show that no entry is in force."
    )
    assert (changed["event"], changed["policy"]["action"], changed["policy"]["first"]) == (
        "changed",
        "flag",
        True,
    )


def test_a_register_issued_before_does_not_count_however_late_it_is_loaded() -> None:
    play = Play(*[AMONG_OTHERS], policy=WAITING)
    stream = play.events(poll_1=lambda run: run.reload(register(serial=48, issued_ns=T0 - 1)))
    assert {action for _, _, action in said(stream)} == {"observe"}


def test_who_connects_anew_each_day_is_known_since_the_first_day() -> None:
    days = [
        replace(NEW, flow_id=day, number=day, time_ns=T0 + day * DAY, start_ns=T0 + day * DAY)
        for day in range(1, 8)
    ]
    steps: list[Step] = [[row, row.then("ended", 60)] for row in days]
    play = Play(steps, policy=WAITING)
    stream = play.events(poll_3=lambda run: run.reload(register(serial=48, issued_ns=T0 + 3 * DAY)))
    actions = [event["policy"]["action"] for event in vpn(stream) if event["event"] == "recognised"]
    assert actions == ["observe"] * 3 + ["flag"] * 4
    # Another remote end is another case.
    assert Play([[LATER]], policy=WAITING).events()[1]["policy"]["action"] == "observe"


def test_an_attempt_is_not_the_first_sight_of_a_case() -> None:
    attempt = replace(NEW, phase="attempt", packets_to_client=0, start_ns=T0 - 2 * DAY)
    steps: list[Step] = [
        [attempt, attempt.then("ended", 1)],
        [replace(NEW, flow_id=2, time_ns=T0 + 9 * SECOND)],
    ]
    assert said(Play(steps, policy=WAITING).events())[-1] == ("recognised", "unregistered", "observe")
    answered = replace(attempt, phase="established")
    steps = [[answered, answered.then("ended", 1)], [replace(NEW, flow_id=2, time_ns=T0 + 9 * SECOND)]]
    assert said(Play(steps, policy=WAITING).events())[-1] == ("recognised", "unregistered", "flag")


def test_old_flows_of_a_replay_are_flagged_by_a_register_of_today() -> None:
    assert said(Play([[NEW]], known=register(issued_ns=T0 + 1), policy=WAITING).events()) == [
        ("recognised", "unregistered", "flag")
    ]


# --- files and signals -------------------------------------------------------------------------------


def rules(folder: Path, serial: int, rows: Sequence[str] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    header = (ROOT / "rules" / "register.csv").read_text(encoding="utf-8").splitlines()[0]
    (folder / "register.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    (folder / "register.toml").write_text(
        f'source = "regulator"\nserial = {serial}\nissued_at = 2026-02-28T00:00:00Z\n'
        'next_update = 2026-03-07T00:00:00Z\ntime_zone = "UTC"\nfirst_record = 2020-01-01T00:00:00Z\n',
        encoding="utf-8",
    )
    (folder / "policy.toml").write_text("enforce_from = 2026-01-01\n", encoding="utf-8")
    return folder


def test_files_are_read_again_on_request(tmp_path: Path) -> None:
    folder = rules(tmp_path / "rules", 1)
    play = Play([[NEW]])
    reloader = Reloader(play.run, folder, None, None)
    reloader.tick()  # nothing was asked for
    rules(folder, 2)
    reloader.request()
    reloader.tick()
    for thread in threading.enumerate():
        if thread.name == "reload":
            thread.join()
    stream = play.events()
    assert [event["register"]["serial"] for event in reloads(stream)] == [2]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "register.csv").write_text("entry_id\n"), "register.csv"),
        (lambda folder: (folder / "register.toml").unlink(), "register.toml"),
        (lambda folder: (folder / "policy.toml").write_text("grace = 1\n"), "policy.toml:1: grace: found 1"),
    ],
)
def test_files_with_faults_are_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    folder = rules(tmp_path / "rules", 1)
    play = Play([[NEW]])
    spoil(folder)
    Reloader(play.run, folder, None, None).read()
    (event,) = reloads(play.events())
    assert event["event"] == "refused"
    assert any(message in fault for fault in event["faults"])


def test_an_error_of_the_program_is_said_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_names: object) -> None:
        raise RuntimeError("Jane Doe, 0300 1234567")

    monkeypatch.setattr("classifier.reload.load_rules", broken)
    play = Play([[NEW]])
    Reloader(play.run, None, None, None).read()
    (event,) = reloads(play.events())
    assert event["faults"] == ["an error of the program: RuntimeError"]


# --- with the real engine ----------------------------------------------------------------------------

TUNNEL = {"100.64.7.22": "192.0.2.10", "203.0.113.10": "203.0.113.99"}


@pytest.fixture(scope="module")
def long_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tunnel of 111 s among enough ordinary packets that the engine stops in between."""
    tunnel = take("wg-plain-51820", TUNNEL, T0, stretch=40)
    folder = tmp_path_factory.mktemp("reload")
    return write(folder / "long.pcap", tunnel, ordinary(T0, tunnel[-1][0]))


def replayed(
    capture: Path,
    known: Register,
    policy: Policy = POLICY,
    workers: int = 1,
    on_poll: Callable[[Replay], None] | None = None,
    engine: OneBlockAPoll | None = None,
) -> list[dict[str, Any]]:
    run = Replay(find([str(capture)]), known, policy, Settings(workers=workers), cast(_core.Engine, engine))
    stream = [json.loads(json.dumps(event)) for event in run.events(lambda: on_poll and on_poll(run))]
    for event in stream:
        VALIDATOR.validate(event)
    return stream


def test_a_running_tunnel_is_judged_by_a_register_that_arrives(long_capture: Path) -> None:
    reloaded: list[int] = []

    def on_poll(run: Replay) -> None:
        if not reloaded and run.progress()[0] > 1_500_000:
            reloaded.append(run.progress()[2])
            run.reload(register(registered(), serial=48))

    stream = replayed(long_capture, register(), on_poll=on_poll, engine=OneBlockAPoll(POLICY, 1))
    assert said(stream)[-2:] == [("changed", "registered", "pass"), ("ended", "registered", "pass")]
    (event,) = reloads(stream)
    place = stream.index(event)
    assert 0 < place < stream.index(vpn(stream)[-2])
    assert {one["policy"]["register_serial"] for one in vpn(stream[:place])} == {47}
    assert {one["policy"]["register_serial"] for one in vpn(stream[place:])} == {48}
    flow = vpn(stream)[-2]["flow"]
    assert flow["pkts_toserver"] < vpn(stream)[-1]["flow"]["pkts_toserver"]


def test_a_running_tunnel_is_judged_again_at_a_date(long_capture: Path) -> None:
    end_ns = T0 + 60 * SECOND
    policy = replace(POLICY, grace_ns=30 * SECOND)
    known = register(registered(valid_until_ns=end_ns))
    streams = [
        replayed(long_capture, known, policy, workers, engine=engine)
        for workers in (1, 2, 7)
        for engine in (None, OneBlockAPoll(policy, workers))
    ]
    changes = [event for event in vpn(streams[0]) if "was" in event["policy"]]
    assert [event["policy"]["verdict"] for event in changes] == ["expired_in_grace", "expired"]
    for event, due_ns in zip(changes, (end_ns, end_ns + 30 * SECOND), strict=True):
        assert 0 <= events.parse_time(event["timestamp"]) - due_ns < SECOND
        assert event["event"] == "changed"
    assert all(stream == streams[0] for stream in streams[1:])


def test_hup_makes_the_command_read_its_files_again(tmp_path: Path, long_capture: Path) -> None:
    folder = rules(tmp_path / "rules", 1)
    content = long_capture.read_bytes()
    command = [sys.executable, "-m", "classifier", "replay", "-", "--rules", str(folder), "-o", "-"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(content[: len(content) // 2])
        process.stdin.flush()
        lines = [process.stdout.readline()]
        assert json.loads(lines[0])["event"] == "started"  # by now it listens to signals
        rules(folder, 2)
        process.send_signal(signal.SIGHUP)
        log = process.stderr.readline().decode()
        process.stdin.write(content[len(content) // 2 :])
        process.stdin.close()
        lines += process.stdout.readlines()
        log += process.stderr.read().decode()
    assert process.returncode == 0, log
    assert "reload: register regulator, serial 2, 0 entries" in log
    stream = [json.loads(line) for line in lines]
    assert [event["register"]["serial"] for event in reloads(stream)] == [2]
    assert stream[-1]["stats"]["register"]["serial"] == 2
