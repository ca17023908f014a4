"""What `clflow init` writes is a parameter file that loads, with comments that load, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clflow.config.params import load
from pipelines.cli import app
from tests import tiny
from tests.pipelines.command import refusal


def init(*arguments: object) -> None:
    called = CliRunner().invoke(app, ["init", *map(str, arguments)])
    assert called.exit_code == 0, called.output


def test_the_file_describes_the_images_that_were_named(tiny_source: Path, tmp_path: Path):
    images = tmp_path / "line 3"
    images.symlink_to(tiny_source)
    init(tmp_path / "own", "--images", images)
    params = load(tmp_path / "own" / "params.yaml")
    assert params.data["line-3"].categories == tiny.CATEGORIES
    assert params.data["line-3"].layout == "folder" and params.benchmark.datasets == ("line-3",)


def test_every_comment_is_a_change_that_can_be_made(tmp_path: Path):
    init(tmp_path / "own")
    path = tmp_path / "own" / "params.yaml"
    before, lines = load(path), path.read_text().splitlines()
    changes = [line for line in lines if line.startswith("# ") and ": {" in line]
    assert len(changes) >= 5
    for change in changes:
        path.write_text("\n".join([*lines, change.removeprefix("# ")]))
        assert load(path) != before


def test_an_edited_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    init(tmp_path)
    said = refusal("init", str(tmp_path), monkeypatch=monkeypatch, capsys=capsys)
    assert said == f"{tmp_path}/params.yaml exists; edit it, or name another folder."
    images = "init", str(tmp_path / "new"), "--images", str(tmp_path)
    assert "holds no folder of a category" in refusal(*images, monkeypatch=monkeypatch, capsys=capsys)
    assert not (tmp_path / "new").exists()
