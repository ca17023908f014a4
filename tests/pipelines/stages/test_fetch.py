"""The fetch stage: relative sources, the cache folder and what is printed."""

import json
import shutil
from pathlib import Path

import pytest

from clflow.config import params as schema
from clflow.config.params import Params
from clflow.errors import ParameterError
from pipelines.stages.fetch import run
from pipelines.workspace.paths import Workspace
from tests.archives import write_mvtec

ROOT = Path(__file__).parents[3]


@pytest.fixture
def params() -> Params:
    """The full benchmark's parameters, but with two own categories as data."""
    tree = schema.load(ROOT / "params.yaml").model_dump(mode="json")
    tree["benchmark"]["datasets"] = ["folder"]
    tree["data"] = {"folder": {"source": "photographs", "categories": ["bottle", "grid"]}}
    return Params.model_validate_json(json.dumps(tree))


def test_stage_fetches_and_sums_up(params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for category in ("bottle", "grid"):
        write_mvtec(tmp_path / "photographs", category)
    run(params, "folder", workspace := Workspace(tmp_path))
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert lines[1:] == [
        "  bottle: 4 train / 2 test good / 2 test defective",
        "  grid: 4 train / 2 test good / 2 test defective",
    ]
    assert (workspace.data("folder") / "manifest.csv").is_file()
    assert workspace.fetch_record("folder").is_file()


def test_what_a_new_line_does_not_have_yet_is_told(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bottle, grid = (write_mvtec(tmp_path / "photographs", category) for category in ("bottle", "grid"))
    for gone in (bottle / "test/broken", bottle / "test/stain", bottle / "ground_truth", grid / "test"):
        shutil.rmtree(gone)
    shutil.rmtree(grid / "ground_truth")
    run(params, "folder", Workspace(tmp_path))
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert lines[1:] == [
        "  bottle: 4 train / 2 test good / 0 test defective; no defective test images",
        "  grid: 4 train / 0 test good / 0 test defective; no test images",
    ]


def test_what_is_odd_is_told_each_time(
    params: Params, tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disc = Path(shutil.copytree(tiny_source / "disc", tmp_path / "photographs" / "bottle"))
    Path(shutil.copytree(tiny_source / "stripes", tmp_path / "photographs" / "grid"))
    shutil.copy(disc / "train/good/000.png", disc / "test/good/900.png")
    for _ in range(2):
        run(params, "folder", Workspace(tmp_path))
        found = capsys.readouterr().err.splitlines()
        few = "12 normal training images can keep a false alarm rate of 0.077 at best"
        leaked = "test images that are training images, too: 1, first bottle/test/good/900.png"
        for line, start in zip(
            found[1:],
            (
                "  bottle: 12 ",
                f"warning: bottle: {leaked}",
                f"warning: bottle: {few}",
                "  grid: 12 ",
                f"warning: grid: {few}",
            ),
            strict=True,
        ):
            assert line.startswith(start)


def test_counts_that_differ_from_the_published_ones_are_told(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mvtec(tmp_path / "photographs", "bottle")
    own = params.data["folder"].model_copy(update={"categories": ("bottle",)})
    run(params.model_copy(update={"data": {"mvtec_ad": own}}), "mvtec_ad", Workspace(tmp_path))
    said = capsys.readouterr().err
    assert "CC BY-NC-SA 4.0" in said
    assert (
        "  bottle: 4 train / 2 test good / 2 test defective; "
        "published were 209 train / 20 test good / 63 test defective" in said
    )


def test_dataset_that_the_parameters_do_not_describe(params: Params, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="do not describe dataset 'btad'"):
        run(params, "btad", Workspace(tmp_path))
