"""Cells of a feed as values: what each column may hold, and how much of a faulty cell a message may show.

In: text. Out: a value, or a ValueError that says what was expected. A map adds the feed's own words, its date
formats and its separator.

One rule a reader would get wrong: a faulty value is repeated in a message only when its form shows that it
is no more than a prefix, a date or a slip of the pen in a known word. Anything else could be a name or a
telephone number that got into the wrong column.
"""

import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, tzinfo
from enum import StrEnum
from typing import Final, NoReturn, TypeVar

from classifier.register.entry import Category, Endpoint, Kind, Protocol, Reason, Side, Status
from classifier.register.feed_map import ANYTHING, WORDS, FeedMap, tidy_word
from classifier.register.manifest import source_name
from classifier.register.prefixes import Prefix
from classifier.toml_file import instant_ns, nearest

__all__ = ["Cells"]

Named = TypeVar("Named", bound=StrEnum)

# Ten and more digits, with the separators people use, and no more than a sign around them.
TELEPHONE_OR_IDENTITY: Final = re.compile(r"\+?(?:[\s().-]*\d){10,}[\s().-]*$")
# Five, seven and one digit, as on the identity cards of one country, inside something longer.
IDENTITY_CARD: Final = re.compile(r"(?<!\d)\d{5}-\d{7}-\d(?!\d)")
OPAQUE_ID: Final = re.compile(r"(?=.*\d)[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$", re.ASCII)
LIKE_IPV4: Final = re.compile(
    r"\d{1,3}(\.\d{1,3}){2,3}"
    r"(/\d{0,3}|[/ ]\d{1,3}(\.\d{1,3}){3}| ?[-\u2013] ?\d{1,3}(\.\d{1,3}){0,3})?(:\d{0,6})?$",
    re.ASCII,
)
# Two colons side by side, or so many that it is no time, number or hardware address.
LIKE_IPV6: Final = re.compile(
    r"\[?(?=[^/\]]*::|(?:[^:]*:){6})(?:[0-9A-Fa-f]{0,4}:){2,9}[0-9A-Fa-f.]{0,15}(/\d{0,3})?(\](:\d{0,6})?)?$",
    re.ASCII,
)
LIKE_DATE: Final = re.compile(
    r"(\d{4}[-/. ](\d{1,2}|[A-Za-z]{3})[-/. ]\d{1,2}|\d{1,2}[-/. ](\d{1,2}|[A-Za-z]{3})[-/. ]\d{2,4})"
    r"([T ]\d{1,2}:[0-9:.]{0,15}(Z|[+-][0-9:]{0,6})?)?$",
    re.ASCII,
)
# So alike that it is a slip of the pen, and not a name that happens to be near.
SLIP: Final = 0.8
RANGE: Final = re.compile(r"([\d.]{7,15}) ?(?:-|\u2013|to) ?([\d.]{7,15})$", re.ASCII)
NETMASK: Final = re.compile(
    r"([\d.]{7,15})[/ ]((?:255|254|252|248|240|224|192|128)(?:\.\d{1,3}){3})$", re.ASCII
)
LEADING_ZERO: Final = re.compile(r"(?:\d{1,3}\.)*0\d{1,2}\.|(?:\d{1,3}\.){3}0\d", re.ASCII)
OTHER_SEPARATORS: Final = re.compile(r"[,;|\s]+|(?<=\d)/(?=\d+\.)|&", re.ASCII)
DAYS_OF_A_SPREADSHEET: Final = re.compile(r"[2-7]\d{4}(\.\d+)?$", re.ASCII)
NOT_SHOWN: Final = "a value that is not shown"
DATE_EXPECTED: Final = (
    "a date that exists, like 2026-11-20, or a time with its offset, like 2026-11-20T08:00:00Z"
)
YEARS: Final = range(1970, 2201)


