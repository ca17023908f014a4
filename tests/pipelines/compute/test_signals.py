"""A command that is told to end keeps what is finished, says so, and leaves no process behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.compute.signals import interruptible
from tests import tiny
from tests.pipelines.command import BIN, run
from tests.pipelines.interruption import BOUND_S, SAID, end, start
from tests.waiting import wait_until

CHILD = """
import signal, subprocess, sys, time
from pathlib import Path

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path("ready").touch()
time.sleep(600)
"""

PARENT = """
import signal, subprocess, sys, time
from pathlib import Path
from pipelines.compute.signals import interruptible

with interruptible(3.0):
    {first}
    subprocess.Popen([sys.executable, "child.py"])
    try:
        time.sleep(600)
    finally:
        {last}
"""

DVC = """
import os, subprocess, sys

subprocess.run([sys.executable, "stage.py"], env={**os.environ, "DVC_STAGE": "train"})
"""

POOL = """
import time
from pathlib import Path
from pipelines.compute.signals import interruptible, process_pool

if __name__ == "__main__":
    with interruptible(), process_pool(2) as pool:
        job = pool.submit(time.sleep, 600)
        while not job.running():
            time.sleep(0.1)
        Path("ready").touch()
        job.result()
"""


def parent(folder: Path, first: str = "pass", last: str = "Path('unwound').touch()") -> subprocess.Popen[str]:
    """A process that runs, with a child that no signal but SIGKILL ends, and a grandchild that has left its session."""
    (folder / "child.py").write_text(CHILD)
    process = start(sys.executable, "-c", PARENT.format(first=first, last=last), folder=folder, log=folder / "log")
    wait_until((folder / "ready").exists, process, folder / "log")
    return process


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_command_unwinds_and_what_it_started_is_killed(tmp_path: Path, number: signal.Signals, group: bool):
    end(parent(tmp_path), number, group)
    assert (tmp_path / "unwound").exists()
    assert (tmp_path / "log").read_text().splitlines() == [SAID]


def test_a_command_that_does_not_unwind_is_killed_with_what_it_started(tmp_path: Path):
    end(parent(tmp_path, last="time.sleep(600)"), signal.SIGTERM)
    assert (tmp_path / "log").read_text().splitlines() == [SAID]


def test_a_library_that_takes_sigterm_changes_nothing(tmp_path: Path):
    end(parent(tmp_path, first="signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))"), signal.SIGTERM)
    assert (tmp_path / "log").read_text().splitlines() == [SAID]


def test_a_stage_ends_when_dvc_dies(tmp_path: Path):
    """DVC runs a stage as its child, with the stage's name in the environment."""
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "stage.py").write_text(PARENT.format(first="pass", last="Path('unwound').touch()"))
    (tmp_path / "dvc.py").write_text(DVC)
    process = start(sys.executable, "dvc.py", folder=tmp_path, log=tmp_path / "log")
    wait_until((tmp_path / "ready").exists, process, tmp_path / "log")
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=BOUND_S)
    assert not alive
    assert (tmp_path / "unwound").exists()


def test_a_pool_of_processes_ends_with_its_command_without_a_word_of_its_own(tmp_path: Path):
    (tmp_path / "pool.py").write_text(POOL)
    process = start(sys.executable, "pool.py", folder=tmp_path, log=tmp_path / "log")
    wait_until((tmp_path / "ready").exists, process, tmp_path / "log")
    end(process, signal.SIGINT, group=True)
    assert (tmp_path / "log").read_text().splitlines() == [SAID]


def test_handlers_are_what_they_were_once_a_command_has_ended():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_interrupted_benchmark_ends_and_keeps_what_is_finished(finished: Path, tmp_path: Path):
    folder, log = Path(shutil.copytree(finished.parent, tmp_path / "copy", symlinks=True)), tmp_path / "log"
    workspace = folder / "workspace"
    one_by_one = {"train__steps": 100, "train__eval_points": 20, "resources__cpus_per_worker": os.cpu_count()}
    tree = tiny.params_tree(Path("source"), benchmark__methods=["clflow"], **one_by_one)
    params = tiny.write_params(folder / "tiny.yaml", tree)
    command = str(BIN / "clflow"), "benchmark", "--params", str(params), "--workspace", str(workspace)

    def complete() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in workspace.glob("runs/folder/[!.]*/cell.json")}

    before = complete()

    def trained() -> dict[Path, int]:
        return {path: at for path, at in complete().items() if path not in before}

    process = start(*command, folder=folder, log=log)
    wait_until(lambda: len(trained()) == 1, process, log)
    end(process, signal.SIGTERM)  # to this process alone, as systemd and Kubernetes do
    assert len(trained()) == 1
    said = log.read_text()
    assert said.splitlines()[-1] == SAID and "Traceback" not in said
    unblocked = run("dvc", "repro", "--dry", cwd=workspace)
    assert unblocked.returncode == 0 and "clflow train" in unblocked.stdout, unblocked.stdout
