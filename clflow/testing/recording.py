"""Parameters that note which of them are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clflow.config.params import Params
from clflow.config.schema import Section


def recording(params: Params, read: set[str]) -> Params:
    """A copy of parameters that adds the name, ``section.key``, of each that is read.

    What is saved as a whole is not read, nor is what a copy of a section has in place of the parameter.
    """
    parts = {name: getattr(params, name) for name in type(params).model_fields}
    sections = {name: part for name, part in parts.items() if isinstance(part, Section)}
    update = {name: _recording(part, name, read, frozenset(type(part).model_fields)) for name, part in sections.items()}
    return params.model_copy(update=update)


def _recording(section: Section, name: str, read: set[str], noted: frozenset[str]) -> Section:
    kind = type(section)

    class Recording(kind):
        def __getattribute__(self, key: str) -> Any:
            if key in noted:
                read.add(f"{name}.{key}")
            return super().__getattribute__(key)

        def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Any:
            copy = section.model_copy(update=update, deep=deep)
            return _recording(copy, name, read, noted - (update or {}).keys())

    return Recording.model_construct(**dict(section))
