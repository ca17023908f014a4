"""The report of a tiny scored workspace: what a person must find in it, and that it is the same twice."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from clflow.config.params import Params
from clflow.errors import DataError
from clflow.files import file_sha256, read_json
from pipelines.reporting import gallery
from pipelines.reporting.best_on_test import best_on_test
from pipelines.reporting.comparison import auroc_intervals, gains, resample
from pipelines.reporting.leaderboard import markdown
from pipelines.reporting.plots import house_style, roc, score_histogram, scores_figure
from pipelines.reporting.published import PUBLISHED
from pipelines.stages import report
from pipelines.stages.aggregate import aggregate
from pipelines.workspace.cells import EVAL_SCORES, SCORED, Cell
from pipelines.workspace.paths import Workspace
from pipelines.workspace.results import cells_of, read_scores, read_table
from tests.pipelines.scored import Scored


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = tmp_path_factory.mktemp("workspace")
    scored = Scored.make(folder, ("01", "nut"), ("clflow", "fastflow"), (0, 1))
    aggregate(scored.cells, scored.params, scored.workspace)
    report.run(scored.params, scored.workspace)
    return scored


def text_of(scored: Scored) -> str:
    return scored.workspace.leaderboard_page.read_text(encoding="utf-8")


def test_everything_is_written(reported: Scored) -> None:
    reports = reported.workspace.reports
    assert sorted(path.relative_to(reports).as_posix() for path in reports.rglob("*") if path.is_file()) == [
        "cells.csv",
        "gallery/index.md",
        "gallery/overview.png",
        "gallery/parts/01.png",
        "gallery/parts/nut.png",
        "index.html",
        "leaderboard.csv",
        "leaderboard.md",
        "metrics.json",
        "plots/cost.png",
        "plots/history.csv",
        "plots/history.png",
        "plots/image_auroc.png",
        "plots/image_scores.csv",
        "plots/image_scores.png",
        "plots/roc.csv",
        "pro.csv",
        "protocol.json",
    ]


def test_leaderboard_says_where_its_numbers_come_from(reported: Scored) -> None:
    text = text_of(reported)
    protocol = read_json(reported.workspace.protocol)
    assert text.startswith("# Leaderboard: full\n")
    assert f"hash `{protocol['hash']}`" in text
    assert "map_size 32" in text
    assert "| commit | `0123` |" in text
    assert "| seeds | 0, 1 |" in text
    assert "| cells | 8 of 8 |" in text
    assert "`wide_resnet50_2.tv_in1k`" in text
    for link in ("index.html", "plots/image_auroc.png", "plots/cost.png", "gallery/index.md", "plots/history.png"):
        assert f"]({link})" in text


def section(text: str, heading: str) -> list[str]:
    """Lines under a heading of the page."""
    return text.split(f"# {heading}\n")[1].split("\n#")[0].splitlines()


def test_leaderboard_has_methods_as_rows_and_marks_tuned_categories(reported: Scored) -> None:
    text = text_of(reported)
    board = read_table(reported.workspace.leaderboard_table).set_index(["category", "method"])
    mean, own = board.loc[("mean", "clflow")], board.loc[[("01", "clflow"), ("nut", "clflow")]]
    number = f"{100 * mean['image_auroc_mean']:.2f} ± {100 * mean['image_auroc_std']:.2f}"
    assert any(line.startswith(f"| clflow | 2 | {number} |") for line in section(text, "parts"))
    for title, column in (("image AUROC", "image_auroc_mean"), ("AUPRO@0.3", "aupro_30_mean")):
        lines = section(text, f"parts: {title} of each category")
        assert "| method | 01 | nut † |" in lines
        assert f"| clflow | {' | '.join(f'{100 * value:.2f}' for value in own[column])} |" in lines
    assert any(line.startswith("† tuned per category") for line in text.splitlines())


def test_leaderboard_is_short_for_eighteen_categories_and_ten_methods(reported: Scored) -> None:
    workspace = reported.workspace
    table, board = read_table(workspace.cells_table), read_table(workspace.leaderboard_table)
    one = board.loc[(board["category"] == "01") & (board["method"] == "clflow")]
    names = [(f"category-{number:02}", f"method-{letter}") for number in range(18) for letter in "abcdefghij"]
    rows = [one.assign(category=category, method=method) for category, method in names]
    nothing = gains({}), best_on_test([], workspace)
    protocol = read_json(workspace.protocol)
    text = markdown(table, pd.concat(rows), *nothing, reported.params, protocol)
    assert len(text.splitlines()) < 150
    assert max(map(len, text.splitlines())) < 320


def test_tables_are_rectangular(reported: Scored) -> None:
    tables = [block.splitlines() for block in text_of(reported).split("\n\n") if block.startswith("|")]
    assert len(tables) == 8
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_published_numbers_are_marked_as_not_ours(reported: Scored) -> None:
    workspace = reported.workspace
    table, board = read_table(workspace.cells_table), read_table(workspace.leaderboard_table)
    gained = gains(resample(cells_of(table), workspace)).assign(dataset="btad")
    text = markdown(
        table.assign(dataset="btad"),
        board.assign(dataset="btad"),
        gained,
        best_on_test(cells_of(table), workspace),
        reported.params,
        read_json(workspace.protocol),
    )
    own, published = text.split("### btad: published elsewhere, not measured here")
    assert "**published elsewhere, not measured here; other backbones and input sizes**" in published
    anchors = [anchor for anchor in PUBLISHED if anchor.dataset == "btad"]
    assert len(anchors) == 2
    for anchor in anchors:
        assert any(anchor.source in line and str(anchor.image_auroc) in line for line in published.splitlines())
        assert anchor.source not in own
    assert "published elsewhere" not in text_of(reported)  # nobody has published on "parts"


def test_gains_are_differences_of_the_same_images_and_seeds(reported: Scored) -> None:
    table = read_table(reported.workspace.cells_table)
    gained = gains(resample(cells_of(table), reported.workspace))
    assert gained[["category", "method", "rival"]].to_numpy().tolist() == [
        [category, "clflow", "fastflow"] for category in ("01", "nut", "mean")
    ]
    mean = table.pivot_table(index="category", columns="method", values="image_auroc").to_dict()
    for row in gained.iloc[:2].to_dict("records"):
        expected = mean["clflow"][row["category"]] - mean["fastflow"][row["category"]]
        assert row["gain"] == pytest.approx(expected)
        assert row["lower"] < row["gain"] < row["upper"]
    assert gained["gain"].iloc[2] == pytest.approx(gained["gain"].iloc[:2].mean())
    (line,) = (line for line in section(text_of(reported), "What clflow gains in image AUROC") if "fastflow" in line)
    assert line.startswith(f"| fastflow | {100 * gained['gain'].iloc[2]:+.2f} |")


def test_intervals_are_about_the_figure_and_those_of_a_mean_are_closer(reported: Scored) -> None:
    intervals = auroc_intervals(resample(reported.cells, reported.workspace)).set_index(["category", "method"])
    board = read_table(reported.workspace.leaderboard_table).set_index(["category", "method"])
    assert set(intervals.index) == set(board.index)
    figures = board.loc[intervals.index, "image_auroc_mean"]
    assert (intervals["lower"] < figures).all() and (figures < intervals["upper"]).all()
    width = dict(zip(intervals.index, (intervals["upper"] - intervals["lower"]).tolist(), strict=True))
    assert width["mean", "clflow"] < min(width["01", "clflow"], width["nut", "clflow"])


def keep_eval_scores(scored: Scored, cell: Cell) -> None:
    """Scores of three evaluations: all wrong, all right, and those of the last weights."""
    scores = read_scores(cell, scored.workspace)[0]
    right, last = scores["label"] + 0.0, scores["image_score"]
    pd.DataFrame({5: -right, 10: right, 20: last}).to_csv(scored.workspace.score(cell) / EVAL_SCORES, index=False)


def test_best_on_test_stands_beside_the_last_weights(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("nut",), ("clflow", "fastflow"), (0, 1))
    for cell in scored.cells[:2]:
        keep_eval_scores(scored, cell)
    aggregate(scored.cells, scored.params, scored.workspace)
    table = read_table(scored.workspace.cells_table)
    (row,) = best_on_test(cells_of(table), scored.workspace).to_dict("records")  # fastflow has kept nothing
    mean = table.loc[table["method"] == "clflow", "image_auroc"].mean()
    assert (row["method"], row["n_seeds"], row["best"]) == ("clflow", 2, 1.0)
    assert row["last"] == pytest.approx(mean) and row["last"] < 1
    report.run(scored.params, scored.workspace)
    text = text_of(scored)
    assert f"| clflow | 1 | {100 * mean:.2f} | 100.00 |" in text.split("the best on the test set")[1]


def test_an_incomplete_table_says_so(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("01", "nut"), ("clflow",), (0,))
    (scored.workspace.score(scored.cells[1]) / SCORED).unlink()
    aggregate(scored.cells, scored.params, scored.workspace, allow_missing=True)
    report.run(scored.params, scored.workspace)
    assert "**1 of 2: incomplete" in text_of(scored)
    assert not (scored.workspace.gallery / "parts" / "nut.png").exists()


def test_missing_pixel_metrics_are_blank(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("nut",), ("clflow",), (0,), with_mask=0)
    aggregate(scored.cells, scored.params, scored.workspace)
    report.run(scored.params, scored.workspace)
    text = text_of(scored)
    assert "nan" not in text and "nut has no masks." in text
    assert "| clflow | – |" in section(text, "parts: pixel AUROC of each category")


def test_rates_at_the_threshold_stand_with_their_intervals(reported: Scored) -> None:
    board = read_table(reported.workspace.leaderboard_table).set_index(["category", "method"])
    mean = board.loc[("mean", "clflow")]
    rates = [
        f"{100 * mean[rate]:.1f} ({100 * mean[f'{rate}_lower']:.1f} to {100 * mean[f'{rate}_upper']:.1f})"
        for rate in ("false_alarms", "misses")
    ]
    assert any(f"| {rates[0]} | {rates[1]} |" in line for line in section(text_of(reported), "parts"))
    own = board.loc[[("01", "clflow"), ("nut", "clflow")], "misses"]
    lines = section(text_of(reported), "parts: misses of each category")
    assert f"| clflow | {' | '.join(f'{100 * value:.1f}' for value in own)} |" in lines


class TestNewLine:
    """Beside a category with a whole test set: one without defects, one without normal test images, one without any."""

    TEST: ClassVar = {"sound": (0, 6), "broken": (6, 0), "new": (0, 0)}

    @pytest.fixture(scope="class")
    def reported(self, tmp_path_factory: pytest.TempPathFactory) -> Scored:
        folder = tmp_path_factory.mktemp("workspace")
        scored = Scored.make(folder, ("nut", *self.TEST), ("clflow", "fastflow"), (0, 1), test=self.TEST)
        for cell in scored.cells[:2]:
            keep_eval_scores(scored, cell)
        keep_eval_scores(scored, next(cell for cell in scored.cells if cell.category == "sound"))
        aggregate(scored.cells, scored.params, scored.workspace)
        report.run(scored.params, scored.workspace)
        return scored

    def test_tables_name_what_is_missing(self, reported: Scored) -> None:
        text = text_of(reported)
        assert "nan" not in text
        assert (
            "**–** is a figure that does not exist: sound has no defective test images; broken has no normal test "
            "images; new has no test images. Means are over those of the 4 categories that have the figure: image "
            "metrics 1, pixel metrics 2, false alarms 2, misses 2." in text
        )
        for title in ("image AUROC", "pixel AUROC", "AUPRO@0.3", "false alarms", "misses"):
            heading, _, *rows = (each for each in section(text, f"parts: {title} of each category") if "|" in each)
            assert heading == "| method | nut † | sound | broken | new |"
            assert len(rows) == 2 and all(row.endswith(" – |") for row in rows)
        for table in (block.splitlines() for block in text.split("\n\n") if block.startswith("|")):
            assert len({line.count("|") for line in table}) == 1

    def test_comparisons_are_of_categories_with_both_classes(self, reported: Scored) -> None:
        cells = reported.cells
        gained = gains(resample(cells, reported.workspace))
        assert gained["category"].tolist() == ["nut", "mean"]
        assert len(set(gained["gain"].tolist())) == 1
        assert best_on_test(cells, reported.workspace)["category"].tolist() == ["nut"]

    def test_galleries_show_what_there_is(self, reported: Scored) -> None:
        gallery = reported.workspace.gallery
        assert {path.stem for path in (gallery / "parts").iterdir()} == {"nut", "sound", "broken"}
        assert (gallery / "overview.png").exists()
        index = (gallery / "index.md").read_text()
        assert "## parts / new\n\nIt has no test images.\n" in index and "(parts/new.png)" not in index
        assert "It has no defective test images." in index

    def test_plots_leave_out_what_does_not_exist(self, reported: Scored) -> None:
        plots = reported.workspace.plots
        assert set(pd.read_csv(plots / "roc.csv")["category"]) == {"nut"}
        images = pd.read_csv(plots / "image_scores.csv")
        counts = images.loc[images["method"] == "clflow"].pivot_table("count", "category", "image", aggfunc="sum")
        assert counts.loc["new"].to_dict() == {"normal": 0, "defective": 0, "held-out normal": 2, "synthetic": 1}


def test_a_report_of_nothing_but_new_categories_is_written_whole(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("a", "b"), ("clflow", "fastflow"), (0,), test=dict.fromkeys("ab", (0, 0)))
    aggregate(scored.cells, scored.params, scored.workspace)
    report.run(scored.params, scored.workspace)
    workspace = scored.workspace
    assert "a has no test images; b has no test images" in text_of(scored) and "nan" not in text_of(scored)
    assert "overview" not in (workspace.gallery / "index.md").read_text()
    assert list(pd.read_csv(workspace.plots / "roc.csv").columns) == [
        *("dataset", "category", "method", "seed", "fpr", "tpr")
    ]
    pictures = {path.stem for path in workspace.plots.glob("*.png")}
    assert pictures == {"cost", "history", "image_auroc", "image_scores"}


def test_nothing_aggregated_is_one_clear_sentence(tmp_path: Path, reported: Scored) -> None:
    with pytest.raises(DataError, match="aggregate the scores first"):
        report.run(reported.params, Workspace(tmp_path))


def test_roc_encloses_the_area_of_the_metric(reported: Scored) -> None:
    scores, _ = read_scores(reported.cells[0], reported.workspace)
    curve = roc(scores)
    area = np.trapezoid(curve["tpr"], curve["fpr"])
    assert area == pytest.approx(roc_auc_score(scores["label"], scores["image_score"]))


def test_histogram_counts_every_image_once(reported: Scored) -> None:
    scores, _ = read_scores(reported.cells[0], reported.workspace)
    images = pd.DataFrame({"image": np.take(["normal", "synthetic"], scores["label"]), **scores[["image_score"]]})
    counts = score_histogram(images).pivot_table(index="image", values="count", aggfunc="sum")
    assert counts["count"].to_dict() == {"normal": 6, "synthetic": 6, "defective": 0, "held-out normal": 0}


@pytest.mark.parametrize("categories", [1, 2, 3])
def test_scores_have_a_whole_legend_and_the_threshold(categories: int) -> None:
    kinds = ["normal", "defective", "held-out normal", "synthetic"]
    images = pd.DataFrame({"image": kinds, "image_score": [-3.0, 900.0, -2.0, 80.0]})
    shown = [Cell("parts", f"c{number}", "clflow", 0, "", 9) for number in range(categories)]
    with house_style():
        figure = scores_figure(dict.fromkeys(shown, images), dict.fromkeys(shown, 6.0))
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*kinds, "threshold"]
    frame = figure.bbox.padded(1)  # pixels, for rounding
    assert frame.fully_containsx(legend.get_window_extent().x0) and frame.fully_containsx(legend.get_window_extent().x1)
    for panel in figure.axes[:categories]:
        (line,) = (line for line in panel.lines if line.get_label() == "threshold")
        assert line.get_xdata() == pytest.approx([1, 1])  # log10(1 + 6 - -3)


def test_plot_data_names_every_curve(reported: Scored) -> None:
    plots = reported.workspace.plots
    history = pd.read_csv(plots / "history.csv", dtype={"category": str})
    assert list(history.columns) == ["dataset", "category", "method", "seed", "step", "loss", "contrast"]
    assert len(history) == 8 * 3
    curves = pd.read_csv(plots / "roc.csv", dtype={"category": str})
    assert set(curves["seed"]) == {0}
    assert len(curves.groupby(["category", "method"])) == 4


def test_pictures_are_small_and_not_blank(reported: Scored) -> None:
    for path in reported.workspace.reports.rglob("*.png"):
        assert path.stat().st_size < 500_000
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10, path


def test_sheet_shows_the_extremes_and_no_defect_twice() -> None:
    scores = pd.DataFrame(
        {"path": list("abcdefgh"), "label": [1] * 6 + [0] * 2, "image_score": [3, 1, 5, 2, 9, 4, 7, 8]}
    )
    highest, lowest, normal = gallery.extremes(scores).values()
    assert (highest, lowest, normal) == ([4, 2, 5], [1, 3, 0], [7, 6])


def test_a_second_report_is_the_same_to_the_byte(reported: Scored) -> None:
    reports = reported.workspace.reports
    before = {path: file_sha256(path) for path in reports.rglob("*") if path.is_file()}
    report.run(reported.params, reported.workspace)
    assert {path: file_sha256(path) for path in reports.rglob("*") if path.is_file()} == before


def test_search_is_judged_by_pairs_of_the_same_seed(reported: Scored) -> None:
    workspace = reported.workspace
    names = {"clflow": "clflow", "fastflow": "clflow-tuned"}
    table, board = (
        read_table(path).assign(method=lambda rows: rows["method"].map(names))
        for path in (workspace.cells_table, workspace.leaderboard_table)
    )
    tree = reported.params.model_dump(mode="json")
    tree["benchmark"]["methods"] = list(names.values())
    note = {"objective": "validation", "default": None, "found": 0.87654321}
    tree["tuned"] = {"search": {"parts (01, nut)": note}, "parameters": {}, "overrides": {}}
    params = Params.model_validate_json(json.dumps(tree))
    nothing = gains({}), best_on_test([], workspace)
    text = markdown(table, board, *nothing, params, read_json(workspace.protocol))
    section = text.split("### What search brought: clflow-tuned against clflow")[1]
    assert "parts (01, nut): validation unknown by default, 0.8765 found" in section
    scores = {(row["method"], row["category"], row["seed"]): row["image_auroc"] for _, row in table.iterrows()}
    found = np.array([[scores["clflow-tuned", c, s] - scores["clflow", c, s] for s in (0, 1)] for c in ("01", "nut")])
    for name, of_seeds in (("01", 100 * found[0]), ("**mean**", 100 * found.mean(axis=0))):
        assert f"| {name} | 2 | {of_seeds.mean():+.2f} ± {of_seeds.std(ddof=1):.2f} |" in section
