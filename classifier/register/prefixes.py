"""Prefixes, and the trees that answer which of them hold an address.

Built once per snapshot, asked once per flow and end. Gives everything filed for any prefix that covers
the address, most specific prefix first; what that amounts to at a given time is for `standing` to say.

The trees take whatever they are given (host bits, over-long masks, a key of the other family), so only
packed bytes of a validated `Prefix` go in, and a packed address goes to the tree of its own length. Each
prefix holds the tuple of all values that cover it, so that a look-up is one step however deep prefixes
nest.
"""

import socket
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar

__all__ = ["Prefix", "PrefixTable", "address_text", "coverings", "last_address"]

T = TypeVar("T")

# RFC 4291, 2.5.5.2
IPV4_MAPPED: Final = b"\x00" * 10 + b"\xff\xff"
LENGTH_BYTES: Final = tuple(bytes([length]) for length in range(129))


def address_text(address: bytes) -> str:
    """A packed address as people write it (RFC 5952 for IPv6)."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


class Prefix(NamedTuple):
    """A network: its first address, packed, and how many leading bits belong to it."""

    address: bytes
    length: int

    @classmethod
    def parse(cls, text: str) -> "Prefix":
        """An address, or address/length without host bits; ValueError says what was expected."""
        address_part, slash, length_part = text.partition("/")
        try:
            address = socket.inet_pton(
                socket.AF_INET6 if ":" in address_part else socket.AF_INET, address_part
            )
        except (OSError, ValueError):
            raise ValueError("an IPv4 or IPv6 prefix like 203.0.113.0/24 or 2001:db8::/32") from None
        bits = len(address) * 8
        length = bits
        if slash:
            if not (
                length_part.isascii() and length_part.isdigit() and str(int(length_part[:9])) == length_part
            ):
                raise ValueError(f"a prefix length from 0 to {bits} after '/'")
            length = int(length_part)
            if length > bits:
                raise ValueError(f"a prefix length from 0 to {bits} after '/'")
        if address.startswith(IPV4_MAPPED):
            mapped = address_text(address[12:]) + (f"/{length - 96}" if length >= 96 and slash else "")
            raise ValueError(f"the IPv4 form, {mapped}, instead of IPv4-mapped IPv6")
        network = _masked(address, length)
        if network != address:
            raise ValueError(
                f"no host bits: {address_text(network)}/{length} for the network, "
                f"{address_text(address)}/{bits} for the one address"
            )
        return cls(address, length)

    def __str__(self) -> str:
        return f"{address_text(self.address)}/{self.length}"

    def holds(self, address: bytes) -> bool:
        """Whether a packed address lies in this prefix; never one of the other family."""
        return len(address) == len(self.address) and _masked(address, self.length) == self.address


class PrefixTable(Generic[T]):
    """An immutable map from prefixes to values, asked by address."""

    __slots__ = ("_ipv4", "_ipv6", "_size")

    def __init__(self, items: Iterable[tuple[Prefix, T]]) -> None:
        """Values of one prefix keep the order in which they come."""
        import pytricia

        self._ipv4: Any = pytricia.PyTricia(32, socket.AF_INET)
        self._ipv6: Any = pytricia.PyTricia(128, socket.AF_INET6)
        insert = {4: self._ipv4.insert, 16: self._ipv6.insert}
        self._size = 0
        for (address, length), covering in coverings(items):
            insert[len(address)](address, length, covering)
            self._size += 1

    def __len__(self) -> int:
        """How many different prefixes there are."""
        return self._size

    def covering(self, address: bytes) -> tuple[T, ...]:
        """Every value whose prefix holds the packed address, most specific prefix first."""
        if len(address) == 4:
            return self._ipv4.get(address, ())  # type: ignore[no-any-return]
        if len(address) == 16:
            return self._ipv6.get(address, ())  # type: ignore[no-any-return]
        raise ValueError(f"a packed address has 4 or 16 bytes, not {len(address)}")


def coverings(items: Iterable[tuple[Prefix, T]]) -> Iterator[tuple[Prefix, tuple[T, ...]]]:
    """Each prefix once, with all values that cover all of it, most specific prefix first."""
    families: dict[int, list[tuple[bytes, T]]] = {4: [], 16: []}
    for (address, length), value in items:
        families[len(address)].append((address + LENGTH_BYTES[length], value))
    for family, found in families.items():
        # In this order every prefix comes right after those that hold it.
        found.sort(key=itemgetter(0))
        above: list[tuple[bytes, tuple[T, ...]]] = []  # last address of a prefix, what covers there
        own: tuple[T, ...] = ()
        for index, (key, value) in enumerate(found, 1):
            own += (value,)
            if index < len(found) and found[index][0] == key:
                continue
            address, length = key[:-1], key[-1]
            while above and address > above[-1][0]:
                above.pop()
            covering = own + above[-1][1] if above else own
            if length < family * 8:
                above.append((last_address(address, length), covering))
            yield Prefix(address, length), covering
            own = ()


def _masked(address: bytes, length: int) -> bytes:
    spare = len(address) * 8 - length
    return (int.from_bytes(address, "big") >> spare << spare).to_bytes(len(address), "big")


def last_address(address: bytes, length: int) -> bytes:
    """The last address of a prefix."""
    spare = len(address) * 8 - length
    return (int.from_bytes(address, "big") | (1 << spare) - 1).to_bytes(len(address), "big")
