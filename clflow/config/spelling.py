"""Suggesting the name that a person meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """``; did you mean 'x'?`` for the known name nearest to one that is unknown; empty where none is near.

    Args:
        name: as it was written.
        known: the names that would do.
        prefix: put before the suggestion.
    """
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix + near[0]!r}?" if near else ""
