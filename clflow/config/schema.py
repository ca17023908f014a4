"""The sections of parameters: frozen, strict and complete. Nothing has a default outside of parameter files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clflow.metrics import METRICS
from clflow.rates import RATES

Fraction = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def section_at(root: type[Section], place: Sequence[str | int]) -> type[Section] | None:
    """The section that is expected at a place, given as keys from the root; None where a value is, or nothing."""
    expected: Any = root
    for part in place:
        if _is_section(expected):
            field = expected.model_fields.get(part)
            expected = None if field is None else field.annotation
        else:  # a mapping, of which the last argument is the type of its values
            expected = next(reversed(get_args(expected)), None)
        optional = [kind for kind in get_args(expected) if _is_section(kind)]
        if type(None) in get_args(expected) and optional:
            (expected,) = optional
    return expected if _is_section(expected) else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


class Benchmark(Section):
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


class Dataset(Section):
    """One dataset; its name is the user's own.

    Attributes:
        layout: the entry of the catalogue that describes it, ``folder`` for own images; by default that of its name.
        source: the local archive or folder that it comes from; null downloads or renders it.
        categories: those to use.
    """

    layout: Name | None = None
    source: str | None
    categories: Annotated[tuple[Name, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_repeats(self) -> Self:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("categories lists a value twice")
        return self


class Protocol(Section):
    """What makes numbers comparable. Images are resized to a square of ``image_size`` pixels, never cropped."""

    image_size: Annotated[int, Field(ge=64, multiple_of=32)]
    map_size: Annotated[int, Field(ge=32)]
    mask_threshold: Fraction
    holdout: Annotated[float, Field(gt=0, le=0.5)]
    false_alarm_rate: Fraction


class Shapes(Section):
    """Relative frequency of each defect shape; zero switches one off."""

    blob: Weight
    scratch: Weight
    crack: Weight
    missing: Weight
    misplaced: Weight
    stain: Weight
    spots: Weight
    perlin: Weight


class Sources(Section):
    """Relative frequency of what fills a shape; zero switches one off."""

    shifted: Weight
    other_image: Weight
    photometric: Weight
    texture: Weight


class Synthesis(Section):
    """Synthetic anomalies per category: ``count`` of training images and ``held_out`` of held-out ones."""

    count: Count
    held_out: Count
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


class Model(Section):
    """Frozen backbone, the strides of its features that are used, the one whose grid they share, and the flows.

    Features are whitened, and the ``kept_axes`` that vary most are kept; then each position is whitened by its own
    covariance, of which ``layout_shrinkage`` is that of all positions (1: all alike), and more with fewer images than
    axes."""

    backbone: str
    weights: str
    strides: Annotated[tuple[Literal[4, 8, 16, 32], ...], Field(min_length=1)]
    grid: Literal[4, 8, 16, 32]
    pool: Annotated[int, Field(ge=1, le=9)]
    kept_axes: Annotated[int, Field(ge=2)]
    layout_shrinkage: Annotated[float, Field(gt=0, le=1)]
    coupling_steps: Count
    hidden_ratio: Annotated[float, Field(gt=0)]
    coupling: Literal["additive", "affine"]
    flows: Count
    top_fraction: Fraction

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.grid not in self.strides:
            raise ValueError(f"grid is stride {self.grid}, which is not among strides")
        if self.pool % 2 == 0:
            raise ValueError("pool is the side of a centred window, so it must be odd")
        return self


class Loss(Section):
    """The likelihood of normal positions, and weights of CL-Flow's terms beside it; zero switches one off.

    The share ``hardest`` of the likelihood is that of a step's least likely ``hardest_fraction`` of positions alone;
    ``near_anomaly_normals`` weighs that of normal positions near synthetic anomalies, whose features see them.
    Before the share ``start`` of the steps, only the likelihood is trained, so that the flow knows what is normal
    before it learns what is not."""

    hardest: Annotated[float, Field(ge=0, le=1)]
    hardest_fraction: Fraction
    contrast: Weight
    likelihood_margin: Weight
    proxy: Weight
    near_anomaly_normals: Weight
    start: Annotated[float, Field(ge=0, lt=1)]
    smoothing: Annotated[float, Field(gt=0, lt=1)]
    boundary_quantile: Fraction
    margin: Weight
    temperature: Annotated[float, Field(gt=0)]


class Train(Section):
    """The fixed budget and the optimiser. ``bfloat16`` computes the flow's subnetworks at that precision where the
    processor has it, which halves the cost there; weights, latents and all validation stay in single precision.
    ``keep_eval_weights`` keeps the flow's weights of every evaluation in the cell's folder, so that the leaderboard can
    say what the best of them on the test set would seem to gain over the last."""

    steps: Count
    positions: Count
    pairs: Count
    box_positions: Count
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)]
    weight_decay: Weight
    clip_norm: Annotated[float, Field(gt=0)]
    bfloat16: bool
    eval_points: Count
    keep_eval_weights: bool

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup >= self.steps:
            raise ValueError("warmup must be shorter than steps")
        if self.eval_points > self.steps:
            raise ValueError("eval_points cannot be more than steps")
        return self


class Resources(Section):
    """What one cell may use and how often it is tried. Of these, only ``workers_per_cell`` changes a result."""

    cluster: str
    storage: str | None
    workers_per_cell: Count
    cpus_per_worker: Count
    gpus_per_worker: Annotated[float, Field(ge=0)]
    attempts: Count
    feature_cache_gb: Annotated[float, Field(gt=0)]


class Tracking(Section):
    """The MLflow experiment. The server is chosen by MLFLOW_TRACKING_URI, else a local database."""

    experiment: Name


class Distribution(Section):
    """What a search draws one parameter from; exactly one of the keys is given.

    Attributes:
        uniform: [lowest, highest] of a real number.
        log_uniform: the same on a logarithmic scale.
        integer: [lowest, highest] of a whole number, both included.
        choice: the values.
    """

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[Annotated[float, Field(gt=0)], float] | None = None
    integer: tuple[int, int] | None = None
    choice: Annotated[tuple[bool | int | float | str, ...], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of uniform, log_uniform, integer, choice")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("a range is [lowest, highest]")
        return self

    @property
    def range(self) -> tuple[float, float] | None:
        """The ends of a range; None for a choice."""
        return self.uniform or self.log_uniform or self.integer

    def extremes(self) -> tuple[bool | int | float | str, ...]:
        """The ends of a range, or all choices."""
        return self.range or self.choice or ()

    def contains(self, value: Any) -> bool:
        """Whether a search may draw this value."""
        if self.range is None:
            return value in self.extremes()
        return self.range[0] <= value <= self.range[1]


class Tune(Section):
    """The search: what is drawn from where, how often, and when a trial is stopped early.

    A trial trains ``method`` on every category and seed and is judged by how well it tells held-out normals from
    synthetic anomalies, as images and by position. Successive halving (ASHA, arXiv 1810.05934) compares trials at
    their reports: from the ``grace``-th on, about one in ``reduction`` goes on. ``datasets`` are searched by the DVC
    stage.
    """

    datasets: tuple[Name, ...]
    method: Name
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    trials: Count
    timeout: Annotated[float, Field(gt=0)] | None
    grace: Count
    reduction: Annotated[int, Field(ge=2)]
    space: Annotated[dict[str, Distribution], Field(min_length=1)]


VALIDATION = ("validation", "validation_auroc", "validation_aupro")
"""Figures of held-out normal images and synthetic anomalies, at the end of a training; no test image is in them."""

FLOORS = (*METRICS, *VALIDATION)
CEILINGS = tuple(f"{rate}{bound}" for rate in RATES for bound in ("", "_upper"))


class Promotion(Section):
    """When a cell's model becomes champion of its category.

    It must reach every figure of ``floors``, metrics of the test set or of validation; exceed none of ``ceilings``,
    rates at the stored threshold or the upper bounds of their intervals; and stay within ``latency_ms`` per image. The
    lower ``confidence`` bound of its gain in image AUROC over the champion must lie above ``margin`` (negative: how
    much worse is still welcome). ``method`` and ``seed`` name the cell, so that no seed is picked by its test result;
    ``datasets`` are promoted by the DVC stage.
    """

    datasets: tuple[Name, ...]
    method: Name
    seed: Annotated[int, Field(ge=0)]
    floors: dict[str, Annotated[float, Field(ge=0, le=1)]]
    ceilings: dict[str, Annotated[float, Field(ge=0, le=1)]]
    latency_ms: Annotated[float, Field(gt=0)]
    margin: Annotated[float, Field(gt=-1, lt=1)]
    confidence: Fraction

    @model_validator(mode="after")
    def _figures(self) -> Self:
        for key, known in (("floors", FLOORS), ("ceilings", CEILINGS)):
            for figure in getattr(self, key):
                if figure not in known:
                    raise ValueError(f"{key} names {figure!r}; it may name {', '.join(known)}")
        return self


class Serving(Section):
    """The HTTP endpoint: replicas that score, dynamic batching, polling of the registry, limits of a request."""

    replicas: Count
    batch: Count
    wait_ms: Annotated[float, Field(ge=0)]
    poll_seconds: Annotated[float, Field(gt=0)]
    body_mb: Annotated[float, Field(gt=0)]
    megapixels: Annotated[float, Field(gt=0)]


class Watching(Section):
    """Drift: the last ``window`` images of a category are compared with good ones. The chance of any false alarm in
    ``looks`` calls together is ``alpha``."""

    window: Count
    alpha: Fraction
    looks: Count
