"""Summaries of attempts: openings that nobody answered, counted instead of announced.

Which attempts are announced and which are counted, and when a summary is due, is decided in the core
(`core/src/reporter/attempts.rs`); here its columns become the item of an event.
"""

from __future__ import annotations

from classifier.events import AttemptsItem, rfc3339

Summary = tuple[int, str, str, int, int, int, int, bool, int | None]
"""As the core gives it: when it was made, prefix, protocol, how many, the times of the first and the last,
distinct destinations and whether there are more; of the rest, windows of a prefix that it counts."""


def attempts_item(summary: Summary) -> AttemptsItem:
    """What an event says of it."""
    _, prefix, protocol, count, first_ns, last_ns, destinations, is_capped, prefixes = summary
    item: AttemptsItem = {
        "source_prefix": prefix,
        "protocol": protocol,
        "count": count,
        "first": rfc3339(first_ns),
        "last": rfc3339(last_ns),
        "destinations": destinations,
        "destinations_capped": is_capped,
    }
    if prefixes is not None:
        item["prefixes"] = prefixes
    return item
