"""Parameters as a whole: the sections, what is merged over them, and reading with errors that name file and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from clflow.config.layers import BASE, EXTENDS, Effective, Layer, Place, lay, packaged, read_layers, read_yaml
from clflow.config.schema import (
    Benchmark,
    Dataset,
    Loss,
    Model,
    Name,
    Promotion,
    Protocol,
    Resources,
    Section,
    Serving,
    Synthesis,
    Tracking,
    Train,
    Tune,
    Watching,
    section_at,
)
from clflow.config.spelling import did_you_mean
from clflow.errors import ParameterError

TUNED = "-tuned"
"""A method's name with this at its end is the method with the parameters that a search found."""

VARIANT = "."
"""What stands between a method's name and that of a variant: ``clflow.plain`` is clflow with ``variants.plain``."""

_SEARCHABLE = ("model", "loss", "train")

_RENAMED = {
    "loss.negatives": "loss.likelihood_margin",
    "loss.surroundings": "loss.near_anomaly_normals",
    "protocol.threshold_quantile": "protocol.false_alarm_rate",
    "train.reports": "train.eval_points",
    "train.keep_reports": "train.keep_eval_weights",
}


class Override(Section):
    """Sections that a category or a variant may set differently; checked after merging, so any keys will do."""

    model: dict[str, Any] = Field(default_factory=dict)
    loss: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    synthesis: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From keys as a search space has them, ``section.name``."""
        tree: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
        return cls.model_validate(tree)


class Tuned(Section):
    """What a search found, as `clflow tune` writes it: one configuration for all, and those of single categories.

    Attributes:
        search: how it was found; for people and provenance.
        parameters: merged over the sections of all categories.
        overrides: dataset/category to what is merged over its sections, on top.
    """

    search: dict[str, Any]
    parameters: Override
    overrides: dict[str, Override]


class Params(Section):
    """All parameters. In a file, ``tuned`` is null or the path of what a search found, relative to the file."""

    benchmark: Benchmark
    data: dict[Name, Dataset]
    protocol: Protocol
    synthesis: Synthesis
    model: Model
    loss: Loss
    train: Train
    overrides: dict[str, Override]
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")], Override]
    tuned: Tuned | None
    tune: Tune
    promotion: Promotion
    serving: Serving
    watching: Watching
    resources: Resources
    tracking: Tracking

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for dataset in self.benchmark.datasets:
            if dataset not in self.data:
                near = did_you_mean(dataset, self.data)
                raise ValueError(f"benchmark.datasets names {dataset!r}, which data does not describe{near}")
        known = {f"{name}/{c}" for name, dataset in self.data.items() for c in dataset.categories}
        for key in self.overrides:
            if key not in known:
                near = did_you_mean(key, known)
                raise ValueError(f"overrides names {key!r}, which is no dataset/category of data{near}")
        for method in self.benchmark.methods:
            variant = _variant(method)
            if variant and variant not in self.variants:
                raise ValueError(f"benchmark.methods names {method!r}, but variants does not describe {variant!r}")
            if method.endswith(TUNED) and self.tuned is None:
                raise ValueError(f"benchmark.methods names {method!r}, but tuned names no file to take it from")
        for name, section in (("tune", self.tune), ("promotion", self.promotion)):
            for dataset in section.datasets:
                if dataset not in self.data:
                    raise ValueError(f"{name}.datasets names {dataset!r}, which data does not describe")
        return self

    def for_category(self, dataset: str, category: str, method: str | None = None) -> Params:
        """These parameters with those of one category merged in: what was found by search, if ``method`` is one with
        tuned parameters (its name ends in `TUNED`), the variant that it names after `VARIANT`, and the overrides,
        which have the last word."""
        key = f"{dataset}/{category}"
        layers = []
        if self.tuned is not None and method is not None and method.endswith(TUNED):
            layers += [self.tuned.parameters, self.tuned.overrides.get(key)]
        if method is not None:
            layers.append(self.variants.get(_variant(method)))
        layers.append(self.overrides.get(key))
        return self.merged(*(layer for layer in layers if layer is not None), where=f"{key} (tuned or overrides)")

    def synthetic_set(self, category: str, method: str) -> str:
        """Name of the folder of synthetic anomalies that a method learns from: the category's own, unless the method
        is a variant with another synthesis."""
        variant = self.variants.get(_variant(method))
        return f"{category}{VARIANT}{_variant(method)}" if variant and variant.synthesis else category

    def value(self, name: str) -> Any:
        """The value of a parameter, ``section.key``, as JSON has it."""
        section, _, key = name.partition(".")
        return self.model_dump(mode="json", include={section: {key}})[section][key]

    def merged(self, *layers: Override, where: str) -> Params:
        """These parameters with layers merged over them, the last on top.

        Raises:
            ParameterError: what comes out is impossible; the sentence begins with ``where``.
        """
        if not layers:
            return self
        tree = self.model_dump(mode="json")
        for layer in layers:
            for section, values in layer.model_dump().items():
                _merge(tree[section], values)
        return _validate(tree, lambda place: where)

    def is_tuned_alone(self, dataset: str, category: str, method: str) -> bool:
        """Whether a category has parameters of its own, so that its numbers are not of the one configuration."""
        key = f"{dataset}/{category}"
        return key in self.overrides or (
            method.endswith(TUNED) and self.tuned is not None and key in self.tuned.overrides
        )


def load(path: Path) -> Params:
    """Read and check a parameter file and the files that it extends; see `check`."""
    return check(effective(path))


def effective(path: Path) -> Effective:
    """The parameters that a file and those that it extends state together, unchecked.

    Raises:
        ParameterError: a file is missing, is no YAML mapping, or extends itself.
    """
    return lay(read_layers(path), Params)


def check(found: Effective) -> Params:
    """Check parameters, and read what a search found, if they name it.

    Raises:
        ParameterError: a key is unknown, missing, of the wrong type or impossible; the sentence names file and key.
    """
    tree = found.tree
    if isinstance(tree.get("tuned"), str):
        advice = f"{found.origin(('tuned',))} names it under tuned; correct the path"
        tree = tree | {"tuned": read_yaml(Path(tree["tuned"]), advice)}
    params = _validate(tree, found.origin)
    for dataset, described in params.data.items():
        for category in described.categories:
            for method in params.benchmark.methods:
                params.for_category(dataset, category, method)
    _check_space(params, found.origin(("tune", "space")))
    return params


PART_DATASET, PART_CATEGORY = "own", "part"
"""What parameters call the images of a part that is given by its folder; the folder's name may be none for them."""