class Cells:
    """Converts the cells of one feed."""

    def __init__(self, form: FeedMap) -> None:
        self._form = form
        self._zone: tzinfo = form.zone or UTC
        self.converters: tuple[Callable[[str], object], ...] = (
            self._entry_id,
            self._kind,
            self._category,
            self._prefix,
            self._side,
            self._endpoints,
            self._protocols,
            self._start,
            self._end,
            self._status,
            self._start,
            source_name,
            self._missing_since,
            self._reason,
        )
        """For each of `ALL_COLUMNS`."""

    def shown(self, column: str, text: str) -> str:
        """A faulty value as a message may repeat it."""
        if not text:
            return "nothing"
        parts = [part.strip() for part in text.split(self._form.separator)]
        harmless = False
        if column in ("prefix", "endpoints"):
            harmless = all(map(_is_like_prefix, parts))
        elif column in ("valid_from", "valid_until", "status_since", "missing_since"):
            harmless = LIKE_DATE.match(text) is not None
        elif column in WORDS:
            words = [str(name) for name in WORDS[column]] + list(self._form.values.get(column, ()))
            harmless = all(
                nearest(part, words, SLIP) for part in (parts if column == "protocols" else [text])
            )
        return repr(text) if harmless and len(text) <= 80 else NOT_SHOWN

    def _entry_id(self, text: str) -> str:
        if self._form.is_tidy and text.endswith(".0") and text[:-2].isdigit():
            text = text[:-2]  # a number, as a spreadsheet writes it
        if (
            TELEPHONE_OR_IDENTITY.match(text)
            or not OPAQUE_ID.match(text)
            or ("-" in text and IDENTITY_CARD.search(text))
        ):
            raise ValueError(
                "an opaque id: letters, digits, '.', '_', ':', '/', '-', at least one digit; "
                "no name, no number of a telephone or an identity card"
            )
        return text

    def _prefix(self, text: str) -> Prefix | list[Prefix]:
        if self._form.is_tidy:
            separator = self._form.separator
            if separator in text:
                parts = [part.strip() for part in text.split(separator)]
                return list(
                    dict.fromkeys(prefix for part in parts if part for prefix in _prefixes(part, separator))
                )
            found = _prefixes(text, separator)
            return found if len(found) > 1 else found[0]
        return Prefix.parse(text)

    def _word(self, column: str, words: type[Named], text: str) -> Named:
        known = [str(word) for word in words]
        if self._form.is_tidy:
            meant = self._form.values.get(column, {})
            word = tidy_word(text)
            ours = word.replace(" ", "_").replace("-", "_")
            found = meant.get(word) or (ours if ours in known else meant.get(ANYTHING) if text else None)
            if found is not None:
                return words(found)
            known += [word for word in meant if word]
        try:
            return words(text)
        except ValueError:
            close = nearest(text, known)
            raise ValueError(f"{close!r}" if close else "one of " + ", ".join(words)) from None

    def _kind(self, text: str) -> Kind:
        return self._word("kind", Kind, text)

    def _category(self, text: str) -> Category:
        return self._word("category", Category, text)

    def _side(self, text: str) -> Side:
        return self._word("side", Side, text) if text or self._means("side") else Side.EITHER

    def _status(self, text: str) -> Status:
        return self._word("status", Status, text)

    def _protocols(self, text: str) -> tuple[Protocol, ...]:
        parts = text.split(self._form.separator) if text else []
        try:
            filed = {self._word("protocols", Protocol, part.strip()) for part in parts}
        except ValueError:
            if len(parts) == 1 and self._form.is_tidy and len(OTHER_SEPARATORS.split(text)) > 1:
                raise ValueError(_divided_by(self._form.separator, "protocols")) from None
            raise
        return tuple(protocol for protocol in Protocol if protocol in filed)

    def _means(self, column: str) -> bool:
        """Whether the map gives an empty cell a meaning."""
        return "" in self._form.values.get(column, {})

    def _endpoints(self, text: str) -> tuple[Endpoint, ...]:
        parts = text.split(self._form.separator) if text else ()
        return tuple(Endpoint.parse(part.strip()) for part in parts)

    def _start(self, text: str) -> int:
        return self._instant(text, end_of_day=False)

    def _end(self, text: str) -> int | None:
        return self._instant(text, end_of_day=True) if text else None

    def _missing_since(self, text: str) -> int | None:
        return self._instant(text, end_of_day=False) if text else None

    def _reason(self, text: str) -> Reason | None:
        return self._word("reason", Reason, text) if text else None

    def _instant(self, text: str, *, end_of_day: bool) -> int:
        value = self._by_format(text) or self._by_iso(text)
        if isinstance(value, datetime) and value.tzinfo is None:
            if not self._form.is_tidy:
                raise ValueError(DATE_EXPECTED)
            # Spreadsheets write a day as its first moment.
            value = value.date() if value.time() == time() else value.replace(tzinfo=self._zone)
        # The first and last of those days may begin and end in the years beside, by another clock.
        more = 1 if isinstance(value, datetime) else 0
        if not YEARS.start - more <= value.year < YEARS.stop + more:
            raise ValueError(f"a year from {YEARS.start} to {YEARS.stop - 1}")
        return instant_ns(value, self._zone, end_of_day=end_of_day)

    def _by_format(self, text: str) -> date | None:
        for form in self._form.date_formats:
            try:
                value = datetime.strptime(text, form)
            except ValueError:
                continue
            return value
        return None

    def _by_iso(self, text: str) -> date:
        try:
            # The length keeps out the other forms of ISO 8601 (weeks, no hyphens).
            value = date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
        except ValueError:
            self._no_date(text)
        if len(text) < 10 or text[4] != "-" or text[7] != "-":
            self._no_date(text)
        return value

    def _no_date(self, text: str) -> NoReturn:
        if DAYS_OF_A_SPREADSHEET.match(text):
            raise ValueError(
                "a date: spreadsheets count days, so give the column the format of a date and save it again"
            )
        if not self._form.date_formats:
            raise ValueError(DATE_EXPECTED)
        formats = ", ".join(self._form.date_formats)
        raise ValueError(f"a date that exists, as {formats} of the map or as 2026-11-20")


