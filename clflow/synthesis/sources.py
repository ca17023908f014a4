"""Sources of synthetic anomalies: pictures, uint8 (H, W, 3), to be seen through a shape.

`shifted`, `other_image`, `photometric` and `texture` are the sources a parameter file can weigh. Two shapes bring
their own: what is `missing` shows the ground behind it or its surroundings; what is `misplaced` is a local distortion.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_TRIALS = 6  # places tried for a patch that lies on the object


@dataclass(frozen=True)
class Normal:
    """A normal image, uint8 (H, W, 3), and its foreground, bool (H, W)."""

    image: np.ndarray
    foreground: np.ndarray


def shifted(normal: Normal, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another part of the same image, turned, mirrored and slightly scaled, laid under the shape."""
    return _transplant(normal, shape, rng)


def other_image(other: Normal, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part of another normal image, likewise."""
    return _transplant(other, shape, rng)


def texture(photograph: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random cut of a texture photograph, turned, scaled and with changed light and colour."""
    height, width = shape.shape
    zoom = max(height / photograph.shape[0], width / photograph.shape[1]) * rng.uniform(0.6, 2.0)
    centre = rng.uniform(0.2, 0.8, 2) * photograph.shape[1::-1]
    matrix = _similarity(centre, np.array([width / 2, height / 2]), rng.uniform(0, 360), zoom, mirror=False)
    cut = cv2.warpAffine(photograph, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
    gain, bias = rng.uniform(0.6, 1.4), rng.uniform(-40, 40, 3)
    return _to_uint8(cut * gain + bias)


def photometric(image: np.ndarray, coverage: np.ndarray, shape: str, rng: np.random.Generator) -> np.ndarray:
    """The same material in another tone, colour, sharpness or roughness, or with a relief.

    Args:
        image: uint8 (H, W, 3).
        coverage: of the shape, float32 (H, W).
        shape: its name. Lines are too thin for more than tone and relief; a stain tints or dulls what it covers.
        rng: source of randomness.
    """
    changes = _CHANGES.get(shape, _ALL_CHANGES)
    picture = image.astype(np.float32)
    for _ in range(1 + (rng.random() < 0.4)):
        picture = changes[rng.integers(len(changes))](picture, coverage, rng)
    return _to_uint8(picture)


def background(normal: Normal, rng: np.random.Generator) -> np.ndarray:
    """The image without its object: the ground continued below it, with the ground's grain.

    The foreground must leave some ground free.
    """
    image, height, width = normal.image, *normal.foreground.shape
    small = (max(width // 4, 8), max(height // 4, 8))
    covered = cv2.dilate(normal.foreground.astype(np.uint8), np.ones((5, 5), np.uint8))
    hidden = (cv2.resize(covered, small, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    closed = cv2.inpaint(reduced, hidden, 3, cv2.INPAINT_TELEA)
    closed = np.where(hidden[..., None] > 0, cv2.GaussianBlur(closed, (0, 0), 1), closed)  # inpainting leaves streaks
    ground = cv2.resize(closed, (width, height))
    free = covered == 0
    grain = (image.astype(np.float32) - cv2.GaussianBlur(image, (0, 0), 2))[free].std() if free.any() else 0.0
    return _to_uint8(ground + rng.normal(0, min(grain, 6.0), (height, width, 1)))


def inpainted(image: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """The image with the shape closed from what lies around it."""
    hidden = cv2.dilate((shape > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    if hidden.all():
        return image
    return cv2.inpaint(image, hidden, 3, cv2.INPAINT_TELEA)


def warped(image: np.ndarray, shape: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The image with the shape's inside pushed aside, swirled or swollen; nothing moves at the shape's edge.

    Args:
        image: uint8 (H, W, 3).
        shape: coverage, float32 (H, W).
        strength: 1 displaces as far as is possible without folding.
        rng: source of randomness.
    """
    y, x = np.indices(shape.shape, dtype=np.float32)
    inside = (shape > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_REPLICATE), cv2.DIST_L2, 5)[
        1:-1, 1:-1
    ]
    radius = max(float(depth.max()), 1.0)
    fall = np.clip(depth / radius, 0, 1)
    fall = fall * fall * (3 - 2 * fall)
    weight = float(fall.sum()) + 1e-6
    dx, dy = x - float((fall * x).sum()) / weight, y - float((fall * y).sum()) / weight
    kind = rng.integers(4)
    if kind <= 1:
        angle = rng.uniform(0, 2 * np.pi)
        move = fall * strength * 0.6 * radius
        map_x, map_y = x - move * np.cos(angle), y - move * np.sin(angle)
    elif kind == 2:
        turn = fall * strength * rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
        map_x = x + dx * (np.cos(turn) - 1) - dy * np.sin(turn)
        map_y = y + dx * np.sin(turn) + dy * (np.cos(turn) - 1)
    else:
        scale = fall * strength * rng.choice([-0.5, 0.4])
        map_x, map_y = x + dx * scale, y + dy * scale
    return cv2.remap(
        image, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def _transplant(donor: Normal, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = shape.shape
    y, x = np.nonzero(shape > 0)
    target = np.array([x.mean(), y.mean()])
    best, best_share = None, -1.0
    flat = np.flatnonzero(donor.foreground)
    for _ in range(_TRIALS):
        row, column = divmod(int(flat[rng.integers(len(flat))]), width)
        matrix = _similarity(
            np.array([column, row]), target, rng.uniform(0, 360), rng.uniform(0.8, 1.25), bool(rng.random() < 0.5)
        )
        back = cv2.invertAffineTransform(matrix)
        columns = np.rint(back[0, 0] * x + back[0, 1] * y + back[0, 2]).astype(int)
        rows = np.rint(back[1, 0] * x + back[1, 1] * y + back[1, 2]).astype(int)
        known = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        share = donor.foreground[rows[known], columns[known]].sum() / len(x)
        if share > best_share:
            best, best_share = matrix, share
        if share > 0.98:
            break
    assert best is not None
    return cv2.warpAffine(donor.image, best, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _similarity(origin: np.ndarray, target: np.ndarray, degrees: float, scale: float, mirror: bool) -> np.ndarray:
    """The affine map (2, 3) that turns and scales about ``origin`` and moves it to ``target``."""
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    if mirror:
        linear = linear @ np.diag([-1.0, 1.0])
    return np.column_stack([linear, target - linear @ origin])


def _tone(picture: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Darker or brighter, with what is left of the material's own structure."""
    # Towards the side that has more room: dark material is mostly brightened, bright material darkened.
    brighter = rng.random() < np.clip(1.1 - _level(picture, shape) / 200, 0.15, 0.85)
    return _stepped(picture, shape, 1 if brighter else -1, rng)


def _gap(picture: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Darker, as an opening is, unless the material itself is almost black."""
    return _stepped(picture, shape, 1 if _level(picture, shape) < 60 else -1, rng)


def _stepped(picture: np.ndarray, shape: np.ndarray, sign: int, rng: np.random.Generator) -> np.ndarray:
    level = rng.uniform(0.0, 0.3) * _level(picture, shape) + sign * rng.uniform(30, 100)
    return np.clip(picture * rng.uniform(0.5, 1.0) + level, 0, 255)


def _level(picture: np.ndarray, shape: np.ndarray) -> float:
    return float(np.average(picture.mean(axis=2), weights=shape + 1e-9))


def _contrast(picture: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    inside = np.average(picture.reshape(-1, 3), axis=0, weights=shape.ravel() + 1e-9)
    factor = rng.choice([rng.uniform(0.0, 0.5), rng.uniform(1.6, 3.0)])
    return (picture - inside) * factor + inside + rng.uniform(-20, 20)


def _colour(picture: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tint, as of rust, oil, glue or paint; strong ones take over."""
    tint = cv2.cvtColor(
        np.array([[[rng.integers(180), rng.integers(60, 220), rng.integers(60, 240)]]], np.uint8), cv2.COLOR_HSV2RGB
    )[0, 0].astype(np.float32)
    share = rng.uniform(0.25, 0.8)
    return picture * (1 - share) + tint * share


def _blur(picture: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.008, 0.025) * min(shape.shape))


def _sharpen(picture: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return picture + rng.uniform(1.0, 2.5) * (picture - cv2.GaussianBlur(picture, (0, 0), 0.008 * min(shape.shape)))


def _roughen(picture: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grain = rng.normal(0, 1, (*shape.shape, 1)).astype(np.float32)
    soft = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.6, 1.5))[..., None]
    return picture + soft * (rng.uniform(10, 35) / max(float(soft.std()), 1e-6))


def _relief(picture: np.ndarray, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A dent or a bump under light from the side: one flank brighter, the other darker."""
    width = np.sqrt(max(float(shape.sum()), 1.0))
    height = cv2.GaussianBlur(shape, (0, 0), float(np.clip(0.12 * width, 0.7, 6)))
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.gradient(height)
    shade = slope[1] * np.cos(angle) + slope[0] * np.sin(angle)
    peak = float(np.abs(shade[shape > 0]).max(initial=1e-6))
    return picture + (rng.uniform(40, 110) / max(peak, 1e-6) * shade)[..., None]


_ALL_CHANGES = (_tone, _tone, _relief, _contrast, _colour, _blur, _sharpen, _roughen)
_CHANGES = {
    "scratch": (_tone, _tone, _relief),
    "crack": (_gap, _gap, _relief),
    "stain": (_tone, _tone, _colour, _contrast, _blur),
}


def _to_uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
