"""The operator's own decisions: exceptions, made and withdrawn in a store.

One rule a reader would get wrong: a withdrawn exception ends now, it is not revoked. A revocation would
outrank what is registered for shorter prefixes, and so harm people whom nobody decided anything about.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from classifier.errors import Fault, RegisterError
from classifier.register.entry import Category, Endpoint, Entry, Kind, Protocol, Reason, Side, Status
from classifier.register.prefixes import Prefix
from classifier.register.store import OPERATOR, Change, Store, database, host_time_ns

__all__ = ["Decision", "make_exception", "withdraw_exception"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the operator decides."""

    prefix: Prefix
    until_ns: int
    reason: Reason
    from_ns: int
    side: Side = Side.EITHER
    endpoints: tuple[Endpoint, ...] = ()
    protocols: tuple[Protocol, ...] = ()
    category: Category = Category.OTHER


def make_exception(decided: Decision, db: Path, now_ns: int | None = None) -> tuple[str, int]:
    """Put an exception into the store; its id and the store's serial."""
    now_ns = host_time_ns() if now_ns is None else now_ns
    if decided.until_ns <= max(decided.from_ns, now_ns):
        raise RegisterError(
            [Fault(str(db), None, "--until", "an end that is not to come", "a time to come, after its start")]
        )
    with database().writing(db) as store:
        entry = Entry(
            entry_id=f"EX-{store.latest() + 1}",
            kind=Kind.EXCEPTION,
            category=decided.category,
            prefix=decided.prefix,
            side=decided.side,
            endpoints=decided.endpoints,
            protocols=decided.protocols,
            valid_from_ns=decided.from_ns,
            valid_until_ns=decided.until_ns,
            status=Status.APPROVED,
            status_since_ns=decided.from_ns,
            source=OPERATOR,
            reason=decided.reason,
        )
        return entry.entry_id, _commit(store, "except", entry, now_ns)


def withdraw_exception(entry_id: str, db: Path, now_ns: int | None = None) -> int:
    """End an exception now; the store's serial."""
    now_ns = host_time_ns() if now_ns is None else now_ns
    with database().reading(db):  # a missing file is no store to be made
        pass
    with database().writing(db) as store:
        exceptions = {entry.entry_id: entry for entry in store.rows_of(OPERATOR)}
        entry = exceptions.get(entry_id)
        if entry is None or entry.valid_until_ns is None or entry.valid_until_ns <= now_ns:
            running = sorted(
                other.entry_id
                for other in exceptions.values()
                if other.valid_until_ns is not None and other.valid_until_ns > now_ns
            )
            found = "no such exception" if entry is None else "an exception that has ended"
            expected = "one of " + ", ".join(running[:20]) if running else "a running one; there is none"
            raise RegisterError([Fault(str(db), None, "--withdraw", found, expected)])
        # It never ends before it began.
        ended = entry._replace(valid_until_ns=max(now_ns, entry.valid_from_ns + 1))
        return _commit(store, "withdraw", ended, now_ns)


def _commit(store: Store, action: str, entry: Entry, now_ns: int) -> int:
    last = store.last_change(OPERATOR)
    change = Change(
        action=action,
        source=OPERATOR,
        source_serial=1 if last is None else last.source_serial + 1,
        issued_at_ns=now_ns,
        next_update_ns=None,
        first_record_ns=None,
        sha256=hashlib.sha256(repr(entry).encode()).hexdigest(),
        options_sha256="",
        at_ns=now_ns,
        counts={"new" if action == "except" else "changed": 1},
    )
    return store.commit(change, [entry])
