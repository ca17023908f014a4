"""Tables from hand-made scores: columns, means and deviations by hand, refusals that name the cell."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, ks_2samp
from sklearn.metrics import roc_auc_score

from clflow.errors import CellError, DataError
from clflow.files import fingerprint, read_json, write_json
from clflow.metrics import IMAGE_METRICS, METRICS, PIXEL_METRICS
from clflow.rates import AT_THRESHOLD
from pipelines.reporting.tables import leaderboard
from pipelines.stages.aggregate import aggregate
from pipelines.workspace.cells import SCORED
from pipelines.workspace.results import CELL_COLUMNS, cells_of, read_scores, read_table
from tests.pipelines.scored import Scored


@pytest.fixture(scope="module")
def aggregated(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Two categories, two methods, two seeds; aggregated by two processes."""
    folder = tmp_path_factory.mktemp("workspace")
    scored = Scored.make(folder, categories=("nut", "01"), methods=("clflow", "fastflow"), seeds=(3, 0))
    aggregate(scored.cells, scored.params, scored.workspace)
    return scored


@pytest.fixture
def scored(tmp_path: Path) -> Scored:
    """One category, two methods, two seeds."""
    return Scored.make(tmp_path, categories=("nut",), methods=("clflow", "fastflow"), seeds=(3, 0))


def table_of(rows: list[tuple[str, str, int, float]]) -> pd.DataFrame:
    """cells.csv of one dataset from (category, method, seed, value of every metric)."""
    return pd.DataFrame(
        [
            {
                **{"dataset": "d", "category": category, "method": method, "seed": seed, "train_images": 9},
                **dict.fromkeys(METRICS, value),
                **{"test_good": 4, "test_defective": 5, "test_masks": 5},
                **{"false_alarms": 0.25, "false_alarms_lower": 0.0, "false_alarms_upper": 0.8},
                **{"misses": value / 2, "misses_lower": 0.0, "misses_upper": value},
                **{"train_seconds": 10.0 * seed, "params_added": 7, "inference_ms": 3.0, "key": "k", "commit": "c"},
                **{"data_hash": "h", "tuned": False, "device": "cpu AVX2", "arithmetic": "float32"},
            }
            for category, method, seed, value in rows
        ],
        columns=list(CELL_COLUMNS),
    )


def test_leaderboard_has_exactly_the_promised_columns_and_rows(aggregated: Scored) -> None:
    board = read_table(aggregated.workspace.leaderboard_table)
    assert list(board.columns) == [
        "dataset", "category", "method", "n_seeds",
        "image_categories", "pixel_categories", "false_alarms_categories", "misses_categories",
        "image_auroc_mean", "image_auroc_std", "image_ap_mean", "image_ap_std",
        "image_f1max_mean", "image_f1max_std",
        "pixel_auroc_mean", "pixel_auroc_std", "pixel_ap_mean", "pixel_ap_std",
        "pixel_f1max_mean", "pixel_f1max_std",
        "aupro_30_mean", "aupro_30_std", "aupro_05_mean", "aupro_05_std",
        "false_alarms", "false_alarms_lower", "false_alarms_upper", "misses", "misses_lower", "misses_upper",
        "train_seconds", "params_added", "inference_ms",
    ]  # fmt: skip
    assert board[["category", "method"]].to_numpy().tolist() == [
        [category, method] for category in ("nut", "01", "mean") for method in ("clflow", "fastflow")
    ]
    assert set(board["n_seeds"]) == {2}
    assert set(board["dataset"]) == {"parts"}


def test_means_and_deviations_by_hand() -> None:
    table = table_of([("a", "m", 0, 0.8), ("a", "m", 1, 0.9), ("b", "m", 0, 0.4), ("b", "m", 1, 0.7)])
    board = leaderboard(table, cells_of(table)).set_index("category")
    assert board["image_auroc_mean"].to_dict() == pytest.approx({"a": 0.85, "b": 0.55, "mean": 0.7})
    # Per seed the mean over categories is 0.6 and 0.8: their sample deviation is 0.2 / sqrt(2).
    deviations = {"a": 0.1 / 2**0.5, "b": 0.3 / 2**0.5, "mean": 0.2 / 2**0.5}
    assert board["aupro_05_std"].to_dict() == pytest.approx(deviations)
    assert board["train_seconds"].to_dict() == {"a": 5.0, "b": 5.0, "mean": 5.0}
    assert board["false_alarms"].to_dict() == {"a": 0.25, "b": 0.25, "mean": 0.25}
    assert board["misses"].to_dict() == pytest.approx({"a": 0.425, "b": 0.275, "mean": 0.35})
    assert board["misses_upper"].to_dict() == pytest.approx({"a": 0.85, "b": 0.55, "mean": 0.7})
    assert board["image_categories"].to_dict() == {"a": 1, "b": 1, "mean": 2}
    assert board["params_added"].to_dict() == {"a": 7.0, "b": 7.0, "mean": 7.0}


