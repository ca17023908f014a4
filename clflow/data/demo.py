"""The embedded demo: three rendered categories in the layout of MVTec AD, for use without a network.

A defect is a change to the scene (a thread is missing, a bore is off centre) and is drawn like everything
else. So the mask is where the image differs from the same scene without it, and no defect is painted on an
image, as the synthetic anomalies for training are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import cv2
import numpy as np
from PIL import Image

from clflow.data.catalogue import Counts, Entry
from clflow.files import folder_atomically

SEED = 0
SIZE = 256
TRAIN, TEST_GOOD, TEST_DEFECTIVE = 60, 16, 8
"""Images per category; the last one is per kind of defect."""

VISIBLE = 12
"""Grey levels by which a channel differs where a mask is set."""

_WIDE = 3 * SIZE // 2  # Scenes are drawn larger, then averaged down, for smooth edges.
_Y, _X = (axis.astype(np.float32) for axis in np.mgrid[:_WIDE, :_WIDE])
_NOISE = 1.6  # of the camera, in grey levels


class _Scene(Protocol):
    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self: ...

    def draw(self) -> np.ndarray:
        """RGB in [0, 1], float32 (_WIDE, _WIDE, 3)."""
        ...


_Damage = Callable[..., _Scene]
"""Takes a scene and a generator, returns the scene with a defect."""


def render(category: str, folder: Path, seed: int = SEED) -> None:
    """Write one category ("weave", "gear" or "bolt") to ``folder``; the same seed gives the same pixels."""
    scene, defects = _CATEGORIES[category]
    images: list[tuple[str, _Damage | None]] = [(f"train/good/{k:03}", None) for k in range(TRAIN)]
    images += [(f"test/good/{k:03}", None) for k in range(TEST_GOOD)]
    images += [(f"test/{name}/{k:03}", damage) for name, damage in defects.items() for k in range(TEST_DEFECTIVE)]
    streams = np.random.SeedSequence([seed, *category.encode()]).spawn(len(images))

    with folder_atomically(folder) as root, ThreadPoolExecutor() as pool:

        def make(image: tuple[str, _Damage | None], stream: np.random.SeedSequence) -> None:
            (name, damage), rng = image, np.random.default_rng(stream)
            intact = scene.sample(rng)
            if damage is None:
                _save(root / f"{name}.png", _photograph(intact.draw(), rng))
            else:
                before, after = intact.draw(), damage(intact, rng).draw()
                _save(root / f"{name}.png", _photograph(after, rng))
                mask = root / f"{name.replace('test', 'ground_truth', 1)}_mask.png"
                _save(mask, _difference(before, after))

        list(pool.map(make, images, streams))


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)  # noise hardly compresses anyway


def _shrink(scene: np.ndarray) -> np.ndarray:
    return cv2.resize(scene, (SIZE, SIZE), interpolation=cv2.INTER_AREA) * 255


def _photograph(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, _NOISE, (SIZE, SIZE, 3))
    return np.clip(np.rint(_shrink(scene) + noise), 0, 255).astype(np.uint8)


def _difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    changed = np.abs(_shrink(after) - _shrink(before)).max(axis=2) > VISIBLE
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    return cv2.morphologyEx(changed.astype(np.uint8) * 255, cv2.MORPH_CLOSE, disc)


def _smooth_noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Noise (_WIDE, _WIDE) that varies over ``rows`` x ``columns`` patches, standard deviation about 1."""
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return cv2.resize(grid, (_WIDE, _WIDE), interpolation=cv2.INTER_CUBIC)


