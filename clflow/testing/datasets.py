"""The contract of a dataset that code renders."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from clflow.data.catalogue import Counts, Entry, find
from clflow.data.layout import scan

Pair = tuple[pd.DataFrame, pd.DataFrame]


class RenderedDatasetContract:
    """What a dataset with `Entry.render` does, on the first of its categories.

    Attributes:
        name: of the dataset.
    """

    name: str

    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls) -> Entry:
        return find(cls.name)

    @pytest.fixture(scope="class")
    @classmethod
    def category(cls, entry: Entry) -> str:
        return next(iter(entry.counts))

    @pytest.fixture(scope="class")
    @classmethod
    def rendered(cls, entry: Entry, category: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
        """The sample tables of two folders."""
        assert entry.render is not None
        folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
        for folder in folders:
            entry.render(category, folder / category)
        first, second = (scan(folder, category, entry.normal, entry.complete) for folder in folders)
        return first, second

    def test_folder_has_the_images_that_are_stated(self, entry: Entry, category: str, rendered: Pair):
        kinds = Counter(zip(rendered[0]["split"], rendered[0]["label"], strict=True))
        found = Counts(kinds["train", 0], kinds["test", 0], kinds["test", 1])
        assert found == entry.counts[category]
        assert len(rendered[0]) == kinds.total() == found.train + found.test_good + found.test_defective

    def test_no_image_is_there_twice(self, rendered: Pair):
        assert rendered[0]["sha256"].is_unique

    def test_every_rendering_is_the_same(self, rendered: Pair):
        pd.testing.assert_frame_equal(*rendered)

    def test_licence_is_stated(self, entry: Entry):
        assert entry.title and entry.licence
