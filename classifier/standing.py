"""How one end of a flow stands in the register: entries that cover its address -> verdict of that end.

Each entry has a standing at the time of judgement (`standing_at`). *In force* are entries that are approved
and in date, and suspensions and revocations. From the most specific prefix to the least:

    nothing in force at this prefix     remember what is pending, in grace or expired; go on to the next
    something approved in date          it wins over every other entry of this prefix: good where side,
                                        endpoints and protocols fit, else a mismatch; look no further
    else a suspension or revocation     it stands in for everything that has expired and for all shorter
                                        prefixes, but not for what is pending or in grace; look no further

The end's verdict is the best of what was found, in the order of `Verdict`; `unregistered` when nothing was.
In a `shared` network everything that is worse becomes `shared_address`: whoever an entry was about, the
address may be somebody else's by now.

**Fit.** Protocols: the flow's is among them. Endpoints: the other end is in one of them; a filed port counts
where that end answers (the destination), ESP and AH have none, and 500 and 4500 are one for IPsec (RFC 3947
moves between them); behind a proxy the other end is unseen, and they do not apply. Side: only in an outbound
flow whose opening was seen is it known which end is the subscriber; there a `subscriber` must be the local
end and an `endpoint` the remote one.

One rule a reader would get wrong: an entry that is approved and does not fit still ends the search. Whoever
registered the most specific prefix answers for it, and a shorter one that would fit is somebody else's.
What both ends amount to together is for `policy` to say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from classifier.register.entry import IKE_PORTS, Entry, Kind, Protocol, Side, Status

__all__ = [
    "ALWAYS",
    "VERDICTS",
    "End",
    "Match",
    "Standing",
    "Standings",
    "Verdict",
    "in_shared",
    "instants_of",
    "listed",
    "standing_at",
]


class Verdict(StrEnum):
    """What the register says about a flow, the best first. The order decides between two ends."""

    REGISTERED = "registered"
    LICENSED_PROVIDER = "licensed_provider"
    CARRIER_SERVICE = "carrier_service"
    OPERATOR_INFRASTRUCTURE = "operator_infrastructure"
    EXCEPTED = "excepted"
    IP_WHITELISTED = "ip_whitelisted"
    PENDING = "pending"
    EXPIRED_IN_GRACE = "expired_in_grace"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    ENDPOINT_MISMATCH = "endpoint_mismatch"
    SHARED_ADDRESS = "shared_address"
    UNREGISTERED = "unregistered"
    EXPIRED = "expired"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    OUT_OF_SCOPE = "out_of_scope"
    INDETERMINATE = "indeterminate"
    NOT_EVALUATED = "not_evaluated"


class Standing(StrEnum):
    """How one covering entry was judged."""

    APPROVED = "approved"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    """Approved and in date, but not for this protocol."""
    ENDPOINT_MISMATCH = "endpoint_mismatch"
    """Approved and in date, but not for this other end, or not on this side."""
    PENDING = "pending"
    NOT_YET_VALID = "not_yet_valid"
    """Approved, with a start that is still to come."""
    IN_GRACE = "in_grace"
    EXPIRED = "expired"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    REJECTED = "rejected"
    NOT_FILED = "not_filed"
    """Was submitted only later."""


VERDICTS: Final = tuple(Verdict)
RANK: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}
GOOD: Final = {
    Kind.VPN_REGISTRATION: Verdict.REGISTERED,
    Kind.LICENSED_PROVIDER: Verdict.LICENSED_PROVIDER,
    Kind.CARRIER_SERVICE: Verdict.CARRIER_SERVICE,
    Kind.OPERATOR_INFRASTRUCTURE: Verdict.OPERATOR_INFRASTRUCTURE,
    Kind.EXCEPTION: Verdict.EXCEPTED,
    Kind.IP_WHITELIST: Verdict.IP_WHITELISTED,
}
WORST_GOOD: Final = RANK[Verdict.IP_WHITELISTED]
AMOUNTS_TO: Final = {
    Standing.PROTOCOL_MISMATCH: Verdict.PROTOCOL_MISMATCH,
    Standing.ENDPOINT_MISMATCH: Verdict.ENDPOINT_MISMATCH,
    Standing.PENDING: Verdict.PENDING,
    Standing.NOT_YET_VALID: Verdict.PENDING,
    Standing.IN_GRACE: Verdict.EXPIRED_IN_GRACE,
    Standing.EXPIRED: Verdict.EXPIRED,
    Standing.SUSPENDED: Verdict.SUSPENDED,
    Standing.REVOKED: Verdict.REVOKED,
    Standing.REJECTED: Verdict.UNREGISTERED,  # it is no entry
    Standing.NOT_FILED: Verdict.UNREGISTERED,
}
APPROVED_IN_DATE: Final = frozenset(
    {Standing.APPROVED, Standing.PROTOCOL_MISMATCH, Standing.ENDPOINT_MISMATCH}
)
WITHDRAWN: Final = frozenset({Standing.SUSPENDED, Standing.REVOKED})
NO_ENTRY: Final = frozenset({Standing.REJECTED, Standing.NOT_FILED})
# What an entry was before it came into its present state; None: it was not in the register.
BEFORE: Final = {
    Status.SUBMITTED: None,
    Status.PENDING: Status.SUBMITTED,
    Status.APPROVED: Status.PENDING,
    Status.REJECTED: Status.PENDING,
    Status.SUSPENDED: Status.APPROVED,
    Status.REVOKED: Status.APPROVED,
}
ALWAYS: Final = (-(1 << 63), 1 << 63)
# Under names of their own: in Python 3.11 reading a member from its class is a call, and judging reads many.
APPROVED: Final = Standing.APPROVED
REJECTED: Final = Standing.REJECTED
SHARED_ADDRESS: Final = Verdict.SHARED_ADDRESS
UNREGISTERED: Final = Verdict.UNREGISTERED
OUT_OF_SCOPE: Final = Verdict.OUT_OF_SCOPE
INDETERMINATE: Final = Verdict.INDETERMINATE
NOT_EVALUATED: Final = Verdict.NOT_EVALUATED


class Match(NamedTuple):
    """One entry that covers an end, and how it was judged."""

    entry: Entry
    end: str
    """ "source" or "destination"."""
    standing: Standing
    decisive: bool = False
    """The verdict rests on it."""


@dataclass(slots=True, eq=False)  # not frozen, which takes three times as long to make
class End:
    """What the entries that cover one end amount to; equal to itself only, so that others can remember it."""

    verdict: Verdict
    rank: int
    entries: tuple[Entry, ...] = ()
    standings: tuple[Standing, ...] = ()
    decisive: tuple[int, ...] = ()
    """Places of the entries that the verdict rests on."""
    decisive_ids: str = ""
    """Their ids, as a reason names them."""
    rejected: tuple[str, ...] = ()
    """Ids of rejected applications."""

    def matches(self, end: str, decisive: tuple[int, ...]) -> Iterator["Match"]:
        """All entries, those at the places `decisive` first."""
        entries, standings = self.entries, self.standings
        for place in decisive:
            yield Match(entries[place], end, standings[place], True)
        for place, entry in enumerate(entries):
            if place not in decisive:
                yield Match(entry, end, standings[place])


NOTHING: Final = End(Verdict.UNREGISTERED, RANK[Verdict.UNREGISTERED])
NOTHING_SHARED: Final = End(Verdict.SHARED_ADDRESS, RANK[Verdict.SHARED_ADDRESS])


class Standings(NamedTuple):
    """How the entries that cover an address stand, from one instant until another."""

    entries: tuple[Entry, ...]
    """Held, so that no other tuple can have their id."""
    from_ns: int
    until_ns: int
    standings: tuple[Standing, ...]
    """Whatever the flow."""
    end: End | None
    """For this protocol and side; None where it depends on the other end of the flow, too."""

    @classmethod
    def of(
        cls, entries: tuple[Entry, ...], protocol: str, side: Side | None, at_ns: int, grace_ns: int
    ) -> "Standings":
        """`side` is None where it is not known which end is the subscriber's."""
        standings = [standing_at(entry, at_ns, grace_ns) for entry in entries]
        instants = [instant for entry in entries for instant in instants_of(entry, grace_ns)]
        end = None
        approved = [index for index, standing in enumerate(standings) if standing is Standing.APPROVED]
        if not any(entries[index].endpoints for index in approved):
            fitted = standings.copy()
            for index in approved:
                fitted[index] = _fit(entries[index], protocol, side, b"", None)
            end = _amounts_to(entries, fitted)
        return cls(
            entries,
            max((instant for instant in instants if instant <= at_ns), default=ALWAYS[0]),
            min((instant for instant in instants if instant > at_ns), default=ALWAYS[1]),
            tuple(standings),
            end,
        )

    def towards(self, protocol: str, side: Side | None, peer: bytes | None, port: int | None) -> End:
        """What they amount to in a flow with `peer`, which answers at `port`; see `_fit`."""
        fitted = [
            _fit(entry, protocol, side, peer, port) if standing is APPROVED else standing
            for entry, standing in zip(self.entries, self.standings, strict=True)
        ]
        return _amounts_to(self.entries, fitted)


