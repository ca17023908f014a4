"""A tiny dataset on disk in the layout of MVTec AD, and parameters that train on it in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 64
CATEGORIES = ("disc", "stripes")
TRAIN, TEST = 12, 4

PARAMETERS: dict[str, dict[str, Any]] = {
    "protocol": {"image_size": SIZE, "map_size": SIZE, "holdout": 0.25},
    "synthesis": {"count": 6, "held_out": 3, "area": [0.005, 0.08]},
    "model": {"backbone": "tf_efficientnet_lite0", "weights": "offline", "coupling_steps": 2},
    "train": {
        "steps": 8,
        "warmup": 2,
        "positions": 64,
        "pairs": 4,
        "box_positions": 4,
        "eval_points": 2,
        "keep_eval_weights": True,
    },
    "resources": {"feature_cache_gb": 1},
}
"""What differs from the defaults."""


def normal_image(category: str, rng: np.random.Generator) -> np.ndarray:
    """One normal RGB image, uint8 (64, 64, 3)."""
    y, x = np.mgrid[:SIZE, :SIZE]
    if category == "disc":
        centre = 32 + rng.uniform(-2, 2, 2)
        grey = np.where((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 20**2, 70.0, 200.0)
    else:
        grey = 120 + 60 * np.sin(x / 3 + rng.uniform(0, 6))
    noisy = grey[..., None] + rng.normal(0, 4, (SIZE, SIZE, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def write_dataset(folder: Path) -> Path:
    """Write both categories below ``folder``; defects are bright squares, with masks."""
    for number, category in enumerate(CATEGORIES):
        rng = np.random.default_rng(number)
        root = folder / category
        for place, count in (("train/good", TRAIN), ("test/good", TEST), ("ground_truth/hole", 0), ("test/hole", TEST)):
            (root / place).mkdir(parents=True)
            for i in range(count):
                image = normal_image(category, rng)
                if place == "test/hole":
                    y, x = rng.integers(22, 34, 2)
                    image[y : y + 10, x : x + 10] = (250, 240, 30)
                    mask = np.zeros((SIZE, SIZE), np.uint8)
                    mask[y : y + 10, x : x + 10] = 255
                    Image.fromarray(mask).save(root / "ground_truth/hole" / f"{i:03}_mask.png")
                Image.fromarray(image).save(root / place / f"{i:03}.png")
    return folder
