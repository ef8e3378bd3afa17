"""An import does what a plain dictionary would, refuses what must not pass unasked, and can be repeated."""

import csv
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.errors import OutputError, RegisterError
from classifier.register import Kind, Register
from classifier.register.feed_map import COLUMNS
from classifier.register.importing import Imported, Request, import_feed

DAY = 86_400 * 10**9
T0 = 1_795_000_000 * 10**9
ROW = {
    "entry_id": "R-1",
    "kind": "vpn_registration",
    "category": "bank",
    "prefix": "198.51.100.1",
    "valid_from": "2026-01-01",
    "status": "approved",
    "status_since": "2026-01-01",
}


def write(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(ROW | row for row in rows)
    return path


def many(count: int, **fields: str) -> list[dict[str, str]]:
    return [
        {"entry_id": f"R-{number}", "prefix": f"198.51.{number >> 8}.{number & 255}"} | fields
        for number in range(1, count + 1)
    ]


@dataclass
class Desk:
    """A store, and feeds that come in one after the other."""

    folder: Path
    serial: int = 0

    @property
    def db(self) -> Path:
        return self.folder / "register.db"

    def request(self, rows: Sequence[dict[str, str]], **fields: object) -> Request:
        self.serial += 1
        request = Request(
            files=(write(self.folder / f"feed-{self.serial}.csv", rows),),
            source="regulator",
            is_complete=True,
            serial=self.serial,
            issued_at_ns=T0 + self.serial * DAY,
            next_update_ns=T0 + (self.serial + 7) * DAY,
        )
        return replace(request, **fields)  # type: ignore[arg-type]

    def feed(self, rows: Sequence[dict[str, str]], **fields: object) -> Imported:
        return import_feed(self.request(rows, **fields), self.db, now_ns=T0)

    @contextmanager
    def refused(self, *found: str) -> Iterator[None]:
        before = self.db.read_bytes() if self.db.exists() else None
        with pytest.raises(RegisterError) as error:
            yield
        texts = [str(fault) for fault in error.value.faults]
        assert len(texts) == len(found), texts
        for text, part in zip(texts, found, strict=True):
            assert part in text
        assert (self.db.read_bytes() if self.db.exists() else None) == before

    def missing(self) -> dict[str, int | None]:
        return {entry.entry_id: entry.missing_since_ns for entry in Register.load(self.db).entries}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_a_complete_feed_lacks_is_missing_since_its_issue(desk: Desk) -> None:
    desk.feed(many(40))
    assert desk.feed(many(38)).changes.total("missing") == 2
    assert desk.feed(many(37)).changes.total("missing") == 1
    missing = desk.missing()
    assert (missing["R-1"], missing["R-38"], missing["R-40"]) == (None, T0 + 3 * DAY, T0 + 2 * DAY)
    done = desk.feed(many(39))
    assert {name: done.changes.total(name) for name in ("back", "unchanged", "new")} == {
        "back": 2,
        "unchanged": 38,
        "new": 0,
    }
    assert desk.missing()["R-39"] is None
    assert desk.missing()["R-40"] == T0 + 2 * DAY


def test_without_complete_nothing_is_missing(desk: Desk) -> None:
    desk.feed(many(5))
    desk.feed(many(1, category="embassy"), is_complete=False, accepted=frozenset({Kind.VPN_REGISTRATION}))
    entries = Register.load(desk.db).entries
    assert [entry.category for entry in entries] == ["embassy", "bank", "bank", "bank", "bank"]
    assert set(desk.missing().values()) == {None}


def test_what_a_feed_says_of_an_id_holds_for_all_its_rows(desk: Desk) -> None:
    both = [{"prefix": "198.51.100.1"}, {"prefix": "2001:db8::/48"}]
    desk.feed(both)
    desk.feed([both[0] | {"status": "revoked"}], is_complete=False)
    assert [entry.status for entry in Register.load(desk.db).entries] == ["revoked", "revoked"]


def test_only_rows_of_its_own_source_are_touched(desk: Desk) -> None:
    desk.feed(many(3))
    desk.feed(many(2, kind="ip_whitelist"), source="whitelists")
    assert {(entry.source, entry.entry_id) for entry in Register.load(desk.db).entries} == {
        *(("regulator", f"R-{number}") for number in (1, 2, 3)),
        *(("whitelists", f"R-{number}") for number in (1, 2)),
    }
    assert set(desk.missing().values()) == {None}


def test_the_same_feed_again_does_nothing(desk: Desk) -> None:
    request = desk.request(many(3))
    first = import_feed(request, desk.db)
    content = desk.db.read_bytes()
    again = import_feed(request, desk.db)
    assert (again.is_repeated, again.serial) == (True, first.serial)
    assert desk.db.read_bytes() == content
    assert not import_feed(replace(request, is_complete=False), desk.db).is_repeated


def test_an_older_issue_is_refused(desk: Desk) -> None:
    desk.feed(many(3), serial=48)
    with desk.refused("found serial 47 of 'regulator'; expected 48 or later"):
        desk.feed(many(3), serial=47)
    # A feed may be issued again, corrected, under its number.
    assert desk.feed(many(4), serial=48).changes.total("new") == 1
    assert desk.feed(many(3), serial=1, source="other").serial == 3


@pytest.mark.parametrize("missing", ["serial", "issued_at_ns", "next_update_ns"])
def test_what_issue_it_is_must_be_said(desk: Desk, missing: str) -> None:
    with desk.refused(f"{missing.removesuffix('_ns')}: found nothing that says it; expected --"):
        desk.feed(many(1), **{missing: None})


def test_a_manifest_beside_the_feed_says_it(desk: Desk) -> None:
    request = desk.request(many(1), serial=None, issued_at_ns=None, next_update_ns=None)
    manifest = request.files[0].with_suffix(".toml")
    text = 'source = "regulator"\nserial = 9\nissued_at = 2026-11-20T00:00:00Z\n'
    text += 'next_update = 2026-11-27T00:00:00Z\ntime_zone = "Asia/Karachi"\n'
    manifest.write_text(text)
    done = import_feed(request, desk.db)
    assert (done.manifest.serial, done.manifest.next_update_ns) == (9, 1_795_737_600 * 10**9)
    assert Register.load(desk.db).entries[0].valid_from_ns == 1_767_207_600 * 10**9  # 5 h before UTC's day
    assert import_feed(replace(request, serial=10), desk.db).manifest.serial == 10
    with desk.refused("found the source 'regulator'; expected 'other' (--source)"):
        import_feed(replace(request, source="other"), desk.db)


def test_a_map_of_the_feeds_name_is_not_its_manifest(desk: Desk) -> None:
    request = desk.request(many(1), next_update_ns=None)
    form = request.files[0].with_suffix(".toml")
    form.write_text('[manifest]\nupdate_every = "1d"\n')
    done = import_feed(replace(request, map_path=form), desk.db)
    assert done.manifest.next_update_ns == T0 + 2 * DAY


def test_the_operators_name_is_taken(desk: Desk) -> None:
    with desk.refused("found the source 'operator'"):
        desk.feed(many(1), source="operator")


def test_a_feed_that_loses_more_than_a_tenth_needs_consent(desk: Desk) -> None:
    desk.feed(many(40) + many(60, category="embassy", entry_id="E-0")[:1])
    with desk.refused("a loss of 5 of 40 rows of vpn_registration, bank (12 %); expected at most 10 %"):
        desk.feed(many(35) + many(1, category="embassy", entry_id="E-0"))
    assert desk.feed(many(36) + many(1, category="embassy", entry_id="E-0")).changes.total("missing") == 4
    with desk.refused("a loss of 1 of 1 rows of vpn_registration, embassy (100 %)"):
        desk.feed(many(36))
    done = desk.feed(many(36), accepted=frozenset({Kind.VPN_REGISTRATION}))
    assert done.changes.total("missing") == 1


@pytest.mark.parametrize("kind", ["licensed_provider", "carrier_service", "operator_infrastructure"])
@pytest.mark.parametrize(
    "change", [None, {"status": "suspended"}, {"valid_until": "2026-11-01"}, {"kind": "ip_whitelist"}]
)
def test_no_server_of_thousands_is_lost_unasked(desk: Desk, kind: str, change: dict[str, str] | None) -> None:
    desk.feed(many(100, kind=kind))
    fewer = many(99, kind=kind)
    if change is not None:
        fewer.append(many(100, kind=kind)[-1] | change)
    with desk.refused(f"a loss of 1 of 100 rows of {kind}, bank (1 %); expected none; if it is meant, "):
        desk.feed(fewer)
    with desk.refused("--accept-shrink " + kind):
        desk.feed(fewer, accepted=frozenset({Kind.VPN_REGISTRATION}))
    desk.feed(fewer, accepted=frozenset({Kind(kind)}))


def test_decisions_about_a_few_are_no_loss_but_about_many_are(desk: Desk) -> None:
    desk.feed(many(20))
    few = many(16) + [row | {"status": "revoked"} for row in many(20)[16:]]
    assert sum(desk.feed(few).changes.statuses.values()) == 4
    with desk.refused("a loss of 16 of 16 rows of vpn_registration, bank (100 %)"):
        desk.feed(many(20, status="suspended"))


def test_what_had_ended_leaves_unnoticed(desk: Desk) -> None:
    desk.feed(many(20, valid_until="2026-10-31") + many(1, entry_id="X-1", prefix="203.0.113.1"))
    done = desk.feed(many(1, entry_id="X-1", prefix="203.0.113.1"))
    assert done.changes.total("missing") == 20


def test_faulty_rows_refuse_the_feed_or_are_set_aside(desk: Desk, tmp_path: Path) -> None:
    desk.feed(many(300))
    rows = many(300, status="suspended")
    # Two rows of one id: the good one is left out with the bad one.
    rows[4] |= {"prefix": "198.51.0.5/24"}
    rows.append({"entry_id": "R-5", "prefix": "2001:db8::/48", "status": "suspended"})
    rows[9] |= {"valid_until": "2025-01-01"}
    with desk.refused("prefix: found '198.51.0.5/24'", "valid_until: found an end before valid_from"):
        desk.feed(rows)
    accepted = frozenset({Kind.VPN_REGISTRATION})
    with desk.refused("found 2 faulty rows of 301; expected at most 1 (--max-faults)"):
        desk.feed(rows, set_aside=tmp_path / "FAULTS.csv", max_faults=1, accepted=accepted)
    with desk.refused("found 2 faulty rows of 301; expected at most 1"):
        desk.feed(rows, set_aside=tmp_path / "FAULTS.csv", max_faults=0.005, accepted=accepted)
    done = desk.feed(rows, set_aside=tmp_path / "FAULTS.csv", accepted=accepted)
    assert (done.feed.faulty_rows, done.changes.total("set_aside"), done.changes.total("status")) == (
        2,
        2,
        298,
    )
    entries = Register.load(desk.db).entries
    assert [entry.entry_id for entry in entries if entry.status == "approved"] == ["R-5", "R-10"]
    assert len(entries) == 300
    assert set(desk.missing().values()) == {None}
    with (tmp_path / "FAULTS.csv").open(encoding="utf-8", newline="") as file:
        faults = list(csv.DictReader(file))
    assert [(row["line"], row["column"]) for row in faults] == [("6", "prefix"), ("11", "valid_until")]
    assert list(faults[0]) == ["file", "line", "column", "found", "expected"]


def test_the_list_of_faults_is_this_weeks(desk: Desk, tmp_path: Path) -> None:
    faults = tmp_path / "FAULTS.csv"
    bad = [*many(200), {"entry_id": "R-1", "prefix": "198.51.100.1/24"}]
    desk.feed(bad, set_aside=faults)
    assert len(faults.read_text(encoding="utf-8").splitlines()) == 2
    desk.feed(many(200), set_aside=faults)
    assert len(faults.read_text(encoding="utf-8").splitlines()) == 1


def test_a_faulty_row_of_nobody_makes_nothing_missing(desk: Desk, tmp_path: Path) -> None:
    """It may be the very row that seems to be missing."""
    desk.feed(many(200))
    rows = [*many(199), {"entry_id": "Ayesha Example"}]
    done = desk.feed(rows, set_aside=tmp_path / "FAULTS.csv")
    assert (done.feed.unnamed_rows, done.changes.total("missing")) == (1, 0)
    assert "Ayesha" not in (tmp_path / "FAULTS.csv").read_text()


def test_faults_that_are_not_of_rows_cannot_be_set_aside(desk: Desk, tmp_path: Path) -> None:
    request = desk.request(many(200), set_aside=tmp_path / "FAULTS.csv", max_faults=1.0)
    with request.files[0].open("a") as file:
        file.write('R-9,"open\n')
    with desk.refused("text that is no CSV"):
        import_feed(request, desk.db)


def test_a_refusal_is_no_flood(desk: Desk) -> None:
    with pytest.raises(RegisterError) as error:
        desk.feed(many(200, status="aproved"))
    assert len(error.value.faults) == 51
    assert "150 faults more" in str(error.value.faults[-1])


def test_entries_of_another_source_are_refused(desk: Desk) -> None:
    request = desk.request(many(1))
    header, row = request.files[0].read_text().splitlines()
    request.files[0].write_text(f"{header},source\n{row},other\n")
    with desk.refused("feed-1.csv:2: source: found an entry of 'other'; expected entries of 'regulator'"):
        import_feed(request, desk.db)


def test_a_new_state_with_the_old_status_since_is_counted(desk: Desk) -> None:
    desk.feed(many(3))
    rows = many(3, status="suspended")
    rows[0]["status_since"] = "2026-11-20"
    assert desk.feed(rows).changes.backdated == 2


def test_faults_never_replace_what_is_read(desk: Desk) -> None:
    request = desk.request([*many(300), {"prefix": "x"}])
    with pytest.raises(OutputError):
        import_feed(replace(request, set_aside=request.files[0]), desk.db)
    assert request.files[0].read_text().startswith("entry_id")


STATUSES = ("approved", "pending", "revoked")
Feed = dict[str, tuple[str, str, frozenset[int]]]
FEEDS = st.dictionaries(
    st.sampled_from(["R-1", "R-2", "R-3", "R-4"]),
    st.tuples(
        st.sampled_from(STATUSES),
        st.sampled_from(["bank", "embassy"]),
        st.frozensets(st.integers(1, 4), min_size=1),
    ),
)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(FEEDS, st.booleans(), st.sampled_from("ab"), st.sets(st.sampled_from(["R-1", "R-2"]))),
        max_size=6,
    )
)
def test_a_sequence_of_imports_agrees_with_a_plain_dictionary(
    steps: list[tuple[Feed, bool, str, set[str]]],
) -> None:
    """source, id, address -> status, category, missing since. Faulty ids stay as they were."""
    model: dict[tuple[str, str, int], tuple[str, str, int | None]] = {}
    states = []
    with tempfile.TemporaryDirectory() as name:
        desk = Desk(Path(name))
        for feed, is_complete, source, faulty in steps:
            rows = [
                {"entry_id": entry_id, "status": status, "category": category, "prefix": f"198.51.100.{host}"}
                for entry_id, (status, category, hosts) in feed.items()
                for host in sorted(hosts)
            ]
            rows += [{"entry_id": entry_id, "prefix": "nowhere"} for entry_id in sorted(faulty)]
            done = desk.feed(
                rows,
                source=source,
                is_complete=is_complete,
                set_aside=Path(name, "FAULTS.csv"),
                max_faults=1.0,
                accepted=frozenset(Kind),
            )
            at_ns = T0 + desk.serial * DAY
            for entry_id in {key[1] for key in model if key[0] == source} | set(feed):
                if entry_id in faulty:
                    continue
                if entry_id in feed:
                    status, category, hosts = feed[entry_id]
                    for host in hosts:
                        model[source, entry_id, host] = (status, category, None)
                    for key in [
                        key for key in model if key[:2] == (source, entry_id) and key[2] not in hosts
                    ]:
                        model[key] = (status, category, model[key][2])
                for key in [key for key in model if key[:2] == (source, entry_id)]:
                    in_feed = entry_id in feed and key[2] in feed[entry_id][2]
                    if is_complete and not in_feed and model[key][2] is None:
                        model[key] = (*model[key][:2], at_ns)
            states.append((done.serial, dict(model)))
        for serial, state in states:
            assert {
                (entry.source, entry.entry_id, entry.prefix.address[3]): (
                    entry.status,
                    entry.category,
                    entry.missing_since_ns,
                )
                for entry in Register.load(desk.db, serial).entries
            } == state
