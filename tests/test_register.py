"""A register is loaded whole, or refused with every fault in it."""

import hashlib
import tomllib
from datetime import datetime
from pathlib import Path

import pytest

from classifier.errors import Fault, RegisterError
from classifier.register import Category, Kind, Prefix, Protocol, Register, Side, Status
from classifier.register.entry import Endpoint
from classifier.register.feed_map import COLUMNS

RULES = Path(__file__).parent.parent / "rules"
MANIFEST = {
    "source": '"regulator"',
    "serial": "7",
    "issued_at": "2026-11-20T12:00:00Z",
    "next_update": "2026-11-27T12:00:00Z",
    "time_zone": '"UTC"',
}
ROW = {
    "entry_id": "R-1",
    "kind": "vpn_registration",
    "category": "bank",
    "prefix": "203.0.113.0/24",
    "side": "",
    "endpoints": "",
    "protocols": "",
    "valid_from": "2026-01-01",
    "valid_until": "2026-12-31",
    "status": "approved",
    "status_since": "2026-01-01",
}


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


def write(
    folder: Path, *rows: dict[str, str], manifest: dict[str, str] | None = None, header: str | None = None
) -> Path:
    """A register of rows that differ from `ROW` as given."""
    lines = [header if header is not None else ",".join(COLUMNS)]
    lines += [",".join((ROW | row)[column] for column in COLUMNS) for row in rows]
    path = folder / "register.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    keys = MANIFEST | (manifest or {})
    path.with_suffix(".toml").write_text(
        "".join(f"{key} = {value}\n" for key, value in keys.items() if value)
    )
    return path


def faults(path: Path) -> tuple[Fault, ...]:
    with pytest.raises(RegisterError) as error:
        Register.load(path)
    return error.value.faults


def test_a_register_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"prefix": "203.0.113.0/24"},
        {"prefix": "2001:db8::/32"},
        {
            "entry_id": "X:2/a",
            "kind": "exception",
            "category": "other",
            "prefix": "203.0.113.9",
            "side": "endpoint",
            "endpoints": "198.51.100.7:51820; 2001:db8::/48;[2001:db8::1]:443",
            "protocols": "wireguard;ipsec",
            "valid_from": "2026-11-01T08:00:00+05:00",
            "valid_until": "2026-11-30T08:00:00Z",
            "status": "suspended",
            "status_since": "2026-11-02",
        },
    )
    register = Register.load(path)
    assert (register.source, register.serial) == ("regulator", 7)
    assert register.issued_at_ns == ns("2026-11-20T12:00:00Z")
    assert register.next_update_ns == ns("2026-11-27T12:00:00Z")
    assert register.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert register.first_record_ns == ns("2026-01-01T00:00:00Z")
    first, second, third = register.entries
    assert (first.prefix, second.prefix) == (Prefix.parse("203.0.113.0/24"), Prefix.parse("2001:db8::/32"))
    assert (first.side, first.endpoints, first.protocols) == (Side.EITHER, (), ())
    assert (first.valid_from_ns, first.valid_until_ns) == (
        ns("2026-01-01T00:00:00Z"),
        ns("2027-01-01T00:00:00Z"),
    )
    assert third.entry_id == "X:2/a"
    assert (third.kind, third.category, third.status) == (Kind.EXCEPTION, Category.OTHER, Status.SUSPENDED)
    assert third.side is Side.ENDPOINT
    assert third.protocols == (Protocol.WIREGUARD, Protocol.IPSEC)
    assert [str(endpoint) for endpoint in third.endpoints] == [
        "198.51.100.7:51820",
        "2001:db8::/48",
        "[2001:db8::1]:443",
    ]
    assert third.valid_from_ns == ns("2026-11-01T03:00:00Z")
    assert third.valid_until_ns == ns("2026-11-30T08:00:00Z")
    assert register.covering(bytes([203, 0, 113, 9])) == (third, first)
    assert register.covering(bytes([203, 0, 114, 9])) == ()
    assert register.covering(bytes.fromhex("20010db8" + "00" * 12)) == (second,)


def test_the_shipped_register_shows_everything() -> None:
    entries = Register.load(RULES / "register.csv").entries
    assert len(entries) >= 40
    assert {entry.kind for entry in entries} == set(Kind)
    assert {entry.status for entry in entries} == set(Status)
    assert {entry.side for entry in entries} == set(Side)
    assert len({entry.category for entry in entries}) >= 8
    assert {len(entry.prefix.address) for entry in entries} == {4, 16}
    assert {bool(entry.endpoints) for entry in entries} == {True, False}
    assert {bool(entry.protocols) for entry in entries} == {True, False}
    assert {protocol for entry in entries for protocol in entry.protocols} == set(Protocol)


