"""A training as a generator of evaluation points, and the place of a process among those that train one cell."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

Result = TypeVar("Result")
Save = Callable[[Path], None]
Report = Callable[[dict[str, float], Save], None]
Training = Generator[tuple[dict[str, float], Save], None, Result]
"""A training as a generator: at every evaluation it yields a point of the learning curves and a function that writes a
checkpoint to a folder. Its caller decides what to do with both, and can advance several trainings in step."""


@dataclass(frozen=True)
class Worker:
    """The place of this process among those that train one cell together.

    Attributes:
        rank: of this process; 0 validates and writes checkpoints.
        world: how many there are.
        device: where it computes.
        parallel: makes a module average its gradients over the processes; identity if there is one.
    """

    rank: int
    world: int
    device: torch.device
    parallel: Callable[[nn.Module], nn.Module]

    @classmethod
    def single(cls, device: torch.device) -> Worker:
        """The only process of a training."""
        return cls(0, 1, device, lambda module: module)


def run(training: Training[Result], report: Report) -> Result:
    """Run a training to its end, handing on every report; returns what it trained."""
    while True:
        try:
            report(*next(training))
        except StopIteration as end:
            return end.value