def _step(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Coverage of a pixel by what lies at positive distances: 0 below -width/2, 1 above, linear between."""
    return np.clip(distance / width + 0.5, 0, 1)


def _mix(below: np.ndarray, above: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    return below + (above - below) * coverage[..., None]


def _rgb(*levels: int) -> np.ndarray:
    return np.array(levels, np.float32) / 255


# --- weave: a 2/2 twill of blue warp and pale weft ----------------------------------------------------------

_PITCH = 0.043 * _WIDE  # between threads
_THREADS = 32


@dataclass(frozen=True)
class _Weave:
    offset: tuple[float, float]
    angle: float
    light: float
    texture: int
    missing: tuple[int, float, float] | None = None  # weft thread, from x, to x
    slub: tuple[int, float, float, float] | None = None  # weft thread, x, thickness, length
    floating: tuple[int, int, int, int] | None = None  # warp threads from, to, over weft threads from, to

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        offset = rng.uniform(0, 4 * _PITCH, 2)
        return cls(
            (float(offset[0]), float(offset[1])),
            angle=float(rng.normal(0, 0.012)),
            light=float(rng.normal(1, 0.03)),
            texture=int(rng.integers(1 << 32)),
        )

    def draw(self) -> np.ndarray:
        rng = np.random.default_rng(self.texture)
        x = _X + self.angle * _Y + self.offset[0] + 0.16 * _PITCH * _smooth_noise(rng, 6, 6)
        y = _Y - self.angle * _X + self.offset[1] + 0.16 * _PITCH * _smooth_noise(rng, 6, 6)
        i, j = np.floor(x / _PITCH).astype(np.int32), np.floor(y / _PITCH).astype(np.int32)
        across_warp, across_weft = x / _PITCH - i - 0.5, y / _PITCH - j - 0.5

        phase = (i + j) % 4
        warp_on_top = phase < 2
        # Each thread floats over two others; it is highest, hence brightest, in the middle of that.
        along = (phase % 2 + np.where(warp_on_top, across_weft, across_warp) + 0.5) / 2
        height = np.sin(np.pi * along)
        if self.missing:
            thread, x0, x1 = self.missing
            gone = (j == thread) & (np.abs(_X - (x0 + x1) / 2) < (x1 - x0) / 2)
            # Without it the warp sags where it would pass over, and shows where it would pass below.
            height[gone] = np.where(warp_on_top[gone], 0.4 * height[gone], 0.0)
            warp_on_top |= gone
        if self.floating:
            i0, i1, j0, j1 = self.floating
            loose = (i >= i0) & (i < i1) & (j >= j0) & (j < j1)
            height[loose] = np.sin(np.pi * (y[loose] / _PITCH - j0) / (j1 - j0)) ** 0.5
            warp_on_top |= loose

        fibres = 0.05 * _smooth_noise(rng, 40, _WIDE // 2), 0.05 * _smooth_noise(rng, _WIDE // 2, 40)
        tones = 1 + 0.05 * rng.standard_normal((2, _THREADS), dtype=np.float32)
        warp = self._thread(across_warp, y, tones[0][i % _THREADS] + fibres[0], _rgb(52, 84, 132))
        weft = self._thread(across_weft, x, tones[1][j % _THREADS] + fibres[1], _rgb(226, 214, 190))
        cloth = np.where(warp_on_top[..., None], warp, weft) * (0.55 + 0.45 * height)[..., None]
        if self.slub:
            thread, centre, thickness, length = self.slub
            half = 0.5 * (1 + thickness * np.exp(-(((_X - centre) / length) ** 2)))
            distance = y / _PITCH - thread - 0.5
            yarn = self._thread(distance / half / 2, x, 1 + 1.5 * fibres[1], _rgb(226, 214, 190))
            swollen = _step(half - np.abs(distance), 0.1) * _step(half - 0.62, 0.1)
            cloth = _mix(cloth, yarn, swollen)
        shade = self.light * (1 + 0.03 * _smooth_noise(rng, 3, 3))
        return np.clip(cloth * shade[..., None], 0, 1).astype(np.float32)

    @staticmethod
    def _thread(across: np.ndarray, along: np.ndarray, tone: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """A twisted yarn, lit from the upper left; ``across`` runs from -0.5 to 0.5."""
        roundness = np.sqrt(np.clip(1 - (2 * across / 1.06) ** 2, 0, 1))
        twist = np.sin(2 * np.pi * (along / _PITCH * 2.2 + across * 1.4))
        return (tone * (0.22 + 0.78 * roundness - 0.18 * across + 0.05 * twist))[..., None] * colour

    def thread_at(self, y: float) -> int:
        """The weft thread at a height in the middle of the image."""
        return int((y - self.angle * _WIDE / 2 + self.offset[1]) // _PITCH)


def _miss_thread(weave: _Weave, rng: np.random.Generator) -> _Weave:
    length = rng.uniform(0.25, 0.5) * _WIDE
    start = rng.uniform(0.08, 0.92) * (_WIDE - length)
    return replace(weave, missing=(weave.thread_at(rng.uniform(0.15, 0.85) * _WIDE), start, start + length))


def _add_slub(weave: _Weave, rng: np.random.Generator) -> _Weave:
    y, x = rng.uniform(0.15, 0.85, 2) * _WIDE
    return replace(weave, slub=(weave.thread_at(y), x, rng.uniform(1.0, 1.7), rng.uniform(1.3, 2.4) * _PITCH))


def _loosen(weave: _Weave, rng: np.random.Generator) -> _Weave:
    width, height = int(rng.integers(3, 5)), int(rng.integers(4, 7))
    i = int((rng.uniform(0.1, 0.8) * _WIDE + weave.offset[0]) // _PITCH)
    j = weave.thread_at(rng.uniform(0.1, 0.7) * _WIDE)
    return replace(weave, floating=(i, i + width, j, j + height))


# --- gear: turned steel, seen from above --------------------------------------------------------------------

_TEETH = 18
_HOLES = 6
_OUTER, _ROOT, _RIM, _CIRCLE, _HUB, _BORE, _HOLE = (
    share * _WIDE for share in (0.425, 0.36, 0.30, 0.215, 0.135, 0.075, 0.038)
)


@dataclass(frozen=True)
class _Gear:
    centre: tuple[float, float]
    turn: float
    light: tuple[float, float]  # direction, strength
    texture: int
    broken: tuple[int, float] | None = None  # tooth, what is left of its height
    extra_hole: tuple[float, float, float] | None = None  # angle, distance from the centre, radius
    bore_shift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        x, y = _WIDE / 2 + rng.normal(0, 4, 2)
        return cls(
            (float(x), float(y)),
            turn=float(rng.normal(0, 0.03)),
            light=(float(rng.normal(-2.2, 0.12)), float(rng.normal(1, 0.04))),
            texture=int(rng.integers(1 << 32)),
        )

    def draw(self) -> np.ndarray:
        rng = np.random.default_rng(self.texture)
        x, y = _X - self.centre[0], _Y - self.centre[1]
        r, theta = np.hypot(x, y), np.arctan2(y, x) - self.turn
        body = self._body(x, y, r, theta, rng)

        # Distances become heights with bevelled edges, and slopes of these become light and shade.
        height = 7 * _step(body - 3.5, 7) + 6 * _step(r - _RIM, 8) + 6 * _step(_HUB - r, 8)
        direction, strength = self.light
        slope_x, slope_y = (cv2.Sobel(height, -1, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
        relief = -0.42 * (slope_x * np.cos(direction) + slope_y * np.sin(direction))
        turned = 0.035 * rng.standard_normal(_WIDE, dtype=np.float32)[np.rint(r).astype(np.int32)]
        around = theta + self.turn
        sheen = 0.11 * np.cos(2 * (around - direction)) + 0.05 * np.cos(4 * (around - 0.6))
        steel = (0.62 + relief + turned + sheen * (r < _OUTER))[..., None] * _rgb(236, 242, 255)

        ground = (
            _rgb(72, 92, 104) * (1 + 0.04 * _smooth_noise(rng, 3, 3) + 0.015 * _smooth_noise(rng, 256, 256))[..., None]
        )
        cover = _step(body)
        shadow = cv2.GaussianBlur(np.roll(cover, (9, 7), axis=(0, 1)), (0, 0), 7)
        scene = _mix(ground * (1 - 0.5 * shadow)[..., None], steel, cover)
        return np.clip(scene * strength, 0, 1).astype(np.float32)

    def _body(
        self, x: np.ndarray, y: np.ndarray, r: np.ndarray, theta: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Signed distance (px) to the edge of the steel, positive inside."""
        tooth = np.clip(0.5 + 1.5 * np.cos(_TEETH * theta), 0, 1)
        jagged = 0.2 * np.interp(theta % 0.35, np.linspace(0, 0.35, 10), rng.standard_normal(10))
        if self.broken:
            which, left = self.broken
            nearest = np.rint(theta * _TEETH / (2 * np.pi)).astype(np.int32) % _TEETH
            tooth = np.where(nearest == which, np.minimum(tooth, np.clip(left + jagged, 0, 1)), tooth)
        body = _ROOT + (_OUTER - _ROOT) * tooth - r
        sector = (theta + np.pi / _HOLES) % (2 * np.pi / _HOLES) - np.pi / _HOLES
        body = np.minimum(body, np.hypot(r * np.cos(sector) - _CIRCLE, r * np.sin(sector)) - _HOLE)
        if self.extra_hole:
            angle, distance, radius = self.extra_hole
            hole_x, hole_y = distance * np.cos(angle + self.turn), distance * np.sin(angle + self.turn)
            body = np.minimum(body, np.hypot(x - hole_x, y - hole_y) - radius)
        bore_x, bore_y = x - self.bore_shift[0], y - self.bore_shift[1]
        keyway = np.maximum(np.abs(bore_x) - 0.25 * _BORE, np.abs(bore_y + _BORE) - 0.35 * _BORE)
        return np.minimum(body, np.minimum(np.hypot(bore_x, bore_y) - _BORE, keyway))


def _break_tooth(gear: _Gear, rng: np.random.Generator) -> _Gear:
    return replace(gear, broken=(int(rng.integers(_TEETH)), rng.uniform(0.05, 0.35)))


def _drill(gear: _Gear, rng: np.random.Generator) -> _Gear:
    between = (rng.integers(_HOLES) + rng.uniform(0.4, 0.6)) * 2 * np.pi / _HOLES
    return replace(gear, extra_hole=(between, _CIRCLE * rng.uniform(0.85, 1.2), _HOLE * rng.uniform(0.5, 0.95)))


def _shift_bore(gear: _Gear, rng: np.random.Generator) -> _Gear:
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.022, 0.034) * _WIDE
    return replace(gear, bore_shift=(distance * np.cos(angle), distance * np.sin(angle)))


