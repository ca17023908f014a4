"""Plates with dots, of which a defective one lacks one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clflow.data.catalogue import Counts, Entry

_SIDE, _PITCH = 64, 16  # pixels
_IMAGES = {"train/good": 12, "test/good": 4, "test/missing": 4}
_RADII = {"fine": 3, "coarse": 6}


def render(category: str, folder: Path) -> None:
    """Write the images of a category in the layout of MVTec AD; each time the same."""
    rng = np.random.default_rng([0, *category.encode()])
    for place, count in _IMAGES.items():
        for name in (f"{number:03}" for number in range(count)):
            missing = rng.integers(1, 3, 2) if place == "test/missing" else None
            plate, mask = _draw(_RADII[category], missing, rng)
            _save(plate, folder / place / f"{name}.png")
            if missing is not None:
                _save(mask, folder / "ground_truth" / "missing" / f"{name}_mask.png")


def _draw(radius: int, missing: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """RGB (h, w, 3) and mask (h, w), uint8."""
    y, x = np.mgrid[:_SIDE, :_SIDE]
    dots = (y % _PITCH - _PITCH / 2) ** 2 + (x % _PITCH - _PITCH / 2) ** 2 < radius**2
    lacks = np.zeros_like(dots)
    if missing is not None:
        lacks = dots & (y // _PITCH == missing[0]) & (x // _PITCH == missing[1])
    grey = np.where(dots & ~lacks, 60.0, 180.0)[..., None] + rng.normal(0, 4, (_SIDE, _SIDE, 3))
    return grey.clip(0, 255).astype(np.uint8), lacks.astype(np.uint8) * 255


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


DOTS = Entry(
    name="example-dots",
    title="Plates with dots, rendered by clflow-example",
    licence="CC0",
    licence_url="https://creativecommons.org/publicdomain/zero/1.0/",
    render=render,
    normal="good",
    counts=dict.fromkeys(_RADII, Counts(train=12, test_good=4, test_defective=4)),
)
