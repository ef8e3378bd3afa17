"""The settings of `watch` as a TOML file: read, checked, and written with where each of them comes from.

A file's values become the defaults of the options, so what is given on the command line comes before them,
and the file takes what the options take: there is one declaration of each setting, its option, and one line
here, in `KEYS`, for where in the file it stands. An unknown key, or a value that an option would refuse, is a
fault with file and line; all are told together. One rule a reader would get wrong: paths are meant as on the
command line, from the directory in which the program runs, not from that of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from classifier.toml_file import Table

__all__ = ["KEYS", "dump", "expression_of", "read"]

KEYS: Final[Mapping[str, str]] = {
    "interface": "capture.interfaces",
    "expression": "capture.filter",
    "outgoing": "capture.outgoing",
    "promiscuous": "capture.promiscuous",
    "ring_size": "capture.ring_size",
    "block_size": "capture.block_size",
    "snap_length": "capture.snap_length",
    "workers": "flows.workers",
    "min_confidence": "flows.min_confidence",
    "flow_key": "flows.key",
    "peel": "flows.peel",
    "remove_duplicates": "flows.remove_duplicates",
    "rules": "rules.directory",
    "register": "rules.register",
    "policy": "rules.policy",
    "sensor": "events.sensor",
    "output": "events.output",
    "keep": "events.keep",
    "rotate_size": "events.rotate_size",
    "rotate_every": "events.rotate_every",
    "retain": "events.retain",
    "retain_size": "events.retain_size",
    "queue_size": "events.queue_size",
    "ledger": "ledger.directory",
    "ledger_retain": "ledger.retain",
    "metrics": "metrics.listen",
    "metrics_cert": "metrics.certificate",
    "metrics_key": "metrics.key",
    "metrics_client_ca": "metrics.client_issuers",
    "metrics_file": "metrics.file",
    "log_format": "log.format",
    "log_level": "log.level",
}
"""Where in the file each option stands, by the name of its parameter; in the order of `dump`."""

_WORDS: Final = "expression"  # one text in the file, words on the command line


def read(context: typer.Context, path: str) -> dict[str, Any]:
    """The defaults that a file gives to options; ConfigError with everything that is wrong in it."""
    from pathlib import Path

    from classifier.errors import ConfigError
    from classifier.toml_file import TomlFile

    file = TomlFile(Path(path))
    parameters = {parameter.name: parameter for parameter in context.command.params}
    tables: dict[str, Table] = {}
    defaults: dict[str, Any] = {}
    for name, key in KEYS.items():
        section, _, inner = key.rpartition(".")
        if section not in tables:
            tables[section] = file.root.table(section)
        parameter = parameters[name]

        def taken(value: object, parameter: Any = parameter) -> object:
            return _taken(context, parameter, value)

        value = tables[section].get(inner, taken, None)
        if value is not None:
            defaults[name] = value
    for table in tables.values():
        table.finish()
    file.root.finish()
    if file.faults:
        raise ConfigError(file.faults)
    return defaults


def dump(context: typer.Context) -> Iterator[str]:
    """The lines of a file with the settings in effect, each with its origin."""
    yield "# What `vpn-classifier watch` goes by, and where each value comes from. `--config FILE` reads it."
    section = ""
    for name, key in KEYS.items():
        table, _, inner = key.rpartition(".")
        if table != section:
            section = table
            yield from ("", f"[{section}]")
        source = context.get_parameter_source(name)
        origin = {"COMMANDLINE": "command line", "DEFAULT_MAP": "file"}.get(
            source.name if source else "", "default"
        )
        value = context.params[name]
        if name == _WORDS:
            origin, value = _words(context, origin, value)
        if value is None or (value == [] and origin == "default"):
            yield f"# {inner} is not set  # {origin}"
        else:
            yield f"{inner} = {_toml(value)}  # {origin}"


def expression_of(context: typer.Context, words: list[str] | None) -> str:
    """The BPF expression: that of the command line, else that of the file."""
    return " ".join(words or context.lookup_default(_WORDS) or ())


def _words(context: typer.Context, origin: str, words: list[str] | None) -> tuple[str, str]:
    # Of arguments, no origin but the command line is known.
    said = expression_of(context, words)
    return (origin if words else "file" if said else "default"), said


def _taken(context: typer.Context, parameter: Any, value: object) -> object:
    """A value of a file as its option takes it; ValueError says what that is."""
    kind: type = str
    expected = "text"
    if getattr(parameter, "is_flag", False):
        kind, expected = bool, "true or false"
    elif parameter.type.name.startswith("int"):
        kind, expected = int, "a whole number"
    if parameter.multiple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError('an array of texts, like ["eth1"]')
    elif type(value) is not kind:
        raise ValueError(expected)
    if parameter.name == _WORDS:
        return [value]
    try:
        parameter.process_value(context, value)
    except typer.BadParameter as error:
        raise ValueError(error.message) from None
    return value


def _toml(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