def test_one_seed_has_no_deviation() -> None:
    table = table_of([("a", "m", 0, 0.8), ("b", "m", 0, 0.4)])
    board = leaderboard(table, cells_of(table))
    assert board["image_auroc_mean"].tolist() == pytest.approx([0.8, 0.4, 0.6])
    assert board["image_auroc_std"].isna().to_numpy().all()


def test_a_seed_that_lacks_a_category_is_left_out_of_the_mean_over_categories() -> None:
    planned = table_of([("a", "m", 0, 0.8), ("a", "m", 1, 0.9), ("b", "m", 0, 0.4), ("b", "m", 1, 0.7)])
    board = leaderboard(planned.iloc[:3], cells_of(planned)).set_index("category")
    assert board["n_seeds"].to_dict() == {"a": 2, "b": 1, "mean": 1}
    assert board.loc["mean", "image_auroc_mean"] == pytest.approx(0.6)
    without_b = leaderboard(planned.iloc[:2], cells_of(planned)).set_index("category")
    assert without_b["n_seeds"].to_dict() == {"a": 2, "mean": 0}
    assert np.isnan(without_b["image_auroc_mean"]["mean"])


def test_a_mean_is_over_the_categories_that_have_the_figure_and_says_over_how_many() -> None:
    rows = [("a", 0.8), ("a", 0.9), ("b", 0.4), ("b", 0.7), ("c", 0.5), ("c", 0.5)]
    table = table_of([(category, "m", seed % 2, value) for seed, (category, value) in enumerate(rows)])
    table.loc[table["category"] == "b", list(PIXEL_METRICS)] = np.nan  # no masks
    table.loc[table["category"] == "c", [*METRICS, *(name for name in AT_THRESHOLD if "misses" in name)]] = np.nan
    board = leaderboard(table, cells_of(table)).set_index("category")
    mean = board.loc["mean"]
    assert mean["image_auroc_mean"] == pytest.approx(0.7) and mean["image_auroc_std"] == pytest.approx(0.2 / 2**0.5)
    assert mean["pixel_ap_mean"] == pytest.approx(0.85)
    counts = ["image_categories", "pixel_categories", "false_alarms_categories", "misses_categories"]
    assert mean[counts].tolist() == [2, 1, 3, 2]
    assert board.loc["c", counts].tolist() == [0, 0, 1, 0]
    assert np.isnan(board.loc["c", "image_auroc_mean"]) and np.isnan(board.loc["b", "aupro_30_mean"])


def test_cells_carry_recomputed_metrics_and_provenance(aggregated: Scored) -> None:
    table = read_table(aggregated.workspace.cells_table)
    assert tuple(table.columns) == CELL_COLUMNS
    assert cells_of(table) == aggregated.cells
    first = table.iloc[0]
    scores, _ = read_scores(aggregated.cells[0], aggregated.workspace)
    assert first["image_auroc"] == pytest.approx(roc_auc_score(scores["label"], scores["image_score"]))
    assert (first["commit"], first["params_added"], first["tuned"]) == ("0123", 123456, True)
    assert (first["device"], first["arithmetic"]) == ("cpu AVX2", "float32")
    anomalous = scores["image_score"] > 0.5  # the threshold that is stored with the cell
    assert first["false_alarms"] == pytest.approx(anomalous[scores["label"] == 0].mean())
    assert first["misses"] == pytest.approx(1 - anomalous[scores["label"] == 1].mean())
    for rate in ("false_alarms", "misses"):
        assert 0 <= first[f"{rate}_lower"] < first[rate] < first[f"{rate}_upper"] <= 1
    assert (first["calibration_images"], first["expected_false_alarms"]) == (2, pytest.approx(1 / 3))
    bounds = first["expected_false_alarms_lower"], first["expected_false_alarms_upper"]
    assert bounds == pytest.approx(beta(1, 2).interval(0.95))
    reference = [0.1, 0.2]  # held_out.csv
    test: Any = ks_2samp(scores.loc[scores["label"] == 0, "image_score"], reference)
    assert first["shift_p"] == pytest.approx(test.pvalue)
    assert first[["test_good", "test_defective", "test_masks"]].tolist() == [6, 6, 6]
    assert table.loc[:, METRICS].notna().to_numpy().all()


