"""Tables of the pages that people read."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(header: Sequence[str], alignment: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; ``alignment`` has an "l" or "r" for each column."""
    marks = ["---:" if side == "r" else "---" for side in alignment]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, marks, *rows))
