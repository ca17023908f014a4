"""Tiny pictures of objects and surfaces, and a dataset made of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from clflow.config import params as parameters
from clflow.config.params import Params

SIZE = 64
ROOT = Path(__file__).parents[3]


def draw_object(seed: int, size: int = SIZE, ground: int = 200) -> np.ndarray:
    """A dark, striped bar with a soft shadow, turned at random, on a light ground; uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    bar = (np.abs(along) < 0.7) & (np.abs(across) < 0.25)
    shadow = cv2.GaussianBlur(np.roll(bar, size // 20, axis=0).astype(np.float32), (0, 0), size / 20)
    picture = np.repeat((ground - 25 * shadow + 5 * x)[..., None], 3, axis=2)
    picture[bar] = np.stack([80 + 30 * np.sin(along * 40), 70 + 20 * np.sin(along * 40), 60 + 60 * across], -1)[bar]
    return np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


def object_area(seed: int, size: int = SIZE) -> np.ndarray:
    """Where `draw_object` puts the bar, bool (size, size)."""
    turn = np.random.default_rng(seed).uniform(0, np.pi)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (np.abs(along) < 0.7) & (np.abs(across) < 0.25)


def draw_surface(seed: int, size: int = SIZE) -> np.ndarray:
    """A weave without a middle or a border; uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size)) + rng.uniform(0, 20, (2, 1, 1))
    weave = np.sin(x / 2.5) * np.sin(y / 2.5)
    picture = np.stack([130 + 70 * weave, 120 + 60 * weave, 90 + 40 * weave], axis=-1)
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def make_params(**synthesis: Any) -> Params:
    """The parameters of params.yaml at `SIZE` pixels, with some of the synthesis section replaced."""
    tree = parameters.load(ROOT / "params.yaml").model_dump(mode="json")
    tree["protocol"] |= {"image_size": SIZE, "map_size": SIZE, "holdout": 0.25}
    tree["synthesis"] |= {"count": 6, "held_out": 3, "area": [0.005, 0.08], **synthesis}
    return Params.model_validate_json(json.dumps(tree))


def only(name: str, kind: str) -> dict[str, float]:
    """Frequencies of "shapes" or "sources" that allow one of them."""
    known = make_params().synthesis.model_dump()[kind]
    return {key: float(key == name) for key in known}


def write_normals(data: Path, category: str, count: int, draw: Any = draw_object) -> pd.DataFrame:
    """Write normal training images to a dataset's folder; returns their manifest rows."""
    rows = []
    for number in range(count):
        path = f"{category}/train/good/{number:03}.png"
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(number)).save(data / path)
        digest = hashlib.sha256((data / path).read_bytes()).hexdigest()
        rows.append([category, "train", 0, "good", path, "", digest, ""])
    columns = ["category", "split", "label", "defect", "path", "mask", "sha256", "mask_sha256"]
    return pd.DataFrame(rows, columns=columns)
