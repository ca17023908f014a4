"""The schema of ``params.yaml``: frozen, strict and complete. Nothing has a default outside the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from clflow.errors import ParameterError

Fraction = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Benchmark(_Section):
    """Which cells are asked for: datasets x their categories x methods x seeds."""

    name: Name
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    methods: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_repeats(self) -> Self:
        for key in ("datasets", "methods", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} lists a value twice")
        return self


class Dataset(_Section):
    """Categories of one dataset and, if it is not to be downloaded, the local archive or folder it comes from."""

    source: str | None
    categories: Annotated[tuple[Name, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_repeats(self) -> Self:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("categories lists a value twice")
        return self


class Protocol(_Section):
    """What makes numbers comparable. Images are squashed to a square of ``image_size`` pixels, never cropped."""

    image_size: Annotated[int, Field(ge=64, multiple_of=32)]
    map_size: Annotated[int, Field(ge=32)]
    mask_threshold: Fraction
    holdout: Annotated[float, Field(gt=0, le=0.5)]
    threshold_quantile: Fraction


class Shapes(_Section):
    """Relative frequency of each defect shape; zero switches one off."""

    blob: Weight
    scratch: Weight
    crack: Weight
    missing: Weight
    misplaced: Weight
    stain: Weight
    spots: Weight
    perlin: Weight


class Sources(_Section):
    """Relative frequency of what fills a shape; zero switches one off."""

    shifted: Weight
    other_image: Weight
    photometric: Weight
    texture: Weight


class Synthesis(_Section):
    """Synthetic anomalies: ``count`` training images per category and as large a share of held-out ones."""

    count: Count
    seed: Annotated[int, Field(ge=0)]
    textures: str | None
    shapes: Shapes
    sources: Sources
    opacity: tuple[Fraction, Annotated[float, Field(gt=0, le=1)]]
    area: tuple[Fraction, Fraction]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.opacity[0] > self.opacity[1] or self.area[0] > self.area[1]:
            raise ValueError("opacity and area are [lowest, highest]")
        if not any(self.shapes.model_dump().values()):
            raise ValueError("shapes are all zero, so nothing can be drawn")
        sources = self.sources.model_dump()
        if self.textures is None and self.sources.texture > 0:
            raise ValueError("sources.texture is above zero but textures names no folder")
        if not any(sources.values()):
            raise ValueError("sources are all zero, so no shape can be filled")
        return self


class Model(_Section):
    """Frozen backbone, the strides of its features that are used, and the flow on them."""

    backbone: str
    weights: str
    strides: Annotated[tuple[Literal[4, 8, 16, 32], ...], Field(min_length=1)]
    pool: Annotated[int, Field(ge=1, le=9)]
    coupling_steps: Count
    hidden_ratio: Annotated[float, Field(gt=0)]
    clamp: Annotated[float, Field(gt=0)]
    top_fraction: Fraction

    @model_validator(mode="after")
    def _odd_pool(self) -> Self:
        if self.pool % 2 == 0:
            raise ValueError("pool is the side of a centred window, so it must be odd")
        return self


class Loss(_Section):
    """Weights of CL-Flow's terms beside the likelihood; zero switches one off. Before the share ``start`` of the
    steps, only the likelihood is trained, so that the flow knows what is normal before it learns what is not."""

    contrast: Weight
    proxy: Weight
    start: Annotated[float, Field(ge=0, lt=1)]
    smoothing: Annotated[float, Field(gt=0, lt=1)]
    boundary_quantile: Fraction
    temperature: Annotated[float, Field(gt=0)]


class Train(_Section):
    """The fixed budget and the optimiser."""

    steps: Count
    positions: Count
    pairs: Count
    box_positions: Count
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)]
    weight_decay: Weight
    clip_norm: Annotated[float, Field(gt=0)]
    reports: Count

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup >= self.steps:
            raise ValueError("warmup must be shorter than steps")
        if self.reports > self.steps:
            raise ValueError("reports cannot be more than steps")
        return self


class Resources(_Section):
    """What one cell may use and how often it is tried. None of this changes a result."""

    cluster: str
    storage: str | None
    workers_per_cell: Count
    cpus_per_worker: Count
    gpus_per_worker: Annotated[float, Field(ge=0)]
    attempts: Count
    feature_cache_gb: Annotated[float, Field(gt=0)]


class Tracking(_Section):
    """The MLflow experiment. The server is chosen by MLFLOW_TRACKING_URI, else a local database."""

    experiment: Name


class Override(_Section):
    """Sections that one category may set differently; checked after merging, so any subset of keys will do."""

    model: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    train: dict[str, Any] = {}
    synthesis: dict[str, Any] = {}


class Params(_Section):
    """All of ``params.yaml``."""

    benchmark: Benchmark
    data: dict[Name, Dataset]
    protocol: Protocol
    synthesis: Synthesis
    model: Model
    loss: Loss
    train: Train
    overrides: dict[str, Override]
    resources: Resources
    tracking: Tracking

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for dataset in self.benchmark.datasets:
            if dataset not in self.data:
                raise ValueError(f"benchmark.datasets names {dataset!r}, which data does not describe")
        known = {f"{name}/{c}" for name, dataset in self.data.items() for c in dataset.categories}
        for key in self.overrides:
            if key not in known:
                raise ValueError(f"overrides names {key!r}, which is no dataset/category of data")
        return self

    def for_category(self, dataset: str, category: str) -> Params:
        """These parameters with the overrides of one category merged in."""
        override = self.overrides.get(f"{dataset}/{category}")
        if override is None:
            return self
        tree = self.model_dump(mode="json")
        for section, values in override.model_dump().items():
            _merge(tree[section], values)
        return _validate(tree, f"overrides.{dataset}/{category}")


def load(path: Path) -> Params:
    """Read and check a parameter file.

    Raises:
        ParameterError: the file is missing, is not YAML, or a key is unknown, missing, of the wrong type or
            impossible; the sentence names the key.
    """
    try:
        tree = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"{path} does not exist; run where params.yaml lies or name the file.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    params = _validate(tree, str(path))
    for key in params.overrides:
        params.for_category(*key.split("/", 1))
    return params


def _validate(tree: object, where: str) -> Params:
    try:
        # Through JSON because strict mode then still takes a list for a tuple, and nothing else for anything.
        return Params.model_validate_json(json.dumps(tree))
    except (ValidationError, TypeError) as error:
        raise ParameterError(f"{where}: {_sentence(error)}") from None


def _sentence(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return f"a value is of a type that parameters cannot have ({error})."
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; remove it or correct its spelling.{more}"
    if first["type"] == "missing":
        return f"key {key!r} is missing; every parameter must be stated.{more}"
    return f"{key!r} is not valid: {first['msg'].removeprefix('Value error, ')} (got {first['input']!r}).{more}"


def _merge(tree: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value
