"""A command replaces what it wrote itself, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from clflow.errors import ClflowError
from pipelines.workspace.outputs import MARKER, Outputs

OURS = "clflow bench"


def write(folder: Path, command: str = OURS, **contents: str) -> None:
    with Outputs(folder).replace(command) as staging:
        for name, content in contents.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_what_a_command_wrote_it_replaces_and_removes(tmp_path: Path):
    write(tmp_path / "out", **{"maps/a": "1", "maps/b": "2", "scores.csv": "3"})
    write(tmp_path / "out", **{"maps/b": "4", "scores.parquet": "5"})
    assert contents(tmp_path / "out") == {"maps/b": "4", "scores.parquet": "5"}


def test_files_of_a_person_stay(tmp_path: Path):
    write(tmp_path, **{"maps/a": "1", "maps/b": "2", "table": "3"})
    (tmp_path / "maps" / "notes").write_text("mine")
    (tmp_path / "maps" / "b").write_text("drawn on")
    write(tmp_path, table="4")
    assert contents(tmp_path) == {"maps/notes": "mine", "maps/b": "drawn on", "table": "4"}


@pytest.mark.parametrize(
    ("existing", "said"),
    [
        ({"table": "mine"}, "table was not written by `clflow bench`"),
        ({"maps": "mine"}, "maps/a would lie in what is a file"),
    ],
)
def test_what_the_command_did_not_write_is_not_replaced(tmp_path: Path, existing: dict[str, str], said: str):
    for name, content in existing.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ClflowError, match=said):
        Outputs(tmp_path).require(OURS, ["maps/a", "table"])
    with pytest.raises(ClflowError, match=said):
        write(tmp_path, **{"maps/a": "1", "table": "2"})
    assert contents(tmp_path) == existing
    assert not (tmp_path / MARKER).exists()


def test_what_was_changed_or_is_of_another_command_is_not_replaced(tmp_path: Path):
    write(tmp_path, table="1")
    with pytest.raises(ClflowError, match="table was written by `clflow bench`"):
        Outputs(tmp_path).require("clflow predict", ["table"])
    (tmp_path / "table").write_text("edited")
    assert Outputs(tmp_path).changed(OURS) == ["table"]
    with pytest.raises(ClflowError, match="table was changed after `clflow bench` wrote it"):
        write(tmp_path, table="2")
    assert contents(tmp_path) == {"table": "edited"}


def test_an_error_leaves_what_was_there(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), Outputs(tmp_path / "new").replace(OURS) as staging:
        (staging / "table").write_text("half")
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()


def test_a_process_that_dies_while_it_replaces_leaves_what_the_next_may_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, a="1", b="1")
    replace = Path.replace

    def dies_at_b(self: Path, target: Path) -> Path:
        if target.name == "b":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", dies_at_b)
        write(tmp_path, a="2", b="2")
    assert contents(tmp_path) == {"a": "2", "b": "1"}
    write(tmp_path, a="3", b="3")
    assert contents(tmp_path) == {"a": "3", "b": "3"}