def test_pro_curves_are_of_every_cell_and_enclose_the_area_of_the_metric(aggregated: Scored) -> None:
    table, pro = read_table(aggregated.workspace.cells_table), read_table(aggregated.workspace.pro_table)
    curves = pro.groupby(["category", "method", "seed"], sort=False)
    assert [(cell.category, cell.method, cell.seed) for cell in aggregated.cells] == [name for name, _ in curves]
    areas = [np.trapezoid(curve["overlap"], curve["fpr"]) / 0.3 for _, curve in curves]
    assert table["aupro_30"].tolist() == pytest.approx(areas, abs=0.01)


def test_a_map_that_is_its_mask_has_perfect_pixel_metrics(scored: Scored) -> None:
    for cell in scored.cells:
        scored.write_maps(cell, scored.masks(cell.category))
    aggregate(scored.cells, scored.params, scored.workspace)
    table = read_table(scored.workspace.cells_table)
    assert (table.loc[:, PIXEL_METRICS].to_numpy() == 1).all()


def test_metrics_json_and_protocol_json(aggregated: Scored) -> None:
    board = read_table(aggregated.workspace.leaderboard_table)
    metrics = read_json(aggregated.workspace.metrics)
    assert list(metrics["parts"]) == ["clflow", "fastflow"]
    counts = {"image_categories": 2, "pixel_categories": 2, "false_alarms_categories": 2, "misses_categories": 2}
    assert list(metrics["parts"]["clflow"]) == [*METRICS, *AT_THRESHOLD, *counts]
    assert counts.items() <= metrics["parts"]["clflow"].items()
    mean = board.loc[(board["category"] == "mean") & (board["method"] == "clflow"), "image_ap_mean"].item()
    assert metrics["parts"]["clflow"]["image_ap"] == round(mean, 6)
    protocol = read_json(aggregated.workspace.protocol)
    assert protocol["protocol"]["map_size"] == 32
    assert protocol["hash"] == fingerprint(protocol["protocol"])


def test_an_incomplete_table_is_refused_and_names_the_missing_cell(scored: Scored) -> None:
    gone = scored.cells[2]
    (scored.workspace.score(gone) / SCORED).unlink()
    with pytest.raises(CellError, match=f"1 of 4 cells have no scores: parts/{gone.name};"):
        aggregate(scored.cells, scored.params, scored.workspace)
    assert not scored.workspace.reports.exists()
    aggregate(scored.cells, scored.params, scored.workspace, allow_missing=True)
    assert len(read_table(scored.workspace.cells_table)) == 3


def test_scores_of_another_key_count_as_missing(scored: Scored) -> None:
    write_json(scored.workspace.score(scored.cells[0]) / SCORED, {"key": "another"})
    with pytest.raises(CellError, match="1 of 4 cells"):
        aggregate(scored.cells, scored.params, scored.workspace)


def test_nothing_at_all_is_refused_even_if_some_may_be_missing(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("nut",), ("clflow",), (0,))
    (scored.workspace.score(scored.cells[0]) / SCORED).unlink()
    with pytest.raises(CellError, match="1 of 1 cells"):
        aggregate(scored.cells, scored.params, scored.workspace, allow_missing=True)


def test_a_cell_without_computable_metrics_names_itself(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("nut",), ("clflow",), (0, 1))
    maps = scored.masks("nut").astype(np.float32)
    maps[0, 0, 0] = np.nan
    scored.write_maps(scored.cells[1], maps)
    with pytest.raises(CellError, match=f"parts/{scored.cells[1].name} cannot be computed: .*not finite"):
        aggregate(scored.cells, scored.params, scored.workspace)


