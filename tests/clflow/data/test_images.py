"""Every kind of image file is read as 8-bit RGB, every mask as area."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clflow.data.images import FORMATS, open_rgb, pixel_count, read_image, read_mask, resize_to_square
from clflow.errors import DataError

RAMP = np.linspace(0, 255, 32, dtype=np.uint8).reshape(4, 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.png"


def test_colour_is_kept(path: Path) -> None:
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_image(path), pixels)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
def test_grey_becomes_three_equal_channels(path: Path, extension: str) -> None:
    path = path.with_suffix(f".{extension}")
    Image.fromarray(RAMP).save(path)
    np.testing.assert_array_equal(read_image(path), np.stack([RAMP] * 3, axis=2))


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(path: Path, extension: str) -> None:
    path = path.with_suffix(f".{extension}")
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 0], RAMP)


def test_palette_is_looked_up(path: Path) -> None:
    image = Image.fromarray((RAMP > 127).astype(np.uint8), mode="P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(path)
    assert {tuple(pixel) for pixel in read_image(path).reshape(-1, 3).tolist()} == {
        (10, 20, 30),
        (200, 100, 50),
    }


def test_transparency_is_laid_on_black(path: Path) -> None:
    pixels = np.full((4, 8, 4), 200, np.uint8)
    pixels[:, :4, 3], pixels[:, 4:, 3] = 255, 0
    Image.fromarray(pixels).save(path)
    image = read_image(path)
    assert (image[:, :4] == 200).all()
    assert (image[:, 4:] == 0).all()


def test_photograph_is_turned_upright(path: Path) -> None:
    path = path.with_suffix(".jpg")
    image = Image.fromarray(RAMP)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(path, exif=exif, quality=100)
    assert read_image(path).shape == (8, 4, 3)


def test_image_is_squashed_and_averaged(path: Path) -> None:
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 64))).save(path)
    image = read_image(path, size=16)
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image[:, 1:-1], 127.5, atol=4)  # stripes of a pixel vanish, they do not alias


def test_32_bits_and_floats_are_refused(path: Path) -> None:
    path = path.with_suffix(".tif")
    Image.fromarray(RAMP.astype(np.float32)).save(path)
    with pytest.raises(DataError, match=r"image\.tif .*floating point"):
        read_image(path)


@pytest.mark.parametrize("keep", [0, 10, 60, 200])
def test_damaged_image_is_named(path: Path, keep: int) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"image\.png cannot be decoded"):
        read_image(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_bytes_are_read_as_the_file_is(path: Path, kind: str) -> None:
    Image.fromarray(np.stack([RAMP, RAMP.T.reshape(RAMP.shape), 255 - RAMP], axis=2)).save(path, format=kind)
    file = io.BytesIO(path.read_bytes())
    np.testing.assert_array_equal(resize_to_square(open_rgb(file), 5), read_image(path, 5))
    assert pixel_count(path) == pixel_count(file) == RAMP.size


def test_pixels_are_counted_without_decoding(path: Path) -> None:
    Image.new("L", (3000, 2000)).save(path)
    path.write_bytes(path.read_bytes()[:100])
    assert pixel_count(path) == 6_000_000
    with pytest.raises(DataError, match=r"^The image cannot be decoded"):
        open_rgb(io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize("kind", ["GIF", "EPS", "PPM"])
def test_other_formats_are_refused(path: Path, kind: str) -> None:
    Image.fromarray(RAMP).save(path, format=kind)
    with pytest.raises(DataError, match="not BMP, JPEG, PNG, TIFF, WEBP"):
        read_image(path)
    with pytest.raises(DataError, match="not BMP, JPEG, PNG, TIFF, WEBP"):
        pixel_count(path)


def test_missing_image_is_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"image\.png does not exist"):
        read_image(path)


@pytest.mark.parametrize("level", [1, 128, 255])
@pytest.mark.parametrize("threshold, expected", [(0.25, True), (0.2501, False)])
def test_mask_is_true_where_the_share_of_non_zero_area_reaches_the_threshold(
    path: Path, level: int, threshold: float, expected: bool
) -> None:
    mask = np.zeros((6, 6), np.uint8)
    mask[:2, :2] = level  # all of the first of 3 x 3 pixels
    mask[2, 2] = level  # a quarter of the middle one
    Image.fromarray(mask).save(path)
    read = read_mask(path, 3, threshold)
    assert read.dtype == bool
    assert read[0, 0]
    assert read[1, 1] == expected
    assert read.sum() == 1 + expected


def test_mask_with_two_colours_in_a_palette_is_read_by_colour(path: Path) -> None:
    image = Image.fromarray((RAMP > 127).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.resize((8, 8), Image.Resampling.NEAREST).save(path)
    assert read_mask(path, 8, 0.5).mean() == 0.5
