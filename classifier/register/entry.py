"""The register's model: who may run what from where, one `Entry` for each row.

An entry holds what was filed. Whether it is good at some time, and for some flow, is for `standing` to say.
Nothing here tells who the registrant is: the opaque `entry_id` is the only link back to the authority's file.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from classifier.register.prefixes import Prefix, address_text

__all__ = ["Category", "Endpoint", "Entry", "Kind", "Protocol", "Reason", "Side", "Status"]


IKE_PORTS: Final = (500, 4500)
"""One port, where they were filed for IPsec (RFC 3947 moves between them)."""


class Kind(StrEnum):
    """Why an address is in the register."""

    VPN_REGISTRATION = "vpn_registration"
    """Somebody registered a VPN of theirs."""
    IP_WHITELIST = "ip_whitelist"
    """A fixed address of a call centre, of users of video conferencing and the like."""
    LICENSED_PROVIDER = "licensed_provider"
    """Servers of a VPN provider whose customers need no entry of their own."""
    CARRIER_SERVICE = "carrier_service"
    """Gateways of a carrier: Wi-Fi calling, small cells."""
    OPERATOR_INFRASTRUCTURE = "operator_infrastructure"
    """Routers and gateways of the operator, never a pool of subscribers."""
    EXCEPTION = "exception"
    """The operator's own decision, always with an end."""


class Category(StrEnum):
    """What the registrant does; closed, so that it can be a label."""

    SOFTWARE_HOUSE = "software_house"
    BANK = "bank"
    EMBASSY = "embassy"
    CALL_CENTRE = "call_centre"
    FREELANCER = "freelancer"
    VIDEO_CONFERENCING = "video_conferencing"
    EDUCATION = "education"
    GOVERNMENT = "government"
    HEALTHCARE = "healthcare"
    INDUSTRY = "industry"
    VPN_PROVIDER = "vpn_provider"
    MOBILE_CARRIER = "mobile_carrier"
    INTERNET_PROVIDER = "internet_provider"
    OTHER = "other"


class Side(StrEnum):
    """Which part the prefix plays in the registrant's VPN."""

    SUBSCRIBER = "subscriber"
    """A line that the registrant is connected by."""
    ENDPOINT = "endpoint"
    """The server or gateway that is dialled."""
    EITHER = "either"
    """Not filed."""


class Status(StrEnum):
    """How far the authority has come with an entry."""

    SUBMITTED = "submitted"
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


class Protocol(StrEnum):
    """What an entry can be filed for: the protocols that the core recognises, under its names."""

    WIREGUARD = "wireguard"
    OPENVPN = "openvpn"
    IPSEC = "ipsec"


class Reason(StrEnum):
    """Why the operator makes an exception; closed, so that exceptions can be counted by it."""

    APPROVAL_IN_PROGRESS = "approval_in_progress"
    """Applied for; the approval, or the feed that brings it, is still to come."""
    FEED_ERROR = "feed_error"
    """The feed is wrong about this address, and its issuer knows."""
    ADDRESS_CHANGE = "address_change"
    """A registrant moved to this address."""
    LICENSED_SERVER = "licensed_server"
    """A server of a licensed provider that no list has yet."""
    CARRIER_GATEWAY = "carrier_gateway"
    """A gateway of a carrier that no list has yet."""
    FALSE_DETECTION = "false_detection"
    """What was recognised there is no VPN."""
    EMERGENCY = "emergency"
    """No time to wait for a registration."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A remote network that the registrant said it would talk to, and the port there if one was filed."""

    prefix: Prefix
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """`203.0.113.10`, `203.0.113.0/24:1194`, `2001:db8::/48` or `[2001:db8::1]:51820`.

        ValueError says what was expected.
        """
        if text.startswith("["):
            network, closed, rest = text[1:].partition("]")
            if not closed or (rest and not rest.startswith(":")):
                raise ValueError("'[prefix]:port' for IPv6 with a port")
            port_text = rest[1:] if rest else None
        elif text.count(":") == 1:
            network, _, port_text = text.partition(":")
        else:
            network, port_text = text, None
        port = None
        if port_text is not None:
            if not (port_text.isascii() and port_text.isdigit() and 1 <= int(port_text[:6]) <= 65_535):
                raise ValueError("a port from 1 to 65535 after ':'")
            port = int(port_text)
        return cls(Prefix.parse(network), port)

    def __str__(self) -> str:
        bits = len(self.prefix.address) * 8
        network = str(self.prefix) if self.prefix.length < bits else address_text(self.prefix.address)
        if self.port is None:
            return network
        return f"{network}:{self.port}" if bits == 32 else f"[{network}]:{self.port}"


class Entry(NamedTuple):
    """One row: one prefix of one registrant. Rows of one `entry_id` of a source differ in nothing but the
    prefix, and in since when the source lacks it.

    A tuple, since a million of them must be ready in seconds.
    """

    entry_id: str
    """Opaque id of the registrant's entry in the authority's file."""
    kind: Kind
    category: Category
    prefix: Prefix
    side: Side
    endpoints: tuple[Endpoint, ...]
    """Remote ends as filed; empty means none were filed: any."""
    protocols: tuple[Protocol, ...]
    """As filed; empty means none were filed: any."""
    valid_from_ns: int
    valid_until_ns: int | None
    """First instant at which it no longer holds (the day in the file is included); None: no end."""
    status: Status
    status_since_ns: int
    """Since when it has been in this state. What it was before follows from the state: see `standing`."""
    source: str = ""
    """Name of the feed it came from."""
    missing_since_ns: int | None = None
    """Complete feeds of its source have lacked it since then; None: the last one had it."""
    reason: Reason | None = None
    """Why the operator made this exception; None for everything else."""