def part_layer(folder: Path, method: str, seed: int = 0) -> Layer:
    """What to run where it is one cell, of a part that is given by its folder, in the terms of parameters."""
    part = {"layout": "folder", "source": str(folder), "categories": [PART_CATEGORY]}
    tree = {
        "benchmark": {"name": PART_DATASET, "datasets": [PART_DATASET], "methods": [method], "seeds": [seed]},
        "data": {PART_DATASET: part},
        **{"overrides": {}, "tune": {"datasets": []}, "promotion": {"datasets": []}},  # they may name other datasets
    }
    return Layer(PART_DATASET, tree)


def part_defaults(folder: Path, method: str = "clflow") -> Params:
    """The defaults, for one part that is given by its folder."""
    return check(lay([packaged(BASE), part_layer(folder, method)], Params))


def base_method(name: str) -> str:
    """The method that a name with `TUNED` or a variant names."""
    return name.removesuffix(TUNED).partition(VARIANT)[0]


def _variant(method: str) -> str:
    return method.removesuffix(TUNED).partition(VARIANT)[2]


def _check_space(params: Params, where: str) -> None:
    """Every value that a search may draw must fit the schema."""
    tree = params.model_dump(mode="json")
    for key, distribution in params.tune.space.items():
        section, _, name = key.partition(".")
        if key in _RENAMED:
            raise ParameterError(f"{where}: tune.space names {key!r}, which is now {_RENAMED[key]!r}; rename it.")
        if section not in _SEARCHABLE or name not in tree[section]:
            raise ParameterError(f"{where}: tune.space names {key!r}, which is no parameter of model, loss or train.")
        if key == "train.eval_points":
            raise ParameterError(f"{where}: tune.space cannot hold {key!r}, for trials are compared at each of them.")
        for value in distribution.extremes():
            params.merged(Override.of({key: value}), where=f"{where}: tune.space.{key}")


def _validate(tree: object, where: Callable[[Place], str]) -> Params:
    """Check a tree of parameters; ``where`` says for an error what states the place that it is at."""
    try:
        # Through JSON because strict mode then still takes a list for a tuple, and nothing else for anything.
        return Params.model_validate_json(json.dumps(tree))
    except TypeError as error:
        raise ParameterError(f"{where(())}: a value is of a type that parameters cannot have ({error}).") from None
    except ValidationError as error:
        first = _first(error)
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        place = tuple(str(part) for part in first["loc"])
        raise ParameterError(f"{where(place)}: {_sentence(first)}{more}") from None


def _first(error: ValidationError) -> ErrorDetails:
    """What to tell of all errors: an unknown key, for its right name is what is missing elsewhere; else the first."""
    errors = error.errors()
    unknown = [each for each in errors if each["type"] == "extra_forbidden"]
    renamed = [each for each in unknown if _key(each["loc"]) in _RENAMED]
    return next(iter(renamed or unknown or errors))


def _sentence(error: ErrorDetails) -> str:
    place = error["loc"]
    key = _key(place)
    if key in _RENAMED:
        return f"key {key!r} is now {_RENAMED[key]!r}; rename it."
    if error["type"] == "extra_forbidden":
        name = str(place[-1])
        section = section_at(Params, place[:-1])
        known = [*section.model_fields] if section else []
        near = did_you_mean(name, known if len(place) > 1 else [*known, EXTENDS], key.removesuffix(name))
        return f"unknown key {key!r}{near or '; remove it or correct its spelling.'}"
    if error["type"] == "missing":
        return f"key {key!r} is missing; state it, or take the defaults with `{EXTENDS}: {BASE}`."
    reason = _reason(error)
    if isinstance(error["input"], dict):  # about several keys, which the reason names
        return f"{key}: {reason}." if key else f"{reason}."
    return f"{key!r} is not valid: {reason} (got {error['input']!r})."


_REASONS = {
    "bool_type": "it must be true or false",
    "dict_type": "it must be a mapping",
    "finite_number": "it must be a finite number",
    "float_type": "it must be a number",
    "greater_than": "it must be above {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "int_from_float": "it must be a whole number",
    "int_type": "it must be a whole number",
    "less_than": "it must be below {lt}",
    "less_than_equal": "it must be at most {le}",
    "literal_error": "it must be {expected}",
    "model_type": "it must be a section with keys of its own",
    "multiple_of": "it must be a multiple of {multiple_of}",
    "string_pattern_mismatch": "only letters, digits and _ are allowed, and in most names . and - behind the first",
    "string_type": "it must be text",
    "too_long": "it may list at most {max_length}",
    "too_short": "it must list at least {min_length}",
    "tuple_type": "it must be a list",
    "value_error": "{error}",
}
"""What is wrong, by pydantic's type of error; its own words speak of Python."""


def _reason(error: ErrorDetails) -> str:
    known = _REASONS.get(error["type"])
    return error["msg"] if known is None else known.format(**error.get("ctx", {}))


def _key(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place)


def _merge(tree: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value
