"""dvc.yaml agrees with the code: its stages depend on the plan and on each other, and on nothing else."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.workspace.paths import Workspace
from pipelines.workspace.plan import FIRST, SECOND

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
DATASET = "${item.dataset}"
HERE = Workspace(Path())


def outs(name: str) -> dict[str, dict[str, Any]]:
    """What a stage makes, and the options of each."""
    listed = [*STAGES[name]["outs"], *STAGES[name].get("metrics", [])]
    made: dict[str, dict[str, Any]] = {}
    for out in listed:
        made |= out if isinstance(out, dict) else {out: {}}
    return made


def deps(name: str) -> list[str]:
    return STAGES[name].get("deps", [])


def within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def names(*paths: Path) -> set[str]:
    return {path.as_posix() for path in paths}


def test_every_dependency_is_made_by_a_stage_or_exists():
    made = [out for name in STAGES for out in outs(name)]
    for name in STAGES:
        for dep in deps(name):
            assert any(within(out, dep) for out in made) or (ROOT / dep).exists(), f"{name}: {dep}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_no_parameters_and_no_code(name: str):
    assert "params" not in STAGES[name]
    for dep in deps(name):
        assert not within(dep, "clflow") and not within(dep, "pipelines") and not dep.endswith((".py", "params.yaml"))


def test_plan_is_made_in_two_steps_and_every_stage_depends_on_its_part():
    assert outs("plan_inputs").keys() == names(*(HERE.plan(DATASET, stage) for stage in FIRST))
    assert outs("plan").keys() == names(HERE.plan(DATASET), *(HERE.plan(DATASET, stage) for stage in SECOND))
    assert STAGES.keys() == {"fetch", "plan_inputs", "plan", *FIRST, *SECOND}
    for stage in FIRST + SECOND:
        part = HERE.plan(DATASET, stage)
        needed = part if "matrix" in STAGES[stage] else part.parent  # of one dataset, or of all
        assert needed.as_posix() in deps(stage)
    for name in ("plan_inputs", "plan"):  # only they see that parameters, code, libraries or weights changed
        assert STAGES[name]["always_changed"] is True


def test_outputs_are_where_the_workspace_has_them():
    tuned = HERE.tuned(DATASET)
    assert outs("fetch").keys() == names(HERE.data(DATASET))
    assert outs("synthesize").keys() == names(HERE.synthetic(DATASET))
    assert outs("tune").keys() == names(tuned, tuned.with_suffix(".csv"))
    assert outs("train").keys() == names(HERE.runs(DATASET))
    assert outs("evaluate").keys() == names(HERE.scores(DATASET))
    tables = names(HERE.cells_table, HERE.pro_table, HERE.protocol, HERE.leaderboard_table)
    assert outs("aggregate").keys() == tables | names(HERE.metrics)
    assert tables <= {*deps("report")}
    assert outs("report").keys() == names(HERE.page, HERE.leaderboard_page, HERE.gallery, HERE.plots)
    assert outs("promote").keys() == names(HERE.promotion_table(DATASET))


@pytest.mark.parametrize("name", ["fetch", "synthesize", "tune", "train", "evaluate", "promote"])
def test_outputs_survive_until_the_stage_itself_replaces_them(name: str):
    assert all(options["persist"] is True for options in outs(name).values())