def test_every_column_and_key_is_explained() -> None:
    text = (RULES / "README.md").read_text(encoding="utf-8")
    manifest = tomllib.loads((RULES / "register.toml").read_text(encoding="utf-8"))
    policy = tomllib.loads((RULES / "policy.toml").read_text(encoding="utf-8"))
    tables = ("networks", "sensor", "rule")
    words = {*COLUMNS, *manifest, *policy["networks"], *policy["sensor"], *policy} - {*tables}
    words |= {key for rule in policy["rule"] for key in rule}
    words |= {str(word) for names in (Kind, Category, Side, Status, Protocol) for word in names}
    assert {word for word in words if f"`{word}`" not in text} == set()


@pytest.mark.parametrize(
    ("zone", "day", "start", "end"),
    [
        ("UTC", "2026-03-08", "2026-03-08T00:00:00Z", "2026-03-09T00:00:00Z"),
        ("Asia/Kathmandu", "2026-03-08", "2026-03-07T18:15:00Z", "2026-03-08T18:15:00Z"),
        # The clock goes forward on this day: it has 23 hours.
        ("America/New_York", "2026-03-08", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"),
    ],
)
def test_bare_dates_are_whole_days_of_the_manifests_zone(
    tmp_path: Path, zone: str, day: str, start: str, end: str
) -> None:
    path = write(
        tmp_path,
        {"valid_from": day, "valid_until": day, "status_since": day},
        manifest={"time_zone": f'"{zone}"'},
    )
    (entry,) = Register.load(path).entries
    assert (entry.valid_from_ns, entry.valid_until_ns) == (ns(start), ns(end))
    assert entry.status_since_ns == ns(start)


@pytest.mark.parametrize(
    ("change", "column", "found", "expected"),
    [
        ({"prefix": "203.0.113.300/24"}, "prefix", "'203.0.113.300/24'", "an IPv4 or IPv6 prefix"),
        ({"prefix": "203.0.113.1/24"}, "prefix", "'203.0.113.1/24'", "no host bits: 203.0.113.0/24"),
        ({"prefix": "::ffff:203.0.113.0/120"}, "prefix", "'::ffff:203.0.113.0/120'", "203.0.113.0/24"),
        ({"prefix": ""}, "prefix", "nothing", "an IPv4 or IPv6 prefix"),
        ({"kind": "vpn_registraton"}, "kind", "'vpn_registraton'", "'vpn_registration'"),
        ({"kind": ""}, "kind", "nothing", "one of vpn_registration, ip_whitelist"),
        ({"category": "banks"}, "category", "'banks'", "'bank'"),
        ({"side": "subscribers"}, "side", "'subscribers'", "'subscriber'"),
        ({"status": "Approved"}, "status", "'Approved'", "'approved'"),
        ({"protocols": "wireguard;open-vpn"}, "protocols", "", "'openvpn'"),
        ({"endpoints": "203.0.113.9:0"}, "endpoints", "'203.0.113.9:0'", "a port from 1 to 65535"),
        ({"endpoints": "203.0.113.9:65536"}, "endpoints", "'203.0.113.9:65536'", "a port from 1 to 65535"),
        ({"endpoints": "[2001:db8::1"}, "endpoints", "'[2001:db8::1'", "'[prefix]:port'"),
        ({"endpoints": "203.0.113.9;"}, "endpoints", "", "an IPv4 or IPv6 prefix"),
        ({"valid_from": "2026-02-30"}, "valid_from", "'2026-02-30'", "a date that exists"),
        ({"valid_from": "20260228"}, "valid_from", "", "a date that exists"),
        ({"valid_from": "2026-W10-1"}, "valid_from", "", "a date that exists"),
        ({"valid_from": "2026-02-28T10:00:00"}, "valid_from", "'2026-02-28T10:00:00'", "with its offset"),
        ({"valid_from": "0026-02-28"}, "valid_from", "'0026-02-28'", "a year from 1970 to 2200"),
        ({"valid_from": ""}, "valid_from", "nothing", "a date that exists"),
        ({"valid_until": "9999-12-31"}, "valid_until", "'9999-12-31'", "a year from 1970 to 2200"),
        ({"valid_until": "2025-12-31"}, "valid_until", "an end before valid_from", "a later day"),
        ({"status_since": "31.12.2026"}, "status_since", "'31.12.2026'", "a date that exists"),
        (
            {"kind": "exception", "valid_until": ""},
            "valid_until",
            "an exception without an end",
            "the last day",
        ),
    ],
)
def test_a_fault_names_its_place(
    tmp_path: Path, change: dict[str, str], column: str, found: str, expected: str
) -> None:
    path = write(tmp_path, {"entry_id": "R-0", "prefix": "198.51.100.0/24"}, change)
    (fault,) = faults(path)
    assert (fault.file, fault.line, fault.column) == (str(path), 3, column)
    assert found in fault.found
    assert expected in fault.expected


def test_a_repeated_row_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {}, {"prefix": "203.0.113.7"}, {})
    (fault,) = faults(path)
    assert (fault.line, fault.column) == (4, "prefix")
    assert "line 2" in fault.found


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kind", "ip_whitelist"),
        ("category", "other"),
        ("side", "endpoint"),
        ("endpoints", "203.0.113.9"),
        ("protocols", "ipsec"),
        ("valid_from", "2026-01-02"),
        ("valid_until", ""),
        ("status", "revoked"),
        ("status_since", "2026-01-02"),
    ],
)
def test_rows_of_one_entry_agree_but_for_the_prefix(tmp_path: Path, column: str, value: str) -> None:
    path = write(tmp_path, {}, {"prefix": "198.51.100.0/24", column: value})
    (fault,) = faults(path)
    assert (fault.line, fault.column) == (3, column)
    assert "line 2" in fault.found


