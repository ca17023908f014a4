"""Layers of parameters: a file states what differs from the file that it extends, down to the packaged defaults.

Sections are merged key by key. A value is replaced as a whole, and so is a mapping whose keys are the user's own names:
``data``, ``overrides``, ``variants``, ``tune.space`` and ``promotion.floors``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from clflow.config.schema import Section, section_at
from clflow.config.spelling import did_you_mean
from clflow.errors import ParameterError

EXTENDS = "extends"
"""Key of a parameter file that names the layer below it: a path relative to the file, or a packaged name."""

BASE = "base"
"""Packaged name of the defaults, which state every parameter but ``benchmark`` and ``data``."""

OFFLINE = "offline"
"""Packaged name of the layer above it whose weights come with pip (extra ``demo``)."""

_PACKAGED = {path.stem: path for path in Path(__file__).parent.glob("*.yaml")}
_PATHS = (("synthesis", "textures"), ("model", "weights"), ("resources", "storage"))
_NO_PATHS = {"hub", "offline"}

Tree = dict[str, Any]
Place = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """What one parameter file states.

    Attributes:
        name: of the file, for people.
        tree: its sections; relative paths are absolute.
    """

    name: str
    tree: Tree


@dataclass(frozen=True)
class Effective:
    """Parameters of layers laid over each other.

    Attributes:
        tree: the sections.
        layers: names of the layers, the lowest first.
        origins: place of each value in the tree to the index of the layer that it comes from.
    """

    tree: Tree
    layers: tuple[str, ...]
    origins: dict[Place, int]

    def origin(self, place: Place) -> str:
        """Name of the highest layer that states something at or below a place; of the highest of all, if none does."""
        found = [index for at, index in self.origins.items() if at[: len(place)] == place]
        return self.layers[max(found, default=-1)]


def read_layers(path: Path) -> list[Layer]:
    """A parameter file and those that it extends, the lowest first.

    Raises:
        ParameterError: a file is missing, is no YAML mapping, or extends itself.
    """
    layers: list[Layer] = []
    seen: dict[Path, str] = {}
    name, advice = str(path), "run where params.yaml lies or name the file"
    while True:
        if path.resolve() in seen:
            first, *others = [*seen.values(), name]
            raise ParameterError(f"{first} extends {', which extends '.join(others)}: a circle; remove one {EXTENDS}.")
        seen[path.resolve()] = name
        tree = read_yaml(path, advice)
        if not isinstance(tree, dict):
            raise ParameterError(f"{path} states no parameters; it must be a mapping of sections.")
        below = tree.pop(EXTENDS, None)
        layers.insert(0, Layer(name, anchored(tree, path.parent)))
        if below is None:
            return layers
        path, name, advice = _find(below, path)


def packaged(name: str) -> Layer:
    """A layer that comes with the package, without what it extends."""
    tree = read_yaml(_PACKAGED[name], "install clflow again")
    return Layer(name, {section: values for section, values in tree.items() if section != EXTENDS})


def lay(layers: list[Layer], schema: type[Section]) -> Effective:
    """Lay layers over each other, the lowest first; nothing is checked."""
    tree: Tree = {}
    origins: dict[Place, int] = {}
    for index, layer in enumerate(layers):
        _merge(layer.tree, index, tree, origins, schema)
    known = {section: tree[section] for section in schema.model_fields if section in tree}
    return Effective(known | tree, tuple(layer.name for layer in layers), origins)


def anchored(tree: Tree, folder: Path) -> Tree:
    """Parameters with their relative paths, which are relative to a folder, made absolute."""
    tree = copy.deepcopy(tree)
    parts = [tree, *_mappings(tree.get("overrides")), *_mappings(tree.get("variants"))]
    places = [(tree, "tuned"), *((dataset, "source") for dataset in _mappings(tree.get("data")))]
    places += [(part[section], key) for part in parts for section, key in _PATHS if isinstance(part.get(section), dict)]
    for holder, key in places:
        value = holder.get(key)
        if isinstance(value, str) and value not in _NO_PATHS and "://" not in value:
            holder[key] = str((folder / Path(value).expanduser()).resolve())
    return tree


def read_yaml(path: Path, advice: str) -> Any:
    """Read a YAML file.

    Args:
        path: of the file.
        advice: what to do if it is missing.

    Raises:
        ParameterError: it is missing, or no YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"{path} does not exist; {advice}.") from None
    except IsADirectoryError:
        raise ParameterError(f"{path} is a folder; name a parameter file in it.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None


def _find(below: object, above: Path) -> tuple[Path, str, str]:
    """Path and name of the layer that a file extends, and what to do if it is missing."""
    if not isinstance(below, str):
        raise ParameterError(f"{above}: {EXTENDS} must name one file, or {BASE} for the packaged defaults.")
    if below in _PACKAGED:
        return _PACKAGED[below], below, "install clflow again"
    path = above.parent / Path(below).expanduser()
    near = did_you_mean(below, _PACKAGED) if not path.suffix else ""
    return path, str(path), f"{above} extends it{near or f'; name a file, or {BASE} for the packaged defaults'}"


def _merge(
    values: Tree, index: int, into: Tree, origins: dict[Place, int], schema: type[Section], place: Place = ()
) -> None:
    for key, value in values.items():
        here = (*place, str(key))
        if isinstance(value, dict) and isinstance(into.get(key), dict) and section_at(schema, here) is not None:
            _merge(value, index, into[key], origins, schema, here)
        else:
            for replaced in [at for at in origins if at[: len(here)] == here]:
                del origins[replaced]
            into[key] = copy.deepcopy(value)
            origins.update(dict.fromkeys(leaves(value, here), index))


def leaves(value: object, place: Place = ()) -> Iterator[Place]:
    """Places of the values in a tree, in its order; an empty mapping is a value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*place, str(key)))
    else:
        yield place


def _mappings(value: object) -> list[Tree]:
    return [inner for inner in value.values() if isinstance(inner, dict)] if isinstance(value, dict) else []
