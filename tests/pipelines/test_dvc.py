"""dvc.yaml agrees with the code about what a result depends on."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clflow.synthesis import category
from pipelines.stages import evaluate
from pipelines.workspace import cells

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


@pytest.mark.parametrize(
    ("stage", "code"),
    [("synthesize", category.CODE), ("tune", cells.CODE), ("train", cells.CODE), ("evaluate", evaluate.CODE)],
)
def test_stage_depends_on_the_code_that_its_keys_hash(stage: str, code: tuple[str, ...]):
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith("clflow/")}
    assert listed == {f"clflow/{part}" for part in code}


def test_every_dependency_of_the_pipeline_exists_or_is_made_by_it():
    made = {"data", "synthetic", "runs", "scores", "reports"}
    for stage in STAGES.values():
        for dep in stage["deps"]:
            assert (ROOT / dep).exists() or dep.split("/")[0] in made, dep


def test_outputs_survive_until_the_stage_itself_replaces_them():
    for name in ("fetch", "synthesize", "tune", "train", "evaluate"):
        for out in STAGES[name]["outs"]:
            (options,) = out.values()
            assert options["persist"] is True, name
