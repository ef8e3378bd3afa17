"""Who may run what from where: the register's model, its files, and look-ups by address."""

from classifier.register.entry import Category, Endpoint, Entry, Kind, Protocol, Reason, Side, Status
from classifier.register.prefixes import Prefix, PrefixTable
from classifier.register.snapshot import Compiled, Register, Source

__all__ = [
    "Category",
    "Compiled",
    "Endpoint",
    "Entry",
    "Kind",
    "Prefix",
    "PrefixTable",
    "Protocol",
    "Reason",
    "Register",
    "Side",
    "Source",
    "Status",
]
