"""The reference of every parameter: type and range from the schema, value and meaning from parameter files."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from clflow.config.params import Params, load

_SCHEMA = Params.model_json_schema()

_IN_WORDS = {
    "Distribution": "one of `uniform`, `log_uniform`, `integer` ([lowest, highest]) and `choice` (a list)",
    "Override": "sections with the keys that differ",
    "Tuned": "path of a file of `tuned/`, relative to this file",
}
"""Models that are written in a file as a whole."""

_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

_Path = tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """A parameter.

    Attributes:
        name: dotted; ``<name>`` stands for a name that the user chooses.
        path: the keys that lead to it in a file.
        schema: of its value, as JSON Schema.
        value: in the file.
    """

    name: str
    path: _Path
    schema: dict[str, Any]
    value: Any

    def row(self, meaning: str) -> str:
        """Its row of the table, with an anchor unless it is the section itself."""
        anchor = f'<a id="{re.sub("[<>]", "", self.name)}"></a>' if "." in self.name else ""
        value = json.dumps(self.value, ensure_ascii=False)
        return f"| {anchor}`{self.name}` | {kind(self.schema)} | `{value}` | {meaning} |"


def reference(params: Path, commented: Sequence[Path]) -> str:
    """A section of Markdown for each section of a parameter file, with a table of its keys.

    Args:
        params: the file, whose values are shown.
        commented: files whose comments say what a key means, above it or behind it; the first that does counts.
    """
    values = load(params).model_dump(mode="json")
    meanings = {path: text for file in reversed(commented) for path, text in _comments(file)}
    parts = []
    for name, field in Params.model_fields.items():
        found = _keys(name, (name,), _SCHEMA["properties"][name], values[name])
        rows = [key.row(meanings.get(key.path, "")) for key in found]
        about = inspect.cleandoc(field.annotation.__doc__ or "") if inspect.isclass(field.annotation) else ""
        table = ["| key | type and range | value | meaning |", "| --- | --- | --- | --- |", *rows]
        parts += [f"## {name}", about.partition("\nAttributes:")[0].replace("``", "`"), "\n".join(table)]
    return "\n\n".join(part for part in parts if part)


def kind(schema: dict[str, Any]) -> str:
    """Type and range in words."""
    if "$ref" in schema:
        return _IN_WORDS[_model(schema)]
    if "anyOf" in schema:
        return " or ".join(kind(each) for each in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    match schema["type"]:
        case "array" if "prefixItems" in schema:
            return "[lowest, highest]: " + " to ".join(dict.fromkeys(map(kind, schema["prefixItems"])))
        case "array":
            return f"list of {kind(schema['items'])}" + (", at least one" if schema.get("minItems") else "")
        case "object":
            return f"for each name: {kind(_of_each_name(schema))}"
        case "string":
            return "name" if "pattern" in schema else "text"
    limits = [f"{sign} {schema[limit]:g}" for limit, sign in _LIMITS.items() if limit in schema]
    limits += [f"multiple of {schema['multipleOf']}"] if "multipleOf" in schema else []
    return " ".join([schema["type"], ", ".join(limits)]).strip()


def _keys(name: str, path: _Path, schema: dict[str, Any], value: Any) -> Iterator[Key]:
    """The parameters at or below a key."""
    each = _of_each_name(schema)
    if _is_section(schema):
        for key, below in _SCHEMA["$defs"][_model(schema)]["properties"].items():
            yield from _keys(f"{name}.{key}", (*path, key), below, value[key])
    elif _is_section(each):
        first = next(iter(value))
        yield from _keys(f"{name}.<name>", (*path, first), each, value[first])
    else:
        yield Key(name, path, schema, value)


def _model(schema: dict[str, Any]) -> str:
    """Name of the model that a schema refers to, if it does."""
    return schema.get("$ref", "").rpartition("/")[2]


def _is_section(schema: dict[str, Any]) -> bool:
    return _model(schema) not in ("", *_IN_WORDS)


def _of_each_name(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the values of a mapping whose keys the user chooses; empty if it is none."""
    by_pattern = schema.get("patternProperties", {})
    return next(iter(by_pattern.values()), None) or schema.get("additionalProperties") or {}


def _comments(file: Path) -> Iterator[tuple[_Path, str]]:
    """Path and comment of every key of a file that has one."""
    lines = file.read_text(encoding="utf-8").splitlines()

    def walk(tree: CommentedMap, path: _Path) -> Iterator[tuple[_Path, str]]:
        for key, value in tree.items():
            line, column = tree.lc.key(key)
            first = line
            while first and re.match(rf"^ {{{column}}}# ", lines[first - 1]):
                first -= 1
            above = [text.strip().removeprefix("# ") for text in lines[first:line]]
            behind = re.findall(r"\s# (.*)$", lines[line])
            if above or behind:
                yield (*path, str(key)), " ".join([*above, *behind])
            if isinstance(value, CommentedMap):
                yield from walk(value, (*path, str(key)))

    yield from walk(YAML().load("\n".join(lines)), ())
