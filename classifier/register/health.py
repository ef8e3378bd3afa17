"""Where the register and what is seen drift apart: what somebody should look at before it becomes a flag.

Takes a register, a policy and what was seen, and gives findings, each about one entry (or, for a gap, one
endpoint that no entry covers). Event files give a `Sighting` for each flow; a daily ledger gives a `Noted`
for each entry and protocol, and nothing about gaps, since it has no addresses. Memory follows the register,
and for gaps the limits below; what goes beyond is counted in `Health.not_followed`.

One rule a reader would get wrong: an opening that nobody answered is no use of an entry (scanners make
those), so event files give no sighting for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from enum import StrEnum
from typing import Any, NamedTuple

from classifier.events import parse_time, rfc3339
from classifier.policy import FlowFacts, Phase, Policy
from classifier.register.entry import Entry, Status
from classifier.register.prefixes import Prefix, address_text
from classifier.register.snapshot import Register
from classifier.standing import Standing, standing_at
from classifier.toml_file import NS_PER_S
from classifier.words import last_day, moment, number

__all__ = ["Finding", "Health", "Noted", "Sighting", "What", "noted_of", "sighting_of"]

DAY_NS = 86_400 * NS_PER_S
_MAX_ENDPOINTS = 65_536
_MAX_SUBSCRIBERS = 1_000  # told apart at one endpoint
_MAX_PAIRS = 1_048_576  # of endpoint and subscriber, in all
_ENDED = frozenset({Standing.IN_GRACE, Standing.EXPIRED})


class What(StrEnum):
    """Kinds of findings, in the order in which they are told."""

    EXPIRED_SEEN = "expired_seen"
    EXPIRING = "expiring"
    PENDING_LONG = "pending_long"
    OTHER_PROTOCOL = "other_protocol"
    GAP = "gap"
    MISSING = "missing"
    NEVER_SEEN = "never_seen"


TITLES = {
    What.EXPIRED_SEEN: "Ended and still seen: renew, or tell the registrant",
    What.EXPIRING: "About to end",
    What.PENDING_LONG: "Pending for longer than pending_term: ask the authority",
    What.OTHER_PROTOCOL: "Seen with a protocol that was not filed",
    What.GAP: "No entry in force, and many subscribers: a new licensed server, a carrier's gateway?",
    What.MISSING: "Missing from the last complete feed of its source",
    What.NEVER_SEEN: "Approved, in date and never seen in this time",
}


class Sighting(NamedTuple):
    """One or more flows of a protocol between two addresses."""

    protocol: str
    source: bytes
    """Who opened them."""
    destination: bytes
    first_ns: int
    last_ns: int
    flows: int = 1


class Noted(NamedTuple):
    """What a ledger says of an entry, with one protocol, on one day."""

    entry_id: str | None
    """None of flows that no entry covers."""
    protocol: str
    beside: bool
    """Another entry in force covers the same end, and fits better."""
    flows: int
    first_ns: int
    last_ns: int


class Finding(NamedTuple):
    """One thing to look at."""

    what: What
    entry_id: str
    """Empty for a gap."""
    kind: str
    """The entry's; for a gap its protocol's name."""
    category: str
    address: str
    """Only of a gap: the endpoint."""
    since_ns: int
    """The end, the application, the first or last sighting: what the finding is sorted by."""
    text: str

    def item(self) -> dict[str, Any]:
        """The same for programs; what does not apply is left out."""
        item: dict[str, Any] = {"finding": self.what.value, "time": rfc3339(self.since_ns), "text": self.text}
        if self.what is What.GAP:
            return item | {"address": self.address, "protocol": self.kind}
        return item | {"entry_id": self.entry_id, "kind": self.kind, "category": self.category}


@dataclass(slots=True)
class _Seen:
    """What was seen of an entry."""

    last_ns: int = 0
    flows: int = 0
    not_filed: set[str] = field(default_factory=set)
    """Protocols that the entry was not filed for and no entry beside it either."""
    after_end_ns: int | None = None
    """Last sighting after it ended, with nothing approved beside it."""


@dataclass(slots=True)
class _Endpoint:
    """An endpoint that no approved entry covers."""

    first_ns: int
    flows: int = 0
    subscribers: set[bytes] = field(default_factory=set)


class Health:
    """Gathers sightings against a register; `findings` says what they show."""

    def __init__(
        self, register: Register, policy: Policy, endpoints: int = _MAX_ENDPOINTS, pairs: int = _MAX_PAIRS
    ) -> None:
        self.flows = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.noted = 0
        """Flows of ledgers, by entry and day."""
        self.not_followed = 0
        """Flows to endpoints, or of subscribers there, beyond the limits."""
        self._register = register
        self._policy = policy
        self._limit = endpoints
        self._pairs_left = pairs
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._endpoints: dict[tuple[bytes, str], _Endpoint] = {}
        self._named: dict[str, list[Entry]] | None = None  # what a ledger's entries are, once one is read

    def take(self, sighting: Sighting) -> None:
        """Look the two ends of a sighting up and remember what it shows."""
        self.flows += sighting.flows
        self.first_ns = min(sighting.first_ns, self.first_ns or sighting.first_ns)
        self.last_ns = max(sighting.last_ns, self.last_ns or sighting.last_ns)
        ends = [self._end(sighting, address) for address in (sighting.source, sighting.destination)]
        if not any(ends):
            self._gap(sighting)

    def note(self, noted: Noted) -> None:
        """Remember what a line of a ledger shows. Its entry is judged as the register has it by now."""
        self.noted += noted.flows
        self.first_ns = min(noted.first_ns, self.first_ns or noted.first_ns)
        self.last_ns = max(noted.last_ns, self.last_ns or noted.last_ns)
        if self._named is None:
            self._named = {}
            for entry in self._register.entries:
                self._named.setdefault(entry.entry_id, []).append(entry)
        # One row for each prefix of an entry; what is asked of them here is the same in all.
        told = set()
        for entry in self._named.get(noted.entry_id or "", ()):
            if entry.source in told:
                continue
            told.add(entry.source)
            standing = standing_at(entry, noted.last_ns, self._policy.grace_ns)
            self._see(entry, noted.protocol, noted.last_ns, noted.flows, standing, noted.beside)

    def findings(
        self, at_ns: int, within_ns: int = 14 * DAY_NS, subscribers: int = 5, zone: tzinfo = UTC
    ) -> Iterator[Finding]:
        """What there is to look at, by kind of finding, the most urgent first."""
        found = [*self._of_entries(at_ns, within_ns, zone), *self._gaps(subscribers, zone)]
        order = {what: place for place, what in enumerate(What)}
        yield from sorted(
            found, key=lambda finding: (order[finding.what], finding.since_ns, finding.entry_id)
        )

    def _end(self, sighting: Sighting, address: bytes) -> bool:
        """Whether something approved and in date covers this end."""
        entries = self._register.covering(address)
        if not entries:
            return False
        standings = [standing_at(entry, sighting.last_ns, self._policy.grace_ns) for entry in entries]
        approved = [
            entry for entry, standing in zip(entries, standings, strict=True) if standing is Standing.APPROVED
        ]
        fits = any(not entry.protocols or sighting.protocol in entry.protocols for entry in approved)
        for entry, standing in zip(entries, standings, strict=True):
            beside = fits if standing is Standing.APPROVED else bool(approved)
            self._see(entry, sighting.protocol, sighting.last_ns, sighting.flows, standing, beside)
        return bool(approved)

    def _see(
        self, entry: Entry, protocol: str, last_ns: int, flows: int, standing: Standing, beside: bool
    ) -> None:
        seen = self._seen.setdefault((entry.source, entry.entry_id), _Seen())
        seen.last_ns = max(seen.last_ns, last_ns)
        seen.flows += flows
        if beside:
            return
        if standing is Standing.APPROVED and entry.protocols and protocol not in entry.protocols:
            seen.not_filed.add(protocol)
        elif standing in _ENDED:
            seen.after_end_ns = max(seen.after_end_ns or 0, last_ns)

    def _gap(self, sighting: Sighting) -> None:
        local, shared = self._policy.local, self._policy.shared
        subscriber, endpoint = sighting.source, sighting.destination
        if local:
            ours = [_holds(local, address) or _holds(shared, address) for address in (subscriber, endpoint)]
            if ours[0] == ours[1]:
                return
            if ours[1]:
                subscriber, endpoint = endpoint, subscriber
        key = endpoint, sighting.protocol
        known = self._endpoints.get(key)
        if known is None:
            if len(self._endpoints) >= self._limit:
                self.not_followed += sighting.flows
                return
            known = self._endpoints[key] = _Endpoint(sighting.first_ns)
        known.first_ns = min(known.first_ns, sighting.first_ns)
        known.flows += sighting.flows
        line = subscriber if len(subscriber) == 4 else subscriber[:8]
        if line in known.subscribers or len(known.subscribers) >= _MAX_SUBSCRIBERS:
            return
        if self._pairs_left:
            self._pairs_left -= 1
            known.subscribers.add(line)
        else:
            self.not_followed += sighting.flows

    def _of_entries(self, at_ns: int, within_ns: int, zone: tzinfo) -> Iterator[Finding]:
        told: set[tuple[str, str]] = set()
        for entry in self._register.entries:
            key = entry.source, entry.entry_id
            if key not in told:
                told.add(key)
                for what, since_ns, text in self._of_entry(
                    entry, self._seen.get(key), at_ns, within_ns, zone
                ):
                    yield Finding(
                        what, entry.entry_id, entry.kind.value, entry.category.value, "", since_ns, text
                    )

    def _of_entry(
        self, entry: Entry, seen: _Seen | None, at_ns: int, within_ns: int, zone: tzinfo
    ) -> Iterator[tuple[What, int, str]]:
        standing = standing_at(entry, at_ns, self._policy.grace_ns)
        end_ns = entry.valid_until_ns
        if standing is Standing.APPROVED and end_ns is not None and end_ns - at_ns <= within_ns:
            yield What.EXPIRING, end_ns, f"last day {last_day(end_ns, zone)}"
        if entry.missing_since_ns is not None and at_ns >= entry.missing_since_ns:
            until = moment(entry.missing_since_ns + self._policy.grace_ns, zone)
            yield What.MISSING, entry.missing_since_ns, f"in grace until {until}"
        if entry.status in (Status.SUBMITTED, Status.PENDING):
            waited_ns = at_ns - entry.status_since_ns
            if waited_ns > self._policy.pending_term_ns:
                text = f"{entry.status} for {number(waited_ns // DAY_NS, 'day')}"
                yield What.PENDING_LONG, entry.status_since_ns, text
        if seen is None:
            if (self.flows or self.noted) and standing is Standing.APPROVED:
                yield What.NEVER_SEEN, entry.valid_from_ns, f"valid from {moment(entry.valid_from_ns, zone)}"
            return
        if seen.after_end_ns is not None:
            yield What.EXPIRED_SEEN, seen.after_end_ns, f"last seen {moment(seen.after_end_ns, zone)}"
        if seen.not_filed:
            filed, observed = ", ".join(entry.protocols), ", ".join(sorted(seen.not_filed))
            yield What.OTHER_PROTOCOL, seen.last_ns, f"filed {filed}; seen {observed}"

    def _gaps(self, subscribers: int, zone: tzinfo) -> Iterator[Finding]:
        for (endpoint, protocol), known in self._endpoints.items():
            count = len(known.subscribers)
            if count >= subscribers:
                more = " or more" if count >= _MAX_SUBSCRIBERS else ""
                text = (
                    f"{number(count, 'subscriber')}{more}, {number(known.flows, 'flow')}, "
                    f"first {moment(known.first_ns, zone)}"
                )
                yield Finding(What.GAP, "", protocol, "", address_text(endpoint), known.first_ns, text)


def sighting_of(facts: FlowFacts) -> Sighting | None:
    """What a flow of an event file shows; None when nobody answered it."""
    if facts.phase == Phase.ATTEMPT:
        return None
    return Sighting(facts.protocol, facts.source, facts.destination, facts.start_ns, facts.end_ns)


def noted_of(ledger: Mapping[str, Any]) -> Noted:
    """What a line of a ledger shows; it keeps the schema."""
    return Noted(
        ledger["entry_id"],
        ledger["protocol"],
        ledger.get("beside", False),
        ledger["flows"],
        parse_time(ledger["first"]),
        parse_time(ledger["last"]),
    )


def summary(findings: Iterable[Finding]) -> list[tuple[str, str, str, int]]:
    """How many findings there are by what, kind and category; of a gap, its protocol stands for the kind."""
    counts = Counter((finding.what, finding.kind, finding.category) for finding in findings)
    order = {what: place for place, what in enumerate(What)}
    ordered = sorted(counts.items(), key=lambda item: (order[item[0][0]], item[0][1:]))
    return [(what.value, kind, category, count) for (what, kind, category), count in ordered]


def page(health: Health, findings: list[Finding], rows: int, zone: tzinfo) -> Iterator[str]:
    """The lines for people: counts, then at most `rows` findings of each kind."""
    if health.first_ns is not None and health.last_ns is not None:
        noted = f", {number(health.noted, 'flow')} in ledgers," if health.noted else ""
        yield (
            f"Seen: {number(health.flows, 'flow')}{noted} from {moment(health.first_ns, zone)} "
            f"to {moment(health.last_ns, zone)}"
        )
    else:
        yield "No flows were given: what is seen, or not seen, is left out"
    if health.not_followed:
        yield f"{health.not_followed:,} flows: more endpoints, or subscribers there, than are told apart"
    if not findings:
        yield "Nothing to look at."
        return
    table = [("finding", "kind", "category", "count")]
    table += [
        (what, kind, category or "-", f"{count:,}") for what, kind, category, count in summary(findings)
    ]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    yield ""
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)]
        yield "  ".join([*cells, row[3].rjust(widths[3])])
    for what in What:
        here = [finding for finding in findings if finding.what is what]
        if not here:
            continue
        yield ""
        yield f"{TITLES[what]} ({len(here):,})"
        for finding in here[:rows]:
            if what is What.GAP:
                yield f"  {finding.address}, {finding.kind}: {finding.text}"
            else:
                yield f"  {finding.entry_id}: {finding.kind}, {finding.category}; {finding.text}"
        if len(here) > rows:
            yield f"  and {len(here) - rows:,} more (--rows, --json)"


def _holds(prefixes: tuple[Prefix, ...], address: bytes) -> bool:
    return any(prefix.holds(address) for prefix in prefixes)
