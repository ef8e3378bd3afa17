"""What can go wrong on the Python side, sorted by whose fault it is.

    ClassifierError                 base of all of these
    ├── FaultyFileError             a file that somebody wrote; `faults` holds everything wrong in it
    │   ├── ConfigError             a TOML file: unknown key, wrong type, value out of range
    │   │   └── PolicyError         a policy whose keys are right but whose rules make no sense
    │   └── RegisterError           a register or its manifest; nothing of it was loaded
    └── OutputError                 a result could not be written

`CaptureError`, raised for input that is no (whole) capture, comes from the compiled module.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ClassifierError",
    "ConfigError",
    "Fault",
    "FaultyFileError",
    "OutputError",
    "PolicyError",
    "RegisterError",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a file, and where."""

    file: str
    line: int | None
    """From 1; None when the fault is the whole file's."""
    column: str | None
    """Name of the CSV column, or dotted TOML key."""
    found: str
    """What stands there. A value that could tell something about a person is never repeated."""
    expected: str
    """What should stand there, or what to do."""

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        column = "" if self.column is None else f" {self.column}:"
        return f"{self.file}{line}:{column} found {self.found}; expected {self.expected}"


class ClassifierError(Exception):
    """Base of the errors that are raised on purpose."""


class FaultyFileError(ClassifierError):
    """A file has faults; all that were found in one pass."""

    faults: tuple[Fault, ...]

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


class ConfigError(FaultyFileError):
    """A TOML file cannot be used. Usual cause: a misspelt key; the nearest known one is suggested."""


class PolicyError(ConfigError):
    """A policy contradicts itself. Usual cause: a rule that can never apply, or a repeated rule id."""


class RegisterError(FaultyFileError):
    """A register was refused as a whole. Usual cause: rows edited by hand; see `faults`."""


class OutputError(ClassifierError):
    """A result could not be written. Usual cause: no space, no permission, or no such directory."""

    path: str
    reason: str

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: cannot be written: {self.reason}"
