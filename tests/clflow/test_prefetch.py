"""Work ahead keeps its order and its bound, and errors reach whoever waits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clflow.data.images import read_image
from clflow.errors import DataError
from clflow.prefetch import prefetch
from clflow.score import image_batches


def test_items_are_taken_only_so_far_ahead():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(200):
            taken.append(i)
            yield i

    with ThreadPoolExecutor(3) as pool:
        results = []
        for result in prefetch(pool, lambda i: -i, items(), 8):
            results.append(result)
            assert len(taken) - len(results) <= 8
    assert results == [-i for i in range(200)]


def test_batches_are_the_images_in_order_and_a_damaged_one_is_named(tiny_source: Path, tmp_path: Path):
    paths = sorted((tiny_source / "disc" / "train" / "good").glob("*.png"))
    batches = list(image_batches(paths, 32, 5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    images = [image for batch in batches for image in batch.numpy()]
    assert all((image == read_image(path, 32)).all() for image, path in zip(images, paths, strict=True))
    assert list(image_batches([], 32, 5)) == []

    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(paths[0].read_bytes()[:100])
    batches_until = image_batches([*paths[:7], damaged], 32, 5)
    assert len(next(batches_until)) == 5
    with pytest.raises(DataError, match=r"damaged\.png"):
        next(batches_until)
