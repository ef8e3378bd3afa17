"""The store keeps every state, loses none to a kill, and is read while it is written."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.errors import RegisterError
from classifier.register import (
    Category,
    Endpoint,
    Entry,
    Kind,
    Prefix,
    Protocol,
    Reason,
    Register,
    Side,
    Status,
)
from classifier.register import sqlite as sqlite_store
from classifier.register.exceptions import Decision, make_exception, withdraw_exception
from classifier.register.exporting import write_register
from classifier.register.feed_map import COLUMNS
from classifier.register.history import history, prune
from classifier.register.importing import Request, import_feed, preview
from classifier.register.sqlite import SqliteStore
from classifier.register.store import Change

DAY = 86_400 * 10**9
T0 = 1_795_000_000 * 10**9  # in November 2026
ENTRY = Entry(
    entry_id="R-1",
    kind=Kind.VPN_REGISTRATION,
    category=Category.BANK,
    prefix=Prefix.parse("203.0.113.0/24"),
    side=Side.EITHER,
    endpoints=(),
    protocols=(),
    valid_from_ns=T0,
    valid_until_ns=None,
    status=Status.APPROVED,
    status_since_ns=T0,
    source="regulator",
)


def change(serial: int = 1, source: str = "regulator", **fields: object) -> Change:
    given: dict[str, object] = {
        "action": "import",
        "source": source,
        "source_serial": serial,
        "issued_at_ns": T0 + serial * DAY,
        "next_update_ns": T0 + (serial + 7) * DAY,
        "first_record_ns": None,
        "sha256": f"{serial:064x}",
        "options_sha256": "",
        "at_ns": T0 + serial * DAY + 5_000,
    }
    return Change(**(given | fields))  # type: ignore[arg-type]


def commit(path: Path, *rows: Entry, serial: int = 1, source: str = "regulator") -> int:
    with SqliteStore.writing(path) as store:
        return store.commit(change(serial, source), rows)


def write_feed(path: Path, rows: int, status: str = "approved", first: int = 0) -> None:
    lines = [",".join(COLUMNS)]
    for number in range(first, first + rows):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        lines.append(f"R-{number},vpn_registration,bank,{address},,,,2026-01-01,,{status},2026-01-01")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def request(feed: Path, serial: int, **fields: object) -> Request:
    given: dict[str, object] = {
        "files": (feed,),
        "source": "regulator",
        "is_complete": True,
        "serial": serial,
        "issued_at_ns": T0 + serial * DAY,
        "next_update_ns": T0 + (serial + 7) * DAY,
    }
    return Request(**(given | fields))  # type: ignore[arg-type]


@contextmanager
def fault(found: str) -> Iterator[None]:
    with pytest.raises(RegisterError) as error:
        yield
    (only,) = error.value.faults
    assert found in str(only)


def test_every_state_can_be_had_again(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    suspended = ENTRY._replace(status=Status.SUSPENDED)
    other = ENTRY._replace(source="licences", kind=Kind.LICENSED_PROVIDER)
    assert commit(path, ENTRY) == 1
    assert commit(path, other, source="licences") == 2
    assert commit(path, suspended, serial=2) == 3
    assert Register.load(path, 1).entries == (ENTRY,)
    assert set(Register.load(path, 2).entries) == {ENTRY, other}
    register = Register.load(path)
    assert set(register.entries) == {suspended, other}
    assert (register.serial, register.source) == (3, "licences+regulator")
    assert register.issued_at_ns == T0 + 2 * DAY
    assert register.next_update_ns == T0 + 8 * DAY  # of the licences, which are due first
    assert [(source.name, source.serial) for source in register.sources] == [
        ("licences", 1),
        ("regulator", 2),
    ]
    assert register.sources[1].imported_at_ns == T0 + 2 * DAY + 5_000
    assert register.covering(bytes([203, 0, 113, 9])) == register.entries
    with fault("no serial 4; expected one of those that it keeps: from 1 to 3"):
        Register.load(path, 4)


def test_states_are_named_by_what_went_in(tmp_path: Path) -> None:
    """The same imports give the same hash wherever and whenever; any other import another one."""
    hashes = []
    for name, serial in (("a", 2), ("b", 2), ("c", 3)):
        path = tmp_path / name
        commit(path, ENTRY)
        commit(path, ENTRY._replace(status=Status.REVOKED), serial=serial)
        hashes.append((Register.load(path, 1).sha256, Register.load(path).sha256))
    assert hashes[0] == hashes[1]
    assert hashes[0][0] == hashes[2][0]
    assert hashes[0][1] != hashes[2][1]


def test_an_exception_that_is_raised_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    commit(path, ENTRY)
    before = path.read_bytes()

    def rows() -> Iterator[Entry]:
        yield ENTRY._replace(status=Status.REVOKED)
        raise ZeroDivisionError

    def fail() -> None:
        with SqliteStore.writing(path) as store:
            store.commit(change(2), [ENTRY._replace(entry_id="R-2")])
            store.commit(change(3), rows())

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    old = os.umask(0)
    try:
        commit(path, ENTRY)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


DRIVER = """
import os, resource, signal, sqlite3, sys
from pathlib import Path
from classifier.register import sqlite
from classifier.register.importing import import_feed
from tests.test_store import request

