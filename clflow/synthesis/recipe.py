"""One synthetic anomaly: where (shape), what (source), how (blending), and the annotation that follows from it.

The families are those of DRAEM, CutPaste, NSA, MemSeg and RealNet; their mixture is ours, since the paper of
CL-Flow (arXiv 2311.06794) does not publish its synthesis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from clflow.errors import DataError
from clflow.synthesis import blending, sources
from clflow.synthesis.shapes import LINES, SHAPES
from clflow.synthesis.sources import Normal

if TYPE_CHECKING:
    from clflow.config.schema import Synthesis

_TRIES = 24
_SAME_SHAPE = 6  # tries after which another shape is drawn
_OF_FOREGROUND = 0.2  # no shape is asked to cover more than this share of the foreground
_TONAL = 0.7  # share of scratches, cracks and stains that show own material in another tone
_SEAMLESS = 0.5  # share of material of the category that is blended in the gradient domain, where that is possible


@dataclass(frozen=True)
class Synthetic:
    """A synthetic anomalous image with its surrogate annotations.

    Attributes:
        image: uint8 (H, W, 3).
        mask: bool (H, W), the pixels that changed noticeably; never empty.
        box: (x0, y0, x1, y1) in pixels, half-open and tight around the mask.
        shape: name of the shape, as in the parameters.
        source: what fills it: a source of the parameters, or background, inpainted or warped.
        blending: alpha, poisson or warp.
        opacity: share of the source in the mixture; the strength of a distortion.
    """

    image: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int]
    shape: str
    source: str
    blending: str
    opacity: float


def synthesize(
    image: np.ndarray,
    foreground: np.ndarray,
    others: Sequence[Normal],
    textures: Sequence[np.ndarray],
    params: Synthesis,
    rng: np.random.Generator,
) -> Synthetic:
    """Draw one synthetic anomaly on a normal image. Pure: the same arguments give the same result.

    What can hardly be seen is drawn anew, stronger with each try.

    Args:
        image: normal image, uint8 (H, W, 3).
        foreground: where an anomaly may lie, bool (H, W).
        others: other normal images of the category, of the same size; none switches the source off.
        textures: texture photographs, uint8 (h, w, 3); none switches the source off.
        params: frequencies and ranges.
        rng: source of randomness.

    Raises:
        DataError: nothing that these parameters allow can be seen on this image.
    """
    normal = Normal(image, foreground)
    stock = _stock(params, others, textures)
    least = max(params.area[0] * foreground.size / 2, 4)
    low, high = params.opacity
    shapes = params.shapes.model_dump()
    shape = _draw(shapes, rng)
    for attempt in range(_TRIES):
        if attempt >= _SAME_SHAPE:
            shape = _draw(shapes, rng)
        opacity = float(rng.uniform(low + (high - low) * attempt / (_TRIES - 1), high))
        if shape == "missing":  # a piece is there or it is not: half of one would look like a ghost
            opacity = high
        coverage = SHAPES[shape](foreground, _area(foreground, params.area, rng), rng)
        if coverage.sum() < least:
            continue
        filled = _fill(normal, stock, shape, coverage, opacity, rng)
        mask = blending.changed(image, filled.image, coverage > 0)
        if mask.sum() >= least:
            clean = blending.undo_outside(image, filled.image, mask)
            return Synthetic(clean, mask, _box(mask), shape, filled.source, filled.blending, round(opacity, 3))
    raise DataError("No visible anomaly could be drawn; raise synthesis.opacity or allow more shapes and sources.")


class _Stock(NamedTuple):
    """What sources can draw from, and how often each is drawn."""

    weights: dict[str, float]
    others: Sequence[Normal]
    textures: Sequence[np.ndarray]


def _stock(params: Synthesis, others: Sequence[Normal], textures: Sequence[np.ndarray]) -> _Stock:
    weights = params.sources.model_dump()
    for name, stock in (("other_image", others), ("texture", textures)):
        if not len(stock):
            weights[name] = 0.0
    if not any(weights.values()):
        raise DataError("No source can fill an anomaly; give a second normal image or switch on sources.shifted.")
    return _Stock(weights, others, textures)


class _Filled(NamedTuple):
    image: np.ndarray
    source: str
    blending: str


def _fill(
    normal: Normal, stock: _Stock, shape: str, coverage: np.ndarray, opacity: float, rng: np.random.Generator
) -> _Filled:
    image, foreground = normal.image, normal.foreground
    if shape == "misplaced":
        return _Filled(sources.warped(image, coverage, opacity, rng), "warped", "warp")
    sigma = float(rng.uniform(0.4, 0.6) if shape in LINES else rng.uniform(0.5, 1.6)) * min(foreground.shape) / 256
    soft = coverage if shape == "stain" else blending.feather(coverage, sigma, foreground)
    if shape == "missing":
        if _open_to_ground(coverage, foreground):
            source, picture = "background", sources.background(normal, rng)
        else:
            source, picture = "inpainted", sources.inpainted(image, coverage)
        return _Filled(blending.alpha(image, picture, soft, opacity), source, "alpha")

    source, picture = _picture(normal, stock, shape, coverage, rng)
    solid = shape not in LINES and shape != "spots"
    in_domain = source in ("shifted", "other_image")
    if in_domain and solid and _inside(coverage, foreground) and rng.random() < _SEAMLESS:
        return _Filled(blending.poisson(image, picture, coverage, opacity), source, "poisson")
    return _Filled(blending.alpha(image, picture, soft, opacity), source, "alpha")


def _picture(
    normal: Normal, stock: _Stock, shape: str, coverage: np.ndarray, rng: np.random.Generator
) -> tuple[str, np.ndarray]:
    """Name and content of a source drawn by its weight; on a grey image it is grey."""
    image = normal.image
    tonal = shape in LINES or shape == "stain"
    if tonal and stock.weights["photometric"] > 0 and rng.random() < _TONAL:
        source = "photometric"
    else:
        source = _draw(stock.weights, rng)
    if source == "photometric":
        picture = sources.photometric(image, coverage, shape, rng)
    elif source == "shifted":
        picture = sources.shifted(normal, coverage, rng)
    elif source == "other_image":
        picture = sources.other_image(stock.others[int(rng.integers(len(stock.others)))], coverage, rng)
    else:
        picture = sources.texture(stock.textures[int(rng.integers(len(stock.textures)))], coverage, rng)
    if (image == image[..., :1]).all():
        picture = np.repeat(picture.mean(axis=2, keepdims=True).round().astype(np.uint8), 3, axis=2)
    return source, picture


def _draw(weights: dict[str, float], rng: np.random.Generator) -> str:
    names = sorted(weights)
    frequency = np.array([weights[name] for name in names])
    return names[rng.choice(len(names), p=frequency / frequency.sum())]


def _area(foreground: np.ndarray, fractions: tuple[float, float], rng: np.random.Generator) -> float:
    """Pixels, log-uniform so that small anomalies are as frequent as large ones, limited on small objects."""
    area = foreground.size * float(np.exp(rng.uniform(*np.log(fractions))))
    return min(area, max(_OF_FOREGROUND * foreground.sum(), fractions[0] * foreground.size))


def _open_to_ground(coverage: np.ndarray, foreground: np.ndarray) -> bool:
    """Whether the shape reaches the edge of an object, so that the ground shows where it is missing."""
    return bool((_grown(coverage, 1) & ~foreground).any())


def _inside(coverage: np.ndarray, foreground: np.ndarray) -> bool:
    """Whether the shape lies well inside the foreground, so that no ground bleeds into a seamless blend."""
    return bool(foreground[_grown(coverage, 3)].mean() > 0.95)


def _grown(coverage: np.ndarray, reach: int) -> np.ndarray:
    side = 2 * reach + 1
    return cv2.dilate((coverage > 0.5).astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1
