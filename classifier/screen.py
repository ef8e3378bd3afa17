"""Lines and tables for people, on a terminal or in a file.

In: text, and rows of cells. Out: a table as wide as its cells or as there is room, what does not fit folded;
colours on a terminal that wants them (no-color.org). Rich draws the same, but a replay would spend more time
on its table of flows than on 100,000 packets.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple, TextIO

from classifier.logs import printable

__all__ = ["Cell", "Screen"]

_WIDTH: Final = 180  # of a table that goes to a file or a pipe
_STYLES: Final = {"bold": "1", "bold red": "1;31", "yellow": "33", "green": "32"}
_BETWEEN: Final = "   "


class Cell(NamedTuple):
    """Lines of text; `style` is of the first `styled` characters."""

    text: str
    style: str = ""
    styled: int = 0


class Screen:
    """Where to print."""

    def __init__(self, file: TextIO, width: int = _WIDTH, *, colour: bool = False) -> None:
        self.width = width
        self._file = file
        self._colour = colour
        self._rule = "─" if (getattr(file, "encoding", None) or "utf-8").lower().startswith("utf") else "-"

    @classmethod
    def of(cls, file: TextIO) -> Screen:
        """As wide and as colourful as the terminal says, if it is one."""
        is_terminal = file.isatty()
        is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb", "unknown")
        return cls(file, _width(file, is_terminal), colour=is_terminal and not is_plain)

    def print(self, text: str) -> None:
        """A line."""
        print(text, file=self._file)

    def table(
        self, title: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]], right: Collection[str] = ()
    ) -> None:
        """A title, a line of heads, and the rows. `right`: whose numbers stand to the right."""
        cells = [[Cell(head, "bold", len(head)) for head in heads], *rows]
        widths = [max(map(_length, column)) for column in zip(*cells, strict=True)]
        room = self.width - len(_BETWEEN) * (len(heads) - 1) - 1
        while sum(widths) > room and max(widths) > 1:
            widths[widths.index(max(widths))] -= 1
        self.print(f"{self._styled(title, 'bold')}\n")
        for number, row in enumerate(cells):
            self._row(row, widths, [head in right for head in heads])
            if number == 0:
                self.print(f" {self._rule * (sum(widths) + len(_BETWEEN) * (len(heads) - 1))}")
        self.print("")

    def _row(self, row: Sequence[Cell], widths: Sequence[int], right: Sequence[bool]) -> None:
        folded = [list(_folded(cell, width)) for cell, width in zip(row, widths, strict=True)]
        for height in range(max(map(len, folded))):
            parts = []
            for cell, pieces, width, is_right in zip(row, folded, widths, right, strict=True):
                piece, styled = pieces[height] if height < len(pieces) else ("", 0)
                shown = self._styled(piece[:styled], cell.style) + piece[styled:]
                space = " " * (width - len(piece))
                parts.append(space + shown if is_right else shown + space)
            self.print(f" {_BETWEEN.join(parts)}".rstrip())

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colour and style and text else text


def _length(cell: Cell) -> int:
    return max(len(printable(line)) for line in cell.text.split("\n"))


def _folded(cell: Cell, width: int) -> Iterator[tuple[str, int]]:
    """Pieces of no more than that width, and how many of their characters are styled."""
    styled = cell.styled
    for line in map(printable, cell.text.split("\n")):
        for start in range(0, len(line) or 1, width):
            piece = line[start : start + width]
            yield piece, min(styled, len(piece))
            styled = max(0, styled - len(piece))


def _width(file: TextIO, is_terminal: bool) -> int:
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    try:
        return os.get_terminal_size(file.fileno()).columns or 80 if is_terminal else _WIDTH
    except OSError:  # a terminal that does not know
        return 80
