"""The sample table: what is written is read, and the split depends on content alone."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clflow.data.manifest import (
    COLUMNS,
    category_rows,
    data_hash,
    read_manifest,
    split_normals,
    write_manifest,
)
from clflow.errors import DataError


def table(contents: list[str], category: str = "01") -> pd.DataFrame:
    rows = [
        (category, "train", 0, "good", f"{category}/train/ok/{i:04}.bmp", "", digest(content), "")
        for i, content in enumerate(contents)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


contents = st.lists(st.text(max_size=4), min_size=2, max_size=40, unique=True)
holdouts = st.floats(0.01, 0.5)


def test_written_table_is_read_as_it_was(tmp_path: Path) -> None:
    rows = pd.concat([table(["a", "b"], "02"), table(["c"])])
    rows["defect"] = "NA"
    written = write_manifest(tmp_path, rows)
    read = read_manifest(tmp_path)
    pd.testing.assert_frame_equal(read, written)
    assert list(read.columns) == list(COLUMNS)
    assert read["category"].tolist() == ["01", "02", "02"]
    assert read["defect"].tolist() == ["NA"] * 3
    assert read["mask"].tolist() == [""] * 3
    assert read["label"].dtype == int


def test_unchanged_table_is_not_written_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, table(["a", "b"]))
    before = (tmp_path / "manifest.csv").stat()
    write_manifest(tmp_path, table(["a", "b"]).iloc[::-1])
    after = (tmp_path / "manifest.csv").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("text, message", [(None, "does not exist"), ("", "no sample table"), ("a,b\n1,2\n", "lacks")])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=rf"manifest\.csv.* {message}"):
        read_manifest(tmp_path)


def test_rows_of_a_category_and_split() -> None:
    manifest = pd.concat([table(["a", "b"], "01"), table(["c"], "02")])
    assert category_rows(manifest, "02", "train")["path"].tolist() == ["02/train/ok/0000.bmp"]
    none = category_rows(manifest, "01", "test")
    assert none.empty and list(none.columns) == list(COLUMNS)
    with pytest.raises(DataError, match="no images of category '03'"):
        category_rows(manifest, "03", "train")


@pytest.mark.parametrize("column", ["path", "label", "mask", "sha256", "mask_sha256"])
def test_data_hash_changes_with_any_content(column: str) -> None:
    rows = table(["a", "b"])
    changed = rows.copy()
    changed.loc[1, column] = 1 if column == "label" else "other"
    assert data_hash(changed) != data_hash(rows)


@given(contents, st.randoms())
def test_data_hash_is_independent_of_order(contents: list[str], random) -> None:
    rows = table(contents)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert data_hash(rows.iloc[order]) == data_hash(rows)


@given(contents, holdouts, st.randoms())
def test_split_is_a_partition_that_depends_on_content_only(contents: list[str], holdout: float, random) -> None:
    rows = table(contents)
    train, held_out = split_normals(rows, holdout)
    assert sorted([*train["sha256"], *held_out["sha256"]]) == sorted(rows["sha256"])
    assert len(held_out) == min(max(round(len(rows) * holdout), 1), len(rows) - 1)
    assert train["path"].is_monotonic_increasing

    shuffled = list(contents)  # the same images in another order and under other names
    random.shuffle(shuffled)
    _, again = split_normals(table(shuffled, "renamed").sample(frac=1, random_state=0), holdout)
    assert set(again["sha256"]) == set(held_out["sha256"])


@given(contents, holdouts)
def test_held_out_images_stay_held_out_when_others_vanish(contents: list[str], holdout: float) -> None:
    rows = table(contents)
    train, held_out = split_normals(rows, holdout)
    if len(train) > 1:
        fewer = rows.loc[rows["sha256"] != train["sha256"][0]]
        _, again = split_normals(fewer, holdout)
        assert set(again["sha256"]) <= set(held_out["sha256"])


def test_split_needs_two_images() -> None:
    with pytest.raises(DataError, match="at least 2"):
        split_normals(table(["a"]), 0.1)