def in_shared(end: End) -> End:
    """What an end amounts to in a network whose addresses are nobody's for long."""
    if end.rank <= NOTHING_SHARED.rank:
        return end
    return replace(end, verdict=SHARED_ADDRESS, rank=NOTHING_SHARED.rank, decisive=(), decisive_ids="")


def instants_of(entry: Entry, grace_ns: int) -> Iterator[int]:
    """Every time at which `standing_at` can change."""
    yield entry.status_since_ns
    yield entry.valid_from_ns
    for end_ns in (entry.valid_until_ns, entry.missing_since_ns):
        if end_ns is not None:
            yield end_ns
            yield end_ns + grace_ns


def standing_at(entry: Entry, at_ns: int, grace_ns: int) -> Standing:
    """How an entry stands at a time, whatever the flow.

    Before `status_since` it was what precedes its state: approved before a suspension or revocation,
    pending before an approval or rejection, and not there before it was submitted; an exception is the
    operator's own, and nobody applied for it before it was made. It ends with
    `valid_until`, or when complete feeds of its source begin to lack it. A suspension or revocation does not
    outlive that end: by then the address may be somebody else's.
    """
    status: Status | None = entry.status
    if at_ns < entry.status_since_ns:
        made = entry.kind is Kind.EXCEPTION and entry.status is Status.APPROVED
        status = None if made else BEFORE[entry.status]
    if status is None:
        return Standing.NOT_FILED
    if status is Status.REJECTED:
        return Standing.REJECTED
    withdrawn = status in (Status.SUSPENDED, Status.REVOKED)
    ends = [end_ns for end_ns in (entry.valid_until_ns, entry.missing_since_ns) if end_ns is not None]
    if ends and at_ns >= (end_ns := min(ends)):
        in_grace = not withdrawn and at_ns < end_ns + grace_ns
        return Standing.IN_GRACE if in_grace else Standing.EXPIRED
    if withdrawn:
        return Standing.SUSPENDED if status is Status.SUSPENDED else Standing.REVOKED
    if status is not Status.APPROVED:
        return Standing.PENDING
    return Standing.APPROVED if at_ns >= entry.valid_from_ns else Standing.NOT_YET_VALID


