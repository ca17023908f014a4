"""The catalogue is complete and names what it does not know."""

import pytest

from clflow.data.catalogue import DATASETS, Entry, check_categories, find
from clflow.errors import ParameterError
from clflow.testing import DatasetContract


def test_unknown_dataset_names_the_known_ones() -> None:
    with pytest.raises(ParameterError, match=r"'mvtec' is none of mvtec_ad, btad, demo, folder.*mean 'mvtec_ad'\?"):
        find("mvtec")
    with pytest.raises(ParameterError, match=r"'line3' is none of .*, so data\.line3 needs a layout: `layout: folder`"):
        find("line3")


def test_own_name_has_the_layout_that_it_states() -> None:
    assert find("line3", "folder") is find("folder")
    assert find("small", "mvtec_ad") is find("mvtec_ad")
    with pytest.raises(ParameterError, match=r"data\.line3\.layout 'foldr' is unknown; did you mean 'folder'\?"):
        find("line3", "foldr")


def test_unknown_category_names_the_known_ones() -> None:
    with pytest.raises(ParameterError, match=r"no category '7'; data\.btad\.categories may name 01, 02, 03"):
        check_categories("btad", find("btad"), ("01", "7"))
    with pytest.raises(ParameterError, match=r"small has no category 'botle'; did you mean 'bottle'\?"):
        check_categories("small", find("small", "mvtec_ad"), ("botle",))
    check_categories("line3", find("line3", "folder"), ("anything",))


def test_counts_add_up_to_the_published_totals() -> None:
    def total(name: str) -> tuple[int, int]:
        counts = find(name).counts.values()
        return sum(c.train for c in counts), sum(c.test_good + c.test_defective for c in counts)

    assert len(find("mvtec_ad").counts) == 15
    assert total("mvtec_ad") == (3629, 1725)
    assert total("btad") == (1799, 741)


class TestDatasets(DatasetContract):
    @pytest.fixture(scope="class", params=DATASETS.own)
    @classmethod
    def entry(cls, request: pytest.FixtureRequest) -> Entry:
        return find(request.param)
