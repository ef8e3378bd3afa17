"""A feed of somebody else, with all that spreadsheets do to it, becomes rows of ours by its map."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from classifier.errors import ConfigError
from classifier.register import Category, Entry, Kind, Protocol, Side, Status
from classifier.register.feed import Feed, read_feed
from classifier.register.feed_map import COLUMNS, FeedMap

ROOT = Path(__file__).parent.parent
FEED = Path(__file__).parent / "feeds" / "regulator.csv"
HEADER = ",".join(COLUMNS)
ROW = "R-1,vpn_registration,bank,203.0.113.0/24,,,,2026-01-01,2026-12-31,approved,2026-01-01"


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


def load(folder: Path, text: str) -> FeedMap:
    path = folder / "map.toml"
    path.write_text(text, encoding="utf-8")
    return FeedMap.load(path)


def read(folder: Path, form: str, content: str | bytes, name: str = "feed.csv") -> Feed:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_feed([path], load(folder, form), source="regulator")


def only(feed: Feed) -> Entry:
    assert [str(fault) for fault in feed.faults] == []
    (entry,) = feed.entries
    return entry


def places(feed: Feed) -> list[tuple[int | None, str | None]]:
    return [(fault.line, fault.column) for fault in feed.faults]


def test_the_worked_example() -> None:
    """rules/feed.toml reads a spreadsheet that was saved as CSV; every habit in it is a real one."""
    feed = read_feed([FEED], FeedMap.load(ROOT / "rules" / "feed.toml"), source="regulator")
    assert [str(fault) for fault in feed.faults] == []
    rows = [(entry.entry_id, str(entry.prefix), entry.category, entry.status) for entry in feed.entries]
    assert rows == [
        ("REG/2026/0101", "203.0.113.8/32", Category.SOFTWARE_HOUSE, Status.APPROVED),
        ("REG/2026/0102", "198.51.100.64/28", Category.BANK, Status.APPROVED),
        ("REG/2026/0102", "198.51.100.80/32", Category.BANK, Status.APPROVED),
        ("20260103", "2001:db8:7::/48", Category.CALL_CENTRE, Status.PENDING),
        ("REG/2026/0104", "203.0.113.77/32", Category.OTHER, Status.SUBMITTED),
        ("REG/2026/0105", "203.0.113.96/29", Category.EMBASSY, Status.SUSPENDED),
    ]
    assert {(entry.kind, entry.side, entry.source) for entry in feed.entries} == {
        (Kind.VPN_REGISTRATION, Side.SUBSCRIBER, "regulator")
    }
    first, second, _, _, fourth, fifth = feed.entries
    assert (first.valid_from_ns, first.valid_until_ns) == (
        ns("2026-02-01T00:00:00+05:00"),
        ns("2027-01-01T00:00:00+05:00"),
    )
    assert second.protocols == (Protocol.WIREGUARD, Protocol.IPSEC)
    assert list(map(str, second.endpoints)) == ["192.0.2.1:500", "192.0.2.2"]
    # A day as its first moment is a day; any other time is that time, in the map's zone.
    assert fourth.valid_from_ns == ns("2026-03-01T00:00:00+05:00")
    assert fourth.valid_until_ns == ns("2026-11-30T12:00:00+05:00")
    assert fifth.valid_until_ns is None
    assert [feed.place(index)[1] for index in range(6)] == [3, 4, 4, 6, 7, 8]
    assert feed.rows == 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1256", "latin-1"])
def test_encodings_that_a_map_names(tmp_path: Path, encoding: str) -> None:
    form = f'encoding = "{encoding}"\n[columns]\nentry_id = "N\u00b0"\n'
    content = f"{HEADER}\n{ROW}\n".replace("entry_id", "N\u00b0").encode(encoding)
    assert only(read(tmp_path, form, content)).entry_id == "R-1"


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ('delimiter = "\\t"', f"{HEADER}\n{ROW}\n".replace(",", "\t")),
        ('delimiter = "|"', f"{HEADER}\n{ROW}\n".replace(",", "|")),
        ("skip_lines = 2", f"List of VPNs,,\n,,\n{HEADER}\n{ROW}\n"),
        ("", f"sep=;\n{HEADER}\n{ROW}\n".replace(",", ";")),
        ("", f'"sep=;"\r\n{HEADER}\r\n{ROW}\r\n'.replace(",", ";")),
        ('quote = "\'"', f"{HEADER}\n{ROW}\n".replace("bank", "'bank'")),
        ('escape = "\\\\"', f'{HEADER},Remark\n{ROW},"a \\"b\\" c"\n'),
        ('quote = ""', f'{HEADER},Remark\n{ROW},5" pipe\n'),
        ("", f"{HEADER},,\n{ROW},,\n,,,,,,,,,,,,\n\n"),
        ("", f"\n,,\n{HEADER}\n{ROW},,,\n"),
        ("", f"{HEADER},Remark\n{ROW}\n"),
        ("", f"\ufeff{HEADER}\r{ROW}\r"),
        ("", f"{HEADER}\n{ROW}\n".upper().replace("R-1", "R-1")),
        ("", f"{HEADER}\n{ROW}\n".replace(",", " , ").replace("bank", "\u00a0Bank\u200b")),
    ],
)
def test_habits_of_spreadsheets(tmp_path: Path, form: str, content: str) -> None:
    feed = read(tmp_path, f'ignore = ["remark"]\n{form}\n', content)
    entry = only(feed)
    assert (entry.entry_id, str(entry.prefix), entry.category) == ("R-1", "203.0.113.0/24", Category.BANK)
    assert (entry.valid_from_ns, entry.status) == (ns("2026-01-01T00:00:00Z"), Status.APPROVED)


def test_lines_are_right_behind_a_separator_line_a_title_and_a_cell_of_two_lines(tmp_path: Path) -> None:
    form = 'skip_lines = 1\nignore = ["Remark"]\n'
    content = f'Title\nsep=,\n{HEADER},Remark\n{ROW},"one\ntwo"\n{ROW},\n'
    assert places(read(tmp_path, form, content)) == [(6, "prefix")]


@pytest.mark.parametrize(
    ("formats", "text", "expected"),
    [
        ('"%d/%m/%Y"', "03/02/2026", "2026-02-03T00:00:00+05:00"),
        ('"%m/%d/%Y"', "03/02/2026", "2026-03-02T00:00:00+05:00"),
        ('"%d-%b-%y"', "3-Feb-26", "2026-02-03T00:00:00+05:00"),
        ('"%d.%m.%Y %H:%M"', "03.02.2026 08:30", "2026-02-03T08:30:00+05:00"),
        ('"%d.%m.%Y %H:%M"', "03.02.2026 00:00", "2026-02-03T00:00:00+05:00"),
        ('"%d/%m/%Y"', "2026-02-03T08:00:00Z", "2026-02-03T08:00:00+00:00"),
        ('"%d/%m/%Y"', "2026-02-03 08:00:00", "2026-02-03T08:00:00+05:00"),
        ('"%Y%m%d", "%d/%m/%Y"', "20260203", "2026-02-03T00:00:00+05:00"),
    ],
)
def test_dates_as_the_map_names_them(tmp_path: Path, formats: str, text: str, expected: str) -> None:
    form = f'time_zone = "Asia/Karachi"\ndate_formats = [{formats}]\n'
    entry = only(read(tmp_path, form, f"{HEADER}\n{ROW}\n".replace("2026-01-01", text)))
    assert entry.valid_from_ns == ns(expected)


def test_the_last_day_is_included_in_the_maps_zone(tmp_path: Path) -> None:
    form = 'time_zone = "Asia/Karachi"\ndate_formats = ["%d/%m/%Y"]\n'
    entry = only(read(tmp_path, form, f"{HEADER}\n{ROW}\n".replace("2026-12-31", "31/12/2026")))
    assert entry.valid_until_ns == ns("2027-01-01T00:00:00+05:00")


def test_a_date_that_does_not_exist_is_shown_with_the_formats(tmp_path: Path) -> None:
    form = 'date_formats = ["%d/%m/%Y"]\n'
    feed = read(tmp_path, form, f"{HEADER}\n{ROW}\n".replace("2026-12-31", "31/11/2026"))
    (fault,) = feed.faults
    assert (fault.line, fault.column, fault.found) == (2, "valid_until", "'31/11/2026'")
    assert "%d/%m/%Y" in fault.expected


def test_json_lines(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {
            "id": 17,
            "where": ["203.0.113.8", "2001:db8::/48"],
            "what": "Bank",
            "proto": ["wireguard", "ipsec"],
            "since": "2026-01-01",
            "until": None,
            "applicant": {"name": "Ayesha Example"},
        },
        {"id": 18.0, "where": "203.0.113.9", "what": "bank", "since": "2026-01-01"},
    ]
    form = """
    ignore = ["applicant"]
    [columns]
    entry_id = "ID"
    prefix = "where"
    category = "what"
    protocols = "proto"
    valid_from = "since"
    status_since = "since"
    valid_until = "until"
    [constants]
    kind = "ip_whitelist"
    status = "approved"
    """
    content = "\n\n".join(map(json.dumps, rows))
    feed = read(tmp_path, form, content, "feed.jsonl")
    assert [str(fault) for fault in feed.faults] == []
    assert [(entry.entry_id, str(entry.prefix)) for entry in feed.entries] == [
        ("17", "203.0.113.8/32"),
        ("17", "2001:db8::/48"),
        ("18", "203.0.113.9/32"),
    ]
    first = feed.entries[0]
    assert (first.kind, first.status, first.valid_until_ns) == (Kind.IP_WHITELIST, Status.APPROVED, None)
    assert first.protocols == (Protocol.WIREGUARD, Protocol.IPSEC)
    assert first.status_since_ns == first.valid_from_ns == ns("2026-01-01T00:00:00Z")


def test_faulty_json_lines(tmp_path: Path) -> None:
    good = json.loads(json.dumps(dict(zip(COLUMNS, ROW.split(","), strict=True))))
    lines = [
        json.dumps(good),
        "{",
        "[1]",
        json.dumps(good | {"entry_id": "R-2", "prefix": {"a": 1}}),
        json.dumps({key: value for key, value in good.items() if key != "status"}),
        json.dumps(good | {"entry_id": "R-3", "phone": "0300-1234567"}),
        json.dumps(good | {"entry_id": True}),
    ]
    feed = read(tmp_path, 'format = "json_lines"\n', "\n".join(lines), "feed.txt")
    assert places(feed) == [
        (2, None),
        (3, None),
        (4, "prefix"),
        (5, "status"),
        (6, "phone"),
        (7, "entry_id"),
    ]
    assert "0300" not in "".join(map(str, feed.faults))


@pytest.mark.parametrize(
    ("header", "column", "found"),
    [
        ("Applicant Name", "Applicant Name", "a column that looks personal"),
        ("CNIC", "CNIC", "a column that looks personal"),
        ("Date of Birth", "Date of Birth", "a column that looks personal"),
        ("Ayesha\u00e9 (0300-1234567)", None, "a column whose name is not shown"),
        ("Remarks", "Remarks", "an unknown column"),
        ("valid untill", "valid untill", "an unknown column"),
    ],
)
def test_a_column_that_the_map_does_not_know_is_refused_unless_it_ignores_it(
    tmp_path: Path, header: str, column: str | None, found: str
) -> None:
    content = f"{HEADER},{header}\n{ROW},Ayesha Example\n"
    feed = read(tmp_path, "", content)
    assert not feed.is_whole
    assert [(fault.line, fault.column, fault.found) for fault in feed.faults] == [(1, column, found)]
    assert "Ayesha" not in str(feed.faults[0])
    ignoring = read(tmp_path, f"ignore = [{json.dumps(header.upper())}]\n", content)
    assert only(ignoring).entry_id == "R-1"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "Ayesha Example"),
        (0, "35202-1234567-1"),
        (0, "R-35202-1234567-1"),
        (0, "0300 1234567"),
        (0, "ayesha@example.org"),
        (2, "Ayesha Example"),
        (3, "0300-1234567"),
        (5, "ayesha.example.org"),
        (7, "35202-1234567-1"),
        (9, "Ayesha"),
        (2, "Frank"),
        (3, "0300:1234567"),
        (3, "00:1A:2B:3C:4D:5E"),
        (3, "203.0.113.7-03001234567"),
        (3, "92.300.123.456.7"),
        (7, "0300 12 4567"),
    ],
)
def test_no_message_shows_what_looks_personal(tmp_path: Path, place: int, value: str) -> None:
    cells = ROW.split(",")
    cells[place] = value
    feed = read(tmp_path, 'date_formats = ["%d/%m/%Y"]\n', f"{HEADER}\n{','.join(cells)}\n")
    assert [(fault.line, fault.column) for fault in feed.faults] == [(2, COLUMNS[place])]
    assert not any(part in str(feed.faults[0]) for part in value.replace("-", " ").split() if len(part) > 2)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (f"{HEADER}\n{ROW},x\n", "12 values"),
        (f"{HEADER}\n{ROW.rpartition(',')[0]}\n", "10 values"),
        (f"{HEADER},\n{ROW},x\n", "a value in a column without a name"),
        (f"{HEADER}\nR-1\n", "1 values"),
    ],
)
def test_a_row_that_does_not_fit_its_header(tmp_path: Path, content: str, found: str) -> None:
    feed = read(tmp_path, "", content)
    (fault,) = feed.faults
    assert (fault.line, fault.column, fault.found) == (2, None, found)
    assert feed.is_whole
    assert (feed.faulty_rows, feed.entries) == (1, ())


def test_rows_of_one_id_agree_across_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text(f"{HEADER}\n{ROW}\n")
    two.write_text(f"{HEADER}\n{ROW}\n".replace("bank", "embassy").replace("113.0/24", "114.0/24"))
    feed = read_feed([one, two], load(tmp_path, ""), source="regulator")
    (fault,) = feed.faults
    assert (fault.file, fault.line, fault.column) == (str(two), 2, "category")
    assert fault.found == f"another value than in line 2 of {one} of the same entry_id"
    assert feed.faulty_ids == {"R-1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.0-203.0.113.255", ["203.0.113.0/24"]),
        ("203.0.113.4 \u2013 203.0.113.6", ["203.0.113.4/31", "203.0.113.6/32"]),
        ("203.0.113.0/255.255.255.128", ["203.0.113.0/25"]),
        ("203.0.113.0 255.255.255.0", ["203.0.113.0/24"]),
        ("203.0.113.0 / 24", ["203.0.113.0/24"]),
        ("203.0.113.7 | 203.0.113.0-203.0.113.7|203.0.113.7", ["203.0.113.7/32", "203.0.113.0/29"]),
    ],
)
def test_ranges_and_netmasks(tmp_path: Path, text: str, expected: list[str]) -> None:
    feed = read(tmp_path, 'separator = "|"\n', f"{HEADER}\n{ROW.replace('203.0.113.0/24', text)}\n")
    assert [str(fault) for fault in feed.faults] == []
    assert [str(entry.prefix) for entry in feed.entries] == expected


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        (3, "203.0.113.9-203.0.113.1", "a range from its first to its last address"),
        (3, "203.0.113.9/255.255.255.0", "a network without host bits"),
        (3, "203.0.113.9/255.0.255.0", "a network without host bits"),
        (3, "203.0.113.0-255", "an IPv4 or IPv6 prefix"),
        (3, "203.0.013.9", "numbers without zeros before them"),
        (3, "203.0.113.9; 203.0.113.10", "several prefixes with '|' between them"),
        (6, "wireguard/openvpn;ipsec", "several protocols with '|' between them"),
        (7, "45292", "spreadsheets count days"),
    ],
)
def test_what_can_be_done_is_said(tmp_path: Path, column: int, text: str, expected: str) -> None:
    cells = ROW.split(",")
    cells[column] = text
    feed = read(tmp_path, 'separator = "|"\n', f"{HEADER}\n{','.join(cells)}\n")
    (fault,) = feed.faults
    assert (fault.line, fault.column) == (2, COLUMNS[column])
    assert expected in fault.expected


def test_several_lines_in_a_cell(tmp_path: Path) -> None:
    content = (
        f"{HEADER}\r\n{ROW.replace('203.0.113.0/24', chr(34) + '203.0.113.8%s203.0.113.9' + chr(34))}\r\n"
    )
    for ending in ("\n", "\r\n"):
        feed = read(tmp_path, 'separator = "\\n"\n', content % ending)
        assert [str(fault) for fault in feed.faults] == []
        assert [str(entry.prefix) for entry in feed.entries] == ["203.0.113.8/32", "203.0.113.9/32"]


def test_totals_and_the_header_again_are_no_rows(tmp_path: Path) -> None:
    totals = "," * 3 + " Grand  TOTAL,40" + "," * 6
    content = f"{HEADER}\n{ROW}\n{HEADER}\n{ROW.replace('R-1', 'R-2')}\n{totals}\n"
    feed = read(tmp_path, 'skip_rows = ["Total", "Grand total"]\n', content)
    assert [str(fault) for fault in feed.faults] == []
    assert (feed.rows, [entry.entry_id for entry in feed.entries]) == (2, ["R-1", "R-2"])
    assert {fault.line for fault in read(tmp_path, "", content).faults} == {5}


def test_a_wrong_delimiter_is_suspected(tmp_path: Path) -> None:
    (fault,) = read(tmp_path, "", HEADER.replace(",", ";") + "\n").faults
    assert (
        "here are 1 values, ',' between them: are delimiter and skip_lines of the map right?"
        in fault.expected
    )


def test_utf_16_without_its_mark_is_a_fault(tmp_path: Path) -> None:
    feed = read(tmp_path, 'encoding = "utf-16"\n', f"{HEADER}\n{ROW}\n")
    assert (places(feed), feed.is_whole) == ([(1, None)], False)
    assert "utf-16" in feed.faults[0].found


def test_undecodable_bytes_have_their_line(tmp_path: Path) -> None:
    rows = "".join(f"{ROW}\n".replace("R-1", f"R-{number}") for number in range(3_000))
    content = f"{HEADER}\n{rows}".encode() + b"R-\xff,\n" + rows.encode()
    feed = read(tmp_path, "", content)
    assert not feed.is_whole
    assert feed.faults[-1].line == 3_002
    assert feed.faults[-1].found == "bytes that are not UTF-8"


def test_a_spreadsheet_is_named_as_one(tmp_path: Path) -> None:
    feed = read(tmp_path, "", b"PK\x03\x04" + bytes(100), "feed.xlsx")
    assert [(fault.found, fault.expected) for fault in feed.faults] == [
        ("a spreadsheet", "its sheet, saved as CSV")
    ]


def test_a_column_that_is_not_shown_has_its_number(tmp_path: Path) -> None:
    feed = read(tmp_path, "", f"{HEADER},0300-1234567\n{ROW},x\n")
    assert feed.faults[0].expected == "a column that the map knows (column 12)"


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    feed = read(tmp_path, 'format = "json_lines"\n', b"[" * 3_000_000)
    assert (feed.faults[-1].line, feed.is_whole) == (1, False)


def test_reading_ends_where_faults_have_no_end(tmp_path: Path) -> None:
    feed = read(tmp_path, "", f"{HEADER}\n" + "x\n" * 150_000)
    assert len(feed.faults) == 100_001
    assert "more than 100,000 faults" in feed.faults[-1].found
    assert not feed.is_whole


@pytest.mark.parametrize(
    ("text", "line", "column", "expected"),
    [
        ('delimeter = ";"', 1, "delimeter", "'delimiter'"),
        ('delimiter = ";;"', 1, "delimiter", "one character"),
        ('encoding = "klingon"', 1, "encoding", "the name of a text encoding"),
        ('encoding = "base64"', 1, "encoding", "the name of a text encoding"),
        ('format = "xlsx"', 1, "format", "one of csv, json_lines"),
        ('date_formats = ["%d/%m"]', 1, "date_formats", "day, month and year"),
        ('date_formats = ["dd/mm/yyyy"]', 1, "date_formats", "%d/%m/%Y"),
        ('time_zone = "Mars"', 1, "time_zone", "IANA"),
        ('[columns]\nentryid = "x"', 2, "columns.entryid", "'entry_id'"),
        ('[values.status]\n"Under Process" = "pendin"', 2, "values.status.Under Process", "'pending'"),
        ('[values.states]\n"x" = "y"', 1, "values.states", "'status'"),
        ('[columns]\nkind = "K"\n[constants]\nkind = "exception"', 4, "constants.kind", "one of the two"),
        ('ignore = ["k "]\n[columns]\nkind = "K"', 3, "columns.kind", "one of the two"),
        ('[values.status]\n"A" = "pending"\n"a" = "approved"', 3, "values.status.a", "each word once"),
        ("[manifest]\nserial = 0", 2, "manifest.serial", "a whole number from 1"),
        ('[manifest]\nupdate_every = "weekly"', 2, "manifest.update_every", "a duration"),
        ("skip_lines = -1", 1, "skip_lines", "a whole number up to 1000"),
    ],
)
def test_a_faulty_map(tmp_path: Path, text: str, line: int, column: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text + "\n")
    assert [(fault.line, fault.column) for fault in error.value.faults] == [(line, column)]
    assert expected in error.value.faults[0].expected


def test_a_faulty_constant_is_the_maps_fault(tmp_path: Path) -> None:
    feed = read(tmp_path, '[constants]\nkind = "ip_whitelists"\n', "x\n")
    assert (feed.faults[0].column, feed.faults[0].expected) == ("constants.kind", "'ip_whitelist'")


def test_every_key_of_the_map_is_explained() -> None:
    text = (ROOT / "rules" / "README.md").read_text(encoding="utf-8")
    keys = ["format", "encoding", "delimiter", "quote", "escape", "skip_lines", "skip_rows", "separator"]
    keys += [
        "time_zone",
        "date_formats",
        "ignore",
        "[columns]",
        "[constants]",
        "[values.status]",
        "[manifest]",
    ]
    keys += ["update_every", "source", "missing_since", "reason"]
    assert [key for key in keys if f"`{key}`" not in text] == []