# --- bolt: a hexagon bolt, lying in any direction -----------------------------------------------------------

_HEAD, _SHANK_END, _TIP = (share * _WIDE for share in (0.12, 0.31, 0.78))  # along the axis, from the top of the head
_HEAD_RADIUS, _RADIUS, _DEPTH, _LEAD = (share * _WIDE for share in (0.124, 0.064, 0.0115, 0.0345))


@dataclass(frozen=True)
class _Bolt:
    centre: tuple[float, float]
    direction: float
    light: float
    texture: int
    bend: float = 0.0  # px by which the tip is off the axis
    stripped: tuple[float, float] | None = None  # from, to, along the axis
    round_head: bool = False

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        x, y = _WIDE / 2 + rng.normal(0, 5, 2)
        return cls(
            (float(x), float(y)),
            direction=float(rng.uniform(0, 2 * np.pi)),
            light=float(rng.normal(1, 0.04)),
            texture=int(rng.integers(1 << 32)),
        )

    def draw(self) -> np.ndarray:
        rng = np.random.default_rng(self.texture)
        cos, sin = math.cos(self.direction), math.sin(self.direction)
        x, y = _X - self.centre[0], _Y - self.centre[1]
        s, t = x * cos + y * sin + _TIP / 2, y * cos - x * sin
        t = t - self.bend * (np.clip(s - _SHANK_END, 0, None) / (_TIP - _SHANK_END)) ** 2

        pits, grain = _smooth_noise(rng, 128, 128), 0.012 * _smooth_noise(rng, 200, 200)
        phase = 2 * np.pi * (s / _LEAD + 0.25 * t / _RADIUS)
        ridge = _step(s - _SHANK_END, 4) * np.cos(phase)
        slope = -_step(s - _SHANK_END, 4) * np.sin(phase)
        taper = 0.35 * _RADIUS * np.clip(1 - (_TIP - s) / (0.5 * _LEAD), 0, 1)
        radius = _RADIUS + 0.5 * _DEPTH * ridge - taper
        if self.stripped:
            worn = _step(s - self.stripped[0], 6) * _step(self.stripped[1] - s, 6)
            radius -= worn * (0.5 * _DEPTH * ridge + 0.8 * _DEPTH)
            slope = slope * (1 - worn) + worn * 0.2 * pits
        shank = np.minimum(radius - np.abs(t), np.minimum(s - _HEAD, _TIP - s))
        dome = np.sqrt(np.clip(1 - ((_HEAD - s) / _HEAD) ** 2, 0, 1)) if self.round_head else np.ones_like(s)
        chamfer = 0.0 if self.round_head else 0.5 * np.clip(0.02 * _WIDE - s, 0, None)
        head = np.minimum(_HEAD_RADIUS * dome - chamfer - np.abs(t), np.minimum(s, _HEAD - s))

        # Normals are across the axis, along it and towards the camera; the lamp stays as the bolt turns.
        lamp_x, lamp_y, lamp_z = -0.45, -0.6, 0.66
        lamp_t, lamp_s = lamp_y * cos - lamp_x * sin, lamp_x * cos + lamp_y * sin
        across = np.clip(t / np.maximum(radius, 1), -1, 1)
        metal = _lit(across, 0.75 * slope, lamp_t, lamp_s, lamp_z)
        if self.round_head:
            top = _lit(np.clip(t / _HEAD_RADIUS, -1, 1), -np.sqrt(1 - dome**2) * 0.8, lamp_t, lamp_s, lamp_z)
        else:
            facet = np.sign(t) * _step(np.abs(t) - 0.5 * _HEAD_RADIUS, 3) * 0.8
            top = _lit(facet, -0.8 * _step(0.02 * _WIDE - s, 3), lamp_t, lamp_s, lamp_z)
        steel = (np.where(s < _HEAD, top, metal) + grain)[..., None] * _rgb(255, 249, 236)

        ground = (
            _rgb(126, 138, 132) * (1 + 0.04 * _smooth_noise(rng, 3, 3) + 0.02 * _smooth_noise(rng, 300, 300))[..., None]
        )
        cover = _step(np.maximum(shank, head))
        shadow = cv2.GaussianBlur(np.roll(cover, (10, 8), axis=(0, 1)), (0, 0), 6)
        scene = _mix(ground * (1 - 0.5 * shadow)[..., None], steel, cover)
        return np.clip(scene * self.light, 0, 1).astype(np.float32)


