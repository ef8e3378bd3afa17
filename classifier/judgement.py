"""What the policy answers about a flow, and why, in words.

A `Judgement` holds the verdict, the action and the rule that gave it, and what both ends amount to. Most are
never told in words, so entries and reasons are put together only when asked for.

One rule a reader would get wrong: the reason tells of the verdict, not of the action. It says which entry
was found, or that none was; that a rule would flag a flow and is held back is a sentence of its own.
"""

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple
from typing import Protocol as Structural

from classifier.register.entry import Entry
from classifier.register.prefixes import address_text
from classifier.register.snapshot import Register
from classifier.standing import INDETERMINATE, OUT_OF_SCOPE, UNREGISTERED, End, Match, Verdict, listed
from classifier.toml_file import NS_PER_S

__all__ = [
    "ACTIONS",
    "DIRECTIONS",
    "Action",
    "Direction",
    "Flow",
    "Judgement",
    "time_text",
]


class Action(StrEnum):
    """What is done about a flow. Nothing is ever blocked."""

    PASS = "pass"
    OBSERVE = "observe"
    FLAG = "flag"


class Direction(StrEnum):
    """Who of the two ends is ours; the initiator is the source."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    INTERNAL = "internal"
    TRANSIT = "transit"
    UNKNOWN = "unknown"
    """No `local` networks are set."""
    SCOPE_LOCAL = "scope_local"
    """Link-local, multicast or loopback."""


ACTIONS: Final = tuple(Action)
DIRECTIONS: Final = tuple(Direction)
REASONS: Final = {
    Verdict.REGISTERED: "{address} is registered ({ids})",
    Verdict.LICENSED_PROVIDER: "{address} belongs to a licensed provider ({ids})",
    Verdict.CARRIER_SERVICE: "{address} is a gateway of a carrier ({ids})",
    Verdict.OPERATOR_INFRASTRUCTURE: "{address} is infrastructure of the operator ({ids})",
    Verdict.EXCEPTED: "The operator made an exception for {address} ({ids})",
    Verdict.IP_WHITELISTED: "{address} is whitelisted ({ids})",
    Verdict.PENDING: "A registration of {address} is pending or starts later ({ids})",
    Verdict.EXPIRED_IN_GRACE: "The registration of {address} {ended} and is still in grace ({ids})",
    Verdict.PROTOCOL_MISMATCH: "{address} is registered, but for other protocols than {protocol} ({ids})",
    Verdict.ENDPOINT_MISMATCH: "{address} is registered, but not for {peer} at the other end ({ids})",
    Verdict.SHARED_ADDRESS: "No registration matched {address}, which many subscribers share",
    Verdict.EXPIRED: "The registration of {address} {ended} ({ids}), and no other matched",
    Verdict.SUSPENDED: "The registration of {address} is suspended ({ids}), and no other matched",
    Verdict.REVOKED: "The registration of {address} was revoked ({ids}), and no other matched",
    Verdict.OUT_OF_SCOPE: "Neither {address} nor {peer} is in a network of ours",
}
ENDED: Final = frozenset({Verdict.EXPIRED_IN_GRACE, Verdict.EXPIRED})
# Under names of their own: in Python 3.11 reading a member from its class is a call, and judging reads many.
PASS: Final = Action.PASS
OBSERVE: Final = Action.OBSERVE
FLAG: Final = Action.FLAG
OUTBOUND: Final = Direction.OUTBOUND
INBOUND: Final = Direction.INBOUND
INTERNAL: Final = Direction.INTERNAL
TRANSIT: Final = Direction.TRANSIT
UNKNOWN: Final = Direction.UNKNOWN
SCOPE_LOCAL: Final = Direction.SCOPE_LOCAL
NO_REGISTER_RULE: Final = "no-register"
DEFAULT_RULE: Final = "default"
TRIAL: Final = "trial"
WAITING: Final = "waiting"


class Flow(Structural):
    """What the policy needs to know about a flow; names and values are those of `FlowBatch`."""

    @property
    def protocol(self) -> str: ...
    @property
    def confidence(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def source(self) -> bytes: ...
    @property
    def destination(self) -> bytes: ...
    @property
    def destination_port(self) -> int | None: ...
    @property
    def via_proxy(self) -> bool: ...
    @property
    def packets_to_server(self) -> int: ...
    @property
    def packets_to_client(self) -> int: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...


class Judgement(NamedTuple):
    """The policy's answer for one flow at one time; entries and reason are put together when asked for."""

    verdict: Verdict
    action: Action
    rule: str
    """Id of the rule that gave the action; "default" when none matched, "no-register" without a register."""
    direction: Direction
    subject: str
    """The end that the verdict is about: "source" or "destination"."""
    register_serial: int | None
    policy_hash: str
    looked_up: Verdict
    """The verdict before the register's own limits."""
    held_back: str
    """Why a rule that flags gave `observe`: "trial", or "waiting" for the next register; else empty."""
    seen_ns: int
    """When the case was first seen, as far as that counts."""
    flow: Flow
    enforce_from_ns: int | None
    """The policy's: what was flagged before it, or without it, was held back."""
    register: Register | None
    subject_end: End
    other_end: End
    from_ns: int
    """Since when every entry of both ends stands as it does."""
    until_ns: int
    """Until when."""

    @property
    def entries(self) -> tuple[Match, ...]:
        """All entries that cover either end: the decisive ones, the subject's, the other end's."""
        other = "source" if self.subject == "destination" else "destination"
        return (
            *self.subject_end.matches(self.subject, self.decisive),
            *self.other_end.matches(other, ()),
        )

    @property
    def decisive(self) -> tuple[int, ...]:
        """Places of the subject's entries that the verdict rests on."""
        return () if self.looked_up is OUT_OF_SCOPE else self.subject_end.decisive

    @property
    def why(self) -> str:
        """One plain sentence for people, and a second one when a flag is held back."""
        source, destination = address_text(self.flow.source), address_text(self.flow.destination)
        return self.reason(source, destination) + self.reservation(time_text(self.seen_ns))

    def reason(self, source: str, destination: str) -> str:
        """The first sentence, with these names for the two ends."""
        return _why(self, source, destination)

    def reservation(self, seen: str) -> str:
        """The second one, with this for the time when the case was first seen."""
        return _held_back(self, seen)