def test_scores_of_other_test_images_are_refused(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("nut",), ("clflow",), (0,))
    scores, _ = read_scores(scored.cells[0], scored.workspace)
    scores.assign(path="nut/test/other.png").to_csv(scored.workspace.score(scored.cells[0]) / "scores.csv", index=False)
    with pytest.raises(CellError, match=f"{scored.cells[0].name} .*other test images"):
        aggregate(scored.cells, scored.params, scored.workspace)


def test_scores_and_maps_of_different_length_are_refused(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("nut",), ("clflow",), (0,))
    scored.write_maps(scored.cells[0], scored.masks("nut")[1:])
    with pytest.raises(CellError, match="holds 12 scores but 11 maps"):
        aggregate(scored.cells, scored.params, scored.workspace)


def test_defects_without_masks_leave_pixel_metrics_empty(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("nut",), ("clflow",), (0, 1), with_mask=0)
    board = aggregate(scored.cells, scored.params, scored.workspace)
    assert board["image_auroc_mean"].notna().to_numpy().all()
    assert board["aupro_30_mean"].isna().to_numpy().all()
    metrics = read_json(scored.workspace.metrics)["parts"]["clflow"]
    assert metrics.keys() & set(METRICS) == {"image_auroc", "image_ap", "image_f1max"}
    assert (metrics["image_categories"], metrics["pixel_categories"]) == (1, 0)
    assert read_table(scored.workspace.pro_table).empty


def test_what_no_test_image_tells_is_empty(tmp_path: Path) -> None:
    test = {"sound": (0, 6), "broken": (6, 0), "new": (0, 0)}
    scored = Scored.make(tmp_path, ("nut", *test), ("clflow",), (0, 1), test=test)
    board = aggregate(scored.cells, scored.params, scored.workspace).set_index("category")
    table = read_table(scored.workspace.cells_table).set_index("category")
    known = {category: set(table.columns[table.loc[category].notna().all()]) for category in ("nut", *test)}
    rates = {name: {each for each in AT_THRESHOLD if each.startswith(name)} for name in ("false_alarms", "misses")}
    assert known["nut"] - known["sound"] == set(METRICS) | rates["misses"]
    assert known["nut"] - known["broken"] == set(IMAGE_METRICS) | rates["false_alarms"] | {"shift_p"}
    assert known["nut"] - known["new"] == {*METRICS, *AT_THRESHOLD, "shift_p", "inference_ms"}
    assert board.loc["mean", "image_auroc_mean"] == pytest.approx(board.loc["nut", "image_auroc_mean"])
    assert board.loc["mean", "false_alarms"] == pytest.approx(board.loc[["nut", "sound"], "false_alarms"].mean())
    assert board.loc["mean", "inference_ms"] == 12.5
    metrics = read_json(scored.workspace.metrics)["parts"]["clflow"]
    assert [metrics[f"{name}_categories"] for name in ("image", "pixel", "false_alarms", "misses")] == [1, 2, 2, 2]


def test_nothing_but_new_categories_makes_an_empty_table(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("new",), ("clflow",), (0,), test={"new": (0, 0)})
    board = aggregate(scored.cells, scored.params, scored.workspace)
    assert board[["image_auroc_mean", "false_alarms", "inference_ms"]].isna().to_numpy().all()
    assert set(read_json(scored.workspace.metrics)["parts"]["clflow"].values()) == {0}


def test_a_defect_without_a_mask_does_not_count_for_pixel_metrics(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("nut",), ("clflow",), (0,), with_mask=3)
    maps = scored.masks("nut").astype(np.float32)
    scores, _ = read_scores(scored.cells[0], scored.workspace)
    unmarked = (scores["label"] == 1) & (scores["mask"] == "")
    assert int(unmarked.to_numpy().sum()) == 3
    maps[unmarked.to_numpy()] = 1  # would be false positives if these images were taken for normal ones
    scored.write_maps(scored.cells[0], maps)
    board = aggregate(scored.cells, scored.params, scored.workspace)
    assert (board["pixel_ap_mean"].to_numpy() == 1).all()


def test_a_table_that_does_not_exist_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="aggregate the scores first"):
        read_table(tmp_path / "cells.csv")
