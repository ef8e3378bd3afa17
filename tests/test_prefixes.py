"""Prefixes against the standard library, look-ups against a plain scan over all prefixes."""

import ipaddress
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from classifier.register.prefixes import Prefix, PrefixTable, address_text

# Few different leading bytes, so that generated prefixes nest and repeat.
IPV4 = st.tuples(
    st.sampled_from([0, 1, 0x0A, 0x80]), st.integers(0, 3), st.integers(0, 3), st.integers(0, 255)
)
IPV6 = st.lists(st.sampled_from([0, 1, 0x20, 0x80, 0xFF]), min_size=16, max_size=16)
ADDRESSES = (IPV4 | IPV6).map(bytes)


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    address = draw(ADDRESSES)
    length = draw(st.integers(0, len(address) * 8))
    network = ipaddress.ip_network((address, length), strict=False)
    return Prefix(network.network_address.packed, length)


@pytest.mark.parametrize(
    ("text", "address", "length"),
    [
        ("203.0.113.0/24", "203.0.113.0", 24),
        ("203.0.113.7", "203.0.113.7", 32),
        ("0.0.0.0/0", "0.0.0.0", 0),
        ("2001:db8::/32", "2001:db8::", 32),
        ("2001:DB8:0:0::1", "2001:db8::1", 128),
        ("::/0", "::", 0),
    ],
)
def test_a_prefix_is_read(text: str, address: str, length: int) -> None:
    assert Prefix.parse(text) == Prefix(ipaddress.ip_address(address).packed, length)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "an IPv4 or IPv6 prefix"),
        ("203.0.113", "an IPv4 or IPv6 prefix"),
        ("203.0.113.256/24", "an IPv4 or IPv6 prefix"),
        ("203.0.113.010/32", "an IPv4 or IPv6 prefix"),
        ("203.0.113.0\x00/24", "an IPv4 or IPv6 prefix"),
        ("fe80::1%eth0", "an IPv4 or IPv6 prefix"),
        ("203.0.113.0/", "a prefix length from 0 to 32"),
        ("203.0.113.0/33", "a prefix length from 0 to 32"),
        ("203.0.113.0/-1", "a prefix length from 0 to 32"),
        ("203.0.113.0/024", "a prefix length from 0 to 32"),
        ("203.0.113.0/²4", "a prefix length from 0 to 32"),
        ("203.0.113.0/24/24", "a prefix length from 0 to 32"),
        ("203.0.113.0/255.255.255.0", "a prefix length from 0 to 32"),
        ("2001:db8::/129", "a prefix length from 0 to 128"),
        ("203.0.113.1/24", "203.0.113.0/24 for the network, 203.0.113.1/32 for the one address"),
        ("2001:db8::1/32", "2001:db8::/32 for the network, 2001:db8::1/128 for the one address"),
        ("::ffff:203.0.113.0/120", "the IPv4 form, 203.0.113.0/24"),
        ("::ffff:203.0.113.7", "the IPv4 form, 203.0.113.7"),
    ],
)
def test_a_faulty_prefix_says_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        Prefix.parse(text)


@given(prefixes())
def test_text_and_back_agree_with_the_standard_library(prefix: Prefix) -> None:
    network = ipaddress.ip_network((prefix.address, prefix.length))
    mapped = network.version == 6 and prefix.address[:12] == b"\x00" * 10 + b"\xff\xff"
    assert str(network) == f"{ipaddress.ip_address(prefix.address)}/{prefix.length}"
    if not mapped:
        assert Prefix.parse(str(network)) == prefix
        assert Prefix.parse(str(prefix)) == prefix


@given(st.text(alphabet="0123456789abcdef.:/", max_size=24))
@example("1.2.3.4/8")
def test_nothing_is_accepted_that_the_standard_library_refuses(text: str) -> None:
    try:
        prefix = Prefix.parse(text)
    except ValueError:
        return
    assert ipaddress.ip_network(text, strict=True).network_address.packed == prefix.address


@given(st.lists(prefixes(), max_size=40), st.lists(ADDRESSES, min_size=1, max_size=10))
def test_covering_agrees_with_a_plain_scan(stored: list[Prefix], addresses: list[bytes]) -> None:
    values = list(enumerate(stored))
    table = PrefixTable((prefix, value) for value, prefix in values)
    assert len(table) == len(set(stored))
    for address in addresses + [prefix.address for prefix in stored]:
        holding = [
            (value, prefix)
            for value, prefix in values
            if len(address) == len(prefix.address)
            and ipaddress.ip_address(address) in ipaddress.ip_network((prefix.address, prefix.length))
        ]
        expected = [value for value, _ in sorted(holding, key=lambda item: (-item[1].length, item[0]))]
        assert list(table.covering(address)) == expected


@given(prefixes(), ADDRESSES)
def test_holds_agrees_with_the_standard_library(prefix: Prefix, address: bytes) -> None:
    network = ipaddress.ip_network((prefix.address, prefix.length))
    assert prefix.holds(address) == (ipaddress.ip_address(address) in network)


def test_an_address_of_another_length_is_a_mistake_of_the_caller() -> None:
    table = PrefixTable([(Prefix.parse("0.0.0.0/0"), "all")])
    with pytest.raises(ValueError, match="4 or 16 bytes, not 5"):
        table.covering(b"\x00" * 5)


def test_text_of_an_address_that_looks_like_text() -> None:
    # Four and sixteen bytes that are also printable: they must be taken as packed addresses.
    table = PrefixTable([(Prefix.parse("49.46.50.46/32"), "four"), (Prefix.parse("0.0.0.0/0"), "all")])
    assert table.covering(b"1.2.") == ("four", "all")
    assert table.covering(b"2001:db8::1.2.3.") == ()
    assert address_text(b"1.2.") == "49.46.50.46"
