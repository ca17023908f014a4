"""The contract of a dataset, and of one that code renders."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import astuple

import pandas as pd
import pytest
from pydantic import TypeAdapter

from clflow.config.schema import Name
from clflow.data.catalogue import Counts, Entry, find
from clflow.data.layout import scan

Pair = tuple[pd.DataFrame, pd.DataFrame]


class DatasetContract:
    """What an `Entry` states.

    Attributes:
        name: of the dataset.
    """

    name: str

    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls) -> Entry:
        return find(cls.name)

    def test_its_layout_may_be_that_of_own_images(self, entry: Entry):
        """Images with another name of their own may be described by the entry."""
        assert find("own", layout=entry.name) is entry

    def test_comes_from_one_place(self, entry: Entry):
        """It is downloaded or rendered, not both, and its licence is stated."""
        assert entry.archive is None or entry.render is None
        assert entry.title and entry.licence

    def test_archive_can_be_verified(self, entry: Entry):
        """Its addresses are encrypted, and its SHA-256 is one."""
        if entry.archive is not None:
            assert entry.archive.urls and all(url.startswith("https://") for url in entry.archive.urls)
            assert re.fullmatch("[0-9a-f]{64}", entry.archive.sha256)

    def test_parameters_can_name_its_categories(self, entry: Entry):
        """A category is a name as parameters may hold it, with images of every kind if the dataset is complete."""
        for category, counts in entry.counts.items():
            TypeAdapter(Name).validate_python(category)
            assert counts.train > 0 and (not entry.complete or all(astuple(counts)))


class RenderedDatasetContract(DatasetContract):
    """What `Entry.render` does, on the first category; beside `DatasetContract`."""

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
        """`Entry.counts` are those of the folder, which has the layout that the entry states."""
        kinds = Counter(zip(rendered[0]["split"], rendered[0]["label"], strict=True))
        found = Counts(kinds["train", 0], kinds["test", 0], kinds["test", 1])
        assert found == entry.counts[category]
        assert len(rendered[0]) == kinds.total() == sum(astuple(found))

    def test_no_image_is_there_twice(self, rendered: Pair):
        """All images differ."""
        assert rendered[0]["sha256"].is_unique

    def test_every_rendering_is_the_same(self, rendered: Pair):
        """Two folders have the same files."""
        pd.testing.assert_frame_equal(*rendered)
