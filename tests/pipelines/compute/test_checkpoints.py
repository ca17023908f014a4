"""Checkpoints are there whole or not at all, on any file system that Arrow knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from clflow.config.params import load
from clflow.errors import DataError
from pipelines.compute.checkpoints import Checkpoints
from pipelines.compute.cluster import storage_path
from pipelines.workspace.paths import Workspace
from tests import tiny


def save(folder: Path) -> None:
    (folder / "weights").write_bytes(b"123")
    (folder / "history.json").write_text("[]", encoding="utf-8")


@pytest.fixture(params=["path", "uri"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "path" else tmp_path.as_uri()


def test_what_was_written_is_read(storage: str):
    checkpoints = Checkpoints(storage, "cell")
    assert checkpoints.names() == []
    for name in ("000020", "000010", "finished"):
        checkpoints.write(name, save)
    assert checkpoints.names() == ["000010", "000020", "finished"]
    with checkpoints.read("000010") as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            "weights": b"123",
            "history.json": b"[]",
        }
    checkpoints.remove("000020")
    assert Checkpoints(storage, "cell").names() == ["000010", "finished"]
    assert Checkpoints(storage, "another").names() == []
    checkpoints.clear()
    checkpoints.clear()
    assert checkpoints.names() == []


def test_one_of_nothing_is_kept_too(storage: str):
    checkpoints = Checkpoints(storage, "cell")
    checkpoints.write("000001", lambda folder: None)  # a method that cannot resume has nothing to keep
    assert checkpoints.names() == ["000001"]
    with checkpoints.read("000001") as folder:
        assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("given", "meant"), [("shared", "/parts/shared"), ("/shared", "/shared"), ("s3://bucket/x", "s3://bucket/x")]
)
def test_storage_is_relative_to_the_workspace(given: str, meant: str):
    resources = load(tiny.ROOT / "pipelines" / "demo.yaml").resources.model_copy(update={"storage": given})
    assert storage_path(resources, Workspace(Path("/parts"))) == meant


def test_half_written_one_is_not_seen_and_gives_way(storage: str, tmp_path: Path):
    checkpoints = Checkpoints(storage, "cell")

    def fail(folder: Path) -> None:
        save(folder)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        checkpoints.write("000010", fail)
    assert checkpoints.names() == []

    torn = tmp_path / "cell" / "000020"  # as a killed worker leaves it
    torn.mkdir(parents=True)
    (torn / "stale").touch()
    assert checkpoints.names() == []
    checkpoints.write("000020", save)
    with checkpoints.read("000020") as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["history.json", "weights"]


@pytest.mark.parametrize("content", [b"", b"124", None])
def test_damaged_one_is_named(storage: str, tmp_path: Path, content: bytes | None):
    checkpoints = Checkpoints(storage, "cell")
    checkpoints.write("000010", save)
    weights = tmp_path / "cell" / "000010" / "weights"
    weights.unlink() if content is None else weights.write_bytes(content)
    with (
        pytest.raises(DataError, match=r"checkpoint .*cell/000010 is damaged; remove that folder"),
        checkpoints.read("000010"),
    ):
        pass
