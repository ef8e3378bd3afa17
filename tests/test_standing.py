"""How entries stand, and what those of one end amount to, as tables."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from judging import DAY, DESTINATION, NOW, OPEN, OURS, SOURCE, entry, flow, judge, named, register

from classifier.register import Endpoint, Kind, Protocol, Side, Status
from classifier.standing import standing_at

# --- one entry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "since", "start", "end", "standing"),
    [
        ("approved", -9, -9, None, "approved"),
        ("approved", -9, -9, 1, "approved"),
        ("approved", -9, 0, None, "approved"),
        ("approved", -9, 1, None, "not_yet_valid"),
        ("approved", 1, -9, None, "pending"),
        ("approved", -9, -90, 0, "in_grace"),
        ("approved", -9, -90, -13, "in_grace"),
        ("approved", -9, -90, -14, "expired"),
        ("submitted", -9, -9, None, "pending"),
        ("submitted", 1, -9, None, "not_filed"),
        ("pending", -9, 5, None, "pending"),
        ("pending", 1, 5, None, "pending"),
        ("pending", -90, -90, -1, "in_grace"),
        ("rejected", -9, -9, None, "rejected"),
        ("rejected", -90, -90, -50, "rejected"),
        ("rejected", 1, -9, None, "pending"),
        ("suspended", -9, -90, None, "suspended"),
        ("suspended", 0, -90, None, "suspended"),
        ("suspended", 1, -90, None, "approved"),
        ("suspended", -9, -90, -1, "expired"),
        ("revoked", -9, -90, None, "revoked"),
        ("revoked", 1, -90, None, "approved"),
        ("revoked", -9, -90, -1, "expired"),
    ],
)
def test_standing_of_an_entry(status: str, since: int, start: int, end: int | None, standing: str) -> None:
    """Times in days from now."""
    filed = entry(
        status=Status(status),
        status_since_ns=NOW + since * DAY,
        valid_from_ns=NOW + start * DAY,
        valid_until_ns=None if end is None else NOW + end * DAY,
    )
    assert standing_at(filed, NOW, 14 * DAY) == standing


@pytest.mark.parametrize(
    ("status", "end", "missing", "standing"),
    [
        ("approved", None, 1, "approved"),
        ("approved", None, 0, "in_grace"),
        ("approved", None, -13, "in_grace"),
        ("approved", None, -14, "expired"),
        ("approved", 5, -1, "in_grace"),
        ("approved", -14, -1, "expired"),
        ("approved", -1, -14, "expired"),
        ("pending", None, -1, "in_grace"),
        ("pending", None, -14, "expired"),
        ("suspended", None, -1, "expired"),
        ("rejected", None, -1, "rejected"),
    ],
)
def test_what_complete_feeds_lack_goes_to_grace(
    status: str, end: int | None, missing: int, standing: str
) -> None:
    """Times in days from now."""
    missed = entry(
        status=Status(status),
        valid_until_ns=None if end is None else NOW + end * DAY,
        missing_since_ns=NOW + missing * DAY,
    )
    assert standing_at(missed, NOW, 14 * DAY) == standing


def test_an_exception_was_not_there_before_it_was_made() -> None:
    """Nobody had applied for it, so a recheck must not call the time before it pending."""
    made = entry(kind=Kind.EXCEPTION, status_since_ns=NOW + DAY, valid_until_ns=NOW + 9 * DAY)
    assert standing_at(made, NOW, 0) == "not_filed"
    assert standing_at(made, NOW + DAY, 0) == "approved"
    withdrawn = made._replace(status=Status.REVOKED)
    assert standing_at(withdrawn, NOW, 0) == "approved", "it was one before it was revoked"


# --- one end ------------------------------------------------------------------------------------------

# Entries at the address itself, at its /28 and at its /24; then the verdict of that end.
ONE_END = [
    ([], [], [], "unregistered"),
    (["vpn_registration"], [], [], "registered"),
    (["licensed_provider"], [], [], "licensed_provider"),
    (["carrier_service"], [], [], "carrier_service"),
    (["operator_infrastructure"], [], [], "operator_infrastructure"),
    (["exception"], [], [], "excepted"),
    (["ip_whitelist"], [], [], "ip_whitelisted"),
    (["submitted"], [], [], "pending"),
    (["pending"], [], [], "pending"),
    (["later"], [], [], "pending"),
    (["in_grace"], [], [], "expired_in_grace"),
    (["expired"], [], [], "expired"),
    (["suspended"], [], [], "suspended"),
    (["revoked"], [], [], "revoked"),
    (["rejected"], [], [], "unregistered"),
    (["mismatch"], [], [], "protocol_mismatch"),
    # At one prefix an approved entry wins over every other one there.
    (["revoked", "vpn_registration"], [], [], "registered"),
    (["vpn_registration", "suspended", "pending"], [], [], "registered"),
    (["ip_whitelist", "vpn_registration"], [], [], "registered"),
    (["ip_whitelist", "mismatch"], [], [], "ip_whitelisted"),
    (["revoked", "mismatch"], [], [], "protocol_mismatch"),
    (["pending", "mismatch"], [], [], "protocol_mismatch"),
    # What is not in force leaves the word to shorter prefixes.
    (["pending"], ["vpn_registration"], [], "registered"),
    (["expired"], [], ["ip_whitelist"], "ip_whitelisted"),
    (["rejected"], ["licensed_provider"], [], "licensed_provider"),
    (["in_grace"], ["mismatch"], [], "expired_in_grace"),
    (["expired"], ["pending"], [], "pending"),
    (["expired"], ["in_grace"], [], "expired_in_grace"),
    # A suspension or revocation outranks shorter prefixes, and only those.
    (["suspended"], ["vpn_registration"], [], "suspended"),
    (["revoked"], [], ["licensed_provider"], "revoked"),
    (["revoked"], ["pending"], [], "revoked"),
    (["vpn_registration"], ["revoked"], [], "registered"),
    (["mismatch"], ["revoked"], [], "protocol_mismatch"),
    (["pending"], ["revoked"], [], "pending"),
    (["in_grace"], ["suspended"], [], "expired_in_grace"),
    (["revoked", "pending"], [], [], "pending"),
    (["expired"], ["suspended"], ["vpn_registration"], "suspended"),
    (["expired", "revoked"], [], [], "revoked"),
    (["suspended", "revoked"], [], [], "suspended"),
    (["rejected", "revoked"], [], [], "revoked"),
    # The most specific prefix with an entry in force decides, also when that entry does not fit.
    (["mismatch"], ["vpn_registration"], [], "protocol_mismatch"),
    (["vpn_registration"], ["licensed_provider"], ["ip_whitelist"], "registered"),
    (["ip_whitelist"], ["vpn_registration"], [], "ip_whitelisted"),
]


@pytest.mark.parametrize(("address", "longer", "shorter", "verdict"), ONE_END)
def test_one_end(address: list[str], longer: list[str], shorter: list[str], verdict: str) -> None:
    entries = (
        [named(what) for what in address]
        + [named(what, "198.51.100.0/28") for what in longer]
        + [named(what, "198.51.100.0/24") for what in shorter]
    )
    for order in itertools.permutations(entries):
        assert judge(OURS, *order).verdict == verdict


@pytest.mark.parametrize(
    ("fields", "of", "verdict"),
    [
        ({"protocols": (Protocol.WIREGUARD, Protocol.IPSEC)}, {}, "registered"),
        ({"protocols": (Protocol.OPENVPN,)}, {}, "protocol_mismatch"),
        ({"endpoints": ("203.0.113.10",)}, {}, "registered"),
        ({"endpoints": ("203.0.113.0/28",)}, {}, "registered"),
        ({"endpoints": ("192.0.2.1", "203.0.113.10:51820")}, {}, "registered"),
        ({"endpoints": ("203.0.113.10:51821",)}, {}, "endpoint_mismatch"),
        ({"endpoints": ("203.0.113.11",)}, {}, "endpoint_mismatch"),
        ({"endpoints": ("2001:db8::/32",)}, {}, "endpoint_mismatch"),
        ({"endpoints": ("203.0.113.11",), "protocols": (Protocol.OPENVPN,)}, {}, "protocol_mismatch"),
        # ESP and AH have no ports; IKE moves from 500 to 4500.
        (
            {"endpoints": ("203.0.113.10:500",)},
            {"protocol": "ipsec", "transport": "ESP", "source_port": None, "destination_port": None},
            "registered",
        ),
        ({"endpoints": ("203.0.113.10:500",)}, {"protocol": "ipsec", "destination_port": 4500}, "registered"),
        ({"endpoints": ("203.0.113.10:4500",)}, {"protocol": "ipsec", "destination_port": 500}, "registered"),
        (
            {"endpoints": ("203.0.113.10:500",)},
            {"protocol": "openvpn", "destination_port": 4500},
            "endpoint_mismatch",
        ),
        ({"side": Side.SUBSCRIBER}, {}, "registered"),
        ({"side": Side.ENDPOINT}, {}, "endpoint_mismatch"),
        # Who opened the tunnel is unknown when the capture began later.
        ({"side": Side.ENDPOINT}, {"phase": "data_only"}, "registered"),
    ],
)
def test_fit_of_the_local_end(fields: dict[str, object], of: dict[str, object], verdict: str) -> None:
    if "endpoints" in fields:
        assert isinstance(fields["endpoints"], tuple)
        fields = fields | {"endpoints": tuple(Endpoint.parse(text) for text in fields["endpoints"])}
    assert judge(OURS, entry()._replace(**fields), of=replace(flow(), **of)).verdict == verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"side": Side.ENDPOINT}, "registered"),
        ({"side": Side.SUBSCRIBER}, "unregistered"),
        ({"protocols": (Protocol.OPENVPN,)}, "unregistered"),
        ({"endpoints": (Endpoint.parse("198.51.100.0/24"),)}, "registered"),
        # A port is filed for where the other end answers; the initiator's is anyhow.
        ({"endpoints": (Endpoint.parse("198.51.100.7:51820"),)}, "registered"),
        ({"endpoints": (Endpoint.parse("192.0.2.0/24"),)}, "unregistered"),
    ],
)
def test_fit_of_the_remote_end(fields: dict[str, object], verdict: str) -> None:
    """What does not fit at the remote end leaves the verdict to the local one."""
    assert judge(OURS, entry(DESTINATION, **fields)).verdict == verdict


def test_sides_of_an_inbound_flow_are_not_told_apart() -> None:
    inbound = flow(DESTINATION, SOURCE)
    for side in Side:
        assert judge(OURS, entry(SOURCE, side=side), of=inbound).verdict == "registered"
        assert judge(OURS, entry(DESTINATION, side=side), of=inbound).verdict == "registered"


def test_filed_endpoints_do_not_apply_behind_a_proxy() -> None:
    """The destination is the proxy; what lies behind it was not seen, so it can neither fit nor miss."""
    filed = entry(SOURCE, endpoints=(Endpoint.parse("203.0.113.99:1194"),))
    seen = flow(destination_port=8080)
    assert OPEN.judge(seen, register(filed), NOW).verdict == "endpoint_mismatch"
    assert OPEN.judge(replace(seen, via_proxy=True), register(filed), NOW).verdict == "registered"
    other = filed._replace(protocols=(Protocol.IPSEC,))
    assert OPEN.judge(replace(seen, via_proxy=True), register(other), NOW).verdict == "protocol_mismatch"
