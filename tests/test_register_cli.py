"""The commands of the register, as people type them."""

import csv
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from classifier.cli import main
from classifier.register import Kind, Register
from classifier.register.checks import check
from classifier.register.prefixes import Prefix

ROOT = Path(__file__).parent.parent
MAP = ROOT / "rules" / "feed.toml"
FEED = Path(__file__).parent / "feeds" / "regulator.csv"
ISSUE = ("--serial", "48", "--issued-at", "2026-11-20T13:00:00Z")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["register", *map(str, arguments)])
    captured = capsys.readouterr()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


UNFRIENDLY = """
encoding = "windows-1252"
delimiter = ";"
separator = "|"
time_zone = "Asia/Karachi"
date_formats = ["%d/%m/%Y"]
ignore = ["Applicant", "Mobile", "Remarks"]
[columns]
entry_id = "File No."
kind = "Type"
category = "Sector"
prefix = "IP Address"
endpoints = "Gateway"
protocols = "VPN"
valid_from = "From"
valid_until = "To"
status = "State"
status_since = "As of"
[constants]
side = "either"
[values.kind]
"VPN" = "vpn_registration"
"Whitelisting" = "ip_whitelist"
"Infra" = "operator_infrastructure"
"Exemption" = "exception"
[values.status]
"Under Process" = "pending"
[values.protocols]
"WG" = "wireguard"
[manifest]
update_every = "7d"
"""
HEADER = "Applicant;File No. ;TYPE;Sector;IP  Address;Gateway;VPN;From;To;State;As of;Mobile;Remarks;;"
COLUMNS = ("File No.", "Type", "Sector", "IP Address", "Gateway", "VPN", "From", "To", "State", "As of")
NAME, MOBILE = "Zubaida Exemplar", "0300-7654321"


@dataclass
class Unfriendly:
    """A feed as it comes, and where its faults are."""

    lines: list[str] = field(default_factory=lambda: ["sep=;", HEADER])
    planted: list[tuple[int, str | None]] = field(default_factory=list)
    line: int = 2

    def add(self, cells: dict[str, str], *faults: str | None, remark: str = "", ending: str = ";;") -> int:
        """One row; its line. `faults` are the columns in which it is wrong."""
        row = [cells[column] for column in COLUMNS]
        self.lines.append(f"{NAME};{';'.join(row)};{MOBILE};{remark}{ending}")
        self.line += 1
        here = self.line
        self.planted += [(here, column) for column in faults]
        self.line += remark.count("\n")
        return here


def good(number: int, generator: random.Random) -> dict[str, str]:
    """A row of an entry of its own, in one of the ways in which people write one."""
    address = f"39.{number >> 14 & 63}.{number >> 8 & 63}.{number & 255}"
    if number % 7 == 0:
        address = f"2400:ADC0:{number:x}::/48"
    return {
        "File No.": generator.choice((f"PTA/{number}", f'="{number}"', f"{number}.0", f" V-{number}\u00a0")),
        "Type": generator.choice(("VPN", "vpn", "Whitelisting", "ip_whitelist")),
        "Sector": generator.choice(("Bank", "SOFTWARE HOUSE", "call-centre", "other")),
        "IP Address": generator.choice((address, f" {address}", f"\u00a0{address} ")),
        "Gateway": generator.choice(("", "", "198.51.100.7:1194|2001:db8::/48")),
        "VPN": generator.choice(("", "WG", "openvpn | IPsec")),
        "From": generator.choice(("01/02/2026", "1/2/2026", "2026-02-01", "2026-02-01 00:00:00")),
        "To": generator.choice(("", "31/12/2027", "2027-12-31")),
        "State": generator.choice(("Approved", "approved", "Under  Process", "SUSPENDED")),
        "As of": "03/02/2026",
    }


