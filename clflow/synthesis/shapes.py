"""Where a synthetic anomaly is: families of defect outlines, drawn at random on the foreground.

Each function ``draw(foreground, area, rng)`` takes the foreground, bool (H, W), the wanted area in pixels and a
generator, and returns the coverage of each pixel, float32 (H, W) in [0, 1], zero off the foreground. Most outlines
are filled (0 or 1, partial only at their edge); a stain is soft throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

Draw = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]

LINES = frozenset({"scratch", "crack"})
"""Shapes thinner than anything that could be seen inside them."""

_FINE = 4  # subdivisions of a pixel, for strokes thinner than one
_RIM = 0.012  # width of the foreground's rim, share of the side
_SHIFT = 6  # fractional bits of OpenCV's drawing coordinates


def blob(foreground: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth closed contour around a random place."""
    return _within(_blob(foreground.shape, _place(foreground, rng), area, rng, rough=0.25), foreground)


def misplaced(foreground: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A compact region, to be distorted; every third lies at an end of the object, where parts bend."""
    centre = _extremity(foreground, rng) if rng.random() < 1 / 3 else _place(foreground, rng)
    # What bends leaves the object, so this region alone may reach a little into the background.
    region = _blob(foreground.shape, centre, area, rng, rough=0.1)
    reach = max(2 * round(0.4 * np.sqrt(area)) + 1, 3)
    return _within(region, cv2.dilate(foreground.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0)


def missing(foreground: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A piece of the object, mostly bitten from its edge; it has corners, as breakage has."""
    edge = foreground & ~cv2.erode(foreground.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).astype(bool)
    at_edge = rng.random() < 0.7 and edge.any()
    centre = _pixel(edge, rng) if at_edge else _place(foreground, rng)
    wanted = area * 2 if at_edge else area  # about half of it falls off the object
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 9)))
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.6, 1.2, (len(angles), 1))
    corners *= np.sqrt(wanted / max(_polygon_area(corners), 0.5))
    return _within(_polygon(foreground.shape, centre + _jagged(corners, rng)), foreground)


