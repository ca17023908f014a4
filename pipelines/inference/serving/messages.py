"""What a scorer tells the gateway, which imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Answer:
    """The judgement of one image.

    Attributes:
        model, version: the registered model that judged.
        threshold: that was applied.
        batch: how many images were scored together with this one, itself included.
        heat_map: a PNG, if it was asked for.
    """

    model: str
    version: int
    score: float
    threshold: float
    anomalous: bool
    batch: int
    heat_map: bytes | None


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