def unfriendly(rows: int) -> Unfriendly:
    """A feed of so many rows with faults of every kind, spread over it."""
    generator = random.Random(rows)
    feed = Unfriendly()
    wrong: list[dict[str, str]] = [
        {"IP Address": "39.0.0.300"},
        {"IP Address": "39.200.0.1/24"},
        {"IP Address": "::ffff:39.0.0.0/120"},
        {"IP Address": "39.0.0.0/33"},
        {"IP Address": "39.0.0"},
        {"IP Address": ""},
        {"IP Address": MOBILE},
        {"IP Address": NAME},
        {"File No.": ""},
        {"File No.": NAME},
        {"File No.": "35202-1234567-1"},
        {"File No.": "zubaida1@example.org"},
        {"To": "31/01/2026"},
        {"To": "31/11/2027"},
        {"To": "sometime"},
        {"From": "2026-13-01"},
        {"From": ""},
        {"As of": "01/01/1926"},
        {"State": "Aproved"},
        {"State": "under way"},
        {"State": ""},
        {"Type": "VPNN"},
        {"Type": "Exemption", "To": "", "State": "Approved"},
        {"Sector": "Circus"},
        {"Sector": NAME},
        {"VPN": "WG|pptp"},
        {"Gateway": "198.51.100.7:0"},
        {"Gateway": "198.51.100.9/24"},
        {"Gateway": "vpn.example.org"},
    ]
    at = {(number + 1) * rows // (len(wrong) + 8): cells for number, cells in enumerate(wrong)}
    for number in range(1, rows + 1):
        row = good(number, generator)
        if number in at:
            change = at[number]
            # The fault of an exemption without an end is that end.
            column = "To" if change.get("Type") == "Exemption" else next(iter(change))
            feed.add(row | change, column)
        elif number % 1_000 == 0:
            feed.add(row, remark='"two\nlines, and a ; in them"')
        else:
            feed.add(row, ending=generator.choice((";;", ";", "")))
        if number % 5_000 == 0:
            feed.lines.append(";;;;;;;;;;;;;;")
            feed.line += 1
    base = good(1, random.Random(0)) | {"Type": "VPN", "State": "Approved", "From": "01/02/2026", "To": ""}
    own = base | {"File No.": "C-1", "IP Address": "39.100.0.1"}
    feed.add(own)
    feed.add(own, "IP Address")  # the same row again
    other = own | {"IP Address": "39.100.0.2"}
    feed.add(other | {"State": "suspended"}, "State")
    feed.add(other | {"IP Address": "39.100.0.3", "Sector": "embassy", "To": "1/1/2028"}, "Sector", "To")
    feed.add(base | {"File No.": "O-1", "IP Address": "39.101.0.0/24"})
    feed.add(base | {"File No.": "O-2", "IP Address": "39.101.0.0/24"}, "IP Address")  # two registrants
    ended = base | {"IP Address": "39.102.0.0/24", "To": "30/06/2026"}
    feed.add(ended | {"File No.": "H-1"})  # it changes hands: no fault
    feed.add(ended | {"File No.": "H-2", "From": "01/07/2026", "To": ""})
    feed.add(base | {"File No.": "I-1", "Type": "Infra", "IP Address": "39.64.0.0/10"}, "IP Address")
    feed.add(base | {"File No.": "I-2", "Type": "Infra", "IP Address": "39.120.0.1"})
    feed.lines.append("only;three;values")
    feed.planted.append((feed.line + 1, None))
    feed.lines += [";;;;", ""]
    return feed


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Unfriendly]:
    folder = tmp_path_factory.mktemp("big")
    feed = unfriendly(30_000)
    path, form = folder / "feed.csv", folder / "map.toml"
    path.write_bytes("\r\n".join(feed.lines).encode("windows-1252"))
    form.write_text(UNFRIENDLY)
    return path, form, feed


def test_every_planted_fault_is_found_at_its_place_and_no_other(
    big: tuple[Path, Path, Unfriendly],
) -> None:
    path, form, feed = big
    found = check([path], form, [Prefix.parse("39.120.0.0/16")])
    places = [(fault.line, fault.column) for fault in found.faults]
    assert Counter(places) == Counter(feed.planted)
    assert places == sorted(places, key=lambda place: place[0] or 0)
    shown = "\n".join(map(str, found.faults))
    for part in (*NAME.split(), MOBILE, "35202", "zubaida1", "example.org"):
        assert part not in shown
    assert {fault.file for fault in found.faults} == {str(path)}
    assert all(fault.expected for fault in found.faults)
    assert found.rows == 30_011


