"""Reads a policy from policy.toml: all of it, or every fault in it. rules/README.md explains every key."""

import re
from collections.abc import Callable
from datetime import UTC, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from classifier.errors import ConfigError, PolicyError
from classifier.judgement import DEFAULT_RULE, NO_REGISTER_RULE, Action, Direction
from classifier.policy import (
    GRACE_NS,
    PENDING_TERM_NS,
    STALE_AFTER_NS,
    Confidence,
    Phase,
    Policy,
    Rule,
    UnregisteredAfter,
)
from classifier.register.entry import Category, Kind, Protocol
from classifier.register.prefixes import Prefix
from classifier.standing import Verdict
from classifier.toml_file import Table, TomlFile, duration_ns, instant_ns, nearest, zone_of

__all__ = ["duration_ns", "read_policy"]

Named = TypeVar("Named", bound=StrEnum)

# What only a flow can be, not one of its ends.
OF_NO_END: Final = frozenset({Verdict.OUT_OF_SCOPE, Verdict.INDETERMINATE, Verdict.NOT_EVALUATED})


def read_policy(path: Path) -> Policy:
    """ConfigError for what cannot be read, PolicyError for what makes no sense; each lists every fault."""
    file = TomlFile(path)
    table = file.root
    zone = table.get("time_zone", zone_of, UTC)
    enforce_from_ns = table.get("enforce_from", lambda value: instant_ns(value, zone), None)
    grace_ns = table.get("grace", duration_ns, GRACE_NS)
    stale_after_ns = table.get("stale_after", duration_ns, STALE_AFTER_NS)
    pending_term_ns = table.get("pending_term", duration_ns, PENDING_TERM_NS)
    unregistered_after = table.get("unregistered_after", _unregistered_after, UnregisteredAfter.IMMEDIATELY)
    sensor = table.table("sensor")
    one_way = sensor.get("one_way", _boolean, False)
    sensor.finish()
    networks = table.table("networks")
    local = networks.get("local", _prefixes, ())
    shared = networks.get("shared", _prefixes, ())
    networks.finish()
    rule_tables = table.tables("rule")
    rules = tuple(_read_rule(rule_table, zone) for rule_table in rule_tables)
    table.finish()
    if file.faults:
        raise ConfigError(file.faults)
    _check_rules(rule_tables, rules)
    if file.faults:
        raise PolicyError(file.faults)
    return Policy(
        sha256=file.sha256,
        rules=rules,
        enforce_from_ns=enforce_from_ns,
        grace_ns=grace_ns,
        stale_after_ns=stale_after_ns,
        pending_term_ns=pending_term_ns,
        unregistered_after=unregistered_after,
        one_way=one_way,
        local=local,
        shared=shared,
        time_zone=zone,
    )


def _read_rule(table: Table, zone: tzinfo) -> Rule:
    rule = Rule(
        rule_id=table.need("id", _rule_id, "", "a short name, unique in the file"),
        action=table.need("action", _action, Action.OBSERVE, "one of " + ", ".join(Action)),
        verdicts=table.get("verdict", _some_of(Verdict), frozenset()),
        confidences=table.get("confidence", _some_of(Confidence), frozenset()),
        phases=table.get("phase", _some_of(Phase), frozenset()),
        directions=table.get("direction", _some_of(Direction), frozenset()),
        protocols=table.get("protocol", _some_of(Protocol), frozenset()),
        kinds=table.get("kind", _some_of(Kind), frozenset()),
        categories=table.get("category", _some_of(Category), frozenset()),
        other_ends=table.get("other_end", _some_of(Verdict), frozenset()),
        prefixes=table.get("prefix", _prefixes, ()),
        min_packets=table.get("min_packets", _count, 0),
        min_subject_packets=table.get("min_subject_packets", _count, 0),
        min_duration_ns=table.get("min_duration", duration_ns, 0),
        from_ns=table.get("from", lambda value: instant_ns(value, zone), None),
        until_ns=table.get("until", lambda value: instant_ns(value, zone, end_of_day=True), None),
    )
    table.finish()
    return rule


def _check_rules(tables: list[Table], rules: tuple[Rule, ...]) -> None:
    """Find what is well written and still makes no sense."""
    seen: dict[str, int] = {}
    for index, (table, rule) in enumerate(zip(tables, rules, strict=True)):
        if rule.rule_id in seen:
            table.fault(
                "id", f"the id of rule[{seen[rule.rule_id]}] again ({rule.rule_id})", "an id of its own"
            )
        seen.setdefault(rule.rule_id, index)
        unconditional = rule == Rule(rule.rule_id, rule.action)
        if unconditional and index + 1 < len(rules):
            table.fault(
                "",
                f"a rule without conditions ({rule.rule_id})",
                "it in the last place: none after it applies",
            )
        if rule.action is Action.FLAG:
            unfit = {Verdict.INDETERMINATE, Verdict.NOT_EVALUATED} & rule.verdicts
            if not rule.verdicts:
                table.fault("verdict", "a rule that flags whatever the verdict", "the verdicts that it flags")
            elif unfit:
                table.fault("verdict", f"{min(unfit)} with action flag", "only verdicts that say something")
        never = rule.other_ends & OF_NO_END
        if never:
            table.fault("other_end", f"{min(never)}, which no single end can amount to", "what an end can be")
        if rule.from_ns is not None and rule.until_ns is not None and rule.until_ns <= rule.from_ns:
            table.fault("until", "an end before from", "a later time")


def _rule_id(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", value):
        raise ValueError("a short name in small letters, digits, '-', '_' and '.'")
    if value in (DEFAULT_RULE, NO_REGISTER_RULE):
        raise ValueError(
            f"another name: {DEFAULT_RULE!r} and {NO_REGISTER_RULE!r} stand for outcomes without a rule"
        )
    return value


def _action(value: object) -> Action:
    return _named(Action, value)


def _unregistered_after(value: object) -> UnregisteredAfter:
    return _named(UnregisteredAfter, value)


def _named(names: type[Named], value: object) -> Named:
    if isinstance(value, str):
        try:
            return names(value)
        except ValueError:
            if close := nearest(value, [str(name) for name in names]):
                raise ValueError(repr(close)) from None
    raise ValueError("one of " + ", ".join(names))


def _some_of(names: type[Named]) -> Callable[[object], frozenset[Named]]:
    """A converter for one name or an array of them."""

    def convert(value: object) -> frozenset[Named]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError("at least one of " + ", ".join(names))
        return frozenset(_named(names, item) for item in values)

    return convert


def _prefixes(value: object) -> tuple[Prefix, ...]:
    values = value if isinstance(value, list) else [value]
    prefixes = []
    for item in values:
        if not isinstance(item, str):
            raise ValueError("prefixes as strings, like 203.0.113.0/24")
        try:
            prefixes.append(Prefix.parse(item))
        except ValueError as error:
            raise ValueError(f"{error} (for {item!r})") from None
    return tuple(prefixes)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31:
        return value
    raise ValueError("a whole number from 0")
