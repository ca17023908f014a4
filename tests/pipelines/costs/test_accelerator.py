"""What an accelerator is measured by; without one, there is an error instead of figures of something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clflow.config.params import load
from clflow.errors import ClflowError
from clflow.files import read_json
from pipelines.costs import accelerator
from pipelines.workspace.paths import Workspace
from tests.pipelines.trained import Trained

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_an_accelerator_nothing_is_measured(tmp_path: Path) -> None:
    params = load(ROOT / "pipelines" / "demo.yaml")
    with pytest.raises(ClflowError, match="no CUDA device"):
        accelerator.run(params, "demo", ["gear"], Workspace(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_an_accelerator_is_measured(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "RUNS", (("eager", "float32", 1), ("graph", "bfloat16", 8)))
    monkeypatch.setattr(accelerator, "MEASURED_S", 0.05)
    accelerator.run(trained.params, "folder", ["disc"], trained.workspace, tmp_path)

    result = read_json(tmp_path / "accelerator.json")
    assert [(cell["method"], cell["seed"]) for cell in result["cells"]] == [
        (method, seed) for method in accelerator.METHODS for seed in trained.params.benchmark.seeds
    ]
    assert all(0 < row["share"] < 1 and row["p99_ms"] >= row["latency_ms"] > 0 for row in result["inference"])
    assert all(0 < profile["busy"] <= 1 for profile in result["profiles"].values())
