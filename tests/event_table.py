"""docs/events.md, made from the schema: `python tests/event_table.py > docs/events.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from classifier.events import schema

_KINDS = ("vpn", "attempts", "correction", "register", "stats", "ledger")


def page() -> str:
    """The whole page."""
    document = schema()
    definitions = document["$defs"]
    lines = [
        "# Events",
        "",
        "One JSON object a line, in the shape of Suricata's EVE. The contract is the JSON Schema (2020-12)",
        "`classifier/event.schema.json`, installed with the package; this page is made from it",
        "(`python tests/event_table.py > docs/events.md`), and a test compares the two.",
        "",
        document["description"],
        "",
        "A file begins with a `stats` event that says what judged the flows, and ends with one that counts;",
        "without the last the file is not complete. `register` events in between say what was loaded while",
        "the run went on. `recheck` writes a file of its own, with corrections only. `watch` begins each",
        "further file with `started` again, ends one that another follows with `rotated`, and names in a",
        "`gap` what it could not write; its daily ledgers are files of `ledger` lines alone.",
        "",
        "An attempt is a flow in phase `attempt`: nobody answered it. Of one source prefix (/24, /48) ten",
        "are announced in 60 s of packet time, a thousand of all prefixes together; the rest are counted in",
        "an `attempts` event at the end of the 60 s. Prefixes with ten or fewer, as a flood from forged",
        "sources has, and what a thousand summaries leave over are counted together, a minute later at",
        "most. One that is answered later is `recognised` then; the others give no event of their own.",
        "",
    ]
    for kind in _KINDS:
        definition = definitions[f"{kind}_event"]
        lines += [f"## `{kind}`", "", definition["description"], ""]
        lines += ["| field | type | meaning |", "| --- | --- | --- |"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(definition, "", definitions)]
        lines.append("")
    return "\n".join(lines)


def _rows(
    rule: Mapping[str, Any], place: str, definitions: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    for name, given in rule["properties"].items():
        inner, optional = _resolve(given, definitions)
        field = f"{place}{name}"
        if inner.get("type") == "array":
            item, _ = _resolve(inner["items"], definitions)
            if "properties" in item:
                yield f"`{field}`", "array of objects", inner["description"]
                yield from _rows(item, f"{field}[].", definitions)
                continue
            yield f"`{field}`", f"array of {item['type']}s", inner["description"]
            continue
        absent = "" if name in rule["required"] else ", may be absent"
        null = " or null" if optional else ""
        yield f"`{field}`", f"{_type(inner)}{null}{absent}", given.get("description", inner["description"])
        if "properties" in inner:
            yield from _rows(inner, f"{field}.", definitions)


def _resolve(rule: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    if "oneOf" in rule:
        return _resolve(rule["oneOf"][0], definitions)[0], True
    if "$ref" in rule:
        return definitions[rule["$ref"].removeprefix("#/$defs/")], False
    return rule, False


def _type(rule: Mapping[str, Any]) -> str:
    if "const" in rule:
        return f"`{rule['const']}`"
    if "enum" in rule and len(rule["enum"]) <= 6:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    types = rule["type"]
    return types if isinstance(types, str) else " or ".join(types)


if __name__ == "__main__":
    print(page(), end="")