def _lit(across: np.ndarray, along: np.ndarray, lamp_t: float, lamp_s: float, lamp_z: float) -> np.ndarray:
    """Brightness of metal whose normal has these parts across and along an axis, the rest facing us."""
    length = np.sqrt(1 + along**2)
    facing = (across * lamp_t + along * lamp_s + np.sqrt(1 - across**2) * lamp_z) / length
    facing = np.clip(facing, 0, 1)
    return 0.26 + 0.55 * facing + 0.4 * facing**12


def _bend(bolt: _Bolt, rng: np.random.Generator) -> _Bolt:
    return replace(bolt, bend=float(rng.choice([-1, 1]) * rng.uniform(0.05, 0.085) * _WIDE))


def _strip_thread(bolt: _Bolt, rng: np.random.Generator) -> _Bolt:
    length = rng.uniform(3, 5) * _LEAD
    start = rng.uniform(_SHANK_END + _LEAD, _TIP - _LEAD - length)
    return replace(bolt, stripped=(start, start + length))


def _wrong_head(bolt: _Bolt, rng: np.random.Generator) -> _Bolt:
    return replace(bolt, round_head=True)


_CATEGORIES: Mapping[str, tuple[type[_Scene], Mapping[str, _Damage]]] = {
    "weave": (_Weave, {"missing_thread": _miss_thread, "slub": _add_slub, "float": _loosen}),
    "gear": (_Gear, {"broken_tooth": _break_tooth, "extra_hole": _drill, "bore_off_centre": _shift_bore}),
    "bolt": (_Bolt, {"bent": _bend, "stripped_thread": _strip_thread, "round_head": _wrong_head}),
}

DEMO = Entry(
    name="demo",
    title="Three categories rendered on the spot (clflow/data/demo.py)",
    licence="MIT, like this project",
    licence_url="",
    render=render,
    normal="good",
    counts=dict.fromkeys(_CATEGORIES, Counts(TRAIN, TEST_GOOD, 3 * TEST_DEFECTIVE)),
)