def test_every_fault_is_found_in_one_pass(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"prefix": "203.0.113.1/24"},
        {"entry_id": "R-2", "status": "aproved", "valid_until": "2026-13-01"},
        {"entry_id": "R-3", "prefix": "198.51.100.0/24"},
        {"entry_id": "R-3", "prefix": "198.51.100.0/24"},
        {"entry_id": "R-4", "valid_from": "2027-01-01"},
        manifest={"serial": "0", "isued_at": "1"},
    )
    with path.open("a", encoding="utf-8") as file:
        file.write("one,two\n")
    with pytest.raises(RegisterError) as error:
        Register.load(path)
    places = [(Path(fault.file).name, fault.line, fault.column) for fault in error.value.faults]
    assert places == [
        ("register.toml", 2, "serial"),
        ("register.toml", 6, "isued_at"),
        ("register.csv", 2, "prefix"),
        ("register.csv", 3, "valid_until"),
        ("register.csv", 3, "status"),
        ("register.csv", 5, "prefix"),
        ("register.csv", 6, "valid_until"),
        ("register.csv", 7, None),
    ]
    assert len(str(error.value).splitlines()) == len(places)
    assert "'issued_at'" in error.value.faults[1].expected


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("entry_id", "Ayesha Example"),
        ("entry_id", "ayesha.example"),
        ("entry_id", "ayesha1@example.org"),
        ("entry_id", "+92 300 1234567"),
        ("entry_id", "03001234567"),
        ("entry_id", "35202-1234567-1"),
        ("kind", "Ayesha Example"),
        ("category", "0300-1234567"),
        ("side", "Example"),
        ("status", "ayesha@example.org"),
        ("protocols", "wireguard;Ayesha"),
        ("prefix", "0300.123.4567"),
        ("prefix", "Ayesha"),
        ("endpoints", "ayesha.example:1194"),
        ("valid_from", "35202-1234567-1"),
        ("valid_until", "0300-1234567"),
    ],
)
def test_what_looks_personal_is_refused_and_not_repeated(tmp_path: Path, column: str, value: str) -> None:
    path = write(tmp_path, {column: value})
    with pytest.raises(RegisterError) as error:
        Register.load(path)
    assert [(fault.line, fault.column) for fault in error.value.faults] == [(2, column)]
    for part in value.replace(";", " ").split():
        assert part == "wireguard" or part not in str(error.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "column", ["name", "company_name", "Applicant", "e-mail", "phone_no", "CNIC", "fullname", "contact"]
)
def test_a_column_about_a_person_is_refused(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, header=",".join([*COLUMNS, column]))
    (fault,) = faults(path)
    assert (fault.line, fault.column, fault.found) == (1, column, "a column that looks personal")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            ",".join(COLUMNS).replace("valid_until", "valid_untill"),
            [("valid_untill", "an unknown column"), ("valid_until", "no such column")],
        ),
        (",".join(COLUMNS[:-2]), [("status", "no such column"), ("status_since", "no such column")]),
        (",".join([*COLUMNS, "kind"]), [("kind", "the column twice")]),
        ("R-1,vpn,Ayesha Example", [(None, "a first line without a known column")]),
        (",".join([*COLUMNS, "ayesha@example.org"]), [(None, "a column whose name is not shown")]),
    ],
)
def test_a_faulty_header(tmp_path: Path, header: str, expected: list[tuple[str | None, str]]) -> None:
    found = faults(write(tmp_path, header=header))
    assert [(fault.column, fault.found) for fault in found] == expected
    assert {fault.line for fault in found} == {1}
    assert not any("yesha" in str(fault) for fault in found)