def test_the_same_faults_can_be_set_aside(
    big: tuple[Path, Path, Unfriendly], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, form, _ = big
    db, faults = tmp_path / "register.db", tmp_path / "FAULTS.csv"
    arguments = ("import", path, "--source", "regulator", "--map", form, "--complete", "--db", db, *ISSUE)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "")
    assert not db.exists()
    assert "zubaida" not in err.lower()
    code, out, err = run(capsys, *arguments, "--set-aside", faults, "--max-faults", "0.2%")
    assert code == 0, err
    assert "33 faulty rows left out" in out
    assert "prefixes that are approved for two registrants at once: 1;" in err
    register = Register.load(db)
    assert len({entry.entry_id for entry in register.entries}) == 30_000 - 29 + 6
    assert "C-1" not in {entry.entry_id for entry in register.entries}
    text = faults.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1 + 34
    assert "zubaida" not in text.lower()
    assert MOBILE not in text
    code, out, err = run(capsys, *arguments, "--set-aside", faults)
    assert (code, err) == (0, "")
    assert "is in" in out
    assert "already (serial 1)" in out


def test_check_prints_faults_and_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    form, feed, faults = tmp_path / "map.toml", tmp_path / "feed.csv", tmp_path / "FAULTS.csv"
    form.write_text('[constants]\nkind = "vpn_registration"\nstatus = "approved"\ncategory = "bank"\n')
    rows = [
        "R-1,39.0.0.0/8",
        "R-2,39.1.0.0/24",
        "R-3,10.1.2.3",
        "R-4,224.0.0.1",
        "R-5,fe80::1",
        "R-6,39.1.0.7/24",
        "R-7,39.1.0.0/24",
    ]
    lines = ["entry_id,prefix,valid_from,status_since", *(f"{row},2026-01-01,2026-01-01" for row in rows)]
    feed.write_text("\n".join(lines) + "\n")
    code, out, err = run(capsys, "check", feed, "--map", form, "--faults", faults)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        f"{feed}:7: prefix: found '39.1.0.7/24'; expected no host bits: 39.1.0.0/24 for the network, "
        "39.1.0.7/32 for the one address",
        f"{feed}:8: prefix: found 39.1.0.0/24, approved for R-2 (line 3) at the same time; expected one "
        "registrant for a prefix at a time: an end for the former one",
        f"warning: {feed}:2: prefix: found 39.0.0.0/8, a very short prefix; expected /16 or longer, unless "
        "that many addresses are meant",
        f"warning: {feed}:4: prefix: found 10.1.2.3/32, private addresses; expected a public prefix",
        f"warning: {feed}:5: prefix: found 224.0.0.1/32, multicast addresses; expected a public prefix",
        f"warning: {feed}:6: prefix: found fe80::1/128, link-local addresses; expected a public prefix",
        f"warning: {feed}:3: prefix: found 39.1.0.0/24, inside 39.0.0.0/8 of R-1 (line 2); expected a prefix "
        "of its own, unless the one is a customer of the other",
        f"warning: {feed}:8: prefix: found 39.1.0.0/24, inside 39.0.0.0/8 of R-1 (line 2); expected a prefix "
        "of its own, unless the one is a customer of the other",
        "7 rows, 6 entries without a fault: 2 faults, 6 warnings",
    ]
    with faults.open(encoding="utf-8", newline="") as file:
        assert [row["line"] for row in csv.DictReader(file)] == ["7", "8"]
    code, out, err = run(capsys, "check", feed, "--map", form, "--no-warnings")
    assert len(out.splitlines()) == 3