db, feed, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4]
serial, place = int(sys.argv[3]), int(sys.argv[5])
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if how == "statement":  # before this statement of the import
    connect, seen = sqlite._connect, []
    def counting(*arguments):
        connection = connect(*arguments)
        def trace(statement):
            seen.append(statement)
            if len(seen) == place:
                die()
        connection.set_trace_callback(trace)
        return connection
    sqlite._connect = counting
elif how == "size":  # when a file of the store would grow beyond this: inside the commit
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (place, place))
elif how == "read":  # while the feed is read
    from classifier.register import feed as feed_module
    take, rows = feed_module._Reader._take, []
    def taking(*arguments):
        rows.append(1)
        if len(rows) == place:
            die()
        take(*arguments)
    feed_module._Reader._take = taking
import_feed(request(feed, serial), db, now_ns=serial)
"""


def killed_import(db: Path, feed: Path, serial: int, how: str, place: int) -> int:
    arguments = [sys.executable, "-c", DRIVER, str(db), str(feed), str(serial), how, str(place)]
    done = subprocess.run(
        arguments, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.mark.parametrize("is_first", [True, False], ids=["new store", "store with a former issue"])
def test_after_a_kill_the_same_import_gives_the_same_register(tmp_path: Path, is_first: bool) -> None:
    """Killed while reading, between statements, and inside the commit while files are written."""
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_feed(first, 2_000)
    write_feed(second, 2_000, status="pending", first=100)
    feed, serial = (first, 1) if is_first else (second, 2)
    undisturbed = tmp_path / "undisturbed.db"
    import_feed(request(first, 1), undisturbed, now_ns=1)
    size = 0 if is_first else undisturbed.stat().st_size
    if not is_first:
        import_feed(request(second, 2), undisturbed, now_ns=2)
    expected = Register.load(undisturbed)
    points = [("read", 1), ("read", 1_500)]
    points += [("statement", number) for number in (1, 2, 3, 5, 9, 30, 2_500 if is_first else 4_500)]
    points += [("size", size + more) for more in (1_000, 20_000, 70_000, 130_000)]
    killed = 0
    for number, (how, place) in enumerate(points):
        db = tmp_path / f"{number}.db"
        if not is_first:
            import_feed(request(first, 1), db, now_ns=1)
        code = killed_import(db, feed, serial, how, place)
        if code != 0:
            assert code in (-signal.SIGKILL, -signal.SIGXFSZ), (how, place, code)
            killed += 1
            if not is_first:
                before = Register.load(db)
                assert (before.serial, len(before.entries)) == (1, 2_000), (how, place)
        import_feed(request(feed, serial), db, now_ns=serial)
        after = Register.load(db)
        assert after.entries == expected.entries, (how, place)
        assert (after.sha256, after.serial) == (expected.sha256, expected.serial), (how, place)
        assert not list(tmp_path.glob(f"{number}.db-*"))
    assert killed >= len(points) - 2


def test_a_journal_was_left_by_a_kill_inside_the_commit(tmp_path: Path) -> None:
    """What the kills above rest on: the process dies with half of its pages written."""
    first, second, db = tmp_path / "first.csv", tmp_path / "second.csv", tmp_path / "register.db"
    write_feed(first, 2_000)
    write_feed(second, 2_000, status="pending", first=100)
    import_feed(request(first, 1), db, now_ns=1)
    before = db.read_bytes()
    assert killed_import(db, second, 2, "size", len(before) + 70_000) == -signal.SIGXFSZ
    assert (tmp_path / "register.db-journal").stat().st_size > 0
    assert db.read_bytes() != before
    assert Register.load(db).serial == 1
    assert db.read_bytes()[: len(before)] == before


def test_readers_and_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    commit(path, ENTRY)
    with SqliteStore.writing(path) as store:
        store.commit(change(2), [ENTRY._replace(status=Status.REVOKED)])
        # Until the commit, a reader sees the state before.
        assert Register.load(path).entries == (ENTRY,)
        with fault("another command is using"), SqliteStore.writing(path, wait_s=0.01):
            pass
    with (
        SqliteStore.reading(path) as reader,
        fault("another command is using"),
        SqliteStore.writing(path, wait_s=0.01) as store,
    ):
        store.commit(change(3), [ENTRY])
        assert reader.latest() == 2
    assert Register.load(path).serial == 2
    assert commit(path, ENTRY, serial=3) == 3


def test_who_may_not_restore_a_store_learns_who_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that finds the journal of a killed import, and may not write."""
    first, second, db = tmp_path / "first.csv", tmp_path / "second.csv", tmp_path / "register.db"
    write_feed(first, 2_000)
    write_feed(second, 2_000, status="pending", first=100)
    import_feed(request(first, 1), db, now_ns=1)
    assert killed_import(db, second, 2, "size", db.stat().st_size + 70_000) == -signal.SIGXFSZ
    connect = sqlite_store._connect
    monkeypatch.setattr(sqlite_store, "_connect", lambda path, _, wait_s: connect(path, "ro", wait_s))
    with fault("an interrupted import left to be restored; expected `register check`"):
        Register.load(db)
    monkeypatch.undo()
    assert Register.load(db).serial == 1


