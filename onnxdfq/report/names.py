"""Names in a line of a report: the first few, and how many there are beside them."""

from __future__ import annotations

from collections.abc import Sequence

NAMES_SHOWN = 3


def some(names: Sequence[str]) -> str:
    """The first few names, and how many there are beside them."""
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
