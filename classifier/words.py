"""Times as people write them, in the zone of the policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

from classifier.toml_file import NS_PER_S

__all__ = ["day", "last_day", "moment", "number"]


def moment(time_ns: int, zone: tzinfo = UTC) -> str:
    """`2026-11-20 18:00:00 PKT`: whole seconds, with the zone's short name or its offset."""
    return _local(time_ns, zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def day(time_ns: int, zone: tzinfo = UTC) -> str:
    """`2026-11-20`, the day in the zone; with its time where that is not midnight."""
    local = _local(time_ns, zone)
    return local.strftime("%Y-%m-%d") if _is_midnight(local) else moment(time_ns, zone)


def last_day(end_ns: int, zone: tzinfo = UTC) -> str:
    """The last day before an end that is the first instant after it; the end itself if it is no midnight."""
    local = _local(end_ns, zone)
    if _is_midnight(local):
        return (local - timedelta(days=1)).strftime("%Y-%m-%d")
    return moment(end_ns, zone)


def number(count: int, what: str, plural: str = "") -> str:
    """`1 flow`, `2 flows`."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def _local(time_ns: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).astimezone(zone)


def _is_midnight(local: datetime) -> bool:
    return (local.hour, local.minute, local.second) == (0, 0, 0)
