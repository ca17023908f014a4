"""Parameters as text for people: all values, and the file that each comes from."""

from __future__ import annotations

import io
import sys
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter

from clflow.config.layers import Effective, leaves

_ORIGIN_COLUMN = 48


def render(found: Effective, origins: bool = False) -> str:
    """The parameters as YAML, which is a complete parameter file itself.

    Args:
        found: parameters of some layers.
        origins: whether a comment beside each value names the file that it comes from.
    """
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = sys.maxsize  # a line per value
    file = io.StringIO()
    yaml.dump(_lists_on_a_line(found.tree), file)
    text = file.getvalue()
    if not origins:
        return text
    places = leaves(found.tree)
    return "".join(
        line if line.endswith(":\n") else f"{line.rstrip():<{_ORIGIN_COLUMN}} # {found.origin(next(places))}\n"
        for line in text.splitlines(keepends=True)
    )


class _Representer(RoundTripRepresenter):
    """Writes null, not nothing."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def _lists_on_a_line(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists_on_a_line(inner) for key, inner in value.items()}
    if isinstance(value, list):
        sequence = CommentedSeq(value)
        sequence.fa.set_flow_style()
        return sequence
    return value
