"""The promises of a synthetic anomaly."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clflow.config.schema import Synthesis
from clflow.errors import DataError
from clflow.synthesis.blending import CLEAR
from clflow.synthesis.foreground import foreground
from clflow.synthesis.recipe import Synthetic, synthesize
from clflow.synthesis.shapes import SHAPES
from clflow.synthesis.sources import Normal
from tests.clflow.synthesis.pictures import SIZE, draw_object, draw_surface, make_params, only

IMAGE = draw_object(3)
FOREGROUND = foreground(IMAGE, has_object=True)
OTHERS = [Normal(draw_object(k), foreground(draw_object(k), has_object=True)) for k in (4, 5)]
TEXTURES = [draw_surface(0, 80)]
PARAMS = make_params().synthesis


def draw(seed: int, params: Synthesis = PARAMS, image: np.ndarray = IMAGE) -> Synthetic:
    return synthesize(image, FOREGROUND, OTHERS, TEXTURES, params, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_anomaly_keeps_the_promises(seed: int) -> None:
    made = draw(seed)
    difference = np.abs(made.image.astype(int) - IMAGE).max(axis=2)
    assert made.image.shape == IMAGE.shape
    assert made.image.dtype == np.uint8
    assert made.mask.dtype == bool
    assert made.mask.sum() >= PARAMS.area[0] * SIZE**2 / 2

    # Annotated is what changed, and all that changed clearly.
    assert not (difference >= CLEAR)[~made.mask].any()
    touched = cv2.dilate((difference > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert touched[made.mask].all()
    assert difference[made.mask].mean() > 4

    x0, y0, x1, y1 = made.box
    assert made.mask[y0:y1, x0:x1].sum() == made.mask.sum()
    for side in (made.mask[y0, :], made.mask[y1 - 1, :], made.mask[:, x0], made.mask[:, x1 - 1]):
        assert side.any()

    # A bent part may leave the object by some pixels.
    reach = cv2.dilate(FOREGROUND.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert not made.mask[~(reach if made.shape == "misplaced" else FOREGROUND)].any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_same_generator_same_anomaly(seed: int) -> None:
    before = IMAGE.copy()
    first, second = draw(seed), draw(seed)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert (first.box, first.shape, first.source, first.opacity) == (
        (second.box, second.shape, second.source, second.opacity)
    )
    np.testing.assert_array_equal(IMAGE, before)


def test_seeds_differ() -> None:
    assert any((draw(0).image != draw(seed).image).any() for seed in (1, 2))


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_each_shape_can_be_drawn_alone(shape: str) -> None:
    params = make_params(shapes=only(shape, "shapes"), opacity=[0.5, 1.0]).synthesis
    made = [draw(seed, params) for seed in range(6)]
    assert {one.shape for one in made} == {shape}
    if shape == "missing":
        assert {one.source for one in made} <= {"background", "inpainted"}
        assert {one.opacity for one in made} == {1.0}
    if shape == "misplaced":
        assert {(one.source, one.blending) for one in made} == {("warped", "warp")}


@pytest.mark.parametrize("source", ["shifted", "other_image", "photometric", "texture"])
def test_each_source_can_be_used_alone(source: str) -> None:
    params = make_params(
        shapes=only("blob", "shapes"), sources=only(source, "sources"), textures="given", opacity=[0.5, 1.0]
    ).synthesis
    assert {draw(seed, params).source for seed in range(6)} == {source}


def test_default_frequencies_give_all_shapes_sources_and_blendings() -> None:
    made = [draw(seed) for seed in range(150)]
    assert {one.shape for one in made} == set(SHAPES)
    assert {one.source for one in made} >= {"shifted", "other_image", "photometric", "warped", "background"}
    assert {one.blending for one in made} >= {"alpha", "warp"}
    surface = draw_surface(1)
    whole = np.ones((SIZE, SIZE), bool)
    on_surface = [synthesize(surface, whole, [], [], PARAMS, np.random.default_rng(seed)) for seed in range(60)]
    assert "poisson" in {one.blending for one in on_surface}
    assert "background" not in {one.source for one in on_surface}


def test_low_opacity_changes_less() -> None:
    strength = {}
    for low, high in ((0.2, 0.3), (0.9, 1.0)):
        shapes = make_params().synthesis.shapes.model_dump() | {"missing": 0.0}
        params = make_params(opacity=[low, high], shapes=shapes).synthesis
        made = [draw(seed, params) for seed in range(40)]
        assert all(low <= one.opacity <= high for one in made)
        difference = [np.abs(one.image.astype(int) - IMAGE).max(axis=2)[one.mask].mean() for one in made]
        strength[high] = np.median(difference)
    assert strength[1.0] > 1.5 * strength[0.3]


def test_grey_images_stay_grey() -> None:
    grey = np.repeat(IMAGE[..., :1], 3, axis=2)
    params = make_params(
        shapes={**only("blob", "shapes"), "stain": 1.0}, sources=only("photometric", "sources")
    ).synthesis
    for seed in range(15):
        image = draw(seed, params, grey).image
        assert (image == image[..., :1]).all()


def test_source_without_stock_is_not_drawn() -> None:
    params = make_params(shapes=only("blob", "shapes")).synthesis
    for seed in range(12):
        made = synthesize(IMAGE, FOREGROUND, [], [], params, np.random.default_rng(seed))
        assert made.source in ("shifted", "photometric")
    params = make_params(sources=only("other_image", "sources")).synthesis
    with pytest.raises(DataError, match="second normal image"):
        synthesize(IMAGE, FOREGROUND, [], [], params, np.random.default_rng(0))


def test_what_cannot_be_seen_is_an_error() -> None:
    blank = np.full((SIZE, SIZE, 3), 128, np.uint8)
    params = make_params(shapes=only("misplaced", "shapes")).synthesis
    with pytest.raises(DataError, match="No visible anomaly"):
        synthesize(blank, np.ones((SIZE, SIZE), bool), [], [], params, np.random.default_rng(0))
