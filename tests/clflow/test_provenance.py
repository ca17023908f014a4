"""The code that made a result is what its module imports, by what it does and not by how it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

from clflow import provenance
from clflow.provenance import Code, code_of
from tests.tiny import forget_code

TREE = {
    "ours/__init__.py": "from ours.heavy import build",
    "ours/heavy.py": "def build(): return 1",
    "ours/sub/__init__.py": "",
    "ours/sub/leaf.py": "VALUE = 1",
    "ours/types.py": "class Shape: ...",
    "ours/model.py": """
from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ours.sub import leaf

if TYPE_CHECKING:
    from ours.types import Shape


def area(shape: Shape) -> float:
    \"\"\"What it covers.\"\"\"
    return leaf.VALUE * 2  # twice
""",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of our own in place of the real ones."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "_PACKAGES", ("ours",))
    write(tmp_path, TREE)
    yield tmp_path
    forget_code()


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write modules, which are read anew from now on, as by a new process."""
    forget_code()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def changed(tree: Path, name: str, old: str, new: str) -> Code:
    """The code of ``ours.model`` after a change of one file."""
    text = TREE[name]
    assert old in text
    write(tree, {name: text.replace(old, new)})
    return code_of("ours.model")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # twice", ""),
        ("What it covers.", "Its area."),
        ("return leaf", "\n    return leaf"),
        ('    """What it covers."""\n', ""),
    ],
    ids=["comment", "docstring", "blank line", "no docstring"],
)
def test_what_only_a_reader_sees_does_not_count(tree: Path, old: str, new: str):
    before = code_of("ours.model")
    assert changed(tree, "ours/model.py", old, new) == before


def test_what_the_code_does_counts(tree: Path):
    before = code_of("ours.model")
    after = changed(tree, "ours/model.py", "* 2", "* 3")
    assert after.files["ours/model.py"] != before.files["ours/model.py"]
    assert after.files["ours/sub/leaf.py"] == before.files["ours/sub/leaf.py"]
    assert changed(tree, "ours/sub/leaf.py", "1", "2").files["ours/sub/leaf.py"] != before.files["ours/sub/leaf.py"]


def test_imports_count_at_any_depth_and_wherever_they_stand(tree: Path):
    write(tree, {"ours/entry.py": "def run():\n    from ours import model\n    return model"})
    assert code_of("ours.entry").files.keys() == {"ours/entry.py", "ours/model.py", "ours/sub/leaf.py"}
    assert code_of("ours.entry", "ours.types").files.keys() == code_of("ours.entry").files.keys() | {"ours/types.py"}


def test_types_and_mere_packages_do_not_count_but_names_of_packages_do(tree: Path):
    assert code_of("ours.model").files.keys() == {"ours/model.py", "ours/sub/leaf.py"}
    write(tree, {"ours/user.py": "from ours import build"})
    assert code_of("ours.user").files.keys() == {"ours/__init__.py", "ours/heavy.py", "ours/user.py"}


def test_a_name_of_a_module_is_its_module(tree: Path):
    write(tree, {"ours/user.py": "from ours.sub.leaf import VALUE"})
    assert code_of("ours.user").files.keys() == {"ours/sub/leaf.py", "ours/user.py"}


def test_libraries_are_versions_without_a_local_part(tree: Path, monkeypatch: pytest.MonkeyPatch):
    source = "import json\nimport numpy as np\nimport pandas\nfrom PIL import Image\nimport no_such_library"
    write(tree, {"ours/user.py": source})
    expected = {"numpy": version("numpy"), "pillow": version("pillow"), "no_such_library": "not installed"}
    assert code_of("ours.user").libraries == expected  # neither json, of Python, nor pandas, which only reads
    monkeypatch.setattr(provenance, "version", lambda name: "2.0+cpu")
    forget_code()
    assert code_of("ours.user").libraries == dict.fromkeys(expected, "2.0")


@pytest.mark.parametrize("name", ["ours.absent", "no_such_package.module", "math"])
def test_a_module_without_source_is_an_error(tree: Path, name: str):
    with pytest.raises(ModuleNotFoundError, match=f"no source of module {name}"):
        code_of(name)


def test_a_method_depends_on_no_other_method():
    files = code_of("clflow.methods.patchcore").files.keys()
    assert {"clflow/methods/patchcore.py", "clflow/methods/peer.py", "clflow/features/backbone.py"} <= files
    of_flows = {"clflow/model/flow.py", "clflow/training/loop.py", "clflow/methods/flow.py"}
    assert not of_flows & files and "clflow/methods/padim.py" not in files
    assert of_flows <= code_of("clflow.methods.flow").files.keys()