def test_the_nearest_column_is_suggested(tmp_path: Path) -> None:
    header = ",".join(COLUMNS).replace("valid_until", "valid_untill")
    assert faults(write(tmp_path, header=header))[0].expected == "the column 'valid_until'"


def test_order_of_columns_quotes_bom_and_line_ends_are_free(tmp_path: Path) -> None:
    path = write(tmp_path, {})
    columns = list(reversed(COLUMNS))
    lines = [",".join(columns), ",".join(f'" {ROW[column]} "' for column in columns), ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    (entry,) = Register.load(path).entries
    assert (entry.entry_id, str(entry.prefix)) == ("R-1", "203.0.113.0/24")


def test_an_empty_register_is_a_register(tmp_path: Path) -> None:
    register = Register.load(write(tmp_path))
    assert register.entries == ()
    assert register.first_record_ns == register.issued_at_ns
    assert register.covering(bytes(4)) == ()


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"", 1, "an empty file"),
        (b"entry_id\n\xff\xfe", 2, "bytes that are not UTF-8"),
        (",".join(COLUMNS).encode() + b'\nR-1,"open\n', 2, "text that is no CSV"),
        (",".join(COLUMNS).encode() + b'\nR-1,"a"b\n', 2, "text that is no CSV"),
        (",".join(COLUMNS).encode() + b"\nR-1\x00\n", 2, "1 values"),
        (",".join(COLUMNS).encode() + b"\n" + b"x" * 200_000 + b"\n", 2, "text that is no CSV"),
    ],
)
def test_a_file_that_is_no_csv(tmp_path: Path, content: bytes, line: int, found: str) -> None:
    path = write(tmp_path)
    path.write_bytes(content)
    first = faults(path)[0]
    assert first.line == line
    assert found in first.found


def test_a_line_break_inside_quotes_keeps_the_lines_right(tmp_path: Path) -> None:
    path = write(tmp_path, {"status": '"ap\nproved"'}, {"entry_id": "R-2", "status": "aproved"})
    assert [(fault.line, fault.column) for fault in faults(path)] == [(2, "status"), (4, "status")]


@pytest.mark.parametrize(
    ("change", "line", "key", "expected"),
    [
        ({"serial": "true"}, 2, "serial", "a whole number from 1"),
        ({"serial": ""}, None, "serial", "a whole number that rises"),
        ({"source": '"Some Body"'}, 1, "source", "a short name in small letters"),
        ({"issued_at": "2026-11-20"}, 3, "issued_at", "a time with its offset"),
        ({"issued_at": "2026-11-20T12:00:00"}, 3, "issued_at", "a time with its offset"),
        ({"next_update": "2026-11-20T12:00:00Z"}, 4, "next_update", "the time of the next issue"),
        ({"time_zone": '"Mars/Olympus"'}, 5, "time_zone", "the IANA name of a time zone"),
        ({"time_zone": '"../../etc/passwd"'}, 5, "time_zone", "the IANA name of a time zone"),
        ({"time_zone": '"Asia"'}, 5, "time_zone", "the IANA name of a time zone"),
        ({"next-update": "1"}, 6, "next-update", "'next_update'"),
    ],
)
def test_a_faulty_manifest(
    tmp_path: Path, change: dict[str, str], line: int | None, key: str, expected: str
) -> None:
    path = write(tmp_path, {}, manifest=change)
    (fault,) = faults(path)
    assert (fault.file, fault.line, fault.column) == (str(path.with_suffix(".toml")), line, key)
    assert expected in fault.expected


def test_a_manifest_that_is_no_toml(tmp_path: Path) -> None:
    path = write(tmp_path, {})
    path.with_suffix(".toml").write_text("source = 'regulator'\nserial = = 2\n")
    (fault,) = faults(path)
    assert (Path(fault.file).name, fault.line, fault.expected) == ("register.toml", 2, "valid TOML")


def test_missing_files_are_named(tmp_path: Path) -> None:
    # Of what could be a store, no manifest is missing.
    for name in ("register.csv", "register.db"):
        (only,) = faults(tmp_path / name)
        assert (Path(only.file).name, only.found) == (name, "no such file")
    (tmp_path / "register.csv").write_text(",".join(COLUMNS) + "\n")
    (only,) = faults(tmp_path / "register.csv")
    assert (Path(only.file).name, only.found) == ("register.toml", "no such file")


@pytest.mark.parametrize(
    "text",
    [
        "203.0.113.10",
        "203.0.113.0/24",
        "203.0.113.10:51820",
        "203.0.113.0/24:1194",
        "2001:db8::/48",
        "[2001:db8::1]:1",
    ],
)
def test_an_endpoint_is_written_as_it_was_filed(text: str) -> None:
    assert str(Endpoint.parse(text)) == text