def test_warnings_name_both_rows_and_do_not_flood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The wide prefix comes last; an IPv6 prefix whose first bytes lie below an IPv4 one is in none."""
    form, feed, db = tmp_path / "map.toml", tmp_path / "feed.csv", tmp_path / "register.db"
    form.write_text('[constants]\nkind = "vpn_registration"\nstatus = "approved"\ncategory = "bank"\n')
    rows = [f"R-{number},39.1.0.{number}" for number in range(1, 25)]
    rows += ["R-30,2400:adc0::/48", "R-31,39.0.0.0/12", "R-32,39.1.0.1"]
    lines = ["entry_id,prefix,valid_from,status_since", *(f"{row},2026-01-01,2026-01-01" for row in rows)]
    feed.write_text("\n".join(lines) + "\n")
    code, out, _ = run(capsys, "check", feed, "--map", form)
    said = [line for line in out.splitlines() if "inside" in line]
    assert (code, len(said)) == (1, 21)
    assert said[0] == (
        f"warning: {feed}:2: prefix: found 39.1.0.1/32, inside 39.0.0.0/12 of R-31 (line 27); expected a "
        "prefix of its own, unless the one is a customer of the other"
    )
    assert "5 rows more with prefixes inside 39.0.0.0/12 of R-31" in said[-1]
    assert "2400:adc0" not in out
    update = ("--next-update", "2026-11-27T13:00:00Z")
    code, _, err = run(
        capsys, "import", feed, "--map", form, "--source", "regulator", "--db", db, *ISSUE, *update
    )
    assert code == 0
    assert "warning: very short prefixes: 1;" in err
    code, out, _ = run(capsys, "check", db, "--no-warnings")
    assert "prefix of R-32: found 39.1.0.1/32, approved for R-1 at the same time" in out


def test_another_map_beside_the_feed_is_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feed, form, other = tmp_path / "feed.csv", tmp_path / "feed.toml", tmp_path / "new.toml"
    feed.write_bytes(FEED.read_bytes())
    for path in (form, other):
        path.write_bytes(MAP.read_bytes())
    assert run(capsys, "check", feed, "--map", other, "--no-warnings")[0] == 0
    code, out, _ = run(capsys, "check", feed)
    assert code == 1
    assert f"{form}: found a map of a feed; expected a manifest" in out
    assert "no such key" not in out


def test_check_knows_our_networks_from_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", ROOT / "rules" / "register.csv", "--no-warnings")
    assert (code, out) == (0, out)
    policy = tmp_path / "policy.toml"
    policy.write_text('[networks]\nlocal = ["198.51.100.130/32"]\n')
    code, out, _ = run(capsys, "check", ROOT / "rules" / "register.csv", "--no-warnings", "--policy", policy)
    assert code == 1
    assert "covers the local network 198.51.100.130/32" in out


def test_the_shipped_register_has_no_fault() -> None:
    from classifier.policy import Policy

    policy = Policy.load(ROOT / "rules" / "policy.toml")
    found = check([ROOT / "rules" / "register.csv"], None, policy.local + policy.shared)
    assert [str(fault) for fault in found.faults] == []


def test_a_week_from_feed_to_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Import, exception, next issue, history, export, check, prune: each says what it did."""
    db = tmp_path / "register.db"
    command = ("import", "--source", "regulator", "--map", MAP, "--complete", "--db", db)
    code, out, err = run(capsys, *command, FEED, *ISSUE)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == f"regulator 48, issued 2026-11-20T13:00:00Z, 5 rows: is serial 1 of {db}".split()
    assert ["vpn_registration", "bank", "2"] in lines
    assert ["all", "6", "0", "0", "0", "0", "0", "0"] in lines

    code, out, err = run(
        capsys, "except", "203.0.113.99", "--until", "2099-12-15", "--reason", "feed_error", "--db", db
    )
    assert (code, err) == (0, "")
    assert out.startswith("EX-2: 203.0.113.99/32 until 2099-12-16T00:00:00Z, feed_error; serial 2 of")
    exception = next(entry for entry in Register.load(db).entries if entry.kind is Kind.EXCEPTION)
    assert (exception.entry_id, exception.valid_until_ns) == ("EX-2", 4_101_062_400 * 10**9)

    later = tmp_path / "later.csv"
    lines_of_feed = FEED.read_bytes().splitlines(keepends=True)
    later.write_bytes(b"".join(line for line in lines_of_feed if b"0104" not in line))
    issue = ("--serial", "49", "--issued-at", "2026-11-21T13:00:00Z")
    code, out, err = run(capsys, *command, later, *issue)
    assert code == 1
    assert "--accept-shrink vpn_registration" in err
    code, out, err = run(capsys, *command, later, *issue, "--accept-shrink", "vpn_registration")
    assert (code, err) == (0, "")
    assert ["all", "0", "0", "0", "1", "0", "5", "0"] in [line.split() for line in out.splitlines()]

    code, out, err = run(capsys, "history", "REG/2026/0104", "--db", db)
    assert code == 0
    assert "missing_since 2026-11-21T13:00:00Z (was none)" in out
    assert "feed 49 of regulator" in out

    exported = tmp_path / "out.csv"
    code, out, err = run(capsys, "export", "--db", db, "--serial", "1", "-o", exported)
    assert (code, err) == (0, "")
    assert Register.load(exported).entries == Register.load(db, 1).entries
    assert run(capsys, "check", exported, "--no-warnings")[0] == 0
    assert run(capsys, "check", db, "--no-warnings")[:2] == (
        0,
        "7 rows, 6 entries without a fault: 0 faults, 7 warnings\n",
    )
    assert run(capsys, "export", "--db", db, "-o", db)[0] == 1

    assert run(capsys, "except", "--withdraw", "EX-2", "--db", db)[0] == 0
    before = Register.load(db)
    code, out, err = run(capsys, "prune", "--before", "4", "--db", db)
    assert (code, err) == (0, "")
    assert Register.load(db) == before
    assert run(capsys, "export", "--db", db, "--serial", "1", "-o", exported)[0] == 1


