"""Layers: what a file states is laid over what it extends, and every value knows its file."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clflow.config.layers import packaged
from clflow.config.params import Params, effective, load
from clflow.config.schema import Section
from clflow.config.show import render
from clflow.errors import ParameterError
from tests.tiny import write_params

ROOT = Path(__file__).parents[3]
OWN = {
    "extends": "base",
    "benchmark": {"name": "line-3", "datasets": ["line3"], "methods": ["clflow"], "seeds": [0]},
    "data": {"line3": {"layout": "folder", "source": "images", "categories": ["housing"]}},
}


def write(folder: Path, name: str, tree: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_params(folder / name, tree)


def test_packaged_defaults_state_everything_but_what_to_run():
    stated = packaged("base").tree
    assert stated.keys() == Params.model_fields.keys() - {"benchmark", "data"}
    for name, section in stated.items():
        kind = Params.model_fields[name].annotation
        if inspect.isclass(kind) and issubclass(kind, Section):
            assert section.keys() == kind.model_fields.keys(), name


def test_a_file_states_only_what_differs(tmp_path: Path):
    tree = OWN | {"train": {"steps": 77}, "synthesis": {"sources": {"photometric": 0}}}
    params = load(write(tmp_path, "line.yaml", tree))
    base = packaged("base").tree
    assert params.train.steps == 77
    assert params.train.learning_rate == base["train"]["learning_rate"]
    assert params.synthesis.sources.photometric == 0
    assert params.synthesis.sources.shifted == base["synthesis"]["sources"]["shifted"]
    assert params.data["line3"].layout == "folder"


def test_mappings_of_own_names_are_replaced_as_a_whole(tmp_path: Path):
    space = {"train.learning_rate": {"uniform": [0.001, 0.01]}}
    below = OWN | {"variants": {"plain": {"loss": {"contrast": 0.0}}}}
    write(tmp_path, "below.yaml", below)
    above = {"extends": "below.yaml", "variants": {"deep": {"model": {"coupling_steps": 9}}}, "tune": {"space": space}}
    params = load(write(tmp_path, "above.yaml", above))
    assert [*params.variants] == ["deep"]
    assert [*params.tune.space] == ["train.learning_rate"]
    assert params.tune.trials == packaged("base").tree["tune"]["trials"]


def test_relative_paths_of_a_layer_are_relative_to_its_file(tmp_path: Path):
    weights = {"model": {"weights": "w.pth"}, "synthesis": {"textures": "dtd", "sources": {"texture": 1}}}
    site = OWN | weights | {"resources": {"storage": "s3://bucket/x"}}
    write(tmp_path / "site", "site.yaml", site)
    own = {"extends": "../site/site.yaml", "variants": {"other": {"synthesis": {"textures": "mine"}}}}
    params = load(write(tmp_path / "lines", "line.yaml", own))
    assert params.model.weights == str(tmp_path / "site" / "w.pth")
    assert params.synthesis.textures == str(tmp_path / "site" / "dtd")
    assert params.data["line3"].source == str(tmp_path / "site" / "images")
    assert params.variants["other"].synthesis == {"textures": str(tmp_path / "lines" / "mine")}
    assert params.resources.storage == "s3://bucket/x"


def test_a_circle_is_refused(tmp_path: Path):
    write(tmp_path, "a.yaml", {"extends": "b.yaml"})
    write(tmp_path, "b.yaml", {"extends": "a.yaml"})
    with pytest.raises(ParameterError, match=r"a\.yaml extends .*b\.yaml, which extends .*a\.yaml: a circle"):
        load(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("extends", "says"),
    [
        ("bas", r"bas does not exist; .*own\.yaml extends it; did you mean 'base'\?"),
        ("none.yaml", r"none\.yaml does not exist; .*own\.yaml extends it; name a file, or base"),
        (["base"], r"own\.yaml: extends must name one file"),
        (".", r"is a folder; name a parameter file in it"),
    ],
)
def test_what_cannot_be_extended_is_named(tmp_path: Path, extends: object, says: str):
    with pytest.raises(ParameterError, match=says):
        load(write(tmp_path, "own.yaml", OWN | {"extends": extends}))


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"train": {"learning_rte": 0.1}}, "unknown key 'train.learning_rte'; did you mean 'train.learning_rate'?"),
        ({"trian": {"steps": 3}}, "unknown key 'trian'; did you mean 'train'?"),
        ({"extend": "base"}, "unknown key 'extend'; did you mean 'extends'?"),
        ({"data": {"line3": {"sorce": "x", "categories": ["a"]}}}, "did you mean 'data.line3.source'?"),
        ({"tune": {"space": {"loss.start": {"unifrom": [0, 1]}}}}, "did you mean 'tune.space.loss.start.uniform'?"),
        ({"overrides": {"line3/housing": {"modle": {}}}}, "did you mean 'overrides.line3/housing.model'?"),
        ({"overrides": {"line3/housing": {"train": {"step": 3}}}}, "did you mean 'train.steps'?"),
        ({"overrides": {"line3/hosing": {}}}, "did you mean 'line3/housing'?"),
        ({"colour": 3}, "unknown key 'colour'; remove it or correct its spelling."),
    ],
)
def test_misspelt_key_suggests_the_nearest(tmp_path: Path, tree: dict[str, Any], says: str):
    with pytest.raises(ParameterError) as error:
        load(write(tmp_path, "line.yaml", OWN | tree))
    assert says in str(error.value)


def test_misspelt_key_of_a_complete_file_is_named_before_the_one_that_is_missing(tmp_path: Path):
    tree = effective(ROOT / "params.yaml").tree
    tree["train"]["learning_rte"] = tree["train"].pop("learning_rate")
    with pytest.raises(ParameterError, match=r"unknown key 'train\.learning_rte'; did you mean 'train\.learning_rate'"):
        load(write(tmp_path, "line.yaml", tree))


def test_misspelt_dataset_is_one_sentence_without_the_whole_tree(tmp_path: Path):
    benchmark = OWN["benchmark"] | {"datasets": ["lin3"]}
    with pytest.raises(ParameterError) as error:
        load(write(tmp_path, "line.yaml", OWN | {"benchmark": benchmark}))
    said = str(error.value).removeprefix(str(tmp_path))
    assert said.startswith("/line.yaml: benchmark.datasets names 'lin3'")
    assert "did you mean 'line3'?" in said and len(said) < 200


def test_an_error_names_the_file_that_states_the_value(tmp_path: Path):
    write(tmp_path, "below.yaml", OWN | {"train": {"steps": 0}})
    with pytest.raises(ParameterError, match=r"/below\.yaml: 'train\.steps' is not valid"):
        load(write(tmp_path, "above.yaml", {"extends": "below.yaml", "train": {"pairs": 5}}))
    write(tmp_path, "below.yaml", OWN | {"train": {"steps": 30}})
    with pytest.raises(ParameterError, match=r"/above\.yaml: train: warmup must be shorter than steps"):
        load(write(tmp_path, "above.yaml", {"extends": "below.yaml", "train": {"warmup": 31}}))


def test_what_is_shown_is_a_complete_file_that_means_the_same(tmp_path: Path):
    path = write(tmp_path, "line.yaml", OWN | {"train": {"steps": 77}})
    for origins in (False, True):
        shown = tmp_path / "shown.yaml"
        shown.write_text(render(effective(path), origins))
        assert "extends" not in shown.read_text()
        assert load(shown) == load(path)


def test_origins_are_shown_beside_every_value(tmp_path: Path):
    path = write(tmp_path, "line.yaml", OWN | {"train": {"steps": 77}})
    lines = render(effective(path), origins=True).splitlines()
    origins = {line.partition(":")[0].strip(): line.partition("#")[2].strip() for line in lines}
    assert origins["steps"] == origins["source"] == str(path)
    assert origins["learning_rate"] == origins["timeout"] == "base"
    assert all("#" in line for line in lines if not line.endswith(":"))


def test_defaults_in_the_comments_of_the_projects_own_file_are_the_defaults(tmp_path: Path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    _, _, commented = text.partition("with its defaults:\n")
    stated = YAML(typ="safe").load("\n".join(line.removeprefix("# ") for line in commented.splitlines()))
    assert stated
    above = write(tmp_path, "above.yaml", {"extends": str(ROOT / "params.yaml")} | stated)
    assert load(above) == load(ROOT / "params.yaml")
