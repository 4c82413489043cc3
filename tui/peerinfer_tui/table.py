"""Tables of any length: which rows there are, in which order, and the cells of those that are looked at.

A *sheet* holds records and the columns that show them. It is given the cells it may take and answers with the columns
that fit, the least important going first. Cells are made for the rows on the screen alone: a thousand peers cost one
sort, and as much painting as twenty do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from peerinfer_tui.line import Line, fitted

T = TypeVar("T")

COLUMN_GAP = 2
"""Cells between two columns."""


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column: `show` gives the cell of a record in `width` cells. The lowest `rank`s are kept longest."""

    title: str
    width: int
    rank: int
    show: Callable[[T, int], Line]
    order: Callable[[T], Any] | None = None
    """What the table is sorted by when somebody picks this column; None is unknown and comes last."""
    grows: int = 0
    """Share of the cells left over."""
    right: bool = False
    falls: bool = False
    """Sorted with the largest first when picked."""


@dataclass(frozen=True, slots=True)
class Order:
    """The column that a table is sorted by. Without one, records stand in the order that their sheet gives them."""

    title: str = ""
    is_reversed: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    title: str
    column: int
    width: int
    right: bool


@dataclass(frozen=True, slots=True)
class Sheet(Generic[T]):
    """`records` have keys of their own, by which a cursor finds them again."""

    noun: str
    columns: Sequence[Column[T]]
    records: Sequence[tuple[str, T]]
    text: Callable[[T], str]
    """What a filter looks in."""
    hint: str = ""
    """Said where there is no record at all."""
    total: int = -1
    """Records before any filter; -1: there was none."""

    def arranged(self, order: Order, wanted: str = "") -> Sheet[T]:
        """The records whose text holds every word of `wanted`, in `order`; equal ones keep the order they have."""
        found = list(self.records)
        words = wanted.casefold().split()
        if words:
            found = [pair for pair in found if _holds(self.text(pair[1]), words)]
        picked = next((column for column in self.columns if column.title == order.title), None)
        if picked is not None and picked.order is not None:
            key = picked.order
            known = [pair for pair in found if key(pair[1]) is not None]
            known.sort(key=lambda pair: key(pair[1]), reverse=picked.falls != order.is_reversed)
            found = known + [pair for pair in found if key(pair[1]) is None]
        return replace(self, records=found, total=len(self.records) if words else -1)

    @property
    def caption(self) -> str:
        count = len(self.records)
        if self.total >= 0:
            return f"{self.noun}  {count:,} of {self.total:,}"
        return f"{self.noun}  {count:,}" if count else f"{self.noun}  none yet{self.hint}"

    def headings(self, width: int) -> tuple[Heading, ...]:
        """The columns that fit into `width` cells, with the cells each gets."""
        kept: list[int] = []
        free = width + COLUMN_GAP
        for index in sorted(range(len(self.columns)), key=lambda index: self.columns[index].rank):
            needed = self.columns[index].width + COLUMN_GAP
            if kept and needed > free:
                break
            free -= needed
            kept.append(index)
        shares = sum(self.columns[index].grows for index in kept)
        found = []
        for index in sorted(kept):
            column = self.columns[index]
            extra = max(0, free) * column.grows // shares if shares else 0
            found.append(Heading(column.title, index, column.width + extra, column.right))
        return tuple(found)

    def row(self, index: int, headings: Sequence[Heading]) -> Line:
        """One record as a line, as wide as the headings are together."""
        _, record = self.records[index]
        line: list[tuple[str, Any]] = []
        for heading in headings:
            if line:
                line.append((" " * COLUMN_GAP, "plain"))
            cell = self.columns[heading.column].show(record, heading.width)
            line.extend(fitted(cell, heading.width, right=heading.right))
        return tuple(line)


def heading_line(headings: Sequence[Heading], order: Order) -> Line:
    """The titles, with a mark at the one that the table is sorted by."""
    line: list[tuple[str, Any]] = []
    for heading in headings:
        if line:
            line.append((" " * COLUMN_GAP, "plain"))
        is_picked = bool(order.title) and heading.title == order.title
        mark = ("▴" if order.is_reversed else "▾") if is_picked else ""
        title = f"{heading.title[: heading.width - len(mark)]}{mark}"
        line.extend(fitted(((title, "accent" if is_picked else "dim"),), heading.width, right=heading.right))
    return tuple(line)


def heading_at(headings: Sequence[Heading], cell: int) -> Heading | None:
    """The heading that a click at `cell` meets."""
    start = 0
    for heading in headings:
        if start <= cell < start + heading.width + COLUMN_GAP:
            return heading
        start += heading.width + COLUMN_GAP
    return None


def next_order(headings: Sequence[Heading], order: Order, step: int = 1) -> Order:
    """The next column to sort by, after the last one none."""
    titles = ["", *(heading.title for heading in headings)]
    here = titles.index(order.title) if order.title in titles else 0
    return Order(titles[(here + step) % len(titles)])


def distinct(records: Sequence[tuple[str, T]]) -> list[tuple[str, T]]:
    """The records with keys of their own: the first of two that share one."""
    found: dict[str, T] = {}
    for key, record in records:
        found.setdefault(key, record)
    return list(found.items())


def _holds(text: str, words: Sequence[str]) -> bool:
    folded = text.casefold()
    return all(word in folded for word in words)
