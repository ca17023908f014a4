"""What the gateway asks of a scorer, and what it is told. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, Field

from clflow.regions import Region


class Asked(BaseModel):
    """The query of a request: at which threshold of the image score the image is judged, and what the answer holds."""

    heat_map: bool = Field(False, alias="map", description="Add the heat map.")
    regions: bool = Field(False, description="Add the regions above the pixel threshold.")
    raw_map: bool = Field(False, description="Add the score map as numbers.")
    threshold: float | None = Field(None, allow_inf_nan=False, description="In place of the stored one.")
    false_alarm_rate: float | None = Field(
        None, gt=0, lt=1, description="Of normal images, which the threshold is to keep, in place of the stored one."
    )


@dataclass(frozen=True)
class Added:
    """What an answer holds if it was asked for.

    Attributes:
        heat_map: a PNG.
        regions: above the pixel threshold, in pixels of the image.
        raw_map: the score map (h, w), float32, in NumPy's format.
    """

    heat_map: bytes | None = None
    regions: tuple[Region, ...] | None = None
    raw_map: bytes | None = None


@dataclass(frozen=True)
class Answer:
    """The judgement of one image.

    Attributes:
        model, version: the registered model that judged.
        threshold: that was applied.
        pixel_threshold: of the score map.
        batch: how many images were scored together with this one, itself included.
        added: what was asked for beside that.
    """

    model: str
    version: int
    score: float
    threshold: float
    anomalous: bool
    pixel_threshold: float
    batch: int
    added: Added


@dataclass(frozen=True)
class Refusal:
    """Why there is no answer: an HTTP status and a sentence."""

    status: int
    detail: str


@dataclass(frozen=True)
class State:
    """What a scorer holds for one category.

    Attributes:
        model: name of the registered model.
        version, since: of the champion that is loaded, if any, and when it was.
        problem: why the registry's champion is not the one that is loaded, if it is not.
    """

    model: str
    version: int | None
    since: datetime | None
    problem: str | None