def scratch(foreground: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A thin stroke, slightly curved, thinner towards its ends; sometimes with a parallel companion."""
    side = min(foreground.shape)
    width = _log_uniform(rng, 0.9, max(0.012 * side, 1.5))
    length = min(max(area / width, 5.0), 0.6 * side)
    width = area / length
    start, heading = _place(foreground, rng), rng.uniform(0, 2 * np.pi)
    steps = max(int(length / 2), 3)
    bend = rng.normal(0, 0.5) / steps
    headings = heading + bend * np.arange(steps) + np.cumsum(rng.normal(0, 0.02, steps))
    path = _walk(start, headings, length / steps)
    taper = np.sin(np.pi * np.linspace(0.08, 0.92, len(path))) ** 0.6
    widths = 1.2 * width * taper * (1 + 0.25 * _smooth(rng, len(path)))
    strokes = [(path, widths)]
    if rng.random() < 0.25:
        aside = np.array([-np.sin(heading), np.cos(heading)]) * rng.uniform(2, 4) * max(width, 1)
        part = slice(len(path) // 4, None)
        strokes.append((path[part] + aside, 0.6 * widths[part]))
    return _within(_strokes(foreground.shape, strokes, rng), foreground)


def crack(foreground: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A jagged random walk that branches and gets thinner."""
    side = min(foreground.shape)
    width = _log_uniform(rng, 0.8, max(0.008 * side, 1.2))
    length = min(max(area / width, 6.0), 1.2 * side)
    width = area / length
    stride = max(0.01 * side, 1.5)
    strokes = []
    pending = [(_place(foreground, rng), rng.uniform(0, 2 * np.pi), 0.7 * length, 1.3 * width)]
    while pending and len(strokes) < 6:
        start, heading, remaining, thickness = pending.pop(0)
        steps = max(int(remaining / stride), 3)
        headings = heading + np.cumsum(rng.normal(0, 0.3, steps)) + rng.normal(0, 0.35, steps)
        path = _walk(start, headings, remaining / steps)
        strokes.append((path, np.linspace(thickness, 0.5 * thickness, len(path))))
        for _ in range(rng.integers(0, 3)):
            fork = int(rng.integers(1, len(path) - 1))
            turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
            pending.append((path[fork], headings[fork] + turn, 0.35 * remaining, 0.7 * thickness))
    return _within(_strokes(foreground.shape, strokes, rng), foreground)


def stain(foreground: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A region with an irregular, soft edge and an uneven inside."""
    region = _blob(foreground.shape, _place(foreground, rng), area, rng, rough=0.35)
    radius = np.sqrt(area / np.pi)
    soft = cv2.GaussianBlur(region, (0, 0), max(0.3 * radius, 0.7))
    uneven = 1 + 0.4 * fractal_noise(foreground.shape, max(radius / 2, 2), rng)
    return _within(np.clip(1.4 * soft * uneven, 0, 1).astype(np.float32), foreground)


def spots(foreground: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A cluster of small round spots of unequal size."""
    count = int(rng.integers(3, 13))
    shares = rng.dirichlet(np.full(count, 2.0))
    spread = _log_uniform(rng, 1.2, 3.5) * np.sqrt(area / np.pi)
    centre = _place(foreground, rng)
    cluster = np.zeros(foreground.shape, np.float32)
    for share in shares:
        place = centre + rng.normal(0, spread, 2)
        cluster = np.maximum(cluster, _blob(foreground.shape, place, max(share * area, 3.0), rng, rough=0.08))
    return _within(cluster, foreground)


def perlin(foreground: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """The highest parts of fractal Perlin noise near a random place, as in DRAEM (arXiv 2108.07610) but local."""
    radius = np.sqrt(area / np.pi)
    noise = fractal_noise(foreground.shape, _log_uniform(rng, 0.6, 2.0) * radius + 2, rng)
    y, x = np.indices(foreground.shape, dtype=np.float32)
    centre = _place(foreground, rng)
    near = np.hypot(x - centre[0], y - centre[1]) / (3 * radius)
    height = np.where(foreground, noise - near**2, -np.inf)
    highest = np.partition(height.ravel(), -max(round(area), 1))[-max(round(area), 1)]
    return _within((height >= highest).astype(np.float32), foreground)


SHAPES: Mapping[str, Draw] = {
    "blob": blob,
    "scratch": scratch,
    "crack": crack,
    "missing": missing,
    "misplaced": misplaced,
    "stain": stain,
    "spots": spots,
    "perlin": perlin,
}


def fractal_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator, octaves: int = 3) -> np.ndarray:
    """Perlin's gradient noise, float32 (H, W), standard deviation about 0.5; the coarsest lattice is ``scale`` wide."""
    y, x = np.indices(shape[:2], dtype=np.float32)
    total = np.zeros(shape[:2], np.float32)
    for octave in range(octaves):
        total += _perlin(x * (2**octave / scale), y * (2**octave / scale), rng) / 2**octave
    return 1.5 * total


def _perlin(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    column, row = x.astype(np.int32), y.astype(np.int32)
    x, y = x - column, y - row
    angles = rng.uniform(0, 2 * np.pi, (row.max() + 2, column.max() + 2)).astype(np.float32)
    east, south = np.cos(angles), np.sin(angles)

    def corner(i: int, j: int) -> np.ndarray:
        at = row + i, column + j
        return east[at] * (x - j) + south[at] * (y - i)

    fade_x, fade_y = (t * t * t * (t * (t * 6 - 15) + 10) for t in (x, y))
    top = corner(0, 0) * (1 - fade_x) + corner(0, 1) * fade_x
    bottom = corner(1, 0) * (1 - fade_x) + corner(1, 1) * fade_x
    return top * (1 - fade_y) + bottom * fade_y


def _place(foreground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random pixel of the foreground, (x, y), clear of its edge: the foreground is a little too wide."""
    reach = 2 * max(round(_RIM * min(foreground.shape)), 1) + 1
    core = cv2.erode(foreground.astype(np.uint8), np.ones((reach, reach), np.uint8), borderValue=1)
    return _pixel(core if core.any() else foreground, rng)


def _pixel(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random pixel of the mask, (x, y)."""
    flat = np.flatnonzero(mask)
    y, x = divmod(int(flat[rng.integers(len(flat))]), mask.shape[1])
    return np.array([x, y], float)


def _extremity(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the pixels of the mask that lie farthest out in a random direction, (x, y)."""
    y, x = np.nonzero(mask)
    away = np.hypot(x - x.mean(), y - y.mean())
    angle = rng.uniform(0, 2 * np.pi)
    # Weighting by the distance prefers the tips of a long object over its flanks.
    farthest = np.argmax(away * ((x - x.mean()) * np.cos(angle) + (y - y.mean()) * np.sin(angle)))
    return np.array([x[farthest], y[farthest]], float)


def _blob(
    shape: tuple[int, ...], centre: np.ndarray, area: float, rng: np.random.Generator, rough: float
) -> np.ndarray:
    """An elongated closed contour whose radius is a random low-order Fourier series."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = np.ones_like(angle)
    for order in range(2, 7):
        radius += rng.normal(0, rough / (order - 1)) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.3, None)
    stretch, turn = _log_uniform(rng, 1.0, 2.2), rng.uniform(0, np.pi)
    outline = np.stack([radius * np.cos(angle) * stretch, radius * np.sin(angle)], axis=1)
    outline = outline @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return _polygon(shape, centre + outline * np.sqrt(area / _polygon_area(outline)))


def _polygon_area(corners: np.ndarray) -> float:
    x, y = corners.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def _jagged(corners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The polygon (n, 2) with the middles of its sides displaced, twice: (4n, 2)."""
    for _ in range(2):
        sides = np.roll(corners, -1, axis=0) - corners
        across = np.stack([-sides[:, 1], sides[:, 0]], axis=1)
        middles = corners + sides / 2 + across * rng.normal(0, 0.1, (len(corners), 1))
        corners = np.stack([corners, middles], axis=1).reshape(-1, 2)
    return corners


def _polygon(shape: tuple[int, ...], corners: np.ndarray) -> np.ndarray:
    canvas = np.zeros(shape[:2], np.uint8)
    points = np.rint(corners * 2**_SHIFT).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255, cv2.LINE_AA, _SHIFT)
    return canvas.astype(np.float32) / 255


def _strokes(
    shape: tuple[int, ...], strokes: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> np.ndarray:
    """Paths (n, 2) with their width at each point (n,), averaged down from a finer canvas, unevenly deep."""
    height, width = shape[:2]
    canvas = np.zeros((height * _FINE, width * _FINE), np.uint8)
    for path, widths in strokes:
        points = np.rint(path * _FINE).astype(int).tolist()
        thickness = np.clip(np.rint(widths * _FINE), 1, 100).astype(int).tolist()
        for begin, end, thick in zip(points[:-1], points[1:], thickness[:-1], strict=True):
            cv2.line(canvas, begin, end, 255, thick)
    lines = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    depth = np.clip(0.85 + 0.5 * fractal_noise(shape, max(0.03 * min(height, width), 3), rng), 0.3, 1)
    return lines * depth


def _walk(start: np.ndarray, headings: np.ndarray, stride: float) -> np.ndarray:
    steps = stride * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _smooth(rng: np.random.Generator, length: int) -> np.ndarray:
    return np.convolve(rng.uniform(-1, 1, length + 4), np.full(5, 0.2), "valid")


def _within(coverage: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    return np.where(foreground, coverage, 0).astype(np.float32)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