def _fit(entry: Entry, protocol: str, side: Side | None, peer: bytes | None, port: int | None) -> Standing:
    """Whether an approved entry covers a flow with `peer`, which answers at `port`.

    `peer` is None behind a proxy: the far end is unseen, and endpoints that were filed do not apply.
    """
    if entry.protocols and protocol not in entry.protocols:
        return Standing.PROTOCOL_MISMATCH
    if side is not None and entry.side not in (Side.EITHER, side):
        return Standing.ENDPOINT_MISMATCH
    if peer is None or not entry.endpoints:
        return Standing.APPROVED
    for endpoint in entry.endpoints:
        if endpoint.prefix.holds(peer) and (
            endpoint.port is None
            or port is None
            or port == endpoint.port
            or (protocol == Protocol.IPSEC and port in IKE_PORTS and endpoint.port in IKE_PORTS)
        ):
            return Standing.APPROVED
    return Standing.ENDPOINT_MISMATCH


def _amounts_to(entries: tuple[Entry, ...], standings: Sequence[Standing]) -> End:
    """The verdict of an end, and what it rests on."""
    amounts = [
        GOOD[entry.kind] if standing is Standing.APPROVED else AMOUNTS_TO[standing]
        for entry, standing in zip(entries, standings, strict=True)
    ]
    counting = _counting(entries, standings)
    rank = min((RANK[amounts[index]] for index in counting), default=NOTHING.rank)
    verdict = VERDICTS[rank]
    decisive = tuple(index for index in counting if amounts[index] is verdict)
    ids = listed([entries[index].entry_id for index in decisive])
    return End(verdict, rank, entries, tuple(standings), decisive, ids, _rejected(entries, standings))


def _rejected(entries: tuple[Entry, ...], standings: Sequence[Standing]) -> tuple[str, ...]:
    if REJECTED not in standings:
        return ()
    return tuple(
        entry.entry_id for entry, standing in zip(entries, standings, strict=True) if standing is REJECTED
    )


def _counting(entries: tuple[Entry, ...], standings: Sequence[Standing]) -> list[int]:
    """Which entries the verdict of an end may rest on; the table at the top."""
    counting: list[int] = []
    start = 0
    while start < len(entries):
        length = entries[start].prefix.length
        stop = start
        while stop < len(entries) and entries[stop].prefix.length == length:
            stop += 1
        here = [index for index in range(start, stop) if standings[index] not in NO_ENTRY]
        approved = [index for index in here if standings[index] in APPROVED_IN_DATE]
        if any(standings[index] is Standing.APPROVED for index in approved):
            return [index for index in approved if standings[index] is Standing.APPROVED]
        if approved:
            return counting + approved
        counting += here
        if any(standings[index] in WITHDRAWN for index in here):
            return [index for index in counting if standings[index] is not Standing.EXPIRED]
        start = stop
    return counting


def listed(ids: Sequence[str]) -> str:
    """Ids as a reason names them: at most three, each once."""
    if len(ids) == 1:
        return f"entry {ids[0]}"
    unique = list(dict.fromkeys(ids))
    if not unique:
        return ""
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return ("entry " if len(unique) == 1 else "entries ") + ", ".join(unique[:3]) + more
