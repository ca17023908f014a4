"""The tiny dataset of the contract tests, and parameters of a benchmark that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from clflow import plugins, provenance
from clflow.config.params import effective
from clflow.testing.images import CATEGORIES, PARAMETERS, SIZE, TEST, TRAIN, normal_image, write_dataset

__all__ = ["CATEGORIES", "ROOT", "SIZE", "TEST", "TRAIN", "normal_image", "write_dataset"]

ROOT = Path(__file__).parents[1]


def forget_code() -> None:
    """Let `code_of` read modules anew, and plug-ins be looked for anew, as a new process does."""
    provenance.code_of.cache_clear()
    plugins.installed.cache_clear()


def params_tree(source: Path, **changes: Any) -> dict[str, Any]:
    """The demo's parameters on the tiny dataset with a tiny budget; ``section__key=value`` changes one more."""
    tree = effective(ROOT / "pipelines" / "demo.yaml").tree
    tree["benchmark"] = {"name": "tiny", "datasets": ["folder"], "methods": ["clflow", "fastflow"], "seeds": [0]}
    tree["data"] = {"folder": {"source": str(source), "categories": list(CATEGORIES)}}
    for section, values in PARAMETERS.items():
        tree[section] |= values
    for name, value in changes.items():
        section, key = name.split("__")
        tree[section][key] = value
    return tree


def write_params(path: Path, tree: dict[str, Any]) -> Path:
    """Write a parameter file."""
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(tree, file)
    return path