def _why(judgement: Judgement, address: str, peer: str) -> str:
    flow, register, verdict = judgement.flow, judgement.register, judgement.verdict
    if register is None:
        return "No register was given, so nothing was looked up."
    if judgement.subject == "destination":
        address, peer = peer, address
    end = judgement.subject_end
    if verdict is UNREGISTERED:
        either = judgement.direction is UNKNOWN or judgement.direction is INTERNAL
        text = f"No registration matched {address}" + (f" or {peer}" if either else "")
    elif verdict is OUT_OF_SCOPE and judgement.direction is SCOPE_LOCAL:
        text = f"{address} to {peer} stays on its link (link-local, multicast or loopback)"
    elif verdict is INDETERMINATE:
        limit = (
            f"it began before the register's first record, {time_text(register.first_record_ns)}"
            if flow.start_ns < register.first_record_ns
            else f"the register was due for renewal on {time_text(register.next_update_ns or 0)}"
        )
        text = f"The flow of {address} would be {judgement.looked_up}, but {limit}"
    else:
        ended = ""
        if verdict in ENDED:
            is_missing = any(_is_missing(end.entries[place]) for place in end.decisive)
            ended = "is missing from newer feeds" if is_missing else "has ended"
        text = REASONS[verdict].format(
            address=address, peer=peer, ids=end.decisive_ids, protocol=flow.protocol, ended=ended
        )
    rejected = end.rejected + judgement.other_end.rejected
    if rejected:
        text += f"; an application was rejected ({listed(rejected)})"
    return text + "."


def _held_back(judgement: Judgement, seen: str) -> str:
    if not judgement.held_back:
        return ""
    enforce_from_ns = judgement.enforce_from_ns
    if judgement.held_back == WAITING:
        reason = (
            f"it was first seen on {seen}, and only a register issued after that "
            "can show that no entry is in force"
        )
    elif enforce_from_ns is None:
        reason = "the policy sets no enforce_from: a trial"
    else:
        reason = f"the policy flags nothing before {time_text(enforce_from_ns)}: a trial"
    return f" Rule {judgement.rule} would flag it, but {reason}."


def _is_missing(entry: Entry) -> bool:
    """It ended since feeds lack it, not by its own date."""
    since_ns = entry.missing_since_ns
    return since_ns is not None and (entry.valid_until_ns is None or since_ns < entry.valid_until_ns)


def time_text(time_ns: int) -> str:
    """A time as reasons name it, to the second."""
    return _second_text(time_ns // NS_PER_S)


@lru_cache(maxsize=1024)  # reasons that are given one after the other name the same few times
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