def test_an_exception_for_everybody_or_in_a_store_by_mistake_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--until", "2099-12-15", "--reason", "other", "--db", tmp_path / "register.db")
    code, _, err = run(capsys, "except", "203.0.113.7", *options)
    assert (code, "was made just now, and holds nothing else" in err) == (0, True)
    code, _, err = run(capsys, "except", "0.0.0.0/0", *options)
    assert (code, err) == (
        0,
        "vpn-classifier: warning: 0.0.0.0/0 is a very short prefix: whoever has an address in it passes\n",
    )


def test_history_without_an_entry_names_every_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "register.db"
    code, _, err = run(
        capsys,
        "import",
        FEED,
        "--map",
        MAP,
        "--source",
        "regulator",
        "--db",
        db,
        "--serial",
        "48",
        "--issued-at",
        "2099-11-20T13:00:00Z",
    )
    assert code == 0
    assert "issued_at is still to come" in err
    run(capsys, "except", "203.0.113.99", "--until", "2099-12-15", "--reason", "feed_error", "--db", db)
    code, out, _ = run(capsys, "history", "--db", db)
    first, second = out.splitlines()
    assert first.startswith("serial 1, 20")
    assert first.endswith(": feed 48 of regulator, issued 2099-11-20T13:00:00Z: 6 new")
    assert second.startswith("serial 2, 20")
    assert ": exception 1 of operator" in second
    assert run(capsys, "history", "--db", tmp_path / "none.db")[0] == 1
    issue = ("--serial", "49", "--issued-at", "2026-11-20T13:00:00Z")
    code, _, err = run(capsys, "import", FEED, "--map", MAP, "--source", "regulator", "--db", db, *issue)
    assert (code, "issued_at is earlier than that of the former issue" in err) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("except", "203.0.113.1/24", "--until", "2099-01-01", "--reason", "other"), "no host bits"),
        (("except", "203.0.113.1", "--until", "2099-01-01", "--reason", "because"), "one of approval_in_"),
        (("except", "203.0.113.1", "--until", "soon", "--reason", "other"), "expected a time such as"),
        (("except", "203.0.113.1", "--reason", "other"), "PREFIX, --until and --reason"),
        (("except", "203.0.113.1", "--withdraw", "EX-1"), "an id alone"),
        (("import", "x.csv", "--source", "a", "--max-faults", "two"), "a share like 1%"),
        (("import", "x.csv", "--source", "a", "--max-faults", "101%"), "a share like 1%"),
        (("import", "x.csv", "--source", "a", "--accept-shrink", "vpn"), "one of vpn_registration"),
        (("prune", "--before", "yesterday"), "expected a time such as"),
    ],
)
def test_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: str
) -> None:
    code, _, err = run(capsys, *arguments, "--db", tmp_path / "register.db")
    assert code == 2
    assert expected in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["check", "import", "except", "history", "export", "prune"])
def test_help_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"vpn-classifier register {command} " in out
    assert "Exit codes" in out


def test_nothing_is_made_where_no_store_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "register.db"
    for arguments in (("history", "R-1"), ("prune", "--before", "1"), ("export", "-o", tmp_path / "x.csv")):
        code, _, err = run(capsys, *arguments, "--db", db)
        assert code == 1
        assert str(db) in err
    assert run(capsys, "except", "--withdraw", "EX-1", "--db", db)[0] == 1
    assert not db.exists()


def test_a_replay_reads_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--register takes a store as it takes a CSV."""
    db = tmp_path / "register.db"
    rules = ROOT / "rules"
    code, _, err = run(
        capsys, "import", rules / "register.csv", "--source", "regulator", "--db", db, "--complete"
    )
    assert (code, err) == (0, "")
    import classifier

    capture = ROOT / "pcaps" / "wg-plain-51820"
    policy = rules / "policy.toml"
    verdicts = [
        [event["policy"]["verdict"] for event in events if event["event_type"] == "vpn"]
        for events in (
            classifier.replay(capture, register=db, policy=policy),
            classifier.replay(capture, register=rules / "register.csv", policy=policy),
        )
    ]
    assert verdicts[0] == verdicts[1]
    assert "registered" in verdicts[0]