def test_files_that_are_no_store(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    with fault("no such file"), SqliteStore.reading(path):
        pass
    path.write_text("entry_id,kind\n")
    with fault("a file that is no store"), SqliteStore.reading(path):
        pass
    with fault("a file that is no store"), SqliteStore.writing(path):
        pass
    assert path.read_text() == "entry_id,kind\n"
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE something (x)")
    other.close()
    with fault("an SQLite database of something else"):
        Register.load(path)
    with fault("an SQLite database of something else"), SqliteStore.writing(path):
        pass
    with fault("No such file"), SqliteStore.writing(tmp_path / "no" / "such.db"):
        pass


def test_a_store_of_a_later_version(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    commit(path, ENTRY)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with fault("a store of format 2; expected format 1, or a later vpn-classifier"):
        Register.load(path)
    with fault("a store of format 2"), SqliteStore.writing(path):
        pass


def test_a_truncated_store_is_not_half_loaded(tmp_path: Path) -> None:
    path, feed = tmp_path / "register.db", tmp_path / "feed.csv"
    write_feed(feed, 3_000)
    import_feed(request(feed, 1), path)
    whole = path.read_bytes()
    for length in (100, 512, 4_096, 8_192, len(whole) // 2, len(whole) - 4_096, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RegisterError) as error:
            Register.load(path)
        assert len(error.value.faults) == 1, length
    path.write_bytes(whole)
    assert len(Register.load(path).entries) == 3_000


def test_rows_that_are_missing_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    commit(path, ENTRY, ENTRY._replace(entry_id="R-2"))
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM entry WHERE entry_id = 'R-2'")
    connection.commit()
    with fault("1 rows where its last change left 2"):
        Register.load(path)
    connection.execute("UPDATE nature SET kind = 'nonsense'")
    connection.commit()
    connection.close()
    with fault("a damaged store"):
        Register.load(path)


def test_an_empty_store_is_no_register(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    with SqliteStore.writing(path):
        pass
    with fault("a store without an import"):
        Register.load(path)


def test_a_serial_is_asked_of_a_store_only(tmp_path: Path) -> None:
    (tmp_path / "register.csv").touch()
    with fault("a file that keeps no history"):
        Register.load(tmp_path / "register.csv", 3)


def test_prune_keeps_the_present_and_the_state_at_that_serial(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    states = list(Status)
    for serial, status in enumerate(states, 1):
        commit(path, ENTRY._replace(status=status), serial=serial)
    commit(path, ENTRY._replace(source="licences"), serial=7, source="licences")
    before = {serial: Register.load(path, serial) for serial in range(1, 8)}
    assert prune(path, 4) == (4, 3)
    assert [Register.load(path, serial) for serial in range(4, 8)] == [before[n] for n in range(4, 8)]
    with fault("no serial 3; expected one of those that it keeps: from 4 to 7"):
        Register.load(path, 3)
    assert prune(path, 4) == (4, 0)
    assert prune(path, 2) == (4, 0)  # what is gone does not come back
    with fault("no serial 2; expected one of those that it keeps: from 4 to 7"):
        Register.load(path, 2)
    assert prune(path, "2020-01-01") == (4, 0)
    # The state at that time is the oldest that is kept.
    assert prune(path, "2026-11-23T12:00:00Z") == (5, 1)
    assert Register.load(path) == before[7]
    with fault("no serial 9; expected one up to 7"):
        prune(path, 9)


def test_history_tells_what_differed(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    commit(path, ENTRY)
    with SqliteStore.writing(path) as store:
        store.commit(change(2), [ENTRY._replace(status=Status.REVOKED, status_since_ns=T0 + DAY)])
        store.commit(change(3), [], set_aside=["R-1"])
    by_id = list(history(path, "R-1"))
    assert list(history(path, "203.0.113.77")) == by_id
    assert by_id[0] == "R-1"
    assert "serial 1" in by_id[1]
    assert "feed 1 of regulator" in by_id[1]
    assert by_id[2].startswith("    203.0.113.0/24: new: kind vpn_registration, category bank")
    assert by_id[4] == (
        "    203.0.113.0/24: status revoked (was approved), "
        "status_since 2026-11-19T11:06:40Z (was 2026-11-18T11:06:40Z)"
    )
    assert by_id[6] == "    its rows in the feed were faulty: it stayed as it was"
    for nothing in ("R-2", "203.0.114.1", "2001:db8::1"):
        with fault("no entry"):
            list(history(path, nothing))


def test_exceptions(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    commit(path, ENTRY)
    decided = Decision(Prefix.parse("203.0.113.9"), T0 + 30 * DAY, Reason.FEED_ERROR, T0 + 2 * DAY)
    entry_id, serial = make_exception(decided, path, T0 + 2 * DAY)
    register = Register.load(path)
    exception = register.entries[1]
    assert (entry_id, serial, exception.entry_id) == ("EX-2", 2, "EX-2")
    assert (exception.kind, exception.source, exception.reason) == (
        Kind.EXCEPTION,
        "operator",
        Reason.FEED_ERROR,
    )
    assert (exception.status, exception.valid_until_ns) == (Status.APPROVED, T0 + 30 * DAY)
    # It is nobody's issue: what the feeds say is as old as before.
    assert (register.issued_at_ns, register.next_update_ns) == (T0 + DAY, T0 + 8 * DAY)
    assert withdraw_exception("EX-2", path, T0 + 3 * DAY) == 3
    ended = Register.load(path).entries[1]
    assert (ended.status, ended.valid_until_ns) == (Status.APPROVED, T0 + 3 * DAY)
    assert Register.load(path, 2).entries[1] == exception
    with fault("an exception that has ended"):
        withdraw_exception("EX-2", path, T0 + 4 * DAY)
    with fault("no such exception"):
        withdraw_exception("EX-9", path, T0)
    with fault("an end that is not to come"):
        make_exception(decided, path, T0 + 30 * DAY)
    assert Register.load(path).serial == 3


def test_exceptions_alone_make_nobody_unregistered(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    make_exception(Decision(ENTRY.prefix, T0 + DAY, Reason.EMERGENCY, T0), path, T0)
    register = Register.load(path)
    assert register.next_update_ns == T0 + 10**9


PREFIXES = st.one_of(
    st.builds(
        lambda address, length: Prefix((address >> 32 - length << 32 - length).to_bytes(4, "big"), length),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda address, length: Prefix((address >> 128 - length << 128 - length).to_bytes(16, "big"), length),
        st.integers(2**125, 2**128 - 1),
        st.integers(1, 128),
    ),
)


def micro(microseconds: int) -> int:
    """In nanoseconds."""
    return microseconds * 1_000


TIMES = st.integers(0, 7_000_000_000 * 10**6).map(micro)


@st.composite
def sets_of_rows(draw: st.DrawFn) -> list[Entry]:
    """Rows as a store has them: those of an id agree in everything but prefix and missing_since."""
    rows = []
    for source, number in sorted(
        draw(st.sets(st.tuples(st.sampled_from("ab"), st.integers(1, 6)), max_size=8))
    ):
        start = draw(TIMES)
        entry = Entry(
            entry_id=f"R-{number}",
            kind=draw(st.sampled_from([kind for kind in Kind if kind is not Kind.EXCEPTION])),
            category=draw(st.sampled_from(Category)),
            prefix=Prefix(b"", 0),
            side=draw(st.sampled_from(Side)),
            endpoints=tuple(
                Endpoint(prefix, port)
                for prefix, port in draw(
                    st.lists(st.tuples(PREFIXES, st.none() | st.integers(1, 65_535)), max_size=2)
                )
            ),
            protocols=draw(
                st.sampled_from([(), (Protocol.WIREGUARD,), (Protocol.WIREGUARD, Protocol.IPSEC)])
            ),
            valid_from_ns=start,
            valid_until_ns=draw(
                st.none() | st.integers(start // 1_000 + 1, 7_200_000_000 * 10**6).map(micro)
            ),
            status=draw(st.sampled_from(Status)),
            status_since_ns=draw(TIMES),
            source=source,
            reason=draw(st.none() | st.sampled_from(Reason)),
        )
        for prefix in draw(st.sets(PREFIXES, min_size=1, max_size=3)):
            rows.append(entry._replace(prefix=prefix, missing_since_ns=draw(st.none() | TIMES)))
    return rows


@settings(max_examples=60)
@given(sets_of_rows())
def test_what_is_exported_is_the_same_register_when_it_is_read(rows: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, exported = Path(folder, "register.db"), Path(folder, "register.csv")
        for source in "ab":
            commit(store, *[row for row in rows if row.source == source], source=source)
        before = Register.load(store)
        assert sorted(before.entries, key=repr) == sorted(rows, key=repr)
        write_register(before, exported)
        after = Register.load(exported)
    assert after.entries == before.entries
    for name in ("source", "serial", "issued_at_ns", "next_update_ns", "first_record_ns", "sources"):
        assert getattr(after, name) == getattr(before, name), name


def test_a_preview_is_the_register_that_the_import_gives(tmp_path: Path) -> None:
    db, first, second = tmp_path / "register.db", tmp_path / "first.csv", tmp_path / "second.csv"
    write_feed(first, 50)
    write_feed(second, 50, first=2)
    empty, _ = preview(request(first, 1), db)
    assert not db.exists()
    import_feed(request(first, 1), db)
    assert set(empty.entries) == set(Register.load(db).entries)
    content = db.read_bytes()
    then = replace(request(second, 2), map_path=tmp_path / "map.toml")
    (tmp_path / "map.toml").write_text("[manifest]\nfirst_record = 2026-03-01T00:00:00Z\n")
    would_be, imported = preview(then, db)
    assert db.read_bytes() == content
    import_feed(then, db)
    now = Register.load(db)
    assert would_be.entries == now.entries
    assert (would_be.first_record_ns, would_be.sha256) == (now.first_record_ns, now.sha256)
    assert would_be.first_record_ns == 1_772_323_200 * 10**9
    assert (imported.serial, would_be.serial) == (now.serial, now.serial)
    assert (would_be.issued_at_ns, would_be.next_update_ns) == (now.issued_at_ns, now.next_update_ns)
