"""The bench measures every method and runtime, and its page says what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from clflow.errors import ClflowError, DataError
from clflow.files import read_json
from clflow.metrics import image_metrics
from clflow.precision import computes_bfloat16
from pipelines.costs import accelerator, bench, measure, scaling
from tests import tiny
from tests.pipelines.scored import Scored
from tests.pipelines.trained import Trained


def test_bench_measures_every_method_and_runtime(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What each measurement does is the same in one process; only what it measures is not. A compiler takes a minute.
    monkeypatch.setattr(bench, "alone", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(torch, "compile", lambda graph, dynamic: graph)
    monkeypatch.setattr(measure, "WARM_UP_S", 0.0)
    monkeypatch.setattr(measure, "MEASURED_S", 0.05)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    bench.run(trained.params, "folder", "disc", trained.workspace, tmp_path)

    result = read_json(tmp_path / "bench.json")
    trainings = {row["method"]: row for row in result["training"]}
    assert tuple(trainings) == bench.METHODS
    assert all(row["features_cpu_s"] > 0 and row["fit_cpu_s"] > 0 for row in trainings.values())
    fastflow = trainings["anomalib-fastflow"]
    assert fastflow["without_cache_cpu_s"] > fastflow["fit_cpu_s"] and fastflow["steps"] >= 20
    assert trainings["clflow"]["without_cache_cpu_s"] is None

    runtimes = {(row["method"], row["runtime"]): row for row in result["inference"]}
    reduced = computes_bfloat16(torch.device("cpu"))
    assert len(runtimes) == len(result["inference"]) == 13 + reduced
    for row in runtimes.values():
        assert 0 < row["latency_ms_lowest"] <= row["latency_ms"] <= row["latency_ms_highest"]
        assert row["latency_ms"] <= row["p99_ms"] and row["cpu_ms"] > 0 and row["images_per_s"] > 0
    eager = runtimes["clflow", "eager"]["image_auroc"]
    assert {runtimes["clflow", to]["image_auroc"] for to in ("onnx", "openvino", "torch", "compiled")} == {eager}
    for method in bench.METHODS[1:]:  # the same backbone, whole or cut
        found, as_anomalib = (runtimes[method, runtime]["image_auroc"] for runtime in ("eager", measure.UNCUT))
        assert found == pytest.approx(as_anomalib, abs=0.02)
    assert (("clflow", measure.REDUCED) in runtimes) == reduced
    assert not reduced or runtimes["clflow", measure.REDUCED]["score_difference"] > 0

    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    lines = page.splitlines()
    assert sum(line.startswith("| anomalib-") for line in lines) == 3 * 3
    assert sum(line.startswith("| clflow") and "| 1.00 |" in line for line in lines) >= 1


def test_growth_measures_along_each_axis(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "alone", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(measure, "WARM_UP_S", 0.0)
    monkeypatch.setattr(measure, "MEASURED_S", 0.05)
    monkeypatch.setattr(scaling, "SIZES", (tiny.SIZE, 96))
    monkeypatch.setattr(scaling, "THINNED", (2,))
    monkeypatch.setattr(scaling, "SEEDS", (2,))
    scaling.run(trained.params, "folder", "disc", trained.workspace, tmp_path)

    grown = read_json(tmp_path / "growth.json")["growth"]
    assert [(row["categories"], row["seeds"], row["image_size"], row["every"]) for row in grown] == [
        (["disc"], [0], tiny.SIZE, 1),
        (["disc"], [0], 96, 1),
        (["disc"], [0], tiny.SIZE, 2),
        (["disc"], [0, 1], tiny.SIZE, 1),
        (["disc", "stripes"], [0], tiny.SIZE, 1),
    ]
    one, larger, fewer, seeds, categories = grown
    assert larger["cache_mb"] == pytest.approx(one["cache_mb"] * (96 / tiny.SIZE) ** 2)
    assert fewer["normal"] == math.ceil(one["normal"] / 2) and fewer["cache_mb"] < one["cache_mb"]
    assert seeds["cache_mb"] == one["cache_mb"], "seeds share their features"
    assert categories["normal"] > one["normal"] and categories["cache_mb"] > one["cache_mb"]
    scores = trained.scores("disc")  # of the same cell, which the benchmark has trained
    assert (
        one["image_auroc"] == image_metrics(scores["label"].to_numpy(), scores["image_score"].to_numpy())["image_auroc"]
    )
    assert (tmp_path / "growth.png").stat().st_size > 10_000

    page = (tmp_path / "growth.md").read_text(encoding="utf-8")
    assert "18 categories, 5,428 normal training images" in page and page.count("| disc") == len(grown)


def test_bench_says_which_package_it_needs(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "EXTRAS", {"no-such-runtime": "export"})
    with pytest.raises(ClflowError, match=r"needs no-such-runtime; pip install 'clflow\[export\]'"):
        bench.run(trained.params, "folder", "disc", trained.workspace, tmp_path)
    assert not list(tmp_path.iterdir())


def test_category_without_test_images_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    scored = Scored.make(tmp_path, ("new",), ("clflow",), (0,), test={"new": (0, 0)})
    with pytest.raises(DataError, match="parts/new has no test images"):
        bench.run(scored.params, "parts", "new", scored.workspace, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_figures_of_another_category_are_not_replaced(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "bench.md").write_text("mine")
    with pytest.raises(ClflowError, match=r"bench\.md was not written by `clflow bench methods --dataset folder"):
        bench.run(trained.params, "folder", "disc", trained.workspace, tmp_path)
    with pytest.raises(ClflowError, match=r"growth\.json was written by `clflow bench scaling .*screw`"):
        scaling.run(trained.params, "folder", "disc", trained.workspace, tiny.ROOT / "reports" / "bench")


@pytest.mark.parametrize(("measured", "name"), [(accelerator, "accelerator"), (bench, "bench"), (scaling, "growth")])
def test_the_committed_page_shows_the_committed_figures(measured: ModuleType, name: str) -> None:
    folder = tiny.ROOT / "reports" / "bench"
    page = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert page == measured.page(read_json(folder / f"{name}.json"))
