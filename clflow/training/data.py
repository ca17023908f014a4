"""What a cell is trained on: cached features of normal training images and of synthetic anomalies.

Built from the rows it is given; test rows are refused, so nothing downstream of here can reach a test image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from clflow.data.images import read_mask
from clflow.data.manifest import data_hash, split_normals
from clflow.errors import DataError
from clflow.features.cache import FeatureCache
from clflow.files import read_json

if TYPE_CHECKING:
    from clflow.config.params import Params


_SEEN = 8  # positions from which an anomaly is still seen by the coarse levels


@dataclass(frozen=True)
class FitData:
    """Features of one category, and the surrogate annotations of its synthetic anomalies.

    Features are float16, one row per image; for a feature grid (N, h, w, C).

    Attributes:
        normal: n normal training images.
        synthetic: m synthetic anomalous training images.
        original: (m,) index in ``normal`` of the image each synthetic one was made from.
        coverage: (m, h, w) share of each position's area that the anomaly covers.
        boxes: (m, 4) x0, y0, x1, y1 of the surrogate box in positions, half-open.
        held_out_normal: normal images kept from training, for validation and thresholds.
        held_out_synthetic: synthetic anomalies made from the held-out ones.
        held_out_coverage: (j, h, w) share of each position's area that they cover.
    """

    normal: np.ndarray
    synthetic: np.ndarray
    original: np.ndarray
    coverage: np.ndarray
    boxes: np.ndarray
    held_out_normal: np.ndarray
    held_out_synthetic: np.ndarray
    held_out_coverage: np.ndarray

    def anomalous_positions(self) -> list[np.ndarray]:
        """Positions of each synthetic anomaly, flat."""
        return [np.flatnonzero(_anomalous(coverage)) for coverage in self.coverage]

    def near_anomaly_positions(self) -> list[np.ndarray]:
        """Positions of each synthetic image that its anomaly does not touch but their features may see, flat."""
        return [np.flatnonzero(_near_anomaly(coverage)) for coverage in self.coverage]

    def held_out_masks(self) -> np.ndarray:
        """Bool (k + j, h, w): where the held-out normal images and after them the anomalous ones are anomalous."""
        anomalous = np.stack([_anomalous(coverage) for coverage in self.held_out_coverage])
        return np.concatenate([np.zeros((len(self.held_out_normal), *anomalous.shape[1:]), bool), anomalous])


@dataclass(frozen=True)
class CategoryFiles:
    """What a category is trained on, as files.

    Attributes:
        rows: its normal training images.
        data: the dataset's folder, which the rows' paths are relative to.
        synthetic: its folder of synthetic anomalies.
    """

    rows: pd.DataFrame
    data: Path
    synthetic: Path


def load_fit_data(files: CategoryFiles, params: Params, cache: FeatureCache) -> FitData:
    """Assemble the training data of one category.

    Args:
        files: of the category.
        params: its parameters.
        cache: of the features that the method sees.

    Raises:
        DataError: a row is not a normal training image, or the synthetic anomalies do not belong to these rows.
    """
    rows, data, synthetic = files.rows, files.data, files.synthetic
    if set(rows["split"]) != {"train"} or set(rows["label"]) != {0}:
        raise DataError("only normal training images may reach training; the sample table mixes others in.")
    size = params.protocol.image_size
    train, held_out = split_normals(rows, params.protocol.holdout)
    normal, held_out_normal = (
        cache.get(data_hash(part), [data / path for path in part["path"]], size) for part in (train, held_out)
    )
    index = pd.read_csv(synthetic / "index.csv")
    content = read_json(synthetic / "synthesis.json")["content_sha256"]
    made, made_held_out = (index.loc[index["split"] == split] for split in ("train", "holdout"))
    place = {path: i for i, path in enumerate(train["path"])}
    if not set(made["original"]) <= place.keys():
        raise DataError(f"{synthetic} was made from other images than the sample table lists; synthesize it again.")
    h = w = size // cache.features.grid

    def covered(rows: pd.DataFrame) -> np.ndarray:
        return np.stack([_coverage(synthetic / mask, size, h, w) for mask in rows["mask"]])

    return FitData(
        normal=normal,
        synthetic=cache.get([content, "train"], [synthetic / image for image in made["image"]], size),
        original=np.array([place[path] for path in made["original"]], dtype=np.int64),
        coverage=covered(made),
        boxes=np.stack([_grid_box(box, size, h, w) for box in made.loc[:, ["x0", "y0", "x1", "y1"]].to_numpy()]),
        held_out_normal=held_out_normal,
        held_out_synthetic=cache.get(
            [content, "holdout"], [synthetic / image for image in made_held_out["image"]], size
        ),
        held_out_coverage=covered(made_held_out),
    )


def _anomalous(coverage_hw: np.ndarray) -> np.ndarray:
    """Positions that are anomalous for the most part; a defect smaller than that has the one it covers most."""
    return coverage_hw >= min(0.5, coverage_hw.max())


def _near_anomaly(coverage_hw: np.ndarray) -> np.ndarray:
    """Positions so near an anomaly that they see it, but no part of it; where it reaches all, what it covers least."""
    untouched = coverage_hw == coverage_hw.min()
    distance: Any = ndimage.distance_transform_edt(untouched)
    return untouched & (distance <= _SEEN)


def _coverage(path: Path, size: int, h: int, w: int) -> np.ndarray:
    mask = torch.from_numpy(read_mask(path, size, threshold=0.5)).to(torch.float32)
    return torch.nn.functional.adaptive_avg_pool2d(mask[None], (h, w))[0].numpy()


def _grid_box(box: np.ndarray, size: int, h: int, w: int) -> np.ndarray:
    """A pixel box in positions, rounded outwards, so that it holds at least one."""
    scale = np.array([w, h, w, h]) / size
    return np.concatenate([np.floor(box[:2] * scale[:2]), np.ceil(box[2:] * scale[2:])]).astype(np.int64)
