"""The contact sheet is small and shows what was made."""

import io

import numpy as np

from clflow.synthesis.recipe import Synthetic, synthesize
from clflow.synthesis.sheet import contact_sheet
from tests.clflow.synthesis.pictures import draw_surface, make_params


def test_sheet_of_noise_stays_below_a_megabyte() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((256, 256), bool)
    mask[100:140, 20:60] = True
    examples = []
    for _ in range(16):
        before, after = rng.integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
        examples.append((before, Synthetic(after, mask, (20, 100, 60, 140), "blob", "shifted", "alpha", 0.5)))
    file = io.BytesIO()
    contact_sheet(examples).save(file, "PNG")
    assert len(file.getvalue()) < 1_000_000


def test_sheet_grows_by_rows_and_outlines_in_red() -> None:
    image = draw_surface(0)
    params = make_params().synthesis
    made = [synthesize(image, np.ones((64, 64), bool), [], [], params, np.random.default_rng(k)) for k in range(3)]
    one, three = contact_sheet([(image, made[0])]), contact_sheet([(image, each) for each in made])
    assert three.height == 2 * one.height
    assert three.width == one.width
    pixels = np.asarray(one.convert("RGB")).astype(int)
    assert ((pixels[..., 0] > 220) & (pixels[..., 1:].max(axis=2) < 60)).sum() > 20
