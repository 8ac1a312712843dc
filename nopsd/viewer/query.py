"""What a page's address asks for, read with care: everything in it was typed by someone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nopsd.errors import UserError

PER_PAGE = 50
LARGEST = 10**12


@dataclass(frozen=True)
class Query:
    """The parameters of an address; what is missing, or blank, is the default."""

    values: Mapping[str, str]

    def text(self, name: str) -> str:
        """As given, without blanks around it."""
        return self.values.get(name, "").strip()

    def whole(self, name: str, default: int | None = None) -> int | None:
        """A whole number from 0 on. UserError for anything else."""
        found = self.number(name)
        if found is None:
            return default
        if found != int(found) or found < 0:
            raise UserError(f"{name}={self.text(name)}: give a whole number from 0 on")
        return int(found)

    def number(self, name: str) -> float | None:
        """A finite number. UserError for anything else."""
        given = self.text(name)
        if not given:
            return None
        try:
            found = float(given)
        except ValueError as error:
            raise UserError(f"{name}={given}: give a number") from error
        if not math.isfinite(found) or abs(found) > LARGEST:
            raise UserError(f"{name}={given}: give a number")
        return found


@dataclass(frozen=True)
class Window:
    """One page of a long table: rows `first` to `last` of `total`, pages counted from 1."""

    page: int
    pages: int
    total: int

    @classmethod
    def of(cls, query: Query, total: int) -> Window:
        """The page that the query asks for, or the nearest that there is."""
        pages = max(1, -(-total // PER_PAGE))
        return cls(min(max(query.whole("page", 1) or 1, 1), pages), pages, total)

    @property
    def first(self) -> int:
        return (self.page - 1) * PER_PAGE

    @property
    def last(self) -> int:
        return min(self.page * PER_PAGE, self.total)