def _is_like_prefix(text: str) -> bool:
    if LIKE_IPV4.match(text):
        # So many digits with dots between them are an address, or may be a telephone number.
        numbers = re.findall(r"\d+", re.split(r"[/: -]", text)[0])
        return sum(map(len, numbers)) < 11 or all(int(number) < 256 for number in numbers)
    return LIKE_IPV6.match(text) is not None


def _prefixes(text: str, separator: str) -> list[Prefix]:
    """A prefix, or what a range of addresses or a netmask stands for; ValueError says what was expected."""
    text = text.replace(" /", "/").replace("/ ", "/")
    try:
        return [Prefix.parse(text)]
    except ValueError:
        if found := RANGE.match(text):
            return _range(*found.groups())
        if found := NETMASK.match(text):
            return _network(*found.groups())
        if LEADING_ZERO.match(text):
            raise ValueError(
                "numbers without zeros before them (some programs read those as octal)"
            ) from None
        parts = [part for part in OTHER_SEPARATORS.split(text) if part]
        if len(parts) > 1 and all(map(_is_like_prefix, parts)):
            raise ValueError(_divided_by(separator, "prefixes")) from None
        raise


def _range(first: str, last: str) -> list[Prefix]:
    try:
        networks = ipaddress.summarize_address_range(
            ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
        )
        return [Prefix(network.network_address.packed, network.prefixlen) for network in networks]
    except ValueError:
        raise ValueError("a range from its first to its last address, or a prefix") from None


def _network(address: str, netmask: str) -> list[Prefix]:
    try:
        network = ipaddress.IPv4Network(f"{address}/{netmask}")
    except ValueError:
        raise ValueError("a network without host bits and its netmask, or a prefix") from None
    return [Prefix(network.network_address.packed, network.prefixlen)]


def _divided_by(separator: str, what: str) -> str:
    return f"several {what} with {separator!r} between them, which is the `separator` of the map"
