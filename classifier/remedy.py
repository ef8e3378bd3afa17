"""What would change a verdict: the entry, prefix, side or date that would have led to another one.

Takes one vpn event and gives sentences. It says what to file or load, not that somebody should: whether a
registration is due is for the people concerned. One rule a reader would get wrong: dates are those of the
flow, so an approval that counts only from today on changes flows from today on and not this one.
"""

from __future__ import annotations

from collections.abc import Iterator

from classifier.cases import subject_prefix
from classifier.events import EntryItem, VpnEvent
from classifier.rejudge import packed
from classifier.sinks.report import endpoint
from classifier.standing import Verdict

__all__ = ["what_would_change"]

_STANDING = {
    Verdict.PENDING: ("pending", "not_yet_valid"),
    Verdict.EXPIRED_IN_GRACE: ("in_grace",),
    Verdict.EXPIRED: ("expired",),
    Verdict.SUSPENDED: ("suspended",),
    Verdict.REVOKED: ("revoked",),
    Verdict.PROTOCOL_MISMATCH: ("protocol_mismatch",),
    Verdict.ENDPOINT_MISMATCH: ("endpoint_mismatch",),
}
_NO_CHANGE = {
    Verdict.OUT_OF_SCOPE: "The policy's networks.local, if one of the two ends is in a network of ours; or "
    "an approved entry for one of them.",
    Verdict.NOT_EVALUATED: "A register and a policy to ask: replay with --rules DIR, or with --register and "
    "--policy.",
}


def what_would_change(event: VpnEvent) -> Iterator[str]:
    """A sentence or more for the verdict of an event, the most likely remedy first."""
    policy = event["policy"]
    flow = _Ends(event)
    if policy["action"] == "pass":
        ids = _ids(policy["entries"][:1])
        yield f"Nothing needs to: it passes{f', by {ids}' if ids else ''}."
        return
    yield from _remedies(event, Verdict(policy["verdict"]), flow)
    yield (
        f"What a register says of it: `vpn-classifier register lookup {flow.subject} --remote {flow.remote} "
        f"--at {flow.at} --register PATH --policy FILE`."
    )


def _remedies(event: VpnEvent, verdict: Verdict, flow: _Ends) -> Iterator[str]:
    policy = event["policy"]
    if verdict in _NO_CHANGE:
        yield _NO_CHANGE[verdict]
        return
    if verdict is Verdict.INDETERMINATE:
        yield (
            f"A register that is current at {flow.at} and whose first record is not later than "
            f"{event['flow']['start']}: import the next feed, then `vpn-classifier recheck`."
        )
        return
    entries = [
        entry
        for entry in policy["entries"]
        if entry["end"] == flow.end and entry["standing"] in _STANDING.get(verdict, ())
    ]
    yield from _of_entries(verdict, entries, flow)
    rejected = [entry for entry in policy["entries"] if entry["standing"] == "rejected"]
    if rejected:
        yield f"{_ids(rejected)}: rejected; an approval that counts from {flow.at} or before."
    if verdict is Verdict.SHARED_ADDRESS:
        yield f"An entry for the other end: {flow.other_entry()}."
        yield (
            f"For the subscriber: an address outside of the shared networks, and an entry for it. One for "
            f"{flow.subject} itself would pass everybody who is given that address."
        )
    elif verdict in (Verdict.UNREGISTERED, Verdict.EXPIRED, Verdict.SUSPENDED, Verdict.REVOKED):
        what = "An entry" if verdict is Verdict.UNREGISTERED else "Or another entry"
        yield f"{what} for the subject: {flow.own_entry()}."
        yield f"Or an entry for the other end: {flow.other_entry()}."
        yield (
            f"While an approval or a feed is on its way: `vpn-classifier register except {flow.host()} "
            "--until TIME --reason approval_in_progress --db PATH`."
        )
        if policy["action"] == "observe":
            yield "It is not flagged as it is: see the rule and the sentence above."


class _Ends:
    """The flow as remedies speak of it."""

    def __init__(self, event: VpnEvent) -> None:
        policy, vpn = event["policy"], event["vpn"]
        is_source = subject_prefix(packed(event["src_ip"])) == policy["subject"]
        self.end = "source" if is_source else "destination"
        self.subject, self.other = event["src_ip"], event["dest_ip"]
        port = event.get("dest_port")
        if not is_source:
            self.subject, self.other, port = self.other, self.subject, None
        self.remote = endpoint(self.other, port)
        self.protocol = vpn["protocol"]
        self.at = event["flow"]["end"] if event["event"] == "ended" else event["timestamp"]
        # Only there are sides compared: see `standing`.
        self.sided = policy["direction"] == "outbound" and vpn["phase"] != "data_only"

    def host(self) -> str:
        """The subject as a prefix: one address, or the /64 that one line has."""
        address = packed(self.subject)
        return f"{self.subject}/32" if len(address) == 4 else subject_prefix(address)

    def own_entry(self) -> str:
        side = "side subscriber or not filed, " if self.sided and self.end == "source" else ""
        return (
            f"a prefix that holds {self.subject}, {side}protocols with {self.protocol} or none filed, "
            f"endpoints with {self.remote} or none filed, approved and in date at {self.at}"
        )

    def other_entry(self) -> str:
        side = "side endpoint or not filed, " if self.sided and self.end == "source" else ""
        return (
            f"a registration, licensed provider or carrier's service whose prefix holds {self.other}, "
            f"{side}protocols with {self.protocol} or none filed, approved and in date at {self.at}"
        )


def _of_entries(verdict: Verdict, entries: list[EntryItem], flow: _Ends) -> Iterator[str]:
    ids = _ids(entries)
    if not ids:
        return
    match verdict:
        case Verdict.PENDING:
            yield (
                f"{ids}: approved, with a status_since and a valid_from not later than {flow.at}. An "
                "approval that counts from later on changes flows from then on."
            )
        case Verdict.EXPIRED_IN_GRACE | Verdict.EXPIRED:
            yield (
                f"{ids}: a valid_until after {flow.at}, if it was renewed; or in its feed again, if that "
                "lacked it."
            )
        case Verdict.SUSPENDED | Verdict.REVOKED:
            prefix = entries[0]["prefix"]
            yield (
                f"{ids}: approved again. Or, if {prefix} has a new holder: an approved entry of theirs for "
                f"the same prefix or a longer one, which wins over what is {verdict}."
            )
        case Verdict.PROTOCOL_MISMATCH:
            yield f"{ids}: {flow.protocol} among its protocols, or none filed."
        case Verdict.ENDPOINT_MISMATCH:
            side = ", and a side that fits (or none filed)" if flow.sided else ""
            yield f"{ids}: {flow.remote} among its endpoints, or none filed{side}."


def _ids(entries: list[EntryItem]) -> str:
    names = list(dict.fromkeys(entry["entry_id"] for entry in entries))
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ("entry " if len(names) == 1 else "entries ") + ", ".join(names[:3]) + more
