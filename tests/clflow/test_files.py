"""Writers leave the old or the new, never half of either; fingerprints name content."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clflow.files import (
    TEMPORARY,
    cache_folder,
    file_sha256,
    fingerprint,
    folder_atomically,
    read_json,
    sweep,
    write_atomically,
    write_json,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def test_file_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_file_keeps_its_old_content_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("existing", [False, True])
def test_folder_is_replaced_as_a_whole(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "folder"
    if existing:
        path.mkdir()
        (path / "old").touch()
    with folder_atomically(path) as temporary:
        (temporary / "new").touch()
        assert path.exists() == existing
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_folder_keeps_its_old_content_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(OSError), folder_atomically(path) as temporary:
        (temporary / "half").touch()
        raise OSError
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_sweep_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    sweep(folder)
    assert list(folder.iterdir()) == []
    for name in ("kept", f"{TEMPORARY}half"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    (folder / "table.csv").touch()
    (folder / f"{TEMPORARY}table.csv-1").touch()
    (folder / "kept" / f"{TEMPORARY}file").touch()  # of someone else
    sweep(folder)
    assert {path.name for path in folder.iterdir()} == {"kept", "table.csv"}
    assert {path.name for path in (folder / "kept").iterdir()} == {"file", f"{TEMPORARY}file"}


def test_what_a_killed_writer_leaves_is_swept(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from clflow.files import folder_atomically, write_atomically
folder = Path(sys.argv[1])
with folder_atomically(folder / "cell") as cell, write_atomically(folder / "table") as table:
    (cell / "half").touch()
    table.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLFLOW_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CLFLOW_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "clflow"


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@given(st.dictionaries(st.text(), values, max_size=5), st.randoms())
def test_fingerprint_is_independent_of_the_order_of_keys(value: dict[str, object], random) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert fingerprint({key: value[key] for key in keys}) == fingerprint(value)


@given(values, values)
def test_fingerprint_differs_with_the_value(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) == same


def test_fingerprint_and_json_refuse_what_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        fingerprint(float("nan"))
    with pytest.raises(ValueError):
        write_json(tmp_path / "file.json", [float("inf")])
    assert list(tmp_path.iterdir()) == []


def test_json_is_read_as_written(tmp_path: Path) -> None:
    value = {"ä": [1, 2.5, None, "x"], "nested": {"b": True}}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
